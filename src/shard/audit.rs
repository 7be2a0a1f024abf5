//! What must agree with what: lists, pools and counts that say the same twice. Looked at often where it may cost
//! time, which is in tests and in the simulator.

use super::Stations;
use crate::position::SessionSlot;
use crate::session::table::Phase;

/// Two things that say the same do not, and which.
type Audited = Result<(), String>;

fn agree(agrees: bool, what: impl FnOnce() -> String) -> Audited {
    if agrees { Ok(()) } else { Err(what()) }
}

impl Stations {
    /// Looks at everything.
    ///
    /// # Errors
    /// When two things that say the same do not.
    pub(super) fn audit(&self) -> Audited {
        agree(self.sessions.is_sound(), || "lists of sessions and their places".into())?;
        self.audit_producers()?;
        for slot in SessionSlot::all() {
            let session = self.sessions.get(slot);
            let registering = matches!(session.phase, Phase::Registering { .. });
            let listed = self.publishers.is_registering(slot);
            agree(listed == registering, || format!("session {slot} registers: {listed}"))?;
            let subscriptions = (0..self.fanout.len())
                .filter(|&index| self.fanout.get(index).session() == slot)
                .count();
            let told = if session.phase == Phase::Free { 0 } else { session.subscriptions };
            agree(subscriptions == told, || {
                format!("session {slot} has {subscriptions} subscriptions, not {told}")
            })?;
        }
        for slot in self.requests.slots() {
            let asks = self.sessions.get(slot).phase != Phase::Free;
            agree(asks, || format!("a request waits of session {slot}, which is over"))?;
        }
        Ok(())
    }

    /// A producer's place is its session's, and a session's place holds its producer.
    fn audit_producers(&self) -> Audited {
        let mut publishing = 0_usize;
        for (slot, session) in self.sessions.in_use() {
            let Some(producer) = session.producer else { continue };
            publishing = publishing.saturating_add(1);
            let Some(known) = self.log.producer(producer.id) else {
                return Err(format!("producer {} of session {slot} is forgotten", producer.id));
            };
            let is_its = known.holder == Some(slot) && known.epoch == producer.epoch;
            agree(is_its, || format!("session {slot} publishes as {producer:?}, not {known:?}"))?;
        }
        let held = self.log.producers().filter(|producer| producer.holder.is_some()).count();
        let said = self.publishers.len();
        agree((publishing, held) == (said, said), || {
            format!("{publishing} sessions publish and {held} places are held, not {said}")
        })
    }
}
