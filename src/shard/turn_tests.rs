//! What a turn does at most: what is beyond waits for the next ones, and nobody is left out.

use super::commit::new_completions;
use super::deliver::locate;
use super::*;
use crate::client::Publisher;
use crate::disk::{Io, Operation};
use crate::fanout::{Begin, Cursor, Subscription};
use crate::ids::{Peer, StreamId};
use crate::limits::{
    BATCHES_A_TURN, BLOCK_BYTES, COMPLETIONS_A_TURN, DATAGRAMS_A_TURN, GAPS_A_TURN, REQUESTS_MAX,
    SESSIONS_MAX, SLOTS_AN_AUDIT, SUBSCRIPTIONS_A_TURN, SUBSCRIPTIONS_MAX, TIMERS_A_TURN,
};
use crate::metrics::Counter;
use crate::port::memory::Faults;
use crate::position::{DiskOffset, SessionSlot};
use crate::testing::disk::TestDisk;
use crate::testing::rig::{Rig, address};
use crate::wire::samples::all;
use crate::wire::{DATAGRAM_HEADER_BYTES, Kind};

/// Opens so many sessions of clients that say nothing.
fn open(rig: &mut Rig, count: usize) -> Vec<SessionSlot> {
    rig.turn();
    let stations = &mut rig.shards[0].stations;
    let peer = Peer::ip_only(address(9));
    (0..count as u64).map(|number| stations.silent(peer, number)).collect()
}

/// Subscribes a session to a stream, to be served from the batch that holds sequence `begins` on.
fn subscribe(rig: &mut Rig, slot: SessionSlot, stream: StreamId, (begins, first): (u64, u64)) {
    let Stations { sessions, fanout, log, now, .. } = &mut rig.shards[0].stations;
    let mut cursor = Cursor::new(stream, Begin::Sequence(first), 1_000);
    locate(log, &mut cursor);
    cursor.go_to(log.locate(stream, begins).log_off);
    assert!(fanout.add(Subscription::new(slot, 1, cursor, now.monotonic_ns)));
    sessions.get_mut(slot).subscriptions += 1;
}

/// Sequences that subscriptions were sent, each.
fn sent(rig: &Rig) -> Vec<u64> {
    let fanout = &rig.shards[0].stations.fanout;
    (0..fanout.len())
        .map(|index| &fanout.get(index).cursor)
        .map(|at| at.next() - at.start())
        .collect()
}

/// Publishes a message, in a batch of its own.
fn publish(rig: &mut Rig, client: usize, stream: StreamId, payload: &[u8]) {
    rig.until("the message is taken", |rig| rig.clients[client].offer(stream, payload).is_ok());
    rig.until("the message is durable", |rig| rig.clients[client].next_completion().is_some());
}

#[test]
fn completions_that_a_turn_does_not_take_are_there_in_the_next() {
    let mut disk = TestDisk::formatted(12 << 20);
    for number in 0..=COMPLETIONS_A_TURN {
        let memory_offset = number * BLOCK_BYTES;
        let (operation, tag) = (Operation::Read, number as u64);
        disk.submit(Io {
            operation,
            tag,
            disk_offset: DiskOffset::START,
            memory_offset,
            bytes: BLOCK_BYTES,
        })
        .unwrap();
    }
    let mut done = new_completions();
    let counts = [(); 3].map(|()| disk.poll(&mut done));
    assert_eq!(counts, [COMPLETIONS_A_TURN, 1, 0]);
}

#[test]
fn gaps_that_a_turn_does_not_report_are_reported_soon() {
    let mut rig = Rig::new(1, Faults::default());
    let slots = open(&mut rig, GAPS_A_TURN + 1);
    let stations = &mut rig.shards[0].stations;
    for &slot in &slots {
        let now_ns = stations.now.monotonic_ns;
        stations.sessions.get_mut(slot).receiver.saw_sent_to(5, now_ns);
        stations.publishers.note_gap(slot);
    }
    let naks = |rig: &Rig| rig.shards[0].counters().get(Counter::NaksSent);
    rig.turn();
    assert_eq!(naks(&rig), GAPS_A_TURN as u64);
    // The acknowledgements beside them fill the next burst; long before any gap is reported again there is room.
    (0..5).for_each(|_| rig.turn());
    assert_eq!(naks(&rig), GAPS_A_TURN as u64 + 1, "each once");
}

#[test]
fn a_turn_serves_so_many_subscriptions_and_the_next_one_the_others() {
    let mut rig = Rig::new(1, Faults::default());
    let publisher = rig.client(Publisher::New);
    let stream = rig.create(publisher, "orders");
    publish(&mut rig, publisher, stream, b"one");
    for slot in open(&mut rig, SUBSCRIPTIONS_A_TURN + 1) {
        subscribe(&mut rig, slot, stream, (1, 1));
    }
    for served in [SUBSCRIPTIONS_A_TURN, SUBSCRIPTIONS_A_TURN + 1] {
        rig.turn();
        assert_eq!(sent(&rig).iter().filter(|count| **count == 1).count(), served);
    }
}

#[test]
fn a_turn_sends_a_subscription_so_many_datagrams() {
    let mut rig = Rig::new(1, Faults::default());
    let publisher = rig.client(Publisher::New);
    let stream = rig.create(publisher, "orders");
    // One fits a datagram, two do not.
    (0..=DATAGRAMS_A_TURN).for_each(|_| publish(&mut rig, publisher, stream, &[1; 400]));
    let slot = open(&mut rig, 1)[0];
    subscribe(&mut rig, slot, stream, (1, 1));
    for count in [DATAGRAMS_A_TURN as u64, DATAGRAMS_A_TURN as u64 + 1] {
        rig.turn();
        assert_eq!(sent(&rig), [count]);
    }
}

#[test]
fn a_turn_looks_for_a_subscription_at_so_many_batches_and_the_next_one_goes_on() {
    let mut rig = Rig::new(1, Faults::default());
    let publisher = rig.client(Publisher::New);
    let streams = [rig.create(publisher, "orders"), rig.create(publisher, "trades")];
    publish(&mut rig, publisher, streams[1], b"one");
    (0..BATCHES_A_TURN).for_each(|_| publish(&mut rig, publisher, streams[0], b"other"));
    publish(&mut rig, publisher, streams[1], b"two");
    let slot = open(&mut rig, 1)[0];
    subscribe(&mut rig, slot, streams[1], (1, 2));
    for count in [0, 1] {
        rig.turn();
        assert_eq!(sent(&rig), [count]);
    }
}

#[test]
fn a_turn_looks_at_the_timers_of_so_many_sessions_and_comes_round_to_all() {
    let mut rig = Rig::new(1, Faults::default());
    open(&mut rig, SESSIONS_MAX);
    rig.clock.advance_ns(60_000_000_000);
    for turns in 1..=SESSIONS_MAX / TIMERS_A_TURN {
        rig.turn();
        assert_eq!(rig.shards[0].sessions(), SESSIONS_MAX - turns * TIMERS_A_TURN);
    }
}

#[test]
#[should_panic(expected = "O13")]
#[cfg_attr(not(debug_assertions), ignore = "what may take time is looked at in debug builds")]
fn an_audit_finds_within_so_many_slots_what_does_not_agree() {
    let mut rig = Rig::new(1, Faults::default());
    rig.shards[0].stations.publishers.pretend(1);
    (0..SLOTS_AN_AUDIT / TIMERS_A_TURN).for_each(|_| rig.turn());
}

#[test]
fn a_datagram_registers_once() {
    let mut rig = Rig::new(1, Faults::default());
    rig.turn();
    let stations = &mut rig.shards[0].stations;
    let peer = Peer::ip_only(address(9));
    let slot = stations.confirmed(peer, 1);
    let conn_id = stations.sessions.get(slot).conn_id;
    let mut sample = all(1, 1).into_iter().find(|of| of.kind == Kind::Register).unwrap();
    // Publishes as nobody.
    sample.body[4] = 0;
    let mut bytes = sample.datagram(conn_id);
    sample.body[..4].copy_from_slice(&2_u32.to_le_bytes());
    bytes.extend(&sample.datagram(conn_id)[DATAGRAM_HEADER_BYTES..]);
    stations.on_datagram(peer, &mut bytes);
    assert_eq!(stations.outbox.get(0), Some(Reply::Registered { slot }));
    assert_eq!(stations.sessions.get(slot).answered.request, 1);
    assert_eq!(stations.outbox.get(1), None);
}

#[test]
fn a_session_has_so_many_subscriptions_and_is_told_why_it_gets_no_more() {
    let mut rig = Rig::new(1, Faults::default());
    let client = rig.client(Publisher::No);
    let names = (0..=SUBSCRIPTIONS_MAX).map(|number| format!("s{number}"));
    let streams: Vec<_> = names.map(|name| rig.create(client, &name)).collect();
    let slot = open(&mut rig, 1)[0];
    for (request, stream) in (1..).zip(streams) {
        let stations = &mut rig.shards[0].stations;
        stations.asks_to_subscribe(slot, request, stream.0);
        let (code, detail) = (ErrorCode::SubscriptionsFull, SUBSCRIPTIONS_MAX as u64);
        let expected = if request as usize <= SUBSCRIPTIONS_MAX {
            Reply::Subscribed { slot, sub: request }
        } else {
            Reply::Error { slot, code, request, detail }
        };
        assert_eq!(stations.outbox.get(0), Some(expected), "request {request}");
        stations.outbox.consume(1);
    }
}

#[test]
fn a_request_that_cannot_wait_for_its_record_is_counted() {
    let mut rig = Rig::new(1, Faults::default());
    let slot = open(&mut rig, 1)[0];
    let stations = &mut rig.shards[0].stations;
    for request in 0..=u32::try_from(REQUESTS_MAX).unwrap() {
        let name = format!("s{request}");
        stations.asks_to_create(slot, request, &name);
    }
    let dropped = stations.counters.get(Counter::RepliesDropped);
    assert_eq!((stations.requests.slots().count(), dropped), (REQUESTS_MAX, 1));
    let beyond = format!("s{REQUESTS_MAX}");
    assert!(stations.log.stream_being_made(&beyond).is_none(), "nothing was done for it");
    // Nor for who asks for one that is being made.
    stations.asks_to_create(slot, 9_999, "s0");
    assert_eq!(stations.counters.get(Counter::RepliesDropped), 2);
}
