//! Fuzz targets: whatever bytes come in, nothing panics, loops, or is taken for what it is not.
//!
//! A target is a function of bytes. The registry is driven by `buslane fuzz` (mutations of what the
//! simulator sends and writes, by seed) and by cargo-fuzz (`fuzz/`, guided by coverage).

mod keys;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;

use super::disk::{Crash, Device, SimDisk};
use super::oracle::Oracle;
use super::plan::Plan;
use super::server::{SERVER, Server, open};
use super::trace::Trace;
use crate::client::polled::Client;
use crate::client::{ClientOptions, Event, Publisher, Request, Security, StartFrom};
use crate::clock::ManualClock;
use crate::ids::{ConnId, StreamId};
use crate::itch::ItchReader;
use crate::itch::orders::OrderFlow;
use crate::limits::{BLOCK_BYTES, DATAGRAM_BYTES, RING_BYTES_MIN, STREAMS_MAX};
use crate::log::Log;
use crate::log::batch::{BatchView, SegmentKey};
use crate::log::inspect::{MessageRow, dump};
use crate::log::recovery::OpenError;
use crate::log::segment::{Place, SegmentHeader};
use crate::log::superblock::Superblock;
use crate::log::verify::verify;
use crate::port::memory::{Faults, MemoryNet, MemoryPort};
use crate::position::{LogOffset, SegmentNo};
use crate::random::Random;
use crate::seal::entropy::Entropy;

use crate::wire::datagram::{DatagramHeader, Reset, Versions};
use crate::wire::{DATAGRAM_HEADER_BYTES, Datagram, FromClient, FromServer, parse, samples};
use zerocopy::IntoBytes;

/// One target: its name, what is fed, and examples to start from.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Name, as `buslane fuzz` and cargo-fuzz call it.
    pub name: &'static str,
    /// Takes any bytes.
    pub run: fn(&[u8]),
    /// Examples that get past the first checks.
    pub examples: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: [Target; 10] = [
    Target { name: "datagram", run: datagram, examples: datagrams },
    Target { name: "server", run: server, examples: datagrams },
    Target { name: "client", run: client, examples: datagrams },
    Target { name: "superblock", run: superblock, examples: blocks },
    Target { name: "batch", run: batch, examples: blocks },
    Target { name: "image", run: image, examples: edits },
    Target { name: "profile", run: profile, examples: profiles },
    Target { name: "itch", run: itch, examples: itch_files },
    Target { name: "access", run: keys::access, examples: keys::access_files },
    Target { name: "handshake", run: keys::handshake, examples: keys::handshakes },
];

/// Feeds the target of this name; for cargo-fuzz.
///
/// # Panics
/// When there is none of this name, and when the target found something.
pub fn feed(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target's name");
    (target.run)(bytes);
}

/// Examples by target.
type Examples = BTreeMap<String, Vec<Vec<u8>>>;

/// A change of `bytes` or of an example of a target, for cargo-fuzz, every second time; how long it is.
///
/// # Panics
/// When there is no target of this name.
pub fn grow(name: &str, data: &mut [u8], len: usize, seed: u32) -> Option<usize> {
    thread_local! {
        static EXAMPLES: RefCell<Examples> = const { RefCell::new(BTreeMap::new()) };
    }
    if seed.is_multiple_of(2) {
        return None;
    }
    EXAMPLES.with_borrow_mut(|known| {
        let target = TARGETS.iter().find(|target| target.name == name).expect("a target's name");
        let examples = known.entry(name.to_owned()).or_insert_with(target.examples);
        examples.push(data[..len].to_vec());
        let changed = mutate(examples, &mut Random::new(u64::from(seed)));
        examples.pop();
        let len = changed.len().min(data.len());
        data[..len].copy_from_slice(&changed[..len]);
        Some(len)
    })
}

/// Changes an example: bits, bytes, lengths, pieces cut out, doubled, or of another example, and numbers set to
/// one of their edges.
pub fn mutate(examples: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let pick = |random: &mut Random| {
        let index = usize::try_from(random.below(examples.len() as u64)).expect("an index");
        examples[index].clone()
    };
    let mut bytes = pick(random);
    for _ in 0..=random.below(6) {
        let len = bytes.len() as u64;
        let at = usize::try_from(random.below(len.max(1))).expect("an index");
        let byte = random.next_u64().to_le_bytes()[0];
        match random.below(12) {
            0 | 1 if len > 0 => bytes[at] ^= 1 << (byte % 8),
            2 if len > 0 => bytes[at] = byte,
            3 if len > 0 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][usize::from(byte) % 5],
            4 => bytes.truncate(at),
            5 => bytes.insert(at, byte),
            6 => {
                let other = pick(random);
                let from = usize::try_from(random.below(other.len().max(1) as u64)).expect("index");
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from.min(other.len())..]);
            }
            8.. => set_to_an_edge(&mut bytes, random),
            _ => {
                let end = (at + usize::from(byte % 32)).min(bytes.len());
                let piece = bytes[at.min(end)..end].to_vec();
                bytes.splice(at.min(bytes.len())..at.min(bytes.len()), piece);
            }
        }
    }
    bytes
}

/// Sets a number that stands where numbers of ours stand, at a multiple of its size or of 4, to an edge.
fn set_to_an_edge(bytes: &mut [u8], random: &mut Random) {
    let pick = |random: &mut Random, count: usize| {
        usize::try_from(random.below(count as u64)).expect("an index")
    };
    let width = 1 << pick(random, 4);
    let step = width.min(4);
    let places = (bytes.len().saturating_sub(width) + step) / step;
    if bytes.len() < width {
        return;
    }
    let at = step * pick(random, places);
    let edges = samples::edges(width);
    // The ends of the range come more often than each of the powers of two between.
    let value = match random.below(3) {
        0 => edges[edges.len() - 1],
        1 => edges[pick(random, 3)],
        _ => edges[pick(random, edges.len())],
    };
    bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
}

/// A datagram, and every frame of it, as what either side says.
fn datagram(bytes: &[u8]) {
    let Ok(Datagram::Session { frames, .. }) = parse(bytes) else { return };
    for frame in frames.from_client().map_while(Result::ok) {
        if let FromClient::Publish(publish) = frame {
            assert_eq!(publish.messages().count() as u64, publish.count());
        }
    }
    for frame in frames.from_server().map_while(Result::ok) {
        if let FromServer::Data(data) = frame {
            let bytes: usize = data.records().map(|record| record.payload.len()).sum();
            assert!(bytes <= DATAGRAM_BYTES * 8, "records lie within their datagram");
        }
    }
}

/// A running server with one publisher and one consumer.
struct Scene {
    clock: ManualClock,
    net: MemoryNet,
    server: Server,
    oracle: Oracle,
    publisher: Client<MemoryPort, ManualClock>,
    consumer: Client<MemoryPort, ManualClock>,
    stream: StreamId,
    /// A client can go on no more.
    is_over: bool,
}

fn address(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)
}

impl Scene {
    fn new(keep: bool) -> Self {
        let clock = ManualClock::new();
        clock.advance_ns(1_000_000);
        let net = MemoryNet::new(clock.clone(), 1, Faults { delay_ns: 1_000, ..Faults::default() });
        net.keep_datagrams(keep);
        let plan = Plan { segments: 6, queue_depth: 4, ..Plan::quiet() };
        let mut server = Server::new(&plan, &net, &clock, &Trace::silent());
        let mut oracle = Oracle::default();
        let _ = server.start(&mut oracle).expect("a faultless start");
        let client = |port, publisher| {
            let options = ClientOptions {
                publisher,
                window_messages: 64,
                window_bytes: 64 << 10,
                dead_after_ns: u64::MAX,
                security: Security::Plain,
                entropy: Entropy::seeded(u64::from(port)),
            };
            Client::new(net.port(address(port), DATAGRAM_BYTES), clock.clone(), SERVER, options)
        };
        let mut publisher = client(101, Publisher::New);
        let consumer = client(102, Publisher::No);
        publisher.request(Request::CreateStream("orders".into()));
        let stream = StreamId(1);
        let is_over = false;
        let mut scene = Self { clock, net, server, oracle, publisher, consumer, stream, is_over };
        scene.turns(50);
        // The stream is there now.
        scene.consumer.request(Request::ListStreams);
        scene.consumer.subscribe(stream, StartFrom::Start, 16);
        scene.publish(3);
        scene.publish(2);
        scene
    }

    fn turns(&mut self, count: usize) {
        for _ in 0..count {
            self.clock.advance_ns(20_000);
            self.server.turn(&mut self.oracle).expect("no promise is broken");
            self.is_over |= self.publisher.poll(&mut |_| {}).is_err();
            self.is_over |= self.consumer.poll(&mut |_| {}).is_err();
            while self.publisher.next_completion().is_some() {}
            while let Some(Event::Stream { .. } | Event::Connected { .. }) =
                self.consumer.next_event()
            {}
        }
    }

    fn publish(&mut self, count: u8) {
        for n in 0..count {
            let _ = self.publisher.offer(self.stream, &[n; 40]);
        }
        self.turns(30);
    }
}

thread_local! {
    static SCENE: RefCell<Option<(Scene, u32)>> = const { RefCell::new(None) };
}

/// After so many inputs a scene is made anew.
const SCENE_INPUTS: u32 = 2_000;

/// Runs with a scene, and a number that no datagram of its sessions has had, as long as they are no longer than inputs.
fn with_scene(run: impl FnOnce(&mut Scene, u64)) {
    SCENE.with_borrow_mut(|slot| {
        let (scene, used) = slot.get_or_insert_with(|| {
            let mut scene = Scene::new(false);
            // Among what is said are sound trims.
            let streams = (1..).map(StreamId).take(STREAMS_MAX);
            streams.for_each(|stream| scene.oracle.trim_asked(stream, u64::MAX));
            (scene, 0)
        });
        run(scene, (1 << 24) + u64::from(*used));
        *used += 1;
        if *used == SCENE_INPUTS || scene.is_over {
            *slot = None;
        }
    });
}

/// The same datagram of the session of this number; one that belongs to none says it where it names one.
fn of_session(bytes: &[u8], conn_id: ConnId, packet_no: u64) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if let Some(place) = bytes.get_mut(8..16) {
        place.copy_from_slice(&conn_id.0.to_le_bytes());
    }
    if matches!(parse(&bytes), Ok(Datagram::Session { .. })) {
        let header = DatagramHeader::plain(conn_id, packet_no);
        bytes[..DATAGRAM_HEADER_BYTES].copy_from_slice(header.as_bytes());
    }
    bytes
}

/// A datagram to a running server, from a stranger, its publisher and its consumer: it goes on serving.
fn server(bytes: &[u8]) {
    with_scene(|scene, packet_no| {
        scene.net.inject(address(9), SERVER, bytes);
        for client in [&scene.publisher, &scene.consumer] {
            let bytes = of_session(bytes, client.session().1, packet_no);
            scene.net.inject(client.local(), SERVER, &bytes);
        }
        scene.turns(2);
        assert!(scene.server.serves(), "a datagram stops no server");
    });
}

/// A datagram to clients, as if the server had sent it.
fn client(bytes: &[u8]) {
    with_scene(|scene, packet_no| {
        for client in [&scene.publisher, &scene.consumer] {
            let bytes = of_session(bytes, client.session().0, packet_no);
            scene.net.inject(SERVER, client.local(), &bytes);
        }
        scene.turns(2);
    });
    // A forged word of the server may end a client, or make it deaf: the next one has another.
    SCENE.with_borrow_mut(|slot| *slot = None);
}

/// Datagrams of each kind kept, of those that a server and its clients say to each other.
const KEPT_A_KIND: usize = 4;

/// A frame of every kind, and what a server and its clients say to each other.
fn datagrams() -> Vec<Vec<u8>> {
    let mut scene = Scene::new(true);
    for round in 1..8 {
        scene.publish(round);
    }
    let (conn_id, _) = scene.publisher.session();
    let producer_id = scene.publisher.producer().0.0;
    let samples = samples::all(scene.stream.0, producer_id);
    let mut all: Vec<_> = samples.iter().map(|sample| sample.datagram(conn_id)).collect();
    let (id, tag) = (ConnId(7), [1; 16]);
    all.push(Reset::new(id, tag).as_bytes().to_vec());
    all.push(Versions::new(7).as_bytes().to_vec());
    let mut kept = BTreeMap::new();
    for datagram in scene.net.kept() {
        let kinds =
            [datagram.first(), datagram.get(DATAGRAM_HEADER_BYTES)].map(Option::<&u8>::copied);
        let count: &mut usize = kept.entry(kinds).or_default();
        *count += 1;
        if *count <= KEPT_A_KIND {
            all.push(datagram);
        }
    }
    all
}

/// A block as each of the four copies of a superblock, and as a segment's header.
fn superblock(bytes: &[u8]) {
    let mut block = [0; BLOCK_BYTES];
    let len = bytes.len().min(BLOCK_BYTES);
    block[..len].copy_from_slice(&bytes[..len]);
    let copies: Vec<_> = (0..4).map(|copy| Superblock::check(&block, copy)).collect();
    assert!(copies.iter().filter(|copy| copy.is_ok()).count() <= 1, "a copy belongs in one place");
    if let Some(Ok(found)) = copies.iter().find(|copy| copy.is_ok()) {
        for place in 0..4 {
            let _ = SegmentHeader::check(&block, found, Place::new(place));
        }
    }
}

/// Bytes as a batch of a segment that is known.
fn batch(bytes: &[u8]) {
    for seg_no in 1..3 {
        let log_off = LogOffset::new(seg_no << 20);
        let seg_no = SegmentNo::new(seg_no);
        let key = SegmentKey { log_tag: 1, epoch: 1, seg_no, salt: 7, chain_salt: 9 };
        if let Ok(batch) = BatchView::check(bytes, &key, log_off) {
            for record in batch.records() {
                assert!(record.payload.len() <= bytes.len(), "records lie within their batch");
            }
        }
        let _ = BatchView::peek(bytes, &key, log_off);
    }
}

/// A log with messages, and what a dump of it shows.
struct Written {
    device: Device,
    rows: Vec<MessageRow>,
}

thread_local! {
    static WRITTEN: Written = written();
}

fn written() -> Written {
    let mut scene = Scene::new(false);
    for round in 0..60 {
        scene.publish(1 + round % 9);
        if round % 20 == 19 {
            scene.server.crash(Crash::Kill);
            let _ = scene.server.start(&mut scene.oracle).expect("a faultless start");
            scene.turns(400);
        }
    }
    scene.turns(400);
    scene.server.crash(Crash::Kill);
    let device = scene.server.device.borrow().fork();
    let rows = rows_of(&Rc::new(RefCell::new(device.fork()))).expect("a sound log");
    assert!(rows.len() > 150, "the example holds messages");
    Written { device, rows }
}

fn rows_of(device: &Rc<RefCell<Device>>) -> Option<Vec<MessageRow>> {
    let mut disk = SimDisk::open(device, Log::memory_bytes(RING_BYTES_MIN)).expect("memory");
    let mut rows = Vec::new();
    let dumped = dump(&mut disk, &mut |row| {
        rows.extend(row.messages);
        true
    });
    dumped.is_ok().then_some(rows)
}

/// Edits of a whole disk: it is opened, verified and dumped, or refused, and shows nothing that was not
/// written.
fn image(bytes: &[u8]) {
    WRITTEN.with(|written| {
        let device = Rc::new(RefCell::new(written.device.fork()));
        for edit in bytes.chunks_exact(6).take(16) {
            device.borrow_mut().edit(edit.try_into().expect("6 bytes"));
        }
        if let Some(rows) = rows_of(&device) {
            // Where acknowledged data is damaged a dump leaves it out and goes on behind it.
            let mut all = written.rows.iter();
            let only_written = rows.iter().all(|row| all.any(|other| other == row));
            assert!(only_written, "the log shows what was never written to it");
        }
        let mut disk = SimDisk::open(&device, Log::memory_bytes(RING_BYTES_MIN)).expect("memory");
        let verified = verify(&mut disk, &mut |_, _| {});
        let opened = open(&device, 4, &ManualClock::new(), &mut BTreeMap::new());
        if let (Err(OpenError::Damaged(damaged)), Ok(report)) = (opened, verified) {
            assert!(report.is_damaged(), "verify finds nothing where opening says: {damaged}");
        }
    });
}

/// Edits to start from: none, and one of each kind.
fn edits() -> Vec<Vec<u8>> {
    let mut random = Random::new(3);
    let mut all = vec![Vec::new()];
    for kind in 0..24u8 {
        let bytes = random.next_u64().to_le_bytes();
        all.push(vec![bytes[0], bytes[1], kind % 6, bytes[2], bytes[3], bytes[4]]);
    }
    all
}

/// Blocks of a written log.
fn blocks() -> Vec<Vec<u8>> {
    WRITTEN.with(|written| written.device.some_blocks(64))
}

/// Text as a profile.
fn profile(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = crate::profile::file::read("fuzz", text, &[]);
    }
}

fn profiles() -> Vec<Vec<u8>> {
    crate::profile::SHIPPED.iter().map(|(_, text)| text.as_bytes().to_vec()).collect()
}

/// Bytes as an ITCH file.
fn itch(bytes: &[u8]) {
    let mut reader = ItchReader::new(bytes);
    let mut last = 0;
    while let Ok(Some(_)) = reader.next_message() {
        assert!(reader.offset() > last, "each message moves on");
        last = reader.offset();
    }
}

#[allow(clippy::big_endian_bytes, reason = "ITCH is big-endian")]
fn itch_files() -> Vec<Vec<u8>> {
    let mut flow = OrderFlow::new(200, 1);
    let mut file = Vec::new();
    while let Some(message) = flow.next_message() {
        let len = u16::try_from(message.len()).expect("at most 50 bytes");
        file.extend_from_slice(&len.to_be_bytes());
        file.extend_from_slice(message);
    }
    vec![file[..64].to_vec(), file]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Kind, Side};

    #[test]
    fn every_frame_occurs_in_what_sessions_are_fuzzed_with() {
        for name in ["datagram", "server", "client"] {
            let target = TARGETS.iter().find(|target| target.name == name).unwrap();
            let (mut kinds, mut of_no_session) = (Vec::new(), Vec::new());
            for datagram in (target.examples)() {
                let Ok(Datagram::Session { frames, .. }) = parse(&datagram) else {
                    of_no_session.push(datagram[0]);
                    continue;
                };
                let kind = Kind::from_code(datagram[DATAGRAM_HEADER_BYTES]).unwrap();
                let is_whole = if kind.is_said_by(Side::Client) {
                    frames.from_client().all(|frame| frame.is_ok())
                } else {
                    frames.from_server().all(|frame| frame.is_ok())
                };
                assert!(is_whole, "{datagram:?}");
                kinds.push(kind as u8);
            }
            of_no_session.sort_unstable();
            of_no_session.dedup();
            assert_eq!(of_no_session, [0x05, 0x11, 0x12, 0x13, 0x14], "{name}");
            kinds.sort_unstable();
            kinds.dedup();
            let all: Vec<u8> = samples::all(1, 1).iter().map(|sample| sample.kind as u8).collect();
            assert_eq!(kinds, all, "{name}");
        }
        // And in a session each of them is said by somebody, but for what needs a fault.
        let mut scene = Scene::new(true);
        scene.publish(3);
        let said = |kind: Kind| {
            let first = |bytes: &Vec<u8>| bytes.get(DATAGRAM_HEADER_BYTES) == Some(&(kind as u8));
            scene.net.kept().iter().any(first)
        };
        for kind in [Kind::Data, Kind::Subscribe, Kind::Subscribed, Kind::Status, Kind::Ack] {
            assert!(said(kind), "{kind:?}");
        }
    }

    #[test]
    fn numbers_are_set_to_their_edges_often() {
        let mut random = Random::new(1);
        let probe = samples::all(1, 1).into_iter().find(|sample| sample.kind == Kind::Probe);
        let examples = [probe.unwrap().datagram(ConnId(1))];
        let hits = (0..10_000)
            .map(|_| mutate(&examples, &mut random))
            .filter(|bytes| bytes.len() == 36 && bytes[28..] == u64::MAX.to_le_bytes())
            .count();
        assert!(hits > 20, "{hits} of 10,000 say the largest number there is");
    }

    #[test]
    fn every_target_takes_its_examples_and_changes_of_them() {
        for target in &TARGETS {
            let examples = (target.examples)();
            assert!(!examples.is_empty(), "{}", target.name);
            let mut random = Random::new(1);
            examples.iter().take(50).for_each(|example| (target.run)(example));
            for _ in 0..100 {
                (target.run)(&mutate(&examples, &mut random));
            }
        }
    }
}
