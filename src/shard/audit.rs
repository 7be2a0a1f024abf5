//! What must agree with what: lists, pools and counts that say the same twice. Looked at often where it may cost
//! time, which is in tests and in the simulator.

use super::Stations;
use crate::disk::Disk;
use crate::limits::SESSIONS_MAX;
use crate::session::table::Phase;

impl<D: Disk> Stations<D> {
    /// Looks at everything.
    ///
    /// # Panics
    /// When two things that say the same do not.
    pub(super) fn audit(&self) {
        assert!(self.sessions.is_sound(), "the lists of the sessions agree with their places");
        self.audit_producers();
        for slot in 0..SESSIONS_MAX {
            let session = self.sessions.get(slot);
            let registering = matches!(session.phase, Phase::Registering { .. });
            assert_eq!(self.publishers.is_registering(slot), registering, "session {slot}");
            let subscriptions = (0..self.fanout.len())
                .filter(|&index| self.fanout.get(index).session() == slot)
                .count();
            let told = if session.phase == Phase::Free { 0 } else { session.subscriptions };
            assert_eq!(subscriptions, told, "subscriptions of session {slot}");
        }
        for pending in &self.pending {
            let phase = self.sessions.get(pending.slot).phase;
            assert!(phase != Phase::Free, "what is pending has somebody who waits for it");
        }
    }

    /// A producer's place is its session's, and a session's place holds its producer.
    fn audit_producers(&self) {
        let publishing = self.sessions.in_use().filter_map(|(slot, session)| {
            let producer = session.producer?;
            let known = self.log.producer(producer.id);
            let known = known.expect("a producer with a session is not forgotten");
            assert_eq!(known.holder, Some(slot), "producer {}", producer.id);
            assert!(known.epoch == producer.epoch, "producer {}: another epoch", producer.id);
            Some(())
        });
        assert_eq!(publishing.count(), self.publishers.len(), "sessions that publish");
        let held = self.log.producers().filter(|producer| producer.holder.is_some()).count();
        assert_eq!(held, self.publishers.len(), "places of producers that are held");
    }
}
