//! A disk that does what disks do: completes out of order, tears writes when the power goes, fails, fails
//! and stores all the same, hangs, answers late, and lies.
//!
//! Its contents outlive the process that uses it: [`SimDisk`] is what a shard opens, [`Device`] is the
//! hardware behind it.

mod rot;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::trace::Trace;
use crate::clock::{Clock, ManualClock};
use crate::disk::queue::{Backend, Queue, Reaped, Refused, Start};
use crate::disk::{DiskFault, DiskInfo, Errno, Io, Operation};
use crate::ids::{Durability, Lineage};
use crate::limits::{BATCH_BYTES_MAX, BLOCK_BYTES};
use crate::log::batch::BatchKind;
use crate::memory::Memory;
use crate::position::DiskOffset;
use crate::random::Random;
use crate::testing::never_written;

/// Bytes of a segment of the simulated log.
pub(super) const SEGMENT_BYTES: u64 = 1 << 20;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// `EIO`.
const EIO: i32 = 5;

/// What may happen to an operation, in thousandths.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DiskFaults {
    /// Takes up to a hundred times as long.
    pub slow: u64,
    /// A write answers with an error and stores nothing, or a part; from then on the device loses what
    /// it is told to write, as a kernel does that has dropped dirty pages.
    pub error: u64,
    /// A write answers with an error and is stored.
    pub error_but_stored: u64,
    /// A write never answers.
    pub hang: u64,
    /// A read answers with an error.
    pub read_error: u64,
    /// A read brings other bytes: flipped, of another place, or of an earlier time.
    pub bad_read: u64,
    /// A write that was in flight when the process was killed arrives while the next one works.
    pub late: u64,
}

/// What a device has done, for the coverage report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DiskHits {
    /// Completed after one that was submitted later.
    pub out_of_order: u64,
    /// Slow.
    pub slow: u64,
    /// Errors with nothing, or a part, stored.
    pub errors: u64,
    /// Errors with everything stored.
    pub errors_stored: u64,
    /// Writes that never answered.
    pub hangs: u64,
    /// Writes of a process that was killed that arrived at the next one's time.
    pub late: u64,
    /// Writes in flight that a crash dropped, whole.
    pub dropped: u64,
    /// Writes in flight that a power cut tore.
    pub torn: u64,
    /// Reads that failed.
    pub read_errors: u64,
    /// Reads that brought other bytes.
    pub bad_reads: u64,
    /// Bits flipped on the media.
    pub rotten: u64,
    /// Blocks of acknowledged data that the device turned out not to have, or to have put elsewhere.
    pub lost: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Fine,
    Error,
    ErrorButStored,
    Hang,
    ReadError,
    BadRead,
}

#[derive(Debug)]
struct Flying {
    slot: usize,
    io: Io,
    /// What a write carries, as it was when it was submitted.
    bytes: Vec<u8>,
    /// A batch vouches for all that was done by then.
    vouches_ns: u64,
    due_ns: u64,
    fate: Fate,
    /// Told to a device that has failed a write before.
    too_late: bool,
    number: u64,
}

type Block = Rc<[u8; BLOCK_BYTES]>;

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crash {
    /// The process is killed: each write in flight is done or was never begun.
    Kill,
    /// The power goes: of each write in flight any blocks may have been stored.
    PowerCut,
}

/// A batch on the media, for which a later one vouches that was sealed after it was durable.
#[derive(Clone, Copy, Debug)]
struct Settled {
    disk_offset: DiskOffset,
    bytes: usize,
    done_ns: u64,
    /// It holds messages.
    is_data: bool,
}

impl Settled {
    /// Whether a block is one of it.
    fn holds(&self, block: u64) -> bool {
        let first = self.disk_offset.block();
        (first..first + self.bytes as u64 / BLOCK).contains(&block)
    }
}

/// Where a batch says what it holds.
const KIND_AT: usize = 10;

/// What is on the media.
#[derive(Debug, Default)]
struct Media {
    /// What was written and is not zero.
    blocks: BTreeMap<u64, Block>,
    /// Blocks of zeros that were written.
    zeros: BTreeSet<u64>,
    /// What blocks held before their last change, for stale reads.
    before: BTreeMap<u64, Block>,
}

/// What is vouched for by an acknowledgement.
#[derive(Debug, Default)]
struct Vouched {
    /// Batches written, oldest first.
    batches: Vec<Settled>,
    /// How many of them are vouched for.
    count: usize,
}

/// The hardware: media and what is on its way to them.
#[derive(Debug)]
pub(super) struct Device {
    clock: ManualClock,
    trace: Trace,
    random: Random,
    /// Of the openings of its log.
    lineages: Random,
    info: DiskInfo,
    media: Media,
    flying: Vec<Flying>,
    /// On their way from a process that is gone.
    late: Vec<Flying>,
    number: u64,
    faults: DiskFaults,
    /// After a failed write, writes are answered and lost, until the process is started again.
    sick: bool,
    /// Operations complete at once: while a log is opened or closed nobody turns the clock.
    at_once: bool,
    vouched: Vouched,
    /// When no write was in flight, and none waited: what is sealed later knows what was done by then.
    rested_ns: u64,
    /// What happened.
    pub hits: DiskHits,
}

/// Until when the writes of a process that is gone have arrived: shorter than it takes to go round all places.
const LATE_NS: u64 = 5_000_000;

impl Device {
    /// For an opening of its log that nobody has seen.
    pub(super) fn next_lineage(&mut self) -> Lineage {
        Lineage(self.lineages.next_u64().max(1))
    }

    /// An empty device.
    #[must_use]
    pub(super) fn new(clock: ManualClock, trace: Trace, seed: u64, bytes: u64) -> Self {
        let info = DiskInfo {
            name: "sim".into(),
            driver: "sim",
            bytes,
            transfer_bytes_max: BATCH_BYTES_MAX,
            queue_depth: 64,
            durability: Durability::Volatile,
            identity: [0; 16],
        };
        Self {
            clock,
            trace,
            random: Random::new(seed),
            lineages: Random::new(!seed),
            info,
            media: Media::default(),
            flying: Vec::new(),
            late: Vec::new(),
            number: 0,
            faults: DiskFaults::default(),
            sick: false,
            at_once: true,
            vouched: Vouched::default(),
            rested_ns: 0,
            hits: DiskHits::default(),
        }
    }

    /// What it says of itself.
    pub(super) fn durability(&self) -> Durability {
        self.info.durability
    }

    /// Changes what happens from now on; what hangs already stays so.
    pub(super) fn set_faults(&mut self, faults: DiskFaults) {
        self.faults = faults;
    }

    /// Whether operations complete at once, as they have to while nobody turns the clock.
    pub(super) fn set_at_once(&mut self, at_once: bool) {
        self.at_once = at_once;
    }

    /// The same media behind another, faultless device.
    #[must_use]
    pub(super) fn fork(&self) -> Self {
        let mut fork = Self::new(self.clock.clone(), Trace::silent(), 1, self.info.bytes);
        fork.media.blocks.clone_from(&self.media.blocks);
        fork.media.zeros.clone_from(&self.media.zeros);
        fork
    }

    /// Up to `count` blocks that hold something.
    pub(super) fn some_blocks(&self, count: usize) -> Vec<Vec<u8>> {
        let step = (self.media.blocks.len() / count).max(1);
        self.media.blocks.values().step_by(step).map(|block| block.to_vec()).collect()
    }

    /// A log that rests has said, or should have, that all messages are durable that were written by then.
    pub(super) fn vouch_at_rest(&mut self, done_ns: u64) {
        let data =
            self.vouched.batches.iter().rposition(|batch| batch.is_data).map_or(0, |last| last + 1);
        // What is written down is how far all is durable: one that was done late holds up those behind it.
        let newest = self.vouched.batches[..data].last();
        if newest.is_some_and(|newest| newest.done_ns <= done_ns) {
            self.vouch(done_ns, data);
        }
    }

    fn vouch(&mut self, done_ns: u64, end: usize) {
        let batches = &self.vouched.batches[..end];
        while batches.get(self.vouched.count).is_some_and(|batch| batch.done_ns <= done_ns) {
            self.vouched.count += 1;
        }
    }

    /// Whether nothing is in flight.
    #[must_use]
    pub(super) fn is_quiet(&self) -> bool {
        self.flying.is_empty()
    }

    /// Whether a write will never be answered.
    #[must_use]
    pub(super) fn is_hung(&self) -> bool {
        self.flying.iter().any(|flying| flying.fate == Fate::Hang)
    }

    /// The process that used it is gone.
    pub(super) fn crash(&mut self, how: Crash) {
        if how == Crash::PowerCut {
            self.late.clear();
        }
        for mut flying in std::mem::take(&mut self.flying) {
            if flying.io.operation == Operation::Read || flying.too_late {
                continue;
            }
            if how == Crash::Kill && self.random.one_of_thousand(self.faults.late) {
                flying.due_ns = self.clock.now_ns() + self.random.below(LATE_NS);
                self.late.push(flying);
                continue;
            }
            let whole = how == Crash::Kill || self.random.one_of_thousand(300);
            if whole && self.random.one_of_thousand(500) {
                self.store(flying.io.disk_offset, &flying.bytes);
                continue;
            }
            if whole {
                self.hits.dropped += 1;
                continue;
            }
            self.hits.torn += 1;
            for (index, block) in flying.bytes.chunks_exact(BLOCK_BYTES).enumerate() {
                if self.random.one_of_thousand(500) {
                    self.store(flying.io.disk_offset + index as u64 * BLOCK, block);
                }
            }
        }
        self.sick = false;
    }

    fn block(&self, at: u64) -> [u8; BLOCK_BYTES] {
        match self.media.blocks.get(&at) {
            Some(block) => **block,
            None if self.media.zeros.contains(&at) => [0; BLOCK_BYTES],
            None => never_written(at),
        }
    }

    fn store(&mut self, disk_offset: DiskOffset, bytes: &[u8]) {
        self.trace.digest(bytes);
        for (index, block) in bytes.chunks_exact(BLOCK_BYTES).enumerate() {
            let at = disk_offset.block() + index as u64;
            let old = if block.iter().all(|&byte| byte == 0) {
                self.media.zeros.insert(at);
                self.media.blocks.remove(&at)
            } else {
                self.media.zeros.remove(&at);
                let block: [u8; BLOCK_BYTES] = block.try_into().expect("a block");
                self.media.blocks.insert(at, Rc::new(block))
            };
            if let Some(old) = old {
                self.media.before.insert(at, old);
            }
        }
    }

    /// What a process that is gone has sent arrives, in any order; some of it while the next one is opening its log.
    fn land_late(&mut self) {
        let now_ns = self.clock.now_ns();
        let mut index = 0;
        while index < self.late.len() {
            if self.late[index].due_ns > now_ns && !self.random.one_of_thousand(10) {
                index += 1;
                continue;
            }
            let flying = self.late.swap_remove(index);
            self.hits.late += 1;
            self.trace.note("late", flying.io.disk_offset.get(), flying.number);
            self.store(flying.io.disk_offset, &flying.bytes);
        }
    }

    fn start(&mut self, start: &Start<'_>) {
        self.land_late();
        let (slot, io) = (start.slot(), *start.io());
        let random = &mut self.random;
        let faults = self.faults;
        let now_ns = self.clock.now_ns();
        let (bytes, fate) = match io.operation {
            Operation::Write => {
                let fate = if random.one_of_thousand(faults.error) {
                    Fate::Error
                } else if random.one_of_thousand(faults.error_but_stored) {
                    Fate::ErrorButStored
                } else if !self.at_once && random.one_of_thousand(faults.hang) {
                    Fate::Hang
                } else {
                    Fate::Fine
                };
                (start.bytes().to_vec(), fate)
            }
            Operation::Read => {
                let fate = if random.one_of_thousand(faults.read_error) {
                    Fate::ReadError
                } else if random.one_of_thousand(faults.bad_read) {
                    Fate::BadRead
                } else {
                    Fate::Fine
                };
                (Vec::new(), fate)
            }
        };
        let mut takes_ns = 3_000 + random.below(40_000);
        if random.one_of_thousand(faults.slow) {
            takes_ns *= 1 + random.below(100);
            self.hits.slow += 1;
        }
        self.number += 1;
        let number = self.number;
        let due_ns = now_ns + takes_ns;
        let too_late = self.sick;
        let vouches_ns = self.rested_ns;
        self.flying.push(Flying { slot, io, bytes, vouches_ns, due_ns, fate, too_late, number });
    }

    /// A log submits all it has before it looks for what is done: where nothing is in flight then, nothing waits.
    fn note_rest(&mut self) {
        if !self.flying.iter().any(|flying| flying.io.operation == Operation::Write) {
            self.rested_ns = self.clock.now_ns();
        }
    }

    /// The next operation that is done.
    fn take_done(&mut self) -> Option<Flying> {
        let now_ns = self.clock.now_ns();
        let at_once = self.at_once;
        let due =
            |flying: &Flying| flying.fate != Fate::Hang && (at_once || flying.due_ns <= now_ns);
        let first = self.flying.iter().enumerate().filter(|(_, flying)| due(flying));
        let (index, _) = first.min_by_key(|(_, flying)| (flying.due_ns, flying.number))?;
        if index > 0 {
            self.hits.out_of_order += 1;
        }
        Some(self.flying.remove(index))
    }

    fn finish(&mut self, flying: &Flying, memory: &mut Memory) -> Result<(), DiskFault> {
        let io = flying.io;
        match io.operation {
            Operation::Write => self.finish_write(flying),
            Operation::Read => {
                let first = io.disk_offset.block();
                for index in 0..io.bytes / BLOCK_BYTES {
                    let block = self.block(first + index as u64);
                    let at = io.memory_offset + index * BLOCK_BYTES;
                    memory.bytes_mut(at..at + BLOCK_BYTES).copy_from_slice(&block);
                }
                match flying.fate {
                    Fate::ReadError => {
                        self.hits.read_errors += 1;
                        self.trace.note("read error", io.disk_offset.get(), 0);
                        return Err(DiskFault::Errno(Errno(EIO)));
                    }
                    Fate::BadRead => self.spoil(&io, memory),
                    Fate::Fine | Fate::Error | Fate::ErrorButStored | Fate::Hang => {}
                }
                Ok(())
            }
        }
    }

    fn finish_write(&mut self, flying: &Flying) -> Result<(), DiskFault> {
        let io = flying.io;
        if flying.too_late {
            // As a kernel that has dropped what it could not write: it says yes and has nothing.
            return Ok(());
        }
        match flying.fate {
            Fate::Error => {
                self.hits.errors += 1;
                self.sick = true;
                let kept = self.random.below(io.bytes as u64 / BLOCK + 1);
                let kept = usize::try_from(kept).expect("blocks of a batch") * BLOCK_BYTES;
                // Never the whole of it: that is the other fault.
                let kept = kept.min(io.bytes - BLOCK_BYTES);
                self.store(io.disk_offset, &flying.bytes[..kept]);
                self.trace.note("write error", io.disk_offset.get(), kept as u64);
                return Err(DiskFault::Errno(Errno(EIO)));
            }
            Fate::ErrorButStored => {
                self.hits.errors_stored += 1;
                self.store(io.disk_offset, &flying.bytes);
                self.trace.note("write error, stored", io.disk_offset.get(), 0);
                return Err(DiskFault::Errno(Errno(EIO)));
            }
            Fate::Fine | Fate::Hang | Fate::ReadError | Fate::BadRead => {}
        }
        if self.media.blocks.contains_key(&io.disk_offset.block()) {
            // A segment that held nothing is used anew.
            let range = io.disk_offset..io.disk_offset + io.bytes as u64;
            let kept = |batch: &Settled| !range.contains(&batch.disk_offset);
            self.vouched.count =
                self.vouched.batches[..self.vouched.count].iter().filter(|b| kept(b)).count();
            self.vouched.batches.retain(kept);
        }
        self.store(io.disk_offset, &flying.bytes);
        if flying.bytes.starts_with(b"BLB1") {
            self.vouch(flying.vouches_ns, self.vouched.batches.len());
            self.vouched.batches.push(Settled {
                disk_offset: io.disk_offset,
                bytes: io.bytes,
                done_ns: self.clock.now_ns(),
                is_data: flying.bytes[KIND_AT] == BatchKind::Data as u8,
            });
        }
        Ok(())
    }

    fn spoil(&mut self, io: &Io, memory: &mut Memory) {
        let count = io.bytes as u64 / BLOCK;
        let index = self.random.below(count);
        let at = io.disk_offset.block() + index;
        let start = io.memory_offset + usize::try_from(index).expect("an index") * BLOCK_BYTES;
        let kind = self.random.below(3);
        let settled =
            self.vouched.batches[..self.vouched.count].iter().any(|batch| batch.holds(at));
        if !settled {
            return;
        }
        self.hits.bad_reads += 1;
        self.trace.note("bad read", at, kind);
        let room = memory.bytes_mut(start..start + BLOCK_BYTES);
        match kind {
            0 => {
                let bit = self.random.below(BLOCK * 8);
                room[usize::try_from(bit / 8).expect("an index")] ^= 1 << (bit % 8);
            }
            1 => {
                let old = self.media.before.get(&at).map(|block| **block);
                room.copy_from_slice(&old.unwrap_or_else(|| never_written(at)));
            }
            _ => {
                let other =
                    usize::try_from(self.random.below(self.vouched.count as u64)).expect("index");
                let other = self.vouched.batches[other].disk_offset.block();
                room.copy_from_slice(&self.block(other));
            }
        }
    }
}

/// A disk on a [`Device`], as a process opens it.
pub(super) type SimDisk = Queue<Attachment>;

/// A process's view of a [`Device`].
#[derive(Debug)]
pub(super) struct Attachment {
    device: Rc<RefCell<Device>>,
}

impl SimDisk {
    /// Opens the device, with `memory_bytes` to work in; operations complete at once until
    /// [`SimDisk::take_time`].
    ///
    /// # Errors
    /// When there is not so much memory.
    pub(super) fn open(device: &Rc<RefCell<Device>>, memory_bytes: usize) -> std::io::Result<Self> {
        device.borrow_mut().at_once = true;
        let info = device.borrow().info.clone();
        let queue_depth = info.queue_depth;
        let attachment = Attachment { device: Rc::clone(device) };
        Ok(Self::over(attachment, info, Memory::allocate(memory_bytes)?, queue_depth))
    }

    /// From now on operations take their time.
    pub(super) fn take_time(&mut self) {
        self.backend_mut().device.borrow_mut().at_once = false;
    }
}

impl Backend for Attachment {
    fn start(&mut self, start: &Start<'_>) -> Result<(), Refused> {
        self.device.borrow_mut().start(start);
        Ok(())
    }

    fn reap(&mut self, reaped: &mut Reaped<'_>) {
        let mut device = self.device.borrow_mut();
        device.note_rest();
        while reaped.room() > 0 {
            let Some(flying) = device.take_done() else { break };
            reaped.end(flying.slot, |_, memory| device.finish(&flying, memory));
        }
    }

    /// What is in flight is the device's: [`Device::crash`] says what becomes of it.
    fn close(&mut self, _: &mut Memory, _: usize) {}
}
