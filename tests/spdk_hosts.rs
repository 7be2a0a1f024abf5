//! Two appliances on one namespace that see nothing of each other but the namespace: as on two hosts, or in two
//! containers. The test runs itself again in a network namespace of its own.
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

use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use common::{Appliance, BUSLANE, Running, text};
use target::Target;

const PROFILE: &str = "nvme-tcp";

/// Where the target listens, on a wire between both.
const ADDRESS: &str = "10.93.30.1";

/// The other end of the wire.
const THERE: Ipv4Addr = Ipv4Addr::new(10, 93, 30, 2);

fn shell(line: &str) -> bool {
    Command::new("sh").args(["-c", line]).status().is_ok_and(|status| status.success())
}

#[test]
fn an_appliance_of_another_host_is_refused_while_the_owner_lives() {
    if !shell(
        "unshare -n -m sh -c 'mount -t tmpfs none /dev/shm && ip link add here type veth' 2>&1",
    ) {
        println!("SKIPPED: no namespaces with a veth may be made here");
        return;
    }
    target::plays_its_role_in_a_network_of_its_own();
}

#[test]
fn role() {
    if std::env::var_os("BUSLANE_TEST_ROLE").is_some() {
        two_hosts();
    }
}

/// Another host: a network and shared memory of its own, and a wire to this one.
fn other_host() -> Running {
    let stays = "mount -t tmpfs none /dev/shm && ip link set lo up && exec sleep infinity";
    let child = common::tied("unshare").args(["-n", "-m", "sh", "-c", stays]).spawn().unwrap();
    let other = Running(child);
    let network = |of: &str| fs::read_link(format!("/proc/{of}/ns/net")).unwrap();
    let pid = other.0.id().to_string();
    while network(&pid) == network("self") {
        thread::sleep(Duration::from_millis(5));
    }
    assert!(shell(&format!(
        "ip link set lo up && ip link add here type veth peer name there netns {pid} && \
         ip address add {ADDRESS}/24 dev here && ip link set here up && \
         nsenter -t {pid} -n sh -c 'ip address add {THERE}/24 dev there && ip link set there up'"
    )));
    other
}

/// An appliance of the other host on a namespace.
fn serve_there(host: &Child, id: &str) -> Command {
    let mut command = common::tied("nsenter");
    command.args(["-t", &host.id().to_string(), "-n", "-m", "--", BUSLANE, "serve"]);
    command.args(["--profile", PROFILE, "--set", "instance=there"]);
    command.args(["--set", &format!("disk.path={id}")]);
    command.stderr(Stdio::piped());
    command
}

fn two_hosts() {
    let other = other_host();
    let port = common::free_port().to_string();
    // What survives the target.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = dir.path().join("namespace").display().to_string();
    let bdev = ["--bdev", "file", "--file", &file, "--size", "128"];
    let listens = ["--transport", "tcp", "--address", ADDRESS, "--port", &port];
    let arguments = [bdev.as_slice(), &listens].concat();
    let Some(target) = Target::start("hosts", &arguments) else { return };
    let formatted = Command::new(BUSLANE)
        .args(["log", "format", &target.id, "--profile", PROFILE])
        .output()
        .unwrap();
    assert!(formatted.status.success(), "{}", text(&formatted));
    let here = Appliance::start_on(PROFILE, Some(target.id.clone()), &[]);
    here.run(&["stream", "create", "orders"]);
    let mut refused = Running(serve_there(&other.0, &target.id).spawn().unwrap());
    let (said, serves) = common::heard(&mut refused.0);
    assert!(!serves, "{said}");
    assert!(said.contains("another appliance serves it, by reservation key"), "{said}");
    here.run(&["stream", "create", "trades"]);
    a_stalled_owner_is_fenced(here, &other.0, &target.id);
    // Gone without a word, it is not waited for longer than it is watched.
    let mut here = Appliance::start_on(PROFILE, Some(target.id.clone()), &[]);
    here.kill();
    let mut there = Running(serve_there(&other.0, &target.id).spawn().unwrap());
    assert!(is_ready(&mut there), "it takes over what is left");
    // The same again, and the target goes away while the one that is gone is watched.
    drop(there);
    let mut here = Appliance::start_on(PROFILE, Some(target.id.clone()), &[]);
    here.kill();
    let mut there = Running(serve_there(&other.0, &target.id).spawn().unwrap());
    // One for what is asked of the controller, one for the reservation.
    common::wait_until("it watches", || connections_from_there() == 2);
    target.kill();
    target.start_again();
    assert!(is_ready(&mut there), "a device that was there is waited for");
}

fn is_ready(there: &mut Running) -> bool {
    common::heard(&mut there.0).1
}

/// One that stands still is taken over. What it goes on to write then is refused, and acknowledged to nobody.
fn a_stalled_owner_is_fenced(mut here: Appliance, other: &Child, id: &str) {
    let consume = ["consume", "orders", "--from", "start", "-o", "raw"];
    let mut publisher = here.client(&["publish", "orders", "--lines", "-"]);
    publisher.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut publisher = Running(publisher.spawn().unwrap());
    let mut input = publisher.0.stdin.take().unwrap();
    input.write_all(b"before\n").unwrap();
    common::wait_until("it is stored", || here.run(&consume) == b"before");
    assert!(shell(&format!("kill -s STOP {}", here.pid())));
    let mut there = Running(serve_there(other, id).spawn().unwrap());
    assert!(is_ready(&mut there), "it is taken over");
    assert!(shell(&format!("kill -s CONT {}", here.pid())));
    input.write_all(b"late\n").unwrap();
    drop(input);
    thread::sleep(Duration::from_secs(3));
    assert!(publisher.0.try_wait().unwrap().is_none(), "acknowledged by one that was taken over");
    let mut client = common::tied("nsenter");
    client.args(["-t", &other.id().to_string(), "-n", "-m", "--", BUSLANE]).args(consume);
    let consumed = client.output().unwrap();
    assert_eq!(consumed.stdout, b"before", "{}", text(&consumed));
    let (_, said) = here.stop();
    // That it was taken over; or, where that took long, that the target has let go of it.
    assert!(said.contains("nothing is acknowledged until it is back"), "{said}");
}

/// How many connections the other host has to this one.
fn connections_from_there() -> usize {
    let from = u32::from_le_bytes(THERE.octets());
    let is_it = |line: &&str| {
        let mut words = line.split_whitespace().skip(2);
        let remote = words.next().unwrap_or_default();
        remote.starts_with(&format!("{from:08X}:")) && words.next() == Some("01")
    };
    fs::read_to_string("/proc/net/tcp").unwrap().lines().filter(is_it).count()
}
