//! The DPDK port between real processes: over a memif, with either end killed, and over a veth against
//! the kernel's own stack. Needs no NIC, no huge pages; the veth needs a network namespace.
//!
//! EAL starts once a process, so every end is a process of its own: this binary again, running the test
//! `role` with the part to play in the environment.
#![cfg(feature = "dpdk")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and its parts talk by lines"
)]

mod common;

use std::io::{BufRead, BufReader, Lines};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use buslane::clock::{Clock, HostClock};
use buslane::ids::Peer;
use buslane::port::Port;
use buslane::port::dpdk::{DpdkConfig, DpdkPort};
use buslane::port::udp::UdpPort;
use buslane::random::Random;

const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 9, 0, 1), 7000);
const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 9, 0, 2), 0);
const SECOND_NS: u64 = 1_000_000_000;
/// After so long without progress a part ends: it hangs, or nobody is there any more.
const PATIENCE_NS: u64 = 60 * SECOND_NS;
const JUMBO: usize = 8972;
/// Datagrams of one round, each answered before the round ends.
const ROUND: u32 = 2_000;
const WINDOW: u32 = 24;

/// A child that is killed when it goes out of scope, and what it says.
struct Part {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Part {
    fn start(role: &str, socket: &Path, core: usize) -> Self {
        Self::start_with(common::tied(std::env::current_exe().unwrap()), role, socket, core)
    }

    fn start_with(mut command: Command, role: &str, socket: &Path, core: usize) -> Self {
        let mut child = command
            .args(["--exact", "role", "--nocapture"])
            .env("BUSLANE_TEST_ROLE", role)
            .env("BUSLANE_TEST_SOCKET", socket)
            .env("BUSLANE_TEST_CORE", core.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Waits for a line that contains `text`. Parts end by themselves when they make no progress, so
    /// this ends too.
    fn expect(&mut self, text: &str) -> String {
        for line in &mut self.lines {
            let line = line.unwrap();
            if line.contains(text) {
                return line;
            }
        }
        panic!("a part ended without saying {text:?}");
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory for sockets; when it goes, so does what EAL left for the processes that used it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn join(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let name = self.0.path().file_name().unwrap().to_str().unwrap().to_owned();
        let runtime = std::env::var("XDG_RUNTIME_DIR").unwrap_or_else(|_| "/tmp".to_owned());
        for base in ["/var/run", &runtime] {
            for role in ["server", "client"] {
                let left = format!("{base}/dpdk/buslane-test{name}-{role}");
                let _ = std::fs::remove_dir_all(left);
            }
        }
    }
}

#[test]
fn role() {
    let Ok(role) = std::env::var("BUSLANE_TEST_ROLE") else {
        return;
    };
    let socket = std::env::var("BUSLANE_TEST_SOCKET").unwrap();
    let core = std::env::var("BUSLANE_TEST_CORE").unwrap().parse().unwrap();
    match role.as_str() {
        "memif-server" => echo(&mut memif(&socket, "server", JUMBO)),
        "memif-client" => rounds(&mut memif(&socket, "client", JUMBO)),
        "memif-echo" => echo(&mut pinned(core, memif(&socket, "server", 1472))),
        "memif-ping" => round_trips(&mut pinned(core, memif(&socket, "client", 1472)), SERVER),
        "udp-echo" => {
            let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
            let mut port = pinned(core, UdpPort::open(any, 1472).unwrap());
            println!("at {}", port.local());
            echo(&mut port);
        }
        "udp-ping" => {
            let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
            let mut port = pinned(core, UdpPort::open(any, 1472).unwrap());
            round_trips(&mut port, socket.parse().unwrap());
        }
        "veth" => veth(),
        "eal-fails" => eal_fails(&socket),
        other => panic!("{other}"),
    }
}

fn memif(socket: &str, role: &str, datagram_bytes: usize) -> DpdkPort {
    let place = Path::new(socket).parent().unwrap().file_name().unwrap().to_str().unwrap();
    let prefix = format!("buslane-test{place}-{role}");
    let eal = [
        "--no-huge".to_owned(),
        "-m128".to_owned(),
        "--no-pci".to_owned(),
        format!("--file-prefix={prefix}"),
        format!("--vdev=net_memif0,role={role},id=0,socket={socket},socket-abstract=no,rsize=10"),
    ];
    let address = if role == "server" { SERVER } else { CLIENT };
    let mut config = DpdkConfig::new(eal.to_vec(), "net_memif0", address);
    config.datagram_bytes = datagram_bytes;
    config.udp_checksum = datagram_bytes == JUMBO;
    DpdkPort::open(&config).unwrap()
}

fn pinned<P>(core: usize, port: P) -> P {
    assert!(core_affinity::set_for_current(core_affinity::CoreId { id: core }), "core {core}");
    port
}

/// Sends back what arrives, for ever; ends when its parent is gone.
fn echo(port: &mut impl Port) {
    println!("ready");
    let parent = std::os::unix::process::parent_id();
    let mut idle = 0_u32;
    loop {
        echo_once(port);
        idle = idle.wrapping_add(1);
        if idle.is_multiple_of(1 << 20) && std::os::unix::process::parent_id() != parent {
            return;
        }
    }
}

fn echo_once(port: &mut impl Port) -> usize {
    let count = port.receive();
    for index in 0..count {
        let (peer, bytes) = port.datagram(index);
        let bytes = bytes.to_vec();
        if let Some(room) = port.reserve(peer) {
            room[..bytes.len()].copy_from_slice(&bytes);
            port.commit(bytes.len());
        }
    }
    port.flush();
    count
}

/// The bytes of datagram `number`: any length up to the largest, known content.
fn content(number: u32, room: usize) -> Vec<u8> {
    let len = 4 + Random::new(number.into()).index(room - 3);
    let mut bytes = vec![number.to_le_bytes()[0]; len];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// Rounds of datagrams there and back, for ever, saying so after each; what is lost is sent again.
/// Ends with a panic after five seconds without an answer.
fn rounds(port: &mut impl Port) {
    println!("ready");
    for round in 0_u32.. {
        one_round(port, round * ROUND, SERVER);
        println!("round {round} {:?}", port.counters());
    }
}

fn one_round(port: &mut impl Port, first: u32, server: SocketAddrV4) {
    let clock = HostClock::new();
    let (mut peer, mut next, mut back) = (None::<Peer>, first, first);
    let mut heard_ns = clock.now_ns();
    let mut sent_ns = heard_ns;
    while back < first + ROUND {
        let now = clock.now_ns();
        assert!(now - heard_ns < PATIENCE_NS, "no answer to {back}: {:?}", port.counters());
        for index in 0..port.receive() {
            let datagram_bytes = port.datagram_bytes();
            let (from, bytes) = port.datagram(index);
            let number = u32::from_le_bytes(bytes[..4].try_into().unwrap());
            assert_eq!(from.addr, server);
            assert_eq!(bytes, content(number, datagram_bytes), "datagram {number}");
            if number == back {
                (back, heard_ns) = (back + 1, now);
            }
        }
        if now - sent_ns.max(heard_ns) > SECOND_NS / 20 {
            // Lost with a peer that was killed: find it again, and go on from what it answered last.
            (peer, next) = (None, back);
            sent_ns = now;
        }
        let Some(to) = peer.or_else(|| port.resolve(server)) else {
            continue;
        };
        peer = Some(to);
        while next < (back + WINDOW).min(first + ROUND) {
            let bytes = content(next, port.datagram_bytes());
            let Some(room) = port.reserve(to) else { break };
            room[..bytes.len()].copy_from_slice(&bytes);
            port.commit(bytes.len());
            (next, sent_ns) = (next + 1, now);
        }
        port.flush();
    }
}

#[test]
fn a_memif_carries_jumbo_datagrams_and_survives_either_end_being_killed() {
    let place = Place::new();
    let socket = place.join("memif.sock");
    // The client is first: its server comes later.
    let mut client = Part::start("memif-client", &socket, 0);
    client.expect("ready");
    let mut server = Part::start("memif-server", &socket, 0);
    server.expect("ready");
    client.expect("round 1 ");
    let mut round = 1;
    for _ in 0..10 {
        server.kill();
        server = Part::start("memif-server", &socket, 0);
        // Rounds said before the kill may still be in the pipe: the third after it is surely new.
        for _ in 0..4 {
            round += 1;
            client.expect(&format!("round {round} "));
        }
    }
    for _ in 0..10 {
        client.kill();
        client = Part::start("memif-client", &socket, 0);
        client.expect("round 1 ");
    }
}

/// Round trips of 128 bytes for five seconds; says what they took.
fn round_trips(port: &mut impl Port, server: SocketAddrV4) {
    let clock = HostClock::new();
    let start = clock.now_ns();
    let peer = loop {
        port.receive();
        if let Some(peer) = port.resolve(server) {
            break peer;
        }
        assert!(clock.now_ns() - start < PATIENCE_NS, "no server");
    };
    let mut took = Vec::with_capacity(1 << 24);
    let (start, mut lost) = (clock.now_ns(), 0);
    while clock.now_ns() - start < 5 * SECOND_NS {
        let sent = clock.now_ns();
        port.reserve(peer).unwrap()[..128].fill(7);
        port.commit(128);
        port.flush();
        while port.receive() == 0 {
            if clock.now_ns() - sent > SECOND_NS / 10 {
                lost += 1;
                break;
            }
        }
        took.push(clock.now_ns() - sent);
    }
    took.sort_unstable();
    let at = |per_mille: usize| took[took.len() * per_mille / 1000];
    println!(
        "rtt {} round trips, lost {lost}, min {} p50 {} p99 {} p99.9 {} ns",
        took.len(),
        took[0],
        at(500),
        at(990),
        at(999)
    );
}

#[test]
#[ignore = "a measurement: run with --release --ignored --nocapture on a quiet machine"]
fn round_trip_times() {
    let place = Place::new();
    for run in 0..3 {
        let socket = place.join(&format!("{run}.sock"));
        let mut server = Part::start("memif-echo", &socket, 0);
        server.expect("ready");
        println!("memif {}", Part::start("memif-ping", &socket, 1).expect("rtt "));
        drop(server);
        let mut server = Part::start("udp-echo", &socket, 0);
        let at = server.expect("at ");
        let address = at.rsplit(' ').next().unwrap().to_owned();
        println!("udp   {}", Part::start("udp-ping", Path::new(&address), 1).expect("rtt "));
    }
}

fn shell(line: &str) -> bool {
    Command::new("sh").args(["-c", line]).status().is_ok_and(|status| status.success())
}

/// Within a network namespace of its own: a veth whose one end is the kernel's, the other ours.
fn veth() {
    if !shell("ip link add bl0 type veth peer name bl1 2>&1 && ip link set lo up") {
        println!("SKIPPED: no veth here");
        return;
    }
    let kernel = SocketAddrV4::new(Ipv4Addr::new(10, 9, 1, 1), 0);
    let ours = SocketAddrV4::new(Ipv4Addr::new(10, 9, 1, 2), 7000);
    assert!(shell("ip addr add 10.9.1.1/24 dev bl0 && ip link set bl0 up && ip link set bl1 up"));
    let eal = [
        "--no-huge",
        "-m128",
        "--no-pci",
        "--no-shconf",
        "--file-prefix=buslane-test-veth",
        "--vdev=net_af_packet0,iface=bl1,blocksz=4096,framesz=2048,framecnt=512",
    ];
    let eal = eal.map(str::to_owned).to_vec();
    let mut config = DpdkConfig::new(eal, "net_af_packet0", ours);
    (config.rx_descriptors, config.tx_descriptors) = (256, 256);
    let mut port = DpdkPort::open(&config).unwrap();
    let mut socket = UdpPort::open(kernel, 1472).unwrap();
    let clock = HostClock::new();
    // The kernel speaks first: it asks by ARP, and leaves its UDP checksums to a device.
    let far = socket.resolve(ours).unwrap();
    for number in 0..500_u32 {
        let bytes = content(number, 1472);
        socket.reserve(far).unwrap()[..bytes.len()].copy_from_slice(&bytes);
        socket.commit(bytes.len());
        socket.flush();
        let start = clock.now_ns();
        while socket.receive() == 0 {
            echo_once(&mut port);
            assert!(clock.now_ns() - start < PATIENCE_NS, "{number}: {:?}", port.counters());
        }
        let (from, payload) = socket.datagram(0);
        assert_eq!((from, &*payload), (far, &bytes[..]));
    }
    println!("the kernel was answered");
    // And we do: the kernel answers our ARP request.
    let mut near = None;
    let start = clock.now_ns();
    while near.is_none() {
        port.receive();
        near = port.resolve(socket.local());
        assert!(clock.now_ns() - start < PATIENCE_NS, "no answer by ARP");
    }
    port.reserve(near.unwrap()).unwrap()[..5].copy_from_slice(b"first");
    port.commit(5);
    port.flush();
    while socket.receive() == 0 {
        assert!(clock.now_ns() - start < PATIENCE_NS, "our datagram was not accepted");
    }
    assert_eq!(socket.datagram(0).1, b"first");
    println!("the kernel was asked");
    println!("{}", pinged(&mut port));
    println!("veth done");
}

/// Pings from the kernel with whatever this host has to ping with.
fn pinged(port: &mut DpdkPort) -> &'static str {
    let commands: [&[&str]; 2] =
        [&["ping", "-c2", "-i0.2", "-W3", "10.9.1.2"], &["python3", "-c", PING, "10.9.1.2"]];
    for command in commands {
        let spawned = Command::new(command[0]).args(&command[1..]).stdout(Stdio::null()).spawn();
        let Ok(mut child) = spawned else { continue };
        while child.try_wait().unwrap().is_none() {
            port.receive();
        }
        assert!(child.wait().unwrap().success(), "{command:?} was not answered");
        return "ping was answered";
    }
    "SKIPPED ping: neither ping nor python3 is here"
}

/// One echo request over a raw socket.
const PING: &str = r"
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
s.settimeout(5)
body = bytes([8, 0, 0, 0, 1, 2, 3, 4]) + b'ping!!'
total = sum(body[i] << 8 | body[i + 1] for i in range(0, len(body), 2))
total = ~((total & 0xffff) + (total >> 16)) & 0xffff
s.sendto(body[:2] + total.to_bytes(2, 'big') + body[4:], (sys.argv[1], 0))
answer, _ = s.recvfrom(2048)
sys.exit(0 if answer[20] == 0 and answer[24:] == body[4:] else 1)
";

#[test]
fn af_packet_on_a_veth_talks_to_the_kernel() {
    let Some(flags) = ["-n", "-rn"]
        .into_iter()
        .find(|flags| shell(&format!("unshare {flags} ip link show lo >/dev/null 2>&1")))
    else {
        println!("SKIPPED: no network namespace may be made here");
        return;
    };
    let mut command = common::tied("unshare");
    command.arg(flags).arg(std::env::current_exe().unwrap());
    let mut part = Part::start_with(command, "veth", Path::new("-"), 0);
    let mut said = Vec::new();
    for line in &mut part.lines {
        let line = line.unwrap();
        println!("{line}");
        if line.contains("SKIPPED: ") {
            return;
        }
        said.push(line);
    }
    assert!(said.iter().any(|line| line.contains("veth done")));
}

/// What is missing is named, in an error and not by the end of the process.
fn eal_fails(case: &str) {
    let (eal, device): (&[&str], &str) = match case {
        "driver" => (&["--no-huge", "-m64", "--no-pci", "--no-shconf", "--vdev=net_nothing0"], "0"),
        "device" => (&["--no-huge", "-m64", "--no-pci", "--no-shconf"], "0000:03:00.0"),
        "number" => (&["--no-huge", "-m64", "--no-pci", "--no-shconf"], "7"),
        "memory" => (
            &["--no-huge", "-m4", "--no-pci", "--no-shconf", "--vdev=net_memif0,role=client"],
            "net_memif0",
        ),
        "argument" => (&["--no-such-argument"], "0"),
        other => panic!("{other}"),
    };
    let eal = eal.iter().map(ToString::to_string).collect();
    let error = DpdkPort::open(&DpdkConfig::new(eal, device, SERVER)).unwrap_err();
    println!("error {error}");
}

#[test]
fn what_is_missing_is_named() {
    for (case, named) in [
        ("driver", "net_nothing0"),
        ("device", "0000:03:00.0"),
        ("number", "7"),
        ("memory", "no memory"),
    ] {
        let line = Part::start("eal-fails", Path::new(case), 0).expect("error ");
        println!("{case}: {line}");
        assert!(line.contains(named), "{case}: {line}");
    }
}

/// An argument EAL does not know: before DPDK 25.11 an error, from then on EAL ends the process, which
/// says so.
#[test]
fn an_argument_eal_does_not_know_is_named() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "role", "--nocapture"])
        .envs([("BUSLANE_TEST_ROLE", "eal-fails"), ("BUSLANE_TEST_SOCKET", "argument")])
        .env("BUSLANE_TEST_CORE", "0")
        .output()
        .unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    println!("{said}");
    let named = |text: &str| said.lines().any(|line| line.contains(text));
    assert!(named("no-such-argument"));
    assert!(
        named("error DPDK: its environment did not start") || named("over the arguments in `eal`")
    );
}
