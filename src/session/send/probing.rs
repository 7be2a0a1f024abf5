//! When a publisher asks the server where it is: the time a round trip takes, and when something last moved.

use crate::fired::Timer;

/// Before anything is known of the round trip.
const SRTT_NS_START: u64 = 1_000_000;
/// The shortest wait before the server is asked where we are.
const PROBE_NS_MIN: u64 = 1_000_000;
/// The longest wait.
const PROBE_NS_MAX: u64 = 100_000_000;
/// What was sent so recently is not sent again: it may still be on its way.
const RESEND_NS_MIN: u64 = 50_000;

/// The round trip, and what is due.
#[derive(Debug)]
pub(super) struct Probing {
    /// Smoothed round trip, from sent to durable.
    srtt_ns: u64,
    wait_ns: u64,
    /// When something was last sent or heard that moved things on.
    moved_ns: u64,
    probed_ns: u64,
    /// Receipts are missing.
    lacks_receipts: bool,
}

impl Probing {
    pub(super) fn new() -> Self {
        Self {
            srtt_ns: SRTT_NS_START,
            wait_ns: PROBE_NS_MIN,
            moved_ns: 0,
            probed_ns: 0,
            lacks_receipts: false,
        }
    }

    pub(super) fn begin(&mut self, now_ns: u64) {
        (self.moved_ns, self.wait_ns) = (now_ns, PROBE_NS_MIN);
    }

    pub(super) fn set_lacks_receipts(&mut self, lacks_receipts: bool) {
        self.lacks_receipts = lacks_receipts;
    }

    /// Something was sent for the first time.
    pub(super) fn sent(&mut self, now_ns: u64) {
        self.moved_ns = now_ns;
    }

    /// The server has come on.
    pub(super) fn moved(&mut self, now_ns: u64) {
        self.moved_ns = now_ns;
        self.wait_ns = self.srtt_ns.saturating_mul(4).clamp(PROBE_NS_MIN, PROBE_NS_MAX);
    }

    /// A round trip took so long.
    pub(super) fn sample(&mut self, trip_ns: u64) {
        self.srtt_ns = self.srtt_ns.saturating_mul(7).saturating_add(trip_ns) / 8;
    }

    /// What was sent later than so long ago may still be on its way.
    pub(super) fn recent_ns(&self) -> u64 {
        (self.srtt_ns / 2).clamp(RESEND_NS_MIN, PROBE_NS_MIN)
    }

    /// Whether the server is to be asked, where something `waits` for its word; if so, counts it as asked.
    pub(super) fn is_due(&mut self, waits: bool, now_ns: u64) -> bool {
        let quiet_ns = now_ns.saturating_sub(self.moved_ns.max(self.probed_ns));
        let tail = waits && quiet_ns >= self.wait_ns;
        let gap = self.lacks_receipts
            && now_ns.saturating_sub(self.probed_ns) >= self.srtt_ns.clamp(200_000, PROBE_NS_MAX);
        if !tail && !gap {
            return false;
        }
        if tail {
            Timer::ProbeTail.fired();
            self.wait_ns = self.wait_ns.saturating_mul(2).min(PROBE_NS_MAX);
        } else {
            Timer::ProbeReceipts.fired();
        }
        (self.lacks_receipts, self.probed_ns) = (false, now_ns);
        true
    }
}
