//! Each owner of a part of the log by itself: what it lets happen, and what it does not.

use super::catalog::Catalog;
use super::prefix::{Content, DurablePrefix};
use super::queue::{Cargo, SealedBatch, Span, WriteQueue, Written};
use super::segment::{Base, Place};
use super::*;
use crate::disk::{Completion, Disk, Errno};
use crate::limits::BLOCK_BYTES;
use crate::position::{BatchSeq, DiskOffset, LogOffset, SessionSlot};
use crate::testing::disk::TestDisk;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// A batch of one block, of which every second one holds records.
fn batch(batch_seq: u64) -> (Span, Cargo) {
    let at = batch_seq * BLOCK;
    let memory_offset = usize::try_from(at).unwrap();
    let sealed = SealedBatch {
        batch_seq: BatchSeq::new(batch_seq),
        log_off: LogOffset::new(at),
        content: batch_seq.is_multiple_of(2),
        marked: BatchSeq::NONE,
        chain: batch_seq * 7,
        times: BatchTimes::default(),
    };
    (
        Span { disk_offset: DiskOffset::new(at), memory_offset, bytes: BLOCK_BYTES },
        Cargo::Batch(sealed),
    )
}

/// A queue with batches 1 to `count` and, behind the second, a wipe that frees place 9; all submitted.
fn submitted(count: u64, seed: u64) -> (WriteQueue, TestDisk) {
    let (mut queue, mut disk) = (WriteQueue::new(64), TestDisk::never_written(1 << 20, seed));
    for batch_seq in 1..=count {
        let (span, cargo) = batch(batch_seq);
        queue.push(span, cargo);
        if batch_seq == 2 {
            let span = Span {
                disk_offset: DiskOffset::new(100 * BLOCK),
                memory_offset: 0,
                bytes: BLOCK_BYTES,
            };
            queue.push(span, Cargo::Wipe { frees: Some(Place::new(9)) });
        }
    }
    while !queue.is_submitted() {
        assert!(queue.may_submit() && queue.submit(&mut disk, 1));
    }
    (queue, disk)
}

fn poll(disk: &mut TestDisk) -> Option<Completion> {
    let mut done = [Completion::NONE];
    (disk.poll(&mut done) == 1).then_some(done[0])
}

/// What is taken out, a wipe as 0.
fn taken(queue: &mut WriteQueue) -> Vec<u64> {
    let number = |written| match written {
        Written::Batch(batch) => batch.batch().batch_seq.get(),
        Written::Auxiliary => unreachable!("none was pushed"),
        Written::Wipe { frees } => {
            assert_eq!(frees, Some(Place::new(9)));
            0
        }
    };
    std::iter::from_fn(|| queue.take_written()).map(number).collect()
}

#[test]
fn writes_come_out_in_their_order_whatever_order_the_disk_answers_in() {
    for seed in 0..50 {
        let (mut queue, mut disk) = submitted(6, seed);
        assert_eq!(queue.batch_bytes(), 6 * BLOCK_BYTES);
        let mut order = Vec::new();
        while let Some(completion) = poll(&mut disk) {
            queue.complete(&completion).unwrap();
            order.extend(taken(&mut queue));
        }
        assert_eq!(order, [1, 2, 0, 3, 4, 5, 6], "seed {seed}");
        assert!(queue.is_empty() && queue.batch_bytes() == 0);
    }
}

#[test]
fn nothing_behind_a_failed_write_comes_out_and_nothing_more_is_submitted() {
    for seed in 0..50 {
        let (mut queue, mut disk) = submitted(6, seed);
        disk.fail_after(Some(seed % 7));
        let mut order = Vec::new();
        let mut failed = None;
        while let Some(completion) = poll(&mut disk) {
            if queue.complete(&completion).is_err() {
                failed.get_or_insert(completion.io.tag);
            }
            order.extend(taken(&mut queue));
        }
        let failed = usize::try_from(failed.expect("one fails")).unwrap();
        assert!(order.len() <= failed, "seed {seed}: {order:?}, and write {failed} failed");
        assert!(!queue.may_submit() && queue.fault().is_some());
        assert_eq!(
            queue.latch(DiskFault::Errno(Errno(1))),
            queue.fault().unwrap(),
            "the first one stays"
        );
    }
}

#[test]
fn a_halted_queue_gives_nothing_out_though_it_is_written() {
    let (mut queue, mut disk) = submitted(3, 1);
    queue.halt(DiskFault::Errno(Errno(5)));
    while let Some(completion) = poll(&mut disk) {
        queue.complete(&completion).unwrap();
    }
    assert_eq!(taken(&mut queue), [0; 0]);
}

#[test]
fn what_waits_for_a_batch_comes_due_with_it_and_not_before() {
    let (mut queue, mut disk) = submitted(6, 3);
    let mut prefix = DurablePrefix::new(&Base::default(), LogOffset::default());
    for (batch_seq, next) in [(2, 5), (3, 6), (5, 9)] {
        prefix.note_next(BatchSeq::new(batch_seq), StreamId(1), next);
    }
    prefix.note_trim(BatchSeq::new(3), StreamId(1), 4);
    prefix.note_closing(BatchSeq::new(4), DiskOffset::new(77));
    assert_eq!(prefix.trim_waits(StreamId(1)), Some(BatchSeq::new(3)));
    while let Some(completion) = poll(&mut disk) {
        queue.complete(&completion).unwrap();
        while let Some(written) = queue.take_written() {
            let Written::Batch(written) = written else { continue };
            prefix.advance(&written, 1);
            let seq = prefix.batch_seq().get();
            assert_eq!(prefix.end(), LogOffset::new((seq + 1) * BLOCK));
            let newest = seq - seq % 2;
            let content = Content { batch_seq: BatchSeq::new(newest), chain: newest * 7 };
            assert_eq!(prefix.content(), content);
            let next = std::iter::from_fn(|| prefix.take_next()).map(|(_, next)| next);
            let due = [(2, 5), (3, 6), (5, 9)].into_iter().filter(|(of, _)| *of == seq);
            assert_eq!(next.collect::<Vec<_>>(), due.map(|(_, next)| next).collect::<Vec<_>>());
            assert_eq!(prefix.take_trim(), (seq == 3).then_some((StreamId(1), 4)));
            assert_eq!(prefix.take_closing(), (seq == 4).then_some(DiskOffset::new(77)));
            assert_eq!(prefix.closing_waits(), seq < 4);
            assert_eq!(prefix.take().map(|batch| batch.batch_seq.get()), Some(seq));
        }
    }
    assert!(prefix.covers(BatchSeq::new(6)) && !prefix.covers(BatchSeq::new(7)));
}

#[test]
#[should_panic(expected = "has no hole")]
fn a_batch_that_is_not_the_next_does_not_join_the_prefix() {
    let (mut queue, mut disk) = submitted(1, 3);
    queue.complete(&poll(&mut disk).unwrap()).unwrap();
    let Some(Written::Batch(written)) = queue.take_written() else { panic!("it is done") };
    let base = Base { batch_seq: BatchSeq::new(1), ..Base::default() };
    DurablePrefix::new(&base, LogOffset::new(BLOCK)).advance(&written, 1);
}

/// A catalog with producer 1 and a session of it.
fn published() -> (Catalog, ProducerHandle) {
    let mut catalog = Catalog::new();
    catalog.add_stream(StreamId(1), "orders", 1, BatchSeq::new(1));
    assert_eq!(
        catalog.register(
            ProducerId(1),
            Owner::NOBODY,
            Tenure { epoch: 1, instance: 9 },
            1,
            BatchSeq::new(1)
        ),
        0
    );
    let handle = catalog.hold(ProducerId(1), SessionSlot::new(7));
    (catalog, handle)
}

fn signed(producer_seq: u64) -> Signed {
    let (producer_id, stream) = (ProducerId(1), StreamId(1));
    Signed { producer_id, producer_seq, stream, flags: 0, ext_len: 0 }
}

#[test]
fn a_handle_moves_both_tables_and_its_place_is_free_once_it_is_given_back() {
    let (mut catalog, handle) = published();
    for producer_seq in 1..=3 {
        assert_eq!(catalog.append(&signed(producer_seq), &handle, 10, 5), producer_seq);
    }
    assert_eq!(catalog.streams().get(StreamId(1)).unwrap().bytes, 30);
    assert_eq!(catalog.producers().get(ProducerId(1)).unwrap().last_seq, 3);
    catalog.release(handle, Parting::Ended, 6);
    assert_eq!(catalog.producers().get(ProducerId(1)).unwrap().holder, None);
    catalog.forget(ProducerId(1));
    assert!(catalog.producers().get(ProducerId(1)).is_none());
    assert_eq!(
        catalog.register(
            ProducerId(2),
            Owner::NOBODY,
            Tenure { epoch: 1, instance: 1 },
            7,
            BatchSeq::new(2)
        ),
        0
    );
    let second = catalog.hold(ProducerId(2), SessionSlot::new(7));
    assert_eq!(catalog.producers().places().len(), 1, "its place is another's: {second:?}");
}

#[test]
#[should_panic(expected = "keeps its place")]
fn nobody_is_forgotten_while_somebody_has_its_handle() {
    let (mut catalog, _handle) = published();
    catalog.forget(ProducerId(1));
}

#[test]
#[should_panic(expected = "one session")]
fn a_producer_has_one_handle() {
    let (mut catalog, _handle) = published();
    catalog.hold(ProducerId(1), SessionSlot::new(8));
}
