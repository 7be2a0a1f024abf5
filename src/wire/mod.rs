//! The wire: bytes of a datagram, all integers little-endian.
//!
//! A datagram of a session is a header of 16 bytes and any number of frames. A frame is a head of 4 bytes (kind, zero,
//! length of the body) and its body. Everything is parsed once, here, into types that cannot be wrong: a
//! frame that parses has all the bytes its lengths speak of, and its numbers are in their ranges.
//!
//! ```text
//! datagram:  type u8 · phase u8 · packet_no u48 · conn_id u64 · frames
//! frame:     kind u8 · 0 · len u16 · body of len bytes
//! ```
//!
//! What two say to each other before there is a session is in [`datagram`]. Kinds of frames and who says them (C client,
//! S server):
//!
//! | kind | from | says |
//! |---|---|---|
//! | PAD | both | nothing |
//! | REGISTER | C | publish as a new producer, a known one, or as none; what is known of the log |
//! | REGISTERED | S | the session is open; which log it is, where the producer stands, its credit |
//! | PUBLISH | C | messages of one stream with contiguous producer numbers |
//! | ACK | S | received so far, durable so far, credit, receipts |
//! | NAK | S | which producer numbers are missing |
//! | PROBE | C | "tell me where we are": asks for an ACK from a given receipt on |
//! | SUBSCRIBE, SUBSCRIBED | C, S | deliver a stream from a sequence, a time, its start or its end |
//! | DATA | S | records of one stream with contiguous sequences, all durable |
//! | STATUS | C | the next sequence wanted, how far the server may send, optionally "go back to there" |
//! | HEARTBEAT | both | I am alive; from the server per subscription: the next durable sequence |
//! | TRIMMED, DATA_LOSS | S | what cannot be delivered, said instead of skipped |
//! | UNSUBSCRIBE | C | stop delivering |
//! | CREATE_STREAM, DESCRIBE_STREAM, TRIM_STREAM, LIST_STREAMS | C | control, answered by STREAM_INFO, LIST_END or ERROR |
//! | REDIRECT | S | the stream asked for is on another shard: ask there |
//! | ERROR | S | a refusal with its reason |
//! | CLOSE | both | the session has ended for good, and, from a client that says so, its producer with it |
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

pub mod record;
mod range;
mod tlv;
pub mod frame;
pub mod datagram;
mod parse;
pub mod mac;
pub mod publish;
pub mod control;
mod writer;
#[cfg(any(test, feature = "sim"))]
#[allow(clippy::arithmetic_side_effects, reason = "numbers of its own")]
pub(crate) mod samples;
#[cfg(test)]
mod frame_vectors_tests;
#[cfg(test)]
mod vectors_tests;

pub use datagram::DATAGRAM_HEADER_BYTES;
pub use frame::{FromClient, FromServer, Kind, Side};
pub use parse::{Datagram, opened, parse};
pub use tlv::{NAME, TEXT, tlv_bytes};
pub use writer::DatagramWriter;

/// Size of a frame's head.
pub const FRAME_HEAD_BYTES: usize = 4;

/// A datagram that is none of ours, or lies about its lengths; dropped and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, displaydoc::Display, thiserror::Error)]
pub enum Malformed {
    /// shorter or longer than what it is
    Short,
    /// of another protocol version or type
    Version,
    /// reserved bits are set
    Reserved,
    /// a frame is longer than its datagram
    FrameLength,
    /// of an unknown frame kind
    FrameKind,
    /// a frame that the other side does not say
    Direction,
    /// a frame's body does not hold what it announces
    FrameBody,
    /// a number is out of its range
    Range,
}
