//! The commit station: submit what was appended, poll the disk, move the durable prefix on.

use crate::clock::{Clock, Now};
use crate::disk::{Completion, Disk, Operation};
use crate::limits::COMPLETIONS_A_TURN;
use crate::log::DurableBatch;
use crate::metrics::Counter;
use crate::mutant::Mutant;
use crate::position::BatchSeq;
use crate::session::table::Phase;
use crate::wire::control::ErrorCode;

use super::observe::Mark;
use super::requests::RequestOf;
use super::{Reply, Stations};

/// Room for the completions of one turn.
pub(super) fn new_completions() -> Vec<Completion> {
    vec![Completion::NONE; COMPLETIONS_A_TURN]
}

impl Stations {
    pub(super) fn commit<C: Clock>(&mut self, clock: &C) -> usize {
        let mut work = 0_usize;
        if !self.condition().is_over() {
            if self.log.has_unsubmitted() {
                // What is submitted now was appended in this turn: the device's time begins here.
                let received_ns = self.now.monotonic_ns;
                self.now.monotonic_ns = clock.now_ns();
                self.log.note_times(received_ns, self.now.monotonic_ns);
                self.mark(Mark::Received);
            }
            let Now { monotonic_ns, unix_ns } = self.now;
            self.log.tick(self.disk.memory_mut(), monotonic_ns, unix_ns);
            let submitted = self.log.submit(&mut *self.disk, monotonic_ns, unix_ns);
            work = work.saturating_add(submitted);
        }
        let count = self.disk.poll(&mut self.done);
        if let Some(fault) = self.disk.out_of_service() {
            self.lose(fault);
        }
        if count == 0 {
            return work;
        }
        // The device answered during the poll: what becomes durable, becomes so now.
        self.now.monotonic_ns = clock.now_ns();
        self.mark(Mark::Committed);
        for index in 0..count {
            let completion = self.done[index];
            match completion.io.operation {
                Operation::Write => self.on_written(&completion),
                Operation::Read => self.on_read(&completion),
            }
        }
        while let Some(batch) = self.log.take_durable() {
            self.on_durable(&batch);
        }
        self.note_room();
        work.saturating_add(count)
    }

    fn on_written(&mut self, completion: &Completion) {
        if completion.result.is_err() && Mutant::RetryAfterError.is_on() {
            let again = self.disk.submit(completion.io);
            assert!(again.is_ok(), "the queue has the place that was just freed");
            return;
        }
        if self.log.on_completion(completion, self.now.monotonic_ns).is_err() {
            self.fail(ErrorCode::DiskFailed);
        }
    }

    fn on_read(&mut self, completion: &Completion) {
        let buffer = usize::try_from(completion.io.tag).expect("a replay buffer's number");
        let bytes = completion.result.is_ok().then_some(completion.io.bytes);
        // None waits for it where the subscription ended while the read was on its way.
        let waiting = self.fanout.end_read(buffer, bytes);
        if let (Some(index), None) = (waiting, bytes) {
            self.on_bad_read(index);
        }
    }

    fn on_durable(&mut self, batch: &DurableBatch) {
        self.counters.add(Counter::BatchesDurable, 1);
        self.counters.add(Counter::BytesDurable, batch.bytes as u64);
        let durable_ns = batch.times.durable_ns;
        let device_ns = durable_ns.saturating_sub(batch.times.submitted_ns);
        let durable_ns = if Mutant::StampsDrift.is_on() {
            durable_ns.saturating_add(1_000_000_000)
        } else {
            durable_ns
        };
        debug_assert!(
            batch.times.messages == 0 || batch.times.appended_ns >= batch.times.received_ns.max(1),
            "each message was received before it was appended: {batch:?}"
        );
        if let Some(observer) = &mut self.observer {
            observer.durable(&batch.times);
        }
        while let Some(slot) = self.publishers.take_ack_due(batch.batch_seq) {
            let receipts = &mut self.sessions.get_mut(slot).receipts;
            if receipts.complete(batch.batch_seq, durable_ns, device_ns) {
                self.publishers.acknowledge(slot);
            }
        }
        let (outbox, counters) = (&mut self.outbox, &mut self.counters);
        self.requests.finish(batch.batch_seq, |RequestOf { slot, request }, stream| {
            outbox.note(Reply::StreamInfo { slot, request, stream }, counters);
        });
        self.finish_registrations(batch.batch_seq);
    }

    fn finish_registrations(&mut self, durable_to: BatchSeq) {
        while let Some(slot) = self.publishers.registering() {
            let Phase::Registering { batch_seq } = self.sessions.get(slot).phase else {
                unreachable!("a session that ends leaves the list")
            };
            if batch_seq > durable_to {
                break;
            }
            self.open_publisher(slot);
        }
    }
}
