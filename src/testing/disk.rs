//! The disk of the module tests: it completes in any order, tears writes by block at a crash, fails, hangs or goes away
//! when it is told to, and lets bits be flipped.

use std::cell::RefCell;
use std::rc::Rc;

use crate::disk::queue::{Backend, Queue, Reaped, Refused, Start};
use crate::disk::{Disk, DiskFault, DiskInfo, Errno, Io, Operation};
use crate::ids::Durability;
use crate::limits::{BATCH_BYTES_MAX, BLOCK_BYTES};
use crate::log::Log;
use crate::log::create::{FormatOptions, format};
use crate::memory::Memory;
use crate::random::Random;
use crate::testing::never_written;

/// Ring of the logs in tests, in bytes.
pub(crate) const RING: usize = 2 << 20;

/// Operations in flight at most.
const OPERATIONS_MAX: usize = 72;

/// The disk.
pub(crate) type TestDisk = Queue<Media>;

/// What it holds, and what is on its way there.
pub(crate) struct Media {
    bytes: Vec<u8>,
    waiting: Vec<(usize, Io)>,
    random: Random,
    order: Order,
    /// Writes that fail from now on, counted down; `None` never.
    fail_after: Option<u64>,
    loss: Option<Loss>,
    /// Asked at each poll that takes nothing: whether it is gone now.
    watch: Option<Watch>,
    is_gone: bool,
    remains: Option<Remains>,
}

/// What is on a disk once its process is gone.
#[derive(Clone, Default)]
pub(crate) struct Remains(Rc<RefCell<Vec<u8>>>);

impl Remains {
    /// The disk again, for the next process: operations in flight were forgotten.
    ///
    /// # Panics
    /// While somebody has the disk still.
    pub(crate) fn into_disk(self) -> TestDisk {
        let bytes = self.0.take();
        assert!(!bytes.is_empty(), "its process has it");
        let mut disk = TestDisk::with(bytes, 0);
        disk.backend_mut().order = Order::AllAtOnce;
        disk
    }
}

/// In what order operations complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// One a poll, any of them.
    Any,
    /// One a poll, the oldest.
    Oldest,
    /// All at the next poll, as a disk in memory does it.
    AllAtOnce,
}

type Watch = Box<dyn FnMut() -> bool>;

/// How a disk ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Between two operations, which the next one is told.
    Refuses,
    /// Between two operations, and nobody has looked yet.
    RefusesUnseen,
    /// With an operation in flight that never completes.
    Keeps,
    /// The operation completes with that it is gone.
    Fails(DiskFault),
}

impl End {
    /// What is said of it.
    pub(crate) fn fault(self) -> DiskFault {
        if let Self::Fails(fault) = self { fault } else { DiskFault::Gone }
    }
}

/// After so many operations it ends.
struct Loss {
    left: usize,
    end: End,
    /// Slots of what it did not carry out.
    kept: Vec<usize>,
    is_over: bool,
}

impl Loss {
    fn start(&mut self, slot: usize) -> Result<(), Refused> {
        match self.end {
            End::Refuses | End::RefusesUnseen => {
                self.is_over = true;
                Err(Refused)
            }
            End::Keeps | End::Fails(_) => {
                self.kept.push(slot);
                Ok(())
            }
        }
    }

    fn is_seen(&self) -> bool {
        match self.end {
            End::Refuses => self.left == 0,
            End::RefusesUnseen | End::Keeps => self.is_over,
            End::Fails(_) => false,
        }
    }
}

impl TestDisk {
    /// A disk with these contents.
    pub(crate) fn with(bytes: Vec<u8>, seed: u64) -> Self {
        let info = DiskInfo {
            name: "test".into(),
            driver: "test",
            bytes: bytes.len() as u64,
            transfer_bytes_max: BATCH_BYTES_MAX,
            queue_depth: 64,
            durability: Durability::Volatile,
            identity: [0; 16],
        };
        let memory = Memory::allocate(Log::memory_bytes(RING)).unwrap();
        let random = Random::new(seed);
        let media = Media {
            bytes,
            waiting: Vec::new(),
            random,
            order: Order::Any,
            fail_after: None,
            loss: None,
            watch: None,
            is_gone: false,
            remains: None,
        };
        Self::over(media, info, memory, OPERATIONS_MAX)
    }

    /// A disk that nobody has written to.
    pub(crate) fn never_written(bytes: usize, seed: u64) -> Self {
        let blocks = 0..(bytes / BLOCK_BYTES) as u64;
        Self::with(blocks.flat_map(never_written).collect(), seed)
    }

    /// A disk of this size with an empty log of segments of 1 MiB, which completes all at the next poll.
    pub(crate) fn formatted(bytes: usize) -> Self {
        let mut disk = Self::with(vec![0; bytes], 0);
        disk.backend_mut().order = Order::AllAtOnce;
        format(&mut disk, &FormatOptions { segment_bytes: 1 << 20, force: false }).unwrap();
        disk
    }

    /// Where that will be which is on it when it goes.
    pub(crate) fn remains(&mut self) -> Remains {
        self.backend_mut().remains.get_or_insert_default().clone()
    }

    /// Another one with the same on it.
    pub(crate) fn copy(&self) -> Self {
        let mut disk = Self::with(self.image(), 0);
        disk.backend_mut().order = self.backend().order;
        disk
    }

    /// After so many operations more it ends.
    pub(crate) fn lose_after(&mut self, operations: usize, end: End) {
        let loss = Loss { left: operations, end, kept: Vec::new(), is_over: false };
        self.backend_mut().loss = Some(loss);
    }

    /// At each poll that takes nothing, `watch` says whether the disk is gone.
    pub(crate) fn watch(&mut self, watch: impl FnMut() -> bool + 'static) {
        self.backend_mut().watch = Some(Box::new(watch));
    }

    /// What is on the media.
    pub(crate) fn media(&self) -> &[u8] {
        &self.backend().bytes
    }

    /// The same, to damage it.
    pub(crate) fn media_mut(&mut self) -> &mut [u8] {
        &mut self.backend_mut().bytes
    }

    /// The same, for another disk.
    pub(crate) fn image(&self) -> Vec<u8> {
        self.backend().bytes.clone()
    }

    /// The same, of a disk that nobody needs any more.
    pub(crate) fn into_image(mut self) -> Vec<u8> {
        std::mem::take(&mut self.backend_mut().bytes)
    }

    /// Completes in submission order from now on.
    pub(crate) fn in_order(&mut self) {
        self.backend_mut().order = Order::Oldest;
    }

    /// After so many writes more, each fails; `None`: none.
    pub(crate) fn fail_after(&mut self, writes: Option<u64>) {
        self.backend_mut().fail_after = writes;
    }

    /// Writes that are on their way.
    pub(crate) fn pending_writes(&self) -> Vec<Io> {
        let waiting = self.backend().waiting.iter().map(|(_, io)| *io);
        waiting.filter(|io| io.operation == Operation::Write).collect()
    }

    /// What is on the media when the power goes now and just these blocks of the writes in flight made it:
    /// bit `n` of `kept` is the n-th block, over all of them.
    pub(crate) fn crash_image(&self, kept: u64) -> Vec<u8> {
        let mut image = self.image();
        self.put_crash(&mut image, kept);
        image
    }

    /// The same, in a copy of the media of this moment that may have been put in another state before.
    pub(crate) fn put_crash(&self, image: &mut [u8], kept: u64) {
        let writes = self.pending_writes();
        for io in &writes {
            let start = usize::try_from(io.disk_offset.get()).unwrap();
            let before = start..start + io.bytes;
            image[before.clone()].copy_from_slice(&self.media()[before]);
        }
        let mut number = 0;
        for io in writes {
            for block in 0..io.bytes / BLOCK_BYTES {
                if kept >> (number % 64) & 1 == 1 {
                    let at = usize::try_from(io.disk_offset.get()).unwrap() + block * BLOCK_BYTES;
                    let from = io.memory_offset + block * BLOCK_BYTES;
                    let bytes = self.memory().bytes(from..from + BLOCK_BYTES);
                    image[at..at + BLOCK_BYTES].copy_from_slice(bytes);
                }
                number += 1;
            }
        }
    }

    /// Blocks in flight.
    pub(crate) fn pending_blocks(&self) -> usize {
        self.pending_writes().iter().map(|io| io.bytes / BLOCK_BYTES).sum()
    }
}

impl Media {
    fn carry_out(&mut self, io: &Io, memory: &mut Memory) -> Result<(), DiskFault> {
        let start = usize::try_from(io.disk_offset.get()).unwrap();
        let bytes = &mut self.bytes[start..start + io.bytes];
        match (io.operation, &mut self.fail_after) {
            (Operation::Read, _) => memory.bytes_mut(io.memory()).copy_from_slice(bytes),
            (Operation::Write, Some(0)) => return Err(DiskFault::Errno(Errno(5))),
            (Operation::Write, left) => {
                *left = left.map(|left| left - 1);
                bytes.copy_from_slice(memory.bytes(io.memory()));
            }
        }
        Ok(())
    }
}

impl Backend for Media {
    fn start(&mut self, start: &Start<'_>) -> Result<(), Refused> {
        if let Some(loss) = self.loss.as_mut().filter(|loss| loss.left == 0) {
            return loss.start(start.slot());
        }
        self.waiting.push((start.slot(), *start.io()));
        Ok(())
    }

    fn reap(&mut self, reaped: &mut Reaped<'_>) {
        if reaped.room() == 0 {
            self.is_gone |= self.watch.as_mut().is_some_and(|watch| watch());
        }
        if let Some(loss) = self.loss.as_mut().filter(|loss| loss.left == 0) {
            loss.is_over |= loss.end == End::Keeps;
        }
        let at_once = if self.order == Order::AllAtOnce { self.waiting.len() } else { 1 };
        let count = at_once.min(self.waiting.len()).min(reaped.room());
        for _ in 0..count {
            let is_any = self.order == Order::Any;
            let index = if is_any { self.random.index(self.waiting.len()) } else { 0 };
            let (slot, _) = self.waiting.remove(index);
            reaped.end(slot, |io, memory| self.carry_out(io, memory));
        }
        let Some(loss) = &mut self.loss else { return };
        loss.left = loss.left.saturating_sub(count);
        if let End::Fails(fault) = loss.end {
            for slot in loss.kept.drain(..) {
                reaped.end(slot, |_, _| Err(fault));
            }
        }
    }

    fn close(&mut self, _: &mut Memory, _: usize) {
        if let Some(remains) = &self.remains {
            remains.0.replace(std::mem::take(&mut self.bytes));
        }
    }

    fn out_of_service(&self) -> Option<DiskFault> {
        let is_lost = self.is_gone || self.loss.as_ref().is_some_and(Loss::is_seen);
        is_lost.then_some(DiskFault::Gone)
    }
}
