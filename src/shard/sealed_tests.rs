//! Sealed sessions: what nobody else can read, change, repeat or begin, and what each may do.

use super::*;
use crate::access::rights::{Named, Patterns};
use crate::access::{Access, Rights};
use crate::client::{ClientError, Event, Publisher, Request, StartFrom};
use crate::ids::{ProducerName, StreamId};
use crate::limits::HANDSHAKES_A_TURN;
use crate::metrics::Counter;
use crate::port::memory::Faults;
use crate::seal::keys::Rotation;
use crate::testing::rig::{Rig, address};
use crate::testing::sealed::{House, identity, security};

pub(super) fn quiet() -> Faults {
    Faults { delay_ns: 1_000, ..Faults::default() }
}

fn streams(texts: &[&str]) -> Patterns {
    Patterns::new(Named::Streams, texts.iter().copied()).unwrap()
}

/// The key of number 1 may do everything, that of 2 reads, that of 3 publishes to streams that begin so.
pub(super) fn access() -> Access {
    let reads = Rights { subscribe: streams(&["*"]), ..Rights::none() };
    let publishes = Rights { publish: streams(&["orders.*"]), ..Rights::none() };
    let identities = vec![
        identity("gateway", 1, Rights::all()),
        identity("reader", 2, reads),
        identity("desk", 3, publishes),
    ];
    Access::new(identities, Rights::none()).unwrap()
}

pub(super) fn rig(seed: u64, faults: Faults) -> Rig {
    Rig::sealed(seed, faults, House::new(access(), false, Rotation::DEFAULT, seed))
}

pub(super) fn client_as(rig: &mut Rig, number: u8, publisher: Publisher) -> usize {
    rig.security = security(number);
    rig.client(publisher)
}

/// What ends a client.
fn failure(rig: &mut Rig, client: usize) -> ClientError {
    let mut client = rig.take(client);
    for _ in 0..2_000_000 {
        rig.turn();
        if let Err(error) = client.poll(&mut |_| {}) {
            return error;
        }
    }
    panic!("it goes on");
}

fn refused(error: &ClientError) -> Option<ErrorCode> {
    let ClientError::Refused(coded) = error else { return None };
    Some(coded.code)
}

#[test]
fn all_is_delivered_once_through_generations_of_keys_and_crashes() {
    let rotation =
        Rotation { datagrams: 32, datagrams_max: 64, after_ns: 50_000_000, least_ns: 1_000_000 };
    for seed in 0..6 {
        let faults = Faults { loss: 50, duplication: 50, corruption: 50, ..quiet() };
        let house = House::new(access(), false, rotation, seed);
        let mut rig = Rig::sealed(seed, faults, house);
        let publisher = rig.client(Publisher::New);
        let consumer = client_as(&mut rig, 2, Publisher::No);
        let stream = rig.create(publisher, "orders");
        rig.clients[consumer].subscribe(stream, StartFrom::Start, 256);
        let (mut offered, mut done, mut crashed) = (0_u64, 0, false);
        rig.until("all is acknowledged and delivered", |rig| {
            if offered < 1_000 && rig.clients[publisher].offer(stream, &[7; 300]).is_ok() {
                offered += 1;
            }
            while rig.clients[publisher].next_completion().is_some() {
                done += 1;
            }
            if done >= 500 && !crashed {
                crashed = true;
                rig.crash();
            }
            done == 1_000 && rig.received[consumer].len() == 1_000
        });
        let numbers = rig.received[consumer].iter().map(|row| row.0);
        assert!(numbers.eq(1..=1_000), "seed {seed}");
        assert_eq!(rig.shards[0].condition(), Condition::Serving);
    }
}

#[test]
fn who_does_not_know_the_appliance_is_not_answered_at_all() {
    let mut rig = rig(1, quiet());
    let publisher = rig.client(Publisher::New);
    rig.create(publisher, "orders");
    rig.security = crate::client::Security::Plain;
    let plain = rig.client(Publisher::New);
    let mut keys = crate::testing::sealed::keys(1);
    keys.server.0[3] ^= 1;
    rig.security = crate::client::Security::Sealed(keys.into());
    let mistaken = rig.client(Publisher::New);
    for stranger in [plain, mistaken] {
        rig.net.watch_stranger(rig.clients[stranger].local());
    }
    for _ in 0..200_000 {
        rig.turn();
    }
    for stranger in [plain, mistaken] {
        assert!(!rig.clients[stranger].is_connected());
        assert_eq!(rig.net.sent_to(rig.clients[stranger].local()), 0, "not even a refusal");
    }
    assert!(rig.shards[0].counters().get(Counter::DroppedInits) > 0);
    assert_eq!(rig.shards[0].sessions(), 1);
}

#[test]
fn a_key_that_nobody_gave_a_right_is_told_so_and_has_no_session() {
    let mut rig = rig(2, quiet());
    let stranger = client_as(&mut rig, 9, Publisher::New);
    assert!(matches!(failure(&mut rig, stranger), ClientError::UnknownKey { .. }));
    assert_eq!(rig.shards[0].sessions(), 0);
}

#[test]
fn each_may_do_what_it_has_a_right_to() {
    let mut rig = rig(3, quiet());
    let gateway = rig.client(Publisher::New);
    let own = rig.create(gateway, "orders.1");
    let other = rig.create(gateway, "trades");
    let reader = client_as(&mut rig, 2, Publisher::No);
    for request in [Request::CreateStream("orders.2".into()), Request::TrimStream(own, 1)] {
        let answer = rig.ask(reader, request);
        assert!(matches!(answer, Event::Refused { code: ErrorCode::NotAuthorized, .. }));
    }
    let publishing = client_as(&mut rig, 2, Publisher::New);
    assert_eq!(refused(&failure(&mut rig, publishing)), Some(ErrorCode::NotAuthorized));
    let desk = client_as(&mut rig, 3, Publisher::New);
    rig.until("it is there", |rig| rig.clients[desk].is_connected());
    // What it may do nothing with, it does not see.
    let asked = rig.clients[desk].request(Request::ListStreams);
    let mut seen = Vec::new();
    rig.until("streams are listed", |rig| {
        while let Some(event) = rig.clients[desk].next_event() {
            if let Event::Stream { info, .. } = &event {
                seen.push(info.id);
            }
            if event == (Event::ListEnd { request: asked }) {
                return true;
            }
        }
        false
    });
    assert_eq!(seen, [own]);
    let answer = rig.ask(desk, Request::DescribeStream("trades".into()));
    assert!(matches!(answer, Event::Refused { code: ErrorCode::NotAuthorized, .. }));
    rig.clients[desk].subscribe(own, StartFrom::Start, 16);
    rig.until("it may not read", |rig| {
        let event = rig.clients[desk].next_event();
        matches!(event, Some(Event::Refused { code: ErrorCode::NotAuthorized, .. }))
    });
    rig.clients[desk].offer(own, b"an order").unwrap();
    rig.until("it may publish there", |rig| rig.clients[desk].next_completion().is_some());
    rig.clients[desk].offer(other, b"a trade").unwrap();
    let error = failure(&mut rig, desk);
    assert_eq!(refused(&error), Some(ErrorCode::NotAuthorized));
    let log = rig.shards[0].log();
    assert_eq!(log.stream(other).unwrap().durable_next, 1, "nothing came of it");
}

#[test]
fn a_producer_is_its_identitys() {
    let mut rig = rig(4, quiet());
    let gateway = rig.client(Publisher::New);
    rig.create(gateway, "orders.1");
    let (producer, _) = rig.clients[gateway].producer();
    let thief = client_as(&mut rig, 3, Publisher::Known(producer));
    assert_eq!(refused(&failure(&mut rig, thief)), Some(ErrorCode::UnknownProducer));
    assert!(rig.clients[gateway].is_connected());
    let name = ProducerName::new("gateway").unwrap();
    let named = client_as(&mut rig, 3, Publisher::Named { name, take_over: true });
    assert_eq!(refused(&failure(&mut rig, named)), Some(ErrorCode::NotAuthorized));
}

#[test]
fn what_is_changed_repeated_or_in_the_clear_changes_nothing() {
    let mut rig = rig(5, quiet());
    let publisher = rig.client(Publisher::New);
    let stream = rig.create(publisher, "orders");
    rig.net.keep_datagrams(true);
    rig.clients[publisher].offer(stream, b"an order").unwrap();
    rig.until("it is stored", |rig| rig.clients[publisher].next_completion().is_some());
    let kept = rig.net.kept();
    rig.net.keep_datagrams(false);
    let (from, to) = (rig.clients[publisher].local(), address(1));
    let before = rig.shards[0].counters().clone();
    for datagram in &kept {
        rig.net.inject(from, to, datagram);
        for at in [1, 4, 9, 20, datagram.len() - 1] {
            let mut changed = datagram.clone();
            changed[at] ^= 1;
            rig.net.inject(from, to, &changed);
        }
        let mut plain = datagram.clone();
        plain[0] = 0x17;
        rig.net.inject(from, to, &plain);
    }
    for _ in 0..2_000 {
        rig.turn();
    }
    let now = rig.shards[0].counters();
    let more = |counter| now.get(counter) - before.get(counter);
    assert!(more(Counter::DroppedForged) > 0 && more(Counter::DroppedRepeated) > 0);
    assert_eq!(more(Counter::MessagesDuplicate), 0, "not even looked at");
    assert_eq!(more(Counter::SessionsClosed), 0);
    rig.clients[publisher].offer(stream, b"another").unwrap();
    rig.until("it goes on", |rig| rig.clients[publisher].next_completion().is_some());
    assert_eq!(rig.shards[0].log().stream(stream).unwrap().durable_next, 3);
}

/// With an answer a stranger could make its client believe that the session is gone.
#[test]
fn who_names_the_session_of_another_is_not_answered() {
    let mut rig = rig(10, quiet());
    let publisher = rig.client(Publisher::New);
    rig.create(publisher, "orders");
    let (_, conn_id) = rig.clients[publisher].session();
    rig.net.watch_stranger(address(50));
    for kind in [0x16, 0x17] {
        let mut datagram = vec![kind, 0, 9, 0, 0, 0, 0, 0];
        datagram.extend(conn_id.0.to_le_bytes());
        datagram.resize(100, 1);
        rig.net.inject(address(50), address(1), &datagram);
    }
    for _ in 0..1_000 {
        rig.turn();
    }
    assert_eq!(rig.net.sent_to(address(50)), 0);
    assert_eq!(rig.shards[0].counters().get(Counter::DroppedUnknownSession), 2);
}

fn without(names: &[&str]) -> Access {
    let all = access();
    let left = all.identities().iter().filter(|of| !names.contains(&of.name.as_str())).cloned();
    Access::new(left.collect(), Rights::none()).unwrap()
}

#[test]
fn who_is_revoked_is_told_so_and_nobody_else_notices() {
    let mut rig = rig(6, quiet());
    let publisher = rig.client(Publisher::New);
    let stream = rig.create(publisher, "orders");
    let reader = client_as(&mut rig, 2, Publisher::No);
    rig.clients[reader].subscribe(stream, StartFrom::Start, 16);
    rig.until("it is there", |rig| rig.clients[reader].is_connected());
    rig.house.as_mut().unwrap().set_access(without(&["reader"]));
    assert_eq!(refused(&failure(&mut rig, reader)), Some(ErrorCode::Revoked));
    rig.clients[publisher].offer(stream, b"an order").unwrap();
    rig.until("it is stored", |rig| rig.clients[publisher].next_completion().is_some());
    assert_eq!(rig.shards[0].sessions(), 1);
    let again = client_as(&mut rig, 2, Publisher::No);
    assert!(matches!(failure(&mut rig, again), ClientError::UnknownKey { .. }));
}

#[test]
fn a_right_that_is_taken_away_ends_what_it_allowed() {
    let mut rig = rig(7, quiet());
    let publisher = rig.client(Publisher::New);
    let stream = rig.create(publisher, "orders");
    let reader = client_as(&mut rig, 2, Publisher::No);
    rig.clients[reader].subscribe(stream, StartFrom::Start, 16);
    rig.clients[publisher].offer(stream, b"an order").unwrap();
    rig.until("it is delivered", |rig| rig.received[reader].len() == 1);
    let identities = vec![
        identity("gateway", 1, Rights { subscribe: streams(&["*"]), ..Rights::none() }),
        identity("reader", 2, Rights { subscribe: streams(&["trades"]), ..Rights::none() }),
    ];
    let fewer = Access::new(identities, Rights::none()).unwrap();
    rig.house.as_mut().unwrap().set_access(fewer);
    rig.until("the reader is told", |rig| {
        let event = rig.clients[reader].next_event();
        matches!(event, Some(Event::Refused { code: ErrorCode::NotAuthorized, .. }))
    });
    assert_eq!(rig.shards[0].stations.fanout.len(), 0);
    rig.clients[publisher].offer(stream, b"another").unwrap();
    assert_eq!(refused(&failure(&mut rig, publisher)), Some(ErrorCode::NotAuthorized));
    assert_eq!(rig.shards[0].log().stream(StreamId(1)).unwrap().durable_next, 2);
}

/// Whoever answers handshakes stands still: those that are there go on, and nothing is lost when it goes on.
#[test]
fn without_anybody_who_answers_handshakes_sessions_go_on_and_others_wait() {
    let mut rig = rig(8, quiet());
    let publisher = rig.client(Publisher::New);
    let stream = rig.create(publisher, "orders");
    let house = rig.house.take();
    let late: Vec<_> = (0..100).map(|_| rig.client(Publisher::No)).collect();
    for _ in 0..50_000 {
        rig.turn();
    }
    rig.clients[publisher].offer(stream, b"an order").unwrap();
    rig.until("it is stored", |rig| rig.clients[publisher].next_completion().is_some());
    assert_eq!(rig.shards[0].sessions(), 1);
    rig.house = house;
    rig.turn();
    rig.turn();
    assert_eq!(rig.shards[0].sessions(), 1 + HANDSHAKES_A_TURN, "so many a turn");
    rig.until("all are there", |rig| late.iter().all(|&late| rig.clients[late].is_connected()));
    assert_eq!(rig.shards[0].sessions(), 101);
}

#[test]
fn a_message_of_the_largest_size_is_taken_and_delivered_sealed() {
    let mut rig = rig(9, quiet());
    let publisher = rig.client(Publisher::New);
    let stream = rig.create(publisher, "orders");
    let largest = rig.clients[publisher].message_bytes_max();
    let reader = client_as(&mut rig, 2, Publisher::No);
    rig.clients[reader].subscribe(stream, StartFrom::Start, 16);
    rig.clients[publisher].offer(stream, &vec![1; largest]).unwrap();
    assert!(rig.clients[publisher].offer(stream, &vec![1; largest + 1]).is_err());
    rig.until("it is delivered", |rig| rig.received[reader].len() == 1);
}
