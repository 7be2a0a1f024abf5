//! The keys of a session: which generation seals, which open, and when the next one is due.

use super::generation::{Chain, Generation};
use super::noise::Secrets;

/// When a direction goes on to its next generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rotation {
    /// After so many datagrams.
    pub datagrams: u64,
    /// No more than so many are sealed by one generation.
    pub datagrams_max: u64,
    /// After so long.
    pub after_ns: u64,
    /// Not before; for as long the generation before is still opened with.
    pub least_ns: u64,
}

impl Rotation {
    /// As the appliance has it: RFC 9001, B.1 lets 2^23 datagrams be sealed by one key.
    pub(crate) const DEFAULT: Self = Self {
        datagrams: 1 << 22,
        datagrams_max: 1 << 23,
        after_ns: 3_600_000_000_000,
        least_ns: 2_000_000_000,
    };
}

/// A generation has sealed so many datagrams before the next one follows: where all of them are lost, the other end does
/// not know of it, and understands nothing more.
const SEALED_LEAST: u64 = 16;

/// Failed openings after which a session is heard no more: long before anybody could have found a tag by chance.
const FORGERIES_MAX: u64 = 1 << 40;

/// Which way datagrams go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From this end.
    Sent,
    /// To this end.
    Received,
}

/// What is to be done for a session's keys where there is time for it.
#[derive(Debug)]
pub(crate) enum Upkeep {
    /// The next generation is to be made.
    Make(Direction, Chain),
    /// One that is used no more is to be dropped.
    Drop(Box<Generation>),
}

/// One way of a session.
#[derive(Debug)]
struct Way {
    current: Box<Generation>,
    next: Option<Box<Generation>>,
    /// The next one was asked for.
    is_asked: bool,
    since_ns: u64,
    /// Still opened with where it is young; for the way out it is only to be dropped.
    before: Option<Box<Generation>>,
    /// Only to be dropped.
    spent: Option<Box<Generation>>,
}

impl Way {
    fn new(secret: &[u8; 32], now_ns: u64) -> Self {
        let current = Generation::of(&Chain::begin(secret));
        let next = Some(Generation::of(current.after()));
        Self { current, next, is_asked: false, since_ns: now_ns, before: None, spent: None }
    }

    /// Goes on to the next generation, where there is one.
    fn advance(&mut self, now_ns: u64) -> bool {
        let Some(next) = self.next.take() else { return false };
        // Two generations ago: where nobody has looked since then, it is dropped here.
        self.spent = self.before.replace(std::mem::replace(&mut self.current, next));
        self.since_ns = now_ns;
        true
    }

    fn age_ns(&self, now_ns: u64) -> u64 {
        now_ns.saturating_sub(self.since_ns)
    }

    /// What is to be done: the one before goes when it `is_old`, and the next is made where it `may_be_due`.
    fn upkeep(&mut self, direction: Direction, is_old: bool, may_be_due: bool) -> Option<Upkeep> {
        let spent = self.spent.take().or_else(|| self.before.take_if(|_| is_old));
        if let Some(spent) = spent {
            return Some(Upkeep::Drop(spent));
        }
        if self.next.is_some() || self.is_asked || !may_be_due {
            return None;
        }
        self.is_asked = true;
        Some(Upkeep::Make(direction, self.current.after().clone()))
    }
}

/// The keys of one end of a session.
#[derive(Debug)]
pub(crate) struct SessionKeys {
    sent: Way,
    received: Way,
    /// Datagrams sealed by the generation that seals.
    sealed: u64,
    forgeries: u64,
    rotation: Rotation,
}

impl SessionKeys {
    /// Those of the end that asked for the session, or of the one that answered.
    pub(crate) fn new(secrets: &Secrets, asks: bool, rotation: Rotation, now_ns: u64) -> Self {
        let (sent, received) = if asks {
            (secrets.of_asking(), secrets.of_answering())
        } else {
            (secrets.of_answering(), secrets.of_asking())
        };
        Self {
            sent: Way::new(sent, now_ns),
            received: Way::new(received, now_ns),
            sealed: 0,
            forgeries: 0,
            rotation,
        }
    }

    /// What the next datagram is sealed with, unless it is spent.
    #[inline]
    pub(crate) fn sealing(&self) -> &Generation {
        &self.sent.current
    }

    /// Whether nothing may be sealed until there is another generation.
    #[inline]
    pub(crate) fn is_spent(&self) -> bool {
        self.sealed >= self.rotation.datagrams_max
    }

    /// A datagram was sealed.
    #[inline]
    pub(crate) fn sealed(&mut self) {
        self.sealed = self.sealed.saturating_add(1);
    }

    /// Opens a datagram where it is; `false` where it is not of this session.
    #[inline]
    pub(crate) fn open(
        &mut self,
        phase: u8,
        packet_no: u64,
        datagram: &mut [u8],
        now_ns: u64,
    ) -> bool {
        if self.forgeries >= FORGERIES_MAX {
            return false;
        }
        let is_open = if phase == self.received.current.phase() {
            self.received.current.open(packet_no, datagram)
        } else {
            self.open_beside(phase, packet_no, datagram, now_ns)
        };
        if !is_open {
            self.forgeries = self.forgeries.saturating_add(1);
        }
        is_open
    }

    /// The same with the generation behind, or the one before.
    #[cold]
    fn open_beside(&mut self, phase: u8, packet_no: u64, bytes: &mut [u8], now_ns: u64) -> bool {
        let way = &mut self.received;
        if let Some(next) = way.next.as_ref().filter(|next| next.phase() == phase) {
            // A generation that is skipped has no keys here yet: the other end waits until it may go on.
            return next.open(packet_no, bytes) && way.advance(now_ns);
        }
        let is_young = way.age_ns(now_ns) < self.rotation.least_ns;
        let before = way.before.as_ref().filter(|before| is_young && before.phase() == phase);
        before.is_some_and(|before| before.open(packet_no, bytes))
    }

    /// Goes on to the next generation where that is due, and says what is to be done elsewhere; to be asked now and
    /// then, until it says nothing.
    pub(crate) fn keep(&mut self, now_ns: u64) -> Option<Upkeep> {
        let Rotation { datagrams, after_ns, least_ns, .. } = self.rotation;
        let age_ns = self.sent.age_ns(now_ns);
        let is_old = age_ns >= after_ns && self.sealed >= SEALED_LEAST;
        let is_used = self.sealed >= datagrams || is_old;
        if is_used && age_ns >= least_ns && self.sent.advance(now_ns) {
            self.sealed = 0;
        }
        let age_ns = self.received.age_ns(now_ns);
        // Not at once: for an end that goes on faster than it may, nothing is made meanwhile.
        let (is_old, may_be_due) = (age_ns >= least_ns, age_ns >= least_ns / 2);
        let upkeep = self.sent.upkeep(Direction::Sent, true, true);
        upkeep.or_else(|| self.received.upkeep(Direction::Received, is_old, may_be_due))
    }

    /// The next generation of a direction was made.
    pub(crate) fn take(
        &mut self,
        direction: Direction,
        made: Box<Generation>,
    ) -> Result<(), Box<Generation>> {
        let way = match direction {
            Direction::Sent => &mut self.sent,
            Direction::Received => &mut self.received,
        };
        if way.next.is_some() || way.current.after().phase != made.phase() {
            return Err(made);
        }
        (way.next, way.is_asked) = (Some(made), false);
        Ok(())
    }

    /// Does what is to be done at once: for those who have the time.
    pub(crate) fn keep_all(&mut self, now_ns: u64) {
        while let Some(upkeep) = self.keep(now_ns) {
            if let Upkeep::Make(direction, chain) = upkeep {
                self.take(direction, Generation::of(&chain)).expect("it was asked for");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROTATION: Rotation =
        Rotation { datagrams: 4, datagrams_max: 8, after_ns: 1_000, least_ns: 10 };

    fn pair() -> (SessionKeys, SessionKeys) {
        let secrets = Secrets::for_tests([1; 32], [2; 32]);
        let end = |asks| SessionKeys::new(&secrets, asks, ROTATION, 0);
        (end(true), end(false))
    }

    fn seal(keys: &mut SessionKeys, packet_no: u64) -> (u8, Vec<u8>) {
        let mut datagram = vec![5; 40 + super::super::SEAL_BYTES];
        assert!(!keys.is_spent());
        let generation = keys.sealing();
        generation.seal(packet_no, &mut datagram, 40);
        let phase = generation.phase();
        keys.sealed();
        (phase, datagram)
    }

    #[test]
    fn both_ends_go_on_together_for_many_generations_each_way() {
        let (mut one, mut other) = pair();
        let mut phases = [0; 4];
        for packet_no in 1..200 {
            let now_ns = packet_no * 5;
            let (phase, mut datagram) = seal(&mut one, packet_no);
            phases[usize::from(phase)] += 1;
            assert!(other.open(phase, packet_no, &mut datagram, now_ns), "{packet_no}");
            let (phase, mut datagram) = seal(&mut other, packet_no);
            assert!(one.open(phase, packet_no, &mut datagram, now_ns), "{packet_no}");
            one.keep_all(now_ns);
            other.keep_all(now_ns);
        }
        assert!(phases.iter().all(|count| *count > 20), "{phases:?}");
    }

    #[test]
    fn without_another_generation_no_more_than_so_many_datagrams_are_sealed() {
        let (mut one, _) = pair();
        for packet_no in 1..=8 {
            seal(&mut one, packet_no);
        }
        assert!(one.is_spent());
        assert!(one.keep(9).is_none() && one.is_spent(), "too early");
        // It goes on, and asks for the one behind.
        assert!(matches!(one.keep(10), Some(Upkeep::Drop(_))));
        assert!(!one.is_spent() && one.sealing().phase() == 1);
        assert!(matches!(one.keep(10), Some(Upkeep::Make(Direction::Sent, _))));
        assert!(one.keep(10).is_none(), "it was asked for");
        for packet_no in 9..=16 {
            seal(&mut one, packet_no);
        }
        assert!(one.keep(1_000).is_none() && one.is_spent(), "it was not made yet");
    }

    #[test]
    fn the_generation_before_is_opened_with_for_a_while_and_then_dropped() {
        let (mut one, mut other) = pair();
        let late: Vec<_> = (1..=4).map(|packet_no| seal(&mut one, packet_no)).collect();
        one.keep_all(10);
        let (phase, mut datagram) = seal(&mut one, 5);
        assert_eq!(phase, 1);
        assert!(other.open(phase, 5, &mut datagram, 10));
        assert!(other.open(0, 1, &mut late[0].1.clone(), 19));
        assert!(!other.open(0, 2, &mut late[1].1.clone(), 20), "too late");
        other.keep_all(20);
        assert!(!other.open(0, 3, &mut late[2].1.clone(), 15), "and gone");
        assert!(!other.open(3, 3, &mut late[2].1.clone(), 20), "nobody has that one");
    }

    /// However fast the other end goes on, no more is made for it than it may use.
    #[test]
    fn nothing_is_made_for_an_end_that_goes_on_too_soon() {
        let (mut one, mut other) = pair();
        let (phase, mut datagram) = seal(&mut one, 1);
        assert!(other.open(phase, 1, &mut datagram, 100));
        one.sealed = ROTATION.datagrams;
        assert!(matches!(one.keep(100), Some(Upkeep::Drop(_))));
        let (phase, mut datagram) = seal(&mut one, 2);
        assert!(other.open(phase, 2, &mut datagram, 100), "it has the next");
        assert!(other.keep(104).is_none(), "the one behind is not made yet");
        assert!(matches!(other.keep(105), Some(Upkeep::Make(Direction::Received, _))));
    }

    #[test]
    fn a_generation_that_was_not_asked_for_is_given_back() {
        let (mut one, _) = pair();
        let made = Generation::of(&Chain::begin(&[9; 32]));
        assert!(one.take(Direction::Sent, made).is_err());
    }

    #[test]
    fn after_a_while_a_quiet_direction_goes_on_too_but_not_one_that_says_nothing() {
        let secrets = Secrets::for_tests([1; 32], [2; 32]);
        let rotation = Rotation { datagrams: 100, datagrams_max: 200, ..ROTATION };
        let mut one = SessionKeys::new(&secrets, true, rotation, 0);
        one.keep_all(5_000);
        assert_eq!(one.sealing().phase(), 0);
        // Nor after a few, which may all be lost.
        for packet_no in 1..SEALED_LEAST {
            seal(&mut one, packet_no);
        }
        one.keep_all(5_000);
        assert_eq!(one.sealing().phase(), 0);
        seal(&mut one, SEALED_LEAST);
        one.keep_all(5_000);
        assert_eq!(one.sealing().phase(), 1);
    }

    #[test]
    fn after_so_many_forgeries_nothing_is_opened_any_more() {
        let (mut one, mut other) = pair();
        other.forgeries = FORGERIES_MAX - 1;
        let (phase, datagram) = seal(&mut one, 1);
        assert!(!other.open(phase, 2, &mut datagram.clone(), 0));
        assert!(!other.open(phase, 1, &mut datagram.clone(), 0), "it is heard no more");
    }
}
