//! Verification: every byte of a log that was written is read and accounted for.
//!
//! Nothing is written. Damage does not end it: it goes on at the next batch whose checksums are right,
//! and what lies between is reported with the streams and sequences that are missing there.

mod batches;
mod layout;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::recovery::{
    Found, Missing, OpenError, Reason, check_chain, mark_of, read_log, read_segments,
    read_superblock, take_stale,
};
use super::segment::{Base, Geometry, SegmentHeader};
use super::superblock::Superblock;
use crate::disk::Disk;
use crate::position::{BatchSeq, DiskOffset, SegmentNo};

/// One thing that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// Whether data or what protects it is hurt; otherwise it is worth knowing only.
    pub is_damage: bool,
    /// What, for people.
    pub what: String,
    /// Where on the disk.
    pub disk_offset: u64,
    /// Messages that cannot be read.
    pub streams: Vec<Missing>,
}

/// What a verification read and found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct VerifyReport {
    /// Segments that count.
    pub segments: u64,
    /// Those of them at the end in which nothing stands yet but their opening.
    pub segments_empty: u64,
    /// Batches that are whole.
    pub batches: u64,
    /// Messages that are whole.
    pub messages: u64,
    /// What is not as it was written.
    pub findings: Vec<Finding>,
}

impl VerifyReport {
    /// Whether anything is damaged.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub(crate) fn is_damaged(&self) -> bool {
        self.findings.iter().any(|finding| finding.is_damage)
    }
}

/// Verifies a log; `progress` is told segments done and in all.
///
/// # Errors
/// When it cannot even be told where the log is, or the device fails.
pub(crate) fn verify(
    disk: &mut dyn Disk,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<VerifyReport, OpenError> {
    let name = disk.info().name.clone();
    let device = |fault| OpenError::Device { name: name.clone(), fault };
    let superblock = read_superblock(disk)?;
    let mut verifier = Verifier {
        superblock,
        geometry: Geometry::of(&superblock),
        report: VerifyReport::default(),
        next: BTreeMap::new(),
        expected: Base::default(),
        messages_end: Base::default(),
        has_content: false,
        kept_from: Some(SegmentNo::NONE),
        begins_later: false,
    };
    verifier.check_copies(disk);
    verifier.check_reserved(disk).map_err(device)?;
    let mut found = read_segments(disk, &superblock).map_err(device)?;
    let stale = take_stale(&mut found);
    // Until the tables say otherwise, everything is kept. A beginning is missing where it was not trimmed.
    let mut used = None;
    let begin_missing = match read_log(disk, &mut |_| {}) {
        Ok(read) => {
            verifier.kept_from = read.catalog.streams().kept_from();
            used = Some(read.found.len() as u64);
            false
        }
        Err(OpenError::Damaged(damaged)) => damaged.because == Reason::SegmentMissing,
        Err(_) => false,
    };
    verifier.check_headers(disk, &found, &stale).map_err(device)?;
    // What a crash left behind batches that never became durable is no damage: opening drops it.
    let mut chain = read_segments(disk, &superblock).map_err(device)?;
    take_stale(&mut chain);
    let gone: BTreeSet<SegmentNo> = match check_chain(disk, &superblock, &mut chain) {
        Ok(chain) => {
            let trimmed = if begin_missing { &[] } else { chain.trimmed.as_slice() };
            let gone = chain.dropped.iter().chain(trimmed);
            gone.map(SegmentHeader::seg_no).collect()
        }
        Err(OpenError::Damaged(_)) => BTreeSet::new(),
        Err(error) => return Err(error),
    };
    let mut kept = without_replaced(&found);
    kept.retain(|found| !gone.contains(&found.header.seg_no()));
    if !begin_missing {
        verifier.begin_at(kept.first().map(|first| &first.header));
    }
    let all = kept.len() as u64;
    let marks = later_marks(disk, &superblock, &kept)?;
    for (position, segment) in kept.iter().enumerate() {
        let closed = segment.closing.as_ref().map(|(end, _)| end.base);
        let next_base = kept.get(position + 1).map(|next| match closed {
            Some(end) if next.header.joins(&end) => end,
            Some(_) | None => next.header.base(),
        });
        let later = Later { mark: marks[position], next_base, newer: kept.len() - position - 1 };
        verifier.check_segment(disk, segment, &later).map_err(device)?;
        progress(position as u64 + 1, all);
    }
    verifier.report.segments = all;
    verifier.report.segments_empty = used.map_or(0, |used| all.saturating_sub(used));
    Ok(verifier.report)
}

/// What is known of the segments behind one.
struct Later {
    /// The last batch of it that they say was durable.
    mark: Option<BatchSeq>,
    /// Where the next one goes on from.
    next_base: Option<Base>,
    /// How many there are.
    newer: usize,
}

/// For each segment the last batch of it that later ones say was durable, as an opening sees it.
fn later_marks(
    disk: &mut dyn Disk,
    superblock: &Superblock,
    kept: &[&Found],
) -> Result<Vec<Option<BatchSeq>>, OpenError> {
    let mut marks = vec![None; kept.len()];
    let mut mark = BatchSeq::NONE;
    for position in (1..kept.len()).rev() {
        mark = mark_of(disk, superblock, kept[position])?.max(mark);
        // What stands in the later segments themselves is not of the one before them.
        marks[position - 1] = Some(mark.min(kept[position].header.needs()));
    }
    Ok(marks)
}

/// Leaves out segments that held nothing and were replaced by their successor in another place.
pub(super) fn without_replaced(found: &[Found]) -> Vec<&Found> {
    let base = |index: usize| found.get(index).map(|found| found.header.base());
    let kept = |&(index, _): &(usize, &Found)| base(index) != base(index + 1);
    found.iter().enumerate().filter(kept).map(|(_, found)| found).collect()
}

struct Verifier {
    superblock: Superblock,
    geometry: Geometry,
    report: VerifyReport,
    /// Per stream its name and the next sequence.
    next: BTreeMap<u32, (String, u64)>,
    expected: Base,
    /// The end of the last segment that holds messages.
    messages_end: Base,
    /// The segment at hand holds messages or streams.
    has_content: bool,
    /// Segments with a lower number hold nothing that is kept; they may be half wiped.
    kept_from: Option<SegmentNo>,
    /// The log's beginning was trimmed, and the checkpoint that tells how far was not read yet.
    begins_later: bool,
}

impl Verifier {
    /// The log begins with this segment: what was before it is trimmed, or missing, as opening it tells.
    fn begin_at(&mut self, first: Option<&SegmentHeader>) {
        let Some(first) = first else { return };
        self.expected = first.base();
        self.begins_later = self.expected != Base::default();
    }

    fn note(&mut self, is_damage: bool, disk_offset: DiskOffset, what: String) {
        let disk_offset = disk_offset.get();
        self.report.findings.push(Finding { is_damage, what, disk_offset, streams: Vec::new() });
    }
}
