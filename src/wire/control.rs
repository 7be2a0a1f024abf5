//! Frames that open and end sessions, subscribe, and manage streams.

mod errors;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Malformed;
use super::range::ranged;
use crate::limits::STREAM_NAME_BYTES_MAX;

pub use errors::{CodedError, ErrorCode, ErrorFrame, ErrorHead, STARTING, Sizes};

/// REGISTER flag: the session publishes, so it wants a producer.
pub const REGISTER_PUBLISHER: u16 = 1;

/// REGISTER: opens a session. As long as its answer, so that it cannot amplify.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Register {
    /// Random, chosen by the client; the same in repetitions of one request.
    pub nonce: U64,
    /// 0 asks for a new producer.
    pub producer_id: U64,
    /// The producer epoch the client last held; 0 takes the producer over from another instance.
    pub producer_epoch: U32,
    /// UDP payload the client receives at most.
    pub datagram_bytes: U16,
    /// [`REGISTER_PUBLISHER`] or 0.
    pub flags: U16,
    /// Random, the same over the life of one client: tells its own second try from another instance.
    pub instance: U64,
    /// Must be zero.
    pub padding: [u8; 40],
}

/// REGISTERED: the session is open.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Registered {
    /// Of the request.
    pub nonce: U64,
    /// The session from now on.
    pub conn_id: U32,
    /// The producer's epoch from now on; older instances are fenced.
    pub producer_epoch: U32,
    /// The producer; 0 in a session that does not publish.
    pub producer_id: U64,
    /// The writer's epoch.
    pub epoch: U64,
    /// The producer's numbers up to this one are durable; go on with the next.
    pub durable_to: U64,
    /// See [`super::publish::AckHead::max_seq_allowed`].
    pub max_seq_allowed: U64,
    /// See [`super::publish::AckHead::max_bytes_allowed`].
    pub max_bytes_allowed: U64,
    /// Payload bytes of one message, at most.
    pub message_bytes_max: U32,
    /// [`crate::ids::Durability`] of this log.
    pub durability: u8,
    /// The shard that answers.
    pub shard: u8,
    /// Shards of the appliance; 0 from a release that has one.
    pub shards: u8,
    /// Must be zero.
    pub reserved: u8,
    /// UDP payload the server receives at most.
    pub datagram_bytes: U16,
    /// UDP port of shard 0, shard k is at this port + k; 0 where there is one shard.
    pub base_port: U16,
    /// Tells the log from another at the same address; 0 from a release that does not say.
    pub log: U32,
}

const _: () = assert!(size_of::<Register>() == 72 && size_of::<Registered>() == 72);

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

/// A [`From`] on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FromCode {
    /// Which.
    pub kind: u32,
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
    pub fn decode(kind: u32, value: u64) -> Option<Self> {
        match kind {
            0 => Some(Self::Start),
            1 => Some(Self::End),
            2 => Some(Self::Sequence(value)),
            3 => Some(Self::Time(value)),
            _ => None,
        }
    }
}

/// SUBSCRIBE: deliver a stream to this session; one subscription a stream and session.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Subscribe {
    /// Given back in the answer; the same in repetitions.
    pub request: U32,
    /// Stream.
    pub stream: U32,
    /// See [`StartFrom::encode`].
    pub from_kind: U32,
    /// Messages the server may send before it hears a STATUS.
    pub window: U32,
    /// See [`StartFrom::encode`].
    pub from_value: U64,
}

/// SUBSCRIBED: the subscription stands.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Subscribed {
    /// Of the request.
    pub request: U32,
    /// Stream.
    pub stream: U32,
    /// The first sequence that will be delivered.
    pub start: U64,
    /// The oldest sequence that is kept.
    pub log_start: U64,
    /// The sequence after the newest durable one.
    pub durable_next: U64,
}

/// STATUS flag: go back to `position` and send from there.
pub const STATUS_REWIND: u32 = 1;

/// STATUS: where a consumer is.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Status {
    /// Stream.
    pub stream: U32,
    /// [`STATUS_REWIND`] or 0.
    pub flags: U32,
    /// The next sequence the consumer wants.
    pub position: U64,
    /// The server may send sequences below this one.
    pub limit: U64,
}

/// HEARTBEAT: from a client or for the session as a whole, `stream` is 0.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Heartbeat {
    /// Stream of a subscription, or 0.
    pub stream: U32,
    /// Must be zero.
    pub reserved: U32,
    /// The sequence after the newest durable one; 0 where `stream` is 0.
    pub durable_next: U64,
}

/// TRIMMED: the position asked for is older than the oldest message kept.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Trimmed {
    /// Stream.
    pub stream: U32,
    /// Of the SUBSCRIBE, or 0 when a running subscription was overtaken.
    pub request: U32,
    /// The oldest sequence that is kept.
    pub log_start: U64,
}

/// DATA_LOSS: these sequences are damaged on the media and will not be delivered.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DataLoss {
    /// Stream.
    pub stream: U32,
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
    /// Stream.
    pub stream: U32,
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

/// RETIRE: ends the session as CLOSE does, and its producer: it will not return, so its place is free. Answered by
/// CLOSE; a repetition by an ERROR that says that there is no such session.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Retire {
    /// The session's producer.
    pub producer_id: U64,
    /// The last of its numbers that it knows to be durable: all it ever gave out.
    pub durable_to: U64,
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

/// Fixed part of CREATE_STREAM and DESCRIBE_STREAM; the name follows.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct NameRequestHead {
    /// Given back in the answer; the same in repetitions.
    pub request: U32,
}

/// A request that names a stream.
#[derive(Clone, Copy, Debug)]
pub struct NameRequest<'a> {
    /// Given back in the answer.
    pub request: u32,
    /// A valid stream name.
    pub name: &'a str,
}

/// CREATE_STREAM: a stream of this name; answered alike when it is there already.
pub type CreateStream<'a> = NameRequest<'a>;

impl<'a> NameRequest<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let (head, name) =
            NameRequestHead::ref_from_prefix(body).map_err(|_| Malformed::FrameBody)?;
        Ok(Self { request: head.request.get(), name: parse_name(name)? })
    }
}

/// Fixed part of CREATE_STREAM_ON; the name follows.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CreateStreamOnHead {
    /// Given back in the answer; the same in repetitions.
    pub request: U32,
    /// Where a stream that is new is to live.
    pub shard: U32,
}

/// CREATE_STREAM_ON: as CREATE_STREAM, a new one on a shard of the client's choice.
#[derive(Clone, Copy, Debug)]
pub struct CreateStreamOn<'a> {
    /// Which stream.
    pub stream: NameRequest<'a>,
    /// Where a stream that is new is to live.
    pub shard: u32,
}

impl<'a> CreateStreamOn<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let (head, name) =
            CreateStreamOnHead::ref_from_prefix(body).map_err(|_| Malformed::FrameBody)?;
        let stream = NameRequest { request: head.request.get(), name: parse_name(name)? };
        Ok(Self { stream, shard: head.shard.get() })
    }
}

/// REDIRECT: the stream a request names lives on another shard, or is to; ask there.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Redirect {
    /// Of the request.
    pub request: U32,
    /// The shard.
    pub shard: U32,
    /// IPv4 address of its port; zeros stand for the address that was asked.
    pub address: [u8; 4],
    /// UDP port.
    pub port: U16,
    /// Must be zero.
    pub reserved: U16,
}

const _: () = assert!(size_of::<CreateStreamOnHead>() == 8 && size_of::<Redirect>() == 16);

fn parse_name(bytes: &[u8]) -> Result<&str, Malformed> {
    let name = std::str::from_utf8(bytes).map_err(|_| Malformed::FrameBody)?;
    if is_stream_name(name) { Ok(name) } else { Err(Malformed::FrameBody) }
}

/// Whether `name` may name a stream: 1 to 64 of letters, digits, `.`, `_`, `-`, `/` and `:`, not starting with `.`.
#[must_use]
pub fn is_stream_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:".contains(&byte);
    (1..=STREAM_NAME_BYTES_MAX).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(allowed)
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
        let (head, name) =
            StreamInfoHead::ref_from_prefix(body).map_err(|_| Malformed::FrameBody)?;
        Ok(Self { head: ranged(head)?, name: parse_name(name)? })
    }
}
