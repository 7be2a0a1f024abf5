//! The log of a shard: bytes on the disk, the durable prefix, recovery.
//!
//! # Words
//!
//! * *log offset*: `seg_no * segment_bytes + offset in the segment`; grows forever, never used twice.
//! * *sealed*: a batch with its header, not to be changed any more; *submitted*: given to the disk.
//! * *durable end*: behind the last batch that, with all before it, is on media. Nothing past it is
//!   acknowledged or shown.
//! * *last durable* (LAC): the batch a header names as known durable; how recovery tells torn from damaged.
//! * *trimmed*: messages of a stream below its first sequence. A segment of which nothing is kept any more is
//!   wiped and its place used again.
//! * *kept*: segments that hold messages or catalog records. A trailing segment without any is not kept:
//!   its place is used again, so that restarts do not eat the disk.
//! * *place*: which part of the disk a segment stands in; unlike its number, it is used again.
//!
//! # Owners
//!
//! A log is made of five parts, each a type in a file of its own, which alone changes what it holds: the `Tail`
//! (the batch that is being filled), the `WriteQueue` (writes on their way), the `DurablePrefix` (how far all is
//! durable, and what waits for it), the `Segments` and the `Catalog` (streams and producers). [`Log`] passes values
//! between them, in the order in which data travels.
//!
//! Facts: a segment belongs to one epoch; it opens with a checkpoint of the catalog and the producers, so
//! a log is opened by reading headers, closing indexes and the last segment. Written blocks are never
//! rewritten while they count. Order among writes in flight is the disk's affair; the prefix rule makes
//! it invisible.

pub(crate) mod batch;
pub(crate) mod superblock;
pub(crate) mod shares;
pub(crate) mod segment;
mod control;
mod buffers;
mod catalog;
mod tail;
mod append;
mod roll;
mod queue;
mod commit;
mod prefix;
mod segments;
mod read;
pub(crate) mod trim;
mod scan;
pub mod recovery;
pub mod create;
pub(crate) mod verify;
pub(crate) mod inspect;
pub(crate) mod copy;

#[cfg(test)]
mod again_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod copy_tests;
#[cfg(test)]
mod format_tests;
#[cfg(test)]
mod places_tests;
#[cfg(test)]
mod owner_tests;
#[cfg(test)]
mod trim_tests;
#[cfg(test)]
mod bounds_tests;

use crate::disk::DiskFault;
use crate::ids::{Epoch, ProducerId, ProducerName, StreamId};
use crate::limits::{Limits, QUEUE_DEPTH_MAX, RESERVED_SEGMENTS};
use crate::metrics::stages::BatchTimes;
use crate::position::{BatchSeq, DiskOffset};
use crate::wire::record::Signed;

pub use batch::BatchView;
pub use catalog::{
    Owner, Parting, Position, ProducerFacts, ProducerHandle, Registrant, StreamFacts, Tenure,
};
pub use read::Located;
pub use recovery::Witness;

use buffers::Buffers;
use catalog::Catalog;
use prefix::{Content, DurablePrefix};
use queue::WriteQueue;
use segment::Geometry;
pub use segments::SegmentCounts;
use segments::{Recovered, Segments};
use superblock::Superblock;
use tail::Tail;

/// A message to be appended.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// What the producer signed.
    pub signed: Signed,
    /// The right to publish as the producer who signed.
    pub producer: &'a ProducerHandle,
    /// The producer's checksum.
    pub crc32c: u32,
    /// Extension and payload.
    pub payload: &'a [u8],
}

/// Where a message went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// The batch it is in.
    pub batch_seq: BatchSeq,
}

/// Why a message was not appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, displaydoc::Display, thiserror::Error)]
pub enum AppendError {
    /// as much as may be in flight is in flight
    Busy,
    /// the log is full
    Full,
    /// no such stream
    NoStream,
}

/// Why a control record was not appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, displaydoc::Display, thiserror::Error)]
pub enum ControlError {
    /// as much as may be in flight is in flight
    Busy,
    /// the log is full
    Full,
    /// the table is full: it takes {limit}
    TableFull {
        /// How many it takes.
        limit: usize,
    },
}

impl From<AppendError> for ControlError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Busy => Self::Busy,
            AppendError::Full | AppendError::NoStream => Self::Full,
        }
    }
}

/// A producer that was registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Its identity.
    pub id: ProducerId,
    /// The last number accepted from it.
    pub last_seq: u64,
    /// The batch that holds the registration.
    pub batch_seq: BatchSeq,
    /// Whose place it took.
    pub forgotten: Option<ProducerId>,
}

/// A batch that became durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DurableBatch {
    /// Its number.
    pub batch_seq: BatchSeq,
    /// Its size on the disk.
    pub bytes: usize,
    /// When it passed which point.
    pub times: BatchTimes,
}

/// a write at {disk_offset} of the disk failed: {fault}
///
/// The disk failed: the log acknowledges nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, displaydoc::Display, thiserror::Error)]
#[ignore_extra_doc_attributes]
pub struct LogFault {
    /// Where.
    pub disk_offset: DiskOffset,
    /// What the device said.
    pub fault: DiskFault,
}

/// The log.
#[derive(Debug)]
pub struct Log {
    /// What it is; rewritten when an epoch begins, and at a clean stop.
    superblock: Superblock,
    limits: Limits,
    buffers: Buffers,
    catalog: Catalog,
    tail: Tail,
    queue: WriteQueue,
    prefix: DurablePrefix,
    segments: Segments,
}

impl Log {
    /// Bytes of memory a disk needs for a log with a ring of `ring_bytes`.
    #[must_use]
    pub fn memory_bytes(ring_bytes: usize) -> usize {
        Buffers::new(ring_bytes).bytes()
    }

    /// A log of these parts, nothing in flight, no segment being written.
    fn assemble(
        superblock: &Superblock,
        queue_depth: usize,
        ring_bytes: usize,
        mut catalog: Catalog,
        found: Recovered,
    ) -> Self {
        let geometry = Geometry::of(superblock);
        let (base, durable_end) = found.end(&geometry);
        let segments = Segments::new(geometry, found, &mut catalog);
        let buffers = Buffers::new(ring_bytes);
        Self {
            superblock: *superblock,
            limits: Limits::MAX,
            buffers,
            catalog,
            tail: Tail::new(buffers, &base, durable_end),
            queue: WriteQueue::new(queue_depth.clamp(1, QUEUE_DEPTH_MAX)),
            prefix: DurablePrefix::new(&base, durable_end),
            segments,
        }
    }

    /// What tells this log from another to its clients: the first bytes of its identity, as `log describe` prints
    /// it; never 0.
    #[must_use]
    pub fn tag(&self) -> u32 {
        let [a, b, c, d, ..] = self.superblock.cluster;
        u32::from_le_bytes([d, c, b, a]).max(1)
    }

    /// Identity of the log, the same for all its shares and copies.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        self.superblock.cluster
    }

    /// What is random in it and never on the wire.
    #[must_use]
    pub fn secret(&self) -> [u8; 32] {
        blake3::derive_key("buslane log secret", &self.superblock.salt)
    }

    /// Identity of this copy of the log, made when it was formatted.
    #[must_use]
    pub fn leg(&self) -> [u8; 16] {
        self.superblock.leg
    }

    /// What this log has to hold when it is opened again.
    #[must_use]
    pub fn witness(&self) -> Witness {
        let Content { batch_seq, chain } = self.prefix.content();
        Witness { leg: self.superblock.leg, epoch: self.epoch().0, batch_seq, chain }
    }

    /// This reign's number.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        Epoch(self.superblock.last_epoch.get())
    }

    /// Whether it takes no message because no segment is left.
    #[must_use]
    pub fn is_full(&self) -> bool {
        !self.segments.takes_messages()
    }

    /// Whether everything appended is durable.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.tail.is_empty()
    }

    /// Whether something was appended that the disk has not been given.
    #[must_use]
    #[inline]
    pub fn has_unsubmitted(&self) -> bool {
        !self.tail.is_empty() || !self.queue.is_submitted()
    }

    /// Bytes sealed or being filled that are not durable.
    #[must_use]
    pub fn bytes_in_flight(&self) -> usize {
        self.queue.batch_bytes() + self.tail.body_len()
    }

    /// What stopped it.
    #[must_use]
    pub fn fault(&self) -> Option<LogFault> {
        self.queue.fault()
    }

    /// A stream. One whose record is not durable does not exist yet: a power cut could still undo it.
    #[must_use]
    #[inline]
    pub fn stream(&self, id: StreamId) -> Option<&StreamFacts> {
        self.catalog.streams().get(id).filter(|stream| self.is_durable(stream.created_batch()))
    }

    /// The stream of this name, if its record is durable.
    #[must_use]
    pub fn stream_by_name(&self, name: &str) -> Option<&StreamFacts> {
        self.catalog
            .streams()
            .by_name(name)
            .filter(|stream| self.is_durable(stream.created_batch()))
    }

    /// The stream of this name that is being made, and the batch of its record, which is not durable yet.
    #[must_use]
    pub fn stream_being_made(&self, name: &str) -> Option<(StreamId, BatchSeq)> {
        let stream = self.catalog.streams().by_name(name)?;
        let batch_seq = stream.created_batch();
        (!self.is_durable(batch_seq)).then_some((stream.id, batch_seq))
    }

    /// All streams whose records are durable, by id.
    pub fn streams(&self) -> impl Iterator<Item = &StreamFacts> {
        self.catalog.streams().iter().filter(|stream| self.is_durable(stream.created_batch()))
    }

    /// Whether a batch, and with it all it says, is durable.
    #[must_use]
    #[inline]
    pub fn is_durable(&self, batch_seq: BatchSeq) -> bool {
        self.prefix.covers(batch_seq)
    }

    /// A producer.
    #[must_use]
    pub fn producer(&self, id: ProducerId) -> Option<&ProducerFacts> {
        self.catalog.producers().get(id)
    }

    /// The producer of a name, of sessions without identities.
    #[must_use]
    pub fn producer_named(&self, name: &ProducerName) -> Option<&ProducerFacts> {
        self.producers().find(|producer| producer.owner.name == *name)
    }

    /// Whether the newest registration of a producer is durable.
    #[must_use]
    pub fn is_registered(&self, producer: &ProducerFacts) -> bool {
        self.is_durable(producer.registered_batch())
    }

    /// All producers.
    pub fn producers(&self) -> impl Iterator<Item = &ProducerFacts> {
        self.catalog.producers().iter()
    }

    /// The places of producers; where the id is 0 there is none.
    #[must_use]
    pub fn producer_places(&self) -> &[ProducerFacts] {
        self.catalog.producers().places()
    }

    /// The batch that holds the newest of what was appended.
    #[must_use]
    pub fn appended_batch(&self) -> BatchSeq {
        let open = self.tail.batch_seq();
        if self.tail.is_empty() { open.before() } else { open }
    }

    /// The same, where it is not durable yet.
    #[must_use]
    pub fn newest_undurable(&self) -> Option<BatchSeq> {
        Some(self.appended_batch()).filter(|&newest| !self.is_durable(newest))
    }

    /// Segments that count, and that are free.
    #[must_use]
    pub fn segments(&self) -> SegmentCounts {
        self.segments.counts()
    }

    /// Bytes that messages may still take: the rest of the segment being written, and free segments without those
    /// that are reserved for freeing others; 0 where the log takes nothing.
    #[must_use]
    pub fn room_bytes(&self) -> u64 {
        if self.is_full() {
            return 0;
        }
        let geometry = self.segments.geometry();
        let bytes = geometry.segment_bytes;
        let SegmentCounts { live, free } = self.segments.counts();
        let free = free.saturating_sub(RESERVED_SEGMENTS) as u64;
        let rest = if live == 0 { 0 } else { bytes - geometry.within(self.tail.at()) };
        free * bytes + rest
    }
}

#[cfg(test)]
impl Log {
    /// Offset in the current segment behind what is sealed.
    fn off(&self) -> u64 {
        self.segments.geometry().within(self.tail.at())
    }

    /// As if a producer had published a message.
    pub(crate) fn pretend_forgotten(&mut self, id: ProducerId) {
        self.catalog.forget(id);
    }

    /// As its name says.
    pub(crate) fn pretend_published(&mut self, id: ProducerId) {
        self.catalog.pretend_published(id);
    }

    /// The id the next new producer gets.
    pub(crate) fn next_producer_id(&self) -> ProducerId {
        self.catalog.producers().next_id()
    }
}
