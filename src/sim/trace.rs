//! What happened in a run: a digest of everything, to see that a seed repeats bit for bit, and the newest
//! events for a person.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use xxhash_rust::xxh3::{Xxh3, xxh3_64};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

use crate::clock::{Clock, ManualClock};

/// Events kept for a person.
const KEPT: usize = 400;

/// One event: when, what, and two numbers that belong to it.
pub(crate) type Event = (u64, &'static str, u64, u64);

#[derive(Default)]
struct Inner {
    digest: Xxh3,
    events: VecDeque<Event>,
    count: u64,
}

/// A trace; clones are the same one.
#[derive(Clone)]
pub(super) struct Trace {
    inner: Option<Rc<RefCell<Inner>>>,
    clock: ManualClock,
}

impl std::fmt::Debug for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trace").finish_non_exhaustive()
    }
}

impl Trace {
    /// A trace that reads its times from `clock`.
    #[must_use]
    pub(super) fn new(clock: ManualClock) -> Self {
        Self { inner: Some(Rc::default()), clock }
    }

    /// One that keeps nothing.
    #[must_use]
    pub(super) fn silent() -> Self {
        Self { inner: None, clock: ManualClock::new() }
    }

    /// Notes an event.
    pub(super) fn note(&self, what: &'static str, one: u64, two: u64) {
        let Some(inner) = &self.inner else { return };
        let mut inner = inner.borrow_mut();
        let now_ns = self.clock.now_ns();
        inner.digest.update(what.as_bytes());
        inner.digest.update([U64::new(now_ns), U64::new(one), U64::new(two)].as_bytes());
        inner.count += 1;
        if inner.events.len() == KEPT {
            inner.events.pop_front();
        }
        inner.events.push_back((now_ns, what, one, two));
    }

    /// Adds bytes to the digest.
    pub(super) fn digest(&self, bytes: &[u8]) {
        let Some(inner) = &self.inner else { return };
        let mut inner = inner.borrow_mut();
        inner.digest.update(U64::new(xxh3_64(bytes)).as_bytes());
        inner.digest.update(U64::new(self.clock.now_ns()).as_bytes());
    }

    /// The digest of everything so far.
    #[must_use]
    pub(super) fn value(&self) -> u64 {
        self.inner.as_ref().map_or(0, |inner| inner.borrow().digest.digest())
    }

    /// The newest events, oldest first.
    #[must_use]
    pub(super) fn events(&self) -> Vec<Event> {
        self.inner
            .as_ref()
            .map_or_else(Vec::new, |inner| inner.borrow().events.iter().copied().collect())
    }
}
