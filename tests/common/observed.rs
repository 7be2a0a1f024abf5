//! An appliance that is asked what it tells of itself.
#![allow(dead_code, reason = "a test uses its part")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Appliance, BUSLANE, PATIENCE, wait};

/// Whether a program is installed; says so where it is not.
pub(crate) fn has(program: &str, flag: &str) -> bool {
    let there = Command::new(program).arg(flag).output().is_ok();
    if !there {
        println!("SKIPPED: {program} is not installed (scripts/setup installs it)");
    }
    there
}

/// A TCP port nobody listens on at the moment.
pub(crate) fn free_tcp_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// An appliance with an HTTP port and a socket of its own.
pub(crate) struct Observed {
    pub(crate) appliance: Appliance,
    pub(crate) http: String,
    pub(crate) socket: PathBuf,
}

impl Observed {
    pub(crate) fn start(settings: &[&str]) -> Self {
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
    pub(crate) fn ask(&self, request: &str) -> (String, String) {
        answer(TcpStream::connect(&self.http).unwrap(), request)
    }

    pub(crate) fn get(&self, route: &str) -> (String, String) {
        self.ask(&format!("GET {route} HTTP/1.1\r\nHost: x\r\n\r\n"))
    }

    pub(crate) fn get_unix(&self, route: &str) -> (String, String) {
        let request = format!("GET {route} HTTP/1.1\r\nHost: x\r\n\r\n");
        answer(UnixStream::connect(&self.socket).unwrap(), &request)
    }

    /// Waits until a shard has reported that it accepted messages.
    pub(crate) fn wait_for_messages(&self) {
        self.wait_for("a report of messages", |observed| {
            let shards = json(&observed.get("/shards").1);
            shards["shards"][0]["counters"]["messages_accepted"].as_u64().unwrap_or(0) > 0
        });
    }

    pub(crate) fn wait_for(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(Instant::now() < deadline, "{what} did not come");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// A stream with some messages.
    pub(crate) fn publish(&self) {
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
    pub(crate) fn command(&self, args: &[&str]) -> Command {
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

pub(crate) fn answer<S: Read + Write>(mut stream: S, request: &str) -> (String, String) {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

pub(crate) fn json(body: &str) -> serde_json::Value {
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

/// Starts a server; returns it and what it said until it was ready or ended.
pub(crate) fn start(command: &mut Command) -> (Child, String) {
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while stderr.read_line(&mut said).unwrap() > 0 && !said.contains("ready on") {}
    thread::spawn(move || stderr.read_to_string(&mut String::new()));
    (child, said)
}
