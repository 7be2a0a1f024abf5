//! What an appliance tells of itself, over HTTP, on a terminal, in files, and when it dies.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "drives real processes in real time"
)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{Appliance, BUSLANE, signal, text, wait};

const ROUTES: [&str; 6] = ["/metrics", "/health", "/ready", "/shards", "/sessions", "/streams"];

/// Whether a program is installed; says so where it is not.
fn has(program: &str, flag: &str) -> bool {
    let there = Command::new(program).arg(flag).output().is_ok();
    if !there {
        println!("SKIPPED: {program} is not installed (scripts/setup installs it)");
    }
    there
}

/// A TCP port nobody listens on at the moment.
fn free_tcp_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// An appliance with an HTTP port and a socket of its own.
struct Observed {
    appliance: Appliance,
    http: String,
    socket: PathBuf,
}

impl Observed {
    fn start(settings: &[&str]) -> Self {
        let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap().keep();
        let socket = place.join("admin.sock");
        let http = format!("127.0.0.1:{}", free_tcp_port());
        let own = [format!("metrics.http={http}"), format!("metrics.socket={}", socket.display())];
        let mut all: Vec<&str> = own.iter().map(String::as_str).collect();
        all.extend(["disk.size=64MiB", "disk.segment=1MiB", "shard.core=none"]);
        all.extend(settings);
        Self { appliance: Appliance::start(&all), http, socket }
    }

    /// Status line and headers, and the body.
    fn ask(&self, request: &str) -> (String, String) {
        answer(TcpStream::connect(&self.http).unwrap(), request)
    }

    fn get(&self, route: &str) -> (String, String) {
        self.ask(&format!("GET {route} HTTP/1.1\r\nHost: x\r\n\r\n"))
    }

    fn get_unix(&self, route: &str) -> (String, String) {
        let request = format!("GET {route} HTTP/1.1\r\nHost: x\r\n\r\n");
        answer(UnixStream::connect(&self.socket).unwrap(), &request)
    }

    /// Waits until a shard has reported that it accepted messages.
    fn wait_for_messages(&self) {
        self.wait_for("a report of messages", |observed| {
            let shards = json(&observed.get("/shards").1);
            shards["shards"][0]["counters"]["messages_accepted"].as_u64().unwrap_or(0) > 0
        });
    }

    fn wait_for(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is_so(self) {
            assert!(Instant::now() < deadline, "{what} did not come");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// A stream with some messages.
    fn publish(&self) {
        self.appliance.run(&["stream", "create", "orders"]);
        let mut publisher = self
            .appliance
            .client(&["publish", "orders", "--lines", "-", "-q"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let lines: String = (0..2_000).map(|number| format!("order {number}\n")).collect();
        publisher.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        assert!(wait(&mut publisher, Duration::from_secs(30)).success());
    }

    /// `top` and `stat` of this appliance.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(BUSLANE);
        command.args(args).args(["--set", &format!("metrics.socket={}", self.socket.display())]);
        command
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        if let Some(place) = self.socket.parent() {
            let _ = fs::remove_dir_all(place);
        }
    }
}

fn answer<S: Read + Write>(mut stream: S, request: &str) -> (String, String) {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

fn json(body: &str) -> serde_json::Value {
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

#[test]
fn every_route_answers_the_same_over_tcp_and_the_unix_socket() {
    let observed = Observed::start(&[]);
    observed.publish();
    observed.wait_for_messages();
    for route in ROUTES {
        let ((head, body), (unix_head, unix_body)) =
            (observed.get(route), observed.get_unix(route));
        assert!(head.starts_with("HTTP/1.1 200"), "{route}: {head}");
        assert!(unix_head.starts_with("HTTP/1.1 200"), "{route}: {unix_head}");
        if route != "/metrics" {
            assert_eq!(json(&body)["schema_version"], 1, "{route}: {body}");
            assert_eq!(json(&unix_body)["schema_version"], 1, "{route}: {unix_body}");
        }
    }
    assert_eq!(json(&observed.get("/health").1)["healthy"], true);
    assert_eq!(json(&observed.get("/ready").1)["ready"], true);
    let shards = json(&observed.get("/shards").1);
    let shard = &shards["shards"][0];
    assert_eq!(shard["condition"], "serving");
    assert_eq!(shard["address"], observed.appliance.address);
    assert_eq!(shard["stages_total"]["whole"]["count"], 2_000);
    let streams = json(&observed.get("/streams").1);
    assert_eq!(streams["streams"][0]["name"], "orders");
    assert_eq!(streams["streams"][0]["durable_next"], 2_001);
    // Who is where it should not be is told so.
    let (head, body) = observed.get("/favicon.ico");
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
    assert_eq!(json(&body)["routes"].as_array().unwrap().len(), ROUTES.len());
    for route in ROUTES {
        let request = format!("POST {route} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        let (head, _) = observed.ask(&request);
        assert!(head.starts_with("HTTP/1.1 405"), "{route}: {head}");
        assert!(head.to_lowercase().contains("allow: get"), "{head}");
    }
}

#[test]
fn promtool_has_nothing_to_say_about_the_metrics() {
    if !has("promtool", "--version") {
        return;
    }
    let observed = Observed::start(&[]);
    observed.publish();
    observed.wait_for_messages();
    let (head, body) = observed.get("/metrics");
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    assert!(body.contains("buslane_messages_accepted_total{shard=\"0\"} 2000\n"), "{body}");
    assert!(!body.lines().any(|line| !line.starts_with('#') && !line.starts_with("buslane_")));
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
    let said = promtool.wait_with_output().unwrap();
    assert!(
        said.status.success() && said.stdout.is_empty() && said.stderr.is_empty(),
        "{}",
        text(&said)
    );
    let accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
    let (head, body) =
        observed.ask(&format!("GET /metrics HTTP/1.1\r\nHost: x\r\n{accept}\r\n\r\n"));
    assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(body.ends_with("# EOF\n"), "{body}");
}

/// The example in docs/observe.md is one that Prometheus takes.
#[test]
fn promtool_takes_the_alert_rules_of_the_documentation() {
    if !has("promtool", "--version") {
        return;
    }
    let text_of =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/observe.md")).unwrap();
    let (_, rest) = text_of.split_once("```yaml\n").expect("an example");
    let (rules, _) = rest.split_once("```").expect("its end");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rules.yml");
    fs::write(&path, rules).unwrap();
    let said = Command::new("promtool").args(["check", "rules"]).arg(&path).output().unwrap();
    assert!(said.status.success(), "{}", text(&said));
}

#[test]
fn floods_and_clients_that_say_nothing_exhaust_nothing() {
    let observed = Observed::start(&[]);
    let mut silent: Vec<TcpStream> =
        (0..400).map(|_| TcpStream::connect(&observed.http).unwrap()).collect();
    // The one that was silent longest goes, so a probe is answered at once: their time to ask is a second.
    let began = Instant::now();
    assert!(observed.get("/health").0.starts_with("HTTP/1.1 200"));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    // Some of them begin to ask, and never end.
    for stream in &mut silent[..100] {
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nX: ");
    }
    let descriptors =
        || fs::read_dir(format!("/proc/{}/fd", observed.appliance.pid())).unwrap().count();
    thread::sleep(Duration::from_millis(300));
    assert!(descriptors() < 320, "{} descriptors are open", descriptors());
    // The unix socket has places of its own, and serving goes on.
    assert!(observed.get_unix("/health").0.starts_with("HTTP/1.1 200"));
    observed.publish();
    let began = Instant::now();
    assert!(observed.get("/health").0.starts_with("HTTP/1.1 200"));
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    drop(silent);
    // Asked as fast as possible, and nobody reads the answers.
    let mut deaf = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(&observed.http).unwrap();
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        deaf.push(stream);
    }
    assert!(observed.get("/ready").0.starts_with("HTTP/1.1 200"));
    // Nonsense, and a head that does not end.
    for nonsense in ["\0\0\0\0\r\n\r\n".to_owned(), format!("GET /{} ", "x".repeat(100_000))] {
        let mut stream = TcpStream::connect(&observed.http).unwrap();
        let _ = stream.write_all(nonsense.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 2"));
    }
    drop(deaf);
    observed.wait_for("an end of the connections", |_| descriptors() < 40);
}

/// Starts a server; returns it and what it said until it was ready or ended.
fn start(command: &mut Command) -> (Child, String) {
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while stderr.read_line(&mut said).unwrap() > 0 && !said.contains("ready on") {}
    thread::spawn(move || stderr.read_to_string(&mut String::new()));
    (child, said)
}

#[test]
fn a_taken_default_address_is_a_warning_and_a_taken_chosen_one_an_error() {
    // Ours, or that of somebody who runs beside this test.
    let _taken = TcpListener::bind("127.0.0.1:9464");
    let mut appliance =
        Appliance::start(&["metrics.socket=off", "disk.size=64MiB", "disk.segment=1MiB"]);
    appliance.stop();
    let (mut child, said) = start(&mut appliance.serve_command());
    signal(&child, "TERM");
    assert!(wait(&mut child, Duration::from_secs(20)).success());
    let warned = "warning: metrics.http: 127.0.0.1:9464: Address already in use";
    assert!(said.contains(warned) && said.contains("--set metrics.http=off"), "{said}");
    let mut explicit = appliance.serve_command();
    let (mut child, said) = start(explicit.args(["--set", "metrics.http=127.0.0.1:9464"]));
    assert_eq!(wait(&mut child, Duration::from_secs(20)).code(), Some(1), "{said}");
    let wanted =
        "error: --set metrics.http=127.0.0.1:9464: metrics.http: 127.0.0.1:9464: Address already";
    assert!(said.contains(wanted), "{said}");
    let mut open = appliance.serve_command();
    let (mut child, said) = start(open.args(["--set", "metrics.http=0.0.0.0:0"]));
    signal(&child, "TERM");
    assert!(wait(&mut child, Duration::from_secs(20)).success());
    assert!(said.contains("there is no authentication"), "{said}");
}

#[test]
fn sighup_changes_what_can_change_and_refuses_what_is_wrong() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (profile, metrics) = (dir.path().join("x.toml"), dir.path().join("metrics"));
    let log = dir.path().join("log");
    let base = format!(
        "[port]\naddress = \"127.0.0.1:{}\"\n[shard]\ncore = \"none\"\n[disk]\npath = \"{}\"\n\
         size = \"64MiB\"\nsegment = \"1MiB\"\n",
        common::free_port(),
        log.display()
    );
    let write = |limits: &str, of_metrics: &str| {
        let text = format!(
            "{base}[limits]\n{limits}\n[metrics]\nhttp = \"off\"\nsocket = \"off\"\n{of_metrics}\n"
        );
        fs::write(&profile, text).unwrap();
    };
    write("turn_us = 60_000_000", "");
    let mut child = Command::new(BUSLANE)
        .args(["serve", "--profile"])
        .arg(&profile)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut next = |start: &str| {
        let mut line = String::new();
        while !line.starts_with(start) {
            line.clear();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended before it said {start}");
        }
        line
    };
    next("ready on");
    let logs = || fs::read_dir(&metrics).map_or(0, Iterator::count);
    write("turn_us = 50_000_000\nwindow_messages = 5", &format!("dir = \"{}\"", metrics.display()));
    signal(&child, "HUP");
    let said = next("reloaded");
    assert!(
        said.starts_with("reloaded: limits.turn_us, metrics.dir; interval logs go on in "),
        "{said}"
    );
    assert!(said.ends_with("; needs a restart: limits.window_messages\n"), "{said}");
    assert_eq!(logs(), 1);
    // The same profile: nothing begins anew, however often.
    for _ in 0..3 {
        signal(&child, "HUP");
        assert_eq!(
            next("reloaded"),
            "reloaded: nothing changed; needs a restart: limits.window_messages\n"
        );
    }
    assert_eq!(logs(), 1);
    write("turn_us = 0", "");
    signal(&child, "HUP");
    let said = next("error");
    assert!(
        said.starts_with("error: nothing is reloaded: ") && said.contains("limits.turn_us is 0"),
        "{said}"
    );
    fs::remove_file(&profile).unwrap();
    signal(&child, "HUP");
    assert!(next("error").contains("there is no profile"), "and it serves on");
    signal(&child, "TERM");
    assert!(wait(&mut child, Duration::from_secs(20)).success());
}

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

/// A terminal of tmux, which goes with the test.
struct Screen {
    socket: PathBuf,
}

impl Screen {
    fn tmux(&self, args: &[&str]) -> Output {
        let mut tmux = Command::new("tmux");
        tmux.env("TERM", "screen-256color").arg("-f").arg("/dev/null").arg("-S").arg(&self.socket);
        tmux.args(args).output().unwrap()
    }

    fn keys(&self, keys: &[&str]) {
        let said = self.tmux(&[&["send-keys", "-t", "top"], keys].concat());
        assert!(said.status.success(), "{}", text(&said));
    }

    /// Waits until the screen shows all of this.
    fn wait_for(&self, wanted: &[&str]) -> String {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let shown = self.tmux(&["capture-pane", "-p", "-t", "top"]);
            let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
            if wanted.iter().all(|part| shown.contains(part)) {
                return shown;
            }
            assert!(Instant::now() < deadline, "{wanted:?} is not on the screen:\n{shown}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

#[test]
fn top_shows_an_appliance_loses_it_and_finds_it_again() {
    if !has("tmux", "-V") {
        return;
    }
    let mut observed = Observed::start(&[]);
    observed.publish();
    let screen = Screen { socket: observed.socket.with_file_name("tmux.sock") };
    // A shell around it: what it leaves on the terminal is seen.
    let started = screen.tmux(&["new-session", "-d", "-s", "top", "-x", "120", "-y", "40", "sh"]);
    assert!(started.status.success(), "{}", text(&started));
    let socket = format!("metrics.socket={}", observed.socket.display());
    screen.keys(&[
        &format!("PS1='$ '; clear; {BUSLANE} top --set {socket}; echo ended with $?"),
        "Enter",
    ]);
    screen.wait_for(&[
        "1 of 1 shards serving",
        "receive_append",
        "messages/s",
        &observed.appliance.address,
    ]);
    screen.keys(&["2"]);
    screen.wait_for(&["SESSION ", "NOT DURABLE"]);
    screen.keys(&["Tab", "s"]);
    screen.wait_for(&["orders", "2,001", "sort: rate"]);
    screen.keys(&["4"]);
    screen.wait_for(&["DURABILITY", "test.log", "%"]);
    screen.keys(&["5", "p"]);
    screen.wait_for(&["IN LOST", "PAUSED"]);
    screen.keys(&["p", "?"]);
    screen.wait_for(&["this help"]);
    screen.keys(&["?", "1"]);
    observed.appliance.kill();
    screen.wait_for(&["LOST", "asking again", "receive_append"]);
    observed.appliance.restart();
    screen.wait_for(&["1 of 1 shards serving"]);
    screen.keys(&["q"]);
    let shown = screen.wait_for(&["ended with 0"]);
    assert!(!shown.contains("receive_append"), "the screen before is back:\n{shown}");
    // Killed politely it puts the terminal back as well.
    screen.keys(&[&format!("clear; {BUSLANE} top --set {socket}; echo ended with $?"), "Enter"]);
    screen.wait_for(&["1 of 1 shards serving"]);
    let pattern = format!("top --set {socket}");
    let found =
        Command::new("pgrep").args(["-f", &format!("^{BUSLANE} {pattern}")]).output().unwrap();
    let id = String::from_utf8_lossy(&found.stdout).trim().to_owned();
    assert!(Command::new("kill").arg(&id).status().unwrap().success(), "{id}");
    let shown = screen.wait_for(&["ended with"]);
    assert!(!shown.contains("receive_append"), "{shown}");
    screen.keys(&["echo still $((6 * 7))", "Enter"]);
    screen.wait_for(&["still 42"]);
}

#[test]
fn without_a_terminal_top_says_so_and_stat_writes_plain_text() {
    let observed = Observed::start(&[]);
    observed.publish();
    observed.wait_for_messages();
    let top = observed.command(&["top"]).output().unwrap();
    assert_eq!(top.status.code(), Some(2), "{}", text(&top));
    assert!(top.stdout.is_empty());
    assert!(String::from_utf8_lossy(&top.stderr).contains("use `buslane stat`"), "{}", text(&top));
    let mut watch = observed.command(&["stat", "--watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = watch.stdout.take().unwrap();
    let reader = thread::spawn(move || {
        let mut all = String::new();
        stdout.read_to_string(&mut all).unwrap();
        all
    });
    thread::sleep(Duration::from_millis(1_500));
    signal(&watch, "INT");
    assert_eq!(wait(&mut watch, Duration::from_secs(5)).code(), Some(130));
    let shown = reader.join().unwrap();
    assert!(!shown.contains('\x1b'), "{shown:?}");
    assert!(shown.contains("shard 0: serving"), "{shown}");
    // A reader that stops reading ends it, as `head` does.
    let mut watch = observed
        .command(&["stat", "--watch", "-o", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(watch.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(json(&line)["schema_version"], 1);
    assert!(wait(&mut watch, Duration::from_secs(10)).success());
}
