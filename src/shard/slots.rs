//! Sessions that wait for something, each once, and the one that waits longest first.

use std::collections::VecDeque;

use crate::position::SessionSlot;

/// Places of sessions.
#[derive(Debug)]
pub(super) struct SlotQueue {
    order: VecDeque<SessionSlot>,
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
    pub(super) fn add(&mut self, slot: SessionSlot) {
        if !std::mem::replace(&mut self.waits[slot.index()], true) {
            self.order.push_back(slot);
        }
    }

    /// Who waits longest.
    pub(super) fn first(&self) -> Option<SessionSlot> {
        self.order.front().copied()
    }

    /// The same, which waits no more.
    pub(super) fn take_first(&mut self) -> Option<SessionSlot> {
        let slot = self.order.pop_front()?;
        self.waits[slot.index()] = false;
        Some(slot)
    }

    /// `slot` waits no more.
    pub(super) fn remove(&mut self, slot: SessionSlot) {
        if std::mem::replace(&mut self.waits[slot.index()], false) {
            self.order.retain(|of| *of != slot);
        }
    }

    /// Whether `slot` waits.
    pub(super) fn contains(&self, slot: SessionSlot) -> bool {
        self.waits[slot.index()]
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
        let [zero, one, two, three] = [0, 1, 2, 3].map(SessionSlot::new);
        for slot in [two, zero, two, three, zero] {
            queue.add(slot);
        }
        assert_eq!((queue.len(), queue.first()), (3, Some(two)));
        queue.remove(zero);
        queue.remove(one);
        assert!(queue.contains(three) && !queue.contains(zero));
        assert_eq!(queue.take_first(), Some(two));
        queue.add(two);
        assert_eq!(
            [queue.take_first(), queue.take_first(), queue.take_first()],
            [Some(three), Some(two), None]
        );
    }
}
