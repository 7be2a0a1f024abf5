//! The keep station: the next batch prepared, sessions that fell silent.

use crate::disk::Disk;
use crate::limits::SESSIONS_MAX;
use crate::session::table::Phase;

use super::Stations;

/// A session that says nothing for this long has ended.
const SILENCE_NS: u64 = 10_000_000_000;

/// Sessions whose timers are looked at in one turn.
const SLOTS_A_TURN: usize = 2;

impl<D: Disk> Stations<D> {
    pub(super) fn keep(&mut self) {
        if !self.condition.is_over() {
            self.log.prepare(self.disk.memory_mut());
        }
        for _ in 0..SLOTS_A_TURN {
            self.timer_slot = (self.timer_slot + 1) % SESSIONS_MAX;
            let session = self.sessions.get(self.timer_slot);
            let silent = self.now_ns.saturating_sub(session.heard_ns) > SILENCE_NS;
            if silent && session.phase == Phase::Open {
                self.close_session(self.timer_slot);
            }
        }
    }
}
