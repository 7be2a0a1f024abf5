//! A disk and its shares: how it is cut, and finding the share of a shard again.
//!
//! A disk for N shards is cut into N equal shares at format, N being one or more, each a complete log: superblock
//! copies, segments, epochs. The superblock of each says which share it is and how large all are, so that a disk that
//! grew keeps its shares. The first share is written last, because what a disk is for is read from its head.

use super::create::{
    FormatError, FormatOptions, check_size, clear, disk_bytes_min, format_share, occupant,
};
use super::recovery::{OpenError, Sibling};
use super::scan::CHUNK_BYTES;
use super::superblock::{
    AREA_START, CopyDamage, END_BYTES, HEAD_BYTES, ShareId, Superblock, copy_offsets,
    other_release, quorum, read_copies, read_copy,
};
use crate::disk::share::{Extent, Share};
use crate::disk::{Disk, DiskFault, DiskInfo};
use crate::limits::SHARDS_MAX;
use crate::position::DiskOffset;

/// Shares are whole multiples of this, so that segments are aligned as at the start of the disk.
const ALIGNMENT: u64 = HEAD_BYTES;

/// Copies of the superblock that stand at the head of the disk, however it is cut.
const HEAD_COPIES: usize = 2;

type HeadCopy = Result<Superblock, CopyDamage>;

/// A number of shards, for people.
#[must_use]
pub(crate) fn shards(count: u32) -> String {
    if count == 1 { "1 shard".to_owned() } else { format!("{count} shards") }
}

/// Size of each share of a disk of `disk_bytes`.
#[must_use]
pub(crate) fn share_bytes(disk_bytes: u64, count: u32) -> u64 {
    disk_bytes / u64::from(count) / ALIGNMENT * ALIGNMENT
}

/// Bytes a disk needs at least for so many shards with segments of this size.
#[must_use]
pub(crate) fn bytes_needed(segment_bytes: u64, count: u32) -> u64 {
    bytes_of_all(disk_bytes_min(segment_bytes), count)
}

/// Bytes a disk has to have for so many shares of this size at least.
#[must_use]
pub(crate) fn bytes_of_all(share_bytes: u64, count: u32) -> u64 {
    share_bytes.next_multiple_of(ALIGNMENT) * u64::from(count)
}

/// Makes an empty log for each of `count` shards on a disk; returns the superblock of the first.
///
/// # Errors
/// See [`FormatError`]: a disk that holds anything, be it in the middle, is refused unless forced.
///
/// # Panics
/// When the number of shards is out of range: whoever asks has checked it.
pub(crate) fn format_shares(
    disk: &mut dyn Disk,
    options: &FormatOptions,
    count: u32,
) -> Result<Superblock, FormatError> {
    assert!((1..=SHARDS_MAX).contains(&count), "{count} shards");
    let name = disk.info().name.clone();
    let bytes = share_bytes(disk.info().bytes, count);
    check_share_size(disk.info(), options, bytes, count)?;
    let device = |fault| FormatError::Device { name: name.clone(), fault };
    if !options.force
        && let Some(what) = occupant_of_any(disk, bytes, count).map_err(device)?
    {
        return Err(FormatError::Occupied { name, what });
    }
    clear_ends(disk).map_err(device)?;
    let mut cluster = [0; 16];
    getrandom::fill(&mut cluster).map_err(FormatError::Random)?;
    let mut first = None;
    for index in (0..count).rev() {
        let mut identity = [0; 48];
        getrandom::fill(&mut identity).map_err(FormatError::Random)?;
        identity[..16].copy_from_slice(&cluster);
        let mut share = Share::new(&mut *disk, Extent::nth(index, bytes));
        let id = ShareId { index, count };
        let made = format_share(&mut share, options.segment_bytes, &identity, id);
        first = Some(made.map_err(device)?);
    }
    Ok(first.expect("at least one share"))
}

/// Clears both ends of a disk, whatever its shares are: of what was there before, neither may be found when the making
/// of a log is interrupted.
///
/// # Errors
/// What the device said.
pub(crate) fn clear_ends(disk: &mut dyn Disk) -> Result<(), DiskFault> {
    let bytes = disk.info().bytes;
    clear(disk, DiskOffset::START, AREA_START)?;
    clear(disk, DiskOffset::new(bytes - END_BYTES), DiskOffset::new(bytes))
}

fn check_share_size(
    disk: &DiskInfo,
    options: &FormatOptions,
    bytes: u64,
    count: u32,
) -> Result<(), FormatError> {
    match check_size(disk, bytes, options) {
        Err(FormatError::TooSmall { name, segment_bytes, .. }) => {
            let (found, needed) = (disk.bytes, bytes_needed(segment_bytes, count));
            Err(FormatError::TooSmall { name, found, needed, segment_bytes })
        }
        other => other,
    }
}

/// What the disk holds at its ends, or a share at its own.
fn occupant_of_any(
    disk: &mut dyn Disk,
    bytes: u64,
    count: u32,
) -> Result<Option<String>, DiskFault> {
    if let Some(what) = occupant(disk)? {
        return Ok(Some(what));
    }
    for index in 0..count {
        let part = Extent::nth(index, bytes);
        let mut share = Share::new(&mut *disk, part);
        if let Some(what) = occupant(&mut share)? {
            let start = part.start;
            return Ok(Some(format!("{what} in the share from {start} on")));
        }
    }
    Ok(None)
}

/// The copies at the head of a disk, those of the first share. `None` where there is no room for any.
fn head_copies(disk: &mut dyn Disk) -> Result<Option<[HeadCopy; HEAD_COPIES]>, DiskFault> {
    let bytes = disk.info().bytes;
    if bytes < HEAD_BYTES + END_BYTES || disk.memory().len() < CHUNK_BYTES {
        return Ok(None);
    }
    let mut copies = [Err(CopyDamage::NotOurs); HEAD_COPIES];
    for (copy, disk_offset) in copy_offsets(bytes).into_iter().enumerate().take(HEAD_COPIES) {
        copies[copy] = read_copy(disk, copy, disk_offset);
        if let Err(CopyDamage::Read(fault)) = copies[copy] {
            return Err(fault);
        }
    }
    Ok(Some(copies))
}

fn first_of(copies: Option<&[HeadCopy]>) -> Option<Superblock> {
    copies.and_then(|copies| copies.iter().flatten().next().copied())
}

fn are_no_log(copies: &[HeadCopy]) -> bool {
    copies.iter().all(|copy| matches!(copy, Err(CopyDamage::NotOurs)))
}

/// The superblock at the head of a disk: of the first share. `None` where it is no log, or one of another release, or
/// its head is damaged.
///
/// # Errors
/// What the device said.
pub(crate) fn head(disk: &mut dyn Disk) -> Result<Option<Superblock>, DiskFault> {
    Ok(first_of(head_copies(disk)?.as_ref().map(|copies| copies.as_slice())))
}

/// How many shards a disk was formatted for; `None` where its head does not say.
///
/// # Errors
/// What the device said, or that the log is of another release.
pub(crate) fn shard_count(disk: &mut dyn Disk) -> Result<Option<u32>, OpenError> {
    Ok(known_head(disk)?.0.map(|head| head.share().count))
}

/// The superblock at the head of a disk, and the copies there.
fn known_head(disk: &mut dyn Disk) -> Result<(Option<Superblock>, Vec<HeadCopy>), OpenError> {
    let name = disk.info().name.clone();
    let copies = head_copies(disk);
    let copies = copies.map_err(|fault| OpenError::Device { name: name.clone(), fault })?;
    let copies = copies.map_or_else(Vec::new, Vec::from);
    let head = first_of(Some(&copies));
    if head.is_none() && other_release(&copies, 1).is_some() {
        return Err(OpenError::of_copies(name, &copies, 1));
    }
    Ok((head, copies))
}

/// Where the share of a shard lies.
///
/// A damaged head is not held against the disk: the shares lie where the number of shards asked for puts them,
/// and their other copies tell whether that is so.
///
/// # Errors
/// `OpenError`: the disk was formatted for another number of shards, or by another release, or the share is another's.
pub(crate) fn find(disk: &mut dyn Disk, share: ShareId) -> Result<Extent, OpenError> {
    let name = disk.info().name.clone();
    let (head, head_copies) = known_head(disk)?;
    if let Some(head) = head
        && head.share().count != share.count
    {
        return Err(OpenError::of_shards(name, head.share().count, share.count));
    }
    let found = disk.info().bytes;
    let bytes = head.map(|head| head.share_bytes());
    let bytes = bytes.unwrap_or_else(|| share_bytes(found, share.count));
    let part = Extent::nth(share.index, bytes);
    if bytes < HEAD_BYTES + END_BYTES {
        return Err(OpenError::not_formatted(name));
    }
    if (part.start + bytes).get() > found {
        let needed = u64::from(share.count) * bytes;
        return Err(OpenError::Smaller { name, needed, found });
    }
    let mut there = Share::new(disk, part);
    let copies = read_copies(&mut there);
    if head.is_none() && are_no_log(&copies) {
        if are_no_log(&head_copies) {
            return Err(OpenError::not_formatted(name));
        }
        // There is a log, of which it cannot be told where this share would be.
        return Err(OpenError::of_copies(name, &head_copies, HEAD_COPIES));
    }
    // Where its copies do not agree, opening the log says how.
    let Some(own) = quorum(&copies) else { return Ok(part) };
    if head.is_none() && own.share().count != share.count {
        let name = there.info().name.clone();
        return Err(OpenError::of_shards(name, own.share().count, share.count));
    }
    let ours = head.is_none_or(|head| head.cluster == own.cluster);
    if own.share() != share || !ours {
        let (name, ShareId { index, count }) = (there.info().name.clone(), own.share());
        let of = if ours { Sibling::Own } else { Sibling::Other };
        return Err(OpenError::Share { name, wanted: share.index, found: index, count, of });
    }
    Ok(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::ram::RamDisk;
    use crate::disk::{Io, Operation, run};
    use crate::ids::Lineage;
    use crate::limits::BLOCK_BYTES;
    use crate::log::Log;
    use crate::log::recovery::OpenOptions;

    const MIB: u64 = 1 << 20;
    const RING: usize = 2 << 20;

    fn disk(mib: u64) -> RamDisk {
        RamDisk::new(mib * MIB, Log::memory_bytes(RING), 8).unwrap()
    }

    fn options(force: bool) -> FormatOptions {
        FormatOptions { segment_bytes: MIB, force }
    }

    fn share_of(
        disk: &mut RamDisk,
        index: u32,
        count: u32,
    ) -> Result<Share<&mut RamDisk>, OpenError> {
        let part = find(disk, ShareId { index, count })?;
        Ok(Share::new(disk, part))
    }

    fn write(disk: &mut RamDisk, disk_offset: u64, byte: u8) {
        disk.memory_mut().bytes_mut(0..BLOCK_BYTES).fill(byte);
        let (operation, disk_offset) = (Operation::Write, DiskOffset::new(disk_offset));
        run(disk, Io { operation, tag: 0, disk_offset, memory_offset: 0, bytes: BLOCK_BYTES })
            .unwrap();
    }

    #[test]
    fn each_share_is_a_log_of_its_own() {
        let mut disk = disk(41);
        format_shares(&mut disk, &options(false), 3).unwrap();
        assert_eq!(shard_count(&mut disk).unwrap(), Some(3));
        let open =
            OpenOptions { queue_depth: 4, ring_bytes: RING, unix_ns: 1, lineage: Lineage(9) };
        for index in 0..3 {
            let mut share = share_of(&mut disk, index, 3).unwrap();
            assert_eq!(share.info().bytes, 12 * MIB, "whole multiples of 2 MiB");
            // One log is opened once, the next twice: they have nothing in common.
            for epoch in 1..=u64::from(index) + 1 {
                let (log, recovery) = Log::open(&mut share, &open, &mut |_| {}).unwrap();
                assert_eq!(recovery.epoch, epoch);
                log.close(&mut share).unwrap();
            }
        }
    }

    #[test]
    fn another_number_of_shards_is_said_and_what_to_do() {
        let mut disk = disk(40);
        format_shares(&mut disk, &options(false), 2).unwrap();
        let error = find(&mut disk, ShareId::WHOLE).unwrap_err().to_string();
        assert_eq!(
            error,
            "ram: this log was formatted for 2 shards, the profile says 1: set shard.count=2"
        );
        format_shares(&mut disk, &options(true), 1).unwrap();
        let error = find(&mut disk, ShareId { index: 0, count: 2 }).unwrap_err().to_string();
        assert!(error.contains("for 1 shard, the profile says 2: set shard.count=1"), "{error}");
        assert_eq!(
            find(&mut disk, ShareId::WHOLE).unwrap(),
            Extent::nth(0, 40 * MIB),
            "all of the disk"
        );
    }

    #[test]
    fn the_first_share_is_never_taken_for_the_whole() {
        let mut disk = disk(40);
        format_shares(&mut disk, &options(false), 2).unwrap();
        let open =
            OpenOptions { queue_depth: 4, ring_bytes: RING, unix_ns: 1, lineage: Lineage(9) };
        let error = Log::open(&mut disk, &open, &mut |_| {}).unwrap_err();
        assert!(matches!(error, OpenError::Shards { found: 2, wanted: 1, .. }), "{error}");
    }

    #[test]
    fn an_empty_disk_is_no_log_by_its_own_name() {
        let error = find(&mut disk(40), ShareId { index: 1, count: 2 }).unwrap_err().to_string();
        assert!(error.starts_with("ram holds no Buslane log; make one with"), "{error}");
    }

    #[test]
    fn a_share_in_the_wrong_place_is_not_opened() {
        let mut disk = disk(40);
        format_shares(&mut disk, &options(false), 2).unwrap();
        let half = 20 * MIB;
        for block in (0..2 * MIB).chain(19 * MIB..20 * MIB).step_by(BLOCK_BYTES) {
            let io = |operation, at| Io {
                operation,
                tag: 0,
                disk_offset: DiskOffset::new(at),
                memory_offset: 0,
                bytes: BLOCK_BYTES,
            };
            run(&mut disk, io(Operation::Read, block)).unwrap();
            run(&mut disk, io(Operation::Write, half + block)).unwrap();
        }
        let error = share_of(&mut disk, 1, 2).unwrap_err().to_string();
        assert!(
            error.starts_with("ram: the share of shard 1") && error.contains("shard 0 of 2"),
            "{error}"
        );
    }

    #[test]
    fn a_damaged_head_does_not_lose_the_first_share() {
        let mut disk = disk(40);
        format_shares(&mut disk, &options(false), 2).unwrap();
        write(&mut disk, 64 << 10, 0xff);
        write(&mut disk, 1 << 20, 0xff);
        assert_eq!(shard_count(&mut disk).unwrap(), None);
        for index in 0..2 {
            let mut share = share_of(&mut disk, index, 2).unwrap();
            assert!(quorum(&read_copies(&mut share)).is_some(), "its copies at the end");
        }
    }

    #[test]
    fn foreign_data_anywhere_a_log_would_begin_or_end_is_left_alone() {
        for at in [0, 700 << 10, 19 * MIB, 20 * MIB, 20 * MIB + (100 << 10), 39 * MIB + (4 << 10)] {
            let mut disk = disk(40);
            write(&mut disk, at / 4096 * 4096, 7);
            let error = format_shares(&mut disk, &options(false), 2).unwrap_err();
            assert!(matches!(error, FormatError::Occupied { .. }), "{at}: {error}");
            format_shares(&mut disk, &options(true), 2).unwrap();
            let error = format_shares(&mut disk, &options(false), 1).unwrap_err().to_string();
            assert!(error.contains("a log of Buslane"), "{error}");
        }
    }

    #[test]
    fn a_disk_too_small_for_so_many_shards_is_said_with_what_is_needed() {
        let error = format_shares(&mut disk(40), &options(false), 6).unwrap_err().to_string();
        assert!(
            error.contains("41943040 bytes") && error.contains(&(48 * MIB).to_string()),
            "{error}"
        );
        assert!(format_shares(&mut disk(40), &options(false), 64).is_err(), "not even 2 MiB each");
    }
}
