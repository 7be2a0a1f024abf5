//! One session of a shard: who it is with, what it is owed, and what its datagrams are sealed with.

use crate::access::IdentityId;
use crate::access::key::PublicKey;
use crate::ids::{ConnId, Peer, ProducerId, StreamId};
use crate::limits::{DATAGRAM_BYTES_MIN, STREAMS_MAX};
use crate::position::{BatchSeq, SessionSlot};
use crate::seal::SEAL_BYTES;
use crate::seal::keys::SessionKeys;
use crate::wire::DatagramWriter;
use crate::wire::control::ErrorCode;

use super::last_word::LastWord;
use super::receipts::Receipts;
use super::receive::Receiver;
use super::replay::ReplayWindow;

/// How far a session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nobody uses this place.
    Free,
    /// Its client was told of it, and has not used it yet.
    Unconfirmed,
    /// Its client has, and has not registered.
    Confirmed,
    /// Waits until its registration, and all its producer has sent before, is durable.
    Registering {
        /// The batch that is waited for.
        batch_seq: BatchSeq,
    },
    /// In conversation.
    Open,
}

/// The producer a session publishes as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Producer {
    /// Its identity across sessions.
    pub id: ProducerId,
    /// Its epoch; an older one is fenced.
    pub epoch: u32,
}

/// Who asks for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Requester {
    /// From where.
    pub peer: Peer,
    /// How its client numbers the session.
    pub client_id: ConnId,
    /// The same over the life of the client.
    pub instance: u128,
    /// Who it has shown to be.
    pub identity: IdentityId,
}

/// A session, for who may answer when its place is another's already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionPlace {
    /// Where it is.
    pub slot: SessionSlot,
    /// Which one it is.
    pub conn_id: ConnId,
}

/// What is to be said where a session has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Farewell {
    /// To whom.
    pub peer: Peer,
    /// What.
    pub last_word: LastWord,
}

/// What was answered to a REGISTER, for when it is asked again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answered {
    /// Its request; 0 before any.
    pub request: u32,
    /// Flags of REGISTERED.
    pub flags: u16,
}

/// What a publisher was allowed in its session; it is never allowed less than before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Granted {
    bytes_accepted: u64,
    seq_max: u64,
    bytes_max: u64,
}

impl Granted {
    /// Its payload was taken.
    pub(crate) fn accept(&mut self, bytes: usize) {
        self.bytes_accepted = self.bytes_accepted.saturating_add(bytes as u64);
    }

    /// Allows numbers up to `seq`, and so many bytes more than were taken.
    pub(crate) fn allow(&mut self, seq: u64, bytes: u64) {
        self.seq_max = self.seq_max.max(seq);
        self.bytes_max = self.bytes_max.max(self.bytes_accepted.saturating_add(bytes));
    }

    /// The highest producer number it was ever allowed.
    #[must_use]
    pub(crate) fn seq_max(&self) -> u64 {
        self.seq_max
    }

    /// The most payload bytes it was ever allowed.
    #[must_use]
    pub(crate) fn bytes_max(&self) -> u64 {
        self.bytes_max
    }
}

/// Streams of a shard, as bits.
#[derive(Clone, Debug)]
pub(crate) struct StreamSet([u64; STREAMS_MAX / 64 + 1]);

impl StreamSet {
    /// None.
    pub(crate) const fn new() -> Self {
        Self([0; STREAMS_MAX / 64 + 1])
    }

    fn place(stream: StreamId) -> (usize, u64) {
        let number = usize::try_from(stream.0).expect("32 bits fit").min(STREAMS_MAX);
        (number / 64, 1 << (number % 64))
    }

    /// Whether a stream is one of them.
    #[inline]
    pub(crate) fn has(&self, stream: StreamId) -> bool {
        let (word, bit) = Self::place(stream);
        self.0[word] & bit != 0
    }

    /// Takes one in.
    pub(crate) fn add(&mut self, stream: StreamId) {
        let (word, bit) = Self::place(stream);
        self.0[word] |= bit;
    }
}

/// One session.
#[derive(Debug)]
pub(crate) struct Session {
    /// How far it has come.
    pub phase: Phase,
    /// As this server numbers it.
    pub conn_id: ConnId,
    /// As the client numbers it.
    pub client_id: ConnId,
    /// Where it sends from; datagrams from elsewhere are not its own.
    pub peer: Peer,
    /// The same over the life of its client.
    pub instance: u128,
    /// Who its client has shown to be.
    pub identity: IdentityId,
    /// By which key; zeros in the clear.
    pub key: PublicKey,
    /// What its datagrams are sealed with; none in the clear.
    pub(super) keys: Option<Box<SessionKeys>>,
    /// Streams it may publish to, as far as was asked.
    pub publishes_to: StreamSet,
    /// Which of its datagrams have come.
    pub came: ReplayWindow,
    /// Its REGISTER.
    pub answered: Answered,
    /// Its client has shown that it knows that the session is open, and so which producer it is. See [`Sessions::hear`].
    pub proven: bool,
    /// UDP payload the client takes.
    pub datagram_bytes: usize,
    /// Present when it publishes.
    pub producer: Option<Producer>,
    /// What has arrived.
    pub receiver: Receiver,
    /// What it is owed.
    pub receipts: Receipts,
    /// What its publisher may send.
    pub credit: Granted,
    /// When it was opened.
    pub opened_ns: u64,
    /// When its producer registered in it.
    pub registered_ns: u64,
    /// When a datagram last came.
    pub last_received_ns: u64,
    /// Number of the last datagram sent.
    pub packet_no: u64,
    /// Subscriptions it has.
    pub subscriptions: usize,
    /// The session before it of the same producer, which is to hear that it is over once this one is durable.
    pub fences: Option<Farewell>,
}

impl Session {
    pub(super) fn free() -> Self {
        Self {
            phase: Phase::Free,
            conn_id: ConnId(0),
            client_id: ConnId(0),
            peer: Peer::ip_only(std::net::SocketAddrV4::new(std::net::Ipv4Addr::UNSPECIFIED, 0)),
            instance: 0,
            identity: IdentityId::NOBODY,
            key: PublicKey([0; 32]),
            keys: None,
            publishes_to: StreamSet::new(),
            came: ReplayWindow::new(),
            answered: Answered::default(),
            proven: false,
            datagram_bytes: DATAGRAM_BYTES_MIN,
            producer: None,
            receiver: Receiver::new(),
            receipts: Receipts::new(),
            credit: Granted::default(),
            opened_ns: 0,
            registered_ns: 0,
            last_received_ns: 0,
            packet_no: 0,
            subscriptions: 0,
            fences: None,
        }
    }

    /// That it has ended, and why, if that is to be said.
    pub(crate) fn farewell(&mut self, code: ErrorCode) -> Farewell {
        let packet_no = self.next_packet_no();
        let generation = self.keys.as_ref().map(|keys| keys.sealing());
        let last_word = LastWord::new(self.client_id, packet_no, generation, code.code());
        self.said();
        Farewell { peer: self.peer, last_word }
    }

    #[inline]
    fn next_packet_no(&self) -> u64 {
        self.packet_no.saturating_add(1)
    }

    /// Whether nothing can be said to its client until there are other keys.
    #[inline]
    pub(crate) fn lacks_keys(&self) -> bool {
        self.keys.as_ref().is_some_and(|keys| keys.is_spent())
    }

    /// The next datagram to its client, and what it is owed; [`Session::said`] when it goes.
    #[inline]
    pub(crate) fn writer<'a>(
        &'a mut self,
        buffer: &'a mut [u8],
    ) -> (DatagramWriter<'a>, &'a mut Receipts) {
        let packet_no = self.next_packet_no();
        let room = self.datagram_bytes.min(buffer.len());
        let generation = self.keys.as_ref().map(|keys| keys.sealing());
        let buffer = &mut buffer[..room];
        let writer = DatagramWriter::sealed(buffer, self.client_id, packet_no, generation);
        (writer, &mut self.receipts)
    }

    /// A datagram goes to its client.
    #[inline]
    pub(crate) fn said(&mut self) {
        self.packet_no = self.next_packet_no();
        if let Some(keys) = &mut self.keys {
            keys.sealed();
        }
    }

    /// Bytes of a datagram that its seal takes.
    pub(crate) fn seal_bytes(&self) -> usize {
        if self.keys.is_some() { SEAL_BYTES } else { 0 }
    }

    /// Whether what comes in the clear may be its client's.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.keys.is_none()
    }

    /// Its keys, to be kept in order.
    pub(crate) fn keys_mut(&mut self) -> Option<&mut SessionKeys> {
        self.keys.as_deref_mut()
    }
}
