//! What a test starts ends with it, also when the test itself is killed.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "drives real processes in real time")]

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use common::{Appliance, Running, tied};

const ROLE: &str = "BUSLANE_TEST_ROLE";

/// The test that is killed: it has an appliance and a publisher that waits for orders.
#[test]
fn role() {
    if std::env::var(ROLE).is_err() {
        return;
    }
    let appliance = Appliance::start(&["disk.size=16MiB", "disk.segment=1MiB"]);
    appliance.run(&["stream", "create", "orders"]);
    let publish = ["publish", "orders", "--lines", "-"];
    let publisher = Running(appliance.client(&publish).stdin(Stdio::piped()).spawn().unwrap());
    // It is tied before it is what it was started for: by then a test may be killed.
    let exe = Path::new("/proc").join(publisher.0.id().to_string()).join("exe");
    while exe.read_link().unwrap() != Path::new(common::BUSLANE) {
        thread::sleep(Duration::from_millis(1));
    }
    println!("started {} {}", appliance.pid(), publisher.0.id());
    thread::sleep(Duration::from_mins(1));
}

#[test]
fn a_killed_test_takes_along_what_it_started() {
    if !tied("true").status().unwrap().success() || tied("true").get_program() == "true" {
        println!("SKIPPED: setpriv cannot tie a process to another here");
        return;
    }
    let mut role = tied(std::env::current_exe().unwrap())
        .args(["--exact", "role", "--nocapture"])
        .env(ROLE, "yes")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(role.stdout.take().unwrap()).lines();
    let said =
        lines.find_map(|line| line.unwrap().split_once("started ").map(|at| at.1.to_owned()));
    role.kill().unwrap();
    role.wait().unwrap();
    let start = Instant::now();
    for pid in said.unwrap().split(' ') {
        while Path::new("/proc").join(pid).join("exe").read_link().is_ok() {
            assert!(start.elapsed() < Duration::from_mins(1), "process {pid} is still there");
            thread::sleep(Duration::from_millis(10));
        }
    }
}
