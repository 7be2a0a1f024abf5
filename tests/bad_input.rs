//! What users and networks do wrong: a clear error where someone asked, a counted drop where nobody did,
//! and nothing else changes.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "drives real processes in real time"
)]

mod common;

use std::fs;
use std::net::UdpSocket;
use std::process::{Command, Output};
use std::time::Duration;

use buslane::random::Random;
use common::{Appliance, BUSLANE, free_port, signal, text, wait};

fn run(args: &[&str]) -> Output {
    Command::new(BUSLANE).args(args).output().unwrap()
}

/// Runs a command that has to fail with this code and say all of this.
#[track_caller]
fn refused(output: &Output, code: i32, says: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{}", text(output));
    for word in says {
        assert!(stderr.contains(word), "`{word}` is not in: {stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
}

fn small() -> Appliance {
    Appliance::start(&["disk.size=16MiB", "disk.segment=1MiB"])
}

#[test]
fn garbage_from_the_network_changes_nothing() {
    let appliance = small();
    appliance.run(&["stream", "create", "orders"]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut numbers = Random::new(0x1234_5678);
    let mut random = move || numbers.next_u64().to_le_bytes()[0];
    for round in 0..5_000usize {
        let mut bytes: Vec<u8> = (0..round % 1_400).map(|_| random()).collect();
        if round % 2 == 0 && bytes.len() >= 20 {
            // Of a session, or of none: each type in turn, and a frame of some kind with a length that lies.
            let types = [0x11, 0x12, 0x13, 0x14, 0x17, 0x05, 0x10, 0x21];
            bytes[..8].copy_from_slice(&[types[round / 2 % 8], 0, 1, 0, 0, 0, 0, 0]);
            bytes[16..20].copy_from_slice(&[
                u8::try_from(round % 25).unwrap(),
                0,
                random(),
                random(),
            ]);
        }
        let _ = socket.send_to(&bytes, &appliance.address);
    }
    let lines = appliance.dir.path().join("lines");
    fs::write(&lines, "one\ntwo\n").unwrap();
    appliance.run(&["publish", "orders", "--lines", lines.to_str().unwrap()]);
    assert_eq!(appliance.run(&["consume", "orders", "-o", "raw"]), b"onetwo");
}

#[test]
fn what_is_not_there_is_named_with_what_mends_it() {
    let appliance = small();
    let lines = appliance.dir.path().join("lines");
    fs::write(&lines, "one\n").unwrap();
    let lines = lines.to_str().unwrap();
    for args in [&["publish", "nope", "--lines", lines][..], &["consume", "nope"]] {
        let output = appliance.client(args).output().unwrap();
        refused(&output, 1, &["stream nope", "buslane stream create nope"]);
    }
    refused(&appliance.client(&["stream", "create", "a b"]).output().unwrap(), 2, &["cannot name"]);
    let nobody = format!("127.0.0.1:{}", free_port());
    refused(
        &run(&["--connect-timeout", "1s", "--server", &nobody, "stream", "list"]),
        3,
        &["does not answer", &nobody],
    );
    // A setting holds without a profile, too.
    let there = format!("port.address={nobody}");
    refused(
        &run(&["--connect-timeout", "1s", "--set", &there, "stream", "list"]),
        3,
        &["does not answer", &nobody],
    );
    refused(&run(&["--set", "prot.address=1", "stream", "list"]), 2, &["prot.address"]);
    refused(
        &appliance.client(&["publish", "x", "--itch", "/nonexistent"]).output().unwrap(),
        1,
        &["/nonexistent"],
    );
}

#[test]
fn a_stream_is_read_from_any_time_and_a_time_to_come_is_its_end() {
    let appliance = small();
    appliance.run(&["stream", "create", "orders"]);
    let lines = appliance.dir.path().join("lines");
    fs::write(&lines, "a\nb\nc\n").unwrap();
    appliance.run(&["publish", "orders", "--lines", lines.to_str().unwrap()]);
    assert_eq!(appliance.run(&["consume", "orders", "--from", "@0", "-o", "raw"]), b"abc");
    let future = appliance.run(&["consume", "orders", "--from", "@9999999999", "-o", "raw"]);
    assert_eq!(future, b"");
    assert_eq!(appliance.run(&["consume", "orders", "--from", "3", "-o", "raw"]), b"c");
}

#[test]
fn input_that_is_too_large_or_cut_short_is_named() {
    let appliance = small();
    appliance.run(&["stream", "create", "orders"]);
    let path = appliance.dir.path().join("input");
    let file = path.to_str().unwrap();
    fs::write(&path, vec![b'x'; 20_000]).unwrap();
    let output = appliance.client(&["publish", "orders", "--lines", file]).output().unwrap();
    refused(&output, 1, &["20000 bytes", "is the most"]);
    let event = [0, 12, b'S', 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, b'O'];
    fs::write(&path, [&event[..], &event[..9]].concat()).unwrap();
    let output = appliance.client(&["publish", "orders", "--itch", file]).output().unwrap();
    refused(&output, 1, &["byte 14", "cut short", "1 messages are acknowledged"]);
}

#[test]
fn a_profile_for_what_is_not_there_is_refused() {
    let serve = |set: &str| run(&["serve", "--set", set]);
    refused(&serve("shard.coer=1"), 2, &["shard.coer", "shard.core"]);
    refused(&serve("shard.core=4711"), 1, &["4711"]);
    refused(&serve("disk.driver=spdk"), 2, &["transport id"]);
    refused(&serve("disk.driver=ram"), 2, &["accept_volatile"]);
    refused(&serve("disk.size=1MiB"), 2, &["disk.size"]);
    refused(&run(&["serve", "--profile", "/nonexistent.toml"]), 2, &["/nonexistent.toml"]);
    if !cfg!(feature = "dpdk") {
        refused(&run(&["serve", "--profile", "memif"]), 1, &["--features dpdk"]);
    }
    if !cfg!(feature = "spdk") {
        let output = run(&["serve", "--profile", "nvme-tcp"]);
        refused(&output, 1, &["--features"]);
    }
}

#[test]
fn a_disk_that_cannot_be_used_is_refused() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let port = format!("port.address=127.0.0.1:{}", free_port());
    let serve = |path: &str| {
        let path = format!("disk.path={path}");
        run(&[
            "serve",
            "--set",
            &port,
            "--set",
            &path,
            "--set",
            "disk.size=16MiB",
            "--set",
            "disk.segment=1MiB",
        ])
    };
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("foreign"), vec![7; 16 << 20]).unwrap();
    refused(&serve(&path("foreign")), 1, &["foreign", "log format"]);
    assert_eq!(fs::read(path("foreign")).unwrap(), vec![7; 16 << 20], "nothing was changed");
    let format = run(&["log", "format", &path("foreign"), "--set", "disk.segment=1MiB"]);
    refused(&format, 1, &["not Buslane's", "--force"]);
    refused(&serve(dir.path().to_str().unwrap()), 1, &["neither a file nor a block device"]);
    refused(&serve("/proc/nope/log"), 1, &["/proc/nope"]);
    fs::write(path("short"), vec![0; 4096]).unwrap();
    refused(&serve(&path("short")), 1, &["short"]);
    refused(&run(&["log", "describe", &path("missing")]), 1, &["missing", "log format"]);
}

#[test]
fn a_read_only_disk_is_refused() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let log = dir.path().join("log");
    let sizes = ["--set", "disk.size=16MiB", "--set", "disk.segment=1MiB"];
    let path = log.to_str().unwrap();
    assert!(run(&[&["log", "format", path][..], &sizes].concat()).status.success());
    // A mount of its own, which ends with the command.
    let script = "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" || exit 77
        shift; exec \"$@\"";
    let port = format!("port.address=127.0.0.1:{}", free_port());
    let set = format!("disk.path={path}");
    // Keys go beside the log, unless they have a place of their own.
    let (elsewhere, beside) = (tempfile::tempdir().unwrap(), dir.path().join("keys"));
    for keys in [beside, elsewhere.path().join("keys")] {
        let is_beside = keys.parent() == Some(dir.path());
        let named = if is_beside { keys.to_str().unwrap() } else { path };
        let output = Command::new("unshare")
            .args(["--mount", "sh", "-c", script, "sh", dir.path().to_str().unwrap(), BUSLANE])
            .args(["serve", "--set", &port, "--set", &set])
            .args(["--set", &format!("security.keys={}", keys.display())])
            .args(sizes)
            .output();
        match output {
            Ok(output) if output.status.code() == Some(1) => {
                refused(&output, 1, &[named, "Read-only file system"]);
            }
            other => println!("SKIPPED: no read-only mount may be made here: {other:?}"),
        }
    }
}

#[test]
fn a_port_or_a_log_in_use_is_named() {
    let appliance = small();
    let free = format!("port.address=127.0.0.1:{}", free_port());
    let again = appliance.serve_command().args(["--set", &free]).output().unwrap();
    refused(&again, 1, &["test.log", "another Buslane process"]);
    let log = appliance.log_path();
    let describe = run(&["log", "describe", log.to_str().unwrap()]);
    refused(&describe, 1, &["another Buslane process"]);
    let other = appliance.dir.path().join("other.log");
    let output = appliance
        .serve_command()
        .args(["--set", &format!("disk.path={}", other.display())])
        .output()
        .unwrap();
    refused(&output, 1, &["cannot listen", &appliance.address, "port.address"]);
    assert!(!other.exists(), "a log was made for an appliance that cannot serve");
}

#[test]
fn a_full_log_ends_a_publisher_and_loses_nothing() {
    let mut appliance = small();
    appliance.run(&["stream", "create", "orders"]);
    let path = appliance.dir.path().join("lines");
    let line = "x".repeat(1_000);
    fs::write(&path, format!("{line}\n").repeat(20_000)).unwrap();
    let file = path.to_str().unwrap();
    let output = appliance.client(&["publish", "orders", "--lines", file]).output().unwrap();
    refused(&output, 1, &["the log is full", "acknowledged"]);
    let kept = appliance.run(&["consume", "orders", "-o", "raw"]);
    assert!(kept.len() > 8 << 20 && kept.iter().all(|&byte| byte == b'x'), "{}", kept.len());
    appliance.kill();
    appliance.restart();
    assert_eq!(appliance.run(&["consume", "orders", "-o", "raw"]).len(), kept.len());
}

#[test]
fn a_publisher_whose_appliance_is_gone_ends_when_it_is_told_to() {
    let mut appliance = small();
    appliance.run(&["stream", "create", "orders"]);
    let path = appliance.dir.path().join("lines");
    fs::write(&path, "order\n".repeat(20_000)).unwrap();
    let file = path.to_str().unwrap();
    let mut child = appliance
        .client(&["publish", "orders", "--rate", "2000", "--lines", file])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    appliance.kill();
    std::thread::sleep(Duration::from_millis(300));
    common::signal(&child, "TERM");
    let begin = std::time::Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(begin.elapsed() < Duration::from_secs(20), "one signal is enough");
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().unwrap();
    refused(&output, 1, &["interrupted", "does not answer", "may still be stored"]);
}

#[test]
fn a_stop_is_clean_and_a_second_signal_ends_at_once() {
    let mut appliance = small();
    appliance.run(&["stream", "create", "orders"]);
    let (code, said) = appliance.stop();
    assert_eq!(code, 0, "{said}");
    let log = appliance.log_path();
    let log = log.to_str().unwrap();
    let described = run(&["log", "describe", log, "-o", "json"]);
    assert!(text(&described).contains("\"clean\":true"), "{}", text(&described));
    assert!(run(&["log", "verify", log]).status.success());
    appliance.restart();
    let mut child = appliance.client(&["consume", "orders", "--follow"]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    signal(&child, "INT");
    assert_eq!(wait(&mut child, Duration::from_secs(5)).code(), Some(130));
}

#[test]
fn damage_on_the_disk_stops_the_start_with_the_range() {
    let mut appliance = small();
    appliance.run(&["stream", "create", "orders"]);
    let path = appliance.dir.path().join("lines");
    let file = path.to_str().unwrap().to_owned();
    for number in 1..=3 {
        fs::write(&path, format!("needle-000{number}\n")).unwrap();
        // One after the other is on media, so that each is in a batch of its own.
        appliance.run(&["publish", "orders", "--lines", &file]);
    }
    std::thread::sleep(Duration::from_millis(50));
    appliance.kill();
    let log = appliance.log_path();
    let name = log.to_str().unwrap();
    assert!(run(&["log", "verify", name]).status.success(), "a killed log verifies clean");
    let mut bytes = fs::read(&log).unwrap();
    let at = bytes.windows(11).position(|window| window == b"needle-0002").unwrap();
    bytes[at] ^= 4;
    fs::write(&log, &bytes).unwrap();
    let says = ["damaged", "orders", "sequences 2 to 2"];
    refused(&appliance.serve_command().output().unwrap(), 1, &says);
    let verified = run(&["log", "verify", name]);
    assert_eq!(verified.status.code(), Some(1));
    let said = text(&verified);
    assert!(said.contains("stream orders: sequences 2 to 2"), "{said}");
}
