//! Whole processes on an NVMe namespace: the appliance killed, the target killed, the device slow, in error,
//! or another. `BUSLANE_TORTURE_ROUNDS` sets the number of kills (10).
#![cfg(feature = "spdk")]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "drives real processes in real time"
)]

mod common;
#[path = "common/target.rs"]
mod target;

use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use buslane::disk::lock::Lock;
use common::{Appliance, BUSLANE, Feed, Running, text};
use target::Target;

/// Kernel UDP in front, so that client, appliance and target do not all spin on two cores.
const PROFILE: &str = "nvme-tcp";

fn rounds() -> usize {
    std::env::var("BUSLANE_TORTURE_ROUNDS")
        .map_or(10, |text| text.parse::<usize>().unwrap().min(50))
}

fn format(target: &Target, shards: &str) {
    let output = Command::new(BUSLANE)
        .args(["log", "format", &target.id, "--profile", PROFILE, "--shards", shards])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

/// A formatted namespace and an appliance on it; `None` where there is no SPDK.
fn appliance(instance: &str, target: &[&str], settings: &[&str]) -> Option<(Target, Appliance)> {
    let target = Target::start(instance, target)?;
    let two = settings.contains(&"shard.count=2");
    format(&target, if two { "2" } else { "1" });
    // Target, appliance and whatever else runs share cores: a time slice is no device that is late.
    let settings = [&["disk.spdk.timeout_ms=2000"], settings].concat();
    let appliance = Appliance::start_on(PROFILE, Some(target.id.clone()), &settings);
    Some((target, appliance))
}

/// A bdev of a file, on what is no memory.
fn file_bdev(dir: &tempfile::TempDir) -> Vec<String> {
    let path = dir.path().join("namespace").display().to_string();
    ["--bdev", "file", "--size", "512", "--core", "0", "--file", &path].map(str::to_owned).to_vec()
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

#[test]
fn kills_of_the_appliance_lose_and_double_nothing() {
    let dir = scratch();
    let bdev = file_bdev(&dir);
    let bdev: Vec<&str> = bdev.iter().map(String::as_str).collect();
    let Some((_target, mut appliance)) = appliance("kill", &bdev, &[]) else { return };
    let feed = Feed::start(&appliance);
    for kill in 0..rounds() {
        thread::sleep(Duration::from_micros(50_000 + 7_919 * (kill as u64 % 13)));
        appliance.kill();
        appliance.restart();
    }
    let count = feed.finish(&appliance);
    println!("{} kills of the appliance, {count} messages, lost 0 duplicated 0", rounds());
}

#[test]
fn kills_of_the_target_are_survived_without_a_restart() {
    let dir = scratch();
    for transport in ["vfio-user", "tcp"] {
        let mut bdev = file_bdev(&dir);
        let port = common::free_port().to_string();
        bdev.extend(["--transport", transport, "--port", &port].map(str::to_owned));
        let bdev: Vec<&str> = bdev.iter().map(String::as_str).collect();
        let instance = format!("target-{transport}");
        let Some((target, mut appliance)) = appliance(&instance, &bdev, &[]) else { return };
        let feed = Feed::start(&appliance);
        for kill in 0..rounds() {
            thread::sleep(Duration::from_micros(300_000 + 7_919 * (kill as u64 % 13)));
            target.kill();
            thread::sleep(Duration::from_millis(20));
            target.start_again();
        }
        let count = feed.finish(&appliance);
        let (code, said) = appliance.stop();
        assert_eq!(code, 0, "{said}");
        assert!(said.contains("nothing is acknowledged until it is back"), "{said}");
        println!("{} kills of the target over {transport}, {count} messages, lost 0", rounds());
        drop(target);
        std::fs::remove_file(dir.path().join("namespace")).unwrap();
    }
}

/// Two shards have a queue pair each on one controller. It is attached anew, once, when both have let go of it.
#[test]
fn two_shards_on_one_controller_lose_it_and_get_it_back() {
    let dir = scratch();
    let bdev = file_bdev(&dir);
    let bdev: Vec<&str> = bdev.iter().map(String::as_str).collect();
    let two = ["shard.count=2", "shard.core=none", "disk.size=256MiB"];
    let Some((target, mut appliance)) = appliance("two", &bdev, &two) else { return };
    let feeds = ["orders", "trades"].map(|stream| Feed::start_on(&appliance, stream));
    for kill in 0..rounds() {
        thread::sleep(Duration::from_micros(300_000 + 7_919 * (kill as u64 % 13)));
        target.kill();
        thread::sleep(Duration::from_millis(20));
        target.start_again();
    }
    appliance.kill();
    appliance.restart();
    let counts = feeds.map(|feed| feed.finish(&appliance));
    let list = String::from_utf8(appliance.run(&["stream", "list"])).unwrap();
    let shard_of = |stream: &str| {
        let line = list.lines().find(|line| line.starts_with(stream)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_ne!(shard_of("orders"), shard_of("trades"), "{list}");
    assert_eq!(appliance.stop().0, 0);
    println!(
        "{} kills of the target under two shards and one of the appliance, {counts:?} messages, lost 0",
        rounds()
    );
}

/// `buslane` with these arguments, which has to fail; what it says. One that is not refused would serve without end.
fn refused(args: &[&str], settings: &[&str]) -> String {
    let mut command = common::buslane();
    command.args(args).args(["--profile", PROFILE]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut child = Running(child);
    let (said, is_ready) = common::heard(&mut child.0);
    assert!(!is_ready && !child.0.wait().unwrap().success(), "{said}");
    said
}

fn tcp(more: &[&str]) -> Vec<String> {
    let port = common::free_port().to_string();
    let mut arguments: Vec<String> =
        ["--transport", "tcp", "--core", "0", "--port", &port].map(str::to_owned).to_vec();
    arguments.extend(more.iter().map(ToString::to_string));
    arguments
}

fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// By what the namespace is: before its log is read, which has a lock of its own.
fn refused_by_the_namespace(settings: &[&str]) {
    let said = refused(&["serve"], settings);
    let why = "another Buslane process of this host uses it";
    assert!(said.contains(why) && !said.contains("its log"), "{settings:?}: {said}");
}

/// Two namespaces may be one disk.
#[test]
fn a_log_has_one_writer_on_whatever_namespace() {
    let arguments = tcp(&["--size", "128"]);
    let Some(target) = Target::start("leg", &words(&arguments)) else { return };
    format(&target, "1");
    let describe = ["log", "describe", &target.id, "--profile", PROFILE, "-o", "json"];
    let described = Command::new(BUSLANE).args(describe).output().unwrap();
    let described: serde_json::Value = serde_json::from_slice(&described.stdout).unwrap();
    let leg = described["leg"].as_str().unwrap();
    // As whoever has it open by another namespace does.
    let other = Lock::take(&format!("log {leg}")).unwrap();
    let address = format!("port.address=127.0.0.1:{}", common::free_port());
    let disk = format!("disk.path={}", target.id);
    let said = refused(&["serve"], &[&address, &disk]);
    assert!(said.contains(&format!("its log, {leg}, is open by another name")), "{said}");
    drop(other);
    drop(Appliance::start_on(PROFILE, Some(target.id.clone()), &[]));
}

#[test]
fn one_namespace_has_one_writer_by_whatever_name() {
    let arguments = tcp(&["--size", "128"]);
    let Some((target, appliance)) = appliance("names", &words(&arguments), &[]) else { return };
    let address = format!("port.address=127.0.0.1:{}", common::free_port());
    let id = target.id.as_str();
    for name in [id.to_owned(), id.replace("TCP", "tcp"), format!("{id} ns:1")] {
        let disk = format!("disk.path={name}");
        refused_by_the_namespace(&[&address, &disk, "instance=other"]);
    }
    appliance.run(&["stream", "create", "orders"]);
}

/// A vfio-user controller is found by a path, which has as many spellings as there are links.
#[test]
fn a_link_to_the_socket_is_no_other_namespace() {
    let dir = scratch();
    let bdev = file_bdev(&dir);
    let Some((target, appliance)) = appliance("link", &words(&bdev), &[]) else { return };
    let socket_dir = target.id.split("traddr:").nth(1).unwrap().split_whitespace().next().unwrap();
    let (of_directory, of_socket) = (dir.path().join("directory"), dir.path().join("socket"));
    symlink(socket_dir, &of_directory).unwrap();
    std::fs::create_dir(&of_socket).unwrap();
    symlink(Path::new(socket_dir).join("cntrl"), of_socket.join("cntrl")).unwrap();
    let feed = Feed::start(&appliance);
    let address = format!("port.address=127.0.0.1:{}", common::free_port());
    for link in [of_directory, of_socket, socket_dir.into()] {
        let disk = format!("disk.path=trtype:VFIOUSER traddr:{}", link.display());
        refused_by_the_namespace(&[&address, &disk, "instance=other"]);
    }
    let count = feed.finish(&appliance);
    println!("3 spellings of a socket refused, {count} messages, lost 0");
}

#[test]
fn a_word_of_the_transport_id_names_the_namespace_and_nothing_else() {
    let arguments = tcp(&["--size", "64", "--nqn", "nqn.2019-07.io.spdk:dns:2"]);
    let Some(target) = Target::start("word", &words(&arguments)) else { return };
    assert!(target.id.contains("dns:2"), "{}", target.id);
    format(&target, "1");
    let said = refused(&["log", "describe", &format!("{} ns:2", target.id)], &[]);
    assert!(said.contains("no such namespace"), "{said}");
}

#[test]
fn an_older_copy_of_the_log_is_refused_before_anything_is_written() {
    let dir = scratch();
    let mut bdev = file_bdev(&dir);
    let port = common::free_port().to_string();
    bdev.extend(["--transport", "tcp", "--port", &port].map(str::to_owned));
    let Some((target, mut appliance)) = appliance("older", &words(&bdev), &[]) else { return };
    appliance.run(&["stream", "create", "orders"]);
    let file = dir.path().join("namespace");
    let older = std::fs::read(&file).unwrap();
    let mut publisher = appliance
        .client(&["publish", "orders", "--lines", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    publisher.stdin.take().unwrap().write_all(b"one\ntwo\nthree\n").unwrap();
    assert!(publisher.wait().unwrap().success());
    target.kill();
    std::fs::write(&file, &older).unwrap();
    target.start_again();
    let (code, said) = appliance.ended();
    assert_ne!(code, 0, "{said}");
    assert!(said.contains("an older copy") && said.contains("nothing was changed"), "{said}");
    assert!(std::fs::read(&file).unwrap() == older, "not a byte was written");
}

#[test]
fn without_reservations_a_log_that_was_not_stopped_is_waited_for() {
    let arguments = tcp(&["--size", "128", "--no-reservations"]);
    let Some((_target, mut appliance)) = appliance("unreserved", &words(&arguments), &[]) else {
        return;
    };
    appliance.kill();
    let begin = Instant::now();
    appliance.restart();
    assert!(begin.elapsed() >= Duration::from_secs(15), "{:?}", begin.elapsed());
    assert_eq!(appliance.stop().0, 0);
    let begin = Instant::now();
    appliance.restart();
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
}

#[test]
fn a_slow_device_is_taken_out_of_service_and_comes_back() {
    let bdev = ["--bdev", "delay", "--delay-us", "20000", "--size", "128", "--core", "0"];
    // The target takes 20 ms for what may take 5; then the same with a limit it keeps.
    let Some(target) = Target::start("slow", &bdev) else { return };
    format(&target, "1");
    let disk = Some(target.id.clone());
    let mut patient = Appliance::start_on(PROFILE, disk.clone(), &["disk.spdk.timeout_ms=1000"]);
    patient.run(&["stream", "create", "orders"]);
    assert_eq!(patient.stop().0, 0);
    let mut command = Command::new(BUSLANE);
    command.args(["serve", "--profile", PROFILE, "--set", &format!("disk.path={}", target.id)]);
    command.args(["--set", "disk.spdk.timeout_ms=5"]);
    let output = command.output().unwrap();
    let said = text(&output);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("the device did not answer within its time limit"), "{said}");
    // Nothing was harmed.
    let again = Appliance::start_on(PROFILE, disk, &["disk.spdk.timeout_ms=1000"]);
    let streams = again.run(&["stream", "list"]);
    assert!(String::from_utf8_lossy(&streams).contains("orders"));
}

#[test]
fn a_target_that_hangs_is_reset_when_it_answers_again() {
    let dir = scratch();
    let bdev = file_bdev(&dir);
    let bdev: Vec<&str> = bdev.iter().map(String::as_str).collect();
    let limit = ["disk.spdk.timeout_ms=500"];
    let Some((target, mut appliance)) = appliance("hang", &bdev, &limit) else { return };
    let feed = Feed::start(&appliance);
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(300));
        target.signal("STOP");
        thread::sleep(Duration::from_millis(1_500));
        target.signal("CONT");
    }
    let count = feed.finish(&appliance);
    let (code, said) = appliance.stop();
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("the device did not answer within its time limit"), "{said}");
    println!("3 hangs of the target, {count} messages, lost 0");
}

#[test]
fn a_write_error_latches_and_nothing_acknowledged_is_lost() {
    let bdev = ["--bdev", "error", "--size", "128", "--core", "0"];
    let Some((target, mut appliance)) = appliance("error", &bdev, &[]) else { return };
    appliance.run(&["stream", "create", "orders"]);
    let publish = |appliance: &Appliance, line: &str| {
        let mut client = appliance
            .client(&["publish", "orders", "--lines", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        client.stdin.take().unwrap().write_all(line.as_bytes()).unwrap();
        client.wait_with_output().unwrap()
    };
    let before = publish(&appliance, "before");
    assert!(before.status.success(), "{}", text(&before));
    target.fail_writes(1);
    let during = publish(&appliance, "during");
    assert!(!during.status.success(), "{}", text(&during));
    let after = publish(&appliance, "after");
    assert!(!after.status.success(), "{}", text(&after));
    appliance.kill();
    appliance.restart();
    let again = publish(&appliance, "again");
    assert!(again.status.success(), "{}", text(&again));
    let all = appliance.run(&["consume", "orders", "--from", "start", "-o", "raw"]);
    let all = String::from_utf8(all).unwrap();
    assert!(all.starts_with("before") && all.ends_with("again") && !all.contains("after"), "{all}");
}

#[test]
fn a_namespace_that_is_removed_and_comes_back_is_waited_for() {
    let arguments = tcp(&["--size", "512"]);
    let Some((target, mut appliance)) = appliance("removed", &words(&arguments), &[]) else {
        return;
    };
    let feed = Feed::start(&appliance);
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(300));
        target.namespace("remove");
        thread::sleep(Duration::from_millis(300));
        target.namespace("add");
    }
    let count = feed.finish(&appliance);
    let (code, said) = appliance.stop();
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("nothing is acknowledged until it is back"), "{said}");
    println!("3 removals of the namespace, {count} messages, lost 0");
}

/// The device's own limit, of a minute, is too far away to help.
#[test]
fn a_write_that_never_completes_does_not_keep_the_appliance_from_stopping() {
    let arguments = tcp(&["--size", "256"]);
    let limit = ["disk.spdk.timeout_ms=60000"];
    let Some((target, mut appliance)) = appliance("hung", &words(&arguments), &limit) else {
        return;
    };
    let feed = Feed::start(&appliance);
    thread::sleep(Duration::from_millis(300));
    target.signal("STOP");
    thread::sleep(Duration::from_millis(300));
    let begin = Instant::now();
    let (code, said) = appliance.stop();
    let took = begin.elapsed();
    target.signal("CONT");
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("the disk has not finished what it was given"), "{said}");
    assert!(took < Duration::from_mins(1), "{took:?}");
    appliance.restart();
    let count = feed.finish(&appliance);
    println!("stopped after {took:?} beside a hung write, {count} messages, lost 0");
}
