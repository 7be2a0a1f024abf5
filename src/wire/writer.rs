//! Writing datagrams: frames one after the other into a buffer of the port.

use zerocopy::IntoBytes;

use super::datagram::DatagramHeader;
use super::frame::Kind;
use super::tlv::{TLV_HEAD_BYTES, tlv_bytes};
use super::{DATAGRAM_HEADER_BYTES, FRAME_HEAD_BYTES};
use crate::ids::ConnId;
use crate::seal::SEAL_BYTES;
use crate::seal::generation::Generation;

/// A datagram being written. A frame that does not fit is refused whole.
#[derive(Debug)]
pub struct DatagramWriter<'a> {
    buffer: &'a mut [u8],
    /// What is written ends there at the latest: the seal stands behind it.
    end: usize,
    len: usize,
    /// What it is sealed with, and its number.
    seal: Option<(&'a Generation, u64)>,
    /// Where the open frame's head stands.
    frame: Option<usize>,
}

impl<'a> DatagramWriter<'a> {
    /// Starts a datagram to the session that its receiver calls `conn_id`; `buffer` is as long as the datagram may become.
    ///
    /// # Panics
    /// When the buffer does not even hold the header.
    #[inline]
    pub fn new(buffer: &'a mut [u8], conn_id: ConnId, packet_no: u64) -> Self {
        let header = DatagramHeader::plain(conn_id, packet_no);
        buffer[..DATAGRAM_HEADER_BYTES].copy_from_slice(header.as_bytes());
        let end = buffer.len();
        Self { buffer, end, len: DATAGRAM_HEADER_BYTES, seal: None, frame: None }
    }

    /// The same of one that is sealed when it is finished, where there is something to seal it with.
    #[inline]
    pub(crate) fn sealed(
        buffer: &'a mut [u8],
        conn_id: ConnId,
        packet_no: u64,
        generation: Option<&'a Generation>,
    ) -> Self {
        let Some(generation) = generation else { return Self::new(buffer, conn_id, packet_no) };
        let header = DatagramHeader::sealed(conn_id, packet_no, generation.phase());
        buffer[..DATAGRAM_HEADER_BYTES].copy_from_slice(header.as_bytes());
        let end = buffer.len().saturating_sub(SEAL_BYTES);
        let seal = Some((generation, packet_no));
        Self { buffer, end, len: DATAGRAM_HEADER_BYTES, seal, frame: None }
    }

    /// Seals it where it is to be sealed; its length.
    #[must_use]
    #[inline]
    pub fn finish(self) -> usize {
        match self.seal {
            None => self.len,
            Some((generation, packet_no)) => generation.seal(packet_no, self.buffer, self.len),
        }
    }

    /// Bytes written so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no frame was written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == DATAGRAM_HEADER_BYTES
    }

    /// Body bytes that still fit into one more frame.
    #[must_use]
    pub fn room(&self) -> usize {
        self.room_in_frame().saturating_sub(FRAME_HEAD_BYTES)
    }

    /// Bytes that still fit into the open frame.
    #[must_use]
    #[inline]
    pub fn room_in_frame(&self) -> usize {
        self.end.saturating_sub(self.len)
    }

    /// Writes a frame of `head` followed by `tail`; `false`, and nothing written, when it does not fit.
    #[must_use]
    pub fn frame(&mut self, kind: Kind, head: &[u8], tail: &[u8]) -> bool {
        if head.len().saturating_add(tail.len()) > self.room() {
            return false;
        }
        self.begin(kind);
        self.extend(head);
        self.extend(tail);
        self.end();
        true
    }

    /// The same of `head` followed by a value of this type, as [`super::NAME`] is one.
    #[must_use]
    pub fn frame_with(&mut self, kind: Kind, head: &[u8], tlv: u16, value: &[u8]) -> bool {
        if head.len().saturating_add(tlv_bytes(value.len())) > self.room() {
            return false;
        }
        let len = u16::try_from(value.len()).expect("it fits a datagram");
        let padding = tlv_bytes(value.len()).saturating_sub(TLV_HEAD_BYTES);
        let padding = padding.saturating_sub(value.len());
        self.begin(kind);
        self.extend(head);
        self.extend(&tlv.to_le_bytes());
        self.extend(&len.to_le_bytes());
        self.extend(value);
        self.extend(&[0; 3][..padding]);
        self.end();
        true
    }

    /// Makes the datagram at least so long, as far as there is room: with a frame that says nothing.
    pub fn pad_to(&mut self, bytes: usize) {
        const ZEROS: [u8; 64] = [0; 64];
        let missing = bytes.min(self.end).saturating_sub(self.len);
        if missing == 0 || self.room_in_frame() < FRAME_HEAD_BYTES {
            return;
        }
        self.begin(Kind::Pad);
        let mut left = missing.saturating_sub(FRAME_HEAD_BYTES);
        while left > 0 {
            let step = left.min(ZEROS.len());
            self.extend(&ZEROS[..step]);
            left = left.saturating_sub(step);
        }
        self.end();
    }

    /// Opens a frame whose body is added piece by piece; the caller has seen that it fits.
    ///
    /// # Panics
    /// When a frame is open, or there is no room for its head.
    pub fn begin(&mut self, kind: Kind) {
        assert!(self.frame.is_none(), "one frame after the other");
        self.frame = Some(self.len);
        self.extend(&[kind as u8, 0, 0, 0]);
    }

    /// Adds to the open frame.
    ///
    /// # Panics
    /// When the bytes do not fit.
    #[inline]
    pub fn extend(&mut self, bytes: &[u8]) {
        self.buffer[self.len..][..bytes.len()].copy_from_slice(bytes);
        self.len = self.len.saturating_add(bytes.len());
    }

    /// Bytes written into the open frame at `at`, counted from the start of its body, to be corrected.
    ///
    /// # Panics
    /// When no frame is open, or it is shorter: only what was written is corrected.
    pub fn patch(&mut self, at: usize, bytes: &[u8]) {
        let start = self.frame.expect("an open frame");
        let start = start.saturating_add(FRAME_HEAD_BYTES).saturating_add(at);
        let written = &mut self.buffer[start..self.len];
        written[..bytes.len()].copy_from_slice(bytes);
    }

    /// Closes the open frame.
    ///
    /// # Panics
    /// When no frame is open.
    pub fn end(&mut self) {
        let start = self.frame.take().expect("an open frame");
        let body = self.len.saturating_sub(start).saturating_sub(FRAME_HEAD_BYTES);
        let body = u16::try_from(body).expect("a datagram is shorter than 64 KiB");
        self.buffer[start..][2..4].copy_from_slice(&body.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::frame::{Body, FromClient, FromServer};
    use crate::wire::publish::{MessageHead, Probe, PublishHead};
    use crate::wire::{Datagram, Malformed, parse};

    fn body(bytes: &[u8]) -> Body<'_> {
        let Ok(Datagram::Session { frames, .. }) = parse(bytes) else { panic!("of a session") };
        frames
    }

    fn publish(buffer: &mut [u8], payloads: &[&[u8]]) -> usize {
        let mut writer = DatagramWriter::new(buffer, ConnId(7), 9);
        writer.begin(Kind::Publish);
        let head = PublishHead {
            stream: 3.into(),
            count: u16::try_from(payloads.len()).unwrap().into(),
            reserved: 0.into(),
            first_seq: 1.into(),
        };
        writer.extend(head.as_bytes());
        for payload in payloads {
            let head = MessageHead {
                len: u16::try_from(payload.len()).unwrap().into(),
                ext_len: 0.into(),
                flags: 0.into(),
                reserved: 0.into(),
                crc32c: 0.into(),
            };
            writer.extend(head.as_bytes());
            writer.extend(payload);
        }
        writer.end();
        writer.len()
    }

    #[test]
    fn several_frames_come_back_in_order_and_zeros_say_nothing() {
        let mut buffer = [0; 256];
        let mut writer = DatagramWriter::new(&mut buffer, ConnId(7), 9);
        let probe = Probe { next_seq: 5.into(), receipts_to: 4.into() };
        assert!(writer.frame(Kind::Probe, probe.as_bytes(), &[]));
        assert!(writer.frame(Kind::Close, &[0; 8], &[]));
        writer.pad_to(20);
        writer.pad_to(200);
        let len = writer.len();
        assert_eq!(len, 200);
        let parsed = parse(&buffer[..len]).unwrap();
        let Datagram::Session { conn_id, packet_no, frames } = parsed else { panic!("{parsed:?}") };
        assert_eq!((conn_id, packet_no), (ConnId(7), 9));
        let mut frames = frames.from_client();
        assert!(matches!(frames.next(), Some(Ok(FromClient::Probe(p))) if p.next_seq.get() == 5));
        assert!(matches!(frames.next(), Some(Ok(FromClient::Close(_)))));
        let Some(Ok(FromClient::Pad(padding))) = frames.next() else { panic!("the padding") };
        assert_eq!(padding.zeros.len(), 200 - 16 - 20 - 12 - 4);
        assert!(frames.next().is_none());
    }

    #[test]
    fn padding_ends_where_the_datagram_does() {
        for room in 48..56 {
            let mut buffer = vec![0; room];
            let mut writer = DatagramWriter::new(&mut buffer, ConnId(7), 9);
            assert!(writer.frame(Kind::Close, &[0; 28], &[]));
            writer.pad_to(1_000);
            assert!(writer.len() <= room && (writer.len() == room || room < 52), "{room}");
        }
    }

    #[test]
    fn a_frame_that_does_not_fit_is_refused_whole() {
        let mut buffer = [0; 32];
        let mut writer = DatagramWriter::new(&mut buffer, ConnId(7), 9);
        assert!(!writer.frame(Kind::Error, &[0; 16], &[]));
        assert!(!writer.frame_with(Kind::Error, &[0; 4], crate::wire::TEXT, b"a long text"));
        assert!(writer.is_empty());
    }

    #[test]
    fn truncation_anywhere_is_malformed() {
        let mut buffer = [0; 256];
        let len = publish(&mut buffer, &[b"one", b"two", b""]);
        for cut in 17..len {
            let mut frames = body(&buffer[..cut]).from_client();
            assert!(matches!(frames.next(), Some(Err(_))), "cut at {cut} of {len}");
            assert!(frames.next().is_none(), "nothing is read past damage");
        }
        assert_eq!(parse(&buffer[..15]).err(), Some(Malformed::Short));
    }

    #[test]
    fn lengths_that_lie_are_malformed() {
        let mut buffer = [0; 256];
        let len = publish(&mut buffer, &[b"one", b"two"]);
        for (at, value) in [(24, 3), (24, 1), (36, 200), (38, 9), (18, 255)] {
            let mut copy = buffer;
            copy[at] = value;
            let mut frames = body(&copy[..len]).from_client();
            assert!(matches!(frames.next(), Some(Err(_))), "byte {at} set to {value}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..512), ours in any::<bool>()) {
            if ours && bytes.len() > 18 {
                let header = DatagramHeader::plain(ConnId(7), 9);
                bytes[..16].copy_from_slice(header.as_bytes());
                bytes[16] %= 24;
                bytes[17] = 0;
            }
            if let Ok(Datagram::Session { frames, .. }) = parse(&bytes) {
                for frame in frames.from_client() {
                    if let Ok(FromClient::Publish(publish)) = frame {
                        prop_assert_eq!(publish.messages().count() as u64, publish.count());
                    }
                }
                for frame in frames.from_server() {
                    if let Ok(FromServer::Data(data)) = frame {
                        prop_assert!(data.records().count() > 0);
                    }
                }
            }
        }
    }
}
