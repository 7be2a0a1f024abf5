//! The producers of a shard: who is known, whose place is taken by a session, and who is forgotten for somebody new.

use crate::fired::Timer;
use crate::ids::{ProducerId, ProducerName, StreamId};
use crate::limits::{PRODUCER_RETURN_NS, PRODUCERS_MAX};
use crate::log::ControlError;
use crate::mutant::Mutant;
use crate::position::{BatchSeq, SessionSlot};

/// A producer that was not heard of for so long is forgotten.
const PRODUCER_IDLE_NS: u64 = 7 * 24 * 3600 * 1_000_000_000;

/// After nobody was found who may be forgotten, so long before all producers are looked at again.
const SEARCH_AGAIN_NS: u64 = 1_000_000_000;

/// One producer. Only `Producers` changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerFacts {
    /// Its identity; 0 where the place is free.
    pub id: ProducerId,
    /// Its epoch.
    pub epoch: u32,
    /// The instance that registered last.
    pub instance: u64,
    /// Whose it is, from its first registration on.
    pub owner: Owner,
    /// The last number accepted from it.
    pub last_seq: u64,
    /// Where that message is.
    pub last: Position,
    /// Unix time of its last message or registration.
    pub last_active_ns: u64,
    /// The session that publishes as this producer, as the shard numbers it: its place is given to nobody else
    /// while there is one.
    pub holder: Option<SessionSlot>,
    /// When its last session ended, as the log's turns count; 0 where none has since the log was opened.
    released_ns: u64,
    /// It will not return.
    pub ended: bool,
    /// The batch of its newest registration; none where recovery found it.
    registered_batch: BatchSeq,
}

impl ProducerFacts {
    /// A place that is free.
    pub(super) const NONE: Self = Self {
        id: ProducerId(0),
        epoch: 0,
        instance: 0,
        owner: Owner::NOBODY,
        last_seq: 0,
        last: Position::NONE,
        last_active_ns: 0,
        holder: None,
        released_ns: 0,
        ended: false,
        registered_batch: BatchSeq::NONE,
    };

    /// The batch of its newest registration; none where recovery found it.
    pub(in crate::log) fn registered_batch(&self) -> BatchSeq {
        self.registered_batch
    }

    /// It published a message of this number, which is there.
    fn publish(&mut self, producer_seq: u64, last: Position, unix_ns: u64) {
        (self.last_seq, self.last) = (producer_seq, last);
        self.last_active_ns = unix_ns;
    }

    /// Whether nothing was heard of it for a week.
    fn is_idle(&self, unix_ns: u64) -> bool {
        unix_ns.saturating_sub(self.last_active_ns) > PRODUCER_IDLE_NS
    }

    /// Who is forgotten first; `None` for whoever has something to lose, or is known by a name.
    fn rank(&self, unix_ns: u64) -> Option<u8> {
        let is_named = self.owner.name != ProducerName::NONE;
        if is_named && !self.ended {
            return None;
        }
        match (self.ended, self.is_idle(unix_ns), self.last_seq) {
            (true, _, _) => Some(0),
            (false, true, _) => Some(1),
            (false, false, 0) => Some(2),
            (false, false, _) => None,
        }
    }
}

/// Whose a producer is, and what it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The identity that registered it first; 0 where sessions have none.
    pub identity: u64,
    /// Under this name; none where it is found by its number only.
    pub name: ProducerName,
}

impl Owner {
    /// Of a producer without a name, of sessions without identities.
    pub const NOBODY: Self = Self { identity: 0, name: ProducerName::NONE };
}

/// Where a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Its stream; 0 where there is no message.
    pub stream: StreamId,
    /// Its sequence there.
    pub sequence: u64,
}

impl Position {
    /// Of no message.
    pub const NONE: Self = Self { stream: StreamId(0), sequence: 0 };
}

/// Who registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registrant {
    /// A new producer of this owner.
    New(Owner),
    /// A producer that is known.
    Known(ProducerId),
}

/// Under which epoch and for which instance a producer is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tenure {
    /// Its epoch, from 1 on; whoever holds an earlier one is fenced.
    pub epoch: u32,
    /// The instance that asks: the same one may ask again.
    pub instance: u64,
}

/// The right of a session to publish as a producer. It is made when the session takes the producer's place in the
/// table, and gone when the session gives it back; between the two nobody else can have that place. There is one,
/// since it cannot be copied.
#[derive(Debug)]
pub struct ProducerHandle {
    id: ProducerId,
    slot: usize,
    holder: SessionSlot,
}

impl ProducerHandle {
    /// Whose it is.
    #[must_use]
    pub fn id(&self) -> ProducerId {
        self.id
    }
}

#[cfg(test)]
impl ProducerHandle {
    /// One of no log.
    pub(crate) fn pretend(id: ProducerId, holder: SessionSlot) -> Self {
        Self { id, slot: 0, holder }
    }
}

/// How a producer's session has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// Its client said that the producer will not return.
    Ended,
    /// Its client never showed that it has heard of the session: it does not know a producer that began with it.
    Unheard,
    /// It may return.
    MayReturn,
}

/// All producers.
#[derive(Clone, Debug)]
pub(in crate::log) struct Producers {
    places: Vec<ProducerFacts>,
    /// Places of producers that are known, by id.
    known: Vec<u16>,
    /// Places of producers that were forgotten.
    free: Vec<u16>,
    next_id: u64,
    /// The time of this turn, and that of the first since the log was opened; 0 before that.
    now_ns: u64,
    opened_ns: u64,
    /// When all were looked at and none could be forgotten, and what was said to who was new; `None` once one has
    /// ended since.
    all_may_return: Option<(u64, ControlError)>,
    /// All were looked at in this turn.
    searched: bool,
}

impl Producers {
    /// None yet; allocates what will ever be needed.
    pub(super) fn new() -> Self {
        Self {
            places: Vec::with_capacity(PRODUCERS_MAX),
            known: Vec::with_capacity(PRODUCERS_MAX),
            free: Vec::with_capacity(PRODUCERS_MAX),
            next_id: 1,
            now_ns: 0,
            opened_ns: 0,
            all_may_return: None,
            searched: false,
        }
    }

    /// A turn of the shard begins.
    pub(super) fn turn(&mut self, now_ns: u64) {
        (self.now_ns, self.searched) = (now_ns, false);
        if self.opened_ns == 0 {
            self.opened_ns = now_ns;
        }
    }

    /// Those that are known.
    pub(in crate::log) fn iter(&self) -> impl Iterator<Item = &ProducerFacts> {
        self.places.iter().filter(|producer| producer.id.0 != 0)
    }

    /// By place; where one was forgotten, the id is 0.
    pub(in crate::log) fn places(&self) -> &[ProducerFacts] {
        &self.places
    }

    /// A producer that is known.
    pub(in crate::log) fn get(&self, id: ProducerId) -> Option<&ProducerFacts> {
        self.slot(id).map(|slot| &self.places[slot])
    }

    /// The id for a new producer.
    pub(in crate::log) fn next_id(&self) -> ProducerId {
        ProducerId(self.next_id)
    }

    /// Whether a new producer has to take the place of another.
    pub(in crate::log) fn is_full(&self, limit: usize) -> bool {
        self.known.len() >= limit
    }

    fn slot(&self, id: ProducerId) -> Option<usize> {
        self.known_at(id).ok().map(|at| usize::from(self.known[at]))
    }

    fn known_at(&self, id: ProducerId) -> Result<usize, usize> {
        self.known.binary_search_by_key(&id, |place| self.places[usize::from(*place)].id)
    }

    /// The producer of a handle.
    ///
    /// # Panics
    /// When somebody else has its place.
    #[inline]
    fn of(&mut self, handle: &ProducerHandle) -> &mut ProducerFacts {
        let producer = &mut self.places[handle.slot];
        assert_eq!(producer.id, handle.id, "place {} of the producers is its owner's", handle.slot);
        producer
    }

    /// Checks that a handle is that of the producer who signed.
    ///
    /// # Panics
    /// When it is not: one producer's number in another's place loses or doubles messages.
    #[inline]
    pub(in crate::log) fn check(&self, handle: &ProducerHandle, signer: ProducerId) {
        assert_eq!(handle.id, signer, "what is published in a producer's place is its owner's");
        let owner = self.places[handle.slot].id;
        assert_eq!(owner, signer, "place {} of the producers is its owner's", handle.slot);
    }

    /// A message of this number was accepted.
    #[inline]
    pub(super) fn append(
        &mut self,
        handle: &ProducerHandle,
        producer_seq: u64,
        last: Position,
        unix_ns: u64,
    ) {
        self.of(handle).publish(producer_seq, last, unix_ns);
    }

    /// The same as recovery finds it; one that was forgotten since is passed over.
    pub(super) fn append_recovered(
        &mut self,
        id: ProducerId,
        producer_seq: u64,
        last: Position,
        unix_ns: u64,
    ) {
        if let Some(slot) = self.slot(id) {
            self.places[slot].publish(producer_seq, last, unix_ns);
        }
    }

    /// Registers a producer, new or known, and returns the last number accepted from it.
    ///
    /// # Panics
    /// When it is new and there is no place: the caller forgets somebody first.
    pub(super) fn register(
        &mut self,
        id: ProducerId,
        owner: Owner,
        Tenure { epoch, instance }: Tenure,
        unix_ns: u64,
        batch_seq: BatchSeq,
    ) -> u64 {
        let slot = match self.known_at(id) {
            Ok(at) => usize::from(self.known[at]),
            Err(at) => self.add(id, at),
        };
        let producer = &mut self.places[slot];
        producer.epoch = epoch;
        producer.instance = instance;
        producer.owner = owner;
        producer.last_active_ns = unix_ns;
        producer.ended = false;
        producer.registered_batch = batch_seq;
        self.next_id = self.next_id.max(id.0 + 1);
        producer.last_seq
    }

    fn add(&mut self, id: ProducerId, at: usize) -> usize {
        let place = self.free.pop().unwrap_or_else(|| {
            assert!(self.places.len() < PRODUCERS_MAX, "the caller saw a place");
            self.places.push(ProducerFacts::NONE);
            u16::try_from(self.places.len() - 1).expect("few producers")
        });
        let slot = usize::from(place);
        self.places[slot] = ProducerFacts { id, ..ProducerFacts::NONE };
        self.known.insert(at, place);
        slot
    }

    /// Adds a place as a checkpoint says it, free where the id is 0. `None` when it cannot be: there is no room, or
    /// the producer has a place already.
    pub(super) fn push(&mut self, facts: ProducerFacts) -> Option<()> {
        if self.places.len() == PRODUCERS_MAX {
            return None;
        }
        let place = u16::try_from(self.places.len()).expect("few producers");
        match self.known_at(facts.id) {
            _ if facts.id.0 == 0 => self.free.push(place),
            Ok(_) => return None,
            Err(at) => self.known.insert(at, place),
        }
        self.places.push(facts);
        Some(())
    }

    /// The id for a new producer is this one, as a checkpoint says.
    pub(super) fn go_on_from(&mut self, next_id: u64) {
        self.next_id = next_id;
    }

    /// Whom to forget for somebody new, where `limit` are known. All are looked at once a turn at most, and not where
    /// there was nobody a moment ago: a turn may bring hundreds of registrations.
    pub(super) fn search(
        &mut self,
        limit: usize,
        unix_ns: u64,
    ) -> Result<ProducerId, ControlError> {
        let (now_ns, opened_ns) = (self.now_ns, self.opened_ns);
        match self.all_may_return {
            Some((since_ns, error)) if now_ns.saturating_sub(since_ns) < SEARCH_AGAIN_NS => {
                Timer::ForgetHeldBack.fired();
                return Err(error);
            }
            _ if self.searched => return Err(ControlError::Busy),
            Some(_) => Timer::ForgetAgain.fired(),
            None => {}
        }
        (self.all_may_return, self.searched) = (None, true);
        // Who had no time yet to come back is waited for, whatever the clock says of its last message.
        let returns = |producer: &ProducerFacts| {
            let since_ns = opened_ns.max(producer.released_ns);
            !producer.ended && now_ns.saturating_sub(since_ns) < PRODUCER_RETURN_NS
        };
        if let Some(found) = self.forgettable(unix_ns, returns) {
            if self.get(found).is_some_and(|it| !it.ended && it.is_idle(unix_ns)) {
                Timer::ForgetIdle.fired();
            }
            return Ok(found);
        }
        let is_a_matter_of_time = self.forgettable(unix_ns, |_| false).is_some();
        let full = ControlError::TableFull { limit };
        let error = if is_a_matter_of_time { ControlError::Busy } else { full };
        self.all_may_return = Some((now_ns, error));
        Err(error)
    }

    /// Whom to forget so that somebody new has a place: nobody who has a session, or `returns` still; first who will
    /// not return, then who was idle for a week, then who never published and has nothing to lose; of these
    /// the one idle for longest. `None` when everybody may still come back.
    pub(super) fn forgettable(
        &self,
        unix_ns: u64,
        returns: impl Fn(&ProducerFacts) -> bool,
    ) -> Option<ProducerId> {
        let may_go = |producer: &&ProducerFacts| match producer.holder {
            Some(_) => Mutant::EvictOpenProducer.is_on(),
            None => !returns(producer),
        };
        let order = |producer: &ProducerFacts| {
            Some((producer.rank(unix_ns)?, producer.last_active_ns, producer.id))
        };
        self.iter().filter(may_go).filter_map(order).min().map(|(_, _, id)| id)
    }

    /// Forgets a producer: its place is free.
    ///
    /// # Panics
    /// When it has a session.
    pub(super) fn forget(&mut self, id: ProducerId) {
        let Ok(at) = self.known_at(id) else { return };
        let place = self.known.remove(at);
        let producer = &mut self.places[usize::from(place)];
        if Mutant::EvictOpenProducer.is_on() {
            producer.holder = None;
        }
        assert!(producer.holder.is_none(), "producer {id} has a session and keeps its place");
        *producer = ProducerFacts::NONE;
        self.free.push(place);
    }

    /// Gives a producer's place to a session.
    ///
    /// # Panics
    /// When it is not known, or another session has it.
    pub(super) fn hold(&mut self, id: ProducerId, holder: SessionSlot) -> ProducerHandle {
        let slot = self.slot(id).expect("the caller has registered it");
        let producer = &mut self.places[slot];
        assert!(producer.holder.is_none(), "a producer has one session");
        if !Mutant::PlaceWithoutOwner.is_on() {
            producer.holder = Some(holder);
        }
        producer.ended = false;
        ProducerHandle { id, slot, holder }
    }

    /// The session of a producer has ended. One that may return was active until now, also where it published nothing
    /// for long.
    pub(super) fn release(&mut self, handle: ProducerHandle, parting: Parting, unix_ns: u64) {
        let now_ns = self.now_ns;
        let producer = self.of(&handle);
        assert_eq!(producer.holder, Some(handle.holder), "a session gives back what it holds");
        producer.holder = None;
        producer.ended = match parting {
            Parting::Ended => true,
            Parting::Unheard => producer.epoch == 1 && producer.last_seq == 0,
            Parting::MayReturn => false,
        };
        producer.released_ns = now_ns;
        producer.last_active_ns = producer.last_active_ns.max(unix_ns);
        if parting != Parting::MayReturn {
            self.all_may_return = None;
        }
    }

    /// After recovery all that was found is durable.
    pub(super) fn recovered(&mut self) {
        for producer in &mut self.places {
            producer.registered_batch = BatchSeq::NONE;
        }
    }
}

#[cfg(test)]
impl Producers {
    /// As if a producer had published a message.
    pub(super) fn pretend_published(&mut self, id: ProducerId) {
        let slot = self.slot(id).expect("it is known");
        self.places[slot].last_seq = 1;
    }
}
