//! How long a polled client waits: for a server that is silent, refuses, or leaves something unanswered.

use super::Link;
use super::session::Refusal;
use crate::client::ClientError;
use crate::clock::Clock;
use crate::fired::Timer;
use crate::wire::control::ErrorCode;

/// After so long without a word from the server, register again: it may have been restarted.
const SILENCE_NS: u64 = 2_500_000_000;

/// After so long what was trimmed is free, and a log that is full is full.
const FREED_NS: u64 = 1_000_000_000;

impl<C: Clock> Link<C> {
    /// Gives the server up that says nothing, or nothing of what was asked.
    pub(super) fn check_silence(&mut self) {
        self.check_refused();
        let is_open = self.session.is_open();
        if let Some(failure) = self.publishing.failure().filter(|_| is_open) {
            self.events.fail(failure);
        }
        let dead_after_ns = self.options.dead_after_ns;
        let silent_ns = self.session.silent_ns(self.now_ns);
        if silent_ns > dead_after_ns {
            if let Some((lowest, highest)) = self.session.other_versions() {
                let server = self.route.server();
                self.events.fail(ClientError::OtherVersion { server, lowest, highest });
            } else if self.session.is_only_answered() {
                Timer::GivesUpRegister.fired();
                self.unanswered("INIT or REGISTER");
            } else {
                Timer::GivesUpServer.fired();
                self.events.fail(self.route.unreachable());
            }
        } else if (silent_ns > SILENCE_NS && is_open)
            || self.session.registers_since(SILENCE_NS, self.now_ns)
        {
            Timer::ServerSilent.fired();
            self.register_again();
        } else if self.session.is_spent() {
            self.register_again();
        }
        if self.session.is_open() && !self.session.is_young(self.now_ns) && dead_after_ns < u64::MAX
        {
            self.check_answers();
        }
    }

    fn check_answers(&mut self) {
        let (now_ns, dead_after_ns) = (self.now_ns, self.options.dead_after_ns);
        let waits = |since_ns: u64| now_ns.saturating_sub(since_ns) > dead_after_ns;
        if self.requests.oldest_ns().is_some_and(waits) {
            Timer::GivesUpRequest.fired();
            self.unanswered("a request");
        } else if self.subscriptions.oldest_ns().is_some_and(waits) {
            Timer::GivesUpSubscribe.fired();
            self.unanswered("SUBSCRIBE");
        } else if self.publishing.sender().stalled_since_ns().is_some_and(waits) {
            Timer::GivesUpPublish.fired();
            self.unanswered("PUBLISH");
        }
    }

    fn unanswered(&mut self, what: &'static str) {
        self.events.fail(ClientError::Unanswered { server: self.route.server(), what });
    }

    /// Whether a refusal is waited for without limit. Whoever starts or stops says so for as long as it takes, and so
    /// does an appliance whose disk is away. A first connection waits for one that starts only: it will serve.
    fn may_last(was_connected: bool, code: ErrorCode) -> bool {
        code == ErrorCode::Starting || (code == ErrorCode::Draining && was_connected)
    }

    /// Gives up asking again where the reason of a refusal does not pass.
    fn check_refused(&mut self) {
        let Some(refusal) = self.session.refused() else { return };
        let Refusal { code, detail, since_ns, code_since_ns } = refusal;
        let dead_after_ns = self.options.dead_after_ns;
        let now_ns = self.now_ns;
        let waits = |since_ns: u64, patience_ns: u64| now_ns.saturating_sub(since_ns) > patience_ns;
        let is_over = if Self::may_last(self.terms.was_connected(), code) {
            // Messages wait, offered or subscribed to; whoever asked for something does not.
            let asked = [self.requests.oldest_ns(), self.subscriptions.oldest_new_ns()];
            let asked_ns = asked.into_iter().flatten().min();
            asked_ns.is_some_and(|since_ns| waits(since_ns, dead_after_ns))
        } else {
            let is_full = code == ErrorCode::NoSpace && dead_after_ns < u64::MAX;
            waits(since_ns, dead_after_ns) || (is_full && waits(code_since_ns, FREED_NS))
        };
        if is_over {
            Timer::GivesUpRefused.fired();
            self.events.fail(ClientError::Refused(code.with(detail)));
        }
    }

    /// Whether a refusal of all the client wants may pass: then it asks again, for as long as it would wait for
    /// a server that is silent.
    pub(super) fn is_waited_for(&mut self, code: ErrorCode, detail: u64) -> bool {
        let for_ever = self.options.dead_after_ns == u64::MAX;
        let registers = !self.session.is_open();
        // A log that is full may be trimmed, and what was trimmed a moment ago is not free at once.
        let is_full = code == ErrorCode::NoSpace;
        let waits = code.is_retry() || (is_full && (for_ever || registers));
        if waits && registers {
            let was_connected = self.terms.was_connected();
            let lasts = Self::may_last(was_connected, code);
            self.session.refuse(code, detail, self.now_ns, |before| {
                Self::may_last(was_connected, before.code) != lasts
            });
        }
        waits
    }
}
