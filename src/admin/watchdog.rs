//! Whether the shards make turns.

/// A look that comes this much later than the one before says that the whole process stood still, not a shard;
/// with a low limit, already half of that.
const HELD_MS: u64 = 500;

/// Looks come this often; a little more is no sign of anything.
const LOOK_MS: u64 = 150;

/// Watches the beats of shards. Whoever watches may be held as a shard is (a stopped process, a suspended
/// guest): only time in which it looks itself counts.
#[derive(Debug)]
pub(super) struct Watchdog {
    limit_ms: u64,
    seen: Vec<Seen>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    beat: Option<u64>,
    moved_ms: u64,
    looked_ms: u64,
}

impl Watchdog {
    /// For so many shards; a limit of 0 never finds one dead.
    pub(super) fn new(shards: usize, limit_ms: u64) -> Self {
        Self { limit_ms, seen: vec![Seen::default(); shards] }
    }

    /// The limit, in milliseconds.
    pub(super) fn limit_ms(&self) -> u64 {
        self.limit_ms
    }

    /// Changes the limit; what a shard was silent until now counts.
    pub(super) fn set_limit_ms(&mut self, limit_ms: u64) {
        self.limit_ms = limit_ms;
    }

    /// Takes a look at a shard at `now_ms`; `None` while it is not to make turns.
    pub(super) fn is_alive(&mut self, shard: usize, beat: Option<u64>, now_ms: u64) -> bool {
        let held_ms = (self.limit_ms / 2).clamp(LOOK_MS, HELD_MS);
        let seen = &mut self.seen[shard];
        let held = now_ms.saturating_sub(seen.looked_ms) > held_ms;
        seen.looked_ms = now_ms;
        if beat.is_none() || beat != seen.beat || held {
            (seen.beat, seen.moved_ms) = (beat, now_ms);
        }
        self.limit_ms == 0 || self.silent_ms(shard, now_ms) < self.limit_ms
    }

    /// How long its beat has not moved.
    pub(super) fn silent_ms(&self, shard: usize, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.seen[shard].moved_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_that_stands_still_is_found_and_no_other() {
        let mut watchdog = Watchdog::new(2, 1_000);
        for now_ms in (0..2_000).step_by(100) {
            assert_eq!(watchdog.is_alive(0, Some(7), now_ms), now_ms < 1_000, "{now_ms}");
            assert!(watchdog.is_alive(1, Some(now_ms), now_ms));
        }
    }

    #[test]
    fn a_process_that_was_held_or_opens_its_log_is_alive() {
        let mut watchdog = Watchdog::new(1, 1_000);
        assert!(watchdog.is_alive(0, Some(1), 100));
        assert!(watchdog.is_alive(0, Some(1), 60_000), "everything stood still");
        for now_ms in (60_100..70_000).step_by(100) {
            assert!(watchdog.is_alive(0, None, now_ms), "it opens its log");
        }
        assert!(watchdog.is_alive(0, Some(1), 70_000));
    }

    #[test]
    fn a_low_limit_does_not_take_a_held_process_for_a_dead_shard() {
        let mut watchdog = Watchdog::new(1, 300);
        assert!(watchdog.is_alive(0, Some(1), 100));
        assert!(watchdog.is_alive(0, Some(1), 500), "nobody looked for 400 ms");
        assert!(watchdog.is_alive(0, Some(1), 600));
        watchdog.set_limit_ms(100);
        assert!(!watchdog.is_alive(0, Some(1), 700));
    }

    #[test]
    fn no_limit_is_no_watchdog() {
        let mut watchdog = Watchdog::new(1, 0);
        assert!((0..100).all(|look| watchdog.is_alive(0, Some(1), look * 100)));
    }
}
