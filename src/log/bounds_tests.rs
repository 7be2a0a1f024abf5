//! What waits for the disk at most, and what happens to what is beyond.

use std::collections::BTreeSet;

use super::create::{FormatOptions, format};
use super::queue::{Cargo, Span, WriteQueue};
use super::recovery::OpenOptions;
use super::tests::{MIB, Writer, formatted};
use super::trim::TrimError;
use super::*;
use crate::disk::Disk;
use crate::disk::ram::RamDisk;
use crate::ids::Lineage;
use crate::limits::{
    BATCHES_WAITING_MAX, BLOCK_BYTES, DATAGRAM_BYTES_MAX, FLIGHTS_MAX, FLIGHTS_SPARE,
    IN_FLIGHT_BYTES_MAX, OPERATIONS_MAX, QUEUE_DEPTH_MAX, RING_BYTES, SEGMENTS_FREED_A_TURN,
    TRIMS_MAX,
};
use crate::position::{DiskOffset, SessionSlot};

/// Zeros over the first block of the log's area: whoever pushes it does not submit it.
fn wipe() -> (Span, Cargo) {
    let span =
        Span { disk_offset: DiskOffset::new(MIB as u64), memory_offset: 0, bytes: BLOCK_BYTES };
    (span, Cargo::Wipe { frees: None })
}

#[test]
fn so_many_batches_with_messages_wait_for_a_disk_that_stands_still() {
    let memory_bytes = Log::memory_bytes(RING_BYTES);
    let mut disk = RamDisk::new(96 << 20, memory_bytes, OPERATIONS_MAX).unwrap();
    format(&mut disk, &FormatOptions { segment_bytes: 16 << 20, force: true }).unwrap();
    let options = OpenOptions {
        queue_depth: QUEUE_DEPTH_MAX,
        ring_bytes: RING_BYTES,
        unix_ns: 1,
        lineage: Lineage(9),
    };
    let (mut log, _) = Log::open(&mut disk, &options, &mut |_| {}).unwrap();
    let (stream, _) = log.create_stream(disk.memory_mut(), "orders", 1).unwrap();
    log.register_producer(
        disk.memory_mut(),
        Registrant::New(Owner::NOBODY),
        Tenure { epoch: 1, instance: 9 },
        1,
    )
    .unwrap();
    let producer = log.hold_producer(ProducerId(1), SessionSlot::FIRST);
    log.submit(&mut disk, 1, 1);
    log.drain(&mut disk).unwrap();
    let (mut producer_seq, mut batches) = (0, BTreeSet::new());
    let mut append = |log: &mut Log, disk: &mut RamDisk, payload: &[u8]| {
        producer_seq += 1;
        let producer_id = producer.id();
        let signed = Signed { producer_id, producer_seq, stream, flags: 0, ext_len: 0 };
        let crc32c = signed.crc32c(payload);
        let message = Message { signed, producer: &producer, crc32c, payload };
        let appended = log.append(disk.memory_mut(), &message, 1)?;
        batches.insert(appended.batch_seq);
        Ok(batches.len())
    };
    for submitted in 1..=QUEUE_DEPTH_MAX {
        assert_eq!(append(&mut log, &mut disk, b"small"), Ok(submitted));
        assert_eq!(log.submit(&mut disk, 2, 1), 1);
    }
    // Just longer than what is left of a batch that holds as many of them as it can.
    let payload = [1; DATAGRAM_BYTES_MAX - 200];
    let (mut waiting, mut refused) = (0, None);
    while refused.is_none() {
        match append(&mut log, &mut disk, &payload) {
            Ok(count) => waiting = count,
            Err(error) => refused = Some(error),
        }
        assert_eq!(log.submit(&mut disk, 2, 1), 0, "the disk takes no more");
    }
    assert_eq!(refused, Some(AppendError::Busy), "it is sent again");
    assert!(log.bytes_in_flight() <= IN_FLIGHT_BYTES_MAX, "{}", log.bytes_in_flight());
    // More than there are places for in the disk's queue: what waits for a batch has room for all of them.
    assert!((2 * QUEUE_DEPTH_MAX - 8..=BATCHES_WAITING_MAX).contains(&waiting), "{waiting}");
    log.drain(&mut disk).unwrap();
    append(&mut log, &mut disk, &payload).expect("there is room again");
}

#[test]
fn a_trim_beyond_those_that_wait_is_asked_for_again() {
    let mut writer = Writer::open(formatted(9, 1));
    for _ in 0..=TRIMS_MAX {
        writer.fill(&[7; 10]).unwrap();
    }
    writer.settle();
    let trim = |writer: &mut Writer, first| {
        let Writer { disk, log, stream, .. } = writer;
        log.trim_stream(disk.memory_mut(), *stream, first, 1)
    };
    let beyond = TRIMS_MAX as u64 + 2;
    for first in 2..beyond {
        assert!(matches!(trim(&mut writer, first), Ok(Some(_))), "{first}");
    }
    assert_eq!(trim(&mut writer, beyond), Err(TrimError::NotAppended(ControlError::Busy)));
    writer.settle();
    assert_eq!(writer.first(), beyond - 1, "all that were taken are done");
    assert!(matches!(trim(&mut writer, beyond), Ok(Some(_))));
}

#[test]
fn a_turn_frees_so_many_segments_and_leaves_room_for_what_is_appended() {
    let mut writer = Writer::open(formatted(32, 1));
    let mut last = 0;
    while let Ok(sequence) = writer.fill(&[7; 4_000]) {
        last = sequence;
    }
    writer.settle();
    writer.trim(last);
    writer.settle();
    let log = &mut writer.log;
    let freed = |log: &mut Log| {
        let room = log.queue.room();
        log.free_trimmed();
        (room - log.queue.room()) / 2
    };
    assert_eq!(log.queue.room(), FLIGHTS_MAX, "nothing is on its way");
    assert_eq!(freed(log), SEGMENTS_FREED_A_TURN, "with two writes each");
    while log.queue.room() > FLIGHTS_SPARE {
        let (span, cargo) = wipe();
        log.queue.push(span, cargo);
    }
    assert_eq!(freed(log), 1, "then the room is left for others");
    assert_eq!((freed(log), log.segments.look_is_due()), (0, true), "it is looked for again");
}

#[test]
fn a_queue_has_room_for_so_many_writes() {
    let mut queue = WriteQueue::new(1);
    let pushed = (0..).take_while(|_| {
        let has_room = queue.room() > 0;
        if has_room {
            let (span, cargo) = wipe();
            queue.push(span, cargo);
        }
        has_room
    });
    assert_eq!(pushed.count(), FLIGHTS_MAX);
}

#[test]
#[should_panic(expected = "holds what it was made for")]
#[cfg_attr(
    not(debug_assertions),
    ignore = "a list grows, and what was planned wrongly is seen in debug builds"
)]
fn a_queue_without_room_takes_nothing() {
    let mut queue = WriteQueue::new(1);
    for _ in 0..=FLIGHTS_MAX {
        let (span, cargo) = wipe();
        queue.push(span, cargo);
    }
}
