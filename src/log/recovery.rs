//! Opening a log: what counts, where it ends, and whether what is missing was ever promised.
//!
//! Nothing is written before the decision is made. Then, in this order: the closing indexes that are
//! missing, the superblock with the new epoch, the headers of what is dropped, the new segment. A crash
//! in between is just another crash: each step leaves what the next opening decides on unchanged.

mod chain;
mod errors;
mod places;
mod reader;
mod table;
mod witness;

use super::catalog::Catalog;
use super::scan::{self, Stop, walk};
use super::segment::{
    End, Geometry, INDEX_BYTES, IndexEntry, Place, SegmentHeader, read_closing, write_closing,
};
use super::segments::{Live, Recovered};
use super::superblock::{CopyDamage, Superblock, quorum, read_copies};
use super::{Log, LogFault};
use crate::disk::{Disk, DiskFault, Io, Operation, run};
use crate::ids::{Lineage, ProducerId, StreamId};
use crate::limits::{BLOCK_BYTES, RING_BYTES_MIN};
use crate::position::{BatchSeq, DiskOffset, SegmentNo};

use chain::{Chain, Gap};
pub(super) use chain::{check_chain, mark_of};
pub use errors::{BatchRange, Damaged, Missing, OpenError, Sibling};
use places::Begun;
pub(super) use places::take_stale;
use reader::Reader;
pub use table::{Decision, Facts, Reason, decide};
pub use witness::Witness;

/// How a log is opened.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// Writes in flight at most.
    pub queue_depth: usize,
    /// Memory for the newest part of the log.
    pub ring_bytes: usize,
    /// Unix time, for what is written.
    pub unix_ns: u64,
    /// Random, not 0: what is written from now on is of this opening and of no other, of this log or a copy of it.
    pub lineage: Lineage,
}

/// A message recovery has seen in the last segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveredMessage {
    /// Who published it.
    pub producer_id: ProducerId,
    /// The producer's number.
    pub producer_seq: u64,
    /// Stream.
    pub stream: StreamId,
    /// Its sequence.
    pub sequence: u64,
}

/// What an opening found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The new epoch.
    pub epoch: u64,
    /// The log was stopped cleanly.
    pub clean: bool,
    /// Segments that count.
    pub segments: usize,
    /// Bytes read batch by batch.
    pub scanned_bytes: u64,
    /// Messages in the log since it was formatted.
    pub messages: u64,
    /// An unacknowledged tail was cut.
    pub cut: bool,
}

/// A segment as it is found.
pub(super) struct Found {
    pub(super) header: SegmentHeader,
    pub(super) closing: Option<(End, Vec<IndexEntry>)>,
    /// The closing index is on the disk.
    pub(super) is_closed: bool,
}

impl Found {
    /// The batch it was closed behind; none when it was not.
    pub(super) fn closed_at(&self) -> BatchSeq {
        self.closing.as_ref().map_or(BatchSeq::NONE, |(end, _)| end.base.batch_seq)
    }
}

/// The superblock that counts.
pub(super) fn read_superblock(disk: &mut dyn Disk) -> Result<Superblock, OpenError> {
    let name = disk.info().name.clone();
    let needed = super::create::disk_bytes_min(crate::limits::SEGMENT_BYTES_MIN as u64);
    if disk.info().bytes < needed {
        return Err(OpenError::not_formatted(name));
    }
    let copies = read_copies(disk);
    let Some(superblock) = quorum(&copies) else {
        // What could not be read may be a log.
        if let Some(fault) = copies.iter().find_map(unread) {
            return Err(OpenError::Device { name, fault });
        }
        if copies.iter().all(|copy| matches!(copy, Err(CopyDamage::NotOurs))) {
            return Err(OpenError::not_formatted(name));
        }
        return Err(OpenError::of_copies(name, &copies, 2));
    };
    let (found, needed) = (disk.info().bytes, superblock.share_bytes());
    if found == needed {
        return Ok(superblock);
    }
    if superblock.share().count > 1 {
        // The first share of a disk that is cut, taken for the whole.
        return Err(OpenError::of_shards(name, superblock.share().count, 1));
    }
    Err(OpenError::Smaller { name, needed, found })
}

fn unread(copy: &Result<Superblock, CopyDamage>) -> Option<DiskFault> {
    match copy {
        Err(CopyDamage::Read(fault)) => Some(*fault),
        Ok(_)
        | Err(
            CopyDamage::NotOurs
            | CopyDamage::Checksum
            | CopyDamage::Copy
            | CopyDamage::Earlier(_)
            | CopyDamage::Later(_),
        ) => None,
    }
}

/// All segments with a valid header, ascending; among them may be some that the log has passed by.
pub(super) fn read_segments(
    disk: &mut dyn Disk,
    superblock: &Superblock,
) -> Result<Vec<Found>, DiskFault> {
    let geometry = Geometry::of(superblock);
    let mut found = Vec::new();
    for place in geometry.places() {
        let segment = geometry.segment(place);
        scan::read(disk, segment, BLOCK_BYTES)?;
        let mut header =
            SegmentHeader::check(disk.memory().bytes(0..BLOCK_BYTES), superblock, place);
        scan::read(disk, segment + geometry.index_offset(), INDEX_BYTES + BLOCK_BYTES)?;
        let bytes = disk.memory().bytes(0..INDEX_BYTES + BLOCK_BYTES);
        if header.is_none() {
            header = SegmentHeader::check(&bytes[INDEX_BYTES..], superblock, place);
        }
        let Some(header) = header else { continue };
        let closing = read_closing(bytes, &header).map(|(end, index)| (end, index.to_vec()));
        let is_closed = closing.is_some();
        found.push(Found { header, closing, is_closed });
    }
    found.sort_by_key(|found| found.header.seg_no());
    Ok(found)
}

/// A log as it is read, nothing written.
pub(super) struct Read {
    pub(super) superblock: Superblock,
    /// Segments that count, ascending, each with its closing index, read or made.
    pub(super) found: Vec<Found>,
    /// Trailing segments that hold nothing worth keeping.
    pub(super) dropped: Vec<SegmentHeader>,
    /// Segments that stand before a gap: what is left of a log's trimmed beginning.
    pub(super) trimmed: Vec<SegmentHeader>,
    /// Segments the log has passed by.
    stale: Vec<SegmentHeader>,
    begun: Begun,
    pub(super) catalog: Catalog,
    pub(super) recovery: Recovery,
}

impl Read {
    /// Segments that do not count, and whose headers are wiped.
    fn gone(&self) -> impl Iterator<Item = &SegmentHeader> {
        self.dropped.iter().chain(&self.trimmed).chain(&self.stale)
    }
}

/// Reads a log: finds what counts, decides where it ends, rebuilds the tables.
pub(super) fn read_log(
    disk: &mut dyn Disk,
    seen: &mut dyn FnMut(&RecoveredMessage),
) -> Result<Read, OpenError> {
    let name = disk.info().name.clone();
    let superblock = read_superblock(disk)?;
    let mut found = read_segments(disk, &superblock)
        .map_err(|fault| OpenError::Device { name: name.clone(), fault })?;
    let headers: Vec<SegmentHeader> = found.iter().map(|found| found.header).collect();
    let begun = Begun::of(&superblock, &headers);
    let stale = take_stale(&mut found);
    let Chain { mut dropped, trimmed, gap } = check_chain(disk, &superblock, &mut found)?;
    let clean = superblock.clean.get() == 1;
    let mut read = Read {
        superblock,
        found,
        dropped: Vec::new(),
        trimmed,
        stale,
        begun,
        catalog: Catalog::new(),
        recovery: Recovery { clean, ..Recovery::default() },
    };
    let mut later_mark = None;
    read.recovery.cut = !dropped.is_empty();
    read.dropped.append(&mut dropped);
    while let Some(last) = read.found.last_mut() {
        let looked = look_at(disk, &superblock, last, later_mark)?;
        read.recovery.scanned_bytes += looked.stop.end.off;
        read.recovery.cut |= looked.stop.lac_ahead > BatchSeq::NONE;
        if looked.opened && looked.content {
            looked.messages.iter().for_each(seen);
            read.catalog = looked.catalog;
            read.recovery.messages = looked.stop.end.base.message;
            last.closing = Some((looked.stop.end, looked.index));
            last.is_closed = false;
            break;
        }
        // Nothing worth keeping: its catalog and producers, if whole, are those of the one before.
        let mark = mark_of(disk, &superblock, last)?.max(later_mark.unwrap_or_default());
        later_mark = Some(mark.min(last.header.base().batch_seq));
        read.dropped.push(last.header);
        if looked.opened && read.found.len() == 1 {
            read.catalog = looked.catalog;
        }
        read.found.pop();
    }
    check_kept(disk, &mut read, gap)?;
    Ok(read)
}

/// Checks that the segments found hold every message that is kept: only trimmed ones are ever freed.
fn check_kept(disk: &mut dyn Disk, read: &mut Read, gap: Option<Gap>) -> Result<(), OpenError> {
    let segments = read.found.iter().map(|found| {
        let (_, entries) = found.closing.as_ref().expect("what is kept is closed");
        (found.header.seg_no(), entries.as_slice())
    });
    let Some(missing) = read.catalog.kept_in(segments) else { return Ok(()) };
    let begin = read.found.first().map(|found| found.header);
    let gap = gap.unwrap_or_default();
    let seg_no = begin.map_or(SegmentNo::NONE, |header| header.seg_no().before());
    let stream = read.catalog.streams().get(missing.stream);
    let stream = stream.map_or_else(String::new, |stream| stream.name.clone());
    Err(OpenError::Damaged(Box::new(Damaged {
        name: disk.info().name.clone(),
        seg_no,
        disk_offset: gap.disk_offset,
        batches: BatchRange {
            last: begin.map_or(gap.batches.last, |header| header.base().batch_seq),
            ..gap.batches
        },
        streams: vec![Missing { stream, first: missing.first, last: Some(missing.last) }],
        because: Reason::SegmentMissing,
    })))
}

/// What walking over a segment showed.
struct Last {
    catalog: Catalog,
    stop: Stop,
    /// The checkpoint that opens it is whole.
    opened: bool,
    /// It holds messages or catalog records.
    content: bool,
    messages: Vec<RecoveredMessage>,
    index: Vec<IndexEntry>,
}

impl Log {
    /// Opens a log for writing under a new epoch. `seen` is told every message of the last segment.
    ///
    /// # Errors
    /// See [`OpenError`]; in each case the disk was not changed, but for [`OpenError::Write`].
    ///
    /// # Panics
    /// When the disk's memory is smaller than [`Log::memory_bytes`].
    pub fn open(
        disk: &mut dyn Disk,
        options: &OpenOptions,
        seen: &mut dyn FnMut(&RecoveredMessage),
    ) -> Result<(Self, Recovery), OpenError> {
        Self::open_again(disk, options, None, seen)
    }

    /// The same of a log that was open before: what is found has to be what was lost, and all that was durable
    /// then has to be there, before anything is written.
    ///
    /// # Errors
    /// As [`Log::open`], and [`OpenError::NotTheSame`].
    ///
    /// # Panics
    /// As [`Log::open`].
    pub fn open_again(
        disk: &mut dyn Disk,
        options: &OpenOptions,
        witness: Option<&Witness>,
        seen: &mut dyn FnMut(&RecoveredMessage),
    ) -> Result<(Self, Recovery), OpenError> {
        assert!(disk.memory().len() >= Self::memory_bytes(options.ring_bytes), "memory as asked");
        assert!(options.lineage != Lineage(0), "an opening is told from others");
        assert!(options.ring_bytes >= RING_BYTES_MIN, "a ring holds a roll and what is in flight");
        let name = disk.info().name.clone();
        let mut read = read_log(disk, seen)?;
        if let Some(witness) = witness {
            witness.check(disk, &read)?;
        }
        let superblock = read.superblock;
        for open in read.found.iter().filter(|found| !found.is_closed) {
            let (end, entries) = open.closing.as_ref().expect("read_log closes what it keeps");
            close_found(disk, &superblock, &open.header, end, entries)
                .map_err(|fault| OpenError::Device { name: name.clone(), fault })?;
        }
        read.catalog.recovered();
        let segments = superblock.segment_count.get();
        let mut recovered = Recovered::nothing(segments);
        for found in &read.found {
            let (end, entries) = found.closing.as_ref().expect("the chain was checked");
            recovered.push(Live::new(&found.header, &superblock, Some(*end)), entries);
        }
        let is_used = |place: Place| recovered.live.iter().any(|live| live.place == place);
        let wiped: Vec<Place> = read.gone().map(|header| header.place()).collect();
        recovered.free = read.begun.order(segments, is_used, &wiped);
        recovered.known_seg_no = read.begun.seg_no;
        read.recovery.segments = recovered.live.len();
        let depth = options.queue_depth.min(disk.info().queue_depth);
        let catalog = std::mem::take(&mut read.catalog);
        let ring_bytes = options.ring_bytes;
        let mut log = Self::assemble(&superblock, depth, ring_bytes, catalog, recovered);
        read.recovery.messages = log.tail.base().message;
        log.begin_epoch(disk, &read, options).map_err(|fault| OpenError::Write { name, fault })?;
        read.recovery.epoch = log.epoch().0;
        Ok((log, read.recovery))
    }

    /// Takes the next epoch and starts a segment for it.
    fn begin_epoch(
        &mut self,
        disk: &mut dyn Disk,
        read: &Read,
        options: &OpenOptions,
    ) -> Result<(), LogFault> {
        // Before the superblock names the place that is taken.
        self.free_unneeded_now(disk)?;
        let seen = read.found.iter().map(|found| found.header.epoch.get()).max().unwrap_or(0);
        let epoch = self.superblock.last_epoch.get().max(seen) + 1;
        let mut superblock = self.superblock.next();
        superblock.begin(epoch, options.lineage);
        // The end of a clean stop stays: it is a fact about the segments before this epoch.
        superblock.closed_end = self.prefix.batch_seq().into();
        let place = self.segments.next_place();
        if let Some(place) = place {
            superblock.begun_place = (place.get() + 1).into();
            superblock.begun_seg_no = self.segments.first_seg_no().into();
        }
        superblock
            .write(disk)
            .map_err(|fault| LogFault { disk_offset: DiskOffset::START, fault })?;
        self.superblock = superblock;
        for gone in read.gone() {
            let place = gone.place();
            let geometry = self.segments.geometry();
            wipe(disk, geometry, place)
                .map_err(|fault| LogFault { disk_offset: geometry.segment(place), fault })?;
        }
        if place.is_none() {
            return Ok(());
        }
        disk.memory_mut().bytes_mut(self.buffers.zeros()).fill(0);
        self.begin_segment(disk.memory_mut(), true, options.unix_ns);
        self.tail.hold_from_here();
        self.segments.opened();
        self.drain(disk)
    }
}

/// Walks over a segment and decides about its end. `later_mark` is the last batch that later segments say
/// was durable, `None` when it is the last one found.
fn look_at(
    disk: &mut dyn Disk,
    superblock: &Superblock,
    found: &Found,
    later_mark: Option<BatchSeq>,
) -> Result<Last, OpenError> {
    let name = disk.info().name.clone();
    let header = &found.header;
    let mut reader = Reader::new(Geometry::of(superblock));
    let start = End { off: BLOCK_BYTES as u64, base: header.base() };
    let stop = walk(disk, superblock, header, start, &mut |batch| reader.take(batch))
        .map_err(|fault| OpenError::Device { name: name.clone(), fault })?;
    let facts = Facts::gather(superblock, found, &stop, later_mark);
    if let Decision::Halt(because) = decide(facts) {
        let later = later_mark.unwrap_or_default();
        let ends = [later, stop.lac_ahead, found.closed_at(), superblock.closed_at()];
        let batches = BatchRange {
            first: stop.end.base.batch_seq.next(),
            last: ends.into_iter().max().unwrap_or_default(),
        };
        let disk_offset = Geometry::of(superblock).segment(header.place()) + stop.end.off;
        let streams = reader.missing(disk, superblock, header, stop.end.off);
        return Err(OpenError::Damaged(Box::new(Damaged {
            name,
            seg_no: header.seg_no(),
            disk_offset,
            batches,
            streams,
            because,
        })));
    }
    Ok(reader.finish(stop))
}

/// Writes the closing index of a segment that a crash left open, and its header's copy if that is not
/// what it should be. Idempotent.
fn close_found(
    disk: &mut dyn Disk,
    superblock: &Superblock,
    header: &SegmentHeader,
    end: &End,
    entries: &[IndexEntry],
) -> Result<(), DiskFault> {
    use zerocopy::IntoBytes;
    let geometry = Geometry::of(superblock);
    let segment = geometry.segment(header.place());
    let bytes = INDEX_BYTES + BLOCK_BYTES;
    let memory = disk.memory_mut().bytes_mut(0..bytes);
    write_closing(&mut memory[..INDEX_BYTES], header, end, entries);
    memory[INDEX_BYTES..].copy_from_slice(header.as_bytes());
    let disk_offset = segment + geometry.index_offset();
    run(disk, Io { operation: Operation::Write, tag: 0, disk_offset, memory_offset: 0, bytes })?;
    disk.memory_mut().bytes_mut(0..BLOCK_BYTES).copy_from_slice(header.as_bytes());
    let bytes = BLOCK_BYTES;
    run(
        disk,
        Io { operation: Operation::Write, tag: 0, disk_offset: segment, memory_offset: 0, bytes },
    )
}

/// Takes a dropped segment's header and its copy away, so that neither stands beside batches of the next
/// segment in that place.
pub(super) fn wipe(
    disk: &mut dyn Disk,
    geometry: &Geometry,
    place: Place,
) -> Result<(), DiskFault> {
    disk.memory_mut().bytes_mut(0..BLOCK_BYTES).fill(0);
    let segment = geometry.segment(place);
    for disk_offset in [segment, segment + geometry.copy_offset()] {
        let (operation, bytes) = (Operation::Write, BLOCK_BYTES);
        run(disk, Io { operation, tag: 0, disk_offset, memory_offset: 0, bytes })?;
    }
    Ok(())
}
