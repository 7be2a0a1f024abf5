//! Frames: the kinds, who says which, and parsing one after the other.
//!
//! The table below is the only place where kinds are listed: it makes the kinds, and what may come from a client and
//! from a server, as two types. Whoever receives has a type with what may come to him, and nothing else.

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::control::{
    Close, CreateStream, DataLoss, DescribeStream, ErrorFrame, Heartbeat, ListEnd, ListStreams,
    Padding, Redirect, Register, Registered, Status, StreamInfo, Subscribe, Subscribed, TrimStream,
    Trimmed, Unsubscribe,
};
use super::publish::{Ack, Data, Nak, Probe, Publish};
use super::range::{Ranged, ranged};
use super::{FRAME_HEAD_BYTES, Malformed};

/// Who says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who publishes or consumes.
    Client,
    /// The appliance.
    Server,
}

/// The type a frame is parsed into: in place where all of it has a fixed length.
macro_rules! parsed {
    (fixed $body:ident) => { &'a $body };
    (parsed $body:ident) => { $body<'a> };
}

/// How a frame's body is parsed.
macro_rules! parser {
    (fixed $body:ident $bytes:ident) => {
        fixed::<$body>($bytes)?
    };
    (parsed $body:ident $bytes:ident) => {
        $body::parse($bytes)?
    };
}

/// One side's frames out of the table. The rows are taken one after the other; what is of this side is kept.
macro_rules! of_side {
    // A row of both sides, of the client's, and of the server's; then one of the other side.
    ($(#[$doc:meta])* $name:ident, $own:ident,
     [$code:literal $kind:ident Both $form:ident $body:ident; $($rest:tt)*]
     [$($kept:tt)*]) => {
        of_side!($(#[$doc])* $name, $own, [$($rest)*] [$($kept)* $kind $form $body;]);
    };
    ($(#[$doc:meta])* $name:ident, Client,
     [$code:literal $kind:ident Client $form:ident $body:ident; $($rest:tt)*]
     [$($kept:tt)*]) => {
        of_side!($(#[$doc])* $name, Client, [$($rest)*] [$($kept)* $kind $form $body;]);
    };
    ($(#[$doc:meta])* $name:ident, Server,
     [$code:literal $kind:ident Server $form:ident $body:ident; $($rest:tt)*]
     [$($kept:tt)*]) => {
        of_side!($(#[$doc])* $name, Server, [$($rest)*] [$($kept)* $kind $form $body;]);
    };
    ($(#[$doc:meta])* $name:ident, $own:ident,
     [$code:literal $kind:ident $by:ident $form:ident $body:ident; $($rest:tt)*]
     [$($kept:tt)*]) => {
        of_side!($(#[$doc])* $name, $own, [$($rest)*] [$($kept)*]);
    };
    ($(#[$doc:meta])* $name:ident, $own:ident,
     [] [$($kind:ident $form:ident $body:ident;)*]) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        #[allow(missing_docs, reason = "the table in the module above says what each is")]
        pub enum $name<'a> {
            $($kind(parsed!($form $body)),)*
        }

        impl<'a> $name<'a> {
            fn parse(kind: Kind, body: &'a [u8]) -> Result<Self, Malformed> {
                Ok(match kind {
                    $(Kind::$kind => Self::$kind(parser!($form $body body)),)*
                    // The other side does not say this.
                    _ => return Err(Malformed::Direction),
                })
            }
        }
    };
}

macro_rules! frames {
    ($($code:literal $kind:ident $by:ident $form:ident $body:ident;)*) => {
        /// Kind codes on the wire.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        #[allow(missing_docs, reason = "the table in the module above says what each is")]
        pub enum Kind {
            $($kind = $code,)*
        }

        impl Kind {
            /// All of them, by their codes.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// The kind of this code.
            #[must_use]
            #[inline]
            pub fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($code => Some(Self::$kind),)*
                    _ => None,
                }
            }

            /// Whether a client says it, and a server.
            #[must_use]
            pub fn is_said_by(self, side: Side) -> bool {
                match self {
                    $(Self::$kind => frames!(@said $by, side),)*
                }
            }
        }

        of_side!(
            /// What a client says.
            FromClient, Client, [$($code $kind $by $form $body;)*] []
        );
        of_side!(
            /// What a server says.
            FromServer, Server, [$($code $kind $by $form $body;)*] []
        );
    };
    (@said Both, $side:ident) => { matches!($side, Side::Client | Side::Server) };
    (@said Client, $side:ident) => { $side == Side::Client };
    (@said Server, $side:ident) => { $side == Side::Server };
}

frames! {
    0 Pad Both parsed Padding;
    1 Register Client parsed Register;
    2 Registered Server fixed Registered;
    3 Publish Client parsed Publish;
    4 Ack Server parsed Ack;
    5 Nak Server parsed Nak;
    6 Probe Client fixed Probe;
    7 Subscribe Client fixed Subscribe;
    8 Subscribed Server fixed Subscribed;
    9 Data Server parsed Data;
    10 Status Client fixed Status;
    11 Heartbeat Both fixed Heartbeat;
    12 Trimmed Server fixed Trimmed;
    13 DataLoss Server fixed DataLoss;
    14 Unsubscribe Client fixed Unsubscribe;
    15 CreateStream Client parsed CreateStream;
    16 DescribeStream Client parsed DescribeStream;
    17 ListStreams Client fixed ListStreams;
    18 StreamInfo Server parsed StreamInfo;
    19 ListEnd Server fixed ListEnd;
    20 Error Server parsed ErrorFrame;
    21 Close Both fixed Close;
    22 TrimStream Client fixed TrimStream;
    23 Redirect Server fixed Redirect;
}

/// The lowest code that whoever does not know it passes over.
const SKIPPED_FROM: u8 = 128;

/// The frames of a datagram, not parsed yet.
#[derive(Clone, Copy, Debug)]
pub struct Body<'a> {
    bytes: &'a [u8],
}

impl<'a> Body<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Its frames, as what a client says.
    #[inline]
    pub fn from_client(self) -> impl Iterator<Item = Result<FromClient<'a>, Malformed>> {
        self.frames(FromClient::parse)
    }

    /// Its frames, as what a server says.
    #[inline]
    pub fn from_server(self) -> impl Iterator<Item = Result<FromServer<'a>, Malformed>> {
        self.frames(FromServer::parse)
    }

    /// Its frames one after the other; nothing is read behind one that is malformed.
    #[inline]
    fn frames<T>(
        self,
        parse: impl Fn(Kind, &'a [u8]) -> Result<T, Malformed>,
    ) -> impl Iterator<Item = Result<T, Malformed>> {
        let mut rest = self.bytes;
        std::iter::from_fn(move || {
            while !rest.is_empty() {
                let (kind, body) = match split(&mut rest) {
                    Ok(Some(frame)) => frame,
                    Ok(None) => continue,
                    Err(malformed) => {
                        rest = &[];
                        return Some(Err(malformed));
                    }
                };
                let frame = parse(kind, body);
                if frame.is_err() {
                    rest = &[];
                }
                return Some(frame);
            }
            None
        })
    }
}

/// Takes the next frame off; `None` for one that is passed over.
#[inline]
fn split<'a>(rest: &mut &'a [u8]) -> Result<Option<(Kind, &'a [u8])>, Malformed> {
    let (head, behind) = rest.split_at_checked(FRAME_HEAD_BYTES).ok_or(Malformed::Short)?;
    let len = usize::from(u16::from_le_bytes([head[2], head[3]]));
    let (body, behind) = behind.split_at_checked(len).ok_or(Malformed::FrameLength)?;
    *rest = behind;
    match Kind::from_code(head[0]) {
        _ if head[0] >= SKIPPED_FROM => Ok(None),
        Some(_) if head[1] != 0 => Err(Malformed::Reserved),
        Some(kind) => Ok(Some((kind, body))),
        None => Err(Malformed::FrameKind),
    }
}

fn fixed<T: FromBytes + KnownLayout + Immutable + Unaligned + Ranged>(
    body: &[u8],
) -> Result<&T, Malformed> {
    ranged(T::ref_from_bytes(body).map_err(|_| Malformed::FrameBody)?)
}
