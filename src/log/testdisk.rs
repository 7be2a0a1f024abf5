//! A disk for tests: it remembers every write, completes in any order, tears writes by block at a crash,
//! fails on demand, and lets bits be flipped.

use crate::disk::queue::{Backend, Queue, Reaped, Refused, Start};
use crate::disk::{Disk, DiskFault, DiskInfo, Errno, Io, Operation, fake};
use crate::ids::Durability;
use crate::limits::{BATCH_BYTES_MAX, BLOCK_BYTES};
use crate::log::Log;
use crate::memory::Memory;
use crate::random::Random;

/// Ring of the logs in tests.
pub(super) const RING: usize = 2 << 20;

/// Operations in flight at most.
const OPERATIONS_MAX: usize = 72;

/// The disk.
pub(super) type TestDisk = Queue<Media>;

/// What it holds, and what is on its way there.
pub(super) struct Media {
    bytes: Vec<u8>,
    waiting: Vec<(usize, Io)>,
    random: Random,
    /// Writes that fail from now on, counted down; `None` never.
    fail_after: Option<u64>,
    in_order: bool,
}

impl TestDisk {
    /// A disk with these contents.
    pub(super) fn with(bytes: Vec<u8>, seed: u64) -> Self {
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
        let media = Media { bytes, waiting: Vec::new(), random, fail_after: None, in_order: false };
        Self::over(media, info, memory, OPERATIONS_MAX)
    }

    /// A disk that nobody has written to.
    pub(super) fn never_written(bytes: usize, seed: u64) -> Self {
        let blocks = 0..(bytes / BLOCK_BYTES) as u64;
        Self::with(blocks.flat_map(fake::never_written).collect(), seed)
    }

    /// What is on the media.
    pub(super) fn media(&self) -> &[u8] {
        &self.backend().bytes
    }

    /// The same, to damage it.
    pub(super) fn media_mut(&mut self) -> &mut [u8] {
        &mut self.backend_mut().bytes
    }

    /// The same, for another disk.
    pub(super) fn image(&self) -> Vec<u8> {
        self.backend().bytes.clone()
    }

    /// Completes in submission order from now on.
    pub(super) fn in_order(&mut self) {
        self.backend_mut().in_order = true;
    }

    /// After so many writes more, each fails; `None`: none.
    pub(super) fn fail_after(&mut self, writes: Option<u64>) {
        self.backend_mut().fail_after = writes;
    }

    /// Writes that are on their way.
    pub(super) fn pending_writes(&self) -> Vec<Io> {
        let waiting = self.backend().waiting.iter().map(|(_, io)| *io);
        waiting.filter(|io| io.operation == Operation::Write).collect()
    }

    /// What is on the media when the power goes now and just these blocks of the writes in flight made it:
    /// bit `n` of `kept` is the n-th block, over all of them.
    pub(super) fn crash_image(&self, kept: u64) -> Vec<u8> {
        let mut image = self.image();
        let mut number = 0;
        for io in self.pending_writes() {
            for block in 0..io.bytes / BLOCK_BYTES {
                if kept >> (number % 64) & 1 == 1 {
                    let at = usize::try_from(io.disk_offset).unwrap() + block * BLOCK_BYTES;
                    let from = io.memory_offset + block * BLOCK_BYTES;
                    let bytes = self.memory().bytes(from..from + BLOCK_BYTES);
                    image[at..at + BLOCK_BYTES].copy_from_slice(bytes);
                }
                number += 1;
            }
        }
        image
    }

    /// Blocks in flight.
    pub(super) fn pending_blocks(&self) -> usize {
        self.pending_writes().iter().map(|io| io.bytes / BLOCK_BYTES).sum()
    }
}

impl Media {
    fn carry_out(&mut self, io: &Io, memory: &mut Memory) -> Result<(), DiskFault> {
        let start = usize::try_from(io.disk_offset).unwrap();
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
        self.waiting.push((start.slot(), *start.io()));
        Ok(())
    }

    fn reap(&mut self, reaped: &mut Reaped<'_>) {
        if self.waiting.is_empty() || reaped.room() == 0 {
            return;
        }
        let index = if self.in_order { 0 } else { self.random.index(self.waiting.len()) };
        let (slot, _) = self.waiting.remove(index);
        reaped.end(slot, |io, memory| self.carry_out(io, memory));
    }

    fn close(&mut self, _: &mut Memory, _: usize) {}
}
