//! Clients and a shard over a network that loses, doubles, reorders and damages, and a server that is
//! thrown away at any moment.

use zerocopy::{FromZeros, IntoBytes};

use super::*;
use crate::client::{Publisher, StartFrom};
use crate::ids::ProducerId;
use crate::metrics::Counter;
use crate::port::memory::Faults;
use crate::random::Random;
use crate::testing::disk::TestDisk;
use crate::testing::rig::{Rig, address};
use crate::wire::DatagramWriter;
use crate::wire::frame::Kind;
use crate::wire::publish::AckHead;
use crate::wire::publish::PublishState;

/// Publishes and consumes under faults, with crashes; everything arrives once and in order.
fn exactly_once(seed: u64, faults: Faults, crashes: usize) {
    let mut random = Random::new(seed ^ 0xc0ffee);
    let mut rig = Rig::new(seed, faults);
    let publisher = rig.client(Publisher::New);
    let consumer = rig.client(Publisher::No);
    let stream = rig.create(publisher, "orders");
    rig.clients[consumer].subscribe(stream, StartFrom::Start, 256);
    let total = 2_000u64;
    let (mut offered, mut completed, mut crashed) = (0u64, Vec::new(), 0);
    rig.until("all is acknowledged and consumed", |rig| {
        if random.one_of_thousand(300) {
            for _ in 0..random.below(20) {
                let payload = vec![
                    u8::try_from(offered % 251).unwrap();
                    20 + usize::try_from(random.below(300)).unwrap()
                ];
                if offered < total && rig.clients[publisher].offer(stream, &payload).is_ok() {
                    offered += 1;
                }
            }
        }
        if crashed < crashes && offered > total * (crashed as u64 + 1) / (crashes as u64 + 1) {
            rig.crash();
            crashed += 1;
        }
        while let Some(completion) = rig.clients[publisher].next_completion() {
            completed.push(completion);
        }
        completed.len() as u64 == total && rig.received[consumer].len() as u64 == total
    });
    for (index, completion) in (1u64..).zip(&completed) {
        assert_eq!(completion.producer_seq, index, "seed {seed}: completions are in order");
        if let Some(sequence) = completion.receipt.sequence {
            assert_eq!(sequence.get(), index, "seed {seed}: one publisher, so the numbers agree");
        }
    }
    for (index, (sequence, producer_seq, payload)) in (1u64..).zip(&rig.received[consumer]) {
        assert_eq!((*sequence, *producer_seq), (index, index), "seed {seed}");
        assert!(payload.iter().all(|&byte| u64::from(byte) == (index - 1) % 251), "seed {seed}");
    }
    let known = completed.iter().filter(|completion| completion.receipt.sequence.is_some()).count();
    assert!(known > 0, "receipts say sequences");
    if crashes == 0 {
        assert_eq!(known as u64, total, "without a crash every receipt says its sequence");
    }
}

#[test]
fn a_quiet_network_delivers_in_order() {
    exactly_once(1, Faults { delay_ns: 20_000, ..Faults::default() }, 0);
}

#[test]
fn loss_duplication_and_reordering_lose_nothing() {
    for seed in 0..8 {
        let faults = Faults {
            loss: 40 * seed,
            duplication: 60 * seed,
            reordering: 300,
            delay_ns: 20_000,
            ..Faults::default()
        };
        exactly_once(seed, faults, 0);
    }
}

#[test]
fn damaged_datagrams_are_as_good_as_lost() {
    for seed in 20..24 {
        let faults = Faults {
            corruption: 200,
            payload_flip: 200,
            reordering: 100,
            delay_ns: 20_000,
            ..Faults::default()
        };
        exactly_once(seed, faults, 0);
    }
}

#[test]
fn a_server_that_is_killed_again_and_again_loses_nothing() {
    for seed in 40..46 {
        let faults = Faults {
            loss: 20,
            duplication: 50,
            reordering: 100,
            delay_ns: 20_000,
            ..Faults::default()
        };
        exactly_once(seed, faults, 10);
    }
}

#[test]
fn random_bytes_change_nothing() {
    let mut rig = Rig::new(3, Faults { delay_ns: 1_000, ..Faults::default() });
    let client = rig.client(Publisher::New);
    let stream = rig.create(client, "orders");
    let mut random = Random::new(5);
    for round in 0..20_000u64 {
        let mut bytes: Vec<u8> =
            (0..random.below(200)).map(|_| random.next_u64().to_le_bytes()[0]).collect();
        // Half of them get past the first checks: our version, a live session, a kind that exists.
        if round % 2 == 0 && bytes.len() > 20 {
            bytes[..4].copy_from_slice(&[0x10, 0, 0, 0]);
            bytes[16] = u8::try_from(round % 23).unwrap();
            bytes[17] = 0;
            let len = u16::try_from(bytes.len() - 20).unwrap();
            bytes[18..20].copy_from_slice(&len.to_le_bytes());
        }
        rig.net.inject(address(9), address(1), &bytes);
        if round % 64 == 0 {
            rig.turn();
        }
    }
    let shard = &rig.shards[0];
    assert!(shard.counters().get(Counter::DroppedMalformed) > 0);
    assert_eq!(shard.counters().get(Counter::MessagesAccepted), 0);
    let seq = rig.clients[client].offer(stream, b"still here").unwrap();
    rig.until("the message is durable", |rig| {
        rig.clients[client].next_completion().is_some_and(|done| done.producer_seq == seq)
    });
}

#[test]
fn a_second_instance_fences_the_first() {
    let mut rig = Rig::new(4, Faults { delay_ns: 1_000, ..Faults::default() });
    let first = rig.client(Publisher::New);
    let stream = rig.create(first, "orders");
    rig.clients[first].offer(stream, b"one").unwrap();
    rig.until("the first is acknowledged", |rig| rig.clients[first].next_completion().is_some());
    let id = rig.clients[first].producer().0;
    assert_ne!(id, ProducerId(0));
    let old = rig.take(first);
    let second = rig.client(Publisher::Known(id));
    rig.until("the second is connected", |rig| rig.clients[second].is_connected());
    assert_eq!(rig.clients[second].next_seq(), 2, "it goes on behind what is durable");
    let mut old = old;
    let mut fenced = None;
    for _ in 0..1_000 {
        rig.clock.advance_ns(10_000_000);
        rig.shards[0].turn();
        if let Err(error) = old.poll(&mut |_| {}) {
            fenced = Some(error);
            break;
        }
        let _ = old.offer(stream, b"zombie");
    }
    let fenced = fenced.expect("the first instance is told").to_string();
    assert!(fenced.contains("another instance"), "{fenced}");
}

#[test]
fn a_log_that_a_registration_finds_full_is_full_for_all() {
    let mut rig = Rig::new(11, Faults::default());
    rig.restart_on(TestDisk::formatted(16 << 20));
    let idle = rig.client(Publisher::New);
    let stream = rig.create(idle, "orders");
    rig.clients[idle].offer(stream, b"kept").unwrap();
    rig.until("it is kept", |rig| rig.clients[idle].next_completion().is_some());
    // Messages take all that is not kept back; what is left of the last segment, registrations take.
    rig.until("little is left", |rig| {
        let _ = rig.clients[idle].offer(stream, &[7; 1_000]);
        while rig.clients[idle].next_completion().is_some() {}
        rig.shards[0].log().segments().free == crate::limits::RESERVED_SEGMENTS
    });
    let mut publisher = Publisher::New;
    let is_full = |rig: &Rig| rig.shards[0].condition() == Condition::Full;
    for _ in 0..10_000 {
        let instance = rig.client(publisher);
        let connects = |rig: &mut Rig| rig.clients[instance].is_connected() || is_full(rig);
        rig.until("it registers, or finds the log full", connects);
        if is_full(&rig) {
            break;
        }
        // The next one takes over from it: each registration is a block of the log.
        rig.received.pop();
        publisher = Publisher::Known(rig.clients.pop().unwrap().producer().0);
    }
    assert!(is_full(&rig), "a log has an end");
    rig.until("the idle publisher is told", |rig| {
        rig.clients[idle].publish_state() == PublishState::NoSpace
    });
}

#[test]
fn sixteen_subscribers_replay_and_tail_without_a_gap() {
    let mut rig = Rig::new(6, Faults { delay_ns: 5_000, loss: 30, ..Faults::default() });
    let publisher = rig.client(Publisher::New);
    let stream = rig.create(publisher, "orders");
    let total = 6_000u64;
    let (mut offered, mut done) = (0u64, 0u64);
    let mut consumers = Vec::new();
    rig.until("all is consumed by all", |rig| {
        while offered < total && rig.clients[publisher].offer(stream, &[7; 1000]).is_ok() {
            offered += 1;
        }
        while rig.clients[publisher].next_completion().is_some() {
            done += 1;
        }
        // The ring holds 4 MiB: the late ones start on the disk and end in memory.
        if consumers.len() < 16 && done > total * consumers.len() as u64 / 16 {
            let consumer = rig.client(Publisher::No);
            rig.clients[consumer].subscribe(stream, StartFrom::Start, 512);
            consumers.push(consumer);
        }
        done == total && consumers.iter().all(|&c| rig.received[c].len() as u64 == total)
    });
    for &consumer in &consumers {
        for (index, (sequence, _, _)) in (1u64..).zip(&rig.received[consumer]) {
            assert_eq!(*sequence, index);
        }
    }
    let counters = rig.shards[0].counters();
    assert!(counters.get(Counter::ReplayReads) > 0, "some came from the disk");
}

#[test]
fn an_acknowledgement_to_an_earlier_session_is_nothing() {
    let mut rig = Rig::new(8, Faults { delay_ns: 1_000, ..Faults::default() });
    let client = rig.client(Publisher::New);
    let stream = rig.create(client, "orders");
    let (before, _) = rig.clients[client].session();
    rig.crash();
    rig.until("the client is back", |rig| {
        rig.clients[client].session().0 != before && rig.clients[client].is_connected()
    });
    let (now, _) = rig.clients[client].session();
    rig.clients[client].offer(stream, b"not yet durable").unwrap();
    rig.clients[client].poll(&mut |_| {}).unwrap();
    let ack = |conn_id, packet_no| {
        let mut head = AckHead::new_zeroed();
        head.received_to = 1.into();
        head.replicated_to = 1.into();
        head.durable_to = 1.into();
        head.max_seq_allowed = 1024.into();
        head.max_bytes_allowed = (1 << 20).into();
        head.receipts_from = 2.into();
        let mut room = [0; 256];
        let mut writer = DatagramWriter::new(&mut room, conn_id, packet_no);
        assert!(writer.frame(Kind::Ack, head.as_bytes(), &[]));
        let len = writer.len();
        room[..len].to_vec()
    };
    let mut completed_after = |bytes: &[u8]| {
        rig.net.inject(address(1), address(101), bytes);
        rig.clock.advance_ns(2_000);
        rig.clients[client].poll(&mut |_| {}).unwrap();
        rig.clients[client].next_completion().is_some()
    };
    assert!(!completed_after(&ack(before, 900)), "the writer before promises nothing any more");
    assert!(!completed_after(&ack(now, 1)), "and what came before says nothing twice");
    assert!(completed_after(&ack(now, 901)), "the same of this session is a promise");
}
