//! Who has a place among the producers, and what is told before it is durable.

use super::tests::{World, address, new_disk};
use super::*;
use crate::client::{ClientError, Compared, Publisher, Request};
use crate::ids::{Peer, ProducerId, StreamId};
use crate::limits::{EVICTIONS_A_TURN, PRODUCER_RETURN_NS, PRODUCERS_MAX, SESSIONS_MAX};
use crate::port::memory::Faults;
use crate::wire::control::{CodedError, NameRequest, Subscribe};

const WEEK_NS: u64 = 8 * 24 * 3600 * 1_000_000_000;

impl World {
    fn stations(&mut self) -> &mut Stations<crate::disk::ram::RamDisk> {
        &mut self.shard.as_mut().unwrap().stations
    }

    /// So long that whoever was to come back could have, in steps that no session notices.
    fn wait_for_returns(&mut self) {
        for _ in 0..PRODUCER_RETURN_NS / 100_000_000 + 1 {
            self.clock.advance_ns(100_000_000);
            for _ in 0..4 {
                self.turn();
            }
        }
    }

    fn publish(&mut self, client: usize, stream: StreamId, payload: &[u8]) {
        self.until("the message is taken", |world| {
            world.clients[client].offer(stream, payload).is_ok()
        });
        self.until("the message is durable", |world| {
            world.clients[client].next_completion().is_some()
        });
    }

    /// Registers so many producers that have no session, as of a Unix time; returns the refusals.
    fn crowd(&mut self, count: usize, unix_ns: u64) -> usize {
        let mut refused = 0;
        for _ in 0..count {
            loop {
                let Stations { log, disk, .. } = self.stations();
                match log.register_producer(disk.memory_mut(), None, (1, 1), unix_ns) {
                    Ok(_) => break,
                    Err(crate::log::ControlError::Busy) => self.turn(),
                    Err(_) => {
                        refused += 1;
                        break;
                    }
                }
            }
        }
        refused
    }
}

#[test]
fn a_producer_with_a_session_keeps_its_place_whatever_the_clock_says() {
    let mut world = World::new(21, Faults::default());
    let maker = world.client(Publisher::No);
    let stream = world.create(maker, "orders");
    let silent = world.client(Publisher::New);
    let idle = world.client(Publisher::New);
    world.publish(idle, stream, b"one");
    world.until("it has a place", |world| world.clients[silent].is_connected());
    let (silent_id, idle_id) =
        (world.clients[silent].producer().0, world.clients[idle].producer().0);
    // One never published, one is idle since a week: both have a session.
    world.wait_for_returns();
    let unix_ns = world.clock.unix_ns();
    world.crowd(PRODUCERS_MAX + 10, unix_ns + WEEK_NS);
    world.publish(silent, stream, b"two");
    world.publish(idle, stream, b"three");
    for _ in 0..2 {
        let log = world.shard.as_ref().unwrap().log();
        assert_eq!(log.producer(silent_id).map(|known| known.last_seq), Some(1));
        assert_eq!(log.producer(idle_id).map(|known| known.last_seq), Some(2));
        assert_eq!(log.stream(stream).unwrap().next_sequence, 4, "each message once");
        assert_eq!(log.producers().count(), PRODUCERS_MAX);
        world.crash();
    }
}

#[test]
fn a_place_is_free_when_its_publisher_ends_in_order_and_only_then() {
    let mut world = World::new(22, Faults::default());
    let maker = world.client(Publisher::No);
    let stream = world.create(maker, "orders");
    let first = world.client(Publisher::New);
    world.publish(first, stream, b"one");
    let first_id = world.clients[first].producer().0;
    let unix_ns = world.clock.unix_ns();
    world.crowd(PRODUCERS_MAX - 1, unix_ns);
    for id in 2..=PRODUCERS_MAX as u64 {
        // All have published, so all may come back.
        let Stations { log, .. } = world.stations();
        log.pretend_published(ProducerId(id));
    }
    assert_eq!(world.crowd(1, unix_ns), 1, "nobody is forgotten");
    world.until("it ends in order", |world| {
        world.turn();
        world.clients[first].retire()
    });
    let old = world.clients.remove(first);
    drop(old);
    assert_eq!(world.crowd(1, unix_ns), 0, "its place is free");
    world.stations().log.pretend_published(ProducerId(PRODUCERS_MAX as u64 + 1));
    assert_eq!(world.crowd(1, unix_ns), 1, "and that one only");
    for _ in 0..2 {
        let log = world.shard.as_ref().unwrap().log();
        assert_eq!(log.producer(first_id), None);
        assert_eq!(log.next_producer_id(), ProducerId(PRODUCERS_MAX as u64 + 2));
        for _ in 0..1_000 {
            world.turn();
        }
        world.crash();
    }
}

/// A registration of a publisher that is new, from somewhere.
fn register(nonce: u64) -> crate::wire::control::Register {
    crate::wire::control::Register {
        nonce: nonce.into(),
        producer_id: 0.into(),
        producer_epoch: 0.into(),
        datagram_bytes: 1_472.into(),
        flags: crate::wire::control::REGISTER_PUBLISHER.into(),
        instance: nonce.into(),
        padding: [0; 40],
    }
}

/// Sessions opened so far.
fn opened(world: &mut World) -> u64 {
    world.stations().counters.get(crate::metrics::Counter::SessionsOpened)
}

#[test]
fn registrations_at_full_tables_are_bounded_in_a_turn() {
    let mut world = World::new(35, Faults::default());
    let peer = Peer::ip_only(address(999));
    let mut nonce = 0;
    let say = |world: &mut World, nonce: &mut u64| {
        *nonce += 1;
        world.stations().on_register(peer, &register(*nonce));
    };
    world.until("all places are taken", |world| {
        say(world, &mut nonce);
        world.shard.as_ref().unwrap().sessions() == SESSIONS_MAX
    });
    world.turn();
    world.turn();
    let before = opened(&mut world);
    (0..400).for_each(|_| say(&mut world, &mut nonce));
    assert_eq!(opened(&mut world) - before, EVICTIONS_A_TURN as u64, "so many have to go");
    // The same with the table of producers, where there are places for sessions.
    let mut world = World::new(36, Faults::default());
    let unix_ns = world.clock.unix_ns();
    world.crowd(PRODUCERS_MAX, unix_ns);
    world.wait_for_returns();
    let before = opened(&mut world);
    (0..400).for_each(|_| say(&mut world, &mut nonce));
    assert_eq!(opened(&mut world) - before, 1, "all are looked at once");
    world.turn();
    say(&mut world, &mut nonce);
    assert_eq!(opened(&mut world) - before, 2, "and again in the next turn");
}

#[test]
fn nobody_leaves_for_somebody_whom_the_log_does_not_take() {
    let mut world = World::new(37, Faults::default());
    let peer = Peer::ip_only(address(999));
    let mut nonce = 0;
    world.until("all places are taken", |world| {
        nonce += 1;
        world.stations().on_register(peer, &register(nonce));
        world.shard.as_ref().unwrap().sessions() == SESSIONS_MAX
    });
    // All producers have published: none is forgotten, and the table is full.
    let unix_ns = world.clock.unix_ns();
    let known = world.shard.as_ref().unwrap().log().producers().count();
    world.crowd(PRODUCERS_MAX - known, unix_ns);
    for id in 1..=PRODUCERS_MAX as u64 {
        world.stations().log.pretend_published(ProducerId(id));
    }
    world.turn();
    let closed =
        |world: &mut World| world.stations().counters.get(crate::metrics::Counter::SessionsClosed);
    let before = closed(&mut world);
    world.stations().on_register(peer, &register(nonce + 1));
    let outbox = &world.stations().outbox;
    let told = (0..).map_while(|index| outbox.get(index)).last();
    let full = ErrorCode::ProducersFull;
    assert!(matches!(told, Some(Reply::Refuse { code, .. }) if code == full), "{told:?}");
    assert_eq!(closed(&mut world), before, "nobody had to go");
}

#[test]
fn nobody_is_forgotten_before_it_could_come_back() {
    let mut world = World::new(34, Faults::default());
    let unused = world.client(Publisher::New);
    let stream = world.create(unused, "orders");
    let mine = world.clients[unused].producer().0;
    let weeks_ago = world.clock.unix_ns();
    world.crowd(PRODUCERS_MAX - 1, weeks_ago);
    world.until("all of them are durable", |world| world.stations().log.bytes_in_flight() == 0);
    // A restart: nobody has a session, and by the clock all were idle for more than a week.
    world.clock.advance_ns(2 * WEEK_NS);
    world.crash();
    let unix_ns = world.clock.unix_ns();
    let asked = |world: &mut World| {
        let Stations { log, disk, .. } = world.stations();
        log.register_producer(disk.memory_mut(), None, (1, 1), unix_ns).map(|_| ())
    };
    assert_eq!(asked(&mut world), Err(crate::log::ControlError::Busy), "worth another try");
    world.until("the client is back", |world| world.clients[unused].is_connected());
    assert_eq!(world.clients[unused].producer().0, mine, "as what it was");
    world.wait_for_returns();
    assert_eq!(asked(&mut world), Ok(()), "who did not come back has had its time");
    // Its session ends; a minute later its place is another's, and it has nothing to lose.
    let client = world.clients.remove(unused);
    world.wait_for_returns();
    world.clients.push(client);
    world.stations().log.pretend_forgotten(mine);
    world.until("it is another", |world| {
        world.clients[unused].is_connected() && world.clients[unused].producer().0 != mine
    });
    world.publish(unused, stream, b"its first");
}

#[test]
#[should_panic(expected = "its owner's")]
fn a_place_is_good_only_for_its_owner() {
    let mut world = World::new(23, Faults::default());
    let maker = world.client(Publisher::No);
    let stream = world.create(maker, "orders");
    world.crowd(2, 1);
    let Stations { log, disk, .. } = world.stations();
    let producer = &log.hold_producer(ProducerId(2), 0);
    let signed = crate::wire::record::Signed {
        producer_id: ProducerId(1),
        producer_seq: 1,
        stream,
        flags: 0,
        ext_len: 0,
    };
    let crc32c = signed.crc32c(b"x");
    let message = crate::log::Message { signed, producer, crc32c, payload: b"x" };
    let _ = log.append(disk.memory_mut(), &message, 1);
}

/// Two clients with a session each, by their slots, and nothing in flight.
fn two_sessions(world: &mut World) -> [usize; 2] {
    let clients = [world.client(Publisher::No), world.client(Publisher::No)];
    world.until("both are there", |world| {
        clients.iter().all(|&client| world.clients[client].is_connected())
    });
    let peers = [101, 102].map(|port| Peer::ip_only(address(port)));
    let stations = world.stations();
    peers.map(|peer| {
        let found = stations.sessions.in_use().find(|(_, session)| session.peer.addr == peer.addr);
        found.expect("it is connected").0
    })
}

#[test]
fn a_stream_is_told_by_nobody_before_it_is_durable() {
    let mut world = World::new(24, Faults::default());
    let [one, other] = two_sessions(&mut world);
    let stations = world.stations();
    stations.on_create_stream(one, &NameRequest { request: 7, name: "orders" }, None);
    // Who asked for it is gone, and nothing was written yet.
    stations.close_session(one);
    stations.on_create_stream(other, &NameRequest { request: 8, name: "orders" }, None);
    assert_eq!(stations.outbox.get(0), None, "it waits for the record");
    stations.on_describe_stream(other, &NameRequest { request: 9, name: "orders" });
    let subscribe = Subscribe {
        request: 10.into(),
        stream: 1.into(),
        from_kind: 0.into(),
        window: 8.into(),
        from_value: 0.into(),
    };
    stations.on_subscribe(other, &subscribe);
    for (index, request) in [(0, 9), (1, 10)] {
        let told = stations.outbox.get(index);
        let Some(Reply::Error { code, request: of, .. }) = told else { panic!("{told:?}") };
        assert_eq!((code, of), (ErrorCode::UnknownStream, request));
    }
    assert_eq!(stations.log.streams().count(), 0, "no list has it");
    world.crash();
    let client = world.client(Publisher::No);
    assert_eq!(world.create(client, "another"), StreamId(1), "its number is another's now");
}

#[test]
fn a_stream_that_was_told_survives_a_power_cut() {
    let mut world = World::new(25, Faults::default());
    let [one, other] = two_sessions(&mut world);
    let stations = world.stations();
    stations.on_create_stream(one, &NameRequest { request: 7, name: "orders" }, None);
    stations.close_session(one);
    let asked = world.clients[1].request(Request::CreateStream("orders".into()));
    let mut told = false;
    world.until("the other is told", |world| {
        while let Some(event) = world.clients[1].next_event() {
            told |=
                matches!(event, crate::client::Event::Stream { request, .. } if request == asked);
        }
        told
    });
    assert!(world.stations().sessions.get(other).phase != crate::session::table::Phase::Free);
    world.crash();
    assert!(world.shard.as_ref().unwrap().log().stream_by_name("orders").is_some());
}

/// Polls the clients until one of them ends, and says why.
fn ends(world: &mut World, client: usize) -> ClientError {
    for _ in 0..2_000_000 {
        world.clock.advance_ns(10_000);
        world.shard.as_mut().unwrap().turn();
        if let Err(error) = world.clients[client].poll(&mut |_| {}) {
            return error;
        }
    }
    panic!("it goes on with another log");
}

#[test]
fn another_log_at_the_address_ends_publisher_and_consumer() {
    let mut world = World::new(26, Faults::default());
    let consumer = world.client(Publisher::No);
    let stream = world.create(consumer, "orders");
    world.clients[consumer].subscribe(stream, crate::client::StartFrom::Start, 64);
    let publisher = world.client(Publisher::New);
    world.publish(publisher, stream, b"acknowledged");
    drop(world.shard.take());
    world.start(new_disk(64 << 20));
    let error = ends(&mut world, publisher);
    let unknown = ErrorCode::UnknownProducer;
    assert!(
        matches!(error, ClientError::Refused(CodedError { code, .. }) if code == unknown),
        "{error}"
    );
    let error = ends(&mut world, consumer);
    assert!(matches!(error, ClientError::OtherLog { .. }), "{error}");
}

#[test]
fn a_producer_of_the_same_number_in_another_log_acknowledges_nothing() {
    let mut world = World::new(28, Faults::default());
    let publisher = world.client(Publisher::New);
    let stream = world.create(publisher, "orders");
    world.publish(publisher, stream, b"acknowledged");
    let mine = world.clients.remove(publisher);
    drop(world.shard.take());
    world.start(new_disk(64 << 20));
    let other = world.client(Publisher::New);
    world.create(other, "orders");
    for _ in 0..5 {
        world.publish(other, stream, b"of the other");
    }
    assert_eq!(world.clients[other].producer().0, mine.producer().0);
    world.clients.insert(0, mine);
    let _ = world.clients[0].offer(stream, b"outstanding");
    let error = ends(&mut world, 0);
    assert!(matches!(error, ClientError::OtherLog { .. }), "{error}");
    assert!(world.clients[0].next_completion().is_none(), "nothing was counted as acknowledged");
}

#[test]
fn an_older_copy_of_the_log_ends_publisher_and_consumer() {
    let mut world = World::new(27, Faults::default());
    let consumer = world.client(Publisher::No);
    let stream = world.create(consumer, "orders");
    world.clients[consumer].subscribe(stream, crate::client::StartFrom::Start, 64);
    let publisher = world.client(Publisher::New);
    world.publish(publisher, stream, b"in the copy");
    let Shard { stations, port, .. } = world.shard.take().unwrap();
    drop(port);
    let copy = stations.disk.copy();
    world.start(stations.disk.crash());
    world.publish(publisher, stream, b"acknowledged since");
    world.until("it is delivered", |world| world.clients[consumer].position(stream) == 3);
    drop(world.shard.take());
    world.start(copy);
    for client in [publisher, consumer] {
        let error = ends(&mut world, client);
        let ClientError::Behind { what, .. } = error else { panic!("{error}") };
        assert!(what != Compared::Producer, "{error}");
    }
}

#[test]
fn a_busy_log_is_no_full_table() {
    let mut world = World::new(29, Faults::default());
    let publisher = world.client(Publisher::New);
    let stream = world.create(publisher, "orders");
    let stations = world.stations();
    let slot = stations.log.producer(ProducerId(1)).unwrap().holder.unwrap();
    let payload = [0; 1_000];
    for producer_seq in 1.. {
        let (producer_id, flags, ext_len) = (ProducerId(1), 0, 0);
        let signed =
            crate::wire::record::Signed { producer_id, producer_seq, stream, flags, ext_len };
        let crc32c = signed.crc32c(&payload);
        let Stations { log, disk, publishers, .. } = &mut *stations;
        let producer = publishers.handle(slot);
        let message = crate::log::Message { signed, producer, crc32c, payload: &payload };
        match log.append(disk.memory_mut(), &message, 1) {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error, crate::log::AppendError::Busy);
                break;
            }
        }
    }
    // As many registrations as one batch holds may still find room in the open one.
    let peer = Peer::ip_only(address(999));
    let refused = (0..10_000).find_map(|nonce| {
        stations.on_register(peer, &register(nonce));
        stations.outbox.get(0)
    });
    let Some(Reply::Refuse { code, .. }) = refused else { panic!("{refused:?}") };
    assert!(code.is_retry(), "{code}");
    let late = world.client(Publisher::New);
    world.until("it registers in the end", |world| world.clients[late].is_connected());
}

#[test]
fn an_appliance_that_is_stopped_in_order_and_started_again_ends_nobody() {
    let mut world = World::new(30, Faults::default());
    let consumer = world.client(Publisher::No);
    let stream = world.create(consumer, "orders");
    world.clients[consumer].subscribe(stream, crate::client::StartFrom::Start, 64);
    let publisher = world.client(Publisher::New);
    for round in 1..=3u64 {
        world.publish(publisher, stream, b"before");
        let _ = world.clients[publisher].offer(stream, b"on its way");
        let mut shard = world.shard.take().unwrap();
        shard.drain();
        while !shard.is_drained() {
            world.clock.advance_ns(10_000);
            shard.turn();
        }
        let (port, disk) = shard.close().unwrap();
        drop(port);
        for _ in 0..1_000 {
            world.turn();
        }
        world.start(disk);
        world.until("all is delivered", |world| {
            world.clients[consumer].position(stream) == 2 * round + 1
        });
        while world.clients[publisher].next_completion().is_some() {}
    }
}
