//! What hangs, and what does not stop for it: a shard, whoever reads stderr, a pipe that was a profile.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "drives real processes in real time"
)]

mod common;
#[path = "common/observed.rs"]
mod observed;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{Appliance, BUSLANE, signal, wait};
use observed::{Observed, answer, has, start};

/// An appliance that is ready and leaves no core file, which nobody would clear away; and what it says from then on.
fn serve_without_core(appliance: &Appliance) -> (Child, BufReader<ChildStderr>) {
    let serve = appliance.serve_command();
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -c 0 && exec \"$0\" \"$@\""]);
    limited.arg(serve.get_program()).args(serve.get_args());
    let mut child = limited.stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("ready on") {
        assert!(stderr.read_line(&mut said).unwrap() > 0, "it ended before it was ready: {said}");
    }
    (child, stderr)
}

/// Holds the thread that receives for five seconds in each of its receiving calls, and no other thread.
fn hold(child: &Child) -> Child {
    Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=recvmmsg"])
        .args(["-e", "inject=recvmmsg:delay_enter=5s", "-p", &child.id().to_string()])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// A shard that stands still in a system call is found by the watchdog; nothing acknowledged is lost.
#[test]
fn a_shard_that_hangs_ends_the_process_and_its_restart_has_everything() {
    if !has("strace", "-V") {
        return;
    }
    let mut observed = Observed::start(&["limits.watchdog_ms=1000", "metrics.dir="]);
    let log = observed.appliance.log_path();
    observed.appliance.stop();
    let (mut child, mut stderr) = serve_without_core(&observed.appliance);
    let reader = thread::spawn(move || {
        let mut said = String::new();
        stderr.read_to_string(&mut said).unwrap();
        said
    });
    observed.publish();
    let before = observed.appliance.run(&["consume", "orders", "--from", "start", "-o", "raw"]);
    assert!(before.starts_with(b"order 0"), "2,000 messages are acknowledged");
    let began = Instant::now();
    let mut strace = hold(&child);
    let deadline = Instant::now() + Duration::from_secs(30);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if let Some(ended) = strace.try_wait().unwrap() {
            let mut why = String::new();
            strace.stderr.take().unwrap().read_to_string(&mut why).unwrap();
            if why.contains("not permitted") {
                println!("SKIPPED: strace may not attach to a process here: {}", why.trim());
                child.kill().unwrap();
                child.wait().unwrap();
                return;
            }
            // It ends by itself when the process does.
            assert!(ended.success() || child.try_wait().unwrap().is_some(), "strace: {why}");
        }
        assert!(Instant::now() < deadline, "the watchdog did not find it");
        thread::sleep(Duration::from_millis(10));
    };
    let took = began.elapsed();
    let _ = strace.kill();
    let _ = strace.wait();
    let said = reader.join().unwrap();
    assert_eq!(status.signal(), Some(6), "an abort: {status}\n{said}");
    assert!(
        said.contains("error: shard 0 made no turn for 1000 ms (limits.watchdog_ms)"),
        "{said}"
    );
    assert!(
        said.contains("post-mortem of buslane") && said.contains("shard 0: in its turn "),
        "{said}"
    );
    assert!(took < Duration::from_secs(15), "it took {took:?}");
    let is_ours = |name: &str| name.starts_with("postmortem-") && name.ends_with(".txt");
    let beside = fs::read_dir(log.parent().unwrap()).unwrap();
    let names = beside.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| is_ours(name)).count(), 1, "the file beside the log");
    observed.appliance.restart();
    let after = observed.appliance.run(&["consume", "orders", "--from", "start", "-o", "raw"]);
    assert!(before == after, "{} bytes, then {}", before.len(), after.len());
}

/// Nobody reads stderr any more, and it is full: the guard ends a process whose shard hangs all the same, and what
/// the shard has to say holds no turn.
#[test]
fn a_stderr_that_nobody_reads_holds_neither_shard_nor_guard() {
    if !has("strace", "-V") {
        return;
    }
    let mut observed = Observed::start(&["limits.watchdog_ms=1000", "metrics.dir="]);
    observed.appliance.stop();
    let (mut child, stderr) = serve_without_core(&observed.appliance);
    let path = format!("/proc/self/fd/{}", stderr.get_ref().as_raw_fd());
    let mut full =
        fs::OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap();
    while full.write(b"x").is_ok() {}
    // It says that nothing is reloaded, to nobody, and serves on.
    signal(&child, "HUP");
    observed.publish();
    let mut strace = hold(&child);
    let deadline = Instant::now() + Duration::from_secs(30);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if strace.try_wait().unwrap().is_some_and(|ended| !ended.success()) {
            println!("SKIPPED: strace may not attach to a process here");
            child.kill().unwrap();
            child.wait().unwrap();
            return;
        }
        assert!(Instant::now() < deadline, "the guard waits for a reader");
        thread::sleep(Duration::from_millis(10));
    };
    let _ = strace.kill();
    let _ = strace.wait();
    assert_eq!(status.signal(), Some(6), "an abort: {status}");
}

/// A profile that came through a pipe is read once: SIGHUP changes nothing, and housekeeping lives.
#[test]
fn sighup_waits_for_no_pipe() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (fifo, socket) = (dir.path().join("fifo"), dir.path().join("admin.sock"));
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let text = format!(
        "[port]\naddress = \"127.0.0.1:{}\"\n[shard]\ncore = \"none\"\n[disk]\npath = \"{}\"\n\
         size = \"64MiB\"\nsegment = \"1MiB\"\n[metrics]\nhttp = \"off\"\nsocket = \"{}\"\n",
        common::free_port(),
        dir.path().join("log").display(),
        socket.display()
    );
    let mut serve = Command::new(BUSLANE);
    let (mut child, _) = start(serve.args(["serve", "--profile"]).arg(&fifo).stderr({
        let to = fifo.clone();
        thread::spawn(move || fs::write(to, text).unwrap());
        Stdio::piped()
    }));
    signal(&child, "HUP");
    thread::sleep(Duration::from_millis(500));
    let (head, _) =
        answer(UnixStream::connect(&socket).unwrap(), "GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    signal(&child, "TERM");
    assert!(wait(&mut child, Duration::from_secs(20)).success());
}
