//! Whether the shards make turns, and whether one that makes none hangs: by what its thread does meanwhile.
//!
//! | its thread | meaning | counts |
//! |---|---|---|
//! | runs, or would like to | it loops, or other work has its core | the time it ran |
//! | waits for a device (D) | the disk stands still: whoever ends the process waits for it too | nothing |
//! | waits for anything else, or is stopped alone | it hangs | all of it |
//!
//! Time in which the watchdog itself did not look (a stopped process, a suspended guest) counts as one look.

use super::threads::ThreadState;

/// Looks come this often; a little more is no sign of anything.
const LOOK_MS: u64 = 150;

/// Watches the beats of shards.
#[derive(Debug)]
pub(super) struct Watchdog {
    seen: Vec<Seen>,
}

/// What is seen of a shard at a look.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Look {
    /// Moves while it makes turns; `None` while it is not to.
    pub(super) beat: Option<u64>,
    /// Its thread; `None` where the kernel does not say.
    pub(super) thread: Option<ThreadState>,
}

/// A shard's silence, or that there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Silence {
    /// How long it has made no turn, in milliseconds.
    pub(super) silent_ms: u64,
    /// How much of that counts as hanging.
    pub(super) hung_ms: u64,
    /// How long its thread ran meanwhile.
    pub(super) ran_ms: u64,
    /// What its thread did at the last look; `?` where the kernel does not say.
    pub(super) letter: char,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    beat: Option<u64>,
    moved_ms: u64,
    looked_ms: u64,
    hung_ns: u64,
    /// Of its thread: when its beat moved last, and at the last look.
    ran_ns_at_move: u64,
    ran_ns: u64,
}

impl Watchdog {
    pub(super) fn new(shards: usize) -> Self {
        Self { seen: vec![Seen::default(); shards] }
    }

    /// Takes a look at a shard at `now_ms`.
    pub(super) fn look(&mut self, shard: usize, look: Look, now_ms: u64) -> Silence {
        let seen = &mut self.seen[shard];
        let since_ns = now_ms.saturating_sub(seen.looked_ms).min(LOOK_MS) * 1_000_000;
        seen.looked_ms = now_ms;
        let ran_ns = look.thread.map_or(seen.ran_ns, |thread| thread.ran_ns);
        let own_ns = ran_ns.saturating_sub(seen.ran_ns).min(since_ns);
        seen.ran_ns = ran_ns;
        let letter = look.thread.map_or('?', |thread| thread.letter);
        if look.beat.is_none() || look.beat != seen.beat {
            (seen.beat, seen.moved_ms) = (look.beat, now_ms);
            (seen.hung_ns, seen.ran_ns_at_move) = (0, ran_ns);
        } else {
            seen.hung_ns += match letter {
                'R' => own_ns,
                'D' => 0,
                _ => since_ns,
            };
        }
        Silence {
            silent_ms: now_ms.saturating_sub(seen.moved_ms),
            hung_ms: seen.hung_ns / 1_000_000,
            ran_ms: ran_ns.saturating_sub(seen.ran_ns_at_move) / 1_000_000,
            letter,
        }
    }
}

impl Silence {
    /// What its thread does, for people.
    pub(super) fn describe(&self) -> String {
        let does = match self.letter {
            'R' if self.ran_ms < self.silent_ms / 10 => {
                "was not scheduled: other work has its core"
            }
            'R' => "runs",
            'S' => "waits",
            'D' => "waits for a device",
            'T' | 't' => "was stopped",
            'X' | 'Z' => "has ended",
            '?' => return "the kernel does not say what its thread does".to_owned(),
            _ => "does something else",
        };
        format!("its thread {does} (state {}), and ran for {} ms of them", self.letter, self.ran_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks every 100 ms for `looks` times at a shard whose beat stands still and whose thread is in `letter`,
    /// running for `ran_ms` of each 100.
    fn silence(letter: char, ran_ms: u64, looks: u64) -> Silence {
        let mut watchdog = Watchdog::new(1);
        let at = |look: u64| {
            let thread = ThreadState { ran_ns: look * ran_ms * 1_000_000, letter };
            Look { beat: Some(7), thread: Some(thread) }
        };
        (0..=looks).map(|look| watchdog.look(0, at(look), look * 100)).last().expect("one")
    }

    #[test]
    fn a_shard_that_stands_still_is_found_and_no_other() {
        let mut watchdog = Watchdog::new(2);
        for now_ms in (0..2_000).step_by(100) {
            let still = watchdog.look(0, Look { beat: Some(7), thread: None }, now_ms);
            assert_eq!(
                (still.silent_ms, still.hung_ms),
                (now_ms, now_ms),
                "without /proc, all of it"
            );
            let moves = watchdog.look(1, Look { beat: Some(now_ms), thread: None }, now_ms);
            assert_eq!((moves.silent_ms, moves.hung_ms), (0, 0));
        }
    }

    #[test]
    fn what_counts_is_what_its_thread_does() {
        for (letter, ran_ms, hung_ms) in [
            ('S', 0, 2_000),   // waits for a lock, a pipe
            ('t', 0, 2_000),   // a debugger holds it
            ('Z', 0, 2_000),   // it ended
            ('R', 100, 2_000), // it loops
            ('R', 10, 200),    // it loops on a core it shares with nine others
            ('R', 0, 0),       // other work has its core
            ('D', 0, 0),       // its disk is frozen
        ] {
            let found = silence(letter, ran_ms, 20);
            assert_eq!((found.silent_ms, found.hung_ms), (2_000, hung_ms), "{letter} {ran_ms}");
            assert_eq!(found.ran_ms, 20 * ran_ms);
            assert!(
                found.describe().contains(&format!("(state {letter})")),
                "{}",
                found.describe()
            );
        }
        assert!(silence('R', 1, 20).describe().contains("was not scheduled"));
    }

    #[test]
    fn a_process_that_was_held_or_opens_its_log_is_alive() {
        let mut watchdog = Watchdog::new(1);
        let waits = Some(ThreadState { ran_ns: 0, letter: 'S' });
        let mut look =
            |beat, now_ms| watchdog.look(0, Look { beat, thread: waits }, now_ms).hung_ms;
        assert_eq!(look(Some(1), 100), 0);
        assert_eq!(look(Some(1), 60_000), LOOK_MS, "everything stood still");
        for now_ms in (60_100..70_000).step_by(100) {
            assert_eq!(look(None, now_ms), 0, "it opens its log");
        }
        assert_eq!(look(Some(1), 70_000), 0);
        // A watchdog that is late itself finds it too, later.
        let late = (1..=10).map(|looks| look(Some(1), 70_000 + looks * 600)).last();
        assert_eq!(late, Some(10 * LOOK_MS));
    }
}
