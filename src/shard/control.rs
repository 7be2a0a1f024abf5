//! Control: sessions opened and closed, streams created and described, subscriptions.

use crate::disk::Disk;
use crate::fanout::{Replay, Stop, Subscription};
use crate::ids::{ConnId, Peer, ProducerId, StreamId};
use crate::limits::{DATAGRAM_BYTES_MAX, DATAGRAM_BYTES_MIN, SESSIONS_MAX, SUBSCRIPTIONS_MAX};
use crate::log::ControlError;
use crate::log::trim::TrimError;
use crate::metrics::Counter;
use crate::session::table::{Phase, Producer, Session};
use crate::wire::control::{
    ErrorCode, From, NameRequest, REGISTER_PUBLISHER, Register, STATUS_REWIND, Status, Subscribe,
    TrimStream, Unsubscribe,
};

use super::{Condition, PENDING_MAX, Pending, Reply, Stations};

impl From {
    fn earliest(self) -> u64 {
        match self {
            Self::Sequence(sequence) => sequence.max(1),
            Self::Start | Self::End | Self::Time(_) => 1,
        }
    }
}

impl<D: Disk> Stations<D> {
    pub(super) fn on_register(&mut self, peer: Peer, register: &Register) {
        let nonce = register.nonce.get();
        let known = self
            .sessions
            .in_use()
            .find(|(_, session)| session.nonce == nonce && session.peer.addr == peer.addr)
            .map(|(slot, session)| (slot, session.phase));
        match known {
            Some((slot, Phase::Open)) => self.reply(Reply::Registered { slot }),
            Some((_, Phase::Registering { .. } | Phase::Free)) => {}
            None if register.flags.get() & REGISTER_PUBLISHER != 0 => {
                if let Err((code, detail)) = self.open_publisher(peer, register) {
                    let conn_id = ConnId(0);
                    self.reply(Reply::Refuse { peer, conn_id, code, detail });
                }
            }
            None => match self.open_session(peer, register) {
                Some(slot) => self.reply(Reply::Registered { slot }),
                None => self.refuse_full(peer),
            },
        }
    }

    fn refuse_full(&mut self, peer: Peer) {
        let conn_id = ConnId(0);
        let detail = SESSIONS_MAX as u64;
        self.reply(Reply::Refuse { peer, conn_id, code: ErrorCode::LimitReached, detail });
    }

    fn open_session(&mut self, peer: Peer, register: &Register) -> Option<usize> {
        if self.sessions.is_full() {
            // Whoever has not named its connection id may never have received it.
            let unproven =
                |(_, session): &(usize, &Session)| !session.proven && session.phase == Phase::Open;
            let all = self.sessions.in_use().filter(unproven);
            let (oldest, _) = all.min_by_key(|(_, session)| session.heard_ns)?;
            self.close_session(oldest);
        }
        let slot = self.sessions.open(peer, register.nonce.get(), self.now_ns)?;
        let datagram_bytes = usize::from(register.datagram_bytes.get());
        let session = self.sessions.get_mut(slot);
        session.instance = register.instance.get();
        session.datagram_bytes =
            datagram_bytes.clamp(DATAGRAM_BYTES_MIN, DATAGRAM_BYTES_MAX).min(self.datagram_bytes);
        self.counters.add(Counter::SessionsOpened, 1);
        Some(slot)
    }

    /// Opens a session that publishes. Its registration is a record in the log; the session is open once
    /// that is durable, and with it everything the producer has had accepted before.
    fn open_publisher(&mut self, peer: Peer, register: &Register) -> Result<(), (ErrorCode, u64)> {
        match self.condition {
            Condition::Serving => {}
            Condition::Full => return Err((ErrorCode::NoSpace, 0)),
            Condition::Failed(code) => return Err((code, 0)),
            Condition::DiskLost(_) | Condition::Draining => return Err((ErrorCode::Draining, 0)),
        }
        let (asked, held) = (register.producer_id.get(), register.producer_epoch.get());
        let control = |error| match error {
            ControlError::Full => (ErrorCode::NoSpace, 0),
            ControlError::Busy => (ErrorCode::LimitReached, 0),
            ControlError::TableFull { limit } => (ErrorCode::LimitReached, limit as u64),
        };
        let (id, epoch) = if asked == 0 {
            (None, 1)
        } else {
            let id = ProducerId(asked);
            let known = self.log.producer(id).ok_or((ErrorCode::UnknownProducer, asked))?;
            // The same instance may have missed the answer to its last registration.
            let same = known.instance == register.instance.get();
            if same && held < known.epoch && self.is_held(id) {
                // It has missed none: this REGISTER is an old one that was late on its way.
                self.counters.add(Counter::DroppedUnknownSession, 1);
                return Ok(());
            }
            if held != 0 && held < known.epoch && !same {
                return Err((ErrorCode::Fenced, asked));
            }
            (Some(id), known.epoch + 1)
        };
        let slot = self
            .open_session(peer, register)
            .ok_or((ErrorCode::LimitReached, SESSIONS_MAX as u64))?;
        let memory = self.disk.memory_mut();
        let said = (epoch, register.instance.get());
        let registered = match self.log.register_producer(memory, id, said, self.unix_ns) {
            Ok(registered) => registered,
            Err(error) => {
                self.close_session(slot);
                if error == ControlError::Full {
                    self.become_full();
                }
                return Err(control(error));
            }
        };
        self.take_over(slot, registered.id, registered.last_seq);
        let session = self.sessions.get_mut(slot);
        session.producer =
            Some(Producer { id: registered.id, epoch, slot: registered.producer_slot });
        session.receiver.reset(registered.last_seq, &mut self.hold);
        session.phase = Phase::Registering { batch_seq: registered.batch_seq };
        self.registering += 1;
        self.publishers += 1;
        Ok(())
    }

    /// Whether a client publishes as this producer that has told that it was answered.
    fn is_held(&self, id: ProducerId) -> bool {
        self.sessions.in_use().any(|(_, session)| {
            session.proven && session.producer.is_some_and(|producer| producer.id == id)
        })
    }

    /// Fences an older session of the producer and inherits what it is owed.
    fn take_over(&mut self, slot: usize, id: ProducerId, last_seq: u64) {
        self.sessions.get_mut(slot).receipts.reset(last_seq);
        let old = self.sessions.in_use().find(|(other, session)| {
            *other != slot && session.producer.is_some_and(|producer| producer.id == id)
        });
        if let Some((old, _)) = old.map(|(old, session)| (old, session.conn_id)) {
            self.reply_now_fenced(old);
            self.sessions.swap_receipts(old, slot);
            for entry in &mut self.owed {
                if entry.1 == old {
                    entry.1 = slot;
                }
            }
            self.owed_batch.swap(old, slot);
            self.close_session(old);
        } else if let Some(runs) = self.recovered.remove(&id.0) {
            let receipts = &mut self.sessions.get_mut(slot).receipts;
            receipts.reset(runs.first().map_or(last_seq, |run| run.first_seq - 1));
            for run in runs {
                receipts.append_recovered(run);
            }
        }
    }

    fn reply_now_fenced(&mut self, old: usize) {
        let session = self.sessions.get(old);
        let (peer, conn_id) = (session.peer, session.conn_id);
        self.reply(Reply::Refuse { peer, conn_id, code: ErrorCode::Fenced, detail: 0 });
    }

    /// Ends a session and all it has; what it published stays.
    pub(super) fn close_session(&mut self, slot: usize) {
        let mut index = 0;
        while index < self.fanout.len() {
            if self.fanout.get(index).session == slot {
                self.fanout.remove(index);
            } else {
                index += 1;
            }
        }
        let session = self.sessions.get(slot);
        if matches!(session.phase, Phase::Registering { .. }) {
            self.registering -= 1;
        }
        if session.producer.is_some() {
            self.publishers -= 1;
        }
        self.pending.retain(|pending| pending.slot != slot);
        self.outbox.forget(slot);
        self.sessions.close(slot, &mut self.hold);
        self.counters.add(Counter::SessionsClosed, 1);
    }

    pub(super) fn close_sessions(&mut self) {
        for slot in 0..SESSIONS_MAX {
            let session = self.sessions.get(slot);
            if session.phase == Phase::Free {
                continue;
            }
            let (peer, conn_id) = (session.peer, session.conn_id);
            self.reply(Reply::Close { peer, conn_id });
            self.close_session(slot);
        }
    }

    pub(super) fn on_create_stream(
        &mut self,
        slot: usize,
        asked: &NameRequest<'_>,
        wanted: Option<u32>,
    ) {
        let request = asked.request;
        let waiting =
            self.pending.iter().any(|pending| (pending.slot, pending.request) == (slot, request));
        if waiting {
            return;
        }
        if let Some(stream) = self.log.stream_by_name(asked.name) {
            // A stream that is being created is answered for when its record is durable.
            let creates = |pending: &&Pending| pending.creates && pending.stream == stream.id;
            let creating = self.pending.iter().find(creates).copied();
            match creating {
                Some(pending) => self.wait_for(Pending { slot, request, ..pending }),
                None => {
                    let stream = stream.id;
                    self.reply(Reply::StreamInfo { slot, request, stream });
                }
            }
            return;
        }
        if self.is_made_elsewhere((slot, request), asked.name, wanted) {
            return;
        }
        let refused = match self.condition {
            Condition::Serving if self.pending.len() < PENDING_MAX => None,
            Condition::Serving => return,
            Condition::Full => Some(ErrorCode::NoSpace),
            Condition::Failed(code) => Some(code),
            Condition::DiskLost(_) | Condition::Draining => Some(ErrorCode::Draining),
        };
        let mut error =
            |code, detail| self.outbox.push(Reply::Error { slot, code, request, detail });
        if let Some(code) = refused {
            error(code, 0);
            return;
        }
        match self.log.create_stream(self.disk.memory_mut(), asked.name, self.unix_ns) {
            Ok((stream, batch_seq)) => {
                self.wait_for(Pending { batch_seq, slot, request, stream, creates: true });
            }
            Err(ControlError::Busy) => {}
            Err(ControlError::Full) => {
                error(ErrorCode::NoSpace, 0);
                self.become_full();
            }
            Err(ControlError::TableFull { limit }) => {
                error(ErrorCode::LimitReached, limit as u64);
            }
        }
    }

    /// Whether the record that makes a stream is not durable yet.
    pub(super) fn is_being_created(&self, id: StreamId) -> bool {
        self.pending.iter().any(|pending| pending.creates && pending.stream == id)
    }

    pub(super) fn on_trim_stream(&mut self, slot: usize, asked: &TrimStream) {
        let (request, stream) = (asked.request.get(), StreamId(asked.stream.get()));
        let is_same = |pending: &Pending| (pending.slot, pending.request) == (slot, request);
        if self.pending.iter().any(is_same) || self.pending.len() == PENDING_MAX {
            return;
        }
        let refused = match self.condition {
            Condition::Serving | Condition::Full => None,
            Condition::Failed(code) => Some((code, 0)),
            Condition::DiskLost(_) | Condition::Draining => Some((ErrorCode::Draining, 0)),
        };
        let refused = refused.or_else(|| self.trim((slot, request), stream, asked.first.get()));
        if let Some((code, detail)) = refused {
            self.reply(Reply::Error { slot, code, request, detail });
        }
    }

    /// Trims, and answers once that is durable; returns why it does not.
    fn trim(
        &mut self,
        (slot, request): (usize, u32),
        stream: StreamId,
        first: u64,
    ) -> Option<(ErrorCode, u64)> {
        match self.log.trim_stream(self.disk.memory_mut(), stream, first, self.unix_ns) {
            Ok(Some(batch_seq)) => {
                self.counters.add(Counter::Trims, 1);
                self.wait_for(Pending { batch_seq, slot, request, stream, creates: false });
                None
            }
            Ok(None) => {
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

    fn wait_for(&mut self, pending: Pending) {
        if self.pending.len() < PENDING_MAX {
            self.pending.push(pending);
        }
    }

    pub(super) fn on_describe_stream(&mut self, slot: usize, asked: &NameRequest<'_>) {
        let request = asked.request;
        let stream = self.log.stream_by_name(asked.name).map(|stream| stream.id);
        let created = |id| !self.is_being_created(id);
        let reply = match stream.filter(|&id| created(id)) {
            Some(stream) => Reply::StreamInfo { slot, request, stream },
            None => match self.found_elsewhere(asked.name) {
                Some(shard) => Reply::Redirect { slot, request, shard },
                None => Reply::Error { slot, code: ErrorCode::UnknownStream, request, detail: 0 },
            },
        };
        self.reply(reply);
    }

    pub(super) fn on_subscribe(&mut self, slot: usize, asked: &Subscribe) {
        let (request, stream) = (asked.request.get(), StreamId(asked.stream.get()));
        let error = |code, detail| Reply::Error { slot, code, request, detail };
        let Some(from) = From::decode(asked.from_kind.get(), asked.from_value.get()) else {
            self.reply(error(ErrorCode::BadRequest, 0));
            return;
        };
        let Some(facts) = self.log.stream(stream) else {
            self.reply(error(ErrorCode::UnknownStream, u64::from(stream.0)));
            return;
        };
        let (first, durable_next) = (facts.first_sequence, facts.durable_next);
        if let Some(index) = self.fanout.find(slot, stream) {
            let known = self.fanout.get(index);
            if known.request == request {
                if !known.is_seeking() {
                    self.reply(Reply::Subscribed { slot, stream });
                } else if let Some(Stop::Damaged { first, .. }) = known.stopped {
                    self.reply(error(ErrorCode::DataLoss, first));
                }
                return;
            }
            // Numbers of requests grow: one that was overtaken on its way means nothing any more.
            if request.wrapping_sub(known.request) > u32::MAX / 2 {
                return;
            }
            self.fanout.remove(index);
            self.sessions.get_mut(slot).subscriptions -= 1;
        }
        if from.earliest() < first && matches!(from, From::Sequence(_)) {
            self.reply(Reply::Trimmed { slot, stream, request, log_start: first });
            return;
        }
        if self.sessions.get(slot).subscriptions == SUBSCRIPTIONS_MAX {
            self.reply(error(ErrorCode::LimitReached, SUBSCRIPTIONS_MAX as u64));
            return;
        }
        let (next, seek_ns) = match from {
            From::Start => (first, None),
            From::End => (durable_next, None),
            From::Sequence(sequence) => (sequence.max(1), None),
            From::Time(unix_ns) => (0, Some(unix_ns)),
        };
        let window = u64::from(asked.window.get());
        let mut subscription = Subscription {
            session: slot,
            stream,
            request,
            start: next,
            next,
            limit: next.saturating_add(window),
            window,
            seek_ns,
            cursor: 0,
            at: 0,
            replay: Replay::Idle,
            bad_reads: 0,
            sent_ns: self.now_ns,
            beat_ns: 0,
            stopped: None,
        };
        self.seek(&mut subscription);
        let seeking = subscription.is_seeking();
        if !self.fanout.add(subscription) {
            let limit = crate::fanout::SUBSCRIPTIONS_A_SHARD as u64;
            self.reply(error(ErrorCode::LimitReached, limit));
            return;
        }
        self.sessions.get_mut(slot).subscriptions += 1;
        if !seeking {
            self.reply(Reply::Subscribed { slot, stream });
        }
    }

    /// Puts the cursor where `next`, or the time that is sought, is to be found.
    pub(super) fn seek(&mut self, subscription: &mut Subscription) {
        let (log_off, sequence) = match subscription.seek_ns {
            Some(unix_ns) => self.log.locate_time(subscription.stream, unix_ns),
            None => self.log.locate(subscription.stream, subscription.next),
        };
        subscription.cursor = log_off;
        subscription.at = 0;
        if subscription.is_seeking() {
            let first =
                self.log.stream(subscription.stream).map_or(1, |facts| facts.first_sequence);
            subscription.next = sequence.max(first);
            subscription.start = subscription.next;
        }
    }

    pub(super) fn on_unsubscribe(&mut self, slot: usize, asked: &Unsubscribe) {
        if let Some(index) = self.fanout.find(slot, StreamId(asked.stream.get())) {
            self.fanout.remove(index);
            self.sessions.get_mut(slot).subscriptions -= 1;
        }
    }

    /// An UNSUBSCRIBE that came late may have ended a subscription made after it: the consumer, which goes on
    /// telling where it is, asks for it again.
    fn tell_unknown_subscription(&mut self, slot: usize, stream: StreamId) {
        let (code, detail) = (ErrorCode::UnknownSubscription, u64::from(stream.0));
        self.reply(Reply::Error { slot, code, request: 0, detail });
    }

    pub(super) fn on_status(&mut self, slot: usize, status: &Status) {
        let stream = StreamId(status.stream.get());
        let Some(index) = self.fanout.find(slot, stream) else {
            self.tell_unknown_subscription(slot, stream);
            return;
        };
        let mut subscription = *self.fanout.get(index);
        let (position, limit) = (status.position.get(), status.limit.get());
        if subscription.is_seeking() || position > subscription.next {
            return;
        }
        if subscription.stopped.is_some() && position == subscription.next {
            // It has all that came before, and may have missed why nothing more comes.
            self.tell_stopped(index);
            return;
        }
        subscription.limit = subscription.limit.max(limit);
        let rewind = status.flags.get() & STATUS_REWIND != 0;
        let log_start = self.log.stream(stream).map_or(0, |facts| facts.first_sequence);
        if rewind && position < log_start {
            // If that is where the consumer still is: the word may be late.
            self.reply(Reply::Trimmed { slot, stream, request: 0, log_start });
        }
        let there = position >= subscription.start.max(log_start) && position < subscription.next;
        if rewind && there {
            self.counters.add(Counter::Rewinds, 1);
            if let Replay::Ready { buffer, .. } = subscription.replay {
                self.fanout.free_buffer(buffer);
                subscription.replay = Replay::Idle;
            }
            subscription.next = position;
            subscription.stopped = None;
            self.seek(&mut subscription);
        }
        *self.fanout.get_mut(index) = subscription;
    }
}
