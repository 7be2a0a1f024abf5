//! `bench report` on a real run: the page is drawn by a browser, and Python reads the same log.
//!
//! The browser is `chromium` or what `CHROMIUM` names; Python is that of `target/venv`, which
//! `scripts/setup --check` makes, or any with the package hdrhistogram.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "drives real processes in real time"
)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use common::{Appliance, BUSLANE, text};

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// One real run for all tests: the directory with its run.hlog and run.json.
fn run() -> &'static Path {
    static RUN: OnceLock<PathBuf> = OnceLock::new();
    RUN.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report-run");
        fs::create_dir_all(&dir).unwrap();
        let log = format!("disk.path={}", dir.join("bench.log").display());
        let output = Command::new(BUSLANE)
            .args(["bench", "run", "--duration", "3s", "--rate", "1000", "--floor", "--set", &log])
            .arg("--out")
            .arg(&dir)
            .output()
            .unwrap();
        // A busy machine misses the rate; the files are written all the same.
        let said = text(&output);
        assert!(output.status.success() || said.contains("of the target rate"), "{said}");
        dir
    })
}

fn report(arguments: &[&str]) -> Output {
    Command::new(BUSLANE).args(["bench", "report"]).args(arguments).output().unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", text(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn hlog() -> String {
    run().join("run.hlog").display().to_string()
}

fn finds(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// What a browser made of a page, and what it complained of; `None`, said aloud, without a browser.
fn browse(page: &Path) -> Option<(String, String)> {
    let named = std::env::var("CHROMIUM").ok();
    let known = ["chromium", "chromium-browser", "google-chrome"].map(str::to_owned);
    let browser = named.or_else(|| known.into_iter().find(|name| finds(name)));
    let Some(browser) = browser else {
        println!("SKIPPED: no browser: install chromium (scripts/setup --check does)");
        return None;
    };
    let profile = scratch();
    let output = Command::new(browser)
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        .args(["--enable-logging=stderr", "--v=0", "--virtual-time-budget=5000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let utf8 = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Some((utf8(output.stdout), utf8(output.stderr)))
}

/// Every plot of a page is drawn, and the browser has nothing to say about it.
fn assert_drawn(page: &Path, plots: usize) {
    let html = fs::read_to_string(page).unwrap();
    assert!(html.len() < 1 << 20, "{} bytes", html.len());
    assert_eq!(html.matches("<figure").count(), plots);
    let Some((dom, said)) = browse(page) else { return };
    assert!(dom.contains(&format!("data-drawn=\"{plots}\"")), "{}\n{said}", &dom[..300]);
    let complaints: Vec<_> = said.lines().filter(|line| line.contains(":CONSOLE")).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
}

#[test]
fn the_page_of_a_run_is_drawn_by_a_browser() {
    let dir = scratch();
    let page = dir.path().join("run.html");
    let output = report(&[&hlog(), "--html", page.to_str().unwrap()]);
    assert!(output.status.success() && output.stdout.is_empty(), "{}", text(&output));
    // Percentiles, throughput, latency of response, and of the four other stages.
    assert_drawn(&page, 7);
    let html = fs::read_to_string(&page).unwrap();
    for part in
        ["<td>loopback</td>", "floor, round trip + write, p50", ">floor-disk<", "host checks"]
    {
        assert!(html.contains(part), "{part}");
    }
    let to_stdout = report(&[&hlog(), "--html", "-", "-q"]);
    assert_eq!(String::from_utf8(to_stdout.stdout).unwrap(), html);
}

#[test]
fn the_stages_of_an_appliance_are_drawn_by_a_browser() {
    let dir = scratch();
    let metrics = format!("metrics.dir={}", dir.path().display());
    let mut appliance = Appliance::start(&[&metrics]);
    let client = dir.path().join("client");
    let out = client.to_str().unwrap();
    let load = ["bench", "run", "--duration", "4s", "--rate", "1000", "--out", out];
    let output = appliance.client(&load).output().unwrap();
    let said = text(&output);
    assert!(output.status.success() || said.contains("of the target rate"), "{said}");
    appliance.stop();
    let logs: Vec<PathBuf> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "hlog"))
        .collect();
    assert_eq!(logs.len(), 1, "{logs:?}");
    let page = dir.path().join("stages.html");
    let output = report(&[logs[0].to_str().unwrap(), "--html", page.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output));
    assert_drawn(&page, 7);
    // Beside the client's own: one comparison more, and each group for itself.
    let both =
        [logs[0].to_str().unwrap(), &format!("{out}/run.hlog"), "--html", page.to_str().unwrap()];
    let output = report(&both);
    assert!(output.status.success(), "{}", text(&output));
    assert_drawn(&page, 3 + 1 + 10);
}

#[test]
fn the_intervals_add_up_to_what_the_run_reported() {
    let object = json(&report(&[&hlog(), "-o", "json"]));
    let run: serde_json::Value =
        serde_json::from_slice(&fs::read(run().join("run.json")).unwrap()).unwrap();
    for row in object["series"].as_array().unwrap() {
        let tag = row["tag"].as_str().unwrap();
        if tag.starts_with("floor") {
            continue;
        }
        assert_eq!(row["count"], run["messages"], "{tag}");
        assert_eq!(row["latency_ns"], run[format!("{tag}_ns")], "{tag}");
    }
    assert_eq!(object["warnings"], serde_json::json!([]));
    let text = String::from_utf8(report(&[&hlog()]).stdout).unwrap();
    assert!(text.starts_with("LATENCY (us)") && text.contains("\nresponse "), "{text}");
}

/// Prints tag, count, p50, p99 and max of each tag. Python rounds to the nearest rank and we round up to the
/// next, which may be another message: so it is asked for our rank.
const PYTHON: &str = r"
import math, sys
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader
reader = HistogramLogReader(sys.argv[1], HdrHistogram(1, 60_000_000_000, 3))
totals = {}
while True:
    interval = reader.get_next_interval_histogram()
    if interval is None:
        break
    tag = interval.get_tag()
    totals.setdefault(tag, HdrHistogram(1, 60_000_000_000, 3)).add(interval)
for tag, of in totals.items():
    count = of.get_total_count()
    at = lambda percent: of.get_value_at_percentile(100 * math.ceil(count * percent / 100) / count)
    print(tag, count, at(50), at(99), of.get_max_value())
";

#[test]
fn python_reads_the_log_and_finds_the_same() {
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/python");
    let python = if venv.exists() { venv } else { PathBuf::from("python3") };
    let imports = Command::new(&python).args(["-c", "import hdrh.log"]).output();
    if !imports.is_ok_and(|output| output.status.success()) {
        println!(
            "SKIPPED: no Python with the package hdrhistogram (scripts/setup --check installs it)"
        );
        return;
    }
    let output = Command::new(&python).args(["-c", PYTHON, &hlog()]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let object = json(&report(&[&hlog(), "-o", "json"]));
    let rows = object["series"].as_array().unwrap();
    let read = String::from_utf8(output.stdout).unwrap();
    assert_eq!(read.lines().count(), rows.len(), "{read}");
    for line in read.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let row = rows.iter().find(|row| row["tag"] == fields[0]).unwrap();
        assert_eq!(row["count"].to_string(), fields[1], "{line}");
        for (field, name) in fields[2..].iter().zip(["p50", "p99", "max"]) {
            let own = row["latency_ns"][name].as_f64().unwrap();
            let apart = own - field.parse::<f64>().unwrap();
            // Both take the upper end of what the histogram cannot tell apart.
            assert!(apart.abs() <= own / 1_000.0 + 1.0, "{line}: {name} {own}");
        }
    }
}

#[test]
fn what_is_no_log_is_refused_with_its_line_and_what_to_do() {
    let dir = scratch();
    let path = dir.path().join("bad.hlog");
    let file = path.to_str().unwrap();
    let whole = fs::read_to_string(hlog()).unwrap();
    let mut lines: Vec<&str> = whole.lines().collect();
    lines.insert(5, "what is this?");
    let middle = lines.join("\n") + "\n";
    let damaged = whole.replacen("HISTF", "HISTX", 1);
    let cases = [
        ("", "bad.hlog:1: the file is empty"),
        ("hello\n", "bad.hlog:1: not an HdrHistogram interval log"),
        (
            "#[StartTime: 1.000 (seconds since epoch)]\n",
            "bad.hlog:1: the file ends without an interval",
        ),
        (&middle, "bad.hlog:6: not a line of an interval log"),
        (&damaged, "its histogram cannot be read"),
    ];
    for (content, says) in cases {
        fs::write(&path, content).unwrap();
        let output = report(&[file]);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains(says), "{says}: {}", text(&output));
    }
    let output = report(&[dir.path().join("none.hlog").to_str().unwrap()]);
    assert!(text(&output).contains("none.hlog: No such file"), "{}", text(&output));
    // A kill cuts the last line off; the rest counts.
    fs::write(&path, &whole[..whole.len() - 30]).unwrap();
    let output = report(&[file]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("is cut off"), "{}", text(&output));
    let output = report(&[file, "--html", "-", "-o", "json"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
}
