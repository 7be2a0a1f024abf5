//! Golden vectors of frames: each number at its least and greatest, and one past; and what a frame may not be besides.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use zerocopy::IntoBytes;

use super::frame::{Kind, Side};
use super::samples::{self, Sample, edges};
use super::vectors_tests::hex;
use super::{DATAGRAM_HEADER_BYTES, Datagram, DatagramWriter, NAME, TEXT, parse, tlv_bytes};
use crate::ids::ConnId;
use crate::wire::datagram::DatagramHeader;

/// Whether a side's frames, one behind the other, are all taken.
fn are_taken(frames: &[u8], from: Side) -> bool {
    let header = DatagramHeader::plain(ConnId(1), 1);
    let datagram = [header.as_bytes(), frames].concat();
    let Ok(Datagram::Session { frames, .. }) = parse(&datagram) else { panic!("of a session") };
    match from {
        Side::Client => frames.from_client().all(|frame| frame.is_ok()),
        Side::Server => frames.from_server().all(|frame| frame.is_ok()),
    }
}

/// Who says a kind, as a word.
fn said_by(kind: Kind) -> &'static str {
    match (kind.is_said_by(Side::Client), kind.is_said_by(Side::Server)) {
        (true, true) => "both",
        (true, false) => "client",
        _ => "server",
    }
}

fn is_taken(sample: &Sample) -> bool {
    let frame = &sample.datagram(ConnId(1))[DATAGRAM_HEADER_BYTES..];
    let sides = [Side::Client, Side::Server].into_iter();
    let mut sides = sides.filter(|&side| sample.kind.is_said_by(side));
    sides.all(|side| are_taken(frame, side))
}

/// Values of a number where it begins or ends to be taken, and whether they are.
fn borders(sample: &Sample, at: usize, width: usize) -> BTreeMap<u64, bool> {
    let with = |value: u64| {
        let mut changed = sample.clone();
        changed.body[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        is_taken(&changed)
    };
    let edges = edges(width);
    let mut borders = BTreeMap::new();
    for value in [edges[0], edges[edges.len() - 1]] {
        borders.insert(value, with(value));
    }
    for pair in edges.windows(2) {
        let (mut low, mut high) = (pair[0], pair[1]);
        let (of_low, of_high) = (with(low), with(high));
        if of_low == of_high {
            continue;
        }
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            *(if with(middle) == of_low { &mut low } else { &mut high }) = middle;
        }
        borders.extend([(low, of_low), (high, of_high)]);
    }
    borders
}

fn numbers(sample: &Sample) -> Vec<Value> {
    let mut at = 0;
    let mut numbers = Vec::new();
    for &width in &sample.widths {
        let borders = borders(sample, at, width);
        let of = |wanted: bool| -> Vec<String> {
            let these = borders.iter().filter(|(_, taken)| **taken == wanted);
            these.map(|(value, _)| hex(&value.to_le_bytes()[..width])).collect()
        };
        numbers.push(json!({"at": at, "takes": of(true), "refuses": of(false)}));
        at += width;
    }
    numbers
}

/// A frame of every kind that is taken, and what may stand at each place of a number in it.
pub(super) fn all_frames() -> Value {
    let of = |sample: &Sample| {
        assert!(is_taken(sample), "{:?}", sample.kind);
        json!({
            "kind": sample.kind as u8,
            "name": format!("{:?}", sample.kind),
            "from": said_by(sample.kind),
            "body": hex(&sample.body),
            "numbers": numbers(sample),
        })
    };
    samples::all(1, 1).iter().map(of).collect()
}

fn frame(kind: Kind, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let mut room = vec![0; DATAGRAM_HEADER_BYTES + 4 + body.len()];
    let mut writer = DatagramWriter::new(&mut room, ConnId(1), 1);
    assert!(writer.frame(kind, &body, &[]), "there is just the room for it");
    room.split_off(DATAGRAM_HEADER_BYTES)
}

fn tlv(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend(u16::try_from(value.len()).expect("short").to_le_bytes());
    bytes.extend(value);
    bytes.resize(tlv_bytes(value.len()), 0);
    bytes
}

fn body(kind: Kind) -> Vec<u8> {
    let samples = samples::all(1, 1);
    samples.into_iter().find(|sample| sample.kind == kind).expect("one of each").body
}

fn with(body: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut changed = body.to_vec();
    changed[at..at + bytes.len()].copy_from_slice(bytes);
    changed
}

type Named = (&'static str, Side, Vec<u8>);

fn of_names() -> Vec<Named> {
    use Kind::{CreateStream, Error, Register};
    let create = |tlvs: &[u8]| frame(CreateStream, &[&body(CreateStream)[..8], tlvs]);
    let register = |want: u16, tlvs: &[u8]| {
        frame(Register, &[&with(&body(Register), 4, &want.to_le_bytes()), tlvs])
    };
    let error = |tlvs: &[u8]| frame(Error, &[&body(Error)[..16], tlvs]);
    let of = |text: &str| tlv(NAME, text.as_bytes());
    let padded = with(&of("orders"), 11, &[1]);
    vec![
        ("a stream's name of 64 bytes", Side::Client, create(&of(&"x".repeat(64)))),
        ("a stream's name of 65 bytes", Side::Client, create(&of(&"x".repeat(65)))),
        ("a stream's name of all sorts", Side::Client, create(&of("Az09._-/:"))),
        ("a stream's name of no bytes", Side::Client, create(&of(""))),
        ("a stream's name that begins with .", Side::Client, create(&of(".x"))),
        ("a stream's name with a space", Side::Client, create(&of("a b"))),
        ("no name", Side::Client, create(&[])),
        ("a name twice", Side::Client, create(&[of("a"), of("a")].concat())),
        ("a name and a text", Side::Client, create(&[of("a"), tlv(TEXT, b"b")].concat())),
        ("a name padded with what is not zero", Side::Client, create(&padded)),
        ("a name whose padding is missing", Side::Client, create(&of("orders")[..10])),
        ("a value of type 3", Side::Client, create(&[of("a"), tlv(3, b"b")].concat())),
        ("a value of type 0x8003", Side::Client, create(&[of("a"), tlv(0x8003, b"b")].concat())),
        ("a producer's name of 40 bytes", Side::Client, register(3, &of(&"x".repeat(40)))),
        ("a producer's name of 41 bytes", Side::Client, register(3, &of(&"x".repeat(41)))),
        ("a producer's name, taken over", Side::Client, register(0x8003, &of("x"))),
        ("a producer's name that is missing", Side::Client, register(3, &[])),
        ("a producer's name where none is wanted", Side::Client, register(1, &of("x"))),
        ("a text of 255 bytes", Side::Server, error(&tlv(TEXT, &[b'x'; 255]))),
        ("a text of 256 bytes", Side::Server, error(&tlv(TEXT, &[b'x'; 256]))),
        ("a text that is not UTF-8", Side::Server, error(&tlv(TEXT, &[0xff]))),
        ("no text", Side::Server, error(&[])),
    ]
}

fn of_messages() -> Vec<Named> {
    use Kind::{Ack, Data, Nak, Publish};
    let (publish, data, ack) = (body(Publish), body(Data), body(Ack));
    let messages = |count: u16, parts: &[&[u8]]| {
        let head = with(&publish[..16], 4, &count.to_le_bytes());
        frame(Publish, &[&head, &parts.concat()])
    };
    let (one, empty) = (&publish[16..], [0; 12].as_slice());
    let records = |count: u16, parts: &[&[u8]]| {
        frame(Data, &[&with(&data[..24], 4, &count.to_le_bytes()), &parts.concat()])
    };
    let record = &data[24..];
    let [second, third] = [2_u64, 3].map(|sequence| with(record, 32, &sequence.to_le_bytes()));
    let other = with(&second, 24, &9_u32.to_le_bytes());
    let range = |first: u64, last: u64| [first.to_le_bytes(), last.to_le_bytes()].concat();
    let ranges = |count: u64| {
        let ranges: Vec<Vec<u8>> = (1..=count).map(|at| range(2 * at, 2 * at)).collect();
        frame(Nak, &[&ranges.concat()])
    };
    let runs = |count: u16, first_seqs: &[u64]| {
        let head = with(&ack[..88], 80, &count.to_le_bytes());
        let run = |first_seq: &u64| with(&ack[88..], 0, &first_seq.to_le_bytes());
        frame(Ack, &[&head, &first_seqs.iter().flat_map(run).collect::<Vec<_>>()])
    };
    vec![
        ("two messages", Side::Client, messages(2, &[one, one])),
        ("a message of no bytes", Side::Client, messages(1, &[empty])),
        ("a message less than is said", Side::Client, messages(2, &[one])),
        ("a message more than is said", Side::Client, messages(1, &[one, one])),
        ("a byte behind the messages", Side::Client, messages(1, &[one, &[0]])),
        ("two records", Side::Server, records(2, &[record, &second])),
        ("a record that is missing", Side::Server, records(2, &[record, &third])),
        ("a record of another stream", Side::Server, records(2, &[record, &other])),
        ("a record more than is said", Side::Server, records(1, &[record, &second])),
        ("a record without its padding", Side::Server, records(1, &[&with(record, 0, &[7])[..55]])),
        ("16 ranges", Side::Server, ranges(16)),
        ("17 ranges", Side::Server, ranges(17)),
        ("no range", Side::Server, ranges(0)),
        ("no runs", Side::Server, runs(0, &[])),
        ("two runs", Side::Server, runs(2, &[1_000, 2_000])),
        ("two runs that do not ascend", Side::Server, runs(2, &[2_000, 1_000])),
        ("a run twice", Side::Server, runs(2, &[1_000, 1_000])),
        ("a run less than is said", Side::Server, runs(2, &[1_000])),
        ("a run more than is said", Side::Server, runs(1, &[1_000, 2_000])),
    ]
}

fn of_heads() -> Vec<Named> {
    let close = frame(Kind::Close, &[&[0; 8]]);
    let beside = |kind: u8, zero: u8| [&[kind, zero, 0, 0], close.as_slice()].concat();
    let probe = frame(Kind::Probe, &[&body(Kind::Probe)]);
    vec![
        ("no frame", Side::Client, Vec::new()),
        ("two frames", Side::Client, [probe.clone(), close.clone()].concat()),
        ("kind 24", Side::Client, beside(24, 0)),
        ("kind 127", Side::Client, beside(127, 0)),
        ("kind 128", Side::Client, beside(128, 0)),
        ("kind 255, whatever its second byte", Side::Client, beside(255, 1)),
        ("PAD, second byte 1", Side::Client, beside(0, 1)),
        ("a frame that is longer than its datagram", Side::Client, close[..11].to_vec()),
        ("a head that is cut", Side::Client, [close.as_slice(), &[0, 0, 0]].concat()),
        ("CLOSE that is longer", Side::Client, frame(Kind::Close, &[&[0; 9]])),
        ("CLOSE that is shorter", Side::Client, frame(Kind::Close, &[&[0; 7]])),
        ("PAD of no bytes", Side::Server, frame(Kind::Pad, &[])),
        ("PAD of what is not zero", Side::Server, frame(Kind::Pad, &[&[0, 1]])),
        ("PROBE of a server", Side::Server, probe),
        ("ACK of a client", Side::Client, frame(Kind::Ack, &[&body(Kind::Ack)])),
    ]
}

/// Frames, one or several, and whether all are taken.
pub(super) fn other_frames() -> Value {
    let all = [of_names(), of_messages(), of_heads()].concat();
    let of = |(what, from, frames): &Named| {
        let side = if *from == Side::Client { "client" } else { "server" };
        json!({"what": what, "from": side, "takes": are_taken(frames, *from), "frames": hex(frames)})
    };
    all.iter().map(of).collect()
}
