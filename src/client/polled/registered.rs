//! Whether what opens a session or a subscription is of the log that the client knows.

use super::{Link, Phase};
use crate::client::{ClientError, Compared, Event, Publisher};
use crate::clock::Clock;
use crate::fired::Timer;
use crate::ids::StreamId;
use crate::mutant::Mutant;
use crate::session::consume::Subscription;
use crate::wire::control::{ErrorCode, Registered, STARTING, Subscribed};

/// After so long what was trimmed is free, and a log that is full is full.
const FREED_NS: u64 = 1_000_000_000;

/// That registrations are refused for a reason that may pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusal {
    /// Since when, for whatever reason.
    since_ns: u64,
    /// The newest reason.
    pub(super) code: ErrorCode,
    /// Since when for this one.
    code_since_ns: u64,
    /// Belongs to the reason.
    pub(super) detail: u64,
}

impl<C: Clock> Link<C> {
    /// Whether an answer can be of the log that this client has published to or read from.
    pub(super) fn check_registered(&self, registered: &Registered) -> Result<(), ClientError> {
        let server = self.server;
        let (begun, found) = (self.log, registered.log.get());
        if begun != 0 && found != 0 && begun != found {
            return Err(ClientError::OtherLog { server, begun, found });
        }
        let found = registered.epoch.get();
        if found < self.epoch && !Mutant::EpochIgnored.is_on() {
            let (what, acknowledged) = (Compared::Epoch, self.epoch);
            return Err(ClientError::Behind { server, what, acknowledged, found });
        }
        if self.options.publisher == Publisher::No {
            return Ok(());
        }
        let (expected, found) = (self.producer.0.0, registered.producer_id.get());
        if found == 0 || (expected != 0 && expected != found) {
            let what = Compared::Producer;
            return Err(ClientError::OtherProducer { server, what, expected, found });
        }
        let (what, found) = (Compared::Messages, registered.durable_to.get());
        let acknowledged = self.sender.durable_to();
        if found < acknowledged {
            return Err(ClientError::Behind { server, what, acknowledged, found });
        }
        Ok(())
    }

    pub(super) fn on_subscribed(&mut self, subscribed: &Subscribed) {
        let (server, stream) = (self.server, StreamId(subscribed.stream.get()));
        let (start, durable_next) = (subscribed.start.get(), subscribed.durable_next.get());
        let request = subscribed.request.get();
        // One that is doubled or late says how far the stream was then.
        let answers = |sub: &&mut Subscription| sub.request() == request && !sub.is_open();
        let Some(subscription) = self.subscription(stream).filter(answers) else { return };
        let acknowledged = subscription.delivered_to();
        if durable_next <= acknowledged {
            // All that was delivered was durable.
            let (what, found) = (Compared::Stream(stream), durable_next.saturating_sub(1));
            self.fail(ClientError::Behind { server, what, acknowledged, found });
        } else if subscription.on_subscribed(start) {
            if let Some(history) = &mut self.history {
                history.subscribed(stream, start, durable_next);
            }
            self.note(Event::Subscribed { stream, start, durable_next });
        }
    }

    /// Whether there was a session with this log: then the appliance is the one that is meant, and what was offered
    /// to it may still become durable.
    pub(super) fn was_connected(&self) -> bool {
        self.epoch != 0
    }

    /// Whether it registers as a producer that is new and has taken no message: any other is as good.
    pub(super) fn is_unused(&self) -> bool {
        let is_new = self.options.publisher == Publisher::New && self.producer.0.0 != 0;
        is_new && self.phase != Phase::Open && self.sender.next_seq() == 1
    }

    /// Whether a refusal is waited for without limit. Whoever starts or stops says so for as long as it takes, and so
    /// does an appliance whose disk is away. A first connection waits for one that starts only: it will serve.
    fn may_last(&self, code: ErrorCode, detail: u64) -> bool {
        code == ErrorCode::Draining && (detail == STARTING || self.was_connected())
    }

    /// Gives up asking again where the reason of a refusal does not pass.
    pub(super) fn check_refused(&mut self) {
        let Some(Refusal { code, detail, since_ns, code_since_ns }) = self.refused else { return };
        let dead_after_ns = self.options.dead_after_ns;
        let now_ns = self.now_ns;
        let waits = |since_ns: u64, patience_ns: u64| now_ns.saturating_sub(since_ns) > patience_ns;
        let is_over = if self.may_last(code, detail) {
            // Messages wait, offered or subscribed to; whoever asked for something does not.
            self.requested_since_ns().is_some_and(|since_ns| waits(since_ns, dead_after_ns))
        } else {
            let is_full = code == ErrorCode::NoSpace && dead_after_ns < u64::MAX;
            waits(since_ns, dead_after_ns) || (is_full && waits(code_since_ns, FREED_NS))
        };
        if is_over {
            Timer::GivesUpRefused.fired();
            self.fail(ClientError::Refused { code, detail });
        }
    }

    /// Since when an answer is waited for that is not there: to a request, or of a subscription that never stood.
    fn requested_since_ns(&self) -> Option<u64> {
        let never_stood = |sub: &&Subscription| sub.expected() == 0;
        let subscribed = self.subscriptions.iter().filter(never_stood);
        let asked = self.asked.iter().map(|asked| asked.since_ns);
        asked.chain(subscribed.filter_map(Subscription::asked_since_ns)).min()
    }

    /// Whether a refusal of all the client wants may pass: then it asks again, for as long as it would wait for
    /// a server that is silent.
    pub(super) fn is_waited_for(&mut self, code: ErrorCode, detail: u64) -> bool {
        let for_ever = self.options.dead_after_ns == u64::MAX;
        let registers = self.phase != Phase::Open;
        // A log that is full may be trimmed, and what was trimmed a moment ago is not free at once.
        let is_full = code == ErrorCode::NoSpace;
        let waits = code.is_retry() || (is_full && (for_ever || registers));
        if waits && registers {
            self.note_refusal(code, detail);
        }
        waits
    }

    /// Notes why a registration is refused now. Its patience begins anew where the reason is one, or was one, that
    /// is waited for without limit.
    fn note_refusal(&mut self, code: ErrorCode, detail: u64) {
        let (now_ns, lasts) = (self.now_ns, self.may_last(code, detail));
        let before =
            self.refused.filter(|before| self.may_last(before.code, before.detail) == lasts);
        let since_ns = before.map_or(now_ns, |before| before.since_ns);
        let same = before.filter(|before| before.code == code);
        let code_since_ns = same.map_or(now_ns, |before| before.code_since_ns);
        self.refused = Some(Refusal { since_ns, code, code_since_ns, detail });
    }
}
