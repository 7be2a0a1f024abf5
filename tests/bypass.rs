//! The road round the kernel: the thread of a serving shard makes no system call under load.
#![cfg(feature = "dpdk")]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "drives real processes in real time"
)]

mod common;
#[cfg(feature = "spdk")]
#[path = "common/target.rs"]
mod target;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use common::{Running, order_flow, signal, wait};

fn command(settings: &[&str], args: &[&str]) -> Command {
    let mut command = common::buslane();
    command.args(args).args(settings);
    command
}

fn serve(settings: &[&str]) -> Running {
    let mut child = command(settings, &["serve"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let running = Running(child);
    let mut line = String::new();
    while !line.starts_with("ready") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended before it was ready");
    }
    thread::spawn(move || while stderr.read_line(&mut line).is_ok_and(|read| read > 0) {});
    running
}

/// A number of the first thread's status file.
fn status(pid: u32, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/task/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// What strace saw the shard's thread call in two seconds; `None` where there is no strace.
fn system_calls(pid: u32, dir: &Path) -> Option<String> {
    let path = dir.join("strace");
    let started = common::tied("strace")
        .args(["-c", "-p", &pid.to_string(), "-o", path.to_str().unwrap()])
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut strace) = started else { return None };
    thread::sleep(Duration::from_millis(500));
    let attached = status(pid, "TracerPid") != 0;
    thread::sleep(Duration::from_secs(2));
    signal(&strace, "INT");
    wait(&mut strace, common::PATIENCE);
    attached.then(|| fs::read_to_string(&path).unwrap())
}

fn calls_nothing(settings: &[&str]) {
    let _turn = common::turn();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let server = serve(settings);
    assert!(command(settings, &["stream", "create", "orders"]).status().unwrap().success());
    let flow = order_flow(dir.path());
    let publish = ["publish", "orders", "-q", "--rate", "1000", "--itch", flow.to_str().unwrap()];
    let _publisher = Running(command(settings, &publish).spawn().unwrap());
    thread::sleep(Duration::from_secs(1));
    let pid = server.0.id();
    let before = status(pid, "voluntary_ctxt_switches");
    thread::sleep(Duration::from_secs(2));
    let switches = status(pid, "voluntary_ctxt_switches") - before;
    assert_eq!(switches, 0, "the shard's thread waited for something");
    match system_calls(pid, dir.path()) {
        Some(calls) => assert!(calls.trim().is_empty(), "{calls}"),
        None => println!("SKIPPED: strace is not installed, or may not attach"),
    }
}

#[test]
fn a_shard_on_shared_memory_calls_nothing() {
    let instance = format!("instance=calls-{}", std::process::id());
    calls_nothing(&["--profile", "memif-ram", "--set", &instance]);
}

#[cfg(feature = "spdk")]
#[test]
fn a_shard_on_a_namespace_calls_nothing() {
    let target = ["--size", "256", "--core", "0"];
    let Some(target) = target::Target::start("calls", &target) else { return };
    let instance = format!("instance=calls-spdk-{}", std::process::id());
    let path = format!("disk.path={}", target.id);
    // Target and publisher share a core: a time slice is not to be taken for a device that is late.
    let patient = "disk.spdk.timeout_ms=2000";
    let settings = ["--profile", "vfio-user", "--set", &instance, "--set", &path, "--set", patient];
    let format = command(&settings, &["log", "format", &target.id]).output().unwrap();
    assert!(format.status.success(), "{}", common::text(&format));
    calls_nothing(&settings);
}
