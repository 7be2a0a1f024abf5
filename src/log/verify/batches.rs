//! The batches of a segment, and the index that closes it.

use super::{Finding, Later, Verifier};
use crate::disk::{Disk, DiskFault};
use crate::ids::StreamId;
use crate::limits::BLOCK_BYTES;
use crate::log::batch::{BatchKind, BatchView};
use crate::log::catalog::Catalog;
use crate::log::control::Control;
use crate::log::recovery::{Decision, Facts, Found, Missing, Reason, decide};
use crate::log::scan::{self, Stop, walk};
use crate::log::segment::{Base, End, INDEX_BYTES, SegmentHeader, read_closing};
use crate::position::{BatchSeq, DiskOffset};
use crate::wire::record::Record;

impl Verifier {
    pub(super) fn check_segment(
        &mut self,
        disk: &mut dyn Disk,
        segment: &Found,
        later: &Later,
    ) -> Result<(), DiskFault> {
        let header = &segment.header;
        let (seg_no, start) = (header.seg_no(), self.geometry.segment(header.place()));
        if header.base() != self.expected && !header.joins(&self.messages_end) {
            let (first, last) = (self.expected.batch_seq.next(), header.base().batch_seq);
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
    fn should_go_on(
        &self,
        segment: &Found,
        stop: &Stop,
        later: Option<BatchSeq>,
    ) -> Option<Reason> {
        match decide(Facts::gather(&self.superblock, segment, stop, later)) {
            Decision::Halt(because) => Some(because),
            Decision::Cut => None,
        }
    }

    /// Reports damage where a walk ended and finds the next batch that is whole.
    fn resync(
        &mut self,
        disk: &mut dyn Disk,
        header: &SegmentHeader,
        stop: &Stop,
        because: Reason,
    ) -> Result<Option<End>, DiskFault> {
        let (next, off) = (stop.end.base.batch_seq.next(), stop.end.off);
        let mut found: Option<End> = None;
        let from = off + BLOCK_BYTES as u64;
        let superblock = self.superblock;
        scan::for_each_block(disk, &superblock, header, from..u64::MAX, &mut |bytes, key, at| {
            if found.is_some() {
                return;
            }
            if let Ok(batch) = BatchView::check(bytes, key, at)
                && batch.batch_seq() > next
            {
                let base = Base {
                    batch_seq: batch.batch_seq().before(),
                    message: batch.first_message(),
                    chain: batch.chain(),
                };
                let off = at - header.begin();
                found = Some(End { off, base });
            }
        })?;
        let seg_no = header.seg_no();
        let disk_offset = self.geometry.segment(header.place()) + off;
        let batches = match found.map(|end| end.base.batch_seq) {
            Some(last) if last > next => format!("batches {next} to {last}"),
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
        Ok(found)
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
            self.note(true, DiskOffset::START, what);
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

    fn check_closing(
        &mut self,
        disk: &mut dyn Disk,
        segment: &Found,
        newer: usize,
    ) -> Result<(), DiskFault> {
        let start = self.geometry.segment(segment.header.place());
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
            let seg_no = segment.header.seg_no();
            self.note(is_damage, disk_offset, format!("segment {seg_no}: closing index"));
        }
        Ok(())
    }

    /// Whether all that is written of a segment has to be there. An opening closes the segments of all
    /// epochs before it, a clean stop those of its own; what else is not there when the log was killed,
    /// the next opening writes.
    pub(super) fn was_closed(&self, header: &SegmentHeader) -> bool {
        let superblock = &self.superblock;
        superblock.clean.get() == 1 || header.epoch.get() < superblock.last_epoch.get()
    }
}
