//! The engine without devices, piece by piece: codec, checksum, a round trip through a shard's turn, and as many
//! shards side by side as an appliance may have.
//!
//! `cargo bench` runs all; `cargo bench -- shards/` the last. One thread does everything, so the figures are cycles
//! spent, not latency: for that there is `buslane bench`, which prints the floor beside it.
#![allow(clippy::unwrap_used, reason = "a benchmark ends where something fails")]
#![allow(clippy::disallowed_methods, reason = "it measures time")]
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

use buslane::client::polled::Client;
use buslane::client::{ClientOptions, Event, Publisher, Request};
use buslane::clock::HostClock;
use buslane::disk::Disk;
use buslane::disk::ram::RamDisk;
use buslane::disk::share::{Extent, Share};
use buslane::ids::{ConnId, Lineage, Peer, StreamId};
use buslane::limits::RECEIVE_BURST;
use buslane::log::Log;
use buslane::log::create::{FormatOptions, format};
use buslane::log::recovery::OpenOptions;
use buslane::port::{Port, PortCounters};
use buslane::shard::{Shard, ShardOptions};
use buslane::wire::frame::Kind;
use buslane::wire::publish::{MESSAGE_HEAD_BYTES, MessageHead, PUBLISH_HEAD_BYTES, PublishHead};
use buslane::wire::record::crc32c;
use buslane::wire::{Datagram, DatagramWriter, FromClient, parse};
use zerocopy::{FromZeros, IntoBytes};

const PAYLOAD: [u8; 128] = [7; 128];
const DATAGRAM: usize = 8972;
const RING: usize = 2 << 20;
const DISK: u64 = 64 << 20;
/// Messages of a round, in flight together.
const WINDOW: u64 = 64;
/// Rounds on one log, which then is thrown away before it is full.
const ROUNDS: u64 = 3_000;

/// Datagrams on their way, and buffers for more.
#[derive(Default)]
struct Way {
    sent: VecDeque<(usize, Vec<u8>)>,
    spare: Vec<Vec<u8>>,
}

/// One end of a wire in memory: a datagram costs a copy and no system call.
struct WirePort {
    local: SocketAddrV4,
    out: Rc<RefCell<Way>>,
    back: Rc<RefCell<Way>>,
    received: Vec<(usize, Vec<u8>)>,
    reserved: Option<Vec<u8>>,
    far: SocketAddrV4,
}

fn wire() -> (WirePort, WirePort) {
    let (a, b) = (Rc::<RefCell<Way>>::default(), Rc::<RefCell<Way>>::default());
    let [server, client] = [1, 2].map(|port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
    let end = |local, far, out: &Rc<_>, back: &Rc<_>| WirePort {
        local,
        out: Rc::clone(out),
        back: Rc::clone(back),
        received: Vec::with_capacity(RECEIVE_BURST),
        reserved: None,
        far,
    };
    (end(server, client, &a, &b), end(client, server, &b, &a))
}

impl Port for WirePort {
    fn receive(&mut self) -> usize {
        let mut back = self.back.borrow_mut();
        back.spare.extend(self.received.drain(..).map(|(_, buffer)| buffer));
        let count = back.sent.len().min(RECEIVE_BURST);
        self.received.extend(back.sent.drain(..count));
        count
    }

    fn datagram(&mut self, index: usize) -> (Peer, &mut [u8]) {
        let (len, buffer) = &mut self.received[index];
        (Peer::ip_only(self.far), &mut buffer[..*len])
    }

    fn reserve(&mut self, _peer: Peer) -> Option<&mut [u8]> {
        let buffer = self.reserved.take().or_else(|| self.out.borrow_mut().spare.pop());
        Some(self.reserved.insert(buffer.unwrap_or_else(|| vec![0; DATAGRAM])))
    }

    fn commit(&mut self, len: usize) {
        let buffer = self.reserved.take().unwrap();
        self.out.borrow_mut().sent.push_back((len, buffer));
    }

    fn flush(&mut self) -> usize {
        0
    }

    fn resolve(&mut self, addr: SocketAddrV4) -> Option<Peer> {
        Some(Peer::ip_only(addr))
    }

    fn local(&self) -> SocketAddrV4 {
        self.local
    }

    fn datagram_bytes(&self) -> usize {
        DATAGRAM
    }

    fn counters(&self) -> PortCounters {
        PortCounters::default()
    }

    fn describe(&self) -> String {
        "a wire in memory".to_owned()
    }
}

/// A shard on a log in memory, and a publisher.
struct Scene {
    shard: Shard<HostClock>,
    client: Client<WirePort, HostClock>,
    stream: StreamId,
}

impl Scene {
    fn new(clock: &HostClock) -> Self {
        let mut disk = RamDisk::new(DISK, Log::memory_bytes(RING), 8).unwrap();
        format(&mut disk, &FormatOptions { segment_bytes: 4 << 20, force: false }).unwrap();
        let options =
            OpenOptions { queue_depth: 8, ring_bytes: RING, unix_ns: 1, lineage: Lineage(9) };
        let (log, _) = Log::open(&mut disk, &options, &mut |_| {}).unwrap();
        let (server, client) = wire();
        let address = server.local();
        let bytes = disk.info().bytes;
        let (server, disk) = (Box::new(server), Box::new(Share::new(disk, Extent::nth(0, bytes))));
        let shard_options = ShardOptions::default();
        let mut shard =
            Shard::new(server, disk, clock.clone(), log, BTreeMap::new(), shard_options);
        // It is not looked after while others are made.
        let options =
            ClientOptions { dead_after_ns: u64::MAX, ..ClientOptions::plain(Publisher::New) };
        let mut client = Client::new(client, clock.clone(), address, options);
        client.request(Request::CreateStream("orders".into()));
        let stream = loop {
            client.poll(&mut |_| {}).unwrap();
            shard.turn();
            if let Some(Event::Stream { info, .. }) = client.next_event() {
                break info.id;
            }
        };
        Self { shard, client, stream }
    }

    /// Publishes so many messages at once, and turns until all are durable.
    fn round(&mut self, count: u64) {
        for _ in 0..count {
            self.client.offer(self.stream, &PAYLOAD).unwrap();
        }
        let mut durable = 0;
        while durable < count {
            self.client.poll(&mut |_| {}).unwrap();
            self.shard.turn();
            while self.client.next_completion().is_some() {
                durable += 1;
            }
        }
    }
}

/// Shards side by side, renewed before their logs are full.
struct Appliance {
    clock: HostClock,
    scenes: Vec<Scene>,
    left: u64,
}

impl Appliance {
    fn new(shards: usize) -> Self {
        Self::with(HostClock::new(), shards)
    }

    /// A clock is compared with the system's for a while when it is made: there is one.
    fn with(clock: HostClock, shards: usize) -> Self {
        let scenes = (0..shards).map(|_| Scene::new(&clock)).collect();
        Self { clock, scenes, left: ROUNDS }
    }

    /// Time of so many rounds on each shard, one shard after the other.
    fn rounds(&mut self, count: u64, iterations: u64) -> Duration {
        let (mut time, mut todo) = (Duration::ZERO, iterations);
        while todo > 0 {
            if self.left == 0 {
                *self = Self::with(self.clock.clone(), self.scenes.len());
            }
            let now = todo.min(self.left);
            let begin = Instant::now();
            for _ in 0..now {
                for scene in &mut self.scenes {
                    scene.round(count);
                }
            }
            time += begin.elapsed();
            (todo, self.left) = (todo - now, self.left - now);
        }
        time
    }
}

/// As many messages as fit, in one frame.
fn write(buffer: &mut [u8]) -> usize {
    let mut writer = DatagramWriter::new(buffer, ConnId(1), 1);
    let each = MESSAGE_HEAD_BYTES + PAYLOAD.len();
    let count = (writer.room() - PUBLISH_HEAD_BYTES) / each;
    let mut head = PublishHead::new_zeroed();
    (head.count, head.first_seq) = (u16::try_from(count).unwrap().into(), 1.into());
    let mut message = MessageHead::new_zeroed();
    message.len = u16::try_from(PAYLOAD.len()).unwrap().into();
    writer.begin(Kind::Publish);
    writer.extend(head.as_bytes());
    for _ in 0..count {
        writer.extend(message.as_bytes());
        writer.extend(&PAYLOAD);
    }
    writer.end();
    writer.len()
}

/// Messages of a datagram.
fn walk(datagram: &[u8]) -> u64 {
    let Ok(Datagram::Session { frames, .. }) = parse(datagram) else { return 0 };
    let count = |frame| match frame {
        Ok(FromClient::Publish(publish)) => publish.messages().count() as u64,
        Ok(_) | Err(_) => 0,
    };
    frames.from_client().map(count).sum()
}

fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    let mut buffer = vec![0; DATAGRAM];
    let len = write(&mut buffer);
    let messages = walk(&buffer[..len]);
    group.throughput(Throughput::Elements(messages));
    group.bench_function("write a datagram of PUBLISH", |b| {
        b.iter(|| write(black_box(&mut buffer)));
    });
    group.bench_function("walk a datagram of PUBLISH", |b| {
        b.iter(|| walk(black_box(&buffer[..len])));
    });
    for bytes in [128, 4096] {
        let payload = vec![7; bytes];
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_with_input(BenchmarkId::new("crc32c", bytes), &payload, |b, payload| {
            b.iter(|| crc32c(black_box(payload), &[]));
        });
    }
    group.finish();
}

fn turn(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("turn");
    for count in [1, WINDOW] {
        group.throughput(Throughput::Elements(count));
        let mut appliance = Appliance::new(1);
        group.bench_function(BenchmarkId::new("publish to durable", count), |b| {
            b.iter_custom(|iterations| appliance.rounds(count, iterations));
        });
    }
    group.finish();
}

/// Nothing is shared, so a message costs what it costs however many shards there are; but here one core's caches serve
/// them all, which on as many cores they do not.
fn shards(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("shards");
    group.sample_size(10);
    for shards in [1, 2, 4, 8, 16, 32, 64] {
        group.throughput(Throughput::Elements(WINDOW * shards as u64));
        let mut appliance = Appliance::new(shards);
        group.bench_function(BenchmarkId::from_parameter(shards), |b| {
            b.iter_custom(|iterations| appliance.rounds(WINDOW, iterations));
        });
    }
    group.finish();
}

criterion_group!(benches, codec, turn, shards);
criterion_main!(benches);
