//! The log against everything a disk may do to it.

use super::create::{FormatError, FormatOptions, format, occupant};
use super::inspect::describe;
use super::recovery::{Missing, OpenError, OpenOptions, Reason, read_log};
use super::segment::End;
use super::verify::verify;
use super::*;
use crate::disk::{Completion, Disk};
use crate::ids::Lineage;
use crate::limits::{BLOCK_BYTES, PRODUCERS_MAX, STREAMS_MAX};
use crate::position::SessionSlot;
use crate::random::Random;
use crate::testing::disk::{RING, TestDisk};

pub(super) const MIB: usize = 1 << 20;
pub(super) const OPTIONS: OpenOptions =
    OpenOptions { queue_depth: 4, ring_bytes: RING, unix_ns: 1_000, lineage: Lineage(9) };

pub(super) fn formatted(mib: usize, seed: u64) -> TestDisk {
    let mut disk = TestDisk::never_written(mib * MIB, seed);
    format(&mut disk, &FormatOptions { segment_bytes: MIB as u64, force: true }).unwrap();
    disk
}

/// A log that is written to, and what of it was acknowledged.
pub(super) struct Writer {
    pub(super) disk: TestDisk,
    pub(super) log: Log,
    pub(super) stream: StreamId,
    pub(super) producer: Option<ProducerHandle>,
    pub(super) next_seq: u64,
    /// Per sequence: its batch and its payload.
    pub(super) appended: Vec<(BatchSeq, Vec<u8>)>,
    durable_seq: BatchSeq,
    pub(super) now_ns: u64,
}

impl Writer {
    pub(super) fn open(mut disk: TestDisk) -> Self {
        let (log, _) = Log::open(&mut disk, &OPTIONS, &mut |_| {}).unwrap();
        let durable_seq = log.prefix.batch_seq();
        let mut writer = Self {
            disk,
            log,
            stream: StreamId(1),
            producer: None,
            next_seq: 1,
            appended: Vec::new(),
            durable_seq,
            now_ns: 0,
        };
        if writer.log.stream(StreamId(1)).is_none() {
            writer.log.create_stream(writer.disk.memory_mut(), "orders", 1).unwrap();
            let memory = writer.disk.memory_mut();
            writer
                .log
                .register_producer(
                    memory,
                    Registrant::New(Owner::NOBODY),
                    Tenure { epoch: 1, instance: 9 },
                    1,
                )
                .unwrap();
            writer.settle();
        }
        writer.producer = Some(writer.log.hold_producer(ProducerId(1), SessionSlot::FIRST));
        writer
    }

    pub(super) fn append(&mut self, payload: &[u8]) -> Result<u64, AppendError> {
        let producer = self.producer.as_ref().expect("it was opened");
        let signed = Signed {
            producer_id: producer.id(),
            producer_seq: self.next_seq,
            stream: self.stream,
            flags: 0,
            ext_len: 0,
        };
        let crc32c = signed.crc32c(payload);
        let message = Message { signed, producer, crc32c, payload };
        let appended = self.log.append(self.disk.memory_mut(), &message, 2_000 + self.next_seq)?;
        self.next_seq += 1;
        self.appended.push((appended.batch_seq, payload.to_vec()));
        Ok(appended.sequence)
    }

    pub(super) fn submit(&mut self) {
        self.now_ns += 1_000;
        self.log.submit(&mut self.disk, self.now_ns, 3_000);
    }

    pub(super) fn poll(&mut self) -> bool {
        let mut done = [Completion::NONE];
        if self.disk.poll(&mut done) == 0 {
            return false;
        }
        let _ = self.log.on_completion(&done[0], self.now_ns);
        while let Some(batch) = self.log.take_durable() {
            self.durable_seq = batch.batch_seq;
        }
        true
    }

    /// Brings everything to the disk, and says there that it is durable.
    pub(super) fn settle(&mut self) {
        for _ in 0..2 {
            loop {
                self.submit();
                if !self.poll() {
                    break;
                }
            }
            self.now_ns += 2_000_000;
            let now_ns = self.now_ns;
            self.log.tick(self.disk.memory_mut(), now_ns, 4_000);
        }
        loop {
            self.submit();
            if !self.poll() {
                break;
            }
        }
    }

    pub(super) fn acknowledged(&self) -> usize {
        self.appended.iter().filter(|(batch_seq, _)| *batch_seq <= self.durable_seq).count()
    }
}

/// All payloads of the log's only stream, in sequence, read from the disk batch by batch.
fn contents(image: Vec<u8>) -> Result<Vec<Vec<u8>>, OpenError> {
    contents_of(&mut TestDisk::with(image, 1))
}

/// The same, of a disk that stays as it is.
fn contents_of(disk: &mut TestDisk) -> Result<Vec<Vec<u8>>, OpenError> {
    let read = recovery::read_log(disk, &mut |_| {})?;
    let mut payloads = Vec::new();
    for found in &read.found {
        let start = End { off: BLOCK_BYTES as u64, base: found.header.base() };
        scan::walk(disk, &read.superblock, &found.header, start, &mut |batch| {
            for record in batch.records().filter(|record| record.header.stream.get() == 1) {
                assert!(record.is_intact());
                assert_eq!(record.header.sequence.get(), payloads.len() as u64 + 1);
                payloads.push(record.payload.to_vec());
            }
        })
        .unwrap();
    }
    Ok(payloads)
}

#[test]
fn what_was_written_is_there_after_a_stop_and_after_a_kill() {
    let mut writer = Writer::open(formatted(16, 1));
    for n in 0..500u32 {
        writer.append(&n.to_le_bytes().repeat(50)).unwrap();
        writer.submit();
        writer.poll();
    }
    writer.settle();
    assert_eq!(writer.acknowledged(), 500);
    let killed = writer.disk.image();
    assert_eq!(contents(killed.clone()).unwrap().len(), 500);
    let Writer { mut disk, log, .. } = writer;
    log.close(&mut disk).unwrap();
    let stopped = disk.image();
    for image in [killed, stopped] {
        let mut writer = Writer::open(TestDisk::with(image, 2));
        let facts = writer.log.stream(StreamId(1)).unwrap();
        assert_eq!((facts.next_sequence, facts.durable_next), (501, 501));
        let producer = *writer.log.producer(ProducerId(1)).unwrap();
        assert_eq!((producer.last_seq, producer.instance), (500, 9));
        writer.next_seq = 501;
        assert_eq!(writer.append(b"next").unwrap(), 501, "it goes on where it was");
        writer.settle();
        let report = verify(&mut writer.disk, &mut |_, _| {}).unwrap();
        assert_eq!(report.findings, [], "a sound log verifies clean");
        assert_eq!(report.messages, 501);
    }
}

/// Every state the media can be in when the power goes at any step: all subsets of up to ten blocks in
/// flight, and some of more.
#[test]
fn every_crash_image_holds_all_that_was_acknowledged_and_nothing_invented() {
    let mut images = 0;
    for seed in 0..10 {
        let mut random = Random::new(seed);
        let mut writer = Writer::open(formatted(8, seed));
        for step in 0..50u64 {
            for _ in 0..random.below(4) {
                let size = usize::try_from(random.below(2_500)).unwrap();
                let fill = u8::try_from(step).unwrap();
                let _ = writer.append(&vec![fill; size]);
            }
            if random.one_of_thousand(700) {
                writer.submit();
            }
            if random.one_of_thousand(600) {
                writer.poll();
            }
            let blocks = writer.disk.pending_blocks();
            let all = if blocks <= 10 { 1 << blocks } else { 24 };
            // One for all, as it is only read: a write would fail.
            let mut crashed = writer.disk.copy();
            crashed.fail_after(Some(0));
            for subset in 0..all {
                let kept = if blocks <= 10 { subset } else { random.next_u64() };
                writer.disk.put_crash(crashed.media_mut(), kept);
                let found = contents_of(&mut crashed).unwrap();
                let acknowledged = writer.acknowledged();
                assert!(found.len() >= acknowledged, "seed {seed} step {step} kept {kept:b}");
                let written = writer.appended.iter().map(|(_, payload)| payload);
                assert!(found.iter().zip(written).all(|(found, written)| found == written));
                assert!(found.len() <= writer.appended.len(), "nothing is invented");
                images += 1;
                if subset % 128 == 5 {
                    reopen_with_crashes(crashed.media(), &found);
                }
            }
        }
    }
    println!("{images} crash images");
    assert!(images > 2_000, "only {images}");
}

/// Opening writes too: it is killed after any number of its writes, and so is the opening after it.
fn reopen_with_crashes(image: &[u8], expected: &[Vec<u8>]) {
    let killed_after = |image: &[u8], writes| {
        let mut disk = TestDisk::with(image.to_vec(), 3);
        disk.in_order();
        disk.fail_after(Some(writes));
        let opened = Log::open(&mut disk, &OPTIONS, &mut |_| {}).map(|_| ());
        let mut left = TestDisk::with(disk.into_image(), 1);
        let found = contents_of(&mut left).unwrap();
        assert_eq!(found, expected, "{opened:?} after {writes} writes");
        left.into_image()
    };
    for first in [0, 1, 2, 3, 5, 7, 9] {
        let once = killed_after(image, first);
        for second in [1, 4, 8] {
            let mut disk = TestDisk::with(killed_after(&once, second), 3);
            Log::open(&mut disk, &OPTIONS, &mut |_| {}).unwrap();
            assert_eq!(contents(disk.into_image()).unwrap(), expected);
        }
    }
}

#[test]
fn a_thousand_flipped_bits_are_all_found() {
    let mut writer = Writer::open(formatted(12, 5));
    for n in 0..1_500u32 {
        let size = 100 + usize::try_from(n % 700).unwrap();
        while writer.append(&n.to_le_bytes().repeat(size / 4)).is_err() {
            writer.submit();
            writer.poll();
        }
        if n % 7 == 0 {
            writer.submit();
            writer.poll();
        }
    }
    writer.settle();
    let image = writer.disk.image();
    let written = written_ranges(&writer);
    let total: u64 = written.iter().map(|(from, to)| to - from).sum();
    let mut random = Random::new(11);
    let mut disk = TestDisk::with(image.clone(), 4);
    let mut halts = 0;
    for _ in 0..1_000 {
        let mut at = random.below(total);
        let range = written.iter().find(|(from, to)| {
            let len = to - from;
            let here = at < len;
            at -= if here { 0 } else { len };
            here
        });
        let at = usize::try_from(range.unwrap().0 + at).unwrap();
        let bit = 1 << random.below(8);
        disk.media_mut()[at] ^= bit;
        let report = verify(&mut disk, &mut |_, _| {}).unwrap();
        // The newest two closing indexes may be torn by the kill that left this image.
        let Some(finding) = report.findings.first() else {
            panic!("the flip at {at} was not found");
        };
        assert!(report.is_damaged() || finding.what.ends_with("closing index"), "{finding:?}");
        let in_batch = finding.what.contains("batch");
        let names_messages = finding.streams.iter().all(|missing| missing.stream == "orders");
        assert!(!in_batch || names_messages, "{finding:?}");
        if let Err(OpenError::Damaged(damaged)) = read_log(&mut disk, &mut |_| {}) {
            assert!(report.is_damaged(), "verify finds nothing where opening says: {damaged}");
            halts += 1;
        }
        disk.media_mut()[at] ^= bit;
    }
    assert_eq!(verify(&mut disk, &mut |_, _| {}).unwrap().findings, [], "and back");
    assert!(halts > 10, "openings that found damage: {halts}");
}

/// Where something was written: superblocks, banner, segment headers and copies, batches, indexes.
fn written_ranges(writer: &Writer) -> Vec<(u64, u64)> {
    let (block, geometry) = (BLOCK_BYTES as u64, writer.log.segments.geometry());
    let mut ranges = vec![(0, block)];
    for copy in superblock::copy_offsets(writer.disk.media().len() as u64) {
        ranges.push((copy.get(), copy.get() + block));
    }
    for live in writer.log.segments.iter() {
        let start = geometry.segment(live.place).get();
        let end = live.end.map_or_else(|| writer.log.off(), |end| end.off);
        ranges.push((start, start + end));
        ranges.push((start + geometry.copy_offset(), start + geometry.segment_bytes));
        if live.end.is_some() {
            ranges.push((start + geometry.index_offset(), start + geometry.copy_offset()));
        }
    }
    // The newest batch only says that those before it are durable: nobody vouches for it yet.
    let last = geometry.within(writer.log.durable_end()) - block;
    let start = geometry.segment(writer.log.segments.current().place).get();
    for range in &mut ranges {
        if range.0 == start {
            range.1 = start + last;
        }
    }
    ranges
}

#[test]
fn damage_to_acknowledged_messages_stops_the_opening_and_names_them() {
    let mut writer = Writer::open(formatted(12, 6));
    for n in 0..20u8 {
        writer.append(&[n; 100]).unwrap();
        writer.submit();
        while writer.poll() {}
    }
    writer.settle();
    let log_off = writer.log.locate(StreamId(1), 1).log_off;
    let at = usize::try_from(writer.log.disk_offset(log_off).get()).unwrap();
    // The first message has a batch of its own, and so have the others.
    let mut image = writer.disk.image();
    image[at + 5 * BLOCK_BYTES + 200] ^= 1;
    let before = image.clone();
    let mut disk = TestDisk::with(image, 7);
    let error = Log::open(&mut disk, &OPTIONS, &mut |_| {}).unwrap_err();
    let OpenError::Damaged(damaged) = &error else { panic!("{error}") };
    let missing = Missing { stream: "orders".to_owned(), first: 6, last: Some(6) };
    assert_eq!(damaged.streams, [missing], "{error}");
    assert!(disk.media() == before, "nothing was changed");
    // The same in the tail nobody was told of: cut.
    let mut writer = Writer::open(TestDisk::with(writer.disk.image(), 8));
    writer.next_seq = 21;
    writer.append(b"never acknowledged").unwrap();
    writer.submit();
    let image = writer.disk.crash_image(u64::MAX);
    assert_eq!(contents(image.clone()).unwrap().len(), 21, "it may be there");
    let at = writer.disk.pending_writes()[0].disk_offset.get();
    let mut torn = image;
    torn[usize::try_from(at).unwrap() + 150] ^= 1;
    assert_eq!(contents(torn).unwrap().len(), 20, "or not, and never in part");
}

#[test]
fn a_last_segment_that_is_gone_after_a_clean_stop_is_missed_by_all_who_look() {
    let mut writer = Writer::open(formatted(16, 3));
    while writer.log.segments.counts().live < 3 {
        writer.append(&[7; 1_000]).unwrap();
        writer.settle();
    }
    let Writer { mut disk, log, .. } = writer;
    let (place, geometry) = (log.segments.current().place, *log.segments.geometry());
    log.close(&mut disk).unwrap();
    recovery::wipe(&mut disk, &geometry, place).unwrap();
    let opened = Log::open(&mut disk, &OPTIONS, &mut |_| {}).map(|_| ());
    let Err(OpenError::Damaged(damaged)) = opened else { panic!("{opened:?}") };
    assert_eq!(damaged.because, Reason::StoppedLater, "{damaged}");
    let report = verify(&mut disk, &mut |_, _| {}).unwrap();
    assert!(report.is_damaged(), "{report:?}");
}

#[test]
fn a_full_log_refuses_and_can_still_be_opened_and_read() {
    let mut writer = Writer::open(formatted(8, 7));
    let mut count = 0;
    let refused = loop {
        match writer.append(&[7; 4000]) {
            Ok(_) => count += 1,
            Err(AppendError::Busy) => {
                writer.submit();
                assert!(writer.poll());
            }
            Err(error) => break error,
        }
    };
    assert_eq!(refused, AppendError::Full);
    writer.settle();
    assert_eq!(writer.acknowledged(), count);
    for _ in 0..4 {
        let disk = TestDisk::with(writer.disk.image(), 9);
        writer = Writer::open(disk);
        assert_eq!(contents(writer.disk.image()).unwrap().len(), count);
    }
}

#[test]
fn restarts_of_an_idle_log_do_not_eat_the_disk() {
    let mut image = formatted(12, 8).image();
    let mut epochs = Vec::new();
    for round in 0..300 {
        let mut disk = TestDisk::with(image, round);
        let (log, recovery) = Log::open(&mut disk, &OPTIONS, &mut |_| {}).unwrap();
        epochs.push(recovery.epoch);
        assert_eq!(log.segments().live, 1);
        if round % 3 == 0 {
            log.close(&mut disk).unwrap();
        }
        image = disk.image();
    }
    assert!(epochs.windows(2).all(|pair| pair[1] > pair[0]), "each reign has a higher epoch");
}

/// What describes a log counts segments with something in them, and what verifies it those that stand there.
#[test]
fn a_segment_that_is_only_begun_is_counted_and_said_to_be_empty() {
    let mut writer = Writer::open(formatted(12, 9));
    writer.append(b"kept").unwrap();
    writer.settle();
    let counted = |image| {
        let mut disk = TestDisk::with(image, 9);
        let report = verify(&mut disk, &mut |_, _| {}).unwrap();
        let used = describe(&mut disk).unwrap().segments_used;
        (report.segments, report.segments_empty, used)
    };
    assert_eq!(counted(writer.disk.image()), (1, 0, 1));
    let reopened = Writer::open(TestDisk::with(writer.disk.image(), 9));
    assert_eq!(counted(reopened.disk.image()), (2, 1, 1));
}

#[test]
fn a_failed_write_latches() {
    let mut writer = Writer::open(formatted(12, 9));
    writer.append(b"safe").unwrap();
    writer.settle();
    let safe = writer.acknowledged();
    writer.disk.fail_after(Some(0));
    for _ in 0..3 {
        writer.append(b"lost").unwrap();
        writer.submit();
        writer.poll();
    }
    writer.disk.fail_after(None);
    for _ in 0..10 {
        writer.submit();
        writer.poll();
    }
    assert!(writer.log.fault().is_some());
    assert_eq!(writer.acknowledged(), safe, "nothing is acknowledged past a failed write");
}

#[test]
fn a_disk_that_holds_something_is_not_formatted() {
    let options = FormatOptions { segment_bytes: MIB as u64, force: false };
    for (at, bytes, what) in [
        (1080, &[0x53, 0xef][..], "ext4"),
        (512, b"EFI PART", "GPT"),
        (0, b"XFSB", "XFS"),
        (700_000, b"something", "not Buslane's"),
    ] {
        let mut image = vec![0; 8 * MIB];
        image[at..at + bytes.len()].copy_from_slice(bytes);
        let mut disk = TestDisk::with(image.clone(), 1);
        let error = format(&mut disk, &options).unwrap_err();
        assert!(
            error.to_string().contains(what) && error.to_string().contains("--force"),
            "{error}"
        );
        assert!(disk.media() == image, "nothing was changed");
        let force = FormatOptions { force: true, ..options };
        format(&mut disk, &force).unwrap();
        assert!(occupant(&mut disk).unwrap().unwrap().contains("a log of Buslane"));
        assert!(matches!(format(&mut disk, &options), Err(FormatError::Occupied { .. })));
    }
    let mut small = TestDisk::with(vec![0; 4 * MIB], 1);
    let error = format(&mut small, &options).unwrap_err().to_string();
    assert!(error.contains("needs at least"), "{error}");
}

#[test]
fn old_contents_and_forged_batches_are_never_taken_for_batches() {
    // A log, formatted anew by force: its old segments must not count.
    let mut writer = Writer::open(formatted(12, 10));
    for _ in 0..300 {
        writer.append(&[1; 2000]).unwrap();
        writer.submit();
        while writer.poll() {}
    }
    writer.settle();
    let old = writer.disk.image();
    let mut disk = TestDisk::with(old.clone(), 1);
    format(&mut disk, &FormatOptions { segment_bytes: MIB as u64, force: true }).unwrap();
    assert_eq!(contents(disk.image()).unwrap().len(), 0);
    // A payload that is a whole batch of this very log, where the next batch may begin.
    let mut writer = Writer::open(TestDisk::with(old, 2));
    writer.next_seq = 301;
    let log_off = writer.log.locate(StreamId(1), 1).log_off;
    let start = usize::try_from(writer.log.disk_offset(log_off).get()).unwrap();
    let mut forged = vec![0; 2 * BLOCK_BYTES - 128 - 48];
    let room = forged.len();
    forged[room - BLOCK_BYTES..].copy_from_slice(&writer.disk.media()[start..start + BLOCK_BYTES]);
    writer.append(&forged).unwrap();
    writer.settle();
    assert_eq!(contents(writer.disk.image()).unwrap().len(), 301);
}

#[test]
fn full_tables_say_so_and_forget_only_what_has_nothing_to_lose() {
    let mut writer = Writer::open(formatted(32, 11));
    for n in 2..=STREAMS_MAX {
        loop {
            let made = writer.log.create_stream(writer.disk.memory_mut(), &format!("s{n}"), 1);
            match made {
                Ok(_) => break,
                Err(ControlError::Busy) => writer.settle(),
                Err(error) => panic!("{error}"),
            }
        }
    }
    writer.settle();
    let more = writer.log.create_stream(writer.disk.memory_mut(), "one-more", 1);
    assert_eq!(more, Err(ControlError::TableFull { limit: STREAMS_MAX }));
    writer.append(b"producer 1 has something to lose").unwrap();
    // Nobody is forgotten before it could come back.
    writer.settle();
    writer.now_ns += crate::limits::PRODUCER_RETURN_NS;
    writer.settle();
    for _ in 0..PRODUCERS_MAX + 10 {
        loop {
            let memory = writer.disk.memory_mut();
            match writer.log.register_producer(
                memory,
                Registrant::New(Owner::NOBODY),
                Tenure { epoch: 1, instance: 1 },
                5,
            ) {
                Ok(_) => break,
                Err(ControlError::Busy) => writer.settle(),
                Err(error) => panic!("{error}"),
            }
        }
    }
    writer.settle();
    assert!(writer.log.producer(ProducerId(1)).is_some(), "it has published");
    let image = writer.disk.image();
    let writer = Writer::open(TestDisk::with(image, 3));
    assert_eq!(writer.log.streams().count(), STREAMS_MAX, "the catalog survives");
    assert_eq!(writer.log.producer(ProducerId(1)).unwrap().last_seq, 1);
    assert_eq!(writer.log.producers().count(), PRODUCERS_MAX);
}

#[test]
fn a_batch_that_was_sealed_before_its_turn_had_appended_all_has_the_times_of_that_turn() {
    let mut writer = Writer::open(formatted(16, 12));
    // Several batches, and over the border of a segment, in one turn.
    let before = loop {
        let (live, before) = (writer.log.segments().live, writer.appended.len());
        for _ in 0..100 {
            writer.append(&[7; 4_000]).unwrap();
        }
        if writer.log.segments().live > live {
            break before;
        }
        writer.log.note_times(1, 2);
        writer.settle();
    };
    let (received_ns, appended_ns) = (writer.now_ns + 5, writer.now_ns + 9);
    writer.log.note_times(received_ns, appended_ns);
    writer.log.note_times(received_ns + 50, appended_ns + 50);
    let (mut messages, mut batches) = (0, 0);
    while messages < (writer.appended.len() - before) as u64 {
        writer.submit();
        let mut done = [Completion::NONE];
        if writer.disk.poll(&mut done) == 0 {
            continue;
        }
        writer.log.on_completion(&done[0], writer.now_ns).unwrap();
        while let Some(batch) = writer.log.take_durable() {
            let times = batch.times;
            if times.messages > 0 {
                assert_eq!((times.received_ns, times.appended_ns), (received_ns, appended_ns));
                (messages, batches) = (messages + times.messages, batches + 1);
            }
        }
    }
    assert!(batches > 2, "{batches} batches");
}
