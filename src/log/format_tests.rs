//! Logs of earlier and later releases, and what is left when the power goes while a log is made where there was one.

use super::create::{FormatError, FormatOptions, Made, made, occupant};
use super::recovery::OpenError;
use super::shares::{find, format_shares, shard_count};
use super::superblock::{COPIES, END_BYTES, HEAD_BYTES, ShareId, copy_offsets};
use super::tests::{MIB, OPTIONS, Writer, formatted};
use super::verify::verify;
use super::*;
use crate::disk::Disk;
use crate::disk::share::{Extent, Share};
use crate::limits::BLOCK_BYTES;
use crate::testing::disk::TestDisk;

/// Rewrites some copies of the superblock, with the checksum that then belongs to them.
fn rewrite(disk: &mut TestDisk, copies: std::ops::Range<usize>, change: impl Fn(&mut [u8])) {
    let offsets = copy_offsets(disk.info().bytes);
    for &offset in &offsets[copies] {
        let at = usize::try_from(offset.get()).unwrap();
        let block = &mut disk.media_mut()[at..at + BLOCK_BYTES];
        change(block);
        let hash = blake3::hash(&block[26..]);
        block[8..24].copy_from_slice(&hash.as_bytes()[..16]);
    }
}

/// As the releases of format 1 and 2 wrote it: the number of the format in one byte, 64 hints, and no share of a whole
/// disk. Of a log of format 3 nothing but the number is looked at either.
fn as_before(block: &mut [u8], format: u8) {
    block[26..32].copy_from_slice(&[format, 0, 0, 0, 0, 16]);
    block[256..].fill(0);
    for (shard, hint) in (0u8..).zip(block[256..3328].chunks_mut(48)) {
        hint[0] = shard;
    }
    block[3328] = 1;
}

/// A log that was written, and stopped in order.
fn written() -> TestDisk {
    let mut writer = Writer::open(formatted(16, 1));
    for n in 0..50u32 {
        writer.append(&n.to_le_bytes()).unwrap();
        writer.settle();
    }
    let Writer { mut disk, log, .. } = writer;
    log.close(&mut disk).unwrap();
    disk
}

fn of_the_release_before(format: u8) -> TestDisk {
    let mut disk = written();
    rewrite(&mut disk, 0..COPIES, |block| as_before(block, format));
    disk
}

fn check_refused(mut disk: TestDisk, occupied_by: &str, is_it: impl Fn(&OpenError) -> bool) {
    let before = disk.image();
    let share = ShareId { index: 1, count: 2 };
    let refusals = [
        Log::open(&mut disk, &OPTIONS, &mut |_| {}).map(|_| ()).unwrap_err(),
        verify(&mut disk, &mut |_, _| {}).map(|_| ()).unwrap_err(),
        super::inspect::describe(&mut disk).map(|_| ()).unwrap_err(),
        shard_count(&mut disk).unwrap_err(),
        find(&mut disk, ShareId::WHOLE).unwrap_err(),
        // Whatever number of shards is asked for: nothing says that there is no log.
        find(&mut disk, share).unwrap_err(),
    ];
    for error in refusals {
        assert!(is_it(&error), "{error}");
        let said = error.to_string();
        assert!(said.contains("nothing was changed"), "{said}");
        assert!(!said.contains("restore"), "it is not damaged: {said}");
    }
    assert_eq!(occupant(&mut disk).unwrap().unwrap(), occupied_by);
    assert_eq!(made(&mut disk).unwrap(), Made::Unknown, "it is not removed as if it were nothing");
    let options = FormatOptions { segment_bytes: MIB as u64, force: false };
    for shards in [1, 2] {
        let refused = format_shares(&mut disk, &options, shards);
        assert!(matches!(refused, Err(FormatError::Occupied { .. })), "{shards} shards");
    }
    assert!(disk.media() == before, "nothing was written");
}

#[test]
fn a_log_of_an_earlier_release_is_named_as_such_with_what_to_do_and_left_alone() {
    for format in [1, 2, 3] {
        let disk = of_the_release_before(format);
        let occupied = format!("a log of an earlier release of Buslane (format {format})");
        check_refused(disk, &occupied, |error| {
            let said = error.to_string();
            let names = said.contains(&format!("(format {format})")) && said.contains("format 4");
            let helps = ["go on with that release", "consume -o framed", "publish --framed"];
            matches!(error, OpenError::Earlier { .. })
                && names
                && helps.iter().all(|help| said.contains(help))
        });
    }
}

#[test]
fn a_log_of_a_later_release_is_named_as_such_and_left_alone() {
    // A byte, what it is made, and the format that is then said: of a number of two bytes not the first alone counts, and
    // what is reserved may be used in the same format.
    for (at, byte, format) in [(26, 5, 5), (27, 1, 0x0104), (4095, 1, 4)] {
        let mut disk = written();
        rewrite(&mut disk, 0..COPIES, |block| block[at] = byte);
        let occupied = format!("a log of a later release of Buslane (format {format})");
        check_refused(
            disk,
            &occupied,
            |error| matches!(error, OpenError::Later { format: said, .. } if *said == format),
        );
    }
}

#[test]
fn one_copy_that_says_another_release_is_no_word_of_the_whole_log() {
    for copy in 0..COPIES {
        let mut disk = written();
        rewrite(&mut disk, copy..copy + 1, |block| as_before(block, 2));
        assert_eq!(find(&mut disk, ShareId::WHOLE).unwrap(), Extent::nth(0, 16 * MIB as u64));
        assert!(Log::open(&mut disk, &OPTIONS, &mut |_| {}).is_ok(), "copy {copy}");
    }
}

/// The head of a disk is damaged, and somebody asks for more shards than it was made for: where the second would be,
/// there is nothing, and no advice to make a log there.
#[test]
fn no_log_is_to_be_made_where_a_damaged_head_hides_one() {
    let mut disk = written();
    for at in [64 << 10, 1 << 20] {
        disk.media_mut()[at + 100] ^= 1;
    }
    let error = find(&mut disk, ShareId { index: 1, count: 3 }).unwrap_err();
    assert!(matches!(error, OpenError::NoQuorum { .. }), "{error}");
    assert!(!error.to_string().contains("log format"), "{error}");
    // Here the copies at its end are found.
    let error = find(&mut disk, ShareId { index: 1, count: 2 }).unwrap_err();
    assert!(matches!(error, OpenError::Shards { found: 1, wanted: 2, .. }), "{error}");
    // With the number it was made for, it is found by its other copies.
    assert_eq!(find(&mut disk, ShareId::WHOLE).unwrap(), Extent::nth(0, 16 * MIB as u64));
    Log::open(&mut disk, &OPTIONS, &mut |_| {}).unwrap();
}

/// The power goes after each write of a forced format over a log of the release before. Whatever opens then is the new,
/// empty log.
#[test]
fn what_an_interrupted_format_leaves_of_an_older_log_is_never_opened() {
    let options = FormatOptions { segment_bytes: MIB as u64, force: true };
    let before = of_the_release_before(2);
    for shards in [1, 2] {
        let mut writes = 0;
        loop {
            let mut disk = TestDisk::with(before.image(), 3);
            disk.fail_after(Some(writes));
            disk.in_order();
            let is_made = format_shares(&mut disk, &options, shards).is_ok();
            let mut disk = TestDisk::with(disk.image(), 4);
            let (mut opened, mut last) = (0, None);
            for index in 0..shards {
                match find(&mut disk, ShareId { index, count: shards }) {
                    Ok(part) => {
                        let share = &mut Share::new(&mut disk, part);
                        match Log::open(share, &OPTIONS, &mut |_| {}) {
                            Ok((_, recovery)) => {
                                assert_eq!((recovery.epoch, recovery.messages), (1, 0));
                                opened += 1;
                            }
                            Err(error) => last = Some(error),
                        }
                    }
                    Err(error) => last = Some(error),
                }
            }
            if is_made {
                assert_eq!(opened, shards, "{last:?}");
                break;
            }
            writes += 1;
        }
        // Two areas at the ends, a header, an index and a copy for each segment, and the superblocks.
        assert!(writes > 40, "{writes}");
    }
}

#[test]
fn a_disk_that_is_no_whole_number_of_shares_keeps_nothing_of_an_older_log_at_its_end() {
    let odd = 17 * MIB + 64 * 1024;
    let mut disk = TestDisk::with(vec![0; odd], 5);
    for (copy, offset) in (0u16..).zip(copy_offsets(odd as u64)) {
        let at = usize::try_from(offset.get()).unwrap();
        let block = &mut disk.media_mut()[at..at + BLOCK_BYTES];
        block[..8].copy_from_slice(b"BUSLANE\x01");
        block[24..26].copy_from_slice(&copy.to_le_bytes());
    }
    rewrite(&mut disk, 0..COPIES, |block| as_before(block, 2));
    let options = FormatOptions { segment_bytes: MIB as u64, force: true };
    format_shares(&mut disk, &options, 1).unwrap();
    let part = find(&mut disk, ShareId::WHOLE).unwrap();
    assert_eq!(part, Extent::nth(0, 16 * MIB as u64), "whole multiples of 2 MiB");
    assert!(disk.media()[16 * MIB..].iter().all(|&byte| byte == 0), "nothing is left of it");
    assert!(part.bytes >= HEAD_BYTES + END_BYTES);
    // A disk that grows keeps its log, all four copies of the superblock included.
    let mut grown = disk.image();
    grown.resize(odd + 8 * MIB, 0);
    let mut disk = TestDisk::with(grown, 6);
    assert_eq!(find(&mut disk, ShareId::WHOLE).unwrap(), Extent::nth(0, 16 * MIB as u64));
    let mut share = Share::new(&mut disk, part);
    Log::open(&mut share, &OPTIONS, &mut |_| {}).unwrap().0.close(&mut share).unwrap();
    assert_eq!(verify(&mut share, &mut |_, _| {}).unwrap().findings, []);
}
