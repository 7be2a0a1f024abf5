//! Segments: fixed-size runs of blocks, each granted to one epoch.
//!
//! ```text
//! block 0        header
//! block 1 ..     batches
//! last 9 blocks  8 blocks of index, written when the segment is closed, and the header's copy
//! ```

use xxhash_rust::xxh3::xxh3_64_with_seed;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::batch::SegmentKey;
use super::superblock::{AREA_START, Superblock};
use crate::ids::Lineage;
use crate::limits::{BLOCK_BYTES, STREAMS_MAX};
use crate::position::{BatchSeq, DiskOffset, LogOffset, SegmentNo};

const MAGIC: [u8; 8] = *b"BLSEGMT\x01";
const CLOSING_MAGIC: [u8; 8] = *b"BLCLOSE\x01";

/// Blocks of the closing index.
pub(crate) const INDEX_BLOCKS: usize = 8;
/// Bytes of the closing index.
pub(crate) const INDEX_BYTES: usize = INDEX_BLOCKS * BLOCK_BYTES;

/// The header, one block, little-endian.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub(crate) struct SegmentHeader {
    magic: [u8; 8],
    checksum: [u8; 16],
    /// Identity of the log.
    pub cluster: [u8; 16],
    /// Shard.
    pub shard: U32,
    version: U32,
    /// Counts the shard's segments, never reused.
    seg_no: U64,
    /// The epoch it was granted to.
    pub epoch: U64,
    /// Log offset of its first byte.
    base_log_off: U64,
    /// The last batch before it.
    base_batch_seq: U64,
    /// Messages of the shard before it.
    pub base_message: U64,
    /// Chain value before its first batch.
    pub base_chain: U64,
    /// Random.
    pub salt: U64,
    salt_high: U64,
    /// Which place of the disk it is in.
    phys_index: U64,
    /// Unix time.
    pub created_ns: U64,
    /// The segment before it in the log; 0 where there is none.
    prev_seg_no: U64,
    /// The place its epoch takes next, and 1; 0 where none is free, and in a copy of a log.
    next_place: U64,
    /// The last batch of the newest segment before it that holds messages. What is between that and `base_batch_seq`
    /// is told by the checkpoint that opens this one and may be gone. 0: not said, or there is none.
    joins: U64,
    /// The opening that wrote it.
    lineage: U64,
    zero: [u8; 3936],
}

const _: () = assert!(size_of::<SegmentHeader>() == BLOCK_BYTES);

/// Where a segment goes on from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Base {
    /// The last batch before it.
    pub batch_seq: BatchSeq,
    /// Messages before it.
    pub message: u64,
    /// Chain value.
    pub chain: u64,
}

/// Which part of the disk, as large as a segment, from 0 on: where a segment stands. Unlike its number, it is used again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(u64);

impl Place {
    /// The part of this number.
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }

    /// The same as an index of what is kept by place.
    #[must_use]
    #[inline]
    pub fn index(self) -> usize {
        usize::try_from(self.0).expect("a disk's segments")
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What a segment is when it begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grant {
    /// Its number.
    pub seg_no: SegmentNo,
    /// Where on the disk.
    pub place: Place,
    /// The epoch it is granted to.
    pub epoch: u64,
    /// What it goes on from.
    pub base: Base,
    /// The last batch of the newest segment before it that holds messages; none where there is none.
    pub joins: BatchSeq,
    /// Its salt.
    pub salt: u64,
    /// The opening it belongs to.
    pub lineage: Lineage,
}

impl SegmentHeader {
    /// The header of a new segment.
    #[must_use]
    pub(crate) fn new(superblock: &Superblock, grant: &Grant, created_ns: u64) -> Self {
        let Grant { seg_no, place, epoch, base, joins, salt, lineage } = *grant;
        let mut header = Self {
            magic: MAGIC,
            checksum: [0; 16],
            cluster: superblock.cluster,
            shard: superblock.share().index.into(),
            version: 1.into(),
            seg_no: seg_no.into(),
            epoch: epoch.into(),
            base_log_off: Geometry::of(superblock).log_off(seg_no, 0).into(),
            base_batch_seq: base.batch_seq.into(),
            base_message: base.message.into(),
            base_chain: base.chain.into(),
            salt: salt.into(),
            salt_high: 0.into(),
            phys_index: place.0.into(),
            created_ns: created_ns.into(),
            prev_seg_no: 0.into(),
            next_place: 0.into(),
            joins: joins.into(),
            lineage: lineage.0.into(),
            zero: [0; 3936],
        };
        header.checksum = header.checksum_now();
        header
    }

    /// The same with the segment before it, and the place that its epoch takes next.
    #[must_use]
    pub(crate) fn linked(mut self, prev_seg_no: SegmentNo, next: Option<Place>) -> Self {
        self.prev_seg_no = prev_seg_no.into();
        self.next_place = next.map_or(0, |place| place.0 + 1).into();
        self.checksum = self.checksum_now();
        self
    }

    /// The same segment in a place of another disk, where nothing is known of the next one.
    #[must_use]
    pub(crate) fn at_place(mut self, place: Place) -> Self {
        self.phys_index = place.0.into();
        self.next_place = 0.into();
        self.checksum = self.checksum_now();
        self
    }

    /// Its number.
    #[must_use]
    #[inline]
    pub(crate) fn seg_no(&self) -> SegmentNo {
        SegmentNo::new(self.seg_no.get())
    }

    /// Log offset of its first byte.
    #[must_use]
    #[inline]
    pub(crate) fn begin(&self) -> LogOffset {
        LogOffset::new(self.base_log_off.get())
    }

    /// The segment before it in the log, where it says.
    #[must_use]
    pub(crate) fn prev_seg_no(&self) -> Option<SegmentNo> {
        let seg_no = SegmentNo::new(self.prev_seg_no.get());
        (seg_no != SegmentNo::NONE).then_some(seg_no)
    }

    /// The place that its epoch takes next, where it says.
    #[must_use]
    pub(crate) fn next_place(&self) -> Option<Place> {
        self.next_place.get().checked_sub(1).map(Place)
    }

    /// The opening that wrote it.
    #[must_use]
    pub(crate) fn lineage(&self) -> Lineage {
        Lineage(self.lineage.get())
    }

    /// Where on the disk it is.
    #[must_use]
    pub(crate) fn place(&self) -> Place {
        Place(self.phys_index.get())
    }

    fn checksum_now(&self) -> [u8; 16] {
        let hash = blake3::hash(&self.as_bytes()[24..]);
        hash.as_bytes()[..16].try_into().expect("16 of 32 bytes")
    }

    /// The header in `bytes`, when it is one of this log for this place.
    #[must_use]
    pub(crate) fn check(bytes: &[u8], superblock: &Superblock, place: Place) -> Option<Self> {
        let header = Self::read_from_bytes(bytes).ok()?;
        let ours = header.magic == MAGIC
            && header.checksum == header.checksum_now()
            && header.cluster == superblock.cluster
            && header.shard.get() == superblock.share().index
            && header.place() == place
            && header.seg_no.get() > 0
            && header.lineage.get() > 0
            && header.seg_no.get().checked_mul(superblock.segment_bytes())
                == Some(header.base_log_off.get());
        ours.then_some(header)
    }

    /// The last batch of the newest segment before it that holds messages, where it says.
    #[must_use]
    pub(crate) fn joined(&self) -> BatchSeq {
        BatchSeq::new(self.joins.get())
    }

    /// Whether it may follow a segment with messages that ends here though others were between them: these held
    /// none, and were given back.
    #[must_use]
    pub(crate) fn joins(&self, end: &Base) -> bool {
        self.joined() != BatchSeq::NONE
            && self.joined() == end.batch_seq
            && self.base_message.get() == end.message
    }

    /// Whether the checkpoint that opens it tells all that an earlier segment, without messages, does.
    #[must_use]
    pub(crate) fn supersedes(&self, earlier: &Self) -> bool {
        self.joined() != BatchSeq::NONE
            && self.joined() <= earlier.base().batch_seq
            && self.base_message == earlier.base_message
    }

    /// The last batch that has to be whole for this segment to count.
    #[must_use]
    pub(crate) fn needs(&self) -> BatchSeq {
        let base = self.base().batch_seq;
        if self.joined() == BatchSeq::NONE { base } else { base.min(self.joined()) }
    }

    /// What its batches are checked with.
    #[must_use]
    pub(crate) fn key(&self, superblock: &Superblock) -> SegmentKey {
        let shard = u64::from(self.shard.get());
        let chain_salt = &superblock.salt[..8];
        SegmentKey {
            log_tag: xxh3_64_with_seed(&superblock.cluster, shard),
            epoch: self.epoch.get(),
            seg_no: self.seg_no(),
            salt: self.salt.get(),
            chain_salt: u64::from_le_bytes(chain_salt.try_into().expect("8 bytes")),
        }
    }

    /// Where it goes on from.
    #[must_use]
    pub(crate) fn base(&self) -> Base {
        Base {
            batch_seq: BatchSeq::new(self.base_batch_seq.get()),
            message: self.base_message.get(),
            chain: self.base_chain.get(),
        }
    }
}

/// Granules a segment's index distinguishes.
const GRANULES: u64 = 128;

/// Where in the log a batch stands, as an index tells places apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    /// The granule of the log.
    pub granule: u64,
    /// The first granule of its segment.
    pub segment_granule: u64,
    /// The block of its segment.
    pub block: u64,
}

/// Where things are on the disk.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// Segment size.
    pub segment_bytes: u64,
    /// Segments.
    pub segments: u64,
}

impl Geometry {
    /// Of a formatted disk.
    #[must_use]
    pub fn of(superblock: &Superblock) -> Self {
        Self { segment_bytes: superblock.segment_bytes(), segments: superblock.segment_count.get() }
    }

    /// The segment a log offset is in.
    #[must_use]
    #[inline]
    pub fn seg_no(&self, log_off: LogOffset) -> SegmentNo {
        SegmentNo::new(log_off.get() / self.segment_bytes)
    }

    /// A log offset's offset in its segment.
    #[must_use]
    #[inline]
    pub fn within(&self, log_off: LogOffset) -> u64 {
        log_off.get() % self.segment_bytes
    }

    /// The log offset of an offset in a segment.
    #[must_use]
    #[inline]
    pub fn log_off(&self, seg_no: SegmentNo, off: u64) -> LogOffset {
        LogOffset::new(seg_no.get() * self.segment_bytes) + off
    }

    /// Where a log offset is, as an index tells places apart.
    #[must_use]
    pub fn spot(&self, log_off: LogOffset) -> Spot {
        Spot {
            granule: log_off.get() / (self.segment_bytes / GRANULES),
            segment_granule: self.seg_no(log_off).get() * GRANULES,
            block: self.within(log_off) / BLOCK_BYTES as u64,
        }
    }

    /// All places of the disk.
    pub fn places(&self) -> impl DoubleEndedIterator<Item = Place> + use<> {
        (0..self.segments).map(Place)
    }

    /// Disk offset of a segment.
    #[must_use]
    pub fn segment(&self, place: Place) -> DiskOffset {
        assert!(place.0 < self.segments, "place {place} of {}", self.segments);
        AREA_START + place.0 * self.segment_bytes
    }

    /// Offset in a segment where batches end at the latest.
    #[must_use]
    pub fn data_end(&self) -> u64 {
        self.index_offset()
    }

    /// Offset in a segment of the closing index.
    #[must_use]
    pub fn index_offset(&self) -> u64 {
        self.segment_bytes - (INDEX_BYTES + BLOCK_BYTES) as u64
    }

    /// Offset in a segment of the header's copy.
    #[must_use]
    pub fn copy_offset(&self) -> u64 {
        self.segment_bytes - BLOCK_BYTES as u64
    }
}

/// One entry of the sparse index: from this block on, look for the stream's messages from this sequence.
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
pub(crate) struct IndexEntry {
    /// Stream.
    pub stream: U32,
    /// Block of the segment where the batch stands.
    pub block: U32,
    /// The stream's first sequence in that batch.
    pub first_sequence: U64,
    /// The newest Unix time at which that message, or one of the stream before it, was received.
    pub time_ns: U64,
}

/// Before the entries of a closing index.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct ClosingHead {
    magic: [u8; 8],
    /// XXH3-64 of all that follows up to the end of the index blocks, seeded with the segment's salt.
    hash: U64,
    seg_no: U64,
    /// Offset in the segment behind the last batch.
    pub end_off: U64,
    /// The last batch.
    pub end_batch_seq: U64,
    /// Chain value after it.
    pub end_chain: U64,
    /// Messages of the shard up to here.
    pub end_message: U64,
    entries: U32,
    reserved: U32,
}

const CLOSING_HEAD_BYTES: usize = size_of::<ClosingHead>();
const _: () = assert!(CLOSING_HEAD_BYTES == 64 && size_of::<IndexEntry>() == 24);

/// Entries of one segment, at most.
pub(crate) const INDEX_ENTRIES: usize =
    (INDEX_BYTES - CLOSING_HEAD_BYTES) / size_of::<IndexEntry>();
const _: () = assert!(INDEX_ENTRIES > STREAMS_MAX + 128, "every stream and some granules");

/// Where a closed segment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// Offset in the segment behind the last batch.
    pub off: u64,
    /// The last batch, messages up to it, chain value after it.
    pub base: Base,
}

/// Writes a closing index into `bytes`, [`INDEX_BYTES`] long.
pub(crate) fn write_closing(
    bytes: &mut [u8],
    header: &SegmentHeader,
    end: &End,
    entries: &[IndexEntry],
) {
    assert!(bytes.len() == INDEX_BYTES && entries.len() <= INDEX_ENTRIES);
    let mut head = ClosingHead {
        magic: CLOSING_MAGIC,
        hash: 0.into(),
        seg_no: header.seg_no,
        end_off: end.off.into(),
        end_batch_seq: end.base.batch_seq.into(),
        end_chain: end.base.chain.into(),
        end_message: end.base.message.into(),
        entries: u32::try_from(entries.len()).expect("few entries").into(),
        reserved: 0.into(),
    };
    bytes.fill(0);
    let used = CLOSING_HEAD_BYTES + size_of_val(entries);
    bytes[CLOSING_HEAD_BYTES..used].copy_from_slice(entries.as_bytes());
    bytes[..CLOSING_HEAD_BYTES].copy_from_slice(head.as_bytes());
    head.hash = xxh3_64_with_seed(&bytes[16..], header.salt.get()).into();
    bytes[..CLOSING_HEAD_BYTES].copy_from_slice(head.as_bytes());
}

/// The closing index in `bytes`, when it is this segment's and whole.
#[must_use]
pub(crate) fn read_closing<'a>(
    bytes: &'a [u8],
    header: &SegmentHeader,
) -> Option<(End, &'a [IndexEntry])> {
    let (head, rest) = ClosingHead::ref_from_prefix(bytes.get(..INDEX_BYTES)?).ok()?;
    let hash = xxh3_64_with_seed(&bytes[16..INDEX_BYTES], header.salt.get());
    if head.magic != CLOSING_MAGIC || head.hash.get() != hash || head.seg_no != header.seg_no {
        return None;
    }
    let count = usize::try_from(head.entries.get()).ok()?;
    let (entries, _) = <[IndexEntry]>::ref_from_prefix_with_elems(rest, count).ok()?;
    let base = Base {
        batch_seq: BatchSeq::new(head.end_batch_seq.get()),
        message: head.end_message.get(),
        chain: head.end_chain.get(),
    };
    Some((End { off: head.end_off.get(), base }, entries))
}
