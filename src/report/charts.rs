//! Which plots a page has: percentiles of each group of stages, throughput and latency over time.
//!
//! A group is what one file says of one shard. A line's colour says which stage it is, and where groups
//! are compared, which group.

use super::axis::{Axis, percentile_axis};
use super::evidence::Evidence;
use super::plot::{Line, Plot, Scale};
use super::series::{Point, Series};
use super::{micros, thousands};

/// Groups that are drawn; the table has all.
pub(super) const GROUPS_DRAWN: usize = 12;

/// Colours there are.
const COLOURS: usize = 8;

const WIDE: (f64, f64) = (1160.0, 400.0);
const HALF: (f64, f64) = (570.0, 320.0);

/// Stages with a colour of their own; the rest share one.
const STAGES: [(&str, &str); 12] = [
    ("response", "c0"),
    ("whole", "c0"),
    ("service", "c1"),
    ("receive_append", "c1"),
    ("delay", "c2"),
    ("append_submit", "c2"),
    ("server", "c3"),
    ("submit_durable", "c3"),
    ("device", "c4"),
    ("durable_transmit", "c4"),
    ("floor-port", "c6 dash"),
    ("floor-disk", "c7 dash"),
];

/// What one file says of one shard.
#[derive(Debug)]
pub(super) struct Group<'a> {
    pub(super) name: String,
    source: usize,
    series: Vec<&'a Series>,
}

impl<'a> Group<'a> {
    /// Its series that tells of whole messages; without one of the known names, its first.
    pub(super) fn headline(&self) -> &'a Series {
        let named = |name| self.series.iter().find(move |series| series.stage == name);
        named("response").or_else(|| named("whole")).copied().unwrap_or(self.series[0])
    }
}

/// The groups, in the order of files and tags.
pub(super) fn groups(evidence: &Evidence) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for series in &evidence.series {
        let known = groups
            .iter_mut()
            .find(|group| group.source == series.source && group.series[0].group == series.group);
        match known {
            Some(group) => group.series.push(series),
            None => groups.push(Group {
                name: evidence.in_source(series.source, &series.group),
                source: series.source,
                series: vec![series],
            }),
        }
    }
    groups
}

/// Percentiles: the groups beside each other, then each with its stages.
pub(super) fn percentiles(evidence: &Evidence, groups: &[Group<'_>]) -> Vec<Plot> {
    let drawn = &groups[..groups.len().min(GROUPS_DRAWN)];
    let mut plots = Vec::new();
    if drawn.len() > 1 {
        let lines = drawn.iter().enumerate().map(|(at, group)| {
            let series = group.headline();
            (group_class(at), evidence.name(series), series)
        });
        let title = "Percentiles, compared".to_owned();
        plots.push(percentile_plot("pc", title, WIDE, &lines.collect::<Vec<_>>()));
    }
    for (at, group) in drawn.iter().enumerate() {
        // The whole first: it lies broad below its parts, which may come to the same.
        let headline = group.headline();
        let mut lines = vec![(stage_class(&headline.stage) + " whole", headline)];
        let parts = group.series.iter().filter(|series| !std::ptr::eq(**series, headline));
        lines.extend(parts.map(|series| (stage_class(&series.stage), *series)));
        let lines: Vec<_> =
            lines.into_iter().map(|(class, of)| (class, of.stage.clone(), of)).collect();
        let (title, size) = match group.name.as_str() {
            "" => ("Percentiles by stage".to_owned(), WIDE),
            name if drawn.len() == 1 => (format!("Percentiles by stage: {name}"), WIDE),
            name => (format!("Percentiles by stage: {name}"), HALF),
        };
        let mut plot = percentile_plot(&format!("p{at}"), title, size, &lines);
        plot.levels = floor_level(evidence, group.source);
        plots.push(plot.with_levels_in_view());
    }
    plots
}

/// The floor's sum of medians, where the run measured it.
fn floor_level(evidence: &Evidence, source: usize) -> Vec<(f64, String)> {
    let run = evidence.sources[source].run.as_ref();
    let floor = run.and_then(|run| run.floor).filter(|floor| floor.sum_p50_ns() > 0);
    let level = floor.map(|floor| {
        let ns = floor.sum_p50_ns();
        (us(ns), format!("floor, round trip + write, p50: {} us", micros(ns)))
    });
    level.into_iter().collect()
}

impl Plot {
    fn with_levels_in_view(mut self) -> Self {
        let lines = self.lines.iter().flat_map(|line| line.points.iter().flatten());
        let values = lines.map(|(_, y)| *y).chain(self.levels.iter().map(|(value, _)| *value));
        self.y = Scale::new(Axis::latency(values), LATENCY);
        self
    }
}

const LATENCY: &str = "Latency (us)";

fn percentile_plot(
    id: &str,
    title: String,
    size: (f64, f64),
    lines: &[(String, String, &Series)],
) -> Plot {
    let count = lines.iter().map(|(_, _, series)| series.count).max().unwrap_or(0);
    let (axis, ticks) = percentile_axis(count);
    let line = |(class, name, series): &(String, String, &Series)| Line {
        class: class.clone(),
        name: name.clone(),
        points: series.curve.iter().map(|(at, ns)| Some((*at, us(*ns)))).collect(),
    };
    let said = |(_, name, series): &(String, String, &Series)| {
        let of = series.percentiles;
        format!(
            "{name}: p50 {} us, p99 {} us, max {} us",
            micros(of.p50),
            micros(of.p99),
            micros(of.max)
        )
    };
    Plot {
        id: id.to_owned(),
        title,
        description: lines.iter().map(said).collect::<Vec<_>>().join("; "),
        size,
        x: Scale { axis, ticks, label: "Percentile (%)".to_owned() },
        y: Scale::new(Axis::from_zero(1.0), LATENCY),
        kind: "percentile",
        lines: lines.iter().map(line).collect(),
        levels: Vec::new(),
    }
    .with_levels_in_view()
}

/// Throughput of all groups in one plot; none when there is nothing over time.
pub(super) fn throughput(evidence: &Evidence, groups: &[Group<'_>]) -> Option<Plot> {
    let drawn = groups.iter().take(GROUPS_DRAWN).enumerate();
    let timed: Vec<_> = drawn
        .map(|(at, group)| (at, group.headline()))
        .filter(|(_, series)| series.points.len() > 1)
        .collect();
    let all = || timed.iter().flat_map(|(_, series)| &series.points);
    let high = all().map(|point| point.rate).fold(0.0, f64::max);
    let ends = timed.iter().map(|(_, series)| end_s(&series.points));
    let (time, unit_s) = time_scale(ends.fold(0.0, f64::max));
    let line = |(at, series): &(usize, &Series)| Line {
        class: if timed.len() == 1 { "c0".to_owned() } else { group_class(*at) },
        name: evidence.name(series),
        points: series.points.iter().map(|point| Some((point.at_s / unit_s, point.rate))).collect(),
    };
    let plot = Plot {
        id: "t".to_owned(),
        title: "Throughput".to_owned(),
        description: format!("messages a second over time, at most {}", whole(high)),
        size: (WIDE.0, 300.0),
        x: time,
        y: Scale::new(Axis::from_zero(high), "Messages a second"),
        kind: "time",
        lines: timed.iter().map(line).collect(),
        levels: Vec::new(),
    };
    (!timed.is_empty()).then_some(plot)
}

/// Latency over time: of whole messages of each group, and of the other stages.
pub(super) fn latency(evidence: &Evidence, groups: &[Group<'_>]) -> (Vec<Plot>, Vec<Plot>) {
    let (mut headlines, mut others) = (Vec::new(), Vec::new());
    for group in groups.iter().take(GROUPS_DRAWN) {
        let headline = group.headline();
        for series in group.series.iter().filter(|series| series.points.len() > 1) {
            let is_headline = std::ptr::eq(*series, headline);
            let plots = if is_headline { &mut headlines } else { &mut others };
            let id = format!("{}{}", if is_headline { "h" } else { "o" }, plots.len());
            plots.push(latency_plot(id, &evidence.name(series), series));
        }
    }
    if let [only] = headlines.as_mut_slice() {
        only.size = (WIDE.0, 320.0);
    }
    (headlines, others)
}

fn latency_plot(id: String, name: &str, series: &Series) -> Plot {
    let (time, unit_s) = time_scale(end_s(&series.points));
    let line = |name: &str, class: &str, of: fn(&Point) -> Option<u64>| Line {
        class: class.to_owned(),
        name: name.to_owned(),
        points: bridged(&series.points, unit_s, of),
    };
    let lines = vec![
        line("max", "c4", |point| Some(point.latency?.max)),
        line("p99", "c1", |point| Some(point.latency?.p99)),
        line("p50", "c0", |point| Some(point.latency?.p50)),
    ];
    let of = series.percentiles;
    let (p50, p99, max) = (micros(of.p50), micros(of.p99), micros(of.max));
    Plot {
        id,
        title: format!("Latency of {name}"),
        description: format!("p50, p99 and max over time; of all: {p50}, {p99} and {max} us"),
        size: HALF,
        x: time,
        y: Scale::new(Axis::from_zero(1.0), LATENCY),
        kind: "time",
        lines,
        levels: Vec::new(),
    }
    .with_levels_in_view()
}

/// A line over time. It breaks where there were no messages, and not where the middle of an interval just
/// fell into the next bucket.
fn bridged(
    points: &[Point],
    unit_s: f64,
    of: fn(&Point) -> Option<u64>,
) -> Vec<Option<(f64, f64)>> {
    points
        .iter()
        .filter(|point| point.latency.is_some() || point.rate <= 0.0)
        .map(|point| of(point).map(|ns| (point.at_s / unit_s, us(ns))))
        .collect()
}

/// Where the last bucket ends: as far behind its middle as half the way from the one before.
fn end_s(points: &[Point]) -> f64 {
    match points {
        [.., before, last] => last.at_s + (last.at_s - before.at_s) / 2.0,
        [only] => only.at_s * 2.0,
        [] => 1.0,
    }
}

/// Seconds, minutes or hours, and how many seconds one of them is.
fn time_scale(last_s: f64) -> (Scale, f64) {
    let (unit_s, unit) = match last_s {
        long if long > 3.0 * 3_600.0 => (3_600.0, "h"),
        long if long > 300.0 => (60.0, "min"),
        _ => (1.0, "s"),
    };
    let axis = Axis::linear(0.0, last_s / unit_s);
    (Scale::new(axis, &format!("Time since the start ({unit})")), unit_s)
}

fn stage_class(stage: &str) -> String {
    let known = STAGES.iter().find(|(name, _)| *name == stage);
    known.map_or("c5", |(_, class)| class).to_owned()
}

fn group_class(at: usize) -> String {
    let dash = if at < COLOURS { "" } else { " dash" };
    format!("c{}{dash}", at % COLOURS)
}

fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is positive and far below 2^53"
)]
fn whole(rate: f64) -> String {
    thousands(rate.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::evidence::tests::evidence;

    #[test]
    fn a_run_is_one_group_with_its_floor_below_it() {
        let evidence = evidence(&["run"], &["response", "service", "floor-port"], 10);
        let groups = groups(&evidence);
        assert_eq!((groups.len(), groups[0].headline().stage.as_str()), (1, "response"));
        let plots = percentiles(&evidence, &groups);
        assert_eq!((plots.len(), plots[0].lines.len()), (1, 3));
        assert_eq!(plots[0].lines[2].class, "c6 dash");
        assert_eq!(throughput(&evidence, &groups).unwrap().lines.len(), 1);
        let (headlines, others) = latency(&evidence, &groups);
        assert_eq!((headlines.len(), others.len()), (1, 1), "a floor has nothing over time");
    }

    #[test]
    fn shards_and_files_are_compared_and_shown_one_by_one() {
        let tags =
            ["shard0.submit_durable", "shard0.whole", "shard1.submit_durable", "shard1.whole"];
        let evidence = evidence(&["a", "b"], &tags, 10);
        let groups = groups(&evidence);
        let names: Vec<_> = groups.iter().map(|group| group.name.as_str()).collect();
        assert_eq!(names, ["a shard0", "a shard1", "b shard0", "b shard1"]);
        let plots = percentiles(&evidence, &groups);
        assert_eq!(plots.len(), 5);
        let compared: Vec<_> = plots[0].lines.iter().map(|line| line.name.as_str()).collect();
        assert_eq!(compared[..2], ["a shard0.whole", "a shard1.whole"]);
        assert_eq!(latency(&evidence, &groups).1.len(), 4);
    }

    #[test]
    fn one_interval_has_nothing_over_time() {
        let evidence = evidence(&["run"], &["response"], 1);
        let groups = groups(&evidence);
        assert!(throughput(&evidence, &groups).is_none());
        assert!(latency(&evidence, &groups).0.is_empty());
    }

    #[test]
    fn a_line_breaks_where_nothing_came_and_not_where_clocks_drifted() {
        let mut evidence = evidence(&["run"], &["response"], 4);
        evidence.series[0].points[1].latency = None;
        evidence.series[0].points[2].latency = None;
        evidence.series[0].points[2].rate = 0.0;
        let line = bridged(&evidence.series[0].points, 1.0, |point| Some(point.latency?.p50));
        let there: Vec<_> = line.iter().map(Option::is_some).collect();
        assert_eq!(there, [true, false, true]);
    }
}
