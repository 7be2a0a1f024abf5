//! Histories of real processes: what is true of one log is let through, and what is not is found.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use common::{Appliance, text};

const SIZES: [&str; 2] = ["disk.size=16MiB", "disk.segment=1MiB"];

/// Publishes lines to `orders`, and returns the publisher's history.
fn publish(appliance: &Appliance, lines: &str, name: &str) -> PathBuf {
    let (input, history) = (appliance.dir.path().join("lines"), appliance.dir.path().join(name));
    fs::write(&input, lines).unwrap();
    let (input, path) = (input.to_str().unwrap(), history.to_str().unwrap());
    appliance.run(&["publish", "orders", "--lines", input, "--history", path]);
    history
}

/// Consumes all of `orders`, and returns the consumer's history.
fn consume(appliance: &Appliance, name: &str) -> PathBuf {
    let history = appliance.dir.path().join(name);
    appliance.run(&["consume", "orders", "--history", history.to_str().unwrap()]);
    history
}

fn start() -> Appliance {
    let appliance = Appliance::start(&SIZES);
    appliance.run(&["stream", "create", "orders"]);
    appliance
}

fn verify(histories: &[&Path]) -> Output {
    common::buslane().arg("verify-history").args(histories).output().unwrap()
}

/// It fails, and finds this.
fn found(histories: &[&Path], check: &str) {
    let output = verify(histories);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.lines().any(|line| line.contains(&format!(": {check}: "))), "{}", text(&output));
}

/// Of a history that says not of which log it is: one of an appliance that does not say it either.
fn without_log(history: &Path) {
    let lines = fs::read_to_string(history).unwrap();
    let lines: Vec<String> = lines
        .lines()
        .map(|line| match line.split_once("\"log\":") {
            Some((before, after)) => {
                let rest = after.trim_start_matches(|digit: char| digit.is_ascii_digit());
                format!("{before}\"log\":0{rest}\n")
            }
            None => format!("{line}\n"),
        })
        .collect();
    fs::write(history, lines.concat()).unwrap();
}

#[test]
fn what_processes_saw_of_one_log_is_true_over_a_restart() {
    let mut appliance = start();
    let first = publish(&appliance, "a\nb\nc\n", "first");
    let seen = consume(&appliance, "seen");
    appliance.kill();
    appliance.restart();
    let second = publish(&appliance, "d\ne\n", "second");
    let all = consume(&appliance, "all");
    let histories = [&first, &seen, &second, &all].map(PathBuf::as_path);
    let output =
        common::buslane().args(["verify-history", "-o", "json"]).args(histories).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for (key, expected) in [
        ("histories", 4),
        ("offered", 5),
        ("acknowledged", 5),
        ("delivered", 8),
        ("sequences", 5),
        ("contradictions_total", 0),
    ] {
        assert_eq!(report[key], expected, "{key} of {report}");
    }
    // One that is there is of another client, and stays as it is.
    let before = fs::read(&first).unwrap();
    let again = ["consume", "orders", "--history", first.to_str().unwrap()];
    let refused = appliance.client(&again).output().unwrap();
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("there is a file already"));
    assert_eq!(fs::read(&first).unwrap(), before);
}

#[test]
fn another_log_in_its_place_is_found() {
    let (one, other) = (start(), start());
    let published = publish(&one, "a\nb\nc\n", "published");
    publish(&other, "x\ny\nz\n", "elsewhere");
    let consumed = consume(&other, "consumed");
    found(&[&published, &consumed], "log");
    // Where nobody said which log it was, by what it holds: another payload under the same numbers.
    without_log(&published);
    without_log(&consumed);
    found(&[&published, &consumed], "content");
    let output = verify(&[&published, &consumed]);
    let says = "holds another payload";
    assert!(String::from_utf8_lossy(&output.stdout).contains(says), "{}", text(&output));
}

#[test]
fn an_older_copy_in_its_place_is_found() {
    let mut appliance = start();
    let first = publish(&appliance, "a\nb\nc\n", "first");
    assert_eq!(appliance.stop().0, 0);
    let copy = appliance.dir.path().join("copy");
    fs::copy(appliance.log_path(), &copy).unwrap();
    appliance.restart();
    let second = publish(&appliance, "d\ne\n", "second");
    assert_eq!(appliance.stop().0, 0);
    fs::copy(&copy, appliance.log_path()).unwrap();
    appliance.restart();
    let consumed = consume(&appliance, "consumed");
    found(&[&first, &second, &consumed], "durable");
    // It goes on differently.
    let third = publish(&appliance, "x\n", "third");
    found(&[&first, &second, &third], "content");
}

#[test]
fn what_cannot_be_written_or_read_is_said() {
    let appliance = start();
    let full = ["publish", "orders", "--lines", "-", "--history", "/dev/full"];
    let output = appliance.client(&full).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "a device is there already: {}", text(&output));
    let away = ["publish", "orders", "--lines", "-", "--history", "/nowhere/history"];
    let output = appliance.client(&away).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere/history: "));
    let output = verify(&[Path::new("/nowhere/history")]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere/history: No such file"));
}
