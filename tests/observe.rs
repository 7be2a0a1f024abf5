//! What an appliance tells of itself, over HTTP, on a terminal, in files, and when it dies.
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
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{Appliance, BUSLANE, Running, signal, text, wait};
use observed::{Observed, has, json, start};

const ROUTES: [&str; 7] =
    ["/metrics", "/health", "/ready", "/shards", "/sessions", "/streams", "/producers"];

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

/// Whoever asks once right after an acknowledgement: the report he sees was made since he asked.
#[test]
fn stat_shows_what_was_acknowledged_before_it_was_asked() {
    let observed = Observed::start(&[]);
    observed.publish();
    let stat = observed.command(&["stat"]).output().unwrap();
    let said = String::from_utf8(stat.stdout).unwrap();
    let whole = said.lines().find(|line| line.starts_with("whole ")).expect(&said);
    assert_ne!(whole.split_whitespace().nth(1), Some("0"), "{said}");
    assert!(said.contains("; as of ") && said.contains("messages acknowledged "), "{said}");
    let mut client = observed.appliance.client(&["publish", "orders", "--lines", "-", "-q"]);
    let mut publisher = Running(client.stdin(Stdio::piped()).spawn().unwrap());
    publisher.0.stdin.take().unwrap().write_all(b"one more\n").unwrap();
    assert!(wait(&mut publisher.0, Duration::from_secs(30)).success());
    let stat = observed.command(&["stat", "-o", "json"]).output().unwrap();
    let shard = json(&String::from_utf8(stat.stdout).unwrap())["shards"][0].clone();
    assert_eq!(shard["stages_total"]["whole"]["count"], 2_001, "{shard}");
}

/// Also after a restart, before any of them speaks again.
#[test]
fn producers_are_shown_for_as_long_as_the_log_knows_them() {
    let mut observed = Observed::start(&[]);
    observed.appliance.run(&["stream", "create", "orders"]);
    let mut publisher = observed.appliance.client(&["publish", "orders", "--lines", "-"]);
    let mut publisher = Running(publisher.stdin(Stdio::piped()).spawn().unwrap());
    let mut input = publisher.0.stdin.take().unwrap();
    input.write_all(b"one\ntwo\nthree\n").unwrap();
    let producers = |observed: &Observed| {
        let all = json(&observed.get("/producers").1);
        all["producers"].as_array().unwrap().clone()
    };
    let is = |connected: bool| {
        move |observed: &Observed| {
            let all = producers(observed);
            all.len() == 1 && all[0]["connected"] == connected && all[0]["durable_to"] == 3
        }
    };
    observed.wait_for("the publisher", is(true));
    let before = producers(&observed).remove(0);
    assert!(before["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{before}");
    // It is killed: it may return.
    publisher.0.kill().unwrap();
    observed.wait_for("that it has gone", is(false));
    let gone = producers(&observed).remove(0);
    assert_eq!((&gone["peer"], &gone["ended"]), (&before["peer"], &false.into()));
    for restart in ["after a stop", "after a crash"] {
        if restart == "after a stop" {
            observed.appliance.stop();
        } else {
            observed.appliance.kill();
        }
        observed.appliance.restart();
        observed.wait_for(restart, is(false));
        let after = producers(&observed).remove(0);
        assert_eq!(after["producer_id"], before["producer_id"], "{restart}");
        assert_eq!((&after["peer"], &after["ended"]), (&"".into(), &false.into()), "{restart}");
    }
    let stat = observed.command(&["stat"]).output().unwrap();
    let said = String::from_utf8(stat.stdout).unwrap();
    let (_, gone) = said.split_once("PRODUCER, GONE").expect(&said);
    assert!(gone.lines().nth(1).is_some_and(|line| line.starts_with("- ")), "{said}");
}

/// What it was sent does not count: nobody has taken it.
#[test]
fn a_consumer_that_hangs_is_seen_to_fall_behind_until_it_is_back() {
    let observed = Observed::start(&[]);
    observed.appliance.run(&["stream", "create", "orders"]);
    let mut consumer = observed.appliance.client(&["consume", "orders", "--follow"]);
    let consumer = Running(consumer.stdout(Stdio::null()).spawn().unwrap());
    let sessions = |observed: &Observed| json(&observed.get("/sessions").1);
    let subscribed = |observed: &Observed| {
        let sessions = sessions(observed)["sessions"].as_array().unwrap().clone();
        sessions.iter().any(|session| session["subscribed"][0]["stream"] == "orders")
    };
    observed.wait_for("the consumer", subscribed);
    signal(&consumer.0, "STOP");
    observed.publish();
    observed.wait_for("that it is lost", |observed| {
        sessions(observed)["lost"].as_array().is_some_and(|lost| !lost.is_empty())
    });
    let lost = sessions(&observed)["lost"][0].clone();
    assert_eq!(lost["lag_messages"], 2_000, "{lost}");
    assert!(lost["lag_s"].as_f64().unwrap() > 5.0, "{lost}");
    let metrics = observed.get("/metrics").1;
    let of = |name: &str| {
        let named = |line: &&str| line.starts_with(&format!("buslane_{name}{{"));
        let line = metrics.lines().find(named).unwrap_or_else(|| panic!("{name}: {metrics}"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    assert!(of("subscription_silent_seconds") > 9.0, "{metrics}");
    assert!(of("subscription_lag_seconds") > 5.0, "{metrics}");
    assert!(of("stream_subscriptions") < 1.0, "{metrics}");
    let stat = observed.command(&["stat"]).output().unwrap();
    assert!(String::from_utf8_lossy(&stat.stdout).contains("lost, silent for "), "{}", text(&stat));
    signal(&consumer.0, "CONT");
    observed.wait_for("it", |observed| {
        let is_back = sessions(observed)["lost"].as_array().is_some_and(Vec::is_empty);
        is_back && subscribed(observed)
    });
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

/// Prometheus takes docs/alerts.yml, and each alert fires in time and not before.
#[test]
fn promtool_takes_the_alert_rules_of_the_documentation() {
    if !has("promtool", "--version") {
        return;
    }
    for of in ["check rules alerts.yml", "test rules alerts-test.yml"] {
        let said = Command::new("promtool")
            .args(of.split(' '))
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/docs"))
            .output()
            .unwrap();
        assert!(said.status.success(), "{of}: {}", text(&said));
    }
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
    let address = format!("127.0.0.1:{}", common::free_port());
    let base = format!(
        "[port]\naddress = \"{address}\"\n[shard]\ncore = \"none\"\n[disk]\npath = \"{}\"\n\
         size = \"64MiB\"\nsegment = \"1MiB\"\n",
        log.display()
    );
    let write = |limits: &str, of_metrics: &str| {
        let text = format!(
            "{base}[limits]\n{limits}\n[metrics]\nhttp = \"off\"\nsocket = \"off\"\n{of_metrics}\n"
        );
        fs::write(&profile, text).unwrap();
    };
    write("turn_us = 60_000_000", "");
    let mut serve = common::buslane();
    let mut child =
        serve.args(["serve", "--profile"]).arg(&profile).stderr(Stdio::piped()).spawn().unwrap();
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
    let beginning = "reloaded: limits.turn_us, metrics.dir; interval logs go on in ";
    assert!(said.starts_with(beginning), "{said}");
    let end = "; needs a restart: limits.window_messages; access of 1 identity\n";
    assert!(said.ends_with(end), "{said}");
    assert_eq!(logs(), 0, "there is nothing to write yet");
    let create = ["--server", &address, "stream", "create", "orders"];
    assert!(common::buslane().args(create).output().unwrap().status.success());
    let publish = ["--server", &address, "publish", "orders", "--lines", "-"];
    let mut publish = common::buslane().args(publish).stdin(Stdio::piped()).spawn().unwrap();
    publish.stdin.take().unwrap().write_all(b"one\n").unwrap();
    assert!(publish.wait().unwrap().success());
    let deadline = Instant::now() + common::PATIENCE;
    while logs() == 0 {
        assert!(Instant::now() < deadline, "the interval is written");
        thread::sleep(Duration::from_millis(20));
    }
    // The same profile: nothing begins anew, however often.
    for _ in 0..3 {
        signal(&child, "HUP");
        let nothing = "reloaded: nothing changed; needs a restart: limits.window_messages; \
                       access of 1 identity\n";
        assert_eq!(next("reloaded"), nothing);
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
    screen.keys(&["6"]);
    screen.wait_for(&["DURABLE TO", "PAUSED"]);
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
    let pattern = format!("^{BUSLANE} top --set {socket}");
    let find = || {
        let found = Command::new("pgrep").args(["-f", &pattern]).output().unwrap();
        String::from_utf8_lossy(&found.stdout).trim().to_owned()
    };
    let id = find();
    assert!(Command::new("kill").arg(&id).status().unwrap().success(), "{id}");
    let shown = screen.wait_for(&["ended with"]);
    assert!(!shown.contains("receive_append"), "{shown}");
    screen.keys(&["echo still $((6 * 7))", "Enter"]);
    screen.wait_for(&["still 42"]);
    // Its terminal goes away, as that of a login does whose network is gone; nobody is left to send a signal.
    screen.keys(&[&format!("clear; exec setsid -w {BUSLANE} top --set {socket}"), "Enter"]);
    screen.wait_for(&["1 of 1 shards serving"]);
    assert!(!find().is_empty());
    drop(screen);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !find().is_empty() {
        assert!(Instant::now() < deadline, "it goes on without a terminal: {}", find());
        thread::sleep(Duration::from_millis(50));
    }
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
    // Another host's is asked otherwise; in the environment the address is for the other commands.
    let mut elsewhere = observed.command(&["stat", "-s", "10.99.99.99"]);
    let elsewhere = elsewhere.env_remove("BUSLANE_SERVER").output().unwrap();
    assert_eq!(elsewhere.status.code(), Some(2), "{}", text(&elsewhere));
    assert!(text(&elsewhere).contains("an appliance of this host"), "{}", text(&elsewhere));
    let mut beside = observed.command(&["stat"]);
    assert!(beside.env("BUSLANE_SERVER", "10.99.99.99").output().unwrap().status.success());
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
