//! Series: what a tag did, altogether and over time, in few enough points to draw.
//!
//! Time is cut into buckets of one interval each, or of several when there would be too many to draw.
//! Messages of an interval that lies in two buckets are shared between them, so that clocks which drift
//! make no dents; its latencies count where its middle is. What is reported of all intervals together is
//! never thinned.

use std::collections::BTreeMap;

use super::axis::tail;
use crate::metrics::hlog::{Hlog, HlogError, Interval};
use crate::metrics::latency::{LatencyHistogram, Percentiles};

/// Points over time of one series at most.
pub(crate) const POINTS_MAX: usize = 240;

/// Points over time of all series together, about: what keeps a page below a megabyte.
const POINTS_TOTAL: usize = 8_000;

/// Tags of a report at most; more come of tags that hold numbers or times.
pub(crate) const SERIES_MAX: usize = 600;

/// Steps of a percentile curve for each factor of ten in 1/(1-q).
const CURVE_STEPS: u32 = 25;

/// What `bench run` calls what it measures.
const RUN_TAG: &str = "response";

/// Characters of a name that are shown.
const NAME_CHARS: usize = 60;

/// A moment of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    /// Middle of its bucket, in seconds since the file's first interval.
    pub at_s: f64,
    /// Messages a second.
    pub rate: f64,
    /// Of its messages, if it had any.
    pub latency: Option<Percentiles>,
}

/// What a tag of a file did.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    /// Which of the files, from 0.
    pub source: usize,
    /// The part of the tag before its last point, as in `shard0.whole`; empty without.
    pub group: String,
    /// The rest of the tag.
    pub stage: String,
    /// How many were counted.
    pub count: u64,
    /// Of all intervals together.
    pub percentiles: Percentiles,
    /// Decimal logarithm of 1/(1-q), and the latency at q in nanoseconds.
    pub curve: Vec<(f64, u64)>,
    /// In the order of time; empty for what has no place in time.
    pub points: Vec<Point>,
}

impl Series {
    /// The tag as it was.
    #[must_use]
    pub(crate) fn tag(&self) -> String {
        if self.group.is_empty() {
            return self.stage.clone();
        }
        format!("{}.{}", self.group, self.stage)
    }
}

fn is_floor(stage: &str) -> bool {
    stage.starts_with("floor")
}

/// What is shown of a name that somebody else chose.
#[must_use]
pub(crate) fn shortened(name: &str) -> String {
    if name.chars().count() <= NAME_CHARS {
        return name.to_owned();
    }
    name.chars().take(NAME_CHARS - 3).chain("...".chars()).collect()
}

/// How time is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    /// Unix time of the first interval's start, in nanoseconds.
    pub start_ns: u64,
    /// End of the last interval.
    pub end_ns: u64,
    /// Length of a bucket; the last may be a little longer or shorter.
    pub width_ns: u64,
    /// Buckets.
    pub buckets: usize,
    /// Intervals in a bucket, about; more than 1 when they were merged to be drawn.
    pub merged: u64,
    /// Time between rounds of a run, which is not in the grid.
    pub left_out_ns: u64,
}

impl Grid {
    /// The grid of a file for at most so many points; none when nothing in it has a length.
    fn new(intervals: &[Interval<'_>], left_out_ns: u64, points_max: usize) -> Option<Self> {
        let timed = || intervals.iter().filter(|interval| has_time(interval));
        let start_ns = timed().map(|interval| interval.start_ns).min()?;
        let end_ns = timed().map(Interval::end_ns).max()?;
        let mut lengths: Vec<u64> = timed().map(|interval| interval.duration_ns).collect();
        lengths.sort_unstable();
        let length_ns = lengths[lengths.len() / 2];
        let merged = buckets(end_ns - start_ns, length_ns).div_ceil(points_max as u64).max(1);
        let width_ns = length_ns.saturating_mul(merged);
        let buckets = buckets(end_ns - start_ns, width_ns).clamp(1, points_max as u64);
        let buckets = usize::try_from(buckets).unwrap_or(points_max);
        Some(Self { start_ns, end_ns, width_ns, buckets, merged, left_out_ns })
    }

    /// Start and end of a bucket since the grid's start, in nanoseconds.
    fn bounds(&self, bucket: usize) -> (u64, u64) {
        let from = self.width_ns.saturating_mul(bucket as u64);
        let last = bucket + 1 == self.buckets;
        let all = self.end_ns - self.start_ns;
        (from.min(all), if last { all } else { from.saturating_add(self.width_ns).min(all) })
    }

    /// Cuts a stretch of time: the buckets it lies in, and how much of it is in each.
    fn parts(&self, from_unix_ns: u64, to_unix_ns: u64, mut each: impl FnMut(usize, u64)) {
        let from = from_unix_ns.saturating_sub(self.start_ns);
        let to = to_unix_ns.saturating_sub(self.start_ns);
        for bucket in self.bucket(from_unix_ns)..self.buckets {
            let (begin, end) = self.bounds(bucket);
            each(bucket, to.min(end).saturating_sub(from.max(begin)));
            if end >= to {
                break;
            }
        }
    }

    fn bucket(&self, unix_ns: u64) -> usize {
        let bucket = unix_ns.saturating_sub(self.start_ns) / self.width_ns;
        usize::try_from(bucket).map_or(self.buckets - 1, |bucket| bucket.min(self.buckets - 1))
    }
}

fn has_time(interval: &Interval<'_>) -> bool {
    interval.duration_ns > 0 && !is_floor(interval.tag)
}

/// How many of a length fit; a rest of less than a tenth belongs to the last.
fn buckets(range_ns: u64, length_ns: u64) -> u64 {
    range_ns.saturating_sub(length_ns / 10).div_ceil(length_ns)
}

/// Points of a series when there are so many.
#[must_use]
pub(crate) fn points_max(series: usize) -> usize {
    (POINTS_TOTAL / series.max(1)).clamp(12, POINTS_MAX)
}

/// Tags of a file.
#[must_use]
pub(crate) fn tags(hlog: &Hlog<'_>) -> usize {
    let mut tags: Vec<&str> = hlog.intervals.iter().map(|interval| interval.tag).collect();
    tags.sort_unstable();
    tags.dedup();
    tags.len()
}

/// The series of a file, in the order their tags appear, and how time was cut.
///
/// # Errors
/// When the histogram of a line cannot be read.
pub(crate) fn read(
    hlog: &Hlog<'_>,
    source: usize,
    points_max: usize,
) -> Result<(Vec<Series>, Option<Grid>), HlogError> {
    let (intervals, left_out_ns) = closed_up(hlog);
    let grid = Grid::new(&intervals, left_out_ns, points_max);
    let mut order: Vec<&str> = Vec::new();
    let mut by_tag: BTreeMap<&str, Vec<&Interval<'_>>> = BTreeMap::new();
    for interval in &intervals {
        let intervals = by_tag.entry(interval.tag).or_default();
        if intervals.is_empty() {
            order.push(interval.tag);
        }
        intervals.push(interval);
    }
    let grid_of = |tag| grid.as_ref().filter(|_| by_tag[tag].iter().any(|each| has_time(each)));
    // What lies below the engine stands below it.
    order.sort_by_key(|tag| is_floor(tag));
    let mut all = Vec::new();
    for tag in order {
        all.push(read_tag(tag, &by_tag[tag], source, grid_of(tag).map(OverTime::new))?);
    }
    Ok((all, grid))
}

/// The intervals of a file, those of `bench run` closed up: between its rounds it measures something else.
/// An appliance writes no line for a second in which nothing came; that is a second with nothing.
fn closed_up<'a>(hlog: &Hlog<'a>) -> (Vec<Interval<'a>>, u64) {
    let mut runs: Vec<&Interval<'_>> =
        hlog.intervals.iter().filter(|interval| interval.tag == RUN_TAG).collect();
    runs.sort_by_key(|interval| interval.start_ns);
    let mut gaps: Vec<(u64, u64)> = Vec::new();
    for pair in runs.windows(2) {
        let gap_ns = pair[1].start_ns.saturating_sub(pair[0].end_ns());
        if gap_ns > 0 {
            gaps.push((pair[1].start_ns, gap_ns));
        }
    }
    let shifted = |interval: &Interval<'a>| {
        let before = gaps.iter().take_while(|(end_ns, _)| *end_ns <= interval.start_ns);
        let shift_ns: u64 = before.map(|(_, gap_ns)| gap_ns).sum();
        let mut interval = *interval;
        interval.start_ns -= shift_ns;
        interval
    };
    let left_out_ns = gaps.iter().map(|(_, gap_ns)| gap_ns).sum();
    (hlog.intervals.iter().map(shifted).collect(), left_out_ns)
}

/// One histogram at a time is held for the bucket that is being filled, and one for all.
fn read_tag(
    tag: &str,
    intervals: &[&Interval<'_>],
    source: usize,
    mut over_time: Option<OverTime<'_>>,
) -> Result<Series, HlogError> {
    let (group, stage) = tag.rsplit_once('.').unwrap_or(("", tag));
    let mut all = LatencyHistogram::new();
    for interval in intervals {
        let histogram = interval.histogram()?;
        match &mut over_time {
            Some(over_time) => over_time.add(interval, &histogram, &mut all),
            None => all.merge(&histogram),
        }
    }
    let points = over_time.map(|over_time| over_time.finish(&mut all)).unwrap_or_default();
    Ok(Series {
        source,
        group: shortened(group),
        stage: shortened(stage),
        count: all.count(),
        percentiles: if all.count() == 0 { Percentiles::default() } else { all.percentiles() },
        curve: curve(&all),
        points,
    })
}

/// The points of a tag while they are made.
struct OverTime<'a> {
    grid: &'a Grid,
    /// Messages of each bucket.
    messages: Vec<f64>,
    latencies: Vec<Option<Percentiles>>,
    /// The bucket being filled, and its latencies.
    bucket: usize,
    histogram: LatencyHistogram,
}

impl<'a> OverTime<'a> {
    fn new(grid: &'a Grid) -> Self {
        Self {
            grid,
            messages: vec![0.0; grid.buckets],
            latencies: vec![None; grid.buckets],
            bucket: 0,
            histogram: LatencyHistogram::new(),
        }
    }

    fn add(
        &mut self,
        interval: &Interval<'_>,
        histogram: &LatencyHistogram,
        all: &mut LatencyHistogram,
    ) {
        self.share(interval, histogram.count() as f64);
        let middle = self.grid.bucket(interval.middle_ns());
        if middle != self.bucket {
            self.close(all);
            self.bucket = middle;
        }
        self.histogram.merge(histogram);
    }

    /// Gives each bucket the part of the messages that fell into it.
    fn share(&mut self, interval: &Interval<'_>, messages: f64) {
        if interval.duration_ns == 0 {
            self.messages[self.grid.bucket(interval.start_ns)] += messages;
            return;
        }
        let each = messages / interval.duration_ns as f64;
        let own = &mut self.messages;
        let share = |bucket: usize, ns: u64| own[bucket] += each * ns as f64;
        self.grid.parts(interval.start_ns, interval.end_ns(), share);
    }

    fn close(&mut self, all: &mut LatencyHistogram) {
        if self.histogram.count() > 0 {
            all.merge(&self.histogram);
            self.latencies[self.bucket] = Some(self.histogram.percentiles());
            self.histogram.reset();
        }
    }

    fn finish(mut self, all: &mut LatencyHistogram) -> Vec<Point> {
        self.close(all);
        let buckets = self.messages.iter().zip(&self.latencies).enumerate();
        let points = buckets.map(|(bucket, (messages, latency))| {
            let (begin, end) = self.grid.bounds(bucket);
            Point {
                at_s: (begin + (end - begin) / 2) as f64 / 1e9,
                rate: messages * 1e9 / (end - begin).max(1) as f64,
                latency: *latency,
            }
        });
        points.collect()
    }
}

/// The curve up to the largest value, without points that a line between their neighbours shows as well.
fn curve(all: &LatencyHistogram) -> Vec<(f64, u64)> {
    if all.count() == 0 {
        return Vec::new();
    }
    let last = (all.count() as f64).log10();
    let mut curve: Vec<(f64, u64)> = Vec::new();
    for step in 0.. {
        let at = f64::from(step) / f64::from(CURVE_STEPS);
        if at >= last {
            break;
        }
        let ns = all.quantile(1.0 - 10_f64.powf(-at));
        if let [.., (_, before), (end, same)] = curve.as_mut_slice()
            && *before == ns
            && *same == ns
        {
            *end = at;
            continue;
        }
        curve.push((at, ns));
    }
    curve.push((tail(1.0 - 10_f64.powf(-last)).max(last), all.percentiles().max));
    curve
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::metrics::hlog::parse;
    use crate::metrics::latency::{hlog_lines, write_hlog_header};

    /// A log of one tag: for each second, how many messages, all of `ns(second)`.
    fn log(length: Duration, counts: &[u64], ns: fn(u64) -> u64) -> Vec<u8> {
        tagged_log("shard0.whole", length, counts, ns)
    }

    fn tagged_log(tag: &str, length: Duration, counts: &[u64], ns: fn(u64) -> u64) -> Vec<u8> {
        let start = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let mut text = Vec::new();
        write_hlog_header(&mut text, start).unwrap();
        for (second, count) in (0_u32..).zip(counts) {
            if *count > 0 {
                let mut histogram = LatencyHistogram::new();
                histogram.record_n(ns(u64::from(second)), *count);
                let tagged = [(tag, &histogram)];
                text.extend(hlog_lines(start + length * second, length, &tagged).unwrap());
            }
        }
        text
    }

    fn only(text: &[u8], points_max: usize) -> (Series, Grid) {
        let (mut series, grid) = read(&parse(text).unwrap(), 0, points_max).unwrap();
        assert_eq!(series.len(), 1);
        (series.remove(0), grid.unwrap())
    }

    #[test]
    fn few_intervals_are_points_of_their_own() {
        let text = log(Duration::from_secs(1), &[100, 0, 300], |second| 1_000 * (second + 1));
        let (series, grid) = only(&text, 10);
        assert_eq!((grid.buckets, grid.merged), (3, 1));
        assert_eq!((series.group.as_str(), series.stage.as_str()), ("shard0", "whole"));
        assert_eq!((series.count, series.tag().as_str()), (400, "shard0.whole"));
        let rates: Vec<f64> = series.points.iter().map(|point| point.rate).collect();
        assert_eq!(rates, [100.0, 0.0, 300.0]);
        assert!(series.points[1].latency.is_none(), "a second without messages has no latency");
        assert!((series.points[2].at_s - 2.5).abs() < 1e-9);
        assert!(series.points[2].latency.unwrap().max.abs_diff(3_000) < 4);
    }

    #[test]
    fn rounds_of_a_run_are_closed_up_and_seconds_of_an_appliance_are_not() {
        let counts = [100, 0, 0, 300, 0, 500];
        let second = Duration::from_secs(1);
        let (series, grid) = only(&tagged_log("response", second, &counts, |_| 1_000), 10);
        let rates: Vec<_> = series.points.iter().map(|point| point.rate).collect();
        assert_eq!((rates, grid.left_out_ns), (vec![100.0, 300.0, 500.0], 3_000_000_000));
        let (series, grid) = only(&tagged_log("whole", second, &counts, |_| 1_000), 10);
        assert_eq!((series.points.len(), grid.left_out_ns), (6, 0));
    }

    #[test]
    fn many_intervals_are_merged_and_nothing_is_lost() {
        let counts = vec![7; 3_600];
        let text = log(Duration::from_secs(1), &counts, |second| 1_000 + second);
        let (series, grid) = only(&text, 240);
        assert_eq!((grid.merged, grid.buckets), (15, 240));
        assert_eq!(series.points.len(), 240);
        assert_eq!(series.count, 7 * 3_600);
        let drawn: f64 = series.points.iter().map(|point| point.rate * 15.0).sum();
        assert!((drawn - 25_200.0).abs() < 1e-6, "{drawn}");
        assert!(series.points.iter().all(|point| point.latency.is_some()));
        let max = series.points.iter().map(|point| point.latency.unwrap().max).max().unwrap();
        assert_eq!(max, series.percentiles.max, "no spike is thinned away");
    }

    #[test]
    fn intervals_that_drift_make_no_dents() {
        let text = log(Duration::from_millis(1_003), &[1_003; 1_000], |_| 5_000);
        let (series, _) = only(&text, 170);
        for point in &series.points {
            assert!((point.rate - 1_000.0).abs() < 1.0, "{point:?}");
        }
    }

    #[test]
    fn a_floor_has_no_place_in_time() {
        let mut histogram = LatencyHistogram::new();
        histogram.record(1_000);
        let mut text = Vec::new();
        write_hlog_header(&mut text, UNIX_EPOCH).unwrap();
        let tagged = [("floor-disk", &histogram)];
        text.extend(hlog_lines(UNIX_EPOCH, Duration::from_secs(9), &tagged).unwrap());
        let (series, grid) = read(&parse(&text).unwrap(), 0, 10).unwrap();
        assert!(grid.is_none() && is_floor(&series[0].stage) && series[0].points.is_empty());
    }

    #[test]
    fn a_curve_ends_at_the_largest_value_and_drops_what_is_flat() {
        let mut histogram = LatencyHistogram::new();
        histogram.record_n(1_000, 99_999);
        histogram.record_n(1_000_000, 1);
        let curve = curve(&histogram);
        assert!(curve.len() < 6, "{curve:?}");
        let (at, ns) = *curve.last().unwrap();
        assert!((at - 5.0).abs() < 1e-9 && ns.abs_diff(1_000_000) < 1_000);
    }

    #[test]
    fn there_are_fewer_points_when_there_are_many_series() {
        assert_eq!((points_max(1), points_max(20), points_max(100)), (240, 240, 80));
        assert_eq!(points_max(SERIES_MAX), 13);
        assert_eq!(shortened(&"x".repeat(100)).len(), NAME_CHARS);
        assert_eq!(shortened("shard0"), "shard0");
    }
}
