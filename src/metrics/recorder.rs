//! A shard's flight recorder: the turn it is in, its newest turns with work, and its newest turns that took
//! too long, in memory that outlives a shard that stands still or dies.
//!
//! The shard alone writes, with plain stores; whoever makes a post-mortem reads when the shard has stopped
//! writing, or is the shard. A reader beside a running shard may see half of a turn, and nothing worse.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::limits::{LONG_TURNS_KEPT, TURNS_KEPT};

/// Points a turn passes between its begin and its end, in this order: what was received is appended, the disk
/// was polled and had something, acknowledgements have left.
pub const MARKS: usize = 3;

/// A turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Its number since the recorder was made, from 1.
    pub number: u64,
    /// Unix time of its begin, in nanoseconds.
    pub unix_ns: u64,
    /// How long after its begin it passed each mark, in nanoseconds; 0 where it did not.
    pub marks_ns: [u64; MARKS],
    /// How long it took, the receiving of the next turn included; 0 while that is not known.
    pub took_ns: u64,
    /// What it did: datagrams, writes, completions. Of the turn that is on its way: 0.
    pub work: u64,
}

/// Words of a turn in a slot.
const WORDS: usize = 4 + MARKS;

/// A turn in memory that two threads see.
#[derive(Debug, Default)]
struct Slot([AtomicU64; WORDS]);

impl Slot {
    fn write(&self, turn: &Turn) {
        let [received, committed, transmitted] = turn.marks_ns;
        let words = [turn.number, turn.unix_ns, received, committed, transmitted, turn.took_ns];
        for (word, value) in self.0.iter().zip(words.into_iter().chain([turn.work])) {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn read(&self) -> Turn {
        let [number, unix_ns, received, committed, transmitted, took_ns, work] =
            std::array::from_fn(|word| self.0[word].load(Ordering::Relaxed));
        Turn { number, unix_ns, marks_ns: [received, committed, transmitted], took_ns, work }
    }
}

/// The newest turns of a kind.
#[derive(Debug)]
struct Ring<const KEPT: usize> {
    slots: [Slot; KEPT],
    count: AtomicU64,
}

impl<const KEPT: usize> Ring<KEPT> {
    fn new() -> Self {
        Self { slots: std::array::from_fn(|_| Slot::default()), count: AtomicU64::new(0) }
    }

    fn place(count: u64) -> usize {
        usize::try_from(count % KEPT as u64).expect("below the number of slots")
    }

    fn push(&self, turn: &Turn) {
        let count = self.count.load(Ordering::Relaxed);
        self.slots[Self::place(count)].write(turn);
        self.count.store(count + 1, Ordering::Relaxed);
    }

    /// The newest first.
    fn newest(&self) -> Vec<Turn> {
        let count = self.count.load(Ordering::Relaxed);
        let kept = count.min(KEPT as u64);
        (1..=kept).map(|back| self.slots[Self::place(count - back)].read()).collect()
    }
}

/// What a shard records of its turns, and what housekeeping has it record.
#[derive(Debug)]
pub struct Recorder {
    turn_ns_max: AtomicU64,
    records_stages: AtomicBool,
    current: Slot,
    turns: Ring<TURNS_KEPT>,
    stalls: Ring<LONG_TURNS_KEPT>,
}

impl Recorder {
    /// An empty one. A turn longer than `turn_ns_max` is a stall.
    #[must_use]
    pub fn new(turn_ns_max: u64, records_stages: bool) -> Self {
        Self {
            turn_ns_max: AtomicU64::new(turn_ns_max),
            records_stages: AtomicBool::new(records_stages),
            current: Slot::default(),
            turns: Ring::new(),
            stalls: Ring::new(),
        }
    }

    /// Changes what is recorded, from the next turn on.
    pub fn set(&self, turn_ns_max: u64, records_stages: bool) {
        // Each is for itself, and orders nothing else.
        self.turn_ns_max.store(turn_ns_max, Ordering::Relaxed);
        self.records_stages.store(records_stages, Ordering::Relaxed);
    }

    /// A turn longer than this, in nanoseconds, is a stall.
    #[inline]
    #[must_use]
    pub fn turn_ns_max(&self) -> u64 {
        self.turn_ns_max.load(Ordering::Relaxed)
    }

    /// Whether the latency of stages is recorded.
    #[inline]
    #[must_use]
    pub fn records_stages(&self) -> bool {
        self.records_stages.load(Ordering::Relaxed)
    }

    /// A turn begins.
    #[inline]
    pub fn begin(&self, number: u64, unix_ns: u64) {
        for (word, value) in self.current.0.iter().zip([number, unix_ns, 0, 0, 0]) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// The turn passed a mark, `ns` after its begin.
    #[inline]
    pub fn mark(&self, mark: usize, ns: u64) {
        self.current.0[2 + mark].store(ns, Ordering::Relaxed);
    }

    /// The turn that ended did some work.
    pub fn worked(&self, turn: &Turn) {
        self.turns.push(turn);
    }

    /// The turn that ended took too long.
    pub fn stalled(&self, turn: &Turn) {
        self.stalls.push(turn);
    }

    /// Turns begun; moves while the shard makes turns.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.current.0[0].load(Ordering::Relaxed)
    }

    /// The turn that is on its way.
    #[must_use]
    pub fn current(&self) -> Turn {
        self.current.read()
    }

    /// The newest turns with work, the newest first.
    #[must_use]
    pub fn turns(&self) -> Vec<Turn> {
        self.turns.newest()
    }

    /// The newest turns that took too long, the newest first.
    #[must_use]
    pub fn stalls(&self) -> Vec<Turn> {
        self.stalls.newest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_turns_are_kept_and_read_as_written() {
        let recorder = Recorder::new(1_000, true);
        let turn = |number| Turn {
            number,
            unix_ns: 7,
            marks_ns: [10, 0, 30],
            took_ns: 40 + number,
            work: 3,
        };
        (1..=100).for_each(|number| recorder.worked(&turn(number)));
        let kept = recorder.turns();
        assert_eq!(kept.len(), TURNS_KEPT);
        assert_eq!((kept[0], kept[31]), (turn(100), turn(69)));
        assert!(recorder.stalls().is_empty());
        recorder.stalled(&turn(5));
        assert_eq!(recorder.stalls(), [turn(5)]);
        (6..=100).for_each(|number| recorder.stalled(&turn(number)));
        let newest = (0..LONG_TURNS_KEPT as u64).map(|back| turn(100 - back));
        assert!(recorder.stalls().into_iter().eq(newest), "the others are forgotten");
    }

    #[test]
    fn the_current_turn_shows_how_far_it_came() {
        let recorder = Recorder::new(1_000, true);
        recorder.begin(1, 50);
        recorder.mark(2, 9);
        recorder.begin(2, 60);
        recorder.mark(0, 8);
        let wanted = Turn { number: 2, unix_ns: 60, marks_ns: [8, 0, 0], ..Turn::default() };
        assert_eq!((recorder.current(), recorder.begun()), (wanted, 2));
        recorder.set(5, false);
        assert_eq!((recorder.turn_ns_max(), recorder.records_stages()), (5, false));
    }
}
