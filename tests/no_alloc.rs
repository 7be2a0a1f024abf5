//! A shard allocates nothing after launch: it is run, loaded, under an allocator that does not let it.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]
#![allow(unsafe_code, reason = "an allocator that watches one thread")]
#![allow(clippy::disallowed_methods, reason = "the client runs in a thread of its own")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use buslane::access::{Access, Identity, Rights, SecretKey};
use buslane::client::polled::Client;
use buslane::client::{ClientKeys, ClientOptions, Event, Publisher, Request, Security, StartFrom};
use buslane::clock::{Clock, HostClock};
use buslane::disk::Disk;
use buslane::disk::ram::RamDisk;
use buslane::disk::uring::{UringConfig, UringDisk};
use buslane::ids::Lineage;
use buslane::log::Log;
use buslane::log::create::{FormatOptions, format};
use buslane::log::recovery::OpenOptions;
use buslane::metrics::recorder::Recorder;
use buslane::metrics::snapshot::exchange;
use buslane::port::Port;
use buslane::port::udp::UdpPort;
use buslane::seal::entropy::Entropy;
use buslane::shard::directory::directory;
use buslane::shard::observe::Observer;
use buslane::shard::{self, Handshaker, Shard, ShardOptions, Siblings, rings};

thread_local! {
    static FROZEN: Cell<bool> = const { Cell::new(false) };
}

/// Allocations that a frozen thread has made.
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Watching;

// SAFETY: every request is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if FROZEN.get() {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's duties are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the memory came from `alloc`, so from the system's allocator.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

const RING: usize = 4 << 20;
const MESSAGES: u64 = 60_000;

fn run<D: Disk + 'static>(mut disk: D, is_sealed: bool) {
    format(&mut disk, &FormatOptions { segment_bytes: 1 << 20, force: false }).unwrap();
    let options = OpenOptions { queue_depth: 4, ring_bytes: RING, unix_ns: 1, lineage: Lineage(9) };
    let (log, _) = Log::open(&mut disk, &options, &mut |_| {}).unwrap();
    let port = UdpPort::open("127.0.0.1:0".parse().unwrap(), 8972).unwrap();
    let server = port.local();
    let clock = HostClock::new();
    let mut shard = Shard::new(
        Box::new(port),
        Box::new(disk),
        clock.clone(),
        log,
        BTreeMap::new(),
        ShardOptions::default(),
    );
    let mut handshakes = is_sealed.then(|| {
        let (server, secret) = (SecretKey::generate(), SecretKey::generate());
        let keys = vec![secret.public()];
        let everybody = vec![Identity::new("client", keys, None, Rights::all())];
        let access = Arc::new(Access::new(everybody, Rights::none()).unwrap());
        let (end, other) = rings(Arc::clone(&access));
        let key = server.public();
        shard.secure(shard::Security { end, access: Arc::clone(&access), key, takes_plain: false });
        let keys = ClientKeys { server: key, secret, psk: None };
        (Handshaker::new(server, access, Entropy::system()), other, Arc::new(keys))
    });
    let security = handshakes
        .as_ref()
        .map_or(Security::Plain, |(_, _, keys)| Security::Sealed(Arc::clone(keys)));
    // Every turn with work is a stall, so that these are recorded too.
    let (reporter, mut collector) = exchange();
    shard.observe(Observer::new(reporter, Arc::new(Recorder::new(1, true))));
    let mut reports = 0;
    let (warm, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let (mut placer, directory) = directory(2);
    placer.add("elsewhere", 1).unwrap();
    let placer = Some(placer);
    shard.join(Siblings { shard: 0, shards: 2, directory, placer });
    thread::scope(|scope| {
        scope.spawn(|| {
            client(server, security, &warm);
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            // Creating the stream allocates its name; that is control, not the path.
            FROZEN.set(warm.load(Ordering::Relaxed));
            shard.turn();
            FROZEN.set(false);
            if let Some((handshaker, end, _)) = &mut handshakes {
                handshaker.turn(end, clock.now_ns());
            }
            while let Some(snapshot) = collector.take() {
                reports += 1;
                collector.give_back(snapshot);
            }
        }
    });
    assert!(reports > 0, "nobody observed it");
    assert_eq!(ALLOCATIONS.swap(0, Ordering::Relaxed), 0, "the shard allocated");
}

/// Publishes and consumes, and then replays all of it from the disk.
fn client(server: SocketAddrV4, security: Security, warm: &AtomicBool) {
    let port = UdpPort::open("127.0.0.1:0".parse().unwrap(), 8972).unwrap();
    let options = ClientOptions::new(Publisher::New, security);
    let mut client = Client::new(port, HostClock::new(), server, options);
    client.request(Request::CreateStreamOn("orders".into(), 0));
    let stream = loop {
        client.poll(&mut |_| {}).unwrap();
        if let Some(Event::Stream { info, .. }) = client.next_event() {
            break info.id;
        }
    };
    warm.store(true, Ordering::Relaxed);
    for from in [StartFrom::Start, StartFrom::Sequence(1)] {
        client.subscribe(stream, from, 4096);
        let publishing = from == StartFrom::Start;
        let (mut offered, mut completed, mut received) = (0, 0, 0);
        let start_ns = client.clock().now_ns();
        while received < MESSAGES || (publishing && completed < MESSAGES) {
            while publishing && offered < MESSAGES && client.offer(stream, &[7; 200]).is_ok() {
                offered += 1;
            }
            client.poll(&mut |_| received += 1).unwrap();
            while client.next_completion().is_some() {
                completed += 1;
            }
            thread::yield_now();
            assert!(client.clock().now_ns() - start_ns < 60_000_000_000, "stuck at {received}");
        }
    }
    // Looking up and placing streams of another shard.
    for name in ["elsewhere", "new"] {
        client.request(Request::CreateStreamOn(name.into(), 1));
        let start_ns = client.clock().now_ns();
        while !matches!(client.next_event(), Some(Event::Redirected { shard: 1, .. })) {
            client.poll(&mut |_| ()).unwrap();
            assert!(client.clock().now_ns() - start_ns < 60_000_000_000, "{name} is not answered");
        }
    }
}

#[test]
fn a_loaded_shard_allocates_nothing() {
    for is_sealed in [false, true] {
        run(RamDisk::new(64 << 20, Log::memory_bytes(RING), 8).unwrap(), is_sealed);
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = Path::new(dir.path()).join("disk");
    UringDisk::create(&path, 64 << 20).unwrap();
    let memory_bytes = Log::memory_bytes(RING);
    let config = UringConfig { path, memory_bytes, read_only: false };
    run(UringDisk::open(&config).unwrap(), true);
}
