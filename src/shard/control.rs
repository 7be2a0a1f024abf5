//! Control: sessions closed, streams created and described, subscriptions.

use crate::disk::Disk;
use crate::fanout::{Begin, Cursor, Stop, Subscription};
use crate::ids::{ProducerName, StreamId};
use crate::limits::SUBSCRIPTIONS_A_SHARD;
use crate::log::trim::TrimError;
use crate::log::{ControlError, Parting, StreamFacts};
use crate::metrics::Counter;
use crate::mutant::Mutant;
use crate::position::SessionSlot;
use crate::session::table::Phase;
use crate::wire::control::{
    CreateStream, DescribeStream, ErrorCode, PRODUCER_NEW, STATUS_REWIND, StartFrom, Status,
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
    /// Ends a session and all it has; what it published stays.
    pub(super) fn close_session(&mut self, slot: SessionSlot) {
        let session = self.sessions.get(slot);
        // A client that heard of its producer in an earlier session knows it.
        let knows = session.proven || session.answered.flags & PRODUCER_NEW == 0;
        self.end_session(slot, if knows { Parting::MayReturn } else { Parting::Unheard });
    }

    fn end_session(&mut self, slot: SessionSlot, parting: Parting) {
        self.leave(slot, parting);
        let keys = self.sessions.close(slot);
        self.drop_keys(keys);
        self.counters.add(Counter::SessionsClosed, 1);
    }

    /// A client ends its session; where it says so, its producer, of which nothing is in flight, will not return.
    pub(super) fn on_close(&mut self, slot: SessionSlot, forgets: bool) {
        let session = self.sessions.get(slot);
        // One with a name is kept for who comes under it next.
        let known = session.producer.and_then(|producer| self.log.producer(producer.id));
        let is_anonymous = known.is_some_and(|known| known.owner.name == ProducerName::NONE);
        if forgets && is_anonymous && !session.receipts.in_flight() {
            self.end_session(slot, Parting::Ended);
        } else {
            self.close_session(slot);
        }
    }

    /// Takes a session out of all lists it is in, its place in the table of sessions apart.
    pub(super) fn leave(&mut self, slot: SessionSlot, parting: Parting) {
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
        if !self.rights(slot).create.matches(asked.name) {
            self.refuse(of, ErrorCode::NotAuthorized);
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

    fn refuse(&mut self, of: RequestOf, code: ErrorCode) {
        let RequestOf { slot, request } = of;
        self.reply(Reply::Error { slot, code, request, detail: 0 });
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
        if !self.may(slot, stream, |rights, name| rights.trim.matches(name)) {
            self.refuse(of, ErrorCode::NotAuthorized);
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
        if !self.rights(slot).may_see(asked.name) {
            self.refuse(RequestOf { slot, request }, ErrorCode::NotAuthorized);
            return;
        }
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
        if !self.rights(slot).subscribe.matches(&facts.name) {
            self.reply(error(ErrorCode::NotAuthorized, u64::from(stream.0)));
            return;
        }
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
    pub(super) fn end_subscription(&mut self, slot: SessionSlot, index: usize) {
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
