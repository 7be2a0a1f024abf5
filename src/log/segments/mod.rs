//! The segments of a log: which of them count, which places of the disk are free, and where the messages of which
//! stream are. A place is free, or a segment that counts stands there, or it is being wiped: it goes from one to the
//! next only through [`Segments::begin`], [`Segments::take_unneeded`] and [`Segments::freed`].

mod places;
mod unneeded;

use std::collections::VecDeque;

use super::batch::SegmentKey;
use super::catalog::Catalog;
use super::segment::{Base, End, Geometry, Grant, INDEX_ENTRIES, IndexEntry, Place, SegmentHeader};
use super::superblock::Superblock;
use crate::ids::Lineage;
use crate::limits::{BLOCK_BYTES, RESERVED_SEGMENTS};
use crate::memory::resident;
use crate::position::{BatchSeq, DiskOffset, LogOffset, SegmentNo};

use places::StreamPlaces;

/// A segment that counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Live {
    pub(super) seg_no: SegmentNo,
    pub(super) place: Place,
    pub(super) key: SegmentKey,
    pub(super) base: Base,
    /// As its header says it.
    pub(super) joins: BatchSeq,
    /// The opening that wrote it.
    pub(super) lineage: Lineage,
    /// Known once it is closed.
    pub(super) end: Option<End>,
}

impl Live {
    /// That of a header, closed where it has an end.
    pub(super) fn new(header: &SegmentHeader, superblock: &Superblock, end: Option<End>) -> Self {
        Self {
            seg_no: header.seg_no(),
            place: header.place(),
            key: header.key(superblock),
            base: header.base(),
            joins: header.joined(),
            lineage: header.lineage(),
            end,
        }
    }

    /// Its header, as its closing index is checked with.
    pub(super) fn header(&self, superblock: &Superblock) -> SegmentHeader {
        let Self { seg_no, place, base, joins, lineage, key, .. } = *self;
        let (epoch, salt) = (key.epoch, key.salt);
        let grant = Grant { seg_no, place, epoch, base, joins, salt, lineage };
        SegmentHeader::new(superblock, &grant, 0)
    }

    /// Its end, when it is closed and holds messages.
    fn messages_end(&self) -> Option<Base> {
        self.end.map(|end| end.base).filter(|end| end.message > self.base.message)
    }
}

/// How many segments there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentCounts {
    /// Those that count.
    pub live: usize,
    /// Places that nothing stands in.
    pub free: usize,
}

/// What recovery has found on the disk.
#[derive(Debug)]
pub(super) struct Recovered {
    /// Segments that count, ascending, all closed.
    pub(super) live: VecDeque<Live>,
    /// Index entries by place on the disk.
    pub(super) index: Vec<Vec<IndexEntry>>,
    /// Places that are free, the next to use first.
    pub(super) free: VecDeque<Place>,
    /// The highest number that is known to have been given to a segment, be it not kept.
    pub(super) known_seg_no: SegmentNo,
}

impl Recovered {
    /// Nothing yet, with room for all segments of a disk.
    pub(super) fn nothing(segments: u64) -> Self {
        let places = usize::try_from(segments).expect("a disk's segments");
        Self {
            live: VecDeque::with_capacity(places),
            index: (0..segments).map(|_| resident(INDEX_ENTRIES, IndexEntry::default())).collect(),
            free: VecDeque::new(),
            known_seg_no: SegmentNo::NONE,
        }
    }

    /// Adds a segment behind those before it.
    pub(super) fn push(&mut self, live: Live, entries: &[IndexEntry]) {
        self.index[live.place.index()].extend_from_slice(entries);
        self.live.push_back(live);
    }

    /// Where the log ends: its last batch, and the log offset behind that.
    pub(super) fn end(&self, geometry: &Geometry) -> (Base, LogOffset) {
        let Some(last) = self.live.back() else { return Default::default() };
        let end = last.end.expect("recovery closes what it keeps");
        (end.base, geometry.log_off(last.seg_no, end.off))
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Segments {
    geometry: Geometry,
    /// Those that count, ascending; the last is being written, unless the log is full.
    live: VecDeque<Live>,
    /// Index entries by place on the disk.
    index: Vec<Vec<IndexEntry>>,
    /// Which segments hold messages of a stream, by stream.
    places: Vec<StreamPlaces>,
    /// Places that are free, the next to use first. One that is freed is used after all others: what was on its
    /// way there has the longest time to arrive.
    free: VecDeque<Place>,
    /// The highest number that is known to have been given to a segment, be it not kept.
    known_seg_no: SegmentNo,
    /// Whether messages are taken: there is a segment for them.
    takes_messages: bool,
    /// There may be one that nobody needs.
    look_due: bool,
    /// How many were freed since somebody asked.
    freed: u64,
}

impl Segments {
    /// Those that recovery has found; what their indexes say of streams goes into the catalog. None is being written.
    pub(super) fn new(geometry: Geometry, found: Recovered, catalog: &mut Catalog) -> Self {
        let Recovered { live, index, free, known_seg_no } = found;
        let places = places::places_of(catalog, &live, &index);
        Self {
            geometry,
            live,
            index,
            places,
            free,
            known_seg_no,
            takes_messages: false,
            look_due: true,
            freed: 0,
        }
    }

    /// Where things are on the disk.
    #[inline]
    pub(super) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// How many there are.
    pub(super) fn counts(&self) -> SegmentCounts {
        SegmentCounts { live: self.live.len(), free: self.free.len() }
    }

    /// Those that count, ascending.
    #[cfg(test)]
    pub(super) fn iter(&self) -> std::collections::vec_deque::Iter<'_, Live> {
        self.live.iter()
    }

    /// The one being written.
    ///
    /// # Panics
    /// When there is none at all.
    #[inline]
    pub(super) fn current(&self) -> &Live {
        self.live.back().expect("a writable log has a segment")
    }

    /// Whether there is one that is being written.
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        self.live.back().is_some_and(|last| last.end.is_none())
    }

    /// Whether messages are taken.
    #[inline]
    pub(super) fn takes_messages(&self) -> bool {
        self.takes_messages
    }

    /// The last batch of the newest closed one that holds messages; none where none does.
    fn messages_end(&self) -> BatchSeq {
        let end = self.live.iter().rev().find_map(Live::messages_end);
        end.map_or(BatchSeq::NONE, |end| end.batch_seq)
    }

    /// The number of the newest; none where there is none.
    fn newest_seg_no(&self) -> SegmentNo {
        self.live.back().map_or(SegmentNo::NONE, |live| live.seg_no)
    }

    /// The highest number that is known to be used.
    fn last_seg_no(&self) -> SegmentNo {
        self.newest_seg_no().max(self.known_seg_no)
    }

    /// The number of the next one.
    pub(super) fn next_seg_no(&self) -> SegmentNo {
        self.last_seg_no().next()
    }

    /// The number of the first of a new epoch. One is left out: the epoch before may have begun a segment of which
    /// nothing has arrived yet, but no more than one, since a roll waits for the header before.
    pub(super) fn first_seg_no(&self) -> SegmentNo {
        self.last_seg_no().next().next()
    }

    /// The place that is used next.
    pub(super) fn next_place(&self) -> Option<Place> {
        self.free.front().copied()
    }

    /// Whether a roll finds a place, and more than `reserve` stay free before it; where it does not, no more messages
    /// are taken until there are such places.
    pub(super) fn may_roll(&mut self, reserve: usize) -> bool {
        let may = self.free.len() > reserve;
        self.takes_messages &= may;
        may
    }

    /// The epoch has its first segment: messages are taken if others can follow.
    pub(super) fn opened(&mut self) {
        self.takes_messages = self.free.len() >= RESERVED_SEGMENTS;
    }

    /// Begins one in the next free place, and returns its header.
    ///
    /// # Panics
    /// When no place is free.
    pub(super) fn begin(
        &mut self,
        superblock: &Superblock,
        seg_no: SegmentNo,
        salt: u64,
        base: Base,
        unix_ns: u64,
    ) -> SegmentHeader {
        let place = self.free.pop_front().expect("the caller saw a free segment");
        let (epoch, joins) = (superblock.last_epoch.get(), self.messages_end());
        let lineage = superblock.lineage();
        let grant = Grant { seg_no, place, epoch, base, joins, salt, lineage };
        let prev_seg_no = self.newest_seg_no();
        let header =
            SegmentHeader::new(superblock, &grant, unix_ns).linked(prev_seg_no, self.next_place());
        self.live.push_back(Live::new(&header, superblock, None));
        self.index[place.index()].clear();
        header
    }

    /// Notes where the current one ends, and returns it with its index.
    pub(super) fn close(&mut self, end: End) -> (&Live, &[IndexEntry]) {
        let current = self.live.back_mut().expect("a segment is being written");
        current.end = Some(end);
        let current = &self.live[self.live.len() - 1];
        (current, &self.index[current.place.index()])
    }

    /// Entries in the index of the current one.
    pub(super) fn entries_now(&self) -> usize {
        self.index[self.current().place.index()].len()
    }

    /// Adds an entry to that index.
    pub(super) fn note(&mut self, entry: &IndexEntry) {
        let Live { seg_no, place, .. } = *self.current();
        self.index[place.index()].push(*entry);
        let stream = usize::try_from(entry.stream.get()).expect("32 bits fit") - 1;
        self.places[stream].note(seg_no, entry);
    }

    /// There is a stream more.
    pub(super) fn add_stream(&mut self) {
        self.places.push(StreamPlaces::new(self.geometry.segments));
    }

    fn index_at(&self, log_off: LogOffset) -> Option<usize> {
        let seg_no = self.geometry.seg_no(log_off);
        self.live.binary_search_by_key(&seg_no, |live| live.seg_no).ok()
    }

    /// The one that counts at a log offset.
    #[inline]
    pub(super) fn at(&self, log_off: LogOffset) -> Option<&Live> {
        self.index_at(log_off).map(|index| &self.live[index])
    }

    /// The batch position that `log_off` means: behind the last batch of a segment the first of the
    /// next one.
    #[inline]
    pub(super) fn skip_to_batch(&self, log_off: LogOffset) -> LogOffset {
        let Some(index) = self.index_at(log_off) else {
            // Before the first segment, or in one that was not kept: the next there is.
            let next = self.live.partition_point(|live| self.first_batch(live) <= log_off);
            return self.live.get(next).map_or(log_off, |live| self.first_batch(live));
        };
        let at_end =
            self.live[index].end.is_some_and(|end| self.geometry.within(log_off) >= end.off);
        match self.live.get(index + 1) {
            Some(next) if at_end => self.first_batch(next),
            Some(_) | None => log_off,
        }
    }

    fn first_batch(&self, live: &Live) -> LogOffset {
        self.geometry.log_off(live.seg_no, BLOCK_BYTES as u64)
    }

    /// Where on the disk a log offset is; `None` where no segment counts.
    pub(super) fn disk_offset(&self, log_off: LogOffset) -> Option<DiskOffset> {
        let live = self.at(log_off)?;
        Some(self.geometry.segment(live.place) + self.geometry.within(log_off))
    }

    /// The index entries of one.
    pub(super) fn entries(&self, live: &Live) -> &[IndexEntry] {
        &self.index[live.place.index()]
    }
}
