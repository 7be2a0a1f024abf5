//! Frames that carry messages and their acknowledgement.

use crate::limits::NAK_RANGES_MAX;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Malformed;
use super::control::ErrorCode;
use super::range::{Ranged, ranged};
use super::record::Record;

/// Fixed part of PUBLISH.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PublishHead {
    /// Stream of all messages in the frame.
    pub stream: U32,
    /// Messages, at least one.
    pub count: U16,
    /// Must be zero.
    pub reserved: U16,
    /// Producer number of the first; the others follow without a gap.
    pub first_seq: U64,
}

/// What stands before each payload in PUBLISH.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct MessageHead {
    /// Payload and extension bytes that follow.
    pub len: U16,
    /// Of these, extension bytes at the front.
    pub ext_len: U16,
    /// Carried as they are.
    pub flags: U16,
    /// Must be zero.
    pub reserved: U16,
    /// See [`super::record::Signed::crc32c`].
    pub crc32c: U32,
}

/// Size of [`PublishHead`].
pub const PUBLISH_HEAD_BYTES: usize = size_of::<PublishHead>();
/// Size of [`MessageHead`].
pub const MESSAGE_HEAD_BYTES: usize = size_of::<MessageHead>();
const _: () = assert!(PUBLISH_HEAD_BYTES == 16 && MESSAGE_HEAD_BYTES == 12);

/// A PUBLISH frame whose messages are all there.
#[derive(Clone, Copy, Debug)]
pub struct Publish<'a> {
    /// The fixed part.
    pub head: &'a PublishHead,
    messages: &'a [u8],
    body: &'a [u8],
    longest: u16,
}

impl<'a> Publish<'a> {
    /// Parses a frame's body: as it came, or as a session held it.
    ///
    /// # Errors
    /// When the body does not hold the messages it announces.
    pub fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let (head, messages) =
            PublishHead::ref_from_prefix(body).map_err(|_| Malformed::FrameBody)?;
        let mut publish = Self { head, messages, body, longest: 0 };
        let mut iterator = publish.messages();
        let (mut found, mut reserved) = (0_usize, 0);
        for (message, _) in iterator.by_ref() {
            publish.longest = publish.longest.max(message.len.get());
            reserved |= message.reserved.get();
            found = found.saturating_add(1);
        }
        if found == 0 || found != usize::from(head.count.get()) || !iterator.rest.is_empty() {
            return Err(Malformed::FrameBody);
        }
        if reserved != 0 {
            return Err(Malformed::Reserved);
        }
        ranged(head)?;
        Ok(publish)
    }

    /// The messages, in order.
    #[must_use]
    pub fn messages(&self) -> Messages<'a> {
        Messages { rest: self.messages }
    }

    /// Payload and extension bytes of the longest.
    #[must_use]
    pub fn longest(&self) -> usize {
        usize::from(self.longest)
    }

    /// The frame's body as it came.
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        u64::from(self.head.count.get())
    }
}

/// Iterator over the messages of a PUBLISH frame.
#[derive(Clone, Copy, Debug)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Messages<'a> {
    type Item = (&'a MessageHead, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (head, rest) = MessageHead::ref_from_prefix(self.rest).ok()?;
        let (payload, rest) = rest.split_at_checked(usize::from(head.len.get()))?;
        if head.ext_len > head.len {
            return None;
        }
        self.rest = rest;
        Some((head, payload))
    }
}

/// What a publisher may do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PublishState {
    /// Publish within the credit.
    Open = 0,
    /// The log is full; credit comes back when space does.
    NoSpace = 1,
    /// A write failed: nothing more is acknowledged by this epoch.
    Failed = 2,
    /// The server finishes what it has and stops.
    Draining = 3,
    /// Data was found damaged: nothing more is acknowledged by this epoch.
    Damaged = 4,
}

impl PublishState {
    /// The state with this code; an unknown one counts as failed.
    #[must_use]
    pub fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Open,
            1 => Self::NoSpace,
            3 => Self::Draining,
            4 => Self::Damaged,
            _ => Self::Failed,
        }
    }

    /// Why a publisher may do nothing now; `None` where it may.
    #[must_use]
    pub fn refusal(self) -> Option<ErrorCode> {
        match self {
            Self::Open => None,
            Self::NoSpace => Some(ErrorCode::NoSpace),
            Self::Failed => Some(ErrorCode::DiskFailed),
            Self::Damaged => Some(ErrorCode::DataLoss),
            Self::Draining => Some(ErrorCode::Draining),
        }
    }
}

/// Fixed part of ACK.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct AckHead {
    /// All producer numbers up to this one have arrived: stops retransmission, promises nothing.
    pub received_to: U64,
    /// All up to this one are in every copy of the log; the same as `durable_to` where there is one.
    pub replicated_to: U64,
    /// All up to this one are durable: the promise.
    pub durable_to: U64,
    /// The highest producer number that may be sent.
    pub max_seq_allowed: U64,
    /// Payload bytes that may be sent, counted from the first message of the session.
    pub max_bytes_allowed: U64,
    /// Bit `i` says that `received_to + 2 + i` has arrived (`received_to + 1` is missing).
    pub sack: [U64; 4],
    /// Receipts of lower numbers are no longer held: such messages are durable, their sequence unsaid.
    pub receipts_from: U64,
    /// Receipts that follow.
    pub receipt_count: U16,
    /// [`PublishState`].
    pub state: u8,
    /// Copies of the log that an acknowledged message is in; 1.
    pub copies: u8,
    /// When to ask again where nothing is taken; 0 leaves it to the client.
    pub retry_ms: U32,
}

/// One receipt: a run of messages that are contiguous in producer number and in stream sequence and
/// became durable together.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ReceiptRun {
    /// Producer number of the first.
    pub first_seq: U64,
    /// Stream sequence of the first; 0 where it is not known any more.
    pub first_sequence: U64,
    /// Unix time at which the first was received; 0 where it is not known any more.
    pub received_ns: U64,
    /// How many messages.
    pub count: U32,
    /// Stream.
    pub stream: U32,
    /// Nanoseconds from receive to durable of the first, saturating.
    pub server_ns: U32,
    /// Nanoseconds of these in the device, saturating.
    pub device_ns: U32,
}

/// Size of [`AckHead`].
pub const ACK_HEAD_BYTES: usize = size_of::<AckHead>();
/// Size of [`ReceiptRun`].
pub const RECEIPT_RUN_BYTES: usize = size_of::<ReceiptRun>();
const _: () = assert!(ACK_HEAD_BYTES == 88 && RECEIPT_RUN_BYTES == 40);

/// An ACK frame with its receipts.
#[derive(Clone, Copy, Debug)]
pub struct Ack<'a> {
    /// The fixed part.
    pub head: &'a AckHead,
    /// Receipts in ascending order of producer number.
    pub receipts: &'a [ReceiptRun],
}

impl<'a> Ack<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let (head, rest) = AckHead::ref_from_prefix(body).map_err(|_| Malformed::FrameBody)?;
        let count = usize::from(head.receipt_count.get());
        let receipts = <[ReceiptRun]>::ref_from_bytes_with_elems(rest, count)
            .map_err(|_| Malformed::FrameBody)?;
        ranged(head)?;
        for run in receipts {
            ranged(run)?;
        }
        let ascend = |runs: &[ReceiptRun]| {
            runs[0].first_seq.get().saturating_add(u64::from(runs[0].count.get()))
                <= runs[1].first_seq.get()
        };
        if !receipts.windows(2).all(ascend) {
            return Err(Malformed::Range);
        }
        Ok(Self { head, receipts })
    }
}

/// Inclusive range of producer numbers.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SeqRange {
    /// First.
    pub first: U64,
    /// Last.
    pub last: U64,
}

/// A NAK frame: 1 to 16 ranges that are missing, ascending.
#[derive(Clone, Copy, Debug)]
pub struct Nak<'a> {
    /// What is missing.
    pub ranges: &'a [SeqRange],
}

impl<'a> Nak<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let ranges = <[SeqRange]>::ref_from_bytes(body).map_err(|_| Malformed::FrameBody)?;
        if ranges.is_empty() || ranges.len() > NAK_RANGES_MAX {
            return Err(Malformed::FrameBody);
        }
        let ascend = |ranges: &[SeqRange]| ranges[0].last.get() < ranges[1].first.get();
        if !ranges.iter().all(Ranged::in_range) || !ranges.windows(2).all(ascend) {
            return Err(Malformed::Range);
        }
        Ok(Self { ranges })
    }
}

/// PROBE: answered by an ACK with receipts from `receipts_to + 1` on.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Probe {
    /// The producer number the client will use next; what is missing below it is lost.
    pub next_seq: U64,
    /// The client has the receipts of all numbers up to this one.
    pub receipts_to: U64,
}

/// Fixed part of DATA.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DataHead {
    /// The subscription.
    pub sub: U32,
    /// Records, at least one.
    pub count: U16,
    /// Must be zero.
    pub reserved: U16,
    /// Sequence of the first; the others follow without a gap.
    pub first_sequence: U64,
    /// Of all of them; not 0.
    pub lineage: U64,
}

/// Size of [`DataHead`].
pub const DATA_HEAD_BYTES: usize = size_of::<DataHead>();
const _: () = assert!(DATA_HEAD_BYTES == 24);

/// A DATA frame whose records are all there, in sequence.
#[derive(Clone, Copy, Debug)]
pub struct Data<'a> {
    /// The fixed part.
    pub head: &'a DataHead,
    records: &'a [u8],
}

impl<'a> Data<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let (head, records) = DataHead::ref_from_prefix(body).map_err(|_| Malformed::FrameBody)?;
        let data = Self { head: ranged(head)?, records };
        let mut iterator = data.records();
        let mut expected = head.first_sequence.get();
        let mut found = 0u16;
        let stream = data.records().next().map_or(0, |first| first.header.stream.get());
        for record in iterator.by_ref() {
            if record.header.sequence.get() != expected || record.header.stream.get() != stream {
                return Err(Malformed::FrameBody);
            }
            expected = expected.saturating_add(1);
            found = found.checked_add(1).ok_or(Malformed::FrameBody)?;
        }
        if found == 0 || found != head.count.get() || !iterator.rest.is_empty() {
            return Err(Malformed::FrameBody);
        }
        Ok(data)
    }

    /// The records, in sequence.
    #[must_use]
    pub fn records(&self) -> Records<'a> {
        Records::new(self.records)
    }
}

/// Iterator over records that stand one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    /// The records that stand in `bytes`; ends where the bytes cannot be a record.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes not taken yet.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (record, rest) = Record::split_first(self.rest)?;
        self.rest = rest;
        Some(record)
    }
}
