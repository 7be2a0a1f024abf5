//! A disk in memory, for measuring the engine alone and for tests. Its receipts say `volatile`.

use super::{Completion, Disk, DiskError, DiskInfo, Io, Operation};
use crate::ids::Durability;
use crate::limits::{BATCH_BYTES_MAX, BLOCK_BYTES};
use crate::memory::Memory;
use std::collections::VecDeque;

/// A disk in memory; an operation completes at the next poll.
#[derive(Debug)]
pub struct RamDisk {
    info: DiskInfo,
    blocks: Memory,
    memory: Memory,
    queue: VecDeque<Io>,
}

impl RamDisk {
    /// An empty disk of `bytes`, with `memory_bytes` to work in.
    ///
    /// # Errors
    /// When there is not so much memory.
    pub fn new(bytes: u64, memory_bytes: usize, queue_depth: usize) -> Result<Self, DiskError> {
        let map = |bytes: usize| {
            Memory::allocate(bytes).map_err(|error| DiskError::Open {
                name: "ram".into(),
                why: format!("{bytes} bytes of memory: {error}"),
                mend: "make the disk or the ring smaller in the profile".into(),
            })
        };
        let bytes = bytes / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
        let blocks = map(usize::try_from(bytes).expect("a 64-bit machine"))?;
        let info = DiskInfo {
            name: "ram".into(),
            driver: "ram",
            bytes,
            transfer_bytes_max: BATCH_BYTES_MAX,
            queue_depth,
            durability: Durability::Volatile,
            identity: [0; 16],
        };
        let queue = VecDeque::with_capacity(queue_depth);
        Ok(Self { info, blocks, memory: map(memory_bytes)?, queue })
    }
}

#[cfg(test)]
impl RamDisk {
    /// The process is gone: operations in flight are forgotten, what was written stays.
    pub(crate) fn crash(mut self) -> Self {
        for io in self.queue.drain(..) {
            self.memory.unpin(&io.memory());
        }
        self
    }

    /// A disk with the same on it.
    pub(crate) fn copy(&self) -> Self {
        let bytes = self.blocks.len();
        let depth = self.info.queue_depth;
        let mut copy = Self::new(bytes as u64, self.memory.len(), depth).expect("as large as this");
        copy.blocks.bytes_mut(0..bytes).copy_from_slice(self.blocks.bytes(0..bytes));
        copy
    }
}

impl Disk for RamDisk {
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
        io.assert_valid(&self.info);
        if self.queue.len() == self.info.queue_depth {
            return Err(io);
        }
        io.pin(&mut self.memory);
        self.queue.push_back(io);
        Ok(())
    }

    fn poll(&mut self, done: &mut [Completion]) -> usize {
        let count = done.len().min(self.queue.len());
        for (place, io) in done.iter_mut().zip(self.queue.drain(..count)) {
            let memory = io.memory();
            let start = usize::try_from(io.disk_offset).expect("within memory");
            let disk = start..start + io.bytes;
            self.memory.unpin(&memory);
            match io.operation {
                Operation::Write => {
                    self.blocks.bytes_mut(disk).copy_from_slice(self.memory.bytes(memory));
                }
                Operation::Read => {
                    self.memory.bytes_mut(memory).copy_from_slice(self.blocks.bytes(disk));
                }
            }
            *place = Completion { io, result: Ok(()) };
        }
        count
    }

    fn in_flight(&self) -> usize {
        self.queue.len()
    }
}
