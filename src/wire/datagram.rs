//! Datagrams: what stands around frames, and what two who do not know each other say before there is a session.
//!
//! ```text
//! INIT       client   I want a session; the second time with the cookie that was given to its address
//! RETRY      server   this cookie shows that you receive at your address: ask again with it
//! RESP       server   there is a session, or why there is none
//! SEALED     both     frames of a session, sealed
//! PLAIN      both     frames of a session, in the clear
//! RESET      server   there is no session of this number
//! VERSIONS   server   which versions there are, to an INIT of another one
//! ```
//!
//! Byte 0 is the version in its high half, and the type. Nothing is larger than what it answers, and no answer is
//! answered.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::FRAME_HEAD_BYTES;
use super::control::ErrorCode;
use crate::ids::ConnId;
use crate::limits::{DATAGRAM_BYTES_MAX, DATAGRAM_BYTES_MIN, NUMBER_MAX, SHARDS_MAX};
use crate::seal::SEAL_BYTES;

/// The version of the protocol that this release speaks.
pub const VERSION: u16 = 1;

/// First bytes of the datagrams of this version.
pub(super) const INIT: u8 = 0x11;
pub(super) const RETRY: u8 = 0x12;
pub(super) const RESP: u8 = 0x13;
pub(super) const RESET: u8 = 0x14;
pub(super) const SEALED: u8 = 0x16;
pub(super) const PLAIN: u8 = 0x17;

/// First byte of VERSIONS, in every version.
pub(super) const VERSIONS: u8 = 0x05;

/// A session sealed with AES-128-GCM: who reaches the port and has no key that is known here is not answered.
pub const SUITE_AES_GCM: u16 = 1;

/// A session without encryption: who reaches the port is believed.
pub const SUITE_PLAIN: u16 = 0x8000;

/// First bytes of a datagram of a session.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DatagramHeader {
    kind: u8,
    /// Of the generation of keys; 0 where there is none.
    pub(super) phase: u8,
    /// Counts the sender's datagrams of this session, from 1 on; no number is used twice.
    packet_no: [u8; 6],
    /// The session, as the receiver numbers it.
    pub(super) conn_id: U64,
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
        Self::new(PLAIN, 0, conn_id, packet_no)
    }

    /// The same of one that is sealed by the generation of this phase.
    #[must_use]
    #[inline]
    pub fn sealed(conn_id: ConnId, packet_no: u64, phase: u8) -> Self {
        Self::new(SEALED, phase, conn_id, packet_no)
    }

    #[inline]
    fn new(kind: u8, phase: u8, conn_id: ConnId, packet_no: u64) -> Self {
        let [a, b, c, d, e, f, ..] = packet_no.to_le_bytes();
        Self { kind, phase, packet_no: [a, b, c, d, e, f], conn_id: conn_id.0.into() }
    }

    #[inline]
    pub(super) fn packet_no(&self) -> u64 {
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

/// The message of the handshake in [`Init`], and where it stands.
pub const INIT_MESSAGE_BYTES: usize = 144;
const INIT_MESSAGE_AT: usize = 32;

/// The message of the handshake in [`Resp`], and where it stands.
pub const RESP_MESSAGE_BYTES: usize = 128;
const RESP_MESSAGE_AT: usize = 16;

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
    pub(super) zeros: [u8; 7],
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
    pub(super) zeros: [u8; 7],
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
    pub(super) zeros: [u8; 7],
    /// Of the INIT.
    pub client_id: U64,
    /// The lowest version that is spoken here.
    pub lowest: U16,
    /// The highest.
    pub highest: U16,
    pub(super) more_zeros: [u8; 12],
    /// Over the bytes before it: the sender knows the server's key. Else anybody could end a client with it.
    pub mac: Tag,
}

/// Bytes of [`Versions`] that its `mac` covers.
pub const VERSIONS_MAC_BYTES: usize = 32;

const _: () = assert!(size_of::<Init>() == 256 && std::mem::offset_of!(Init, identity) == 64);
const _: () = assert!(size_of::<Retry>() == 48 && size_of::<Resp>() == 144);
const _: () = assert!(size_of::<Reset>() == 32 && size_of::<Versions>() == 48);
const _: () = assert!(size_of::<Hello>() == 48 && size_of::<Accept>() == 80);
const _: () = assert!(std::mem::offset_of!(Init, ephemeral) == INIT_MESSAGE_AT);
const _: () = assert!(std::mem::offset_of!(Init, padding) == INIT_MESSAGE_AT + INIT_MESSAGE_BYTES);
const _: () = assert!(std::mem::offset_of!(Resp, ephemeral) == RESP_MESSAGE_AT);
const _: () = assert!(size_of::<Resp>() == RESP_MESSAGE_AT + RESP_MESSAGE_BYTES);

/// The least datagram of a session that is answered by RESET, which is smaller.
pub const RESET_CAUSE_BYTES: usize = 36;

/// The least sealed datagram: with the head of a frame.
pub(super) const SEALED_BYTES_MIN: usize = DATAGRAM_HEADER_BYTES + FRAME_HEAD_BYTES + SEAL_BYTES;

/// The last phase.
pub(super) const PHASE_MAX: u8 = 3;
const _: () = assert!(RESET_CAUSE_BYTES > size_of::<Reset>());

impl Init {
    /// One in the clear, its `mac` still to be filled in.
    #[must_use]
    pub fn plain(client_id: ConnId, cookie: Tag, hello: Hello) -> Self {
        Self::new(SUITE_PLAIN, client_id, cookie, hello)
    }

    /// One that is to be sealed: its message and its `mac` still to be filled in.
    #[must_use]
    pub fn sealed(client_id: ConnId, cookie: Tag) -> Self {
        Self::new(SUITE_AES_GCM, client_id, cookie, Hello::new_zeroed())
    }

    fn new(suites: u16, client_id: ConnId, cookie: Tag, hello: Hello) -> Self {
        Self {
            kind: INIT,
            zero: 0,
            suites: suites.into(),
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

    /// Whether it asks for a session in the clear.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.suites.get() == SUITE_PLAIN
    }

    pub(super) fn in_range(&self) -> bool {
        let says_nothing_else =
            self.ephemeral == [0; 32] && self.identity == [0; 48] && self.seal == [0; 16];
        let is_plain = self.is_plain() && says_nothing_else && self.hello.in_range(SUITE_PLAIN);
        // Of one that is sealed the rest is seen when it is opened.
        let offers = self.suites.get() & SUITE_AES_GCM != 0;
        let zeros = self.zero == 0 && self.zeros.get() == 0 && self.padding == [0; 64];
        zeros && self.client_id.get() > 0 && (is_plain || (offers && !self.is_plain()))
    }

    /// What both ends of a handshake have to agree on.
    #[must_use]
    pub fn beginning(&self) -> &[u8; 16] {
        self.as_bytes().first_chunk().expect("it is longer")
    }

    /// The message of the handshake.
    #[must_use]
    pub fn message(&self) -> &[u8; INIT_MESSAGE_BYTES] {
        self.as_bytes()[INIT_MESSAGE_AT..].first_chunk().expect("it is longer")
    }

    /// The same, to be written.
    pub fn message_mut(&mut self) -> &mut [u8; INIT_MESSAGE_BYTES] {
        self.as_mut_bytes()[INIT_MESSAGE_AT..].first_chunk_mut().expect("it is longer")
    }
}

impl Hello {
    /// What a client says in the clear that takes datagrams of this size.
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

    /// The same of one that offers these suites.
    #[must_use]
    pub fn offering(self, suites: u16) -> Self {
        Self { suites: suites.into(), ..self }
    }

    /// Whether it can be meant, in an INIT that offers these suites.
    #[must_use]
    pub fn in_range(&self, suites: u16) -> bool {
        let datagram_bytes = usize::from(self.datagram_bytes.get());
        self.version_max.get() >= VERSION
            && (DATAGRAM_BYTES_MIN..=DATAGRAM_BYTES_MAX).contains(&datagram_bytes)
            && self.suites.get() == suites
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
        Self::new(SUITE_PLAIN, client_id, accept)
    }

    /// One that is sealed, with this message of the handshake.
    #[must_use]
    pub fn sealed(client_id: ConnId, message: &[u8; RESP_MESSAGE_BYTES]) -> Self {
        let mut resp = Self::new(SUITE_AES_GCM, client_id, Accept::new_zeroed());
        resp.as_mut_bytes()[RESP_MESSAGE_AT..].copy_from_slice(message);
        resp
    }

    fn new(suite: u16, client_id: ConnId, accept: Accept) -> Self {
        Self {
            kind: RESP,
            zero: 0,
            suite: suite.into(),
            zeros: 0.into(),
            client_id: client_id.0.into(),
            ephemeral: [0; 32],
            accept,
            seal: [0; 16],
        }
    }

    /// Whether it answers in the clear.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.suite.get() == SUITE_PLAIN
    }

    /// The message of the handshake.
    #[must_use]
    pub fn message(&self) -> &[u8; RESP_MESSAGE_BYTES] {
        self.as_bytes()[RESP_MESSAGE_AT..].first_chunk().expect("it ends with it")
    }

    pub(super) fn in_range(&self) -> bool {
        let says_nothing_else = self.ephemeral == [0; 32] && self.seal == [0; 16];
        let is_plain = self.is_plain() && says_nothing_else && self.accept.in_range(SUITE_PLAIN);
        let zeros = self.zero == 0 && self.zeros.get() == 0;
        let is_sealed = self.suite.get() == SUITE_AES_GCM;
        zeros && self.client_id.get() > 0 && (is_plain || is_sealed)
    }
}

impl Accept {
    /// That there is no session.
    #[must_use]
    pub fn refusal(unix_ns: u64) -> Self {
        let mut accept = Self::new_zeroed();
        accept.version_max = VERSION.into();
        accept.unix_ns = unix_ns.min(NUMBER_MAX).into();
        accept
    }

    /// The same, and why.
    #[must_use]
    pub fn refused(&self, code: ErrorCode) -> Self {
        let mut accept = Self::refusal(self.unix_ns.get());
        accept.status = code.code().into();
        accept
    }

    /// Whether it can be meant, in an answer of this suite.
    #[must_use]
    pub fn in_range(&self, suite: u16) -> bool {
        let datagram_bytes = usize::from(self.datagram_bytes.get());
        let opens = self.server_id.get() > 0
            && self.suite.get() == suite
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
    /// Which versions there are, its `mac` still to be filled in.
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
            mac: [0; 16],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Datagram, Malformed, parse};

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
            |of| of.suite = 2.into(),
            |of| of.datagram_bytes = 575.into(),
            |of| of.datagram_bytes = 8973.into(),
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
            |of| of.suites = 2.into(),
            |of| of.datagram_bytes = 575.into(),
            |of| of.datagram_bytes = 8973.into(),
            |of| of.version_max = 0.into(),
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
        assert!(
            matches!(parse(&later), Ok(Datagram::OtherVersion(init)) if init.client_id.get() == 7)
        );
        assert!(parse(&later[..255]).is_err());
        for first in [0x10, 0x15, 0x18, 0x1f, 0x00, 0x01, 0x22, 0xff] {
            later[0] = first;
            assert_eq!(parse(&later).err(), Some(Malformed::Version), "{first:x}");
        }
    }
}
