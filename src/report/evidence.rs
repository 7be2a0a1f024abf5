//! Evidence: the series of one or more interval logs, with what is known of their runs, as a table and as
//! an object. The page is made of the same.

use std::fmt::Write;

use serde::Serialize;

use super::series::{Grid, Series};
use super::{BenchReport, Percentiles, SCHEMA_VERSION, micros, thousands};

/// One interval log.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// Its file's name without the ending.
    pub name: String,
    /// The file.
    pub path: String,
    /// How its time was cut; none when nothing in it has a length.
    pub grid: Option<Grid>,
    /// What was left out or assumed.
    pub warnings: Vec<String>,
    /// The report of the run that wrote it, where there is one.
    pub run: Option<BenchReport>,
}

/// Everything a report is made of.
#[derive(Clone, Debug)]
pub(crate) struct Evidence {
    /// The files, in the order they were given.
    pub sources: Vec<Source>,
    /// Their series, file by file.
    pub series: Vec<Series>,
}

/// A series as programs read it.
#[derive(Debug, Serialize)]
struct Row<'a> {
    file: &'a str,
    tag: String,
    count: u64,
    latency_ns: Percentiles,
}

/// What `bench report -o json` prints.
#[derive(Debug, Serialize)]
pub(crate) struct EvidenceObject<'a> {
    schema_version: u32,
    series: Vec<Row<'a>>,
    warnings: Vec<String>,
}

impl Evidence {
    /// What was left out or assumed, with the file it is about.
    #[must_use]
    pub(crate) fn warnings(&self) -> Vec<String> {
        let each = |source: &Source| {
            let path = source.path.clone();
            source.warnings.clone().into_iter().map(move |warning| format!("{path}: {warning}"))
        };
        self.sources.iter().flat_map(each).collect()
    }

    /// What a series is called: its tag, after its file where there are several.
    #[must_use]
    pub(crate) fn name(&self, series: &Series) -> String {
        self.in_source(series.source, &series.tag())
    }

    /// `what`, after its file's name where there are several.
    pub(super) fn in_source(&self, source: usize, what: &str) -> String {
        match (self.sources.len(), what) {
            (1, what) => what.to_owned(),
            (_, "") => self.sources[source].name.clone(),
            (_, what) => format!("{} {what}", self.sources[source].name),
        }
    }

    /// The percentiles as people read them.
    #[must_use]
    pub(crate) fn text(&self) -> String {
        let names: Vec<String> = self.series.iter().map(|series| self.name(series)).collect();
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(12);
        let mut text = format!("{:<width$} {:>13}", "LATENCY (us)", "COUNT");
        for column in COLUMNS {
            write!(text, " {:>11}", column.to_uppercase()).expect("a String takes everything");
        }
        text.push('\n');
        for (series, name) in self.series.iter().zip(&names) {
            write!(text, "{name:<width$} {:>13}", thousands(series.count))
                .expect("a String takes everything");
            for cell in cells(&series.percentiles) {
                write!(text, " {cell:>11}").expect("a String takes everything");
            }
            text.push('\n');
        }
        text
    }

    /// The percentiles as programs read them.
    #[must_use]
    pub(crate) fn object(&self) -> EvidenceObject<'_> {
        let row = |series: &Series| Row {
            file: &self.sources[series.source].path,
            tag: series.tag(),
            count: series.count,
            latency_ns: series.percentiles,
        };
        EvidenceObject {
            schema_version: SCHEMA_VERSION,
            series: self.series.iter().map(row).collect(),
            warnings: self.warnings(),
        }
    }
}

/// Heads of [`cells`].
pub(super) const COLUMNS: [&str; 6] = ["p50", "p90", "p99", "p99.9", "p99.99", "max"];

/// Percentiles in microseconds.
pub(super) fn cells(of: &Percentiles) -> [String; 6] {
    [of.p50, of.p90, of.p99, of.p99_9, of.p99_99, of.max].map(micros)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::report::series::Point;

    /// Series of these tags with `points` points each, and a source each of `files`.
    pub(in crate::report) fn evidence(files: &[&str], tags: &[&str], points: u32) -> Evidence {
        let source = |name: &&str| Source {
            name: (*name).to_owned(),
            path: format!("{name}.hlog"),
            grid: Some(Grid {
                start_ns: 1_700_000_000_000_000_000,
                end_ns: 1_700_000_000_000_000_000 + u64::from(points) * 1_000_000_000,
                width_ns: 1_000_000_000,
                buckets: usize::try_from(points).unwrap(),
                merged: 1,
                left_out_ns: 0,
            }),
            warnings: Vec::new(),
            run: None,
        };
        let mut series = Vec::new();
        for index in 0..files.len() {
            series.extend(tags.iter().map(|tag| one_series(index, tag, points)));
        }
        Evidence { sources: files.iter().map(source).collect(), series }
    }

    fn one_series(source: usize, tag: &str, points: u32) -> Series {
        let (group, stage) = tag.rsplit_once('.').unwrap_or(("", tag));
        let percentiles = Percentiles {
            p50: 120_000,
            p90: 150_000,
            p99: 400_000,
            p99_9: 1_000_000,
            p99_99: 4_000_000,
            max: 9_876_543,
        };
        let point = |at: u32| Point {
            at_s: f64::from(at) + 0.5,
            rate: 1_000.0 + f64::from(at * 7919 % 97),
            latency: Some(Percentiles {
                p50: 100_000 + u64::from(at * 104_729 % 60_013),
                ..percentiles
            }),
        };
        Series {
            source,
            group: group.to_owned(),
            stage: stage.to_owned(),
            count: u64::from(points) * 1_000,
            percentiles,
            curve: (0_u32..150)
                .map(|at| (f64::from(at) / 25.0, 10_000 + 1_111 * u64::from(at * at)))
                .collect(),
            points: if stage.starts_with("floor") {
                Vec::new()
            } else {
                (0..points).map(point).collect()
            },
        }
    }

    #[test]
    fn the_table_is_aligned() {
        let text = evidence(&["a"], &["response", "floor-port"], 10).text();
        let widths: Vec<usize> = text.lines().map(str::len).collect();
        assert!(widths.len() == 3 && widths.iter().all(|width| *width == widths[0]), "{text}");
        assert!(text.contains("COUNT") && text.contains("P99.99"), "{text}");
        assert!(text.contains("10,000") && text.contains("9,876.5"), "{text}");
    }

    #[test]
    fn names_say_the_file_only_where_there_are_several() {
        let one = evidence(&["a"], &["shard0.whole"], 2);
        assert_eq!(one.name(&one.series[0]), "shard0.whole");
        let two = evidence(&["a", "b"], &["whole"], 2);
        assert_eq!(two.name(&two.series[1]), "b whole");
        assert_eq!(two.in_source(1, ""), "b");
    }

    #[test]
    fn the_object_has_the_fields_it_is_known_by() {
        let mut evidence = evidence(&["a"], &["whole"], 2);
        evidence.sources[0].warnings.push("line 9 is cut off".to_owned());
        let value = serde_json::to_value(evidence.object()).unwrap();
        assert_eq!(value["series"][0]["file"], "a.hlog");
        assert_eq!(value["series"][0]["latency_ns"]["p99_99"], 4_000_000);
        assert_eq!(value["warnings"][0], "a.hlog: line 9 is cut off");
    }
}
