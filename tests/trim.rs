//! Trimming, whole process: a full log is trimmed and goes on; what is gone is said, and stays gone.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::process::{Output, Stdio};

use common::{Appliance, Running, text};

fn publish(appliance: &Appliance, lines: &str) -> Output {
    let mut child = appliance
        .client(&["publish", "orders", "--lines", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that is refused reads no more.
    let _ = child.stdin.take().unwrap().write_all(lines.as_bytes());
    child.wait_with_output().unwrap()
}

#[test]
fn a_full_log_is_trimmed_and_goes_on() {
    let mut appliance = Appliance::start(&["disk.size=9MiB", "disk.segment=1MiB"]);
    appliance.run(&["stream", "create", "orders"]);
    let lines: String = (0..20_000).map(|n| format!("{n:0500}\n")).collect();
    let refused = publish(&appliance, &lines);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    assert!(text(&refused).contains("the log is full"), "{}", text(&refused));

    let described = |appliance: &Appliance| -> (u64, u64) {
        let json = appliance.run(&["stream", "describe", "orders", "-o", "json"]);
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let of = |key: &str| json["streams"][0][key].as_u64().unwrap();
        (of("first_sequence"), of("next_sequence"))
    };
    let what = appliance.client(&["stream", "trim", "orders"]).output().unwrap();
    let says = text(&what);
    assert!(what.status.code() == Some(2) && says.contains("--before") && says.contains("--keep"));
    let (first, next) = described(&appliance);
    assert!(first == 1 && next > 1_000, "{first} to {next}");

    let unasked = appliance.client(&["stream", "trim", "orders", "--keep", "10"]).output().unwrap();
    assert_eq!(unasked.status.code(), Some(2), "{}", text(&unasked));
    assert!(text(&unasked).contains("add --yes"), "{}", text(&unasked));
    let ahead = next.to_string();
    let future = appliance.client(&["stream", "trim", "orders", "--yes", "--before"]);
    let future = { future }.arg((next + 5).to_string()).output().unwrap();
    assert_eq!(future.status.code(), Some(2), "{}", text(&future));
    assert_eq!(described(&appliance), (1, next), "nothing was removed (next is {ahead})");

    appliance.run(&["stream", "trim", "orders", "--keep", "10", "--yes"]);
    assert_eq!(described(&appliance), (next - 10, next));
    let gone = appliance.client(&["consume", "orders", "--from", "5"]).output().unwrap();
    assert_eq!(gone.status.code(), Some(1), "{}", text(&gone));
    // Numbers for people have separators.
    let plain = text(&gone).replace(',', "");
    assert!(plain.contains(&(next - 10).to_string()), "{plain}");

    let again = publish(&appliance, &lines[..501 * 1_000]);
    assert!(again.status.success(), "{}", text(&again));
    appliance.kill();
    appliance.restart();
    assert_eq!(described(&appliance), (next - 10, next + 1_000));
    let all = appliance.run(&["consume", "orders", "--from", "start", "-o", "raw"]);
    assert_eq!(all.len(), 1_010 * 500, "what is kept, and nothing else");

    appliance.run(&["stream", "trim", "orders", "--before", "end", "--yes"]);
    assert_eq!(described(&appliance), (next + 1_000, next + 1_000));
    let (code, said) = appliance.stop();
    assert_eq!(code, 0, "{said}");
    let path = appliance.log_path().display().to_string();
    // Tools see the trim before the next start does.
    let found = appliance.run(&["log", "describe", &path, "-o", "json"]);
    let found: serde_json::Value = serde_json::from_slice(&found).unwrap();
    assert_eq!(found["streams"][0]["first_sequence"], next + 1_000);
    assert_eq!((&found["messages"], &found["messages_kept"]), (&(next + 999).into(), &0.into()));
    let verified = appliance.client(&["log", "verify", &path]).output().unwrap();
    assert!(verified.status.success(), "{}", text(&verified));
}

/// What the journal says of a log: that it is full, which stream keeps its oldest segment, and when it is over.
#[test]
fn that_a_log_is_full_is_said_and_that_it_is_not_any_more() {
    let mut appliance = Appliance::start(&["disk.size=9MiB", "disk.segment=1MiB"]);
    for name in ["forgotten", "another", "orders"] {
        appliance.run(&["stream", "create", name]);
    }
    for name in ["forgotten", "another"] {
        let mut first = appliance.client(&["publish", name, "--lines", "-"]);
        let mut first = first.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        first.stdin.take().unwrap().write_all(b"one\n").unwrap();
        assert!(first.wait().unwrap().success());
    }
    let lines: String = (0..20_000).map(|n| format!("{n:0500}\n")).collect();
    let refused = publish(&appliance, &lines);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    let (code, said) = appliance.stop();
    assert_eq!(code, 0, "{said}");
    let full = |keeper: &str| {
        format!(
            "warning: the log is full; publishers wait, consumers are served; trim every stream, first {keeper}, \
             which keeps the oldest (buslane stream trim)"
        )
    };
    assert_eq!(said.matches(&full("forgotten")).count(), 1, "{said}");

    // It is full from its start on.
    let mut serving =
        appliance.serve_command().stderr(Stdio::piped()).spawn().map(Running).unwrap();
    let mut says = BufReader::new(serving.0.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(says.any(|line| line.starts_with(&full("forgotten"))));
    let trim = |args: &[&str]| {
        let trim = appliance.client(&["stream", "trim", "--yes"]).args(args).output().unwrap();
        assert!(trim.status.success(), "{}", text(&trim));
        String::from_utf8(trim.stderr).unwrap()
    };
    let keeps = trim(&["orders", "--keep", "10"]);
    let note = "note: no room is freed yet: stream forgotten keeps message 1, which is older";
    assert!(keeps.starts_with(note), "{keeps}");
    let refused = publish(&appliance, &lines[..501 * 10]);
    assert_eq!(refused.status.code(), Some(1), "the forgotten one keeps all: {}", text(&refused));
    // It stays full, and says who keeps it so now.
    trim(&["forgotten", "--before", "end"]);
    assert!(says.any(|line| line.starts_with(&full("another"))));
    assert_eq!(trim(&["another", "--before", "end"]), "", "it frees");
    assert!(says.any(|line| line.starts_with("the log takes messages again: there is room for ")));
    let taken = publish(&appliance, &lines[..501 * 10]);
    assert!(taken.status.success(), "{}", text(&taken));
}
