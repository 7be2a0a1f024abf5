//! Whole processes over a veth, in a network namespace of their own: the shipped profile, DPDK at both ends; and
//! two shards on one DPDK device, with kernel clients, for each steering that can be had without a NIC.
#![cfg(feature = "dpdk")]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "drives real processes in real time, and says what it skips"
)]

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Appliance, itch_messages, order_flow, text, wait};

/// The appliance's end of the veth, as in `hw-profiles/veth.toml`.
const SERVER: &str = "10.93.20.1:9310";

fn shell(line: &str) -> bool {
    Command::new("sh").args(["-c", line]).status().is_ok_and(|status| status.success())
}

/// Runs a test of this binary again, as a role in a namespace with the pair of interfaces of the profile.
fn in_namespace(role: &str) {
    let found = ["-n", "-rn"].into_iter().find(|flags| {
        shell(&format!("unshare {flags} ip link add bus0 type veth peer name bus1 >/dev/null 2>&1"))
    });
    let _turn = common::turn();
    let Some(flags) = found else {
        println!("SKIPPED: no network namespace with a veth may be made here");
        return;
    };
    let mut child = common::tied("unshare")
        .arg(flags)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "role", "--nocapture"])
        .env("BUSLANE_TEST_ROLE", role)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        println!("{}", line.unwrap());
    }
    assert!(wait(&mut child, common::PATIENCE).success(), "{role}");
}

#[test]
fn role() {
    let Ok(role) = std::env::var("BUSLANE_TEST_ROLE") else {
        return;
    };
    assert!(shell(
        "ip link set lo up && ip link add bus0 type veth peer name bus1 && ip link set bus0 up && \
         ip link set bus1 up"
    ));
    match role.as_str() {
        "profile" => profile(),
        steering => two_shards(steering),
    }
}

#[test]
fn the_veth_profile_carries_an_order_flow() {
    in_namespace("profile");
}

#[test]
fn two_shards_by_way_of_the_first_lose_nothing() {
    in_namespace("software");
}

#[test]
fn two_shards_on_a_device_that_spreads_lose_nothing() {
    in_namespace("rss");
}

#[test]
fn a_device_that_takes_no_rules_is_refused() {
    in_namespace("flow");
}

/// DPDK on both sides, as the profile says.
fn profile() {
    let appliance = Appliance::start_with("veth", None, SERVER, &["disk.size=128MiB"]);
    let flow = order_flow(appliance.dir.path());
    let client = |args: &[&str]| {
        let output = common::buslane().args(args).args(["--profile", "veth"]).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        output.stdout
    };
    client(&["stream", "create", "orders"]);
    client(&["publish", "orders", "--itch", flow.to_str().unwrap()]);
    let consumed = client(&["consume", "orders", "-o", "raw"]);
    let messages = itch_messages(&flow);
    assert!(consumed == messages.concat(), "lost, doubled or reordered");
    println!("veth profile: {} messages, {} bytes", messages.len(), consumed.len());
}

fn two_shards(steering: &str) {
    let queues = if steering == "software" { 1 } else { 2 };
    let eal = format!(
        "port.dpdk.eal=[\"--no-huge\", \"-m256\", \"--no-pci\", \"--file-prefix=buslane-{{instance}}-server\", \
         \"--vdev=net_af_packet0,iface=bus0,qpairs={queues}\"]"
    );
    let steer = format!("shard.steering={steering}");
    let instance = format!("instance=steer-{steering}-{}", std::process::id());
    let size = ["shard.count=2", "shard.core=none", "disk.size=128MiB", "disk.segment=4MiB"];
    let settings = [&size[..], &[&eal, &steer, &instance]].concat();
    // The clients are the kernel's.
    assert!(shell("ip addr add 10.93.20.2/24 dev bus1"));
    if steering == "flow" {
        let refused = Appliance::refused("veth", SERVER, &settings);
        assert!(refused.contains("takes no rule that steers a UDP port to a queue"), "{refused}");
        assert!(refused.contains("shard.steering = \"rss\", or \"software\""), "{refused}");
        println!("flow: {}", refused.lines().last().unwrap());
        return;
    }
    let mut appliance = Appliance::start_with("veth", None, SERVER, &settings);
    let run = ["bench", "run", "--max", "--count", "8000", "--publishers", "8", "--streams", "16"];
    let more = ["--warmup", "100ms", "--consumers", "2", "-o", "json", "--out"];
    let report = appliance.dir.path().join("report");
    let output = appliance.client(&run).args(more).arg(&report).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for what in ["lost", "duplicated", "reordered"] {
        assert_eq!(report[what], 0, "{what}: {}", text(&output));
    }
    let list = appliance.run(&["stream", "list", "-o", "json"]);
    let list: serde_json::Value = serde_json::from_slice(&list).unwrap();
    for shard in 0..2 {
        let streams = list["streams"].as_array().unwrap();
        assert_eq!(streams.iter().filter(|stream| stream["shard"] == shard).count(), 8, "{list}");
    }
    // What it says of itself: which way frames come, and, with the next of its counts, that some were handed over.
    let start = Instant::now();
    let stat = loop {
        let stat = common::buslane()
            .args(["stat", "-o", "json", "--profile", "veth", "--set", &instance])
            .output()
            .unwrap();
        assert!(stat.status.success(), "{}", text(&stat));
        let stat = String::from_utf8(stat.stdout).unwrap();
        let counts = stat.split("\"port_handed_over\":").skip(1).map(|rest| {
            let digits = rest.trim_start().split(|c: char| !c.is_ascii_digit()).next().unwrap();
            digits.parse::<u64>().unwrap()
        });
        if counts.sum::<u64>() > 0 {
            break stat;
        }
        assert!(start.elapsed() < common::PATIENCE, "{stat}");
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!(stat.matches(&format!("steering {steering}")).count(), 2, "{stat}");
    appliance.kill();
    appliance.restart();
    let (code, said) = appliance.stop();
    assert_eq!(code, 0, "{said}");
    println!("{steering}: 16 streams on two shards of one device, lost 0 duplicated 0 reordered 0");
}
