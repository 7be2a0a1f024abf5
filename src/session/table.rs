//! The sessions of a shard: a fixed table, found by connection id without searching.

use crate::ids::{ConnId, Epoch, Peer, ProducerId};
use crate::limits::{DATAGRAM_BYTES_MIN, SESSIONS_MAX};

use super::receipts::Receipts;
use super::receive::{HoldPool, Receiver};

/// How far a session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nobody uses this place.
    Free,
    /// Waits until its registration is durable.
    Registering {
        /// The batch that holds the registration.
        batch_seq: u64,
    },
    /// In conversation.
    Open,
}

/// The producer a session publishes as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producer {
    /// Its identity across sessions.
    pub id: ProducerId,
    /// Its epoch; an older one is fenced.
    pub epoch: u32,
    /// Its place in the log's table.
    pub slot: usize,
}

/// One session.
#[derive(Clone, Debug)]
pub struct Session {
    /// How far it has come.
    pub phase: Phase,
    /// As the client names it.
    pub conn_id: ConnId,
    /// Where it sends from; datagrams from elsewhere are not its own.
    pub peer: Peer,
    /// The nonce of its REGISTER.
    pub nonce: u64,
    /// UDP payload the client takes.
    pub datagram_bytes: usize,
    /// Present when it publishes.
    pub producer: Option<Producer>,
    /// What has arrived.
    pub receiver: Receiver,
    /// What it is owed.
    pub receipts: Receipts,
    /// Payload bytes accepted in this session.
    pub bytes_accepted: u64,
    /// The highest producer number it was ever allowed.
    pub max_seq_allowed: u64,
    /// The most payload bytes it was ever allowed.
    pub max_bytes_allowed: u64,
    /// When a datagram last came.
    pub heard_ns: u64,
    /// Number of the last datagram sent.
    pub packet_no: u64,
    /// It stands in the list of those that are to be acknowledged.
    pub ack_due: bool,
    /// It stands in the list of those with a gap.
    pub gap_listed: bool,
    /// Subscriptions it has.
    pub subscriptions: usize,
}

impl Session {
    fn free() -> Self {
        Self {
            phase: Phase::Free,
            conn_id: ConnId(0),
            peer: Peer::ip_only(std::net::SocketAddrV4::new(std::net::Ipv4Addr::UNSPECIFIED, 0)),
            nonce: 0,
            datagram_bytes: DATAGRAM_BYTES_MIN,
            producer: None,
            receiver: Receiver::new(),
            receipts: Receipts::new(),
            bytes_accepted: 0,
            max_seq_allowed: 0,
            max_bytes_allowed: 0,
            heard_ns: 0,
            packet_no: 0,
            ack_due: false,
            gap_listed: false,
            subscriptions: 0,
        }
    }

    /// The number for the next datagram to this session's client.
    pub fn next_packet_no(&mut self) -> u64 {
        self.packet_no += 1;
        self.packet_no
    }
}

const SLOT_BITS: u32 = 10;
const GENERATION_BITS: u32 = 10;
const _: () = assert!(SESSIONS_MAX == 1 << SLOT_BITS, "a connection id holds its slot");

/// The table. A connection id holds the epoch (12 bits), a generation (10) and the slot (10), so that
/// an id of an earlier life of the server or of the slot is not taken for a present one.
#[derive(Debug)]
pub struct Sessions {
    slots: Vec<Session>,
    free: Vec<usize>,
    generation: Vec<u32>,
    epoch_bits: u32,
}

impl Sessions {
    /// An empty table; allocates what all sessions will ever need.
    #[must_use]
    pub fn new(epoch: Epoch) -> Self {
        let epoch_bits = u32::try_from(epoch.0 & 0xfff).expect("12 bits");
        Self {
            slots: (0..SESSIONS_MAX).map(|_| Session::free()).collect(),
            free: (0..SESSIONS_MAX).rev().collect(),
            generation: vec![0; SESSIONS_MAX],
            epoch_bits,
        }
    }

    /// Takes a free place for a client; `None` when there is none.
    pub fn open(&mut self, peer: Peer, nonce: u64, now_ns: u64) -> Option<usize> {
        let slot = self.free.pop()?;
        // Generation 0 is never used, so that no connection id is 0.
        let generation = (self.generation[slot] % ((1 << GENERATION_BITS) - 1)) + 1;
        self.generation[slot] = generation;
        let number = u32::try_from(slot).expect("below SESSIONS_MAX");
        let session = &mut self.slots[slot];
        session.conn_id = ConnId(
            self.epoch_bits << (SLOT_BITS + GENERATION_BITS) | generation << SLOT_BITS | number,
        );
        session.phase = Phase::Open;
        session.peer = peer;
        session.nonce = nonce;
        session.producer = None;
        session.bytes_accepted = 0;
        session.max_seq_allowed = 0;
        session.max_bytes_allowed = 0;
        session.heard_ns = now_ns;
        session.packet_no = 0;
        session.subscriptions = 0;
        session.receipts.reset(0);
        Some(slot)
    }

    /// Gives a place back, with the frames it held.
    ///
    /// # Panics
    /// When the place is free already.
    pub fn close(&mut self, slot: usize, pool: &mut HoldPool) {
        let session = &mut self.slots[slot];
        assert!(session.phase != Phase::Free, "slot {slot} is closed twice");
        session.phase = Phase::Free;
        session.producer = None;
        session.receiver.reset(0, pool);
        self.free.push(slot);
    }

    /// The slot a connection id names, when it is in use under just that id.
    #[must_use]
    #[inline]
    pub fn find(&self, conn_id: ConnId) -> Option<usize> {
        let slot = usize::try_from(conn_id.0).expect("32 bits fit") & (SESSIONS_MAX - 1);
        let session = &self.slots[slot];
        (session.conn_id == conn_id && session.phase != Phase::Free).then_some(slot)
    }

    /// The session at a slot, in use or not.
    #[must_use]
    #[inline]
    pub fn get(&self, slot: usize) -> &Session {
        &self.slots[slot]
    }

    /// The same, to change.
    #[must_use]
    #[inline]
    pub fn get_mut(&mut self, slot: usize) -> &mut Session {
        &mut self.slots[slot]
    }

    /// Lets two sessions change what they are owed: the heir of a producer takes it over.
    pub fn swap_receipts(&mut self, one: usize, other: usize) {
        let [one, other] =
            self.slots.get_disjoint_mut([one, other]).expect("two sessions of the table");
        std::mem::swap(&mut one.receipts, &mut other.receipts);
    }

    /// The slots in use.
    pub fn in_use(&self) -> impl Iterator<Item = (usize, &Session)> {
        self.slots.iter().enumerate().filter(|(_, session)| session.phase != Phase::Free)
    }

    /// How many are in use.
    #[must_use]
    pub fn len(&self) -> usize {
        SESSIONS_MAX - self.free.len()
    }

    /// Whether none is in use.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4};

    use super::*;

    #[test]
    fn an_id_of_an_earlier_life_finds_nothing() {
        let peer = Peer::ip_only(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9));
        let mut pool = HoldPool::new(1);
        let mut sessions = Sessions::new(Epoch(1));
        let slot = sessions.open(peer, 1, 0).unwrap();
        let old = sessions.get(slot).conn_id;
        assert_eq!(sessions.find(old), Some(slot));
        sessions.close(slot, &mut pool);
        assert_eq!(sessions.find(old), None);
        let again = sessions.open(peer, 2, 0).unwrap();
        assert_eq!(again, slot, "the place is used again");
        assert_eq!(sessions.find(old), None, "under another id");
        let mut later = Sessions::new(Epoch(2));
        later.open(peer, 1, 0).unwrap();
        assert_eq!(later.find(old), None, "an id of the epoch before");
        assert_eq!(later.find(ConnId(0)), None);
    }

    #[test]
    fn a_full_table_takes_no_more() {
        let peer = Peer::ip_only(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9));
        let mut sessions = Sessions::new(Epoch(1));
        for nonce in 0..SESSIONS_MAX as u64 {
            assert!(sessions.open(peer, nonce, 0).is_some());
        }
        assert_eq!(sessions.open(peer, 0, 0), None);
        assert_eq!(sessions.len(), SESSIONS_MAX);
    }
}
