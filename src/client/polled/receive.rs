//! What a polled client hears, and what that changes.

use super::Link;
use crate::client::{ClientError, Compared, Event, SizeLimit};
use crate::clock::Clock;
use crate::ids::{ConnId, Lineage, Peer, StreamId};
use crate::mutant::Mutant;
use crate::session::consume::Subscription;
use crate::wire::control::{
    Close, DataLoss, ErrorCode, ErrorFrame, Heartbeat, OF_PRODUCER, Registered, Sizes, Subscribed,
    Trimmed,
};
use crate::wire::datagram::{Reset, Resp};
use crate::wire::frame::Body;
use crate::wire::publish::Data;
use crate::wire::record::Record;
use crate::wire::{Datagram, FromServer, Malformed, opened, parse};

impl<C: Clock> Link<C> {
    pub(super) fn on_datagram(
        &mut self,
        peer: Peer,
        bytes: &mut [u8],
        sink: &mut dyn FnMut(&Record<'_>),
    ) {
        if peer.addr != self.route.server() {
            self.events.drop_one();
            return;
        }
        let is_heard = match parse(bytes) {
            Ok(Datagram::Session { conn_id, packet_no, frames }) => {
                let old = Mutant::OldSessionHeard.is_on();
                let is_ours = conn_id == self.session.client_id() || old;
                let is_heard = is_ours && (self.session.accepts(packet_no) || old);
                if is_heard {
                    // Before what it says: that may begin another session.
                    self.session.hears_something();
                    self.on_frames(frames, sink);
                }
                is_heard
            }
            Ok(Datagram::Sealed { conn_id, packet_no, phase }) => {
                let is_heard = conn_id == self.session.client_id()
                    && self.session.opens(packet_no, phase, bytes, self.now_ns);
                if is_heard {
                    self.session.hears_something();
                    self.on_frames(opened(bytes), sink);
                }
                is_heard
            }
            Ok(Datagram::Retry(retry)) => {
                let is_heard = self.session.on_retry(retry);
                if is_heard {
                    self.session.hears_something();
                }
                is_heard
            }
            Ok(Datagram::Resp(resp)) => self.on_resp(resp),
            Ok(Datagram::Reset(reset)) => self.on_reset(reset),
            Ok(Datagram::Versions(versions)) => self.session.on_versions(versions),
            Ok(Datagram::Init(_) | Datagram::OtherVersion(_)) | Err(_) => false,
        };
        if !is_heard {
            self.events.drop_one();
        }
    }

    fn on_resp(&mut self, resp: &Resp) -> bool {
        let Some(accept) = self.session.on_resp(resp, self.now_ns) else { return false };
        self.session.hears_something();
        if accept.status.get() == 0 {
            self.terms.take_shards(self.route.server(), &accept);
            let request = self.requests.take_number();
            self.session.accepted(&accept, request, self.now_ns);
            return true;
        }
        let code = ErrorCode::from_code(accept.status.get()).unwrap_or(ErrorCode::Protocol);
        if !code.is_retry() {
            let server = self.route.server();
            let is_unknown = code == ErrorCode::NotAuthorized;
            let refused = ClientError::Refused(code.with(0));
            self.events.fail(if is_unknown { ClientError::UnknownKey { server } } else { refused });
            return true;
        }
        self.session.rejected(accept.retry_ms.get(), self.now_ns);
        let _ = self.is_waited_for(code, 0);
        self.session.hears(self.now_ns);
        true
    }

    fn on_reset(&mut self, reset: &Reset) -> bool {
        let is_ours = self.session.is_reset(ConnId(reset.conn_id.get()), &reset.token);
        if is_ours {
            if self.session.is_open() {
                self.session.hears(self.now_ns);
            }
            self.register_again();
        }
        is_ours
    }

    fn on_frames(&mut self, frames: Body<'_>, sink: &mut dyn FnMut(&Record<'_>)) {
        for frame in frames.from_server() {
            match frame {
                Ok(frame) => {
                    if self.session.is_open() {
                        self.session.hears(self.now_ns);
                    }
                    self.on_frame(&frame, sink);
                }
                Err(malformed) => {
                    self.events.drop_one();
                    // What is sealed is what the server said: it is nonsense, and no damage.
                    let is_said = malformed == Malformed::Range || self.session.is_sealed();
                    if is_said && self.session.is_open() {
                        self.events.fail(ClientError::Nonsense { server: self.route.server() });
                    }
                    return;
                }
            }
        }
    }

    fn on_frame(&mut self, frame: &FromServer<'_>, sink: &mut dyn FnMut(&Record<'_>)) {
        match frame {
            FromServer::Pad(_) => {}
            FromServer::Registered(registered) => self.on_registered(registered),
            FromServer::Error(error) => self.on_error(error),
            FromServer::Close(close) => self.on_close(close),
            _ if !self.session.is_open() => self.events.drop_one(),
            FromServer::Ack(ack) => {
                self.publishing.sender_mut().on_ack(ack, self.now_ns);
                self.publishing.witness(ack, self.terms.lineage());
            }
            FromServer::Nak(nak) => self.publishing.sender_mut().on_nak(nak, self.now_ns),
            FromServer::Data(data) => self.on_data(data, sink),
            FromServer::Heartbeat(heartbeat) => self.on_heartbeat(heartbeat),
            FromServer::Subscribed(subscribed) => self.on_subscribed(subscribed),
            FromServer::Trimmed(trimmed) => self.on_trimmed(trimmed),
            FromServer::DataLoss(loss) => self.on_data_loss(loss),
            FromServer::StreamInfo(info) => self.on_stream_info(info),
            FromServer::ListEnd(end) => self.on_list_end(end),
            FromServer::Redirect(redirect) => self.on_redirect(redirect),
        }
    }

    /// The session is over for good: only the server's own word says so, and to nobody else.
    fn on_close(&mut self, close: &Close) {
        let code = ErrorCode::from_code(close.code.get()).unwrap_or(ErrorCode::Protocol);
        self.events.fail(ClientError::Refused(code.with(0)));
    }

    fn on_data_loss(&mut self, loss: &DataLoss) {
        let (first, last) = (loss.first.get(), loss.last.get());
        let Some(subscription) = self.subscriptions.of_request(loss.sub.get()) else { return };
        // One that comes late may be of what was asked for again since.
        if subscription.is_open() && first >= subscription.expected() {
            let stream = subscription.stream;
            self.subscriptions.end(stream);
            self.events.note(Event::DataLoss { stream, first, last });
        }
    }

    fn on_data(&mut self, data: &Data<'_>, sink: &mut dyn FnMut(&Record<'_>)) {
        if let Err((stream, damaged)) = self.subscriptions.on_data(data, &mut self.history, sink) {
            let sequence = damaged.sequence;
            self.events.fail(ClientError::DamagedMessage { stream, sequence });
        }
    }

    fn on_heartbeat(&mut self, heartbeat: &Heartbeat) {
        let sub = heartbeat.sub.get();
        match self.subscriptions.of_request_mut(sub) {
            Some(subscription) => subscription.on_heartbeat(heartbeat.durable_next.get()),
            None => self.subscriptions.end_unknown(sub),
        }
    }

    fn on_subscribed(&mut self, subscribed: &Subscribed) {
        let server = self.route.server();
        let (start, durable_next) = (subscribed.start.get(), subscribed.durable_next.get());
        let request = subscribed.request.get();
        // One that is doubled or late says how far the stream was then.
        let waits = |sub: &&mut Subscription| !sub.is_open();
        let found = self.subscriptions.of_request_mut(request).filter(waits);
        let Some(subscription) = found else { return };
        let (stream, acknowledged) = (subscription.stream, subscription.delivered_to());
        if durable_next <= acknowledged {
            // All that was delivered was durable.
            let (what, found) = (Compared::Stream(stream), durable_next.saturating_sub(1));
            self.events.fail(ClientError::Behind { server, what, acknowledged, found });
        } else if subscription.on_subscribed(start, Lineage(subscribed.lineage.get())) {
            if let Some(history) = &mut self.history {
                history.subscribed(stream, start, durable_next);
            }
            self.events.note(Event::Subscribed { stream, start, durable_next });
        }
    }

    fn on_trimmed(&mut self, trimmed: &Trimmed) {
        let log_start = trimmed.log_start.get();
        let Some(subscription) = self.subscriptions.of_request(trimmed.sub.get()) else { return };
        // One that comes late may be of where it was before.
        if !subscription.is_open() || (1..log_start).contains(&subscription.expected()) {
            let stream = subscription.stream;
            self.subscriptions.end(stream);
            if let Some(history) = &mut self.history {
                history.trimmed(stream, log_start);
            }
            self.events.note(Event::Trimmed { stream, log_start });
        }
    }

    fn on_registered(&mut self, registered: &Registered) {
        if !self.session.registers_with(registered.request.get()) {
            return;
        }
        let server = self.route.server();
        let checked = self.terms.check(server, registered);
        if let Err(error) = checked.and_then(|()| self.publishing.check(server, registered)) {
            self.events.fail(error);
            return;
        }
        self.route.arrived();
        self.session.open(self.now_ns);
        self.terms.take(registered, self.publishing.window_bytes());
        self.publishing.begin(registered, self.now_ns);
        if let Err(error) = self.publishing.check_sizes(&self.terms) {
            self.events.fail(error);
        }
        self.subscriptions.begin(&mut self.requests);
        self.requests.begin();
        self.note_session();
        self.events.note(Event::Connected { producer: self.publishing.producer() });
    }

    /// Who serves, and as whom it publishes, for its history.
    pub(super) fn note_session(&mut self) {
        if let Some(history) = &mut self.history {
            let shard = self.terms.shards().shard;
            history.session(shard, self.terms.log(), self.publishing.producer());
        }
    }

    fn on_error(&mut self, error: &ErrorFrame<'_>) {
        let (request, detail) = (error.head.request.get(), error.head.detail.get());
        let Some(code) = ErrorCode::from_code(error.head.code.get()) else {
            self.events.drop_one();
            return;
        };
        if code == ErrorCode::UnknownSubscription {
            let again = self.requests.take_number();
            self.subscriptions.restart(request, again);
            return;
        }
        let registers = self.session.registers_with(request);
        if registers && code == ErrorCode::UnknownProducer && self.publishing.is_unused() {
            // Its place was another's before it had done anything with it.
            self.publishing.forget_producer();
            let request = self.requests.take_number();
            self.session.register_with(request);
            return;
        }
        if registers && let Some(error) = self.other_history(code, detail) {
            self.events.fail(error);
            return;
        }
        // What is said of a registration is said of all that is wanted.
        let request = if registers { 0 } else { request };
        if request == 0 && self.is_waited_for(code, detail) {
            self.session.hears(self.now_ns);
            return;
        }
        if request == 0 {
            self.events.fail(match (code, Sizes::of(detail)) {
                (ErrorCode::MessageTooLarge, Sizes { needs, takes }) if needs > takes => {
                    ClientError::TooLarge { bytes: needs, max: takes, limit: SizeLimit::Server }
                }
                _ => ClientError::Refused(code.with(detail)),
            });
            return;
        }
        if self.requests.end(request) {
            self.events.note(Event::Refused { request, code, detail });
            return;
        }
        let Some(subscription) = self.subscriptions.of_request(request) else { return };
        let (stream, sequence) = (subscription.stream, subscription.expected());
        self.subscriptions.end(stream);
        if code == ErrorCode::Diverged {
            self.events.fail(self.other_stream(stream, sequence.saturating_sub(1), detail));
            return;
        }
        if code != ErrorCode::MessageTooLarge {
            self.events.note(Event::Refused { request, code, detail });
            return;
        }
        let (Sizes { needs, takes }, limit) =
            (Sizes::of(detail), self.terms.size_limit_of_consuming());
        self.events.note(Event::TooLarge { stream, sequence, needs, takes, limit });
    }

    /// What a registration is refused for by a log that is not the one this client was with.
    fn other_history(&self, code: ErrorCode, detail: u64) -> Option<ClientError> {
        let server = self.route.server();
        if code == ErrorCode::WrongLog {
            let (begun, found) = (self.terms.log(), u32::try_from(detail).unwrap_or(0));
            return Some(ClientError::OtherLog { server, begun, found });
        }
        if code == ErrorCode::Diverged && detail & OF_PRODUCER != 0 {
            let (what, found) = (Compared::Messages, detail & !OF_PRODUCER);
            let acknowledged = self.publishing.sender().durable_to();
            return Some(ClientError::Behind { server, what, acknowledged, found });
        }
        let witness = self.publishing.newest().filter(|_| code == ErrorCode::Diverged)?;
        Some(self.other_stream(witness.stream, witness.sequence, detail))
    }

    /// A stream of which a message is known to be stored, and that goes on with `next` where it is not.
    fn other_stream(&self, stream: StreamId, acknowledged: u64, next: u64) -> ClientError {
        let server = self.route.server();
        if next <= acknowledged {
            let (what, found) = (Compared::Stream(stream), next.saturating_sub(1));
            ClientError::Behind { server, what, acknowledged, found }
        } else {
            ClientError::OtherHistory { server, stream, sequence: acknowledged }
        }
    }

    pub(super) fn register_again(&mut self) {
        self.publishing.session_ended();
        self.session.ask_anew(self.now_ns);
        if self.terms.was_connected() {
            // Before the first session, all addresses that are tried have the patience of one together.
            self.session.forget_refusal();
        }
    }
}
