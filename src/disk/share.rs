//! A share of a disk: the disk of one shard, where several shards live on one device.
//!
//! Each share holds a complete log of its own, so nothing above knows that the disk is larger. The share moves
//! every operation by where it starts, and a bound that is wrong stops the shard instead of hurting another's.

use std::time::Duration;

use super::{Completion, Disk, DiskFault, DiskInfo, Io};
use crate::limits::BLOCK_BYTES;
use crate::memory::Memory;
use crate::position::DiskOffset;

/// A part of a disk: where it begins, and how much it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Its first byte.
    pub start: DiskOffset,
    /// Its bytes.
    pub bytes: u64,
}

impl Extent {
    /// The part of this number of a disk that is cut into parts of `bytes`.
    #[must_use]
    pub fn nth(index: u32, bytes: u64) -> Self {
        Self { start: DiskOffset::new(u64::from(index) * bytes), bytes }
    }
}

/// A contiguous part of a disk that looks like a disk.
#[derive(Debug)]
pub struct Share<D> {
    disk: D,
    start: DiskOffset,
    info: DiskInfo,
}

impl<D: Disk> Share<D> {
    /// That part of `disk`. It has the disk's name, which people can type.
    ///
    /// # Panics
    /// When they are not whole blocks within the disk.
    pub fn new(disk: D, Extent { start, bytes }: Extent) -> Self {
        let block = BLOCK_BYTES as u64;
        let end = start.get().checked_add(bytes).expect("below 2^64");
        assert!(start.get().is_multiple_of(block) && bytes.is_multiple_of(block), "whole blocks");
        assert!(bytes > 0 && end <= disk.info().bytes, "{start} to {end} lies within the disk");
        let info = DiskInfo { bytes, ..disk.info().clone() };
        Self { disk, start, info }
    }
}

impl<D: Disk> Disk for Share<D> {
    fn info(&self) -> &DiskInfo {
        &self.info
    }

    fn memory(&self) -> &Memory {
        self.disk.memory()
    }

    fn memory_mut(&mut self) -> &mut Memory {
        self.disk.memory_mut()
    }

    fn submit(&mut self, io: Io) -> Result<(), Io> {
        io.assert_valid(&self.info);
        let disk_offset = self.start + io.disk_offset.get();
        self.disk.submit(Io { disk_offset, ..io }).map_err(|_| io)
    }

    fn poll(&mut self, done: &mut [Completion]) -> usize {
        let count = self.disk.poll(done);
        for completion in &mut done[..count] {
            let io = &mut completion.io;
            io.disk_offset = DiskOffset::new(io.disk_offset - self.start);
        }
        count
    }

    fn in_flight(&self) -> usize {
        self.disk.in_flight()
    }

    fn facts(&mut self) -> Vec<(&'static str, String)> {
        self.disk.facts()
    }

    fn out_of_service(&self) -> Option<DiskFault> {
        self.disk.out_of_service()
    }

    fn settles_in(&self) -> Option<Duration> {
        self.disk.settles_in()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::ram::RamDisk;
    use crate::disk::{Operation, run};

    const BLOCK: u64 = BLOCK_BYTES as u64;

    fn io(operation: Operation, disk_offset: u64) -> Io {
        let disk_offset = DiskOffset::new(disk_offset);
        Io { operation, tag: 3, disk_offset, memory_offset: 0, bytes: BLOCK_BYTES }
    }

    #[test]
    fn two_shares_do_not_see_each_other() {
        let mut disk = RamDisk::new(8 * BLOCK, 2 * BLOCK_BYTES, 4).unwrap();
        for index in 0..2 {
            let mut share = Share::new(&mut disk, Extent::nth(index, 4 * BLOCK));
            assert_eq!((share.info().bytes, share.info().name.as_str()), (4 * BLOCK, "ram"));
            share.memory_mut().bytes_mut(0..BLOCK_BYTES).fill(u8::try_from(index).unwrap() + 1);
            run(&mut share, io(Operation::Write, BLOCK)).unwrap();
        }
        for (block, expected) in [0, 1, 0, 0, 0, 2, 0, 0].into_iter().enumerate() {
            run(&mut disk, io(Operation::Read, block as u64 * BLOCK)).unwrap();
            assert_eq!(disk.memory().bytes(0..1), [expected], "block {block}");
        }
    }

    #[test]
    fn a_completion_is_of_the_operation_as_it_was_submitted() {
        let mut disk = RamDisk::new(8 * BLOCK, BLOCK_BYTES, 1).unwrap();
        let mut share = Share::new(&mut disk, Extent::nth(1, 4 * BLOCK));
        let write = io(Operation::Write, 2 * BLOCK);
        share.submit(write).unwrap();
        assert_eq!(
            share.submit(io(Operation::Write, 0)),
            Err(io(Operation::Write, 0)),
            "given back as it was"
        );
        let mut done = [Completion { io: io(Operation::Read, 0), result: Ok(()) }];
        assert_eq!((share.poll(&mut done), done[0].io), (1, write));
    }

    #[test]
    #[should_panic(expected = "beyond the disk")]
    fn nothing_goes_past_the_end_of_a_share() {
        let mut disk = RamDisk::new(8 * BLOCK, BLOCK_BYTES, 1).unwrap();
        let _ = Share::new(&mut disk, Extent::nth(0, 4 * BLOCK))
            .submit(io(Operation::Write, 4 * BLOCK));
    }
}
