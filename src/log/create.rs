//! Making a log on a disk, and refusing a disk that holds anything.

use zerocopy::IntoBytes;

use super::scan::{CHUNK_BYTES, read, transfer};
use super::segment::{Geometry, INDEX_BYTES};
use super::superblock::{
    AREA_START, CopyDamage, END_BYTES, FORMAT, HEAD_BYTES, Identity, ShareId, Superblock,
    other_release, read_copies,
};
use crate::disk::share::{Extent, Share};
use crate::disk::{Disk, DiskFault, DiskInfo, Operation};
use crate::limits::{BLOCK_BYTES, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENTS_MIN};
use crate::position::DiskOffset;

/// Bytes of a disk with this layout.
#[must_use]
pub fn disk_bytes_of(geometry: &Geometry) -> u64 {
    HEAD_BYTES + geometry.segments * geometry.segment_bytes + END_BYTES
}

/// Where the segments of this layout end.
#[must_use]
pub(super) fn area_end(geometry: &Geometry) -> DiskOffset {
    AREA_START + geometry.segments * geometry.segment_bytes
}

/// Bytes a disk needs at least for segments of this size.
#[must_use]
pub fn disk_bytes_min(segment_bytes: u64) -> u64 {
    disk_bytes_of(&Geometry { segment_bytes, segments: SEGMENTS_MIN })
}

/// Segments that a disk, or a share, of so many bytes is cut into.
#[must_use]
pub fn segments_in(disk_bytes: u64, segment_bytes: u64) -> u64 {
    disk_bytes.saturating_sub(HEAD_BYTES + END_BYTES) / segment_bytes
}

/// How a log is made.
#[derive(Clone, Copy, Debug)]
pub struct FormatOptions {
    /// A power of two.
    pub segment_bytes: u64,
    /// Overwrite whatever is there.
    pub force: bool,
}

/// Why a disk was not formatted.
#[derive(Debug, displaydoc::Display, thiserror::Error)]
pub enum FormatError {
    /// {name} holds {what}; nothing was changed; overwrite it with --force
    Occupied {
        /// The disk.
        name: String,
        /// What was recognised.
        what: String,
    },
    /// {name} has {found} bytes; a log with segments of {segment_bytes} needs at least {needed}: take a larger disk
    /// or smaller segments
    TooSmall {
        /// The disk.
        name: String,
        /// Its size.
        found: u64,
        /// What is needed.
        needed: u64,
        /// As asked for.
        segment_bytes: u64,
    },
    /// a segment of {0} bytes: it is a power of two from 1 MiB to 1 GiB
    SegmentBytes(u64),
    /// {name}: formatting: {fault}
    Device {
        /// The disk.
        name: String,
        /// What it said.
        fault: DiskFault,
    },
    /// no random bytes for the log's identity: {0}
    Random(getrandom::Error),
}

/// Makes an empty log over all of a disk, for its only shard.
///
/// # Errors
/// See [`FormatError`].
pub fn format(disk: &mut dyn Disk, options: &FormatOptions) -> Result<Superblock, FormatError> {
    let mut identity = [0; 48];
    getrandom::fill(&mut identity).map_err(FormatError::Random)?;
    format_as(disk, options, &identity)
}

/// The same with an identity that is given: cluster, leg and salt, 16 bytes each.
///
/// # Errors
/// See [`FormatError`].
pub fn format_as(
    disk: &mut dyn Disk,
    options: &FormatOptions,
    identity: &[u8; 48],
) -> Result<Superblock, FormatError> {
    check_size(disk.info(), disk.info().bytes, options)?;
    let name = disk.info().name.clone();
    let device = |fault| FormatError::Device { name: name.clone(), fault };
    if !options.force
        && let Some(what) = occupant(disk).map_err(device)?
    {
        return Err(FormatError::Occupied { name, what });
    }
    format_share(disk, options.segment_bytes, identity, ShareId::WHOLE).map_err(device)
}

/// Whether a log with such segments fits into `found` bytes of a disk.
pub(super) fn check_size(
    disk: &DiskInfo,
    found: u64,
    options: &FormatOptions,
) -> Result<(), FormatError> {
    let segment_bytes = options.segment_bytes;
    let allowed = SEGMENT_BYTES_MIN as u64..=SEGMENT_BYTES_MAX as u64;
    if !segment_bytes.is_power_of_two() || !allowed.contains(&segment_bytes) {
        return Err(FormatError::SegmentBytes(segment_bytes));
    }
    let needed = disk_bytes_min(segment_bytes);
    if found < needed {
        let name = disk.name.clone();
        return Err(FormatError::TooSmall { name, found, needed, segment_bytes });
    }
    Ok(())
}

/// Writes an empty log over all of a disk, which is a share.
pub(super) fn format_share(
    disk: &mut dyn Disk,
    segment_bytes: u64,
    identity: &[u8; 48],
    share: ShareId,
) -> Result<Superblock, DiskFault> {
    let share_bytes = disk.info().bytes;
    let segments = segments_in(share_bytes, segment_bytes);
    let geometry = Geometry { segment_bytes, segments };
    let superblock = new_superblock(disk, &geometry, identity).of_share(share, share_bytes);
    write_layout(disk, &geometry, &superblock)?;
    Ok(superblock)
}

fn new_superblock(disk: &dyn Disk, geometry: &Geometry, identity: &[u8; 48]) -> Superblock {
    let part = |at: usize| identity[at..at + 16].try_into().expect("16 bytes");
    let nguid = disk.info().identity;
    let identity = Identity { cluster: part(0), leg: part(16), salt: part(32), nguid };
    let log2 = geometry.segment_bytes.trailing_zeros();
    Superblock::new(&identity, log2, geometry.segments, disk.info().durability.code())
}

/// Clears what there may be, then writes the banner and, last, the superblock: a crash before leaves no log.
fn write_layout(
    disk: &mut dyn Disk,
    geometry: &Geometry,
    superblock: &Superblock,
) -> Result<(), DiskFault> {
    clear_layout(disk, geometry)?;
    write_banner(disk, superblock)?;
    superblock.write(disk)
}

/// Clears where headers of the layout may stand, then the reserved areas.
pub(super) fn clear_layout(disk: &mut dyn Disk, geometry: &Geometry) -> Result<(), DiskFault> {
    let end = DiskOffset::new(disk.info().bytes);
    disk.memory_mut().bytes_mut(0..CHUNK_BYTES).fill(0);
    for place in geometry.places() {
        let segment = geometry.segment(place);
        write(disk, segment, BLOCK_BYTES)?;
        write(disk, segment + geometry.index_offset(), INDEX_BYTES + BLOCK_BYTES)?;
    }
    clear(disk, DiskOffset::START, AREA_START)?;
    clear(disk, area_end(geometry), end)
}

pub(super) fn write_banner(disk: &mut dyn Disk, superblock: &Superblock) -> Result<(), DiskFault> {
    let memory = disk.memory_mut().bytes_mut(0..BLOCK_BYTES);
    memory.copy_from_slice(&banner(superblock));
    write(disk, DiskOffset::START, BLOCK_BYTES)
}

/// Writes zeros.
pub(super) fn clear(
    disk: &mut dyn Disk,
    from: DiskOffset,
    to: DiskOffset,
) -> Result<(), DiskFault> {
    disk.memory_mut().bytes_mut(0..CHUNK_BYTES).fill(0);
    let mut at = from;
    while at < to {
        let bytes = usize::try_from((to - at).min(128 << 10)).expect("at most 128 KiB");
        write(disk, at, bytes)?;
        at += bytes as u64;
    }
    Ok(())
}

/// Writes the start of the disk's memory.
pub(super) fn write(
    disk: &mut dyn Disk,
    disk_offset: DiskOffset,
    bytes: usize,
) -> Result<(), DiskFault> {
    transfer(disk, Operation::Write, disk_offset, bytes)
}

/// The first block, for people who look at the disk with other tools.
#[must_use]
pub fn banner(superblock: &Superblock) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    let hex: String = superblock.leg.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let text = format!("This disk is a log of Buslane, not a file system. Leg {hex}\n");
    block[..text.len()].copy_from_slice(text.as_bytes());
    block
}

/// What the making of a log has left on a disk, should it have been interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// No log, or one that was never opened for writing: nothing was ever acknowledged from it.
    Nothing,
    /// A log that was opened for writing.
    Served,
    /// It cannot be told: a superblock is damaged, or of another release.
    Unknown,
}

/// Whether anything can have been acknowledged from a disk: opening a log for writing writes its epoch into
/// the superblock first.
///
/// # Errors
/// What the device said.
pub fn made(disk: &mut dyn Disk) -> Result<Made, DiskFault> {
    let bytes = disk.info().bytes;
    if bytes < HEAD_BYTES + END_BYTES {
        return Ok(Made::Nothing);
    }
    let Some(head) = super::shares::head(disk)? else { return Ok(made_of(&read_copies(disk))) };
    let (count, each) = (head.share().count, head.share_bytes());
    if each * u64::from(count) > bytes {
        return Ok(Made::Unknown);
    }
    let mut found = Made::Nothing;
    for index in 0..count {
        let mut part = Share::new(&mut *disk, Extent::nth(index, each));
        match made_of(&read_copies(&mut part)) {
            Made::Nothing => {}
            Made::Served => return Ok(Made::Served),
            Made::Unknown => found = Made::Unknown,
        }
    }
    Ok(found)
}

fn made_of(copies: &[Result<Superblock, CopyDamage>]) -> Made {
    if copies.iter().flatten().any(|copy| copy.last_epoch.get() > 0) {
        return Made::Served;
    }
    let is_whole =
        |copy: &Result<Superblock, CopyDamage>| matches!(copy, Ok(_) | Err(CopyDamage::NotOurs));
    if copies.iter().all(is_whole) { Made::Nothing } else { Made::Unknown }
}

/// Signatures of what else may be on a disk: name, disk offset, bytes.
const SIGNATURES: [(&str, u64, &[u8]); 12] = [
    ("a GPT partition table", 512, b"EFI PART"),
    ("a GPT partition table", 4096, b"EFI PART"),
    ("an ext2, ext3 or ext4 file system", 1080, &[0x53, 0xef]),
    ("an XFS file system", 0, b"XFSB"),
    ("a Btrfs file system", 65_600, b"_BHRfS_M"),
    ("an LVM physical volume", 512, b"LABELONE"),
    ("swap space", 4086, b"SWAPSPACE2"),
    ("a Linux RAID member", 4096, &[0xfc, 0x4e, 0x2b, 0xa9]),
    ("a bcachefs file system", 4120, &[0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca]),
    ("a LUKS volume", 0, b"LUKS\xba\xbe"),
    ("an SPDK blobstore", 0, b"SPDKBLOB"),
    ("a boot record or partition table", 510, &[0x55, 0xaa]),
];

/// What a disk holds, as far as its first and last MiB tell; `None` when they are empty.
///
/// # Errors
/// What the device said.
pub fn occupant(disk: &mut dyn Disk) -> Result<Option<String>, DiskFault> {
    let end = disk.info().bytes;
    let copies = read_copies(disk);
    if let Some(superblock) = copies.iter().flatten().next() {
        let segments = superblock.segment_count;
        let of = match superblock.share().count {
            1 => String::new(),
            count => format!(" of each of {count} shards"),
        };
        return Ok(Some(format!("a log of Buslane ({segments} segments{of})")));
    }
    if let Some(format) = other_release(&copies, 1) {
        let which = if format < FORMAT { "an earlier" } else { "a later" };
        return Ok(Some(format!("a log of {which} release of Buslane (format {format})")));
    }
    let chunk = 128 << 10;
    let head = (0..1 << 20).step_by(chunk);
    let tail = (end.saturating_sub(1 << 20)..end).step_by(chunk);
    for start in head.chain(tail) {
        let bytes = usize::try_from((end - start).min(chunk as u64)).expect("a chunk");
        read(disk, DiskOffset::new(start), bytes)?;
        let found = disk.memory().bytes(0..bytes);
        for (what, offset, signature) in SIGNATURES {
            let at = offset.checked_sub(start).and_then(|at| usize::try_from(at).ok());
            let Some(at) = at else { continue };
            if found.get(at..at + signature.len()) == Some(signature) {
                return Ok(Some(what.to_owned()));
            }
        }
        if let Some(at) = found.iter().position(|&byte| byte != 0) {
            let at = start + at as u64;
            return Ok(Some(format!("data that is not Buslane's (first at offset {at})")));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::ram::RamDisk;
    use crate::ids::Lineage;
    use crate::log::Log;
    use crate::log::recovery::OpenOptions;
    use crate::log::shares::format_shares;

    const MIB: u64 = 1 << 20;
    const RING: usize = 2 << 20;

    #[test]
    fn segments_are_neither_smaller_nor_larger_than_they_may_be() {
        let disk = RamDisk::new(MIB, 1 << 20, 8).unwrap();
        let (least, most) = (SEGMENT_BYTES_MIN as u64, SEGMENT_BYTES_MAX as u64);
        for (segment_bytes, fits) in
            [(least, true), (most, true), (least / 2, false), (2 * most, false), (3 * least, false)]
        {
            let options = FormatOptions { segment_bytes, force: false };
            let refused = check_size(disk.info(), u64::MAX, &options);
            let is_size =
                matches!(refused, Err(FormatError::SegmentBytes(bytes)) if bytes == segment_bytes);
            assert_eq!((refused.is_ok(), is_size), (fits, !fits), "{segment_bytes}");
        }
    }

    #[test]
    fn what_was_made_and_never_served_holds_nothing_and_what_was_served_does() {
        for shards in [1, 2] {
            let mut disk = RamDisk::new(40 * MIB, Log::memory_bytes(RING), 8).unwrap();
            assert_eq!(made(&mut disk).unwrap(), Made::Nothing, "zeros");
            format_shares(&mut disk, &FormatOptions { segment_bytes: MIB, force: false }, shards)
                .unwrap();
            assert_eq!(made(&mut disk).unwrap(), Made::Nothing, "made");
            // The last share alone was served.
            let share = 40 * MIB / u64::from(shards);
            let mut last = Share::new(&mut disk, Extent::nth(shards - 1, share));
            let options =
                OpenOptions { queue_depth: 4, ring_bytes: RING, unix_ns: 1, lineage: Lineage(9) };
            Log::open(&mut last, &options, &mut |_| {}).unwrap();
            assert_eq!(made(&mut disk).unwrap(), Made::Served, "{shards}");
        }
    }

    #[test]
    fn a_damaged_superblock_is_not_taken_for_nothing() {
        let mut disk = RamDisk::new(40 * MIB, Log::memory_bytes(RING), 8).unwrap();
        format(&mut disk, &FormatOptions { segment_bytes: MIB, force: false }).unwrap();
        let first = DiskOffset::new(64 << 10);
        read(&mut disk, first, BLOCK_BYTES).unwrap();
        disk.memory_mut().bytes_mut(100..101).fill(0xff);
        write(&mut disk, first, BLOCK_BYTES).unwrap();
        assert_eq!(made(&mut disk).unwrap(), Made::Unknown);
        let mut small = RamDisk::new(MIB, Log::memory_bytes(RING), 8).unwrap();
        assert_eq!(made(&mut small).unwrap(), Made::Nothing, "shorter than any log");
    }
}
