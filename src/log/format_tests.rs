//! Logs of earlier and later releases.

use super::create::occupant;
use super::recovery::OpenError;
use super::superblock::{COPIES, Superblock, copy_offsets, quorum, read_copies};
use super::testdisk::TestDisk;
use super::tests::{MIB, OPTIONS, Writer, formatted};
use super::verify::verify;
use super::*;
use crate::disk::Disk;

/// What a release that knows formats up to `newest` makes of the copies.
fn seen_by(newest: u8, disk: &mut TestDisk) -> [Option<Superblock>; COPIES] {
    read_copies(disk).map(|copy| copy.ok().filter(|block| block.format() <= newest))
}

/// Says another format in some copies, everything else being the same.
fn say(disk: &mut TestDisk, format: u8, copies: std::ops::Range<usize>) {
    let offsets = copy_offsets(disk.info().bytes);
    for &offset in &offsets[copies] {
        let at = usize::try_from(offset).unwrap();
        let block = &mut disk.bytes[at..at + BLOCK_BYTES];
        // The first byte of the format stands behind magic, checksum and number of the copy.
        block[26] = format;
        let hash = blake3::hash(&block[26..]);
        block[8..24].copy_from_slice(&hash.as_bytes()[..16]);
    }
}

/// A log that the release before has made and stopped in order.
fn of_the_release_before() -> TestDisk {
    let mut writer = Writer::open(formatted(16, 1));
    for n in 0..50u32 {
        writer.append(&n.to_le_bytes()).unwrap();
        writer.settle();
    }
    let Writer { mut disk, log, .. } = writer;
    log.close(&mut disk).unwrap();
    say(&mut disk, 1, 0..COPIES);
    disk
}

/// The power goes after each write of the first opening. With one copy left, the release before takes the log no more;
/// where it takes it, nothing of it was changed.
#[test]
fn a_log_of_the_release_before_is_upgraded_before_anything_is_written_that_it_does_not_know() {
    let mut left = Vec::new();
    for writes in 0..=COPIES as u64 + 3 {
        let mut disk = of_the_release_before();
        let before = disk.bytes.clone();
        assert_eq!(quorum(&read_copies(&mut disk)).unwrap().format(), 1);
        disk.fail_after = Some(writes);
        disk.in_order = true;
        assert!(Log::open(&mut disk, &OPTIONS, &mut |_| {}).is_err(), "{writes} writes suffice");
        let superblocks = copy_offsets(disk.info().bytes);
        let changed = (0..before.len())
            .step_by(BLOCK_BYTES)
            .filter(|&at| before[at..at + BLOCK_BYTES] != disk.bytes[at..at + BLOCK_BYTES]);
        let elsewhere: Vec<_> = changed.filter(|&at| !superblocks.contains(&(at as u64))).collect();
        let mut disk = TestDisk::with(disk.bytes, 9);
        let old = seen_by(1, &mut disk).iter().flatten().count();
        assert!(elsewhere.is_empty() || old == 0, "{writes} writes: {elsewhere:?}, {old} copies");
        left.push(old);
        // Power is back: what was there is.
        let (log, recovery) = Log::open(&mut disk, &OPTIONS, &mut |_| {}).unwrap();
        assert_eq!(recovery.messages, 50, "{writes} writes");
        log.close(&mut disk).unwrap();
        assert_eq!(seen_by(1, &mut disk).iter().flatten().count(), 0, "{writes} writes");
        verify(&mut disk, &mut |_, _| {}).unwrap();
    }
    left.dedup();
    assert_eq!(left, [4, 3, 2, 1, 0], "a copy at a time");
}

#[test]
fn looking_at_a_log_of_the_release_before_leaves_it_in_its_format() {
    let mut disk = of_the_release_before();
    let before = disk.bytes.clone();
    verify(&mut disk, &mut |_, _| {}).unwrap();
    super::inspect::describe(&mut disk).unwrap();
    assert!(disk.bytes == before, "nothing was written");
}

#[test]
fn a_log_of_a_later_release_is_named_as_such_and_left_alone() {
    let mut disk = formatted(16, 1);
    say(&mut disk, 3, 0..COPIES);
    let before = disk.bytes.clone();
    let error = Log::open(&mut disk, &OPTIONS, &mut |_| {}).unwrap_err();
    assert!(matches!(error, OpenError::Later { format: 3, .. }), "{error}");
    let said = error.to_string();
    assert!(said.contains("later release of Buslane (format 3)"), "{said}");
    assert!(!said.contains("restore"), "it is not damaged: {said}");
    assert_eq!(occupant(&mut disk).unwrap().unwrap(), "a log of a later release of Buslane");
    assert!(disk.bytes == before, "nothing was written");
    // One that says so is no word of the whole log.
    let mut disk = formatted(16, 1);
    say(&mut disk, 3, 0..1);
    assert!(Log::open(&mut disk, &OPTIONS, &mut |_| {}).is_ok());
    assert_eq!(disk.bytes.len(), 16 * MIB);
}
