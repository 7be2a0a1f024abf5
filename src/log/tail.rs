//! The tail of the log: the batch that is being filled, and what it goes on from. Whatever is appended is written here,
//! behind what is there, and a batch that is sealed is not changed any more: what follows it begins behind it.

use std::ops::Range;

use zerocopy::IntoBytes;

use super::batch::{BATCH_HEADER_BYTES, BatchKind, Seal, SegmentKey, batch_bytes, seal};
use super::buffers::Buffers;
use super::prefix::DurablePrefix;
use super::queue::SealedBatch;
use super::segment::Base;
use crate::ids::StreamId;
use crate::limits::{BATCH_BYTES_MAX, BLOCK_BYTES, STREAMS_MAX};
use crate::memory::Memory;
use crate::metrics::stages::BatchTimes;
use crate::position::{BatchSeq, LogOffset};
use crate::wire::record::{RECORD_HEADER_BYTES, RecordHeader, record_bytes};

/// The batch that is being filled.
#[derive(Clone, Copy, Debug, Default)]
struct OpenBatch {
    body_len: usize,
    messages: u32,
    /// When its first message was received, and when all of that turn was appended; 0 where unknown.
    received_ns: u64,
    appended_ns: u64,
    /// Whether its first block is zeros behind the body.
    blank: bool,
}

/// The tail.
#[derive(Debug)]
pub(super) struct Tail {
    buffers: Buffers,
    /// Log offset at which the open batch begins.
    at: LogOffset,
    /// Log offset at which batches of the current segment end at the latest.
    limit: LogOffset,
    open: OpenBatch,
    /// The number of the open batch.
    batch_seq: BatchSeq,
    /// What it goes on from: the chain value before it, and messages before it.
    chain: u64,
    messages: u64,
    /// Log offset from which on memory holds the log; `None` where it holds nothing.
    memory_from: Option<LogOffset>,
    /// Streams with messages in the open batch.
    touched: Vec<StreamId>,
    /// The "last durable" of the newest header.
    announced_durable: BatchSeq,
    /// The newest batch that holds records.
    content_seq: BatchSeq,
}

impl Tail {
    /// That of a log as recovery finds it, of which no segment is being written; allocates what it will ever need.
    pub(super) fn new(buffers: Buffers, base: &Base, end: LogOffset) -> Self {
        Self {
            buffers,
            at: end,
            limit: end,
            open: OpenBatch::default(),
            batch_seq: base.batch_seq.next(),
            chain: base.chain,
            messages: base.message,
            memory_from: None,
            touched: Vec::with_capacity(STREAMS_MAX),
            announced_durable: base.batch_seq,
            content_seq: base.batch_seq,
        }
    }

    /// A segment begins: batches stand from `at` on, and end at `limit` at the latest.
    ///
    /// # Panics
    /// When something was appended that is not sealed.
    pub(super) fn begin(&mut self, at: LogOffset, limit: LogOffset) {
        assert_eq!(self.open.body_len, 0, "the open batch is sealed before a roll");
        (self.at, self.limit) = (at, limit);
        // What is blank behind the segment before says nothing of this one's blocks.
        self.open = OpenBatch::default();
    }

    /// Memory holds the log from here on.
    pub(super) fn hold_from_here(&mut self) {
        self.memory_from = Some(self.at);
    }

    /// Log offset at which the open batch begins.
    #[inline]
    pub(super) fn at(&self) -> LogOffset {
        self.at
    }

    /// The number of the open batch.
    #[inline]
    pub(super) fn batch_seq(&self) -> BatchSeq {
        self.batch_seq
    }

    /// Bytes of records in it.
    #[inline]
    pub(super) fn body_len(&self) -> usize {
        self.open.body_len
    }

    /// Whether nothing was appended that is not sealed.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.open.body_len == 0
    }

    /// What the next segment or epoch goes on from.
    ///
    /// # Panics
    /// When something was appended that is not sealed.
    pub(super) fn base(&self) -> Base {
        assert_eq!(self.open.body_len, 0, "what is open belongs to no base");
        Base { batch_seq: self.batch_seq.before(), message: self.messages, chain: self.chain }
    }

    /// Whether a batch of `body_len` fits the current segment, with room for the roll behind it.
    #[inline]
    pub(super) fn fits(&self, body_len: usize) -> bool {
        self.at + (batch_bytes(body_len) + BLOCK_BYTES) as u64 <= self.limit
    }

    /// Whether a batch of one block fits, with nothing behind it.
    #[inline]
    pub(super) fn has_block(&self) -> bool {
        self.at + BLOCK_BYTES as u64 <= self.limit
    }

    /// Whether memory holds what stands at a log offset of the tail or before it.
    #[inline]
    pub(super) fn holds(&self, log_off: LogOffset) -> bool {
        let overwritten_to = self.at + BATCH_BYTES_MAX as u64;
        let is_held = self.memory_from.is_some_and(|from| log_off >= from);
        is_held && log_off + self.buffers.ring_bytes() as u64 >= overwritten_to
    }

    /// Whether batches with records are durable of which no header says so.
    pub(super) fn leaves_unsaid(&self, prefix: &DurablePrefix) -> bool {
        self.announced_durable < self.content_seq && prefix.covers(self.content_seq)
    }

    /// Puts a record into the open batch. The caller saw that it fits.
    #[inline]
    pub(super) fn put(&mut self, memory: &mut Memory, header: &RecordHeader, payload: &[u8]) {
        let bytes = record_bytes(payload.len());
        let start = self.buffers.ring(self.at) + BATCH_HEADER_BYTES + self.open.body_len;
        let room = memory.bytes_mut(start..start + bytes);
        room[..RECORD_HEADER_BYTES].copy_from_slice(header.as_bytes());
        let end = RECORD_HEADER_BYTES + payload.len();
        room[RECORD_HEADER_BYTES..end].copy_from_slice(payload);
        room[end..].fill(0);
        self.open.body_len += bytes;
    }

    /// The record that was put is a message.
    #[inline]
    pub(super) fn count_message(&mut self) {
        self.open.messages += 1;
    }

    /// Fills the open batch with what `write` puts into the room for it; it returns how much that was.
    pub(super) fn fill(&mut self, memory: &mut Memory, write: impl FnOnce(&mut [u8]) -> usize) {
        assert_eq!(self.open.body_len, 0, "nothing else is in a batch that is filled at once");
        let start = self.buffers.ring(self.at) + BATCH_HEADER_BYTES;
        let room = start..start + BATCH_BYTES_MAX - BATCH_HEADER_BYTES;
        self.open.body_len = write(memory.bytes_mut(room));
    }

    /// Notes that a stream has messages in the open batch.
    pub(super) fn touch(&mut self, stream: StreamId) {
        self.touched.push(stream);
    }

    /// The streams with messages in the open batch, which is about to be sealed.
    pub(super) fn take_touched(&mut self) -> std::vec::Drain<'_, StreamId> {
        self.touched.drain(..)
    }

    /// Notes when what was appended in this turn had been received, and that it is appended now. A batch that is
    /// filled over several turns keeps the times of its first.
    pub(super) fn note_times(&mut self, received_ns: u64, appended_ns: u64) {
        if self.open.messages > 0 && self.open.appended_ns == 0 {
            (self.open.received_ns, self.open.appended_ns) = (received_ns, appended_ns);
        }
    }

    /// Blanks the next batch's first block while nobody waits for it: a lone message then finds its padding in place and
    /// the block in the cache.
    pub(super) fn blank(&mut self, memory: &mut Memory) {
        if self.open.blank || self.open.body_len > 0 || self.at >= self.limit {
            return;
        }
        let start = self.buffers.ring(self.at);
        // A line that is zero already is not written: the device reads it faster where no core has changed it.
        let (lines, _) = memory.bytes_mut(start..start + BLOCK_BYTES).as_chunks_mut::<64>();
        for line in lines.iter_mut().filter(|line| **line != [0; 64]) {
            line.fill(0);
        }
        self.open.blank = true;
    }

    /// Seals the open batch: what it is, and where in memory. The next one goes on behind it.
    pub(super) fn seal(
        &mut self,
        memory: &mut Memory,
        key: &SegmentKey,
        kind: BatchKind,
        prefix: &DurablePrefix,
        unix_ns: u64,
    ) -> (SealedBatch, Range<usize>) {
        let OpenBatch { body_len, messages, received_ns, appended_ns, blank } = self.open;
        let (bytes, start) = (batch_bytes(body_len), self.buffers.ring(self.at));
        let said = Seal {
            kind,
            batch_seq: self.batch_seq,
            log_off: self.at,
            first_message: self.messages,
            message_count: messages,
            body_len,
            padded: blank && bytes == BLOCK_BYTES,
            chain: self.chain,
            last_durable: prefix.batch_seq(),
            append_ns: unix_ns,
        };
        let chain = seal(memory.bytes_mut(start..start + bytes), key, &said);
        let (messages, content) = (u64::from(messages), kind == BatchKind::Data);
        let sealed = SealedBatch {
            batch_seq: self.batch_seq,
            log_off: self.at,
            content,
            marked: prefix.content().batch_seq,
            chain,
            times: BatchTimes { messages, received_ns, appended_ns, ..BatchTimes::default() },
        };
        if content {
            self.content_seq = self.batch_seq;
        }
        self.announced_durable = prefix.batch_seq();
        self.chain = chain;
        self.messages += messages;
        self.batch_seq = self.batch_seq.next();
        self.at += bytes as u64;
        self.open = OpenBatch::default();
        (sealed, start..start + bytes)
    }
}
