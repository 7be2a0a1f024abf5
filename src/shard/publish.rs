//! Publishing: from a PUBLISH frame into the log, exactly once and in the producer's order.

use crate::disk::Disk;
use crate::ids::StreamId;
use crate::limits::{DATAGRAM_BYTES_MAX, NUMBER_MAX};
use crate::log::{AppendError, Message};
use crate::metrics::Counter;
use crate::mutant::Mutant;
use crate::position::SessionSlot;
use crate::session::receipts::Run;
use crate::session::receive::Verdict;
use crate::wire::control::{ErrorCode, Sizes};
use crate::wire::publish::{Probe, Publish};
use crate::wire::record::Signed;

use super::{Condition, Reply, Stations};

/// How the messages of a frame fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// All were appended.
    Whole,
    /// The log takes no more just now; the client sends the rest again.
    Busy,
    /// The log is full.
    Full,
    /// A message failed its checksum: as good as lost.
    Damaged,
    /// The stream does not exist.
    NoStream,
    /// It has no right to the stream.
    Denied,
}

impl Stations {
    pub(super) fn on_publish(&mut self, slot: SessionSlot, publish: &Publish<'_>) {
        let session = self.sessions.get_mut(slot);
        if session.producer.is_none() {
            let code = ErrorCode::BadRequest;
            self.reply(Reply::Error { slot, code, request: 0, detail: 0 });
            return;
        }
        if publish.longest() > self.settings.message_bytes_max {
            // What was announced is what every consumer of the same datagrams can be sent.
            let (needs, takes) = (publish.longest(), self.settings.message_bytes_max);
            let (code, detail) = (ErrorCode::MessageTooLarge, Sizes { needs, takes }.detail());
            self.reply(Reply::Error { slot, code, request: 0, detail });
            return;
        }
        let (first_seq, count) = (publish.head.first_seq.get(), publish.count());
        match session.receiver.classify(first_seq, count) {
            Verdict::Duplicate if Mutant::DuplicatesAppended.is_on() => {
                self.accept(slot, publish, 0);
            }
            Verdict::Duplicate => {
                self.counters.add(Counter::MessagesDuplicate, count);
                self.publishers.acknowledge(slot);
            }
            Verdict::Accept { skip } => {
                self.counters.add(Counter::MessagesDuplicate, skip);
                if self.accept(slot, publish, skip) == Outcome::Whole {
                    self.accept_held(slot);
                }
            }
            Verdict::Hold => {
                let now_ns = self.now.monotonic_ns;
                let held = self.sessions.hold(slot, first_seq, count, publish.body(), now_ns);
                let counter = if held { Counter::FramesHeld } else { Counter::FramesHoldRefused };
                self.counters.add(counter, 1);
                self.publishers.note_gap(slot);
            }
            Verdict::TooFar => {
                session.receiver.saw_sent_to(first_seq, self.now.monotonic_ns);
                self.counters.add(Counter::FramesHoldRefused, 1);
                self.publishers.note_gap(slot);
            }
        }
    }

    /// Looks again at frames that were held behind a gap which is filled now.
    fn accept_held(&mut self, slot: SessionSlot) {
        while self.sessions.get(slot).receiver.has_ready() {
            let mut body = [0; DATAGRAM_BYTES_MAX];
            let Some(len) = self.sessions.take_ready(slot, &mut body) else { break };
            let publish = Publish::parse(&body[..len]).expect("a held frame was parsed before");
            let first_seq = publish.head.first_seq.get();
            match self.sessions.get(slot).receiver.classify(first_seq, publish.count()) {
                Verdict::Duplicate => {}
                Verdict::Accept { skip } => {
                    if self.accept(slot, &publish, skip) != Outcome::Whole {
                        break;
                    }
                }
                Verdict::Hold | Verdict::TooFar => unreachable!("the gap before it was filled"),
            }
        }
        let session = self.sessions.get_mut(slot);
        if session.receiver.still_missing(self.now.monotonic_ns) {
            self.publishers.note_gap(slot);
        }
    }

    fn accept(&mut self, slot: SessionSlot, publish: &Publish<'_>, skip: u64) -> Outcome {
        if self.condition() != Condition::Serving {
            self.publishers.acknowledge(slot);
            return Outcome::Full;
        }
        // Here, and not when it came: it may have waited for what was before it.
        let stream = StreamId(publish.head.stream.get());
        if !self.may_publish(slot, stream) {
            let (code, detail) = (ErrorCode::NotAuthorized, stream.0.into());
            self.reply(Reply::Error { slot, code, request: 0, detail });
            return Outcome::Denied;
        }
        let outcome = self.append(slot, publish, skip);
        match outcome {
            Outcome::Whole | Outcome::Denied => {}
            Outcome::Busy => self.publishers.acknowledge(slot),
            Outcome::Damaged => {
                let session = self.sessions.get_mut(slot);
                let missing = session.receiver.accepted_to().saturating_add(1);
                session.receiver.saw_sent_to(missing, self.now.monotonic_ns);
                self.publishers.note_gap(slot);
            }
            Outcome::Full => {
                self.become_full();
            }
            Outcome::NoStream => {
                let detail = u64::from(publish.head.stream.get());
                let code = ErrorCode::UnknownStream;
                self.reply(Reply::Error { slot, code, request: 0, detail });
            }
        }
        outcome
    }

    /// Appends what is new of a frame, as far as the log takes it.
    fn append(&mut self, slot: SessionSlot, publish: &Publish<'_>, skip: u64) -> Outcome {
        let (session, memory) = (self.sessions.get_mut(slot), self.disk.memory_mut());
        let stream = StreamId(publish.head.stream.get());
        let mut producer_seq = publish.head.first_seq.get();
        for (index, (head, payload)) in (0..).zip(publish.messages()) {
            if index < skip {
                producer_seq = producer_seq.saturating_add(1);
                continue;
            }
            let (flags, ext_len) = (head.flags.get(), head.ext_len.get());
            let producer_id = self.publishers.handle(slot).id();
            let signed = Signed { producer_id, producer_seq, stream, flags, ext_len };
            let crc32c = head.crc32c.get();
            if signed.crc32c(payload) != crc32c {
                self.counters.add(Counter::MessagesDamaged, 1);
                return Outcome::Damaged;
            }
            if !session.receipts.has_room() {
                return Outcome::Busy;
            }
            let producer = self.publishers.handle(slot);
            let message = Message { signed, producer, crc32c, payload };
            let appended = match self.log.append(memory, &message, self.now.unix_ns) {
                Ok(appended) => appended,
                Err(AppendError::Busy) => return Outcome::Busy,
                Err(AppendError::Full) => return Outcome::Full,
                Err(AppendError::NoStream) => return Outcome::NoStream,
            };
            session.receipts.append(Run {
                first_seq: producer_seq,
                first_sequence: appended.sequence,
                count: 1,
                stream: stream.0,
                batch_seq: appended.batch_seq,
                received_ns: self.now.monotonic_ns,
                received_unix_ns: self.now.unix_ns.min(NUMBER_MAX),
                server_ns: 0,
                device_ns: 0,
            });
            self.publishers.await_batch(slot, appended.batch_seq);
            session.credit.accept(payload.len());
            session.receiver.accept(1);
            self.counters.add(Counter::MessagesAccepted, 1);
            producer_seq = producer_seq.saturating_add(1);
        }
        Outcome::Whole
    }

    /// A client asks where it is: say so, receipts from where it lacks them included.
    pub(super) fn on_probe(&mut self, slot: SessionSlot, probe: &Probe) {
        let session = self.sessions.get_mut(slot);
        if session.producer.is_none() {
            return;
        }
        session.receipts.rewind_to(probe.receipts_to.get());
        session.receiver.saw_sent_to(probe.next_seq.get().saturating_sub(1), self.now.monotonic_ns);
        if session.receiver.has_gap() {
            self.publishers.note_gap(slot);
        }
        self.publishers.acknowledge(slot);
    }
}
