//! One frame of every kind, with the places of its numbers: for tests, and for fuzzing to begin with.

use zerocopy::{FromZeros, IntoBytes};

use super::control::{
    ANY_SHARD, Close, CreateStreamHead, DataLoss, DescribeStreamHead, ErrorHead, Heartbeat,
    ListEnd, ListStreams, Redirect, RegisterHead, Registered, Status, StreamInfoHead, Subscribe,
    Subscribed, TrimStream, Trimmed, Unsubscribe, Want,
};
use super::frame::Kind;
use super::publish::{AckHead, DataHead, MessageHead, Probe, PublishHead, ReceiptRun, SeqRange};
use super::record::{RecordHeader, Signed};
use super::{DATAGRAM_HEADER_BYTES, DatagramWriter, FRAME_HEAD_BYTES, NAME, TEXT};
use crate::ids::{ConnId, ProducerId, StreamId};

/// What every sample of a message holds.
const PAYLOAD: &[u8; 8] = b"a sample";
const NAMED: &[u8] = b"orders\0\0";

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

    /// The same with a value behind it, of so many bytes but for the zeros that fill it up.
    fn with(self, kind: u16, len: u16, padded: &[u8]) -> Self {
        let Self { kind: of, body, widths } = self;
        let (kind, len) = (kind.to_le_bytes(), len.to_le_bytes());
        Self { kind: of, body: [body.as_slice(), &kind, &len, padded].concat(), widths }
    }

    /// The datagram that holds it alone.
    ///
    /// # Panics
    /// When it does not fit: none is that long.
    #[must_use]
    pub(crate) fn datagram(&self, conn_id: ConnId) -> Vec<u8> {
        self.numbered(conn_id, 1)
    }

    /// The same as datagram of this number of its session.
    #[must_use]
    pub(crate) fn numbered(&self, conn_id: ConnId, packet_no: u64) -> Vec<u8> {
        let mut room = vec![0; DATAGRAM_HEADER_BYTES + FRAME_HEAD_BYTES + self.body.len()];
        let mut writer = DatagramWriter::new(&mut room, conn_id, packet_no);
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
    all.push(Sample::new(Kind::Pad, &[], &[&[0; 8]]));
    all.sort_by_key(|sample| sample.kind);
    all
}

fn of_sessions(producer_id: u64) -> Vec<Sample> {
    let mut register = RegisterHead::new_zeroed();
    register.request = 1.into();
    register.want = (Want::New as u16).into();
    register.datagram_bytes = 1472.into();
    let mut registered = Registered::new_zeroed();
    registered.request = 1.into();
    registered.datagram_bytes = 1472.into();
    registered.log_id = [7; 16];
    registered.epoch = 1.into();
    registered.lineage = 9.into();
    registered.producer_id = producer_id.into();
    registered.producer_epoch = 1.into();
    registered.message_bytes_max = 1024.into();
    registered.max_seq_allowed = 64.into();
    registered.max_bytes_allowed = (1 << 20).into();
    registered.copies = 1;
    registered.idle_ms = 10_000.into();
    let mut error = ErrorHead::new_zeroed();
    error.code = 4.into();
    error.request = 1.into();
    let close = Close::new_zeroed();
    let of_register = [4, 2, 2, 8, 8, 8, 4, 4, 8, 8, 8, 8];
    let of = [4, 2, 2, 8, 8, 8, 8, 8, 4, 4, 8, 8, 8, 8, 8, 8, 4, 1, 1, 1, 1, 4, 4];
    vec![
        Sample::new(Kind::Register, &of_register, &[register.as_bytes()]),
        Sample::new(Kind::Registered, &of, &[registered.as_bytes()]),
        Sample::new(Kind::Error, &[2, 2, 4, 8], &[error.as_bytes()]).with(TEXT, 6, b"a text\0\0"),
        Sample::new(Kind::Close, &[2, 2, 4], &[close.as_bytes()]),
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
    (ack.received_to, ack.replicated_to, ack.durable_to) = (1.into(), 1.into(), 1.into());
    (ack.max_seq_allowed, ack.max_bytes_allowed) = (64.into(), (1 << 20).into());
    (ack.receipts_from, ack.receipt_count, ack.copies) = (1.into(), 1.into(), 1);
    let run = ReceiptRun {
        first_seq: 1.into(),
        first_sequence: 1.into(),
        received_ns: 1.into(),
        count: 1.into(),
        stream: stream.into(),
        ..ReceiptRun::default()
    };
    let nak = SeqRange { first: 1.into(), last: 2.into() };
    let probe = Probe { next_seq: 2.into(), receipts_to: 0.into() };
    let mut data = DataHead::new_zeroed();
    (data.sub, data.count, data.first_sequence) = (1.into(), 1.into(), 1.into());
    data.lineage = 9.into();
    let mut record = RecordHeader::new_zeroed();
    record.len = 8.into();
    record.crc32c = message.crc32c;
    record.producer_id = producer_id.into();
    record.producer_seq = 1.into();
    record.stream = stream.into();
    record.sequence = 1.into();
    let of_ack = [8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 2, 1, 1, 4, 8, 8, 8, 4, 4, 4, 4];
    let of_data = [4, 2, 2, 8, 8, 4, 4, 8, 8, 4, 2, 2, 8, 8];
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
    let (sub, one, two, none) = (1.into(), 1.into(), 2.into(), 0.into());
    let subscribe = Subscribe {
        request: sub,
        stream,
        from_kind: 0,
        reserved: [0; 3],
        window: 16.into(),
        from_value: 0.into(),
        lineage: 0.into(),
    };
    let (request, start, log_start, durable_next) = (sub, one, one, two);
    let lineage = 0.into();
    let subscribed = Subscribed { request, stream, start, log_start, durable_next, lineage };
    let status = Status { sub, flags: 1.into(), position: one, limit: 17.into() };
    let heartbeat = Heartbeat { sub, flags: 0.into(), durable_next: two };
    let trimmed = Trimmed { sub, reserved: 0.into(), log_start: two };
    let loss = DataLoss { sub, reserved: 0.into(), first: one, last: two };
    let trim = TrimStream { request: 3.into(), stream, first: one };
    let list = ListStreams { request: 4.into(), after: none };
    let end = ListEnd { request: 4.into(), after: none };
    vec![
        Sample::new(Kind::Subscribe, &[4, 4, 1, 3, 4, 8, 8], &[subscribe.as_bytes()]),
        Sample::new(Kind::Subscribed, &[4, 4, 8, 8, 8, 8], &[subscribed.as_bytes()]),
        Sample::new(Kind::Status, &[4, 4, 8, 8], &[status.as_bytes()]),
        Sample::new(Kind::Heartbeat, &[4, 4, 8], &[heartbeat.as_bytes()]),
        Sample::new(Kind::Trimmed, &[4, 4, 8], &[trimmed.as_bytes()]),
        Sample::new(Kind::DataLoss, &[4, 4, 8, 8], &[loss.as_bytes()]),
        Sample::new(Kind::Unsubscribe, &[4], &[Unsubscribe { sub }.as_bytes()]),
        Sample::new(Kind::TrimStream, &[4, 4, 8], &[trim.as_bytes()]),
        Sample::new(Kind::ListStreams, &[4, 4], &[list.as_bytes()]),
        Sample::new(Kind::ListEnd, &[4, 4], &[end.as_bytes()]),
    ]
}

fn of_control(stream: u32) -> Vec<Sample> {
    let create = CreateStreamHead { request: 2.into(), shard: ANY_SHARD.into() };
    let describe = DescribeStreamHead { request: 2.into(), stream: 0.into() };
    let mut info = StreamInfoHead::new_zeroed();
    (info.request, info.stream) = (2.into(), stream.into());
    (info.log_start, info.durable_next) = (1.into(), 2.into());
    let redirect = Redirect { request: 2.into(), shard: 1.into() };
    let of_info = [4, 4, 8, 8, 8, 8, 4, 4];
    let named = |sample: Sample| sample.with(NAME, 6, NAMED);
    vec![
        named(Sample::new(Kind::CreateStream, &[4, 4], &[create.as_bytes()])),
        named(Sample::new(Kind::DescribeStream, &[4, 4], &[describe.as_bytes()])),
        named(Sample::new(Kind::StreamInfo, &of_info, &[info.as_bytes()])),
        Sample::new(Kind::Redirect, &[4, 4], &[redirect.as_bytes()]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::Side;
    use crate::wire::{Datagram, Malformed, parse};

    /// What a side that is told this makes of its first frame.
    fn parsed(datagram: &[u8], by: Side) -> Result<(), Malformed> {
        let Ok(Datagram::Session { frames, .. }) = parse(datagram) else { panic!("of a session") };
        match by {
            Side::Client => frames.from_client().next().expect("a frame").map(|_| ()),
            Side::Server => frames.from_server().next().expect("a frame").map(|_| ()),
        }
    }

    #[test]
    fn there_is_a_sample_of_every_kind_and_it_parses_where_it_is_said() {
        let samples = all(1, 1);
        let kinds: Vec<Kind> = samples.iter().map(|sample| sample.kind).collect();
        assert_eq!(kinds, Kind::ALL);
        for sample in &samples {
            let datagram = sample.datagram(ConnId(1));
            for side in [Side::Client, Side::Server] {
                let said = sample.kind.is_said_by(side);
                let expected = if said { Ok(()) } else { Err(Malformed::Direction) };
                assert_eq!(parsed(&datagram, side), expected, "{:?} by {side:?}", sample.kind);
            }
            assert!(sample.widths.iter().sum::<usize>() <= sample.body.len(), "{:?}", sample.kind);
        }
    }

    #[test]
    fn a_kind_that_is_not_known_is_malformed_or_passed_over() {
        let mut datagram = all(1, 1)[0].datagram(ConnId(1));
        for (kind, expected) in [(24, Err(Malformed::FrameKind)), (127, Err(Malformed::FrameKind))]
        {
            datagram[DATAGRAM_HEADER_BYTES] = kind;
            assert_eq!(parsed(&datagram, Side::Client), expected);
        }
        for kind in [128, 255] {
            datagram[DATAGRAM_HEADER_BYTES] = kind;
            // Whatever it says.
            datagram[DATAGRAM_HEADER_BYTES + 1] = 1;
            let close = all(1, 1).into_iter().find(|sample| sample.kind == Kind::Close).unwrap();
            let behind = &close.datagram(ConnId(1))[DATAGRAM_HEADER_BYTES..];
            assert_eq!(parsed(&[datagram.as_slice(), behind].concat(), Side::Client), Ok(()));
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
                #[allow(clippy::wildcard_enum_match_arm, reason = "the others have none")]
                // What may be anything: it is only compared, given back or looked up.
                let any = match sample.kind {
                    // The log's identity, and the witness's lineage.
                    Kind::Register => [8, 16, 48].contains(&at),
                    // The log's identity, and two lineages.
                    Kind::Registered => [8, 16, 32, 96].contains(&at),
                    Kind::Error => true,
                    Kind::Ack => (40..72).contains(&at),
                    // The lineage of the frame; producer and times of a record.
                    Kind::Data => [16, 32, 40, 64].contains(&at),
                    Kind::Subscribe => at == 24,
                    Kind::Subscribed => at == 32,
                    _ => false,
                };
                let side = [Side::Client, Side::Server].into_iter();
                let out = side.filter(|&side| sample.kind.is_said_by(side));
                let out = out.map(|side| parsed(&datagram, side)).all(|parsed| parsed.is_err());
                assert!(out || any || width < 8, "{:?}, byte {at}", sample.kind);
            }
        }
    }
}
