//! Control: sessions opened and closed, streams created and described, subscriptions.

use crate::disk::Disk;
use crate::fanout::{Begin, Cursor, Stop, Subscription};
use crate::ids::{ConnId, Peer, ProducerId, StreamId};
use crate::limits::{DATAGRAM_BYTES_MAX, DATAGRAM_BYTES_MIN, SUBSCRIPTIONS_A_SHARD};
use crate::log::trim::TrimError;
use crate::log::{ControlError, Owner, Parting, Registrant, Registration, StreamFacts, Tenure};
use crate::metrics::Counter;
use crate::mutant::Mutant;
use crate::position::SessionSlot;
use crate::session::table::{Phase, Producer, Requester};
use crate::wire::control::{
    ErrorCode, NameRequest, REGISTER_PUBLISHER, Register, Retire, STATUS_REWIND, StartFrom, Status,
    Subscribe, TrimStream, Unsubscribe,
};

use super::deliver::locate;
use super::requests::RequestOf;
use super::{Condition, Reply, Stations};

impl StartFrom {
    fn earliest(self) -> u64 {
        match self {
            Self::Sequence(sequence) => sequence.max(1),
            Self::Start | Self::End | Self::Time(_) => 1,
        }
    }
}

/// Where a subscription from the end begins.
fn end_of(stream: &StreamFacts) -> u64 {
    let skips = Mutant::EndSkipsAcknowledged.is_on();
    if skips { stream.next_sequence } else { stream.durable_next }
}

impl Stations {
    pub(super) fn on_register(&mut self, peer: Peer, register: &Register) {
        let requester = Requester { peer, nonce: register.nonce.get() };
        let known = self.sessions.asked_by(requester);
        let known = known.map(|slot| (slot, self.sessions.get(slot).phase));
        match known {
            Some((slot, Phase::Open)) => self.reply(Reply::Registered { slot }),
            Some((_, Phase::Registering { .. } | Phase::Free)) => {}
            None if register.flags.get() & REGISTER_PUBLISHER != 0 => {
                if let Err((code, detail)) = self.open_publisher(requester, register) {
                    let conn_id = ConnId(0);
                    self.reply(Reply::Refuse { peer, conn_id, code, detail });
                }
            }
            None if self.sessions.has_place() => {
                self.make_place();
                let slot =
                    self.sessions.open(requester, self.now.monotonic_ns).expect("there is a place");
                self.begin_session(slot, register);
                self.sessions.await_proof(slot);
                self.reply(Reply::Registered { slot });
            }
            None => {
                let (conn_id, code) = (ConnId(0), ErrorCode::SessionsFull);
                self.reply(Reply::Refuse {
                    peer,
                    conn_id,
                    code,
                    detail: self.settings.limits.sessions as u64,
                });
            }
        }
    }

    /// Makes a place for another session where there is none: whoever has not named its connection id may never have
    /// received it.
    ///
    /// # Panics
    /// When none can be made.
    fn make_place(&mut self) {
        if self.sessions.is_full() {
            let oldest = self.sessions.evict().expect("the caller saw that a place can be made");
            self.close_session(oldest);
        }
    }

    fn begin_session(&mut self, slot: SessionSlot, register: &Register) {
        let datagram_bytes = usize::from(register.datagram_bytes.get());
        let session = self.sessions.get_mut(slot);
        session.client.instance = register.instance.get();
        session.datagram_bytes = datagram_bytes
            .clamp(DATAGRAM_BYTES_MIN, DATAGRAM_BYTES_MAX)
            .min(self.settings.datagram_bytes);
        self.counters.add(Counter::SessionsOpened, 1);
    }

    /// Opens a session that publishes. Its registration is a record in the log; the session is open once
    /// that is durable, and with it everything the producer has had accepted before.
    fn open_publisher(
        &mut self,
        requester: Requester,
        register: &Register,
    ) -> Result<(), (ErrorCode, u64)> {
        if let Some(code) = self.condition().refusal() {
            return Err((code, 0));
        }
        let (asked, held) = (register.producer_id.get(), register.producer_epoch.get());
        let (id, epoch, old) = if asked == 0 {
            (Registrant::New(Owner::NOBODY), 1, None)
        } else {
            let id = ProducerId(asked);
            let known = self.log.producer(id).ok_or((ErrorCode::UnknownProducer, asked))?;
            // The same instance may have missed the answer to its last registration.
            let same = known.instance == register.instance.get();
            let tenure = Tenure { epoch: known.epoch, instance: known.instance };
            let is_proven = known.holder.is_some_and(|slot| self.sessions.get(slot).proven);
            if same && held < known.epoch && is_proven {
                // It has missed none: this REGISTER is an old one that was late on its way.
                self.counters.add(Counter::DroppedUnknownSession, 1);
                return Ok(());
            }
            if held >= known.epoch && held != 0 && !same {
                // It never had this one, whose number is another's here: the log is not the one that gave it out, or a
                // copy from before that.
                return Err((ErrorCode::UnknownProducer, asked));
            }
            let goes_on = tenure.goes_on_from(held) || Mutant::InstanceIsEnough.is_on();
            let overtaken = held < known.epoch && !(same && goes_on);
            if held != 0 && overtaken {
                // That there is a later one is told once a power cut cannot undo it.
                let told =
                    if self.log.is_registered(known) { ErrorCode::Fenced } else { ErrorCode::Busy };
                return Err((told, asked));
            }
            (Registrant::Known(id), tenure.next(register.instance.get()).epoch, known.holder)
        };
        if old.is_none() && !self.sessions.has_place() {
            return Err((ErrorCode::SessionsFull, self.settings.limits.sessions as u64));
        }
        let memory = self.disk.memory_mut();
        let tenure = Tenure { epoch, instance: register.instance.get() };
        let registered = match self.log.register_producer(memory, id, tenure, self.now.unix_ns) {
            Ok(registered) => registered,
            Err(ControlError::Busy) if Mutant::BusySaysFull.is_on() => {
                return Err((ErrorCode::NoSpace, 0));
            }
            Err(ControlError::Busy) => return Err((ErrorCode::Busy, 0)),
            Err(ControlError::TableFull { limit }) => {
                return Err((ErrorCode::ProducersFull, limit as u64));
            }
            Err(ControlError::Full) => {
                self.become_full();
                return Err((ErrorCode::NoSpace, 0));
            }
        };
        if let Some(forgotten) = registered.forgotten {
            self.publishers.take_recovered(forgotten);
        }
        // Nobody leaves for somebody whom the log did not take.
        if old.is_none() {
            self.make_place();
        }
        let slot = self.seat(requester, register, old, &registered);
        self.begin_session(slot, register);
        self.sessions.receive_from(slot, registered.last_seq);
        let session = self.sessions.get_mut(slot);
        session.producer = Some(Producer { id: registered.id, epoch });
        session.phase = Phase::Registering { batch_seq: registered.batch_seq };
        self.publishers.join(slot, self.log.hold_producer(registered.id, slot));
        Ok(())
    }

    /// A place for a session that publishes: that of the producer's session before, which is fenced, with what it
    /// is owed; or a free one, with what recovery has found.
    fn seat(
        &mut self,
        requester: Requester,
        register: &Register,
        old: Option<SessionSlot>,
        registered: &Registration,
    ) -> SessionSlot {
        if let Some(old) = old {
            // The same instance has left that session itself, or this is an old REGISTER of it that was late: then
            // the session it has now is unknown, and it comes back. To be told that it is fenced would end it.
            let fence = self.sessions.get(old).client.instance != register.instance.get();
            self.leave(old, Parting::MayReturn);
            self.sessions.succeed(old, requester, fence, self.now.monotonic_ns);
            return old;
        }
        let opened = self.sessions.open(requester, self.now.monotonic_ns);
        let slot = opened.expect("the caller saw a free place");
        let receipts = &mut self.sessions.get_mut(slot).receipts;
        receipts.reset(registered.last_seq);
        if let Some(runs) = self.publishers.take_recovered(registered.id) {
            receipts.reset(
                runs.first().map_or(registered.last_seq, |run| run.first_seq.saturating_sub(1)),
            );
            for run in runs {
                receipts.append_recovered(run);
            }
        }
        slot
    }

    /// Ends a session and all it has; what it published stays.
    pub(super) fn close_session(&mut self, slot: SessionSlot) {
        let heard = self.sessions.get(slot).proven;
        self.leave(slot, if heard { Parting::MayReturn } else { Parting::Unheard });
        self.sessions.close(slot);
    }

    /// Ends a session whose client says that its producer will not return.
    pub(super) fn on_retire(&mut self, slot: SessionSlot, retire: &Retire) {
        let session = self.sessions.get(slot);
        let (peer, conn_id) = (session.peer, session.conn_id);
        let durable_to = session.receipts.durable_to();
        let ended = session.producer.is_some_and(|producer| {
            let is_it = producer.id.0 == retire.producer_id.get();
            is_it && !session.receipts.in_flight() && retire.durable_to.get() == durable_to
        });
        self.leave(slot, if ended { Parting::Ended } else { Parting::MayReturn });
        self.sessions.close(slot);
        self.reply(Reply::Close { peer, conn_id });
    }

    /// Takes a session out of all lists it is in, its place in the table of sessions apart.
    fn leave(&mut self, slot: SessionSlot, parting: Parting) {
        let mut index = 0_usize;
        while self.sessions.get(slot).subscriptions > 0 && index < self.fanout.len() {
            if self.fanout.get(index).session() == slot {
                self.end_subscription(slot, index);
            } else {
                index = index.saturating_add(1);
            }
        }
        if let Some(producer) = self.sessions.get_mut(slot).producer.take() {
            let handle = self.publishers.leave(slot);
            // A log that takes nothing more cannot say that it will not.
            let over = self.condition().is_over();
            let parting = if over { Parting::MayReturn } else { parting };
            self.log.release_producer(self.disk.memory_mut(), handle, parting, self.now.unix_ns);
            if parting == Parting::Ended {
                self.publishers.take_recovered(producer.id);
            }
        }
        self.requests.forget(slot);
        self.outbox.forget(slot);
        self.counters.add(Counter::SessionsClosed, 1);
    }

    pub(super) fn on_create_stream(
        &mut self,
        slot: SessionSlot,
        asked: &NameRequest<'_>,
        wanted: Option<u32>,
    ) {
        let request = asked.request;
        let of = RequestOf { slot, request };
        if self.requests.waits(of) {
            return;
        }
        if let Some(stream) = self.log.stream_by_name(asked.name).map(|stream| stream.id) {
            self.reply(Reply::StreamInfo { slot, request, stream });
            return;
        }
        let being_made = self.log.stream_being_made(asked.name);
        if let Some((stream, batch_seq)) = being_made.filter(|_| !self.condition().is_over()) {
            if self.cannot_wait() {
                return;
            }
            // It is answered for once its record is durable, whoever asked first; or asked for again.
            self.requests.wait(of, stream, batch_seq);
            return;
        }
        // One that was being made when the disk failed may be there at the next start: it is made nowhere else.
        if being_made.is_none() && self.redirect_creation(of, asked.name, wanted) {
            return;
        }
        let refused = self.condition().refusal();
        if refused.is_none() && self.cannot_wait() {
            return;
        }
        let (outbox, counters) = (&mut self.outbox, &mut self.counters);
        let mut error =
            |code, detail| outbox.note(Reply::Error { slot, code, request, detail }, counters);
        if let Some(code) = refused {
            error(code, 0);
            return;
        }
        match self.log.create_stream(self.disk.memory_mut(), asked.name, self.now.unix_ns) {
            Ok((stream, batch_seq)) => {
                self.requests.wait(of, stream, batch_seq);
            }
            Err(ControlError::Busy) => {}
            Err(ControlError::Full) => {
                error(ErrorCode::NoSpace, 0);
                self.become_full();
            }
            Err(ControlError::TableFull { limit }) => {
                error(ErrorCode::StreamsFull, limit as u64);
            }
        }
    }

    /// Whether no more requests can wait for their records: who asks now is not answered, which is counted, and asks
    /// again.
    fn cannot_wait(&mut self) -> bool {
        let is_full = self.requests.is_full();
        self.counters.add(Counter::RepliesDropped, u64::from(is_full));
        is_full
    }

    pub(super) fn on_trim_stream(&mut self, slot: SessionSlot, asked: &TrimStream) {
        let (request, stream) = (asked.request.get(), StreamId(asked.stream.get()));
        let of = RequestOf { slot, request };
        if self.requests.waits(of) {
            return;
        }
        if self.log.is_trimmed(stream, asked.first.get()) {
            // Also by a log that takes nothing more: a write that was in flight when the disk failed may have completed.
            self.reply(Reply::StreamInfo { slot, request, stream });
            return;
        }
        if self.cannot_wait() {
            return;
        }
        // Trimming is what a full log is for.
        let refused = self.condition().refusal().filter(|_| self.condition() != Condition::Full);
        let refused = refused.map(|code| (code, 0));
        let refused = refused.or_else(|| self.trim(of, stream, asked.first.get()));
        if let Some((code, detail)) = refused {
            self.reply(Reply::Error { slot, code, request, detail });
        }
    }

    /// Trims, and answers once that is durable; returns why it does not.
    fn trim(&mut self, of: RequestOf, stream: StreamId, first: u64) -> Option<(ErrorCode, u64)> {
        match self.log.trim_stream(self.disk.memory_mut(), stream, first, self.now.unix_ns) {
            Ok(Some(batch_seq)) => {
                self.counters.add(Counter::Trims, 1);
                self.requests.wait(of, stream, batch_seq);
                None
            }
            Ok(None) => {
                let RequestOf { slot, request } = of;
                self.reply(Reply::StreamInfo { slot, request, stream });
                None
            }
            Err(TrimError::NoStream) => Some((ErrorCode::UnknownStream, stream.0.into())),
            Err(TrimError::NotThere { durable_next }) => {
                Some((ErrorCode::BadRequest, durable_next))
            }
            // It asks again.
            Err(TrimError::NotAppended(ControlError::Busy)) => None,
            Err(TrimError::NotAppended(ControlError::Full | ControlError::TableFull { .. })) => {
                Some((ErrorCode::NoSpace, 0))
            }
        }
    }

    /// No record becomes durable any more: whoever waits for one is told why. What finds no room in the outbox waits for
    /// the next turn.
    pub(super) fn refuse_waiting(&mut self) {
        let Some(code) = self.condition().refusal() else { return };
        let outbox = &mut self.outbox;
        self.requests.give_up(|RequestOf { slot, request }| {
            outbox.push(Reply::Error { slot, code, request, detail: 0 })
        });
        while let Some(slot) = self.publishers.registering() {
            let (peer, conn_id) = (self.sessions.get(slot).peer, ConnId(0));
            if !self.outbox.push(Reply::Refuse { peer, conn_id, code, detail: 0 }) {
                return;
            }
            self.close_session(slot);
        }
    }

    pub(super) fn on_describe_stream(&mut self, slot: SessionSlot, asked: &NameRequest<'_>) {
        let request = asked.request;
        let stream = self.log.stream_by_name(asked.name).map(|stream| stream.id);
        let reply = match stream {
            Some(stream) => Reply::StreamInfo { slot, request, stream },
            None => match self.found_elsewhere(asked.name) {
                Some(shard) => Reply::Redirect { slot, request, shard },
                None => Reply::Error { slot, code: ErrorCode::UnknownStream, request, detail: 0 },
            },
        };
        self.reply(reply);
    }

    pub(super) fn on_subscribe(&mut self, slot: SessionSlot, asked: &Subscribe) {
        let (request, stream) = (asked.request.get(), StreamId(asked.stream.get()));
        let error = |code, detail| Reply::Error { slot, code, request, detail };
        let Some(from) = StartFrom::decode(asked.from_kind.get(), asked.from_value.get()) else {
            self.reply(error(ErrorCode::BadRequest, 0));
            return;
        };
        let Some(facts) = self.log.stream(stream) else {
            self.reply(error(ErrorCode::UnknownStream, u64::from(stream.0)));
            return;
        };
        let (first, end) = (facts.first_sequence, end_of(facts));
        if let Some(index) = self.fanout.find(slot, stream) {
            let known = self.fanout.get(index);
            if known.request() == request {
                if !known.cursor.is_seeking() {
                    self.reply(Reply::Subscribed { slot, stream });
                } else if let Some(Stop::Damaged { first, .. }) = known.cursor.stopped() {
                    self.reply(error(ErrorCode::DataLoss, first));
                }
                return;
            }
            // Numbers of requests grow: one that was overtaken on its way means nothing any more.
            if request.wrapping_sub(known.request()) > u32::MAX / 2 {
                return;
            }
            self.end_subscription(slot, index);
        }
        if from.earliest() < first && matches!(from, StartFrom::Sequence(_)) {
            self.reply(Reply::Trimmed { slot, stream, request, log_start: first });
            return;
        }
        let limit = self.settings.limits.subscriptions;
        if self.sessions.get(slot).subscriptions >= limit {
            self.reply(error(ErrorCode::SubscriptionsFull, limit as u64));
            return;
        }
        let begin = match from {
            StartFrom::Start => Begin::Sequence(first),
            StartFrom::End => Begin::Sequence(end),
            StartFrom::Sequence(sequence) => Begin::Sequence(sequence.max(1)),
            StartFrom::Time(unix_ns) => Begin::Time(unix_ns),
        };
        let mut cursor = Cursor::new(stream, begin, u64::from(asked.window.get()));
        locate(&self.log, &mut cursor);
        let subscription = Subscription::new(slot, request, cursor, self.now.monotonic_ns);
        if !self.fanout.add(subscription) {
            let limit = SUBSCRIPTIONS_A_SHARD as u64;
            self.reply(error(ErrorCode::SubscriptionsFull, limit));
            return;
        }
        let session = self.sessions.get_mut(slot);
        session.subscriptions = session.subscriptions.saturating_add(1);
        if !cursor.is_seeking() {
            self.reply(Reply::Subscribed { slot, stream });
        }
    }

    pub(super) fn on_unsubscribe(&mut self, slot: SessionSlot, asked: &Unsubscribe) {
        if let Some(index) = self.fanout.find(slot, StreamId(asked.stream.get())) {
            self.end_subscription(slot, index);
        }
    }

    /// Ends subscription `index`, which is of this session.
    fn end_subscription(&mut self, slot: SessionSlot, index: usize) {
        self.fanout.remove(index);
        let session = self.sessions.get_mut(slot);
        session.subscriptions =
            session.subscriptions.checked_sub(1).expect("a session counts its subscriptions");
    }

    /// An UNSUBSCRIBE that came late may have ended a subscription made after it: the consumer, which goes on
    /// telling where it is, asks for it again.
    fn tell_unknown_subscription(&mut self, slot: SessionSlot, stream: StreamId) {
        let (code, detail) = (ErrorCode::UnknownSubscription, u64::from(stream.0));
        self.reply(Reply::Error { slot, code, request: 0, detail });
    }

    pub(super) fn on_status(&mut self, slot: SessionSlot, status: &Status) {
        let stream = StreamId(status.stream.get());
        let Some(index) = self.fanout.find(slot, stream) else {
            self.tell_unknown_subscription(slot, stream);
            return;
        };
        let (position, limit) = (status.position.get(), status.limit.get());
        let cursor = &mut self.fanout.get_mut(index).cursor;
        if cursor.is_seeking() || position > cursor.next() {
            return;
        }
        if cursor.stopped().is_some() && position == cursor.next() {
            // It has all that came before, and may have missed why nothing more comes.
            self.tell_stopped(index);
            return;
        }
        cursor.hear(position, limit);
        if status.flags.get() & STATUS_REWIND == 0 {
            return;
        }
        let log_start = self.log.stream(stream).map_or(0, |facts| facts.first_sequence);
        if position >= cursor.start().max(log_start) && position < cursor.next() {
            cursor.rewind(position);
            locate(&self.log, cursor);
            self.fanout.release(index);
            self.counters.add(Counter::Rewinds, 1);
        }
        if position < log_start {
            // If that is where the consumer still is: the word may be late.
            self.reply(Reply::Trimmed { slot, stream, request: 0, log_start });
        }
    }
}
