//! How long a client waits for a shard that refuses it.

use super::tests::World;
use super::*;
use crate::client::{ClientError, Publisher, Request};
use crate::clock::Clock;
use crate::disk::DiskFault;
use crate::port::memory::Faults;

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
        world.shard.as_mut().unwrap().stations.condition = condition;
        world.shard.as_mut().unwrap().turn();
        if let Err(error) = world.clients[client].poll(&mut |_| {}) {
            return Some((world.clock.now_ns() - begun_ns, error));
        }
    }
    None
}

const PATIENCE_NS: u64 = 1_000_000_000;

const AWAY: Condition = Condition::DiskLost(DiskFault::Errno(5));

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
    assert!(matches!(error, ClientError::Refused { code, .. } if code == draining), "{error}");
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
    world.shard.as_mut().unwrap().stations.condition = AWAY;
    world.until("both register anew", |world| {
        clients.iter().all(|&client| !world.clients[client].is_connected())
    });
    for client in clients {
        world.clients[client].set_dead_after_ns(PATIENCE_NS);
    }
    world.clients[asks].request(Request::CreateStream("more".into()));
    let error = refused(&mut world, asks, AWAY, 10 * PATIENCE_NS).expect("a request has an end").1;
    let draining = ErrorCode::Draining;
    assert!(matches!(error, ClientError::Refused { code, .. } if code == draining), "{error}");
    drop(world.clients.remove(asks));
    assert!(refused(&mut world, publishes, AWAY, 10 * PATIENCE_NS).is_none(), "messages wait");
    world.shard.as_mut().unwrap().stations.condition = Condition::Serving;
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
    world.shard.as_mut().unwrap().stations.condition = Condition::Serving;
    world.until("it goes on", |world| world.clients[client].is_connected());
}
