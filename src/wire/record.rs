//! The record of a message, the same bytes on the disk and on the wire to consumers.
//!
//! ```text
//!  0 len u32            payload and extension bytes
//!  4 crc32c u32         over bytes 8..32 and the payload, computed by the producer, checked by the consumer
//!  8 producer_id u64  \
//! 16 producer_seq u64  | what the producer wrote
//! 24 stream u32        |
//! 28 flags u16         |
//! 30 ext_len u16      /  of `len`, how many bytes at the front are extension headers
//! 32 sequence u64      dense in the stream, assigned by the server
//! 40 received_ns u64   Unix time at which the server received it
//! 48 extension, payload, zeros up to a multiple of 8
//! ```

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::ids::{ProducerId, StreamId};

/// Fixed part of a record, little-endian.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RecordHeader {
    /// Payload and extension bytes.
    pub len: U32,
    /// CRC-32C (Castagnoli) of the producer's 24 bytes and the payload.
    pub crc32c: U32,
    /// Who published it.
    pub producer_id: U64,
    /// The producer's own number, contiguous from 1.
    pub producer_seq: U64,
    /// Stream.
    pub stream: U32,
    /// None defined yet; carried as they are.
    pub flags: U16,
    /// Extension bytes at the front of the payload.
    pub ext_len: U16,
    /// Dense in the stream, from 1.
    pub sequence: U64,
    /// Unix time of arrival in nanoseconds.
    pub received_ns: U64,
}

/// Size of the fixed part.
pub const RECORD_HEADER_BYTES: usize = 48;

const _: () = assert!(size_of::<RecordHeader>() == RECORD_HEADER_BYTES, "no padding in a record");

/// Bytes a record of `len` payload bytes takes, padding included.
#[must_use]
pub const fn record_bytes(len: usize) -> usize {
    RECORD_HEADER_BYTES.saturating_add(len).next_multiple_of(8)
}

/// A record read back: its header and its payload (extension included).
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The fixed part.
    pub header: &'a RecordHeader,
    /// Extension and payload.
    pub payload: &'a [u8],
}

impl<'a> Record<'a> {
    /// Takes the first record off `bytes` and returns it with what follows; `None` where the bytes
    /// cannot be a record. The checksum is not looked at: see [`Record::is_intact`].
    #[must_use]
    pub fn split_first(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (header, rest) = RecordHeader::ref_from_prefix(bytes).ok()?;
        let len = usize::try_from(header.len.get()).ok()?;
        let padded = len.checked_next_multiple_of(8)?;
        if usize::from(header.ext_len.get()) > len || padded > rest.len() {
            return None;
        }
        Some((Self { header, payload: &rest[..len] }, &rest[padded..]))
    }

    /// Whether the producer's checksum agrees.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        let header = self.header.as_bytes();
        crc32c(&header[8..32], self.payload) == self.header.crc32c.get()
    }
}

/// What the producer signs with its checksum.
#[derive(Clone, Copy, Debug)]
pub struct Signed {
    /// Who publishes.
    pub producer_id: ProducerId,
    /// Its own number.
    pub producer_seq: u64,
    /// Where to.
    pub stream: StreamId,
    /// Flags.
    pub flags: u16,
    /// Extension bytes at the front of the payload.
    pub ext_len: u16,
}

impl Signed {
    /// CRC-32C over the 24 bytes of a record header that hold these fields, and the payload.
    #[must_use]
    #[inline]
    pub fn crc32c(&self, payload: &[u8]) -> u32 {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.producer_id.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.producer_seq.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.stream.0.to_le_bytes());
        bytes[20..22].copy_from_slice(&self.flags.to_le_bytes());
        bytes[22..].copy_from_slice(&self.ext_len.to_le_bytes());
        crc32c(&bytes, payload)
    }
}

/// CRC-32C (Castagnoli) of `head` followed by `tail`.
#[must_use]
#[inline]
pub fn crc32c(head: &[u8], tail: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(head);
    digest.update(tail);
    u32::try_from(digest.finalize()).expect("a 32-bit checksum")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_agrees_with_an_independent_implementation() {
        let payload: Vec<u8> = (0..=255).collect();
        assert_eq!(crc32c(b"123456789", b""), 0xe306_9283, "the check value of RFC 3720");
        assert_eq!(crc32c(&payload[..24], &payload[24..]), ::crc32c::crc32c(&payload));
    }
}
