//! Where the time of a message goes in a shard, and which turns took too long.

use super::latency::LatencyHistogram;
use crate::limits::STALLS_KEPT;

/// A part of a message's way through the shard. All are measured for the oldest message of a batch and
/// counted once for each of its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Taken from the port, until everything of that turn was appended.
    ReceiveAppend,
    /// Waiting for a place in the disk's queue.
    AppendSubmit,
    /// Sealed, written, and known durable with all before it.
    SubmitDurable,
    /// Until the acknowledgement was given to the port.
    DurableTransmit,
    /// All of it.
    Whole,
}

impl Stage {
    /// All stages, in the order a message passes them.
    pub const ALL: [Self; 5] = [
        Self::ReceiveAppend,
        Self::AppendSubmit,
        Self::SubmitDurable,
        Self::DurableTransmit,
        Self::Whole,
    ];

    /// Name, as metrics and files spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ReceiveAppend => "receive_append",
            Self::AppendSubmit => "append_submit",
            Self::SubmitDurable => "submit_durable",
            Self::DurableTransmit => "durable_transmit",
            Self::Whole => "whole",
        }
    }
}

/// When a batch passed which point, in nanoseconds of the shard's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchTimes {
    /// Its messages.
    pub messages: u64,
    /// Its first message was taken from the port.
    pub received_ns: u64,
    /// The turn of its first message had appended what it received.
    pub appended_ns: u64,
    /// It was given to the disk.
    pub submitted_ns: u64,
    /// It, and all before it, was known durable.
    pub durable_ns: u64,
}

/// One histogram for each stage.
#[derive(Clone, Debug, Default)]
pub struct Stages {
    histograms: [LatencyHistogram; Stage::ALL.len()],
}

impl Stages {
    /// Counts a batch whose acknowledgements left at `transmitted_ns`.
    pub fn record(&mut self, batch: &BatchTimes, transmitted_ns: u64) {
        let BatchTimes { messages, received_ns, appended_ns, submitted_ns, durable_ns } = *batch;
        for (stage, from_ns, to_ns) in [
            (Stage::ReceiveAppend, received_ns, appended_ns),
            (Stage::AppendSubmit, appended_ns, submitted_ns),
            (Stage::SubmitDurable, submitted_ns, durable_ns),
            (Stage::DurableTransmit, durable_ns, transmitted_ns),
            (Stage::Whole, received_ns, transmitted_ns),
        ] {
            let ns = to_ns.saturating_sub(from_ns);
            self.histograms[stage as usize].record_n(ns, messages);
        }
    }

    /// The histogram of a stage.
    #[must_use]
    pub fn get(&self, stage: Stage) -> &LatencyHistogram {
        &self.histograms[stage as usize]
    }

    /// Adds all of another's.
    pub fn merge(&mut self, other: &Self) {
        for (own, other) in self.histograms.iter_mut().zip(&other.histograms) {
            own.merge(other);
        }
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.histograms.iter_mut().for_each(LatencyHistogram::reset);
    }
}

/// A turn that took longer than it may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stall {
    /// Unix time of its end, in nanoseconds.
    pub unix_ns: u64,
    /// How long it took.
    pub ns: u64,
    /// The longest stretch of it: `receive`, `commit`, `transmit`, `deliver`, or `idle` where it had no work,
    /// so that something else ran on the core.
    pub stage: &'static str,
}

/// The newest stalls, and how many there were.
#[derive(Clone, Debug)]
pub struct StallLog {
    count: u64,
    newest: [Stall; STALLS_KEPT],
}

impl Default for StallLog {
    fn default() -> Self {
        Self { count: 0, newest: [Stall::default(); STALLS_KEPT] }
    }
}

impl StallLog {
    /// Notes one.
    pub fn push(&mut self, stall: Stall) {
        let place = usize::try_from(self.count % STALLS_KEPT as u64).expect("below 64");
        self.newest[place] = stall;
        self.count += 1;
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Those remembered, the newest first.
    pub fn newest(&self) -> impl Iterator<Item = &Stall> {
        let kept = self.count.min(STALLS_KEPT as u64);
        (1..=kept).map(|back| {
            let place = (self.count - back) % STALLS_KEPT as u64;
            &self.newest[usize::try_from(place).expect("below 64")]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_add_up_to_the_whole() {
        let mut stages = Stages::default();
        let batch = BatchTimes {
            messages: 3,
            received_ns: 100,
            appended_ns: 300,
            submitted_ns: 350,
            durable_ns: 1_350,
        };
        stages.record(&batch, 1_750);
        let p50 = |stage| stages.get(stage).quantile(0.5);
        let parts: Vec<u64> = Stage::ALL.iter().map(|&stage| p50(stage)).collect();
        assert_eq!(parts, [200, 50, 1_000, 400, 1_650]);
        assert_eq!(stages.get(Stage::Whole).count(), 3);
    }

    #[test]
    fn the_newest_stalls_are_kept() {
        let mut stalls = StallLog::default();
        for ns in 0..100 {
            stalls.push(Stall { unix_ns: 1, ns, stage: "idle" });
        }
        assert_eq!(stalls.count(), 100);
        let kept: Vec<u64> = stalls.newest().map(|stall| stall.ns).collect();
        let first = 100 - STALLS_KEPT as u64;
        assert_eq!(kept, (first..100).rev().collect::<Vec<_>>(), "all are counted");
    }
}
