//! Clients: the same session code as in the server, over a [`Port`](crate::port::Port).
//!
//! [`polled::Client`] is for gateways that run their own loop: `offer` a message, `poll` the port, take
//! completions with their receipts; nothing blocks, back-pressure is a value. [`blocking::Client`]
//! wraps it for everyone else.
//!
//! A publish has two outcomes only: durable, with its receipt, or still being retried. A server that is
//! killed and started again is waited for; what it has not made durable is sent again under the same
//! number, and what it has is not appended twice.
//!
//! An appliance has several shards, each with a UDP port, streams and producers of its own; a session is with
//! one shard. A client that asks for a stream of another shard is sent there, and goes by itself while its
//! session has neither published nor subscribed; later it is told so ([`Event::Redirected`]) and another
//! client has to be opened. So: ask first, with a session that does not publish, and then open one session a
//! shard at the addresses found.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

pub mod polled;
pub mod blocking;

use std::net::SocketAddrV4;
use std::num::NonZeroU64;
use std::sync::Arc;

use crate::access::{self, AccessError, Credentials, PublicKey, SecretKey};
use crate::ids::{Durability, Epoch, ProducerId, ProducerName, StreamId};
use crate::limits::WINDOW_MESSAGES_MAX;
use crate::seal::SEAL_BYTES;
use crate::seal::entropy::Entropy;
pub use crate::wire::control::StartFrom;
use crate::wire::control::{CodedError, ErrorCode};
use crate::wire::publish::PublishState;

/// Whom a client publishes as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publisher {
    /// It does not publish.
    No,
    /// A new producer.
    New,
    /// A producer the server knows; another instance of it is fenced.
    Known(ProducerId),
    /// The producer of a name, made where there is none. It is not forgotten: whoever publishes as it later, be it from
    /// another host, goes on behind its last message ([`polled::Client::last_published`]).
    Named {
        /// Its name.
        name: ProducerName,
        /// Also from a publisher that is there, which is then fenced; else that one is waited for.
        take_over: bool,
    },
}

/// How a client is known to an appliance, and knows it.
#[derive(Clone, Debug)]
pub enum Security {
    /// It is believed, and believes: what is said can be read and changed on the way.
    Plain,
    /// Both ends have keys, and nobody else can read or change what is said.
    Sealed(Arc<ClientKeys>),
}

/// The keys that a client needs.
#[derive(Clone, Debug)]
pub struct ClientKeys {
    /// The appliance's.
    pub server: PublicKey,
    /// Its own.
    pub secret: SecretKey,
    /// Shared by both beside these, where there is one.
    pub psk: Option<SecretKey>,
}

impl Security {
    /// By what is found on this host for the appliance at `server`: see [`crate::access::find`].
    ///
    /// # Errors
    /// That nothing is found, with where it was looked for, or what is wrong with what is.
    pub fn find(server: SocketAddrV4) -> Result<Self, AccessError> {
        let found = access::find_here(None, server)?;
        Ok(Self::of(&found.1))
    }

    /// By these credentials.
    #[must_use]
    pub fn of(credentials: &Credentials) -> Self {
        let Credentials { server_key, secret, psk, .. } = credentials;
        let (secret, psk) = (secret.clone(), psk.clone());
        Self::Sealed(Arc::new(ClientKeys { server: *server_key, secret, psk }))
    }

    /// Bytes that it adds to a datagram.
    pub(crate) fn seal_bytes(&self) -> usize {
        match self {
            Self::Plain => 0,
            Self::Sealed(_) => SEAL_BYTES,
        }
    }
}

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Whom it publishes as.
    pub publisher: Publisher,
    /// Messages offered and not completed, at most; rounded up to a power of two.
    pub window_messages: usize,
    /// Bytes of these.
    pub window_bytes: usize,
    /// The server is given up after so long a silence, or without an answer to what was asked; `u64::MAX` waits
    /// for ever.
    pub dead_after_ns: u64,
    /// How it is known.
    pub security: Security,
    /// Where its random bytes come from.
    pub entropy: Entropy,
}

impl ClientOptions {
    /// A client that publishes as `publisher` in the clear, and waits 10 s for a silent server.
    #[must_use]
    pub fn plain(publisher: Publisher) -> Self {
        Self::new(publisher, Security::Plain)
    }

    /// A client that publishes as `publisher`, is known so, and waits 10 s for a silent server.
    #[must_use]
    pub fn new(publisher: Publisher, security: Security) -> Self {
        Self {
            publisher,
            window_messages: WINDOW_MESSAGES_MAX,
            window_bytes: 16 << 20,
            dead_after_ns: 10_000_000_000,
            security,
            entropy: Entropy::system(),
        }
    }
}

/// What the server said of a durable message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Stream.
    pub stream: StreamId,
    /// Its sequence in the stream; `None` only where the receipt was lost with a server that was killed.
    pub sequence: Option<NonZeroU64>,
    /// epoch
    pub epoch: Epoch,
    /// Why it is safe.
    pub durability: Durability,
    /// Nanoseconds from receive to durable in the server.
    pub server_ns: u32,
    /// Nanoseconds of these in the device.
    pub device_ns: u32,
}

/// A message that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The number `offer` returned.
    pub producer_seq: u64,
    /// What the server said.
    pub receipt: Receipt,
    /// When it was offered, on the client's clock.
    pub offered_ns: u64,
    /// When it was last sent.
    pub sent_ns: u64,
}

/// Why a message was not taken by `offer`; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, displaydoc::Display, thiserror::Error)]
pub enum OfferError {
    /// back-pressure: {0:?}
    BackPressure(BackPressure),
    /// the session is not open yet
    NotConnected,
    /// a message of {bytes} bytes is too large: {max} is the most ({limit})
    TooLarge {
        /// Its size.
        bytes: usize,
        /// What fits.
        max: usize,
        /// What would have to be larger.
        limit: SizeLimit,
    },
    /// this client does not publish
    NotAPublisher,
}

/// What limits the size of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, displaydoc::Display, thiserror::Error)]
pub enum SizeLimit {
    /// port.datagram_bytes of the appliance
    Server,
    /// client.port.datagram_bytes of this side
    Client,
    /// the client's window_bytes
    Window,
}

/// What a publisher waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackPressure {
    /// Acknowledgements of what was offered before.
    Window,
    /// Its owner: what was offered before is durable, and nobody has taken the completions.
    Completions,
    /// The server: the log is full, it is draining, its disk failed, or data was found damaged.
    Server(PublishState),
}

/// Something a client was told beside completions and messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The session is open, for the first time or again.
    Connected {
        /// The producer it publishes as.
        producer: ProducerId,
    },
    /// A subscription stands.
    Subscribed {
        /// Stream.
        stream: StreamId,
        /// First sequence that comes.
        start: u64,
        /// The sequence after the newest durable one.
        durable_next: u64,
    },
    /// Facts of a stream, asked for or in a list.
    Stream {
        /// The request it answers.
        request: u32,
        /// The facts.
        info: StreamDescription,
    },
    /// A list is complete.
    ListEnd {
        /// The request it answers.
        request: u32,
    },
    /// A request was refused.
    Refused {
        /// Which.
        request: u32,
        /// Why.
        code: ErrorCode,
        /// A number that belongs to the reason.
        detail: u64,
    },
    /// The stream a request names is on another shard, and this session cannot go there because it has work
    /// here; ask again with a client for that address.
    Redirected {
        /// The request it answers.
        request: u32,
        /// The shard.
        shard: u32,
        /// Where that listens.
        server: std::net::SocketAddrV4,
    },
    /// The position asked for, or that of a running subscription, was trimmed; the subscription has ended.
    Trimmed {
        /// Stream.
        stream: StreamId,
        /// The oldest sequence kept.
        log_start: u64,
    },
    /// A message does not fit the datagrams of this subscription; it ends there.
    TooLarge {
        /// Stream.
        stream: StreamId,
        /// The message.
        sequence: u64,
        /// UDP payload of a datagram that holds it.
        needs: usize,
        /// What the datagrams of this session hold.
        takes: usize,
        /// What would have to be larger.
        limit: SizeLimit,
    },
    /// Sequences are damaged on the media; the subscription ends here.
    DataLoss {
        /// Stream.
        stream: StreamId,
        /// First.
        first: u64,
        /// Last, as far as is known.
        last: u64,
    },
}

/// Facts of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamDescription {
    /// Its number.
    pub id: StreamId,
    /// Its name.
    pub name: String,
    /// The oldest sequence kept.
    pub log_start: u64,
    /// The sequence after the newest durable one.
    pub durable_next: u64,
    /// Unix time of creation in nanoseconds.
    pub created_ns: u64,
    /// Payload bytes.
    pub bytes: u64,
    /// The shard it lives on.
    pub shard: u32,
}

/// Why a client can go on no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, displaydoc::Display, thiserror::Error)]
pub enum ClientError {
    /// {server} does not answer: is the appliance running, and is this its address?
    Unreachable {
        /// Where it was looked for.
        server: std::net::SocketAddrV4,
    },
    /// shard {shard} at {server} does not answer, and {by} of the same appliance does: each shard has a UDP port of
    /// its own, port.address + its number; is {server} open in every firewall on the way?
    ShardUnreachable {
        /// Which.
        shard: u32,
        /// Where it was looked for.
        server: std::net::SocketAddrV4,
        /// The shard that answered.
        by: std::net::SocketAddrV4,
    },
    /// {server} sends, but does not answer {what}: is it an appliance, and of this release?
    Unanswered {
        /// Who.
        server: std::net::SocketAddrV4,
        /// What was asked.
        what: &'static str,
    },
    /// a message of {bytes} bytes is too large: {max} is the most ({limit})
    TooLarge {
        /// Its size.
        bytes: usize,
        /// What fits.
        max: usize,
        /// What would have to be larger.
        limit: SizeLimit,
    },
    /// the server refused: {0}
    Refused(CodedError),
    /// {server} serves another log now: {found:08x}, this session began with {begun:08x}; what was acknowledged is in
    /// that one: is its disk in place, is this the address? Nothing was sent to the other
    OtherLog {
        /// Where.
        server: std::net::SocketAddrV4,
        /// The log the session began with, as `log describe` begins its identity.
        begun: u32,
        /// The one that answers.
        found: u32,
    },
    /// {server} serves an older state of the log: it is at {found} where {acknowledged} was acknowledged ({what});
    /// was a copy or a snapshot brought back? Nothing more was sent
    Behind {
        /// Where.
        server: std::net::SocketAddrV4,
        /// What was compared.
        what: Compared,
        /// As acknowledged.
        acknowledged: u64,
        /// As found.
        found: u64,
    },
    /// {server} knows this producer as another: {found} where {expected} was the last ({what}); it serves another
    /// log, or another program publishes as this producer; nothing more was sent
    OtherProducer {
        /// Where.
        server: std::net::SocketAddrV4,
        /// What was compared.
        what: Compared,
        /// As this client has it.
        expected: u64,
        /// As found.
        found: u64,
    },
    /// {server} serves another history of the log: sequence {sequence} of stream {stream}, which was acknowledged, is
    /// another message there; was a copy or a snapshot brought back? Nothing more was sent
    OtherHistory {
        /// Where.
        server: std::net::SocketAddrV4,
        /// The stream.
        stream: StreamId,
        /// The newest message acknowledged.
        sequence: u64,
    },
    /// {server} knows nobody with this client's key; whoever runs it lets it in (buslane key authorize)
    UnknownKey {
        /// Where.
        server: std::net::SocketAddrV4,
    },
    /// {server} speaks another version of the protocol: {lowest} to {highest}; this is one of version 1
    OtherVersion {
        /// Where.
        server: std::net::SocketAddrV4,
        /// The lowest it speaks.
        lowest: u16,
        /// The highest.
        highest: u16,
    },
    /// {server} says numbers that cannot be: it is no appliance of this protocol, or its memory is damaged
    Nonsense {
        /// Who says them.
        server: std::net::SocketAddrV4,
    },
    /// stream {stream}, sequence {sequence}: the message fails its checksum
    DamagedMessage {
        /// Stream.
        stream: StreamId,
        /// Sequence.
        sequence: u64,
    },
}

/// What tells a client that its log is not what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, displaydoc::Display)]
pub enum Compared {
    /// the epoch of its writer
    Epoch,
    /// producer
    Producer,
    /// the producer's messages
    Messages,
    /// messages of stream {0}
    Stream(StreamId),
}

/// The shard a session is with, and the appliance it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardFacts {
    /// Its number.
    pub shard: u32,
    /// Shards of the appliance.
    pub shards: u32,
    /// Where shard 0 listens; shard k has the same address and this UDP port + k.
    pub base: std::net::SocketAddrV4,
}

impl ShardFacts {
    /// Where a shard listens; `None` where the appliance has no such shard.
    #[must_use]
    pub fn address_of(&self, shard: u32) -> Option<std::net::SocketAddrV4> {
        let offset = u16::try_from(shard).ok().filter(|_| shard < self.shards)?;
        let port = self.base.port().checked_add(offset)?;
        Some(std::net::SocketAddrV4::new(*self.base.ip(), port))
    }
}

/// What a client asks for, repeated until it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Make a stream, or find the one of this name.
    CreateStream(String),
    /// The same; a new one on the shard of this number.
    CreateStreamOn(String, u32),
    /// Find a stream.
    DescribeStream(String),
    /// Keep nothing of a stream below a sequence; answered with its facts once that is durable.
    TrimStream(StreamId, u64),
    /// All streams of the shard.
    ListStreams,
}
