//! The sessions of a shard: a fixed table, found by connection id without searching.

use std::net::SocketAddrV4;

use crate::access::IdentityId;
use crate::ids::{ConnId, Epoch};
use crate::limits::{DATAGRAM_BYTES_MAX, Limits, SESSIONS_MAX, UNCONFIRMED_MAX};
use crate::position::SessionSlot;
use crate::seal::keys::SessionKeys;
use crate::wire::frame::Body;
use crate::wire::mac::MacKey;
use crate::wire::opened;

pub(crate) use super::entry::{
    Answered, Farewell, Granted, Phase, Producer, Requester, Session, SessionPlace, StreamSet,
};

use super::line::Line;
use super::receive::HoldPool;

/// Why a sealed datagram is not heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unopened {
    /// It came before.
    Repeated,
    /// It is not of the session that it names.
    Forged,
}

/// Which session was asked for from where.
#[derive(Clone, Copy, Debug)]
struct Asked {
    client_id: ConnId,
    addr: SocketAddrV4,
    slot: SessionSlot,
}

/// Places of the index of connection ids: four for a session, so that a free one is found soon.
const INDEX_PLACES: usize = 4 * SESSIONS_MAX;
const _: () = assert!(INDEX_PLACES.is_power_of_two() && SESSIONS_MAX < UNUSED as usize);

/// Bits of a connection id that are random; the others are its mark.
const RANDOM_BITS: u32 = 40;

/// A place of the index that no session has.
const UNUSED: u16 = u16::MAX;

/// The table. A connection id is 40 bits that nobody can foretell who was not told them, and a mark that only this server
/// can make: who names one has received what was sent to the address it was given to, and what is no such id is not
/// answered. It is found by its lowest bits, and was chosen so that no other session has the same.
#[derive(Debug)]
pub(crate) struct Sessions {
    slots: Vec<Session>,
    free: Vec<SessionSlot>,
    /// Sessions in use by their clients' numbers and addresses, ascending.
    asked: Vec<Asked>,
    index: Box<[u16]>,
    /// Of the clients, by place; 0 where a place is free.
    instances: Box<[u128]>,
    /// Whose clients have not used them yet.
    unconfirmed: Line,
    /// What connection ids are made from, and how many were made.
    secret: [u8; 32],
    ids_made: u64,
    /// What marks them as made here.
    marks: MacKey,
    /// Places there are.
    places: usize,
    /// Frames that wait for those before them, of all sessions.
    pool: HoldPool,
    /// The place whose timers were looked at last.
    hand: SessionSlot,
}

impl Sessions {
    /// An empty table within these limits; allocates what all sessions will ever need. Ids follow from the epoch and
    /// a secret that nobody else knows.
    #[must_use]
    pub(crate) fn new(epoch: Epoch, secret: &[u8; 32], limits: &Limits) -> Self {
        let places = limits.sessions;
        let key = [secret.as_slice(), &epoch.0.to_le_bytes()].concat();
        let marks = blake3::derive_key("buslane marks of connection ids", secret);
        let (marks, _) = marks.split_first_chunk().expect("32 bytes");
        Self {
            slots: (0..SESSIONS_MAX).map(|_| Session::free()).collect(),
            free: (0..places).rev().map(SessionSlot::new).collect(),
            asked: Vec::with_capacity(SESSIONS_MAX),
            index: vec![UNUSED; INDEX_PLACES].into_boxed_slice(),
            instances: vec![0; SESSIONS_MAX].into_boxed_slice(),
            unconfirmed: Line::new(),
            secret: blake3::derive_key("buslane connection ids", &key),
            marks: MacKey::new(*marks),
            ids_made: 0,
            places,
            pool: HoldPool::new(limits.held_frames),
            hand: SessionSlot::FIRST,
        }
    }

    /// The session that leaves for another one, where one has to: of those that are not used yet the oldest, when
    /// there are as many as may be, or no place is free.
    #[must_use]
    pub(crate) fn leaves_for_another(&self) -> Option<SessionSlot> {
        let must = self.unconfirmed.len >= UNCONFIRMED_MAX || self.free.is_empty();
        self.unconfirmed.first().filter(|_| must)
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
    pub(crate) fn new_id(&mut self) -> ConnId {
        loop {
            self.ids_made = self.ids_made.wrapping_add(1);
            let hash = blake3::keyed_hash(&self.secret, &self.ids_made.to_le_bytes());
            let (random, _) = hash.as_bytes().split_first_chunk().expect("a hash has 32 bytes");
            let conn_id = self.marked(u64::from_le_bytes(*random));
            // 0 names no session.
            if conn_id.0 != 0 && self.index[place(conn_id)] == UNUSED {
                return conn_id;
            }
        }
    }

    /// An id with this random part, and the mark of those that are made here.
    fn marked(&self, random: u64) -> ConnId {
        let random = random & ((1 << RANDOM_BITS) - 1);
        let [a, b, c, ..] = self.marks.tag(&[&random.to_le_bytes()]);
        let mark = u64::from(u32::from_le_bytes([a, b, c, 0]));
        ConnId(random | mark << RANDOM_BITS)
    }

    /// Whether an id is one that was made here, be it before a restart: nobody else can make such.
    #[must_use]
    pub(crate) fn made(&self, conn_id: ConnId) -> bool {
        self.marked(conn_id.0) == conn_id
    }

    /// Takes a free place for a client, which has to use it soon; `None` when there is none.
    ///
    /// # Panics
    /// When the client has a session of this number.
    #[cfg(test)]
    pub(crate) fn open(&mut self, requester: Requester, now_ns: u64) -> Option<SessionSlot> {
        let conn_id = self.new_id();
        self.open_as(conn_id, requester, None, now_ns).ok()
    }

    /// The same with an id that was made before, and keys, which come back when there is no place, or the id's was taken
    /// meanwhile.
    ///
    /// # Errors
    /// The keys.
    ///
    /// # Panics
    /// When the client has a session of this number.
    pub(crate) fn open_as(
        &mut self,
        conn_id: ConnId,
        requester: Requester,
        keys: Option<Box<SessionKeys>>,
        now_ns: u64,
    ) -> Result<SessionSlot, Option<Box<SessionKeys>>> {
        if self.index[place(conn_id)] != UNUSED {
            return Err(keys);
        }
        let Some(slot) = self.free.pop() else { return Err(keys) };
        let at = self.asked_at(requester).expect_err("the caller looked for it");
        let (client_id, addr) = (requester.client_id, requester.peer.addr);
        self.asked.insert(at, Asked { client_id, addr, slot });
        self.index[place(conn_id)] = u16::try_from(slot.index()).expect("below SESSIONS_MAX");
        let session = &mut self.slots[slot.index()];
        session.phase = Phase::Unconfirmed;
        (session.conn_id, session.client_id) = (conn_id, client_id);
        (session.peer, session.instance) = (requester.peer, requester.instance);
        (session.identity, session.keys) = (requester.identity, keys);
        session.publishes_to = StreamSet::new();
        self.instances[slot.index()] = requester.instance;
        session.came.reset();
        session.answered = Answered::default();
        session.proven = false;
        session.producer = None;
        session.receipts.reset(0);
        session.credit = Granted::default();
        (session.opened_ns, session.registered_ns) = (now_ns, 0);
        session.last_received_ns = now_ns;
        session.packet_no = 0;
        session.subscriptions = 0;
        session.fences = None;
        self.unconfirmed.push(slot);
        Ok(slot)
    }

    /// Its client has used it: what was sent to its address is received there.
    pub(crate) fn confirm(&mut self, slot: SessionSlot) {
        self.unconfirmed.remove(slot);
        self.slots[slot.index()].phase = Phase::Confirmed;
    }

    /// Sessions of a client.
    fn of_client(&self, instance: u128, identity: IdentityId) -> impl Iterator<Item = SessionSlot> {
        let all = SessionSlot::all().zip(&self.instances);
        let of_instance = all.filter(move |(_, of)| **of == instance).map(|(slot, _)| slot);
        of_instance.filter(move |slot| self.slots[slot.index()].identity == identity)
    }

    /// Whether somebody may have a place who is not known yet.
    #[must_use]
    pub(crate) fn has_room(&self) -> bool {
        !self.free.is_empty() || self.unconfirmed.len > 0
    }

    /// A session of a client that has to go for another one of it, where no place is free.
    #[must_use]
    pub(crate) fn leaves_for_itself(&self, requester: Requester) -> Option<SessionSlot> {
        let Requester { instance, identity, .. } = requester;
        self.of_client(instance, identity).next().filter(|_| self.free.is_empty())
    }

    /// An earlier session of the same client that does not publish: it has come back with this one.
    #[must_use]
    pub(crate) fn replaced_by(&self, slot: SessionSlot) -> Option<SessionSlot> {
        let session = &self.slots[slot.index()];
        let is_before = |other: &SessionSlot| {
            let of = &self.slots[other.index()];
            *other != slot && of.producer.is_none() && of.opened_ns <= session.opened_ns
        };
        self.of_client(session.instance, session.identity).find(is_before)
    }

    /// The heir of a producer goes on with what the session before it is owed.
    pub(crate) fn inherit(&mut self, from: SessionSlot, heir: SessionSlot) {
        let mut receipts = std::mem::take(&mut self.slots[from.index()].receipts);
        std::mem::swap(&mut receipts, &mut self.slots[heir.index()].receipts);
        self.slots[from.index()].receipts = receipts;
    }

    /// Takes a datagram of a session in; `false` where it came before, and is not to be heard again.
    #[inline]
    pub(crate) fn accepts(&mut self, slot: SessionSlot, packet_no: u64, now_ns: u64) -> bool {
        let session = &mut self.slots[slot.index()];
        let is_new = session.came.accept(packet_no);
        if is_new {
            session.last_received_ns = now_ns;
        }
        is_new
    }

    /// Opens a sealed datagram of a session where it is: its frames, where it is one, and did not come before.
    #[inline]
    pub(crate) fn opens<'a>(
        &mut self,
        slot: SessionSlot,
        packet_no: u64,
        phase: u8,
        bytes: &'a mut [u8],
        now_ns: u64,
    ) -> Result<Body<'a>, Unopened> {
        let session = &mut self.slots[slot.index()];
        if !session.came.is_new(packet_no) {
            return Err(Unopened::Repeated);
        }
        let keys = session.keys.as_mut().ok_or(Unopened::Forged)?;
        if !keys.open(phase, packet_no, bytes, now_ns) {
            return Err(Unopened::Forged);
        }
        Ok(opened(bytes))
    }

    /// Its client says something that only who knows that the session is open says. Whether that is the first time.
    #[inline]
    pub(crate) fn hear(&mut self, slot: SessionSlot) -> bool {
        !std::mem::replace(&mut self.slots[slot.index()].proven, true)
    }

    fn asked_at(&self, requester: Requester) -> Result<usize, usize> {
        let key = (requester.client_id, requester.peer.addr);
        self.asked.binary_search_by_key(&key, |asked| (asked.client_id, asked.addr))
    }

    /// The session that a client numbers so.
    #[must_use]
    pub(crate) fn asked_by(&self, requester: Requester) -> Option<SessionSlot> {
        self.asked_at(requester).ok().map(|at| self.asked[at].slot)
    }

    /// Gives a place back, with the frames it held; its keys are to be dropped where there is time for it.
    ///
    /// # Panics
    /// When the place is free already.
    pub(crate) fn close(&mut self, slot: SessionSlot) -> Option<Box<SessionKeys>> {
        let session = &mut self.slots[slot.index()];
        assert!(session.phase != Phase::Free, "slot {slot} is closed twice");
        session.phase = Phase::Free;
        session.producer = None;
        self.unconfirmed.remove(slot);
        self.index[place(session.conn_id)] = UNUSED;
        session.receiver.reset(0, &mut self.pool);
        let (peer, client_id, instance) = (session.peer, session.client_id, session.instance);
        let (identity, keys) = (session.identity, session.keys.take());
        let requester = Requester { peer, client_id, instance, identity };
        self.instances[slot.index()] = 0;
        let at = self.asked_at(requester).expect("a session in use was asked for");
        self.asked.remove(at);
        self.free.push(slot);
        keys
    }

    /// Whether the lists of free places, of clients' numbers and of held frames agree with the places.
    #[must_use]
    pub(crate) fn is_sound(&self) -> bool {
        let asked = |&Asked { client_id, addr, slot }: &Asked| {
            let session = &self.slots[slot.index()];
            session.phase != Phase::Free
                && (session.client_id, session.peer.addr) == (client_id, addr)
        };
        let unconfirmed =
            self.slots.iter().filter(|session| session.phase == Phase::Unconfirmed).count();
        let held = self.slots.iter().map(|session| session.receiver.held()).sum::<usize>();
        self.free.iter().all(|&slot| self.slots[slot.index()].phase == Phase::Free)
            && held == self.pool.in_use()
            && self.asked.len() == self.len()
            && self.asked.iter().all(asked)
            && self.unconfirmed.len == unconfirmed
            && self
                .unconfirmed
                .slots()
                .all(|slot| self.slots[slot.index()].phase == Phase::Unconfirmed)
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
}

#[inline]
fn place(conn_id: ConnId) -> usize {
    const LAST: u64 = INDEX_PLACES as u64 - 1;
    usize::try_from(conn_id.0 & LAST).expect("a few thousand")
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::access::IdentityId;
    use crate::ids::{Peer, ProducerId};

    const SECRET: [u8; 32] = [7; 32];

    fn requester(number: u64) -> Requester {
        let peer = Peer::ip_only(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9));
        let (client_id, instance) = (ConnId(number), u128::from(number));
        Requester { peer, client_id, instance, identity: IdentityId::NOBODY }
    }

    #[test]
    fn an_id_of_an_earlier_life_finds_nothing() {
        let mut sessions = Sessions::new(Epoch(1), &SECRET, &Limits::MAX);
        let slot = sessions.open(requester(1), 0).unwrap();
        let old = sessions.get(slot).conn_id;
        assert_eq!(sessions.find(old), Some(slot));
        sessions.close(slot);
        assert_eq!(sessions.find(old), None);
        let again = sessions.open(requester(2), 0).unwrap();
        assert_eq!(again, slot, "the place is used again");
        assert_eq!(sessions.find(old), None, "under another id");
        let mut later = Sessions::new(Epoch(2), &SECRET, &Limits::MAX);
        later.open(requester(1), 0).unwrap();
        assert_eq!(later.find(old), None, "an id of the epoch before");
        assert_eq!(later.find(ConnId(0)), None);
    }

    #[test]
    fn an_id_cannot_be_foretold_from_those_before_it() {
        let ids = |secret: u8| {
            let mut sessions = Sessions::new(Epoch(1), &[secret; 32], &Limits::MAX);
            let slots = (0..SESSIONS_MAX as u64).map(|number| {
                let slot = sessions.open(requester(number), 0).unwrap();
                sessions.confirm(slot);
                slot
            });
            let slots: Vec<_> = slots.collect();
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
    fn those_who_do_not_use_their_session_leave_in_the_order_they_came() {
        let mut sessions = Sessions::new(Epoch(1), &SECRET, &Limits::MAX);
        let slots: Vec<_> = (0..UNCONFIRMED_MAX as u64)
            .map(|number| {
                assert_eq!(sessions.leaves_for_another(), None, "there is room for {number}");
                sessions.open(requester(number), 0).unwrap()
            })
            .collect();
        assert_eq!(sessions.leaves_for_another(), Some(slots[0]));
        sessions.confirm(slots[0]);
        assert_eq!(sessions.leaves_for_another(), None);
        sessions.close(slots[1]);
        for number in 100..102 {
            sessions.open(requester(number), 0).unwrap();
        }
        assert_eq!(sessions.leaves_for_another(), Some(slots[2]));
        assert!(sessions.is_sound());
        for &slot in &slots[2..] {
            let _ = sessions.close(slot);
        }
        assert_eq!((sessions.unconfirmed.len, sessions.len()), (2, 3));
        assert!(sessions.is_sound());
    }

    #[test]
    fn a_full_table_takes_no_more_but_for_who_does_not_use_its_session() {
        let mut sessions = Sessions::new(Epoch(1), &SECRET, &Limits::MAX);
        for number in 0..SESSIONS_MAX as u64 {
            let slot = sessions.open(requester(number), 0).unwrap();
            sessions.confirm(slot);
        }
        assert_eq!(sessions.open(requester(9_999), 0), None);
        assert_eq!((sessions.len(), sessions.leaves_for_another()), (SESSIONS_MAX, None));
        // But for one of whose client it has the session before.
        let seventh = Some(SessionSlot::new(7));
        assert_eq!(sessions.leaves_for_itself(requester(7)), seventh);
        assert_eq!(sessions.leaves_for_itself(requester(9_999)), None);
        let first = SessionSlot::FIRST;
        sessions.close(first);
        let late = sessions.open(requester(9_999), 0).unwrap();
        assert_eq!(sessions.leaves_for_another(), Some(late));
    }

    #[test]
    fn a_client_that_comes_back_replaces_its_session_unless_it_publishes() {
        let mut sessions = Sessions::new(Epoch(1), &SECRET, &Limits::MAX);
        let mut of = |client_id, instance| {
            let requester = Requester { client_id: ConnId(client_id), instance, ..requester(1) };
            sessions.open(requester, 0).unwrap()
        };
        let [first, other, again] = [of(1, 7), of(2, 8), of(3, 7)];
        assert_eq!(sessions.replaced_by(again), Some(first));
        assert_eq!(sessions.replaced_by(other), None);
        sessions.get_mut(first).producer = Some(Producer { id: ProducerId(1), epoch: 1 });
        assert_eq!(sessions.replaced_by(again), None, "its producer is taken over by REGISTER");
    }
}
