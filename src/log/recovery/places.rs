//! What a writer before this one may still be writing, where the way to the disk is long: segments that count no
//! more though they are there, and places that are taken last.
//!
//! A network delivers what it was given also after its sender is gone. Fencing sees to it that nothing is delivered
//! any more once a log is read; where there is no fence, or it fails, these rules keep a late write from hurting what
//! a new epoch writes. An epoch can have begun one segment of which nothing has arrived: the first one, which the
//! superblock names before it is begun, or the one that the newest header names as next.

use std::collections::VecDeque;

use super::Found;
use crate::log::segment::{Place, SegmentHeader};
use crate::log::superblock::Superblock;
use crate::position::SegmentNo;

/// Takes segments out that the log has passed by: each one names the one before it, and what stands between
/// was begun by an earlier epoch that did not come to anything, or arrived when the log went on without it.
pub(in crate::log) fn take_stale(found: &mut Vec<Found>) -> Vec<SegmentHeader> {
    let (mut kept, mut stale) = (Vec::with_capacity(found.len()), Vec::new());
    let mut before = None;
    for segment in found.drain(..).rev() {
        if before.is_some_and(|seg_no| segment.header.seg_no() > seg_no) {
            stale.push(segment.header);
        } else {
            before = segment.header.prev_seg_no();
            kept.push(segment);
        }
    }
    kept.reverse();
    *found = kept;
    stale
}

/// What is known of segments that were begun.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Begun {
    /// The highest number.
    pub(super) seg_no: SegmentNo,
    /// Its place; `None` before there is any, and in a copy of a log.
    place: Option<Place>,
    /// Places that were promised to a segment.
    promised: Vec<Place>,
}

impl Begun {
    /// Of all headers that are there, and the superblock's word.
    pub(super) fn of(superblock: &Superblock, headers: &[SegmentHeader]) -> Self {
        let mut begun = Self {
            seg_no: SegmentNo::new(superblock.begun_seg_no.get()),
            place: superblock.begun_place.get().checked_sub(1).map(Place::new),
            promised: Vec::new(),
        };
        for header in headers {
            if header.seg_no() >= begun.seg_no {
                begun.seg_no = header.seg_no();
                begun.place = Some(header.place());
            }
            begun.promised.extend(header.next_place());
        }
        begun
    }

    /// The free ones of `segments` places in the order in which they are taken: going round from the last that
    /// was begun, and at the end those that a late write may still hit: the last begun, what was promised,
    /// and what is `wiped` now.
    pub(super) fn order(
        &self,
        segments: u64,
        is_used: impl Fn(Place) -> bool,
        wiped: &[Place],
    ) -> VecDeque<Place> {
        let from = self.place.map_or(0, |place| place.get() + 1);
        let may_be_hit = |place: &Place| {
            self.place == Some(*place) || self.promised.contains(place) || wiped.contains(place)
        };
        let places = (from..segments).chain(0..from.min(segments)).map(Place::new);
        let places = places.filter(|&place| !is_used(place));
        let (last, first): (Vec<Place>, Vec<Place>) = places.partition(may_be_hit);
        let mut order =
            VecDeque::with_capacity(usize::try_from(segments).expect("a disk's segments"));
        order.extend(first);
        order.extend(last);
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Lineage;
    use crate::log::segment::{Base, Grant};
    use crate::log::superblock::Identity;
    use crate::position::BatchSeq;

    fn superblock() -> Superblock {
        let identity = Identity { cluster: [1; 16], leg: [2; 16], salt: [3; 16], nguid: [0; 16] };
        Superblock::new(&identity, 20, 8, 5)
    }

    fn header(seg_no: u64, place: u64, prev: u64, next: Option<u64>) -> SegmentHeader {
        let (seg_no, prev) = (SegmentNo::new(seg_no), SegmentNo::new(prev));
        let (place, base) = (Place::new(place), Base::default());
        let grant = Grant {
            seg_no,
            place,
            epoch: 1,
            base,
            joins: BatchSeq::NONE,
            salt: 7,
            lineage: Lineage(9),
        };
        SegmentHeader::new(&superblock(), &grant, 0).linked(prev, next.map(Place::new))
    }

    fn found(header: &SegmentHeader) -> Found {
        Found { header: *header, closing: None, is_closed: false }
    }

    #[test]
    fn what_the_newest_segments_pass_by_is_stale() {
        let links = [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (7, 4), (8, 7)];
        let mut all = links.map(|(seg_no, prev)| found(&header(seg_no, seg_no, prev, None))).into();
        let numbers = |headers: &[SegmentHeader]| -> Vec<u64> {
            headers.iter().map(|header| header.seg_no().get()).collect()
        };
        let stale = numbers(&take_stale(&mut all));
        let kept = numbers(&all.iter().map(|found| found.header).collect::<Vec<_>>());
        assert_eq!(
            (kept.as_slice(), stale.as_slice()),
            ([1, 2, 4, 7, 8].as_slice(), [5, 3].as_slice())
        );
    }

    #[test]
    fn a_place_that_a_late_write_may_hit_is_taken_last() {
        let order = |begun: &Begun, used: &[u64], wiped: &[u64]| {
            let wiped: Vec<Place> = wiped.iter().copied().map(Place::new).collect();
            let order = begun.order(8, |place| used.contains(&place.get()), &wiped);
            order.into_iter().map(Place::get).collect::<Vec<_>>()
        };
        let begun = Begun::of(&superblock(), &[]);
        assert_eq!(order(&begun, &[], &[]), [0, 1, 2, 3, 4, 5, 6, 7], "nothing is known");
        let headers = [header(1, 0, 0, Some(1)), header(2, 1, 1, Some(2))];
        let begun = Begun::of(&superblock(), &headers);
        assert_eq!(begun.seg_no, SegmentNo::new(2));
        assert_eq!(order(&begun, &[0, 1], &[]), [3, 4, 5, 6, 7, 2], "the next was promised");
        assert_eq!(order(&begun, &[0], &[1]), [3, 4, 5, 6, 7, 2, 1], "the newest is wiped");
        let mut superblock = superblock();
        superblock.begun_seg_no = 4.into();
        superblock.begun_place = (3 + 1).into();
        let begun = Begun::of(&superblock, &headers);
        assert_eq!(begun.seg_no, SegmentNo::new(4), "of which no header has arrived");
        assert_eq!(order(&begun, &[0, 1], &[]), [4, 5, 6, 7, 2, 3]);
    }
}
