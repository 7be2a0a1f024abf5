//! What a page says in words: when and where it was measured, what failed, what was left out.

use std::fmt::Write;

use jiff::Timestamp;

use super::evidence::{Evidence, Source};
use super::series::Grid;
use super::svg::escape;
use super::{
    BenchReport, FloorPercentiles, Host, REMOTE, micros, thousands, thousands_f64, thousands_usize,
};
use crate::host::CATALOGUE;

/// Title of the page.
pub(super) fn title(evidence: &Evidence) -> String {
    let names: Vec<&str> = evidence.sources.iter().map(|source| source.name.as_str()).collect();
    format!("Latency report: {}", names.join(", "))
}

/// The head: which files, of when, how long.
pub(super) fn header(evidence: &Evidence) -> String {
    let mut text = format!("<header>\n<h1>{}</h1>\n", escape(&title(evidence)));
    for source in &evidence.sources {
        let path = escape(&source.path);
        let when = source.grid.as_ref().map(when).unwrap_or_default();
        writeln!(text, "<p><code>{path}</code>{when}</p>").expect("a String takes everything");
    }
    text + "</header>\n"
}

fn when(grid: &Grid) -> String {
    let start = utc(grid.start_ns / 1_000_000_000);
    format!(" &middot; {start} &middot; {}", duration(grid.end_ns - grid.start_ns))
}

/// What makes a run worthless, where everybody sees it.
pub(super) fn failures(evidence: &Evidence) -> String {
    let mut text = String::new();
    for source in &evidence.sources {
        for failure in source.run.iter().flat_map(BenchReport::failures) {
            let (name, failure) = (escape(&source.name), escape(&failure));
            writeln!(text, "<p class=\"fail\" role=\"alert\"><b>FAIL</b> {name}: {failure}</p>")
                .expect("a String takes everything");
        }
    }
    text
}

/// What is known of the runs, a column each; nothing where no run is known.
pub(super) fn runs(evidence: &Evidence) -> String {
    let known: Vec<(&Source, &BenchReport)> =
        evidence.sources.iter().filter_map(|source| Some((source, source.run.as_ref()?))).collect();
    if known.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "<section aria-labelledby=\"run\">\n<h2 id=\"run\">Run</h2>\n<div class=\"wide\">\n\
         <table class=\"facts\">\n",
    );
    if known.len() > 1 {
        text.push_str("<thead><tr><td></td>");
        for (source, _) in &known {
            write!(text, "<th scope=\"col\">{}</th>", escape(&source.name))
                .expect("a String takes everything");
        }
        text.push_str("</tr></thead>\n");
    }
    for (name, value) in FACTS {
        let values: Vec<String> = known.iter().map(|(_, run)| value(run)).collect();
        if values.iter().all(String::is_empty) {
            continue;
        }
        write!(text, "<tr><th scope=\"row\">{name}</th>").expect("a String takes everything");
        for value in values {
            write!(text, "<td>{}</td>", escape(&value)).expect("a String takes everything");
        }
        text.push_str("</tr>\n");
    }
    text.push_str("</table>\n</div>\n");
    text.push_str(&checks(&known));
    text + "</section>\n"
}

type Fact = (&'static str, fn(&BenchReport) -> String);

const FACTS: [Fact; 13] = [
    ("profile", |run| run.profile.clone()),
    ("durability", |run| run.durability.clone()),
    ("message", |run| format!("{} B", thousands_usize(run.message_bytes))),
    ("messages", |run| thousands(run.delivery.messages)),
    ("lost, duplicated, reordered", |run| {
        format!(
            "{}, {}, {}",
            thousands(run.delivery.lost),
            thousands(run.delivery.duplicated),
            thousands(run.delivery.reordered)
        )
    }),
    ("rate", |run| {
        let target = run.target_rate.map_or_else(
            || "as fast as it goes".to_owned(),
            |rate| format!("target {}/s", thousands_f64(rate)),
        );
        format!("{}/s achieved, {target}", thousands_f64(run.achieved_rate))
    }),
    ("floor: port round trip", |run| run.floor.map_or_else(String::new, |f| floor(f.port_rtt_ns))),
    ("floor: disk write", |run| run.floor.map_or_else(String::new, |f| floor(f.disk_write_ns))),
    ("response over floor", |run| {
        let floor = run.floor.filter(|floor| floor.sum_p50_ns() > 0);
        floor.map_or_else(String::new, |floor| {
            let ratio = run.times.response_ns.p50 as f64 / floor.sum_p50_ns() as f64;
            let sum = micros(floor.sum_p50_ns());
            format!("p50 is {ratio:.2} times the floor's {sum} us")
        })
    }),
    ("host", |run| run.host.as_ref().map_or_else(|| REMOTE.to_owned(), host)),
    ("host checks", |run| run.host.as_ref().map_or_else(|| REMOTE.to_owned(), checks_failed)),
    ("server", |run| run.client.as_ref().map_or_else(String::new, |client| client.server.clone())),
    ("client", |run| {
        run.client.as_ref().map_or_else(String::new, |client| {
            let checks = checks_failed(&client.host);
            format!("profile {}, {}; host checks: {checks}", client.profile, host(&client.host))
        })
    }),
];

fn host(host: &Host) -> String {
    let kind = if host.r#virtual { "virtual machine" } else { "bare metal" };
    format!("{}, Linux {}, {kind}", host.cpu, host.kernel)
}

fn checks_failed(host: &Host) -> String {
    match host.checks_failed.len() {
        0 => "none failed".to_owned(),
        failed => format!("{failed} failed"),
    }
}

fn floor(of: FloorPercentiles) -> String {
    format!("p50 {} us, p99 {} us", micros(of.p50), micros(of.p99))
}

/// The checks that failed, with why they matter.
fn checks(known: &[(&Source, &BenchReport)]) -> String {
    let failed = |id: &str| {
        let mut hosts = known.iter().flat_map(|(_, run)| run.hosts());
        hosts.any(|host| host.checks_failed.iter().any(|failed| failed == id))
    };
    let items: String = CATALOGUE
        .iter()
        .filter(|check| failed(check.id))
        .map(|check| format!("<dt>{}</dt><dd>{}</dd>\n", escape(check.id), escape(check.why)))
        .collect();
    if items.is_empty() {
        return items;
    }
    format!(
        "<details>\n<summary>Host checks that failed; <code>buslane host check</code> says what mends \
         them</summary>\n<dl>\n{items}</dl>\n</details>\n"
    )
}

/// What the reader has to know of how the page was made.
pub(super) fn notes(evidence: &Evidence, groups_not_drawn: usize) -> String {
    let mut notes = evidence.warnings();
    for source in &evidence.sources {
        if let Some(grid) = source.grid.filter(|grid| grid.left_out_ns > 0) {
            let left_out = duration(grid.left_out_ns);
            let path = &source.path;
            notes.push(format!(
                "{path}: over time without the {left_out} between rounds of the run"
            ));
        }
        if let Some(grid) = source.grid.filter(|grid| grid.merged > 1) {
            notes.push(format!(
                "{}: over time, each point is {} intervals merged ({}); percentiles and the table are of \
                 all",
                source.path,
                thousands(grid.merged),
                duration(grid.width_ns)
            ));
        }
    }
    if groups_not_drawn > 0 {
        notes.push(format!("{groups_not_drawn} more groups are in the table and not drawn"));
    }
    let items: String = notes.iter().map(|note| format!("<li>{}</li>\n", escape(note))).collect();
    if items.is_empty() { items } else { format!("<ul class=\"notes\">\n{items}</ul>\n") }
}

/// A length of time, as people say it.
fn duration(ns: u64) -> String {
    let seconds = ns as f64 / 1e9;
    match seconds {
        long if long >= 7_200.0 => format!("{:.1} h", long / 3_600.0),
        long if long >= 120.0 => format!("{:.1} min", long / 60.0),
        _ => format!("{seconds:.1} s"),
    }
}

/// `2026-01-30 14:30:00 UTC`.
fn utc(unix_s: u64) -> String {
    let time = i64::try_from(unix_s).ok().and_then(|second| Timestamp::from_second(second).ok());
    // What is later than the year 9999 is no time that anybody measured at.
    time.unwrap_or(Timestamp::MAX).strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::evidence::tests::evidence;
    use crate::report::tests::report;
    use crate::report::{Delivery, Percentiles, Times};

    fn run() -> BenchReport {
        let response_ns = Percentiles { p50: 220_000, ..Percentiles::default() };
        BenchReport {
            times: Times { response_ns, ..Times::default() },
            host: Some(Host {
                cpu: "A <CPU>".to_owned(),
                checks_failed: vec!["thp".into()],
                ..Host::default()
            }),
            ..report()
        }
    }

    #[test]
    fn the_floor_the_profile_and_the_host_are_told() {
        let mut evidence = evidence(&["run"], &["response"], 10);
        assert_eq!(runs(&evidence), "", "nothing is made up");
        evidence.sources[0].run = Some(run());
        let text = runs(&evidence);
        for part in [
            "<td>loopback</td>",
            "<td>p50 20.0 us, p99 30.0 us</td>",
            "p50 is 2.00 times the floor&#39;s 110.0 us",
            "A &lt;CPU&gt;",
            "<td>1 failed</td>",
            "<dt>thp</dt><dd>the kernel stops a thread",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains(REMOTE), "{text}");
        let mut remote = run();
        remote.of_a_remote("10.0.0.1:9310".parse().unwrap());
        evidence.sources[0].run = Some(remote);
        let text = runs(&evidence);
        for part in [
            "<td>unknown: remote</td>",
            "<td>10.0.0.1:9310</td>",
            "<td>profile loopback, A &lt;CPU&gt;, Linux , bare metal; host checks: 1 failed</td>",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        evidence.sources[0].run = Some(run());
        assert_eq!(failures(&evidence), "");
        evidence.sources[0].run =
            Some(BenchReport { delivery: Delivery { lost: 3, ..run().delivery }, ..run() });
        assert!(failures(&evidence).contains("<b>FAIL</b> run: 3 messages lost"));
    }

    #[test]
    fn what_was_merged_or_left_out_is_said() {
        let mut evidence = evidence(&["run"], &["response"], 240);
        assert_eq!(notes(&evidence, 0), "");
        let grid = evidence.sources[0].grid.as_mut().unwrap();
        (grid.merged, grid.width_ns) = (15, 15_000_000_000);
        evidence.sources[0].warnings.push("line 7 is cut off".to_owned());
        let text = notes(&evidence, 2);
        assert!(text.contains("each point is 15 intervals merged (15.0 s)"), "{text}");
        assert!(text.contains("run.hlog: line 7 is cut off"), "{text}");
        assert!(text.contains("2 more groups"), "{text}");
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(1_709_210_096), "2024-02-29 12:34:56 UTC");
        assert_eq!(utc(4_107_542_399), "2100-02-28 23:59:59 UTC");
        assert_eq!(utc(4_107_542_400), "2100-03-01 00:00:00 UTC");
        assert_eq!(
            (duration(1_500_000_000), duration(3_600_000_000_000)),
            ("1.5 s".into(), "60.0 min".into())
        );
    }
}
