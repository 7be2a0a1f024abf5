//! The appliance is killed at any moment, again and again, and loses nothing it acknowledged.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "drives real processes in real time"
)]

mod common;

use std::process::Stdio;
use std::thread;
use std::time::Duration;

use common::{Appliance, itch_messages, order_flow, wait};

/// Kills while the flow is published, at least.
const KILLS: usize = 20;

#[test]
fn an_order_flow_survives_kills_and_arrives_exactly_once() {
    let mut appliance = Appliance::start(&["disk.size=256MiB", "disk.segment=1MiB"]);
    let flow = order_flow(appliance.dir.path());
    let messages = itch_messages(&flow);
    appliance.run(&["stream", "create", "orders"]);
    let itch = flow.to_str().unwrap();
    let mut publisher = appliance
        .client(&["publish", "orders", "--itch", itch, "--rate", "700", "-o", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut kills = 0;
    while publisher.try_wait().unwrap().is_none() {
        // Uneven pauses, so that kills fall anywhere between two writes.
        thread::sleep(Duration::from_micros(40_000 + 7_919 * (kills as u64 % 13)));
        appliance.kill();
        kills += 1;
        appliance.restart();
    }
    let status = wait(&mut publisher, Duration::from_secs(60));
    assert!(status.success(), "the publisher: {status}");
    assert!(kills >= KILLS, "only {kills} kills fell into the run");
    let count = messages.len().to_string();
    let consumed =
        appliance.run(&["consume", "orders", "--from", "start", "--count", &count, "-o", "raw"]);
    assert!(consumed == messages.concat(), "what was consumed is what was published");
    let all = appliance.run(&["consume", "orders", "--from", "start", "-o", "raw"]);
    assert_eq!(all.len(), consumed.len(), "and nothing more");
    println!("{kills} kills, {} messages, lost 0 duplicated 0", messages.len());
}
