//! The appliance over DPDK shared memory: published, killed, started again, consumed; nothing lost, nothing
//! twice. Needs neither privileges nor huge pages nor a NIC.
#![cfg(feature = "dpdk")]
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "drives real processes in real time"
)]

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use common::{BUSLANE, Running, itch_messages, order_flow, wait};

fn command(dir: &Path, args: &[&str], shards: u32) -> Command {
    let mut command = Command::new(BUSLANE);
    command.args(args).args(["--profile", "memif"]);
    let instance = format!("instance=test-{}-{shards}", std::process::id());
    let path = format!("disk.path={}", dir.join("memif.log").display());
    let shards = format!("shard.count={shards}");
    for setting in [&instance, &path, &shards, "disk.size=64MiB", "disk.segment=1MiB"] {
        command.args(["--set", setting]);
    }
    command
}

fn serve(dir: &Path, shards: u32) -> Child {
    let mut command = command(dir, &["serve"], shards);
    if shards > 1 {
        // With the client, they are more than two cores.
        command.args(["--set", "shard.core=none"]);
    }
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    loop {
        let mut line = String::new();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "not ready:\n{said}");
        if line.starts_with("ready") {
            break;
        }
        said.push_str(&line);
    }
    // Nobody reads on: what it says later must not stop it.
    thread::spawn(move || while stderr.read_line(&mut said).is_ok_and(|read| read > 0) {});
    child
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Publishes an order flow to a stream of the last shard while the appliance is killed, and reads it back.
fn order_flow_survives_kills(shards: u32) {
    let _turn = common::turn();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dir = dir.path();
    let flow = order_flow(dir);
    let mut server = serve(dir, shards);
    let last = (shards - 1).to_string();
    let create = ["stream", "create", "orders", "--shard", &last];
    assert!(command(dir, &create, shards).status().unwrap().success());
    let itch = ["publish", "orders", "--rate", "4000", "--itch", flow.to_str().unwrap()];
    let mut publisher = Running(command(dir, &itch, shards).spawn().unwrap());
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(700));
        kill(server);
        server = serve(dir, shards);
    }
    assert!(wait(&mut publisher.0, Duration::from_secs(60)).success());
    let consume = ["consume", "orders", "-o", "raw"];
    let consumed = command(dir, &consume, shards).output().unwrap();
    assert!(consumed.status.success(), "{}", common::text(&consumed));
    kill(server);
    let messages = itch_messages(&flow);
    assert!(consumed.stdout == messages.concat(), "lost, doubled or reordered");
    println!("memif: {shards} shards, 3 kills, {} messages, lost 0 duplicated 0", messages.len());
}

#[test]
fn an_order_flow_over_shared_memory_survives_kills() {
    order_flow_survives_kills(1);
}

#[test]
fn a_memif_serves_two_shards_by_way_of_the_first() {
    order_flow_survives_kills(2);
}
