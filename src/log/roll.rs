//! Sealing batches and rolling segments: how what is appended gets into the queue of writes. All in memory.

use zerocopy::IntoBytes;

use super::Log;
use super::batch::BatchKind;
use super::queue::{Cargo, Span};
use super::segment::{End, write_closing};
use crate::limits::BLOCK_BYTES;
use crate::memory::Memory;
use crate::position::{DiskOffset, SegmentNo};

impl Log {
    /// Seals the open batch and puts it into the queue.
    pub(super) fn seal_open(&mut self, memory: &mut Memory, kind: BatchKind, unix_ns: u64) {
        let batch_seq = self.tail.batch_seq();
        for id in self.tail.take_touched() {
            let next = self.catalog.streams().get(id).expect("a known stream").next_sequence;
            self.prefix.note_next(batch_seq, id, next);
        }
        let (geometry, current) = (self.segments.geometry(), self.segments.current());
        let disk_offset = geometry.segment(current.place) + geometry.within(self.tail.at());
        let (sealed, room) = self.tail.seal(memory, &current.key, kind, &self.prefix, unix_ns);
        let (memory_offset, bytes) = (room.start, room.len());
        self.queue.push(Span { disk_offset, memory_offset, bytes }, Cargo::Batch(sealed));
    }

    /// Notes when what was appended in this turn had been received, and that it is appended now.
    pub fn note_times(&mut self, received_ns: u64, appended_ns: u64) {
        self.tail.note_times(received_ns, appended_ns);
        self.queue.note_times(received_ns, appended_ns);
    }

    /// Makes the next batch ready while nobody waits for it.
    pub fn prepare(&mut self, memory: &mut Memory) {
        self.tail.blank(memory);
    }

    /// Ends the current segment and starts the next.
    pub(super) fn roll(&mut self, memory: &mut Memory, unix_ns: u64) {
        assert!(self.tail.is_empty(), "the open batch is sealed before a roll");
        // The mark of an idle log may stand where the roll would: then the closing index alone says that it ended.
        if self.tail.has_block() {
            self.seal_open(memory, BatchKind::Roll, unix_ns);
        }
        self.close_segment(memory);
        self.begin_segment(memory, false, unix_ns);
    }

    /// Notes where the current segment ends and makes its closing index, which is written once the whole
    /// segment is durable: to recovery it is the word that nothing of the segment is missing.
    pub(super) fn close_segment(&mut self, memory: &mut Memory) {
        let off = self.segments.geometry().within(self.tail.at());
        let end = End { off, base: self.tail.base() };
        let (current, entries) = self.segments.close(end);
        let header = current.header(&self.superblock);
        write_closing(memory.bytes_mut(self.buffers.closing()), &header, &end, entries);
        let geometry = self.segments.geometry();
        let disk_offset = geometry.segment(self.segments.current().place) + geometry.index_offset();
        self.prefix.note_closing(end.base.batch_seq, disk_offset);
        self.write_closing_when_due();
    }

    /// Queues the closing index that waits, once all of its segment is durable.
    pub(super) fn write_closing_when_due(&mut self) {
        let Some(disk_offset) = self.prefix.take_closing() else { return };
        self.queue_auxiliary(disk_offset, self.buffers.closing());
        self.segments.look_again();
    }

    /// Takes a free segment: its header twice, then the checkpoint of all tables.
    pub(super) fn begin_segment(&mut self, memory: &mut Memory, new_epoch: bool, unix_ns: u64) {
        let segments = &self.segments;
        let seg_no = if new_epoch { segments.first_seg_no() } else { segments.next_seg_no() };
        let salt = self.segment_salt(seg_no);
        let base = self.tail.base();
        let header = self.segments.begin(&self.superblock, seg_no, salt, base, unix_ns);
        memory.bytes_mut(self.buffers.header()).copy_from_slice(header.as_bytes());
        let geometry = *self.segments.geometry();
        let segment = geometry.segment(header.place());
        self.queue_auxiliary(segment, self.buffers.header());
        self.queue_auxiliary(segment + geometry.copy_offset(), self.buffers.header());
        let (first, limit) = (BLOCK_BYTES as u64, geometry.data_end());
        self.tail.begin(geometry.log_off(seg_no, first), geometry.log_off(seg_no, limit));
        if new_epoch {
            self.seal_open(memory, BatchKind::EpochOpen, unix_ns);
        }
        for part in 0..self.catalog.checkpoint_parts() {
            self.tail.fill(memory, |body| self.catalog.write_checkpoint(part, body));
            self.seal_open(memory, BatchKind::Checkpoint, unix_ns);
        }
    }

    /// A segment's salt: from the log's secret, the epoch and the segment's number. Two epochs that each took a
    /// number for free, not seeing the other's segment, have two salts.
    fn segment_salt(&self, seg_no: SegmentNo) -> u64 {
        let seed = seg_no.get() ^ self.epoch().0.rotate_left(32);
        xxhash_rust::xxh3::xxh3_64_with_seed(&self.superblock.salt, seed)
    }

    /// Whether the auxiliary buffer is being written, or waits to be.
    pub(super) fn uses_auxiliary(&self) -> bool {
        self.prefix.closing_waits() || self.queue.has_auxiliary()
    }

    fn queue_auxiliary(&mut self, disk_offset: DiskOffset, memory: std::ops::Range<usize>) {
        let (memory_offset, bytes) = (memory.start, memory.len());
        self.queue.push(Span { disk_offset, memory_offset, bytes }, Cargo::Auxiliary);
    }
}
