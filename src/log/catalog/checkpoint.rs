//! The checkpoint that opens a segment: both tables as they are at its beginning, in as many batches as they take.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Catalog, Owner, Position, ProducerFacts, StreamFacts};
use crate::ids::{PRODUCER_NAME_BYTES_MAX, ProducerId, ProducerName, StreamId};
use crate::limits::{
    BATCH_BYTES_MAX, BLOCK_BYTES, PRODUCERS_MAX, STREAM_NAME_BYTES_MAX, STREAMS_MAX,
};
use crate::log::batch::{BATCH_HEADER_BYTES, batch_bytes};
use crate::mutant::Mutant;

impl Catalog {
    /// Parts of a checkpoint of these tables.
    pub(in crate::log) fn checkpoint_parts(&self) -> usize {
        let streams = self.streams.len().div_ceil(STREAMS_A_PART);
        let producers = self.producers.places().len().div_ceil(PRODUCERS_A_PART);
        (streams + producers).max(1)
    }

    /// Bytes of the batches of a checkpoint of these tables.
    pub(in crate::log) fn checkpoint_bytes(&self) -> usize {
        let of = |count: usize, entry_bytes: usize, a_part: usize| {
            let part =
                |count: usize| batch_bytes(size_of::<CheckpointHead>() + count * entry_bytes);
            let rest = count % a_part;
            count / a_part * part(a_part) + if rest > 0 { part(rest) } else { 0 }
        };
        let streams = of(self.streams.len(), size_of::<StreamEntry>(), STREAMS_A_PART);
        let producers =
            of(self.producers.places().len(), size_of::<ProducerEntry>(), PRODUCERS_A_PART);
        (streams + producers).max(BLOCK_BYTES)
    }

    /// Writes part `part` of the checkpoint into `body` and returns its length.
    pub(in crate::log) fn write_checkpoint(&self, part: usize, body: &mut [u8]) -> usize {
        let stream_parts = self.streams.len().div_ceil(STREAMS_A_PART);
        let (streams, producers): (&[StreamFacts], &[ProducerFacts]) = if part < stream_parts {
            let start = part * STREAMS_A_PART;
            (self.streams.slice(start..self.streams.len().min(start + STREAMS_A_PART)), &[])
        } else {
            let start = (part - stream_parts) * PRODUCERS_A_PART;
            let places = self.producers.places();
            (&[], &places[start..places.len().min(start + PRODUCERS_A_PART)])
        };
        let producers = if Mutant::ProducersNotCheckpointed.is_on() { &[] } else { producers };
        let head = CheckpointHead {
            part: u16::try_from(part).expect("few parts").into(),
            parts: u16::try_from(self.checkpoint_parts()).expect("few parts").into(),
            streams: u32::try_from(streams.len()).expect("few streams").into(),
            producers: u32::try_from(producers.len()).expect("few producers").into(),
            reserved: 0.into(),
            next_producer: self.producers.next_id().0.into(),
        };
        let mut len = put(body, 0, head.as_bytes());
        for stream in streams {
            len = put(body, len, StreamEntry::of(stream).as_bytes());
        }
        for producer in producers {
            len = put(body, len, ProducerEntry::of(producer).as_bytes());
        }
        len
    }

    /// Takes part of a checkpoint in; `Some(true)` once it was the last part, `None` when it makes no
    /// sense after the parts before.
    pub(in crate::log) fn read_checkpoint(
        &mut self,
        body: &[u8],
        expected_part: u16,
    ) -> Option<bool> {
        let (head, rest) = CheckpointHead::ref_from_prefix(body).ok()?;
        if head.part.get() != expected_part || head.part >= head.parts {
            return None;
        }
        let count = usize::try_from(head.streams.get()).ok()?;
        let (streams, rest) = <[StreamEntry]>::ref_from_prefix_with_elems(rest, count).ok()?;
        let count = usize::try_from(head.producers.get()).ok()?;
        let producers = <[ProducerEntry]>::ref_from_bytes_with_elems(rest, count).ok()?;
        for entry in streams {
            if self.streams.next_id() != Some(StreamId(entry.id.get())) {
                return None;
            }
            self.streams.push(entry.facts()?);
        }
        for entry in producers {
            self.producers.push(entry.facts()?)?;
        }
        self.producers.go_on_from(head.next_producer.get());
        Some(head.part.get() + 1 == head.parts.get())
    }
}

fn put(body: &mut [u8], at: usize, bytes: &[u8]) -> usize {
    body[at..at + bytes.len()].copy_from_slice(bytes);
    at + bytes.len()
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct CheckpointHead {
    part: U16,
    parts: U16,
    streams: U32,
    producers: U32,
    reserved: U32,
    next_producer: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct StreamEntry {
    id: U32,
    name_len: U32,
    first_sequence: U64,
    next_sequence: U64,
    created_ns: U64,
    bytes: U64,
    newest_ns: U64,
    name: [u8; STREAM_NAME_BYTES_MAX],
}

impl StreamEntry {
    fn of(stream: &StreamFacts) -> Self {
        let mut name = [0; STREAM_NAME_BYTES_MAX];
        name[..stream.name.len()].copy_from_slice(stream.name.as_bytes());
        Self {
            id: stream.id.0.into(),
            name_len: u32::try_from(stream.name.len()).expect("a short name").into(),
            first_sequence: stream.first_recorded().into(),
            next_sequence: stream.next_sequence.into(),
            created_ns: stream.created_ns.into(),
            bytes: stream.bytes.into(),
            newest_ns: stream.newest_ns().into(),
            name,
        }
    }

    fn facts(&self) -> Option<StreamFacts> {
        let name = self.name.get(..usize::try_from(self.name_len.get()).ok()?)?;
        let name = std::str::from_utf8(name).ok()?.to_owned();
        let stream = StreamFacts::named(StreamId(self.id.get()), name, self.created_ns.get());
        let (first, next) = (self.first_sequence.get(), self.next_sequence.get());
        Some(stream.recorded(first, next, self.bytes.get(), self.newest_ns.get()))
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ProducerEntry {
    id: U64,
    instance: U64,
    last_seq: U64,
    last_active_ns: U64,
    epoch: U32,
    last_stream: U32,
    last_sequence: U64,
    identity: U64,
    name: [u8; PRODUCER_NAME_BYTES_MAX],
}

impl ProducerEntry {
    fn of(producer: &ProducerFacts) -> Self {
        Self {
            id: producer.id.0.into(),
            instance: producer.instance.into(),
            last_seq: producer.last_seq.into(),
            last_active_ns: producer.last_active_ns.into(),
            epoch: producer.epoch.into(),
            last_stream: producer.last.stream.0.into(),
            last_sequence: producer.last.sequence.into(),
            identity: producer.owner.identity.into(),
            name: *producer.owner.name.bytes(),
        }
    }

    fn facts(&self) -> Option<ProducerFacts> {
        let name = ProducerName::from_bytes(&self.name)?;
        let stream = StreamId(self.last_stream.get());
        let mut facts = ProducerFacts::NONE;
        facts.id = ProducerId(self.id.get());
        facts.epoch = self.epoch.get();
        facts.instance = self.instance.get();
        facts.last_seq = self.last_seq.get();
        facts.last_active_ns = self.last_active_ns.get();
        facts.last = Position { stream, sequence: self.last_sequence.get() };
        facts.owner = Owner { identity: self.identity.get(), name };
        Some(facts)
    }
}

const PART_BYTES: usize = BATCH_BYTES_MAX - BATCH_HEADER_BYTES - size_of::<CheckpointHead>();
const STREAMS_A_PART: usize = PART_BYTES / size_of::<StreamEntry>();
const PRODUCERS_A_PART: usize = PART_BYTES / size_of::<ProducerEntry>();

/// Parts of the largest checkpoint.
pub(in crate::log) const CHECKPOINT_PARTS_MAX: usize =
    STREAMS_MAX.div_ceil(STREAMS_A_PART) + PRODUCERS_MAX.div_ceil(PRODUCERS_A_PART);
