//! What the shard does for publishers now: the one place where that changes, so that nobody who has to know of it is
//! left out.

use super::{Reply, Siblings, Stations};
use crate::disk::DiskFault;
use crate::ids::StreamId;
use crate::metrics::Counter;
use crate::mutant::Mutant;
use crate::position::SessionSlot;
use crate::session::table::Phase;
use crate::wire::control::ErrorCode;
use crate::wire::publish::PublishState;

/// What the shard does for publishers now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Serving.
    Serving,
    /// The log is full: consumers are served, publishers wait.
    Full,
    /// Nothing more is acknowledged: a write failed, or acknowledged data was found damaged.
    Failed(ErrorCode),
    /// Nothing more is acknowledged: the disk is gone, or was reset. It may come back: publishers wait, and
    /// whoever runs the shard opens disk and log again.
    DiskLost(DiskFault),
    /// Finishing what is in flight.
    Draining,
}

impl Condition {
    pub(super) fn publish_state(self) -> PublishState {
        match self {
            Self::Serving => PublishState::Open,
            Self::Full => PublishState::NoSpace,
            Self::Failed(ErrorCode::DataLoss) => PublishState::Damaged,
            Self::Failed(_) => PublishState::Failed,
            Self::DiskLost(_) | Self::Draining => PublishState::Draining,
        }
    }

    /// Why nothing new is taken, where nothing is.
    pub(super) fn refusal(self) -> Option<ErrorCode> {
        self.publish_state().refusal()
    }

    /// Whether trims decide what it does next.
    #[must_use]
    pub fn takes_trims(self) -> bool {
        matches!(self, Self::Serving | Self::Full)
    }

    /// Whether the log takes anything still.
    pub(super) fn is_over(self) -> bool {
        matches!(self, Self::Failed(_) | Self::DiskLost(_))
    }
}

/// Acknowledged messages found damaged while they were delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Stream.
    pub stream: StreamId,
    /// First sequence that cannot be read.
    pub first: u64,
    /// Last one, as far as is known.
    pub last: u64,
}

/// The condition a shard is in, and the last damage it found.
#[derive(Debug)]
pub(super) struct Service {
    condition: Condition,
    damage: Option<Damage>,
}

impl Service {
    /// Of a shard that begins.
    pub(super) fn new(is_full: bool) -> Self {
        let condition = if is_full { Condition::Full } else { Condition::Serving };
        Self { condition, damage: None }
    }

    #[inline]
    pub(super) fn condition(&self) -> Condition {
        self.condition
    }

    pub(super) fn damage(&self) -> Option<Damage> {
        self.damage
    }

    /// Where a test wants it.
    #[cfg(test)]
    pub(super) fn pretend(&mut self, condition: Condition) {
        self.condition = condition;
    }

    /// Goes over to another condition, and tells who places streams; `false` where there is no such way. Nothing leads out
    /// of what is over, and what drains stays so unless it fails.
    fn enter(&mut self, to: Condition, siblings: Option<&Siblings>) -> bool {
        let leads = match (self.condition, to) {
            (Condition::Failed(_) | Condition::DiskLost(_), _) => false,
            (_, Condition::Failed(_) | Condition::DiskLost(_) | Condition::Draining) => true,
            (Condition::Serving, Condition::Full) | (Condition::Full, Condition::Serving) => true,
            (Condition::Serving | Condition::Full | Condition::Draining, _) => false,
        };
        if leads {
            self.condition = to;
            self.tell(siblings);
        }
        leads
    }

    /// Tells who places streams whether this shard takes new ones.
    pub(super) fn tell(&self, siblings: Option<&Siblings>) {
        if let Some(all) = siblings {
            all.directory.set_closed(all.shard, self.condition != Condition::Serving);
        }
    }
}

impl Stations {
    pub(super) fn condition(&self) -> Condition {
        self.service.condition()
    }

    fn enter(&mut self, to: Condition) -> bool {
        self.service.enter(to, self.siblings.as_ref())
    }

    /// The log takes nothing more, be it a message or a registration; everybody who publishes is told.
    pub(super) fn become_full(&mut self) {
        if self.enter(Condition::Full) {
            self.acknowledge_everybody();
        }
    }

    /// A log that was full takes messages again once enough of it is trimmed.
    pub(super) fn note_room(&mut self) {
        self.counters.add(Counter::SegmentsFreed, self.log.take_freed());
        let stays = Mutant::FullStaysAfterRestart.is_on()
            && self.counters.get(Counter::MessagesAccepted) == 0;
        let has_room = !self.log.is_full() && !stays;
        if self.condition() == Condition::Full && has_room && self.enter(Condition::Serving) {
            self.acknowledge_everybody();
        }
    }

    /// Nothing new is taken; what was received is still made durable and acknowledged.
    pub(super) fn drain(&mut self) {
        self.enter(Condition::Draining);
        self.acknowledge_everybody();
    }

    /// Nothing more is acknowledged from here on. Publishers are not told: the disk may be back in a moment.
    pub(super) fn lose(&mut self, fault: DiskFault) {
        if self.enter(Condition::DiskLost(fault)) {
            self.log.latch(fault);
        }
    }

    /// Nothing more is acknowledged from here on; everybody who publishes is told.
    pub(super) fn fail(&mut self, code: ErrorCode) {
        if !self.enter(Condition::Failed(code)) {
            return;
        }
        for slot in SessionSlot::all() {
            let session = self.sessions.get(slot);
            let told = session.producer.is_none()
                || session.phase != Phase::Open
                || self.outbox.push(Reply::Error { slot, code, request: 0, detail: 0 });
            if !told {
                // As every acknowledgement from now on says.
                self.publishers.acknowledge(slot);
            }
        }
    }

    /// Acknowledged messages cannot be read: nothing more is acknowledged.
    pub(super) fn fail_by_damage(&mut self, damage: Damage) {
        self.service.damage = Some(damage);
        self.fail(ErrorCode::DataLoss);
    }

    /// Everybody who publishes is told how things stand.
    fn acknowledge_everybody(&mut self) {
        for slot in SessionSlot::all() {
            let session = self.sessions.get(slot);
            if session.producer.is_some() && session.phase == Phase::Open {
                self.publishers.acknowledge(slot);
            }
        }
    }

    /// A session has shown that its client knows of it: it may have missed that nothing is taken.
    pub(super) fn tell_condition(&mut self, slot: SessionSlot) {
        let publishes = self.sessions.get(slot).producer.is_some();
        if publishes && self.condition() != Condition::Serving {
            self.publishers.acknowledge(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leads_out_of_what_is_over_and_what_drains_only_fails() {
        let (failed, lost) =
            (Condition::Failed(ErrorCode::DiskFailed), Condition::DiskLost(DiskFault::Gone));
        let (serving, full, draining) = (Condition::Serving, Condition::Full, Condition::Draining);
        for (from, to) in [
            (serving, vec![full, failed, lost, draining]),
            (full, vec![serving, failed, lost, draining]),
            (draining, vec![failed, lost, draining]),
            (failed, vec![]),
            (lost, vec![]),
        ] {
            for wanted in [serving, full, failed, lost, draining] {
                let mut service = Service::new(false);
                service.pretend(from);
                let leads = to.contains(&wanted);
                assert_eq!(service.enter(wanted, None), leads, "{from:?} to {wanted:?}");
                assert_eq!(service.condition(), if leads { wanted } else { from });
            }
        }
    }
}
