//! One frame of every kind, with the places of its numbers: for tests, and for fuzzing to begin with.

use zerocopy::{FromZeros, IntoBytes};

use super::control::{
    CreateStreamOnHead, DataLoss, ErrorHead, Heartbeat, ListEnd, ListStreams, NameRequestHead,
    REGISTER_PUBLISHER, Redirect, Register, Registered, Retire, Status, StreamInfoHead, Subscribe,
    Subscribed, TrimStream, Trimmed, Unsubscribe,
};
use super::frame::Kind;
use super::publish::{AckHead, DataHead, MessageHead, Probe, PublishHead, ReceiptRun, SeqRange};
use super::record::{RecordHeader, Signed};
use super::{DATAGRAM_HEADER_BYTES, DatagramWriter, FRAME_HEAD_BYTES};
use crate::ids::{ConnId, ProducerId, StreamId};

/// What every sample of a message holds.
const PAYLOAD: &[u8; 8] = b"a sample";
const NAME: &[u8] = b"orders";

/// A frame that parses, and where its numbers are.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Its kind.
    pub kind: Kind,
    /// Its body.
    pub body: Vec<u8>,
    /// Bytes of each number, from the start of the body on.
    pub widths: Vec<usize>,
}

impl Sample {
    fn new(kind: Kind, widths: &[usize], parts: &[&[u8]]) -> Self {
        Self { kind, body: parts.concat(), widths: widths.to_vec() }
    }

    /// The datagram that holds it alone.
    ///
    /// # Panics
    /// When it does not fit: none is that long.
    #[must_use]
    pub(crate) fn datagram(&self, conn_id: ConnId) -> Vec<u8> {
        let mut room = vec![0; DATAGRAM_HEADER_BYTES + FRAME_HEAD_BYTES + self.body.len()];
        let mut writer = DatagramWriter::new(&mut room, conn_id, 1);
        assert!(writer.frame(self.kind, &self.body, &[]), "there is just the room for it");
        room
    }

    /// The same with each number in turn at each of its edges.
    #[cfg(test)]
    pub(crate) fn at_edges(&self) -> impl Iterator<Item = Self> + '_ {
        let mut at = 0;
        let places = self.widths.iter().map(move |&width| {
            let place = (at, width);
            at += width;
            place
        });
        places.flat_map(move |(at, width)| {
            edges(width).into_iter().map(move |value| {
                let mut changed = self.clone();
                changed.body[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
                changed
            })
        })
    }
}

/// The numbers of so many bytes where something may begin or end.
#[must_use]
pub(crate) fn edges(bytes: usize) -> Vec<u64> {
    let bits = u32::try_from(8 * bytes).expect("8 bytes at most");
    let max = u64::MAX >> (64 - bits);
    let mut edges = vec![0, 1, 2, max - 1, max];
    for bit in 1..bits {
        edges.extend([(1 << bit) - 1, 1 << bit, (1 << bit) + 1]);
    }
    edges.sort_unstable();
    edges.dedup();
    edges
}

/// One frame of every kind, in the order of their codes, about this stream and producer.
#[must_use]
pub(crate) fn all(stream: u32, producer_id: u64) -> Vec<Sample> {
    let mut all = of_sessions(producer_id);
    all.extend(of_messages(stream, producer_id));
    all.extend(of_subscriptions(stream));
    all.extend(of_control(stream));
    all.sort_by_key(|sample| sample.kind);
    all
}

fn of_sessions(producer_id: u64) -> Vec<Sample> {
    let mut register = Register::new_zeroed();
    register.nonce = 77.into();
    register.datagram_bytes = 1472.into();
    register.flags = REGISTER_PUBLISHER.into();
    register.instance = 78.into();
    let mut registered = Registered::new_zeroed();
    registered.nonce = 77.into();
    registered.conn_id = 5.into();
    registered.producer_epoch = 1.into();
    registered.producer_id = producer_id.into();
    registered.epoch = 1.into();
    registered.max_seq_allowed = 64.into();
    registered.max_bytes_allowed = (1 << 20).into();
    registered.message_bytes_max = 1024.into();
    registered.shards = 1;
    registered.datagram_bytes = 1472.into();
    let mut error = ErrorHead::new_zeroed();
    error.code = 4.into();
    error.request = 1.into();
    let of = [8, 4, 4, 8, 8, 8, 8, 8, 4, 1, 1, 1, 1, 2, 2];
    vec![
        Sample::new(Kind::Register, &[8, 8, 4, 2, 2, 8], &[register.as_bytes()]),
        Sample::new(Kind::Registered, &of, &[registered.as_bytes()]),
        Sample::new(Kind::Error, &[2, 2, 4, 8], &[error.as_bytes(), b"a text"]),
        Sample::new(Kind::Close, &[], &[]),
    ]
}

fn of_messages(stream: u32, producer_id: u64) -> Vec<Sample> {
    let signed = Signed {
        producer_id: ProducerId(producer_id),
        producer_seq: 1,
        stream: StreamId(stream),
        flags: 0,
        ext_len: 0,
    };
    let mut publish = PublishHead::new_zeroed();
    (publish.stream, publish.count, publish.first_seq) = (stream.into(), 1.into(), 1.into());
    let mut message = MessageHead::new_zeroed();
    message.len = 8.into();
    message.crc32c = signed.crc32c(PAYLOAD).into();
    let mut ack = AckHead::new_zeroed();
    (ack.epoch, ack.received_to, ack.durable_to) = (1.into(), 1.into(), 1.into());
    (ack.max_seq_allowed, ack.max_bytes_allowed) = (64.into(), (1 << 20).into());
    (ack.receipts_from, ack.receipt_count) = (1.into(), 1.into());
    let run = ReceiptRun {
        first_seq: 1.into(),
        first_sequence: 1.into(),
        count: 1.into(),
        stream: stream.into(),
        ..ReceiptRun::default()
    };
    let nak = SeqRange { first: 1.into(), last: 2.into() };
    let probe = Probe { next_seq: 2.into(), receipts_to: 0.into() };
    let mut data = DataHead::new_zeroed();
    (data.stream, data.count, data.first_sequence) = (stream.into(), 1.into(), 1.into());
    let mut record = RecordHeader::new_zeroed();
    record.len = 8.into();
    record.crc32c = message.crc32c;
    record.producer_id = producer_id.into();
    record.producer_seq = 1.into();
    record.stream = stream.into();
    record.sequence = 1.into();
    let of_ack = [8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 1, 1, 2, 4, 8, 8, 4, 4, 4, 4];
    let of_data = [4, 2, 2, 8, 4, 4, 8, 8, 4, 2, 2, 8, 8];
    let published: [&[u8]; 3] = [publish.as_bytes(), message.as_bytes(), PAYLOAD];
    vec![
        Sample::new(Kind::Publish, &[4, 2, 2, 8, 2, 2, 2, 2, 4], &published),
        Sample::new(Kind::Ack, &of_ack, &[ack.as_bytes(), run.as_bytes()]),
        Sample::new(Kind::Nak, &[8, 8], &[nak.as_bytes()]),
        Sample::new(Kind::Probe, &[8, 8], &[probe.as_bytes()]),
        Sample::new(Kind::Data, &of_data, &[data.as_bytes(), record.as_bytes(), PAYLOAD]),
    ]
}

fn of_subscriptions(stream: u32) -> Vec<Sample> {
    let stream = stream.into();
    let (one, two, none) = (1.into(), 2.into(), 0.into());
    let subscribe = Subscribe {
        request: 1.into(),
        stream,
        from_kind: 0.into(),
        window: 16.into(),
        from_value: 0.into(),
    };
    let subscribed =
        Subscribed { request: 1.into(), stream, start: one, log_start: one, durable_next: two };
    let status = Status { stream, flags: 1.into(), position: one, limit: 17.into() };
    let heartbeat = Heartbeat { stream, reserved: 0.into(), durable_next: two };
    let trimmed = Trimmed { stream, request: 1.into(), log_start: two };
    let loss = DataLoss { stream, reserved: 0.into(), first: one, last: two };
    let trim = TrimStream { request: 3.into(), stream, first: one };
    let retire = Retire { producer_id: one, durable_to: 0.into() };
    let list = ListStreams { request: 4.into(), after: none };
    let end = ListEnd { request: 4.into(), after: none };
    vec![
        Sample::new(Kind::Subscribe, &[4, 4, 4, 4, 8], &[subscribe.as_bytes()]),
        Sample::new(Kind::Subscribed, &[4, 4, 8, 8, 8], &[subscribed.as_bytes()]),
        Sample::new(Kind::Status, &[4, 4, 8, 8], &[status.as_bytes()]),
        Sample::new(Kind::Heartbeat, &[4, 4, 8], &[heartbeat.as_bytes()]),
        Sample::new(Kind::Trimmed, &[4, 4, 8], &[trimmed.as_bytes()]),
        Sample::new(Kind::DataLoss, &[4, 4, 8, 8], &[loss.as_bytes()]),
        Sample::new(Kind::Unsubscribe, &[4], &[Unsubscribe { stream }.as_bytes()]),
        Sample::new(Kind::TrimStream, &[4, 4, 8], &[trim.as_bytes()]),
        Sample::new(Kind::ListStreams, &[4, 4], &[list.as_bytes()]),
        Sample::new(Kind::ListEnd, &[4, 4], &[end.as_bytes()]),
        Sample::new(Kind::Retire, &[8, 8], &[retire.as_bytes()]),
    ]
}

fn of_control(stream: u32) -> Vec<Sample> {
    let create = NameRequestHead { request: 2.into() };
    let create_on = CreateStreamOnHead { request: 2.into(), shard: 0.into() };
    let mut info = StreamInfoHead::new_zeroed();
    (info.request, info.stream) = (2.into(), stream.into());
    (info.log_start, info.durable_next) = (1.into(), 2.into());
    let mut redirect = Redirect::new_zeroed();
    (redirect.request, redirect.shard, redirect.port) = (2.into(), 1.into(), 2.into());
    let of_info = [4, 4, 8, 8, 8, 8, 4, 4];
    vec![
        Sample::new(Kind::CreateStream, &[4], &[create.as_bytes(), NAME]),
        Sample::new(Kind::DescribeStream, &[4], &[create.as_bytes(), NAME]),
        Sample::new(Kind::CreateStreamOn, &[4, 4], &[create_on.as_bytes(), NAME]),
        Sample::new(Kind::StreamInfo, &of_info, &[info.as_bytes(), NAME]),
        Sample::new(Kind::Redirect, &[4, 4, 4, 2, 2], &[redirect.as_bytes()]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Malformed, parse};

    #[test]
    fn there_is_a_sample_of_every_kind_and_it_parses() {
        let samples = all(1, 1);
        let codes: Vec<u8> = samples.iter().map(|sample| sample.kind as u8).collect();
        assert_eq!(codes, (1..=25).collect::<Vec<u8>>());
        let unknown = [0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 26, 0, 0, 0];
        let (_, _, mut frames) = parse(&unknown).unwrap();
        assert_eq!(frames.next().unwrap().unwrap_err(), Malformed::FrameKind, "a 26th kind");
        for sample in &samples {
            let datagram = sample.datagram(ConnId(1));
            let (_, _, frames) = parse(&datagram).unwrap();
            let parsed: Vec<_> = frames.collect();
            assert!(matches!(parsed[..], [Ok(_)]), "{:?}: {parsed:?}", sample.kind);
            assert!(sample.widths.iter().sum::<usize>() <= sample.body.len(), "{:?}", sample.kind);
        }
    }

    #[test]
    fn numbers_near_overflow_are_malformed() {
        for sample in all(1, 1) {
            for (index, &width) in sample.widths.iter().enumerate() {
                let at: usize = sample.widths[..index].iter().sum();
                let mut changed = sample.clone();
                changed.body[at..at + width].fill(0xff);
                let datagram = changed.datagram(ConnId(1));
                let (_, _, mut frames) = parse(&datagram).unwrap();
                #[allow(clippy::wildcard_enum_match_arm, reason = "the others have none")]
                // What may be anything: it is only compared, given back or looked up.
                let any = match sample.kind {
                    Kind::Register => [0, 16, 20, 22, 24].contains(&at),
                    Kind::Registered => [0, 12].contains(&at),
                    Kind::Error => true,
                    Kind::Ack => (40..72).contains(&at),
                    Kind::Data => [24, 32, 56].contains(&at),
                    _ => false,
                };
                let out = matches!(frames.next(), Some(Err(_)));
                assert!(out || any || width < 8, "{:?}, byte {at}", sample.kind);
            }
        }
    }
}
