//! Verification: every byte of a log that was written is read and accounted for.
//!
//! Nothing is written. Damage does not end it: it goes on at the next batch whose checksums are right,
//! and what lies between is reported with the streams and sequences that are missing there.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::batch::{BatchKind, BatchView};
use super::catalog::Catalog;
use super::control::Control;
use super::create::{banner, disk_bytes_of};
use super::recovery::{
    Decision, Facts, Found, OpenError, Reason, check_chain, decide, mark_of, read_log,
    read_segments, read_superblock, take_stale,
};
use super::scan::{self, CHUNK_BYTES, Stop, walk};
use super::segment::{Base, End, Geometry, INDEX_BYTES, SegmentHeader, read_closing};
use super::superblock::{AREA_OFFSET, COPIES, END_BYTES, Superblock, copy_offsets, read_copies};
use crate::disk::{Disk, DiskFault};
use crate::ids::StreamId;
use crate::limits::BLOCK_BYTES;
use crate::wire::record::Record;

/// Sequences of a stream that are damaged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// Name of the stream.
    pub stream: String,
    /// First sequence.
    pub first: u64,
    /// Last sequence; absent where nothing after it tells.
    pub last: Option<u64>,
}

/// One thing that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
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
pub struct VerifyReport {
    /// Segments that count.
    pub segments: u64,
    /// Batches that are whole.
    pub batches: u64,
    /// Messages that are whole.
    pub messages: u64,
    /// What is not as it was written.
    pub findings: Vec<Finding>,
}

impl VerifyReport {
    /// Whether anything is damaged.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.findings.iter().any(|finding| finding.is_damage)
    }
}

/// Verifies a log; `progress` is told segments done and in all.
///
/// # Errors
/// When it cannot even be told where the log is, or the device fails.
pub fn verify<D: Disk>(
    disk: &mut D,
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
        kept_from: Some(0),
        begins_later: false,
    };
    verifier.check_copies(disk);
    verifier.check_reserved(disk).map_err(device)?;
    let mut found = read_segments(disk, &superblock).map_err(device)?;
    let stale = take_stale(&mut found);
    // Until the tables say otherwise, everything is kept. A beginning is missing where it was not trimmed.
    let begin_missing = match read_log(disk, &mut |_| {}) {
        Ok(read) => {
            verifier.kept_from = read.catalog.streams().kept_from();
            false
        }
        Err(OpenError::Damaged(damaged)) => damaged.because == Reason::SegmentMissing,
        Err(_) => false,
    };
    verifier.check_headers(disk, &found, &stale).map_err(device)?;
    // What a crash left behind batches that never became durable is no damage: opening drops it.
    let mut chain = read_segments(disk, &superblock).map_err(device)?;
    take_stale(&mut chain);
    let gone: BTreeSet<u64> = match check_chain(disk, &superblock, &mut chain) {
        Ok(chain) => {
            let trimmed = if begin_missing { &[] } else { chain.trimmed.as_slice() };
            let gone = chain.dropped.iter().chain(trimmed);
            gone.map(|header| header.seg_no.get()).collect()
        }
        Err(OpenError::Damaged(_)) => BTreeSet::new(),
        Err(error) => return Err(error),
    };
    let mut kept = without_replaced(&found);
    kept.retain(|found| !gone.contains(&found.header.seg_no.get()));
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
    Ok(verifier.report)
}

/// What is known of the segments behind one.
struct Later {
    /// The last batch of it that they say was durable.
    mark: Option<u64>,
    /// Where the next one goes on from.
    next_base: Option<Base>,
    /// How many there are.
    newer: usize,
}

/// For each segment the last batch of it that later ones say was durable, as an opening sees it.
fn later_marks<D: Disk>(
    disk: &mut D,
    superblock: &Superblock,
    kept: &[&Found],
) -> Result<Vec<Option<u64>>, OpenError> {
    let mut marks = vec![None; kept.len()];
    let mut mark = 0;
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
    kept_from: Option<u64>,
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

    fn note(&mut self, is_damage: bool, disk_offset: u64, what: String) {
        self.report.findings.push(Finding { is_damage, what, disk_offset, streams: Vec::new() });
    }

    fn check_copies<D: Disk>(&mut self, disk: &mut D) {
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
    fn check_reserved<D: Disk>(&mut self, disk: &mut D) -> Result<(), DiskFault> {
        let end = disk.info().bytes;
        let block = BLOCK_BYTES as u64;
        scan::read(disk, 0, BLOCK_BYTES)?;
        if disk.memory().bytes(0..BLOCK_BYTES) != banner(&self.superblock) {
            self.note(true, 0, "banner block: not as it was written".into());
        }
        let copies = copy_offsets(end);
        let area_end = disk_bytes_of(&self.geometry) - END_BYTES;
        let mut at = block;
        while at < end {
            if at == AREA_OFFSET {
                at = area_end;
            }
            let next_copy = copies.into_iter().filter(|&copy| copy >= at).min().unwrap_or(end);
            let next_area = if at < AREA_OFFSET { AREA_OFFSET } else { end };
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

    fn check_zero<D: Disk>(
        &mut self,
        disk: &mut D,
        disk_offset: u64,
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
    fn check_headers<D: Disk>(
        &mut self,
        disk: &mut D,
        found: &[Found],
        stale: &[SegmentHeader],
    ) -> Result<(), DiskFault> {
        // A segment is rolled, and a batch of it said to be durable, when both its headers are durable.
        let newest = found.last().map_or(0, |found| found.header.seg_no.get());
        let newest_is_begun = match found.last() {
            Some(last) => {
                let from = BLOCK_BYTES as u64;
                let mark = scan::look_ahead(disk, &self.superblock, &last.header, from)?;
                mark > last.header.base_batch_seq.get()
            }
            None => false,
        };
        // One that was replaced held nothing; perhaps since one of its headers failed.
        let kept: BTreeSet<u64> =
            without_replaced(found).iter().map(|found| found.header.seg_no.get()).collect();
        for phys in 0..self.geometry.segments {
            let start = self.geometry.segment(phys);
            let used = found.iter().find(|found| found.header.phys_index.get() == phys);
            for (offset, what) in [(0, "header"), (self.geometry.copy_offset(), "header copy")] {
                scan::read(disk, start + offset, BLOCK_BYTES)?;
                let bytes = disk.memory().bytes(0..BLOCK_BYTES);
                let header = SegmentHeader::check(bytes, &self.superblock, phys);
                let is_zero = bytes.iter().all(|&byte| byte == 0);
                match used {
                    Some(used) if header == Some(used.header) => {}
                    Some(used) => {
                        let seg_no = used.header.seg_no;
                        let begun = seg_no.get() < newest || newest_is_begun;
                        let counts = kept.contains(&seg_no.get());
                        // An opening that failed leaves a header behind, and nothing else.
                        let closed = used.closing.is_some() || self.superblock.clean.get() == 1;
                        let was_closed = closed && self.was_closed(&used.header);
                        let next = found.iter().find(|next| next.header.seg_no > seg_no);
                        let superseded =
                            next.is_some_and(|next| next.header.supersedes(&used.header));
                        let is_kept =
                            self.kept_from.is_some_and(|from| seg_no.get() >= from) && !superseded;
                        let is_damage = counts && is_kept && (begun || was_closed);
                        self.note(is_damage, start + offset, format!("segment {seg_no}: {what}"));
                    }
                    None if is_zero => {}
                    // What an epoch without a future has begun; the next opening wipes it.
                    None if stale.iter().any(|gone| gone.phys_index.get() == phys) => {}
                    None => {
                        let what =
                            format!("unused place {phys}: {what} is neither empty nor valid");
                        self.note(true, start + offset, what);
                    }
                }
            }
        }
        Ok(())
    }

    fn check_segment<D: Disk>(
        &mut self,
        disk: &mut D,
        segment: &Found,
        later: &Later,
    ) -> Result<(), DiskFault> {
        let header = &segment.header;
        let (seg_no, start) = (header.seg_no.get(), self.geometry.segment(header.phys_index.get()));
        if header.base() != self.expected && !header.joins(&self.messages_end) {
            let (first, last) = (self.expected.batch_seq + 1, header.base_batch_seq);
            let what = format!("before segment {seg_no}: batches {first} to {last} are missing");
            self.note(true, start, what);
        }
        let mut from = End { off: BLOCK_BYTES as u64, base: header.base() };
        let mut tables = Some(Catalog::new());
        let mut parts = 0;
        self.has_content = false;
        // What arrived behind the end of a segment that an opening had closed does not count.
        let closed = segment.closing.as_ref().map(|(end, _)| end.base);
        loop {
            let superblock = self.superblock;
            let stop = walk(disk, &superblock, header, from, &mut |batch| {
                if closed.is_none_or(|end| batch.batch_seq() <= end.batch_seq) {
                    self.take(batch, &mut tables, &mut parts);
                }
            })?;
            self.expected = stop.end.base;
            if let Some(end) = closed.filter(|end| stop.end.base.batch_seq > end.batch_seq) {
                self.expected = end;
                break;
            }
            let Some(because) = self.should_go_on(segment, &stop, later.mark) else { break };
            let Some(next) = self.resync(disk, header, &stop, because)? else { break };
            from = next;
        }
        if self.expected.message > header.base_message.get() {
            self.messages_end = self.expected;
        }
        // The checkpoint that opens the next segment tells what this one held.
        let told = later.next_base.filter(|base| base.batch_seq >= self.expected.batch_seq);
        self.expected = told.unwrap_or(self.expected);
        self.check_closing(disk, segment, later.newer)
    }

    /// Why more batches should follow where a walk ended, as an opening decides it; `None` when all is well.
    fn should_go_on(&self, segment: &Found, stop: &Stop, later: Option<u64>) -> Option<Reason> {
        match decide(Facts::gather(&self.superblock, segment, stop, later)) {
            Decision::Halt(because) => Some(because),
            Decision::Cut => None,
        }
    }

    /// Reports damage where a walk ended and finds the next batch that is whole.
    fn resync<D: Disk>(
        &mut self,
        disk: &mut D,
        header: &SegmentHeader,
        stop: &Stop,
        because: Reason,
    ) -> Result<Option<End>, DiskFault> {
        let (next, off) = (stop.end.base.batch_seq + 1, stop.end.off);
        let mut found: Option<(End, u64)> = None;
        let from = off + BLOCK_BYTES as u64;
        let superblock = self.superblock;
        scan::for_each_block(
            disk,
            &superblock,
            header,
            (from, u64::MAX),
            &mut |bytes, key, at| {
                if found.is_some() {
                    return;
                }
                if let Ok(batch) = BatchView::check(bytes, key, at)
                    && batch.batch_seq() > next
                {
                    let base = Base {
                        batch_seq: batch.batch_seq() - 1,
                        message: batch.messages().0,
                        chain: batch.chain(),
                    };
                    let off = at - header.base_log_off.get();
                    found = Some((End { off, base }, batch.batch_seq() - 1));
                }
            },
        )?;
        let seg_no = header.seg_no;
        let disk_offset = self.geometry.segment(header.phys_index.get()) + off;
        let batches = match found {
            Some((_, last)) if last > next => format!("batches {next} to {last}"),
            Some(_) => format!("batch {next}"),
            None => format!("batch {next} and what follows"),
        };
        let what = format!("segment {seg_no}: {batches} at disk offset {disk_offset} ({because})");
        self.note(true, disk_offset, what);
        if found.is_none() {
            // Until a later segment tells more: everything from here on may be missing.
            let streams = self.next.values();
            let missing = |(name, next): &(String, u64)| Missing {
                stream: name.clone(),
                first: *next,
                last: None,
            };
            let streams: Vec<Missing> = streams.map(missing).collect();
            self.report.findings.last_mut().expect("just noted").streams = streams;
        }
        Ok(found.map(|(end, _)| end))
    }

    fn take(&mut self, batch: &BatchView<'_>, tables: &mut Option<Catalog>, parts: &mut u16) {
        self.report.batches += 1;
        match batch.kind() {
            BatchKind::Checkpoint => {
                let Some(reading) = tables else { return };
                match reading.read_checkpoint(batch.body(), *parts) {
                    Some(true) => {
                        let whole = tables.take().expect("it is being read");
                        self.take_checkpoint(&whole);
                    }
                    Some(false) => *parts += 1,
                    // A part before it was damaged; that was reported.
                    None => *tables = None,
                }
            }
            BatchKind::Data => {
                self.has_content = true;
                for record in batch.records() {
                    self.take_record(batch, &record);
                }
            }
            BatchKind::EpochOpen | BatchKind::Lac | BatchKind::Roll => {}
        }
    }

    fn take_checkpoint(&mut self, catalog: &Catalog) {
        let begins = std::mem::take(&mut self.begins_later);
        for facts in catalog.streams().iter() {
            let (id, next) = (facts.id.0, facts.next_sequence);
            // What stands before the first segment that is there was trimmed.
            let from = if begins { next } else { 1 };
            let known = self.next.entry(id).or_insert_with(|| (facts.name.clone(), from));
            let first = known.1;
            known.1 = next;
            if first < next {
                let name = facts.name.clone();
                self.missing(&name, first, next - 1);
            }
        }
    }

    fn take_record(&mut self, batch: &BatchView<'_>, record: &Record<'_>) {
        let header = record.header;
        let stream = StreamId(header.stream.get());
        if stream.0 == 0 {
            if let Some(Control::Stream { id, name }) = Control::parse(header, record.payload) {
                self.next.entry(id.0).or_insert_with(|| (name.to_owned(), 1));
            }
            return;
        }
        let sequence = header.sequence.get();
        let known = self.next.entry(stream.0).or_insert_with(|| (format!("#{stream}"), sequence));
        let (name, first) = known.clone();
        known.1 = sequence + 1;
        if first < sequence {
            self.missing(&name, first, sequence - 1);
        }
        if record.is_intact() {
            self.report.messages += 1;
        } else {
            let what = format!(
                "batch {}: the producer's checksum of stream {name}, sequence {sequence}",
                batch.batch_seq()
            );
            self.note(true, 0, what);
            self.missing(&name, sequence, sequence);
        }
    }

    /// Adds missing sequences to the damage they belong to: the last one that was noted.
    fn missing(&mut self, stream: &str, first: u64, last: u64) {
        let damage = self.report.findings.iter_mut().rev().find(|finding| finding.is_damage);
        let missing = Missing { stream: stream.to_owned(), first, last: Some(last) };
        match damage {
            Some(finding) => {
                finding.streams.retain(|known| known.stream != stream || known.last.is_some());
                finding.streams.push(missing);
            }
            None => self.report.findings.push(Finding {
                is_damage: true,
                what: format!("stream {stream}: sequences {first} to {last} are missing"),
                disk_offset: 0,
                streams: vec![missing],
            }),
        }
    }

    fn check_closing<D: Disk>(
        &mut self,
        disk: &mut D,
        segment: &Found,
        newer: usize,
    ) -> Result<(), DiskFault> {
        let start = self.geometry.segment(segment.header.phys_index.get());
        let disk_offset = start + self.geometry.index_offset();
        scan::read(disk, disk_offset, INDEX_BYTES)?;
        let bytes = disk.memory().bytes(0..INDEX_BYTES);
        if read_closing(bytes, &segment.header).is_some() {
            return Ok(());
        }
        // No segment but the newest two can be without one: a roll waits for the index before the last.
        // A newest one that holds nothing is dropped by an opening, not closed.
        let dropped = newer == 0 && !self.has_content && self.superblock.clean.get() == 0;
        let is_damage = newer > 1 || (self.was_closed(&segment.header) && !dropped);
        // In the newest one, which is open, stands what its place held before.
        if is_damage || (newer > 0 && bytes.iter().any(|&byte| byte != 0)) {
            let seg_no = segment.header.seg_no;
            self.note(is_damage, disk_offset, format!("segment {seg_no}: closing index"));
        }
        Ok(())
    }

    /// Whether all that is written of a segment has to be there. An opening closes the segments of all
    /// epochs before it, a clean stop those of its own; what else is not there when the log was killed,
    /// the next opening writes.
    fn was_closed(&self, header: &SegmentHeader) -> bool {
        let superblock = &self.superblock;
        superblock.clean.get() == 1 || header.epoch.get() < superblock.last_epoch.get()
    }
}
