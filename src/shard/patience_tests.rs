//! How long a client waits for a shard that refuses it.

use super::tests::World;
use super::*;
use crate::client::{ClientError, Event, Publisher, Request};
use crate::clock::Clock;
use crate::disk::{DiskFault, Errno};
use crate::ids::StreamId;
use crate::port::memory::Faults;
use crate::wire::control::CodedError;

/// Polls a client of a shard in this condition until it ends, and says after how long and why.
fn refused(
    world: &mut World,
    client: usize,
    condition: Condition,
    limit_ns: u64,
) -> Option<(u64, ClientError)> {
    let begun_ns = world.clock.now_ns();
    while world.clock.now_ns() - begun_ns < limit_ns {
        world.clock.advance_ns(1_000_000);
        world.shard.as_mut().unwrap().stations.service.pretend(condition);
        world.shard.as_mut().unwrap().turn();
        if let Err(error) = world.clients[client].poll(&mut |_| {}) {
            return Some((world.clock.now_ns() - begun_ns, error));
        }
    }
    None
}

const PATIENCE_NS: u64 = 1_000_000_000;

const AWAY: Condition = Condition::DiskLost(DiskFault::Errno(Errno(5)));

/// Publishes a message and waits until it is durable.
fn publish(world: &mut World, client: usize, stream: StreamId) {
    world.until("the message is taken", |world| {
        world.clients[client].offer(stream, b"durable").is_ok()
    });
    world
        .until("the message is durable", |world| world.clients[client].next_completion().is_some());
}

#[test]
fn a_first_connection_waits_no_longer_for_a_disk_that_is_away() {
    let mut world = World::new(31, Faults::default());
    let late = world.client(Publisher::New);
    world.clients[late].set_dead_after_ns(PATIENCE_NS);
    let (waited_ns, error) =
        refused(&mut world, late, AWAY, 10 * PATIENCE_NS).expect("it has an end");
    assert!((PATIENCE_NS..2 * PATIENCE_NS).contains(&waited_ns), "{waited_ns}");
    let draining = ErrorCode::Draining;
    assert!(
        matches!(error, ClientError::Refused(CodedError { code, .. }) if code == draining),
        "{error}"
    );
}

#[test]
fn who_was_connected_waits_for_a_disk_with_its_messages_and_not_with_a_request() {
    let mut world = World::new(32, Faults::default());
    let clients = [world.client(Publisher::New), world.client(Publisher::New)];
    let stream = world.create(clients[0], "orders");
    for client in clients {
        publish(&mut world, client, stream);
        world.clients[client].offer(stream, b"outstanding").unwrap();
    }
    let [publishes, asks] = clients;
    world.crash();
    world.shard.as_mut().unwrap().stations.service.pretend(AWAY);
    world.until("both register anew", |world| {
        clients.iter().all(|&client| !world.clients[client].is_connected())
    });
    for client in clients {
        world.clients[client].set_dead_after_ns(PATIENCE_NS);
    }
    world.clients[asks].request(Request::CreateStream("more".into()));
    let error = refused(&mut world, asks, AWAY, 10 * PATIENCE_NS).expect("a request has an end").1;
    let draining = ErrorCode::Draining;
    assert!(
        matches!(error, ClientError::Refused(CodedError { code, .. }) if code == draining),
        "{error}"
    );
    drop(world.clients.remove(asks));
    assert!(refused(&mut world, publishes, AWAY, 10 * PATIENCE_NS).is_none(), "messages wait");
    world.shard.as_mut().unwrap().stations.service.pretend(Condition::Serving);
    world.until("it goes on", |world| world.clients[publishes].next_completion().is_some());
}

#[test]
fn the_patience_of_one_refusal_is_not_that_of_the_next() {
    let mut world = World::new(33, Faults::default());
    let client = world.client(Publisher::New);
    let stream = world.create(client, "orders");
    publish(&mut world, client, stream);
    world.crash();
    world.clients[client].set_dead_after_ns(PATIENCE_NS);
    // Refused for room at first; then the appliance is stopped and started, which takes long.
    for (condition, limit_ns) in [
        (Condition::Full, PATIENCE_NS / 2),
        (Condition::Draining, 3 * PATIENCE_NS),
        (Condition::Full, PATIENCE_NS / 2),
    ] {
        let ended = refused(&mut world, client, condition, limit_ns);
        assert!(ended.is_none(), "{condition:?}: {ended:?}");
    }
    world.shard.as_mut().unwrap().stations.service.pretend(Condition::Serving);
    world.until("it goes on", |world| world.clients[client].is_connected());
}

#[test]
fn whoever_waits_for_a_record_is_told_that_the_disk_failed() {
    for (condition, code) in [
        (Condition::Failed(ErrorCode::DiskFailed), ErrorCode::DiskFailed),
        (AWAY, ErrorCode::Draining),
    ] {
        let mut world = World::new(38, Faults::default());
        let asks = world.client(Publisher::No);
        let stream = world.create(asks, "orders");
        let publisher = world.client(Publisher::New);
        publish(&mut world, publisher, stream);
        let registers = world.client(Publisher::New);
        world.clients[registers].set_dead_after_ns(PATIENCE_NS);
        // Everything is on its way, and no write completes any more.
        let trim = world.clients[asks].request(Request::TrimStream(stream, 2));
        let create = world.clients[asks].request(Request::CreateStream("more".into()));
        let shard = world.shard.as_mut().unwrap();
        shard.stations.log.halt(DiskFault::Errno(Errno(5)));
        let waits = |world: &World| {
            let stations = &world.shard.as_ref().unwrap().stations;
            (stations.requests.slots().count(), stations.publishers.registering().is_some())
        };
        world.until("all wait for their records", |world| waits(world) == (2, true));
        world.shard.as_mut().unwrap().stations.service.pretend(condition);
        let mut told = Vec::new();
        for _ in 0..2_000 {
            world.clock.advance_ns(1_000_000);
            world.shard.as_mut().unwrap().turn();
            world.clients[asks].poll(&mut |_| {}).unwrap();
            while let Some(event) = world.clients[asks].next_event() {
                if let Event::Refused { request, code, .. } = event {
                    told.push((request, code));
                }
            }
        }
        told.sort_unstable_by_key(|(request, _)| *request);
        assert_eq!(told, [(trim, code), (create, code)]);
        let error = refused(&mut world, registers, condition, 10 * PATIENCE_NS);
        let (_, error) = error.expect("it is told too");
        assert!(
            matches!(error, ClientError::Refused(CodedError { code: of, .. }) if of == code),
            "{error}"
        );
        // What is asked for now is refused too, where it was being made.
        let again = world.clients[asks].request(Request::CreateStream("more".into()));
        let mut refusal = None;
        for _ in 0..100 {
            world.clock.advance_ns(1_000_000);
            world.shard.as_mut().unwrap().turn();
            world.clients[asks].poll(&mut |_| {}).unwrap();
            refusal = refusal.or_else(|| world.clients[asks].next_event());
        }
        assert_eq!(refusal, Some(Event::Refused { request: again, code, detail: 0 }));
    }
}

/// A write that was in flight when the disk failed may complete after whoever waited for it was refused.
#[test]
fn what_is_done_already_is_answered_for_by_a_log_that_takes_nothing_more() {
    let mut world = World::new(40, Faults::default());
    let client = world.client(Publisher::New);
    let stream = world.create(client, "orders");
    publish(&mut world, client, stream);
    let trim = Request::TrimStream(stream, 2);
    world.clients[client].request(trim.clone());
    world.until("it is trimmed", |world| world.clients[client].next_event().is_some());
    // It would hear of the failure, and end.
    drop(world.clients.pop());
    let asks = world.client(Publisher::No);
    world.until("it is connected", |world| world.clients[asks].next_event().is_some());
    let failed = Condition::Failed(ErrorCode::DiskFailed);
    world.shard.as_mut().unwrap().stations.service.pretend(failed);
    for (request, is_done) in [
        (Request::CreateStream("orders".into()), true),
        (trim, true),
        (Request::TrimStream(stream, 1), true),
        (Request::TrimStream(stream, 3), false),
        (Request::TrimStream(StreamId(stream.0 + 1), 1), false),
    ] {
        let asked = world.clients[asks].request(request.clone());
        let mut told = None;
        world.until("it is answered", |world| {
            told = world.clients[asks].next_event();
            told.is_some()
        });
        let done = matches!(&told, Some(Event::Stream { request, info })
            if (*request, info.id) == (asked, stream));
        let refused =
            told == Some(Event::Refused { request: asked, code: ErrorCode::DiskFailed, detail: 0 });
        assert_eq!((done, refused), (is_done, !is_done), "{request:?}: {told:?}");
    }
}

#[test]
fn a_publisher_learns_from_any_acknowledgement_that_and_why_nothing_is_taken() {
    for code in [ErrorCode::DiskFailed, ErrorCode::DataLoss] {
        a_publisher_learns_from_any_acknowledgement(code);
    }
}

fn a_publisher_learns_from_any_acknowledgement(code: ErrorCode) {
    let mut world = World::new(39, Faults::default());
    let publisher = world.client(Publisher::New);
    let stream = world.create(publisher, "orders");
    publish(&mut world, publisher, stream);
    // The word that said so was lost.
    let failed = Condition::Failed(code);
    world.shard.as_mut().unwrap().stations.service.pretend(failed);
    world.clients[publisher].offer(stream, b"never durable").unwrap();
    let (waited_ns, error) =
        refused(&mut world, publisher, failed, 10 * PATIENCE_NS).expect("it is told");
    assert!(
        matches!(error, ClientError::Refused(CodedError { code: of, .. }) if of == code),
        "{error}"
    );
    assert!(waited_ns < PATIENCE_NS, "{waited_ns}");
    // A PROBE is answered with an acknowledgement, and with nothing else.
    let stations = &mut world.shard.as_mut().unwrap().stations;
    let slot = stations.sessions.in_use().next().unwrap().0;
    let probe = crate::wire::publish::Probe { next_seq: 2.into(), receipts_to: 1.into() };
    stations.on_probe(slot, &probe);
    assert_eq!((stations.publishers.due(), stations.outbox.get(0)), (Some(slot), None));
}
