//! What a polled client hears, and what that changes.

use super::Link;
use crate::client::{ClientError, Compared, Event, SizeLimit};
use crate::clock::Clock;
use crate::ids::{ConnId, Peer, StreamId};
use crate::mutant::Mutant;
use crate::session::consume::Subscription;
use crate::wire::control::{
    ErrorCode, ErrorFrame, Heartbeat, Registered, Sizes, Subscribed, Trimmed,
};
use crate::wire::publish::Data;
use crate::wire::record::Record;
use crate::wire::{Frame, Malformed, parse};

impl<C: Clock> Link<C> {
    pub(super) fn on_datagram(
        &mut self,
        peer: Peer,
        bytes: &[u8],
        sink: &mut dyn FnMut(&Record<'_>),
    ) {
        let (conn_id, frames) = match parse(bytes) {
            Ok((conn_id, _, frames))
                if peer.addr == self.route.server() && self.session.may_be_of(conn_id) =>
            {
                (conn_id, frames)
            }
            Ok(_) | Err(_) => {
                self.events.drop_one();
                return;
            }
        };
        self.session.hears_something();
        for frame in frames {
            let frame = match frame {
                Ok(frame) => frame,
                Err(malformed) => {
                    self.events.drop_one();
                    if malformed == Malformed::Range && self.session.is_open() {
                        self.events.fail(ClientError::Nonsense { server: self.route.server() });
                    }
                    return;
                }
            };
            if self.session.is_open() {
                self.session.hears(self.now_ns);
            } else if conn_id.0 != 0 && matches!(frame, Frame::Error(_)) {
                // What is said of a session given up: that it was fenced by the one asked for now.
                self.events.drop_one();
                return;
            }
            self.on_frame(&frame, sink);
        }
    }

    fn on_frame(&mut self, frame: &Frame<'_>, sink: &mut dyn FnMut(&Record<'_>)) {
        match frame {
            Frame::Registered(registered) => self.on_registered(registered),
            Frame::Error(error) => self.on_error(error),
            _ if !self.session.is_open() => self.events.drop_one(),
            Frame::Ack(ack) => {
                // An ACK of an earlier epoch is of a server that is no longer the writer.
                if ack.head.epoch.get() >= self.terms.epoch() || Mutant::EpochIgnored.is_on() {
                    self.publishing.sender_mut().on_ack(ack, self.now_ns);
                }
            }
            Frame::Nak(nak) => self.publishing.sender_mut().on_nak(nak, self.now_ns),
            Frame::Data(data) => self.on_data(data, sink),
            Frame::Heartbeat(heartbeat) => self.on_heartbeat(heartbeat),
            Frame::Subscribed(subscribed) => self.on_subscribed(subscribed),
            Frame::Trimmed(trimmed) => self.on_trimmed(trimmed),
            Frame::DataLoss(loss) => {
                let stream = StreamId(loss.stream.get());
                let (first, last) = (loss.first.get(), loss.last.get());
                // One that comes late may be of a subscription before this one.
                let concerns = |sub: &mut Subscription| sub.is_open() && first >= sub.expected();
                if self.subscriptions.of_mut(stream).is_some_and(concerns) {
                    self.subscriptions.end(stream);
                    self.events.note(Event::DataLoss { stream, first, last });
                }
            }
            Frame::StreamInfo(info) => self.on_stream_info(info),
            Frame::ListEnd(end) => self.on_list_end(end),
            Frame::Redirect(redirect) => self.on_redirect(redirect),
            // The session is over, not the conversation: the appliance may be on its way back.
            Frame::Close => self.register_again(),
            Frame::Register(_)
            | Frame::Publish(_)
            | Frame::Probe(_)
            | Frame::Subscribe(_)
            | Frame::Status(_)
            | Frame::Unsubscribe(_)
            | Frame::CreateStream(_)
            | Frame::CreateStreamOn(_)
            | Frame::Retire(_)
            | Frame::DescribeStream(_)
            | Frame::TrimStream(_)
            | Frame::ListStreams(_) => self.events.drop_one(),
        }
    }

    fn on_data(&mut self, data: &Data<'_>, sink: &mut dyn FnMut(&Record<'_>)) {
        if let Err(damaged) = self.subscriptions.on_data(data, &mut self.history, sink) {
            let (stream, sequence) = (StreamId(data.head.stream.get()), damaged.sequence);
            self.events.fail(ClientError::DamagedMessage { stream, sequence });
        }
    }

    fn on_heartbeat(&mut self, heartbeat: &Heartbeat) {
        let stream = StreamId(heartbeat.stream.get());
        if let Some(subscription) = self.subscriptions.of_mut(stream) {
            subscription.on_heartbeat(heartbeat.durable_next.get());
        }
    }

    fn on_subscribed(&mut self, subscribed: &Subscribed) {
        let (server, stream) = (self.route.server(), StreamId(subscribed.stream.get()));
        let (start, durable_next) = (subscribed.start.get(), subscribed.durable_next.get());
        let request = subscribed.request.get();
        // One that is doubled or late says how far the stream was then.
        let answers = |sub: &&mut Subscription| sub.request() == request && !sub.is_open();
        let Some(subscription) = self.subscriptions.of_mut(stream).filter(answers) else { return };
        let acknowledged = subscription.delivered_to();
        if durable_next <= acknowledged {
            // All that was delivered was durable.
            let (what, found) = (Compared::Stream(stream), durable_next.saturating_sub(1));
            self.events.fail(ClientError::Behind { server, what, acknowledged, found });
        } else if subscription.on_subscribed(start) {
            if let Some(history) = &mut self.history {
                history.subscribed(stream, start, durable_next);
            }
            self.events.note(Event::Subscribed { stream, start, durable_next });
        }
    }

    fn on_trimmed(&mut self, trimmed: &Trimmed) {
        let stream = StreamId(trimmed.stream.get());
        let (request, log_start) = (trimmed.request.get(), trimmed.log_start.get());
        // One that comes late may be of a subscription before this one.
        let concerns = |subscription: &mut Subscription| match request {
            0 => (1..log_start).contains(&subscription.expected()),
            request => subscription.request() == request,
        };
        if self.subscriptions.of_mut(stream).is_some_and(concerns) {
            self.subscriptions.end(stream);
            if let Some(history) = &mut self.history {
                history.trimmed(stream, log_start);
            }
            self.events.note(Event::Trimmed { stream, log_start });
        }
    }

    fn on_registered(&mut self, registered: &Registered) {
        if !self.session.asked_with(registered.nonce.get()) {
            return;
        }
        let server = self.route.server();
        let checked = self.terms.check(server, registered);
        if let Err(error) = checked.and_then(|()| self.publishing.check(server, registered)) {
            self.events.fail(error);
            return;
        }
        self.route.arrived();
        self.session.open(ConnId(registered.conn_id.get()), self.now_ns);
        self.terms.take(server, registered, self.publishing.window_bytes());
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
        if code == ErrorCode::UnknownSession {
            if self.session.is_open() {
                self.register_again();
            }
            return;
        }
        if code == ErrorCode::UnknownSubscription {
            let request = self.requests.take_number();
            self.subscriptions.restart(detail, request);
            return;
        }
        let registers = !self.session.is_open();
        if code == ErrorCode::UnknownProducer && registers && self.publishing.is_unused() {
            // Its place was another's before it had done anything with it.
            self.publishing.forget_producer();
            self.register_again();
            return;
        }
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
        if code != ErrorCode::MessageTooLarge {
            self.events.note(Event::Refused { request, code, detail });
            return;
        }
        let (Sizes { needs, takes }, limit) =
            (Sizes::of(detail), self.terms.size_limit_of_consuming());
        self.events.note(Event::TooLarge { stream, sequence, needs, takes, limit });
    }

    pub(super) fn register_again(&mut self) {
        self.publishing.session_ended();
        self.session.ask_anew();
        if self.terms.was_connected() {
            // Before the first session, all addresses that are tried have the patience of one together.
            self.session.forget_refusal();
        }
    }
}
