//! Requests that are answered once their record is durable: that a stream is made, that one is trimmed.

use crate::ids::StreamId;
use crate::limits::REQUESTS_MAX;
use crate::position::{BatchSeq, SessionSlot};

/// Which request of which session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RequestOf {
    pub(super) slot: SessionSlot,
    pub(super) request: u32,
}

/// A request, and what it waits for.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    of: RequestOf,
    /// It is answered with the facts of this stream.
    stream: StreamId,
    /// The batch that holds its record.
    batch_seq: BatchSeq,
}

/// The requests that wait for the disk. A session that ends waits for nothing any more, and a request stands here once.
#[derive(Debug)]
pub(super) struct Requests {
    waiting: Vec<Waiting>,
}

impl Requests {
    /// None yet; allocates what there will ever be.
    pub(super) fn new() -> Self {
        Self { waiting: Vec::with_capacity(REQUESTS_MAX) }
    }

    /// Whether a request waits already: what is asked again is not done again.
    pub(super) fn waits(&self, of: RequestOf) -> bool {
        self.waiting.iter().any(|waiting| waiting.of == of)
    }

    /// Whether no more can wait: who asks now is not answered, and asks again.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() == REQUESTS_MAX
    }

    /// A request is answered once a batch is durable; where no more can wait it is asked again.
    pub(super) fn wait(&mut self, of: RequestOf, stream: StreamId, batch_seq: BatchSeq) {
        if !self.is_full() && !self.waits(of) {
            self.waiting.push(Waiting { of, stream, batch_seq });
        }
    }

    /// A batch is durable: answers whoever waits for its records, in the order in which they came.
    pub(super) fn finish(
        &mut self,
        batch_seq: BatchSeq,
        mut answer: impl FnMut(RequestOf, StreamId),
    ) {
        self.waiting.retain(|waiting| {
            let is_durable = waiting.batch_seq <= batch_seq;
            if is_durable {
                answer(waiting.of, waiting.stream);
            }
            !is_durable
        });
    }

    /// No record becomes durable any more: whoever waits is told so. Who cannot be told now is told later.
    pub(super) fn give_up(&mut self, mut tell: impl FnMut(RequestOf) -> bool) {
        self.waiting.retain(|waiting| !tell(waiting.of));
    }

    /// A session has ended.
    pub(super) fn forget(&mut self, slot: SessionSlot) {
        self.waiting.retain(|waiting| waiting.of.slot != slot);
    }

    /// Sessions that wait, for whoever counts.
    pub(super) fn slots(&self) -> impl Iterator<Item = SessionSlot> {
        self.waiting.iter().map(|waiting| waiting.of.slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(slot: usize, request: u32) -> RequestOf {
        RequestOf { slot: SessionSlot::new(slot), request }
    }

    #[test]
    fn a_request_is_answered_once_with_its_batch_and_in_its_order() {
        let mut requests = Requests::new();
        requests.wait(of(3, 1), StreamId(7), BatchSeq::new(20));
        requests.wait(of(2, 1), StreamId(8), BatchSeq::new(20));
        requests.wait(of(2, 2), StreamId(9), BatchSeq::new(21));
        requests.wait(of(3, 1), StreamId(7), BatchSeq::new(20));
        assert!(requests.waits(of(2, 2)) && !requests.waits(of(3, 2)));
        let finished = |requests: &mut Requests, batch_seq| {
            let mut answered = Vec::new();
            requests.finish(BatchSeq::new(batch_seq), |of, stream| answered.push((of, stream)));
            answered
        };
        assert_eq!(finished(&mut requests, 19), []);
        let both = [(of(3, 1), StreamId(7)), (of(2, 1), StreamId(8))];
        assert_eq!(finished(&mut requests, 20), both);
        assert_eq!(finished(&mut requests, 20), []);
        requests.forget(SessionSlot::new(2));
        assert_eq!(finished(&mut requests, u64::MAX), [], "who is gone is not answered");
    }

    #[test]
    fn what_cannot_wait_is_asked_again_and_who_cannot_be_told_stays() {
        let mut requests = Requests::new();
        for request in 0..1_000 {
            requests.wait(of(1, request), StreamId(1), BatchSeq::new(1));
        }
        assert!(requests.is_full() && requests.waits(of(1, 255)) && !requests.waits(of(1, 256)));
        let mut room = 16;
        requests.give_up(|_| {
            let told = room > 0;
            room -= u32::from(told);
            told
        });
        assert_eq!(requests.slots().count(), REQUESTS_MAX - 16);
        assert!(!requests.waits(of(1, 15)) && requests.waits(of(1, 16)));
    }
}
