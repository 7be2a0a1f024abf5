//! The page: one file of HTML that asks nobody for anything.
//!
//! It opens from a disk, in a mail, or behind a web server that forbids everything; its own policy forbids
//! every request. Without scripts it shows all there is; with them, values where the pointer is, and lines
//! that can be switched off.

use std::fmt::Write;

use super::charts::{self, GROUPS_DRAWN, Group};
use super::evidence::{COLUMNS, Evidence, cells};
use super::facts;
use super::plot::Plot;
use super::series::Series;
use super::svg::escape;
use super::thousands;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// What a word of the tables and plots means.
const WORDS: [(&str, &str); 12] = [
    ("response", "acknowledgement minus intended send, on a fixed schedule: the number to quote"),
    ("service", "acknowledgement minus actual send"),
    ("delay", "actual minus intended send: what the sender itself was late"),
    ("server", "from receive to durable, as receipts tell"),
    ("device", "in the device, as receipts tell"),
    ("floor-port", "a round trip over the bare port, with nothing of the engine in between"),
    ("floor-disk", "a write to the bare disk at queue depth 1"),
    ("receive_append", "taken from the port, until everything of that turn was appended"),
    ("append_submit", "waiting for a place in the disk's queue"),
    ("submit_durable", "written, and known durable with all before it"),
    ("durable_transmit", "until the acknowledgement was given to the port"),
    ("whole", "from receive to the acknowledgement"),
];

/// The page of some evidence.
#[must_use]
pub(crate) fn page(evidence: &Evidence) -> String {
    let groups = charts::groups(evidence);
    let mut body = String::new();
    body.push_str(&facts::header(evidence));
    body.push_str(&facts::failures(evidence));
    body.push_str(&glance(evidence, &groups));
    body.push_str(&facts::runs(evidence));
    body.push_str(&facts::notes(evidence, groups.len().saturating_sub(GROUPS_DRAWN)));
    body.push_str(&section(
        "percentiles",
        "Percentiles",
        &figures(&charts::percentiles(evidence, &groups)),
    ));
    body.push_str(&section("time", "Over time", &over_time(evidence, &groups)));
    body.push_str(&section("table", "Table", &table(evidence)));
    body.push_str(&section("words", "Words", &words(evidence)));
    let title = escape(&facts::title(evidence));
    fill(PAGE, |name| match name {
        "title" => &title,
        "style" => STYLE,
        "body" => &body,
        "version" => env!("CARGO_PKG_VERSION"),
        _ => SCRIPT,
    })
}

/// Puts values in the places of a template, and looks into none of them for more places.
fn fill<'a>(template: &str, value: impl Fn(&str) -> &'a str) -> String {
    let mut text = String::new();
    for part in template.split("{{") {
        match part.split_once("}}") {
            Some((name, rest)) => {
                text.push_str(value(name));
                text.push_str(rest);
            }
            None => text.push_str(part),
        }
    }
    text
}

fn section(id: &str, title: &str, content: &str) -> String {
    if content.is_empty() {
        return String::new();
    }
    format!(
        "<section aria-labelledby=\"{id}\">\n<h2 id=\"{id}\">{title}</h2>\n{content}</section>\n"
    )
}

fn figures(plots: &[Plot]) -> String {
    if plots.is_empty() {
        return String::new();
    }
    let figures: String = plots.iter().map(Plot::figure).collect();
    format!("<div class=\"plots\">\n{figures}</div>\n")
}

/// The numbers most people came for: of whole messages, cards of one group or a row for each of several.
fn glance(evidence: &Evidence, groups: &[Group<'_>]) -> String {
    let [only] = groups else {
        let headlines: Vec<&Series> = groups.iter().map(Group::headline).collect();
        let rows = rows(evidence, &headlines, "Whole messages, latency in microseconds");
        return section("glance", "At a glance", &rows);
    };
    let series = only.headline();
    let [p50, _, p99, p99_9, _, max] = cells(&series.percentiles);
    let stage = &series.stage;
    let mut text = String::from("<section class=\"cards\" aria-label=\"At a glance\">\n");
    for (what, value, unit) in [
        (format!("{stage} p50"), p50, "us"),
        (format!("{stage} p99"), p99, "us"),
        (format!("{stage} p99.9"), p99_9, "us"),
        (format!("{stage} max"), max, "us"),
        ("measured".to_owned(), thousands(series.count), "messages"),
    ] {
        let what = escape(&what);
        writeln!(text, "<div><p>{what}</p><p><b>{value}</b> {unit}</p></div>")
            .expect("a String takes everything");
    }
    text + "</section>\n"
}

fn over_time(evidence: &Evidence, groups: &[Group<'_>]) -> String {
    let (headlines, others) = charts::latency(evidence, groups);
    let mut plots: Vec<Plot> = charts::throughput(evidence, groups).into_iter().collect();
    plots.extend(headlines);
    if plots.is_empty() && others.is_empty() {
        return "<p>There is one interval only: nothing to show over time.</p>\n".to_owned();
    }
    let mut text = figures(&plots);
    if !others.is_empty() {
        write!(
            text,
            "<details>\n<summary>Latency of the other stages</summary>\n{}</details>\n",
            figures(&others)
        )
        .expect("a String takes everything");
    }
    text
}

fn table(evidence: &Evidence) -> String {
    let all: Vec<&Series> = evidence.series.iter().collect();
    rows(evidence, &all, "Latency in microseconds, of all intervals together")
}

/// A table of series: how many, and their percentiles.
fn rows(evidence: &Evidence, series: &[&Series], caption: &str) -> String {
    let mut text = format!(
        "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"{caption}\">\n<table>\n\
         <caption>{caption}</caption>\n\
         <thead><tr><th scope=\"col\">series</th><th scope=\"col\">count</th>"
    );
    for column in COLUMNS {
        write!(text, "<th scope=\"col\">{column}</th>").expect("a String takes everything");
    }
    text.push_str("</tr></thead>\n<tbody>\n");
    for series in series {
        let (name, count) = (escape(&evidence.name(series)), thousands(series.count));
        write!(text, "<tr><th scope=\"row\">{name}</th><td>{count}</td>")
            .expect("a String takes everything");
        for cell in cells(&series.percentiles) {
            write!(text, "<td>{cell}</td>").expect("a String takes everything");
        }
        text.push_str("</tr>\n");
    }
    text + "</tbody>\n</table>\n</div>\n"
}

fn words(evidence: &Evidence) -> String {
    let used =
        WORDS.iter().filter(|(word, _)| evidence.series.iter().any(|series| series.stage == *word));
    let list: String =
        used.map(|(word, meaning)| format!("<dt>{word}</dt><dd>{meaning}</dd>\n")).collect();
    if list.is_empty() { list } else { format!("<dl>\n{list}</dl>\n") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::evidence::tests::evidence;
    use crate::report::series::points_max;

    const MEBIBYTE: usize = 1 << 20;

    /// The stages of so many shards.
    fn tags(shards: usize) -> Vec<String> {
        let stages =
            ["receive_append", "append_submit", "submit_durable", "durable_transmit", "whole"];
        (0..shards).flat_map(|shard| stages.map(|stage| format!("shard{shard}.{stage}"))).collect()
    }

    #[test]
    fn a_page_asks_nobody_for_anything() {
        let page = page(&evidence(&["run"], &["response", "floor-port"], 10));
        for part in ["http://", "https://", "src=", "href=", "url(", "@import", "fetch("] {
            assert!(!page.contains(part), "{part}");
        }
        assert!(page.contains("default-src 'none'"));
    }

    #[test]
    fn what_others_chose_is_escaped_everywhere() {
        let bad = "<script>alert(1)</script>";
        let mut evidence = evidence(&[bad, "b"], &[&format!("{bad}.{bad}"), bad], 10);
        evidence.sources[0].warnings.push(bad.to_owned());
        let page = page(&evidence);
        assert_eq!(page.matches("<script>").count(), 1, "our own");
        assert!(page.contains("&lt;script&gt;"));
    }

    /// An hour of seconds is drawn in as many points as `points_max` allows, and is below a megabyte,
    /// however many shards there are.
    #[test]
    fn a_page_stays_below_a_mebibyte() {
        for (files, shards) in [(1, 1), (1, 4), (1, 12), (1, 120), (3, 4)] {
            let names: Vec<String> = (0..files).map(|file| format!("stages-{file}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let tags = tags(shards);
            let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
            let points = u32::try_from(points_max(tags.len() * files)).unwrap();
            let bytes = page(&evidence(&names, &tags, points)).len();
            assert!(bytes < MEBIBYTE, "{files} files, {shards} shards: {bytes} bytes");
        }
    }

    #[test]
    fn every_plot_has_axes_with_units() {
        let page = page(&evidence(&["run"], &["response", "service", "floor-port"], 10));
        let figures = page.matches("<figure").count();
        // Percentiles, throughput, latency of response, and of service behind a summary.
        assert_eq!(figures, 4);
        assert_eq!(page.matches(">Latency (us)<").count(), 3);
        assert_eq!(page.matches(">Time since the start (s)<").count(), 3);
        assert_eq!(page.matches(">Percentile (%)<").count(), 1);
        assert!(page.contains("<dt>floor-port</dt>"));
    }

    #[test]
    fn one_interval_is_said_to_have_nothing_over_time() {
        assert!(page(&evidence(&["run"], &["response"], 1)).contains("one interval only"));
    }
}
