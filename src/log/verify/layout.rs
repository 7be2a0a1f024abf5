//! What stands around the batches: superblocks, banner, reserved areas, segment headers.

use std::collections::BTreeSet;

use super::{Verifier, without_replaced};
use crate::disk::{Disk, DiskFault};
use crate::limits::BLOCK_BYTES;
use crate::log::create::{area_end, banner};
use crate::log::recovery::Found;
use crate::log::scan::{self, CHUNK_BYTES};
use crate::log::segment::SegmentHeader;
use crate::log::superblock::{AREA_START, COPIES, copy_offsets, read_copies};
use crate::position::{DiskOffset, SegmentNo};

impl Verifier {
    pub(super) fn check_copies(&mut self, disk: &mut dyn Disk) {
        let offsets = copy_offsets(disk.info().bytes);
        for (copy, found) in read_copies(disk).into_iter().enumerate() {
            match found {
                Ok(block) if block.sequence == self.superblock.sequence => {}
                Ok(block) => {
                    let what = format!(
                        "superblock copy {copy}: of write {}, the others of {}",
                        block.sequence, self.superblock.sequence
                    );
                    self.note(false, offsets[copy], what);
                }
                Err(damage) => {
                    self.note(true, offsets[copy], format!("superblock copy {copy}: {damage}"));
                }
            }
        }
    }

    /// The banner, and that all around it and the superblock's copies is zero.
    pub(super) fn check_reserved(&mut self, disk: &mut dyn Disk) -> Result<(), DiskFault> {
        let end = DiskOffset::new(disk.info().bytes);
        let block = BLOCK_BYTES as u64;
        scan::read(disk, DiskOffset::START, BLOCK_BYTES)?;
        if disk.memory().bytes(0..BLOCK_BYTES) != banner(&self.superblock) {
            self.note(true, DiskOffset::START, "banner block: not as it was written".into());
        }
        let copies = copy_offsets(disk.info().bytes);
        let mut at = DiskOffset::START + block;
        while at < end {
            if at == AREA_START {
                at = area_end(&self.geometry);
            }
            let next_copy = copies.into_iter().filter(|&copy| copy >= at).min().unwrap_or(end);
            let next_area = if at < AREA_START { AREA_START } else { end };
            let stop = next_copy.min(next_area);
            let bytes = (stop - at).min(CHUNK_BYTES as u64);
            if bytes == 0 {
                // A superblock stands here; it was checked.
                at += block;
                continue;
            }
            self.check_zero(disk, at, bytes, "reserved area")?;
            at += bytes;
        }
        debug_assert!(copies.len() == COPIES);
        Ok(())
    }

    fn check_zero(
        &mut self,
        disk: &mut dyn Disk,
        disk_offset: DiskOffset,
        bytes: u64,
        what: &str,
    ) -> Result<(), DiskFault> {
        let bytes = usize::try_from(bytes).expect("at most a chunk");
        scan::read(disk, disk_offset, bytes)?;
        let found = disk.memory().bytes(0..bytes).iter().position(|&byte| byte != 0);
        if let Some(at) = found {
            let at = disk_offset + at as u64;
            self.note(true, at, format!("{what}: not zero at disk offset {at}"));
        }
        Ok(())
    }

    /// Both copies of every segment's header, and that the headers of unused places are empty.
    pub(super) fn check_headers(
        &mut self,
        disk: &mut dyn Disk,
        found: &[Found],
        stale: &[SegmentHeader],
    ) -> Result<(), DiskFault> {
        // A segment is rolled, and a batch of it said to be durable, when both its headers are durable.
        let newest = found.last().map(|found| found.header.seg_no());
        let newest_is_begun = match found.last() {
            Some(last) => {
                let from = BLOCK_BYTES as u64;
                let mark = scan::look_ahead(disk, &self.superblock, &last.header, from)?;
                mark > last.header.base().batch_seq
            }
            None => false,
        };
        // One that was replaced held nothing; perhaps since one of its headers failed.
        let kept: BTreeSet<SegmentNo> =
            without_replaced(found).iter().map(|found| found.header.seg_no()).collect();
        for place in self.geometry.places() {
            let start = self.geometry.segment(place);
            let used = found.iter().find(|found| found.header.place() == place);
            for (offset, what) in [(0, "header"), (self.geometry.copy_offset(), "header copy")] {
                scan::read(disk, start + offset, BLOCK_BYTES)?;
                let bytes = disk.memory().bytes(0..BLOCK_BYTES);
                let header = SegmentHeader::check(bytes, &self.superblock, place);
                let is_zero = bytes.iter().all(|&byte| byte == 0);
                match used {
                    Some(used) if header == Some(used.header) => {}
                    Some(used) => {
                        let seg_no = used.header.seg_no();
                        let begun = Some(seg_no) < newest || newest_is_begun;
                        let counts = kept.contains(&seg_no);
                        // An opening that failed leaves a header behind, and nothing else.
                        let closed = used.closing.is_some() || self.superblock.clean.get() == 1;
                        let was_closed = closed && self.was_closed(&used.header);
                        let next = found.iter().find(|next| next.header.seg_no() > seg_no);
                        let superseded =
                            next.is_some_and(|next| next.header.supersedes(&used.header));
                        let is_kept =
                            self.kept_from.is_some_and(|from| seg_no >= from) && !superseded;
                        let is_damage = counts && is_kept && (begun || was_closed);
                        self.note(is_damage, start + offset, format!("segment {seg_no}: {what}"));
                    }
                    None if is_zero => {}
                    // What an epoch without a future has begun; the next opening wipes it.
                    None if stale.iter().any(|gone| gone.place() == place) => {}
                    None => {
                        let what =
                            format!("unused place {place}: {what} is neither empty nor valid");
                        self.note(true, start + offset, what);
                    }
                }
            }
        }
        Ok(())
    }
}
