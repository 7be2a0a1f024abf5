//! Reading: batches in memory, what to read from the disk.

use super::Log;
use super::batch::{BatchDamage, BatchView};
use crate::ids::{Lineage, StreamId};
use crate::limits::BATCH_BYTES_MAX;
use crate::memory::Memory;
use crate::position::{DiskOffset, LogOffset};

/// Where to start looking for messages of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    /// Where in the log: they are in the batch there, or behind it.
    pub log_off: LogOffset,
    /// The stream's first sequence there.
    pub sequence: u64,
}

impl Log {
    /// Behind the last durable batch.
    #[must_use]
    #[inline]
    pub fn durable_end(&self) -> LogOffset {
        self.prefix.end()
    }

    /// The opening that is writing it.
    #[must_use]
    pub fn lineage(&self) -> Lineage {
        self.superblock.lineage()
    }

    /// The opening that wrote what stands at `log_off`; `None` where nothing that counts does.
    #[must_use]
    #[inline]
    pub fn lineage_at(&self, log_off: LogOffset) -> Option<Lineage> {
        self.segments.at(log_off).map(|live| live.lineage)
    }

    /// The opening that wrote a message; `None` where it is not kept, or not durable yet.
    #[must_use]
    pub fn lineage_of(&self, stream: StreamId, sequence: u64) -> Option<Lineage> {
        let facts = self.stream(stream)?;
        let is_kept = (facts.first_sequence..facts.durable_next).contains(&sequence);
        let segment = is_kept.then(|| self.segments.holding(stream, sequence)).flatten()?;
        Some(segment.lineage)
    }

    /// The disk memory of replay buffer `index`.
    #[must_use]
    pub fn replay_buffer(&self, index: usize) -> std::ops::Range<usize> {
        self.buffers.replay(index)
    }

    /// The batch position that `log_off` means: behind the last batch of a segment the first of the
    /// next one.
    #[must_use]
    #[inline]
    pub fn skip_to_batch(&self, log_off: LogOffset) -> LogOffset {
        self.segments.skip_to_batch(log_off)
    }

    /// The durable batch at `log_off`, when memory still holds it.
    #[must_use]
    #[inline]
    pub fn batch_at<'a>(&self, memory: &'a Memory, log_off: LogOffset) -> Option<BatchView<'a>> {
        if log_off >= self.prefix.end() || !self.tail.holds(log_off) {
            return None;
        }
        let start = self.buffers.ring(log_off);
        let key = &self.segments.at(log_off)?.key;
        let bytes = memory.bytes(start..start + BATCH_BYTES_MAX);
        Some(BatchView::trust(bytes, key, log_off).expect("memory holds what was sealed"))
    }

    /// Checks the batch at `log_off` in bytes read from the disk.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_batch<'a>(
        &self,
        bytes: &'a [u8],
        log_off: LogOffset,
    ) -> Result<BatchView<'a>, BatchDamage> {
        let live = self.segments.at(log_off).ok_or(BatchDamage::Header)?;
        BatchView::check(bytes, &live.key, log_off)
    }

    /// The same for a batch that was checked before.
    ///
    /// # Errors
    /// What is wrong with its header.
    pub fn trust_batch<'a>(
        &self,
        bytes: &'a [u8],
        log_off: LogOffset,
    ) -> Result<BatchView<'a>, BatchDamage> {
        let live = self.segments.at(log_off).ok_or(BatchDamage::Header)?;
        BatchView::trust(bytes, &live.key, log_off)
    }

    /// Where on the disk a log offset is.
    ///
    /// # Panics
    /// When the offset is in no segment that counts.
    #[must_use]
    pub fn disk_offset(&self, log_off: LogOffset) -> DiskOffset {
        self.segments.disk_offset(log_off).expect("an offset that counts")
    }

    /// Durable bytes from `log_off` to the end of its segment.
    #[must_use]
    pub fn readable_bytes(&self, log_off: LogOffset) -> usize {
        let Some(live) = self.segments.at(log_off) else { return 0 };
        let geometry = self.segments.geometry();
        let closed = live.end.map(|end| geometry.log_off(live.seg_no, end.off));
        let durable = self.prefix.end();
        let end = closed.map_or(durable, |closed| closed.min(durable));
        usize::try_from(end.bytes_since(log_off).unwrap_or(0)).expect("within a segment")
    }

    /// Where to start looking for a sequence of a stream.
    #[must_use]
    pub fn locate(&self, stream: StreamId, sequence: u64) -> Located {
        let durable_next = self.durable_next(stream);
        let found = self.segments.locate(stream, sequence, durable_next);
        found.unwrap_or_else(|| self.located_at_end(durable_next))
    }

    /// The same for the first message received at or after a Unix time. Where the clock was set back, for the
    /// first of those that bear such a time: nothing that was received later is passed over.
    #[must_use]
    pub fn locate_time(&self, stream: StreamId, unix_ns: u64) -> Located {
        let durable_next = self.durable_next(stream);
        let found = self.segments.locate_time(stream, unix_ns, durable_next);
        found.unwrap_or_else(|| self.located_at_end(durable_next))
    }

    fn located_at_end(&self, durable_next: u64) -> Located {
        Located { log_off: self.prefix.end(), sequence: durable_next }
    }

    fn durable_next(&self, stream: StreamId) -> u64 {
        self.catalog.streams().get(stream).map_or(1, |facts| facts.durable_next)
    }

    /// The lowest indexed sequence of a stream above `sequence`.
    #[must_use]
    pub fn next_indexed(&self, stream: StreamId, sequence: u64) -> Option<u64> {
        self.segments.next_indexed(stream, sequence)
    }
}
