//! The appliance over DPDK shared memory: published, killed, started again, consumed; nothing lost, nothing
//! twice. Needs neither privileges nor huge pages nor a NIC.
#![cfg(feature = "dpdk")]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "drives real processes in real time"
)]

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use common::{BUSLANE, itch_messages, order_flow, wait};

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(BUSLANE);
    command.args(args).args(["--profile", "memif"]);
    let instance = format!("instance=test-{}", std::process::id());
    let path = format!("disk.path={}", dir.join("memif.log").display());
    for setting in [instance.as_str(), &path, "disk.size=64MiB", "disk.segment=1MiB"] {
        command.args(["--set", setting]);
    }
    command
}

fn serve(dir: &Path) -> Child {
    let mut child = command(dir, &["serve"]).stderr(Stdio::piped()).spawn().unwrap();
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

#[test]
fn an_order_flow_over_shared_memory_survives_kills() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dir = dir.path();
    let flow = order_flow(dir);
    let mut server = serve(dir);
    assert!(command(dir, &["stream", "create", "orders"]).status().unwrap().success());
    let itch = ["publish", "orders", "--rate", "4000", "--itch", flow.to_str().unwrap()];
    let mut publisher = command(dir, &itch).spawn().unwrap();
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(700));
        kill(server);
        server = serve(dir);
    }
    assert!(wait(&mut publisher, Duration::from_secs(60)).success());
    let consumed = command(dir, &["consume", "orders", "-o", "raw"]).output().unwrap();
    assert!(consumed.status.success(), "{}", common::text(&consumed));
    kill(server);
    let messages = itch_messages(&flow);
    assert!(consumed.stdout == messages.concat(), "lost, doubled or reordered");
    println!("memif: 3 kills, {} messages, lost 0 duplicated 0", messages.len());
}
