//! The sessions of a shard: a fixed table, found by connection id without searching.

use std::net::SocketAddrV4;

use crate::ids::{ConnId, Epoch, Peer, ProducerId};
use crate::limits::{
    DATAGRAM_BYTES_MAX, DATAGRAM_BYTES_MIN, EVICTIONS_A_TURN, Limits, SESSIONS_MAX,
};
use crate::position::{BatchSeq, SessionSlot};

use super::receipts::Receipts;
use super::receive::{HoldPool, Receiver};

/// How far a session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nobody uses this place.
    Free,
    /// Waits until its registration is durable.
    Registering {
        /// The batch that holds the registration.
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
    /// The nonce of its REGISTER.
    pub nonce: u64,
}

/// Which life of a client asked, and with which request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    /// Of the REGISTER that opened the session; another session has another.
    pub nonce: u64,
    /// The same over the life of the client.
    pub instance: u64,
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

/// One session.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    /// How far it has come.
    pub phase: Phase,
    /// As the client names it.
    pub conn_id: ConnId,
    /// Where it sends from; datagrams from elsewhere are not its own.
    pub peer: Peer,
    /// What its REGISTER said of its client.
    pub client: Life,
    /// Its client has named the connection id: what was sent to this address is received there. See
    /// [`Sessions::hear`].
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
    /// When a datagram last came.
    pub last_received_ns: u64,
    /// Number of the last datagram sent.
    pub packet_no: u64,
    /// Subscriptions it has.
    pub subscriptions: usize,
    /// The session before it of the same producer, which is to hear that it is over once this one is durable.
    pub fences: Option<(Peer, ConnId)>,
}

impl Session {
    fn free() -> Self {
        Self {
            phase: Phase::Free,
            conn_id: ConnId(0),
            peer: Peer::ip_only(std::net::SocketAddrV4::new(std::net::Ipv4Addr::UNSPECIFIED, 0)),
            client: Life { nonce: 0, instance: 0 },
            proven: false,
            datagram_bytes: DATAGRAM_BYTES_MIN,
            producer: None,
            receiver: Receiver::new(),
            receipts: Receipts::new(),
            credit: Granted::default(),
            last_received_ns: 0,
            packet_no: 0,
            subscriptions: 0,
            fences: None,
        }
    }

    /// The number for the next datagram to this session's client.
    pub(crate) fn next_packet_no(&mut self) -> u64 {
        self.packet_no = self.packet_no.saturating_add(1);
        self.packet_no
    }
}

/// Which session was asked for from where.
#[derive(Clone, Copy, Debug)]
struct Asked {
    nonce: u64,
    addr: SocketAddrV4,
    slot: SessionSlot,
}

/// Places of the index of connection ids: four for a session, so that a free one is found soon.
const INDEX_PLACES: usize = 4 * SESSIONS_MAX;
const _: () = assert!(INDEX_PLACES.is_power_of_two() && SESSIONS_MAX < UNUSED as usize);

/// A place of the index that no session has.
const UNUSED: u16 = u16::MAX;

/// The table. A connection id is 32 bits that nobody can foretell who was not told them: who names one has
/// received what was sent to the address it was given to. It is found by its lowest bits, and was chosen so that
/// no other session has the same.
#[derive(Debug)]
pub(crate) struct Sessions {
    slots: Vec<Session>,
    free: Vec<SessionSlot>,
    /// Sessions in use by nonce and address, ascending.
    asked: Vec<Asked>,
    index: Box<[u16]>,
    unproven: Line,
    /// What connection ids are made from, and how many were made.
    secret: [u8; 32],
    ids_made: u64,
    /// Places there are.
    places: usize,
    /// Frames that wait for those before them, of all sessions.
    pool: HoldPool,
    /// Sessions that may still be ended in this turn so that others have a place.
    evictions_left: usize,
    /// The place whose timers were looked at last.
    hand: SessionSlot,
}

impl Sessions {
    /// An empty table within these limits; allocates what all sessions will ever need. Ids follow from the epoch and
    /// a secret that nobody else knows.
    #[must_use]
    pub(crate) fn new(epoch: Epoch, secret: u64, limits: &Limits) -> Self {
        let places = limits.sessions;
        let mut key = [0; 16];
        key[..8].copy_from_slice(&secret.to_le_bytes());
        key[8..].copy_from_slice(&epoch.0.to_le_bytes());
        Self {
            slots: (0..SESSIONS_MAX).map(|_| Session::free()).collect(),
            free: (0..places).rev().map(SessionSlot::new).collect(),
            asked: Vec::with_capacity(SESSIONS_MAX),
            index: vec![UNUSED; INDEX_PLACES].into_boxed_slice(),
            unproven: Line::new(),
            secret: blake3::derive_key("buslane connection ids", &key),
            ids_made: 0,
            places,
            pool: HoldPool::new(limits.held_frames),
            evictions_left: EVICTIONS_A_TURN,
            hand: SessionSlot::FIRST,
        }
    }

    /// A turn begins.
    pub(crate) fn begin_turn(&mut self) {
        self.evictions_left = EVICTIONS_A_TURN;
    }

    /// Whether there is a place for another session, or one can be made: not where all are taken by clients that are
    /// there, or as many had to go in this turn as one can bear.
    #[must_use]
    pub(crate) fn has_place(&self) -> bool {
        !self.is_full() || (self.evictions_left > 0 && self.longest_unproven().is_some())
    }

    /// The session that has to end for another one, where one can.
    pub(crate) fn evict(&mut self) -> Option<SessionSlot> {
        let oldest = self.longest_unproven()?;
        self.evictions_left = self.evictions_left.checked_sub(1)?;
        Some(oldest)
    }

    /// The place whose timers are to be looked at next.
    pub(crate) fn next_in_turn(&mut self) -> SessionSlot {
        self.hand = SessionSlot::new(self.hand.index().wrapping_add(1) % SESSIONS_MAX);
        self.hand
    }

    /// The place whose timers were looked at last.
    #[must_use]
    pub(crate) fn last_in_turn(&self) -> SessionSlot {
        self.hand
    }

    /// A session receives what follows a producer's number; nothing of it is held.
    pub(crate) fn receive_from(&mut self, slot: SessionSlot, last_seq: u64) {
        self.slots[slot.index()].receiver.reset(last_seq, &mut self.pool);
    }

    /// Holds a frame back until those before it have come; `false` where there is no room.
    pub(crate) fn hold(
        &mut self,
        slot: SessionSlot,
        first_seq: u64,
        count: u64,
        body: &[u8],
        now_ns: u64,
    ) -> bool {
        self.slots[slot.index()].receiver.hold(&mut self.pool, first_seq, count, body, now_ns)
    }

    /// The next frame that was held back and waits for nothing any more: its bytes are copied, and it is not held any
    /// more.
    pub(crate) fn take_ready(
        &mut self,
        slot: SessionSlot,
        body: &mut [u8; DATAGRAM_BYTES_MAX],
    ) -> Option<usize> {
        let held = self.slots[slot.index()].receiver.take_ready()?;
        let stored = self.pool.body(held);
        let len = stored.len();
        body[..len].copy_from_slice(stored);
        self.pool.release(held);
        Some(len)
    }

    /// The next id whose place in the index is free; fewer than a quarter of them are taken.
    fn new_id(&mut self) -> ConnId {
        loop {
            self.ids_made = self.ids_made.wrapping_add(1);
            let hash = blake3::keyed_hash(&self.secret, &self.ids_made.to_le_bytes());
            let (id, _) = hash.as_bytes().split_first_chunk().expect("a hash has 32 bytes");
            let conn_id = ConnId(u32::from_le_bytes(*id));
            // 0 names no session.
            if conn_id.0 != 0 && self.index[place(conn_id)] == UNUSED {
                return conn_id;
            }
        }
    }

    /// Takes a free place for a client; `None` when there is none.
    ///
    /// # Panics
    /// When the client has a session under this nonce.
    pub(crate) fn open(&mut self, requester: Requester, now_ns: u64) -> Option<SessionSlot> {
        let slot = self.free.pop()?;
        self.slots[slot.index()].receipts.reset(0);
        self.begin(slot, requester, now_ns);
        Some(slot)
    }

    /// Ends a session and begins another in its place, which goes on with its receipts: the heir of a producer.
    /// Where it is another instance, the one before is told that it is fenced.
    ///
    /// # Panics
    /// When there is no such session.
    pub(crate) fn succeed(
        &mut self,
        slot: SessionSlot,
        requester: Requester,
        fence: bool,
        now_ns: u64,
    ) {
        let old = &self.slots[slot.index()];
        // Nothing is sent that was not asked for to where nobody has shown to receive.
        let fence = fence && old.proven;
        let old = (old.peer, old.conn_id);
        self.close(slot);
        assert_eq!(self.free.pop(), Some(slot), "the place that was free last is taken next");
        self.begin(slot, requester, now_ns);
        self.slots[slot.index()].fences = fence.then_some(old);
    }

    fn begin(&mut self, slot: SessionSlot, requester: Requester, now_ns: u64) {
        let at = self.asked_at(requester).expect_err("the caller looked for it");
        let (nonce, addr) = (requester.nonce, requester.peer.addr);
        self.asked.insert(at, Asked { nonce, addr, slot });
        let conn_id = self.new_id();
        self.index[place(conn_id)] = u16::try_from(slot.index()).expect("below SESSIONS_MAX");
        let session = &mut self.slots[slot.index()];
        session.conn_id = conn_id;
        session.phase = Phase::Open;
        session.peer = requester.peer;
        session.client = Life { nonce: requester.nonce, instance: 0 };
        session.proven = false;
        session.producer = None;
        session.credit = Granted::default();
        session.last_received_ns = now_ns;
        session.packet_no = 0;
        session.subscriptions = 0;
        session.fences = None;
    }

    /// A session is open, and its client has not shown yet that it knows of it: it stands behind all others of which
    /// that is true.
    pub(crate) fn await_proof(&mut self, slot: SessionSlot) {
        self.unproven.push(slot);
    }

    /// The open session that has waited for longest for a word of its client.
    #[must_use]
    pub(crate) fn longest_unproven(&self) -> Option<SessionSlot> {
        self.unproven.first()
    }

    /// A datagram of a session has come: its client knows of it. Says whether it shows that for the first time.
    #[inline]
    pub(crate) fn hear(&mut self, slot: SessionSlot, now_ns: u64) -> bool {
        let session = &mut self.slots[slot.index()];
        session.last_received_ns = now_ns;
        let is_first = !session.proven;
        if is_first {
            session.proven = true;
            self.unproven.remove(slot);
        }
        is_first
    }

    fn asked_at(&self, requester: Requester) -> Result<usize, usize> {
        let key = (requester.nonce, requester.peer.addr);
        self.asked.binary_search_by_key(&key, |asked| (asked.nonce, asked.addr))
    }

    /// The session a client asked for with this nonce.
    #[must_use]
    pub(crate) fn asked_by(&self, requester: Requester) -> Option<SessionSlot> {
        self.asked_at(requester).ok().map(|at| self.asked[at].slot)
    }

    /// Gives a place back, with the frames it held.
    ///
    /// # Panics
    /// When the place is free already.
    pub(crate) fn close(&mut self, slot: SessionSlot) {
        let session = &mut self.slots[slot.index()];
        assert!(session.phase != Phase::Free, "slot {slot} is closed twice");
        session.phase = Phase::Free;
        session.producer = None;
        self.unproven.remove(slot);
        self.index[place(session.conn_id)] = UNUSED;
        session.receiver.reset(0, &mut self.pool);
        let requester = Requester { peer: session.peer, nonce: session.client.nonce };
        let at = self.asked_at(requester).expect("a session in use was asked for");
        self.asked.remove(at);
        self.free.push(slot);
    }

    /// Whether the lists of free places, of nonces and of held frames agree with the places.
    #[must_use]
    pub(crate) fn is_sound(&self) -> bool {
        let asked = |&Asked { nonce, addr, slot }: &Asked| {
            let session = &self.slots[slot.index()];
            session.phase != Phase::Free
                && (session.client.nonce, session.peer.addr) == (nonce, addr)
        };
        let held = self.slots.iter().map(|session| session.receiver.held()).sum::<usize>();
        self.free.iter().all(|&slot| self.slots[slot.index()].phase == Phase::Free)
            && held == self.pool.in_use()
            && self.asked.len() == self.len()
            && self.asked.iter().all(asked)
            && self.unproven.slots().all(|slot| {
                let session = &self.slots[slot.index()];
                session.phase == Phase::Open && !session.proven
            })
    }

    /// The slot a connection id names, when it is in use under just that id.
    #[must_use]
    #[inline]
    pub(crate) fn find(&self, conn_id: ConnId) -> Option<SessionSlot> {
        let slot = SessionSlot::new(usize::from(self.index[place(conn_id)]));
        let session = self.slots.get(slot.index())?;
        (session.conn_id == conn_id && session.phase != Phase::Free).then_some(slot)
    }

    /// The session at a slot, in use or not.
    #[must_use]
    #[inline]
    pub(crate) fn get(&self, slot: SessionSlot) -> &Session {
        &self.slots[slot.index()]
    }

    /// The same, to change.
    #[must_use]
    #[inline]
    pub(crate) fn get_mut(&mut self, slot: SessionSlot) -> &mut Session {
        &mut self.slots[slot.index()]
    }

    /// The slots in use.
    pub(crate) fn in_use(&self) -> impl Iterator<Item = (SessionSlot, &Session)> {
        SessionSlot::all().zip(&self.slots).filter(|(_, session)| session.phase != Phase::Free)
    }

    /// How many are in use.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.places.saturating_sub(self.free.len())
    }

    /// Whether all are in use.
    #[must_use]
    pub(crate) fn is_full(&self) -> bool {
        self.free.is_empty()
    }
}

/// Who stands before and behind a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Links {
    before: usize,
    behind: usize,
}

/// Sessions in a line, each at most once, in the order they came; whoever stands anywhere in it leaves at once.
#[derive(Debug)]
struct Line {
    /// By slot. The last entry is that of the line's two ends.
    links: Box<[Links]>,
}

impl Line {
    const ENDS: usize = SESSIONS_MAX;
    /// Of a slot that stands in no line.
    const NOBODY: Links = Links { before: usize::MAX, behind: usize::MAX };

    fn new() -> Self {
        let mut links = vec![Self::NOBODY; SESSIONS_MAX + 1].into_boxed_slice();
        links[Self::ENDS] = Links { before: Self::ENDS, behind: Self::ENDS };
        Self { links }
    }

    fn push(&mut self, slot: SessionSlot) {
        let at = slot.index();
        assert_eq!(self.links[at], Self::NOBODY, "slot {slot} stands in the line once");
        let last = self.links[Self::ENDS].before;
        self.links[at] = Links { before: last, behind: Self::ENDS };
        self.links[last].behind = at;
        self.links[Self::ENDS].before = at;
    }

    /// Takes a slot out, if it is there.
    fn remove(&mut self, slot: SessionSlot) {
        let links = std::mem::replace(&mut self.links[slot.index()], Self::NOBODY);
        if links != Self::NOBODY {
            self.links[links.before].behind = links.behind;
            self.links[links.behind].before = links.before;
        }
    }

    fn first(&self) -> Option<SessionSlot> {
        self.slots().next()
    }

    fn slots(&self) -> impl Iterator<Item = SessionSlot> {
        let behind = |at: usize| Some(self.links[at].behind).filter(|next| *next != Self::ENDS);
        std::iter::successors(behind(Self::ENDS), move |at| behind(*at)).map(SessionSlot::new)
    }
}

fn place(conn_id: ConnId) -> usize {
    let last = u32::try_from(INDEX_PLACES).expect("a few thousand").wrapping_sub(1);
    usize::try_from(conn_id.0 & last).expect("32 bits fit")
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn an_id_of_an_earlier_life_finds_nothing() {
        let peer = Peer::ip_only(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9));
        let mut sessions = Sessions::new(Epoch(1), 7, &Limits::MAX);
        let slot = sessions.open(Requester { peer, nonce: 1 }, 0).unwrap();
        let old = sessions.get(slot).conn_id;
        assert_eq!(sessions.find(old), Some(slot));
        sessions.close(slot);
        assert_eq!(sessions.find(old), None);
        let again = sessions.open(Requester { peer, nonce: 2 }, 0).unwrap();
        assert_eq!(again, slot, "the place is used again");
        assert_eq!(sessions.find(old), None, "under another id");
        let mut later = Sessions::new(Epoch(2), 7, &Limits::MAX);
        later.open(Requester { peer, nonce: 1 }, 0).unwrap();
        assert_eq!(later.find(old), None, "an id of the epoch before");
        assert_eq!(later.find(ConnId(0)), None);
    }

    #[test]
    fn an_id_cannot_be_foretold_from_those_before_it() {
        let peer = Peer::ip_only(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9));
        let ids = |secret| {
            let mut sessions = Sessions::new(Epoch(1), secret, &Limits::MAX);
            let slots =
                (0..SESSIONS_MAX as u64).map(|nonce| sessions.open(Requester { peer, nonce }, 0));
            let slots: Vec<_> = slots.map(Option::unwrap).collect();
            let ids: Vec<_> = slots.iter().map(|&slot| sessions.get(slot).conn_id).collect();
            assert!(ids.iter().zip(&slots).all(|(&id, &slot)| sessions.find(id) == Some(slot)));
            ids
        };
        let (ours, others) = (ids(1), ids(2));
        let same = ours.iter().zip(&others).filter(|(one, other)| one == other).count();
        assert_eq!(same, 0, "ids follow from the secret");
        let mut steps: Vec<_> =
            ours.windows(2).map(|two| two[1].0.wrapping_sub(two[0].0)).collect();
        steps.sort_unstable();
        steps.dedup();
        assert_eq!(steps.len(), SESSIONS_MAX - 1, "no step between two comes again");
    }

    #[test]
    fn those_who_are_not_heard_of_stand_in_the_order_they_came() {
        let peer = Peer::ip_only(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9));
        let mut sessions = Sessions::new(Epoch(1), 7, &Limits::MAX);
        let slots: Vec<_> =
            (0..5).map(|nonce| sessions.open(Requester { peer, nonce }, 0).unwrap()).collect();
        assert_eq!(sessions.longest_unproven(), None);
        slots.iter().for_each(|&slot| sessions.await_proof(slot));
        assert_eq!(sessions.unproven.slots().collect::<Vec<_>>(), slots);
        sessions.hear(slots[2], 1);
        sessions.hear(slots[2], 2);
        sessions.close(slots[0]);
        let left = [slots[1], slots[3], slots[4]];
        assert_eq!(sessions.unproven.slots().collect::<Vec<_>>(), left);
        assert_eq!(sessions.longest_unproven(), Some(slots[1]));
        assert!(sessions.is_sound());
        left.iter().for_each(|&slot| sessions.close(slot));
        assert_eq!(sessions.longest_unproven(), None);
        let again = sessions.open(Requester { peer, nonce: 9 }, 0).unwrap();
        sessions.await_proof(again);
        assert_eq!(sessions.longest_unproven(), Some(again), "the line goes on");
    }

    #[test]
    fn a_full_table_takes_no_more() {
        let peer = Peer::ip_only(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9));
        let mut sessions = Sessions::new(Epoch(1), 7, &Limits::MAX);
        for nonce in 0..SESSIONS_MAX as u64 {
            assert!(sessions.open(Requester { peer, nonce }, 0).is_some());
        }
        assert_eq!(sessions.open(Requester { peer, nonce: 0 }, 0), None);
        assert_eq!(sessions.len(), SESSIONS_MAX);
    }
}
