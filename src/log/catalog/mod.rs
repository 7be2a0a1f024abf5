//! What a shard knows beside its messages: the catalog of streams and the producers. Rebuilt at recovery from the
//! checkpoint that opens a segment and the records after it.
//!
//! Whoever is given the tables sees all of them; what changes them is a method here that says what happened.

mod checkpoint;
mod producers;
mod streams;

use super::ControlError;
use super::recovery::RecoveredMessage;
use super::segment::{IndexEntry, Spot};
use crate::ids::{ProducerId, StreamId};
use crate::position::{BatchSeq, SegmentNo, SessionSlot};
use crate::wire::record::Signed;

pub(super) use checkpoint::CHECKPOINT_PARTS_MAX;
pub(super) use producers::Producers;
pub use producers::{Owner, Parting, Position, ProducerFacts, ProducerHandle, Registrant, Tenure};
pub use streams::StreamFacts;
pub(super) use streams::{Streams, Untrimmed};

/// Both tables.
#[derive(Clone, Debug)]
pub(super) struct Catalog {
    streams: Streams,
    producers: Producers,
}

impl Catalog {
    /// Empty tables; allocates what they will ever need, but for the names.
    pub(super) fn new() -> Self {
        Self { streams: Streams::new(), producers: Producers::new() }
    }

    /// The streams.
    #[inline]
    pub(super) fn streams(&self) -> &Streams {
        &self.streams
    }

    /// The producers.
    #[inline]
    pub(super) fn producers(&self) -> &Producers {
        &self.producers
    }

    /// A turn of the shard begins.
    pub(super) fn turn(&mut self, now_ns: u64) {
        self.producers.turn(now_ns);
    }

    /// A message is appended: its stream has a sequence more, which is returned, and its producer was active.
    ///
    /// # Panics
    /// When the handle is not that of the producer who signed.
    #[inline]
    pub(super) fn append(
        &mut self,
        signed: &Signed,
        handle: &ProducerHandle,
        bytes: usize,
        unix_ns: u64,
    ) -> u64 {
        let stream = signed.stream;
        let sequence = self.streams.append(stream, bytes, unix_ns);
        let last = Position { stream, sequence };
        self.producers.append(handle, signed.producer_seq, last, unix_ns);
        sequence
    }

    /// The same as recovery finds it.
    ///
    /// # Panics
    /// When its sequence is not the next of its stream.
    pub(super) fn append_recovered(
        &mut self,
        message: &RecoveredMessage,
        bytes: usize,
        unix_ns: u64,
    ) {
        let (id, producer_seq) = (message.producer_id, message.producer_seq);
        let sequence = self.streams.append(message.stream, bytes, unix_ns);
        assert_eq!(sequence, message.sequence, "sequences are dense");
        let last = Position { stream: message.stream, sequence };
        self.producers.append_recovered(id, producer_seq, last, unix_ns);
    }

    /// Whether a batch holds the first message of a stream it has got so far, which it has from now on.
    #[inline]
    pub(super) fn touch(&mut self, id: StreamId, batch_seq: BatchSeq) -> bool {
        self.streams.touch(id, batch_seq)
    }

    /// What is kept of a stream begins in this segment, if nothing of it is kept so far.
    pub(super) fn keep_in(&mut self, id: StreamId, seg_no: SegmentNo) {
        self.streams.keep_in(id, seg_no);
    }

    /// The entry of a segment's index, which has so many, for a message of a stream, where it is due.
    pub(super) fn index(
        &mut self,
        id: StreamId,
        sequence: u64,
        spot: Spot,
        entries: usize,
    ) -> Option<IndexEntry> {
        self.streams.index(id, sequence, spot, entries)
    }

    /// A stream is made by a record of a batch; none where recovery found it.
    pub(super) fn add_stream(
        &mut self,
        id: StreamId,
        name: &str,
        unix_ns: u64,
        batch_seq: BatchSeq,
    ) {
        self.streams.add(id, name, unix_ns, batch_seq);
    }

    /// All of a stream below `next` is durable.
    pub(super) fn durable(&mut self, id: StreamId, next: u64) {
        self.streams.durable(id, next);
    }

    /// A record says that messages of a stream below `first` are not kept.
    pub(super) fn trim_recorded(&mut self, id: StreamId, first: u64) {
        self.streams.trim_recorded(id, first);
    }

    /// That record is durable: what is kept begins at `first`, in no segment before `seg_no`.
    pub(super) fn trim_durable(&mut self, id: StreamId, first: u64, seg_no: SegmentNo) {
        self.streams.trim_durable(id, first, seg_no);
    }

    /// A time that an entry of the index for a stream bears.
    pub(super) fn saw_time(&mut self, id: StreamId, unix_ns: u64) {
        self.streams.saw_time(id, unix_ns);
    }

    /// Whom to forget for a new producer, where as many are known as may be.
    pub(super) fn search(
        &mut self,
        limit: usize,
        unix_ns: u64,
    ) -> Result<ProducerId, ControlError> {
        self.producers.search(limit, unix_ns)
    }

    /// A producer is registered by a record of a batch. Returns the last number accepted from it.
    pub(super) fn register(
        &mut self,
        id: ProducerId,
        owner: Owner,
        tenure: Tenure,
        unix_ns: u64,
        batch_seq: BatchSeq,
    ) -> u64 {
        self.producers.register(id, owner, tenure, unix_ns, batch_seq)
    }

    /// The same as recovery finds it.
    pub(super) fn register_recovered(
        &mut self,
        id: ProducerId,
        owner: Owner,
        tenure: Tenure,
        unix_ns: u64,
    ) {
        self.producers.register(id, owner, tenure, unix_ns, BatchSeq::NONE);
    }

    /// A record says that a producer is forgotten.
    pub(super) fn forget(&mut self, id: ProducerId) {
        self.producers.forget(id);
    }

    /// A session publishes as a producer.
    pub(super) fn hold(&mut self, id: ProducerId, holder: SessionSlot) -> ProducerHandle {
        self.producers.hold(id, holder)
    }

    /// It does so no more.
    pub(super) fn release(&mut self, handle: ProducerHandle, parting: Parting, unix_ns: u64) {
        self.producers.release(handle, parting, unix_ns);
    }

    /// Notes for each stream in which of several segments its kept messages begin: see [`Streams::kept_in`].
    pub(super) fn kept_in<'a>(
        &mut self,
        segments: impl Iterator<Item = (SegmentNo, &'a [IndexEntry])>,
    ) -> Option<Untrimmed> {
        self.streams.kept_in(segments)
    }

    /// Recovery is over: all that it found is durable.
    pub(super) fn recovered(&mut self) {
        self.streams.recovered();
        self.producers.recovered();
    }

    /// As if a producer had published a message.
    #[cfg(test)]
    pub(super) fn pretend_published(&mut self, id: ProducerId) {
        self.producers.pretend_published(id);
    }
}

impl Default for Catalog {
    fn default() -> Self {
        Self::new()
    }
}
