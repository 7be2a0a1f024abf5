//! The keep station: the next batch prepared, sessions that fell silent.

use crate::disk::Disk;
use crate::fired::Timer;
use crate::limits::{SLOTS_AN_AUDIT, TIMERS_A_TURN};
use crate::mutant::Mutant;
use crate::session::table::Phase;
use crate::wire::datagram::PACKET_NO_LAST;

use super::Stations;

/// A session that says nothing for this long has ended.
pub(super) const SILENCE_NS: u64 = 10_000_000_000;

/// The same for one whose client has not registered yet, or does not know that it has.
const UNREGISTERED_NS: u64 = 5_000_000_000;

/// The same for one whose client has not used it yet; a client does at once.
const UNCONFIRMED_NS: u64 = 1_000_000_000;

impl Stations {
    pub(super) fn keep(&mut self) {
        if self.condition().is_over() {
            self.refuse_waiting();
        } else {
            self.log.prepare(self.disk.memory_mut());
        }
        self.take_keys();
        for _ in 0..TIMERS_A_TURN {
            let slot = self.sessions.next_in_turn();
            self.keep_keys(slot);
            let session = self.sessions.get(slot);
            let limit = match session.phase {
                Phase::Free | Phase::Registering { .. } => None,
                Phase::Unconfirmed => Some((UNCONFIRMED_NS, Timer::SessionUnconfirmed)),
                Phase::Open if session.proven => Some((SILENCE_NS, Timer::SessionSilent)),
                Phase::Confirmed | Phase::Open => {
                    Some((UNREGISTERED_NS, Timer::SessionUnregistered))
                }
            };
            let silent_ns = self.now.monotonic_ns.saturating_sub(session.last_received_ns);
            let limit = limit.filter(|(limit_ns, _)| silent_ns > *limit_ns);
            if session.phase == Phase::Open && session.packet_no >= PACKET_NO_LAST {
                // Its client is back at once, in another one.
                self.close_session(slot);
                continue;
            }
            if let Some((_, timer)) = limit.filter(|_| !Mutant::SilentSessionKept.is_on()) {
                timer.fired();
                self.close_session(slot);
            }
        }
        let may_take_time = cfg!(debug_assertions);
        if may_take_time && self.sessions.last_in_turn().index().is_multiple_of(SLOTS_AN_AUDIT) {
            self.audit().unwrap_or_else(|what| panic!("O13: {what}"));
        }
    }
}
