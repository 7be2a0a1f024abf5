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
mod registered;
mod retire;
mod session;
mod transmit;

use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::num::NonZeroU64;

use zerocopy::IntoBytes;

use registered::Refusal;

use super::{
    BackPressure, ClientError, ClientOptions, Completion, Event, OfferError, Publisher, Receipt,
    Request, ShardFacts, SizeLimit, StartFrom,
};
use crate::clock::Clock;
use crate::history::History;
use crate::ids::{ConnId, Durability, Epoch, ProducerId, StreamId};
use crate::limits::{NUMBER_MAX, SUBSCRIPTIONS_MAX, WINDOW_MESSAGES_MAX};
use crate::port::Port;
use crate::session::consume::Subscription;
use crate::session::send::{Blocked, Sender};
use crate::wire::control::{ErrorCode, Unsubscribe, is_stream_name};
use crate::wire::frame::Kind;
use crate::wire::publish::PublishState;
use crate::wire::record::Record;

/// Messages of a window at most.
const WINDOW_MAX: usize = WINDOW_MESSAGES_MAX << 6;

/// A request that is not answered.
#[derive(Debug)]
struct Asked {
    id: u32,
    request: Request,
    /// How far a list has come.
    after: u32,
    /// Streams told of, where it is a list.
    told: usize,
    /// When it was first asked for.
    since_ns: u64,
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
///
/// Dropping it says goodbye, as [`Client::close`] does.
#[derive(Debug)]
pub struct Client<P: Port, C: Clock> {
    /// Here until the client is closed.
    port: Option<P>,
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
    /// Who sent it where it registers now, and that shard's number; until it is there.
    sent_by: Option<(SocketAddrV4, u32)>,
    /// A session given up for one with another shard: its server is to hear of it.
    left: Option<(SocketAddrV4, ConnId)>,
    message_bytes_max: usize,
    /// What makes it so small.
    size_limit: SizeLimit,
    /// UDP payload that this side's port takes.
    own_datagram_bytes: usize,
    server_datagram_bytes: usize,
    sender: Sender,
    subscriptions: Vec<Subscription>,
    /// Streams the server is to stop sending.
    unsubscribe: Vec<StreamId>,
    asked: Vec<Asked>,
    next_request: u32,
    events: VecDeque<Event>,
    failed: Option<ClientError>,
    /// The log that the first answer was from; 0 before that, and where the server does not say.
    log: u32,
    /// That registrations are refused for a reason that may pass.
    refused: Option<Refusal>,
    /// When the server was last told that the producer will not return; 0 when never.
    retired_ns: u64,
    /// Its producer is no more: there is nothing to register for.
    is_over: bool,
    now_ns: u64,
    /// When the server last said something that belongs to the session, or opened it.
    heard_ns: u64,
    registered_ns: u64,
    /// When it was last asked to open one.
    register_asked_ns: u64,
    /// Something came from it that opened none.
    speaks: bool,
    said_ns: u64,
    /// Nothing was said in this session yet: whatever is first proves that we are where its answer was sent to.
    is_mute: bool,
    /// Datagrams that were not the server's, or made no sense.
    dropped: u64,
    delivered: u64,
    /// Where what happens is written down, if it is.
    history: Option<Box<History>>,
}

impl<P: Port, C: Clock> Client<P, C> {
    /// A client for the appliance at `server`; it connects while it is polled. A window that is not a power of
    /// two is taken as the next that is, up to 2^20 messages.
    pub fn new(port: P, clock: C, server: SocketAddrV4, options: ClientOptions) -> Self {
        let now_ns = clock.now_ns();
        let producer = match options.publisher {
            Publisher::No | Publisher::New => ProducerId(0),
            Publisher::Known(id) => id,
        };
        let (messages, bytes) = match options.publisher {
            Publisher::No => (1, 1),
            Publisher::New | Publisher::Known(_) => {
                let messages = options.window_messages.clamp(1, WINDOW_MAX).next_power_of_two();
                (messages, options.window_bytes.max(1))
            }
        };
        let own_datagram_bytes = port.datagram_bytes();
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
            sent_by: None,
            left: None,
            message_bytes_max: 0,
            size_limit: SizeLimit::Server,
            own_datagram_bytes,
            server_datagram_bytes: own_datagram_bytes,
            sender: Sender::new(messages, bytes),
            subscriptions: Vec::new(),
            unsubscribe: Vec::with_capacity(SUBSCRIPTIONS_MAX),
            asked: Vec::new(),
            next_request: 1,
            events: VecDeque::with_capacity(64),
            failed: None,
            log: 0,
            refused: None,
            retired_ns: 0,
            is_over: false,
            now_ns,
            heard_ns: now_ns,
            registered_ns: 0,
            register_asked_ns: 0,
            speaks: false,
            said_ns: 0,
            is_mute: false,
            dropped: 0,
            delivered: 0,
            history: None,
        };
        Self { port: Some(port), link }
    }

    /// One bounded turn: takes what has arrived, sends what is due. Messages of subscriptions go to
    /// `sink` in sequence. Returns the work done.
    ///
    /// # Errors
    /// When the client can go on no more; every later call says the same.
    pub fn poll(&mut self, sink: &mut dyn FnMut(&Record<'_>)) -> Result<usize, ClientError> {
        let Self { port: Some(port), link } = self else { return Ok(0) };
        let received = port.receive();
        link.now_ns = link.clock.now_ns();
        for index in 0..received {
            let (peer, bytes) = port.datagram(index);
            link.on_datagram(peer, bytes, sink);
        }
        if let Some(error) = link.failed {
            return Err(error);
        }
        if link.is_over {
            return Ok(received);
        }
        let sent = link.transmit(port);
        port.flush();
        link.check_silence();
        Ok(received.saturating_add(sent))
    }

    /// Sends what was offered without looking for what has arrived.
    pub fn flush(&mut self) -> usize {
        let Self { port: Some(port), link } = self else { return 0 };
        link.now_ns = link.clock.now_ns();
        if link.phase != Phase::Open {
            return 0;
        }
        let sent = link.transmit_publishes(port);
        port.flush();
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
            let (bytes, max, limit) = (payload.len(), link.message_bytes_max, link.size_limit);
            return Err(OfferError::TooLarge { bytes, max, limit });
        }
        let offered = link.sender.offer(stream, payload, link.now_ns).map_err(|blocked| {
            OfferError::BackPressure(match blocked {
                Blocked::Window => BackPressure::Window,
                Blocked::Server(state) => BackPressure::Server(state),
            })
        })?;
        if let Some(history) = &mut link.history {
            history.offer(stream, link.producer.0, offered, payload);
        }
        Ok(offered)
    }

    /// The next message that is durable, in the order of their numbers.
    #[inline]
    pub fn next_completion(&mut self) -> Option<Completion> {
        let link = &mut self.link;
        let sent = link.sender.next_sent()?;
        if let Some(history) = &mut link.history {
            history.acknowledged(sent.stream, link.producer.0, sent.producer_seq, sent.sequence);
        }
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
    /// how many may be on their way. A position that no stream can have is refused by an event.
    pub fn subscribe(&mut self, stream: StreamId, from: StartFrom, window: u32) {
        let request = self.link.take_request();
        self.unsubscribe(stream);
        if from.encode().1 > NUMBER_MAX {
            self.link.refuse(request, NUMBER_MAX);
            return;
        }
        if let Some(history) = &mut self.link.history {
            history.subscribe(stream);
        }
        let now_ns = self.link.clock.now_ns();
        self.link.subscriptions.push(Subscription::new(stream, request, from, window, now_ns));
    }

    /// Writes down from now on what happens: see [`history`](crate::history). To be called before anything is published
    /// or subscribed to.
    pub fn record(&mut self, history: History) {
        let link = &mut self.link;
        link.history = Some(Box::new(history));
        if link.phase == Phase::Open {
            link.note_session();
        }
    }

    /// Puts what was written down so far where it is to be, where anything is.
    ///
    /// # Errors
    /// What kept any of it from being there.
    pub fn flush_history(&mut self) -> Result<(), String> {
        self.link.history.as_mut().map_or(Ok(()), |history| history.flush())
    }

    /// Ends what is written down, where anything is: the client is about to be closed.
    ///
    /// # Errors
    /// What kept any of it from being where it is to be.
    pub fn end_history(&mut self) -> Result<(), String> {
        self.link.history.take().map_or(Ok(()), |mut history| history.end())
    }

    /// Says how many messages of a subscription were given to its owner and not looked at: the server may send so
    /// many fewer.
    pub fn hold_back(&mut self, stream: StreamId, messages: u64) {
        if let Some(subscription) = self.link.subscription(stream) {
            subscription.hold_back(messages);
        }
    }

    /// Ends a subscription.
    pub fn unsubscribe(&mut self, stream: StreamId) {
        let link = &mut self.link;
        link.unsubscribe.retain(|other| *other != stream);
        let before = link.subscriptions.len();
        link.subscriptions.retain(|subscription| subscription.stream != stream);
        let ends = link.subscriptions.len() < before && link.phase == Phase::Open;
        if let Some(port) = self.port.as_mut().filter(|_| ends) {
            let body = Unsubscribe { stream: stream.0.into() };
            link.send(port, |writer| {
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

    /// Whether the server has said that a subscription's stream has messages that have not come.
    #[must_use]
    pub fn lacks(&self, stream: StreamId) -> bool {
        self.link.subscriptions.iter().any(|sub| sub.stream == stream && sub.lacks())
    }

    /// Asks the server; answered by events that carry the number returned. What no server can answer, because no
    /// stream can have that name or number, is refused by an event too.
    pub fn request(&mut self, request: Request) -> u32 {
        let id = self.link.take_request();
        let is_sound = match &request {
            Request::CreateStream(name)
            | Request::CreateStreamOn(name, _)
            | Request::DescribeStream(name) => is_stream_name(name),
            Request::TrimStream(_, first) => *first <= NUMBER_MAX,
            Request::ListStreams => true,
        };
        if !is_sound {
            self.link.refuse(id, 0);
            return id;
        }
        let since_ns = self.link.clock.now_ns();
        let asked = Asked { id, request, after: 0, told: 0, since_ns, asked_ns: 0, wait_ns: 0 };
        self.link.asked.push(asked);
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
    ///
    /// # Panics
    /// Never: it is here until the client is closed.
    #[must_use]
    pub fn port(&self) -> &P {
        self.port.as_ref().expect("here until the client is closed")
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

    /// How long the server said nothing that belongs to the session, nor to the one that is asked for.
    #[must_use]
    pub fn silent_ns(&self) -> u64 {
        self.link.now_ns.saturating_sub(self.link.heard_ns)
    }

    /// Why the session that is asked for is refused now, with the number that belongs to the reason; it is asked for
    /// again.
    #[must_use]
    pub fn refusal(&self) -> Option<(ErrorCode, u64)> {
        let refused = self.link.refused.filter(|_| !self.is_connected());
        refused.map(|refusal| (refusal.code, refusal.detail))
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
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn session(&self) -> (ConnId, u64) {
        (self.link.conn_id, self.link.epoch)
    }

    /// The nonce of its present session, for those who forge datagrams.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn nonce(&self) -> u64 {
        self.link.nonce
    }

    /// Its own address.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn local(&self) -> SocketAddrV4 {
        self.port.as_ref().expect("here until the client is closed").local()
    }

    /// The clock it reads.
    #[must_use]
    pub fn clock(&self) -> &C {
        &self.link.clock
    }

    /// Says goodbye and gives the port back.
    ///
    /// # Panics
    /// Never: the port is here until now.
    pub fn close(mut self) -> P {
        self.say_goodbye();
        self.port.take().expect("here until the client is closed")
    }

    /// Lets go without a word, as a process that is killed does: the server ends the session in its own time.
    ///
    /// # Panics
    /// Never: the port is here until now.
    pub fn abandon(mut self) -> P {
        self.port.take().expect("here until the client is closed")
    }

    fn say_goodbye(&mut self) {
        let Self { port: Some(port), link } = self else { return };
        // Whoever wants to know whether it could be written has ended it before.
        if let Some(mut history) = link.history.take() {
            let _ = history.end();
        }
        if link.phase == Phase::Open {
            link.send(port, |writer| {
                let _ = writer.frame(Kind::Close, &[], &[]);
            });
            port.flush();
        }
    }
}

impl<P: Port, C: Clock> Drop for Client<P, C> {
    fn drop(&mut self) {
        self.say_goodbye();
    }
}
