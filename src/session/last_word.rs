//! What is said last in a session: that it is over. It is written while the session is there, and sent when it is not.

use zerocopy::IntoBytes;

use crate::ids::ConnId;
use crate::seal::SEAL_BYTES;
use crate::seal::generation::Generation;
use crate::wire::control::Close;
use crate::wire::{DATAGRAM_HEADER_BYTES, DatagramWriter, FRAME_HEAD_BYTES, Kind};

/// A CLOSE, and its seal.
const BYTES_MAX: usize = DATAGRAM_HEADER_BYTES + FRAME_HEAD_BYTES + size_of::<Close>() + SEAL_BYTES;

/// A datagram with CLOSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LastWord {
    bytes: [u8; BYTES_MAX],
    len: usize,
}

impl LastWord {
    /// That the session that its receiver calls `conn_id` is over for a reason; 0 is the sender's wish.
    pub(crate) fn new(
        conn_id: ConnId,
        packet_no: u64,
        generation: Option<&Generation>,
        code: u16,
    ) -> Self {
        let mut bytes = [0; BYTES_MAX];
        let mut writer = DatagramWriter::sealed(&mut bytes, conn_id, packet_no, generation);
        let body = Close { code: code.into(), flags: 0.into(), reserved: 0.into() };
        let fits = writer.frame(Kind::Close, body.as_bytes(), &[]);
        assert!(fits, "there is room for one frame");
        let len = writer.finish();
        Self { bytes, len }
    }

    /// To be sent.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}
