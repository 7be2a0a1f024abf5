//! Who has a place among the producers, and what is told before it is durable.

use super::*;
use crate::client::{Publisher, Request};
use crate::ids::{Peer, ProducerId, ProducerName, StreamId};
use crate::limits::{PRODUCER_RETURN_NS, PRODUCERS_MAX};
use crate::log::{Owner, Registrant, Tenure};
use crate::port::memory::Faults;
use crate::position::SessionSlot;
use crate::session::table::Phase;
use crate::testing::rig::{CLIENT_PORT, Rig, address};
use crate::wire::control::{Want, holder_detail};

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

    pub(super) fn publish(&mut self, client: usize, stream: StreamId, payload: &[u8]) {
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
    drop(rig.take(first).abandon());
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
    drop(rig.take(third));
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

#[test]
fn a_late_takeover_of_a_session_from_before_fences_nobody() {
    let mut rig = Rig::new(42, Faults::default());
    let owner = rig.client(Publisher::New);
    let stream = rig.create(owner, "orders");
    rig.publish(owner, stream, b"one");
    let producer = rig.clients[owner].producer().0;
    drop(rig.take(owner));
    // A process that asks for a session, says REGISTER, and is killed; its successor; and then that REGISTER.
    let peer = Peer::ip_only(address(999));
    let late = rig.stations().confirmed(peer, 1);
    rig.turn();
    let successor = rig.client(Publisher::Known(producer));
    rig.until("the successor is it", |rig| rig.clients[successor].is_connected());
    rig.publish(successor, stream, b"two");
    rig.stations().takes_over(late, producer);
    let told = rig.stations().outbox.get(0);
    let fenced = ErrorCode::Fenced;
    assert!(matches!(told, Some(Reply::Error { code, .. }) if code == fenced), "{told:?}");
    rig.publish(successor, stream, b"three");
    // One that comes after takes over.
    let after = rig.stations().confirmed(peer, 2);
    rig.stations().takes_over(after, producer);
    let phase = rig.stations().sessions.get(after).phase;
    assert!(matches!(phase, Phase::Registering { .. }), "{phase:?}");
}

#[test]
fn a_publisher_that_comes_back_to_a_full_log_knows_that_it_is_full() {
    let mut rig = Rig::new(44, Faults::default());
    let publisher = rig.client(Publisher::New);
    let stream = rig.create(publisher, "orders");
    rig.publish(publisher, stream, b"one");
    let session = rig.clients[publisher].session();
    rig.crash();
    rig.until("it is back", |rig| {
        rig.stations().service.pretend(Condition::Full);
        rig.clients[publisher].session() != session && rig.clients[publisher].is_connected()
    });
    let state = rig.clients[publisher].publish_state();
    assert_eq!(state, crate::wire::publish::PublishState::NoSpace);
}

/// A session that was open before is no proof that a producer is new.
#[test]
fn a_producer_that_its_client_knows_is_not_taken_for_one_it_never_heard_of() {
    let mut rig = Rig::new(45, Faults::default());
    let publisher = rig.client(Publisher::New);
    rig.create(publisher, "orders");
    let producer = rig.clients[publisher].producer().0;
    rig.crash();
    rig.net.set_cut(address(CLIENT_PORT), true);
    let (slot, peer) = (rig.stations().confirmed(Peer::ip_only(address(999)), 1), address(999));
    assert_eq!(rig.stations().sessions.get(slot).peer.addr, peer);
    // As the same instance, and REGISTERED is lost.
    let instance = rig.shards[0].log().producer(producer).unwrap().instance;
    rig.stations().sessions.get_mut(slot).instance = u128::from(instance);
    rig.stations().takes_over(slot, producer);
    rig.until("it registers", |rig| rig.stations().sessions.get(slot).phase == Phase::Open);
    rig.stations().close_session(slot);
    assert!(!rig.shards[0].log().producer(producer).unwrap().ended);
}
