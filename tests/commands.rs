//! The commands keep their word: what was read is published, what is stored is said, what is not there is told.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "drives real processes in real time"
)]

mod common;

use std::fs;
use std::io::Write;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Appliance, BUSLANE, Running, free_ports, signal, text};

fn small(settings: &[&str]) -> Appliance {
    let sizes = ["disk.size=16MiB", "disk.segment=1MiB", "shard.core=none", "metrics.http=off"];
    Appliance::start(&[&sizes, settings].concat())
}

/// Runs a client's command that has to fail with this code and say all of this.
#[track_caller]
fn refused(output: &Output, code: i32, says: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{}", text(output));
    for word in says {
        assert!(stderr.contains(word), "`{word}` is not in: {stderr}");
    }
}

fn count(appliance: &Appliance, stream: &str) -> u64 {
    let out = appliance.run(&["stream", "describe", stream, "-o", "json"]);
    let list: serde_json::Value = serde_json::from_slice(&out).unwrap();
    list["streams"][0]["messages"].as_u64().unwrap()
}

fn file(appliance: &Appliance, name: &str, bytes: &[u8]) -> String {
    let path = appliance.dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

fn sample(appliance: &Appliance, count: &str) -> PathBuf {
    let path = appliance.dir.path().join("sample.itch");
    let path_text = path.to_str().unwrap();
    appliance.run(&["sample", "orders", "-q", "--count", count, "--out", path_text]);
    path
}

#[test]
fn a_file_that_was_cut_is_published_as_far_as_it_goes_and_skip_goes_on() {
    let appliance = small(&[]);
    let whole = fs::read(sample(&appliance, "20k")).unwrap();
    let cut = file(&appliance, "cut.itch", &whole[..whole.len() - 3]);
    appliance.run(&["stream", "create", "orders"]);
    let output =
        appliance.client(&["publish", "orders", "--itch", &cut, "-o", "json"]).output().unwrap();
    let says = ["cut.itch: byte ", "cut short", "19,999 messages are acknowledged", "--skip 19999"];
    refused(&output, 1, &says);
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&summary["acknowledged"], &summary["complete"]), (&19_999.into(), &false.into()));
    assert_eq!(count(&appliance, "orders"), 19_999);
    let path = sample(&appliance, "20k");
    let path = path.to_str().unwrap();
    appliance.run(&["publish", "orders", "--itch", path, "--skip", "19999"]);
    let all = appliance.run(&["consume", "orders", "-o", "raw"]);
    let messages = common::itch_messages(path.as_ref()).concat();
    assert!(all == messages, "each message once, in order");
    let output =
        appliance.client(&["publish", "orders", "--itch", path, "--skip", "20001"]).output();
    refused(&output.unwrap(), 1, &["it has 20,000 messages only"]);
}

#[test]
fn a_line_that_is_too_long_ends_the_input_and_not_what_came_before() {
    let appliance = small(&[]);
    appliance.run(&["stream", "create", "orders"]);
    let long = "x".repeat(60_000);
    let lines = file(&appliance, "lines", format!("one\ntwo\n{long}\nfour\n").as_bytes());
    let output = appliance.client(&["publish", "orders", "--lines", &lines]).output().unwrap();
    let says =
        ["lines: line 3: a message of 60000 bytes", "2 messages are acknowledged", "--skip 2"];
    refused(&output, 1, &says);
    assert_eq!(appliance.run(&["consume", "orders", "-o", "raw"]), b"onetwo");
}

#[test]
fn a_file_of_another_kind_is_refused_by_name() {
    let appliance = small(&[]);
    appliance.run(&["stream", "create", "orders"]);
    let path = sample(&appliance, "2k");
    let messages = common::itch_messages(&path);
    let plain = fs::read(&path).unwrap();
    let soup: Vec<u8> = messages
        .iter()
        .flat_map(|message| {
            let len = u8::try_from(message.len() + 1).unwrap();
            [&[0, len, b'S'][..], message].concat()
        })
        .collect();
    let pcap = [&[0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0][..], &plain].concat();
    let late = [&plain[..14], b"\x00\x10time,type,price\n"].concat();
    for (name, bytes, word) in [
        ("soup", soup.as_slice(), "SoupBinTCP"),
        ("pcap", &pcap, "pcap"),
        ("csv", b"\x00\x10time,type,price\n", "byte 0: a message of type `t`"),
        ("text", b"time,type,price\n", "--lines"),
        ("day.gz", b"\x1f\x8b\x08\0\0\0", "gzip -dc"),
        ("zst", b"\x28\xb5\x2f\xfd\0\0\0", "zstd -dc"),
    ] {
        let path = file(&appliance, name, bytes);
        let output = appliance.client(&["publish", "orders", "--itch", &path]).output().unwrap();
        refused(&output, 1, &[word, "0 messages are acknowledged"]);
    }
    assert_eq!(count(&appliance, "orders"), 0);
    let path = file(&appliance, "late", &late);
    let output = appliance.client(&["publish", "orders", "--itch", &path]).output().unwrap();
    refused(&output, 1, &["byte 14: a message of type `t` with 16 bytes", "1 messages"]);
}

/// What a shell, a terminal or `ssh` may have left on the descriptor.
#[test]
fn an_input_that_is_not_ready_is_waited_for() {
    let appliance = small(&[]);
    appliance.run(&["stream", "create", "orders"]);
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let publisher = appliance
        .client(&["publish", "orders", "--lines", "-"])
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ours = ours;
    for number in 0..5 {
        std::thread::sleep(Duration::from_millis(100));
        ours.write_all(format!("{number}\n").as_bytes()).unwrap();
    }
    drop(ours);
    let output = publisher.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(appliance.run(&["consume", "orders", "-o", "raw"]), b"01234");
}

#[test]
fn an_output_that_is_not_ready_is_waited_for() {
    let appliance = small(&[]);
    appliance.run(&["stream", "create", "orders"]);
    let lines: String =
        (0..5_000).map(|number| format!("{number} {}\n", "x".repeat(200))).collect();
    let path = file(&appliance, "lines", lines.as_bytes());
    appliance.run(&["publish", "orders", "--lines", &path]);
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let mut command = appliance.client(&["consume", "orders", "-o", "raw"]);
    let mut consumer = Running(command.stdout(OwnedFd::from(theirs)).spawn().unwrap());
    drop(command);
    std::thread::sleep(Duration::from_millis(300));
    let mut got = Vec::new();
    std::io::Read::read_to_end(&mut ours, &mut got).unwrap();
    assert!(consumer.0.wait().unwrap().success());
    assert!(got == lines.replace('\n', "").into_bytes(), "{} bytes", got.len());
}

#[test]
fn a_publisher_that_is_told_to_end_says_where_to_go_on() {
    let appliance = small(&[]);
    let lines: String = (1..=3_000).map(|number| format!("{number}\n")).collect();
    let path = file(&appliance, "lines", lines.as_bytes());
    for told in ["INT", "HUP"] {
        appliance.run(&["stream", "create", told]);
        let publisher = appliance
            .client(&["publish", told, "--lines", &path, "--rate", "1000", "-o", "json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        while count(&appliance, told) == 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
        signal(&publisher, told);
        let output = publisher.wait_with_output().unwrap();
        let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let through = summary["acknowledged"].to_string();
        assert_eq!(count(&appliance, told).to_string(), through);
        let says = ["interrupted", "messages are acknowledged", &format!("--skip {through}")];
        refused(&output, 130, &says);
        appliance.run(&["publish", told, "--lines", &path, "--skip", &through]);
        let all = appliance.run(&["consume", told, "-o", "raw"]);
        assert!(all == lines.replace('\n', "").into_bytes(), "every line once");
    }
}

#[test]
fn a_position_beyond_the_end_is_answered_with_what_there_is() {
    let appliance = small(&[]);
    appliance.run(&["stream", "create", "orders"]);
    let empty = appliance.client(&["consume", "orders", "--from", "2"]).output().unwrap();
    refused(&empty, 1, &["orders has no message 2 yet", "empty", "will be 1"]);
    let path = file(&appliance, "lines", &b"x\n".repeat(10));
    appliance.run(&["publish", "orders", "--lines", &path]);
    for follow in [&[][..], &["--follow"]] {
        for from in ["5000", "12", "18446744073709551615"] {
            let args = [&["consume", "orders", "--from", from], follow].concat();
            refused(
                &appliance.client(&args).output().unwrap(),
                1,
                &["it has 1 to 10", "will be 11"],
            );
        }
    }
    assert_eq!(
        appliance.run(&["consume", "orders", "--from", "11"]),
        b"",
        "the next one is the end"
    );
    for from in ["0", "-1"] {
        let output = appliance.client(&["consume", "orders", "--from", from]).output().unwrap();
        refused(&output, 2, &["a sequence from 1"]);
    }
    let output =
        appliance.client(&["consume", "orders", "--from", "@9999999999"]).output().unwrap();
    assert!(output.status.success() && output.stdout.is_empty(), "{}", text(&output));
    assert!(text(&output).contains("nothing that new yet: it has 1 to 10"), "{}", text(&output));
}

#[test]
fn a_stream_is_moved_without_loss() {
    let appliance = small(&[]);
    appliance.run(&["stream", "create", "orders"]);
    appliance.run(&["stream", "create", "copy"]);
    let orders = sample(&appliance, "5k");
    appliance.run(&["publish", "orders", "--itch", orders.to_str().unwrap()]);
    let lines = file(&appliance, "lines", b"\n\nlast one, after two that are empty");
    appliance.run(&["publish", "orders", "--lines", &lines]);
    let mut reader = appliance
        .client(&["consume", "orders", "-o", "framed"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = appliance
        .client(&["publish", "copy", "--framed", "-"])
        .stdin(reader.stdout.take().unwrap())
        .output()
        .unwrap();
    assert!(reader.wait().unwrap().success() && output.status.success(), "{}", text(&output));
    let payloads = |stream: &str| {
        let rows = String::from_utf8(appliance.run(&["consume", stream, "-o", "json"])).unwrap();
        let payload = |row: &str| {
            let row: serde_json::Value = serde_json::from_str(row).unwrap();
            row["payload_base64"].clone()
        };
        rows.lines().map(payload).collect::<Vec<_>>()
    };
    assert_eq!(count(&appliance, "copy"), 5_003);
    assert!(payloads("orders") == payloads("copy"));
    // Cut between two messages: noticed.
    let framed = appliance.run(&["consume", "orders", "-o", "framed"]);
    let cut = file(&appliance, "cut", &framed[..framed.len() - 12]);
    let output = appliance.client(&["publish", "copy", "--framed", &cut]).output().unwrap();
    refused(&output, 1, &["the end mark is missing after 5003 messages", "--skip 5003"]);
}

#[test]
fn an_appliance_on_all_addresses_answers_from_the_one_asked() {
    let port = free_ports(1);
    let sizes = ["disk.size=16MiB", "disk.segment=1MiB", "shard.core=none", "metrics.http=off"];
    let appliance = Appliance::start_with("loopback", None, &format!("0.0.0.0:{port}"), &sizes);
    for host in ["127.0.0.1", "127.0.0.2"] {
        let server = format!("{host}:{port}");
        let run = |args: &[&str]| {
            Command::new(BUSLANE).args(["-s", &server]).args(args).output().unwrap()
        };
        let output = run(&["stream", "create", "orders"]);
        assert!(output.status.success(), "{host}: {}", text(&output));
        let path = file(&appliance, "lines", b"one\n");
        let output = run(&["publish", "orders", "--lines", &path]);
        assert!(output.status.success(), "{host}: {}", text(&output));
    }
}

/// Passes datagrams on between `outer` and the appliance's ports, as a published port does.
fn map_ports(outer: &[UdpSocket], inner: u16, stop: &AtomicBool) {
    let mut flows: Vec<(UdpSocket, usize, std::net::SocketAddr)> = Vec::new();
    let mut bytes = vec![0; 65_536];
    for socket in outer {
        socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    }
    // Only a flag: it orders nothing but itself.
    while !stop.load(Ordering::Relaxed) {
        for (at, socket) in outer.iter().enumerate() {
            let Ok((len, from)) = socket.recv_from(&mut bytes) else { continue };
            if !flows.iter().any(|flow| (flow.1, flow.2) == (at, from)) {
                let own = UdpSocket::bind("127.0.0.1:0").unwrap();
                own.set_nonblocking(true).unwrap();
                flows.push((own, at, from));
            }
            let flow = flows.iter().find(|flow| (flow.1, flow.2) == (at, from)).unwrap();
            let to = ("127.0.0.1", inner + u16::try_from(at).unwrap());
            let _ = flow.0.send_to(&bytes[..len], to);
        }
        for (own, at, from) in &flows {
            while let Ok((len, _)) = own.recv_from(&mut bytes) {
                let _ = outer[*at].send_to(&bytes[..len], from);
            }
        }
    }
}

#[test]
fn shards_behind_mapped_ports_are_reached_at_the_address_dialled() {
    let appliance = small(&["shard.count=2"]);
    appliance.run(&["stream", "create", "trades", "--shard", "1"]);
    let inner: u16 = appliance.address.rsplit(':').next().unwrap().parse().unwrap();
    let outer = free_ports(2);
    let sockets = [0, 1].map(|k| UdpSocket::bind(("127.0.0.7", outer + k)).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let map = std::thread::spawn(move || map_ports(&sockets, inner, &stopped));
    let path = file(&appliance, "lines", b"one\ntwo\n");
    let server = format!("127.0.0.7:{outer}");
    let run = |args: &[&str]| Command::new(BUSLANE).args(["-s", &server]).args(args).output();
    let published = run(&["publish", "trades", "--lines", &path]).unwrap();
    let listed = run(&["stream", "list"]).unwrap();
    stop.store(true, Ordering::Relaxed);
    map.join().unwrap();
    assert!(published.status.success(), "{}", text(&published));
    assert!(text(&listed).contains("trades"), "{}", text(&listed));
}

/// Clock ticks (100 a second) a process has used.
fn ticks(id: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn commands_with_nothing_to_do_leave_the_core_to_others() {
    let appliance = small(&[]);
    appliance.run(&["stream", "create", "orders"]);
    let consume = appliance.client(&["consume", "orders", "--follow"]);
    let publish = appliance.client(&["publish", "orders", "--lines", "-"]);
    let start = |mut command: Command| {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        Running(piped.spawn().unwrap())
    };
    let mut children = [start(consume), start(publish)];
    std::thread::sleep(Duration::from_secs(1));
    let before = children.each_ref().map(|child| ticks(child.0.id()));
    std::thread::sleep(Duration::from_secs(2));
    let used: Vec<_> =
        children.iter().zip(before).map(|(child, before)| ticks(child.0.id()) - before).collect();
    assert!(used.iter().all(|used| *used < 20), "of 200 ticks: {used:?}");
    // They are awake when there is something.
    let input = children[1].0.stdin.as_mut().unwrap();
    input.write_all(b"order\n").unwrap();
    let mut line = String::new();
    let output = children[0].0.stdout.as_mut().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).unwrap();
    assert!(line.ends_with(" order\n"), "{line}");
}

/// `timeout` signals its child, and then the group the child is in.
#[test]
fn signals_that_come_together_are_one() {
    let mut appliance = small(&[]);
    appliance.run(&["stream", "create", "orders"]);
    let twice = |id: u32| {
        let script = format!("kill -TERM {id}; kill -TERM {id}");
        assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
    };
    for _ in 0..5 {
        let mut command = appliance.client(&["consume", "orders", "--follow"]);
        let consumer = command.stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(300));
        twice(consumer.id());
        refused(&consumer.wait_with_output().unwrap(), 130, &["interrupted; --from 1"]);
    }
    appliance.kill();
    let mut server = appliance.serve_command().stderr(Stdio::piped()).spawn().unwrap();
    let mut said = std::io::BufReader::new(server.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("ready") {
        line.clear();
        assert!(std::io::BufRead::read_line(&mut said, &mut line).unwrap() > 0, "it is ready");
    }
    twice(server.id());
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut said, &mut rest).unwrap();
    assert!(server.wait().unwrap().success(), "{rest}");
}

#[test]
fn a_publisher_whose_log_was_replaced_by_an_older_copy_says_where_either_goes_on() {
    let mut appliance = small(&[]);
    appliance.run(&["stream", "create", "orders"]);
    let publisher = appliance
        .client(&["publish", "orders", "--lines", "-", "--skip", "2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut publisher = publisher.unwrap();
    let mut input = publisher.stdin.take().unwrap();
    let mut feed = |lines: usize| input.write_all("x\n".repeat(lines).as_bytes()).unwrap();
    let until = |appliance: &Appliance, messages| {
        while count(appliance, "orders") < messages {
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    feed(12);
    until(&appliance, 10);
    let copy = appliance.dir.path().join("copy").display().to_string();
    appliance.run(&["log", "copy", &appliance.log_path().display().to_string(), &copy]);
    feed(10);
    until(&appliance, 20);
    appliance.kill();
    std::fs::rename(&copy, appliance.log_path()).unwrap();
    appliance.restart();
    feed(1);
    drop(input);
    let output = publisher.wait_with_output().unwrap();
    let says = [
        "serves an older state of the log: it is at 10 where 20 was acknowledged",
        "20 messages are acknowledged, by the log that was there before",
        "--skip 22 goes on behind them",
        "--skip 12 goes on behind what it has",
    ];
    refused(&output, 1, &says);
    assert!(!text(&output).contains("may still"), "{}", text(&output));
}

#[test]
fn a_named_producer_goes_on_where_it_was_however_it_ended() {
    let mut appliance = small(&["disk.size=64MiB"]);
    for stream in ["orders", "trades"] {
        appliance.run(&["stream", "create", stream]);
    }
    let all: String = (1..=40_000).map(|number| format!("order {number}\n")).collect();
    let path = file(&appliance, "lines", all.as_bytes());
    let publish = |appliance: &Appliance, more: &[&str]| {
        let base = ["publish", "orders", "--lines", path.as_str(), "--producer", "gateway-7"];
        appliance.client(&[&base, more].concat())
    };
    // Killed in the middle, twice; the appliance in between.
    for _ in 0..2 {
        let mut command = publish(&appliance, &["--rate", "20k"]);
        let mut publisher = command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(700));
        publisher.kill().unwrap();
        publisher.wait().unwrap();
        appliance.kill();
        appliance.restart();
    }
    // The one that was killed is taken for gone soon.
    let output = publish(&appliance, &[]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let consumed = appliance.run(&["consume", "orders", "-o", "raw"]);
    let raw: String = (1..=40_000).map(|number| format!("order {number}")).collect();
    assert!(consumed == raw.as_bytes(), "each once, in order: {} bytes", consumed.len());
    // Again: there is nothing left to do.
    let output = publish(&appliance, &[]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(appliance.run(&["consume", "orders", "-o", "raw"]).len(), raw.len());
    // Another input, one that is shorter, another stream.
    let other = file(&appliance, "other", all.replace("order 40000", "order 4").as_bytes());
    let short = file(&appliance, "short", b"order 1\n");
    let run = |stream: &str, path: &str| {
        let args = ["publish", stream, "--lines", path, "--producer", "gateway-7"];
        appliance.client(&args).output().unwrap()
    };
    refused(&run("orders", &other), 1, &["message 40000 is not the last one", "another input?"]);
    refused(&run("orders", &short), 1, &["has 1 messages only", "has published 40,000"]);
    refused(&run("trades", &path), 1, &["gateway-7 publishes to another stream"]);
    let again = run("orders", &path);
    assert!(again.status.success(), "{}", text(&again));
}

#[test]
fn a_named_producer_has_one_publisher_unless_it_is_taken_over() {
    let appliance = small(&[]);
    appliance.run(&["stream", "create", "orders"]);
    let start = |more: &[&str]| {
        let base = ["publish", "orders", "--lines", "-", "--producer", "gateway-7"];
        let mut command = appliance.client(&[&base, more].concat());
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        piped.spawn().unwrap()
    };
    let mut first = start(&[]);
    first.stdin.as_mut().unwrap().write_all(b"zero\n").unwrap();
    appliance.run(&["consume", "orders", "--follow", "--count", "1"]);
    let second = start(&["--connect-timeout", "1s"]);
    refused(&second.wait_with_output().unwrap(), 1, &["is this producer just now", "127.0.0.1:"]);
    let mut third = start(&["--take-over"]);
    third.stdin.as_mut().unwrap().write_all(b"zero\none\n").unwrap();
    appliance.run(&["consume", "orders", "--follow", "--count", "2"]);
    refused(&first.wait_with_output().unwrap(), 1, &["another instance", "gateway-7"]);
    let output = third.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(appliance.run(&["consume", "orders", "-o", "raw"]), b"zeroone");
}
