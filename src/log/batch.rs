//! The batch: the unit of write, acknowledgement and recovery. Starts on a block, is padded with zeros to
//! whole blocks, is never rewritten and never crosses a segment.

use xxhash_rust::xxh3::xxh3_64_with_seed;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::limits::{BATCH_BYTES_MAX, BLOCK_BYTES};
use crate::mutant::Mutant;
use crate::position::{BatchSeq, LogOffset, SegmentNo};
use crate::wire::publish::Records;
use crate::wire::record::crc32c;

/// First bytes of a batch: "BLB1".
const MAGIC: u32 = u32::from_le_bytes(*b"BLB1");

/// Format version of batches.
const VERSION: u16 = 1;

/// What a batch holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum BatchKind {
    /// Records: messages, and control records (stream 0) among them.
    Data = 1,
    /// The first batch of an epoch; empty.
    EpochOpen = 2,
    /// Nothing but a newer "last durable" mark; empty.
    Lac = 3,
    /// Part of the catalog and producer table as they were at the start of the segment.
    Checkpoint = 4,
    /// The segment ends here; empty.
    Roll = 5,
}

impl BatchKind {
    /// Name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::EpochOpen => "epoch-open",
            Self::Lac => "last-durable",
            Self::Checkpoint => "checkpoint",
            Self::Roll => "roll",
        }
    }

    fn from_code(code: u16) -> Option<Self> {
        [Self::Data, Self::EpochOpen, Self::Lac, Self::Checkpoint, Self::Roll]
            .into_iter()
            .find(|kind| *kind as u16 == code)
    }
}

/// The header, little-endian.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct BatchHeader {
    magic: U32,
    /// CRC-32C of the segment's salt and bytes 8..128.
    header_crc: U32,
    version: U16,
    kind: U16,
    flags: U32,
    log_tag: U64,
    epoch: U64,
    batch_seq: U64,
    log_off: U64,
    seg_no: U64,
    first_message: U64,
    message_count: U32,
    body_len: U32,
    blocks: U32,
    view: U32,
    chain: U64,
    last_durable: U64,
    append_ns: U64,
    body_hash: U64,
    aead_tag: [u8; 16],
}

/// Size of the header.
pub(crate) const BATCH_HEADER_BYTES: usize = 128;
const _: () = assert!(size_of::<BatchHeader>() == BATCH_HEADER_BYTES, "no padding in a header");

/// What all batches of one segment share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentKey {
    /// XXH3-64 of the log's identity and shard.
    pub log_tag: u64,
    /// Epoch of the segment.
    pub epoch: u64,
    /// Number of the segment.
    pub seg_no: SegmentNo,
    /// Random, so that neither old contents nor a payload can look like a batch.
    pub salt: u64,
    /// Seed of the chain, the same for the whole log.
    pub chain_salt: u64,
}

/// What is said of one batch when it is sealed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seal {
    /// What it holds.
    pub kind: BatchKind,
    /// Its number.
    pub batch_seq: BatchSeq,
    /// Where it stands.
    pub log_off: LogOffset,
    /// Messages of the shard before it.
    pub first_message: u64,
    /// Messages in it.
    pub message_count: u32,
    /// Bytes of records.
    pub body_len: usize,
    /// Whether everything behind the records is zeros already.
    pub padded: bool,
    /// Hash of the header before.
    pub chain: u64,
    /// The last batch known durable.
    pub last_durable: BatchSeq,
    /// Unix time.
    pub append_ns: u64,
}

/// Bytes of whole blocks that a batch with `body_len` bytes of records takes.
#[must_use]
pub(crate) const fn batch_bytes(body_len: usize) -> usize {
    (BATCH_HEADER_BYTES + body_len).next_multiple_of(BLOCK_BYTES)
}

/// Writes the header into `batch`, whose body is in place, and zeros behind the body; returns the
/// chain value for the next batch.
///
/// # Panics
/// When `batch` is not as long as the body needs.
pub(crate) fn seal(batch: &mut [u8], key: &SegmentKey, seal: &Seal) -> u64 {
    let end = BATCH_HEADER_BYTES + seal.body_len;
    assert_eq!(batch.len(), batch_bytes(seal.body_len), "whole blocks, no more");
    assert!(batch.len() <= BATCH_BYTES_MAX, "one disk command");
    if seal.padded {
        debug_assert!(batch[end..].iter().all(|byte| *byte == 0), "padding is zeros");
    } else {
        batch[end..].fill(0);
    }
    let blocks = u32::try_from(batch.len() / BLOCK_BYTES).expect("at most 32 blocks");
    let mut header = BatchHeader {
        magic: MAGIC.into(),
        header_crc: 0.into(),
        version: VERSION.into(),
        kind: (seal.kind as u16).into(),
        flags: 0.into(),
        log_tag: key.log_tag.into(),
        epoch: key.epoch.into(),
        batch_seq: seal.batch_seq.into(),
        log_off: seal.log_off.into(),
        seg_no: key.seg_no.into(),
        first_message: seal.first_message.into(),
        message_count: seal.message_count.into(),
        body_len: u32::try_from(seal.body_len).expect("at most a batch").into(),
        blocks: blocks.into(),
        view: 0.into(),
        chain: seal.chain.into(),
        last_durable: seal.last_durable.into(),
        append_ns: seal.append_ns.into(),
        body_hash: body_hash(&batch[BATCH_HEADER_BYTES..end], key, seal.log_off).into(),
        aead_tag: [0; 16],
    };
    header.header_crc = header_crc(&header, key).into();
    batch[..BATCH_HEADER_BYTES].copy_from_slice(header.as_bytes());
    chain_after(&header, key)
}

fn body_hash(body: &[u8], key: &SegmentKey, log_off: LogOffset) -> u64 {
    let log_off = if Mutant::PlaceNotChecked.is_on() { 0 } else { log_off.get() };
    xxh3_64_with_seed(body, key.salt ^ log_off)
}

/// The padding is not hashed, which would be most of the work for a lone message: it is zeros or damaged.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0, |all, byte| all | byte) == 0
}

fn header_crc(header: &BatchHeader, key: &SegmentKey) -> u32 {
    crc32c(&key.salt.to_le_bytes(), &header.as_bytes()[8..])
}

fn chain_after(header: &BatchHeader, key: &SegmentKey) -> u64 {
    xxh3_64_with_seed(header.as_bytes(), key.chain_salt)
}

/// What is wrong with bytes that should be a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, displaydoc::Display, thiserror::Error)]
pub enum BatchDamage {
    /// the bytes end before the batch does
    CutShort,
    /// the header is damaged or not of this place
    Header,
    /// the body is damaged
    Body,
}

/// A batch whose header was checked, and its body too unless said otherwise.
#[derive(Clone, Copy, Debug)]
pub struct BatchView<'a> {
    header: &'a BatchHeader,
    kind: BatchKind,
    body: &'a [u8],
    chain_after: u64,
}

impl<'a> BatchView<'a> {
    /// Checks the batch at the start of `bytes`, which stands at `log_off` of the segment `key` is of.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(
        bytes: &'a [u8],
        key: &SegmentKey,
        log_off: LogOffset,
    ) -> Result<Self, BatchDamage> {
        let (view, padded) = Self::check_header(bytes, key, log_off)?;
        let padding = &padded[view.body.len()..];
        let hash = view.header.body_hash.get();
        let intact = body_hash(view.body, key, log_off) == hash && is_zero(padding);
        if intact || Mutant::HeaderTrusted.is_on() { Ok(view) } else { Err(BatchDamage::Body) }
    }

    /// The same, of a batch whose body was checked before or was never out of memory.
    ///
    /// # Errors
    /// What is wrong with the header.
    pub fn trust(
        bytes: &'a [u8],
        key: &SegmentKey,
        log_off: LogOffset,
    ) -> Result<Self, BatchDamage> {
        Ok(Self::check_header(bytes, key, log_off)?.0)
    }

    /// Checks the header alone, even where the bytes end before the body does: enough to know that a
    /// batch was here, and its "last durable" mark.
    #[must_use]
    pub fn peek(bytes: &[u8], key: &SegmentKey, log_off: LogOffset) -> Option<BatchSeq> {
        let (header, _) = BatchHeader::ref_from_prefix(bytes).ok()?;
        is_header(header, key, log_off).then(|| BatchSeq::new(header.last_durable.get()))
    }

    fn check_header(
        bytes: &'a [u8],
        key: &SegmentKey,
        log_off: LogOffset,
    ) -> Result<(Self, &'a [u8]), BatchDamage> {
        let (header, _) = BatchHeader::ref_from_prefix(bytes).map_err(|_| BatchDamage::CutShort)?;
        if !is_header(header, key, log_off) {
            return Err(BatchDamage::Header);
        }
        let kind = BatchKind::from_code(header.kind.get()).ok_or(BatchDamage::Header)?;
        let body_len = usize::try_from(header.body_len.get()).expect("32 bits fit");
        let blocks = usize::try_from(header.blocks.get()).expect("32 bits fit");
        if blocks * BLOCK_BYTES > BATCH_BYTES_MAX || batch_bytes(body_len) != blocks * BLOCK_BYTES {
            return Err(BatchDamage::Header);
        }
        let whole = bytes.get(..blocks * BLOCK_BYTES).ok_or(BatchDamage::CutShort)?;
        let padded = &whole[BATCH_HEADER_BYTES..];
        let chain_after = chain_after(header, key);
        Ok((Self { header, kind, body: &padded[..body_len], chain_after }, padded))
    }

    /// What it holds.
    #[must_use]
    pub fn kind(&self) -> BatchKind {
        self.kind
    }

    /// Its number.
    #[must_use]
    pub fn batch_seq(&self) -> BatchSeq {
        BatchSeq::new(self.header.batch_seq.get())
    }

    /// Where it stands.
    #[must_use]
    pub fn log_off(&self) -> LogOffset {
        LogOffset::new(self.header.log_off.get())
    }

    /// Where the next batch of the segment stands.
    #[must_use]
    pub fn next_log_off(&self) -> LogOffset {
        self.log_off() + self.bytes() as u64
    }

    /// Whole blocks, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        batch_bytes(self.body.len())
    }

    /// Hash of the header before, as the writer saw it.
    #[must_use]
    pub fn chain(&self) -> u64 {
        self.header.chain.get()
    }

    /// Hash of this header, which the next one names.
    #[must_use]
    pub fn chain_after(&self) -> u64 {
        self.chain_after
    }

    /// The last batch the writer knew durable.
    #[must_use]
    pub fn last_durable(&self) -> BatchSeq {
        BatchSeq::new(self.header.last_durable.get())
    }

    /// Unix time of sealing.
    #[must_use]
    pub fn append_ns(&self) -> u64 {
        self.header.append_ns.get()
    }

    /// Messages of the shard before this batch.
    #[must_use]
    pub fn first_message(&self) -> u64 {
        self.header.first_message.get()
    }

    /// Messages in it.
    #[must_use]
    pub fn message_count(&self) -> u32 {
        self.header.message_count.get()
    }

    /// The records, or what else the kind holds.
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// Writes it as it stands on the disk into [`BatchView::bytes`] bytes.
    pub fn write_to(&self, bytes: &mut [u8]) {
        let (header, rest) = bytes.split_at_mut(BATCH_HEADER_BYTES);
        let (body, padding) = rest.split_at_mut(self.body.len());
        header.copy_from_slice(self.header.as_bytes());
        body.copy_from_slice(self.body);
        padding.fill(0);
    }

    /// The records of a data batch.
    #[must_use]
    pub fn records(&self) -> Records<'a> {
        Records::new(if self.kind == BatchKind::Data { self.body } else { &[] })
    }
}

fn is_header(header: &BatchHeader, key: &SegmentKey, log_off: LogOffset) -> bool {
    header.magic.get() == MAGIC
        && (header.log_off == U64::from(log_off) || Mutant::PlaceNotChecked.is_on())
        && header.seg_no == U64::from(key.seg_no)
        && header.epoch.get() == key.epoch
        && header.log_tag.get() == key.log_tag
        && header.version.get() == VERSION
        && header.header_crc.get() == header_crc(header, key)
}
