//! The streams of a shard: how far each is given out, durable and kept.

use crate::ids::StreamId;
use crate::limits::STREAMS_MAX;
use crate::log::segment::{INDEX_ENTRIES, IndexEntry, Spot};
use crate::position::{BatchSeq, SegmentNo};

/// Entries of a segment's index up to which a stream gets a second one there: the last places are for streams that
/// are not in it yet.
const ENTRIES_FOR_ALL: usize = INDEX_ENTRIES - STREAMS_MAX;

/// The segment of a stream of which nothing is kept.
const NO_SEGMENT: SegmentNo = SegmentNo::new(u64::MAX);

/// Sequences of a stream that were not trimmed, and are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::log) struct Untrimmed {
    pub(in crate::log) stream: StreamId,
    pub(in crate::log) first: u64,
    pub(in crate::log) last: u64,
}

/// One stream. Only `Streams` changes it.
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
    indexed_granule: u64,
    /// The batch that holds its newest message, and of the one that may be open.
    touched_batch: BatchSeq,
    /// The same as `first_sequence` by the newest record, durable or not: what a checkpoint behind it says.
    first_recorded: u64,
    /// The oldest segment that may hold something kept; [`NO_SEGMENT`] when nothing is.
    first_segment: SegmentNo,
    /// The batch of the record that made it; none where recovery found it.
    created_batch: BatchSeq,
    /// The newest time any of its messages bears: it never goes back, unlike the host's clock.
    newest_ns: u64,
}

impl StreamFacts {
    fn new(id: StreamId, name: String, created_ns: u64) -> Self {
        Self {
            id,
            name,
            first_sequence: 1,
            next_sequence: 1,
            durable_next: 1,
            created_ns,
            bytes: 0,
            indexed_granule: u64::MAX,
            touched_batch: BatchSeq::NONE,
            first_recorded: 1,
            first_segment: NO_SEGMENT,
            created_batch: BatchSeq::NONE,
            newest_ns: 0,
        }
    }

    /// As a checkpoint says it: the first sequence kept, the next one, payload bytes, the newest time.
    pub(super) fn recorded(mut self, first: u64, next: u64, bytes: u64, newest_ns: u64) -> Self {
        (self.first_sequence, self.first_recorded) = (first, first);
        (self.next_sequence, self.durable_next) = (next, next);
        (self.bytes, self.newest_ns) = (bytes, newest_ns);
        self
    }

    /// One of which nothing is known but who it is.
    pub(super) fn named(id: StreamId, name: String, created_ns: u64) -> Self {
        Self::new(id, name, created_ns)
    }

    /// The batch of the record that made it; none where recovery found it.
    #[inline]
    pub(in crate::log) fn created_batch(&self) -> BatchSeq {
        self.created_batch
    }

    /// The newest time any of its messages bears.
    pub(in crate::log) fn newest_ns(&self) -> u64 {
        self.newest_ns
    }

    /// The first sequence kept by the newest record, durable or not.
    pub(in crate::log) fn first_recorded(&self) -> u64 {
        self.first_recorded
    }
}

/// All streams, by id, which are dense from 1.
#[derive(Clone, Debug)]
pub(in crate::log) struct Streams {
    streams: Vec<StreamFacts>,
    /// Places of streams, by name.
    names: Vec<u16>,
}

impl Streams {
    /// None yet; allocates what will ever be needed, but for the names.
    pub(super) fn new() -> Self {
        Self { streams: Vec::with_capacity(STREAMS_MAX), names: Vec::with_capacity(STREAMS_MAX) }
    }

    /// All of them, by id.
    pub(in crate::log) fn iter(&self) -> std::slice::Iter<'_, StreamFacts> {
        self.streams.iter()
    }

    /// How many there are.
    pub(in crate::log) fn len(&self) -> usize {
        self.streams.len()
    }

    /// Those a part of a checkpoint says.
    pub(super) fn slice(&self, range: std::ops::Range<usize>) -> &[StreamFacts] {
        &self.streams[range]
    }

    /// A stream.
    #[inline]
    pub(in crate::log) fn get(&self, id: StreamId) -> Option<&StreamFacts> {
        let index = usize::try_from(id.0.checked_sub(1)?).ok()?;
        self.streams.get(index)
    }

    #[inline]
    fn known(&mut self, id: StreamId) -> &mut StreamFacts {
        let index = id.0.checked_sub(1).and_then(|index| usize::try_from(index).ok());
        let stream = index.and_then(|index| self.streams.get_mut(index));
        stream.expect("a stream of the catalog")
    }

    /// The stream of this name.
    pub(in crate::log) fn by_name(&self, name: &str) -> Option<&StreamFacts> {
        let at = self.name_at(name).ok()?;
        Some(&self.streams[usize::from(self.names[at])])
    }

    fn name_at(&self, name: &str) -> Result<usize, usize> {
        let of = |place: &u16| self.streams[usize::from(*place)].name.as_str().cmp(name);
        self.names.binary_search_by(of)
    }

    /// The id a new stream would get; `None` when the table is full.
    pub(in crate::log) fn next_id(&self) -> Option<StreamId> {
        let next = self.streams.len() + 1;
        (next <= STREAMS_MAX).then(|| StreamId(u32::try_from(next).expect("few streams")))
    }

    /// Adds a stream; the ids are dense from 1. `batch_seq` holds its record, none where recovery found it.
    pub(super) fn add(&mut self, id: StreamId, name: &str, created_ns: u64, batch_seq: BatchSeq) {
        let mut stream = StreamFacts::new(id, name.to_owned(), created_ns);
        stream.created_batch = batch_seq;
        self.push(stream);
    }

    /// Adds one as a checkpoint says it.
    pub(super) fn push(&mut self, stream: StreamFacts) {
        assert_eq!(self.next_id(), Some(stream.id), "stream ids are dense");
        let place = u16::try_from(self.streams.len()).expect("few streams");
        match self.name_at(&stream.name) {
            Ok(_) => unreachable!("a name stands for one stream"),
            Err(at) => self.names.insert(at, place),
        }
        self.streams.push(stream);
    }

    /// A message of so many bytes gets the next sequence, which is returned.
    #[inline]
    pub(super) fn append(&mut self, id: StreamId, bytes: usize, unix_ns: u64) -> u64 {
        let stream = self.known(id);
        let sequence = stream.next_sequence;
        stream.next_sequence += 1;
        stream.bytes += bytes as u64;
        stream.newest_ns = stream.newest_ns.max(unix_ns);
        sequence
    }

    /// Notes in which batch the newest message of a stream is. Whether it is the first of the stream there.
    #[inline]
    pub(super) fn touch(&mut self, id: StreamId, batch_seq: BatchSeq) -> bool {
        let stream = self.known(id);
        std::mem::replace(&mut stream.touched_batch, batch_seq) != batch_seq
    }

    /// What is kept of a stream begins in this segment, if nothing of it is kept so far.
    pub(super) fn keep_in(&mut self, id: StreamId, seg_no: SegmentNo) {
        let stream = self.known(id);
        if stream.first_segment == NO_SEGMENT {
            stream.first_segment = seg_no;
        }
    }

    /// The entry of a segment's index, which has so many, for a message of a stream: `None` where the stream has one
    /// that is near enough, or the index has no place left.
    pub(super) fn index(
        &mut self,
        id: StreamId,
        sequence: u64,
        spot: Spot,
        entries: usize,
    ) -> Option<IndexEntry> {
        let stream = self.known(id);
        if stream.indexed_granule == spot.granule {
            return None;
        }
        let is_new =
            stream.indexed_granule == u64::MAX || stream.indexed_granule < spot.segment_granule;
        if !is_new && entries >= ENTRIES_FOR_ALL {
            return None;
        }
        stream.indexed_granule = spot.granule;
        Some(IndexEntry {
            stream: id.0.into(),
            block: u32::try_from(spot.block).expect("a block of a segment").into(),
            first_sequence: sequence.into(),
            time_ns: stream.newest_ns.into(),
        })
    }

    /// All below `next` is durable.
    pub(super) fn durable(&mut self, id: StreamId, next: u64) {
        let stream = self.known(id);
        assert!(stream.durable_next <= next && next <= stream.next_sequence, "it goes on");
        stream.durable_next = next;
    }

    /// A record says that messages below `first` are not kept.
    pub(super) fn trim_recorded(&mut self, id: StreamId, first: u64) {
        let stream = self.known(id);
        stream.first_recorded = stream.first_recorded.max(first);
    }

    /// That record is durable: what is kept begins at `first`, in no segment before `seg_no`, which counts only where
    /// something is kept.
    pub(super) fn trim_durable(&mut self, id: StreamId, first: u64, seg_no: SegmentNo) {
        let stream = self.known(id);
        let keeps = first < stream.next_sequence;
        stream.first_sequence = stream.first_sequence.max(first);
        stream.first_segment = if keeps { stream.first_segment.max(seg_no) } else { NO_SEGMENT };
    }

    /// A time that an entry of the index bears.
    pub(super) fn saw_time(&mut self, id: StreamId, unix_ns: u64) {
        let stream = self.known(id);
        stream.newest_ns = stream.newest_ns.max(unix_ns);
    }

    /// The oldest segment of which something is kept.
    pub(in crate::log) fn kept_from(&self) -> Option<SegmentNo> {
        self.keepers().map(|stream| stream.first_segment).min()
    }

    /// The stream that keeps that one.
    pub(in crate::log) fn oldest_keeper(&self) -> Option<&StreamFacts> {
        self.keepers().min_by_key(|stream| stream.first_segment)
    }

    fn keepers(&self) -> impl Iterator<Item = &StreamFacts> {
        self.streams.iter().filter(|stream| stream.first_segment != NO_SEGMENT)
    }

    /// Notes for each stream in which of several segments, ascending and with their indexes, its kept messages
    /// begin. Returns the first stream of which some are in none of them, and which: all that is kept has to be
    /// there, since only what was trimmed is ever freed.
    pub(super) fn kept_in<'a>(
        &mut self,
        segments: impl Iterator<Item = (SegmentNo, &'a [IndexEntry])>,
    ) -> Option<Untrimmed> {
        let mut from = vec![(NO_SEGMENT, 0); self.streams.len()];
        for (seg_no, entries) in segments {
            for entry in entries {
                let place = usize::try_from(entry.stream.get()).expect("32 bits fit") - 1;
                let facts = self.streams.get(place).expect("an index names known streams");
                let first_here = entry.first_sequence.get();
                if from[place].0 == NO_SEGMENT || first_here <= facts.first_recorded {
                    from[place] = (seg_no, first_here);
                }
            }
        }
        let mut missing = None;
        for (stream, (seg_no, first_here)) in self.streams.iter_mut().zip(from) {
            let (first, next) = (stream.first_recorded, stream.next_sequence);
            if first >= next {
                continue;
            }
            stream.first_segment = seg_no;
            let there = if seg_no == NO_SEGMENT { next } else { first_here };
            if there > first && missing.is_none() {
                missing = Some(Untrimmed { stream: stream.id, first, last: there - 1 });
            }
        }
        missing
    }

    /// After recovery all that was found is durable.
    pub(super) fn recovered(&mut self) {
        for stream in &mut self.streams {
            stream.durable_next = stream.next_sequence;
            stream.first_sequence = stream.first_recorded;
            stream.touched_batch = BatchSeq::NONE;
            stream.created_batch = BatchSeq::NONE;
        }
    }
}
