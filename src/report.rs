//! Reports of a benchmark: the table people read, and the object programs read.
//!
//! Times are kept in nanoseconds and shown in microseconds. *Response* is acknowledgement minus intended
//! send and stands first; nothing here is corrected or estimated.

mod axis;
mod charts;
pub(crate) mod evidence;
mod facts;
mod page;
mod plot;
pub(crate) mod series;
mod svg;

use std::fmt::Write;
use std::net::SocketAddrV4;

use serde::{Deserialize, Serialize};

use crate::host::{self, Needs, Tree};

pub(crate) use crate::metrics::latency::Percentiles;
pub(crate) use page::page;

/// The version of [`BenchReport`]; it changes when a field goes or changes its meaning.
pub(crate) const SCHEMA_VERSION: u32 = 1;

/// A run that achieved less of its target rate than this has failed.
pub(crate) const RATE_SHARE_MIN: f64 = 0.99;

/// What of a floor is quoted, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct FloorPercentiles {
    /// Half are at most this.
    pub p50: u64,
    /// 99 % are at most this.
    pub p99: u64,
}

impl From<Percentiles> for FloorPercentiles {
    fn from(all: Percentiles) -> Self {
        Self { p50: all.p50, p99: all.p99 }
    }
}

/// The bare port and the bare disk at the pace of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Floor {
    /// There and back over the port.
    pub port_rtt_ns: FloorPercentiles,
    /// One write at queue depth 1.
    pub disk_write_ns: FloorPercentiles,
}

impl Floor {
    /// What no engine on this port and disk can undercut: one round trip and one write.
    #[must_use]
    pub(crate) fn sum_p50_ns(&self) -> u64 {
        self.port_rtt_ns.p50 + self.disk_write_ns.p50
    }
}

/// The host a run was made on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Host {
    /// Model of the processor.
    pub cpu: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Whether a hypervisor is below it.
    pub r#virtual: bool,
    /// Checks of the host that warned or failed, by id; `buslane host check` says what mends them.
    pub checks_failed: Vec<String>,
}

/// What stands where nobody said it.
pub(crate) const REMOTE: &str = "unknown: remote";

/// The client's side of a run against an appliance that `--server` named. What its host says of itself says
/// nothing of the appliance.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Client {
    /// Name of the client's profile.
    pub profile: String,
    /// Its host.
    pub host: Host,
    /// Which appliance was measured, by its address.
    pub server: String,
}

/// What became of the messages of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Delivery {
    /// Messages measured.
    pub messages: u64,
    /// Acknowledged and not delivered.
    pub lost: u64,
    /// Delivered more than once.
    pub duplicated: u64,
    /// Delivered after one with a higher number of the same publisher.
    pub reordered: u64,
}

/// The latencies of a run, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Times {
    /// Acknowledgement minus intended send.
    pub response_ns: Percentiles,
    /// Acknowledgement minus actual send.
    pub service_ns: Percentiles,
    /// Actual minus intended send.
    pub delay_ns: Percentiles,
    /// Receive to durable, from receipts.
    pub server_ns: Percentiles,
    /// In the device, from receipts.
    pub device_ns: Percentiles,
}

/// What `bench run -o json` prints.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct BenchReport {
    /// `SCHEMA_VERSION`.
    pub schema_version: u32,
    /// Name of the appliance's profile; [`REMOTE`] with `--server`.
    pub profile: String,
    /// Why an acknowledged message was safe, as receipts told.
    pub durability: String,
    /// Bytes of a message.
    pub message_bytes: usize,
    /// What became of the messages.
    #[serde(flatten)]
    pub delivery: Delivery,
    /// Messages a second that were asked for; none with `--max`.
    pub target_rate: Option<f64>,
    /// Messages a second that were acknowledged.
    pub achieved_rate: f64,
    /// How long it took.
    #[serde(flatten)]
    pub times: Times,
    /// With `--floor`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub floor: Option<Floor>,
    /// The appliance's host; none with `--server`.
    #[serde(default)]
    pub host: Option<Host>,
    /// With `--server`: who measured, and what.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub client: Option<Client>,
}

impl BenchReport {
    /// What makes the run worthless, one sentence each; a run with any of them is a failure.
    #[must_use]
    pub(crate) fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        for (count, what) in [
            (self.delivery.lost, "lost"),
            (self.delivery.duplicated, "duplicated"),
            (self.delivery.reordered, "reordered"),
        ] {
            if count > 0 {
                failures.push(format!("{} messages {what}", thousands(count)));
            }
        }
        let target = self.target_rate.unwrap_or(0.0);
        if self.achieved_rate < RATE_SHARE_MIN * target {
            failures.push(format!(
                "achieved {:.1} % of the target rate, wanted {:.0} %",
                100.0 * self.achieved_rate / target,
                100.0 * RATE_SHARE_MIN
            ));
        }
        failures
    }

    /// The report as people read it.
    #[must_use]
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "profile {}, durability {}, {} B, {} messages: lost {} duplicated {} reordered {}\n",
            self.profile,
            self.durability,
            thousands_usize(self.message_bytes),
            thousands(self.delivery.messages),
            thousands(self.delivery.lost),
            thousands(self.delivery.duplicated),
            thousands(self.delivery.reordered)
        );
        let target = self.target_rate.map_or_else(
            || "as fast as it goes".to_owned(),
            |rate| format!("target {}/s", thousands_f64(rate)),
        );
        line(&mut text, &format!("achieved {}/s, {target}", thousands_f64(self.achieved_rate)));
        text.push('\n');
        text.push_str(&self.table().text());
        if let Some(floor) = self.floor.filter(|floor| floor.sum_p50_ns() > 0) {
            #[allow(clippy::cast_precision_loss, reason = "latencies are far below 2^53 ns")]
            let ratio = self.times.response_ns.p50 as f64 / floor.sum_p50_ns() as f64;
            line(&mut text, "");
            line(&mut text, &format!("response p50 is {ratio:.2} times the floor's sum"));
        }
        text.push('\n');
        match &self.host {
            Some(host) => text.push_str(&host.text()),
            None => line(&mut text, &format!("host {REMOTE}")),
        }
        if let Some(client) = &self.client {
            line(&mut text, &format!("server {}", client.server));
            line(&mut text, &format!("client profile {}, on this host:", client.profile));
            text.push_str(&client.host.text());
        }
        for failure in self.failures() {
            line(&mut text, &format!("FAIL: {failure}"));
        }
        text
    }

    /// Of an appliance elsewhere neither profile nor host is known: those of here are the client's.
    pub(crate) fn of_a_remote(&mut self, server: SocketAddrV4) {
        let profile = std::mem::replace(&mut self.profile, REMOTE.to_owned());
        let host = self.host.take().unwrap_or_default();
        self.client = Some(Client { profile, host, server: server.to_string() });
    }

    /// Hosts whose state is known: the appliance's, or the client's.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.host.iter().chain(self.client.as_ref().map(|client| &client.host))
    }

    fn table(&self) -> LatencyTable {
        let mut table = LatencyTable::default();
        table.row("response", self.times.response_ns);
        table.row("service", self.times.service_ns);
        table.row("delay", self.times.delay_ns);
        table.row("server", self.times.server_ns);
        table.row("device", self.times.device_ns);
        if let Some(floor) = &self.floor {
            table.floor(floor);
        }
        table
    }
}

impl Host {
    /// Reads them from `tree`; the checks are those of `buslane host check`, without what is measured.
    #[must_use]
    pub(crate) fn read(tree: &Tree, needs: &Needs) -> Self {
        let cpuinfo = tree.text("proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':')).map_or("", |(_, value)| value.trim())
        };
        let findings = host::check(tree, needs, None);
        let failed = findings.iter().filter(|finding| finding.status.is_bad());
        Self {
            cpu: field("model name").to_owned(),
            kernel: tree.text("proc/sys/kernel/osrelease").unwrap_or_default(),
            r#virtual: field("flags").split(' ').any(|flag| flag == "hypervisor"),
            checks_failed: failed.map(|finding| finding.id.to_owned()).collect(),
        }
    }

    /// One line, and one more when something is wrong with it.
    #[must_use]
    pub(crate) fn text(&self) -> String {
        let kind = if self.r#virtual { "virtual" } else { "bare metal" };
        let mut text = format!("host {}, Linux {}, {kind}\n", self.cpu, self.kernel);
        if !self.checks_failed.is_empty() {
            let count = self.checks_failed.len();
            let checks = self.checks_failed.join(", ");
            line(&mut text, &format!("warning: {count} host checks failed: {checks}"));
        }
        text
    }
}

/// Latencies in microseconds, a row each.
#[derive(Clone, Debug, Default)]
pub(crate) struct LatencyTable {
    rows: Vec<(String, [Option<u64>; 6])>,
}

impl LatencyTable {
    const COLUMNS: [&'static str; 6] = ["P50", "P90", "P99", "P99.9", "P99.99", "MAX"];

    /// Adds a row.
    pub(crate) fn row(&mut self, name: &str, of: Percentiles) {
        let cells = [of.p50, of.p90, of.p99, of.p99_9, of.p99_99, of.max].map(Some);
        self.rows.push((name.to_owned(), cells));
    }

    /// Adds what a floor has: the port, the disk, and the sum of their medians.
    pub(crate) fn floor(&mut self, floor: &Floor) {
        let cells = |of: FloorPercentiles| [Some(of.p50), None, Some(of.p99), None, None, None];
        self.rows.push(("floor: port round trip".to_owned(), cells(floor.port_rtt_ns)));
        self.rows.push(("floor: disk write".to_owned(), cells(floor.disk_write_ns)));
        let sum = [Some(floor.sum_p50_ns()), None, None, None, None, None];
        self.rows.push(("floor: sum".to_owned(), sum));
    }

    /// The table, numbers right-aligned.
    #[must_use]
    pub(crate) fn text(&self) -> String {
        let width = self.rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max(12);
        let mut text = format!("{:<width$}", "LATENCY (us)");
        for column in Self::COLUMNS {
            write!(text, " {column:>11}").expect("a String takes everything");
        }
        text.push('\n');
        for (name, cells) in &self.rows {
            write!(text, "{name:<width$}").expect("a String takes everything");
            for cell in cells {
                let shown = cell.map_or_else(|| "-".to_owned(), micros);
                write!(text, " {shown:>11}").expect("a String takes everything");
            }
            text.push('\n');
        }
        text
    }
}

fn line(text: &mut String, what: &str) {
    text.push_str(what);
    text.push('\n');
}

/// Nanoseconds as microseconds with one decimal, rounded: `1,234.6`.
#[must_use]
pub(crate) fn micros(ns: u64) -> String {
    let tenths = (ns + 50) / 100;
    format!("{}.{}", thousands(tenths / 10), tenths % 10)
}

/// A number with separators: `1,234,567`.
#[must_use]
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3 + 1);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// So many of what has a plural in s: `1 segment`, `1,234 segments`.
#[must_use]
pub(crate) fn count_of(number: u64, what: &str) -> String {
    format!("{} {what}{}", thousands(number), if number == 1 { "" } else { "s" })
}

/// The same of a noun that needs more: `1 batch`, `2 batches`.
#[must_use]
pub(crate) fn batches(number: u64) -> String {
    format!("{} batch{}", thousands(number), if number == 1 { "" } else { "es" })
}

fn thousands_usize(number: usize) -> String {
    thousands(u64::try_from(number).expect("64-bit"))
}

/// A rate, rounded to whole messages; below ten, to two decimals.
fn thousands_f64(number: f64) -> String {
    if number < 10.0 {
        return format!("{number:.2}");
    }
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate is positive and far below 2^53"
    )]
    let whole = number.round() as u64;
    thousands(whole)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A run on a host that fails two checks.
    pub(crate) fn report() -> BenchReport {
        let times = |p50| Percentiles {
            p50,
            p90: p50 * 2,
            p99: p50 * 3,
            p99_9: p50 * 10,
            p99_99: p50 * 20,
            max: p50 * 100,
        };
        BenchReport {
            schema_version: SCHEMA_VERSION,
            profile: "loopback".to_owned(),
            durability: "kernel-sync".to_owned(),
            message_bytes: 128,
            delivery: Delivery { messages: 10_000, ..Delivery::default() },
            target_rate: Some(1_000.0),
            achieved_rate: 999.96,
            times: Times {
                response_ns: times(123_456),
                service_ns: times(120_000),
                delay_ns: times(50),
                server_ns: times(100_000),
                device_ns: times(90_000),
            },
            floor: Some(Floor {
                port_rtt_ns: FloorPercentiles { p50: 20_000, p99: 30_000 },
                disk_write_ns: FloorPercentiles { p50: 90_000, p99: 200_000 },
            }),
            host: Some(Host {
                cpu: "Some CPU".to_owned(),
                kernel: "6.1.0".to_owned(),
                r#virtual: true,
                checks_failed: vec!["cpu.isolated".to_owned(), "thp".to_owned()],
            }),
            client: None,
        }
    }

    #[test]
    fn the_table_is_aligned_and_in_microseconds() {
        let text = report().table().text();
        let widths: Vec<usize> = text.lines().map(str::len).collect();
        assert_eq!(widths.len(), 9);
        assert!(widths.iter().all(|width| *width == widths[0]), "{text}");
        assert!(text.contains("123.5") && text.contains("12,345.6"), "{text}");
        let sum = text.lines().last().unwrap();
        assert!(sum.starts_with("floor: sum") && sum.contains("110.0"), "{text}");
    }

    #[test]
    fn the_text_says_what_matters_first() {
        let text = report().text();
        assert!(text.starts_with("profile loopback, durability kernel-sync, 128 B"), "{text}");
        assert!(text.contains("lost 0 duplicated 0 reordered 0"), "{text}");
        assert!(text.contains("1.12 times the floor's sum"), "{text}");
        assert!(text.contains("warning: 2 host checks failed: cpu.isolated, thp"), "{text}");
        assert!(!text.contains("FAIL"), "{text}");
    }

    #[test]
    fn of_an_appliance_elsewhere_nothing_is_said_that_is_of_here() {
        let mut remote = report();
        remote.of_a_remote("10.0.0.1:9310".parse().unwrap());
        let text = remote.text();
        assert!(text.starts_with("profile unknown: remote, durability kernel-sync"), "{text}");
        assert!(text.contains("\nhost unknown: remote\nserver 10.0.0.1:9310\n"), "{text}");
        assert!(text.contains("client profile loopback, on this host:\nhost Some CPU"), "{text}");
        let value = serde_json::to_value(&remote).unwrap();
        assert!(value["host"].is_null() && value["profile"] == "unknown: remote", "{value}");
        assert_eq!(value["client"]["host"]["virtual"], true);
        assert_eq!(serde_json::from_value::<BenchReport>(value).unwrap(), remote);
        assert_eq!(remote.hosts().count(), 1, "--strict looks at what is known");
    }

    #[test]
    fn a_run_that_lost_or_fell_behind_has_failed() {
        let bad = BenchReport {
            delivery: Delivery { lost: 1_234, ..report().delivery },
            achieved_rate: 980.0,
            ..report()
        };
        assert_eq!(
            bad.failures(),
            ["1,234 messages lost", "achieved 98.0 % of the target rate, wanted 99 %"]
        );
        assert!(bad.text().contains("FAIL: 1,234 messages lost"));
        let max = BenchReport { target_rate: None, achieved_rate: 5.0, ..report() };
        assert!(max.failures().is_empty());
    }

    #[test]
    fn the_object_has_the_fields_it_is_known_by() {
        let mut value = serde_json::to_value(report()).unwrap();
        let keys = |value: &serde_json::Value| -> Vec<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        let mut wanted = vec![
            "schema_version",
            "profile",
            "durability",
            "message_bytes",
            "messages",
            "lost",
            "duplicated",
            "reordered",
            "target_rate",
            "achieved_rate",
            "response_ns",
            "service_ns",
            "delay_ns",
            "server_ns",
            "device_ns",
            "floor",
            "host",
        ];
        wanted.sort_unstable();
        let mut found = keys(&value);
        found.sort_unstable();
        assert_eq!(found, wanted);
        let mut percentiles = keys(&value["response_ns"]);
        percentiles.sort_unstable();
        assert_eq!(percentiles, ["max", "p50", "p90", "p99", "p99_9", "p99_99"]);
        assert_eq!(value["floor"]["port_rtt_ns"]["p99"], 30_000);
        assert_eq!(value["host"]["virtual"], true);
        assert_eq!(serde_json::from_value::<BenchReport>(value.take()).unwrap(), report());
        let without = BenchReport { floor: None, ..report() };
        assert!(serde_json::to_value(without).unwrap().get("floor").is_none());
    }

    #[test]
    fn numbers_have_separators() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_000), "1,000");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(micros(49), "0.0");
        assert_eq!(micros(50), "0.1");
        assert_eq!(micros(1_234_567_890), "1,234,567.9");
        assert_eq!(
            [0, 1, 1_234].map(|number| count_of(number, "segment")),
            ["0 segments", "1 segment", "1,234 segments"]
        );
        assert_eq!([1, 2].map(batches), ["1 batch", "2 batches"]);
        assert_eq!((thousands_f64(0.5), thousands_f64(1e6)), ("0.50".into(), "1,000,000".into()));
    }

    #[test]
    fn facts_of_a_captured_host() {
        use crate::host::needs::Named;
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let shards = vec![Named { key: "shard.core".to_owned(), value: 1 }];
        let needs = Needs { shards, ..Needs::default() };
        let tree = Tree::new(dir.path());
        assert_eq!(Host::read(&tree, &needs).checks_failed, [""; 0], "unknown is not failed");
        write("proc/cpuinfo", "model name\t: A CPU\nflags\t\t: fpu hypervisor\n");
        write("proc/sys/kernel/osrelease", "6.1.0\n");
        write("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n");
        write("sys/devices/system/cpu/isolated", "\n");
        let facts = Host::read(&tree, &needs);
        assert_eq!((facts.cpu.as_str(), facts.kernel.as_str()), ("A CPU", "6.1.0"));
        assert_eq!(facts.checks_failed, ["thp", "cpu.isolated", "virtualization"]);
    }
}
