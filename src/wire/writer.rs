//! Writing datagrams: frames one after the other into a buffer of the port.

use zerocopy::IntoBytes;

use super::frame::Kind;
use super::{DATAGRAM_HEADER_BYTES, DatagramHeader, FRAME_HEAD_BYTES, VERSION_TYPE_CLEAR};
use crate::ids::ConnId;

/// A datagram being written. A frame that does not fit is refused whole.
#[derive(Debug)]
pub struct DatagramWriter<'a> {
    buffer: &'a mut [u8],
    len: usize,
    /// Where the open frame's head stands.
    frame: Option<usize>,
}

impl<'a> DatagramWriter<'a> {
    /// Starts a datagram; `buffer` is as long as the datagram may become.
    ///
    /// # Panics
    /// When the buffer does not even hold the header.
    pub fn new(buffer: &'a mut [u8], conn_id: ConnId, packet_no: u64) -> Self {
        let header = DatagramHeader {
            version_type: VERSION_TYPE_CLEAR,
            flags: 0,
            key_phase: 0,
            reserved: 0,
            conn_id: conn_id.0.into(),
            packet_no: packet_no.into(),
        };
        buffer[..DATAGRAM_HEADER_BYTES].copy_from_slice(header.as_bytes());
        Self { buffer, len: DATAGRAM_HEADER_BYTES, frame: None }
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
        self.buffer.len().saturating_sub(self.len)
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
    use crate::wire::publish::{MessageHead, Probe, PublishHead};
    use crate::wire::{Frame, Malformed, parse};

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
    fn several_frames_come_back_in_order() {
        let mut buffer = [0; 256];
        let mut writer = DatagramWriter::new(&mut buffer, ConnId(7), 9);
        let probe = Probe { next_seq: 5.into(), receipts_to: 4.into() };
        assert!(writer.frame(Kind::Probe, probe.as_bytes(), &[]));
        assert!(writer.frame(Kind::Close, &[], &[]));
        let len = writer.len();
        let (conn_id, packet_no, mut frames) = parse(&buffer[..len]).unwrap();
        assert_eq!((conn_id, packet_no), (ConnId(7), 9));
        assert!(matches!(frames.next(), Some(Ok(Frame::Probe(p))) if p.next_seq.get() == 5));
        assert!(matches!(frames.next(), Some(Ok(Frame::Close))));
        assert!(frames.next().is_none());
    }

    #[test]
    fn a_frame_that_does_not_fit_is_refused_whole() {
        let mut buffer = [0; 32];
        let mut writer = DatagramWriter::new(&mut buffer, ConnId(7), 9);
        assert!(!writer.frame(Kind::Error, &[0; 16], &[]));
        assert!(writer.is_empty());
    }

    #[test]
    fn truncation_anywhere_is_malformed() {
        let mut buffer = [0; 256];
        let len = publish(&mut buffer, &[b"one", b"two", b""]);
        for cut in 17..len {
            let (_, _, mut frames) = parse(&buffer[..cut]).unwrap();
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
            let (_, _, mut frames) = parse(&copy[..len]).unwrap();
            assert!(matches!(frames.next(), Some(Err(_))), "byte {at} set to {value}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..512), ours in any::<bool>()) {
            if ours && bytes.len() > 4 {
                bytes[..4].copy_from_slice(&[VERSION_TYPE_CLEAR, 0, 0, 0]);
                if let Some(kind) = bytes.get_mut(16) { *kind %= 26; }
                if let Some(flags) = bytes.get_mut(17) { *flags = 0; }
            }
            if let Ok((_, _, frames)) = parse(&bytes) {
                for frame in frames {
                    if let Ok(Frame::Publish(publish)) = frame {
                        prop_assert_eq!(publish.messages().count() as u64, publish.count());
                    }
                }
            }
        }
    }
}
