//! What a datagram is.

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::Malformed;
use super::datagram::{
    DATAGRAM_HEADER_BYTES, DatagramHeader, INIT, Init, PHASE_MAX, PLAIN, RESET, RESP, RETRY, Reset,
    Resp, Retry, SEALED, SEALED_BYTES_MIN, VERSIONS, Versions,
};
use super::frame::Body;
use crate::ids::ConnId;
use crate::seal::SEAL_BYTES;

/// A datagram, parsed: what it is, and of the right length; its frames are parsed as they are reached.
#[derive(Clone, Copy, Debug)]
pub enum Datagram<'a> {
    /// Frames of a session.
    Session {
        /// The session, as the receiver numbers it.
        conn_id: ConnId,
        /// The datagram's number.
        packet_no: u64,
        /// What it says.
        frames: Body<'a>,
    },
    /// The same, sealed: to be opened first.
    Sealed {
        /// The session, as the receiver numbers it.
        conn_id: ConnId,
        /// The datagram's number.
        packet_no: u64,
        /// Of the generation that it is sealed with.
        phase: u8,
    },
    /// See [`Init`].
    Init(&'a Init),
    /// An INIT of another version: what is the same in all of them is sound.
    OtherVersion(&'a Init),
    /// See [`Retry`].
    Retry(&'a Retry),
    /// See [`Resp`].
    Resp(&'a Resp),
    /// See [`Reset`].
    Reset(&'a Reset),
    /// See [`Versions`].
    Versions(&'a Versions),
}

/// What a datagram is.
///
/// # Errors
/// What is wrong with it.
#[inline]
pub fn parse(bytes: &[u8]) -> Result<Datagram<'_>, Malformed> {
    let is_sealed = match bytes.first() {
        Some(&PLAIN) => false,
        Some(&SEALED) => true,
        _ => return parse_rare(bytes),
    };
    let (header, rest) = DatagramHeader::ref_from_prefix(bytes).map_err(|_| Malformed::Short)?;
    let (conn_id, packet_no) = (ConnId(header.conn_id.get()), header.packet_no());
    if conn_id.0 == 0 || packet_no == 0 {
        return Err(Malformed::Range);
    }
    let phase = header.phase;
    if is_sealed {
        if bytes.len() < SEALED_BYTES_MIN {
            return Err(Malformed::Short);
        }
        return if phase <= PHASE_MAX {
            Ok(Datagram::Sealed { conn_id, packet_no, phase })
        } else {
            Err(Malformed::Range)
        };
    }
    if phase != 0 {
        return Err(Malformed::Reserved);
    }
    Ok(Datagram::Session { conn_id, packet_no, frames: Body::new(rest) })
}

/// The frames of a sealed datagram that was opened.
#[must_use]
pub fn opened(bytes: &[u8]) -> Body<'_> {
    let end = bytes.len().saturating_sub(SEAL_BYTES);
    Body::new(bytes.get(DATAGRAM_HEADER_BYTES..end).unwrap_or_default())
}

/// What has one length.
fn whole<T: FromBytes + KnownLayout + Immutable + Unaligned>(
    bytes: &[u8],
) -> Result<&T, Malformed> {
    T::ref_from_bytes(bytes).map_err(|_| Malformed::Short)
}

fn parse_rare(bytes: &[u8]) -> Result<Datagram<'_>, Malformed> {
    let range = |is_in_range: bool| if is_in_range { Ok(()) } else { Err(Malformed::Range) };
    Ok(match *bytes.first().ok_or(Malformed::Short)? {
        INIT => {
            let init: &Init = whole(bytes)?;
            range(init.in_range())?;
            Datagram::Init(init)
        }
        RETRY => {
            let retry: &Retry = whole(bytes)?;
            range(retry.zeros == [0; 7] && retry.client_id.get() > 0)?;
            Datagram::Retry(retry)
        }
        RESP => {
            let resp: &Resp = whole(bytes)?;
            range(resp.in_range())?;
            Datagram::Resp(resp)
        }
        RESET => {
            let reset: &Reset = whole(bytes)?;
            range(reset.zeros == [0; 7] && reset.conn_id.get() > 0)?;
            Datagram::Reset(reset)
        }
        VERSIONS => {
            let versions: &Versions = whole(bytes)?;
            let zeros = versions.zeros == [0; 7] && versions.more_zeros == [0; 12];
            let ordered = versions.lowest <= versions.highest && versions.lowest.get() > 0;
            range(zeros && ordered && versions.client_id.get() > 0)?;
            Datagram::Versions(versions)
        }
        // An INIT of any version is as long, and has its number and its `mac` where ours has.
        other if other & 0x0f == INIT & 0x0f && other >> 4 > 1 => {
            let init: &Init = whole(bytes)?;
            range(init.client_id.get() > 0)?;
            Datagram::OtherVersion(init)
        }
        _ => return Err(Malformed::Version),
    })
}
