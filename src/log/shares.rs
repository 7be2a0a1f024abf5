//! Several logs on one disk: how it is cut, and finding the share of a shard again.
//!
//! A disk for N shards is cut into N equal shares at format, each a complete log: superblock copies, segments,
//! epochs. The superblock of each says which share it is and how large all are, so that a disk that grew keeps
//! its shares. A disk for one shard is not cut, and has the bytes it always had. The first share is written last,
//! because what a disk is for is read from its head.

use super::create::{
    FormatError, FormatOptions, check_size, clear, disk_bytes_min, format, format_share, occupant,
};
use super::recovery::OpenError;
use super::scan::CHUNK_BYTES;
use super::superblock::{
    AREA_OFFSET, CopyDamage, END_BYTES, ShareId, Superblock, copy_offsets, quorum, read_copies,
};
use crate::disk::share::Share;
use crate::disk::{Disk, DiskFault, DiskInfo, Io, Operation, run};
use crate::limits::{BLOCK_BYTES, SHARDS_MAX};

/// Shares are whole multiples of this, so that segments are aligned as on a whole disk.
const ALIGNMENT: u64 = AREA_OFFSET;

/// A number of shards, for people.
#[must_use]
pub fn shards(count: u32) -> String {
    if count == 1 { "1 shard".to_owned() } else { format!("{count} shards") }
}

/// Size of each share of a disk of `disk_bytes`.
#[must_use]
pub fn share_bytes(disk_bytes: u64, count: u32) -> u64 {
    disk_bytes / u64::from(count) / ALIGNMENT * ALIGNMENT
}

/// Makes an empty log for each of `count` shards on a disk; returns the superblock of the first.
///
/// # Errors
/// See [`FormatError`]: a disk that holds anything, be it in the middle, is refused unless forced.
///
/// # Panics
/// When the number of shards is out of range: whoever asks has checked it.
pub fn format_shares<D: Disk>(
    disk: &mut D,
    options: &FormatOptions,
    count: u32,
) -> Result<Superblock, FormatError> {
    assert!((1..=SHARDS_MAX).contains(&count), "{count} shards");
    if count == 1 {
        return format(disk, options);
    }
    let name = disk.info().name.clone();
    let bytes = share_bytes(disk.info().bytes, count);
    check_share_size(disk.info(), options, (bytes, count))?;
    let device = |fault| FormatError::Device { name: name.clone(), fault };
    if !options.force
        && let Some(what) = occupant_of_any(disk, (bytes, count)).map_err(device)?
    {
        return Err(FormatError::Occupied { name, what });
    }
    // Of what was there before, neither head nor end may be found when this is interrupted.
    let end = disk.info().bytes;
    clear(disk, 0, AREA_OFFSET).map_err(device)?;
    clear(disk, end - END_BYTES, end).map_err(device)?;
    let mut cluster = [0; 16];
    getrandom::fill(&mut cluster).map_err(FormatError::Random)?;
    let mut first = None;
    for index in (0..count).rev() {
        let mut identity = [0; 48];
        getrandom::fill(&mut identity).map_err(FormatError::Random)?;
        identity[..16].copy_from_slice(&cluster);
        let mut share = Share::new(&mut *disk, u64::from(index) * bytes, bytes);
        let id = ShareId { index, count };
        let made = format_share(&mut share, options.segment_bytes, &identity, (id, bytes));
        first = Some(made.map_err(device)?);
    }
    Ok(first.expect("at least one share"))
}

fn check_share_size(
    disk: &DiskInfo,
    options: &FormatOptions,
    (bytes, count): (u64, u32),
) -> Result<(), FormatError> {
    match check_size(disk, bytes, options) {
        Err(FormatError::TooSmall { name, segment_bytes, .. }) => {
            let each = disk_bytes_min(segment_bytes).next_multiple_of(ALIGNMENT);
            let (found, needed) = (disk.bytes, each * u64::from(count));
            Err(FormatError::TooSmall { name, found, needed, segment_bytes })
        }
        other => other,
    }
}

/// What the disk holds at its ends, or a share at its own.
fn occupant_of_any<D: Disk>(
    disk: &mut D,
    (bytes, count): (u64, u32),
) -> Result<Option<String>, DiskFault> {
    if let Some(what) = occupant(disk)? {
        return Ok(Some(what));
    }
    for index in 0..count {
        let start = u64::from(index) * bytes;
        let mut share = Share::new(&mut *disk, start, bytes);
        if let Some(what) = occupant(&mut share)? {
            return Ok(Some(format!("{what} in the share from {start} on")));
        }
    }
    Ok(None)
}

/// The superblock at the head of a disk: of its only log, or of the first share. `None` where it is no log or
/// its head is damaged.
///
/// # Errors
/// What the device said.
pub fn head<D: Disk>(disk: &mut D) -> Result<Option<Superblock>, DiskFault> {
    let bytes = disk.info().bytes;
    if bytes < AREA_OFFSET + END_BYTES || disk.memory().len() < CHUNK_BYTES {
        return Ok(None);
    }
    // The copies at the end are elsewhere on a disk that is cut: these two stand fast.
    for (copy, disk_offset) in copy_offsets(bytes).into_iter().enumerate().take(2) {
        let operation = Operation::Read;
        run(disk, Io { operation, tag: 0, disk_offset, memory_offset: 0, bytes: BLOCK_BYTES })?;
        if let Ok(found) = Superblock::check(disk.memory().bytes(0..BLOCK_BYTES), copy) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// How many shards a disk was formatted for; `None` where its head does not say.
///
/// # Errors
/// What the device said.
pub fn shard_count<D: Disk>(disk: &mut D) -> Result<Option<u32>, OpenError> {
    let name = disk.info().name.clone();
    let head = head(disk).map_err(|fault| OpenError::Device { name, fault })?;
    Ok(head.map(|head| head.share().count))
}

/// Where the share of a shard lies: its start and its bytes; `None` for all of the disk.
///
/// A damaged head is not held against the disk: the shares lie where the number of shards asked for puts them,
/// and their other copies tell whether that is so.
///
/// # Errors
/// `OpenError`: the disk was formatted for another number of shards, or the share is another's.
pub fn find<D: Disk>(disk: &mut D, share: ShareId) -> Result<Option<(u64, u64)>, OpenError> {
    let name = disk.info().name.clone();
    let device = |fault| OpenError::Device { name: name.clone(), fault };
    let head = head(disk).map_err(device)?;
    if let Some(head) = head
        && head.share().count != share.count
    {
        let (found, wanted) = (head.share().count, share.count);
        return Err(OpenError::Shards { name, found, wanted });
    }
    if share.count == 1 {
        return Ok(None);
    }
    let found = disk.info().bytes;
    let bytes = head.and_then(|head| head.share_bytes());
    let bytes = bytes.unwrap_or_else(|| share_bytes(found, share.count));
    let start = u64::from(share.index) * bytes;
    if bytes < AREA_OFFSET + END_BYTES {
        return Err(OpenError::NotFormatted { name });
    }
    if start + bytes > found {
        let needed = u64::from(share.count) * bytes;
        return Err(OpenError::Smaller { name, needed, found });
    }
    let mut there = Share::new(disk, start, bytes);
    let copies = read_copies(&mut there);
    if head.is_none() && copies.iter().all(|copy| matches!(copy, Err(CopyDamage::NotOurs))) {
        return Err(OpenError::NotFormatted { name });
    }
    // Where its copies do not agree, opening the log says how.
    let Some(own) = quorum(&copies) else { return Ok(Some((start, bytes))) };
    let ours = head.is_none_or(|head| head.cluster == own.cluster);
    if own.share() != share || !ours {
        let (name, ShareId { index, count }) = (there.info().name.clone(), own.share());
        return Err(OpenError::Share { name, wanted: share.index, found: index, count, ours });
    }
    Ok(Some((start, bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::ram::RamDisk;
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
        let (start, bytes) = find(disk, ShareId { index, count })?.expect("a share");
        Ok(Share::new(disk, start, bytes))
    }

    fn write(disk: &mut RamDisk, disk_offset: u64, byte: u8) {
        disk.memory_mut().bytes_mut(0..BLOCK_BYTES).fill(byte);
        let operation = Operation::Write;
        run(disk, Io { operation, tag: 0, disk_offset, memory_offset: 0, bytes: BLOCK_BYTES })
            .unwrap();
    }

    #[test]
    fn each_share_is_a_log_of_its_own() {
        let mut disk = disk(41);
        format_shares(&mut disk, &options(false), 3).unwrap();
        assert_eq!(shard_count(&mut disk).unwrap(), Some(3));
        let open = OpenOptions { queue_depth: 4, ring_bytes: RING, unix_ns: 1 };
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
        assert_eq!(find(&mut disk, ShareId::WHOLE).unwrap(), None, "all of the disk");
    }

    #[test]
    fn the_first_share_is_never_taken_for_the_whole() {
        let mut disk = disk(40);
        format_shares(&mut disk, &options(false), 2).unwrap();
        let open = OpenOptions { queue_depth: 4, ring_bytes: RING, unix_ns: 1 };
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
            let io = |operation, disk_offset| Io {
                operation,
                tag: 0,
                disk_offset,
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
