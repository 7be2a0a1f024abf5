//! Who has a place among the producers, and what is told before it is durable.

use super::*;
use crate::client::{ClientError, Compared, Publisher, Request};
use crate::ids::{Peer, ProducerId, ProducerName, StreamId};
use crate::limits::{PRODUCER_RETURN_NS, PRODUCERS_MAX};
use crate::log::{Owner, Registrant, Tenure};
use crate::port::memory::Faults;
use crate::position::SessionSlot;
use crate::session::table::Phase;
use crate::testing::disk::TestDisk;
use crate::testing::rig::{BASE_PORT, CLIENT_PORT, Rig, address};
use crate::wire::control::{Want, holder_detail};
use crate::wire::{Datagram, FromClient, parse};

const WEEK_NS: u64 = 8 * 24 * 3600 * 1_000_000_000;

impl Rig {
    fn stations(&mut self) -> &mut Stations {
        &mut self.shards[0].stations
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
        self.until("the message is taken", |rig| {
            rig.clients[client].offer(stream, payload).is_ok()
        });
        self.until("the message is durable", |rig| rig.clients[client].next_completion().is_some());
    }

    /// Registers so many producers that have no session, as of a Unix time; returns the refusals.
    fn crowd(&mut self, count: usize, unix_ns: u64) -> usize {
        let mut refused = 0;
        for _ in 0..count {
            loop {
                let Stations { log, disk, .. } = self.stations();
                match log.register_producer(
                    disk.memory_mut(),
                    Registrant::New(Owner::NOBODY),
                    Tenure { epoch: 1, instance: 1 },
                    unix_ns,
                ) {
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
    let mut rig = Rig::new(21, Faults::default());
    let maker = rig.client(Publisher::No);
    let stream = rig.create(maker, "orders");
    let silent = rig.client(Publisher::New);
    let idle = rig.client(Publisher::New);
    rig.publish(idle, stream, b"one");
    rig.until("it has a place", |rig| rig.clients[silent].is_connected());
    let (silent_id, idle_id) = (rig.clients[silent].producer().0, rig.clients[idle].producer().0);
    // One never published, one is idle since a week: both have a session.
    rig.wait_for_returns();
    let unix_ns = rig.clock.unix_ns();
    rig.crowd(PRODUCERS_MAX + 10, unix_ns + WEEK_NS);
    rig.publish(silent, stream, b"two");
    rig.publish(idle, stream, b"three");
    for _ in 0..2 {
        let log = rig.shards[0].log();
        assert_eq!(log.producer(silent_id).map(|known| known.last_seq), Some(1));
        assert_eq!(log.producer(idle_id).map(|known| known.last_seq), Some(2));
        assert_eq!(log.stream(stream).unwrap().next_sequence, 4, "each message once");
        assert_eq!(log.producers().count(), PRODUCERS_MAX);
        rig.crash();
    }
}

#[test]
fn a_place_is_free_when_its_publisher_ends_in_order_and_only_then() {
    let mut rig = Rig::new(22, Faults::default());
    let maker = rig.client(Publisher::No);
    let stream = rig.create(maker, "orders");
    let first = rig.client(Publisher::New);
    rig.publish(first, stream, b"one");
    let first_id = rig.clients[first].producer().0;
    let unix_ns = rig.clock.unix_ns();
    rig.crowd(PRODUCERS_MAX - 1, unix_ns);
    for id in 2..=PRODUCERS_MAX as u64 {
        // All have published, so all may come back.
        let Stations { log, .. } = rig.stations();
        log.pretend_published(ProducerId(id));
    }
    assert_eq!(rig.crowd(1, unix_ns), 1, "nobody is forgotten");
    rig.until("it ends in order", |rig| {
        rig.turn();
        rig.clients[first].retire()
    });
    let old = rig.clients.remove(first);
    drop(old);
    assert_eq!(rig.crowd(1, unix_ns), 0, "its place is free");
    rig.stations().log.pretend_published(ProducerId(PRODUCERS_MAX as u64 + 1));
    assert_eq!(rig.crowd(1, unix_ns), 1, "and that one only");
    for _ in 0..2 {
        let log = rig.shards[0].log();
        assert_eq!(log.producer(first_id), None);
        assert_eq!(log.next_producer_id(), ProducerId(PRODUCERS_MAX as u64 + 2));
        for _ in 0..1_000 {
            rig.turn();
        }
        rig.crash();
    }
}

/// So many sessions from somewhere register as new producers, in one turn; how many were let in.
fn register(rig: &mut Rig, numbers: std::ops::Range<u64>) -> usize {
    let peer = Peer::ip_only(address(999));
    let stations = rig.stations();
    let register = |number| {
        let slot = stations.confirmed(peer, number);
        stations.registers(slot, Want::New);
        matches!(stations.sessions.get(slot).phase, Phase::Registering { .. })
    };
    numbers.map(register).filter(|is_in| *is_in).count()
}

#[test]
fn registrations_at_a_full_table_are_bounded_in_a_turn() {
    let mut rig = Rig::new(36, Faults::default());
    let unix_ns = rig.clock.unix_ns();
    rig.crowd(PRODUCERS_MAX, unix_ns);
    rig.wait_for_returns();
    assert_eq!(register(&mut rig, 0..400), 1, "all are looked at once");
    rig.turn();
    assert_eq!(register(&mut rig, 400..800), 1, "and again in the next turn");
}

#[test]
fn who_finds_all_places_of_producers_taken_is_told_so() {
    let mut rig = Rig::new(37, Faults::default());
    // All have published: none is forgotten.
    let unix_ns = rig.clock.unix_ns();
    rig.crowd(PRODUCERS_MAX, unix_ns);
    for id in 1..=PRODUCERS_MAX as u64 {
        rig.stations().log.pretend_published(ProducerId(id));
    }
    assert_eq!(register(&mut rig, 0..1), 0);
    let told = rig.stations().outbox.get(0);
    let full = ErrorCode::ProducersFull;
    assert!(
        matches!(told, Some(Reply::Error { code, request: 1, .. }) if code == full),
        "{told:?}"
    );
}

#[test]
fn nobody_is_forgotten_before_it_could_come_back() {
    let mut rig = Rig::new(34, Faults::default());
    let unused = rig.client(Publisher::New);
    let stream = rig.create(unused, "orders");
    let mine = rig.clients[unused].producer().0;
    let weeks_ago = rig.clock.unix_ns();
    rig.crowd(PRODUCERS_MAX - 1, weeks_ago);
    rig.until("all of them are durable", |rig| rig.stations().log.bytes_in_flight() == 0);
    // A restart: nobody has a session, and by the clock all were idle for more than a week.
    rig.clock.advance_ns(2 * WEEK_NS);
    rig.crash();
    let unix_ns = rig.clock.unix_ns();
    let asked = |rig: &mut Rig| {
        let Stations { log, disk, .. } = rig.stations();
        let (new, tenure) = (Registrant::New(Owner::NOBODY), Tenure { epoch: 1, instance: 1 });
        log.register_producer(disk.memory_mut(), new, tenure, unix_ns).map(|_| ())
    };
    assert_eq!(asked(&mut rig), Err(crate::log::ControlError::Busy), "worth another try");
    rig.until("the client is back", |rig| rig.clients[unused].is_connected());
    assert_eq!(rig.clients[unused].producer().0, mine, "as what it was");
    rig.wait_for_returns();
    assert_eq!(asked(&mut rig), Ok(()), "who did not come back has had its time");
    // Its session ends; a minute later its place is another's, and it has nothing to lose.
    let client = rig.clients.remove(unused);
    rig.wait_for_returns();
    rig.clients.push(client);
    rig.stations().log.pretend_forgotten(mine);
    rig.until("it is another", |rig| {
        rig.clients[unused].is_connected() && rig.clients[unused].producer().0 != mine
    });
    rig.publish(unused, stream, b"its first");
}

#[test]
#[should_panic(expected = "its owner's")]
fn a_place_is_good_only_for_its_owner() {
    let mut rig = Rig::new(23, Faults::default());
    let maker = rig.client(Publisher::No);
    let stream = rig.create(maker, "orders");
    rig.crowd(2, 1);
    let Stations { log, disk, .. } = rig.stations();
    let producer = &log.hold_producer(ProducerId(2), SessionSlot::FIRST);
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
fn two_sessions(rig: &mut Rig) -> [SessionSlot; 2] {
    let clients = [rig.client(Publisher::No), rig.client(Publisher::No)];
    rig.until("both are there", |rig| {
        clients.iter().all(|&client| rig.clients[client].is_connected())
    });
    let peers = [101, 102].map(|port| Peer::ip_only(address(port)));
    let stations = rig.stations();
    peers.map(|peer| {
        let found = stations.sessions.in_use().find(|(_, session)| session.peer.addr == peer.addr);
        found.expect("it is connected").0
    })
}

#[test]
fn a_stream_is_told_by_nobody_before_it_is_durable() {
    let mut rig = Rig::new(24, Faults::default());
    let [one, other] = two_sessions(&mut rig);
    let stations = rig.stations();
    stations.asks_to_create(one, 7, "orders");
    // Who asked for it is gone, and nothing was written yet.
    stations.close_session(one);
    stations.asks_to_create(other, 8, "orders");
    assert_eq!(stations.outbox.get(0), None, "it waits for the record");
    stations.asks_to_describe(other, 9, "orders");
    stations.asks_to_subscribe(other, 10, 1);
    for (index, request) in [(0, 9), (1, 10)] {
        let told = stations.outbox.get(index);
        let Some(Reply::Error { code, request: of, .. }) = told else { panic!("{told:?}") };
        assert_eq!((code, of), (ErrorCode::UnknownStream, request));
    }
    assert_eq!(stations.log.streams().count(), 0, "no list has it");
    rig.crash();
    let client = rig.client(Publisher::No);
    assert_eq!(rig.create(client, "another"), StreamId(1), "its number is another's now");
}

#[test]
fn a_stream_that_was_told_survives_a_power_cut() {
    let mut rig = Rig::new(25, Faults::default());
    let [one, other] = two_sessions(&mut rig);
    let stations = rig.stations();
    stations.asks_to_create(one, 7, "orders");
    stations.close_session(one);
    let asked = rig.clients[1].request(Request::CreateStream("orders".into()));
    let mut told = false;
    rig.until("the other is told", |rig| {
        while let Some(event) = rig.clients[1].next_event() {
            told |=
                matches!(event, crate::client::Event::Stream { request, .. } if request == asked);
        }
        told
    });
    assert!(rig.stations().sessions.get(other).phase != crate::session::table::Phase::Free);
    rig.crash();
    assert!(rig.shards[0].log().stream_by_name("orders").is_some());
}

/// Polls the clients until one of them ends, and says why.
fn ends(rig: &mut Rig, client: usize) -> ClientError {
    for _ in 0..2_000_000 {
        rig.clock.advance_ns(10_000);
        rig.shards[0].turn();
        if let Err(error) = rig.clients[client].poll(&mut |_| {}) {
            return error;
        }
    }
    panic!("it goes on with another log");
}

#[test]
fn another_log_at_the_address_ends_publisher_and_consumer() {
    let mut rig = Rig::new(26, Faults::default());
    let consumer = rig.client(Publisher::No);
    let stream = rig.create(consumer, "orders");
    rig.clients[consumer].subscribe(stream, crate::client::StartFrom::Start, 64);
    let publisher = rig.client(Publisher::New);
    rig.publish(publisher, stream, b"acknowledged");
    rig.restart_on(TestDisk::formatted(64 << 20));
    for client in [publisher, consumer] {
        let error = ends(&mut rig, client);
        let ClientError::OtherLog { begun, found, .. } = error else { panic!("{error}") };
        assert_eq!(found, rig.shards[0].log().tag());
        assert_ne!(begun, found);
    }
    assert_eq!(rig.shards[0].log().producers().count(), 0, "nothing was changed there");
}

#[test]
fn a_producer_of_the_same_number_in_another_log_acknowledges_nothing() {
    let mut rig = Rig::new(28, Faults::default());
    let publisher = rig.client(Publisher::New);
    let stream = rig.create(publisher, "orders");
    rig.publish(publisher, stream, b"acknowledged");
    let mine = rig.clients.remove(publisher);
    rig.restart_on(TestDisk::formatted(64 << 20));
    let other = rig.client(Publisher::New);
    rig.create(other, "orders");
    for _ in 0..5 {
        rig.publish(other, stream, b"of the other");
    }
    assert_eq!(rig.clients[other].producer().0, mine.producer().0);
    rig.clients.insert(0, mine);
    let _ = rig.clients[0].offer(stream, b"outstanding");
    let error = ends(&mut rig, 0);
    assert!(matches!(error, ClientError::OtherLog { .. }), "{error}");
    assert!(rig.clients[0].next_completion().is_none(), "nothing was counted as acknowledged");
}

#[test]
fn an_older_copy_of_the_log_ends_publisher_and_consumer() {
    let mut rig = Rig::new(27, Faults::default());
    let consumer = rig.client(Publisher::No);
    let stream = rig.create(consumer, "orders");
    rig.clients[consumer].subscribe(stream, crate::client::StartFrom::Start, 64);
    let publisher = rig.client(Publisher::New);
    rig.publish(publisher, stream, b"in the copy");
    let disk = rig.kill();
    let copy = disk.copy();
    rig.start(disk);
    rig.publish(publisher, stream, b"acknowledged since");
    rig.until("it is delivered", |rig| rig.clients[consumer].position(stream) == 3);
    rig.restart_on(copy);
    for client in [publisher, consumer] {
        let error = ends(&mut rig, client);
        let ClientError::Behind { what, .. } = error else { panic!("{error}") };
        assert!(what != Compared::Producer, "{error}");
    }
}

#[test]
fn a_busy_log_is_no_full_table() {
    let mut rig = Rig::new(29, Faults::default());
    let publisher = rig.client(Publisher::New);
    let stream = rig.create(publisher, "orders");
    let stations = rig.stations();
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
    let refused = (0..1_000).find_map(|number| {
        let slot = stations.confirmed(peer, number);
        stations.registers(slot, Want::New);
        let told = stations.outbox.get(0);
        if told.is_none() && number % 2 == 1 {
            stations.close_session(slot);
        }
        told
    });
    let Some(Reply::Error { code, .. }) = refused else { panic!("{refused:?}") };
    assert!(code.is_retry(), "{code}");
    let late = rig.client(Publisher::New);
    rig.until("it registers in the end", |rig| rig.clients[late].is_connected());
}

#[test]
fn an_appliance_that_is_stopped_in_order_and_started_again_ends_nobody() {
    let mut rig = Rig::new(30, Faults::default());
    let consumer = rig.client(Publisher::No);
    let stream = rig.create(consumer, "orders");
    rig.clients[consumer].subscribe(stream, crate::client::StartFrom::Start, 64);
    let publisher = rig.client(Publisher::New);
    for round in 1..=3u64 {
        rig.publish(publisher, stream, b"before");
        let _ = rig.clients[publisher].offer(stream, b"on its way");
        let mut shard = rig.shards.pop().unwrap();
        shard.drain();
        while !shard.is_drained() {
            rig.clock.advance_ns(10_000);
            shard.turn();
        }
        shard.close().unwrap();
        let disk = rig.left_disk();
        for _ in 0..1_000 {
            rig.turn();
        }
        rig.start(disk);
        rig.until("all is delivered", |rig| {
            rig.clients[consumer].position(stream) == 2 * round + 1
        });
        while rig.clients[publisher].next_completion().is_some() {}
    }
}

/// A publisher whose REGISTER was doubled, and a rival that takes its producer over and publishes while the first is cut off;
/// `offered` messages of the first wait meanwhile. Then the late REGISTER arrives. What the first ends with; the rival
/// goes on.
fn overtaken(offered: usize) -> (Rig, usize, ClientError) {
    let mut rig = Rig::new(38, Faults::default());
    rig.clients_end = true;
    let owner = rig.client(Publisher::New);
    let stream = rig.create(owner, "orders");
    rig.publish(owner, stream, b"one");
    let producer = rig.clients[owner].producer().0;
    drop(rig.clients.remove(owner));
    rig.received.remove(owner);
    rig.net.keep_datagrams(true);
    let first = rig.client(Publisher::Known(producer));
    rig.until("the first is it", |rig| rig.clients[first].is_connected());
    let is_register = |bytes: &Vec<u8>| {
        let Ok(Datagram::Session { frames, .. }) = parse(bytes) else { return false };
        matches!(frames.from_client().next(), Some(Ok(FromClient::Register(_))))
    };
    let register = rig.net.kept().into_iter().find(is_register).unwrap();
    rig.net.keep_datagrams(false);
    rig.publish(first, stream, b"of the first");
    let place = address(CLIENT_PORT + 1);
    rig.net.set_cut(place, true);
    for _ in 0..offered {
        rig.clients[first].offer(stream, b"on its way").unwrap();
    }
    let rival = rig.client(Publisher::Known(producer));
    rig.until("the rival is it", |rig| rig.clients[rival].is_connected());
    rig.publish(rival, stream, b"of the rival");
    rig.net.set_cut(place, false);
    rig.net.inject(place, address(BASE_PORT), &register);
    let error = ends(&mut rig, first);
    rig.publish(rival, stream, b"it goes on");
    (rig, first, error)
}

#[test]
fn a_late_register_takes_no_producer_back() {
    // The rival's message has the number of the first of those that wait.
    for offered in 0..4 {
        let (mut rig, first, error) = overtaken(offered);
        let done = rig.clients[first].next_completion();
        assert!(done.is_none(), "{offered} offered: the rival's is stored, not this one: {done:?}");
        assert!(error.to_string().contains("another instance"), "{offered} offered: {error}");
    }
}

/// A copy of a log that was put in its place gives numbers of producers out again.
#[test]
fn a_producer_whose_number_is_another_s_on_an_older_copy_of_the_log_ends() {
    let mut rig = Rig::new(39, Faults::default());
    rig.clients_end = true;
    let owner = rig.client(Publisher::New);
    let stream = rig.create(owner, "orders");
    let disk = rig.kill();
    let copy = disk.copy();
    rig.start(disk);
    rig.until("it is back", |rig| rig.clients[owner].is_connected());
    let mine = rig.client(Publisher::New);
    rig.until("it has its number", |rig| rig.clients[mine].is_connected());
    let place = address(CLIENT_PORT + 1);
    rig.net.set_cut(place, true);
    for _ in 0..3 {
        rig.clients[mine].offer(stream, b"on its way").unwrap();
    }
    rig.restart_on(copy);
    let other = rig.client(Publisher::New);
    rig.until("it has the same", |rig| rig.clients[other].is_connected());
    assert_eq!(rig.clients[other].producer().0, rig.clients[mine].producer().0);
    rig.publish(other, stream, b"of the other");
    rig.net.set_cut(place, false);
    let error = ends(&mut rig, mine);
    assert!(rig.clients[mine].next_completion().is_none(), "{error}");
    assert!(error.to_string().contains("is this the address"), "{error}");
    rig.publish(other, stream, b"it goes on");
}

/// A log of which a copy was made, which went on, and whose copy then went on in its place with as many messages, of
/// a rival that took the producer over. Publisher and consumer were cut off meanwhile.
fn on_a_copy_that_went_on() -> (Rig, StreamId, [usize; 2]) {
    let mut rig = Rig::new(40, Faults::default());
    rig.clients_end = true;
    let publisher = rig.client(Publisher::New);
    let consumer = rig.client(Publisher::No);
    let stream = rig.create(publisher, "orders");
    rig.clients[consumer].subscribe(stream, crate::client::StartFrom::Start, 64);
    rig.publish(publisher, stream, b"in the copy");
    let disk = rig.kill();
    let copy = disk.copy();
    rig.start(disk);
    rig.publish(publisher, stream, b"acknowledged since");
    rig.publish(publisher, stream, b"and this");
    rig.until("all is delivered", |rig| rig.clients[consumer].position(stream) == 4);
    let places = [CLIENT_PORT, CLIENT_PORT + 1].map(address);
    places.iter().for_each(|&place| rig.net.set_cut(place, true));
    let producer = rig.clients[publisher].producer().0;
    rig.restart_on(copy);
    let rival = rig.client(Publisher::Known(producer));
    rig.until("the rival is it", |rig| rig.clients[rival].is_connected());
    for _ in 0..3 {
        rig.publish(rival, stream, b"of the other history");
    }
    places.iter().for_each(|&place| rig.net.set_cut(place, false));
    (rig, stream, [publisher, consumer])
}

/// No number tells: the epoch is the same, and so is how far producer and stream have come.
#[test]
fn a_publisher_knows_a_copy_of_its_log_that_went_another_way() {
    let (mut rig, stream, [publisher, _]) = on_a_copy_that_went_on();
    let _ = rig.clients[publisher].offer(stream, b"on its way");
    let error = ends(&mut rig, publisher);
    let expected = ClientError::OtherHistory { server: address(BASE_PORT), stream, sequence: 3 };
    assert_eq!(error, expected);
    assert!(rig.clients[publisher].next_completion().is_none(), "nothing was counted");
    assert_eq!(rig.shards[0].log().stream(stream).unwrap().next_sequence, 5, "nor stored");
}

#[test]
fn a_consumer_knows_a_copy_of_its_log_that_went_another_way() {
    let (mut rig, stream, [_, consumer]) = on_a_copy_that_went_on();
    let mut told = None;
    rig.until("it is told", |rig| {
        while let Some(event) = rig.clients[consumer].next_event() {
            if let crate::client::Event::Refused { code, detail, .. } = event {
                told = Some((code, detail));
            }
        }
        told.is_some()
    });
    assert_eq!(told, Some((ErrorCode::Diverged, 5)));
    assert_eq!(rig.received[consumer].len(), 3, "nothing of the other history is delivered");
    // Who asks without a position of this history is served.
    rig.clients[consumer].subscribe(stream, crate::client::StartFrom::Start, 64);
    rig.until("it begins anew", |rig| rig.received[consumer].len() == 3 + 4);
}

#[test]
fn a_producer_with_a_name_is_kept_and_found_again() {
    let mut rig = Rig::new(41, Faults::default());
    rig.clients_end = true;
    let name = ProducerName::new("gateway-7").unwrap();
    let named = |take_over| Publisher::Named { name, take_over };
    let first = rig.client(named(false));
    let stream = rig.create(first, "orders");
    rig.publish(first, stream, b"one");
    rig.publish(first, stream, b"two");
    let id = rig.clients[first].producer().0;
    // A second one is told who holds it, for as long as that says something.
    let second = rig.client(named(false));
    rig.until("it is refused", |rig| rig.clients[second].refusal().is_some());
    let (code, detail) = rig.clients[second].refusal().unwrap();
    let held = holder_detail(address(CLIENT_PORT));
    assert_eq!((code, detail), (ErrorCode::ProducerHeld, held));
    drop(rig.clients.remove(first).abandon());
    rig.received.remove(first);
    let second = 0;
    rig.until("it is it", |rig| rig.clients[second].is_connected());
    assert_eq!(rig.clients[second].producer().0, id);
    assert_eq!(
        (rig.clients[second].next_seq(), rig.clients[second].last_published()),
        (3, Some((stream, 2)))
    );
    rig.publish(second, stream, b"three");
    rig.crash();
    rig.publish(second, stream, b"four");
    let third = rig.client(named(true));
    rig.until("it is taken over", |rig| rig.clients[third].is_connected());
    assert_eq!(
        (rig.clients[third].next_seq(), rig.clients[third].last_published()),
        (5, Some((stream, 4)))
    );
    rig.publish(third, stream, b"five");
    drop(rig.clients.remove(third));
    rig.received.remove(third);
    // It has no session, and was idle for weeks: nobody has its place.
    let unix_ns = rig.clock.unix_ns();
    rig.crowd(PRODUCERS_MAX - 1, unix_ns);
    rig.wait_for_returns();
    rig.crowd(10, unix_ns + WEEK_NS);
    assert_eq!(rig.shards[0].log().producer_named(&name).map(|known| known.last_seq), Some(5));
    rig.crash();
    let known = *rig.shards[0].log().producer_named(&name).unwrap();
    assert_eq!((known.id, known.last_seq, known.last.sequence), (id, 5, 5));
}
