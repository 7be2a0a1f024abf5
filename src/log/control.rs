//! Control records: what the log says of itself among the messages, on stream 0. Written and read back here alone.

use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::catalog::Owner;
use crate::ids::{PRODUCER_NAME_BYTES_MAX, ProducerId, ProducerName, StreamId};
use crate::wire::record::{RecordHeader, Signed};

/// Flags of such a record: what it says.
const STREAM: u16 = 1;
const PRODUCER: u16 = 2;
const TRIM: u16 = 3;
const FORGET: u16 = 4;

/// What stands behind the record of a registration.
#[derive(Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Registered {
    instance: U64,
    identity: U64,
    name: [u8; PRODUCER_NAME_BYTES_MAX],
}

impl Registered {
    pub(super) fn new(owner: Owner, instance: u64) -> Self {
        let (identity, name) = (owner.identity.into(), *owner.name.bytes());
        Self { instance: instance.into(), identity, name }
    }

    /// The instance that registered.
    pub(super) fn instance(&self) -> u64 {
        self.instance.get()
    }

    /// Whose the producer is; `None` where the name is none.
    pub(super) fn owner(&self) -> Option<Owner> {
        let name = ProducerName::from_bytes(&self.name)?;
        Some(Owner { identity: self.identity.get(), name })
    }
}

/// What a control record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Control<'a> {
    /// A stream is made.
    Stream { id: StreamId, name: &'a str },
    /// A producer is registered.
    Producer { id: ProducerId, epoch: u32, said: &'a Registered },
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
                let said = Registered::ref_from_bytes(payload).ok()?;
                said.owner()?;
                Self::Producer { id: ProducerId(id), epoch: u32::try_from(value).ok()?, said }
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
            Self::Producer { said, .. } => said.as_bytes(),
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
        let name = ProducerName::new("gateway-7").unwrap();
        let registered = Registered::new(Owner { identity: u64::MAX, name }, 7);
        for said in [
            Control::Stream { id: stream, name: "orders" },
            Control::Producer { id: producer, epoch: u32::MAX, said: &registered },
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
        assert_eq!(parsed(&other(PRODUCER, 1), &[0; 55]), None, "no owner");
        assert_eq!(parsed(&other(PRODUCER, 1 << 32), &[0; 56]), None, "no epoch");
        let mut spaced = [0; 56];
        spaced[17] = b'x';
        assert_eq!(parsed(&other(PRODUCER, 1), &spaced), None, "no name");
        assert_eq!(parsed(&other(5, 1), b"later"), Some(Control::Other));
    }
}
