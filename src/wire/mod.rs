//! The wire: bytes of a datagram, all integers little-endian.
//!
//! A datagram is a 16-byte header and any number of frames. A frame is a 4-byte head (kind, flags,
//! body length) and its body. Everything is parsed once, here, into types that cannot be wrong: a
//! frame that parses has all the bytes its lengths speak of, and its numbers are in their ranges.
//!
//! ```text
//! datagram:  version/type u8 · flags u8 · key_phase u8 · reserved u8 · conn_id u32 · packet_no u64 · frames
//! frame:     kind u8 · flags u8 · len u16 · body of len bytes
//! ```
//!
//! Kinds and who sends them (C client, S server):
//!
//! | kind | from | says |
//! |---|---|---|
//! | REGISTER | C | open a session, as a new producer, a known one, or none |
//! | REGISTERED | S | the session is open; where the producer stands; its credit |
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
//! | CREATE_STREAM_ON | C | as CREATE_STREAM, a new stream on a given shard |
//! | REDIRECT | S | the stream asked for is on another shard: ask there |
//! | ERROR | S | a refusal with its reason |
//! | CLOSE | both | the session ends; a client that still wants something registers again |
//! | RETIRE | C | the session ends, and its producer does not return: its place is free; answered by CLOSE |
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

pub mod record;
mod range;
pub mod frame;
pub mod publish;
pub mod control;
mod writer;
#[cfg(any(test, feature = "sim"))]
#[allow(clippy::arithmetic_side_effects, reason = "numbers of its own")]
pub(crate) mod samples;

pub use frame::{Frame, Frames};
pub use writer::DatagramWriter;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::ids::ConnId;

/// The protocol version this release speaks.
pub const VERSION: u8 = 1;

/// Version in the high four bits, type in the low four: type 0 is frames in the clear.
pub const VERSION_TYPE_CLEAR: u8 = VERSION << 4;

/// First bytes of every datagram.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DatagramHeader {
    /// Version and type.
    pub version_type: u8,
    /// Must be zero.
    pub flags: u8,
    /// Must be zero until datagrams are encrypted.
    pub key_phase: u8,
    /// Must be zero.
    pub reserved: u8,
    /// The session, as the server numbers it; 0 to register.
    pub conn_id: U32,
    /// Counts the sender's datagrams of this session from 1, never reused.
    pub packet_no: U64,
}

/// Size of [`DatagramHeader`].
pub const DATAGRAM_HEADER_BYTES: usize = 16;
/// Size of a frame's head.
pub const FRAME_HEAD_BYTES: usize = 4;

const _: () = assert!(size_of::<DatagramHeader>() == DATAGRAM_HEADER_BYTES);

/// A datagram that is none of ours, or lies about its lengths; dropped and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, displaydoc::Display, thiserror::Error)]
pub enum Malformed {
    /// shorter than its header
    Short,
    /// of another protocol version or type
    Version,
    /// reserved bits are set
    Reserved,
    /// a frame is longer than its datagram
    FrameLength,
    /// of an unknown frame kind
    FrameKind,
    /// a frame's body does not hold what it announces
    FrameBody,
    /// a number is out of its range
    Range,
}

/// Splits a datagram into its header and the iterator over its frames.
///
/// # Errors
/// What is wrong with the header; frames report their own errors as they are reached.
#[inline]
pub fn parse(bytes: &[u8]) -> Result<(ConnId, u64, Frames<'_>), Malformed> {
    let (header, rest) = DatagramHeader::ref_from_prefix(bytes).map_err(|_| Malformed::Short)?;
    if header.version_type != VERSION_TYPE_CLEAR {
        return Err(Malformed::Version);
    }
    if header.flags != 0 || header.key_phase != 0 || header.reserved != 0 {
        return Err(Malformed::Reserved);
    }
    Ok((ConnId(header.conn_id.get()), header.packet_no.get(), Frames::new(rest)))
}
