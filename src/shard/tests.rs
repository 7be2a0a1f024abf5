//! Clients and a shard over a network that loses, doubles, reorders and damages, and a server that is
//! thrown away at any moment.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use zerocopy::{FromZeros, IntoBytes};

use super::*;
use crate::client::polled::Client;
use crate::client::{ClientOptions, Event, Publisher, Request, StartFrom};
use crate::clock::ManualClock;
use crate::disk::ram::RamDisk;
use crate::ids::{ProducerId, StreamId};
use crate::log::create::{FormatOptions, format};
use crate::log::recovery::{OpenOptions, RecoveredMessage};
use crate::metrics::Counter;
use crate::port::memory::{Faults, MemoryNet, MemoryPort};
use crate::random::Random;
use crate::wire::DatagramWriter;
use crate::wire::frame::Kind;
use crate::wire::publish::AckHead;
use crate::wire::publish::PublishState;

const RING: usize = 4 << 20;

pub(super) fn address(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)
}

pub(super) fn new_disk(bytes: u64) -> RamDisk {
    let mut disk = RamDisk::new(bytes, Log::memory_bytes(RING), 8).unwrap();
    format(&mut disk, &FormatOptions { segment_bytes: 1 << 20, force: false }).unwrap();
    disk
}

pub(super) struct World {
    pub(super) clock: ManualClock,
    pub(super) net: MemoryNet,
    pub(super) shard: Option<Shard<MemoryPort, RamDisk, ManualClock>>,
    pub(super) clients: Vec<Client<MemoryPort, ManualClock>>,
    pub(super) received: Vec<Vec<(u64, u64, Vec<u8>)>>,
    next_port: u16,
    /// UDP payload of the server's port.
    pub(super) datagram_bytes: usize,
}

impl World {
    pub(super) fn new(seed: u64, faults: Faults) -> Self {
        let clock = ManualClock::new();
        clock.advance_ns(1_000_000);
        let net = MemoryNet::new(clock.clone(), seed, faults);
        let mut world = Self {
            clock,
            net,
            shard: None,
            clients: Vec::new(),
            received: Vec::new(),
            next_port: 100,
            datagram_bytes: 1472,
        };
        world.start(new_disk(64 << 20));
        world
    }

    pub(super) fn start(&mut self, mut disk: RamDisk) {
        let mut runs: BTreeMap<u64, Vec<Run>> = BTreeMap::new();
        let options =
            OpenOptions { queue_depth: 4, ring_bytes: RING, unix_ns: self.clock.unix_ns() };
        let (log, _) = Log::open(&mut disk, &options, &mut |message: &RecoveredMessage| {
            super::recovered_run(&mut runs, message);
        })
        .unwrap();
        let port = self.net.port(address(1), self.datagram_bytes);
        let options = ShardOptions::default();
        self.shard = Some(Shard::new(port, disk, self.clock.clone(), log, runs, options));
    }

    /// The process is gone; what the disk has, it keeps. Writes in flight may or may not have landed.
    pub(super) fn crash(&mut self) {
        let Shard { stations, port, .. } = self.shard.take().unwrap();
        drop(port);
        self.start(stations.disk.crash());
    }

    pub(super) fn client(&mut self, publisher: Publisher) -> usize {
        self.client_of(publisher, 1472)
    }

    /// A client whose datagrams have this size.
    pub(super) fn client_of(&mut self, publisher: Publisher, datagram_bytes: usize) -> usize {
        let index = self.clients.len();
        self.next_port += 1;
        let port = self.net.port(address(self.next_port), datagram_bytes);
        let options = ClientOptions {
            publisher,
            window_messages: 1024,
            window_bytes: 1 << 20,
            dead_after_ns: u64::MAX,
            nonce: u64::from(self.next_port) * 1_000,
        };
        self.clients.push(Client::new(port, self.clock.clone(), address(1), options));
        self.received.push(Vec::new());
        index
    }

    pub(super) fn turn(&mut self) {
        self.clock.advance_ns(10_000);
        if let Some(shard) = &mut self.shard {
            shard.turn();
        }
        for (client, received) in self.clients.iter_mut().zip(&mut self.received) {
            client
                .poll(&mut |record| {
                    let header = record.header;
                    let row =
                        (header.sequence.get(), header.producer_seq.get(), record.payload.to_vec());
                    received.push(row);
                })
                .unwrap();
        }
    }

    pub(super) fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        for _ in 0..2_000_000 {
            if done(self) {
                return;
            }
            self.turn();
        }
        panic!("never came true: {what}");
    }

    pub(super) fn create(&mut self, client: usize, name: &str) -> StreamId {
        let asked = self.clients[client].request(Request::CreateStream(name.into()));
        let mut found = None;
        self.until("the stream is made", |world| {
            while let Some(event) = world.clients[client].next_event() {
                if let Event::Stream { request, info } = event {
                    assert_eq!(request, asked);
                    found = Some(info.id);
                }
            }
            found.is_some()
        });
        found.unwrap()
    }
}

/// Publishes and consumes under faults, with crashes; everything arrives once and in order.
fn exactly_once(seed: u64, faults: Faults, crashes: usize) {
    let mut random = Random::new(seed ^ 0xc0ffee);
    let mut world = World::new(seed, faults);
    let publisher = world.client(Publisher::New);
    let consumer = world.client(Publisher::No);
    let stream = world.create(publisher, "orders");
    world.clients[consumer].subscribe(stream, StartFrom::Start, 256);
    let total = 2_000u64;
    let (mut offered, mut completed, mut crashed) = (0u64, Vec::new(), 0);
    world.until("all is acknowledged and consumed", |world| {
        if random.one_of_thousand(300) {
            for _ in 0..random.below(20) {
                let payload = vec![
                    u8::try_from(offered % 251).unwrap();
                    20 + usize::try_from(random.below(300)).unwrap()
                ];
                if offered < total && world.clients[publisher].offer(stream, &payload).is_ok() {
                    offered += 1;
                }
            }
        }
        if crashed < crashes && offered > total * (crashed as u64 + 1) / (crashes as u64 + 1) {
            world.crash();
            crashed += 1;
        }
        while let Some(completion) = world.clients[publisher].next_completion() {
            completed.push(completion);
        }
        completed.len() as u64 == total && world.received[consumer].len() as u64 == total
    });
    for (index, completion) in (1u64..).zip(&completed) {
        assert_eq!(completion.producer_seq, index, "seed {seed}: completions are in order");
        if let Some(sequence) = completion.receipt.sequence {
            assert_eq!(sequence.get(), index, "seed {seed}: one publisher, so the numbers agree");
        }
    }
    for (index, (sequence, producer_seq, payload)) in (1u64..).zip(&world.received[consumer]) {
        assert_eq!((*sequence, *producer_seq), (index, index), "seed {seed}");
        assert!(payload.iter().all(|&byte| u64::from(byte) == (index - 1) % 251), "seed {seed}");
    }
    let known = completed.iter().filter(|completion| completion.receipt.sequence.is_some()).count();
    assert!(known > 0, "receipts say sequences");
    if crashes == 0 {
        assert_eq!(known as u64, total, "without a crash every receipt says its sequence");
    }
}

#[test]
fn a_quiet_network_delivers_in_order() {
    exactly_once(1, Faults { delay_ns: 20_000, ..Faults::default() }, 0);
}

#[test]
fn loss_duplication_and_reordering_lose_nothing() {
    for seed in 0..8 {
        let faults = Faults {
            loss: 40 * seed,
            duplication: 60 * seed,
            reordering: 300,
            delay_ns: 20_000,
            ..Faults::default()
        };
        exactly_once(seed, faults, 0);
    }
}

#[test]
fn damaged_datagrams_are_as_good_as_lost() {
    for seed in 20..24 {
        let faults = Faults {
            corruption: 200,
            payload_flip: 200,
            reordering: 100,
            delay_ns: 20_000,
            ..Faults::default()
        };
        exactly_once(seed, faults, 0);
    }
}

#[test]
fn a_server_that_is_killed_again_and_again_loses_nothing() {
    for seed in 40..46 {
        let faults = Faults {
            loss: 20,
            duplication: 50,
            reordering: 100,
            delay_ns: 20_000,
            ..Faults::default()
        };
        exactly_once(seed, faults, 10);
    }
}

#[test]
fn random_bytes_change_nothing() {
    let mut world = World::new(3, Faults { delay_ns: 1_000, ..Faults::default() });
    let client = world.client(Publisher::New);
    let stream = world.create(client, "orders");
    let mut random = Random::new(5);
    for round in 0..20_000u64 {
        let mut bytes: Vec<u8> =
            (0..random.below(200)).map(|_| random.next_u64().to_le_bytes()[0]).collect();
        // Half of them get past the first checks: our version, a live session, a kind that exists.
        if round % 2 == 0 && bytes.len() > 20 {
            bytes[..4].copy_from_slice(&[0x10, 0, 0, 0]);
            bytes[16] = u8::try_from(round % 23).unwrap();
            bytes[17] = 0;
            let len = u16::try_from(bytes.len() - 20).unwrap();
            bytes[18..20].copy_from_slice(&len.to_le_bytes());
        }
        world.net.inject(address(9), address(1), &bytes);
        if round % 64 == 0 {
            world.turn();
        }
    }
    let shard = world.shard.as_ref().unwrap();
    assert!(shard.counters().get(Counter::DroppedMalformed) > 0);
    assert_eq!(shard.counters().get(Counter::MessagesAccepted), 0);
    let seq = world.clients[client].offer(stream, b"still here").unwrap();
    world.until("the message is durable", |world| {
        world.clients[client].next_completion().is_some_and(|done| done.producer_seq == seq)
    });
}

#[test]
fn a_second_instance_fences_the_first() {
    let mut world = World::new(4, Faults { delay_ns: 1_000, ..Faults::default() });
    let first = world.client(Publisher::New);
    let stream = world.create(first, "orders");
    world.clients[first].offer(stream, b"one").unwrap();
    world.until("the first is acknowledged", |world| {
        world.clients[first].next_completion().is_some()
    });
    let id = world.clients[first].producer().0;
    assert_ne!(id, ProducerId(0));
    let old = world.clients.remove(first);
    world.received.remove(first);
    let second = world.client(Publisher::Known(id));
    world.until("the second is connected", |world| world.clients[second].is_connected());
    assert_eq!(world.clients[second].next_seq(), 2, "it goes on behind what is durable");
    let mut old = old;
    let mut fenced = None;
    for _ in 0..1_000 {
        world.clock.advance_ns(10_000_000);
        world.shard.as_mut().unwrap().turn();
        if let Err(error) = old.poll(&mut |_| {}) {
            fenced = Some(error);
            break;
        }
        let _ = old.offer(stream, b"zombie");
    }
    let fenced = fenced.expect("the first instance is told").to_string();
    assert!(fenced.contains("another instance"), "{fenced}");
}

#[test]
fn a_log_that_a_registration_finds_full_is_full_for_all() {
    let mut world = World::new(11, Faults::default());
    drop(world.shard.take());
    world.start(new_disk(16 << 20));
    let idle = world.client(Publisher::New);
    let stream = world.create(idle, "orders");
    world.clients[idle].offer(stream, b"kept").unwrap();
    world.until("it is kept", |world| world.clients[idle].next_completion().is_some());
    // Messages take all that is not kept back; what is left of the last segment, registrations take.
    world.until("little is left", |world| {
        let _ = world.clients[idle].offer(stream, &[7; 1_000]);
        while world.clients[idle].next_completion().is_some() {}
        let (_, free) = world.shard.as_ref().unwrap().log().segments();
        free == crate::limits::RESERVED_SEGMENTS
    });
    let mut publisher = Publisher::New;
    let is_full = |world: &World| world.shard.as_ref().unwrap().condition() == Condition::Full;
    for _ in 0..10_000 {
        let instance = world.client(publisher);
        let connects = |world: &mut World| world.clients[instance].is_connected() || is_full(world);
        world.until("it registers, or finds the log full", connects);
        if is_full(&world) {
            break;
        }
        // The next one takes over from it: each registration is a block of the log.
        world.received.pop();
        publisher = Publisher::Known(world.clients.pop().unwrap().producer().0);
    }
    assert!(is_full(&world), "a log has an end");
    world.until("the idle publisher is told", |world| {
        world.clients[idle].publish_state() == PublishState::NoSpace
    });
}

#[test]
fn sixteen_subscribers_replay_and_tail_without_a_gap() {
    let mut world = World::new(6, Faults { delay_ns: 5_000, loss: 30, ..Faults::default() });
    let publisher = world.client(Publisher::New);
    let stream = world.create(publisher, "orders");
    let total = 6_000u64;
    let (mut offered, mut done) = (0u64, 0u64);
    let mut consumers = Vec::new();
    world.until("all is consumed by all", |world| {
        while offered < total && world.clients[publisher].offer(stream, &[7; 1000]).is_ok() {
            offered += 1;
        }
        while world.clients[publisher].next_completion().is_some() {
            done += 1;
        }
        // The ring holds 4 MiB: the late ones start on the disk and end in memory.
        if consumers.len() < 16 && done > total * consumers.len() as u64 / 16 {
            let consumer = world.client(Publisher::No);
            world.clients[consumer].subscribe(stream, StartFrom::Start, 512);
            consumers.push(consumer);
        }
        done == total && consumers.iter().all(|&c| world.received[c].len() as u64 == total)
    });
    for &consumer in &consumers {
        for (index, (sequence, _, _)) in (1u64..).zip(&world.received[consumer]) {
            assert_eq!(*sequence, index);
        }
    }
    let counters = world.shard.as_ref().unwrap().counters();
    assert!(counters.get(Counter::ReplayReads) > 0, "some came from the disk");
}

#[test]
fn an_acknowledgement_of_an_earlier_epoch_is_nothing() {
    let mut world = World::new(8, Faults { delay_ns: 1_000, ..Faults::default() });
    let client = world.client(Publisher::New);
    let stream = world.create(client, "orders");
    world.crash();
    world.until("the client is back", |world| {
        world.clients[client].is_connected() && world.shard.as_ref().unwrap().sessions() == 1
    });
    let shard = world.shard.as_ref().unwrap();
    let epoch = shard.log().epoch().0;
    let (_, session) = shard.stations.sessions.in_use().next().unwrap();
    let conn_id = session.conn_id;
    assert!(epoch > 1, "the restart began a new epoch");
    world.clients[client].offer(stream, b"not yet durable").unwrap();
    world.clients[client].poll(&mut |_| {}).unwrap();
    let ack = |epoch: u64| {
        let mut head = AckHead::new_zeroed();
        head.epoch = epoch.into();
        head.received_to = 1.into();
        head.durable_to = 1.into();
        head.max_seq_allowed = 1024.into();
        head.max_bytes_allowed = (1 << 20).into();
        head.receipts_from = 2.into();
        head.durability = Durability::Volatile.code();
        let mut room = [0; 256];
        let mut writer = DatagramWriter::new(&mut room, conn_id, 0);
        assert!(writer.frame(Kind::Ack, head.as_bytes(), &[]));
        let len = writer.len();
        room[..len].to_vec()
    };
    let mut completed_after = |bytes: &[u8]| {
        world.net.inject(address(1), address(101), bytes);
        world.clock.advance_ns(2_000);
        world.clients[client].poll(&mut |_| {}).unwrap();
        world.clients[client].next_completion().is_some()
    };
    assert!(!completed_after(&ack(epoch - 1)), "the writer before promises nothing any more");
    assert!(completed_after(&ack(epoch)), "the same bytes of this epoch are a promise");
}
