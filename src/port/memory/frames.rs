//! Which frames have gone over a network in memory, by direction, and which errors were told.

use crate::wire::frame::Kind;
use crate::wire::{DATAGRAM_HEADER_BYTES, FRAME_HEAD_BYTES};

/// Above every code of a frame and of an error.
const CODES: usize = 32;

/// Frames by the code of their kind, and errors by theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FrameHits {
    /// Sent to the server.
    pub to_server: [u64; CODES],
    /// Sent by the server.
    pub by_server: [u64; CODES],
    /// Errors the server told.
    pub errors: [u64; CODES],
}

impl FrameHits {
    /// Counts the frames of a datagram, as far as it is whole.
    pub(super) fn add(&mut self, by_server: bool, datagram: &[u8]) {
        let mut rest = datagram.get(DATAGRAM_HEADER_BYTES..).unwrap_or_default();
        while let Some((head, body)) = rest.split_at_checked(FRAME_HEAD_BYTES) {
            let len = usize::from(u16::from_le_bytes([head[2], head[3]]));
            let Some((body, others)) = body.split_at_checked(len) else { return };
            rest = others;
            let kinds = if by_server { &mut self.by_server } else { &mut self.to_server };
            if let Some(count) = kinds.get_mut(usize::from(head[0])) {
                *count += 1;
            }
            let code = body.first_chunk().map_or(0, |code| u16::from_le_bytes(*code));
            if by_server
                && head[0] == Kind::Error as u8
                && let Some(count) = self.errors.get_mut(usize::from(code))
            {
                *count += 1;
            }
        }
    }
}
