//! What one client cannot do to the others, and what is told to it alone.

use zerocopy::{FromZeros, IntoBytes};

use super::*;
use crate::client::{ClientError, Event, OfferError, Publisher, SizeLimit, StartFrom};
use crate::fanout::Stop;
use crate::ids::{ConnId, ProducerId, StreamId};
use crate::limits::UNCONFIRMED_MAX;
use crate::port::memory::Faults;
use crate::testing::disk::TestDisk;
use crate::testing::rig::{Rig, address};
use crate::wire::control::{RegisterHead, Want};
use crate::wire::datagram::{Hello, Init, PACKET_NO_LAST};
use crate::wire::mac::MacKey;
use crate::wire::publish::{MessageHead, PublishHead};
use crate::wire::record::Signed;
use crate::wire::{Datagram, DatagramWriter, Kind, parse};

fn quiet() -> Faults {
    Faults { delay_ns: 1_000, ..Faults::default() }
}

/// The end of a client's subscription, as it is told.
fn told(rig: &mut Rig, client: usize) -> Event {
    let mut found = None;
    rig.until("the consumer is told", |rig| {
        while let Some(event) = rig.clients[client].next_event() {
            if matches!(event, Event::TooLarge { .. } | Event::DataLoss { .. }) {
                found = Some(event);
            }
        }
        found.is_some()
    });
    found.unwrap()
}

fn publish(rig: &mut Rig, publisher: usize, stream: StreamId, payloads: &[&[u8]]) {
    let before = rig.clients[publisher].next_seq();
    for payload in payloads {
        rig.clients[publisher].offer(stream, payload).unwrap();
    }
    let mut done = 0;
    rig.until("all is durable", |rig| {
        while rig.clients[publisher].next_completion().is_some() {
            done += 1;
        }
        done == payloads.len()
    });
    assert_eq!(rig.clients[publisher].next_seq() - before, payloads.len() as u64);
}

#[test]
fn a_message_too_large_for_one_consumer_stops_only_that_one() {
    let mut rig = Rig::new(1, quiet());
    let publisher = rig.client(Publisher::New);
    let stream = rig.create(publisher, "orders");
    publish(&mut rig, publisher, stream, &[b"small", &[7; 1000], b"last"]);
    let (small, large) = (rig.client_of(Publisher::No, 576), rig.client(Publisher::No));
    for consumer in [small, large] {
        rig.clients[consumer].subscribe(stream, StartFrom::Start, 16);
    }
    let event = told(&mut rig, small);
    let (needs, takes) = (16 + 4 + 24 + 48 + 1000, 576);
    let limit = SizeLimit::Client;
    assert_eq!(event, Event::TooLarge { stream, sequence: 2, needs, takes, limit });
    assert_eq!(rig.received[small].len(), 1, "what came before was delivered");
    rig.until("the other gets all", |rig| rig.received[large].len() == 3);
    assert_eq!(rig.shards[0].condition(), Condition::Serving);
    rig.until("the server forgets it", |rig| rig.shards[0].stations.fanout.len() == 1);
}

#[test]
fn what_ends_a_subscription_is_told_until_it_has_arrived() {
    for seed in 0..8 {
        let mut rig = Rig::new(seed, Faults { loss: 500, ..quiet() });
        let publisher = rig.client(Publisher::New);
        let stream = rig.create(publisher, "orders");
        publish(&mut rig, publisher, stream, &[b"small", &[7; 1000], b"last"]);
        let small = rig.client_of(Publisher::No, 576);
        rig.clients[small].subscribe(stream, StartFrom::Start, 16);
        assert!(matches!(told(&mut rig, small), Event::TooLarge { sequence: 2, .. }));
        let other = rig.client(Publisher::No);
        rig.clients[other].subscribe(stream, StartFrom::Start, 1);
        rig.until("it has all there is", |rig| rig.received[other].len() == 3);
        let stations = &mut rig.shards[0].stations;
        // The one that was not stopped yet.
        let is_other = |at: &usize| stations.fanout.get(*at).cursor.stopped().is_none();
        let index = (0..stations.fanout.len()).find(is_other).unwrap();
        let cursor = &mut stations.fanout.get_mut(index).cursor;
        let first = cursor.next();
        cursor.stop(Stop::Damaged { first, last: first });
        let event = told(&mut rig, other);
        assert_eq!(event, Event::DataLoss { stream, first, last: first });
        assert_eq!(rig.received[other].len() as u64, first - 1, "all before it was delivered");
    }
}

#[test]
fn a_restart_with_smaller_datagrams_serves_on() {
    let mut rig = Rig::new(2, quiet());
    let publisher = rig.client(Publisher::New);
    let stream = rig.create(publisher, "orders");
    let other = rig.create(publisher, "others");
    publish(&mut rig, publisher, stream, &[b"small", &[7; 1000], b"last"]);
    rig.datagram_bytes = 576;
    rig.crash();
    publish(&mut rig, publisher, other, &[b"it goes on"]);
    let consumer = rig.client(Publisher::No);
    rig.clients[consumer].subscribe(stream, StartFrom::Start, 16);
    let event = told(&mut rig, consumer);
    assert!(matches!(event, Event::TooLarge { takes: 576, limit: SizeLimit::Server, .. }));
    rig.clients[consumer].subscribe(stream, StartFrom::Sequence(3), 16);
    rig.clients[consumer].subscribe(other, StartFrom::Start, 16);
    rig.until("the rest is delivered", |rig| rig.received[consumer].len() == 3);
    assert_eq!(rig.shards[0].condition(), Condition::Serving);
    let refused = rig.clients[publisher].offer(stream, &[7; 1000]);
    assert!(matches!(refused, Err(OfferError::TooLarge { limit: SizeLimit::Server, .. })));
}

#[test]
fn what_waits_and_fits_no_datagram_of_the_server_any_more_is_an_error() {
    let mut rig = Rig::new(3, quiet());
    let publisher = rig.client(Publisher::New);
    let stream = rig.create(publisher, "orders");
    rig.net.set_cut(address(1), true);
    rig.clients[publisher].offer(stream, &[7; 1000]).unwrap();
    rig.turn();
    rig.datagram_bytes = 576;
    rig.crash();
    rig.net.set_cut(address(1), false);
    let mut client = rig.take(publisher);
    let error = (0..2_000_000).find_map(|_| {
        rig.turn();
        client.poll(&mut |_| {}).err()
    });
    assert!(matches!(error, Some(ClientError::TooLarge { bytes: 1000, .. })), "{error:?}");
}

#[test]
fn a_publisher_with_small_datagrams_or_a_small_window_is_told() {
    let mut rig = Rig::new(4, quiet());
    let small = rig.client_of(Publisher::New, 576);
    let stream = rig.create(small, "orders");
    let max = 576 - 16 - 4 - 16 - 12;
    let refused = rig.clients[small].offer(stream, &vec![1; max + 1]);
    let limit = SizeLimit::Client;
    assert_eq!(refused, Err(OfferError::TooLarge { bytes: max + 1, max, limit }));
    assert!(refused.unwrap_err().to_string().contains("client.port.datagram_bytes"));
    publish(&mut rig, small, stream, &[&vec![1; max]]);
}

/// A datagram with one message of a session, of a number it has not used.
fn lone_message(
    conn_id: ConnId,
    packet_no: u64,
    producer_id: ProducerId,
    payload: &[u8],
) -> Vec<u8> {
    let (stream, flags, ext_len) = (StreamId(1), 0, 0);
    let signed = Signed { producer_id, producer_seq: 1, stream, flags, ext_len };
    let mut head = PublishHead::new_zeroed();
    (head.stream, head.count, head.first_seq) = (1.into(), 1.into(), 1.into());
    let mut message = MessageHead::new_zeroed();
    message.len = u16::try_from(payload.len()).unwrap().into();
    message.crc32c = signed.crc32c(payload).into();
    let mut room = vec![0; 1472];
    let mut writer = DatagramWriter::new(&mut room, conn_id, packet_no);
    let tail = [message.as_bytes(), payload].concat();
    assert!(writer.frame(Kind::Publish, head.as_bytes(), &tail));
    let len = writer.len();
    room.truncate(len);
    room
}

#[test]
fn a_message_over_the_announced_maximum_is_not_taken() {
    let mut rig = Rig::new(5, quiet());
    let publisher = rig.client(Publisher::New);
    rig.create(publisher, "orders");
    let max = rig.clients[publisher].message_bytes_max();
    let (_, conn_id) = rig.clients[publisher].session();
    let producer = rig.clients[publisher].producer().0;
    let from = rig.clients[publisher].local();
    let taken = |rig: &Rig| rig.shards[0].log().stream(StreamId(1)).unwrap().next_sequence;
    rig.net.inject(from, address(1), &lone_message(conn_id, 1_001, producer, &vec![1; max + 1]));
    rig.clock.advance_ns(10_000);
    rig.shards[0].turn();
    assert_eq!(taken(&rig), 1, "one byte more than announced");
    rig.clock.advance_ns(10_000);
    let error = rig.clients[publisher].poll(&mut |_| {}).unwrap_err();
    let (bytes, limit) = (max + 1, SizeLimit::Server);
    assert_eq!(error, ClientError::TooLarge { bytes, max, limit });
    rig.net.inject(from, address(1), &lone_message(conn_id, 1_002, producer, &vec![1; max]));
    rig.clock.advance_ns(10_000);
    rig.shards[0].turn();
    assert_eq!(taken(&rig), 2, "just what was announced");
}

#[test]
fn every_publisher_of_many_gets_the_largest_message_through() {
    let mut rig = Rig::new(6, quiet());
    rig.datagram_bytes = crate::limits::DATAGRAM_BYTES_MAX;
    rig.restart_on(TestDisk::formatted(64 << 20));
    let one = rig.client_of(Publisher::New, rig.datagram_bytes);
    let stream = rig.create(one, "orders");
    // So many that an even share of what may be in flight is less than a message.
    rig.shards[0].stations.publishers.pretend(1_000);
    let max = rig.clients[one].message_bytes_max();
    for _ in 0..3 {
        publish(&mut rig, one, stream, &[&vec![1; max]]);
    }
}

#[test]
fn a_register_in_a_session_that_is_open_is_nothing() {
    let mut rig = Rig::new(7, quiet());
    let publisher = rig.client(Publisher::New);
    let stream = rig.create(publisher, "orders");
    publish(&mut rig, publisher, stream, &[b"one"]);
    let from = rig.clients[publisher].local();
    let (id, epoch) = rig.clients[publisher].producer();
    let (_, conn_id) = rig.clients[publisher].session();
    for (packet_no, held) in [(1_001, 0), (1_002, epoch), (1_003, epoch + 1)] {
        let mut register = RegisterHead::new_zeroed();
        register.request = 4_711.into();
        register.want = (Want::Known as u16).into();
        register.producer_id = id.0.into();
        register.producer_epoch = held.into();
        register.datagram_bytes = 1472.into();
        let mut room = vec![0; 16 + 4 + 72];
        let mut writer = DatagramWriter::new(&mut room, conn_id, packet_no);
        assert!(writer.frame(Kind::Register, register.as_bytes(), &[]));
        rig.net.inject(from, address(1), &room);
        publish(&mut rig, publisher, stream, &[b"more"]);
    }
    assert_eq!(rig.clients[publisher].producer(), (id, epoch));
    assert_eq!(rig.shards[0].sessions(), 1);
}

#[test]
fn who_does_not_receive_where_it_says_it_is_takes_no_place() {
    let mut rig = Rig::new(9, quiet());
    let early = rig.client(Publisher::New);
    let stream = rig.create(early, "orders");
    let key = MacKey::of_server(&[0; 32]);
    for number in 1..=2_000 {
        let mut cookie = [0; 16];
        cookie[0] = u8::try_from(number % 256).unwrap();
        let init = Init::plain(ConnId(number), cookie, Hello::new(1, 1472, number.into()));
        rig.net.inject(address(50), address(1), init.with_mac(&key).as_bytes());
        if number % 16 == 0 {
            rig.turn();
        }
    }
    assert_eq!(rig.shards[0].sessions(), 1);
    let late = rig.client(Publisher::New);
    rig.until("it is let in", |rig| rig.clients[late].is_connected());
    for client in [early, late] {
        publish(&mut rig, client, stream, &[b"served"]);
    }
}

#[test]
fn who_takes_places_and_does_not_use_them_keeps_few_and_not_for_long() {
    let mut rig = Rig::new(9, quiet());
    let early = rig.client(Publisher::New);
    let stream = rig.create(early, "orders");
    let port = rig.net.port(address(50), 1472);
    let mut port: Box<dyn crate::port::Port> = Box::new(port);
    let key = MacKey::of_server(&[0; 32]);
    let init = |number, cookie| {
        let init = Init::plain(ConnId(number), cookie, Hello::new(1, 1472, number.into()));
        init.with_mac(&key)
    };
    rig.net.inject(address(50), address(1), init(1, [0; 16]).as_bytes());
    let mut cookie = None;
    rig.until("it is given a cookie", |_| {
        for index in 0..port.receive() {
            if let Ok(Datagram::Retry(retry)) = parse(port.datagram(index).1) {
                cookie = Some(retry.cookie);
            }
        }
        cookie.is_some()
    });
    for number in 1..=500 {
        rig.net.inject(address(50), address(1), init(number, cookie.unwrap()).as_bytes());
        if number % 8 == 0 {
            rig.turn();
        }
    }
    assert_eq!(rig.shards[0].sessions(), 1 + UNCONFIRMED_MAX);
    let late = rig.client(Publisher::New);
    rig.until("it is let in", |rig| rig.clients[late].is_connected());
    for client in [early, late] {
        publish(&mut rig, client, stream, &[b"served"]);
    }
    rig.until("they are forgotten", |rig| {
        rig.clock.advance_ns(5_000_000);
        rig.shards[0].sessions() == 2
    });
}

#[test]
fn a_client_that_is_dropped_leaves_no_session() {
    let mut rig = Rig::new(8, quiet());
    for _ in 0..20 {
        let client = rig.client(Publisher::New);
        rig.until("it is connected", |rig| rig.clients[client].is_connected());
        drop(rig.clients.pop());
        rig.received.pop();
    }
    rig.turn();
    rig.turn();
    assert_eq!(rig.shards[0].sessions(), 0);
}

/// Also in the first second of its process, whose clock begins at zero.
#[test]
fn a_client_shows_at_once_that_it_knows_of_its_session() {
    let mut rig = Rig::new(1, quiet());
    let client = rig.client(Publisher::New);
    rig.until("it has a session", |rig| rig.clients[client].is_connected());
    for _ in 0..10 {
        rig.turn();
    }
    let sessions = &rig.shards[0].stations.sessions;
    assert!(sessions.in_use().all(|(_, session)| session.proven), "it knows its producer");
}

#[test]
fn a_session_whose_numbers_are_used_up_gives_way_to_another() {
    let mut rig = Rig::new(1, quiet());
    let client = rig.client(Publisher::New);
    let stream = rig.create(client, "orders");
    let before = rig.clients[client].session();
    let (slot, _) = rig.shards[0].stations.sessions.in_use().next().unwrap();
    rig.shards[0].stations.sessions.get_mut(slot).packet_no = PACKET_NO_LAST;
    rig.until("it has another", |rig| {
        let _ = rig.clients[client].offer(stream, b"goes on");
        rig.clients[client].session() != before && rig.clients[client].is_connected()
    });
    rig.until("nothing is lost", |rig| {
        while rig.clients[client].next_completion().is_some() {}
        rig.clients[client].outstanding() == 0
    });
    assert_eq!(rig.shards[0].sessions(), 1);
}
