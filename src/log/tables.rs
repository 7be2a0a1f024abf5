//! What a shard knows beside its messages: the catalog of streams and the producers. Rebuilt at
//! recovery from the checkpoint that opens a segment and the records after it.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::batch::{BATCH_HEADER_BYTES, batch_bytes};
use crate::ids::{ProducerId, StreamId};
use crate::limits::{
    BATCH_BYTES_MAX, BLOCK_BYTES, PRODUCERS_MAX, STREAM_NAME_BYTES_MAX, STREAMS_MAX,
};
use crate::mutant::Mutant;

/// A producer that was not heard of for so long is forgotten.
const PRODUCER_IDLE_NS: u64 = 7 * 24 * 3600 * 1_000_000_000;

/// One stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamFacts {
    /// Its number.
    pub id: StreamId,
    /// Its name.
    pub name: String,
    /// The oldest sequence that is kept: everything before it was trimmed, and that is durable.
    pub first_sequence: u64,
    /// The next sequence to be given out.
    pub next_sequence: u64,
    /// The sequence after the newest durable one.
    pub durable_next: u64,
    /// Unix time of creation.
    pub created_ns: u64,
    /// Payload bytes since creation.
    pub bytes: u64,
    /// The granule of the log its last index entry is for.
    pub(super) indexed_granule: u64,
    /// The batch in which it was last noted as touched.
    pub(super) touched_batch: u64,
    /// The same as `first_sequence` by the newest record, durable or not: what a checkpoint behind it says.
    pub(super) first_recorded: u64,
    /// The oldest segment that may hold something kept; [`NO_SEGMENT`] when nothing is.
    pub(super) first_segment: u64,
    /// The batch of the record that made it; 0 where recovery found it.
    pub(super) created_batch: u64,
    /// The newest time any of its messages bears, as far as is known: it never goes back, unlike the host's clock.
    pub(super) newest_ns: u64,
}

/// The segment of a stream of which nothing is kept.
pub(super) const NO_SEGMENT: u64 = u64::MAX;

/// One producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerFacts {
    /// Its identity; 0 where the place is free.
    pub id: ProducerId,
    /// Its epoch.
    pub epoch: u32,
    /// The instance that registered last.
    pub instance: u64,
    /// The last number accepted from it.
    pub last_seq: u64,
    /// Unix time of its last message or registration.
    pub last_active_ns: u64,
    /// The session that publishes as this producer, as the shard numbers it: its place is given to nobody else
    /// while there is one.
    pub holder: Option<usize>,
    /// When its last session ended, as the log's turns count; 0 where none has since the log was opened.
    pub(super) released_ns: u64,
    /// It will not return.
    pub ended: bool,
    /// The batch of its newest registration; 0 where recovery found it.
    pub(super) registered_batch: u64,
}

impl ProducerFacts {
    const NONE: Self = Self {
        id: ProducerId(0),
        epoch: 0,
        instance: 0,
        last_seq: 0,
        last_active_ns: 0,
        holder: None,
        released_ns: 0,
        ended: false,
        registered_batch: 0,
    };

    /// Whether nothing was heard of it for a week.
    pub(super) fn is_idle(&self, unix_ns: u64) -> bool {
        unix_ns.saturating_sub(self.last_active_ns) > PRODUCER_IDLE_NS
    }
}

/// A producer's place, and the session that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The producer.
    pub id: ProducerId,
    /// Its place in the table.
    pub place: usize,
    /// The session, as the shard numbers it.
    pub holder: usize,
}

/// How a producer's session has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// Its client said that the producer will not return.
    Ended,
    /// Its client never showed that it has heard of the session: it does not know a producer that began with it.
    Unheard,
    /// It may return.
    MayReturn,
}

/// Both tables.
#[derive(Clone, Debug)]
pub struct Tables {
    streams: Vec<StreamFacts>,
    /// Places of streams, by name.
    names: Vec<u16>,
    producers: Vec<ProducerFacts>,
    /// Places of producers that are known, by id.
    known: Vec<u16>,
    /// Places of producers that were forgotten.
    free: Vec<u16>,
    next_producer: u64,
}

impl Tables {
    /// Empty tables; allocates what they will ever need, but for the names.
    #[must_use]
    pub fn new() -> Self {
        Self {
            streams: Vec::with_capacity(STREAMS_MAX),
            names: Vec::with_capacity(STREAMS_MAX),
            producers: Vec::with_capacity(PRODUCERS_MAX),
            known: Vec::with_capacity(PRODUCERS_MAX),
            free: Vec::with_capacity(PRODUCERS_MAX),
            next_producer: 1,
        }
    }

    /// All streams, by id.
    pub fn streams(&self) -> impl Iterator<Item = &StreamFacts> {
        self.streams.iter()
    }

    /// Producers that are known.
    pub fn producers(&self) -> impl Iterator<Item = &ProducerFacts> {
        self.producers.iter().filter(|producer| producer.id.0 != 0)
    }

    /// A stream.
    #[must_use]
    #[inline]
    pub fn stream(&self, id: StreamId) -> Option<&StreamFacts> {
        let index = usize::try_from(id.0.checked_sub(1)?).ok()?;
        self.streams.get(index)
    }

    /// The same, to change.
    #[inline]
    pub(super) fn stream_mut(&mut self, id: StreamId) -> Option<&mut StreamFacts> {
        let index = usize::try_from(id.0.checked_sub(1)?).ok()?;
        self.streams.get_mut(index)
    }

    /// The stream of this name.
    #[must_use]
    pub fn stream_by_name(&self, name: &str) -> Option<&StreamFacts> {
        let at = self.name_at(name).ok()?;
        Some(&self.streams[usize::from(self.names[at])])
    }

    fn name_at(&self, name: &str) -> Result<usize, usize> {
        let of = |place: &u16| self.streams[usize::from(*place)].name.as_str().cmp(name);
        self.names.binary_search_by(of)
    }

    fn push_stream(&mut self, stream: StreamFacts) {
        let place = u16::try_from(self.streams.len()).expect("few streams");
        match self.name_at(&stream.name) {
            Ok(_) => unreachable!("a name stands for one stream"),
            Err(at) => self.names.insert(at, place),
        }
        self.streams.push(stream);
    }

    /// The id a new stream would get; `None` when the table is full.
    #[must_use]
    pub fn next_stream(&self) -> Option<StreamId> {
        let next = self.streams.len() + 1;
        (next <= STREAMS_MAX).then(|| StreamId(u32::try_from(next).expect("few streams")))
    }

    /// Adds a stream; the ids are dense from 1. `batch_seq` holds its record.
    pub(super) fn add_stream(&mut self, id: StreamId, name: &str, created_ns: u64, batch_seq: u64) {
        assert_eq!(self.next_stream(), Some(id), "stream ids are dense");
        self.push_stream(StreamFacts {
            id,
            name: name.to_owned(),
            first_sequence: 1,
            next_sequence: 1,
            durable_next: 1,
            created_ns,
            bytes: 0,
            indexed_granule: u64::MAX,
            touched_batch: 0,
            first_recorded: 1,
            first_segment: NO_SEGMENT,
            created_batch: batch_seq,
            newest_ns: 0,
        });
    }

    /// The producers by place; where one was forgotten, the id is 0.
    pub(super) fn producer_places(&self) -> &[ProducerFacts] {
        &self.producers
    }

    /// The producer at a place, which is its own: a place is good for nobody else.
    ///
    /// # Panics
    /// When somebody else is there.
    #[inline]
    pub(super) fn producer_at_mut(&mut self, id: ProducerId, slot: usize) -> &mut ProducerFacts {
        let producer = &mut self.producers[slot];
        assert_eq!(producer.id, id, "place {slot} of the producers is its owner's");
        producer
    }

    /// A producer that is known.
    #[must_use]
    pub fn producer(&self, id: ProducerId) -> Option<&ProducerFacts> {
        self.producer_slot(id).map(|slot| &self.producers[slot])
    }

    /// The place of a producer.
    #[must_use]
    pub fn producer_slot(&self, id: ProducerId) -> Option<usize> {
        self.known_at(id).ok().map(|at| usize::from(self.known[at]))
    }

    fn known_at(&self, id: ProducerId) -> Result<usize, usize> {
        self.known.binary_search_by_key(&id, |place| self.producers[usize::from(*place)].id)
    }

    /// The id for a new producer.
    #[must_use]
    pub fn next_producer(&self) -> ProducerId {
        ProducerId(self.next_producer)
    }

    /// Whether a new producer has to take the place of another.
    #[must_use]
    pub(super) fn is_full_of_producers(&self, limit: usize) -> bool {
        self.known.len() >= limit
    }

    /// Registers a producer, new or known, and returns its place.
    ///
    /// # Panics
    /// When it is new and there is no place: the caller forgets somebody first.
    pub(super) fn register(
        &mut self,
        id: ProducerId,
        (epoch, instance): (u32, u64),
        now_ns: u64,
        batch_seq: u64,
    ) -> usize {
        let slot = match self.known_at(id) {
            Ok(at) => usize::from(self.known[at]),
            Err(at) => self.add_producer(id, at),
        };
        let producer = &mut self.producers[slot];
        producer.epoch = epoch;
        producer.instance = instance;
        producer.last_active_ns = now_ns;
        producer.ended = false;
        producer.registered_batch = batch_seq;
        self.next_producer = self.next_producer.max(id.0 + 1);
        slot
    }

    fn add_producer(&mut self, id: ProducerId, at: usize) -> usize {
        let place = self.free.pop().unwrap_or_else(|| {
            assert!(self.producers.len() < PRODUCERS_MAX, "the caller saw a place");
            self.producers.push(ProducerFacts::NONE);
            u16::try_from(self.producers.len() - 1).expect("few producers")
        });
        let slot = usize::from(place);
        self.producers[slot] = ProducerFacts { id, ..ProducerFacts::NONE };
        self.known.insert(at, place);
        slot
    }

    /// Whom to forget so that somebody new has a place: nobody who has a session, or `returns` still; first who will
    /// not return, then who was idle for a week, then who never published and has nothing to lose; of these
    /// the one idle for longest. `None` when everybody may still come back.
    pub(super) fn forgettable(
        &self,
        unix_ns: u64,
        returns: impl Fn(&ProducerFacts) -> bool,
    ) -> Option<ProducerId> {
        let rank = |producer: &ProducerFacts| match (
            producer.ended,
            producer.is_idle(unix_ns),
            producer.last_seq,
        ) {
            (true, _, _) => Some(0),
            (false, true, _) => Some(1),
            (false, false, 0) => Some(2),
            (false, false, _) => None,
        };
        self.producers()
            .filter(|producer| match producer.holder {
                Some(_) => Mutant::EvictOpenProducer.is_on(),
                None => !returns(producer),
            })
            .filter_map(|producer| Some((rank(producer)?, producer.last_active_ns, producer.id)))
            .min()
            .map(|(_, _, id)| id)
    }

    /// Forgets a producer: its place is free.
    ///
    /// # Panics
    /// When it has a session.
    pub(super) fn forget(&mut self, id: ProducerId) {
        let Ok(at) = self.known_at(id) else { return };
        let place = self.known.remove(at);
        let producer = &mut self.producers[usize::from(place)];
        let is_free = producer.holder.is_none() || Mutant::EvictOpenProducer.is_on();
        assert!(is_free, "producer {id} has a session and keeps its place");
        *producer = ProducerFacts::NONE;
        self.free.push(place);
    }

    /// Gives a producer's place to a session.
    pub(super) fn hold(&mut self, held: Held) {
        let producer = self.producer_at_mut(held.id, held.place);
        assert!(producer.holder.is_none(), "a producer has one session");
        producer.holder = Some(held.holder);
    }

    /// The session of a producer has ended. One that may return was active until now, also where it published nothing
    /// for long.
    pub(super) fn release(&mut self, held: Held, parting: Parting, now_ns: u64, unix_ns: u64) {
        let producer = self.producer_at_mut(held.id, held.place);
        assert_eq!(producer.holder, Some(held.holder), "a session gives back what it holds");
        producer.holder = None;
        producer.ended = match parting {
            Parting::Ended => true,
            Parting::Unheard => producer.epoch == 1 && producer.last_seq == 0,
            Parting::MayReturn => false,
        };
        producer.released_ns = now_ns;
        producer.last_active_ns = producer.last_active_ns.max(unix_ns);
    }

    /// Parts of a checkpoint of these tables.
    #[must_use]
    pub(super) fn checkpoint_parts(&self) -> usize {
        let streams = self.streams.len().div_ceil(STREAMS_A_PART);
        let producers = self.producers.len().div_ceil(PRODUCERS_A_PART);
        (streams + producers).max(1)
    }

    /// Bytes of the batches of a checkpoint of these tables.
    #[must_use]
    pub(super) fn checkpoint_bytes(&self) -> usize {
        let of = |count: usize, entry_bytes: usize, a_part: usize| {
            let part =
                |count: usize| batch_bytes(size_of::<CheckpointHead>() + count * entry_bytes);
            let rest = count % a_part;
            count / a_part * part(a_part) + if rest > 0 { part(rest) } else { 0 }
        };
        let streams = of(self.streams.len(), size_of::<StreamEntry>(), STREAMS_A_PART);
        let producers = of(self.producers.len(), size_of::<ProducerEntry>(), PRODUCERS_A_PART);
        (streams + producers).max(BLOCK_BYTES)
    }

    /// Writes part `part` of the checkpoint into `body` and returns its length.
    pub(super) fn write_checkpoint(&self, part: usize, body: &mut [u8]) -> usize {
        let stream_parts = self.streams.len().div_ceil(STREAMS_A_PART);
        let (streams, producers): (&[StreamFacts], &[ProducerFacts]) = if part < stream_parts {
            let start = part * STREAMS_A_PART;
            (&self.streams[start..self.streams.len().min(start + STREAMS_A_PART)], &[])
        } else {
            let start = (part - stream_parts) * PRODUCERS_A_PART;
            (&[], &self.producers[start..self.producers.len().min(start + PRODUCERS_A_PART)])
        };
        let producers = if Mutant::ProducersNotCheckpointed.is_on() { &[] } else { producers };
        let head = CheckpointHead {
            part: u16::try_from(part).expect("few parts").into(),
            parts: u16::try_from(self.checkpoint_parts()).expect("few parts").into(),
            streams: u32::try_from(streams.len()).expect("few streams").into(),
            producers: u32::try_from(producers.len()).expect("few producers").into(),
            reserved: 0.into(),
            next_producer: self.next_producer.into(),
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
    pub(super) fn read_checkpoint(&mut self, body: &[u8], expected_part: u16) -> Option<bool> {
        let (head, rest) = CheckpointHead::ref_from_prefix(body).ok()?;
        if head.part.get() != expected_part || head.part >= head.parts {
            return None;
        }
        let count = usize::try_from(head.streams.get()).ok()?;
        let (streams, rest) = <[StreamEntry]>::ref_from_prefix_with_elems(rest, count).ok()?;
        let count = usize::try_from(head.producers.get()).ok()?;
        let producers = <[ProducerEntry]>::ref_from_bytes_with_elems(rest, count).ok()?;
        for entry in streams {
            if self.next_stream() != Some(StreamId(entry.id.get())) {
                return None;
            }
            self.push_stream(entry.facts()?);
        }
        for entry in producers {
            if self.producers.len() == PRODUCERS_MAX {
                return None;
            }
            let place = u16::try_from(self.producers.len()).expect("few producers");
            let facts = entry.facts();
            match self.known_at(facts.id) {
                _ if facts.id.0 == 0 => self.free.push(place),
                Ok(_) => return None,
                Err(at) => self.known.insert(at, place),
            }
            self.producers.push(facts);
        }
        self.next_producer = head.next_producer.get();
        Some(head.part.get() + 1 == head.parts.get())
    }

    /// After recovery all that was found is durable.
    pub(super) fn all_durable(&mut self) {
        for stream in &mut self.streams {
            stream.durable_next = stream.next_sequence;
            stream.first_sequence = stream.first_recorded;
            stream.touched_batch = 0;
            stream.created_batch = 0;
        }
        for producer in &mut self.producers {
            producer.registered_batch = 0;
        }
    }
}

impl Default for Tables {
    fn default() -> Self {
        Self::new()
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
    name: [u8; STREAM_NAME_BYTES_MAX],
}

impl StreamEntry {
    fn of(stream: &StreamFacts) -> Self {
        let mut name = [0; STREAM_NAME_BYTES_MAX];
        name[..stream.name.len()].copy_from_slice(stream.name.as_bytes());
        Self {
            id: stream.id.0.into(),
            name_len: u32::try_from(stream.name.len()).expect("a short name").into(),
            first_sequence: stream.first_recorded.into(),
            next_sequence: stream.next_sequence.into(),
            created_ns: stream.created_ns.into(),
            bytes: stream.bytes.into(),
            name,
        }
    }

    fn facts(&self) -> Option<StreamFacts> {
        let name = self.name.get(..usize::try_from(self.name_len.get()).ok()?)?;
        Some(StreamFacts {
            id: StreamId(self.id.get()),
            name: std::str::from_utf8(name).ok()?.to_owned(),
            first_sequence: self.first_sequence.get(),
            next_sequence: self.next_sequence.get(),
            durable_next: self.next_sequence.get(),
            created_ns: self.created_ns.get(),
            bytes: self.bytes.get(),
            indexed_granule: u64::MAX,
            touched_batch: 0,
            first_recorded: self.first_sequence.get(),
            first_segment: NO_SEGMENT,
            created_batch: 0,
            newest_ns: 0,
        })
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
    reserved: U32,
}

impl ProducerEntry {
    fn of(producer: &ProducerFacts) -> Self {
        Self {
            id: producer.id.0.into(),
            instance: producer.instance.into(),
            last_seq: producer.last_seq.into(),
            last_active_ns: producer.last_active_ns.into(),
            epoch: producer.epoch.into(),
            reserved: 0.into(),
        }
    }

    fn facts(&self) -> ProducerFacts {
        ProducerFacts {
            id: ProducerId(self.id.get()),
            epoch: self.epoch.get(),
            instance: self.instance.get(),
            last_seq: self.last_seq.get(),
            last_active_ns: self.last_active_ns.get(),
            ..ProducerFacts::NONE
        }
    }
}

const PART_BYTES: usize = BATCH_BYTES_MAX - BATCH_HEADER_BYTES - size_of::<CheckpointHead>();
const STREAMS_A_PART: usize = PART_BYTES / size_of::<StreamEntry>();
const PRODUCERS_A_PART: usize = PART_BYTES / size_of::<ProducerEntry>();

/// Parts of the largest checkpoint.
pub(super) const CHECKPOINT_PARTS_MAX: usize =
    STREAMS_MAX.div_ceil(STREAMS_A_PART) + PRODUCERS_MAX.div_ceil(PRODUCERS_A_PART);
