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

    /// Both, of the same moment.
    fn now(&self) -> Now {
        let monotonic_ns = self.now_ns();
        Now { monotonic_ns, unix_ns: self.unix_ns_at(monotonic_ns) }
    }
}

/// A moment, by both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Since an arbitrary start; never goes back.
    pub monotonic_ns: u64,
    /// Since 1970-01-01 UTC; goes as it is set.
    pub unix_ns: u64,
}

/// The system clock is read again so often. The counter drifts from it by some millionths, so by some
/// microseconds until then.
const FOLLOW_EVERY_NS: u64 = 1_000_000_000;

/// The host's clock: the time-stamp counter where it is invariant (checked and calibrated when the
/// clock is made), the operating system's monotonic clock elsewhere. Its Unix time is what it was at the start and
/// what the counter counted since; for what runs long there is [`FollowingClock`].
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

/// A [`HostClock`] whose Unix time follows the system clock, which others keep, and never goes back: where the system
/// clock is ahead it jumps there, where it is behind it goes on at half the pace until they meet. For one thread.
#[derive(Clone, Debug)]
pub struct FollowingClock {
    clock: HostClock,
    course: Cell<Course>,
}

impl FollowingClock {
    /// Follows from the next look on.
    #[must_use]
    pub fn new(clock: HostClock) -> Self {
        let course = Course { from_ns: 0, unix_ns: clock.unix_ns_at_start, ahead_ns: 0 };
        Self { clock, course: Cell::new(course) }
    }
}

/// What the system clock says, in nanoseconds since 1970; through the vDSO, so no system call.
#[allow(clippy::disallowed_methods, reason = "this is where wall time enters")]
fn system_unix_ns() -> u64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(unix.as_nanos()).unwrap_or(u64::MAX)
}

/// How Unix time goes on from the moment the system clock was last looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Course {
    /// That moment.
    from_ns: u64,
    /// Unix time then.
    unix_ns: u64,
    /// How far it was ahead of the system clock: so much of what follows is passed at half the pace.
    ahead_ns: u64,
}

impl Course {
    fn at(&self, now_ns: u64) -> u64 {
        let since_ns = now_ns.saturating_sub(self.from_ns);
        let lost_ns = (since_ns / 2).min(self.ahead_ns);
        self.unix_ns.saturating_add(since_ns - lost_ns)
    }

    /// From now on, when the system clock says `system_ns`.
    fn follow(&self, now_ns: u64, system_ns: u64) -> Self {
        let own_ns = self.at(now_ns);
        let unix_ns = own_ns.max(system_ns);
        Self { from_ns: now_ns, unix_ns, ahead_ns: unix_ns - system_ns }
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

impl Clock for FollowingClock {
    #[inline]
    fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    #[inline]
    fn unix_ns_at(&self, now_ns: u64) -> u64 {
        let mut course = self.course.get();
        if now_ns.saturating_sub(course.from_ns) >= FOLLOW_EVERY_NS {
            // Both at about the same moment: `now_ns` may be some time ago.
            course = course.follow(self.now_ns(), system_unix_ns());
            self.course.set(course);
        }
        course.at(now_ns)
    }
}

/// A clock that stands still until it is turned; clones show the same time.
#[derive(Clone, Debug, Default)]
pub struct ManualClock {
    now_ns: Rc<Cell<u64>>,
    /// What this one has passed when it reads zero.
    began_ns: u64,
    wall: Rc<Cell<Wall>>,
}

/// What a wall clock makes of the time that passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wall {
    /// It was set so far ahead, or back.
    pub ahead_ns: i64,
    /// So many millionths of its time it goes too fast.
    pub drift_ppm: u64,
    /// It is off by up to so much at each look.
    pub jitter_ns: u64,
}

impl Wall {
    fn unix_ns_at(&self, passed_ns: u64) -> u64 {
        let drift_ns = passed_ns / 1_000_000 * self.drift_ppm;
        let noise = passed_ns.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24;
        let right_ns = 1_700_000_000_000_000_000 + passed_ns;
        let off_ns = drift_ns + noise % (self.jitter_ns + 1);
        (right_ns + off_ns).saturating_add_signed(self.ahead_ns)
    }
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

    /// The clock of a process that begins now: it reads zero, and goes on with this one.
    #[must_use]
    pub fn begun(&self) -> Self {
        Self { began_ns: self.now_ns.get(), ..self.clone() }
    }

    /// Changes what the wall clock makes of the time that passes.
    pub fn set_wall(&self, wall: Wall) {
        self.wall.set(wall);
    }

    /// What the wall clock makes of the time that passes.
    #[must_use]
    pub fn wall(&self) -> Wall {
        self.wall.get()
    }
}

impl Clock for ManualClock {
    fn now_ns(&self) -> u64 {
        self.now_ns.get() - self.began_ns
    }

    fn unix_ns_at(&self, now_ns: u64) -> u64 {
        self.wall.get().unix_ns_at(self.began_ns + now_ns)
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

    /// Drifting either way, and set forward and back: it follows, and never goes back.
    #[test]
    fn unix_time_follows_the_system_clock_without_going_back() {
        const SECOND: u64 = 1_000_000_000;
        let mut course = Course { from_ns: 0, unix_ns: 1_000 * SECOND, ahead_ns: 0 };
        let mut last = 0;
        let system = |second: u64| {
            // 6 ppm fast for 100 s, then 200 ppm slow, at 300 an hour forward, at 400 three seconds back.
            let set = if second >= 300 { 3_600 * SECOND } else { 0 };
            let back = if second >= 400 { 3 * SECOND } else { 0 };
            let drift = 6_000 * second.min(100);
            let slow = 200_000 * second.saturating_sub(100);
            1_000 * SECOND + second * SECOND + drift + set - slow - back
        };
        for second in 1..500 {
            course = course.follow(second * SECOND, system(second));
            for part in 0..10 {
                let now = course.at(second * SECOND + part * SECOND / 10);
                assert!(now >= last, "{now} after {last}");
                last = now;
            }
            let off = course.at(second * SECOND).abs_diff(system(second));
            // Three seconds are made up at half the pace, so in six.
            assert!(off <= 200_000 || (400..407).contains(&second), "{off} ns off at {second}");
        }
    }

    #[test]
    fn a_clock_that_went_wrong_is_right_at_the_next_look() {
        const HOUR: u64 = 3_600_000_000_000;
        let host = HostClock::new();
        let wrong = HostClock { unix_ns_at_start: host.unix_ns_at_start - HOUR, ..host };
        let clock = FollowingClock::new(wrong);
        let before = clock.unix_ns_at(clock.now_ns());
        assert!(system_unix_ns() - before >= HOUR - FOLLOW_EVERY_NS, "nobody looked yet");
        let after = clock.unix_ns_at(clock.now_ns() + FOLLOW_EVERY_NS);
        assert!(after - before >= HOUR - FOLLOW_EVERY_NS, "{after} after {before}");
    }

    #[test]
    fn clones_of_a_manual_clock_agree() {
        let clock = ManualClock::new();
        let other = clock.clone();
        clock.advance_ns(5);
        assert_eq!(other.now_ns(), 5);
        let later = clock.begun();
        other.advance_ns(3);
        assert_eq!((clock.now_ns(), later.now_ns()), (8, 3), "a process that began later");
        assert_eq!(clock.unix_ns(), later.unix_ns(), "of one host");
        clock.set_wall(Wall { ahead_ns: -1_000, drift_ppm: 0, jitter_ns: 0 });
        assert_eq!(later.unix_ns() + 1_000, 1_700_000_000_000_000_008, "set back");
    }
}
