//! An appliance that goes away under `publish` and `consume --follow`: said once, and once that it is back.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "drives real processes in real time"
)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::UdpSocket;
use std::process::{Child, ChildStderr, Command, Stdio};

use common::{Appliance, PATIENCE, Running, relay, signal, wait};

/// What a command says on stderr, line by line.
struct Says(BufReader<ChildStderr>);

/// Said of a path that carries small datagrams only; and of a disk that stands still, as on a machine that is busy.
fn is_of_a_stall(line: &str) -> bool {
    line.contains(" for 5 s; where the network carries no datagrams")
}

impl Says {
    fn of(child: &mut Child) -> Self {
        Self(BufReader::new(child.stderr.take().unwrap()))
    }

    /// The next line, which it waits for.
    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.0.read_line(&mut line).unwrap() > 0, "it ended");
        line
    }

    /// The next line that is not of a stall.
    fn other_line(&mut self) -> String {
        std::iter::repeat_with(|| self.line()).find(|line| !is_of_a_stall(line)).unwrap()
    }

    /// What else it says but of a stall.
    fn rest(mut self) -> Vec<String> {
        let mut rest = String::new();
        self.0.read_to_string(&mut rest).unwrap();
        rest.lines().filter(|line| !is_of_a_stall(line)).map(str::to_owned).collect()
    }
}

#[test]
fn an_outage_is_said_once_and_so_is_its_end() {
    let mut appliance = Appliance::start(&[]);
    appliance.run(&["stream", "create", "orders"]);
    let start = |args: &[&str]| {
        let mut command = appliance.client(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Running(command.spawn().unwrap())
    };
    let mut publisher = start(&["publish", "orders", "--lines", "-", "-v"]);
    let mut consumer = start(&["consume", "orders", "--from", "start", "--follow"]);
    let mut silent = start(&["consume", "orders", "--from", "start", "--follow", "-q"]);
    let mut input = publisher.0.stdin.take().unwrap();
    let mut output = BufReader::new(consumer.0.stdout.take().unwrap());
    let mut message = |input: &mut dyn Write, text: &str| {
        writeln!(input, "{text}").unwrap();
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert!(line.ends_with(&format!(" {text}\n")), "{line}");
    };
    message(&mut input, "before");
    let mut said = [Says::of(&mut publisher.0), Says::of(&mut consumer.0)];
    let session = said[0].other_line();
    let with = format!("note: shard 0 of 1 at {} (", appliance.address);
    assert!(session.starts_with(&with) && session.contains(", as producer "), "{session}");

    appliance.kill();
    let left = ["0 messages are not acknowledged", "2 is the next message"];
    for (says, left) in said.iter_mut().zip(left) {
        let line = says.other_line();
        let begins = format!("note: {} has not answered since ", appliance.address);
        assert!(line.starts_with(&begins) && line.contains(" UTC; waiting for it, "), "{line}");
        assert!(line.contains(left), "{line}");
    }
    appliance.restart();
    for says in &mut said {
        let line = says.other_line();
        let begins = format!("note: {} answers again, after ", appliance.address);
        assert!(line.starts_with(&begins), "{line}");
    }
    message(&mut input, "after");
    drop(input);

    assert_eq!(wait(&mut publisher.0, PATIENCE).code(), Some(0));
    let mut printed = String::new();
    publisher.0.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
    assert!(printed.starts_with("2 messages published to orders, 2 acknowledged"), "{printed}");
    signal(&consumer.0, "INT");
    assert_eq!(wait(&mut consumer.0, PATIENCE).code(), Some(130));
    let [of_publisher, of_consumer] = said.map(Says::rest);
    assert_eq!(of_publisher, [""; 0]);
    assert_eq!(of_consumer.len(), 1, "the end: {of_consumer:?}");
    signal(&silent.0, "INT");
    assert_eq!(wait(&mut silent.0, PATIENCE).code(), Some(130));
    let of_silent = Says::of(&mut silent.0).rest();
    assert!(!of_silent.iter().any(|line| line.contains("note:")), "{of_silent:?}");
}

/// A path that carries no datagrams as large as ours, nor their fragments: both ends say so, and what to do.
#[test]
fn a_path_that_carries_small_datagrams_only_is_named() {
    let appliance = Appliance::start(&[]);
    appliance.run(&["stream", "create", "orders"]);
    let order = "x".repeat(1_000);
    let publish = |mut command: Command| {
        command.args(["publish", "orders", "--lines", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut publisher = Running(command.spawn().unwrap());
        writeln!(publisher.0.stdin.take().unwrap(), "{order}").unwrap();
        publisher
    };
    assert!(wait(&mut publish(appliance.client(&[])).0, PATIENCE).success());
    let path = |appliance: &Appliance| {
        let at = UdpSocket::bind("127.0.0.1:0").unwrap();
        let command = appliance.through(&at.local_addr().unwrap().to_string());
        relay(at, appliance.address.parse().unwrap(), 600);
        command
    };
    let mut publisher = publish(path(&appliance));
    let mut consumer = path(&appliance);
    consumer.args(["consume", "orders", "--follow"]).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut consumer = Running(consumer.spawn().unwrap());
    for (child, says) in [
        (&mut publisher.0, "acknowledged nothing for 5 s"),
        (&mut consumer.0, "of what the stream has nothing came for 5 s"),
    ] {
        let line = Says::of(child).line();
        assert!(line.contains(says) && line.contains("client.port.datagram_bytes=576"), "{line}");
    }
}
