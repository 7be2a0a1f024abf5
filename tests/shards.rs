//! An appliance of two shards: streams over both, kills, redirections, logs cut into shares, and what goes
//! wrong with cores and numbers.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "drives real processes in real time"
)]

mod common;

use std::fs::OpenOptions;
use std::net::{SocketAddrV4, UdpSocket};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use buslane::client::blocking::{Client, Error};
use buslane::client::{Publisher, StartFrom};
use buslane::host::{Needs, Topology, Tree};
use buslane::ids::StreamId;
use buslane::profile;

use common::{Appliance, BUSLANE, free_ports, relay, text};

/// Two shards on what cores there are, with a small log.
const TWO: [&str; 3] = ["shard.count=2", "disk.size=128MiB", "disk.segment=4MiB"];

fn json(bytes: &[u8]) -> serde_json::Value {
    serde_json::from_slice(bytes).unwrap()
}

fn server(appliance: &Appliance) -> SocketAddrV4 {
    appliance.address.parse().unwrap()
}

fn connect(server: SocketAddrV4, publisher: Publisher) -> Client {
    let mut client = Client::connect(server, common::options(server, publisher)).unwrap();
    client.polled().set_dead_after_ns(u64::MAX);
    client
}

/// Creates streams; returns the number of each and where its shard listens.
fn create(appliance: &Appliance, names: &[String]) -> Vec<(StreamId, SocketAddrV4)> {
    let mut client = connect(server(appliance), Publisher::No);
    names
        .iter()
        .map(|name| (client.create_stream(name).unwrap().id, client.polled().server()))
        .collect()
}

fn serve(settings: &[&str]) -> Output {
    let mut command = Command::new(BUSLANE);
    command.arg("serve");
    for setting in settings {
        command.args(["--set", setting]);
    }
    command.output().unwrap()
}

#[track_caller]
fn refused(output: &Output, says: &[&str]) {
    assert!(!output.status.success(), "{}", text(output));
    let stderr = String::from_utf8_lossy(&output.stderr);
    for word in says {
        assert!(stderr.contains(word), "`{word}` is not in: {stderr}");
    }
}

#[test]
fn sixteen_streams_from_eight_publishers_lose_nothing_on_two_shards() {
    let mut appliance = Appliance::start(&TWO);
    let dir = appliance.dir.path().join("report");
    let count = "8000";
    let run = ["bench", "run", "--max", "--count", count, "--publishers", "8", "--streams", "16"];
    let more = ["--warmup", "100ms", "--consumers", "2", "-o", "json", "--out"];
    let output = appliance.client(&run).args(more).arg(&dir).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let report = json(&output.stdout);
    for what in ["lost", "duplicated", "reordered"] {
        assert_eq!(report[what], 0, "{what}: {}", text(&output));
    }
    let list = json(&appliance.run(&["stream", "list", "-o", "json"]));
    let streams = list["streams"].as_array().unwrap();
    assert_eq!(streams.len(), 16);
    for shard in 0..2 {
        let here: Vec<_> = streams.iter().filter(|stream| stream["shard"] == shard).collect();
        assert_eq!(here.len(), 8, "streams are shared out");
        assert!(here.iter().all(|stream| stream["messages"].as_u64().unwrap() >= 500), "{list}");
    }
    let (code, said) = appliance.stop();
    assert_eq!(code, 0, "{said}");
    let described =
        appliance.run(&["log", "describe", &appliance.log_path().display().to_string()]);
    let described = String::from_utf8(described).unwrap();
    assert_eq!(described.matches("stopped cleanly  yes").count(), 2, "{described}");
    assert!(described.contains("shard 1 of 2"), "{described}");
}

#[test]
fn a_benchmark_starts_as_many_shards_as_the_profile_says() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = format!("disk.path={}", dir.path().join("log").display());
    let mut command = Command::new(BUSLANE);
    command.args(["bench", "run", "--rate", "500", "--duration", "1s", "--warmup", "100ms"]);
    // Without consumers, what was published is read back.
    command.args([
        "--publishers",
        "3",
        "--streams",
        "4",
        "--consumers",
        "0",
        "-o",
        "json",
        "--out",
    ]);
    command.arg(dir.path());
    for setting in TWO.into_iter().chain([path.as_str()]) {
        command.args(["--set", setting]);
    }
    let output = command.output().unwrap();
    // On a busy machine the rate may not be achieved; that is not the subject here.
    let report = json(&output.stdout);
    for what in ["lost", "duplicated", "reordered"] {
        assert_eq!(report[what], 0, "{what}: {}", text(&output));
    }
    assert!(report["messages"].as_u64().unwrap() > 100, "{}", text(&output));
}

#[test]
fn a_kill_loses_nothing_acknowledged_on_either_shard() {
    const MESSAGES: u64 = 600;
    let mut appliance = Appliance::start(&TWO);
    let names: Vec<String> = (0..16).map(|number| format!("orders-{number}")).collect();
    let streams = create(&appliance, &names);
    let publishers: Vec<_> = (0..8)
        .map(|publisher| {
            let own: Vec<_> = streams.iter().copied().skip(publisher).step_by(8).collect();
            thread::spawn(move || publish(&own, MESSAGES))
        })
        .collect();
    for _ in 0..2 {
        thread::sleep(Duration::from_millis(400));
        appliance.kill();
        appliance.restart();
    }
    for publisher in publishers {
        publisher.join().unwrap();
    }
    // Once more: what is acknowledged is there after a kill without a word.
    appliance.kill();
    appliance.restart();
    for (name, (id, server)) in names.iter().zip(&streams) {
        let mut client = connect(*server, Publisher::No);
        assert_eq!(client.describe_stream(name).unwrap().id, *id, "where it was");
        let (start, end) = client.subscribe(*id, StartFrom::Start).unwrap();
        assert_eq!((start, end), (1, MESSAGES + 1), "{name}");
        for number in 1..=MESSAGES {
            let message = client.next_message().unwrap();
            assert_eq!((message.sequence, message.payload), (number, payload(number)), "{name}");
        }
    }
    // The directory is known from what was recovered.
    let (_, elsewhere) = streams[1];
    let mut client = connect(server(&appliance), Publisher::No);
    assert_eq!(client.create_stream(&names[1]).unwrap().shard, 1);
    assert_eq!(client.polled().server(), elsewhere);
}

fn payload(number: u64) -> Vec<u8> {
    format!("message {number}").into_bytes()
}

/// One session a stream, as streams may be on different shards; returns when all is acknowledged.
fn publish(streams: &[(StreamId, SocketAddrV4)], count: u64) {
    let mut clients: Vec<_> =
        streams.iter().map(|(id, server)| (*id, connect(*server, Publisher::New))).collect();
    for number in 1..=count {
        for (id, client) in &mut clients {
            client.offer(*id, &payload(number)).unwrap();
            client.turn().unwrap();
        }
        thread::sleep(Duration::from_millis(1));
    }
    for (_, client) in &mut clients {
        client.flush(|_| {}).unwrap();
    }
}

#[test]
fn who_asks_the_wrong_shard_is_sent_to_the_right_one() {
    let appliance = Appliance::start(&TWO);
    let names = ["here".to_owned(), "there".to_owned()];
    let streams = create(&appliance, &names);
    let (base, other) = (streams[0].1, streams[1].1);
    assert_eq!((base, other.port()), (server(&appliance), base.port() + 1));
    for stream in ["here", "there"] {
        let lines = appliance.dir.path().join("lines");
        std::fs::write(&lines, format!("to {stream}\n")).unwrap();
        // Asked at the shard that has not got it.
        let wrong = if stream == "here" { other } else { base }.to_string();
        let client = |args: &[&str]| {
            let output = Command::new(BUSLANE).args(["-s", &wrong]).args(args).output().unwrap();
            assert!(output.status.success(), "{args:?}: {}", text(&output));
            output.stdout
        };
        client(&["publish", stream, "--lines", lines.to_str().unwrap(), "-q"]);
        let got = client(&["consume", stream, "-o", "raw"]);
        assert_eq!(got, format!("to {stream}").as_bytes());
        let described = json(&client(&["stream", "describe", stream, "-o", "json"]));
        assert_eq!(described["streams"][0]["messages"], 1);
        assert_eq!(described["streams"][0]["shard"], i32::from(stream == "there"));
        let list = json(&client(&["stream", "list", "-o", "json"]));
        assert_eq!(list["streams"].as_array().unwrap().len(), 2, "from whichever shard");
    }
    let output = appliance.client(&["stream", "create", "mine", "--shard", "1"]).output().unwrap();
    assert!(output.status.success() && text(&output).contains("mine"), "{}", text(&output));
    let output = appliance.client(&["stream", "create", "mine", "--shard", "0"]).output().unwrap();
    refused(&output, &["stream mine is on shard 1, where it stays"]);
    let output = appliance.client(&["stream", "create", "new", "--shard", "2"]).output().unwrap();
    refused(&output, &["this appliance has shards 0 to 1"]);
    let mut busy = connect(base, Publisher::New);
    busy.publish(streams[0].0, b"work here").unwrap();
    let error = busy.describe_stream("there").unwrap_err();
    assert!(
        matches!(error, Error::Redirected { shard: 1, server, .. } if server == other),
        "{error}"
    );
}

#[test]
fn a_log_for_another_number_of_shards_is_not_served() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let log = dir.path().join("log").display().to_string();
    let port = free_ports(2);
    let at = [
        format!("disk.path={log}"),
        format!("port.address=127.0.0.1:{port}"),
        "disk.size=128MiB".into(),
        "disk.segment=4MiB".into(),
    ];
    let at: Vec<&str> = at.iter().map(String::as_str).collect();
    let format = |shards: &str| {
        let mut command = Command::new(BUSLANE);
        command.args(["log", "format", "--shards", shards, "--force", &log, &log]);
        for setting in &at {
            command.args(["--set", setting]);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(format("2").contains("2 shards, each with 15 segments"));
    let says = ["formatted for 2 shards, the profile says 1: set shard.count=2"];
    refused(&serve(&at), &says);
    assert!(!format("1").contains("shards, each"));
    let two = [&at[..], &["shard.count=2"]].concat();
    refused(&serve(&two), &["formatted for 1 shard, the profile says 2: set shard.count=1"]);
    // What a log holds is found for tools without being told.
    format("2");
    let mut command = Command::new(BUSLANE);
    let output =
        command.args(["log", "describe", &log, "--shard", "1", "-o", "json"]).output().unwrap();
    assert_eq!(json(&output.stdout)["shard"], 1, "{}", text(&output));
}

#[test]
fn a_copy_that_has_no_room_for_every_share_says_how_much_it_needs() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (log, to) = (dir.path().join("log"), dir.path().join("copy"));
    let (log, to) = (log.to_str().unwrap(), to.to_str().unwrap());
    let mut format = Command::new(BUSLANE);
    format.args(["log", "format", "--shards", "2", log]);
    format.args(["--set", "disk.size=64MiB", "--set", "disk.segment=4MiB"]);
    assert!(format.status().unwrap().success());
    let copy = |size: &str| {
        Command::new(BUSLANE).args(["log", "copy", log, to, "--size", size]).output().unwrap()
    };
    // Two shares of five segments, and of the superblocks: whole multiples of 2 MiB.
    let needed = (2 * (5 * 4 + 4)) << 20;
    for size in ["1MiB", "3MiB", "47MiB"] {
        refused(&copy(size), &[&format!("needs at least {needed}")]);
        assert!(!Path::new(to).exists(), "nothing is left of it");
    }
    let output = copy("48MiB");
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn a_flipped_bit_is_found_in_its_share_and_the_shard_is_named() {
    let mut appliance = Appliance::start(&TWO);
    appliance.run(&["stream", "create", "safe", "--shard", "0"]);
    appliance.run(&["stream", "create", "hurt", "--shard", "1"]);
    let lines = appliance.dir.path().join("lines");
    std::fs::write(&lines, "one\ntwo\nthree\n").unwrap();
    appliance.run(&["publish", "safe", "--lines", lines.to_str().unwrap()]);
    appliance.run(&["publish", "hurt", "--lines", lines.to_str().unwrap()]);
    assert_eq!(appliance.stop().0, 0);
    let log = appliance.log_path().display().to_string();
    let row =
        appliance.run(&["log", "dump", &log, "--stream", "hurt", "--count", "1", "-o", "json"]);
    let row = json(&row);
    assert_eq!(row["shard"], 1);
    let share = 64 << 20;
    let at = share + row["disk_offset"].as_u64().unwrap() + 200;
    let file = OpenOptions::new().read(true).write(true).open(&log).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
    drop(file);
    let verify = |more: &[&str]| {
        Command::new(BUSLANE).args(["log", "verify", &log]).args(more).output().unwrap()
    };
    let output = verify(&[]);
    refused(&output, &[&format!("{log}: 1 place damaged")]);
    let said = String::from_utf8(output.stdout).unwrap();
    let (first, second) = said.split_once("shard 1 of 2").unwrap();
    assert!(!first.contains("DAMAGED") && second.contains("DAMAGED"), "{said}");
    assert!(verify(&["--shard", "0"]).status.success());
    refused(&verify(&["--shard", "2"]), &["there is no shard 2, only 0 to 1"]);
    // A shard that cannot open its log stops the others too.
    let output = appliance.serve_command().output().unwrap();
    refused(&output, &[&format!("shard 1: {log}: acknowledged data is damaged")]);
}

#[test]
fn cores_that_cannot_be_had_are_refused_with_what_to_choose() {
    let two = |settings: &[&str]| serve(&[&["shard.count=2"], settings].concat());
    refused(&two(&["shard.cores=[0, 4711]"]), &["shard.cores[1] is 4711", "choose among them"]);
    let says = ["shard.cores[1] is core 0, which shard.cores[0] has already"];
    refused(&two(&["shard.cores=[0, 0]"]), &says);
    refused(&two(&["shard.cores=[0, 1, 2]"]), &["names 3 cores for 2 shards"]);
    refused(
        &serve(&["shard.count=64", "disk.size=8GiB"]),
        &["shard.count is 64, but this process may use core"],
    );
    refused(&two(&["port.address=127.0.0.1:0"]), &["shard k listens on that port + k"]);
    refused(&serve(&["shard.count=65"]), &["wanted 1 to 64"]);
    // Two threads of one physical core, as captured on a host that has such.
    let tree = Path::new("tests/host/bare-metal-untuned");
    let topology = Topology::read(&Tree::new(tree));
    let placed = |cores: &str| {
        let settings = ["shard.count=2".to_owned(), format!("shard.cores={cores}")];
        let profile = profile::load("loopback", &settings).unwrap();
        let needs = Needs::of(&profile, &(0..8).collect::<Vec<_>>());
        let place = |key: &str| profile.source.place(key);
        needs.check_placement(&topology, &place).map_err(|error| error.to_string())
    };
    placed("[2, 3]").unwrap();
    let error = placed("[2, 6]").unwrap_err();
    assert!(error.starts_with("--set shard.cores=[2, 6]: shard.cores[1] is core 6"), "{error}");
    assert!(error.contains("two threads of one physical core"), "{error}");
}

/// Of two ports that a firewall should let pass, it lets one pass.
#[test]
fn a_shard_whose_port_is_closed_is_named_with_its_port() {
    let appliance = Appliance::start(&TWO);
    for shard in ["0", "1"] {
        appliance.run(&["stream", "create", &format!("on-{shard}"), "--shard", shard]);
    }
    let first = free_ports(2);
    let open = UdpSocket::bind(("127.0.0.1", first)).unwrap();
    let closed = UdpSocket::bind(("127.0.0.1", first + 1)).unwrap();
    relay(open, server(&appliance), usize::MAX);
    let (at, names) =
        (format!("127.0.0.1:{first}"), format!("{} open in every firewall", first + 1));
    let asked = |args: &[&str]| {
        let mut command = appliance.through(&at);
        command.args(["--connect-timeout", "2s"]).args(args);
        command.stdin(Stdio::null()).output().unwrap()
    };
    let output = asked(&["stream", "describe", "on-0"]);
    assert!(output.status.success(), "{}", text(&output));
    let commands: [&[&str]; 4] = [
        &["stream", "list"],
        &["stream", "describe", "on-1"],
        &["publish", "on-1", "--lines", "-"],
        &["consume", "on-1"],
    ];
    for args in commands {
        let output = asked(args);
        refused(&output, &["shard 1 at ", &format!("{at} of the same appliance does"), &names]);
        assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    }
    drop(closed);
}
