//! A log whose disk went away: what comes back, and what arrives late.

use super::recovery::{OpenError, Witness};
use super::tests::{OPTIONS, Writer, formatted};
use super::verify::verify;
use super::*;
use crate::disk::{Disk, Io};
use crate::random::Random;
use crate::testing::disk::TestDisk;

fn append(writer: &mut Writer, count: u32) {
    for n in 0..count {
        writer.append(&n.to_le_bytes().repeat(300)).unwrap();
        writer.settle();
    }
}

/// What opening the media says for whom that witness is, and whether it changed them.
fn again(media: &[u8], witness: &Witness) -> (Result<u64, OpenError>, bool) {
    let mut disk = TestDisk::with(media.to_vec(), 3);
    let opened = Log::open_again(&mut disk, &OPTIONS, Some(witness), &mut |_| {});
    (opened.map(|(_, recovery)| recovery.messages), disk.media() != media)
}

#[test]
fn what_comes_back_is_compared_before_anything_is_written() {
    let mut writer = Writer::open(formatted(16, 1));
    append(&mut writer, 100);
    let older = writer.disk.image();
    append(&mut writer, 100);
    let witness = writer.log.witness();
    let newest = writer.disk.image();
    let (opened, _) = again(&newest, &witness);
    assert_eq!(opened.unwrap(), 200);

    let mut other = Writer::open(formatted(16, 2));
    append(&mut other, 300);
    // An older copy that somebody else went on with, as far and farther.
    let mut forked = Writer::open(TestDisk::with(older.clone(), 5));
    forked.next_seq = 101;
    append(&mut forked, 300);
    let refused = [
        (older, "an older copy"),
        (other.disk.image(), "another log"),
        (forked.disk.image(), "is not the one that was durable"),
        (formatted(16, 3).image(), "another log"),
    ];
    for (media, why) in refused {
        let (opened, changed) = again(&media, &witness);
        let said = opened.unwrap_err().to_string();
        assert!(said.contains(why) && said.contains("nothing was changed"), "{why}: {said}");
        assert!(!changed, "{why}: nothing was written");
    }
}

#[test]
fn a_log_that_has_rested_and_one_that_was_only_opened_come_back() {
    let mut writer = Writer::open(formatted(16, 1));
    append(&mut writer, 3);
    for _ in 0..4 {
        // Each opening leaves a segment with nothing in it, which the next one takes back.
        let witness = writer.log.witness();
        let media = writer.disk.image();
        assert_eq!(again(&media, &witness).0.unwrap(), 3);
        writer = Writer::open(TestDisk::with(media, 7));
    }
}

/// The writes in flight, with what they carry.
fn in_flight(writer: &Writer) -> Vec<(usize, Vec<u8>)> {
    let carried = |io: Io| {
        let at = usize::try_from(io.disk_offset.get()).unwrap();
        (at, writer.disk.memory().bytes(io.memory()).to_vec())
    };
    writer.disk.pending_writes().into_iter().map(carried).collect()
}

/// A process is killed, its network delivers what it has sent while the next one, or the one after that, works
/// already. No fence holds anything back.
#[test]
fn what_lands_late_hurts_nothing_of_the_next_epoch() {
    let (mut landed, mut rolls) = (0, 0);
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let mut writer = Writer::open(formatted(24, seed));
        let mut late: Vec<(usize, Vec<u8>)> = Vec::new();
        for life in 0..6u64 {
            // Much at once, so that rolls are in flight too.
            for n in 0..random.below(400) {
                let _ = writer.append(&[u8::try_from(n % 251).unwrap(); 2_500]);
                if random.one_of_thousand(300) {
                    writer.submit();
                    writer.poll();
                }
                if !late.is_empty() && random.one_of_thousand(20) {
                    let index = usize::try_from(random.below(late.len() as u64)).unwrap();
                    let (at, bytes) = late.swap_remove(index);
                    writer.disk.media_mut()[at..at + bytes.len()].copy_from_slice(&bytes);
                    landed += 1;
                }
            }
            writer.submit();
            rolls += u64::from(writer.log.segments().live > 1);
            let acknowledged = writer.acknowledged();
            let sent = in_flight(&writer);
            let facts = writer.log.stream(StreamId(1)).unwrap().durable_next;
            let mut media = writer.disk.image();
            for (at, bytes) in &sent {
                // Some arrive in time, most late.
                if random.one_of_thousand(200) {
                    media[*at..*at + bytes.len()].copy_from_slice(bytes);
                }
            }
            late.extend(sent);
            let mut next = Writer::open(TestDisk::with(media, seed * 10 + life));
            let durable = next.log.stream(StreamId(1)).unwrap().durable_next;
            assert!(durable >= facts, "seed {seed}, life {life}: {acknowledged} acknowledged");
            next.next_seq = durable;
            writer = next;
        }
        for (at, bytes) in late.drain(..) {
            writer.disk.media_mut()[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        writer.settle();
        let facts = writer.log.stream(StreamId(1)).unwrap().durable_next;
        let mut disk = TestDisk::with(writer.disk.image(), 1);
        let report = verify(&mut disk, &mut |_, _| {}).unwrap();
        assert!(!report.is_damaged(), "seed {seed}: {:?}", report.findings);
        let again = Writer::open(disk);
        // Where the last life wrote nothing, more may be there: what was sent before and is there after all.
        assert!(again.log.stream(StreamId(1)).unwrap().durable_next >= facts, "seed {seed}");
    }
    assert!(landed > 100 && rolls > 10, "{landed} landed late, {rolls} rolls");
}
