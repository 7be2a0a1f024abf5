//! Reading: batches in memory, what to read from the disk.

use super::batch::{BatchDamage, BatchView};
use super::segment::IndexEntry;
use super::{Live, Log};
use crate::limits::{BATCH_BYTES_MAX, BLOCK_BYTES};
use crate::memory::Memory;

impl Log {
    /// Behind the last durable batch.
    #[must_use]
    #[inline]
    pub fn durable_end(&self) -> u64 {
        self.prefix.end()
    }

    /// The disk memory of replay buffer `index`.
    #[must_use]
    pub fn replay_buffer(&self, index: usize) -> std::ops::Range<usize> {
        let start = Self::replay_start(self.ring_bytes) + index * BATCH_BYTES_MAX;
        start..start + BATCH_BYTES_MAX
    }

    fn live_at(&self, log_off: u64) -> Option<usize> {
        let seg_no = log_off / self.geometry.segment_bytes;
        self.live.binary_search_by_key(&seg_no, |live| live.seg_no).ok()
    }

    /// The batch position that `log_off` means: behind the last batch of a segment the first of the
    /// next one.
    #[must_use]
    #[inline]
    pub fn skip_to_batch(&self, log_off: u64) -> u64 {
        let Some(index) = self.live_at(log_off) else {
            // Before the first segment, or in one that was not kept: the next there is.
            let next = self.live.partition_point(|live| self.first_batch(live) <= log_off);
            return self.live.get(next).map_or(log_off, |live| self.first_batch(live));
        };
        let at_end = self.live[index]
            .end
            .is_some_and(|end| log_off % self.geometry.segment_bytes >= end.off);
        match self.live.get(index + 1) {
            Some(next) if at_end => self.first_batch(next),
            Some(_) | None => log_off,
        }
    }

    fn first_batch(&self, live: &Live) -> u64 {
        live.seg_no * self.geometry.segment_bytes + BLOCK_BYTES as u64
    }

    /// The durable batch at `log_off`, when memory still holds it.
    #[must_use]
    #[inline]
    pub fn batch_at<'a>(&self, memory: &'a Memory, log_off: u64) -> Option<BatchView<'a>> {
        if log_off < self.memory_from || log_off >= self.prefix.end() {
            return None;
        }
        let overwritten_from = self.open_log_off() + BATCH_BYTES_MAX as u64;
        if log_off + (self.ring_bytes as u64) < overwritten_from {
            return None;
        }
        let start = self.ring_offset(log_off);
        let key = &self.live[self.live_at(log_off)?].key;
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
        log_off: u64,
    ) -> Result<BatchView<'a>, BatchDamage> {
        let index = self.live_at(log_off).ok_or(BatchDamage::Header)?;
        BatchView::check(bytes, &self.live[index].key, log_off)
    }

    /// The same for a batch that was checked before.
    ///
    /// # Errors
    /// What is wrong with its header.
    pub fn trust_batch<'a>(
        &self,
        bytes: &'a [u8],
        log_off: u64,
    ) -> Result<BatchView<'a>, BatchDamage> {
        let index = self.live_at(log_off).ok_or(BatchDamage::Header)?;
        BatchView::trust(bytes, &self.live[index].key, log_off)
    }

    /// Where on the disk a log offset is.
    ///
    /// # Panics
    /// When the offset is in no segment that counts.
    #[must_use]
    pub fn disk_offset(&self, log_off: u64) -> u64 {
        let live = &self.live[self.live_at(log_off).expect("an offset that counts")];
        self.geometry.segment(live.phys) + log_off % self.geometry.segment_bytes
    }

    /// Durable bytes from `log_off` to the end of its segment.
    #[must_use]
    pub fn readable_bytes(&self, log_off: u64) -> usize {
        let Some(index) = self.live_at(log_off) else { return 0 };
        let segment = self.live[index].seg_no * self.geometry.segment_bytes;
        let end = match self.live[index].end {
            Some(end) => (segment + end.off).min(self.prefix.end()),
            None => self.prefix.end(),
        };
        usize::try_from(end.saturating_sub(log_off)).expect("within a segment")
    }

    pub(super) fn entries(&self, live: &Live) -> &[IndexEntry] {
        &self.index[usize::try_from(live.phys).expect("a segment's place")]
    }

    pub(super) fn entry_off(&self, live: &Live, entry: &IndexEntry) -> u64 {
        let block = u64::from(entry.block.get());
        live.seg_no * self.geometry.segment_bytes + block * BLOCK_BYTES as u64
    }
}
