//! A disk for tests: it remembers every write, completes in any order, tears writes by block at a crash,
//! fails on demand, and lets bits be flipped.

use crate::disk::{Completion, Disk, DiskFault, DiskInfo, Io, Operation, fake};
use crate::ids::Durability;
use crate::limits::{BATCH_BYTES_MAX, BLOCK_BYTES};
use crate::log::Log;
use crate::memory::Memory;
use crate::random::Random;

/// Ring of the logs in tests.
pub(super) const RING: usize = 2 << 20;

/// The disk.
pub(super) struct TestDisk {
    info: DiskInfo,
    pub(super) bytes: Vec<u8>,
    memory: Memory,
    queue: Vec<Io>,
    random: Random,
    /// Writes that fail from now on, counted down; `None` never.
    pub(super) fail_after: Option<u64>,
    /// Complete in submission order.
    pub(super) in_order: bool,
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
        Self { info, bytes, memory, queue: Vec::new(), random, fail_after: None, in_order: false }
    }

    /// A disk that nobody has written to.
    pub(super) fn never_written(bytes: usize, seed: u64) -> Self {
        let blocks = 0..(bytes / BLOCK_BYTES) as u64;
        Self::with(blocks.flat_map(fake::never_written).collect(), seed)
    }

    /// Writes that are on their way.
    pub(super) fn pending_writes(&self) -> Vec<Io> {
        let writes = self.queue.iter().filter(|io| io.operation == Operation::Write);
        writes.copied().collect()
    }

    /// What is on the media when the power goes now and just these blocks of the writes in flight made it:
    /// bit `n` of `kept` is the n-th block, over all of them.
    pub(super) fn crash_image(&self, kept: u64) -> Vec<u8> {
        let mut image = self.bytes.clone();
        let mut number = 0;
        for io in self.pending_writes() {
            for block in 0..io.bytes / BLOCK_BYTES {
                if kept >> (number % 64) & 1 == 1 {
                    let at = usize::try_from(io.disk_offset).unwrap() + block * BLOCK_BYTES;
                    let from = io.memory_offset + block * BLOCK_BYTES;
                    let bytes = self.memory.bytes(from..from + BLOCK_BYTES);
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

impl Disk for TestDisk {
    fn info(&self) -> &DiskInfo {
        &self.info
    }

    fn memory(&self) -> &Memory {
        &self.memory
    }

    fn memory_mut(&mut self) -> &mut Memory {
        &mut self.memory
    }

    fn submit(&mut self, io: Io) -> Result<(), Io> {
        fake::judge(&io, &self.info, &self.queue);
        io.pin(&mut self.memory);
        self.queue.push(io);
        Ok(())
    }

    fn poll(&mut self, done: &mut [Completion]) -> usize {
        if self.queue.is_empty() || done.is_empty() {
            return 0;
        }
        let index = if self.in_order {
            0
        } else {
            usize::try_from(self.random.below(self.queue.len() as u64)).unwrap()
        };
        let io = self.queue.remove(index);
        self.memory.unpin(&io.memory());
        let start = usize::try_from(io.disk_offset).unwrap();
        let mut result = Ok(());
        match io.operation {
            Operation::Read => {
                let bytes = self.bytes[start..start + io.bytes].to_vec();
                self.memory.bytes_mut(io.memory()).copy_from_slice(&bytes);
            }
            Operation::Write => match &mut self.fail_after {
                Some(0) => result = Err(DiskFault::Errno(5)),
                left => {
                    if let Some(left) = left {
                        *left -= 1;
                    }
                    let bytes = self.memory.bytes(io.memory());
                    self.bytes[start..start + io.bytes].copy_from_slice(bytes);
                }
            },
        }
        done[0] = Completion { io, result };
        1
    }

    fn in_flight(&self) -> usize {
        self.queue.len()
    }
}
