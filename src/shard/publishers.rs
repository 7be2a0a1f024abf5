//! Which sessions publish, and what each of them waits for: that its registration is durable, that a batch is, to be
//! acknowledged, that a gap is filled. Nothing here is decided; a session stands in each list at most once, and in the
//! order in which it came.

use std::collections::{BTreeMap, VecDeque};

use super::slots::SlotQueue;
use crate::ids::ProducerId;
use crate::limits::{ACKS_DUE_MAX, SESSIONS_MAX};
use crate::log::ProducerHandle;
use crate::memory::resident;
use crate::position::{BatchSeq, SessionSlot};
use crate::session::receipts::Run;

/// A session has messages in a batch.
#[derive(Clone, Copy, Debug)]
struct AckDue {
    batch_seq: BatchSeq,
    slot: SessionSlot,
}

const NOTHING_DUE: AckDue = AckDue { batch_seq: BatchSeq::NONE, slot: SessionSlot::FIRST };

/// The sessions that publish.
#[derive(Debug)]
pub(super) struct Publishers {
    /// Per session, what it publishes with.
    handles: Box<[Option<ProducerHandle>]>,
    /// How many of them there are.
    count: usize,
    /// Whose registration is on its way to the disk, in the order of the log.
    registering: SlotQueue,
    /// Who is to be acknowledged.
    due: SlotQueue,
    /// Who has a gap.
    gaps: SlotQueue,
    /// Who has messages in which batch, ascending by batch.
    acks_due: VecDeque<AckDue>,
    /// Per session, the batch of its newest entry in `acks_due`.
    newest_due: Box<[BatchSeq]>,
    /// Runs found by recovery, waiting for their producers to come back.
    recovered: BTreeMap<u64, Vec<Run>>,
}

impl Publishers {
    /// None yet; `recovered` are the messages that recovery has seen, by producer. Allocates what it will ever need.
    pub(super) fn new(recovered: BTreeMap<u64, Vec<Run>>) -> Self {
        Self {
            handles: (0..SESSIONS_MAX).map(|_| None).collect(),
            count: 0,
            registering: SlotQueue::new(SESSIONS_MAX),
            due: SlotQueue::new(SESSIONS_MAX),
            gaps: SlotQueue::new(SESSIONS_MAX),
            acks_due: resident(ACKS_DUE_MAX, NOTHING_DUE).into(),
            newest_due: vec![BatchSeq::NONE; SESSIONS_MAX].into_boxed_slice(),
            recovered,
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// As many as a test wants there to be.
    #[cfg(test)]
    pub(super) fn pretend(&mut self, count: usize) {
        self.count = count;
    }

    /// One more, whose registration becomes durable after those before it.
    ///
    /// # Panics
    /// When the session publishes as somebody already.
    pub(super) fn join(&mut self, slot: SessionSlot, handle: ProducerHandle) {
        assert!(
            self.handles[slot.index()].replace(handle).is_none(),
            "a session publishes as one producer"
        );
        self.count = self.count.saturating_add(1);
        self.registering.add(slot);
    }

    /// What a session publishes with.
    ///
    /// # Panics
    /// When it does not publish.
    #[inline]
    pub(super) fn handle(&self, slot: SessionSlot) -> &ProducerHandle {
        self.handles[slot.index()].as_ref().expect("a session that publishes")
    }

    /// One less, who waits for nothing any more: whoever has the place next is not told what this one was owed.
    ///
    /// # Panics
    /// When it does not publish.
    pub(super) fn leave(&mut self, slot: SessionSlot) -> ProducerHandle {
        let handle = self.handles[slot.index()].take().expect("a session that publishes");
        self.count = self.count.checked_sub(1).expect("each is counted once");
        self.registering.remove(slot);
        self.due.remove(slot);
        self.gaps.remove(slot);
        handle
    }

    /// The next whose registration becomes durable.
    pub(super) fn registering(&self) -> Option<SessionSlot> {
        self.registering.first()
    }

    /// Its registration is durable.
    pub(super) fn registered(&mut self, slot: SessionSlot) {
        self.registering.remove(slot);
    }

    /// Whether its registration is on its way.
    pub(super) fn is_registering(&self, slot: SessionSlot) -> bool {
        self.registering.contains(slot)
    }

    /// Notes that a session is to be acknowledged.
    #[inline]
    pub(super) fn acknowledge(&mut self, slot: SessionSlot) {
        self.due.add(slot);
    }

    /// Who is to be acknowledged next.
    pub(super) fn due(&self) -> Option<SessionSlot> {
        self.due.first()
    }

    /// The first of those was told; where there is more to tell, it comes again behind the others.
    pub(super) fn told(&mut self, there_is_more: bool) {
        let told = self.due.take_first();
        if let Some(slot) = told.filter(|_| there_is_more) {
            self.due.add(slot);
        }
    }

    /// Whether nobody is to be acknowledged.
    pub(super) fn none_is_due(&self) -> bool {
        self.due.is_empty()
    }

    /// Notes that a session has a gap.
    pub(super) fn note_gap(&mut self, slot: SessionSlot) {
        self.gaps.add(slot);
    }

    /// How many have a gap.
    pub(super) fn gaps(&self) -> usize {
        self.gaps.len()
    }

    /// The next with a gap; whoever has it still is noted again.
    pub(super) fn take_gap(&mut self) -> Option<SessionSlot> {
        self.gaps.take_first()
    }

    /// Notes that a session has messages in a batch, which is the newest one.
    pub(super) fn await_batch(&mut self, slot: SessionSlot, batch_seq: BatchSeq) {
        let newest = &mut self.newest_due[slot.index()];
        if *newest != batch_seq {
            *newest = batch_seq;
            self.acks_due.push_back(AckDue { batch_seq, slot });
        }
    }

    /// The next session with messages in a batch up to `batch_seq`.
    pub(super) fn take_ack_due(&mut self, batch_seq: BatchSeq) -> Option<SessionSlot> {
        let slot = self.acks_due.front().filter(|due| due.batch_seq <= batch_seq)?.slot;
        self.acks_due.pop_front();
        Some(slot)
    }

    /// What recovery has seen of a producer that comes back, once.
    pub(super) fn take_recovered(&mut self, producer: ProducerId) -> Option<Vec<Run>> {
        self.recovered.remove(&producer.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::BATCHES_WAITING_MAX;

    #[test]
    fn whoever_has_more_to_be_told_waits_behind_the_others() {
        let mut publishers = Publishers::new(BTreeMap::new());
        for slot in [5, 3, 5, 4].map(SessionSlot::new) {
            publishers.acknowledge(slot);
        }
        let mut order = Vec::new();
        for more in [true, false, false, false] {
            order.extend(publishers.due());
            publishers.told(more);
        }
        assert_eq!(order, [5, 3, 4, 5].map(SessionSlot::new));
        assert!(publishers.none_is_due());
    }

    #[test]
    fn a_session_is_owed_once_for_each_batch() {
        let mut publishers = Publishers::new(BTreeMap::new());
        for (slot, batch) in [(1, 7), (2, 7), (1, 7), (1, 8)] {
            publishers.await_batch(SessionSlot::new(slot), BatchSeq::new(batch));
        }
        let owed = |publishers: &mut Publishers, to| {
            let next = || publishers.take_ack_due(BatchSeq::new(to));
            std::iter::from_fn(next).map(SessionSlot::index).collect::<Vec<_>>()
        };
        assert_eq!(owed(&mut publishers, 6), [0_usize; 0]);
        assert_eq!(owed(&mut publishers, 7), [1, 2]);
        assert_eq!(owed(&mut publishers, u64::MAX), [1]);
    }

    #[test]
    fn all_sessions_are_owed_for_all_batches_that_wait_and_nothing_is_allocated() {
        let mut publishers = Publishers::new(BTreeMap::new());
        let room = publishers.acks_due.capacity();
        for batch in 1..=BATCHES_WAITING_MAX as u64 {
            SessionSlot::all().for_each(|slot| publishers.await_batch(slot, BatchSeq::new(batch)));
        }
        assert_eq!(
            (publishers.acks_due.len(), publishers.acks_due.capacity()),
            (ACKS_DUE_MAX, room)
        );
        let told = std::iter::from_fn(|| publishers.take_ack_due(BatchSeq::new(u64::MAX))).count();
        assert_eq!(told, ACKS_DUE_MAX, "nobody is forgotten");
    }

    #[test]
    fn who_leaves_while_it_registers_is_not_waited_for() {
        let mut publishers = Publishers::new(BTreeMap::new());
        let [one, two] = [1, 2].map(SessionSlot::new);
        publishers.join(one, ProducerHandle::pretend(ProducerId(1), one));
        publishers.join(two, ProducerHandle::pretend(ProducerId(2), two));
        publishers.acknowledge(one);
        publishers.note_gap(one);
        assert_eq!(publishers.leave(one).id(), ProducerId(1));
        assert_eq!((publishers.len(), publishers.registering()), (1, Some(two)));
        assert_eq!((publishers.due(), publishers.take_gap()), (None, None));
        publishers.registered(two);
        assert_eq!((publishers.len(), publishers.is_registering(two)), (1, false));
    }
}
