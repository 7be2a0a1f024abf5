//! Whether what opens a session or a subscription is of the log that the client knows.

use super::{Link, Phase};
use crate::client::{ClientError, Compared, Event, Publisher};
use crate::clock::Clock;
use crate::ids::StreamId;
use crate::mutant::Mutant;
use crate::wire::control::{ErrorCode, Registered, Subscribed};

/// After so long what was trimmed is free, and a log that is full is full.
const FREED_NS: u64 = 1_000_000_000;

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
        let Some(subscription) = self.subscription(stream).filter(|sub| sub.request() == request)
        else {
            return;
        };
        let acknowledged = subscription.delivered_to();
        if durable_next <= acknowledged {
            // All that was delivered was durable.
            let (what, found) = (Compared::Stream(stream), durable_next.saturating_sub(1));
            self.fail(ClientError::Behind { server, what, acknowledged, found });
        } else if subscription.on_subscribed(start) {
            self.note(Event::Subscribed { stream, start, durable_next });
        }
    }

    /// Gives up asking again where the reason of a refusal does not pass.
    pub(super) fn check_refused(&mut self) {
        let Some((since_ns, code, detail)) = self.refused else { return };
        let patience_ns = match (code, self.options.dead_after_ns) {
            (ErrorCode::NoSpace, limit_ns) if limit_ns < u64::MAX => limit_ns.min(FREED_NS),
            (_, limit_ns) => limit_ns,
        };
        if self.now_ns.saturating_sub(since_ns) > patience_ns {
            self.fail(ClientError::Refused { code, detail });
        }
    }

    /// Whether a refusal of all the client wants may pass: then it asks again, for as long as it would wait for
    /// a server that is silent.
    pub(super) fn is_waited_for(&mut self, code: ErrorCode, detail: u64) -> bool {
        let for_ever = self.options.dead_after_ns == u64::MAX;
        let registers = self.phase != Phase::Open;
        // A log that is full may be trimmed, and what was trimmed a moment ago is not free at once.
        let is_full = code == ErrorCode::NoSpace;
        let waits = code.is_retry() || (is_full && (for_ever || registers));
        // Whoever starts or stops says so for as long as it takes: a session is there once it serves, and when it says
        // nothing any more it is gone.
        let may_last = code == ErrorCode::Draining;
        if waits && !may_last && registers {
            self.refused.get_or_insert((self.now_ns, code, detail));
        }
        waits
    }
}
