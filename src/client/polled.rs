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
//! let mut client = Client::new(port, HostClock::new(), server, ClientOptions::plain(Publisher::New));
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
mod events;
mod patience;
mod publishing;
mod receive;
mod requests;
mod retire;
mod route;
mod session;
mod subscriptions;
mod terms;
mod transmit;

use std::net::SocketAddrV4;
use std::num::NonZeroU64;

use zerocopy::IntoBytes;

use events::Events;
use publishing::Publishing;
use requests::Requests;
use route::Route;
use session::Session;
use subscriptions::Subscriptions;
use terms::Terms;

use super::{
    ClientError, ClientOptions, Completion, Event, OfferError, Receipt, Request, ShardFacts,
    StartFrom,
};
use crate::clock::Clock;
use crate::history::History;
use crate::ids::{Durability, Epoch, ProducerId, StreamId};
use crate::limits::NUMBER_MAX;
use crate::port::Port;
use crate::session::consume::Subscription;
use crate::wire::Kind;
use crate::wire::control::{ErrorCode, is_stream_name};
use crate::wire::publish::PublishState;
use crate::wire::record::Record;

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
///
/// Each part of its state has one type, in a file of its own, which alone changes what it holds; what is heard passes
/// from one to the next in `receive`, what is said in `transmit`.
#[derive(Debug)]
struct Link<C> {
    clock: C,
    now_ns: u64,
    options: ClientOptions,
    route: Route,
    session: Session,
    terms: Terms,
    publishing: Publishing,
    subscriptions: Subscriptions,
    requests: Requests,
    events: Events,
    /// Where what happens is written down, if it is.
    history: Option<Box<History>>,
}

impl<C: Clock> Link<C> {
    /// Refuses what no server could answer.
    fn refuse(&mut self, request: u32, detail: u64) {
        self.events.note(Event::Refused { request, code: ErrorCode::BadRequest, detail });
    }
}

impl<P: Port, C: Clock> Client<P, C> {
    /// A client for the appliance at `server`; it connects while it is polled. A window that is not a power of
    /// two is taken as the next that is, up to 2^20 messages.
    pub fn new(port: P, clock: C, server: SocketAddrV4, options: ClientOptions) -> Self {
        let now_ns = clock.now_ns();
        let (security, entropy) = (options.security.clone(), options.entropy.clone());
        let terms = Terms::new(server, port.datagram_bytes(), security.seal_bytes());
        let publishing = Publishing::new(&options);
        let link = Link {
            clock,
            now_ns,
            options,
            route: Route::new(server),
            session: Session::new(security, entropy, now_ns),
            terms,
            publishing,
            subscriptions: Subscriptions::new(),
            requests: Requests::new(),
            events: Events::new(),
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
        link.session.keep_keys(link.now_ns);
        if let Some(error) = link.events.failed() {
            return Err(error);
        }
        if link.publishing.is_over() {
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
        if !link.session.is_open() {
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
        let offered = link.publishing.offer(stream, payload, &link.terms, link.now_ns)?;
        if let Some(history) = &mut link.history {
            history.offer(stream, link.publishing.producer(), offered, payload);
        }
        Ok(offered)
    }

    /// The next message that is durable, in the order of their numbers.
    #[inline]
    pub fn next_completion(&mut self) -> Option<Completion> {
        let link = &mut self.link;
        let sent = link.publishing.next_sent()?;
        if let Some(history) = &mut link.history {
            let producer = link.publishing.producer();
            history.acknowledged(sent.stream, producer, sent.producer_seq, sent.sequence);
        }
        Some(Completion {
            producer_seq: sent.producer_seq,
            receipt: Receipt {
                stream: sent.stream,
                sequence: sent.sequence.and_then(NonZeroU64::new),
                epoch: Epoch(link.terms.epoch()),
                durability: link.terms.durability(),
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
        let request = self.link.requests.take_number();
        self.unsubscribe(stream);
        if from.encode().value > NUMBER_MAX {
            self.link.refuse(request, NUMBER_MAX);
            return;
        }
        if let Some(history) = &mut self.link.history {
            history.subscribe(stream);
        }
        let now_ns = self.link.clock.now_ns();
        self.link.subscriptions.add(Subscription::new(stream, request, from, window, now_ns));
    }

    /// Writes down from now on what happens: see docs/history.md. To be called before anything is published
    /// or subscribed to.
    pub fn record(&mut self, history: History) {
        let link = &mut self.link;
        link.history = Some(Box::new(history));
        if link.session.is_open() {
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
        if let Some(subscription) = self.link.subscriptions.of_mut(stream) {
            subscription.hold_back(messages);
        }
    }

    /// Ends a subscription.
    pub fn unsubscribe(&mut self, stream: StreamId) {
        let link = &mut self.link;
        link.subscriptions.end(stream);
    }

    /// The next sequence a subscription wants; 0 before it stands.
    #[must_use]
    pub fn position(&self, stream: StreamId) -> u64 {
        self.link.subscriptions.of(stream).map_or(0, Subscription::expected)
    }

    /// Whether the server has said that a subscription's stream has messages that have not come.
    #[must_use]
    pub fn lacks(&self, stream: StreamId) -> bool {
        self.link.subscriptions.of(stream).is_some_and(Subscription::lacks)
    }

    /// Asks the server; answered by events that carry the number returned. What no server can answer, because no
    /// stream can have that name or number, is refused by an event too.
    pub fn request(&mut self, request: Request) -> u32 {
        let id = self.link.requests.take_number();
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
        self.link.requests.ask(id, request, self.link.clock.now_ns());
        id
    }

    /// The next thing the client was told.
    pub fn next_event(&mut self) -> Option<Event> {
        self.link.events.next()
    }

    /// Whether the session is open.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.link.session.is_open()
    }

    /// The producer this client publishes as, 0 before it is known, and its epoch.
    #[must_use]
    pub fn producer(&self) -> (ProducerId, u32) {
        (self.link.publishing.producer(), self.link.publishing.producer_epoch())
    }

    /// Where the shard listens that the session is with.
    #[must_use]
    pub fn server(&self) -> SocketAddrV4 {
        self.link.route.server()
    }

    /// Goes on with the appliance at another address, where this one has moved to: the same shard of it.
    pub fn set_server(&mut self, server: SocketAddrV4) {
        if self.link.route.set_server(server) {
            self.link.session.forget_cookie();
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
        self.link.terms.shards()
    }

    /// Why an acknowledged message is safe with this server.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.link.terms.durability()
    }

    /// Messages offered and not completed.
    #[must_use]
    pub fn outstanding(&self) -> u64 {
        self.link.publishing.sender().outstanding()
    }

    /// How long the server said nothing that belongs to the session, nor to the one that is asked for.
    #[must_use]
    pub fn silent_ns(&self) -> u64 {
        self.link.session.silent_ns(self.link.now_ns)
    }

    /// Why the session that is asked for is refused now, with the number that belongs to the reason; it is asked for
    /// again.
    #[must_use]
    pub fn refusal(&self) -> Option<(ErrorCode, u64)> {
        let refused = self.link.session.refused().filter(|_| !self.is_connected());
        refused.map(|refusal| (refusal.code, refusal.detail))
    }

    /// The stream and sequence of the newest message that is known to be stored of this client's producer, be it of
    /// another life of that.
    #[must_use]
    pub fn last_published(&self) -> Option<(StreamId, u64)> {
        self.link.publishing.newest().map(|newest| (newest.stream, newest.sequence))
    }

    /// The number the next message gets.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.link.publishing.sender().next_seq()
    }

    /// What the server last said of publishing.
    #[must_use]
    pub fn publish_state(&self) -> PublishState {
        self.link.publishing.sender().state()
    }

    /// Payload bytes of one message, at most; 0 before the session is open.
    #[must_use]
    pub fn message_bytes_max(&self) -> usize {
        self.link.terms.message_bytes_max()
    }

    /// Datagrams dropped because they were not the server's or made no sense.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.link.events.dropped()
    }

    /// Changes after how long a silence the server is given up; `u64::MAX` waits for ever.
    pub fn set_dead_after_ns(&mut self, dead_after_ns: u64) {
        self.link.options.dead_after_ns = dead_after_ns;
    }

    /// Its session as it numbers it, and as the server does, for those who forge datagrams.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn session(&self) -> (crate::ids::ConnId, crate::ids::ConnId) {
        (self.link.session.client_id(), self.link.session.server_id())
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
        if link.session.is_open() {
            link.send(port, |writer| {
                let _ = writer.frame(Kind::Close, transmit::CLOSE.as_bytes(), &[]);
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
