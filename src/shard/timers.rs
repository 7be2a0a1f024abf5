//! The keep station: the next batch prepared, sessions that fell silent.

use crate::disk::Disk;
use crate::fired::Timer;
use crate::limits::{SLOTS_AN_AUDIT, TIMERS_A_TURN};
use crate::mutant::Mutant;
use crate::session::table::Phase;

use super::Stations;

/// A session that says nothing for this long has ended.
const SILENCE_NS: u64 = 10_000_000_000;

/// The same for one whose client has not named its connection id yet; a client does at once.
const UNPROVEN_NS: u64 = 3_000_000_000;

impl Stations {
    pub(super) fn keep(&mut self) {
        if self.condition().is_over() {
            self.refuse_waiting();
        } else {
            self.log.prepare(self.disk.memory_mut());
        }
        for _ in 0..TIMERS_A_TURN {
            let slot = self.sessions.next_in_turn();
            let session = self.sessions.get(slot);
            let (limit_ns, timer) = if session.proven {
                (SILENCE_NS, Timer::SessionSilent)
            } else {
                (UNPROVEN_NS, Timer::SessionUnproven)
            };
            let silent = self.now.monotonic_ns.saturating_sub(session.last_received_ns) > limit_ns;
            let may_go = session.phase == Phase::Open && !Mutant::SilentSessionKept.is_on();
            if silent && may_go {
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
