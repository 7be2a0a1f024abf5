//! What happens to the log's file, seen from outside: made, missed, moved, in memory, too large.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]
#![allow(clippy::disallowed_methods, reason = "these tests drive real processes in real time")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{Appliance, Running, free_port, signal, text, wait};

const SMALL: [&str; 4] =
    ["disk.size=16MiB", "disk.segment=1MiB", "metrics.http=off", "metrics.socket=off"];

/// A log that takes a while to make.
const LARGE: &str = "disk.size=4GiB";

/// An appliance that makes its log, and does not serve yet.
fn making(address: &str, log: &Path) -> Child {
    let mut command = Command::new(common::BUSLANE);
    command.args(["serve", "--profile", "loopback", "--set", &format!("port.address={address}")]);
    command.args(["--set", &format!("disk.path={}", log.display())]);
    for setting in [LARGE, "metrics.http=off", "metrics.socket=off"] {
        command.args(["--set", setting]);
    }
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    let draft = log.with_extension("log.being-made");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !draft.exists() {
        assert!(Instant::now() < deadline, "it makes no log");
        thread::sleep(Duration::from_millis(2));
    }
    child
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_log_that_is_removed_under_the_appliance_is_missed_then_and_at_the_next_start() {
    let mut appliance = Appliance::start(&SMALL);
    appliance.run(&["stream", "create", "orders"]);
    let log = appliance.log_path();
    fs::remove_file(&log).unwrap();
    thread::sleep(Duration::from_secs(1));
    let input = appliance.dir.path().join("in");
    fs::write(&input, "a\nb\n").unwrap();
    let input = input.display().to_string();
    let output = appliance.client(&["publish", "orders", "--lines", &input]).output().unwrap();
    assert!(!output.status.success(), "{}", text(&output));
    let (code, said) = appliance.stop();
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("removed, renamed or replaced") && said.contains("/fd/"), "{said}");

    let again = appliance.serve_command().output().unwrap();
    let said = text(&again);
    assert!(!again.status.success(), "{said}");
    assert!(said.contains("test.log.made says so"), "{said}");
    assert!(said.contains("buslane log format"), "{said}");
    assert_eq!(names(appliance.dir.path()), ["in", "keys", "test.log.made"]);

    let path = log.display().to_string();
    let small = ["--set", SMALL[0], "--set", SMALL[1]];
    let format = [&["log", "format", &path][..], &small].concat();
    let made = Command::new(common::BUSLANE).args(format).output().unwrap();
    assert!(made.status.success(), "{}", text(&made));
    appliance.restart();
}

/// What an appliance says until it is ready; it is killed then.
fn said_until_ready(appliance: &Appliance) -> String {
    let mut child = appliance.serve_command().stderr(Stdio::piped()).spawn().map(Running).unwrap();
    let mut said = String::new();
    for line in BufReader::new(child.0.stderr.take().unwrap()).lines() {
        said.push_str(&line.unwrap());
        said.push('\n');
        if said.contains("\nready") || said.starts_with("ready") {
            return said;
        }
    }
    panic!("it ended before it was ready:\n{said}");
}

#[test]
fn another_log_in_its_place_is_said_until_it_is_meant() {
    let mut appliance = Appliance::start(&SMALL);
    assert_eq!(appliance.stop().0, 0);
    let (log, note) = (appliance.log_path(), appliance.dir.path().join("test.log.made"));
    assert!(fs::read_to_string(&note).unwrap().contains("It is log "), "it says which");
    let format = |path: &Path, more: &[&str]| {
        let mut command = Command::new(common::BUSLANE);
        command.args(["log", "format", "-q"]).arg(path).args(more);
        command.args(["--set", SMALL[0], "--set", SMALL[1]]);
        assert!(command.status().unwrap().success());
    };
    let warning = "and the one that was here before was";
    assert!(!said_until_ready(&appliance).contains(warning), "it is the same");
    let other = appliance.dir.path().join("other");
    format(&other, &[]);
    fs::rename(&other, &log).unwrap();
    for _ in 0..2 {
        let said = said_until_ready(&appliance);
        assert!(said.contains(warning) && said.contains("test.log.made says so"), "{said}");
    }
    // A copy of the log is the same log.
    let copy = appliance.dir.path().join("copy");
    fs::remove_file(&note).unwrap();
    assert!(!said_until_ready(&appliance).contains(warning), "it is meant");
    assert!(copying(&log, &copy, &[]).0.wait().unwrap().success());
    fs::rename(&copy, &log).unwrap();
    assert!(!said_until_ready(&appliance).contains(warning));
    // Whoever formats it means it.
    format(&log, &["--force", &log.display().to_string()]);
    assert!(!said_until_ready(&appliance).contains(warning));
}

#[test]
fn a_link_is_followed_and_what_differs_from_the_profile_is_said() {
    let mut appliance = Appliance::start(&SMALL);
    appliance.stop();
    let (log, real) = (appliance.log_path(), appliance.dir.path().join("real"));
    fs::rename(&log, &real).unwrap();
    std::os::unix::fs::symlink(&real, &log).unwrap();
    let mut command = appliance.serve_command();
    command.args(["--set", "disk.size=64MiB", "--set", "disk.segment=2MiB"]);
    let mut child = Running(command.stderr(Stdio::piped()).spawn().unwrap());
    thread::sleep(Duration::from_millis(300));
    appliance.run(&["stream", "create", "orders"]);
    signal(&child.0, "TERM");
    assert!(wait(&mut child.0, Duration::from_secs(20)).success());
    let said = std::io::read_to_string(child.0.stderr.take().unwrap()).unwrap();
    assert!(said.contains("disk.size=64MiB: disk.size is 64"), "{said}");
    assert!(said.contains("was made with segments of 1"), "{said}");
    assert!(log.symlink_metadata().unwrap().is_symlink());
}

#[test]
fn memory_is_refused_until_it_is_accepted() {
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else { return };
    let kind = fs::read_to_string("/proc/mounts").unwrap();
    if !kind.lines().any(|line| line.contains(" /dev/shm tmpfs ")) {
        return;
    }
    let path = format!("disk.path={}", dir.path().join("log").display());
    let address = format!("127.0.0.1:{}", free_port());
    let settings = [&SMALL[..], &[path.as_str()]].concat();
    let said = Appliance::refused("loopback", &address, &settings);
    assert!(said.contains("tmpfs, mounted at /dev/shm, is memory"), "{said}");
    assert!(said.contains("disk.accept_volatile = true"), "{said}");
    assert!(names(dir.path()).is_empty(), "nothing was made");
    let disk = Some(dir.path().join("log").display().to_string());
    let accepted = [&SMALL[..], &["disk.accept_volatile=true"]].concat();
    let appliance = Appliance::start_on("loopback", disk, &accepted);
    appliance.run(&["stream", "create", "orders"]);
    let input = dir.path().join("in");
    fs::write(&input, "a\n").unwrap();
    let input = input.display().to_string();
    let said = appliance.run(&["publish", "orders", "--lines", &input, "-o", "json"]);
    assert!(String::from_utf8(said).unwrap().contains("volatile"));
}

#[test]
fn a_socket_s_path_that_names_the_log_is_refused_and_the_log_stays() {
    let mut appliance = Appliance::start(&SMALL);
    appliance.stop();
    let log = appliance.log_path();
    let socket = format!("metrics.socket={}", log.display());
    let output = appliance.serve_command().args(["--set", &socket]).output().unwrap();
    assert!(!output.status.success());
    assert!(text(&output).contains("is no socket"), "{}", text(&output));
    assert_eq!(fs::metadata(&log).unwrap().len(), 16 << 20);
    appliance.restart();
}

#[test]
fn while_a_log_is_made_clients_wait_a_hangup_is_kept_and_a_stop_leaves_nothing() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let address = format!("127.0.0.1:{}", free_port());
    let log = dir.path().join("test.log");
    let mut child = Running(making(&address, &log));
    let mut client = Command::new(common::BUSLANE);
    client.args(["--server", &address, "stream", "create", "orders"]);
    let mut client = Running(client.stderr(Stdio::piped()).spawn().unwrap());
    signal(&child.0, "HUP");
    thread::sleep(Duration::from_millis(200));
    assert!(child.0.try_wait().unwrap().is_none(), "a hangup is no end");
    assert!(client.0.try_wait().unwrap().is_none(), "whoever asks waits");
    assert!(!log.exists(), "it is made too fast for this test");
    signal(&child.0, "TERM");
    let status = wait(&mut child.0, Duration::from_secs(20));
    assert!(status.success(), "{status}");
    assert_eq!(names(dir.path()), ["keys"], "nothing of the log");
}

#[test]
fn what_waits_for_something_else_ends_when_told_to() {
    let mut appliance = Appliance::start(&SMALL);
    appliance.stop();
    // Somebody has the log: the start waits for it, and looks at nothing else.
    let held = fs::File::open(appliance.log_path()).unwrap();
    held.lock().unwrap();
    let mut command = appliance.serve_command();
    let mut child = Running(command.stderr(Stdio::piped()).spawn().unwrap());
    thread::sleep(Duration::from_millis(500));
    signal(&child.0, "TERM");
    let status = wait(&mut child.0, Duration::from_secs(20));
    let said = std::io::read_to_string(child.0.stderr.take().unwrap()).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("stopped while the log was opened, as it was told"), "{said}");
}

fn copying(from: &Path, to: &Path, more: &[&str]) -> Running {
    let mut command = Command::new(common::BUSLANE);
    command.args(["log", "copy", "-q"]).args([from, to]).args(more);
    Running(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap())
}

/// Exit code, and what was said.
fn end(copying: &mut Running) -> (Option<i32>, String) {
    let status = wait(&mut copying.0, common::PATIENCE);
    (status.code(), std::io::read_to_string(copying.0.stderr.take().unwrap()).unwrap())
}

#[test]
fn copies_to_one_name_leave_one_whole_copy_however_they_end() {
    let appliance = Appliance::start(&SMALL);
    appliance.run(&["stream", "create", "orders"]);
    let input = appliance.dir.path().join("in");
    fs::write(&input, "a\nb\n").unwrap();
    appliance.run(&["publish", "orders", "--lines", &input.display().to_string()]);
    let log = appliance.log_path();
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let to = place.path().join("copy");
    let draft = place.path().join("copy.being-copied");
    let is_whole = |to: &Path| {
        let verified = Command::new(common::BUSLANE).args(["log", "verify"]).arg(to).output();
        let verified = verified.unwrap();
        assert!(verified.status.success(), "{}", text(&verified));
    };

    // Killed while it makes its file: the next takes its place.
    let mut killed = copying(&log, &to, &["--size", "2GiB"]);
    let deadline = Instant::now() + common::PATIENCE;
    while !draft.exists() && killed.0.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "it makes no file");
        thread::sleep(Duration::from_millis(1));
    }
    killed.0.kill().unwrap();
    killed.0.wait().unwrap();
    assert!(draft.exists() && !to.exists(), "killed before it was done");
    assert_eq!(end(&mut copying(&log, &to, &[])), (Some(0), String::new()));
    assert_eq!(names(place.path()), ["copy"]);
    is_whole(&to);
    let (code, said) = end(&mut copying(&log, &to, &[]));
    assert!(code == Some(1) && said.contains("is there already"), "{said}");

    // Several at once: at least one makes it, and what the others do harms it not.
    for _ in 0..2 {
        fs::remove_file(&to).unwrap();
        let mut all: Vec<Running> = (0..3).map(|_| copying(&log, &to, &[])).collect();
        let ends: Vec<(Option<i32>, String)> = all.iter_mut().map(end).collect();
        assert_eq!(ends.iter().filter(|(code, _)| *code == Some(0)).count(), 1, "{ends:?}");
        assert_eq!(names(place.path()), ["copy"], "{ends:?}");
        is_whole(&to);
    }

    // No room for it.
    let other = place.path().join("other");
    let (code, said) = end(&mut copying(&log, &other, &["--size", "1000000TiB"]));
    assert!(code == Some(1) && said.contains("--size") && said.contains("free"), "{said}");
    let (code, said) = end(&mut copying(&log, &other, &["--size", "1MiB"]));
    assert!(code == Some(1) && said.contains(&format!("{} has ", other.display())), "{said}");
    assert_eq!(names(place.path()), ["copy"]);

    // What is no log is told of itself, not of the place for its copy.
    let nothing = place.path().join("nothing");
    let (code, said) = end(&mut copying(&nothing, &other, &[]));
    assert!(code == Some(1) && said.contains("/nothing: No such file"), "{said}");
    fs::write(&nothing, vec![7; 16 << 20]).unwrap();
    let (code, said) = end(&mut copying(&nothing, Path::new("/proc/x"), &[]));
    assert!(code == Some(1) && said.contains("/nothing holds no Buslane log"), "{said}");
}
