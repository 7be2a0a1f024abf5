//! What must be true of every run. The names are those of `docs/testing.md`.

use std::collections::BTreeMap;

use crate::client::Receipt;
use crate::fanout::DATA_FRAME_BYTES_MIN;
use crate::ids::{Durability, ProducerId, StreamId};
use crate::position::LogOffset;
use crate::wire::DATAGRAM_HEADER_BYTES;
use crate::wire::control::Sizes;
use crate::wire::record::{Record, record_bytes};

/// What a datagram spends before its first record.
const DATA_BYTES_MIN: usize = DATAGRAM_HEADER_BYTES + DATA_FRAME_BYTES_MIN;

/// {oracle}: {what}
///
/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq, displaydoc::Display, thiserror::Error)]
#[ignore_extra_doc_attributes]
pub(crate) struct Violation {
    /// `O1` to `O26`.
    pub oracle: &'static str,
    /// What was found.
    pub what: String,
}

type Checked = Result<(), Violation>;

fn violation(oracle: &'static str, what: impl Into<String>) -> Checked {
    Err(Violation { oracle, what: what.into() })
}

/// What one producer was given to publish, in order: message `n` has producer number `n + 1`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Journal {
    /// Known once the server has given it.
    pub producer: Option<ProducerId>,
    /// What is published, in order.
    pub messages: Vec<(StreamId, Vec<u8>)>,
    /// All numbers up to this one were acknowledged.
    pub acked_to: u64,
}

/// Who wrote what under one sequence of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Content {
    producer: u64,
    producer_seq: u64,
}

/// One message of the log as a reader found it: producer and producer number.
pub(super) type Row = (u64, u64);

/// Judges a run as it goes.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    /// Per producer.
    pub journals: Vec<Journal>,
    /// What is known to stand under a sequence, from receipts and from deliveries.
    known: BTreeMap<(StreamId, u64), Content>,
    /// Per stream: the first sequence kept as far as an operator asked, and as far as it was confirmed.
    trims: BTreeMap<StreamId, (u64, u64)>,
    /// Streams that somebody was told of, by name.
    streams: BTreeMap<String, StreamId>,
    epoch: u64,
    durable_end: LogOffset,
    /// Messages delivered to all consumers.
    pub delivered: u64,
}

impl Oracle {
    fn place(&mut self, stream: StreamId, sequence: u64, content: Content) -> Checked {
        match self.known.insert((stream, sequence), content) {
            Some(before) if before != content => violation(
                "O2",
                format!("stream {stream} sequence {sequence}: {before:?} before, {content:?} now"),
            ),
            _ => Ok(()),
        }
    }

    /// A producer was told that a message is durable.
    ///
    /// # Errors
    /// O1 when it was not in order; O2 when its sequence is another message's; O5 when its epoch is of
    /// the future.
    pub(crate) fn acknowledged(&mut self, journal: usize, seq: u64, receipt: &Receipt) -> Checked {
        let entry = &mut self.journals[journal];
        if seq != entry.acked_to + 1 {
            let what = format!("journal {journal}: {seq} acknowledged after {}", entry.acked_to);
            return violation("O1", what);
        }
        if seq > entry.messages.len() as u64 {
            return violation("O1", format!("journal {journal}: {seq} was never published"));
        }
        entry.acked_to = seq;
        if receipt.epoch.0 > self.epoch {
            return violation("O5", format!("a receipt of epoch {}", receipt.epoch.0));
        }
        let producer = entry.producer.map_or(0, |id| id.0);
        match receipt.sequence {
            Some(sequence) => {
                let content = Content { producer, producer_seq: seq };
                self.place(receipt.stream, sequence.get(), content)
            }
            None => Ok(()),
        }
    }

    /// A producer that came back was told that its messages up to `seq` are durable.
    ///
    /// # Errors
    /// O1 when the server does not know what it has acknowledged, or knows what was never published.
    pub(crate) fn resumed(&mut self, journal: usize, producer: ProducerId, seq: u64) -> Checked {
        let entry = &mut self.journals[journal];
        entry.producer = Some(producer);
        if seq < entry.acked_to {
            let what = format!("journal {journal}: {} acknowledged, {seq} known", entry.acked_to);
            return violation("O1", what);
        }
        if seq > entry.messages.len() as u64 {
            return violation("O3", format!("journal {journal}: {seq} was never published"));
        }
        entry.acked_to = seq;
        Ok(())
    }

    /// A consumer was given a message; `expected` is the sequence it has to have.
    ///
    /// # Errors
    /// O4 when it has another sequence; O3 when nobody published it; O2 when another was seen there.
    pub(crate) fn delivered(
        &mut self,
        stream: StreamId,
        expected: u64,
        record: &Record<'_>,
    ) -> Checked {
        let header = record.header;
        let (sequence, producer) = (header.sequence.get(), header.producer_id.get());
        let producer_seq = header.producer_seq.get();
        if sequence != expected {
            let what = format!("stream {stream}: sequence {sequence} where {expected} is next");
            return violation("O4", what);
        }
        let by = |journal: &&Journal| journal.producer == Some(ProducerId(producer));
        let published = self.journals.iter().find(by).and_then(|journal| {
            let index = usize::try_from(producer_seq.checked_sub(1)?).ok()?;
            journal.messages.get(index)
        });
        let is_it = published
            .is_some_and(|(to, payload)| *to == stream && payload.as_slice() == record.payload);
        if !is_it {
            let what = format!(
                "stream {stream} sequence {sequence}: nobody published that as {producer}/{producer_seq}"
            );
            return violation("O3", what);
        }
        self.delivered += 1;
        self.place(stream, sequence, Content { producer, producer_seq })
    }

    /// A consumer was told that a message needs a larger datagram than it takes.
    ///
    /// # Errors
    /// O21 when it takes as large ones as the server, or the message is small enough.
    pub(crate) fn too_large(
        &self,
        stream: StreamId,
        sequence: u64,
        said: Sizes,
        server: usize,
    ) -> Checked {
        let Sizes { needs, takes } = said;
        let known = self.known.get(&(stream, sequence)).and_then(|content| {
            let by = |journal: &&Journal| journal.producer == Some(ProducerId(content.producer));
            let index = usize::try_from(content.producer_seq.checked_sub(1)?).ok()?;
            self.journals.iter().find(by)?.messages.get(index)
        });
        let wants = |payload: &[u8]| DATA_BYTES_MIN + record_bytes(payload.len());
        let is_so = known.is_none_or(|(_, payload)| wants(payload) == needs);
        if takes < needs && takes < server && is_so {
            return Ok(());
        }
        let what = format!(
            "stream {stream} sequence {sequence} is said to need {needs} bytes of {takes}, of the server's {server}"
        );
        violation("O21", what)
    }

    /// An operator asks for a trim; it may take effect from now on, even if the answer never comes.
    pub(crate) fn trim_asked(&mut self, stream: StreamId, first: u64) {
        let (asked, _) = self.trims.entry(stream).or_insert((1, 1));
        *asked = first.max(*asked);
    }

    /// Somebody was told that a stream begins at `first`; the word may be late.
    ///
    /// # Errors
    /// O4 when less is kept than has to be.
    pub(crate) fn told_begin(&self, stream: StreamId, first: u64) -> Checked {
        let asked = self.trims.get(&stream).map_or(1, |(asked, _)| *asked);
        if first > asked {
            let what = format!("stream {stream} begins at {first}, trimmed to {asked} at most");
            return violation("O4", what);
        }
        Ok(())
    }

    /// A server runs in which a stream begins at `first`.
    ///
    /// # Errors
    /// O4 when it keeps less than it has to; O1 when what was trimmed is back.
    pub(crate) fn begins(&mut self, stream: StreamId, first: u64) -> Checked {
        self.told_begin(stream, first)?;
        let (_, confirmed) = self.trims.entry(stream).or_insert((1, 1));
        let before = std::mem::replace(confirmed, first);
        if first < before {
            let what = format!("stream {stream} begins at {first} after it began at {before}");
            return violation("O1", what);
        }
        Ok(())
    }

    /// A server runs: its epoch and how far its log is durable.
    ///
    /// # Errors
    /// O5 when either goes back.
    pub(crate) fn serves(&mut self, epoch: u64, durable_end: LogOffset) -> Checked {
        if epoch < self.epoch || (epoch == self.epoch && durable_end < self.durable_end) {
            let before = (self.epoch, self.durable_end.get());
            let now = (epoch, durable_end.get());
            return violation("O5", format!("{before:?} before, {now:?} now"));
        }
        (self.epoch, self.durable_end) = (epoch, durable_end);
        Ok(())
    }

    /// A server was opened.
    ///
    /// # Errors
    /// O5 when its epoch is not above all before it.
    pub(crate) fn opened(&mut self, epoch: u64) -> Checked {
        if epoch <= self.epoch {
            return violation("O5", format!("epoch {epoch} opened after {}", self.epoch));
        }
        (self.epoch, self.durable_end) = (epoch, LogOffset::default());
        Ok(())
    }

    /// The whole log was read at the end, stream by stream.
    ///
    /// # Errors
    /// O1 when something acknowledged is missing, is there twice, or out of its producer's order.
    pub(super) fn finished(&self, streams: &BTreeMap<StreamId, Vec<Row>>) -> Checked {
        let mut found: BTreeMap<Row, u64> = BTreeMap::new();
        for (stream, rows) in streams {
            let mut last: BTreeMap<u64, u64> = BTreeMap::new();
            for row in rows {
                *found.entry(*row).or_default() += 1;
                let before = last.insert(row.0, row.1).unwrap_or(0);
                if row.1 <= before {
                    let what = format!("stream {stream}: {row:?} stands behind {before}");
                    return violation("O1", what);
                }
            }
        }
        if let Some((row, times)) = found.iter().find(|(_, times)| **times > 1) {
            return violation("O1", format!("{row:?} is in the log {times} times"));
        }
        for journal in &self.journals {
            let Some(producer) = journal.producer else { continue };
            for seq in 1..=journal.acked_to {
                if !found.contains_key(&(producer.0, seq)) && !self.may_be_trimmed(journal, seq) {
                    let what = format!("{producer}/{seq} was acknowledged and is not in the log");
                    return violation("O1", what);
                }
            }
        }
        Ok(())
    }

    /// Whether a message may be trimmed: its place was, or is not known in a stream that was.
    fn may_be_trimmed(&self, journal: &Journal, seq: u64) -> bool {
        let index = usize::try_from(seq - 1).expect("few messages");
        let stream = journal.messages[index].0;
        let first = self.trims.get(&stream).map_or(1, |(_, confirmed)| *confirmed);
        let producer = journal.producer.map_or(0, |id| id.0);
        let content = Content { producer, producer_seq: seq };
        let place = self.known.iter().find(|((of, _), known)| *of == stream && **known == content);
        match place {
            Some(((_, sequence), _)) => *sequence < first,
            None => first > 1,
        }
    }

    /// A limit that memory is sized by.
    ///
    /// # Errors
    /// O8 when it is exceeded.
    pub(crate) fn within(what: &'static str, value: u64, limit: u64) -> Checked {
        if value > limit {
            return violation("O8", format!("{what}: {value} of {limit}"));
        }
        Ok(())
    }

    /// The same disk opened twice.
    ///
    /// # Errors
    /// O9 when the two openings found different things.
    pub(crate) fn same(one: &str, two: &str) -> Checked {
        if one != two {
            return violation("O9", format!("opened once: {one}; again: {two}"));
        }
        Ok(())
    }

    /// All faults have ended and `waiting` messages are still not acknowledged, or not consumed.
    ///
    /// # Errors
    /// `oracle` when there are any.
    pub(crate) fn settled(oracle: &'static str, what: &str, waiting: u64) -> Checked {
        if waiting > 0 {
            return violation(oracle, format!("{waiting} {what} long after the last fault"));
        }
        Ok(())
    }

    /// A subscription from a time begins at `start`, where `wanted` is the first message that is not older.
    ///
    /// # Errors
    /// O26 when that is another.
    pub(crate) fn sought(stream: StreamId, sought_ns: u64, wanted: u64, start: u64) -> Checked {
        if start != wanted {
            let what = format!(
                "stream {stream} from time {sought_ns}: begins at {start}, not at {wanted}"
            );
            return violation("O26", what);
        }
        Ok(())
    }

    /// A subscription begins at `start` of a stream whose next durable message has number `durable_next`.
    ///
    /// # Errors
    /// O26 when it leaves a message out.
    pub(crate) fn begins_by(stream: StreamId, start: u64, durable_next: u64) -> Checked {
        if start > durable_next {
            let what = format!("stream {stream}: begins at {start}, and {durable_next} is next");
            return violation("O26", what);
        }
        Ok(())
    }

    /// Somebody was told of a stream.
    pub(crate) fn told_stream(&mut self, stream: StreamId, name: &str) {
        self.streams.insert(name.to_owned(), stream);
    }

    /// A log was opened that has these streams.
    ///
    /// # Errors
    /// O20 when one is not there that somebody was told of.
    pub(crate) fn has_streams<'a>(
        &self,
        streams: impl Iterator<Item = (StreamId, &'a str)>,
    ) -> Checked {
        let found: BTreeMap<&str, StreamId> = streams.map(|(id, name)| (name, id)).collect();
        let missing = |(name, id): &(&String, &StreamId)| found.get(name.as_str()) != Some(id);
        match self.streams.iter().find(missing) {
            Some((name, id)) => {
                violation("O20", format!("somebody was told that `{name}` is stream {id}"))
            }
            None => Ok(()),
        }
    }

    /// What a receipt says of the device and of times, where `since_ns` have passed since the message was offered.
    ///
    /// # Errors
    /// O18 when it says more than the device grants; O19 when a time is longer than it was.
    pub(crate) fn receipt(receipt: &Receipt, granted: Durability, since_ns: u64) -> Checked {
        if receipt.durability != granted {
            let what = format!("{:?} of a device that is {granted:?}", receipt.durability);
            return violation("O18", what);
        }
        let (server_ns, device_ns) = (receipt.server_ns, receipt.device_ns);
        if device_ns > server_ns || u64::from(server_ns) > since_ns {
            let what = format!("{device_ns} ns of {server_ns} in the server, {since_ns} in all");
            return violation("O19", what);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use crate::ids::Epoch;
    use crate::wire::record::RecordHeader;

    const STREAM: StreamId = StreamId(1);

    fn oracle() -> Oracle {
        let mut oracle = Oracle::default();
        let messages = (0..4u8).map(|n| (STREAM, vec![n; 3])).collect();
        oracle.journals.push(Journal { producer: Some(ProducerId(7)), messages, acked_to: 0 });
        oracle.opened(1).unwrap();
        oracle
    }

    fn receipt(sequence: u64, epoch: u64) -> Receipt {
        Receipt {
            stream: STREAM,
            sequence: NonZeroU64::new(sequence),
            epoch: Epoch(epoch),
            durability: Durability::Volatile,
            server_ns: 0,
            device_ns: 0,
        }
    }

    fn deliver(oracle: &mut Oracle, at: (u64, u64), producer_seq: u64, payload: &[u8]) -> Checked {
        let (expected, sequence) = at;
        let header = RecordHeader {
            len: 3.into(),
            crc32c: 0.into(),
            producer_id: 7.into(),
            producer_seq: producer_seq.into(),
            stream: 1.into(),
            flags: 0.into(),
            ext_len: 0.into(),
            sequence: sequence.into(),
            received_ns: 0.into(),
        };
        oracle.delivered(STREAM, expected, &Record { header: &header, payload })
    }

    #[track_caller]
    fn caught(by: &str, checked: Checked) {
        assert_eq!(checked.expect_err("it is caught").oracle, by);
    }

    #[test]
    fn a_sound_run_passes() {
        let mut oracle = oracle();
        for n in 1..=4u64 {
            oracle.acknowledged(0, n, &receipt(n, 1)).unwrap();
            let payload = [u8::try_from(n - 1).unwrap(); 3];
            deliver(&mut oracle, (n, n), n, &payload).unwrap();
        }
        let rows = (1..=4).map(|n| (7, n)).collect();
        oracle.finished(&BTreeMap::from([(STREAM, rows)])).unwrap();
    }

    #[test]
    fn o1_sees_what_is_lost_doubled_out_of_order_or_forgotten() {
        let mut oracle = oracle();
        oracle.acknowledged(0, 1, &receipt(1, 1)).unwrap();
        oracle.acknowledged(0, 2, &receipt(2, 1)).unwrap();
        let log = |rows: &[Row]| BTreeMap::from([(STREAM, rows.to_vec())]);
        caught("O1", oracle.finished(&log(&[(7, 1)])));
        caught("O1", oracle.finished(&log(&[(7, 1), (7, 2), (7, 2)])));
        caught("O1", oracle.finished(&log(&[(7, 2), (7, 1)])));
        caught("O1", oracle.resumed(0, ProducerId(7), 1));
        caught("O1", oracle.acknowledged(0, 4, &receipt(4, 1)));
    }

    #[test]
    fn o2_sees_two_contents_under_one_sequence() {
        let mut oracle = oracle();
        deliver(&mut oracle, (1, 1), 1, &[0; 3]).unwrap();
        caught("O2", deliver(&mut oracle, (1, 1), 2, &[1; 3]));
    }

    #[test]
    fn o3_sees_what_nobody_published() {
        let mut oracle = oracle();
        caught("O3", deliver(&mut oracle, (1, 1), 1, &[9; 3]));
        caught("O3", deliver(&mut oracle, (1, 1), 9, &[0; 3]));
        caught("O3", oracle.resumed(0, ProducerId(7), 5));
    }

    #[test]
    fn o4_sees_a_gap() {
        caught("O4", deliver(&mut oracle(), (1, 2), 2, &[1; 3]));
    }

    #[test]
    fn o5_sees_time_go_back() {
        let mut oracle = oracle();
        caught("O5", oracle.opened(1));
        oracle.serves(1, LogOffset::new(100)).unwrap();
        caught("O5", oracle.serves(1, LogOffset::new(99)));
        caught("O5", oracle.acknowledged(0, 1, &receipt(1, 2)));
    }

    #[test]
    fn o7_o8_and_o9_see_what_they_are_for() {
        caught("O7", Oracle::settled("O7", "messages", 1));
        caught("O8", Oracle::within("bytes in flight", 9, 8));
        caught("O9", Oracle::same("one", "two"));
    }

    #[test]
    fn o18_and_o19_see_what_a_receipt_overstates() {
        let told = Receipt { server_ns: 900, device_ns: 400, ..receipt(1, 1) };
        Oracle::receipt(&told, Durability::Volatile, 900).unwrap();
        caught("O18", Oracle::receipt(&told, Durability::KernelSync, 900));
        caught("O19", Oracle::receipt(&told, Durability::Volatile, 899));
        let device = Receipt { device_ns: 901, ..told };
        caught("O19", Oracle::receipt(&device, Durability::Volatile, 2_000));
    }

    #[test]
    fn o20_sees_a_stream_that_is_gone_or_another() {
        let mut oracle = oracle();
        oracle.told_stream(STREAM, "orders");
        oracle.has_streams([(STREAM, "orders"), (StreamId(2), "more")].into_iter()).unwrap();
        caught("O20", oracle.has_streams([(StreamId(2), "more")].into_iter()));
        caught("O20", oracle.has_streams([(StreamId(2), "orders")].into_iter()));
    }

    #[test]
    fn o21_sees_a_message_that_a_consumer_is_denied() {
        let mut oracle = oracle();
        deliver(&mut oracle, (1, 1), 1, &[0; 3]).unwrap();
        let needs = DATA_BYTES_MIN + record_bytes(3);
        let said = |needs, takes| Sizes { needs, takes };
        oracle.too_large(STREAM, 1, said(needs, needs - 1), 1_472).unwrap();
        caught("O21", oracle.too_large(STREAM, 1, said(needs, needs), 1_472));
        caught("O21", oracle.too_large(STREAM, 1, said(needs + 1, needs - 1), 1_472));
        caught("O21", oracle.too_large(STREAM, 1, said(needs, needs - 1), needs - 1));
    }

    #[test]
    fn o26_sees_a_subscription_that_begins_too_late() {
        Oracle::sought(STREAM, 5, 3, 3).unwrap();
        caught("O26", Oracle::sought(STREAM, 5, 3, 4));
        Oracle::begins_by(STREAM, 4, 4).unwrap();
        caught("O26", Oracle::begins_by(STREAM, 5, 4));
    }
}
