//! A client that comes back to the log it knows, and to another one in its place.

use crate::client::{ClientError, Compared, Publisher};
use crate::ids::StreamId;
use crate::port::memory::Faults;
use crate::testing::disk::TestDisk;
use crate::testing::rig::{BASE_PORT, CLIENT_PORT, Rig, address};
use crate::wire::{Datagram, FromClient, parse};

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
    drop(rig.take(owner));
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
    let error = ends(&mut rig, consumer);
    let expected = ClientError::OtherHistory { server: address(BASE_PORT), stream, sequence: 3 };
    assert_eq!(error, expected);
    assert_eq!(rig.received[consumer].len(), 3, "nothing of the other history is delivered");
    // Who asks without a position of this history is served.
    let new = rig.client(Publisher::No);
    rig.clients[new].subscribe(stream, crate::client::StartFrom::Sequence(4), 64);
    rig.until("it is served", |rig| rig.received[new].len() == 1);
}

/// Of what it wants next, and did not get, it knows the message before.
#[test]
fn a_consumer_at_the_end_knows_an_older_copy_that_has_not_come_so_far() {
    let mut rig = Rig::new(43, Faults::default());
    let publisher = rig.client(Publisher::New);
    let stream = rig.create(publisher, "orders");
    rig.publish(publisher, stream, b"in the copy");
    let disk = rig.kill();
    let copy = disk.copy();
    rig.start(disk);
    (0..4).for_each(|_| rig.publish(publisher, stream, b"since"));
    let consumer = rig.client(Publisher::No);
    rig.clients[consumer].subscribe(stream, crate::client::StartFrom::End, 64);
    rig.until("it stands at the end", |rig| rig.clients[consumer].position(stream) == 6);
    drop(rig.take(publisher));
    let consumer = consumer - 1;
    // As many openings as the other has had: its epoch is no lower.
    rig.restart_on(copy);
    let error = ends(&mut rig, consumer);
    let (server, what) = (address(BASE_PORT), Compared::Stream(stream));
    assert_eq!(error, ClientError::Behind { server, what, acknowledged: 5, found: 1 });
}
