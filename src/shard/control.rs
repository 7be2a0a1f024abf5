//! Control: sessions opened and closed, streams created and described, subscriptions.

use crate::disk::Disk;
use crate::fanout::{Begin, Cursor, Stop, Subscription};
use crate::ids::{Lineage, ProducerId, StreamId};
use crate::limits::SUBSCRIPTIONS_A_SHARD;
use crate::log::trim::TrimError;
use crate::log::{
    ControlError, Owner, Parting, ProducerFacts, Registrant, Registration, StreamFacts, Tenure,
};
use crate::metrics::Counter;
use crate::mutant::Mutant;
use crate::position::{BatchSeq, SessionSlot};
use crate::session::table::{Answered, Phase, Producer};
use crate::wire::control::{
    CreateStream, DescribeStream, ErrorCode, OF_PRODUCER, PRODUCER_NEW, Register, STATUS_REWIND,
    StartFrom, Status, Subscribe, TrimStream, Unsubscribe, WITNESS_PROVEN, WITNESS_TRIMMED, Want,
    holder_detail,
};

use super::deliver::locate;
use super::requests::RequestOf;
use super::{Condition, Reply, Stations};

/// A publisher that said nothing for so long is taken for gone where another one wants its producer: a client says
/// something every second.
const HELD_NS: u64 = 2_500_000_000;

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
                let registered = self.check_history(register).and_then(|flags| {
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
            Want::New => self.register_new(slot, Owner::NOBODY),
            Want::Known => self.register_known(slot, register),
            Want::Named => self.register_named(slot, register),
        }
    }

    /// Whether the log is the one the client was with, and has what it knows to be stored; flags of REGISTERED.
    fn check_history(&self, register: &Register<'_>) -> Result<u16, (ErrorCode, u64)> {
        let head = register.head;
        if head.log_id != [0; 16] && head.log_id != self.log.id() {
            return Err((ErrorCode::WrongLog, u64::from(self.log.tag())));
        }
        let known = self.log.producer(ProducerId(head.producer_id.get()));
        let last_seq = known.filter(|_| register.want == Want::Known).map(|known| known.last_seq);
        if let Some(last_seq) = last_seq.filter(|last_seq| *last_seq < head.durable_to.get()) {
            return Err((ErrorCode::Diverged, last_seq | OF_PRODUCER));
        }
        let (stream, sequence) = (StreamId(head.witness_stream.get()), head.witness_sequence.get());
        if stream.0 == 0 || sequence == 0 {
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
        let Some(known) = self.log.producer_named(&register.name).copied() else {
            return self.register_new(slot, Owner { identity: 0, name: register.name });
        };
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
        let known = self.log.producer(ProducerId(asked));
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
        let farewell = self.sessions.get_mut(before).farewell();
        self.sessions.close(before);
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
            self.reply(Reply::Close { farewell, code: ErrorCode::Fenced });
        }
    }

    /// Ends a session and all it has; what it published stays.
    pub(super) fn close_session(&mut self, slot: SessionSlot) {
        let session = self.sessions.get(slot);
        // A client that heard of its producer in an earlier session knows it.
        let knows = session.proven || session.answered.flags & PRODUCER_NEW == 0;
        self.end_session(slot, if knows { Parting::MayReturn } else { Parting::Unheard });
    }

    fn end_session(&mut self, slot: SessionSlot, parting: Parting) {
        self.leave(slot, parting);
        self.sessions.close(slot);
        self.counters.add(Counter::SessionsClosed, 1);
    }

    /// A client ends its session; where it says so, its producer, of which nothing is in flight, will not return.
    pub(super) fn on_close(&mut self, slot: SessionSlot, forgets: bool) {
        let session = self.sessions.get(slot);
        if forgets && session.producer.is_some() && !session.receipts.in_flight() {
            self.end_session(slot, Parting::Ended);
        } else {
            self.close_session(slot);
        }
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
    }

    pub(super) fn on_create_stream(&mut self, slot: SessionSlot, asked: &CreateStream<'_>) {
        let (request, wanted) = (asked.head.request.get(), asked.shard());
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
            self.leave(slot, Parting::MayReturn);
            let session = self.sessions.get_mut(slot);
            session.phase = Phase::Confirmed;
            let request = session.answered.request;
            self.reply(Reply::Error { slot, code, request, detail: 0 });
        }
    }

    pub(super) fn on_describe_stream(&mut self, slot: SessionSlot, asked: &DescribeStream<'_>) {
        let request = asked.head.request.get();
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
        let Some(from) = StartFrom::decode(asked.from_kind, asked.from_value.get()) else {
            self.reply(error(ErrorCode::BadRequest, 0));
            return;
        };
        let Some(facts) = self.log.stream(stream) else {
            self.reply(error(ErrorCode::UnknownStream, u64::from(stream.0)));
            return;
        };
        let (first, end, durable_next) = (facts.first_sequence, end_of(facts), facts.durable_next);
        if let Some(index) = self.fanout.find(slot, request) {
            let known = self.fanout.get(index);
            if known.cursor.stream() == stream && !known.cursor.is_seeking() {
                self.reply(Reply::Subscribed { slot, sub: request });
            } else if let Some(Stop::Damaged { first, .. }) = known.cursor.stopped() {
                self.reply(error(ErrorCode::DataLoss, first));
            }
            return;
        }
        if let Some(index) = self.fanout.to_stream(slot, stream) {
            // Numbers of requests grow: one that was overtaken on its way means nothing any more.
            if request.wrapping_sub(self.fanout.get(index).request()) > u32::MAX / 2 {
                return;
            }
            self.end_subscription(slot, index);
        }
        if from.earliest() < first && matches!(from, StartFrom::Sequence(_)) {
            self.reply(Reply::Trimmed { slot, sub: request, log_start: first });
            return;
        }
        if let (StartFrom::Sequence(sequence), lineage @ 1..) = (from, asked.lineage.get()) {
            // What is not kept any more tells nothing; what is not there yet was never durable here.
            let last = sequence.saturating_sub(1);
            let found = self.log.lineage_of(stream, last);
            if last >= durable_next || found.is_some_and(|found| found.0 != lineage) {
                self.reply(error(ErrorCode::Diverged, durable_next));
                return;
            }
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
            self.reply(Reply::Subscribed { slot, sub: request });
        }
    }

    pub(super) fn on_unsubscribe(&mut self, slot: SessionSlot, asked: &Unsubscribe) {
        if let Some(index) = self.fanout.find(slot, asked.sub.get()) {
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

    pub(super) fn on_status(&mut self, slot: SessionSlot, status: &Status) {
        let sub = status.sub.get();
        let Some(index) = self.fanout.find(slot, sub) else {
            // Its consumer, which goes on telling where it is, asks for it again.
            let (code, request) = (ErrorCode::UnknownSubscription, sub);
            self.reply(Reply::Error { slot, code, request, detail: 0 });
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
        let stream = cursor.stream();
        let log_start = self.log.stream(stream).map_or(0, |facts| facts.first_sequence);
        if position >= cursor.start().max(log_start) && position < cursor.next() {
            cursor.rewind(position);
            locate(&self.log, cursor);
            self.fanout.release(index);
            self.counters.add(Counter::Rewinds, 1);
        }
        if position < log_start {
            // If that is where the consumer still is: the word may be late.
            self.reply(Reply::Trimmed { slot, sub, log_start });
        }
    }
}
