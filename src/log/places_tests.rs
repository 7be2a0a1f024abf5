//! Finding a place in a stream, against looking at every index entry.

use super::segment::IndexEntry;
use super::segments::Live;
use super::tests::{Writer, formatted};
use super::*;
use crate::disk::Disk;
use crate::limits::BLOCK_BYTES;
use crate::random::Random;
use crate::testing::disk::TestDisk;

impl Writer {
    /// Appends a message to a stream, received at a time of the caller's choice.
    fn append_at(&mut self, stream: StreamId, unix_ns: u64) {
        let payload = [0; 3_000];
        let (producer_id, producer_seq) = (ProducerId(1), self.next_seq);
        let signed = Signed { producer_id, producer_seq, stream, flags: 0, ext_len: 0 };
        let crc32c = signed.crc32c(&payload);
        loop {
            let producer = self.producer.as_ref().expect("it was opened");
            let message = Message { signed, producer, crc32c, payload: &payload };
            if self.log.append(self.disk.memory_mut(), &message, unix_ns).is_ok() {
                break;
            }
            self.settle();
        }
        self.next_seq += 1;
    }

    fn all_entries(&self, stream: StreamId) -> Vec<IndexEntry> {
        let of = |live: &Live| self.log.segments.entries(live).to_vec();
        let entries = self.log.segments.iter().flat_map(of);
        entries.filter(|entry| entry.stream.get() == stream.0).collect()
    }
}

fn check(writer: &Writer, times: &[Vec<u64>]) {
    for id in 1..=3 {
        let stream = StreamId(id);
        let entries = writer.all_entries(stream);
        let times = &times[usize::try_from(id).unwrap() - 1];
        for sequence in 1..=times.len() as u64 + 2 {
            let last = entries.iter().rev().find(|entry| entry.first_sequence.get() <= sequence);
            let found = writer.log.locate(stream, sequence).sequence;
            assert_eq!(Some(found), last.map(|entry| entry.first_sequence.get()), "{sequence}");
            let next = entries.iter().map(|entry| entry.first_sequence.get());
            let next = next.filter(|&first| first > sequence).min();
            assert_eq!(writer.log.next_indexed(stream, sequence), next, "{sequence}");
        }
        for unix_ns in (0..40_000).step_by(97) {
            let found = writer.log.locate_time(stream, unix_ns).sequence;
            let wanted = times.iter().position(|&time| time >= unix_ns);
            let wanted = wanted.map_or(u64::MAX, |index| index as u64 + 1);
            assert!(found <= wanted, "stream {id} at {unix_ns}: from {found}, {wanted} is wanted");
            // And not from the beginning either, where the clock went on.
            let near = entries.iter().take_while(|entry| entry.time_ns.get() < unix_ns).last();
            let near = near.map_or(1, |entry| entry.first_sequence.get());
            assert_eq!(found, near, "stream {id} at {unix_ns}");
        }
    }
}

#[test]
fn a_place_is_found_by_sequence_and_by_time_though_the_clock_was_set_back() {
    let mut random = Random::new(5);
    let mut writer = Writer::open(formatted(24, 5));
    for name in ["second", "third"] {
        writer.log.create_stream(writer.disk.memory_mut(), name, 1).unwrap();
    }
    writer.settle();
    let mut times = vec![Vec::new(); 3];
    let mut unix_ns = 20_000;
    for step in 0..4_000u64 {
        unix_ns += random.below(5);
        if step == 1_500 {
            unix_ns = 15_000;
        }
        // The third is idle for most of the log.
        let id = match random.below(100) {
            0 if !(500..3_000).contains(&step) => 3,
            1..40 => 2,
            _ => 1,
        };
        writer.append_at(StreamId(id), unix_ns);
        times[usize::try_from(id).unwrap() - 1].push(unix_ns);
        if random.below(40) == 0 {
            writer.settle();
        }
    }
    writer.settle();
    assert!(writer.log.segments.counts().live > 10 && times[2].len() > 3);
    check(&writer, &times);
    let writer = Writer::open(TestDisk::with(writer.disk.image(), 6));
    check(&writer, &times);
}

/// Of the newest message before the clock was set back no index entry tells: only the first of a part of a segment has
/// one. The checkpoint of the next segment does.
#[test]
fn nothing_is_passed_over_by_time_when_the_clock_was_set_back_and_the_log_was_opened_anew() {
    let again = |mut writer: Writer| {
        writer.settle();
        Writer::open(TestDisk::with(writer.disk.image(), 8))
    };
    let mut writer = Writer::open(formatted(24, 7));
    writer.log.create_stream(writer.disk.memory_mut(), "second", 1).unwrap();
    let (first, second) = (StreamId(1), StreamId(2));
    // In one batch, which has one entry.
    let mut times = vec![10_000, 50_000];
    for unix_ns in &times {
        writer.append_at(first, *unix_ns);
    }
    // In the newest segment there is nothing of the first stream any more.
    let mut writer = again(writer);
    writer.append_at(second, 20_000);
    let mut writer = again(writer);
    assert_eq!(writer.log.stream(first).unwrap().newest_ns(), 50_000);
    for unix_ns in [20_000, 30_000, 60_000] {
        writer.append_at(first, unix_ns);
        writer.settle();
        times.push(unix_ns);
    }
    let writer = again(writer);
    for unix_ns in (0..70_000).step_by(5_000) {
        let found = writer.log.locate_time(first, unix_ns).sequence;
        let wanted = times.iter().position(|&time| time >= unix_ns);
        let wanted = wanted.map_or(u64::MAX, |index| index as u64 + 1);
        assert!(found <= wanted, "at {unix_ns}: from {found}, {wanted} is wanted");
    }
}

#[test]
fn the_last_durable_batch_before_a_roll_is_marked_when_the_log_rests() {
    let mut writer = Writer::open(formatted(9, 7));
    let blocks_left = |writer: &Writer| {
        (writer.log.segments.geometry().data_end() - writer.log.off()) / BLOCK_BYTES as u64
    };
    let finish = |writer: &mut Writer| {
        writer.submit();
        while writer.poll() {}
    };
    while blocks_left(&writer) > 2 {
        writer.append(b"a block").unwrap();
        finish(&mut writer);
    }
    let last = writer.log.segments.geometry().segment(writer.log.segments.current().place)
        + writer.log.off();
    writer.append(b"the last before the roll").unwrap();
    finish(&mut writer);
    assert_eq!(blocks_left(&writer), 1);
    writer.settle();
    let mut rotten = writer.disk.image();
    rotten[usize::try_from(last.get()).unwrap() + 200] ^= 1;
    let error = Log::open(&mut TestDisk::with(rotten, 1), &super::tests::OPTIONS, &mut |_| {});
    let error = error.map(|_| ()).expect_err("it was acknowledged, and the log rested");
    assert!(matches!(error, super::recovery::OpenError::Damaged(_)), "{error}");
    // The mark stands where the roll would: the log goes on all the same, also where the memory of the next segment's
    // blocks is not blank.
    writer.log.prepare(writer.disk.memory_mut());
    writer.disk.memory_mut().bytes_mut(0..super::tests::OPTIONS.ring_bytes).fill(0xaa);
    writer.append(b"in the next segment").unwrap();
    writer.settle();
    let appended = writer.appended.len() as u64;
    let mut disk = TestDisk::with(writer.disk.image(), 2);
    let report = super::verify::verify(&mut disk, &mut |_, _| {}).unwrap();
    assert_eq!(report.findings, []);
    let writer = Writer::open(disk);
    assert_eq!(writer.log.stream(StreamId(1)).unwrap().next_sequence, appended + 1);
}
