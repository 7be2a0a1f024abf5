//! A copy of a log on another disk, made while an appliance writes the log or while none does.
//!
//! Nothing of the source is held or changed. What an appliance does meanwhile is append, begin segments, free
//! trimmed ones and use their places again, so a copy block by block is none: it holds the end of one moment
//! beside the beginning of another. This one follows the log as recovery does, from the first segment on, each
//! batch checked before it is written, and ends at a batch: it is what a power cut right behind that batch
//! would have left.
//!
//! Facts: whatever was durable when the copy began is in it, unless it was trimmed meanwhile. That a segment is gone
//! is known before the trim is read that freed it, so the copy begins where an *earlier* round saw the log begin:
//! what was copied stays until then, freed or not. A segment that is freed before it was copied makes another round. The copy has its segments in
//! the order of their numbers, so that it may be larger or smaller than the source. It is the same log (the
//! identity that clients and segments know) on another leg.

mod segments;

use std::collections::BTreeMap;

use super::create::{clear_layout, disk_bytes_min, segments_in, write_banner};
use super::recovery::{Found, OpenError, read_log, read_segments, read_superblock, take_stale};
use super::scan;
use super::segment::{Base, End, Geometry, Place, SegmentHeader};
use super::superblock::{ShareId, Superblock};
use super::verify::without_replaced;
use crate::disk::{Disk, DiskFault};
use crate::limits::BLOCK_BYTES;
use crate::position::{BatchSeq, SegmentNo};

/// Rounds in which nothing moves before what is missing counts as missing: what an appliance is about to write
/// is there by then.
const STUCK_ROUNDS: u32 = 4;

/// Rounds at most: a log of which more is trimmed and written than can be copied has no copy.
const ROUNDS_MAX: u32 = 200;

/// Walks over the newest segment that find nothing more before what is promised there counts as damaged.
const STUCK_WALKS: u32 = 4;

/// Why there is no copy.
#[derive(Debug, displaydoc::Display, thiserror::Error)]
pub enum CopyError {
    /// {0}
    Source(#[from] OpenError),
    /// {name}: reading the log: {fault}
    Read {
        /// The disk.
        name: String,
        /// What it said.
        fault: DiskFault,
    },
    /// {name}: writing the copy: {fault}
    Write {
        /// The disk.
        name: String,
        /// What it said.
        fault: DiskFault,
    },
    /// {name}: segment {seg_no}: batches from {batch} on are not whole, though it is written that they were stored;
    /// see: buslane log verify
    Hurt {
        /// The disk.
        name: String,
        /// Segment.
        seg_no: SegmentNo,
        /// The first batch that is not what it should be.
        batch: BatchSeq,
    },
    /// {name} has {found} bytes; this log needs at least {needed}: take a larger device, or file (--size)
    TooSmall {
        /// The disk.
        name: String,
        /// Its size.
        found: u64,
        /// What is needed.
        needed: u64,
    },
    /// {name}: segments are trimmed before they are copied, round after round: copy it without --rate, at a quieter
    /// time or to a faster disk, or stop trimming until the copy is made
    TooFast {
        /// The disk.
        name: String,
    },
    /// stopped
    Stopped,
}

/// What a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Copied {
    /// Segments that hold something.
    pub segments: u64,
    /// Bytes of batches that were copied.
    pub bytes: u64,
    /// The last batch of it.
    pub last_batch: BatchSeq,
    /// How often the log was looked through.
    pub rounds: u32,
}

/// Where and as what a copy is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CopyOptions {
    /// Identity of the new leg.
    pub leg: [u8; 16],
    /// Which share of its disk the copy is.
    pub share: ShareId,
}

/// Copies a log to a share of a disk, or all of it, of which all that was there is lost. The superblock is written last: before that
/// there is no log. `progress` is told the bytes copied so far and says whether to go on.
///
/// # Errors
/// See [`CopyError`]; what is on `target` then is no log.
pub(crate) fn copy(
    source: &mut dyn Disk,
    target: &mut dyn Disk,
    options: &CopyOptions,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<Copied, CopyError> {
    let superblock = read_superblock(source)?;
    let room = target.info().bytes;
    let segment_bytes = superblock.segment_bytes();
    if room < disk_bytes_min(segment_bytes) {
        let (name, needed) = (target.info().name.clone(), disk_bytes_min(segment_bytes));
        return Err(CopyError::TooSmall { name, found: room, needed });
    }
    let segments = segments_in(room, segment_bytes);
    let geometry = Geometry { segment_bytes, segments };
    let target_name = target.info().name.clone();
    let failed = |fault| CopyError::Write { name: target_name.clone(), fault };
    clear_layout(target, &geometry).map_err(failed)?;
    let places = geometry.places().rev().collect();
    let mut copier = Copier {
        superblock,
        geometry,
        placed: BTreeMap::new(),
        begin: SegmentNo::NONE,
        source_begin: SegmentNo::NONE,
        places,
        bytes: 0,
        progress,
        source,
        target,
    };
    let rounds = copier.rounds()?;
    let (info, source_block) = (copier.target.info().clone(), copier.superblock);
    let superblock = source_block.copy_of(options.leg, &info, segments);
    let superblock = superblock.of_share(options.share, room);
    let copied = Copied {
        segments: copier.placed.len() as u64,
        bytes: copier.bytes,
        last_batch: copier
            .placed
            .values()
            .map(|placed| placed.end.base.batch_seq)
            .max()
            .unwrap_or_default(),
        rounds,
    };
    write_banner(target, &superblock).map_err(failed)?;
    superblock.write(target).map_err(failed)?;
    Ok(copied)
}

/// A segment of the copy.
struct Placed {
    /// As in the copy.
    header: SegmentHeader,
    /// Where what is copied ends.
    end: End,
    /// All of it is copied, with its closing index.
    is_closed: bool,
}

/// What a round came to.
enum Round {
    /// All that was durable when it began is in the copy.
    Whole,
    /// In this segment, this batch is not where the round expected it: look again.
    Again(SegmentNo, BatchSeq),
}

struct Copier<'a> {
    /// The source's, as the round found it.
    superblock: Superblock,
    /// Of the copy.
    geometry: Geometry,
    placed: BTreeMap<SegmentNo, Placed>,
    /// The first segment of the copy, as of the round before.
    begin: SegmentNo,
    /// The first segment that the source had in this round.
    source_begin: SegmentNo,
    /// Places of the copy that nothing stands in, the lowest last.
    places: Vec<Place>,
    bytes: u64,
    progress: &'a mut dyn FnMut(u64) -> bool,
    source: &'a mut dyn Disk,
    target: &'a mut dyn Disk,
}

impl Copier<'_> {
    fn read_failed(&self, fault: DiskFault) -> CopyError {
        CopyError::Read { name: self.source.info().name.clone(), fault }
    }

    fn write_failed(&self, fault: DiskFault) -> CopyError {
        CopyError::Write { name: self.target.info().name.clone(), fault }
    }

    /// Rounds until one is whole; returns how many it took.
    fn rounds(&mut self) -> Result<u32, CopyError> {
        let (mut stuck, mut before) = (0, (0, SegmentNo::NONE, BatchSeq::NONE));
        for round in 1..=ROUNDS_MAX {
            let found = self.look()?;
            let is_settled = stuck >= STUCK_ROUNDS;
            let Round::Again(seg_no, batch) = self.round(&found, is_settled)? else {
                return Ok(round);
            };
            if is_settled {
                // It stays as it is, and is not whole: opening it says best what is wrong.
                read_log(self.source, &mut |_| {})?;
                let name = self.source.info().name.clone();
                return Err(CopyError::Hurt { name, seg_no, batch });
            }
            let now = (self.bytes, seg_no, batch);
            stuck = if now == before { stuck + 1 } else { 0 };
            before = now;
        }
        Err(CopyError::TooFast { name: self.source.info().name.clone() })
    }

    /// The segments of the source that are there now, ascending. Where another epoch began since the last look,
    /// what was copied may have been cut from the log: the copy begins anew.
    fn look(&mut self) -> Result<Vec<Found>, CopyError> {
        let superblock = read_superblock(self.source)?;
        let is_same = superblock.cluster == self.superblock.cluster
            && superblock.last_epoch == self.superblock.last_epoch;
        self.superblock = superblock;
        if !is_same {
            self.drop_all_but(&[])?;
        }
        let mut found = read_segments(self.source, &superblock).map_err(|f| self.read_failed(f))?;
        take_stale(&mut found);
        let kept: Vec<SegmentNo> =
            without_replaced(&found).iter().map(|found| found.header.seg_no()).collect();
        self.source_begin = kept.first().copied().unwrap_or(SegmentNo::new(u64::MAX));
        // What was freed before all of it was copied is of no use.
        let whole =
            self.placed.iter().filter(|(_, placed)| placed.is_closed).map(|(seg_no, _)| *seg_no);
        let useful: Vec<SegmentNo> = whole.chain(kept.iter().copied()).collect();
        self.drop_all_but(&useful)?;
        Ok(found.into_iter().filter(|found| kept.contains(&found.header.seg_no())).collect())
    }

    /// Brings what is found into the copy, from the first segment on.
    fn round(&mut self, found: &[Found], is_settled: bool) -> Result<Round, CopyError> {
        let newest = found.iter().max_by_key(|found| found.header.epoch.get());
        let last_epoch = self.superblock.last_epoch.get();
        if let Some(newest) = newest.filter(|newest| newest.header.epoch.get() > last_epoch) {
            // An appliance opened it between our looks at the superblock and here.
            return Ok(Round::Again(newest.header.seg_no(), BatchSeq::NONE));
        }
        let (mut chain, mut expected) = self.freed();
        for (position, segment) in found.iter().enumerate() {
            let (seg_no, base) = (segment.header.seg_no(), segment.header.base());
            if base != expected {
                if position > 0 {
                    if self.mark_of(&found[position..])? <= expected.batch_seq {
                        // Behind batches that never became durable: an opening would drop it.
                        break;
                    }
                    // Freed, or begun, while we looked; else the trimmed beginning of a log that was killed.
                    if !is_settled || read_log(self.source, &mut |_| {}).is_err() {
                        return Ok(Round::Again(seg_no, expected.batch_seq.next()));
                    }
                }
                chain.clear();
            }
            let (end, is_whole) = self.bring(segment)?;
            if !is_whole {
                return Ok(Round::Again(seg_no, end.base.batch_seq.next()));
            }
            chain.push(seg_no);
            expected = end.base;
        }
        // What of it had to make room for the rest.
        chain.retain(|seg_no| self.placed.contains_key(seg_no));
        self.drop_all_but(&chain)?;
        if found.is_empty() && self.superblock.last_epoch.get() > 0 && !is_settled {
            // Of a log that is served: each was begun or freed as its place was read.
            return Ok(Round::Again(SegmentNo::NONE, BatchSeq::NONE.next()));
        }
        // A roll waits for the closing index of the segment before the last: it is there by the next look.
        if let Some(open) = chain.iter().rev().skip(2).find(|seg_no| !self.placed[seg_no].is_closed)
        {
            return Ok(Round::Again(*open, BatchSeq::NONE));
        }
        let begin = chain.first().copied().unwrap_or(SegmentNo::NONE);
        if std::mem::replace(&mut self.begin, begin) == begin {
            return Ok(Round::Whole);
        }
        Ok(Round::Again(begin, BatchSeq::NONE))
    }

    /// What was copied of segments that were freed since: which, as far as they follow each other, and where
    /// they end.
    fn freed(&self) -> (Vec<SegmentNo>, Base) {
        let (mut chain, mut expected) = (Vec::new(), Base::default());
        for (seg_no, placed) in self.placed.range(..self.source_begin) {
            if placed.header.base() != expected {
                chain.clear();
            }
            chain.push(*seg_no);
            expected = placed.end.base;
        }
        (chain, expected)
    }

    /// The last batch that some segments say was durable.
    fn mark_of(&mut self, found: &[Found]) -> Result<BatchSeq, CopyError> {
        let mut mark = BatchSeq::NONE;
        for found in found {
            let closed = found.closed_at();
            let from = BLOCK_BYTES as u64;
            let said = scan::look_ahead(self.source, &self.superblock, &found.header, from)
                .map_err(|fault| self.read_failed(fault))?;
            mark = mark.max(closed).max(said);
        }
        Ok(mark)
    }
}
