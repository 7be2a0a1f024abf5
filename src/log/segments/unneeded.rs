//! Which segments nobody needs any more.

use super::{Live, Segments};
use crate::limits::RESERVED_SEGMENTS;
use crate::limits::SEGMENTS_LOOKED_AT;
use crate::log::segment::Place;
use crate::position::{BatchSeq, SegmentNo};

impl Segments {
    /// Whether there may be one that nobody needs.
    pub(in crate::log) fn look_is_due(&self) -> bool {
        self.look_due
    }

    /// Something was trimmed, closed or is known to be durable: there may be one that nobody needs.
    pub(in crate::log) fn look_again(&mut self) {
        self.look_due = true;
    }

    /// There is none, until something changes.
    pub(in crate::log) fn looked(&mut self) {
        self.look_due = false;
    }

    /// Takes a segment out that nobody needs: the oldest, when no stream keeps anything of it, which all do from
    /// `kept_from` on; or one of the newest without messages, when a later one tells all that it does. A header on the
    /// media has to say that the later one's records are durable: `marked` is the newest such batch. `closes` says
    /// that the one before the current is being closed still.
    pub(in crate::log) fn take_unneeded(
        &mut self,
        kept_from: Option<SegmentNo>,
        marked: BatchSeq,
        closes: bool,
    ) -> Option<Live> {
        let newest = self.live.len().checked_sub(1)?;
        let from = newest.saturating_sub(SEGMENTS_LOOKED_AT).max(1);
        let found = std::iter::once(0).chain(from..newest).find(|&index| {
            let live = &self.live[index];
            let Some(end) = live.end else { return false };
            let is_kept = if index == 0 {
                kept_from.is_some_and(|seg_no| live.seg_no >= seg_no)
            } else {
                !self.is_superseded(index)
            };
            let closes = closes && index + 1 == newest;
            !is_kept && !closes && marked > end.base.batch_seq
        })?;
        let gone = self.live.remove(found)?;
        if found == 0 {
            self.places.iter_mut().for_each(|stream| stream.gone(gone.seg_no));
        }
        Some(gone)
    }

    /// Whether a segment holds no messages, and the next one says where it goes on without it.
    fn is_superseded(&self, index: usize) -> bool {
        let before = self.live.range(..index).rev().find_map(Live::messages_end);
        let (live, next) = (&self.live[index], &self.live[index + 1]);
        live.messages_end().is_none()
            && before
                .is_some_and(|end| (next.joins, next.base.message) == (end.batch_seq, end.message))
    }

    /// A place that was wiped is free at an opening, before anything is written.
    pub(in crate::log) fn freed_at_opening(&mut self, place: Place) {
        assert!(!self.free.contains(&place), "place {place} is freed once");
        self.free.push_back(place);
    }

    /// A place whose headers are wiped may be used again; a log that was full takes messages again, where the current
    /// segment takes another batch (`fits`) or there is one more place than those kept back.
    pub(in crate::log) fn freed(&mut self, place: Place, fits: bool) {
        self.freed_at_opening(place);
        self.freed += 1;
        let spare = self.free.len().cmp(&RESERVED_SEGMENTS);
        let is_room = spare.is_gt() || (spare.is_eq() && fits);
        self.takes_messages |= is_room && self.is_open();
    }

    /// How many were freed since this was last asked.
    pub(in crate::log) fn take_freed(&mut self) -> u64 {
        std::mem::take(&mut self.freed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Lineage;
    use crate::log::batch::SegmentKey;
    use crate::log::catalog::Catalog;
    use crate::log::segment::{Base, End, Geometry};
    use crate::log::segments::Recovered;
    use crate::position::BatchSeq;

    /// A segment of ten batches; the first holds messages, the others none.
    fn live(seg_no: u64) -> Live {
        let base = |batch_seq, message| {
            let batch_seq = BatchSeq::new(batch_seq);
            Base { batch_seq, message, chain: 0 }
        };
        let messages = if seg_no == 0 { 0 } else { 5 };
        let end = End { off: 8192, base: base(10 * (seg_no + 1), 5) };
        let (place, base) = (Place::new(seg_no), base(10 * seg_no, messages));
        let seg_no = SegmentNo::new(seg_no);
        let key = SegmentKey { log_tag: 1, epoch: 1, seg_no, salt: 1, chain_salt: 1 };
        Live {
            seg_no,
            place,
            key,
            base,
            joins: BatchSeq::new(10),
            lineage: Lineage(9),
            end: Some(end),
        }
    }

    #[test]
    fn of_the_segments_without_messages_the_newest_are_looked_at_and_all_go_in_the_end() {
        let count = 2 * SEGMENTS_LOOKED_AT as u64;
        let mut found = Recovered::nothing(count);
        (0..count).for_each(|seg_no| found.push(live(seg_no), &[]));
        let geometry = Geometry { segment_bytes: 1 << 20, segments: count };
        let mut segments = Segments::new(geometry, found, &mut Catalog::new());
        let marked = BatchSeq::new(u64::MAX);
        let mut take = || {
            let gone = segments.take_unneeded(Some(SegmentNo::new(0)), marked, false);
            gone.map(|gone| gone.seg_no.get())
        };
        let oldest_seen = count - 1 - SEGMENTS_LOOKED_AT as u64;
        assert_eq!(take(), Some(oldest_seen), "not the oldest: these are looked at later");
        let mut gone: Vec<_> = std::iter::from_fn(&mut take).chain([oldest_seen]).collect();
        gone.sort_unstable();
        let all: Vec<_> = (1..count - 1).collect();
        assert_eq!(gone, all, "but the first, which has messages, and the newest");
    }
}
