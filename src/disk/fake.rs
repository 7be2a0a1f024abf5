//! What every disk of the tests has in common: how it judges its caller, and what media hold that were never written.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{DiskInfo, Io};
use crate::limits::BLOCK_BYTES;

/// Judges an operation that is submitted beside others in flight.
///
/// # Panics
/// When it is no sound operation, or writes what another one in flight writes: which of the two stays is not promised.
pub(crate) fn judge<'a>(io: &Io, info: &DiskInfo, in_flight: impl IntoIterator<Item = &'a Io>) {
    io.assert_valid(info);
    let mut others = in_flight.into_iter();
    let over = others.find(|other| io.writes_over(other));
    assert_eq!(over, None, "{io:?} writes what another write in flight does");
}

/// What a block holds that was never written: anything, and the same at each read.
pub(crate) fn never_written(block: u64) -> [u8; BLOCK_BYTES] {
    let mut bytes = [0; BLOCK_BYTES];
    for (word, index) in bytes.chunks_exact_mut(8).zip(0u64..) {
        let noise = xxh3_64_with_seed(&index.to_le_bytes(), block);
        word.copy_from_slice(&noise.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::ram::RamDisk;
    use crate::disk::{Disk, Operation};

    fn io(operation: Operation, block: u64, blocks: usize) -> Io {
        let bytes = blocks * BLOCK_BYTES;
        Io { operation, tag: 0, disk_offset: block * BLOCK_BYTES as u64, memory_offset: 0, bytes }
    }

    #[test]
    fn reads_and_writes_beside_each_other_are_sound() {
        let disk = RamDisk::new(1 << 20, 1 << 20, 4).unwrap();
        let flying = [io(Operation::Write, 4, 4), io(Operation::Read, 20, 4)];
        for sound in [
            io(Operation::Write, 0, 4),
            io(Operation::Write, 8, 1),
            io(Operation::Write, 20, 1),
            io(Operation::Read, 4, 4),
        ] {
            judge(&sound, disk.info(), &flying);
        }
    }

    #[test]
    #[should_panic(expected = "another write in flight")]
    fn a_write_over_a_write_in_flight_is_not() {
        let disk = RamDisk::new(1 << 20, 1 << 20, 4).unwrap();
        judge(&io(Operation::Write, 7, 4), disk.info(), &[io(Operation::Write, 4, 4)]);
    }

    #[test]
    #[should_panic(expected = "beyond the disk")]
    fn nor_is_an_operation_behind_the_end() {
        let disk = RamDisk::new(1 << 20, 1 << 20, 4).unwrap();
        judge(&io(Operation::Read, 255, 2), disk.info(), &[]);
    }

    #[test]
    fn media_that_were_never_written_are_not_empty_and_stay_as_they_are() {
        assert_eq!(never_written(7), never_written(7));
        assert_ne!(never_written(7), never_written(8));
        assert!(never_written(0).iter().any(|byte| *byte != 0));
    }
}
