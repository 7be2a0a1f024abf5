//! How long a client waits for a shard that refuses it.

use super::*;
use crate::client::{ClientError, Event, Publisher, Request};
use crate::clock::Clock;
use crate::disk::{DiskFault, Errno};
use crate::ids::StreamId;
use crate::port::memory::Faults;
use crate::testing::rig::Rig;
use crate::wire::control::CodedError;

/// Polls a client of a shard in this condition until it ends, and says after how long and why.
fn refused(
    rig: &mut Rig,
    client: usize,
    condition: Condition,
    limit_ns: u64,
) -> Option<(u64, ClientError)> {
    let begun_ns = rig.clock.now_ns();
    while rig.clock.now_ns() - begun_ns < limit_ns {
        rig.clock.advance_ns(1_000_000);
        rig.shards[0].stations.service.pretend(condition);
        rig.shards[0].turn();
        if let Err(error) = rig.clients[client].poll(&mut |_| {}) {
            return Some((rig.clock.now_ns() - begun_ns, error));
        }
    }
    None
}

const PATIENCE_NS: u64 = 1_000_000_000;

const AWAY: Condition = Condition::DiskLost(DiskFault::Errno(Errno(5)));

/// Publishes a message and waits until it is durable.
fn publish(rig: &mut Rig, client: usize, stream: StreamId) {
    rig.until("the message is taken", |rig| rig.clients[client].offer(stream, b"durable").is_ok());
    rig.until("the message is durable", |rig| rig.clients[client].next_completion().is_some());
}

#[test]
fn a_first_connection_waits_no_longer_for_a_disk_that_is_away() {
    let mut rig = Rig::new(31, Faults::default());
    let late = rig.client(Publisher::New);
    rig.clients[late].set_dead_after_ns(PATIENCE_NS);
    let (waited_ns, error) =
        refused(&mut rig, late, AWAY, 10 * PATIENCE_NS).expect("it has an end");
    assert!((PATIENCE_NS..2 * PATIENCE_NS).contains(&waited_ns), "{waited_ns}");
    let draining = ErrorCode::Draining;
    assert!(
        matches!(error, ClientError::Refused(CodedError { code, .. }) if code == draining),
        "{error}"
    );
}

#[test]
fn who_was_connected_waits_for_a_disk_with_its_messages_and_not_with_a_request() {
    let mut rig = Rig::new(32, Faults::default());
    let clients = [rig.client(Publisher::New), rig.client(Publisher::New)];
    let stream = rig.create(clients[0], "orders");
    for client in clients {
        publish(&mut rig, client, stream);
        rig.clients[client].offer(stream, b"outstanding").unwrap();
    }
    let [publishes, asks] = clients;
    rig.crash();
    rig.shards[0].stations.service.pretend(AWAY);
    rig.until("both register anew", |rig| {
        clients.iter().all(|&client| !rig.clients[client].is_connected())
    });
    for client in clients {
        rig.clients[client].set_dead_after_ns(PATIENCE_NS);
    }
    rig.clients[asks].request(Request::CreateStream("more".into()));
    let error = refused(&mut rig, asks, AWAY, 10 * PATIENCE_NS).expect("a request has an end").1;
    let draining = ErrorCode::Draining;
    assert!(
        matches!(error, ClientError::Refused(CodedError { code, .. }) if code == draining),
        "{error}"
    );
    drop(rig.clients.remove(asks));
    assert!(refused(&mut rig, publishes, AWAY, 10 * PATIENCE_NS).is_none(), "messages wait");
    rig.shards[0].stations.service.pretend(Condition::Serving);
    rig.until("it goes on", |rig| rig.clients[publishes].next_completion().is_some());
}

#[test]
fn the_patience_of_one_refusal_is_not_that_of_the_next() {
    let mut rig = Rig::new(33, Faults::default());
    let client = rig.client(Publisher::New);
    let stream = rig.create(client, "orders");
    publish(&mut rig, client, stream);
    rig.crash();
    rig.clients[client].set_dead_after_ns(PATIENCE_NS);
    // Refused for room at first; then the appliance is stopped and started, which takes long.
    for (condition, limit_ns) in [
        (Condition::Full, PATIENCE_NS / 2),
        (Condition::Draining, 3 * PATIENCE_NS),
        (Condition::Full, PATIENCE_NS / 2),
    ] {
        let ended = refused(&mut rig, client, condition, limit_ns);
        assert!(ended.is_none(), "{condition:?}: {ended:?}");
    }
    rig.shards[0].stations.service.pretend(Condition::Serving);
    rig.until("it goes on", |rig| rig.clients[client].is_connected());
}

#[test]
fn whoever_waits_for_a_record_is_told_that_the_disk_failed() {
    for (condition, code) in [
        (Condition::Failed(ErrorCode::DiskFailed), ErrorCode::DiskFailed),
        (AWAY, ErrorCode::Draining),
    ] {
        let mut rig = Rig::new(38, Faults::default());
        let asks = rig.client(Publisher::No);
        let stream = rig.create(asks, "orders");
        let publisher = rig.client(Publisher::New);
        publish(&mut rig, publisher, stream);
        let registers = rig.client(Publisher::New);
        rig.clients[registers].set_dead_after_ns(PATIENCE_NS);
        // Everything is on its way, and no write completes any more.
        let trim = rig.clients[asks].request(Request::TrimStream(stream, 2));
        let create = rig.clients[asks].request(Request::CreateStream("more".into()));
        let shard = &mut rig.shards[0];
        shard.stations.log.halt(DiskFault::Errno(Errno(5)));
        let waits = |rig: &Rig| {
            let stations = &rig.shards[0].stations;
            (stations.requests.slots().count(), stations.publishers.registering().is_some())
        };
        rig.until("all wait for their records", |rig| waits(rig) == (2, true));
        rig.shards[0].stations.service.pretend(condition);
        let mut told = Vec::new();
        for _ in 0..2_000 {
            rig.clock.advance_ns(1_000_000);
            rig.shards[0].turn();
            rig.clients[asks].poll(&mut |_| {}).unwrap();
            while let Some(event) = rig.clients[asks].next_event() {
                if let Event::Refused { request, code, .. } = event {
                    told.push((request, code));
                }
            }
        }
        told.sort_unstable_by_key(|(request, _)| *request);
        assert_eq!(told, [(trim, code), (create, code)]);
        let error = refused(&mut rig, registers, condition, 10 * PATIENCE_NS);
        let (_, error) = error.expect("it is told too");
        assert!(
            matches!(error, ClientError::Refused(CodedError { code: of, .. }) if of == code),
            "{error}"
        );
        // What is asked for now is refused too, where it was being made.
        let again = rig.clients[asks].request(Request::CreateStream("more".into()));
        let mut refusal = None;
        for _ in 0..100 {
            rig.clock.advance_ns(1_000_000);
            rig.shards[0].turn();
            rig.clients[asks].poll(&mut |_| {}).unwrap();
            refusal = refusal.or_else(|| rig.clients[asks].next_event());
        }
        assert_eq!(refusal, Some(Event::Refused { request: again, code, detail: 0 }));
    }
}

/// A write that was in flight when the disk failed may complete after whoever waited for it was refused.
#[test]
fn what_is_done_already_is_answered_for_by_a_log_that_takes_nothing_more() {
    let mut rig = Rig::new(40, Faults::default());
    let client = rig.client(Publisher::New);
    let stream = rig.create(client, "orders");
    publish(&mut rig, client, stream);
    let trim = Request::TrimStream(stream, 2);
    rig.clients[client].request(trim.clone());
    rig.until("it is trimmed", |rig| rig.clients[client].next_event().is_some());
    // It would hear of the failure, and end.
    drop(rig.clients.pop());
    let asks = rig.client(Publisher::No);
    rig.until("it is connected", |rig| rig.clients[asks].next_event().is_some());
    let failed = Condition::Failed(ErrorCode::DiskFailed);
    rig.shards[0].stations.service.pretend(failed);
    for (request, is_done) in [
        (Request::CreateStream("orders".into()), true),
        (trim, true),
        (Request::TrimStream(stream, 1), true),
        (Request::TrimStream(stream, 3), false),
        (Request::TrimStream(StreamId(stream.0 + 1), 1), false),
    ] {
        let asked = rig.clients[asks].request(request.clone());
        let mut told = None;
        rig.until("it is answered", |rig| {
            told = rig.clients[asks].next_event();
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
    let mut rig = Rig::new(39, Faults::default());
    let publisher = rig.client(Publisher::New);
    let stream = rig.create(publisher, "orders");
    publish(&mut rig, publisher, stream);
    // The word that said so was lost.
    let failed = Condition::Failed(code);
    rig.shards[0].stations.service.pretend(failed);
    rig.clients[publisher].offer(stream, b"never durable").unwrap();
    let (waited_ns, error) =
        refused(&mut rig, publisher, failed, 10 * PATIENCE_NS).expect("it is told");
    assert!(
        matches!(error, ClientError::Refused(CodedError { code: of, .. }) if of == code),
        "{error}"
    );
    assert!(waited_ns < PATIENCE_NS, "{waited_ns}");
    // A PROBE is answered with an acknowledgement, and with nothing else.
    let stations = &mut rig.shards[0].stations;
    let slot = stations.sessions.in_use().next().unwrap().0;
    let probe = crate::wire::publish::Probe { next_seq: 2.into(), receipts_to: 1.into() };
    stations.on_probe(slot, &probe);
    assert_eq!((stations.publishers.due(), stations.outbox.get(0)), (Some(slot), None));
}
