//! What the disks of the tests have in common: what media hold that were never written.

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
