//! Sessions that wait for something, each once, and the one that waits longest first.

use std::collections::VecDeque;

/// Places of sessions.
#[derive(Debug)]
pub(super) struct SlotQueue {
    order: VecDeque<usize>,
    /// By place.
    waits: Box<[bool]>,
}

impl SlotQueue {
    /// An empty one for so many places; allocates what it will ever need.
    pub(super) fn new(places: usize) -> Self {
        let waits = vec![false; places].into_boxed_slice();
        Self { order: VecDeque::with_capacity(places), waits }
    }

    /// Lets `slot` wait, behind all others, if it does not already.
    #[inline]
    pub(super) fn add(&mut self, slot: usize) {
        if !std::mem::replace(&mut self.waits[slot], true) {
            self.order.push_back(slot);
        }
    }

    /// Who waits longest.
    pub(super) fn first(&self) -> Option<usize> {
        self.order.front().copied()
    }

    /// The same, which waits no more.
    pub(super) fn take_first(&mut self) -> Option<usize> {
        let slot = self.order.pop_front()?;
        self.waits[slot] = false;
        Some(slot)
    }

    /// `slot` waits no more.
    pub(super) fn remove(&mut self, slot: usize) {
        if std::mem::replace(&mut self.waits[slot], false) {
            self.order.retain(|of| *of != slot);
        }
    }

    /// Whether `slot` waits.
    pub(super) fn contains(&self, slot: usize) -> bool {
        self.waits[slot]
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_waits_once_and_the_longest_is_first() {
        let mut queue = SlotQueue::new(4);
        assert_eq!((queue.first(), queue.take_first(), queue.is_empty()), (None, None, true));
        for slot in [2, 0, 2, 3, 0] {
            queue.add(slot);
        }
        assert_eq!((queue.len(), queue.first()), (3, Some(2)));
        queue.remove(0);
        queue.remove(1);
        assert!(queue.contains(3) && !queue.contains(0));
        assert_eq!(queue.take_first(), Some(2));
        queue.add(2);
        assert_eq!(
            [queue.take_first(), queue.take_first(), queue.take_first()],
            [Some(3), Some(2), None]
        );
    }
}
