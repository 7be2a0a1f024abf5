//! A disk in memory, for measuring the engine alone and for tests. Its receipts say `volatile`.

use std::collections::VecDeque;

use super::queue::{Backend, Queue, Reaped, Refused, Start};
use super::{DiskError, DiskInfo, Io, Operation};
use crate::ids::Durability;
use crate::limits::{BATCH_BYTES_MAX, BLOCK_BYTES};
use crate::memory::Memory;

/// A disk in memory; an operation completes at the next poll.
pub type RamDisk = Queue<Ram>;

/// The blocks, and the slots of the operations that wait for the next poll.
#[derive(Debug)]
pub struct Ram {
    blocks: Memory,
    waiting: VecDeque<usize>,
}

impl RamDisk {
    /// An empty disk of `bytes`, with `memory_bytes` to work in.
    ///
    /// # Errors
    /// When there is not so much memory.
    pub fn new(bytes: u64, memory_bytes: usize, queue_depth: usize) -> Result<Self, DiskError> {
        let bytes = bytes / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
        let blocks = map(usize::try_from(bytes).expect("a 64-bit machine"))?;
        Ok(Self::on(blocks, map(memory_bytes)?, queue_depth))
    }

    fn on(blocks: Memory, memory: Memory, queue_depth: usize) -> Self {
        let info = DiskInfo {
            name: "ram".into(),
            driver: "ram",
            bytes: blocks.len() as u64,
            transfer_bytes_max: BATCH_BYTES_MAX,
            queue_depth,
            durability: Durability::Volatile,
            identity: [0; 16],
        };
        let ram = Ram { blocks, waiting: VecDeque::with_capacity(queue_depth) };
        Self::over(ram, info, memory, queue_depth)
    }
}

fn map(bytes: usize) -> Result<Memory, DiskError> {
    Memory::allocate(bytes).map_err(|error| DiskError::Open {
        name: "ram".into(),
        why: format!("{bytes} bytes of memory: {error}"),
        mend: "make the disk or the ring smaller in the profile".into(),
    })
}

fn carry_out(io: &Io, blocks: &mut Memory, memory: &mut Memory) {
    let start = usize::try_from(io.disk_offset.get()).expect("within memory");
    let disk = start..start + io.bytes;
    match io.operation {
        Operation::Write => blocks.bytes_mut(disk).copy_from_slice(memory.bytes(io.memory())),
        Operation::Read => memory.bytes_mut(io.memory()).copy_from_slice(blocks.bytes(disk)),
    }
}

impl Backend for Ram {
    fn start(&mut self, start: &Start<'_>) -> Result<(), Refused> {
        self.waiting.push_back(start.slot());
        Ok(())
    }

    fn reap(&mut self, reaped: &mut Reaped<'_>) {
        let count = reaped.room().min(self.waiting.len());
        for slot in self.waiting.drain(..count) {
            reaped.end(slot, |io, memory| {
                carry_out(io, &mut self.blocks, memory);
                Ok(())
            });
        }
    }

    fn close(&mut self, _: &mut Memory, _: usize) {}
}
