//! Where the messages of a stream are: which segments, by sequence and by time, so that a place in a stream is
//! found in a few steps however long the log is and however long ago the stream was written to.

use std::collections::VecDeque;

use super::{Live, Segments};
use crate::ids::StreamId;
use crate::limits::{BLOCK_BYTES, STREAMS_MAX};
use crate::log::Located;
use crate::log::catalog::Catalog;
use crate::log::segment::IndexEntry;
use crate::position::{LogOffset, SegmentNo};

/// A segment that holds messages of a stream.
#[derive(Clone, Copy, Debug)]
struct Place {
    seg_no: SegmentNo,
    /// The first of its index entries.
    first_sequence: u64,
    /// The newest time of any index entry up to that one: it never goes back, unlike the host's clock.
    newest_ns: u64,
}

/// The segments that hold messages of one stream, ascending.
#[derive(Debug)]
pub(super) struct StreamPlaces {
    places: VecDeque<Place>,
    /// The newest time of any index entry.
    newest_ns: u64,
}

impl StreamPlaces {
    /// None yet; allocates what a log of so many segments will ever need.
    pub(super) fn new(segments: u64) -> Self {
        let segments = usize::try_from(segments).expect("a disk's segments");
        Self { places: VecDeque::with_capacity(segments), newest_ns: 0 }
    }

    /// Notes an index entry of a segment.
    pub(super) fn note(&mut self, seg_no: SegmentNo, entry: &IndexEntry) {
        self.newest_ns = self.newest_ns.max(entry.time_ns.get());
        if self.places.back().is_none_or(|last| last.seg_no < seg_no) {
            let first_sequence = entry.first_sequence.get();
            self.places.push_back(Place { seg_no, first_sequence, newest_ns: self.newest_ns });
        }
    }

    /// Segments up to this one are gone.
    pub(super) fn gone(&mut self, seg_no: SegmentNo) {
        while self.places.front().is_some_and(|first| first.seg_no <= seg_no) {
            self.places.pop_front();
        }
    }
}

/// Where the messages of all streams are that recovery has found.
pub(super) fn places_of(
    catalog: &mut Catalog,
    live: &VecDeque<Live>,
    index: &[Vec<IndexEntry>],
) -> Vec<StreamPlaces> {
    let mut places = Vec::with_capacity(STREAMS_MAX);
    places.extend(catalog.streams().iter().map(|_| StreamPlaces::new(index.len() as u64)));
    for live in live {
        for entry in &index[live.place.index()] {
            let stream = usize::try_from(entry.stream.get()).expect("32 bits fit") - 1;
            places[stream].note(live.seg_no, entry);
            catalog.saw_time(StreamId(entry.stream.get()), entry.time_ns.get());
        }
    }
    places
}

impl Segments {
    /// The index entries of a stream in one of its segments, ascending, and the segment.
    fn entries_of(
        &self,
        stream: StreamId,
        place: &Place,
    ) -> (&Live, impl DoubleEndedIterator<Item = &IndexEntry>) {
        let live = self.live.binary_search_by_key(&place.seg_no, |live| live.seg_no);
        let live = &self.live[live.expect("a stream's segment counts")];
        (live, self.entries(live).iter().filter(move |entry| entry.stream.get() == stream.0))
    }

    /// The segment that holds a sequence of a stream, which is kept.
    pub(in crate::log) fn holding(&self, stream: StreamId, sequence: u64) -> Option<&Live> {
        let places = &self.places_of(stream)?.places;
        let next = places.partition_point(|place| place.first_sequence <= sequence);
        let seg_no = places.get(next.checked_sub(1)?)?.seg_no;
        let live = self.live.binary_search_by_key(&seg_no, |live| live.seg_no).ok()?;
        self.live.get(live)
    }

    /// Where to start looking for a sequence of a stream, of which all below `durable_next` is durable. `None`
    /// where there is nothing of it.
    pub(in crate::log) fn locate(
        &self,
        stream: StreamId,
        sequence: u64,
        durable_next: u64,
    ) -> Option<Located> {
        let place = |places: &VecDeque<Place>| {
            places.partition_point(|place| place.first_sequence <= sequence)
        };
        let is_before = |entry: &IndexEntry| entry.first_sequence.get() <= sequence;
        self.locate_last(stream, durable_next, place, is_before)
    }

    /// The same for the first message received at or after a Unix time.
    pub(in crate::log) fn locate_time(
        &self,
        stream: StreamId,
        unix_ns: u64,
        durable_next: u64,
    ) -> Option<Located> {
        let place =
            |places: &VecDeque<Place>| places.partition_point(|place| place.newest_ns < unix_ns);
        let is_before = |entry: &IndexEntry| entry.time_ns.get() < unix_ns;
        self.locate_last(stream, durable_next, place, is_before)
    }

    /// The last index entry of a stream of which, and of all before it, `is_before` is true; or the first one there
    /// is. `count` says how many of its segments begin with such entries.
    fn locate_last(
        &self,
        stream: StreamId,
        durable_next: u64,
        count: impl Fn(&VecDeque<Place>) -> usize,
        is_before: impl Fn(&IndexEntry) -> bool,
    ) -> Option<Located> {
        let places = &self.places_of(stream)?.places;
        let durable = places.partition_point(|place| place.first_sequence < durable_next);
        let place = count(places).min(durable).max(1).checked_sub(1)?;
        let place = places.get(place).filter(|_| durable > 0)?;
        let (live, entries) = self.entries_of(stream, place);
        let mut found = None;
        for entry in entries.take_while(|entry| entry.first_sequence.get() < durable_next) {
            if found.is_some() && !is_before(entry) {
                break;
            }
            found = Some(entry);
        }
        found.map(|entry| Located {
            log_off: self.entry_off(live, entry),
            sequence: entry.first_sequence.get(),
        })
    }

    /// The lowest indexed sequence of a stream above `sequence`.
    pub(in crate::log) fn next_indexed(&self, stream: StreamId, sequence: u64) -> Option<u64> {
        let places = &self.places_of(stream)?.places;
        let next = places.partition_point(|place| place.first_sequence <= sequence);
        let within = next.checked_sub(1).and_then(|last| {
            let (_, mut entries) = self.entries_of(stream, &places[last]);
            entries.find(|entry| entry.first_sequence.get() > sequence)
        });
        let within = within.map(|entry| entry.first_sequence.get());
        within.or_else(|| places.get(next).map(|place| place.first_sequence))
    }

    fn places_of(&self, stream: StreamId) -> Option<&StreamPlaces> {
        let index = usize::try_from(stream.0.checked_sub(1)?).ok()?;
        self.places.get(index)
    }

    fn entry_off(&self, live: &Live, entry: &IndexEntry) -> LogOffset {
        self.geometry.log_off(live.seg_no, u64::from(entry.block.get()) * BLOCK_BYTES as u64)
    }
}
