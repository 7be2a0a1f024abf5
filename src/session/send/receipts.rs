//! Receipts of what is durable: runs without a gap, whatever acknowledgements were lost.

use std::collections::VecDeque;

use crate::wire::publish::{Ack, ReceiptRun};

/// A receipt of one message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Given {
    /// `None` where it was lost with the server's memory.
    pub(super) sequence: Option<u64>,
    pub(super) server_ns: u32,
    pub(super) device_ns: u32,
}

/// Receipts that nobody has taken.
#[derive(Debug)]
pub(super) struct Receipts {
    runs: VecDeque<ReceiptRun>,
    /// There are receipts of all numbers up to this one.
    to: u64,
}

impl Receipts {
    pub(super) fn new(messages: usize) -> Self {
        Self { runs: VecDeque::with_capacity(messages), to: 0 }
    }

    /// There are receipts of all numbers up to this one.
    #[inline]
    pub(super) fn to(&self) -> u64 {
        self.to
    }

    /// Another life has those up to here.
    pub(super) fn go_on_after(&mut self, to: u64) {
        self.to = to;
    }

    /// Takes those of an ACK; numbers from `next` on were never given out.
    pub(super) fn take(&mut self, ack: &Ack<'_>, durable_to: u64, next: u64) {
        let held_from = ack.head.receipts_from.get();
        let lost_to = held_from.saturating_sub(1).min(durable_to);
        if lost_to > self.to {
            // The server no longer has these: durable, their sequences unsaid.
            let count = u32::try_from(lost_to.saturating_sub(self.to)).unwrap_or(u32::MAX);
            self.push(ReceiptRun {
                first_seq: self.to.saturating_add(1).into(),
                count: count.into(),
                ..ReceiptRun::default()
            });
        }
        for run in ack.receipts {
            let (first, count) = (run.first_seq.get(), u64::from(run.count.get()));
            let wanted = self.to.saturating_add(1);
            let known = wanted.saturating_sub(first);
            if first > wanted || known >= count || first.saturating_add(count) > next {
                continue;
            }
            let mut run = *run;
            run.first_seq = first.saturating_add(known).into();
            run.first_sequence = run.first_sequence.get().saturating_add(known).into();
            let left = count.saturating_sub(known);
            run.count = u32::try_from(left).expect("less than before").into();
            self.push(run);
        }
    }

    fn push(&mut self, run: ReceiptRun) {
        let end = run.first_seq.get().saturating_add(u64::from(run.count.get()));
        self.to = end.saturating_sub(1);
        self.runs.push_back(run);
    }

    /// The receipt of the oldest number that was not taken.
    #[inline]
    pub(super) fn take_first(&mut self, seq: u64) -> Given {
        let run = self.runs.front().expect("receipts reach up to it");
        let offset = seq.saturating_sub(run.first_seq.get());
        let first_sequence = run.first_sequence.get();
        let given = Given {
            sequence: (first_sequence > 0).then(|| first_sequence.saturating_add(offset)),
            server_ns: run.server_ns.get(),
            device_ns: run.device_ns.get(),
        };
        if offset.saturating_add(1) >= u64::from(run.count.get()) {
            self.runs.pop_front();
        }
        given
    }
}
