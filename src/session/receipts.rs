//! Receipts a publisher is owed: runs of messages in flight, then durable, then told.
//!
//! A ring with three marks: `told <= durable <= end`. Durable runs stay until newer ones need their
//! place, so that a client that lost an ACK can ask again.

use crate::limits::RUNS_MAX;
use crate::position::BatchSeq;
use crate::wire::publish::ReceiptRun;

/// Messages contiguous in producer number and stream sequence, in one batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// Producer number of the first.
    pub first_seq: u64,
    /// Stream sequence of the first.
    pub first_sequence: u64,
    /// How many.
    pub count: u32,
    /// Stream.
    pub stream: u32,
    /// The batch they are in.
    pub batch_seq: BatchSeq,
    /// When the first was received, on the shard's clock.
    pub received_ns: u64,
    /// The same as Unix time; 0 where that is not known.
    pub received_unix_ns: u64,
    /// Receive to durable, known once durable.
    pub server_ns: u32,
    /// Submit to complete, known once durable.
    pub device_ns: u32,
}

impl Run {
    /// Producer number after the last.
    #[must_use]
    pub fn end_seq(&self) -> u64 {
        self.first_seq.saturating_add(u64::from(self.count))
    }

    /// Whether `next` goes on exactly where this one ends, in one batch.
    fn is_continued_by(&self, next: &Self) -> bool {
        next.batch_seq == self.batch_seq
            && next.stream == self.stream
            && next.first_seq == self.end_seq()
            && next.first_sequence == self.first_sequence.saturating_add(u64::from(self.count))
    }

    fn on_the_wire(&self) -> ReceiptRun {
        ReceiptRun {
            first_seq: self.first_seq.into(),
            first_sequence: self.first_sequence.into(),
            received_ns: self.received_unix_ns.into(),
            count: self.count.into(),
            stream: self.stream.into(),
            server_ns: self.server_ns.into(),
            device_ns: self.device_ns.into(),
        }
    }
}

/// The ring of runs of one session. Marks count runs since the session began.
#[derive(Clone, Debug)]
pub(crate) struct Receipts {
    runs: Box<[Run]>,
    start: usize,
    told: usize,
    durable: usize,
    end: usize,
    /// All producer numbers up to this one are durable.
    durable_to: u64,
}

impl Receipts {
    /// An empty ring; allocates what it will ever need.
    #[must_use]
    pub(crate) fn new() -> Self {
        let runs = vec![Run::default(); RUNS_MAX].into_boxed_slice();
        Self { runs, start: 0, told: 0, durable: 0, end: 0, durable_to: 0 }
    }

    /// Forgets everything; numbers up to `durable_to` are durable.
    pub(crate) fn reset(&mut self, durable_to: u64) {
        (self.start, self.told, self.durable, self.end) = (0, 0, 0, 0);
        self.durable_to = durable_to;
    }

    /// All producer numbers up to this one are durable.
    #[must_use]
    pub(crate) fn durable_to(&self) -> u64 {
        self.durable_to
    }

    /// The lowest producer number whose receipt is still here; the next to come when there is none.
    #[must_use]
    pub(crate) fn held_from(&self) -> u64 {
        if self.start == self.end {
            self.durable_to.saturating_add(1)
        } else {
            self.run(self.start).first_seq
        }
    }

    /// Whether another run can be taken: not when the ring is full of runs in flight.
    #[must_use]
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        self.end.saturating_sub(self.durable) < RUNS_MAX
    }

    /// Whether messages are in flight.
    #[must_use]
    pub(crate) fn in_flight(&self) -> bool {
        self.durable < self.end
    }

    /// Adds messages just appended; merges them with the last run where they continue it.
    ///
    /// # Panics
    /// When there is no room: the caller asks first.
    #[inline]
    pub(crate) fn append(&mut self, run: Run) {
        if self.end > self.durable {
            let last = &mut self.runs[self.end.saturating_sub(1) % RUNS_MAX];
            if last.is_continued_by(&run) {
                last.count = last.count.saturating_add(run.count);
                return;
            }
        }
        assert!(self.has_room(), "the caller asked whether there is room");
        if self.end.saturating_sub(self.start) == RUNS_MAX {
            self.start = self.start.saturating_add(1);
            self.told = self.told.max(self.start);
        }
        self.runs[self.end % RUNS_MAX] = run;
        self.end = self.end.saturating_add(1);
    }

    /// Adds a run found by recovery: durable already.
    pub(crate) fn append_recovered(&mut self, run: Run) {
        self.append(run);
        self.durable = self.end;
        self.durable_to = self.durable_to.max(run.end_seq().saturating_sub(1));
    }

    /// Counts all runs of batches up to `batch_seq` as durable; `true` when there were any.
    #[inline]
    pub(crate) fn complete(
        &mut self,
        batch_seq: BatchSeq,
        durable_ns: u64,
        device_ns: u64,
    ) -> bool {
        let before = self.durable;
        while self.durable < self.end {
            let run = &mut self.runs[self.durable % RUNS_MAX];
            if run.batch_seq > batch_seq {
                break;
            }
            run.server_ns = saturating_u32(durable_ns.saturating_sub(run.received_ns));
            run.device_ns = saturating_u32(device_ns);
            self.durable_to = run.end_seq().saturating_sub(1);
            self.durable = self.durable.saturating_add(1);
        }
        self.durable > before
    }

    /// Makes receipts of numbers above `seq` untold again.
    pub(crate) fn rewind_to(&mut self, seq: u64) {
        while self.told > self.start {
            let before = self.told.saturating_sub(1);
            if self.run(before).end_seq() <= seq.saturating_add(1) {
                break;
            }
            self.told = before;
        }
    }

    /// The next untold receipts, at most `max`, counted as told; each is given to `emit`.
    pub(crate) fn tell(&mut self, max: usize, mut emit: impl FnMut(&ReceiptRun)) -> usize {
        let end = self.durable.min(self.told.saturating_add(max));
        let count = end.saturating_sub(self.told);
        for index in self.told..end {
            emit(&self.run(index).on_the_wire());
        }
        self.told = end;
        count
    }

    /// Durable receipts that are not told yet.
    #[must_use]
    pub(crate) fn untold(&self) -> usize {
        self.durable.saturating_sub(self.told)
    }

    fn run(&self, index: usize) -> &Run {
        &self.runs[index % RUNS_MAX]
    }
}

impl Default for Receipts {
    fn default() -> Self {
        Self::new()
    }
}

fn saturating_u32(ns: u64) -> u32 {
    u32::try_from(ns).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first_seq: u64, count: u32, batch_seq: u64) -> Run {
        Run {
            first_seq,
            first_sequence: first_seq + 100,
            count,
            stream: 1,
            batch_seq: BatchSeq::new(batch_seq),
            ..Run::default()
        }
    }

    fn told(receipts: &mut Receipts, max: usize) -> Vec<(u64, u32)> {
        let mut runs = Vec::new();
        receipts.tell(max, |run| runs.push((run.first_seq.get(), run.count.get())));
        runs
    }

    #[test]
    fn contiguous_messages_of_a_batch_are_one_run() {
        let mut receipts = Receipts::new();
        receipts.append(run(1, 2, 7));
        receipts.append(run(3, 5, 7));
        receipts.append(run(8, 1, 8));
        assert!(!receipts.complete(BatchSeq::new(6), 0, 0));
        assert!(receipts.complete(BatchSeq::new(7), 0, 0));
        assert_eq!(receipts.durable_to(), 7);
        assert_eq!(told(&mut receipts, 9), [(1, 7)]);
        assert!(receipts.complete(BatchSeq::new(8), 0, 0));
        assert_eq!(told(&mut receipts, 9), [(8, 1)]);
    }

    #[test]
    fn a_lost_receipt_is_told_again_from_where_it_was_lost() {
        let mut receipts = Receipts::new();
        for n in 1..=4 {
            receipts.append(run(n, 1, n));
        }
        receipts.complete(BatchSeq::new(4), 0, 0);
        assert_eq!(told(&mut receipts, 9).len(), 4);
        receipts.rewind_to(2);
        assert_eq!(told(&mut receipts, 9), [(3, 1), (4, 1)]);
    }

    #[test]
    fn a_full_ring_drops_the_oldest_durable_run_and_never_one_in_flight() {
        let mut receipts = Receipts::new();
        for n in 1..=RUNS_MAX as u64 {
            receipts.append(run(n, 1, n));
        }
        assert!(!receipts.has_room());
        receipts.complete(BatchSeq::new(1), 0, 0);
        assert!(receipts.has_room());
        receipts.append(run(RUNS_MAX as u64 + 1, 1, RUNS_MAX as u64 + 1));
        assert_eq!(receipts.held_from(), 2);
    }
}
