//! Trims against everything a disk may do to them.

use std::collections::BTreeMap;

use super::recovery::{Missing, OpenError, read_log};
use super::segment::End;
use super::segments::Live;
use super::tests::{OPTIONS, Writer, formatted};
use super::trim::TrimError;
use super::verify::verify;
use super::*;
use crate::disk::Disk;
use crate::limits::BLOCK_BYTES;
use crate::random::Random;
use crate::testing::disk::TestDisk;

impl Writer {
    pub(super) fn trim(&mut self, first: u64) {
        let memory = self.disk.memory_mut();
        let trimmed = self.log.trim_stream(memory, self.stream, first, 5_000);
        assert!(!matches!(trimmed, Err(TrimError::NoStream)), "{trimmed:?}");
    }

    /// Appends and settles so often as there is room.
    pub(super) fn fill(&mut self, payload: &[u8]) -> Result<u64, AppendError> {
        loop {
            match self.append(payload) {
                Err(AppendError::Busy) => self.settle(),
                done => return done,
            }
        }
    }

    pub(super) fn first(&self) -> u64 {
        self.log.stream(self.stream).unwrap().first_sequence
    }
}

/// Where the log's only stream begins, and its payloads by sequence, read from the disk.
pub(super) fn kept(image: Vec<u8>) -> Result<(u64, BTreeMap<u64, Vec<u8>>), OpenError> {
    kept_on(&mut TestDisk::with(image, 1))
}

/// The same, of a disk that stays as it is.
fn kept_on(disk: &mut TestDisk) -> Result<(u64, BTreeMap<u64, Vec<u8>>), OpenError> {
    let read = read_log(disk, &mut |_| {})?;
    let facts = read.catalog.streams().get(StreamId(1)).expect("it was made first of all");
    let (first, next) = (facts.first_recorded(), facts.next_sequence);
    let mut payloads = BTreeMap::new();
    for found in &read.found {
        let start = End { off: BLOCK_BYTES as u64, base: found.header.base() };
        scan::walk(disk, &read.superblock, &found.header, start, &mut |batch| {
            for record in batch.records().filter(|record| record.header.stream.get() == 1) {
                payloads.insert(record.header.sequence.get(), record.payload.to_vec());
            }
        })
        .unwrap();
    }
    payloads.retain(|sequence, _| *sequence >= first);
    assert_eq!(payloads.len() as u64, next - first, "all that is kept is there");
    Ok((first, payloads))
}

#[test]
fn what_is_trimmed_makes_room_for_ever() {
    let mut writer = Writer::open(formatted(9, 1));
    for n in 0..20_000u64 {
        let sequence = writer.fill(&n.to_le_bytes().repeat(400)).expect("there is always room");
        assert_eq!(sequence, n + 1);
        if n % 50 == 49 {
            writer.settle();
            writer.trim(n - 40);
        }
        if n % 5_000 == 4_999 {
            writer.settle();
            let next_seq = writer.next_seq;
            writer = Writer::open(TestDisk::with(writer.disk.image(), n));
            writer.next_seq = next_seq;
        }
    }
    writer.settle();
    let (first, payloads) = kept(writer.disk.image()).unwrap();
    assert_eq!((first, payloads.len()), (19_959, 42));
    let report = verify(&mut writer.disk, &mut |_, _| {}).unwrap();
    assert_eq!(report.findings, [], "a sound log verifies clean");
}

#[test]
fn a_full_log_that_is_trimmed_takes_messages_again() {
    let mut writer = Writer::open(formatted(9, 2));
    for round in 0..5 {
        let mut last = writer.first();
        while let Ok(sequence) = writer.fill(&[round; 3_000]) {
            last = sequence;
        }
        writer.settle();
        assert!(writer.log.is_full(), "round {round}");
        if round % 2 == 1 {
            let next_seq = writer.next_seq;
            writer = Writer::open(TestDisk::with(writer.disk.image(), 3));
            writer.next_seq = next_seq;
            assert!(writer.log.is_full(), "opening it changes nothing");
        }
        writer.trim(last);
        for _ in 0..4 {
            writer.settle();
        }
        assert!(!writer.log.is_full(), "round {round}: there is room again");
        assert_eq!(writer.first(), last);
    }
}

#[test]
fn trims_of_nothing_and_of_what_is_not_there_change_nothing() {
    let mut writer = Writer::open(formatted(9, 3));
    for n in 0..10u8 {
        writer.append(&[n; 10]).unwrap();
    }
    writer.settle();
    let Writer { disk, log, stream, .. } = &mut writer;
    let mut trim = |id, first| log.trim_stream(disk.memory_mut(), id, first, 1);
    assert_eq!(trim(*stream, 12), Err(TrimError::NotThere { durable_next: 11 }));
    assert_eq!(trim(StreamId(9), 1), Err(TrimError::NoStream));
    assert_eq!(trim(*stream, 0), Ok(None));
    let batch = trim(*stream, 5).unwrap();
    assert!(batch.is_some());
    assert_eq!(trim(*stream, 4).unwrap(), batch, "it waits for the same record");
    assert_eq!(writer.first(), 1, "not before that is durable");
    writer.settle();
    assert_eq!(writer.first(), 5);
    let Writer { disk, log, stream, .. } = &mut writer;
    assert_eq!(log.trim_stream(disk.memory_mut(), *stream, 5, 1), Ok(None));
}

/// At every step around trims and the segments they free, every state the media can be in: all subsets of up
/// to ten blocks in flight, and some of more; opened, with kills inside the opening and the one after it.
#[test]
fn every_crash_image_of_a_trim_keeps_what_is_kept() {
    let (mut images, mut freed) = (0, 0);
    for seed in 0..4 {
        let mut random = Random::new(seed);
        let mut writer = Writer::open(formatted(9, seed));
        let mut trimmed = 1;
        for step in 0..60u64 {
            // Long stretches between the steps, so that segments end.
            for _ in 0..random.below(40) {
                let payload = vec![u8::try_from(step).unwrap(); 2_500];
                let _ = writer.append(&payload);
                if random.one_of_thousand(300) {
                    writer.submit();
                    writer.poll();
                }
            }
            if random.one_of_thousand(400) {
                let next = writer.log.stream(StreamId(1)).unwrap().durable_next;
                trimmed = next - random.below(next).min(20);
                writer.trim(trimmed);
            }
            for _ in 0..random.below(30) {
                writer.submit();
                writer.poll();
            }
            writer.now_ns += 2_000_000;
            let now_ns = writer.now_ns;
            writer.log.tick(writer.disk.memory_mut(), now_ns, 4_000);
            writer.submit();
            let blocks = writer.disk.pending_blocks();
            let all = if blocks <= 7 { 1 << blocks } else { 24 };
            // One for all, as it is only read: a write would fail.
            let mut crashed = writer.disk.copy();
            crashed.fail_after(Some(0));
            for subset in 0..all {
                let mask = if blocks <= 7 { subset } else { random.next_u64() };
                writer.disk.put_crash(crashed.media_mut(), mask);
                check_image(&writer, &mut crashed, trimmed);
                images += 1;
                if subset % 16 == 3 {
                    reopen_with_crashes(crashed.media());
                }
            }
        }
        freed += writer.log.take_freed();
    }
    println!("{images} crash images, {freed} segments freed");
    assert!(images > 800 && freed > 8, "only {images} images, {freed} segments freed");
}

fn check_image(writer: &Writer, crashed: &mut TestDisk, trimmed: u64) {
    let (first, payloads) = kept_on(crashed).unwrap();
    assert!(first >= writer.first(), "what is durably trimmed stays so");
    assert!(first <= trimmed.max(writer.first()), "nothing else is");
    let acknowledged = writer.acknowledged() as u64;
    assert!(payloads.len() as u64 + first > acknowledged, "all that was acknowledged");
    for (sequence, payload) in &payloads {
        let index = usize::try_from(*sequence - 1).unwrap();
        assert_eq!(*payload, writer.appended[index].1);
    }
    let report = verify(crashed, &mut |_, _| {}).unwrap();
    assert!(!report.is_damaged(), "{:?}", report.findings);
}

/// Opening writes too: it is killed after any number of its writes, and so is the opening after it.
fn reopen_with_crashes(image: &[u8]) {
    let expected = kept(image.to_vec()).unwrap();
    let killed_after = |image: &[u8], writes| {
        let mut disk = TestDisk::with(image.to_vec(), 3);
        disk.in_order();
        disk.fail_after(Some(writes));
        let opened = Log::open(&mut disk, &OPTIONS, &mut |_| {}).map(|_| ());
        let mut left = TestDisk::with(disk.into_image(), 1);
        assert_eq!(kept_on(&mut left).unwrap(), expected, "{opened:?} after {writes} writes");
        left.into_image()
    };
    for first in [0, 1, 3, 5, 6, 7, 9, 12] {
        let once = killed_after(image, first);
        for second in [2, 6, 9] {
            let mut disk = TestDisk::with(killed_after(&once, second), 3);
            Log::open(&mut disk, &OPTIONS, &mut |_| {}).unwrap();
            assert_eq!(kept(disk.into_image()).unwrap(), expected);
        }
    }
}

#[test]
fn a_beginning_that_was_not_trimmed_and_is_gone_is_damage() {
    let mut writer = Writer::open(formatted(16, 5));
    for n in 0..1_500u32 {
        writer.fill(&n.to_le_bytes().repeat(600)).unwrap();
    }
    writer.settle();
    let live: Vec<Live> = writer.log.segments.iter().copied().collect();
    assert!(live.len() > 3);
    let mut image = writer.disk.image();
    for live in &live[..2] {
        let start = writer.log.segments.geometry().segment(live.place);
        for offset in [start, start + writer.log.segments.geometry().copy_offset()] {
            let offset = usize::try_from(offset.get()).unwrap();
            image[offset..offset + BLOCK_BYTES].fill(0);
        }
    }
    let mut disk = TestDisk::with(image, 6);
    let error = Log::open(&mut disk, &OPTIONS, &mut |_| {}).unwrap_err();
    let OpenError::Damaged(damaged) = &error else { panic!("{error}") };
    let Missing { stream, first, last } = &damaged.streams[0];
    assert_eq!((stream.as_str(), *first), ("orders", 1), "{error}");
    let last = last.expect("the next segment tells");
    assert!((200..1_500).contains(&last), "{error}");
    let report = verify(&mut disk, &mut |_, _| {}).unwrap();
    assert!(report.is_damaged());
}

/// Two streams and whatever is done to them, the appliance started again at any time, in order or not.
struct Deeds {
    writer: Writer,
    random: Random,
}

impl Deeds {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mib = usize::try_from(8 + random.below(4)).unwrap();
        let mut deeds = Self { writer: Writer::open(formatted(mib, seed)), random };
        deeds.made("second");
        if seed == 3 {
            // Tables as full as they become: their checkpoint takes a large part of each segment.
            (3..=crate::limits::STREAMS_MAX).for_each(|number| deeds.made(&format!("s{number}")));
            for _ in 1..crate::limits::PRODUCERS_MAX {
                let Writer { log, disk, .. } = &mut deeds.writer;
                if log
                    .register_producer(
                        disk.memory_mut(),
                        Registrant::New(Owner::NOBODY),
                        Tenure { epoch: 1, instance: 1 },
                        1,
                    )
                    .is_err()
                {
                    deeds.writer.settle();
                }
            }
        }
        deeds.writer.settle();
        deeds
    }

    fn made(&mut self, name: &str) {
        let Writer { log, disk, .. } = &mut self.writer;
        if log.create_stream(disk.memory_mut(), name, 1).is_err() {
            self.writer.settle();
            let Writer { log, disk, .. } = &mut self.writer;
            log.create_stream(disk.memory_mut(), name, 1).unwrap();
        }
    }

    fn restart(&mut self) {
        let next_seq = self.writer.next_seq;
        let image = self.writer.disk.crash_image(self.random.next_u64());
        let image = if self.random.below(2) == 0 {
            image
        } else {
            let Writer { log, mut disk, .. } = self.take();
            log.close(&mut disk).unwrap();
            disk.image()
        };
        self.writer = Writer::open(TestDisk::with(image, next_seq));
        self.writer.next_seq = next_seq;
    }

    /// The writer, with one of nothing in its place.
    fn take(&mut self) -> Writer {
        std::mem::replace(&mut self.writer, Writer::open(formatted(8, 1)))
    }

    fn maybe_restart(&mut self) {
        for _ in 0..self.random.below(3) {
            self.restart();
        }
    }

    /// Trims a stream so far, or by so much; an error is one that is no matter of time.
    fn trim(&mut self, id: u32, by: Option<u64>) -> Result<(), TrimError> {
        loop {
            let Writer { log, disk, .. } = &mut self.writer;
            let stream = log.stream(StreamId(id)).unwrap();
            let first = by.map_or(stream.durable_next, |by| stream.first_sequence + by);
            let first = first.min(stream.durable_next);
            match log.trim_stream(disk.memory_mut(), StreamId(id), first, 1) {
                Err(TrimError::NotAppended(ControlError::Busy)) => self.writer.settle(),
                done => return done.map(|_| ()),
            }
        }
    }

    fn deed(&mut self) {
        let id = 1 + u32::try_from(self.random.below(2)).unwrap();
        match self.random.below(6) {
            0 | 1 => {
                self.writer.stream = StreamId(id);
                for _ in 0..self.random.below(4_000) {
                    if self.writer.fill(&[3; 3_000]).is_err() {
                        break;
                    }
                }
            }
            2 => {
                let by = self.random.below(2_000);
                let _ = self.trim(id, Some(by));
            }
            3 => {
                for _ in 0..self.random.below(400) {
                    let _ = self.trim(id, Some(1));
                    self.writer.settle();
                }
            }
            4 => self.writer.settle(),
            _ => self.restart(),
        }
    }
}

#[test]
fn whatever_was_done_trimming_all_makes_room_for_a_message() {
    for seed in 0..10 {
        let mut deeds = Deeds::new(seed);
        for _ in 0..10 + deeds.random.below(30) {
            deeds.deed();
        }
        deeds.writer.stream = StreamId(1);
        while deeds.writer.fill(&[4; 3_000]).is_ok() {}
        // Trims that free nothing, and restarts between them.
        for _ in 0..8 {
            let _ = deeds.trim(2, Some(1));
            deeds.writer.settle();
            deeds.restart();
        }
        let mut all = [1, 2];
        if deeds.random.below(2) == 0 {
            all.reverse();
        }
        for id in all {
            deeds.maybe_restart();
            deeds.trim(id, None).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            deeds.writer.settle();
        }
        deeds.maybe_restart();
        (0..3).for_each(|_| deeds.writer.settle());
        let room = deeds.writer.fill(&[5; 3_000]);
        assert!(room.is_ok(), "seed {seed}: {room:?}, {:?} segments", deeds.writer.log.segments());
        deeds.writer.settle();
        let report = verify(&mut deeds.writer.disk, &mut |_, _| {}).unwrap();
        assert!(!report.is_damaged(), "seed {seed}: {:?}", report.findings);
    }
}
