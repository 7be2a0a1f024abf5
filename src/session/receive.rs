//! The receiving half of a publisher's session: what to do with a PUBLISH frame, what is missing.
//!
//! Frames that arrive behind a gap are held in a pool that all sessions share; when it is full they are
//! dropped and the client sends them again. Nothing here allocates after the pool is made.

use crate::fired::Timer;
use crate::limits::{DATAGRAM_BYTES_MAX, HELD_A_SESSION, NAK_RANGES_MAX, WINDOW_MESSAGES_MAX};
use crate::wire::publish::SeqRange;

/// How long a gap may stand before it is reported, unless three later frames report it sooner.
const NAK_DELAY_NS: u64 = 50_000;

/// Later frames after which a gap is taken for a loss.
const NAK_AFTER_FRAMES: u32 = 3;

/// How long before the same gap is reported again.
const NAK_REPEAT_NS: u64 = 200_000;

/// What a PUBLISH frame is to a receiver that has accepted up to some number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// All of it was accepted before: acknowledge again.
    Duplicate,
    /// Accept all but the first `skip` messages, which were accepted before.
    Accept {
        /// Messages to pass over.
        skip: u64,
    },
    /// Behind a gap: hold it.
    Hold,
    /// So far behind a gap that it is not worth holding.
    TooFar,
}

/// State of one publisher's receiving half.
#[derive(Clone, Debug)]
pub(crate) struct Receiver {
    /// All producer numbers up to this one are accepted.
    accepted_to: u64,
    /// The highest number that is known to have been sent.
    sent_to: u64,
    /// Held frames, ascending by first number.
    held: Vec<HeldFrame>,
    gap: Gap,
}

#[derive(Clone, Copy, Debug)]
struct HeldFrame {
    first_seq: u64,
    last_seq: u64,
    slot: u16,
}

/// What is known of the gap behind `accepted_to`.
#[derive(Clone, Copy, Debug, Default)]
struct Gap {
    /// When it was first seen; 0 when there is none.
    since_ns: u64,
    /// Frames seen behind it.
    later_frames: u32,
    /// When it was last reported; 0 when never.
    reported_ns: u64,
}

impl Receiver {
    /// An idle receiver; allocates what it will ever need.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self {
            accepted_to: 0,
            sent_to: 0,
            held: Vec::with_capacity(HELD_A_SESSION),
            gap: Gap::default(),
        }
    }

    /// Starts over behind `accepted_to`, giving held frames back to the pool.
    pub(crate) fn reset(&mut self, accepted_to: u64, pool: &mut HoldPool) {
        for held in self.held.drain(..) {
            pool.free.push(held.slot);
        }
        self.accepted_to = accepted_to;
        self.sent_to = accepted_to;
        self.gap = Gap::default();
    }

    /// All producer numbers up to this one are accepted.
    #[must_use]
    pub(crate) fn accepted_to(&self) -> u64 {
        self.accepted_to
    }

    /// What to do with a frame of `count` messages from `first_seq` on.
    #[must_use]
    #[inline]
    pub(crate) fn classify(&self, first_seq: u64, count: u64) -> Verdict {
        assert!(first_seq > 0 && count > 0, "the wire module lets only such frames through");
        let last_seq = last_of(first_seq, count);
        let next = next_after(self.accepted_to);
        if last_seq <= self.accepted_to {
            return Verdict::Duplicate;
        }
        if first_seq <= next {
            return Verdict::Accept { skip: next.saturating_sub(first_seq) };
        }
        if last_seq.saturating_sub(self.accepted_to) > WINDOW_MESSAGES_MAX as u64 {
            return Verdict::TooFar;
        }
        Verdict::Hold
    }

    /// Counts `count` more messages as accepted.
    #[inline]
    pub(crate) fn accept(&mut self, count: u64) {
        self.accepted_to = self.accepted_to.saturating_add(count);
        self.sent_to = self.sent_to.max(self.accepted_to);
        self.gap = Gap::default();
    }

    /// Holds a frame behind a gap; `false` when there is no room and the client has to send it again.
    /// `body` is the frame's body as it came.
    pub(crate) fn hold(
        &mut self,
        pool: &mut HoldPool,
        first_seq: u64,
        count: u64,
        body: &[u8],
        now_ns: u64,
    ) -> bool {
        let last_seq = last_of(first_seq, count);
        self.saw_gap(last_seq, now_ns);
        let at = self.held.partition_point(|held| held.first_seq < first_seq);
        if self.held.get(at).is_some_and(|held| held.first_seq == first_seq) {
            return true;
        }
        if self.held.len() == HELD_A_SESSION {
            return false;
        }
        let Some(slot) = pool.store(body) else { return false };
        self.held.insert(at, HeldFrame { first_seq, last_seq, slot });
        true
    }

    /// Whether a held frame waits for nothing any more.
    #[must_use]
    #[inline]
    pub(crate) fn has_ready(&self) -> bool {
        self.held.first().is_some_and(|first| first.first_seq <= next_after(self.accepted_to))
    }

    /// How many frames it holds.
    #[must_use]
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// The slot of a held frame that can be looked at again now that the gap before it is filled, taken
    /// out of the list. The caller reads it from the pool and then gives it back with `HoldPool::release`.
    pub(crate) fn take_ready(&mut self) -> Option<u16> {
        self.has_ready().then(|| self.held.remove(0).slot)
    }

    /// Notes that numbers up to `sent_to` were sent (a PROBE says so), so that the end of a burst is
    /// missed too.
    pub(crate) fn saw_sent_to(&mut self, sent_to: u64, now_ns: u64) {
        let window_end = self.accepted_to.saturating_add(WINDOW_MESSAGES_MAX as u64);
        if sent_to > self.accepted_to {
            self.saw_gap(sent_to.min(window_end), now_ns);
            self.gap.later_frames = NAK_AFTER_FRAMES;
        }
    }

    fn saw_gap(&mut self, sent_to: u64, now_ns: u64) {
        self.sent_to = self.sent_to.max(sent_to);
        self.gap.later_frames = self.gap.later_frames.saturating_add(1);
        if self.gap.since_ns == 0 {
            self.gap.since_ns = now_ns.max(1);
        }
    }

    /// Whether numbers are missing after some were accepted; if so, the gap counts from now.
    pub(crate) fn still_missing(&mut self, now_ns: u64) -> bool {
        let missing = self.sent_to > self.accepted_to;
        if missing && self.gap.since_ns == 0 {
            self.gap.since_ns = now_ns.max(1);
        }
        missing
    }

    /// Whether numbers are missing.
    #[must_use]
    pub(crate) fn has_gap(&self) -> bool {
        self.gap.since_ns != 0
    }

    /// Whether the gap is to be reported now; if so, counts it as reported.
    pub(crate) fn nak_due(&mut self, now_ns: u64) -> bool {
        let gap = &mut self.gap;
        if gap.since_ns == 0 {
            return false;
        }
        let due = if gap.reported_ns == 0 {
            gap.later_frames >= NAK_AFTER_FRAMES
                || now_ns.saturating_sub(gap.since_ns) >= NAK_DELAY_NS
        } else {
            now_ns.saturating_sub(gap.reported_ns) >= NAK_REPEAT_NS
        };
        if due {
            if gap.reported_ns > 0 {
                Timer::NakAgain.fired();
            } else if gap.later_frames < NAK_AFTER_FRAMES {
                Timer::NakLate.fired();
            }
            gap.reported_ns = now_ns.max(1);
        }
        due
    }

    /// Writes the missing ranges, ascending, and returns how many there are. A held frame that begins
    /// with what comes next is missing too: it was not taken because the log was busy, and is looked at
    /// again only when a frame before it is accepted.
    pub(crate) fn missing(&self, ranges: &mut [SeqRange; NAK_RANGES_MAX]) -> usize {
        let mut count = 0;
        let mut note = |first: u64, last: u64| {
            if let Some(range) = ranges.get_mut(count).filter(|_| first <= last) {
                *range = SeqRange { first: first.into(), last: last.into() };
                count = count.saturating_add(1);
            }
        };
        let mut next = next_after(self.accepted_to);
        for held in self.held.iter().filter(|held| held.first_seq > next_after(self.accepted_to)) {
            note(next, held.first_seq.saturating_sub(1));
            next = next.max(next_after(held.last_seq));
        }
        note(next, self.sent_to);
        count
    }

    /// The selective acknowledgement: bit `i` says that `accepted_to + 2 + i` has arrived.
    #[must_use]
    pub(crate) fn sack(&self) -> [u64; 4] {
        let mut bits = [0; 4];
        let base = self.accepted_to.saturating_add(2);
        for held in &self.held {
            for seq in held.first_seq.max(base)..=held.last_seq.min(base.saturating_add(255)) {
                let bit = seq.saturating_sub(base);
                bits[usize::try_from(bit / 64).expect("below 4")] |= 1 << (bit % 64);
            }
        }
        bits
    }
}

impl Default for Receiver {
    fn default() -> Self {
        Self::new()
    }
}

/// The last of `count` numbers from `first` on.
fn last_of(first: u64, count: u64) -> u64 {
    first.saturating_add(count.saturating_sub(1))
}

fn next_after(seq: u64) -> u64 {
    seq.saturating_add(1)
}

/// Buffers for held frames, shared by the sessions of a shard.
#[derive(Debug)]
pub(crate) struct HoldPool {
    bytes: Vec<[u8; DATAGRAM_BYTES_MAX]>,
    len: Vec<u16>,
    free: Vec<u16>,
}

impl HoldPool {
    /// A pool of `slots` buffers.
    #[must_use]
    pub(crate) fn new(slots: u16) -> Self {
        Self {
            bytes: vec![[0; DATAGRAM_BYTES_MAX]; usize::from(slots)],
            len: vec![0; usize::from(slots)],
            free: (0..slots).collect(),
        }
    }

    fn store(&mut self, body: &[u8]) -> Option<u16> {
        let len = u16::try_from(body.len()).ok()?;
        if body.len() > DATAGRAM_BYTES_MAX {
            return None;
        }
        let slot = self.free.pop()?;
        self.bytes[usize::from(slot)][..body.len()].copy_from_slice(body);
        self.len[usize::from(slot)] = len;
        Some(slot)
    }

    /// The frame body in a slot.
    #[must_use]
    pub(crate) fn body(&self, slot: u16) -> &[u8] {
        &self.bytes[usize::from(slot)][..usize::from(self.len[usize::from(slot)])]
    }

    /// Gives a slot back.
    pub(crate) fn release(&mut self, slot: u16) {
        debug_assert!(!self.free.contains(&slot), "slot {slot} was released before");
        self.free.push(slot);
    }

    /// Slots in use.
    #[must_use]
    pub(crate) fn in_use(&self) -> usize {
        self.bytes.len().saturating_sub(self.free.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits::HELD_FRAMES_MAX;

    #[test]
    fn classify_is_exact_at_its_borders() {
        let mut receiver = Receiver::new();
        receiver.accept(10);
        assert_eq!(receiver.classify(1, 10), Verdict::Duplicate);
        assert_eq!(receiver.classify(11, 1), Verdict::Accept { skip: 0 });
        assert_eq!(receiver.classify(9, 3), Verdict::Accept { skip: 2 });
        assert_eq!(receiver.classify(12, 1), Verdict::Hold);
        let window = WINDOW_MESSAGES_MAX as u64;
        assert_eq!(receiver.classify(10 + window, 1), Verdict::Hold);
        assert_eq!(receiver.classify(11 + window, 1), Verdict::TooFar);
    }

    #[test]
    fn what_is_missing_lies_between_what_is_held() {
        let (mut receiver, mut pool) = (Receiver::new(), HoldPool::new(8));
        assert!(receiver.hold(&mut pool, 3, 2, b"", 1));
        assert!(receiver.hold(&mut pool, 7, 1, b"", 1));
        receiver.saw_sent_to(9, 1);
        let mut ranges = [SeqRange::default(); NAK_RANGES_MAX];
        let count = receiver.missing(&mut ranges);
        let ranges: Vec<_> =
            ranges[..count].iter().map(|r| (r.first.get(), r.last.get())).collect();
        assert_eq!(ranges, [(1, 2), (5, 6), (8, 9)]);
        assert_eq!(receiver.sack()[0], 0b10_0110, "numbers 3, 4 and 7 on the base of 2");
    }

    #[test]
    fn each_session_holds_so_many_frames_and_all_of_them_together_so_many() {
        let mut pool = HoldPool::new(HELD_FRAMES_MAX);
        // Each behind a gap of its own.
        let mut hold = |receiver: &mut Receiver, frame: u64| {
            receiver.hold(&mut pool, 2 * frame + 2, 1, b"", 1)
        };
        let sessions = usize::from(HELD_FRAMES_MAX) / HELD_A_SESSION;
        let mut receivers: Vec<_> = (0..sessions).map(|_| Receiver::new()).collect();
        for receiver in &mut receivers {
            let held = (0..1_000).filter(|&frame| hold(receiver, frame)).count();
            assert_eq!((held, receiver.held()), (HELD_A_SESSION, HELD_A_SESSION));
            let mut ranges = [SeqRange::default(); NAK_RANGES_MAX];
            assert_eq!(receiver.missing(&mut ranges), NAK_RANGES_MAX, "what was refused, too");
        }
        let mut one_more = Receiver::new();
        assert!(!hold(&mut one_more, 0) && one_more.has_gap(), "it is asked for again");
        receivers[0].reset(0, &mut pool);
        assert!(one_more.hold(&mut pool, 2, 1, b"", 1), "who leaves makes room");
    }

    #[test]
    fn a_held_frame_that_the_log_had_no_room_for_is_asked_for_again() {
        let (mut receiver, mut pool) = (Receiver::new(), HoldPool::new(8));
        assert!(receiver.hold(&mut pool, 8, 2, b"", 1));
        assert!(receiver.hold(&mut pool, 10, 3, b"", 1));
        receiver.accept(8);
        receiver.saw_sent_to(12, 1);
        let mut ranges = [SeqRange::default(); NAK_RANGES_MAX];
        assert_eq!(receiver.missing(&mut ranges), 1);
        assert_eq!((ranges[0].first.get(), ranges[0].last.get()), (9, 9));
    }

    #[test]
    fn a_gap_is_reported_after_a_while_or_after_three_frames() {
        let (mut receiver, mut pool) = (Receiver::new(), HoldPool::new(8));
        receiver.hold(&mut pool, 3, 1, b"", 1_000);
        assert!(!receiver.nak_due(1_000));
        assert!(receiver.nak_due(51_000), "after 50 us");
        assert!(!receiver.nak_due(52_000), "not again at once");
        assert!(receiver.nak_due(251_000), "again after 200 us");
        receiver.reset(0, &mut pool);
        for first in [3, 4, 5] {
            receiver.hold(&mut pool, first, 1, b"", 1_000);
        }
        assert!(receiver.nak_due(1_000), "three later frames are enough");
    }

    proptest! {
        /// Whatever order and repetition frames come in, each number is accepted once, in order, and
        /// no buffer leaks.
        #[test]
        fn frames_in_any_order_are_accepted_once(order in proptest::collection::vec(0usize..20, 0..200)) {
            let (mut receiver, mut pool) = (Receiver::new(), HoldPool::new(16));
            let mut accepted = Vec::new();
            let mut take = |receiver: &mut Receiver, first: u64| match receiver.classify(first, 3) {
                Verdict::Accept { skip } => {
                    accepted.extend(first + skip..first + 3);
                    receiver.accept(3 - skip);
                    true
                }
                Verdict::Hold => false,
                Verdict::Duplicate | Verdict::TooFar => true,
            };
            // Frames overlap: frame n holds 3 numbers from 2n + 1 on.
            for frame in order.into_iter().chain(0..20) {
                let first = 2 * frame as u64 + 1;
                if !take(&mut receiver, first) {
                    receiver.hold(&mut pool, first, 3, &first.to_le_bytes(), 1);
                }
                while let Some(slot) = receiver.take_ready() {
                    let first = u64::from_le_bytes(pool.body(slot).try_into().unwrap());
                    pool.release(slot);
                    prop_assert!(take(&mut receiver, first));
                }
            }
            prop_assert_eq!(accepted, (1..=41).collect::<Vec<u64>>());
            prop_assert_eq!(pool.in_use(), 0);
        }
    }
}
