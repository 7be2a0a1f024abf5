//! How far behind a consumer is, in time, and how long a log will do: from what was seen once a second.

use std::collections::VecDeque;

use crate::limits::LAG_SAMPLES_MAX;

/// What is written now is measured over so long.
const RATE_OVER_NS: u64 = 60_000_000_000;

/// A number at a moment.
#[derive(Clone, Copy, Debug)]
struct Sample {
    unix_ns: u64,
    number: u64,
}

/// A number that only grows, at moments.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    /// The oldest first.
    samples: VecDeque<Sample>,
}

impl History {
    /// At `unix_ns` it was `number`.
    pub(super) fn note(&mut self, unix_ns: u64, number: u64) {
        // While it stands still only the first moment counts.
        if self.samples.back().is_some_and(|last| last.number == number) {
            return;
        }
        if self.samples.len() == LAG_SAMPLES_MAX {
            let gap = |at: usize| {
                let (before, after) = (self.samples[at - 1].unix_ns, self.samples[at + 1].unix_ns);
                let age_ns = unix_ns.saturating_sub(self.samples[at].unix_ns).max(1);
                u128::from(after.saturating_sub(before)) * 1_000_000 / u128::from(age_ns)
            };
            if let Some(at) = (1..LAG_SAMPLES_MAX - 1).min_by_key(|at| gap(*at)) {
                self.samples.remove(at);
            }
        }
        self.samples.push_back(Sample { unix_ns, number });
    }

    /// How long ago, as seen at `now_ns`, it was first seen above `number`; 0 when it never was.
    pub(super) fn passed_ns(&self, number: u64, now_ns: u64) -> u64 {
        let passed = self.samples.iter().find(|sample| sample.number > number);
        passed.map_or(0, |sample| now_ns.saturating_sub(sample.unix_ns))
    }
}

/// How much is written a second, over the last minute.
#[derive(Clone, Debug, Default)]
pub(super) struct Rate {
    samples: VecDeque<Sample>,
}

impl Rate {
    /// At `unix_ns`, `bytes` were written in all.
    pub(super) fn note(&mut self, unix_ns: u64, bytes: u64) {
        // A shard that has opened its log again counts anew.
        if self.samples.back().is_some_and(|before| before.number > bytes) {
            self.samples.clear();
        }
        let is_old = |sample: &Sample| sample.unix_ns.saturating_add(RATE_OVER_NS) < unix_ns;
        while self.samples.front().is_some_and(is_old) {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample { unix_ns, number: bytes });
    }

    /// How many seconds `room_bytes` will do; `None` while nothing is written and there is room. It is a whole minute
    /// that counts, also where the first is not over: what comes at once after a start, when everybody sends what
    /// waited, is no rate.
    #[allow(clippy::cast_precision_loss, reason = "seconds for people")]
    pub(super) fn seconds_for(&self, room_bytes: u64) -> Option<f64> {
        if room_bytes == 0 {
            return Some(0.0);
        }
        let (first, last) = (self.samples.front()?, self.samples.back()?);
        let bytes = last.number.saturating_sub(first.number);
        (bytes > 0).then(|| room_bytes as f64 * (RATE_OVER_NS as f64 / 1e9) / bytes as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_position_is_as_old_as_what_has_passed_it() {
        let mut history = History::default();
        assert_eq!(history.passed_ns(5, SECOND), 0);
        // A hundred a second for an hour.
        (0..3_600).for_each(|second| history.note(second * SECOND, second * 100));
        let now = 3_600 * SECOND;
        assert_eq!(history.passed_ns(359_900, now), 0, "it is at the end");
        let behind = |seconds: u64| history.passed_ns((3_599 - seconds) * 100, now) / SECOND;
        assert!((9..=11).contains(&behind(10)), "{}", behind(10));
        // The older, the coarser.
        assert!((850..=1_001).contains(&behind(1_000)), "{}", behind(1_000));
        assert!((2_500..=3_001).contains(&behind(3_000)), "{}", behind(3_000));
        assert!(history.samples.len() <= LAG_SAMPLES_MAX);
        // Nothing new for an hour: what is behind gets older.
        history.note(2 * now, 359_900);
        assert!(history.passed_ns(359_899, 2 * now) >= 3_600 * SECOND);
    }

    #[test]
    fn room_is_told_in_seconds_of_the_last_minute() {
        let mut rate = Rate::default();
        assert_eq!(rate.seconds_for(1), None);
        // A burst long ago, then 100 bytes a second.
        rate.note(0, 0);
        rate.note(SECOND, 1 << 40);
        (10..200).for_each(|second| rate.note(second * SECOND, (1 << 40) + second * 100));
        let left = rate.seconds_for(6_000).expect("something is written");
        assert!((left - 60.0).abs() < 0.1, "{left}");
        assert_eq!(rate.seconds_for(0), Some(0.0));
        (200..300).for_each(|second| rate.note(second * SECOND, (1 << 40) + 20_000));
        assert_eq!(rate.seconds_for(6_000), None, "nothing is written any more");
        assert_eq!(rate.seconds_for(0), Some(0.0), "a full log is full though nothing is written");
    }

    #[test]
    fn what_comes_at_once_after_a_start_is_no_rate() {
        let mut rate = Rate::default();
        // 100 MiB in the first two seconds, then nothing: 10 GiB do for more than an hour and a half.
        [0, 50 << 20, 100 << 20]
            .iter()
            .zip(0..)
            .for_each(|(bytes, s)| rate.note(s * SECOND, *bytes));
        let left = rate.seconds_for(10 << 30).expect("something was written");
        assert!((6_000.0..6_300.0).contains(&left), "{left}");
        // Where it goes on like that, it is told in time: a log that is full in 80 s says so after 10.
        let mut rate = Rate::default();
        (0..10).for_each(|second| rate.note(second * SECOND, second << 20));
        let left = rate.seconds_for(70 << 20).expect("something is written");
        assert!(left < 600.0, "{left}");
        // A shard that has opened its log again counts from 0.
        rate.note(10 * SECOND, 0);
        rate.note(11 * SECOND, 1 << 20);
        assert_eq!(rate.seconds_for(70 << 20), Some(4_200.0));
    }
}
