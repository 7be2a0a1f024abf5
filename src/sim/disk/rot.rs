//! What media do to data they once held well.

use std::rc::Rc;

use super::{BLOCK, Block, Device, SEGMENT_BYTES};
use crate::limits::BLOCK_BYTES;
use crate::log::segment::INDEX_BYTES;
use crate::log::superblock::{AREA_START, copy_offsets};
use crate::position::DiskOffset;

impl Device {
    /// Changes one block that holds something, as six bytes say: which, how, and with what.
    pub(in crate::sim) fn edit(&mut self, edit: &[u8; 6]) {
        let count = self.media.blocks.len();
        let [low, high, how, one, two, with] = edit.map(usize::from);
        let at =
            *self.media.blocks.keys().nth((low | high << 8) % count).expect("within the count");
        let mut bytes = *self.media.blocks[&at];
        let place = (one | two << 8) % BLOCK_BYTES;
        match how % 6 {
            0 => bytes[place] ^= 1 << (with % 8),
            1 => bytes[place] = edit[5],
            2 => bytes = [0; BLOCK_BYTES],
            3 => {
                let other = (one | two << 8) % count;
                bytes = *self.media.blocks.values().nth(other).expect("within the count").as_ref();
            }
            4 => bytes[place..].fill(0),
            _ => bytes[..place].rotate_left(with % place.max(1)),
        }
        self.media.blocks.insert(at, Rc::new(bytes));
    }

    /// Flips a bit of acknowledged data, puts zeros or its former contents there, or another batch.
    /// Only what a later write vouches for: of the newest the log cannot know (see `docs/testing.md`).
    /// `false` when there is nothing of that kind.
    pub(in crate::sim) fn rot(&mut self) -> bool {
        if self.vouched.count == 0 {
            return false;
        }
        let index =
            usize::try_from(self.random.below(self.vouched.count as u64)).expect("an index");
        let victim = self.vouched.batches[index];
        let count = victim.bytes as u64 / BLOCK;
        let at = victim.disk_offset.block() + self.random.below(count);
        let Some(block) = self.media.blocks.get(&at).cloned() else { return false };
        let kind = self.random.below(4);
        let changed: Option<Block> = match kind {
            0 | 1 => {
                let mut bytes = *block;
                let bit = self.random.below(BLOCK * 8);
                bytes[usize::try_from(bit / 8).expect("an index")] ^= 1 << (bit % 8);
                self.hits.rotten += 1;
                Some(Rc::new(bytes))
            }
            2 => {
                self.hits.lost += 1;
                self.media.before.get(&at).cloned()
            }
            _ => {
                self.hits.lost += 1;
                let other =
                    usize::try_from(self.random.below(self.vouched.count as u64)).expect("index");
                self.media.blocks.get(&self.vouched.batches[other].disk_offset.block()).cloned()
            }
        };
        let same = changed.as_ref().is_some_and(|changed| **changed == *block);
        self.trace.note("rot", at, kind);
        match changed {
            Some(changed) => drop(self.media.blocks.insert(at, changed)),
            None => drop(self.media.blocks.remove(&at)),
        }
        !same
    }

    /// Flips a bit anywhere that something was ever written: superblocks, headers, indexes, batches. Not
    /// in the newest batches: of these the log cannot know yet.
    pub(in crate::sim) fn rot_anywhere(&mut self) {
        let count = self.media.blocks.len() as u64;
        if count == 0 {
            return;
        }
        let index = usize::try_from(self.random.below(count)).expect("an index");
        let at = *self.media.blocks.keys().nth(index).expect("within the count");
        if self.vouched.batches[self.vouched.count..].iter().any(|batch| batch.holds(at)) {
            return;
        }
        let bit = self.random.below(BLOCK * 8);
        let mut bytes = *self.media.blocks[&at];
        bytes[usize::try_from(bit / 8).expect("an index")] ^= 1 << (bit % 8);
        self.media.blocks.insert(at, Rc::new(bytes));
        self.hits.rotten += 1;
        self.trace.note("rot anywhere", at, bit);
    }

    /// After an orderly stop: takes both headers of an older segment away (0), spoils the newest batch
    /// (1), that and its segment's closing index (2), or takes three copies of the superblock away (3).
    pub(in crate::sim) fn rot_segment(&mut self, kind: u64) {
        let Some(newest) = self.vouched.batches.last().map(|batch| batch.disk_offset) else {
            return;
        };
        let segment_of = |disk_offset: DiskOffset| (disk_offset - AREA_START) / SEGMENT_BYTES;
        let segment = AREA_START + segment_of(newest) * SEGMENT_BYTES;
        self.trace.note("rot segment", segment.get(), kind);
        if kind == 3 {
            for disk_offset in copy_offsets(self.info.bytes).into_iter().skip(1) {
                self.media.blocks.remove(&disk_offset.block());
                self.hits.lost += 1;
            }
        }
        if kind == 1 || kind == 2 {
            let mut bytes = self.block(newest.block());
            bytes[BLOCK_BYTES / 2] ^= 1;
            bytes[64] ^= 1;
            self.media.blocks.insert(newest.block(), Rc::new(bytes));
            self.hits.rotten += 1;
        }
        if kind == 2 {
            let index = segment + (SEGMENT_BYTES - (INDEX_BYTES + BLOCK_BYTES) as u64);
            self.media.blocks.remove(&index.block());
            self.hits.lost += 1;
        }
        let mut older = self.vouched.batches.iter().map(|batch| segment_of(batch.disk_offset));
        if kind == 0
            && let Some(older) = older.rfind(|&older| older != segment_of(newest))
        {
            let start = AREA_START + older * SEGMENT_BYTES;
            self.media.blocks.remove(&start.block());
            self.media.blocks.remove(&((start + SEGMENT_BYTES).block() - 1));
            self.hits.lost += 2;
        }
    }
}
