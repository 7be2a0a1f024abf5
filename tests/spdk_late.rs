//! A write that the network delivers late, from a connection that is gone: after the namespace was attached to anew it
//! reaches nothing. The test runs itself again in a network namespace of its own, whose loopback it cuts.
#![cfg(feature = "spdk")]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "drives real processes in real time, and says what it skips"
)]

mod common;
#[path = "common/target.rs"]
mod target;

use std::process::Command;
use std::thread;
use std::time::Duration;

use buslane::disk::spdk::{SpdkDisk, SpdkNamespace};
use buslane::disk::{Disk, Io, Operation, run};
use buslane::limits::BLOCK_BYTES;
use buslane::position::DiskOffset;
use target::Target;

const MEMORY_BYTES: usize = 2 << 20;

/// The kernel tries again after twice the time each time, from 200 ms on: what was sent some five seconds ago is sent
/// again within that time.
const LATE: Duration = Duration::from_secs(10);

fn shell(line: &str) -> bool {
    Command::new("sh").args(["-c", line]).status().is_ok_and(|status| status.success())
}

#[test]
fn a_write_of_a_connection_that_is_gone_lands_nowhere() {
    if !shell("unshare -n ip link set lo up 2>&1") {
        println!("SKIPPED: no network namespace may be made here");
        return;
    }
    target::plays_its_role_in_a_network_of_its_own();
}

#[test]
fn role() {
    if std::env::var_os("BUSLANE_TEST_ROLE").is_some() {
        late_write();
    }
}

fn block(operation: Operation) -> Io {
    let disk_offset = DiskOffset::new(5 * BLOCK_BYTES as u64);
    Io { operation, tag: 0, disk_offset, memory_offset: 0, bytes: BLOCK_BYTES }
}

fn fill(disk: &mut SpdkDisk, fill: u8) {
    disk.memory_mut().bytes_mut(0..BLOCK_BYTES).fill(fill);
}

fn late_write() {
    assert!(shell("ip link set lo up"));
    let arguments = ["--transport", "tcp", "--size", "64", "--core", "0"];
    let Some(target) = Target::start("late", &arguments) else { return };
    let namespace = SpdkNamespace::new(target.config(), 1).unwrap();
    let mut disk = SpdkDisk::on(&namespace, MEMORY_BYTES).unwrap();
    assert_eq!(disk.settles_in(), None, "the target has reservations");
    fill(&mut disk, 0xa0);
    run(&mut disk, block(Operation::Write)).unwrap();
    // On its way, and nobody hears of it.
    assert!(shell("ip link set lo down"));
    fill(&mut disk, 0xaa);
    disk.submit(block(Operation::Write)).unwrap();
    while disk.out_of_service().is_none() {
        disk.poll(&mut []);
    }
    drop(disk);
    assert!(shell("ip link set lo up"));
    let mut disk = SpdkDisk::on(&namespace, MEMORY_BYTES).unwrap();
    fill(&mut disk, 0xbb);
    run(&mut disk, block(Operation::Write)).unwrap();
    thread::sleep(LATE);
    fill(&mut disk, 0);
    run(&mut disk, block(Operation::Read)).unwrap();
    let byte = disk.memory().bytes(0..1)[0];
    assert_eq!(
        byte, 0xbb,
        "{byte:#x}: what was written before the connection was gone landed late"
    );
}
