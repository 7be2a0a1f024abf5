//! Datagrams: what stands around frames, and what two who do not know each other say before there is a session.
//!
//! ```text
//! INIT       client   I want a session; the second time with the cookie that was given to its address
//! RETRY      server   this cookie shows that you receive at your address: ask again with it
//! RESP       server   there is a session, or why there is none
//! PLAIN      both     frames of a session, in the clear
//! RESET      server   there is no session of this number
//! VERSIONS   server   which versions there are, to an INIT of another one
//! ```
//!
//! Byte 0 is the version in its high half, and the type. Nothing is larger than what it answers, and no answer is
//! answered.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Malformed;
use super::frame::Body;
use crate::ids::ConnId;
use crate::limits::{DATAGRAM_BYTES_MAX, DATAGRAM_BYTES_MIN, NUMBER_MAX, SHARDS_MAX};

/// The version of the protocol that this release speaks.
pub const VERSION: u16 = 1;

/// First bytes of the datagrams of this version.
const INIT: u8 = 0x11;
const RETRY: u8 = 0x12;
const RESP: u8 = 0x13;
const RESET: u8 = 0x14;
const PLAIN: u8 = 0x17;

/// First byte of VERSIONS, in every version.
const VERSIONS: u8 = 0x05;

/// A session without encryption: who reaches the port is believed.
pub const SUITE_PLAIN: u16 = 0x8000;

/// First bytes of a datagram of a session.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DatagramHeader {
    kind: u8,
    /// Of the key; 0 where there is none.
    phase: u8,
    /// Counts the sender's datagrams of this session, from 1 on; no number is used twice.
    packet_no: [u8; 6],
    /// The session, as the receiver numbers it.
    conn_id: U64,
}

/// Size of [`DatagramHeader`].
pub const DATAGRAM_HEADER_BYTES: usize = 16;
const _: () = assert!(size_of::<DatagramHeader>() == DATAGRAM_HEADER_BYTES);

/// The highest number of a datagram.
pub const PACKET_NO_MAX: u64 = (1 << 48) - 1;

/// Behind this number a session is given up for another one, long before numbers would come again: at ten million a
/// second that is after five months.
pub const PACKET_NO_LAST: u64 = 1 << 47;

impl DatagramHeader {
    /// That of datagram `packet_no` to the session that its receiver calls `conn_id`.
    #[must_use]
    #[inline]
    pub fn plain(conn_id: ConnId, packet_no: u64) -> Self {
        let [a, b, c, d, e, f, ..] = packet_no.to_le_bytes();
        let packet_no = [a, b, c, d, e, f];
        Self { kind: PLAIN, phase: 0, packet_no, conn_id: conn_id.0.into() }
    }

    #[inline]
    fn packet_no(&self) -> u64 {
        let [a, b, c, d, e, f] = self.packet_no;
        u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
    }
}

/// Bytes of a cookie, of a token of RESET, and of what shows that the sender knows whom it asks.
pub type Tag = [u8; 16];

/// INIT: a client asks for a session. It is as long as no answer, so that nobody is flooded through a server.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Init {
    kind: u8,
    zero: u8,
    /// Suites the client takes, as bits.
    pub suites: U16,
    zeros: U32,
    /// The session, as the client numbers it; not 0.
    pub client_id: U64,
    /// As RETRY or RESP gave it; zeros where there is none.
    pub cookie: Tag,
    /// The client's key for this session; zeros in the clear.
    ephemeral: [u8; 32],
    /// The client's own key; zeros in the clear.
    identity: [u8; 48],
    /// What it says of itself.
    pub hello: Hello,
    seal: Tag,
    padding: [u8; 64],
    /// Over the bytes before the client's own key: the sender knows whom it asks.
    pub mac: Tag,
}

/// Bytes of [`Init`] that its `mac` covers.
pub const INIT_MAC_BYTES: usize = 64;

/// What a client says of itself in [`Init`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Hello {
    /// The client's clock.
    pub unix_ns: U64,
    /// The highest version it speaks.
    pub version_max: U16,
    /// UDP payload it receives at most.
    pub datagram_bytes: U16,
    /// As in [`Init`].
    pub suites: U16,
    zeros: U16,
    /// Random, the same over the life of one client; not 0.
    pub instance: [u8; 16],
    /// Features it knows, as bits.
    pub features: U64,
    /// Which program it is; 0 for none that is known.
    pub agent: U64,
}

/// RETRY: the same INIT again, with this cookie.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Retry {
    kind: u8,
    zeros: [u8; 7],
    /// Of the INIT.
    pub client_id: U64,
    /// To be given back.
    pub cookie: Tag,
    /// Over the bytes before it: the sender knows the server's key.
    pub mac: Tag,
}

/// Bytes of [`Retry`] that its `mac` covers.
pub const RETRY_MAC_BYTES: usize = 32;

/// RESP: the answer to an INIT with a good cookie.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Resp {
    kind: u8,
    zero: u8,
    /// The suite of the session.
    pub suite: U16,
    zeros: U32,
    /// Of the INIT.
    pub client_id: U64,
    /// The server's key for this session; zeros in the clear.
    ephemeral: [u8; 32],
    /// The answer.
    pub accept: Accept,
    seal: Tag,
}

/// What a server says in [`Resp`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Accept {
    /// 0: there is a session; else a code of `ErrorCode`, and there is none.
    pub status: U16,
    /// As in [`Resp`].
    pub suite: U16,
    /// UDP payload the server receives at most.
    pub datagram_bytes: U16,
    /// The highest version it speaks.
    pub version_max: U16,
    /// The session, as the server numbers it.
    pub server_id: U64,
    /// What RESET says of this session.
    pub reset_token: Tag,
    /// For the next INIT of the same client.
    pub cookie: Tag,
    /// The server's clock.
    pub unix_ns: U64,
    /// Those of the client's features that hold.
    pub features: U64,
    /// The shard that answers.
    pub shard: U16,
    /// Shards of the appliance.
    pub shards: U16,
    /// Where there is no session, when to ask again; 0 leaves it to the client.
    pub retry_ms: U32,
    zeros: U64,
}

/// RESET: there is no such session.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Reset {
    kind: u8,
    zeros: [u8; 7],
    /// As the datagram named it that is answered.
    pub conn_id: U64,
    /// As RESP gave it when the session was opened: nobody else can say so.
    pub token: Tag,
}

/// VERSIONS: an INIT of another version came.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Versions {
    kind: u8,
    zeros: [u8; 7],
    /// Of the INIT.
    pub client_id: U64,
    /// The lowest version that is spoken here.
    pub lowest: U16,
    /// The highest.
    pub highest: U16,
    more_zeros: [u8; 12],
}

const _: () = assert!(size_of::<Init>() == 256 && std::mem::offset_of!(Init, identity) == 64);
const _: () = assert!(size_of::<Retry>() == 48 && size_of::<Resp>() == 144);
const _: () = assert!(size_of::<Reset>() == 32 && size_of::<Versions>() == 32);
const _: () = assert!(size_of::<Hello>() == 48 && size_of::<Accept>() == 80);

/// The least datagram of a session that is answered by RESET, which is smaller.
pub const RESET_CAUSE_BYTES: usize = 36;
const _: () = assert!(RESET_CAUSE_BYTES > size_of::<Reset>());

impl Init {
    /// One in the clear, its `mac` still to be filled in.
    #[must_use]
    pub fn plain(client_id: ConnId, cookie: Tag, hello: Hello) -> Self {
        Self {
            kind: INIT,
            zero: 0,
            suites: SUITE_PLAIN.into(),
            zeros: 0.into(),
            client_id: client_id.0.into(),
            cookie,
            ephemeral: [0; 32],
            identity: [0; 48],
            hello,
            seal: [0; 16],
            padding: [0; 64],
            mac: [0; 16],
        }
    }

    /// Whether it is one in the clear, as this release makes them.
    fn is_plain(&self) -> bool {
        self.suites.get() == SUITE_PLAIN
            && self.ephemeral == [0; 32]
            && self.identity == [0; 48]
            && self.seal == [0; 16]
    }
}

impl Hello {
    /// What a client says that takes datagrams of this size.
    #[must_use]
    pub fn new(unix_ns: u64, datagram_bytes: u16, instance: u128) -> Self {
        Self {
            unix_ns: unix_ns.into(),
            version_max: VERSION.into(),
            datagram_bytes: datagram_bytes.into(),
            suites: SUITE_PLAIN.into(),
            zeros: 0.into(),
            instance: instance.to_le_bytes(),
            features: 0.into(),
            agent: 0.into(),
        }
    }

    fn in_range(&self) -> bool {
        let datagram_bytes = usize::from(self.datagram_bytes.get());
        self.version_max.get() >= VERSION
            && (DATAGRAM_BYTES_MIN..=DATAGRAM_BYTES_MAX).contains(&datagram_bytes)
            && self.suites.get() == SUITE_PLAIN
            && self.zeros.get() == 0
            && self.instance != [0; 16]
    }
}

impl Retry {
    /// One with a cookie, its `mac` still to be filled in.
    #[must_use]
    pub fn new(client_id: ConnId, cookie: Tag) -> Self {
        Self { kind: RETRY, zeros: [0; 7], client_id: client_id.0.into(), cookie, mac: [0; 16] }
    }
}

impl Resp {
    /// One in the clear.
    #[must_use]
    pub fn plain(client_id: ConnId, accept: Accept) -> Self {
        Self {
            kind: RESP,
            zero: 0,
            suite: SUITE_PLAIN.into(),
            zeros: 0.into(),
            client_id: client_id.0.into(),
            ephemeral: [0; 32],
            accept,
            seal: [0; 16],
        }
    }

    fn in_range(&self) -> bool {
        let says_nothing_else = self.zero == 0
            && self.zeros.get() == 0
            && self.suite.get() == SUITE_PLAIN
            && self.ephemeral == [0; 32]
            && self.seal == [0; 16];
        says_nothing_else && self.client_id.get() > 0 && self.accept.in_range()
    }
}

impl Accept {
    fn in_range(&self) -> bool {
        let datagram_bytes = usize::from(self.datagram_bytes.get());
        let opens = self.server_id.get() > 0
            && self.suite.get() == SUITE_PLAIN
            && (DATAGRAM_BYTES_MIN..=DATAGRAM_BYTES_MAX).contains(&datagram_bytes)
            && self.shard < self.shards
            && u32::from(self.shards.get()) <= SHARDS_MAX;
        let refuses = self.status.get() > 0 && self.server_id.get() == 0;
        self.zeros.get() == 0
            && self.version_max.get() >= VERSION
            && self.unix_ns.get() <= NUMBER_MAX
            && (refuses || (self.status.get() == 0 && opens))
    }
}

impl Reset {
    /// That there is no such session.
    #[must_use]
    pub fn new(conn_id: ConnId, token: Tag) -> Self {
        Self { kind: RESET, zeros: [0; 7], conn_id: conn_id.0.into(), token }
    }
}

impl Versions {
    /// Which versions there are.
    #[must_use]
    pub fn new(client_id: u64) -> Self {
        let version = VERSION.into();
        Self {
            kind: VERSIONS,
            zeros: [0; 7],
            client_id: client_id.into(),
            lowest: version,
            highest: version,
            more_zeros: [0; 12],
        }
    }
}

/// A datagram, parsed: what it is, and of the right length; its frames are parsed as they are reached.
#[derive(Clone, Copy, Debug)]
pub enum Datagram<'a> {
    /// Frames of a session.
    Session {
        /// The session, as the receiver numbers it.
        conn_id: ConnId,
        /// The datagram's number.
        packet_no: u64,
        /// What it says.
        frames: Body<'a>,
    },
    /// See [`Init`].
    Init(&'a Init),
    /// An INIT of another version.
    OtherVersion {
        /// Of the INIT.
        client_id: u64,
    },
    /// See [`Retry`].
    Retry(&'a Retry),
    /// See [`Resp`].
    Resp(&'a Resp),
    /// See [`Reset`].
    Reset(&'a Reset),
    /// See [`Versions`].
    Versions(&'a Versions),
}

/// What a datagram is.
///
/// # Errors
/// What is wrong with it.
#[inline]
pub fn parse(bytes: &[u8]) -> Result<Datagram<'_>, Malformed> {
    if bytes.first() != Some(&PLAIN) {
        return parse_rare(bytes);
    }
    let (header, rest) = DatagramHeader::ref_from_prefix(bytes).map_err(|_| Malformed::Short)?;
    let (conn_id, packet_no) = (ConnId(header.conn_id.get()), header.packet_no());
    if header.phase != 0 {
        return Err(Malformed::Reserved);
    }
    if conn_id.0 == 0 || packet_no == 0 {
        return Err(Malformed::Range);
    }
    Ok(Datagram::Session { conn_id, packet_no, frames: Body::new(rest) })
}

/// What has one length.
fn whole<T: FromBytes + KnownLayout + Immutable + Unaligned>(
    bytes: &[u8],
) -> Result<&T, Malformed> {
    T::ref_from_bytes(bytes).map_err(|_| Malformed::Short)
}

fn parse_rare(bytes: &[u8]) -> Result<Datagram<'_>, Malformed> {
    let range = |is_in_range: bool| if is_in_range { Ok(()) } else { Err(Malformed::Range) };
    Ok(match *bytes.first().ok_or(Malformed::Short)? {
        INIT => {
            let init: &Init = whole(bytes)?;
            let zeros = init.zero == 0 && init.zeros.get() == 0 && init.padding == [0; 64];
            range(zeros && init.client_id.get() > 0 && init.is_plain() && init.hello.in_range())?;
            Datagram::Init(init)
        }
        RETRY => {
            let retry: &Retry = whole(bytes)?;
            range(retry.zeros == [0; 7] && retry.client_id.get() > 0)?;
            Datagram::Retry(retry)
        }
        RESP => {
            let resp: &Resp = whole(bytes)?;
            range(resp.in_range())?;
            Datagram::Resp(resp)
        }
        RESET => {
            let reset: &Reset = whole(bytes)?;
            range(reset.zeros == [0; 7] && reset.conn_id.get() > 0)?;
            Datagram::Reset(reset)
        }
        VERSIONS => {
            let versions: &Versions = whole(bytes)?;
            let zeros = versions.zeros == [0; 7] && versions.more_zeros == [0; 12];
            let ordered = versions.lowest <= versions.highest && versions.lowest.get() > 0;
            range(zeros && ordered && versions.client_id.get() > 0)?;
            Datagram::Versions(versions)
        }
        // An INIT of any version is as long, and has its number and its `mac` where ours has.
        other if other & 0x0f == INIT & 0x0f && other >> 4 > 1 => {
            let init: &Init = whole(bytes)?;
            range(init.client_id.get() > 0)?;
            Datagram::OtherVersion { client_id: init.client_id.get() }
        }
        _ => return Err(Malformed::Version),
    })
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    fn init() -> Init {
        Init::plain(ConnId(7), [1; 16], Hello::new(5, 1472, 9))
    }

    fn accept() -> Accept {
        let mut accept = Accept::new_zeroed();
        accept.suite = SUITE_PLAIN.into();
        accept.datagram_bytes = 1472.into();
        accept.version_max = VERSION.into();
        accept.server_id = 3.into();
        accept.shards = 1.into();
        accept
    }

    #[test]
    fn what_is_made_is_parsed_and_nothing_that_is_longer_or_shorter_or_says_more() {
        let resp = Resp::plain(ConnId(7), accept());
        let retry = Retry::new(ConnId(7), [2; 16]);
        let (reset, versions) = (Reset::new(ConnId(7), [3; 16]), Versions::new(7));
        let all = [
            init().as_bytes().to_vec(),
            retry.as_bytes().to_vec(),
            resp.as_bytes().to_vec(),
            reset.as_bytes().to_vec(),
            versions.as_bytes().to_vec(),
        ];
        // Bytes that have to be zero, of each.
        let zeros: [&[usize]; 5] = [
            &[1, 4, 7, 32, 64, 111, 126, 160, 176, 239],
            &[1, 7],
            &[1, 4, 7, 16, 47, 120, 127, 128, 143],
            &[1, 7],
            &[1, 7, 20, 31],
        ];
        for (bytes, zeros) in all.into_iter().zip(zeros) {
            assert!(parse(&bytes).is_ok(), "{bytes:?}");
            assert_eq!(parse(&bytes[..bytes.len() - 1]).err(), Some(Malformed::Short));
            assert_eq!(parse(&[bytes.as_slice(), &[0]].concat()).err(), Some(Malformed::Short));
            for &at in zeros {
                let mut changed = bytes.clone();
                changed[at] = 1;
                assert!(parse(&changed).is_err(), "byte {at} of {bytes:?}");
            }
            let mut nobody = bytes.clone();
            nobody[8..16].fill(0);
            assert!(parse(&nobody).is_err(), "it is of nobody: {bytes:?}");
        }
    }

    #[test]
    fn what_opens_a_session_has_its_numbers_in_range() {
        let wrong: [fn(&mut Accept); 9] = [
            |of| of.datagram_bytes = 575.into(),
            |of| of.datagram_bytes = 8973.into(),
            |of| of.suite = 1.into(),
            |of| of.version_max = 0.into(),
            |of| of.server_id = 0.into(),
            |of| of.shard = 1.into(),
            |of| (of.shard, of.shards) = (0.into(), 65.into()),
            |of| of.status = 10.into(),
            |of| of.unix_ns = u64::MAX.into(),
        ];
        for (index, change) in wrong.into_iter().enumerate() {
            let mut accept = accept();
            change(&mut accept);
            let resp = Resp::plain(ConnId(7), accept);
            assert_eq!(parse(resp.as_bytes()).err(), Some(Malformed::Range), "{index}");
        }
        let mut refused = Accept::new_zeroed();
        (refused.status, refused.version_max) = (10.into(), VERSION.into());
        assert!(parse(Resp::plain(ConnId(7), refused).as_bytes()).is_ok(), "the rest may be zero");
        let wrong: [fn(&mut Hello); 5] = [
            |of| of.datagram_bytes = 575.into(),
            |of| of.datagram_bytes = 8973.into(),
            |of| of.version_max = 0.into(),
            |of| of.suites = 1.into(),
            |of| of.instance = [0; 16],
        ];
        for (index, change) in wrong.into_iter().enumerate() {
            let mut init = init();
            change(&mut init.hello);
            assert_eq!(parse(init.as_bytes()).err(), Some(Malformed::Range), "{index}");
        }
    }

    #[test]
    fn a_datagram_of_a_session_names_it_and_has_a_number() {
        for (conn_id, packet_no, is_one) in
            [(1, 1, true), (u64::MAX, PACKET_NO_MAX, true), (0, 1, false), (1, 0, false)]
        {
            let header = DatagramHeader::plain(ConnId(conn_id), packet_no);
            let parsed = parse(header.as_bytes());
            assert_eq!(parsed.is_ok(), is_one, "{conn_id} {packet_no}");
            if let Ok(Datagram::Session { conn_id: found, packet_no: number, .. }) = parsed {
                assert_eq!((found.0, number), (conn_id, packet_no));
            }
        }
        let mut phased = DatagramHeader::plain(ConnId(1), 1);
        phased.phase = 1;
        assert_eq!(parse(phased.as_bytes()).err(), Some(Malformed::Reserved));
    }

    #[test]
    fn an_init_of_a_later_version_is_told_from_noise() {
        let mut later = init().as_bytes().to_vec();
        later[0] = 0x21;
        // Whatever that version says there.
        later[100] = 77;
        assert!(matches!(parse(&later), Ok(Datagram::OtherVersion { client_id: 7 })));
        assert!(parse(&later[..255]).is_err());
        for first in [0x10, 0x15, 0x16, 0x1f, 0x00, 0x01, 0x22, 0xff] {
            later[0] = first;
            assert_eq!(parse(&later).err(), Some(Malformed::Version), "{first:x}");
        }
    }
}
