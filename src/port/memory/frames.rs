//! Which frames have gone over a network in memory, by direction, and which errors were told.

use crate::wire::{DATAGRAM_HEADER_BYTES, Datagram, FRAME_HEAD_BYTES, Kind, parse};

/// Above every code of a frame and of an error.
const CODES: usize = 32;

/// Frames by the code of their kind, and errors by theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FrameHits {
    /// Sent to the server.
    pub to_server: [u64; CODES],
    /// Sent by the server.
    pub by_server: [u64; CODES],
    /// Errors the server told, in whatever way.
    pub errors: [u64; CODES],
    /// Datagrams of no session, by their types, whoever sent them.
    pub of_no_session: [u64; CODES],
}

impl FrameHits {
    /// Counts the frames of a datagram, as far as it is whole.
    pub(super) fn add(&mut self, by_server: bool, datagram: &[u8]) {
        let frames = match parse(datagram) {
            Ok(Datagram::Session { .. }) => datagram.get(DATAGRAM_HEADER_BYTES..),
            Ok(of_no_session) => {
                let kind = datagram.first().map_or(0, |first| usize::from(first & 0x0f));
                self.of_no_session[kind] += 1;
                if let Datagram::Resp(resp) = of_no_session
                    && resp.is_plain()
                {
                    self.told(resp.accept.status.get());
                }
                None
            }
            Err(_) => None,
        };
        let mut rest = frames.unwrap_or_default();
        while let Some((head, body)) = rest.split_at_checked(FRAME_HEAD_BYTES) {
            let len = usize::from(u16::from_le_bytes([head[2], head[3]]));
            let Some((body, others)) = body.split_at_checked(len) else { return };
            rest = others;
            let kinds = if by_server { &mut self.by_server } else { &mut self.to_server };
            if let Some(count) = kinds.get_mut(usize::from(head[0])) {
                *count += 1;
            }
            let says_why = [Kind::Error as u8, Kind::Close as u8].contains(&head[0]);
            if by_server && says_why {
                self.told(body.first_chunk().map_or(0, |code| u16::from_le_bytes(*code)));
            }
        }
    }

    fn told(&mut self, code: u16) {
        if let Some(count) = self.errors.get_mut(usize::from(code)).filter(|_| code > 0) {
            *count += 1;
        }
    }
}
