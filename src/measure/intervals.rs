//! A run over time: latencies of every second, or of a few where it is long.
//!
//! All histograms are made, and their memory touched, before the load starts. Going from one to the next is
//! an index: nothing is copied, merged or written while it is measured.

use crate::metrics::latency::LatencyHistogram;

/// Length of an interval at least.
const INTERVAL_NS: u64 = 1_000_000_000;

/// Latencies of the messages that were acknowledged in some time.
#[derive(Clone, Debug)]
pub(crate) struct Latencies {
    /// Acknowledgement minus intended send.
    pub response: LatencyHistogram,
    /// Acknowledgement minus actual send.
    pub service: LatencyHistogram,
    /// Actual minus intended send.
    pub delay: LatencyHistogram,
    /// Receive to durable, from receipts.
    pub server: LatencyHistogram,
    /// In the device, from receipts.
    pub device: LatencyHistogram,
}

impl Latencies {
    pub(super) fn new() -> Self {
        Self {
            response: LatencyHistogram::new(),
            service: LatencyHistogram::new(),
            delay: LatencyHistogram::new(),
            server: LatencyHistogram::new(),
            device: LatencyHistogram::new(),
        }
    }

    /// Empty ones in memory that is there already: zeroes that were never written are not.
    fn touched() -> Self {
        let mut latencies = Self::new();
        latencies.all_mut().into_iter().for_each(LatencyHistogram::reset);
        latencies
    }

    /// All, each with its name.
    #[must_use]
    pub(crate) fn named(&self) -> [(&'static str, &LatencyHistogram); 5] {
        [
            ("response", &self.response),
            ("service", &self.service),
            ("delay", &self.delay),
            ("server", &self.server),
            ("device", &self.device),
        ]
    }

    fn all_mut(&mut self) -> [&mut LatencyHistogram; 5] {
        let Self { response, service, delay, server, device } = self;
        [response, service, delay, server, device]
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (own, (_, other)) in self.all_mut().into_iter().zip(other.named()) {
            own.merge(other);
        }
    }
}

/// A stretch of the run.
#[derive(Clone, Debug)]
pub(crate) struct LoadInterval {
    /// Unix time of its start, in nanoseconds.
    pub start_unix_ns: u64,
    /// How long it was.
    pub duration_ns: u64,
    /// What was acknowledged in it.
    pub latencies: Latencies,
}

/// The histograms of a run while it is measured.
#[derive(Debug)]
pub(super) struct Recorder {
    start_ns: u64,
    interval_ns: u64,
    intervals: Vec<Latencies>,
}

impl Recorder {
    /// All the memory a run of `duration_ns` will need. When it starts is set once that is there.
    pub(super) fn new(duration_ns: u64, intervals_max: u32) -> Self {
        let most = u64::from(intervals_max.max(1));
        // Whole seconds, and none that would never be used.
        let seconds = duration_ns.div_ceil(INTERVAL_NS * most).max(1);
        let interval_ns = seconds * INTERVAL_NS;
        let count = duration_ns.div_ceil(interval_ns).clamp(1, most);
        let intervals = (0..count).map(|_| Latencies::touched()).collect();
        Self { start_ns: 0, interval_ns, intervals }
    }

    /// Counts time from here.
    pub(super) fn start(&mut self, start_ns: u64) {
        self.start_ns = start_ns;
    }

    /// Which interval a moment belongs to; what comes late belongs to the last.
    pub(super) fn index(&self, now_ns: u64) -> usize {
        let index = now_ns.saturating_sub(self.start_ns) / self.interval_ns;
        let last = self.intervals.len() - 1;
        usize::try_from(index).map_or(last, |index| index.min(last))
    }

    /// The histograms of an interval.
    pub(super) fn get(&mut self, index: usize) -> &mut Latencies {
        &mut self.intervals[index]
    }

    /// All intervals until `end_ns`, and their sum.
    pub(super) fn finish(
        self,
        end_ns: u64,
        unix_ns_at: impl Fn(u64) -> u64,
    ) -> (Latencies, Vec<LoadInterval>) {
        let mut all = Latencies::new();
        let mut intervals = Vec::new();
        let last = self.intervals.len() - 1;
        for (index, latencies) in self.intervals.into_iter().enumerate() {
            let start_ns = self.start_ns + index as u64 * self.interval_ns;
            let full = if index == last { u64::MAX } else { self.interval_ns };
            let duration_ns = end_ns.saturating_sub(start_ns).min(full);
            if duration_ns == 0 {
                break;
            }
            all.merge(&latencies);
            intervals.push(LoadInterval {
                start_unix_ns: unix_ns_at(start_ns),
                duration_ns,
                latencies,
            });
        }
        (all, intervals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorder(duration_s: u64, intervals: u32) -> Recorder {
        let mut recorder = Recorder::new(duration_s * INTERVAL_NS, intervals);
        recorder.start(500);
        recorder
    }

    fn record(recorder: &mut Recorder, now_ns: u64, ns: u64) {
        let index = recorder.index(now_ns);
        recorder.get(index).response.record(ns);
    }

    #[test]
    fn intervals_are_whole_seconds_and_not_too_many() {
        let shape = |duration_s, most| {
            let recorder = recorder(duration_s, most);
            (recorder.interval_ns / INTERVAL_NS, recorder.intervals.len())
        };
        assert_eq!(shape(10, 60), (1, 10));
        assert_eq!(shape(61, 60), (2, 31));
        assert_eq!(shape(600, 12), (50, 12));
        assert_eq!((shape(0, 60), shape(5, 0)), ((1, 1), (5, 1)));
    }

    #[test]
    fn the_sum_of_the_intervals_is_what_is_reported() {
        let mut recorder = recorder(3, 60);
        let end_ns = 500 + 4_200_000_000;
        for message in 0..4_200_u64 {
            record(&mut recorder, 500 + message * 1_000_000, message);
        }
        record(&mut recorder, end_ns, 7);
        let (all, intervals) = recorder.finish(end_ns, |now_ns| now_ns + 1_000);
        let counts: Vec<_> =
            intervals.iter().map(|interval| interval.latencies.response.count()).collect();
        assert_eq!(counts, [1_000, 1_000, 2_201], "the last takes what is left");
        let lengths: Vec<_> = intervals.iter().map(|interval| interval.duration_ns).collect();
        assert_eq!(lengths, [INTERVAL_NS, INTERVAL_NS, 2_200_000_000]);
        assert_eq!(intervals[1].start_unix_ns, 500 + INTERVAL_NS + 1_000);
        assert_eq!(all.response.count(), 4_201);
        assert_eq!(all.response.percentiles().max, 4_199);
    }

    #[test]
    fn a_run_that_ends_early_has_no_intervals_behind_its_end() {
        let mut recorder = recorder(30, 60);
        record(&mut recorder, 600, 1);
        let (all, intervals) = recorder.finish(1_500_000_500, |now_ns| now_ns);
        assert_eq!((intervals.len(), all.response.count()), (2, 1));
        assert_eq!(intervals[1].duration_ns, 500_000_000);
    }
}
