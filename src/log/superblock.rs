//! The superblock: four copies that identify the disk and hint at the log's state. Written at format,
//! at each opening for writing and at a clean stop; never on the path.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::disk::{Disk, DiskFault, DiskInfo, Io, Operation, run};
use crate::limits::{BLOCK_BYTES, SHARDS_MAX};

/// First bytes of a superblock.
const MAGIC: [u8; 8] = *b"BUSLANE\x01";

/// Copies on a disk.
pub const COPIES: usize = 4;

/// Where the segments begin.
pub const AREA_OFFSET: u64 = 2 << 20;

/// What is kept free behind the segments for the last two copies.
pub const END_BYTES: u64 = 1 << 20;

/// The disk is cut into shares: a release that does not know of them would take the first for the whole.
const INCOMPAT_SHARES: u32 = 1;

/// Features a reader must know to read the log.
const INCOMPAT_KNOWN: u32 = INCOMPAT_SHARES;

/// The newest format. From 2 on there may be records that forget a producer, and segments that were given back in the
/// middle of the log: a release that knows 1 only takes both for damage. Opening a log for writing makes it the newest.
const FORMAT: u8 = 2;

/// Bytes of the block that nothing uses yet.
const RESERVED_BYTES: usize = 752;

/// A share of a disk: the shard it belongs to, and of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareId {
    /// The shard, from 0.
    pub index: u32,
    /// Shares the disk is cut into, 1 to `SHARDS_MAX`.
    pub count: u32,
}

impl ShareId {
    /// All of a disk, for the only shard.
    pub const WHOLE: Self = Self { index: 0, count: 1 };
}

/// Where the copies stand on a disk of `disk_bytes`.
#[must_use]
pub fn copy_offsets(disk_bytes: u64) -> [u64; COPIES] {
    [64 << 10, 1 << 20, disk_bytes - END_BYTES, disk_bytes - (64 << 10)]
}

/// Whether bytes begin as a superblock does.
#[must_use]
pub fn is_superblock(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// What is remembered of one shard.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct ShardHint {
    /// Shard number.
    pub shard: U32,
    /// 1: stopped cleanly, `closed_end` holds.
    pub state: U32,
    /// The place its last epoch begins in, and 1; 0 where an older release did not say.
    pub begun_place: U64,
    /// The segment its last epoch begins with.
    pub begun_seg_no: U64,
    /// Log offset of the end at a clean stop.
    pub end_off: U64,
    /// Chain value at the end.
    pub end_chain: U64,
    /// The last batch at a clean stop.
    pub closed_end: U64,
}

/// The block, little-endian.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Superblock {
    magic: [u8; 8],
    checksum: [u8; 16],
    copy: [u8; 2],
    format: [u8; 6],
    /// Counts the writes of the superblock.
    pub sequence: U64,
    parent: [u8; 16],
    /// Identity of the log.
    pub cluster: [u8; 16],
    /// Identity of this leg.
    pub leg: [u8; 16],
    /// NGUID of the device, zero where it has none.
    pub nguid: [u8; 16],
    eui64: [u8; 8],
    serial: [u8; 20],
    nsid: U32,
    /// Logical block size.
    pub block_bytes: U32,
    /// Binary logarithm of the segment size.
    pub segment_log2: U32,
    /// Segments.
    pub segment_count: U64,
    area_block: U64,
    /// Random, never on the wire.
    pub salt: [u8; 16],
    view: U64,
    /// The highest epoch that was ever given out.
    pub last_epoch: U64,
    /// [`crate::ids::Durability`] at format.
    pub durability: U32,
    compat: U32,
    incompat: U32,
    /// 1: stopped cleanly.
    pub clean: U32,
    key: [u8; 48],
    /// Per shard.
    pub hints: [ShardHint; SHARDS_MAX as usize],
    /// Shards the disk is cut into shares for; 0 means 1.
    shards: U32,
    /// The shard whose share this is.
    shard: U32,
    /// Size of each share, which begin one behind the other at the start of the disk; 0 where one log has all of it.
    share_bytes: U64,
    reserved: [u8; RESERVED_BYTES],
}

const _: () = assert!(size_of::<ShardHint>() == 48 && size_of::<Superblock>() == BLOCK_BYTES);

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
    /// The first superblock of a new log.
    #[must_use]
    pub fn new(identity: &Identity, segment_log2: u32, segments: u64, durability: u8) -> Self {
        let mut hints = [ShardHint::default(); SHARDS_MAX as usize];
        for (shard, hint) in (0u32..).zip(&mut hints) {
            hint.shard = shard.into();
        }
        Self {
            magic: MAGIC,
            checksum: [0; 16],
            copy: [0; 2],
            format: [FORMAT, 0, 0, 0, 0, 16],
            sequence: 1.into(),
            parent: [0; 16],
            cluster: identity.cluster,
            leg: identity.leg,
            nguid: identity.nguid,
            eui64: [0; 8],
            serial: [0; 20],
            nsid: 0.into(),
            block_bytes: u32::try_from(BLOCK_BYTES).expect("4096").into(),
            segment_log2: segment_log2.into(),
            segment_count: segments.into(),
            area_block: (AREA_OFFSET / BLOCK_BYTES as u64).into(),
            salt: identity.salt,
            view: 0.into(),
            last_epoch: 0.into(),
            durability: u32::from(durability).into(),
            compat: 0.into(),
            incompat: 0.into(),
            clean: 1.into(),
            key: [0; 48],
            hints,
            shards: 1.into(),
            shard: 0.into(),
            share_bytes: 0.into(),
            reserved: [0; RESERVED_BYTES],
        }
    }

    /// The same for a share of `share_bytes` of a disk.
    #[must_use]
    pub fn of_share(mut self, share: ShareId, share_bytes: u64) -> Self {
        if share != ShareId::WHOLE {
            self.incompat = INCOMPAT_SHARES.into();
            (self.shard, self.shards) = (share.index.into(), share.count.into());
            self.share_bytes = share_bytes.into();
        }
        self
    }

    /// Which share of its disk this log is on.
    #[must_use]
    pub fn share(&self) -> ShareId {
        ShareId { index: self.shard.get(), count: self.shards.get().max(1) }
    }

    /// Size of each share; `None` where one log has the whole disk.
    #[must_use]
    pub fn share_bytes(&self) -> Option<u64> {
        (self.share().count > 1).then_some(self.share_bytes.get())
    }

    /// Segment size in bytes.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        1 << self.segment_log2.get()
    }

    fn checksum_now(&self) -> [u8; 16] {
        let hash = blake3::hash(&self.as_bytes()[26..]);
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

    /// The same in the newest format: to be written on all copies before anything that only this format has.
    #[must_use]
    pub fn upgraded(mut self) -> Self {
        self.format[0] = FORMAT;
        self
    }

    /// Which format the log is in.
    #[must_use]
    pub fn format(&self) -> u8 {
        self.format[0]
    }

    /// That of a copy of this log on another disk, with as many segments as it has room for: the same log on
    /// another leg.
    #[must_use]
    pub fn copy_of(&self, leg: [u8; 16], disk: &DiskInfo, segments: u64) -> Self {
        let mut copy = self.next();
        (copy.leg, copy.nguid) = (leg, disk.identity);
        copy.segment_count = segments.into();
        // A place of the other disk; the number stays, so that none is given twice.
        copy.hints[0].begun_place = 0.into();
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
        if block.copy != [u8::try_from(copy).expect("4 copies"), 0] {
            return Err(CopyDamage::Copy);
        }
        let is_known = (1..=FORMAT).contains(&block.format[0]);
        if !is_known || block.incompat.get() & !INCOMPAT_KNOWN != 0 {
            return Err(CopyDamage::Release(block.format[0]));
        }
        let share = block.share();
        if block.reserved != [0; RESERVED_BYTES]
            || share.index >= share.count
            || share.count > SHARDS_MAX
            || !block.share_bytes.get().is_multiple_of(BLOCK_BYTES as u64)
            || !(20..=30).contains(&block.segment_log2.get())
            || block.block_bytes.get() as usize != BLOCK_BYTES
        {
            return Err(CopyDamage::Checksum);
        }
        Ok(block)
    }

    /// Writes all copies: the first alone, then the others, so that no crash leaves fewer than two
    /// equal ones.
    ///
    /// # Errors
    /// The first that failed: a device that has failed one write is not trusted with the next.
    pub fn write<D: Disk>(&self, disk: &mut D) -> Result<(), DiskFault> {
        for (copy, disk_offset) in copy_offsets(disk.info().bytes).into_iter().enumerate() {
            let mut block = *self;
            block.checksum = self.checksum_now();
            block.copy = [u8::try_from(copy).expect("4 copies"), 0];
            disk.memory_mut().bytes_mut(0..BLOCK_BYTES).copy_from_slice(block.as_bytes());
            let operation = Operation::Write;
            let io = Io { operation, tag: 0, disk_offset, memory_offset: 0, bytes: BLOCK_BYTES };
            run(disk, io)?;
        }
        Ok(())
    }
}

/// What is wrong with one copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyDamage {
    /// not a superblock
    #[error("not a superblock of Buslane")]
    NotOurs,
    /// damaged
    #[error("damaged")]
    Checksum,
    /// a copy that belongs elsewhere
    #[error("a copy that belongs elsewhere on the disk")]
    Copy,
    /// written by a later release, format {0}
    #[error("written by a later release of Buslane (format {0}); use that release")]
    Release(u8),
    /// cannot be read
    #[error("cannot be read: {0}")]
    Read(DiskFault),
}

/// Reads all copies, each by itself.
#[allow(clippy::large_stack_arrays, reason = "four blocks, at start and in tools only")]
pub fn read_copies<D: Disk>(disk: &mut D) -> [Result<Superblock, CopyDamage>; COPIES] {
    let offsets = copy_offsets(disk.info().bytes);
    let mut copies = [Err(CopyDamage::NotOurs); COPIES];
    for (copy, disk_offset) in offsets.into_iter().enumerate() {
        let operation = Operation::Read;
        let io = Io { operation, tag: 0, disk_offset, memory_offset: 0, bytes: BLOCK_BYTES };
        copies[copy] = match run(disk, io) {
            Ok(()) => Superblock::check(disk.memory().bytes(0..BLOCK_BYTES), copy),
            Err(fault) => Err(CopyDamage::Read(fault)),
        };
    }
    copies
}

/// What a log is, as its superblock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identities {
    /// This copy of the log.
    pub leg: [u8; 16],
    /// It was stopped in order.
    pub clean: bool,
}

impl Identities {
    /// Reads them; `None` where there is no log, or none that can be told.
    pub fn read<D: Disk>(disk: &mut D) -> Option<Self> {
        let superblock = quorum(&read_copies(disk))?;
        Some(Self { leg: superblock.leg, clean: superblock.clean.get() == 1 })
    }
}

/// The superblock that counts: of those with at least two equal copies the newest. `None` when no two
/// agree.
#[must_use]
pub fn quorum(copies: &[Result<Superblock, CopyDamage>; COPIES]) -> Option<Superblock> {
    let valid = || copies.iter().flatten();
    let agreeing =
        |block: &&Superblock| valid().filter(|other| other.checksum == block.checksum).count() >= 2;
    valid().filter(agreeing).max_by_key(|block| block.sequence.get()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(sequence: u64, copy: u8) -> Superblock {
        let identity = Identity { cluster: [1; 16], leg: [2; 16], salt: [3; 16], nguid: [0; 16] };
        let mut block = Superblock::new(&identity, 24, 9, 5);
        block.sequence = sequence.into();
        block.checksum = block.checksum_now();
        block.copy = [copy, 0];
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
                    *place = Ok(sealed(u64::from(what), u8::try_from(copy).unwrap()));
                }
            }
            let expected = if count[2] >= 2 { Some(2) } else { (count[1] >= 2).then_some(1) };
            assert_eq!(quorum(&copies).map(|block| block.sequence.get()), expected, "{count:?}");
        }
    }

    /// What today's releases have written, and read.
    #[test]
    fn the_superblock_of_a_whole_disk_has_nothing_of_shares_in_it() {
        let block = sealed(1, 0);
        let bytes = block.as_bytes();
        assert_eq!(bytes[bytes.len() - 768..bytes.len() - 764], [1, 0, 0, 0], "one shard");
        assert!(bytes[bytes.len() - 764..].iter().all(|&byte| byte == 0));
        assert_eq!(
            (block.incompat.get(), block.share(), block.share_bytes()),
            (0, ShareId::WHOLE, None)
        );
        let unsaid = Superblock { shards: 0.into(), ..block };
        assert_eq!(unsaid.share(), ShareId::WHOLE, "0 shards are one");
    }

    #[test]
    fn a_share_says_which_it_is() {
        let share = ShareId { index: 1, count: 3 };
        let mut block = sealed(1, 0).of_share(share, 4096 * 100);
        block.checksum = block.checksum_now();
        let read = Superblock::check(block.as_bytes(), 0).unwrap();
        assert_eq!(
            (read.share(), read.share_bytes(), read.incompat.get()),
            (share, Some(409_600), 1)
        );
        for (index, count) in [(3, 3), (0, SHARDS_MAX + 1)] {
            let mut bad = sealed(1, 0).of_share(ShareId { index, count }, 4096);
            bad.checksum = bad.checksum_now();
            assert_eq!(Superblock::check(bad.as_bytes(), 0).unwrap_err(), CopyDamage::Checksum);
        }
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
