//! Copies of logs that are at rest, written to, trimmed, restarted and damaged meanwhile.

use super::copy::{Copied, CopyError, CopyOptions, copy};
use super::superblock::ShareId;
use super::tests::{MIB, Writer, formatted};
use super::trim_tests::kept;
use super::verify::verify;
use super::*;
use crate::disk::queue::{Backend, Queue, Reaped, Refused, Start};
use crate::disk::{Disk, Operation};
use crate::limits::BLOCK_BYTES;
use crate::memory::Memory;
use crate::random::Random;
use crate::testing::disk::{RING, TestDisk};

const COPY: CopyOptions = CopyOptions { leg: [7; 16], share: ShareId::WHOLE };

/// The disk of a log that somebody writes: at each read, things happen before it.
struct Beside {
    writer: Writer,
    reading: Option<usize>,
    random: Random,
    /// Largest number of messages appended before a read, and one read in how many is preceded by a trim.
    pace: (u64, u64),
    /// One read in how many is preceded by a kill and a restart; 0 for none.
    restarts: u64,
}

impl Beside {
    fn disk(writer: Writer, seed: u64, pace: (u64, u64), restarts: u64) -> Queue<Self> {
        let info = writer.disk.info().clone();
        let memory = Memory::allocate(Log::memory_bytes(RING)).unwrap();
        let beside = Self { writer, reading: None, random: Random::new(seed), pace, restarts };
        Queue::over(beside, info, memory, 1)
    }

    fn live(&mut self) {
        for _ in 0..self.random.below(self.pace.0 + 1) {
            let payload = [7; 3_000];
            let size = usize::try_from(self.random.below(3_000)).unwrap();
            if self.writer.append(&payload[..size]).is_err() {
                self.writer.submit();
                self.writer.poll();
            }
        }
        if self.random.below(3) == 0 {
            self.writer.submit();
        }
        for _ in 0..self.random.below(6) {
            self.writer.poll();
        }
        if self.random.below(self.pace.1) == 0 {
            self.writer.settle();
            let next = self.writer.log.stream(StreamId(1)).unwrap().durable_next;
            self.writer.trim(next.saturating_sub(20).max(1));
            self.writer.settle();
        }
        if self.restarts > 0 && self.random.below(self.restarts) == 0 {
            let kept = self.random.below(u64::MAX);
            let image = self.writer.disk.crash_image(kept);
            let next_seq = self.writer.next_seq;
            self.writer = Writer::open(TestDisk::with(image, kept));
            self.writer.next_seq = next_seq;
        }
    }
}

impl Backend for Beside {
    fn start(&mut self, start: &Start<'_>) -> Result<(), Refused> {
        assert_eq!(start.io().operation, Operation::Read, "a source is never written");
        self.live();
        self.reading = Some(start.slot());
        Ok(())
    }

    fn reap(&mut self, reaped: &mut Reaped<'_>) {
        let Some(slot) = self.reading.take() else { return };
        reaped.end(slot, |io, memory| {
            let start = usize::try_from(io.disk_offset.get()).unwrap();
            let bytes = &self.writer.disk.media()[start..start + io.bytes];
            memory.bytes_mut(io.memory()).copy_from_slice(bytes);
            Ok(())
        });
    }

    fn close(&mut self, _: &mut Memory, _: usize) {}
}

fn empty(mib: usize) -> TestDisk {
    TestDisk::never_written(mib * MIB, 1)
}

fn copy_to(source: &mut dyn Disk, target: &mut TestDisk) -> Result<Copied, CopyError> {
    copy(source, target, &COPY, &mut |_| true)
}

/// Checks that a copy is whole and says where its stream begins and how far it goes.
fn check(target: &mut TestDisk) -> (u64, u64) {
    let report = verify(target, &mut |_, _| {}).unwrap();
    assert!(!report.is_damaged(), "{:?}", report.findings);
    let (first, payloads) = kept(target.image()).unwrap();
    // It can be served, and goes on where it ends.
    let mut again = Writer::open(TestDisk::with(target.image(), 1));
    let next = first + payloads.len() as u64;
    if !again.log.is_full() {
        again.next_seq = again.log.producer(ProducerId(1)).unwrap().last_seq + 1;
        assert_eq!(again.fill(b"more").unwrap(), next);
        again.settle();
        assert_eq!(kept(again.disk.image()).unwrap().1.len(), payloads.len() + 1);
    }
    (first, next - 1)
}

#[test]
fn a_log_at_rest_is_copied_message_by_message_to_a_disk_of_any_size() {
    let mut writer = Writer::open(formatted(12, 1));
    for n in 0..2_200u64 {
        writer.fill(&n.to_le_bytes().repeat(300)).unwrap();
    }
    writer.settle();
    let crashed = writer.disk.image();
    writer.log.close(&mut writer.disk).unwrap();
    let stopped = writer.disk.image();
    for image in [crashed, stopped] {
        let expected = kept(image.clone()).unwrap();
        for mib in [10, 12, 40] {
            let mut target = empty(mib);
            let copied = copy_to(&mut TestDisk::with(image.clone(), 2), &mut target).unwrap();
            assert_eq!((copied.rounds, kept(target.image()).unwrap()), (2, expected.clone()));
            check(&mut target);
            let superblock = super::recovery::read_superblock(&mut target).unwrap();
            assert_eq!((superblock.leg, superblock.segment_count.get()), ([7; 16], mib as u64 - 3));
            let of = super::recovery::read_superblock(&mut TestDisk::with(image.clone(), 2));
            assert_eq!(of.unwrap().cluster, superblock.cluster, "it is the same log");
        }
        for mib in [4, 8] {
            let error =
                copy_to(&mut TestDisk::with(image.clone(), 2), &mut empty(mib)).unwrap_err();
            assert!(matches!(error, CopyError::TooSmall { .. }), "{error}");
        }
    }
}

#[test]
fn a_log_that_never_was_opened_is_copied() {
    let mut target = empty(9);
    copy_to(&mut formatted(9, 1), &mut target).unwrap();
    check_empty(&mut target);
}

fn check_empty(target: &mut TestDisk) {
    let report = verify(target, &mut |_, _| {}).unwrap();
    assert_eq!((report.messages, report.is_damaged()), (0, false));
    Writer::open(TestDisk::with(target.image(), 1));
}

/// At every read of the copy, messages are appended, written in any order, and trimmed, so that segments are
/// begun, freed and used again under it.
#[test]
fn a_copy_of_a_log_that_is_written_and_trimmed_holds_all_that_was_acknowledged_before() {
    let (mut rounds_max, mut trims_seen, mut refused) = (0, 0, 0);
    for seed in 0..16 {
        let mut writer = Writer::open(formatted(9, seed));
        for n in 0..(seed % 7) * 60 {
            writer.fill(&[u8::try_from(n % 256).unwrap(); 2_500]).unwrap();
        }
        let acknowledged = writer.acknowledged();
        let appended: Vec<Vec<u8>> =
            writer.appended.iter().map(|(_, bytes)| bytes.clone()).collect();
        let pace =
            [(0, 1_000_000), (40, 30), (10, 40), (100, 12)][usize::try_from(seed % 4).unwrap()];
        let mut source = Beside::disk(writer, seed, pace, 0);
        let mut target = empty(9);
        let copied = match copy_to(&mut source, &mut target) {
            Ok(copied) => copied,
            // Of the fastest nothing else is asked than that it is not called a copy.
            Err(CopyError::TooFast { .. }) if pace.0 >= 100 => {
                refused += 1;
                continue;
            }
            Err(error) => panic!("seed {seed}: {error}"),
        };
        rounds_max = rounds_max.max(copied.rounds);
        let (first, last) = check(&mut target);
        assert!(last >= acknowledged as u64, "seed {seed}: {last} of {acknowledged}");
        trims_seen += u64::from(first > 1);
        assert!(
            first <= source.backend().writer.first(),
            "seed {seed}: nothing is trimmed that was not"
        );
        let (_, payloads) = kept(target.image()).unwrap();
        for (sequence, payload) in payloads {
            if let Some(bytes) = appended.get(usize::try_from(sequence).unwrap() - 1) {
                assert_eq!(&payload, bytes, "seed {seed}: sequence {sequence}");
            }
        }
    }
    assert!(rounds_max >= 2 && trims_seen > 0, "{rounds_max} rounds, {trims_seen} trims");
    assert!(refused < 4, "{refused} of 4 were given up");
}

#[test]
fn restarts_of_the_appliance_while_it_is_copied_leave_no_mixture_of_two_epochs() {
    for seed in 0..30 {
        let mut writer = Writer::open(formatted(12, seed));
        for _ in 0..200 {
            writer.fill(&[9; 2_500]).unwrap();
        }
        writer.settle();
        let mut source = Beside::disk(writer, seed, (10, 1_000_000), 40);
        let mut target = empty(12);
        match copy_to(&mut source, &mut target) {
            Ok(_) => assert!(check(&mut target).1 >= 200, "seed {seed}"),
            Err(CopyError::TooFast { .. } | CopyError::Hurt { .. }) => {}
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
}

/// Why `cp` is no backup: the first half is of one moment, the second of another.
#[test]
fn blocks_copied_one_after_the_other_under_a_writer_are_refused_with_a_hint() {
    let mut writer = Writer::open(formatted(12, 1));
    for _ in 0..500 {
        writer.fill(&[1; 3_000]).unwrap();
    }
    writer.settle();
    let mut bytes = writer.disk.image();
    for _ in 0..500 {
        writer.fill(&[2; 3_000]).unwrap();
    }
    writer.settle();
    bytes[4 * MIB..].copy_from_slice(&writer.disk.media()[4 * MIB..]);
    let error = kept(bytes).unwrap_err().to_string();
    assert!(error.contains("damaged") && error.contains("buslane log copy"), "{error}");
}

#[test]
fn a_damaged_log_is_not_copied_and_the_damage_is_named() {
    let mut writer = Writer::open(formatted(9, 1));
    for n in 0..1_200u64 {
        writer.fill(&n.to_le_bytes().repeat(300)).unwrap();
    }
    writer.settle();
    let image = writer.disk.image();
    let geometry = *writer.log.segments.geometry();
    for place in geometry.places().take(3) {
        let mut bytes = image.clone();
        let at = usize::try_from(geometry.segment(place).get()).unwrap() + 20 * BLOCK_BYTES;
        bytes[at..at + BLOCK_BYTES].fill(0xff);
        let mut target = empty(9);
        let error = copy_to(&mut TestDisk::with(bytes, 1), &mut target).unwrap_err();
        let says = error.to_string();
        assert!(says.contains("log verify") && says.contains("segment"), "{says}");
        assert!(super::recovery::read_superblock(&mut target).is_err(), "it is no log");
    }
}

#[test]
fn a_copy_that_fails_or_is_stopped_at_any_write_is_no_log() {
    let mut writer = Writer::open(formatted(9, 1));
    for _ in 0..300 {
        writer.fill(&[1; 2_500]).unwrap();
    }
    writer.settle();
    let image = writer.disk.image();
    for fail_after in (0..u64::MAX).step_by(3) {
        let mut target = empty(9);
        target.fail_after(Some(fail_after));
        let copied = copy_to(&mut TestDisk::with(image.clone(), 1), &mut target);
        target.fail_after(None);
        match copied {
            Ok(_) => {
                assert!(fail_after > 20, "{fail_after}");
                check(&mut target);
                break;
            }
            // The last writes are those of the superblock: of four copies two make it.
            Err(CopyError::Write { .. }) => {
                if let Ok((_, payloads)) = kept(target.image()) {
                    assert_eq!(payloads.len(), 300, "{fail_after}");
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
    let mut target = empty(9);
    let stopped = copy(&mut TestDisk::with(image, 1), &mut target, &COPY, &mut |_| false);
    assert!(matches!(stopped, Err(CopyError::Stopped)));
    assert!(super::recovery::read_superblock(&mut target).is_err());
}
