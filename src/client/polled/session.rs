//! How a polled client's session begins, what is heard in it, and what ends it.

use std::net::SocketAddrV4;

use super::{Link, Phase};
use crate::client::{ClientError, Event, Publisher, ShardFacts, SizeLimit};
use crate::clock::Clock;
use crate::fired::Timer;
use crate::ids::{ConnId, Durability, Peer, ProducerId, StreamId};
use crate::mutant::Mutant;
use crate::session::consume::Subscription;
use crate::wire::control::{ErrorCode, ErrorFrame, Heartbeat, Registered, Trimmed, sizes_of};
use crate::wire::publish::{Data, MESSAGE_HEAD_BYTES, PUBLISH_HEAD_BYTES, PublishState};
use crate::wire::record::Record;
use crate::wire::{DATAGRAM_HEADER_BYTES, FRAME_HEAD_BYTES, Frame, Malformed, parse};

use super::transmit::REGISTER_NS;

/// After so long without a word from the server, register again: it may have been restarted.
const SILENCE_NS: u64 = 2_500_000_000;

/// A session that is so young may answer what was asked in the one before.
const YOUNG_NS: u64 = 1_000_000_000;

/// What a datagram spends before the payload of its only message.
const MESSAGE_OVERHEAD: usize =
    DATAGRAM_HEADER_BYTES + FRAME_HEAD_BYTES + PUBLISH_HEAD_BYTES + MESSAGE_HEAD_BYTES;

impl<C: Clock> Link<C> {
    pub(super) fn take_request(&mut self) -> u32 {
        let id = self.next_request;
        self.next_request = self.next_request.wrapping_add(1).max(1);
        id
    }

    /// Refuses what no server could answer.
    pub(super) fn refuse(&mut self, request: u32, detail: u64) {
        self.note(Event::Refused { request, code: ErrorCode::BadRequest, detail });
    }

    /// Notes an event. Of those that say how things stand, the newest of a kind is kept.
    pub(super) fn note(&mut self, event: Event) {
        match &event {
            Event::Connected { .. } => {
                self.events.retain(|other| !matches!(other, Event::Connected { .. }));
            }
            Event::Subscribed { stream: of, .. } => self
                .events
                .retain(|other| !matches!(other, Event::Subscribed { stream, .. } if stream == of)),
            Event::Stream { .. }
            | Event::ListEnd { .. }
            | Event::Refused { .. }
            | Event::Redirected { .. }
            | Event::Trimmed { .. }
            | Event::TooLarge { .. }
            | Event::DataLoss { .. } => {}
        }
        self.events.push_back(event);
    }

    pub(super) fn fail(&mut self, error: ClientError) {
        self.failed = self.failed.or(Some(error));
    }

    fn drop_one(&mut self) {
        self.dropped = self.dropped.saturating_add(1);
    }

    pub(super) fn on_datagram(
        &mut self,
        peer: Peer,
        bytes: &[u8],
        sink: &mut dyn FnMut(&Record<'_>),
    ) {
        let is_open = self.phase == Phase::Open;
        let (conn_id, frames) = match parse(bytes) {
            Ok((conn_id, _, frames))
                if peer.addr == self.server && (conn_id == self.conn_id || !is_open) =>
            {
                (conn_id, frames)
            }
            Ok(_) | Err(_) => {
                self.drop_one();
                return;
            }
        };
        self.speaks = true;
        for frame in frames {
            let frame = match frame {
                Ok(frame) => frame,
                Err(malformed) => {
                    self.drop_one();
                    if malformed == Malformed::Range && self.phase == Phase::Open {
                        self.fail(ClientError::Nonsense { server: self.server });
                    }
                    return;
                }
            };
            if self.phase == Phase::Open {
                self.heard_ns = self.now_ns;
            } else if conn_id.0 != 0 && matches!(frame, Frame::Error(_)) {
                // What is said of a session given up: that it was fenced by the one asked for now.
                self.drop_one();
                return;
            }
            self.on_frame(&frame, sink);
        }
    }

    fn on_frame(&mut self, frame: &Frame<'_>, sink: &mut dyn FnMut(&Record<'_>)) {
        match frame {
            Frame::Registered(registered) => self.on_registered(registered),
            Frame::Error(error) => self.on_error(error),
            _ if self.phase != Phase::Open => self.drop_one(),
            Frame::Ack(ack) => {
                // An ACK of an earlier epoch is of a server that is no longer the writer.
                if ack.head.epoch.get() >= self.epoch || Mutant::EpochIgnored.is_on() {
                    self.sender.on_ack(ack, self.now_ns);
                }
            }
            Frame::Nak(nak) => self.sender.on_nak(nak, self.now_ns),
            Frame::Data(data) => self.on_data(data, sink),
            Frame::Heartbeat(heartbeat) => self.on_heartbeat(heartbeat),
            Frame::Subscribed(subscribed) => self.on_subscribed(subscribed),
            Frame::Trimmed(trimmed) => self.on_trimmed(trimmed),
            Frame::DataLoss(loss) => {
                let stream = StreamId(loss.stream.get());
                let (first, last) = (loss.first.get(), loss.last.get());
                // One that comes late may be of a subscription before this one.
                let concerns = |sub: &mut Subscription| sub.is_open() && first >= sub.expected();
                if self.subscription(stream).is_some_and(concerns) {
                    self.end_subscription(stream);
                    self.note(Event::DataLoss { stream, first, last });
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
            | Frame::ListStreams(_) => self.drop_one(),
        }
    }

    fn on_data(&mut self, data: &Data<'_>, sink: &mut dyn FnMut(&Record<'_>)) {
        let stream = StreamId(data.head.stream.get());
        let subscription = self.subscriptions.iter_mut().find(|it| it.stream == stream);
        let (Some(subscription), history) = (subscription, &mut self.history) else { return };
        let delivered = match history {
            None => subscription.on_data(data, sink),
            Some(history) => subscription.on_data(data, &mut |record| {
                history.delivered(record);
                sink(record);
            }),
        };
        match delivered {
            Ok(count) => self.delivered = self.delivered.saturating_add(count),
            Err(damaged) => {
                let sequence = damaged.sequence;
                self.fail(ClientError::DamagedMessage { stream, sequence });
            }
        }
    }

    fn on_heartbeat(&mut self, heartbeat: &Heartbeat) {
        if let Some(subscription) = self.subscription(StreamId(heartbeat.stream.get())) {
            subscription.on_heartbeat(heartbeat.durable_next.get());
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
        if self.subscription(stream).is_some_and(concerns) {
            self.end_subscription(stream);
            if let Some(history) = &mut self.history {
                history.trimmed(stream, log_start);
            }
            self.note(Event::Trimmed { stream, log_start });
        }
    }

    /// The server has ended a subscription, and may forget it.
    fn end_subscription(&mut self, stream: StreamId) {
        self.subscriptions.retain(|subscription| subscription.stream != stream);
        if !self.unsubscribe.contains(&stream) {
            self.unsubscribe.push(stream);
        }
    }

    pub(super) fn subscription(&mut self, stream: StreamId) -> Option<&mut Subscription> {
        self.subscriptions.iter_mut().find(|subscription| subscription.stream == stream)
    }

    fn on_registered(&mut self, registered: &Registered) {
        let waits = matches!(self.phase, Phase::Registering { .. });
        if !waits || registered.nonce.get() != self.nonce {
            return;
        }
        if let Err(error) = self.check_registered(registered) {
            self.fail(error);
            return;
        }
        let (durable_to, next_seq) = (registered.durable_to.get(), self.sender.next_seq());
        if next_seq > 1 && durable_to >= next_seq {
            // It has what was never sent.
            self.fail(ClientError::Nonsense { server: self.server });
            return;
        }
        self.phase = Phase::Open;
        self.sent_by = None;
        (self.heard_ns, self.registered_ns, self.speaks) = (self.now_ns, self.now_ns, false);
        self.conn_id = ConnId(registered.conn_id.get());
        self.packet_no = 0;
        self.is_mute = true;
        self.epoch = registered.epoch.get();
        self.refused = None;
        if registered.log.get() != 0 {
            self.log = registered.log.get();
        }
        self.durability =
            Durability::from_code(registered.durability).unwrap_or(Durability::Volatile);
        // Ports may be mapped on the way: the others are as far from the one dialled as they are over there.
        let base_port = self.server.port().saturating_sub(registered.shard.into());
        self.shards = ShardFacts {
            shard: u32::from(registered.shard),
            shards: u32::from(registered.shards).max(1),
            base: SocketAddrV4::new(*self.server.ip(), base_port),
        };
        self.take_sizes(registered);
        if self.options.publisher != Publisher::No {
            self.producer =
                (ProducerId(registered.producer_id.get()), registered.producer_epoch.get());
            let credit = (registered.max_seq_allowed.get(), registered.max_bytes_allowed.get());
            self.sender.begin(self.producer.0, durable_to, credit, self.now_ns);
            self.check_sizes();
        }
        for index in 0..self.subscriptions.len() {
            let request = self.take_request();
            self.subscriptions[index].restart(request);
        }
        for asked in &mut self.asked {
            asked.wait_ns = 0;
        }
        self.note_session();
        self.note(Event::Connected { producer: self.producer.0 });
    }

    /// Who serves, and as whom it publishes, for its history.
    pub(super) fn note_session(&mut self) {
        if let Some(history) = &mut self.history {
            history.session(self.shards.shard, self.log, self.producer.0);
        }
    }

    /// What a message may be long: the least of what the server takes, this side's port, and its window.
    fn take_sizes(&mut self, registered: &Registered) {
        let announced = usize::try_from(registered.message_bytes_max.get()).expect("32 bits fit");
        self.server_datagram_bytes = usize::from(registered.datagram_bytes.get());
        let fits = |datagram_bytes: usize| datagram_bytes.saturating_sub(MESSAGE_OVERHEAD);
        let window = match self.options.publisher {
            Publisher::No => usize::MAX,
            Publisher::New | Publisher::Known(_) => self.sender.payload_bytes_max(),
        };
        let limits = [
            (announced.min(fits(self.server_datagram_bytes)), SizeLimit::Server),
            (fits(self.own_datagram_bytes), SizeLimit::Client),
            (window, SizeLimit::Window),
        ];
        let least = limits.into_iter().min_by_key(|(bytes, _)| *bytes);
        (self.message_bytes_max, self.size_limit) = least.expect("three limits");
    }

    /// What was taken under another server's limits may fit no datagram of this one.
    fn check_sizes(&mut self) {
        let bytes = self.sender.longest_payload();
        if bytes > self.message_bytes_max {
            let (max, limit) = (self.message_bytes_max, self.size_limit);
            self.fail(ClientError::TooLarge { bytes, max, limit });
        }
    }

    fn on_error(&mut self, error: &ErrorFrame<'_>) {
        let (request, detail) = (error.head.request.get(), error.head.detail.get());
        let Some(code) = ErrorCode::from_code(error.head.code.get()) else {
            self.drop_one();
            return;
        };
        if code == ErrorCode::UnknownSession {
            if self.phase == Phase::Open {
                self.register_again();
            }
            return;
        }
        if code == ErrorCode::UnknownSubscription {
            self.subscribe_again(detail);
            return;
        }
        if code == ErrorCode::UnknownProducer && self.is_unused() {
            // Its place was another's before it had done anything with it.
            self.producer = (ProducerId(0), 0);
            self.register_again();
            return;
        }
        if request == 0 && self.is_waited_for(code, detail) {
            self.heard_ns = self.now_ns;
            return;
        }
        if request == 0 {
            self.fail(match (code, sizes_of(detail)) {
                (ErrorCode::MessageTooLarge, (bytes, max)) if bytes > max => {
                    ClientError::TooLarge { bytes, max, limit: SizeLimit::Server }
                }
                _ => ClientError::Refused { code, detail },
            });
            return;
        }
        if let Some(index) = self.asked.iter().position(|asked| asked.id == request) {
            self.asked.swap_remove(index);
            self.note(Event::Refused { request, code, detail });
            return;
        }
        let of_request = |subscription: &&Subscription| subscription.request() == request;
        let Some(subscription) = self.subscriptions.iter().find(of_request) else { return };
        let (stream, sequence) = (subscription.stream, subscription.expected());
        self.end_subscription(stream);
        if code != ErrorCode::MessageTooLarge {
            self.note(Event::Refused { request, code, detail });
            return;
        }
        let (needs, takes) = sizes_of(detail);
        let ours = self.own_datagram_bytes <= self.server_datagram_bytes;
        let limit = if ours { SizeLimit::Client } else { SizeLimit::Server };
        self.note(Event::TooLarge { stream, sequence, needs, takes, limit });
    }

    /// The server lost a subscription: asks for it again from where it is.
    fn subscribe_again(&mut self, stream: u64) {
        let request = self.take_request();
        let is_it = |sub: &&mut Subscription| u64::from(sub.stream.0) == stream && sub.is_open();
        if let Some(subscription) = self.subscriptions.iter_mut().find(is_it) {
            subscription.restart(request);
        }
    }

    pub(super) fn register_again(&mut self) {
        self.is_over |= self.retired_ns != 0;
        // Another nonce: an answer to the old REGISTER that comes late must not be taken.
        self.nonce = self.nonce.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        // Not faster than a REGISTER is repeated, whatever made us.
        let (asked_ns, wait_ns) = (self.register_asked_ns, REGISTER_NS.0);
        self.phase = Phase::Registering { asked_ns, wait_ns };
        self.speaks = false;
        if self.was_connected() {
            // What another session was refused for says nothing of this one. Before the first, all addresses that are
            // tried have the patience of one together.
            self.refused = None;
        }
    }

    /// Gives the server up that says nothing, or nothing of what was asked.
    pub(super) fn check_silence(&mut self) {
        let dead_after_ns = self.options.dead_after_ns;
        let server = self.server;
        self.check_refused();
        let state = self.sender.state();
        if self.phase == Phase::Open
            && matches!(state, PublishState::Failed | PublishState::Damaged)
        {
            // The word that says why may be lost; every acknowledgement says it, too.
            let code = state.refusal().expect("nothing more is taken");
            self.fail(ClientError::Refused { code, detail: 0 });
        }
        let silent_ns = self.now_ns.saturating_sub(self.heard_ns);
        if silent_ns > dead_after_ns {
            let is_there = self.speaks && self.phase != Phase::Open;
            let timer = if is_there { Timer::GivesUpRegister } else { Timer::GivesUpServer };
            timer.fired();
            self.fail(match self.sent_by {
                _ if is_there => ClientError::Unanswered { server, what: "REGISTER" },
                Some((by, shard)) => ClientError::ShardUnreachable { shard, server, by },
                None => ClientError::Unreachable { server },
            });
        } else if silent_ns > SILENCE_NS && self.phase == Phase::Open {
            Timer::ServerSilent.fired();
            self.register_again();
        }
        let young = self.now_ns.saturating_sub(self.registered_ns) < YOUNG_NS;
        if self.phase != Phase::Open || young || dead_after_ns == u64::MAX {
            return;
        }
        let now_ns = self.now_ns;
        let waits = |since_ns: u64| now_ns.saturating_sub(since_ns) > dead_after_ns;
        if self.asked.iter().any(|asked| waits(asked.since_ns)) {
            Timer::GivesUpRequest.fired();
            self.fail(ClientError::Unanswered { server, what: "a request" });
        } else if self.subscriptions.iter().any(|sub| sub.asked_since_ns().is_some_and(waits)) {
            Timer::GivesUpSubscribe.fired();
            self.fail(ClientError::Unanswered { server, what: "SUBSCRIBE" });
        } else if self.sender.stalled_since_ns().is_some_and(waits) {
            Timer::GivesUpPublish.fired();
            self.fail(ClientError::Unanswered { server, what: "PUBLISH" });
        }
    }
}
