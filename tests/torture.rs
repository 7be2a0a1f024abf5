//! Whole processes under what happens to them: killed, stopped, disk in error, network that loses, clients
//! that vanish. `BUSLANE_TORTURE_ROUNDS` sets the number of kills (200).
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "drives real processes in real time"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use buslane::client::polled::Client;
use buslane::client::{BackPressure, OfferError, Publisher, blocking};
use buslane::clock::HostClock;
use buslane::ids::ProducerId;
use buslane::port::udp::UdpPort;
use buslane::random::Random;
use buslane::wire::control::StartFrom;
use common::{Appliance, BUSLANE, Feed, itch_messages, signal, text, wait};

fn rounds() -> usize {
    std::env::var("BUSLANE_TORTURE_ROUNDS").map_or(200, |text| text.parse().unwrap())
}

/// An order flow of our own of `count` messages.
fn flow(dir: &Path, count: usize) -> (String, Vec<Vec<u8>>) {
    let path = dir.join("flow.itch50");
    let count = count.to_string();
    let made = Command::new(BUSLANE)
        .args(["sample", "orders", "--count", &count, "--out"])
        .arg(&path)
        .status()
        .unwrap();
    assert!(made.success());
    let messages = itch_messages(&path);
    (path.to_str().unwrap().to_owned(), messages)
}

/// What the appliance holds is what was published, each once and in order.
fn consume_all(appliance: &Appliance, messages: &[Vec<u8>]) {
    let all = appliance.run(&["consume", "orders", "--from", "start", "-o", "raw"]);
    assert!(all == messages.concat(), "{} bytes of {}", all.len(), messages.concat().len());
}

#[test]
fn hundreds_of_kills_lose_and_double_nothing() {
    let rounds = rounds();
    let size = format!("disk.size={}MiB", 128 + rounds * 3 / 2);
    let mut appliance = Appliance::start(&[&size, "disk.segment=1MiB"]);
    let feed = Feed::start(&appliance);
    for kill in 0..rounds {
        // Uneven pauses, so that kills fall anywhere between two writes.
        thread::sleep(Duration::from_micros(15_000 + 7_919 * (kill as u64 % 13)));
        appliance.kill();
        appliance.restart();
    }
    let count = feed.finish(&appliance);
    println!("{rounds} kills, {count} messages acknowledged, lost 0 duplicated 0");
}

/// A network between clients and appliance that loses, doubles and reorders datagrams.
struct Proxy {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<[u64; 4]>>,
}

impl Proxy {
    fn start(server: &str, loss: u64, doubled: u64, held: u64) -> Self {
        let front = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = front.local_addr().unwrap();
        let server: SocketAddr = server.parse().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let run = move || relay(&front, server, [loss, doubled, held], &stopped);
        Self { address, stop, thread: Some(thread::spawn(run)) }
    }

    /// Datagrams passed, lost, doubled and held back.
    fn stop(mut self) -> [u64; 4] {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

fn relay(
    front: &UdpSocket,
    server: SocketAddr,
    [loss, doubled, held]: [u64; 3],
    stop: &AtomicBool,
) -> [u64; 4] {
    front.set_nonblocking(true).unwrap();
    let mut backs: BTreeMap<SocketAddr, UdpSocket> = BTreeMap::new();
    let mut fates = Random::new(7);
    let mut waiting: Vec<(bool, SocketAddr, Vec<u8>)> = Vec::new();
    let mut counts = [0; 4];
    let mut buffer = [0; 9000];
    while !stop.load(Ordering::Relaxed) {
        let mut arrived: Vec<(bool, SocketAddr, Vec<u8>)> = Vec::new();
        while let Ok((len, from)) = front.recv_from(&mut buffer) {
            backs.entry(from).or_insert_with(|| {
                let back = UdpSocket::bind("127.0.0.1:0").unwrap();
                back.connect(server).unwrap();
                back.set_nonblocking(true).unwrap();
                back
            });
            arrived.push((true, from, buffer[..len].to_vec()));
        }
        for (client, back) in &backs {
            while let Ok(len) = back.recv(&mut buffer) {
                arrived.push((false, *client, buffer[..len].to_vec()));
            }
        }
        let nothing = arrived.is_empty();
        let mut pass = std::mem::take(&mut waiting);
        for datagram in arrived {
            counts[0] += 1;
            if fates.one_of_thousand(loss) {
                counts[1] += 1;
            } else if fates.one_of_thousand(held) {
                counts[3] += 1;
                waiting.push(datagram);
            } else {
                if fates.one_of_thousand(doubled) {
                    counts[2] += 1;
                    pass.push(datagram.clone());
                }
                pass.push(datagram);
            }
        }
        for (to_server, client, bytes) in pass {
            // An appliance that is down refuses, which is as good as a loss.
            let _ =
                if to_server { backs[&client].send(&bytes) } else { front.send_to(&bytes, client) };
        }
        if nothing {
            thread::sleep(Duration::from_micros(50));
        }
    }
    counts
}

#[test]
fn a_bad_network_and_kills_together_lose_and_double_nothing() {
    let mut appliance = Appliance::start(&["disk.size=256MiB", "disk.segment=1MiB"]);
    let (itch, messages) = flow(appliance.dir.path(), 6_000);
    appliance.run(&["stream", "create", "orders"]);
    let proxy = Proxy::start(&appliance.address, 100, 100, 100);
    let through = proxy.address.to_string();
    let mut publisher = appliance
        .through(&through)
        .args(["publish", "orders", "--itch", &itch, "--rate", "1500", "-q"])
        .spawn()
        .unwrap();
    for _ in 0..8 {
        thread::sleep(Duration::from_millis(300));
        appliance.kill();
        appliance.restart();
    }
    let status = wait(&mut publisher, Duration::from_secs(120));
    assert!(status.success(), "the publisher: {status}");
    let count = messages.len().to_string();
    let consumed = appliance
        .through(&through)
        .args(["consume", "orders", "--from", "start"])
        .args(["--count", &count, "-o", "raw"])
        .output()
        .unwrap();
    assert!(consumed.status.success(), "{}", text(&consumed));
    assert!(consumed.stdout == messages.concat(), "through the bad network too");
    consume_all(&appliance, &messages);
    let [passed, lost, doubled, held] = proxy.stop();
    assert!(lost > 50 && doubled > 50 && held > 50, "{passed} {lost} {doubled} {held}");
    println!("{passed} datagrams: {lost} lost, {doubled} doubled, {held} held back");
}

#[test]
fn an_appliance_that_is_held_for_seconds_goes_on() {
    let appliance = Appliance::start(&["disk.size=64MiB", "disk.segment=1MiB"]);
    let (itch, messages) = flow(appliance.dir.path(), 2_000);
    appliance.run(&["stream", "create", "orders"]);
    let mut publisher = appliance
        .client(&["publish", "orders", "--itch", &itch, "--rate", "1000", "-q"])
        .spawn()
        .unwrap();
    for _ in 0..2 {
        thread::sleep(Duration::from_millis(300));
        let pid = appliance.pid().to_string();
        assert!(Command::new("kill").args(["-s", "STOP", &pid]).status().unwrap().success());
        thread::sleep(Duration::from_secs(3));
        assert!(Command::new("kill").args(["-s", "CONT", &pid]).status().unwrap().success());
    }
    assert!(wait(&mut publisher, Duration::from_secs(60)).success());
    consume_all(&appliance, &messages);
}

#[test]
fn a_consumer_that_stops_reading_holds_nobody_up() {
    let appliance = Appliance::start(&["disk.size=128MiB", "disk.segment=1MiB"]);
    let (itch, messages) = flow(appliance.dir.path(), 30_000);
    appliance.run(&["stream", "create", "orders"]);
    let count = messages.len().to_string();
    let mut stuck = appliance
        .client(&["consume", "orders", "--from", "start", "--follow", "--count", &count])
        .args(["-o", "raw"])
        .stdout(Stdio::from(fs::File::create(appliance.dir.path().join("stuck")).unwrap()))
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(200));
    signal(&stuck, "STOP");
    appliance.run(&["publish", "orders", "--itch", &itch, "-q"]);
    consume_all(&appliance, &messages);
    signal(&stuck, "CONT");
    assert!(wait(&mut stuck, Duration::from_secs(60)).success());
    let read = fs::read(appliance.dir.path().join("stuck")).unwrap();
    assert!(read == messages.concat(), "it catches up, from the disk");
}

/// What one of the rivals was promised: payloads by the producer's number.
type Promised = BTreeMap<u64, Vec<u8>>;

/// Publishes as `producer` until it is told to stop, or fenced: an error. What was acknowledged goes into
/// `promised`.
fn live_as(
    producer: ProducerId,
    server: SocketAddrV4,
    name: &str,
    stop: &AtomicBool,
    promised: &mut Promised,
) -> Result<(), blocking::Error> {
    let mut client =
        blocking::Client::connect(server, common::options(server, Publisher::Known(producer)))?;
    let stream = client.create_stream("orders")?.id;
    let mut offered = Promised::new();
    // Only a flag: it orders nothing but itself.
    while !stop.load(Ordering::Relaxed) {
        let payload = format!("{name}/{}", offered.len()).into_bytes();
        match client.offer(stream, &payload) {
            Ok(seq) => _ = offered.insert(seq, payload),
            // A window of them came while this one waited for room: they are taken below.
            Err(blocking::Error::Offer(OfferError::BackPressure(BackPressure::Completions))) => {}
            Err(error) => return Err(error),
        }
        client.turn()?;
        while let Some(done) = client.next_completion() {
            let payload = offered[&done.producer_seq].clone();
            assert!(promised.insert(done.producer_seq, payload).is_none(), "promised once");
        }
    }
    client.flush(|done| {
        promised.insert(done.producer_seq, offered[&done.producer_seq].clone());
    })?;
    client.close();
    Ok(())
}

#[test]
fn two_instances_of_one_producer_fence_each_other_and_never_mix() {
    let mut appliance = Appliance::start(&["disk.size=512MiB", "disk.segment=1MiB"]);
    let server = appliance.address.parse().unwrap();
    let mut first =
        blocking::Client::connect(server, common::options(server, Publisher::New)).unwrap();
    let stream = first.create_stream("orders").unwrap().id;
    first.publish(stream, b"first").unwrap();
    let producer = first.polled().producer().0;
    first.close();
    let stop = Arc::new(AtomicBool::new(false));
    let rivals = ["a", "b"].map(|name| {
        let stop = Arc::clone(&stop);
        thread::spawn(move || {
            let (mut promised, mut fenced) = (Promised::new(), 0);
            for life in 0.. {
                let name = format!("{name}{life}");
                match live_as(producer, server, &name, &stop, &mut promised) {
                    Ok(()) => break,
                    Err(error) => {
                        let says = error.to_string();
                        let by_rival = ["another instance", "another program publishes as"];
                        assert!(by_rival.iter().any(|rival| says.contains(rival)), "{says}");
                        fenced += 1;
                    }
                }
                thread::sleep(Duration::from_millis(20 + 7 * (life % 5)));
            }
            (promised, fenced)
        })
    });
    for _ in 0..8 {
        thread::sleep(Duration::from_millis(400));
        appliance.kill();
        appliance.restart();
    }
    thread::sleep(Duration::from_millis(400));
    stop.store(true, Ordering::Relaxed);
    let rivals = rivals.map(|rival| rival.join().unwrap());
    let mut reader =
        blocking::Client::connect(server, common::options(server, Publisher::No)).unwrap();
    let (_, end) = reader.subscribe(stream, StartFrom::Start).unwrap();
    let mut seen = Promised::new();
    for at in 1..end {
        let message = reader.next_message().unwrap();
        assert_eq!((message.sequence, message.producer_seq), (at, at), "one row, without holes");
        seen.insert(at, message.payload);
    }
    for (promised, fenced) in &rivals {
        println!(
            "{} promised, fenced {fenced} times; {} messages in all",
            promised.len(),
            seen.len()
        );
        assert!(!promised.is_empty() && *fenced > 0);
        for (seq, payload) in promised {
            assert_eq!(seen.get(seq), Some(payload), "what was promised as {seq}");
        }
    }
}

/// Resident memory of a process in kB.
fn resident_kb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn ten_thousand_sessions_opened_and_dropped_leave_nothing() {
    let appliance = Appliance::start(&["disk.size=64MiB", "disk.segment=1MiB"]);
    appliance.run(&["stream", "create", "orders"]);
    let server = appliance.address.parse().unwrap();
    let connect = |publisher| {
        let port = UdpPort::open("127.0.0.1:0".parse().unwrap(), 1472).unwrap();
        let mut options = common::options(server, publisher);
        options.window_messages = 16;
        options.window_bytes = 4096;
        let mut client = Client::new(port, HostClock::new(), server, options);
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            match client.poll(&mut |_| {}) {
                Ok(_) if client.is_connected() => return Some(client),
                Ok(_) => assert!(Instant::now() < deadline, "an answer comes, yes or no"),
                Err(_) => return None,
            }
        }
    };
    let mut before = 0;
    let (mut opened, mut refused) = (0, 0);
    for n in 0..10_000 {
        if n == 1_000 {
            before = resident_kb(appliance.pid());
        }
        match connect(Publisher::No) {
            // Most say goodbye; the others are found out by their silence.
            Some(client) if n % 10 != 0 => {
                opened += 1;
                client.close();
            }
            Some(_) => opened += 1,
            None => refused += 1,
        }
    }
    let after = resident_kb(appliance.pid());
    assert_eq!((opened, refused), (10_000, 0), "there was room for all of them");
    assert!(after <= before + 1024, "{before} kB became {after} kB");
    // Silent sessions end after ten seconds; then there is room for everybody again.
    thread::sleep(Duration::from_secs(11));
    let again = (0..200).filter(|_| connect(Publisher::No).is_some()).count();
    assert_eq!(again, 200, "all of them");
    println!("{opened} sessions opened; resident memory {before} kB, then {after} kB");
}

/// A block device that runs out under the log: sparse, on a file system with a limit.
struct Failing {
    mount: String,
    device: String,
}

impl Failing {
    fn new(dir: &Path) -> Option<Self> {
        let mount = dir.join("limited").to_str().unwrap().to_owned();
        fs::create_dir(&mount).unwrap();
        let done = |args: &[&str]| {
            let output = Command::new(args[0]).args(&args[1..]).output().ok()?;
            output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
        };
        done(&["mount", "-t", "tmpfs", "-o", "size=10m", "none", &mount])?;
        let file = format!("{mount}/backing");
        let mut failing = Self { mount, device: String::new() };
        done(&["truncate", "-s", "64M", &file])?;
        failing.device = done(&["losetup", "--find", "--show", &file])?.trim().to_owned();
        Some(failing)
    }

    fn mend(&self) {
        let status =
            Command::new("mount").args(["-o", "remount,size=100m", &self.mount]).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        if !self.device.is_empty() {
            let _ = Command::new("losetup").args(["--detach", &self.device]).status();
        }
        let _ = Command::new("umount").args(["--lazy", &self.mount]).status();
    }
}

#[test]
fn a_disk_that_fails_ends_acknowledging_and_loses_nothing() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let Some(failing) = Failing::new(dir.path()) else {
        println!("SKIPPED: no loop device or tmpfs may be made here");
        return;
    };
    let device = &failing.device;
    let formatted = Command::new(BUSLANE)
        .args(["log", "format", device, "--set", "disk.segment=1MiB", "--force", device])
        .output()
        .unwrap();
    assert!(formatted.status.success(), "{}", text(&formatted));
    let path = format!("disk.path={device}");
    // Below it is a tmpfs, which keeps nothing when the power goes: that is not what is tried here.
    let mut appliance =
        Appliance::start(&[&path, "disk.segment=1MiB", "disk.accept_volatile=true"]);
    let (itch, messages) = flow(dir.path(), 12_000);
    appliance.run(&["stream", "create", "orders"]);
    let publisher = appliance
        .client(&["publish", "orders", "--itch", &itch, "--rate", "2000", "-o", "json", "-q"])
        .output()
        .unwrap();
    assert_eq!(publisher.status.code(), Some(1), "{}", text(&publisher));
    let said = String::from_utf8_lossy(&publisher.stderr).into_owned();
    assert!(said.contains("disk failed"), "the publisher is told why: {said}");
    assert!(said.contains("acknowledged"), "and how far it came: {said}");
    let (before, _) = said.split_once(" messages are acknowledged").unwrap();
    let number = before.rsplit(|c: char| !c.is_ascii_digit() && c != ',').next().unwrap();
    let acknowledged: usize = number.replace(',', "").parse().unwrap();
    appliance.kill();
    failing.mend();
    appliance.restart();
    let all = appliance.run(&["consume", "orders", "--from", "start", "-o", "raw"]);
    assert!(messages.concat().starts_with(&all), "what is there is what was published");
    let least: usize = messages[..acknowledged].iter().map(Vec::len).sum();
    assert!(all.len() >= least, "{} bytes, {acknowledged} messages were acknowledged", all.len());
    assert!(!all.is_empty(), "some were acknowledged before the disk failed");
}
