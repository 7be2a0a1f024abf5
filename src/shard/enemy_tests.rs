//! What somebody on the way, or somebody with a key and few rights, tries against sealed sessions.

use zerocopy::{FromZeros, IntoBytes};

use super::sealed_tests::{access, client_as, quiet, rig};
use super::*;
use crate::access::{Access, IdentityId, Rights};
use crate::client::{ClientError, Publisher, Security as ClientSecurity};
use crate::ids::{ConnId, Peer, ProducerId, ProducerName, StreamId};
use crate::position::SessionSlot;
use crate::seal::keys::Rotation;
use crate::session::table::Requester;
use crate::testing::rig::{Rig, address};
use crate::testing::sealed::{House, server_key};
use crate::wire::control::{Register, RegisterHead, Want};
use crate::wire::datagram::Versions;
use crate::wire::mac::MacKey;
use crate::wire::publish::{MessageHead, Publish, PublishHead};
use crate::wire::record::Signed;
use crate::wire::{DatagramWriter, Kind};

/// A client that asks for a session, and is not answered yet; everybody on the way knows its number.
fn asking(seed: u64) -> (Rig, usize, Option<House>) {
    let mut rig = rig(seed, quiet());
    let house = rig.house.take();
    let victim = rig.client(Publisher::New);
    for _ in 0..10 {
        rig.turn();
    }
    (rig, victim, house)
}

/// In the appliance's name.
fn forge(rig: &mut Rig, victim: usize, datagram: &[u8]) {
    rig.net.inject(address(1), rig.clients[victim].local(), datagram);
    rig.turn();
    rig.turn();
}

#[test]
fn what_is_forged_while_a_client_asks_does_not_end_it_nor_make_it_deaf() {
    let (mut rig, victim, house) = asking(21);
    let (client_id, _) = rig.clients[victim].session();
    for packet_no in [1, (1 << 48) - 1] {
        let mut buffer = [0; 64];
        let mut writer = DatagramWriter::new(&mut buffer, client_id, packet_no);
        assert!(writer.frame(Kind::Close, &[2, 0, 0, 0, 0, 0, 0, 0], &[]));
        let len = writer.finish();
        forge(&mut rig, victim, &buffer[..len]);
    }
    let key = MacKey::of_server(&server_key().public().0);
    let versions = Versions::new(client_id.0).with_mac(&key);
    forge(&mut rig, victim, versions.as_bytes());
    rig.house = house;
    let asked_ns = rig.clock.now_ns();
    rig.until("it is there", |rig| rig.clients[victim].is_connected());
    assert!(rig.clock.now_ns() - asked_ns < 1_000_000_000, "it heard the first answer");
}

fn publish(producer_id: ProducerId, stream: StreamId, seq: u64, payload: &[u8]) -> Vec<u8> {
    let signed = Signed { producer_id, producer_seq: seq, stream, flags: 0, ext_len: 0 };
    let mut head = PublishHead::new_zeroed();
    (head.stream, head.count, head.first_seq) = (stream.0.into(), 1.into(), seq.into());
    let mut message = MessageHead::new_zeroed();
    message.len = u16::try_from(payload.len()).unwrap().into();
    message.crc32c = signed.crc32c(payload).into();
    [head.as_bytes(), message.as_bytes(), payload].concat()
}

fn slot_of(rig: &Rig, name: &str) -> SessionSlot {
    let mut in_use = rig.shards[0].stations.sessions.in_use();
    in_use.find(|(_, session)| session.identity == IdentityId::of(name)).unwrap().0
}

/// The stream is not there yet when the message comes, and nobody may do anything with it when it is.
#[test]
fn what_was_held_is_asked_for_its_right_when_it_is_taken() {
    let mut rig = rig(22, quiet());
    let gateway = rig.client(Publisher::New);
    let own = rig.create(gateway, "orders.1");
    let desk = client_as(&mut rig, 3, Publisher::New);
    rig.until("it is there", |rig| rig.clients[desk].is_connected());
    let (producer, _) = rig.clients[desk].producer();
    let _kept = rig.take(desk);
    let slot = slot_of(&rig, "desk");
    let next = StreamId(own.0 + 1);
    let held = publish(producer, next, 2, b"not allowed");
    rig.shards[0].stations.on_publish(slot, &Publish::parse(&held).unwrap());
    assert_eq!(rig.create(gateway, "trades"), next);
    let fills = publish(producer, own, 1, b"allowed");
    rig.shards[0].stations.on_publish(slot, &Publish::parse(&fills).unwrap());
    for _ in 0..1_000 {
        rig.turn();
    }
    let durable_next = |stream| rig.shards[0].log().stream(stream).unwrap().durable_next;
    assert_eq!((durable_next(own), durable_next(next)), (2, 1));
}

#[test]
fn a_named_producer_of_the_clear_is_of_who_may_have_its_name() {
    let access = Access::new(access().identities().to_vec(), Rights::all()).unwrap();
    let house = House::new(access, true, Rotation::DEFAULT, 23);
    let mut rig = Rig::sealed(23, quiet(), house);
    let gateway = rig.client(Publisher::New);
    rig.create(gateway, "orders.1");
    let sealed = std::mem::replace(&mut rig.security, ClientSecurity::Plain);
    let name = ProducerName::new("gateway-7").unwrap();
    let plain = rig.client(Publisher::Named { name, take_over: false });
    rig.until("it is there", |rig| rig.clients[plain].is_connected());
    let (producer, _) = rig.clients[plain].producer();
    rig.security = sealed;
    let thief = client_as(&mut rig, 3, Publisher::Known(producer));
    let mut thief = rig.take(thief);
    let error = (0..200_000).find_map(|_| {
        rig.turn();
        thief.poll(&mut |_| {}).err()
    });
    let Some(ClientError::Refused(coded)) = error else { panic!("{error:?}") };
    assert_eq!(coded.code, ErrorCode::UnknownProducer);
    assert!(rig.clients[plain].is_connected());
}

/// What a session of somebody without any right is told of its registration.
fn told(rig: &mut Rig, head: &RegisterHead, want: Want, number: u64) -> Option<Reply> {
    let stations = &mut rig.shards[0].stations;
    let (client_id, instance) = (ConnId(number), u128::from(number));
    let (peer, identity) = (Peer::ip_only(address(60)), IdentityId::of("nothing"));
    let requester = Requester { peer, client_id, instance, identity };
    let slot = stations.sessions.open(requester, 1).unwrap();
    stations.sessions.confirm(slot);
    stations.on_register(slot, &Register { head, want, name: ProducerName::NONE });
    (0..).map_while(|at| stations.outbox.get(at)).last()
}

#[test]
fn a_registration_tells_nothing_of_what_may_not_be_seen() {
    let mut rig = rig(24, quiet());
    let gateway = rig.client(Publisher::New);
    let stream = rig.create(gateway, "secret");
    rig.clients[gateway].offer(stream, b"an order").unwrap();
    rig.until("it is stored", |rig| rig.clients[gateway].next_completion().is_some());
    let (producer, _) = rig.clients[gateway].producer();
    let mut head = RegisterHead::new_zeroed();
    (head.request, head.datagram_bytes) = (1.into(), 1472.into());
    (head.witness_stream, head.witness_sequence) = (stream.0.into(), 1_000_000.into());
    let reply = told(&mut rig, &head, Want::Nothing, 1);
    assert!(matches!(reply, Some(Reply::Registered { .. })), "{reply:?}");
    (head.witness_stream, head.witness_sequence) = (0.into(), 0.into());
    (head.producer_id, head.durable_to) = (producer.0.into(), 1_000_000.into());
    let reply = told(&mut rig, &head, Want::Known, 2);
    let is_refused =
        matches!(reply, Some(Reply::Error { code: ErrorCode::NotAuthorized, detail: 0, .. }));
    assert!(is_refused, "{reply:?}");
}

/// A stranger who knows no key and no session gets nothing for whatever it sends.
#[test]
fn nothing_is_said_to_who_makes_sessions_up() {
    let mut rig = rig(25, quiet());
    rig.net.watch_stranger(address(50));
    for number in 1..=200_u64 {
        let mut datagram = vec![if number.is_multiple_of(2) { 0x16 } else { 0x17 }, 0, 9];
        datagram.resize(8, 0);
        datagram.extend(number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        datagram.resize(100, 1);
        rig.net.inject(address(50), address(1), &datagram);
        rig.turn();
    }
    assert_eq!(rig.net.sent_to(address(50)), 0);
}
