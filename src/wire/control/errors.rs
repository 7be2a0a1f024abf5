//! The frame that says why something was refused.

use std::fmt;
use std::net::SocketAddrV4;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::wire::Malformed;
use crate::wire::tlv::Tlvs;

/// Why something was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, displaydoc::Display, thiserror::Error)]
#[repr(u16)]
#[ignore_extra_doc_attributes]
pub enum ErrorCode {
    /// the other side says what makes no sense: it is of another release, or its memory is damaged
    Protocol = 1,
    /// another instance of this producer has registered
    Fenced = 2,
    /// the server does not know this producer: it was forgotten after a week without a session, or this is another
    /// log than before: is its disk in place, is this the address?
    UnknownProducer = 3,
    /// no such stream
    UnknownStream = 4,
    /// a message is too large
    ///
    /// A published one is larger than the server takes, or one of a subscription than its datagrams hold; the detail
    /// is [`Sizes`].
    MessageTooLarge = 5,
    /// the log is full: trim every stream (buslane stream trim), or take a larger disk (buslane log copy --size)
    NoSpace = 6,
    /// the disk failed; nothing more is acknowledged until the server is restarted
    DiskFailed = 7,
    /// acknowledged data is damaged on the media
    DataLoss = 8,
    /// the server is stopping, or its disk is away
    Draining = 10,
    /// the request makes no sense to the server
    BadRequest = 11,
    /// the server knows no such subscription
    ///
    /// The client subscribes again.
    UnknownSubscription = 13,
    /// the server has its hands full just now; ask again
    Busy = 14,
    /// there is no right to that; whoever runs the appliance gives rights, in access.toml beside its keys
    NotAuthorized = 15,
    /// the server serves another log now: is its disk in place, is this the address?
    WrongLog = 16,
    /// the server serves another history of this log: was a copy or a snapshot brought back?
    ///
    /// The detail is how far the stream has come there, or with [`OF_PRODUCER`] how far the producer has.
    Diverged = 17,
    /// its key or its identity was revoked by whoever runs the appliance
    Revoked = 22,
    /// the server is starting: it makes its log, or recovers it
    Starting = 24,
    /// all places for sessions are taken; one is free when a client ends, or has been silent for 10 s: try again
    SessionsFull = 25,
    /// all places for producers are taken; one is free when a publisher ends in order, or has been silent for a week:
    /// try again then, or go on as a producer that is known
    ProducersFull = 26,
    /// the shard has as many streams as it takes, and a stream stays for good: publish to one that is there, or make
    /// the log with more shards (each takes as many)
    StreamsFull = 27,
    /// there are as many subscriptions as the server takes: end one, or wait until another client ends
    SubscriptionsFull = 28,
    /// another publisher is this producer just now: end it, or take the producer over from it
    ///
    /// The detail is where it sends from.
    ProducerHeld = 29,
}

/// Why something was refused, with the number that belongs to the reason, where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodedError {
    /// Why.
    pub code: ErrorCode,
    /// The number; 0 for none.
    pub detail: u64,
}

impl fmt::Display for CodedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, detail } = *self;
        match (code, Sizes::of(detail)) {
            _ if detail == 0 => code.fmt(f),
            (ErrorCode::Diverged, _) => {
                write!(f, "{code} It is at {} there", detail & !OF_PRODUCER)
            }
            (ErrorCode::UnknownProducer, _) => {
                let text = code.to_string();
                f.write_str(&text.replacen("this producer", &format!("producer {detail}"), 1))
            }
            (ErrorCode::ProducerHeld, _) => {
                let from = holder(detail);
                write!(f, "{code} ({from})")
            }
            (ErrorCode::MessageTooLarge, Sizes { needs, takes }) => {
                write!(f, "{code}: {needs} bytes, and {takes} fit")
            }
            _ => write!(f, "{code} ({detail})"),
        }
    }
}

impl ErrorCode {
    /// The same with a number that belongs to it.
    #[must_use]
    pub const fn with(self, detail: u64) -> CodedError {
        CodedError { code: self, detail }
    }

    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::Protocol,
        Self::Fenced,
        Self::UnknownProducer,
        Self::UnknownStream,
        Self::MessageTooLarge,
        Self::NoSpace,
        Self::DiskFailed,
        Self::DataLoss,
        Self::Draining,
        Self::BadRequest,
        Self::UnknownSubscription,
        Self::Busy,
        Self::NotAuthorized,
        Self::WrongLog,
        Self::Diverged,
        Self::Revoked,
        Self::Starting,
        Self::SessionsFull,
        Self::ProducersFull,
        Self::StreamsFull,
        Self::SubscriptionsFull,
        Self::ProducerHeld,
    ];

    /// Whether asking again may help by itself, soon; a client does that. All others are final for what was
    /// asked: something has to change before, and the message says what.
    #[must_use]
    pub fn is_retry(self) -> bool {
        match self {
            Self::UnknownSubscription
            | Self::Draining
            | Self::Starting
            | Self::Busy
            | Self::ProducerHeld
            | Self::SessionsFull => true,
            Self::Protocol
            | Self::Fenced
            | Self::UnknownProducer
            | Self::UnknownStream
            | Self::MessageTooLarge
            | Self::NoSpace
            | Self::DiskFailed
            | Self::DataLoss
            | Self::BadRequest
            | Self::NotAuthorized
            | Self::WrongLog
            | Self::Diverged
            | Self::Revoked
            | Self::ProducersFull
            | Self::StreamsFull
            | Self::SubscriptionsFull => false,
        }
    }

    /// The code on the wire.
    #[must_use]
    pub fn code(self) -> u16 {
        self as u16
    }

    /// Back from the wire; `None` for a code of a later release.
    #[must_use]
    pub fn from_code(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.code() == code)
    }
}

/// Set in the detail of [`ErrorCode::Diverged`] where it is a producer's number.
pub const OF_PRODUCER: u64 = 1 << 63;

/// An address as detail of [`ErrorCode::ProducerHeld`].
#[must_use]
pub fn holder_detail(addr: SocketAddrV4) -> u64 {
    u64::from(u32::from(*addr.ip())) << 16 | u64::from(addr.port())
}

fn holder(detail: u64) -> SocketAddrV4 {
    let [port_low, port_high, ip @ .., _, _] = detail.to_le_bytes();
    let ip = u32::from_le_bytes(ip);
    SocketAddrV4::new(ip.into(), u16::from_le_bytes([port_low, port_high]))
}

/// What [`ErrorCode::MessageTooLarge`] is about, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// What the message needs.
    pub needs: usize,
    /// What there is for it.
    pub takes: usize,
}

impl Sizes {
    /// Both as a detail on the wire.
    #[must_use]
    pub fn detail(self) -> u64 {
        let size = |bytes: usize| u64::from(u32::try_from(bytes).unwrap_or(u32::MAX));
        size(self.needs) << 32 | size(self.takes)
    }

    /// Both back from a detail.
    #[must_use]
    pub fn of(detail: u64) -> Self {
        let size = |bits: u64| usize::try_from(bits & u64::from(u32::MAX)).expect("32 bits fit");
        Self { needs: size(detail >> 32), takes: size(detail) }
    }
}

/// Fixed part of ERROR; a text for people follows.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ErrorHead {
    /// [`ErrorCode`].
    pub code: U16,
    /// Must be zero.
    pub reserved: U16,
    /// The request that is refused, or 0.
    pub request: U32,
    /// A number that belongs to the reason: stream, limit or sequence.
    pub detail: U64,
}

/// ERROR: a refusal with its reason.
#[derive(Clone, Copy, Debug)]
pub struct ErrorFrame<'a> {
    /// The fixed part.
    pub head: &'a ErrorHead,
    /// For people; may be empty.
    pub text: &'a str,
}

impl<'a> ErrorFrame<'a> {
    pub(in crate::wire) fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let (head, rest) = ErrorHead::ref_from_prefix(body).map_err(|_| Malformed::FrameBody)?;
        if head.reserved.get() != 0 {
            return Err(Malformed::Reserved);
        }
        let text = Tlvs::parse(rest)?.text.unwrap_or_default();
        Ok(Self { head, text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_the_number_that_belongs_to_it_and_no_other() {
        let full = ErrorCode::NoSpace.with(0).to_string();
        assert!(
            full.starts_with("the log is full: trim every stream (buslane stream trim), "),
            "{full}"
        );
        assert!(!full.contains("(0)"), "{full}");
        let places = ErrorCode::ProducersFull.with(17).to_string();
        assert!(places.ends_with(" (17)"), "{places}");
        let unknown = ErrorCode::UnknownProducer.with(17).to_string();
        assert!(unknown.starts_with("the server does not know producer 17: it was"), "{unknown}");
        let held = ErrorCode::ProducerHeld.with(holder_detail("10.1.2.3:4567".parse().unwrap()));
        assert!(held.to_string().ends_with("take the producer over from it (10.1.2.3:4567)"));
        let sizes = Sizes { needs: 2_000, takes: 1_400 };
        let large = ErrorCode::MessageTooLarge.with(sizes.detail()).to_string();
        assert_eq!(large, "a message is too large: 2000 bytes, and 1400 fit");
    }
}
