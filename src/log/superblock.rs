//! The superblock: four copies that identify the disk and hint at the log's state. Written at format,
//! at each opening for writing and at a clean stop; never on the path. `docs/log-format.md` has its bytes.

use std::cmp::Ordering;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::disk::{Disk, DiskFault, DiskInfo, Io, Operation, run};
use crate::ids::Lineage;
use crate::limits::{BLOCK_BYTES, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENTS_MIN, SHARDS_MAX};
use crate::position::{BatchSeq, DiskOffset};

/// First bytes of a superblock of any format.
const MAGIC: [u8; 8] = *b"BUSLANE\x01";

/// The only format that is read and written. A later one need have no more than magic, checksum and number in common
/// with it, so that it is refused by its number.
pub(crate) const FORMAT: u16 = 4;

/// Bits of features a reader must know to read the log: there is none yet.
const INCOMPAT_KNOWN: u32 = 0;

/// Copies on a disk.
pub(crate) const COPIES: usize = 4;

/// What is kept free before the segments for the banner and the first two copies.
pub(crate) const HEAD_BYTES: u64 = 2 << 20;

/// Where the segments begin.
pub(crate) const AREA_START: DiskOffset = DiskOffset::new(HEAD_BYTES);

/// Binary logarithms of the least and the largest segment.
const SEGMENT_LOG2_MIN: u32 = SEGMENT_BYTES_MIN.trailing_zeros();
const SEGMENT_LOG2_MAX: u32 = SEGMENT_BYTES_MAX.trailing_zeros();

/// What is kept free behind the segments for the last two copies.
pub(crate) const END_BYTES: u64 = 1 << 20;

/// A share of a disk: the shard it belongs to, and of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareId {
    /// The shard, from 0.
    pub index: u32,
    /// Shares the disk is cut into, 1 to `SHARDS_MAX`.
    pub count: u32,
}

impl ShareId {
    /// That of the only shard.
    pub const WHOLE: Self = Self { index: 0, count: 1 };
}

/// Where the copies stand on a disk of `disk_bytes`.
#[must_use]
pub(crate) fn copy_offsets(disk_bytes: u64) -> [DiskOffset; COPIES] {
    [64 << 10, 1 << 20, disk_bytes - END_BYTES, disk_bytes - (64 << 10)].map(DiskOffset::new)
}

/// Whether bytes begin as a superblock does.
#[must_use]
pub(crate) fn is_superblock(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// The block, little-endian. What is reserved is zero; where it is not, a later release has written it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Superblock {
    magic: [u8; 8],
    /// BLAKE3 of everything behind the number of the copy, the first 16 bytes of it.
    checksum: [u8; 16],
    copy: U16,
    format: U16,
    /// Reserved: a version of the format that a reader of this one can read.
    minor: U16,
    superblock_bytes: U16,
    /// Counts the writes of the superblock.
    pub sequence: U64,
    /// Checksum of the one before.
    parent: [u8; 16],
    /// Identity of the log.
    pub cluster: [u8; 16],
    /// Identity of this leg.
    pub leg: [u8; 16],
    /// NGUID of the device, zero where it has none.
    pub nguid: [u8; 16],
    /// Reserved: what else identifies the device.
    device: [u8; 32],
    /// Logical block size.
    pub block_bytes: U32,
    /// Binary logarithm of the segment size.
    pub segment_log2: U32,
    /// Segments.
    pub segment_count: U64,
    area_block: U64,
    /// Random, never on the wire.
    pub salt: [u8; 16],
    /// Reserved: the membership of the legs that was seen last.
    view: U64,
    /// The highest epoch that was ever given out.
    pub last_epoch: U64,
    /// [`crate::ids::Durability`] at format.
    pub durability: U32,
    /// Bits of features that a reader need not know.
    compat: U32,
    incompat: U32,
    /// 1: stopped cleanly.
    pub clean: U32,
    /// Reserved: which key the log is encrypted with.
    key: [u8; 48],
    /// The shard whose share this is.
    shard: U32,
    /// Shards the disk is cut into shares for.
    shards: U32,
    /// Size of each share; they begin one behind the other at the start of the disk.
    share_bytes: U64,
    /// The place its last epoch begins in, and 1; 0 before there was one, and in a copy of a log.
    pub begun_place: U64,
    /// The segment its last epoch begins with.
    pub begun_seg_no: U64,
    /// The last batch that was known durable when this was written: at the last opening, or a clean stop.
    pub closed_end: U64,
    /// Of the last opening for writing; 0 before there was one.
    lineage: U64,
    /// Reserved: chain value that the log was opened with.
    opening_chain: U64,
    /// Reserved: the legs that the log is mirrored on.
    legs: [u8; LEGS_BYTES],
    reserved: [u8; RESERVED_BYTES],
}

/// Room for sixteen legs of 64 bytes.
const LEGS_BYTES: usize = 1024;

/// Bytes of the block that nothing is planned for.
const RESERVED_BYTES: usize = 2760;

const _: () = {
    assert!(size_of::<Superblock>() == BLOCK_BYTES);
    assert!(std::mem::offset_of!(Superblock, copy) == 24 && CHECKED_FROM == 26);
    assert!(std::mem::offset_of!(Superblock, block_bytes) == 136);
    assert!(std::mem::offset_of!(Superblock, shard) == 256);
    assert!(std::mem::offset_of!(Superblock, legs) == 312);
};

/// Where what the checksum covers begins: behind the number of the copy.
const CHECKED_FROM: usize = std::mem::offset_of!(Superblock, format);

/// What is said of a log when it is formatted.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Identity of the log.
    pub cluster: [u8; 16],
    /// Identity of this leg.
    pub leg: [u8; 16],
    /// Random.
    pub salt: [u8; 16],
    /// Of the device.
    pub nguid: [u8; 16],
}

impl Superblock {
    /// The first superblock of a new log, on a disk that is just as large as it needs.
    #[must_use]
    pub fn new(identity: &Identity, segment_log2: u32, segments: u64, durability: u8) -> Self {
        let block_bytes = u16::try_from(BLOCK_BYTES).expect("4096");
        let mut block = Self::new_zeroed();
        block.magic = MAGIC;
        block.format = FORMAT.into();
        block.superblock_bytes = block_bytes.into();
        block.sequence = 1.into();
        block.cluster = identity.cluster;
        block.leg = identity.leg;
        block.nguid = identity.nguid;
        block.salt = identity.salt;
        block.block_bytes = u32::from(block_bytes).into();
        block.segment_log2 = segment_log2.into();
        block.segment_count = segments.into();
        block.area_block = AREA_START.block().into();
        block.durability = u32::from(durability).into();
        block.clean = 1.into();
        let share_bytes = HEAD_BYTES + (segments << segment_log2) + END_BYTES;
        block.of_share(ShareId::WHOLE, share_bytes)
    }

    /// The same for a share of `share_bytes`.
    #[must_use]
    pub fn of_share(mut self, share: ShareId, share_bytes: u64) -> Self {
        (self.shard, self.shards) = (share.index.into(), share.count.into());
        self.share_bytes = share_bytes.into();
        self
    }

    /// Which share of its disk this log is on.
    #[must_use]
    pub fn share(&self) -> ShareId {
        ShareId { index: self.shard.get(), count: self.shards.get() }
    }

    /// Size of each share: [`SHARDS_MAX`] of them are still below 2^64.
    #[must_use]
    pub fn share_bytes(&self) -> u64 {
        self.share_bytes.get()
    }

    /// Segment size in bytes.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        1 << self.segment_log2.get()
    }

    /// The last batch that was known durable when this was written.
    #[must_use]
    pub fn closed_at(&self) -> BatchSeq {
        BatchSeq::new(self.closed_end.get())
    }

    /// The opening for writing that was last.
    #[must_use]
    pub fn lineage(&self) -> Lineage {
        Lineage(self.lineage.get())
    }

    /// The next opening has begun.
    pub fn begin(&mut self, epoch: u64, lineage: Lineage) {
        (self.last_epoch, self.lineage) = (epoch.into(), lineage.0.into());
        self.clean = 0.into();
    }

    fn checksum_now(&self) -> [u8; 16] {
        let hash = blake3::hash(&self.as_bytes()[CHECKED_FROM..]);
        hash.as_bytes()[..16].try_into().expect("16 of 32 bytes")
    }

    /// The successor of this superblock, to be changed and then written.
    #[must_use]
    pub fn next(&self) -> Self {
        let mut next = *self;
        next.parent = self.checksum_now();
        next.sequence = (self.sequence.get() + 1).into();
        next
    }

    /// That of a copy of this log on another disk, with as many segments as it has room for: the same log on
    /// another leg.
    #[must_use]
    pub fn copy_of(&self, leg: [u8; 16], disk: &DiskInfo, segments: u64) -> Self {
        let mut copy = self.next();
        (copy.leg, copy.nguid) = (leg, disk.identity);
        copy.segment_count = segments.into();
        // A place of the other disk; the number stays, so that none is given twice.
        copy.begun_place = 0.into();
        copy.durability = u32::from(disk.durability.code()).into();
        copy
    }

    /// Reads one copy.
    ///
    /// # Errors
    /// What the device said, or that the bytes are not that copy.
    pub fn check(bytes: &[u8], copy: usize) -> Result<Self, CopyDamage> {
        let block = Self::read_from_bytes(bytes).map_err(|_| CopyDamage::NotOurs)?;
        if block.magic != MAGIC {
            return Err(CopyDamage::NotOurs);
        }
        if block.checksum_now() != block.checksum {
            return Err(CopyDamage::Checksum);
        }
        if usize::from(block.copy.get()) != copy {
            return Err(CopyDamage::Copy);
        }
        let format = block.format.get();
        match format.cmp(&FORMAT) {
            Ordering::Less => return Err(CopyDamage::Earlier(format)),
            Ordering::Greater => return Err(CopyDamage::Later(format)),
            Ordering::Equal if block.says_more() => return Err(CopyDamage::Later(format)),
            Ordering::Equal => {}
        }
        if block.is_in_range() { Ok(block) } else { Err(CopyDamage::Checksum) }
    }

    /// Whether there is something in it that only a later release can have written.
    fn says_more(&self) -> bool {
        let reserved: [&[u8]; 7] = [
            self.minor.as_bytes(),
            &self.device,
            self.view.as_bytes(),
            &self.key,
            self.opening_chain.as_bytes(),
            &self.legs,
            &self.reserved,
        ];
        self.incompat.get() & !INCOMPAT_KNOWN != 0
            || reserved.iter().any(|bytes| bytes.iter().any(|&byte| byte != 0))
    }

    /// Whether every number can be: what is read from a disk may have been written by anybody.
    fn is_in_range(&self) -> bool {
        let ShareId { index, count } = self.share();
        let share_bytes = self.share_bytes.get();
        let sizes = usize::from(self.superblock_bytes.get()) == BLOCK_BYTES
            && self.block_bytes.get() as usize == BLOCK_BYTES
            && self.area_block.get() == AREA_START.block()
            && (SEGMENT_LOG2_MIN..=SEGMENT_LOG2_MAX).contains(&self.segment_log2.get());
        let shares = (1..=SHARDS_MAX).contains(&count)
            && index < count
            && share_bytes.is_multiple_of(BLOCK_BYTES as u64)
            && share_bytes.checked_mul(u64::from(SHARDS_MAX)).is_some();
        if !(sizes && shares && self.clean.get() <= 1) {
            return false;
        }
        let area = share_bytes.checked_sub(HEAD_BYTES + END_BYTES);
        area.is_some_and(|bytes| {
            let room = bytes >> self.segment_log2.get();
            (SEGMENTS_MIN..=room).contains(&self.segment_count.get())
        })
    }

    /// Writes all copies: the first alone, then the others, so that no crash leaves fewer than two
    /// equal ones.
    ///
    /// # Errors
    /// The first that failed: a device that has failed one write is not trusted with the next.
    pub fn write(&self, disk: &mut dyn Disk) -> Result<(), DiskFault> {
        for (copy, disk_offset) in copy_offsets(disk.info().bytes).into_iter().enumerate() {
            let mut block = *self;
            block.checksum = self.checksum_now();
            block.copy = u16::try_from(copy).expect("4 copies").into();
            disk.memory_mut().bytes_mut(0..BLOCK_BYTES).copy_from_slice(block.as_bytes());
            let operation = Operation::Write;
            let io = Io { operation, tag: 0, disk_offset, memory_offset: 0, bytes: BLOCK_BYTES };
            run(disk, io)?;
        }
        Ok(())
    }
}

/// What is wrong with one copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, displaydoc::Display, thiserror::Error)]
pub enum CopyDamage {
    /// not a superblock of Buslane
    NotOurs,
    /// damaged
    Checksum,
    /// a copy that belongs elsewhere on the disk
    Copy,
    /// written by an earlier release of Buslane (format {0}); use that release
    Earlier(u16),
    /// written by a later release of Buslane (format {0}); use that release
    Later(u16),
    /// cannot be read: {0}
    Read(DiskFault),
}

/// Reads one copy.
pub(super) fn read_copy(
    disk: &mut dyn Disk,
    copy: usize,
    disk_offset: DiskOffset,
) -> Result<Superblock, CopyDamage> {
    let operation = Operation::Read;
    let io = Io { operation, tag: 0, disk_offset, memory_offset: 0, bytes: BLOCK_BYTES };
    run(disk, io).map_err(CopyDamage::Read)?;
    Superblock::check(disk.memory().bytes(0..BLOCK_BYTES), copy)
}

/// Reads all copies, each by itself.
#[allow(clippy::large_stack_arrays, reason = "four blocks, at start and in tools only")]
pub(crate) fn read_copies(disk: &mut dyn Disk) -> [Result<Superblock, CopyDamage>; COPIES] {
    let offsets = copy_offsets(disk.info().bytes);
    std::array::from_fn(|copy| read_copy(disk, copy, offsets[copy]))
}

/// The format that copies are in which are of another release; `needed` of them have to say so.
#[must_use]
pub(crate) fn other_release(
    copies: &[Result<Superblock, CopyDamage>],
    needed: usize,
) -> Option<u16> {
    let format = |copy: &Result<Superblock, CopyDamage>| match copy {
        Err(CopyDamage::Earlier(format) | CopyDamage::Later(format)) => Some(*format),
        Ok(_)
        | Err(
            CopyDamage::NotOurs | CopyDamage::Checksum | CopyDamage::Copy | CopyDamage::Read(_),
        ) => None,
    };
    copies.iter().filter_map(format).nth(needed - 1)
}

/// What a log is, as its superblock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identities {
    /// This copy of the log.
    pub leg: [u8; 16],
    /// It was stopped in order.
    pub clean: bool,
}

impl Identities {
    /// Reads them; `None` where there is no log, or none that can be told.
    pub(crate) fn read(disk: &mut dyn Disk) -> Option<Self> {
        let superblock = quorum(&read_copies(disk))?;
        Some(Self { leg: superblock.leg, clean: superblock.clean.get() == 1 })
    }
}

/// The superblock that counts: of those with at least two equal copies the newest. `None` when no two
/// agree.
#[must_use]
pub(crate) fn quorum(copies: &[Result<Superblock, CopyDamage>; COPIES]) -> Option<Superblock> {
    let valid = || copies.iter().flatten();
    let agreeing =
        |block: &&Superblock| valid().filter(|other| other.checksum == block.checksum).count() >= 2;
    valid().filter(agreeing).max_by_key(|block| block.sequence.get()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(sequence: u64, copy: u16) -> Superblock {
        let identity = Identity { cluster: [1; 16], leg: [2; 16], salt: [3; 16], nguid: [0; 16] };
        let mut block = Superblock::new(&identity, 24, 9, 5);
        block.sequence = sequence.into();
        block.checksum = block.checksum_now();
        block.copy = copy.into();
        block
    }

    /// All states a crash, a torn write or damage can leave four copies in.
    #[test]
    #[allow(clippy::large_stack_arrays, reason = "four blocks")]
    fn the_newest_with_two_equal_copies_counts_in_every_state() {
        for state in 0..3u32.pow(4) {
            let mut copies = [Err(CopyDamage::Checksum); COPIES];
            let mut count = [0; 3];
            for (copy, place) in copies.iter_mut().enumerate() {
                let what = state / 3u32.pow(u32::try_from(copy).unwrap()) % 3;
                count[what as usize] += 1;
                if what > 0 {
                    *place = Ok(sealed(u64::from(what), u16::try_from(copy).unwrap()));
                }
            }
            let expected = if count[2] >= 2 { Some(2) } else { (count[1] >= 2).then_some(1) };
            assert_eq!(quorum(&copies).map(|block| block.sequence.get()), expected, "{count:?}");
        }
    }

    #[test]
    fn a_share_says_which_it_is() {
        let share = ShareId { index: 1, count: 3 };
        let read = checked(sealed(1, 0).of_share(share, 4096 * 100_000)).unwrap();
        assert_eq!((read.share(), read.share_bytes()), (share, 409_600_000));
        let whole = checked(sealed(1, 0)).unwrap();
        assert_eq!((whole.share(), whole.share_bytes()), (ShareId::WHOLE, (9 << 24) + (3 << 20)));
    }

    /// Reads it again with the checksum that belongs to it.
    fn checked(mut block: Superblock) -> Result<Superblock, CopyDamage> {
        block.checksum = block.checksum_now();
        Superblock::check(block.as_bytes(), 0)
    }

    #[test]
    fn a_number_that_cannot_be_is_damage_and_the_edge_of_what_can_be_is_none() {
        let changed = |change: fn(&mut Superblock)| {
            let mut block = sealed(1, 0);
            change(&mut block);
            checked(block).map(|_| ())
        };
        let possible: [fn(&mut Superblock); 8] = [
            |block| block.segment_count = SEGMENTS_MIN.into(),
            |block| (block.segment_log2, block.segment_count) = (24.into(), 9.into()),
            |block| (block.segment_log2, block.segment_count) = (20.into(), 144.into()),
            |block| (block.shard, block.shards) = (63.into(), 64.into()),
            |block| block.share_bytes = (block.share_bytes.get() + 4096).into(),
            |block| block.share_bytes = (u64::MAX / 64 / 4096 * 4096).into(),
            |block| block.sequence = u64::MAX.into(),
            |block| block.compat = u32::MAX.into(),
        ];
        for (index, change) in possible.into_iter().enumerate() {
            assert_eq!(changed(change), Ok(()), "{index}");
        }
        let impossible: [fn(&mut Superblock); 19] = [
            |block| block.segment_count = 0.into(),
            |block| block.segment_count = (SEGMENTS_MIN - 1).into(),
            |block| (block.segment_log2, block.segment_count) = (20.into(), 145.into()),
            |block| block.segment_log2 = 19.into(),
            |block| block.segment_log2 = 31.into(),
            |block| block.segment_log2 = u32::MAX.into(),
            |block| block.segment_count = 10.into(),
            |block| block.segment_count = u64::MAX.into(),
            |block| block.shards = 0.into(),
            |block| block.shards = 65.into(),
            |block| (block.shard, block.shards) = (3.into(), 3.into()),
            |block| block.share_bytes = 0.into(),
            |block| block.share_bytes = (block.share_bytes.get() - 4096).into(),
            |block| block.share_bytes = (block.share_bytes.get() + 1).into(),
            |block| block.share_bytes = (u64::MAX / 4096 * 4096).into(),
            |block| block.block_bytes = 512.into(),
            |block| block.superblock_bytes = 512.into(),
            |block| block.area_block = 0.into(),
            |block| block.clean = 2.into(),
        ];
        for (index, change) in impossible.into_iter().enumerate() {
            assert_eq!(changed(change), Err(CopyDamage::Checksum), "{index}");
        }
    }

    #[test]
    fn whatever_is_reserved_is_of_a_later_release_where_it_is_not_zero() {
        let later: [fn(&mut Superblock); 11] = [
            |block| block.minor = 1.into(),
            |block| block.device[0] = 1,
            |block| block.device[31] = 1,
            |block| block.view = 1.into(),
            |block| block.key[47] = 1,
            |block| block.opening_chain = 1.into(),
            |block| block.legs[LEGS_BYTES - 1] = 1,
            |block| block.reserved[0] = 1,
            |block| block.reserved[RESERVED_BYTES - 1] = 1,
            |block| block.incompat = 1.into(),
            |block| block.incompat = (1 << 31).into(),
        ];
        for (index, change) in later.into_iter().enumerate() {
            let mut block = sealed(1, 0);
            change(&mut block);
            assert_eq!(checked(block).unwrap_err(), CopyDamage::Later(FORMAT), "{index}");
        }
        // The number has two bytes, and both count.
        for (format, said) in [
            (0, CopyDamage::Earlier(0)),
            (3, CopyDamage::Earlier(3)),
            (5, CopyDamage::Later(5)),
            (0x0104, CopyDamage::Later(0x0104)),
            (u16::MAX, CopyDamage::Later(u16::MAX)),
        ] {
            let mut block = sealed(1, 0);
            // Nothing else need be as it is here.
            (block.format, block.shards, block.reserved[7]) = (format.into(), 0.into(), 7);
            assert_eq!(checked(block).unwrap_err(), said);
        }
    }

    /// Offset, size and name of each field in a table of docs/log-format.md.
    #[test]
    fn the_fields_are_where_the_documentation_says() {
        macro_rules! fields {
            ($($name:ident)*) => {
                [$((stringify!($name), std::mem::offset_of!(Superblock, $name))),*]
            };
        }
        let fields = fields!(
            magic checksum copy format minor superblock_bytes sequence parent cluster leg nguid
            device block_bytes segment_log2 segment_count area_block salt view last_epoch
            durability compat incompat clean key shard shards share_bytes begun_place begun_seg_no
            closed_end lineage opening_chain legs reserved
        );
        let ends = fields.iter().skip(1).map(|(_, offset)| *offset).chain([BLOCK_BYTES]);
        let rows = fields.iter().zip(ends);
        let rows = rows.map(|((name, at), end)| format!("| {at} | {} | `{name}` |", end - at));
        let page = include_str!("../../docs/log-format.md");
        let said = page.lines().filter(|line| line.starts_with("| ") && line.contains("| `"));
        let said = said.map(|line| line.split_inclusive('|').take(4).collect::<String>());
        assert_eq!(said.collect::<Vec<_>>(), rows.collect::<Vec<_>>());
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let block = sealed(1, 2);
        assert!(Superblock::check(block.as_bytes(), 2).is_ok());
        for bit in 0..BLOCK_BYTES * 8 {
            let mut bytes = block.as_bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Superblock::check(&bytes, 2).is_err(), "bit {bit}");
        }
    }
}
