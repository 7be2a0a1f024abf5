//! What a polled client publishes, and as whom.

use std::net::SocketAddrV4;

use super::terms::Terms;
use crate::client::{BackPressure, ClientError, ClientOptions, Compared, OfferError, Publisher};
use crate::fired::Timer;
use crate::ids::{Lineage, ProducerId, ProducerName, StreamId};
use crate::limits::CLIENT_WINDOW_MESSAGES_MAX;
use crate::session::send::{Blocked, Credit, Sender, Sent};
use crate::wire::control::{Registered, WANT_TAKE_OVER, Want};
use crate::wire::publish::{Ack, PublishState};

/// After so long without an answer, the server is told again that the producer will not return.
const RETIRE_NS: u64 = 50_000_000;

/// Where a message is stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    pub(super) stream: StreamId,
    pub(super) sequence: u64,
    pub(super) lineage: Lineage,
}

/// A producer, and its messages that are not completed.
#[derive(Debug)]
pub(super) struct Publishing {
    as_whom: Publisher,
    sender: Sender,
    producer: ProducerId,
    producer_epoch: u32,
    /// The newest of its messages that is known to be stored, with its place.
    newest: Option<Stored>,
    /// What it numbers so and below was received by an opening before that of this session.
    accepted_before: u64,
    /// When the server was last told that the producer will not return; 0 when never.
    retired_ns: u64,
    /// The producer is no more: there is nothing to register for.
    is_over: bool,
}

impl Publishing {
    pub(super) fn new(options: &ClientOptions) -> Self {
        let producer = match options.publisher {
            Publisher::No | Publisher::New | Publisher::Named { .. } => ProducerId(0),
            Publisher::Known(id) => id,
        };
        let (messages, bytes) = match options.publisher {
            Publisher::No => (1, 1),
            Publisher::New | Publisher::Known(_) | Publisher::Named { .. } => {
                let messages = options
                    .window_messages
                    .clamp(1, CLIENT_WINDOW_MESSAGES_MAX)
                    .next_power_of_two();
                (messages, options.window_bytes.max(1))
            }
        };
        Self {
            as_whom: options.publisher,
            sender: Sender::new(messages, bytes),
            producer,
            producer_epoch: 0,
            newest: None,
            accepted_before: 0,
            retired_ns: 0,
            is_over: false,
        }
    }

    pub(super) fn publishes(&self) -> bool {
        self.as_whom != Publisher::No
    }

    /// What is registered for.
    pub(super) fn want(&self) -> (u16, ProducerName) {
        match self.as_whom {
            Publisher::No => (Want::Nothing as u16, ProducerName::NONE),
            _ if self.producer.0 != 0 => (Want::Known as u16, ProducerName::NONE),
            Publisher::New | Publisher::Known(_) => (Want::New as u16, ProducerName::NONE),
            Publisher::Named { name, take_over } => {
                (Want::Named as u16 | if take_over { WANT_TAKE_OVER } else { 0 }, name)
            }
        }
    }

    /// 0 before it is known.
    pub(super) fn producer(&self) -> ProducerId {
        self.producer
    }

    pub(super) fn producer_epoch(&self) -> u32 {
        self.producer_epoch
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    #[inline]
    pub(super) fn offer(
        &mut self,
        stream: StreamId,
        payload: &[u8],
        terms: &Terms,
        now_ns: u64,
    ) -> Result<u64, OfferError> {
        if !self.publishes() {
            return Err(OfferError::NotAPublisher);
        }
        let (bytes, max) = (payload.len(), terms.message_bytes_max());
        if max == 0 {
            return Err(OfferError::NotConnected);
        }
        if bytes > max {
            return Err(OfferError::TooLarge { bytes, max, limit: terms.size_limit() });
        }
        self.sender.offer(stream, payload, now_ns).map_err(|blocked| {
            OfferError::BackPressure(match blocked {
                Blocked::Window => BackPressure::Window,
                Blocked::Server(state) => BackPressure::Server(state),
            })
        })
    }

    #[inline]
    pub(super) fn next_sent(&mut self) -> Option<Sent> {
        self.sender.next_sent()
    }

    pub(super) fn sender(&self) -> &Sender {
        &self.sender
    }

    pub(super) fn sender_mut(&mut self) -> &mut Sender {
        &mut self.sender
    }

    /// Bytes of a message that its window holds.
    pub(super) fn window_bytes(&self) -> usize {
        if self.publishes() { self.sender.payload_bytes_max() } else { usize::MAX }
    }

    /// Whether a session is of the producer, and of a log that has what was acknowledged to it and nothing that it never
    /// sent.
    pub(super) fn check(
        &self,
        server: SocketAddrV4,
        registered: &Registered,
    ) -> Result<(), ClientError> {
        let (accepted_to, next_seq) = (registered.accepted_to.get(), self.sender.next_seq());
        let durable_to = registered.durable_to.get();
        if self.publishes() {
            let (expected, found) = (self.producer.0, registered.producer_id.get());
            if found == 0 || (expected != 0 && expected != found) {
                let what = Compared::Producer;
                return Err(ClientError::OtherProducer { server, what, expected, found });
            }
            let acknowledged = self.sender.durable_to();
            if durable_to < acknowledged {
                let (what, found) = (Compared::Messages, durable_to);
                return Err(ClientError::Behind { server, what, acknowledged, found });
            }
        }
        if next_seq > 1 && accepted_to >= next_seq {
            // Messages that this client never sent: another one has been this producer meanwhile, and a REGISTER of ours
            // that was late on its way took it back.
            let (what, expected, found) =
                (Compared::Messages, next_seq.saturating_sub(1), accepted_to);
            return Err(ClientError::OtherProducer { server, what, expected, found });
        }
        Ok(())
    }

    /// A session begins: what is not durable is sent again.
    pub(super) fn begin(&mut self, registered: &Registered, now_ns: u64) {
        if !self.publishes() {
            return;
        }
        self.producer = ProducerId(registered.producer_id.get());
        self.producer_epoch = registered.producer_epoch.get();
        let credit = Credit {
            seq_max: registered.max_seq_allowed.get(),
            bytes_max: registered.max_bytes_allowed.get(),
        };
        let (accepted_to, durable_to) = (registered.accepted_to.get(), registered.durable_to.get());
        let state = PublishState::from_code(registered.state);
        self.sender.begin(self.producer, accepted_to, durable_to, credit, state, now_ns);
        self.accepted_before = accepted_to;
        let (stream, sequence) = (registered.last_stream.get(), registered.last_sequence.get());
        if stream != 0 && registered.last_lineage.get() != 0 {
            let lineage = Lineage(registered.last_lineage.get());
            self.newest = Some(Stored { stream: StreamId(stream), sequence, lineage });
        }
    }

    /// The newest message that is known to be stored.
    pub(super) fn newest(&self) -> Option<Stored> {
        self.newest
    }

    /// Keeps the newest message of an ACK, of those that were received in this session.
    pub(super) fn witness(&mut self, ack: &Ack<'_>, lineage: Lineage) {
        let Some(run) = ack.receipts.last() else { return };
        let (first_seq, count) = (run.first_seq.get(), u64::from(run.count.get()));
        let is_of_session = first_seq > self.accepted_before && run.first_sequence.get() > 0;
        if is_of_session && first_seq.saturating_add(count) <= self.sender.next_seq() {
            let sequence = run.first_sequence.get().saturating_add(count).saturating_sub(1);
            let stream = StreamId(run.stream.get());
            self.newest = Some(Stored { stream, sequence, lineage });
        }
    }

    /// What was taken under another server's limits may fit no datagram of this one.
    pub(super) fn check_sizes(&self, terms: &Terms) -> Result<(), ClientError> {
        let (bytes, max) = (self.sender.longest_payload(), terms.message_bytes_max());
        if self.publishes() && bytes > max {
            return Err(ClientError::TooLarge { bytes, max, limit: terms.size_limit() });
        }
        Ok(())
    }

    /// Whether it is new and has taken no message: any other producer is as good.
    pub(super) fn is_unused(&self) -> bool {
        self.as_whom == Publisher::New && self.producer.0 != 0 && self.sender.next_seq() == 1
    }

    /// Whether nothing binds it to a shard.
    pub(super) fn is_free(&self) -> bool {
        let is_bound = matches!(self.as_whom, Publisher::Known(_) | Publisher::Named { .. });
        !is_bound && self.sender.next_seq() == 1
    }

    /// Producers are a shard's own.
    pub(super) fn forget_producer(&mut self) {
        (self.producer, self.producer_epoch) = (ProducerId(0), 0);
        self.newest = None;
    }

    /// Why nothing more is taken, where that will not change. The word that says so may be lost; every acknowledgement
    /// says it, too.
    pub(super) fn failure(&self) -> Option<ClientError> {
        let state = self.sender.state();
        if !matches!(state, PublishState::Failed | PublishState::Damaged) {
            return None;
        }
        let code = state.refusal().expect("nothing more is taken");
        Some(ClientError::Refused(code.with(0)))
    }

    /// Whether it is to be said now that the producer will not return.
    pub(super) fn retire(&mut self, now_ns: u64) -> bool {
        if self.retired_ns != 0 && now_ns.saturating_sub(self.retired_ns) < RETIRE_NS {
            return false;
        }
        if self.retired_ns > 0 {
            Timer::RetireAgain.fired();
        }
        self.retired_ns = now_ns.max(1);
        true
    }

    /// The session is over; whoever has said that he will not return does not.
    pub(super) fn session_ended(&mut self) {
        self.is_over |= self.retired_ns != 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Security;
    use crate::seal::entropy::Entropy;

    #[test]
    fn a_window_is_no_larger_than_the_largest_and_what_is_beyond_it_waits() {
        let options = ClientOptions {
            publisher: Publisher::New,
            window_messages: usize::MAX,
            window_bytes: 1,
            dead_after_ns: u64::MAX,
            security: Security::Plain,
            entropy: Entropy::seeded(1),
        };
        let mut publishing = Publishing::new(&options);
        let sender = publishing.sender_mut();
        let credit = Credit { seq_max: u64::MAX, bytes_max: u64::MAX };
        sender.begin(ProducerId(1), 0, 0, credit, PublishState::Open, 1);
        let taken = (0..).take_while(|_| sender.offer(StreamId(1), b"", 1).is_ok()).count();
        assert_eq!(taken, CLIENT_WINDOW_MESSAGES_MAX);
        assert_eq!(sender.offer(StreamId(1), b"", 1), Err(Blocked::Window));
    }
}
