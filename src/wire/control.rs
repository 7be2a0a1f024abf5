//! Frames that open and end sessions, subscribe, and manage streams.

mod errors;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Malformed;
use super::range::ranged;
use super::tlv::Tlvs;
use crate::ids::{ProducerName, is_name};
use crate::limits::STREAM_NAME_BYTES_MAX;

pub use errors::{CodedError, ErrorCode, ErrorFrame, ErrorHead, OF_PRODUCER, Sizes, holder_detail};

/// PAD: zeros, so that a datagram is longer.
#[derive(Clone, Copy, Debug)]
pub struct Padding<'a> {
    /// How many.
    pub zeros: &'a [u8],
}

impl<'a> Padding<'a> {
    pub(super) fn parse(zeros: &'a [u8]) -> Result<Self, Malformed> {
        let is_zero = zeros.iter().all(|&byte| byte == 0);
        if is_zero { Ok(Self { zeros }) } else { Err(Malformed::Reserved) }
    }
}

/// Whom a session publishes as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Want {
    /// Nobody: it does not publish.
    Nothing = 0,
    /// A new producer.
    New = 1,
    /// The producer of this number.
    Known = 2,
    /// The producer of a name, new or known.
    Named = 3,
}

/// Set beside a code of [`Want`]: the producer is taken over also from a publisher that is there.
pub const WANT_TAKE_OVER: u16 = 1 << 15;

impl Want {
    /// Back from the wire; `None` for one of a later release.
    #[must_use]
    pub fn from_code(code: u16) -> Option<Self> {
        [Self::Nothing, Self::New, Self::Known, Self::Named]
            .into_iter()
            .find(|want| *want as u16 == code)
    }
}

/// Fixed part of REGISTER.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RegisterHead {
    /// Given back in the answer; the same in repetitions.
    pub request: U32,
    /// A code of [`Want`], and [`WANT_TAKE_OVER`] or not.
    pub want: U16,
    /// UDP payload the client receives at most.
    pub datagram_bytes: U16,
    /// The log the client was with before; zeros where it was with none.
    pub log_id: [u8; 16],
    /// The producer, where one is wanted by its number.
    pub producer_id: U64,
    /// The epoch the client last held; 0 takes the producer over from another instance.
    pub producer_epoch: U32,
    /// The witness, the newest message that the client knows to be stored: its stream; 0 where there is none.
    pub witness_stream: U32,
    /// Its sequence.
    pub witness_sequence: U64,
    /// Its lineage.
    pub witness_lineage: U64,
    /// The producer's numbers up to this one were said to be durable.
    pub durable_to: U64,
    /// The highest epoch of the log that the client has seen.
    pub epoch: U64,
}

/// REGISTER: the first frame of a session. It says whom the client publishes as, and what it knows of the log.
#[derive(Clone, Copy, Debug)]
pub struct Register<'a> {
    /// The fixed part.
    pub head: &'a RegisterHead,
    /// As its code says.
    pub want: Want,
    /// Of the producer, where it is wanted by its name; else none.
    pub name: ProducerName,
}

impl<'a> Register<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let (head, rest) = RegisterHead::ref_from_prefix(body).map_err(|_| Malformed::FrameBody)?;
        let name = Tlvs::parse(rest)?.name;
        let want = head.want.get() & !WANT_TAKE_OVER;
        let want = Want::from_code(want).ok_or(Malformed::Range)?;
        let name = match (want, name) {
            (Want::Named, Some(name)) => ProducerName::new(name).ok_or(Malformed::FrameBody)?,
            (Want::Nothing | Want::New | Want::Known, None) => ProducerName::NONE,
            _ => return Err(Malformed::FrameBody),
        };
        Ok(Self { head: ranged(head)?, want, name })
    }

    /// Whether the producer is taken over also from a publisher that is there.
    #[must_use]
    pub fn takes_over(&self) -> bool {
        self.head.want.get() & WANT_TAKE_OVER != 0
    }
}

/// REGISTERED flag: the witness stands in this log as the client has it.
pub const WITNESS_PROVEN: u16 = 1;
/// REGISTERED flag: the witness is not kept any more, and cannot be looked at.
pub const WITNESS_TRIMMED: u16 = 2;
/// REGISTERED flag: the producer is new.
pub const PRODUCER_NEW: u16 = 4;

/// REGISTERED: the session is open.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Registered {
    /// Of the REGISTER.
    pub request: U32,
    /// [`WITNESS_PROVEN`], [`WITNESS_TRIMMED`], [`PRODUCER_NEW`].
    pub flags: U16,
    /// UDP payload the server receives and sends in this session at most.
    pub datagram_bytes: U16,
    /// Tells the log from any other.
    pub log_id: [u8; 16],
    /// The writer's epoch, from 1 on.
    pub epoch: U64,
    /// Of what is appended in this epoch; not 0.
    pub lineage: U64,
    /// The producer; 0 in a session that does not publish.
    pub producer_id: U64,
    /// The producer's epoch from now on; older instances are fenced.
    pub producer_epoch: U32,
    /// Payload bytes of one message, at most.
    pub message_bytes_max: U32,
    /// The producer's numbers up to this one have been received: go on with the next.
    pub accepted_to: U64,
    /// Of these, up to this one they are durable.
    pub durable_to: U64,
    /// See [`super::publish::AckHead::max_seq_allowed`].
    pub max_seq_allowed: U64,
    /// See [`super::publish::AckHead::max_bytes_allowed`].
    pub max_bytes_allowed: U64,
    /// The newest message of the producer, where all of its are durable: its sequence; 0 where there is none.
    pub last_sequence: U64,
    /// Its lineage; 0 where it is not kept any more.
    pub last_lineage: U64,
    /// Its stream; 0 where there is none.
    pub last_stream: U32,
    /// [`crate::ids::Durability`] of this log.
    pub durability: u8,
    /// [`super::publish::PublishState`].
    pub state: u8,
    /// Copies of the log that an acknowledged message is in; 1.
    pub copies: u8,
    /// Must be zero.
    pub reserved: u8,
    /// A session that says nothing for so long is ended.
    pub idle_ms: U32,
    /// Must be zero.
    pub padding: U32,
}

const _: () = assert!(size_of::<RegisterHead>() == 72 && size_of::<Registered>() == 120);

/// Where a subscription starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartFrom {
    /// The oldest message that is kept.
    Start,
    /// After the newest durable message.
    End,
    /// This sequence.
    Sequence(u64),
    /// The first message received at or after this Unix time in nanoseconds.
    Time(u64),
}

/// A [`StartFrom`] on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FromCode {
    /// Which.
    pub kind: u8,
    /// The sequence or the time; 0 where there is none.
    pub value: u64,
}

impl StartFrom {
    /// As it is on the wire.
    #[must_use]
    pub fn encode(self) -> FromCode {
        let (kind, value) = match self {
            Self::Start => (0, 0),
            Self::End => (1, 0),
            Self::Sequence(sequence) => (2, sequence),
            Self::Time(unix_ns) => (3, unix_ns),
        };
        FromCode { kind, value }
    }

    /// Back from the wire; `None` for a kind of a later release.
    #[must_use]
    pub fn decode(kind: u8, value: u64) -> Option<Self> {
        match kind {
            0 => Some(Self::Start),
            1 => Some(Self::End),
            2 => Some(Self::Sequence(value)),
            3 => Some(Self::Time(value)),
            _ => None,
        }
    }
}

/// SUBSCRIBE: deliver a stream to this session. Its request is the subscription's number in all further frames, so that
/// what is said of one that has ended harms none that came after it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Subscribe {
    /// Not 0; the same in repetitions.
    pub request: U32,
    /// Stream.
    pub stream: U32,
    /// See [`StartFrom::encode`].
    pub from_kind: u8,
    /// Must be zero.
    pub reserved: [u8; 3],
    /// Messages the server may send before it hears a STATUS.
    pub window: U32,
    /// See [`StartFrom::encode`].
    pub from_value: U64,
    /// Lineage of the message before a sequence asked for, as the client has it; 0 where it has none.
    pub lineage: U64,
}

/// SUBSCRIBED: the subscription stands.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Subscribed {
    /// Of the SUBSCRIBE.
    pub request: U32,
    /// Stream.
    pub stream: U32,
    /// The first sequence that will be delivered.
    pub start: U64,
    /// The oldest sequence that is kept.
    pub log_start: U64,
    /// The sequence after the newest durable one.
    pub durable_next: U64,
    /// Lineage of the message before `start`; 0 where it is not kept.
    pub lineage: U64,
}

/// STATUS flag: go back to `position` and send from there.
pub const STATUS_REWIND: u32 = 1;

/// STATUS: where a consumer is.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Status {
    /// The subscription.
    pub sub: U32,
    /// [`STATUS_REWIND`] or 0.
    pub flags: U32,
    /// The next sequence the consumer wants.
    pub position: U64,
    /// The server may send sequences below this one.
    pub limit: U64,
}

/// HEARTBEAT flag, of a client: say something.
pub const HEARTBEAT_ANSWER: u32 = 1;

/// HEARTBEAT: from a client, and for the session as a whole, `sub` is 0.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Heartbeat {
    /// The subscription, or 0.
    pub sub: U32,
    /// [`HEARTBEAT_ANSWER`] or 0.
    pub flags: U32,
    /// The sequence after the newest durable one; 0 where `sub` is 0.
    pub durable_next: U64,
}

/// TRIMMED: the position of a subscription is older than the oldest message kept.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Trimmed {
    /// The subscription.
    pub sub: U32,
    /// Must be zero.
    pub reserved: U32,
    /// The oldest sequence that is kept.
    pub log_start: U64,
}

/// DATA_LOSS: these sequences are damaged on the media and will not be delivered.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DataLoss {
    /// The subscription.
    pub sub: U32,
    /// Must be zero.
    pub reserved: U32,
    /// First damaged sequence.
    pub first: U64,
    /// Last damaged sequence, as far as is known.
    pub last: U64,
}

/// UNSUBSCRIBE: stop delivering.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Unsubscribe {
    /// The subscription.
    pub sub: U32,
}

/// TRIM_STREAM: keep nothing of a stream below a sequence; answered by STREAM_INFO once that is durable.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TrimStream {
    /// Given back in the answer; the same in repetitions.
    pub request: U32,
    /// Stream.
    pub stream: U32,
    /// The first sequence to be kept, at most the one after the newest durable.
    pub first: U64,
}

/// CLOSE flag, of a client: its producer will not return, so its place is free.
pub const CLOSE_FORGET: u16 = 1;

/// CLOSE: the session has ended, and what was wanted of it is not to be had in another.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Close {
    /// A code of [`ErrorCode`]; 0 where the client wishes it so.
    pub code: U16,
    /// [`CLOSE_FORGET`] or 0.
    pub flags: U16,
    /// Must be zero.
    pub reserved: U32,
}

/// LIST_STREAMS: answered by STREAM_INFO frames and one LIST_END.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ListStreams {
    /// Given back in the answers.
    pub request: U32,
    /// Streams with a higher id than this.
    pub after: U32,
}

/// LIST_END: ends one answer to LIST_STREAMS.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ListEnd {
    /// Of the request.
    pub request: U32,
    /// 0: that was all. Otherwise ask again with `after` set to this.
    pub after: U32,
}

/// The shard of a CREATE_STREAM that leaves it to the appliance.
pub const ANY_SHARD: u32 = u32::MAX;

/// Fixed part of CREATE_STREAM; the name follows.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CreateStreamHead {
    /// Given back in the answer; the same in repetitions.
    pub request: U32,
    /// Where a stream that is new is to live, or [`ANY_SHARD`].
    pub shard: U32,
}

/// CREATE_STREAM: a stream of this name; answered alike when it is there already.
#[derive(Clone, Copy, Debug)]
pub struct CreateStream<'a> {
    /// The fixed part.
    pub head: &'a CreateStreamHead,
    /// A valid stream name.
    pub name: &'a str,
}

impl<'a> CreateStream<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let (head, rest) =
            CreateStreamHead::ref_from_prefix(body).map_err(|_| Malformed::FrameBody)?;
        ranged(head)?;
        Ok(Self { head, name: stream_name(rest)? })
    }

    /// Where a stream that is new is to live; `None` where that is left to the appliance.
    #[must_use]
    pub fn shard(&self) -> Option<u32> {
        Some(self.head.shard.get()).filter(|&shard| shard != ANY_SHARD)
    }
}

/// Fixed part of DESCRIBE_STREAM; the name follows.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DescribeStreamHead {
    /// Given back in the answer; the same in repetitions.
    pub request: U32,
    /// Must be zero: a stream is asked for by its name.
    pub stream: U32,
}

/// DESCRIBE_STREAM: answered by STREAM_INFO, REDIRECT or ERROR.
#[derive(Clone, Copy, Debug)]
pub struct DescribeStream<'a> {
    /// The fixed part.
    pub head: &'a DescribeStreamHead,
    /// A valid stream name.
    pub name: &'a str,
}

impl<'a> DescribeStream<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let (head, rest) =
            DescribeStreamHead::ref_from_prefix(body).map_err(|_| Malformed::FrameBody)?;
        Ok(Self { head: ranged(head)?, name: stream_name(rest)? })
    }
}

/// REDIRECT: the stream a request names lives on another shard, or is to; ask there. Its port is as far from the one
/// dialled as its number is.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Redirect {
    /// Of the request.
    pub request: U32,
    /// The shard.
    pub shard: U32,
}

const _: () = assert!(size_of::<Subscribe>() == 32 && size_of::<Subscribed>() == 40);
const _: () = assert!(size_of::<Status>() == 24 && size_of::<Heartbeat>() == 16);
const _: () = assert!(size_of::<Trimmed>() == 16 && size_of::<DataLoss>() == 24);
const _: () = assert!(size_of::<Close>() == 8 && size_of::<CreateStreamHead>() == 8);

fn stream_name(tlvs: &[u8]) -> Result<&str, Malformed> {
    let name = Tlvs::parse(tlvs)?.name;
    name.filter(|name| is_stream_name(name)).ok_or(Malformed::FrameBody)
}

/// Whether `name` may name a stream: 1 to 64 of letters, digits, `.`, `_`, `-`, `/` and `:`, not starting with `.`.
#[must_use]
pub fn is_stream_name(name: &str) -> bool {
    (1..=STREAM_NAME_BYTES_MAX).contains(&name.len()) && is_name(name)
}

/// Fixed part of STREAM_INFO; the name follows.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct StreamInfoHead {
    /// Of the request.
    pub request: U32,
    /// Stream.
    pub stream: U32,
    /// The oldest sequence that is kept.
    pub log_start: U64,
    /// The sequence after the newest durable one.
    pub durable_next: U64,
    /// Unix time of creation in nanoseconds.
    pub created_ns: U64,
    /// Payload bytes since creation, as far as is known.
    pub bytes: U64,
    /// The shard it lives on.
    pub shard: U32,
    /// Must be zero.
    pub reserved: U32,
}

const _: () = assert!(size_of::<StreamInfoHead>() == 48);

/// STREAM_INFO: facts of one stream.
#[derive(Clone, Copy, Debug)]
pub struct StreamInfo<'a> {
    /// The fixed part.
    pub head: &'a StreamInfoHead,
    /// Its name.
    pub name: &'a str,
}

impl<'a> StreamInfo<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let (head, rest) =
            StreamInfoHead::ref_from_prefix(body).map_err(|_| Malformed::FrameBody)?;
        Ok(Self { head: ranged(head)?, name: stream_name(rest)? })
    }
}
