//! What module tests stand on, once for all of them: a [`rig`] of shards and clients over a network in memory, and a
//! [`disk`] that fails as it is told to.
//!
//! Beside these a test takes its numbers of chance from `crate::random`, its datagrams from `crate::port::memory` and its
//! time from `crate::clock::ManualClock`. The simulator has a disk of its own (`src/sim/disk.rs`): one device that several
//! processes have attached, one after the other. Tests of one part alone stand beside it, with what only they need: a
//! backend that breaks its contract in `src/disk/queue.rs`, a log that is written to while it is read in
//! `src/log/copy_tests.rs`.

#[cfg(test)]
pub(crate) mod disk;
#[cfg(test)]
pub(crate) mod rig;
pub(crate) mod sealed;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::limits::BLOCK_BYTES;

/// What a block holds that was never written: anything, and the same at each read.
pub(crate) fn never_written(block: u64) -> [u8; BLOCK_BYTES] {
    let mut bytes = [0; BLOCK_BYTES];
    for (word, index) in bytes.chunks_exact_mut(8).zip(0u64..) {
        let noise = xxh3_64_with_seed(&index.to_le_bytes(), block);
        word.copy_from_slice(&noise.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_that_were_never_written_are_not_empty_and_stay_as_they_are() {
        assert_eq!(never_written(7), never_written(7));
        assert_ne!(never_written(7), never_written(8));
        assert!(never_written(0).iter().any(|byte| *byte != 0));
    }
}
