//! The durable prefix: how far the log is on media without a hole, and what waits for a batch to be in it.

use std::collections::VecDeque;

use super::queue::WrittenBatch;
use super::segment::Base;
use super::{BatchTimes, DurableBatch};
use crate::ids::StreamId;
use crate::limits::{BATCHES_WAITING_MAX, FLIGHTS_MAX, STREAMS_MAX, TRIMS_MAX};
use crate::memory::resident;
use crate::mutant::Mutant;
use crate::position::{BatchSeq, DiskOffset, LogOffset};

const NO_BATCH: DurableBatch = DurableBatch {
    batch_seq: BatchSeq::NONE,
    bytes: 0,
    times: BatchTimes {
        messages: 0,
        received_ns: 0,
        appended_ns: 0,
        submitted_ns: 0,
        durable_ns: 0,
    },
};

/// What a record or a batch says of a stream, true once that batch is durable.
#[derive(Clone, Copy, Debug)]
struct Due {
    batch_seq: BatchSeq,
    stream: StreamId,
    sequence: u64,
}

const NOTHING_DUE: Due = Due { batch_seq: BatchSeq::NONE, stream: StreamId(0), sequence: 0 };

/// A closing index that waits until all of its segment is durable.
#[derive(Clone, Copy, Debug)]
struct Closing {
    batch_seq: BatchSeq,
    disk_offset: DiskOffset,
}

/// The newest batch of the prefix that holds records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) batch_seq: BatchSeq,
    /// Chain value after it.
    pub(super) chain: u64,
}

/// The prefix.
#[derive(Debug)]
pub(super) struct DurablePrefix {
    /// The last batch of it.
    batch_seq: BatchSeq,
    /// Log offset behind that one.
    end: LogOffset,
    /// When that became durable; 0 where recovery found it.
    since_ns: u64,
    content: Content,
    /// The newest one with records that a header of it says is durable: recovery will find that.
    marked: BatchSeq,
    /// Batches that joined it and were not taken yet.
    completed: VecDeque<DurableBatch>,
    /// What streams have in which batch: their next sequence after it.
    marks: VecDeque<Due>,
    /// Trims on their way: the first sequence kept.
    trims: VecDeque<Due>,
    closing: Option<Closing>,
}

impl DurablePrefix {
    /// That of a log as recovery finds it, where all that counts is durable; allocates what it will ever need.
    pub(super) fn new(base: &Base, end: LogOffset) -> Self {
        Self {
            batch_seq: base.batch_seq,
            end,
            since_ns: 0,
            content: Content { batch_seq: base.batch_seq, chain: base.chain },
            marked: base.batch_seq,
            completed: resident(FLIGHTS_MAX, NO_BATCH).into(),
            marks: resident(STREAMS_MAX * BATCHES_WAITING_MAX, NOTHING_DUE).into(),
            trims: resident(TRIMS_MAX, NOTHING_DUE).into(),
            closing: None,
        }
    }

    /// The last batch of it.
    #[inline]
    pub(super) fn batch_seq(&self) -> BatchSeq {
        self.batch_seq
    }

    /// Log offset behind that one.
    #[inline]
    pub(super) fn end(&self) -> LogOffset {
        self.end
    }

    /// Whether a batch is in it.
    #[inline]
    pub(super) fn covers(&self, batch_seq: BatchSeq) -> bool {
        batch_seq <= self.batch_seq
    }

    /// When its last batch became durable.
    pub(super) fn since_ns(&self) -> u64 {
        self.since_ns
    }

    /// The newest batch of it that holds records.
    pub(super) fn content(&self) -> Content {
        self.content
    }

    /// The newest batch with records that a durable header says is durable.
    pub(super) fn marked(&self) -> BatchSeq {
        self.marked
    }

    /// A batch joins it. Whether a newer one with records is said to be durable.
    ///
    /// # Panics
    /// When it is not the next.
    pub(super) fn advance(&mut self, written: &WrittenBatch, now_ns: u64) -> bool {
        let (batch, bytes) = (written.batch(), written.bytes());
        assert_eq!(batch.batch_seq, self.batch_seq.next(), "the durable prefix has no hole");
        self.batch_seq = batch.batch_seq;
        self.end = batch.log_off + bytes as u64;
        self.since_ns = now_ns;
        if batch.content {
            self.content = Content { batch_seq: batch.batch_seq, chain: batch.chain };
        }
        let is_marked = batch.marked > self.marked;
        self.marked = self.marked.max(batch.marked);
        let times = BatchTimes { durable_ns: now_ns, ..batch.times };
        self.completed.push_back(DurableBatch { batch_seq: batch.batch_seq, bytes, times });
        is_marked
    }

    /// The next batch that joined it, in order.
    pub(super) fn take(&mut self) -> Option<DurableBatch> {
        self.completed.pop_front()
    }

    /// Nobody asks for those that joined it so far.
    pub(super) fn forget_taken(&mut self) {
        self.completed.clear();
    }

    /// The next sequence of a stream is `next` once a batch is durable, the newest that was sealed.
    pub(super) fn note_next(&mut self, batch_seq: BatchSeq, stream: StreamId, next: u64) {
        self.marks.push_back(Due { batch_seq, stream, sequence: next });
    }

    /// A stream whose messages up to a sequence are durable now, and that sequence.
    #[inline]
    pub(super) fn take_next(&mut self) -> Option<(StreamId, u64)> {
        take_due(&mut self.marks, self.batch_seq)
    }

    /// Whether it keeps track of another trim.
    pub(super) fn has_room_for_trim(&self) -> bool {
        self.trims.len() < TRIMS_MAX
    }

    /// A stream begins at `first` once a batch is durable.
    pub(super) fn note_trim(&mut self, batch_seq: BatchSeq, stream: StreamId, first: u64) {
        self.trims.push_back(Due { batch_seq, stream, sequence: first });
    }

    /// A stream that is trimmed now, and where it begins.
    #[inline]
    pub(super) fn take_trim(&mut self) -> Option<(StreamId, u64)> {
        take_due(&mut self.trims, self.batch_seq)
    }

    /// The batch of the newest trim of a stream that is on its way.
    pub(super) fn trim_waits(&self, stream: StreamId) -> Option<BatchSeq> {
        self.trims.iter().rev().find(|trim| trim.stream == stream).map(|trim| trim.batch_seq)
    }

    /// A closing index is to be written to this place once a batch, the last of its segment, is durable.
    ///
    /// # Panics
    /// When one waits already.
    pub(super) fn note_closing(&mut self, batch_seq: BatchSeq, disk_offset: DiskOffset) {
        let before = self.closing.replace(Closing { batch_seq, disk_offset });
        assert!(before.is_none(), "a roll waits for the closing index before");
    }

    /// Whether a closing index waits.
    pub(super) fn closing_waits(&self) -> bool {
        self.closing.is_some()
    }

    /// Where the closing index that waits goes, once all of its segment is durable.
    #[inline]
    pub(super) fn take_closing(&mut self) -> Option<DiskOffset> {
        let due = |closing: &Closing| {
            closing.batch_seq <= self.batch_seq || Mutant::ClosedBeforeDurable.is_on()
        };
        let is_due = self.closing.as_ref().is_some_and(due);
        if is_due { self.closing.take().map(|closing| closing.disk_offset) } else { None }
    }
}

#[inline]
fn take_due(waiting: &mut VecDeque<Due>, durable_seq: BatchSeq) -> Option<(StreamId, u64)> {
    let due = *waiting.front().filter(|due| due.batch_seq <= durable_seq)?;
    waiting.pop_front();
    Some((due.stream, due.sequence))
}
