//! Which datagrams of a session have come: each counts once, however often the network brings it.

/// Numbers behind the highest that are told apart; what is older is taken for one that has come.
pub(crate) const REPLAY_WINDOW: u64 = 1024;

const WORD_BITS: u64 = u64::BITS as u64;
/// Twice the window: what moves in clears whole words, and none of them is within it.
const WORDS: usize = 2 * (REPLAY_WINDOW / WORD_BITS) as usize;
const _: () = assert!(WORDS.is_power_of_two());

/// The numbers that have come.
#[derive(Clone, Debug)]
pub(crate) struct ReplayWindow {
    /// The highest; 0 before any.
    highest: u64,
    /// A bit for each, by its number.
    seen: [u64; WORDS],
}

impl ReplayWindow {
    pub(crate) fn new() -> Self {
        Self { highest: 0, seen: [0; WORDS] }
    }

    /// Nothing has come.
    pub(crate) fn reset(&mut self) {
        *self = Self::new();
    }

    /// Whether a number is to be taken in.
    #[inline]
    pub(crate) fn is_new(&self, packet_no: u64) -> bool {
        if packet_no > self.highest {
            return true;
        }
        let bit = 1 << (packet_no % WORD_BITS);
        self.highest.saturating_sub(packet_no) < REPLAY_WINDOW
            && self.seen[Self::place(packet_no / WORD_BITS)] & bit == 0
    }

    /// Takes a datagram's number, which is not 0, in; `false` when it has come before, or is too old to tell.
    #[inline]
    pub(crate) fn accept(&mut self, packet_no: u64) -> bool {
        if packet_no > self.highest {
            let (last, word) = (self.highest / WORD_BITS, packet_no / WORD_BITS);
            for ahead in 1..=word.saturating_sub(last).min(WORDS as u64) {
                self.seen[Self::place(last.saturating_add(ahead))] = 0;
            }
            self.highest = packet_no;
        } else if self.highest.saturating_sub(packet_no) >= REPLAY_WINDOW {
            return false;
        }
        let word = &mut self.seen[Self::place(packet_no / WORD_BITS)];
        let bit = 1 << (packet_no % WORD_BITS);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    #[inline]
    fn place(word: u64) -> usize {
        const LAST: u64 = WORDS as u64 - 1;
        usize::try_from(word & LAST).expect("few words")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::random::Random;

    #[test]
    fn each_number_counts_once_in_whatever_order_it_comes() {
        for seed in 0..50 {
            let mut random = Random::new(seed);
            let (mut window, mut came) = (ReplayWindow::new(), BTreeSet::new());
            let mut highest = 0_u64;
            for _ in 0..5_000 {
                // Mostly near, at times far ahead.
                let ahead = if random.one_of_thousand(20) { 5_000 } else { 40 };
                let number = (highest + random.below(ahead)).saturating_sub(random.below(1_500));
                let number = number.max(1);
                let is_old = highest.saturating_sub(number) >= REPLAY_WINDOW;
                let expected = !is_old && came.insert(number);
                assert_eq!(window.accept(number), expected, "seed {seed}: {number} of {highest}");
                highest = highest.max(number);
            }
        }
    }

    #[test]
    fn the_edges_of_the_window_are_where_they_are_said_to_be() {
        let mut window = ReplayWindow::new();
        assert!(window.accept(1) && !window.accept(1));
        assert!(window.accept(REPLAY_WINDOW), "1 is the oldest that is told apart");
        assert!(!window.accept(1) && window.accept(2));
        assert!(window.accept(REPLAY_WINDOW + 2));
        assert!(!window.accept(2), "it came");
        assert!(window.accept(3), "and this one has not");
        assert!(window.accept(u64::MAX >> 16) && !window.accept(REPLAY_WINDOW + 3));
        window.reset();
        assert!(window.accept(1));
    }
}
