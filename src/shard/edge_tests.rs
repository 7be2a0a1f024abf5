//! Every frame, with each of its numbers at each of its edges, to a shard and to a client in several states of
//! their sessions: both go on.

use super::*;
use crate::client::polled::Client;
use crate::client::{ClientOptions, Publisher, Request, Security, StartFrom};
use crate::clock::{Clock, ManualClock};
use crate::ids::{ConnId, Peer, ProducerId, StreamId};
use crate::port::memory::{Faults, MemoryPort};
use crate::seal::entropy::Entropy;
use crate::session::table::Phase;
use crate::testing::rig::{Rig, address};
use crate::wire::datagram::{DatagramHeader, RESET_CAUSE_BYTES, Reset, Retry, Versions};
use crate::wire::samples::{Sample, all};
use crate::wire::{DATAGRAM_HEADER_BYTES, Kind, Side};
use zerocopy::IntoBytes;

/// Who says it all.
const LIAR: u16 = 50;

/// How far the session has come in which a frame is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// There is none.
    Stranger,
    /// It is not registered.
    Registers,
    /// It has published, and something is in flight.
    Publishes,
    /// It has a subscription.
    Consumes,
    /// It has both, and was silent since it was opened.
    Idle,
}

const STATES: [State; 5] =
    [State::Stranger, State::Registers, State::Publishes, State::Consumes, State::Idle];

/// A session of the liar in this state, opened anew where a frame has ended the last one. Its datagrams have `numbers`.
fn session(
    rig: &mut Rig,
    state: State,
    sample: &dyn Fn(Kind) -> Sample,
    numbers: &mut u64,
) -> ConnId {
    if state == State::Stranger {
        return ConnId(0x1234_5678);
    }
    let of_liar = |rig: &Rig| {
        let sessions = &rig.shards[0].stations.sessions;
        let open = |session: &crate::session::table::Session| {
            session.peer.addr == address(LIAR) && session.phase == Phase::Open
        };
        sessions.in_use().find(|(_, session)| open(session)).map(|(_, session)| session.conn_id)
    };
    if let Some(conn_id) = of_liar(rig) {
        return conn_id;
    }
    let mut say = |rig: &Rig, conn_id, kind| {
        *numbers += 1;
        rig.net.inject(address(LIAR), address(1), &sample(kind).numbered(conn_id, *numbers));
    };
    let peer = Peer::ip_only(address(LIAR));
    let stations = &mut rig.shards[0].stations;
    let slot = stations.confirmed(peer, stations.now.monotonic_ns);
    let conn_id = stations.sessions.get(slot).conn_id;
    if state == State::Registers {
        return conn_id;
    }
    rig.until("the liar has a session", |rig| {
        say(rig, conn_id, Kind::Register);
        rig.turn();
        of_liar(rig).is_some()
    });
    if state == State::Publishes || state == State::Idle {
        say(rig, conn_id, Kind::Publish);
    }
    if state == State::Consumes || state == State::Idle {
        say(rig, conn_id, Kind::Subscribe);
    }
    for _ in 0..if state == State::Idle { 20 } else { 1 } {
        rig.turn();
    }
    conn_id
}

#[test]
fn a_shard_stands_every_number_of_every_frame() {
    for state in STATES {
        let mut numbers = 0;
        let mut rig = Rig::new(1, Faults { delay_ns: 1_000, ..Faults::default() });
        let honest = rig.client(Publisher::New);
        let stream = rig.create(honest, "orders");
        let samples = all(stream.0, 2);
        let sample = |kind| samples.iter().find(|sample| sample.kind == kind).unwrap().clone();
        for frame in
            samples.iter().flat_map(|sample| [sample.clone()].into_iter().chain(sample.at_edges()))
        {
            // A trim or a registration is durable: the log is to last for all of them.
            let conn_id = session(&mut rig, state, &sample, &mut numbers);
            numbers += 1;
            rig.net.inject(address(LIAR), address(1), &frame.numbered(conn_id, numbers));
            rig.clock.advance_ns(20_000_000);
            rig.turn();
            let condition = rig.shards[0].condition();
            assert_eq!(condition, Condition::Serving, "{state:?}: {frame:?}");
        }
        let seq = rig.clients[honest].offer(stream, b"still here").unwrap();
        rig.until("an honest publisher is served", |rig| {
            rig.clients[honest].next_completion().is_some_and(|done| done.producer_seq == seq)
        });
    }
}

/// A client in a state of its session, with a server that knows it.
fn victim(rig: &mut Rig, state: State, stream: StreamId) -> Client<MemoryPort, ManualClock> {
    // One producer for all of them: the table of a shard has an end.
    let publisher = match state {
        State::Consumes => Publisher::No,
        State::Stranger | State::Registers | State::Publishes | State::Idle => {
            Publisher::Known(ProducerId(2))
        }
    };
    let options = ClientOptions {
        publisher,
        window_messages: 64,
        window_bytes: 4 << 10,
        dead_after_ns: 10_000_000_000,
        security: Security::Plain,
        entropy: Entropy::seeded(rig.clock.now_ns()),
    };
    let port = rig.net.port(address(60), 1472);
    let mut client = Client::new(port, rig.clock.clone(), address(1), options);
    if state == State::Stranger {
        return client;
    }
    for _ in 0..1_000 {
        rig.turn();
        client.poll(&mut |_| {}).unwrap();
        let registers = state == State::Registers && client.session().1.0 != 0;
        if registers || client.is_connected() {
            break;
        }
    }
    if state == State::Registers {
        assert!(!client.is_connected());
        return client;
    }
    assert!(client.is_connected(), "{state:?}");
    if state != State::Consumes {
        client.offer(stream, b"one more").unwrap();
        client.offer(stream, b"and another").unwrap();
    }
    if state != State::Publishes {
        client.subscribe(stream, StartFrom::Start, 16);
    }
    client.request(Request::DescribeStream("orders".into()));
    client.request(Request::ListStreams);
    for _ in 0..if state == State::Idle { 8 } else { 1 } {
        client.poll(&mut |_| {}).unwrap();
        rig.turn();
    }
    client
}

#[test]
fn a_client_stands_every_number_of_every_frame() {
    for state in STATES {
        let mut numbers = 1 << 20;
        let mut rig = Rig::new(2, Faults::default());
        let honest = rig.client(Publisher::New);
        let stream = rig.create(honest, "orders");
        for n in 0..8u8 {
            rig.clients[honest].offer(stream, &[n; 8]).unwrap();
        }
        let second = rig.client(Publisher::New);
        rig.until("there is a second producer", |rig| rig.clients[second].is_connected());
        assert_eq!(rig.clients[second].producer().0, ProducerId(2));
        drop(rig.clients.pop());
        rig.received.pop();
        let mut client = victim(&mut rig, state, stream);
        for sample in all(stream.0, 1) {
            for frame in [sample.clone()].into_iter().chain(sample.at_edges()) {
                let (conn_id, _) = client.session();
                numbers += 1;
                rig.net.inject(address(1), address(60), &frame.numbered(conn_id, numbers));
                let mut over = false;
                for _ in 0..2 {
                    rig.clock.advance_ns(3_000_000);
                    over |=
                        client.poll(&mut |record| assert!(record.payload.len() < 1472)).is_err();
                    while client.next_completion().is_some() {}
                    while client.next_event().is_some() {}
                    let _ = client.offer(stream, b"12345678");
                }
                assert!(client.position(stream) <= crate::limits::NUMBER_MAX);
                // A forged word may end a client: the next one has another.
                let is_new = matches!(state, State::Stranger | State::Registers);
                if over || client.server() != address(1) || is_new {
                    drop(client);
                    client = victim(&mut rig, state, stream);
                }
            }
        }
    }
}

#[test]
fn nothing_that_reports_an_error_is_answered() {
    let mut rig = Rig::new(3, Faults::default());
    let honest = rig.client(Publisher::No);
    rig.until("it is connected", |rig| rig.clients[honest].is_connected());
    // It says that it has heard of its session, and is answered.
    for _ in 0..10 {
        rig.turn();
    }
    let peer = Peer::ip_only(address(LIAR));
    let stations = &mut rig.shards[0].stations;
    let known = stations.silent(peer, 9);
    let known = stations.sessions.get(known).conn_id;
    // One that was made here, as for a session that is gone; others can make none.
    let gone = stations.sessions.new_id();
    let answers = |rig: &mut Rig, bytes: &[u8]| {
        let before = rig.net.hits().sent;
        rig.net.inject(address(LIAR), address(1), bytes);
        let shard = &mut rig.shards[0];
        shard.turn();
        shard.turn();
        rig.net.hits().sent - before - 1
    };
    for (sample, packet_no) in all(1, 1).into_iter().zip(1..) {
        let made_up = sample.datagram(ConnId(gone.0 ^ 1 << 63));
        assert_eq!(answers(&mut rig, &made_up), 0, "{:?} in one that never was", sample.kind);
        let datagram = sample.datagram(gone);
        // By RESET, which is smaller and is not answered.
        let expected = u64::from(datagram.len() >= RESET_CAUSE_BYTES);
        assert_eq!(answers(&mut rig, &datagram), expected, "{:?} in no session", sample.kind);
        if !sample.kind.is_said_by(Side::Client) {
            let said = answers(&mut rig, &sample.numbered(known, packet_no));
            assert_eq!(said, 0, "{:?} in a session", sample.kind);
        }
    }
    for said in [
        Reset::new(ConnId(0x1234_5678), [1; 16]).as_bytes(),
        Retry::new(ConnId(7), [1; 16]).as_bytes(),
        reject(ConnId(7), ErrorCode::Busy, 1).as_bytes(),
        Versions::new(7).as_bytes(),
    ] {
        assert_eq!(answers(&mut rig, said), 0, "what only a server says: {said:?}");
    }
    let heartbeat = all(1, 1).into_iter().find(|sample| sample.kind == Kind::Heartbeat).unwrap();
    let mut heartbeat = heartbeat.numbered(known, 900);
    heartbeat[16 + 4 + 4] = 1;
    let many = [&heartbeat[..16], &heartbeat[16..].repeat(70)].concat();
    assert_eq!(answers(&mut rig, &many), 1, "70 heartbeats in a datagram are answered once");
}

#[test]
fn an_answer_to_subscribe_that_is_doubled_ends_no_consumer() {
    let mut rig = Rig::new(1, Faults { delay_ns: 1_000, ..Faults::default() });
    let publisher = rig.client(Publisher::New);
    let stream = rig.create(publisher, "orders");
    let consumer = rig.client(Publisher::No);
    rig.net.keep_datagrams(true);
    rig.clients[consumer].subscribe(stream, StartFrom::Start, 64);
    rig.until("it stands", |rig| rig.clients[consumer].position(stream) == 1);
    let says = |bytes: &[u8]| bytes.get(DATAGRAM_HEADER_BYTES) == Some(&(Kind::Subscribed as u8));
    let answer = rig.net.kept().into_iter().find(|bytes| says(bytes)).unwrap();
    for count in 1..=2 {
        rig.clients[publisher].offer(stream, b"more").unwrap();
        rig.until("it is consumed", |rig| rig.received[consumer].len() == count);
        // It says that nothing was durable, as was so when it was sent; in a datagram that has not come.
        let (conn_id, _) = rig.clients[consumer].session();
        let header = DatagramHeader::plain(conn_id, 900 + count as u64);
        let again = [header.as_bytes(), &answer[DATAGRAM_HEADER_BYTES..]].concat();
        rig.net.inject(address(1), rig.clients[consumer].local(), &again);
    }
    rig.turn();
    rig.turn();
    assert_eq!(rig.clients[consumer].position(stream), 3);
}
