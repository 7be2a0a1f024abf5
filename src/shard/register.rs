//! Registration: which log a client means, and whom it publishes as.

use crate::access::IdentityId;
use crate::disk::Disk;
use crate::ids::{Lineage, ProducerId, ProducerName, StreamId};
use crate::log::{ControlError, Owner, Parting, ProducerFacts, Registrant, Registration, Tenure};
use crate::metrics::Counter;
use crate::mutant::Mutant;
use crate::position::{BatchSeq, SessionSlot};
use crate::session::table::{Answered, Phase, Producer};
use crate::wire::control::{
    ErrorCode, OF_PRODUCER, PRODUCER_NEW, Register, WITNESS_PROVEN, WITNESS_TRIMMED, Want,
    holder_detail,
};

use super::{Reply, Stations};

/// A publisher that said nothing for so long is taken for gone where another one wants its producer: a client says
/// something every second.
const HELD_NS: u64 = 2_500_000_000;

/// Whether somebody may publish as a producer: it is its own, or of somebody who came in the clear, as everybody could.
fn is_own(known: &ProducerFacts, identity: u64) -> bool {
    known.owner.identity == identity || known.owner.identity == IdentityId::NOBODY.0
}

impl Stations {
    /// The first frame of a session, or the same again.
    pub(super) fn on_register(&mut self, slot: SessionSlot, register: &Register<'_>) {
        let request = register.head.request.get();
        let session = self.sessions.get_mut(slot);
        match session.phase {
            Phase::Open if session.answered.request == request => {
                self.reply(Reply::Registered { slot });
            }
            // It is answered once its record is durable; a session registers once.
            Phase::Open | Phase::Registering { .. } | Phase::Unconfirmed | Phase::Free => {}
            Phase::Confirmed => {
                let datagram_bytes = usize::from(register.head.datagram_bytes.get());
                session.datagram_bytes = session.datagram_bytes.min(datagram_bytes);
                let registered = self.check_history(slot, register).and_then(|flags| {
                    self.sessions.get_mut(slot).answered = Answered { request, flags };
                    self.register(slot, register)
                });
                if let Err((code, detail)) = registered {
                    self.reply(Reply::Error { slot, code, request, detail });
                }
            }
        }
    }

    fn register(
        &mut self,
        slot: SessionSlot,
        register: &Register<'_>,
    ) -> Result<(), (ErrorCode, u64)> {
        match register.want {
            Want::Nothing => {
                self.sessions.get_mut(slot).phase = Phase::Open;
                self.reply(Reply::Registered { slot });
                Ok(())
            }
            _ if self.rights(slot).publish.is_empty() => Err((ErrorCode::NotAuthorized, 0)),
            Want::New => {
                let identity = self.sessions.get(slot).identity.0;
                self.register_new(slot, Owner { identity, ..Owner::NOBODY })
            }
            Want::Known => self.register_known(slot, register),
            Want::Named => self.register_named(slot, register),
        }
    }

    /// Whether the log is the one the client was with, and has what it knows to be stored; flags of REGISTERED.
    /// Of what the client may not see nothing is told.
    fn check_history(
        &self,
        slot: SessionSlot,
        register: &Register<'_>,
    ) -> Result<u16, (ErrorCode, u64)> {
        let head = register.head;
        if head.log_id != [0; 16] && head.log_id != self.log.id() {
            return Err((ErrorCode::WrongLog, u64::from(self.log.tag())));
        }
        let known = self.producer_of(slot, ProducerId(head.producer_id.get()));
        let last_seq = known.filter(|_| register.want == Want::Known).map(|known| known.last_seq);
        if let Some(last_seq) = last_seq.filter(|last_seq| *last_seq < head.durable_to.get()) {
            return Err((ErrorCode::Diverged, last_seq | OF_PRODUCER));
        }
        let (stream, sequence) = (StreamId(head.witness_stream.get()), head.witness_sequence.get());
        let is_seen = self.may(slot, stream, |rights, name| rights.may_see(name));
        if stream.0 == 0 || sequence == 0 || !is_seen {
            return Ok(0);
        }
        let durable_next = self.log.stream(stream).map_or(0, |facts| facts.durable_next);
        if sequence >= durable_next {
            return Err((ErrorCode::Diverged, durable_next));
        }
        match self.log.lineage_of(stream, sequence) {
            None => Ok(WITNESS_TRIMMED),
            Some(Lineage(lineage)) if lineage == head.witness_lineage.get() => Ok(WITNESS_PROVEN),
            Some(_) => Err((ErrorCode::Diverged, durable_next)),
        }
    }

    /// A producer that the client of a session may be. One of somebody else's is not told from one that there is not.
    fn producer_of(&self, slot: SessionSlot, id: ProducerId) -> Option<&ProducerFacts> {
        let (identity, rights) = (self.sessions.get(slot).identity.0, self.rights(slot));
        let may_be = |known: &&ProducerFacts| {
            let name = known.owner.name;
            let is_named = name != ProducerName::NONE;
            is_own(known, identity) && (!is_named || rights.producers.matches(name.as_str()))
        };
        self.log.producer(id).filter(may_be)
    }

    fn instance(&self, slot: SessionSlot) -> u64 {
        // The log keeps half of it: random, too.
        let [a, b, c, d, e, f, g, h, ..] = self.sessions.get(slot).instance.to_le_bytes();
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    /// Registers a new producer: a record in the log; the session is open once that is durable.
    fn register_new(&mut self, slot: SessionSlot, owner: Owner) -> Result<(), (ErrorCode, u64)> {
        if let Some(code) = self.condition().refusal() {
            return Err((code, 0));
        }
        let tenure = Tenure { epoch: 1, instance: self.instance(slot) };
        let registered = self.record(Registrant::New(owner), tenure)?;
        if let Some(forgotten) = registered.forgotten {
            self.publishers.take_recovered(forgotten);
        }
        self.sessions.get_mut(slot).answered.flags |= PRODUCER_NEW;
        let producer = Producer { id: registered.id, epoch: tenure.epoch };
        self.publish_as(slot, producer, registered.last_seq, Some(registered.batch_seq));
        Ok(())
    }

    /// Registers the producer of a name: a new one, or the one that has it. Who publishes as it is not fenced unless that
    /// is asked for.
    fn register_named(
        &mut self,
        slot: SessionSlot,
        register: &Register<'_>,
    ) -> Result<(), (ErrorCode, u64)> {
        let identity = self.sessions.get(slot).identity.0;
        if !self.rights(slot).producers.matches(register.name.as_str()) {
            return Err((ErrorCode::NotAuthorized, 0));
        }
        let Some(known) = self.log.producer_named(&register.name).copied() else {
            return self.register_new(slot, Owner { identity, name: register.name });
        };
        if !is_own(&known, identity) {
            return Err((ErrorCode::NotAuthorized, 0));
        }
        let is_another = known.instance != self.instance(slot);
        if let Some(holder) = known.holder.filter(|_| is_another && !register.takes_over()) {
            let holder = self.sessions.get(holder);
            let silent_ns = self.now.monotonic_ns.saturating_sub(holder.last_received_ns);
            if silent_ns < HELD_NS {
                return Err((ErrorCode::ProducerHeld, holder_detail(holder.peer.addr)));
            }
        }
        self.go_on_as(slot, &known, register.head.producer_epoch.get(), false)
    }

    /// Registers a producer that is known. The instance that registered last goes on without a record; for another one
    /// there is a record, and the session before it is fenced once that is durable.
    fn register_known(
        &mut self,
        slot: SessionSlot,
        register: &Register<'_>,
    ) -> Result<(), (ErrorCode, u64)> {
        let asked = register.head.producer_id.get();
        let known = self.producer_of(slot, ProducerId(asked));
        let known = *known.ok_or((ErrorCode::UnknownProducer, asked))?;
        // A session from before the holder's was asked for by somebody who came before: its REGISTER was late.
        let opened_ns = self.sessions.get(slot).opened_ns;
        let is_late = |holder| opened_ns < self.sessions.get(holder).registered_ns;
        let was_late = known.holder.is_some_and(is_late);
        self.go_on_as(slot, &known, register.head.producer_epoch.get(), was_late)
    }

    fn go_on_as(
        &mut self,
        slot: SessionSlot,
        known: &ProducerFacts,
        held: u32,
        was_late: bool,
    ) -> Result<(), (ErrorCode, u64)> {
        let (id, asked) = (known.id, known.id.0);
        let instance = self.instance(slot);
        let same = known.instance == instance;
        if held > known.epoch || (held == known.epoch && held != 0 && !same) {
            // It never had this one, whose number is another's here: the log is not the one that gave it out, or a
            // copy from before that.
            return Err((ErrorCode::UnknownProducer, asked));
        }
        let comes_back = Mutant::FencedComesBack.is_on();
        if !same && (held != 0 || was_late) && !comes_back {
            // That there is a later one is told once a power cut cannot undo it.
            let told =
                if self.log.is_registered(known) { ErrorCode::Fenced } else { ErrorCode::Busy };
            return Err((told, asked));
        }
        let refusal = self.condition().refusal();
        // A log that is full takes no record, and none is needed.
        let refusal = refusal.filter(|code| !(same && *code == ErrorCode::NoSpace));
        if let Some(code) = refusal {
            return Err((code, 0));
        }
        let (epoch, batch_seq) = if same {
            (known.epoch, self.log.newest_undurable())
        } else {
            let tenure = Tenure { epoch: known.epoch.saturating_add(1), instance };
            let registered = self.record(Registrant::Known(id), tenure)?;
            (tenure.epoch, Some(registered.batch_seq))
        };
        match known.holder {
            Some(before) => self.take_over(before, slot, !same),
            None => self.recall(slot, id, known.last_seq),
        }
        self.publish_as(slot, Producer { id, epoch }, known.last_seq, batch_seq);
        Ok(())
    }

    /// Writes that a producer is registered.
    fn record(
        &mut self,
        registrant: Registrant,
        tenure: Tenure,
    ) -> Result<Registration, (ErrorCode, u64)> {
        let memory = self.disk.memory_mut();
        match self.log.register_producer(memory, registrant, tenure, self.now.unix_ns) {
            Ok(registered) => Ok(registered),
            Err(ControlError::Busy) if Mutant::BusySaysFull.is_on() => Err((ErrorCode::NoSpace, 0)),
            Err(ControlError::Busy) => Err((ErrorCode::Busy, 0)),
            Err(ControlError::TableFull { limit }) => Err((ErrorCode::ProducersFull, limit as u64)),
            Err(ControlError::Full) => {
                self.become_full();
                Err((ErrorCode::NoSpace, 0))
            }
        }
    }

    /// The session before of a producer ends, and the new one has what that is owed. One of another instance is told
    /// that it is fenced.
    fn take_over(&mut self, before: SessionSlot, slot: SessionSlot, fences: bool) {
        self.leave(before, Parting::MayReturn);
        self.sessions.inherit(before, slot);
        let farewell = self.sessions.get_mut(before).farewell(ErrorCode::Fenced);
        let keys = self.sessions.close(before);
        self.drop_keys(keys);
        self.counters.add(Counter::SessionsClosed, 1);
        self.sessions.get_mut(slot).fences = fences.then_some(farewell);
    }

    /// What recovery has found of a producer that comes back.
    fn recall(&mut self, slot: SessionSlot, id: ProducerId, last_seq: u64) {
        let receipts = &mut self.sessions.get_mut(slot).receipts;
        receipts.reset(last_seq);
        if let Some(runs) = self.publishers.take_recovered(id) {
            receipts.reset(runs.first().map_or(last_seq, |run| run.first_seq.saturating_sub(1)));
            for run in runs {
                receipts.append_recovered(run);
            }
        }
    }

    /// A session publishes as a producer from now on; it is open once a batch is durable, if it has to wait for one.
    fn publish_as(
        &mut self,
        slot: SessionSlot,
        producer: Producer,
        last_seq: u64,
        batch_seq: Option<BatchSeq>,
    ) {
        self.sessions.receive_from(slot, last_seq);
        let in_flight = self.sessions.get(slot).receipts.in_flight();
        let session = self.sessions.get_mut(slot);
        session.producer = Some(producer);
        session.registered_ns = self.now.monotonic_ns;
        self.publishers.join(slot, self.log.hold_producer(producer.id, slot));
        if let Some(batch_seq) = batch_seq {
            self.sessions.get_mut(slot).phase = Phase::Registering { batch_seq };
            if in_flight {
                self.publishers.await_batch(slot, batch_seq);
            }
        } else {
            self.open_publisher(slot);
        }
    }

    /// All that a session of a publisher had to wait for is durable.
    pub(super) fn open_publisher(&mut self, slot: SessionSlot) {
        self.publishers.registered(slot);
        let session = self.sessions.get_mut(slot);
        session.phase = Phase::Open;
        session.last_received_ns = self.now.monotonic_ns;
        let fences = session.fences.take();
        self.reply(Reply::Registered { slot });
        if let Some(farewell) = fences {
            self.reply(Reply::Close { farewell });
        }
    }
}
