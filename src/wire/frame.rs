//! Frames: the kinds, and parsing one after the other.

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::control::{
    CreateStream, CreateStreamOn, DataLoss, ErrorFrame, Heartbeat, ListEnd, ListStreams,
    NameRequest, Redirect, Register, Registered, Retire, Status, StreamInfo, Subscribe, Subscribed,
    TrimStream, Trimmed, Unsubscribe,
};
use super::publish::{Ack, Data, Nak, Probe, Publish};
use super::range::{Ranged, ranged};
use super::{FRAME_HEAD_BYTES, Malformed};

/// Kind codes on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
#[allow(missing_docs, reason = "the table in the module above says what each is")]
pub enum Kind {
    Register = 1,
    Registered = 2,
    Publish = 3,
    Ack = 4,
    Nak = 5,
    Probe = 6,
    Subscribe = 7,
    Subscribed = 8,
    Data = 9,
    Status = 10,
    Heartbeat = 11,
    Trimmed = 12,
    DataLoss = 13,
    Unsubscribe = 14,
    CreateStream = 15,
    DescribeStream = 16,
    ListStreams = 17,
    StreamInfo = 18,
    ListEnd = 19,
    Error = 20,
    Close = 21,
    TrimStream = 22,
    Redirect = 23,
    CreateStreamOn = 24,
    Retire = 25,
}

/// One frame, parsed: it has all the bytes it speaks of.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the table in the module above says what each is")]
pub enum Frame<'a> {
    Register(&'a Register),
    Registered(&'a Registered),
    Publish(Publish<'a>),
    Ack(Ack<'a>),
    Nak(Nak<'a>),
    Probe(&'a Probe),
    Subscribe(&'a Subscribe),
    Subscribed(&'a Subscribed),
    Data(Data<'a>),
    Status(&'a Status),
    Heartbeat(&'a Heartbeat),
    Trimmed(&'a Trimmed),
    DataLoss(&'a DataLoss),
    Unsubscribe(&'a Unsubscribe),
    CreateStream(CreateStream<'a>),
    DescribeStream(NameRequest<'a>),
    ListStreams(&'a ListStreams),
    StreamInfo(StreamInfo<'a>),
    ListEnd(&'a ListEnd),
    Error(ErrorFrame<'a>),
    Close,
    TrimStream(&'a TrimStream),
    Redirect(&'a Redirect),
    CreateStreamOn(CreateStreamOn<'a>),
    Retire(&'a Retire),
}

/// Iterator over the frames of one datagram; stops after the first malformed one.
#[derive(Clone, Copy, Debug)]
pub struct Frames<'a> {
    rest: &'a [u8],
}

impl<'a> Frames<'a> {
    pub(super) fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    /// Whether there are any, and each is what a client asks or tells in a session. Nothing that reports an error,
    /// or answers, is ever answered: two who do not know each other would go on for ever.
    #[must_use]
    pub fn ask(mut self) -> bool {
        let asks = |frame: Result<Frame<'_>, _>| match frame {
            Ok(
                Frame::Publish(_)
                | Frame::Probe(_)
                | Frame::Subscribe(_)
                | Frame::Status(_)
                | Frame::Heartbeat(_)
                | Frame::Unsubscribe(_)
                | Frame::CreateStream(_)
                | Frame::CreateStreamOn(_)
                | Frame::DescribeStream(_)
                | Frame::TrimStream(_)
                | Frame::ListStreams(_)
                | Frame::Retire(_),
            ) => true,
            Ok(
                Frame::Register(_)
                | Frame::Registered(_)
                | Frame::Ack(_)
                | Frame::Nak(_)
                | Frame::Subscribed(_)
                | Frame::Data(_)
                | Frame::Trimmed(_)
                | Frame::DataLoss(_)
                | Frame::StreamInfo(_)
                | Frame::ListEnd(_)
                | Frame::Redirect(_)
                | Frame::Error(_)
                | Frame::Close,
            )
            | Err(_) => false,
        };
        !self.rest.is_empty() && self.all(asks)
    }

    fn split(&mut self) -> Result<Frame<'a>, Malformed> {
        let (head, rest) = self.rest.split_at_checked(FRAME_HEAD_BYTES).ok_or(Malformed::Short)?;
        let len = usize::from(u16::from_le_bytes([head[2], head[3]]));
        let (body, rest) = rest.split_at_checked(len).ok_or(Malformed::FrameLength)?;
        self.rest = rest;
        if head[1] != 0 {
            return Err(Malformed::Reserved);
        }
        parse_body(head[0], body)
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let frame = self.split();
        if frame.is_err() {
            self.rest = &[];
        }
        Some(frame)
    }
}

fn fixed<T: FromBytes + KnownLayout + Immutable + Unaligned + Ranged>(
    body: &[u8],
) -> Result<&T, Malformed> {
    ranged(T::ref_from_bytes(body).map_err(|_| Malformed::FrameBody)?)
}

fn parse_body(kind: u8, body: &[u8]) -> Result<Frame<'_>, Malformed> {
    const PUBLISH: u8 = Kind::Publish as u8;
    const ACK: u8 = Kind::Ack as u8;
    const DATA: u8 = Kind::Data as u8;
    Ok(match kind {
        PUBLISH => Frame::Publish(Publish::parse(body)?),
        ACK => Frame::Ack(Ack::parse(body)?),
        DATA => Frame::Data(Data::parse(body)?),
        1 => Frame::Register(fixed(body)?),
        2 => Frame::Registered(fixed(body)?),
        5 => Frame::Nak(Nak::parse(body)?),
        6 => Frame::Probe(fixed(body)?),
        7 => Frame::Subscribe(fixed(body)?),
        8 => Frame::Subscribed(fixed(body)?),
        10 => Frame::Status(fixed(body)?),
        11 => Frame::Heartbeat(fixed(body)?),
        12 => Frame::Trimmed(fixed(body)?),
        13 => Frame::DataLoss(fixed(body)?),
        14 => Frame::Unsubscribe(fixed(body)?),
        15 => Frame::CreateStream(CreateStream::parse(body)?),
        16 => Frame::DescribeStream(NameRequest::parse(body)?),
        17 => Frame::ListStreams(fixed(body)?),
        18 => Frame::StreamInfo(StreamInfo::parse(body)?),
        19 => Frame::ListEnd(fixed(body)?),
        20 => Frame::Error(ErrorFrame::parse(body)?),
        21 if body.is_empty() => Frame::Close,
        21 => return Err(Malformed::FrameBody),
        22 => Frame::TrimStream(fixed(body)?),
        23 => Frame::Redirect(fixed(body)?),
        24 => Frame::CreateStreamOn(CreateStreamOn::parse(body)?),
        25 => Frame::Retire(fixed(body)?),
        _ => return Err(Malformed::FrameKind),
    })
}
