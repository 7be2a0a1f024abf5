//! The polled client: for gateways that run their own loop.
//!
//! ```no_run
//! use buslane::client::polled::Client;
//! use buslane::client::{ClientOptions, Publisher};
//! use buslane::clock::HostClock;
//! use buslane::ids::StreamId;
//! use buslane::port::udp::UdpPort;
//!
//! let port = UdpPort::open("127.0.0.1:0".parse()?, 1472)?;
//! let server = "127.0.0.1:9310".parse()?;
//! let mut client = Client::new(port, HostClock::new(), server, ClientOptions::new(Publisher::New));
//! let mut offered = false;
//! loop {
//!     client.poll(&mut |_| {})?;
//!     if !offered {
//!         offered = client.offer(StreamId(1), b"NewOrderSingle").is_ok();
//!     }
//!     if let Some(completion) = client.next_completion() {
//!         println!("on media: {:?}", completion.receipt);
//!         break;
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod answers;
mod transmit;

use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::num::NonZeroU64;

use zerocopy::IntoBytes;

use super::{
    BackPressure, ClientError, ClientOptions, Completion, Event, OfferError, Publisher, Receipt,
    Request, ShardFacts, StartFrom,
};
use crate::clock::Clock;
use crate::ids::{ConnId, Durability, Epoch, Peer, ProducerId, StreamId};
use crate::mutant::Mutant;
use crate::port::Port;
use crate::session::consume::Subscription;
use crate::session::send::{Blocked, Sender};
use crate::wire::control::{ErrorCode, ErrorFrame, Registered, Unsubscribe};
use crate::wire::frame::Kind;
use crate::wire::publish::PublishState;
use crate::wire::record::Record;
use crate::wire::{Frame, Malformed, parse};

/// After so long without a word from the server, register again: it may have been restarted.
const SILENCE_NS: u64 = 2_500_000_000;

/// A request that is not answered.
#[derive(Debug)]
struct Asked {
    id: u32,
    request: Request,
    /// How far a list has come.
    after: u32,
    asked_ns: u64,
    wait_ns: u64,
}

/// How far the session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Registering { asked_ns: u64, wait_ns: u64 },
    Open,
}

/// A client that its owner polls.
#[derive(Debug)]
pub struct Client<P, C> {
    port: P,
    link: Link<C>,
}

/// Everything but the port, so that a received datagram can be read in place.
#[derive(Debug)]
struct Link<C> {
    clock: C,
    server: SocketAddrV4,
    options: ClientOptions,
    phase: Phase,
    nonce: u64,
    conn_id: ConnId,
    packet_no: u64,
    epoch: u64,
    durability: Durability,
    producer: (ProducerId, u32),
    shards: ShardFacts,
    /// Redirections followed since something was last answered.
    redirects: u32,
    /// A session given up for one with another shard: its server is to hear of it.
    left: Option<(SocketAddrV4, ConnId)>,
    message_bytes_max: usize,
    server_datagram_bytes: usize,
    sender: Sender,
    subscriptions: Vec<Subscription>,
    asked: Vec<Asked>,
    next_request: u32,
    events: VecDeque<Event>,
    failed: Option<ClientError>,
    now_ns: u64,
    heard_ns: u64,
    said_ns: u64,
    /// Datagrams that were not the server's, or made no sense.
    dropped: u64,
    delivered: u64,
}

impl<P: Port, C: Clock> Client<P, C> {
    /// A client for the appliance at `server`; it connects while it is polled.
    pub fn new(port: P, clock: C, server: SocketAddrV4, options: ClientOptions) -> Self {
        let now_ns = clock.now_ns();
        let producer = match options.publisher {
            Publisher::No | Publisher::New => ProducerId(0),
            Publisher::Known(id) => id,
        };
        let (messages, bytes) = match options.publisher {
            Publisher::No => (1, 1),
            Publisher::New | Publisher::Known(_) => (options.window_messages, options.window_bytes),
        };
        let link = Link {
            clock,
            server,
            options,
            phase: Phase::Registering { asked_ns: 0, wait_ns: 0 },
            nonce: options.nonce,
            conn_id: ConnId(0),
            packet_no: 0,
            epoch: 0,
            durability: Durability::Volatile,
            producer: (producer, 0),
            shards: ShardFacts { shard: 0, shards: 1, base: server },
            redirects: 0,
            left: None,
            message_bytes_max: 0,
            server_datagram_bytes: port.datagram_bytes(),
            sender: Sender::new(messages, bytes),
            subscriptions: Vec::new(),
            asked: Vec::new(),
            next_request: 1,
            events: VecDeque::with_capacity(64),
            failed: None,
            now_ns,
            heard_ns: now_ns,
            said_ns: 0,
            dropped: 0,
            delivered: 0,
        };
        Self { port, link }
    }

    /// One bounded turn: takes what has arrived, sends what is due. Messages of subscriptions go to
    /// `sink` in sequence. Returns the work done.
    ///
    /// # Errors
    /// When the client can go on no more; every later call says the same.
    pub fn poll(&mut self, sink: &mut dyn FnMut(&Record<'_>)) -> Result<usize, ClientError> {
        let received = self.port.receive();
        self.link.now_ns = self.link.clock.now_ns();
        for index in 0..received {
            let (peer, bytes) = self.port.datagram(index);
            self.link.on_datagram(peer, bytes, sink);
        }
        if let Some(error) = self.link.failed {
            return Err(error);
        }
        let sent = self.link.transmit(&mut self.port);
        self.port.flush();
        self.link.check_silence();
        Ok(received + sent)
    }

    /// Sends what was offered without looking for what has arrived.
    pub fn flush(&mut self) -> usize {
        self.link.now_ns = self.link.clock.now_ns();
        if self.link.phase != Phase::Open {
            return 0;
        }
        let sent = self.link.transmit_publishes(&mut self.port);
        self.port.flush();
        sent
    }

    /// Takes a message to publish; it goes out with the next [`Client::poll`], together with others
    /// offered before. Returns its number.
    ///
    /// # Errors
    /// See [`OfferError`]; nothing was changed.
    #[inline]
    pub fn offer(&mut self, stream: StreamId, payload: &[u8]) -> Result<u64, OfferError> {
        let link = &mut self.link;
        if link.options.publisher == Publisher::No {
            return Err(OfferError::NotAPublisher);
        }
        if link.message_bytes_max == 0 {
            return Err(OfferError::NotConnected);
        }
        if payload.len() > link.message_bytes_max {
            let (bytes, max) = (payload.len(), link.message_bytes_max);
            return Err(OfferError::TooLarge { bytes, max });
        }
        link.sender.offer(stream, payload, link.now_ns).map_err(|blocked| {
            OfferError::BackPressure(match blocked {
                Blocked::Window => BackPressure::Window,
                Blocked::Server(state) => BackPressure::Server(state),
            })
        })
    }

    /// The next message that is durable, in the order of their numbers.
    #[inline]
    pub fn next_completion(&mut self) -> Option<Completion> {
        let link = &mut self.link;
        let sent = link.sender.next_sent()?;
        Some(Completion {
            producer_seq: sent.producer_seq,
            receipt: Receipt {
                stream: sent.stream,
                sequence: sent.sequence.and_then(NonZeroU64::new),
                epoch: Epoch(link.epoch),
                durability: link.durability,
                server_ns: sent.server_ns,
                device_ns: sent.device_ns,
            },
            offered_ns: sent.offered_ns,
            sent_ns: sent.sent_ns,
        })
    }

    /// Asks for a stream from somewhere on; its messages come through [`Client::poll`]. `window` is
    /// how many may be on their way.
    pub fn subscribe(&mut self, stream: StreamId, from: StartFrom, window: u32) {
        let request = self.link.take_request();
        self.unsubscribe(stream);
        self.link.subscriptions.push(Subscription::new(stream, request, from, window));
    }

    /// Ends a subscription.
    pub fn unsubscribe(&mut self, stream: StreamId) {
        let link = &mut self.link;
        let before = link.subscriptions.len();
        link.subscriptions.retain(|subscription| subscription.stream != stream);
        if link.subscriptions.len() < before && link.phase == Phase::Open {
            let body = Unsubscribe { stream: stream.0.into() };
            link.send(&mut self.port, |writer| {
                let _ = writer.frame(Kind::Unsubscribe, body.as_bytes(), &[]);
            });
        }
    }

    /// The next sequence a subscription wants; 0 before it stands.
    #[must_use]
    pub fn position(&self, stream: StreamId) -> u64 {
        let found = self.link.subscriptions.iter().find(|sub| sub.stream == stream);
        found.map_or(0, Subscription::expected)
    }

    /// Asks the server; answered by events that carry the number returned.
    pub fn request(&mut self, request: Request) -> u32 {
        let id = self.link.take_request();
        self.link.asked.push(Asked { id, request, after: 0, asked_ns: 0, wait_ns: 0 });
        id
    }

    /// The next thing the client was told.
    pub fn next_event(&mut self) -> Option<Event> {
        self.link.events.pop_front()
    }

    /// Whether the session is open.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.link.phase == Phase::Open
    }

    /// The producer this client publishes as, 0 before it is known, and its epoch.
    #[must_use]
    pub fn producer(&self) -> (ProducerId, u32) {
        self.link.producer
    }

    /// Where the shard listens that the session is with.
    #[must_use]
    pub fn server(&self) -> SocketAddrV4 {
        self.link.server
    }

    /// Goes on with the appliance at another address, where this one has moved to: the same shard of it.
    pub fn set_server(&mut self, server: SocketAddrV4) {
        if self.link.server != server {
            self.link.server = server;
            self.link.register_again();
        }
    }

    /// The port, to look at.
    #[must_use]
    pub fn port(&self) -> &P {
        &self.port
    }

    /// The shard that the session is with, and how many there are; known once it is open.
    #[must_use]
    pub fn shards(&self) -> ShardFacts {
        self.link.shards
    }

    /// Why an acknowledged message is safe with this server.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.link.durability
    }

    /// Messages offered and not completed.
    #[must_use]
    pub fn outstanding(&self) -> u64 {
        self.link.sender.outstanding()
    }

    /// The number the next message gets.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.link.sender.next_seq()
    }

    /// What the server last said of publishing.
    #[must_use]
    pub fn publish_state(&self) -> PublishState {
        self.link.sender.state()
    }

    /// Payload bytes of one message, at most; 0 before the session is open.
    #[must_use]
    pub fn message_bytes_max(&self) -> usize {
        self.link.message_bytes_max
    }

    /// Datagrams dropped because they were not the server's or made no sense.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.link.dropped
    }

    /// Changes after how long a silence the server is given up; `u64::MAX` waits for ever.
    pub fn set_dead_after_ns(&mut self, dead_after_ns: u64) {
        self.link.options.dead_after_ns = dead_after_ns;
    }

    /// Its connection and the highest epoch it has seen, for those who forge datagrams.
    #[cfg(feature = "sim")]
    pub(crate) fn session(&self) -> (ConnId, u64) {
        (self.link.conn_id, self.link.epoch)
    }

    /// Its own address.
    #[cfg(feature = "sim")]
    pub(crate) fn local(&self) -> SocketAddrV4 {
        self.port.local()
    }

    /// The clock it reads.
    #[must_use]
    pub fn clock(&self) -> &C {
        &self.link.clock
    }

    /// Says goodbye and gives the port back.
    pub fn close(mut self) -> P {
        if self.link.phase == Phase::Open {
            self.link.send(&mut self.port, |writer| {
                let _ = writer.frame(Kind::Close, &[], &[]);
            });
            self.port.flush();
        }
        self.port
    }
}

impl<C: Clock> Link<C> {
    fn take_request(&mut self) -> u32 {
        let id = self.next_request;
        self.next_request = self.next_request.wrapping_add(1).max(1);
        id
    }

    fn on_datagram(&mut self, peer: Peer, bytes: &[u8], sink: &mut dyn FnMut(&Record<'_>)) {
        let ours = |conn_id: ConnId| conn_id == self.conn_id || self.phase != Phase::Open;
        let (conn_id, frames) = match parse(bytes) {
            Ok((conn_id, _, frames)) if peer.addr == self.server && ours(conn_id) => {
                (conn_id, frames)
            }
            Ok(_) | Err(_) => {
                self.dropped += 1;
                return;
            }
        };
        for frame in frames {
            let frame = match frame {
                Ok(frame) => frame,
                Err(malformed) => {
                    self.dropped = self.dropped.saturating_add(1);
                    if malformed == Malformed::Range && self.phase == Phase::Open {
                        self.failed = Some(ClientError::Nonsense { server: self.server });
                    }
                    return;
                }
            };
            self.heard_ns = self.now_ns;
            if self.phase != Phase::Open && conn_id.0 != 0 && matches!(frame, Frame::Error(_)) {
                // What is said of a session given up: that it was fenced by the one asked for now.
                self.dropped += 1;
                return;
            }
            self.on_frame(&frame, sink);
        }
    }

    fn on_frame(&mut self, frame: &Frame<'_>, sink: &mut dyn FnMut(&Record<'_>)) {
        match frame {
            Frame::Registered(registered) => self.on_registered(registered),
            Frame::Error(error) => self.on_error(error),
            _ if self.phase != Phase::Open => self.dropped += 1,
            Frame::Ack(ack) => {
                // An ACK of an earlier epoch is of a server that is no longer the writer.
                if ack.head.epoch.get() >= self.epoch || Mutant::EpochIgnored.is_on() {
                    self.sender.on_ack(ack, self.now_ns);
                }
            }
            Frame::Nak(nak) => self.sender.on_nak(nak, self.now_ns),
            Frame::Data(data) => {
                let stream = StreamId(data.head.stream.get());
                let Some(subscription) = self.subscription(stream) else { return };
                match subscription.on_data(data, sink) {
                    Ok(count) => self.delivered += count,
                    Err(damaged) => {
                        let sequence = damaged.sequence;
                        self.failed = Some(ClientError::DamagedMessage { stream, sequence });
                    }
                }
            }
            Frame::Heartbeat(heartbeat) => {
                if let Some(subscription) = self.subscription(StreamId(heartbeat.stream.get())) {
                    subscription.on_heartbeat(heartbeat.durable_next.get());
                }
            }
            Frame::Subscribed(subscribed) => {
                let stream = StreamId(subscribed.stream.get());
                let (start, durable_next) = (subscribed.start.get(), subscribed.durable_next.get());
                let request = subscribed.request.get();
                let waiting = self.subscription(stream).filter(|sub| sub.request() == request);
                if waiting.is_some_and(|subscription| subscription.on_subscribed(start)) {
                    self.events.push_back(Event::Subscribed { stream, start, durable_next });
                }
            }
            Frame::Trimmed(trimmed) => {
                let stream = StreamId(trimmed.stream.get());
                let (request, log_start) = (trimmed.request.get(), trimmed.log_start.get());
                // One that comes late may be of a subscription before this one.
                let concerns = |subscription: &mut Subscription| match request {
                    0 => (1..log_start).contains(&subscription.expected()),
                    request => subscription.request() == request,
                };
                if self.subscription(stream).is_some_and(concerns) {
                    self.subscriptions.retain(|subscription| subscription.stream != stream);
                    self.events.push_back(Event::Trimmed { stream, log_start });
                }
            }
            Frame::DataLoss(loss) => {
                let stream = StreamId(loss.stream.get());
                self.subscriptions.retain(|subscription| subscription.stream != stream);
                let (first, last) = (loss.first.get(), loss.last.get());
                self.events.push_back(Event::DataLoss { stream, first, last });
            }
            Frame::StreamInfo(info) => self.on_stream_info(info),
            Frame::ListEnd(end) => self.on_list_end(end),
            Frame::Redirect(redirect) => self.on_redirect(redirect),
            Frame::Close => self.failed = Some(ClientError::Closed),
            Frame::Register(_)
            | Frame::Publish(_)
            | Frame::Probe(_)
            | Frame::Subscribe(_)
            | Frame::Status(_)
            | Frame::Unsubscribe(_)
            | Frame::CreateStream(_)
            | Frame::CreateStreamOn(_)
            | Frame::DescribeStream(_)
            | Frame::TrimStream(_)
            | Frame::ListStreams(_) => self.dropped += 1,
        }
    }

    fn subscription(&mut self, stream: StreamId) -> Option<&mut Subscription> {
        self.subscriptions.iter_mut().find(|subscription| subscription.stream == stream)
    }

    fn on_registered(&mut self, registered: &Registered) {
        let stale = registered.nonce.get() != self.nonce || registered.epoch.get() < self.epoch;
        if self.phase == Phase::Open || stale {
            return;
        }
        self.phase = Phase::Open;
        self.conn_id = ConnId(registered.conn_id.get());
        self.packet_no = 0;
        self.epoch = registered.epoch.get();
        self.durability =
            Durability::from_code(registered.durability).unwrap_or(Durability::Volatile);
        self.message_bytes_max =
            usize::try_from(registered.message_bytes_max.get()).expect("32 bits fit");
        self.server_datagram_bytes = usize::from(registered.datagram_bytes.get());
        // Ports may be mapped on the way: the others are as far from the one dialled as they are over there.
        let base_port = self.server.port().saturating_sub(registered.shard.into());
        self.shards = ShardFacts {
            shard: u32::from(registered.shard),
            shards: u32::from(registered.shards).max(1),
            base: SocketAddrV4::new(*self.server.ip(), base_port),
        };
        if self.options.publisher != Publisher::No {
            self.producer =
                (ProducerId(registered.producer_id.get()), registered.producer_epoch.get());
            let credit = (registered.max_seq_allowed.get(), registered.max_bytes_allowed.get());
            let durable_to = registered.durable_to.get();
            self.sender.begin(self.producer.0, durable_to, credit, self.now_ns);
        }
        for index in 0..self.subscriptions.len() {
            let request = self.take_request();
            self.subscriptions[index].restart(request);
        }
        for asked in &mut self.asked {
            asked.wait_ns = 0;
        }
        self.events.push_back(Event::Connected { producer: self.producer.0 });
    }

    fn on_error(&mut self, error: &ErrorFrame<'_>) {
        let (request, detail) = (error.head.request.get(), error.head.detail.get());
        let Some(code) = ErrorCode::from_code(error.head.code.get()) else {
            self.dropped += 1;
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
        let waits_for_ever = self.options.dead_after_ns == u64::MAX;
        let retried = code == ErrorCode::NoSpace && waits_for_ever;
        if request == 0 && (retried || code == ErrorCode::Draining) {
            // Whoever starts or stops says so for as long as it takes: a session is there once it serves, and
            // when it says nothing any more it is gone.
            return;
        }
        if request == 0 {
            self.failed = Some(ClientError::Refused { code, detail });
            return;
        }
        let asked = self.asked.iter().position(|asked| asked.id == request);
        if let Some(index) = asked {
            self.asked.swap_remove(index);
        }
        let before = self.subscriptions.len();
        self.subscriptions.retain(|subscription| subscription.request() != request);
        if asked.is_some() || self.subscriptions.len() < before {
            self.events.push_back(Event::Refused { request, code, detail });
        }
    }

    /// The server lost a subscription: asks for it again from where it is.
    fn subscribe_again(&mut self, stream: u64) {
        let request = self.take_request();
        let is_it = |sub: &&mut Subscription| u64::from(sub.stream.0) == stream && sub.is_open();
        if let Some(subscription) = self.subscriptions.iter_mut().find(is_it) {
            subscription.restart(request);
        }
    }

    fn register_again(&mut self) {
        // Another nonce: an answer to the old REGISTER that comes late must not be taken.
        self.nonce = self.nonce.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.phase = Phase::Registering { asked_ns: 0, wait_ns: 0 };
    }

    fn check_silence(&mut self) {
        let silent_ns = self.now_ns.saturating_sub(self.heard_ns);
        if silent_ns > self.options.dead_after_ns {
            self.failed = Some(ClientError::Unreachable { server: self.server });
        } else if silent_ns > SILENCE_NS && self.phase == Phase::Open {
            self.register_again();
        }
    }
}
