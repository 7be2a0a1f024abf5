//! What of the disk's memory is for what.
//!
//! ```text
//! ring                  the newest part of the log, each log offset at its remainder
//! one batch             what of a batch stands over the ring's end
//! replay buffers        what consumers read from the disk
//! header, closing index of the segment that begins or ends
//! a block of zeros      what a wiped header is overwritten with
//! ```

use std::ops::Range;

use super::segment::INDEX_BYTES;
use crate::limits::{BATCH_BYTES_MAX, BLOCK_BYTES, REPLAY_READS_MAX};
use crate::position::LogOffset;

/// The layout.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buffers {
    ring_bytes: usize,
}

impl Buffers {
    /// That of a ring of so many bytes.
    pub(super) fn new(ring_bytes: usize) -> Self {
        Self { ring_bytes }
    }

    /// Bytes of the ring.
    #[inline]
    pub(super) fn ring_bytes(&self) -> usize {
        self.ring_bytes
    }

    /// Bytes of memory for all of it.
    pub(super) fn bytes(&self) -> usize {
        self.zeros().end
    }

    /// Where in memory a log offset is.
    #[inline]
    pub(super) fn ring(&self, log_off: LogOffset) -> usize {
        usize::try_from(log_off.get() % self.ring_bytes as u64).expect("below the ring's size")
    }

    /// A replay buffer.
    pub(super) fn replay(&self, index: usize) -> Range<usize> {
        let start = self.ring_bytes + BATCH_BYTES_MAX + index * BATCH_BYTES_MAX;
        start..start + BATCH_BYTES_MAX
    }

    /// A segment's header.
    pub(super) fn header(&self) -> Range<usize> {
        let start = self.replay(REPLAY_READS_MAX).start;
        start..start + BLOCK_BYTES
    }

    /// A segment's closing index.
    pub(super) fn closing(&self) -> Range<usize> {
        let start = self.header().end;
        start..start + INDEX_BYTES
    }

    /// Zeros.
    pub(super) fn zeros(&self) -> Range<usize> {
        let start = self.closing().end;
        start..start + BLOCK_BYTES
    }
}
