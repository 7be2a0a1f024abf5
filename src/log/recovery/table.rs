//! The table of recovery: from what is known where a walk over batches ends to what is done there.

use super::Found;
use crate::log::scan::Stop;
use crate::log::superblock::Superblock;
use crate::mutant::Mutant;
use crate::position::BatchSeq;

/// What is known where a walk ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// A header of a later segment says that more was durable, or that segment was closed.
    pub later_segment: bool,
    /// A later header says that more was durable.
    pub later_mark: bool,
    /// The segment was closed, with a later end.
    pub closed_later: bool,
    /// The log was stopped cleanly, with a later end.
    pub stopped_later: bool,
}

impl Facts {
    /// Gathers them where the walk over a segment stopped. `later` is the last batch of it that later segments
    /// say was durable, `None` when it is the last segment.
    pub(in crate::log) fn gather(
        superblock: &Superblock,
        found: &Found,
        stop: &Stop,
        later: Option<BatchSeq>,
    ) -> Self {
        let next = stop.end.base.batch_seq.next();
        let stopped = superblock.clean.get() == 1;
        let epoch_ended = found.header.epoch.get() < superblock.last_epoch.get();
        Self {
            later_segment: later.is_some_and(|mark| mark >= next),
            later_mark: stop.lac_ahead >= next,
            closed_later: found.closed_at() >= next,
            stopped_later: later.is_none()
                && superblock.closed_at() >= next
                && (stopped || epoch_ended),
        }
    }
}

/// How it is known that missing batches were durable once: the rows of [`decide`], and a segment missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, displaydoc::Display)]
pub enum Reason {
    /// a later segment names them durable
    LaterSegment,
    /// a later batch names them durable
    LaterMark,
    /// the segment was closed behind them
    ClosedLater,
    /// the log was stopped behind them
    StoppedLater,
    /// the next segment goes on from a later batch
    SegmentMissing,
}

impl Reason {
    /// Every one.
    pub const ALL: [Self; 5] = [
        Self::LaterSegment,
        Self::LaterMark,
        Self::ClosedLater,
        Self::StoppedLater,
        Self::SegmentMissing,
    ];
}

/// What is to be done there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// What follows was never acknowledged: the log ends here.
    Cut,
    /// What follows was acknowledged and is not there: stop, and say how it is known.
    Halt(Reason),
}

/// The table. One fact is enough: each says that the batch after the end was durable once. That a later
/// segment exists says nothing: it is begun while the last batches before it are still on their way.
///
/// | later segment | later mark | closed later | stopped later | decision |
/// |---|---|---|---|---|
/// | no | no | no | no | cut: a torn tail, never acknowledged |
/// | yes | any | any | any | halt: a later segment names it durable |
/// | no | yes | any | any | halt: a later batch names it durable |
/// | no | no | yes | any | halt: the segment was closed behind it |
/// | no | no | no | yes | halt: the log was stopped behind it |
#[must_use]
pub fn decide(facts: Facts) -> Decision {
    if Mutant::MarkIgnored.is_on() {
        return Decision::Cut;
    }
    match facts {
        Facts { later_segment: true, .. } => Decision::Halt(Reason::LaterSegment),
        Facts { later_mark: true, .. } => Decision::Halt(Reason::LaterMark),
        Facts { closed_later: true, .. } => Decision::Halt(Reason::ClosedLater),
        Facts { stopped_later: true, .. } => Decision::Halt(Reason::StoppedLater),
        Facts {
            later_segment: false,
            later_mark: false,
            closed_later: false,
            stopped_later: false,
        } => Decision::Cut,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_of_facts_has_the_decision_of_the_table() {
        for bits in 0..16u8 {
            let is = |bit: u8| bits & 1 << bit != 0;
            let facts = Facts {
                later_segment: is(0),
                later_mark: is(1),
                closed_later: is(2),
                stopped_later: is(3),
            };
            let first = (0..4u8).find(|&bit| is(bit));
            let expected =
                first.map_or(Decision::Cut, |row| Decision::Halt(Reason::ALL[usize::from(row)]));
            assert_eq!(decide(facts), expected, "{facts:?}");
        }
    }
}
