//! Latency: HDR histograms in nanoseconds, their percentiles, and the files other tools read.

use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use serde::{Deserialize, Serialize};

/// The largest latency that is told apart: one minute.
const MAX_NS: u64 = 60_000_000_000;

/// A histogram of nanoseconds, 3 significant digits, from 1 ns to one minute; never grows.
#[derive(Clone, Debug)]
pub struct LatencyHistogram {
    histogram: Histogram<u64>,
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self::new()
    }
}

impl LatencyHistogram {
    /// An empty histogram, 216 KiB.
    ///
    /// # Panics
    /// Never: the bounds are constants that the histogram takes.
    #[must_use]
    pub fn new() -> Self {
        Self { histogram: Histogram::new_with_max(MAX_NS, 3).expect("valid constant bounds") }
    }

    /// One that was read: as it is when it has our bounds, else counted again in them.
    pub(super) fn from_histogram(histogram: Histogram<u64>) -> Self {
        let mut own = Self::new();
        let bounds = |of: &Histogram<u64>| (of.low(), of.high(), of.sigfig());
        if bounds(&own.histogram) == bounds(&histogram) {
            return Self { histogram };
        }
        for step in histogram.iter_recorded() {
            own.record_n(step.value_iterated_to(), step.count_at_value());
        }
        own
    }

    /// Counts one latency; what is longer than a minute counts as a minute.
    #[inline]
    pub fn record(&mut self, ns: u64) {
        self.histogram.saturating_record(ns);
    }

    /// Counts a latency `count` times.
    #[inline]
    pub fn record_n(&mut self, ns: u64, count: u64) {
        self.histogram.saturating_record_n(ns, count);
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// Adds all of another histogram.
    ///
    /// # Panics
    /// Never: all have the same bounds.
    pub fn merge(&mut self, other: &Self) {
        self.histogram.add(&other.histogram).expect("the same bounds");
    }

    /// How many do not exceed each of `bounds_ns`, which ascend; as exact as the histogram is.
    #[must_use]
    pub fn counts_to(&self, bounds_ns: &[u64]) -> Vec<u64> {
        let mut counts = vec![0; bounds_ns.len()];
        for step in self.histogram.iter_recorded() {
            let least_ns = self.histogram.lowest_equivalent(step.value_iterated_to());
            let from = bounds_ns.partition_point(|&bound| bound < least_ns);
            if let Some(count) = counts.get_mut(from) {
                *count += step.count_at_value();
            }
        }
        let mut below = 0;
        for count in &mut counts {
            below += *count;
            *count = below;
        }
        counts
    }

    /// All of them together, in nanoseconds, as exact as the histogram is.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.histogram.iter_recorded().fold(0.0, |sum, step| {
            #[allow(clippy::cast_precision_loss, reason = "a sum for a rate of it")]
            let part = step.value_iterated_to() as f64 * step.count_at_value() as f64;
            sum + part
        })
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.histogram.reset();
    }

    /// The latency that `quantile` (0 to 1) of all do not exceed; 0 when there are none.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> u64 {
        self.histogram.value_at_quantile(quantile).min(self.histogram.max())
    }

    /// The percentiles every report shows.
    #[must_use]
    pub fn percentiles(&self) -> Percentiles {
        Percentiles {
            p50: self.quantile(0.5),
            p90: self.quantile(0.9),
            p99: self.quantile(0.99),
            p99_9: self.quantile(0.999),
            p99_99: self.quantile(0.9999),
            max: self.histogram.max(),
        }
    }

    /// Writes the percentile distribution in microseconds, as `hdr-plot` and `plotFiles.html` read it.
    ///
    /// # Errors
    /// What the writer said.
    #[allow(clippy::cast_precision_loss, reason = "microseconds for people")]
    pub fn write_hgrm(&self, out: &mut dyn Write) -> io::Result<()> {
        let us = |ns: u64| ns as f64 / 1e3;
        writeln!(
            out,
            "{:>12} {:>14} {:>10} {:>14}",
            "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
        )?;
        writeln!(out)?;
        let mut total = 0;
        for value in self.histogram.iter_quantiles(5) {
            total += value.count_since_last_iteration();
            let (quantile, at) = (value.quantile_iterated_to(), us(value.value_iterated_to()));
            if quantile < 1.0 {
                let inverse = 1.0 / (1.0 - quantile);
                writeln!(out, "{at:12.3} {quantile:2.12} {total:10} {inverse:14.2}")?;
            } else {
                writeln!(out, "{at:12.3} {quantile:2.12} {total:10}")?;
            }
        }
        let (mean, deviation) = (self.histogram.mean() / 1e3, self.histogram.stdev() / 1e3);
        writeln!(out, "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]")?;
        let (max, count) = (us(self.histogram.max()), self.count());
        writeln!(out, "#[Max     = {max:12.3}, Total count    = {count:12}]")?;
        let buckets = self.histogram.buckets();
        writeln!(out, "#[Buckets = {buckets:12}, SubBuckets     = {:12}]", 2048)
    }
}

/// Writes histograms as one interval each of an HdrHistogram log (version 1.3), tagged by name.
///
/// # Errors
/// What the writer said.
///
/// # Panics
/// When a name holds a comma, a space or a line break.
pub(crate) fn write_hlog(
    out: &mut dyn Write,
    start: SystemTime,
    duration: Duration,
    tagged: &[(&str, &LatencyHistogram)],
) -> io::Result<()> {
    write_hlog_header(out, start)?;
    out.write_all(&hlog_lines(start, duration, tagged)?)
}

/// Writes what stands at the beginning of an HdrHistogram log that starts at `start`.
///
/// # Errors
/// What the writer said.
pub(crate) fn write_hlog_header(out: &mut dyn Write, start: SystemTime) -> io::Result<()> {
    let mut out = out;
    let mut serializer = V2DeflateSerializer::new();
    IntervalLogWriterBuilder::new()
        .add_comment("[Histogram log format version 1.3]")
        .add_comment("buslane: latencies in nanoseconds")
        .with_start_time(start)
        .with_base_time(UNIX_EPOCH)
        .begin_log_with(&mut out, &mut serializer)
        .map(|_| ())
}

/// The lines of an HdrHistogram log for one interval, a line each tag.
///
/// # Errors
/// When a histogram cannot be encoded.
///
/// # Panics
/// When a name holds a comma, a space or a line break.
pub(crate) fn hlog_lines(
    start: SystemTime,
    duration: Duration,
    tagged: &[(&str, &LatencyHistogram)],
) -> io::Result<Vec<u8>> {
    let mut lines = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let mut writer = IntervalLogWriterBuilder::new().begin_log_with(&mut lines, &mut serializer)?;
    let since_base = start.duration_since(UNIX_EPOCH).unwrap_or_default();
    for (name, histogram) in tagged {
        let tag = Tag::new(name).expect("a name without comma, space or line break");
        writer
            .write_histogram(&histogram.histogram, since_base, duration, Some(tag))
            .map_err(|error| io::Error::other(format!("{error:?}")))?;
    }
    // The writer begins with what stands at the beginning of a file.
    let is_line = |line: &&[u8]| line.starts_with(b"Tag=");
    Ok(lines.split_inclusive(|byte| *byte == b'\n').filter(is_line).flatten().copied().collect())
}

/// Percentiles in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Percentiles {
    /// Median.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p99_9: u64,
    /// 99.99 %.
    pub p99_99: u64,
    /// The largest.
    pub max: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thousand() -> LatencyHistogram {
        let mut histogram = LatencyHistogram::new();
        (1..=1000).for_each(|us| histogram.record(us * 1000));
        histogram
    }

    #[test]
    fn percentiles_are_within_a_thousandth() {
        let percentiles = thousand().percentiles();
        assert!(percentiles.p50.abs_diff(500_000) <= 500, "{percentiles:?}");
        assert!(percentiles.p99.abs_diff(990_000) <= 990, "{percentiles:?}");
        assert!(percentiles.max.abs_diff(1_000_000) <= 1_000, "{percentiles:?}");
    }

    #[test]
    fn counts_to_bounds_are_of_all_below() {
        let bounds = [1, 1_000, 10_500, 500_000, 2_000_000];
        assert_eq!(thousand().counts_to(&bounds), [0, 1, 10, 500, 1_000]);
        assert_eq!(LatencyHistogram::new().counts_to(&bounds), [0; 5]);
    }

    #[test]
    fn what_is_too_long_counts_as_a_minute() {
        let mut histogram = LatencyHistogram::new();
        histogram.record(u64::MAX);
        assert_eq!(histogram.count(), 1);
        assert!(histogram.percentiles().max >= MAX_NS);
    }

    #[test]
    fn the_files_have_the_form_other_tools_expect() {
        let mut text = Vec::new();
        thousand().write_hgrm(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(
            text.starts_with("       Value     Percentile TotalCount 1/(1-Percentile)\n\n"),
            "{text}"
        );
        assert!(text.contains("Total count    =         1000]"), "{text}");
        let mut log = Vec::new();
        let second = Duration::from_secs(1);
        write_hlog(&mut log, UNIX_EPOCH + second, second, &[("response", &thousand())]).unwrap();
        let log = String::from_utf8(log).unwrap();
        assert!(log.starts_with("#[Histogram log format version 1.3]\n"), "{log}");
        assert!(log.contains("Tag=response,") && log.contains("HISTF"), "{log}");
    }
}
