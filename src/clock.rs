//! Time, the only place it enters: a seam with a real clock and one that a test turns by hand.
//!
//! `now_ns` counts from an arbitrary start and never goes back; it is for intervals. `unix_ns` is for
//! what people and other systems read; nothing that is promised depends on it.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Where time comes from.
pub trait Clock {
    /// Nanoseconds since an arbitrary start, monotonic.
    fn now_ns(&self) -> u64;

    /// Nanoseconds since 1970-01-01 UTC at the moment `now_ns` reads `now_ns`.
    fn unix_ns_at(&self, now_ns: u64) -> u64;

    /// Nanoseconds since 1970-01-01 UTC.
    fn unix_ns(&self) -> u64 {
        self.unix_ns_at(self.now_ns())
    }
}

/// The host's clock: the time-stamp counter where it is invariant (checked and calibrated when the
/// clock is made), the operating system's monotonic clock elsewhere.
#[derive(Clone, Debug)]
pub struct HostClock {
    clock: quanta::Clock,
    /// Raw counter at the start.
    start: u64,
    unix_ns_at_start: u64,
}

impl HostClock {
    /// Calibrates; the first call in a process takes some milliseconds.
    ///
    /// # Panics
    /// Where the system clock stands before 1970.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is where wall time enters")]
    pub fn new() -> Self {
        let clock = quanta::Clock::new();
        let start = clock.raw();
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).expect("system clock after 1970");
        let unix_ns_at_start = u64::try_from(unix.as_nanos()).expect("before the year 2554");
        Self { clock, start, unix_ns_at_start }
    }
}

impl Default for HostClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for HostClock {
    #[inline]
    fn now_ns(&self) -> u64 {
        self.clock.delta_as_nanos(self.start, self.clock.raw())
    }

    #[inline]
    fn unix_ns_at(&self, now_ns: u64) -> u64 {
        self.unix_ns_at_start + now_ns
    }
}

/// A clock that stands still until it is turned; clones show the same time.
#[derive(Clone, Debug, Default)]
pub struct ManualClock {
    now_ns: Rc<Cell<u64>>,
    unix_jump_ns: Rc<Cell<u64>>,
}

impl ManualClock {
    /// A clock that reads zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves time forward.
    pub fn advance_ns(&self, by_ns: u64) {
        self.now_ns.set(self.now_ns.get() + by_ns);
    }

    /// Sets the wall clock this far ahead of where it would be; a smaller jump sets it back.
    pub fn set_unix_jump_ns(&self, jump_ns: u64) {
        self.unix_jump_ns.set(jump_ns);
    }
}

impl Clock for ManualClock {
    fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    fn unix_ns_at(&self, now_ns: u64) -> u64 {
        1_700_000_000_000_000_000 + now_ns + self.unix_jump_ns.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_clock_never_goes_back() {
        let clock = HostClock::new();
        let mut last = clock.now_ns();
        for _ in 0..10_000 {
            let now = clock.now_ns();
            assert!(now >= last, "{now} after {last}");
            last = now;
        }
        assert!(clock.unix_ns() > 1_700_000_000_000_000_000);
    }

    #[test]
    fn clones_of_a_manual_clock_agree() {
        let clock = ManualClock::new();
        let other = clock.clone();
        clock.advance_ns(5);
        assert_eq!(other.now_ns(), 5);
    }
}
