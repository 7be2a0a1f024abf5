//! Control records: what the log says of itself among the messages, on stream 0. Written and read back here alone.

use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

use crate::ids::{ProducerId, StreamId};
use crate::wire::record::{RecordHeader, Signed};

/// Flags of such a record: what it says.
const STREAM: u16 = 1;
const PRODUCER: u16 = 2;
const TRIM: u16 = 3;
const FORGET: u16 = 4;

/// What a control record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Control<'a> {
    /// A stream is made.
    Stream { id: StreamId, name: &'a str },
    /// A producer is registered.
    Producer { id: ProducerId, epoch: u32, instance: U64 },
    /// A stream is trimmed: `first` is its first sequence kept.
    Trim { id: StreamId, first: u64 },
    /// A producer is forgotten: its place is free.
    Forget { id: ProducerId },
    /// Something this release does not know.
    Other,
}

impl<'a> Control<'a> {
    /// What a record of stream 0 says; `None` where it says what makes no sense.
    pub(super) fn parse(header: &RecordHeader, payload: &'a [u8]) -> Option<Self> {
        let (id, value) = (header.producer_id.get(), header.producer_seq.get());
        let stream = || u32::try_from(id).ok().map(StreamId);
        Some(match header.flags.get() {
            STREAM => Self::Stream { id: stream()?, name: std::str::from_utf8(payload).ok()? },
            PRODUCER => {
                let instance = U64::from_bytes(payload.try_into().ok()?);
                Self::Producer { id: ProducerId(id), epoch: u32::try_from(value).ok()?, instance }
            }
            TRIM => Self::Trim { id: stream()?, first: value },
            FORGET => Self::Forget { id: ProducerId(id) },
            _ => Self::Other,
        })
    }

    /// What of it stands in the header.
    pub(super) fn signed(&self) -> Signed {
        let (flags, id, producer_seq) = match *self {
            Self::Stream { id, .. } => (STREAM, u64::from(id.0), 0),
            Self::Producer { id, epoch, .. } => (PRODUCER, id.0, u64::from(epoch)),
            Self::Trim { id, first } => (TRIM, u64::from(id.0), first),
            Self::Forget { id } => (FORGET, id.0, 0),
            Self::Other => unreachable!("nobody writes what it does not know"),
        };
        Signed { producer_id: ProducerId(id), producer_seq, stream: StreamId(0), flags, ext_len: 0 }
    }

    /// What of it stands behind the header.
    pub(super) fn payload(&self) -> &[u8] {
        match self {
            Self::Stream { name, .. } => name.as_bytes(),
            Self::Producer { instance, .. } => instance.as_bytes(),
            Self::Trim { .. } | Self::Forget { .. } | Self::Other => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed<'a>(signed: &Signed, payload: &'a [u8]) -> Option<Control<'a>> {
        let header = RecordHeader {
            len: u32::try_from(payload.len()).unwrap().into(),
            crc32c: signed.crc32c(payload).into(),
            producer_id: signed.producer_id.0.into(),
            producer_seq: signed.producer_seq.into(),
            stream: signed.stream.0.into(),
            flags: signed.flags.into(),
            ext_len: signed.ext_len.into(),
            sequence: 0.into(),
            received_ns: 1.into(),
        };
        Control::parse(&header, payload)
    }

    #[test]
    fn what_is_written_is_read_and_what_makes_no_sense_is_not() {
        let (stream, producer) = (StreamId(u32::MAX), ProducerId(u64::MAX));
        for said in [
            Control::Stream { id: stream, name: "orders" },
            Control::Producer { id: producer, epoch: u32::MAX, instance: U64::new(7) },
            Control::Trim { id: stream, first: u64::MAX },
            Control::Forget { id: producer },
        ] {
            assert_eq!(parsed(&said.signed(), said.payload()), Some(said));
        }
        let signed = Control::Forget { id: producer }.signed();
        let other = |flags, producer_seq| Signed { flags, producer_seq, ..signed };
        assert_eq!(parsed(&other(STREAM, 0), b"orders"), None, "no stream has so high a number");
        assert_eq!(parsed(&other(TRIM, 1), b""), None);
        let stream = Control::Trim { id: StreamId(1), first: 1 }.signed();
        assert_eq!(parsed(&Signed { flags: STREAM, ..stream }, &[0xff]), None, "no name");
        assert_eq!(parsed(&other(PRODUCER, 1), &[0; 7]), None, "no instance");
        assert_eq!(parsed(&other(PRODUCER, 1 << 32), &[0; 8]), None, "no epoch");
        assert_eq!(parsed(&other(5, 1), b"later"), Some(Control::Other));
    }
}
