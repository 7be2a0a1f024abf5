//! The blocking client: for everyone who has no loop of their own.
//!
//! A call ends with what it waits for, or with an error once the server has not answered, or said that it cannot now,
//! for `ClientOptions::dead_after_ns`. Two wait longer: [`Client::next_message`], because a stream may stand still for
//! days, and [`Client::flush`] and [`Client::publish`] while the server says that its log is full or its disk away,
//! because what was offered may still become durable ([`polled::Client::publish_state`] tells).
//!
//! ```no_run
//! use buslane::client::blocking::Client;
//! use buslane::client::{ClientOptions, Publisher, StartFrom};
//!
//! let mut client = Client::connect("127.0.0.1:9310".parse()?, ClientOptions::plain(Publisher::New))?;
//! let orders = client.create_stream("orders")?.id;
//! let receipt = client.publish(orders, b"NewOrderSingle")?;
//! println!("on media as {:?}", receipt.sequence);
//!
//! client.subscribe(orders, StartFrom::Start)?;
//! let message = client.next_message()?;
//! assert_eq!(message.payload, b"NewOrderSingle");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod arguments;
mod retire;

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use arguments::{check_name, check_number, check_options};

use super::polled;
use super::{
    BackPressure, ClientError, ClientOptions, Completion, Event, OfferError, Receipt, Request,
    SizeLimit, StartFrom, StreamDescription,
};
use crate::clock::{Clock, HostClock};
use crate::ids::{ProducerId, StreamId};
use crate::limits::DATAGRAM_BYTES_MAX;
use crate::port::udp::{UdpPort, wait_readable};
use crate::port::{Port, PortError};
use crate::wire::control::CodedError;
use crate::wire::publish::PublishState;

/// Messages that may be on their way to a consumer.
const WINDOW: u32 = 4096;

/// Polls without work before the thread leaves its core to others.
const SPINS: u32 = 2_000;

/// The longest sleep then: the client's shortest timers are about as long.
const REST: Duration = Duration::from_millis(1);

/// A message as a consumer gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Stream.
    pub stream: StreamId,
    /// Its sequence.
    pub sequence: u64,
    /// Who published it.
    pub producer: ProducerId,
    /// The producer's number.
    pub producer_seq: u64,
    /// Unix time at which the appliance received it, nanoseconds.
    pub received_ns: u64,
    /// What was published.
    pub payload: Vec<u8>,
}

/// What a blocking call can end with.
#[derive(Debug, displaydoc::Display, thiserror::Error)]
#[allow(clippy::error_impl_error, reason = "the module says whose error it is")]
pub enum Error {
    /// {0}
    Port(#[from] PortError),
    /// {0}
    Client(#[from] ClientError),
    /// {0}
    Offer(#[from] OfferError),
    /// {what}: {why}
    Refused {
        /// What was asked for.
        what: String,
        /// Why not.
        why: CodedError,
    },
    /// {what}: lives on shard {shard}, and this session has published or subscribed on another: open one with
    /// {server}
    Redirected {
        /// What was asked for.
        what: String,
        /// The shard.
        shard: u32,
        /// Where that listens.
        server: SocketAddrV4,
    },
    /// {what}
    Argument {
        /// Which, and what it has to be.
        what: String,
    },
    /// stream {stream}: message {sequence} needs datagrams of {needs} bytes, and this consumer gets {takes}: raise
    /// {limit}
    TooLarge {
        /// Stream.
        stream: StreamId,
        /// The message.
        sequence: u64,
        /// UDP payload of a datagram that holds it.
        needs: usize,
        /// What the datagrams of this session hold.
        takes: usize,
        /// What would have to be larger.
        limit: SizeLimit,
    },
    /// stream {stream}: the oldest message kept is {log_start}
    Trimmed {
        /// Stream.
        stream: StreamId,
        /// The oldest sequence kept.
        log_start: u64,
    },
    /// stream {stream}: position {position} is beyond its end, the next message will be {next}; was the log set up
    /// anew since the position was noted?
    BeyondEnd {
        /// Stream.
        stream: StreamId,
        /// What was asked for.
        position: u64,
        /// The sequence of the next message.
        next: u64,
    },
    /// stream {stream}: sequences {first} to {last} are damaged on the media
    DataLoss {
        /// Stream.
        stream: StreamId,
        /// First.
        first: u64,
        /// Last, as far as is known.
        last: u64,
    },
}

impl Error {
    /// Whether the server could not be reached.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        use ClientError::{ShardUnreachable, Unanswered, Unreachable};
        matches!(
            self,
            Self::Client(Unreachable { .. } | ShardUnreachable { .. } | Unanswered { .. })
        )
    }
}

/// A blocking client. Dropping it ends its session, as [`Client::close`] does.
#[derive(Debug)]
pub struct Client<P: Port = UdpPort> {
    client: polled::Client<P, HostClock>,
    arrived: VecDeque<Message>,
    /// How many of these there are of each stream: the server sends so many fewer.
    held: BTreeMap<StreamId, u64>,
    /// Completions that came while another was waited for.
    completed: VecDeque<Completion>,
    window_messages: usize,
    dead_after_ns: u64,
    spins: u32,
}

impl Client<UdpPort> {
    /// Connects over kernel UDP from any local port.
    ///
    /// # Errors
    /// When no socket can be opened, or the server does not answer or refuses.
    pub fn connect(server: SocketAddrV4, options: ClientOptions) -> Result<Self, Error> {
        let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        Self::over(UdpPort::open(any, DATAGRAM_BYTES_MAX)?, server, options)
    }
}

impl<P: Port> Client<P> {
    /// Connects over a port of the caller's.
    ///
    /// # Errors
    /// When the server does not answer or refuses, or an option cannot be.
    pub fn over(port: P, server: SocketAddrV4, options: ClientOptions) -> Result<Self, Error> {
        Self::over_any(port, &[server], u64::MAX, options)
    }

    /// Connects to the first of these addresses that answers; each is given `each_ns` before the next is tried,
    /// and all together the time of the options.
    ///
    /// # Errors
    /// When no server answers, or one refuses, or there is no address.
    pub fn over_any(
        port: P,
        servers: &[SocketAddrV4],
        each_ns: u64,
        options: ClientOptions,
    ) -> Result<Self, Error> {
        Self::over_any_watched(port, servers, each_ns, options, &mut |_| {})
    }

    /// The same; `watch` sees the client while it connects, to tell whoever waits why.
    ///
    /// # Errors
    /// As [`Client::over_any`].
    pub fn over_any_watched(
        port: P,
        servers: &[SocketAddrV4],
        each_ns: u64,
        options: ClientOptions,
        watch: &mut dyn FnMut(&polled::Client<P, HostClock>),
    ) -> Result<Self, Error> {
        check_options(&port, &options)?;
        let Some(&first) = servers.first() else {
            return Err(Error::Argument { what: "no address of an appliance".to_owned() });
        };
        let (dead_after_ns, window_messages) = (options.dead_after_ns, options.window_messages);
        let client = polled::Client::new(port, HostClock::new(), first, options);
        let mut client = Self {
            client,
            arrived: VecDeque::new(),
            held: BTreeMap::new(),
            completed: VecDeque::new(),
            window_messages,
            dead_after_ns,
            spins: 0,
        };
        let (mut since_ns, mut at) = (client.client.clock().now_ns(), 0_usize);
        while !client.client.is_connected() {
            client.turn()?;
            watch(&client.client);
            let now_ns = client.client.clock().now_ns();
            if now_ns.saturating_sub(since_ns) > each_ns {
                (since_ns, at) = (now_ns, at.saturating_add(1));
                at = if at < servers.len() { at } else { 0 };
                client.client.set_server(servers[at]);
            }
        }
        Ok(client)
    }

    /// The polled client inside.
    pub fn polled(&mut self) -> &mut polled::Client<P, HostClock> {
        &mut self.client
    }

    /// One turn; sleeps for a moment after many without work, where the port allows it. Returns the work done.
    ///
    /// # Errors
    /// When the session ended, or a subscription met trimmed or damaged messages.
    pub fn turn(&mut self) -> Result<usize, Error> {
        let (arrived, held) = (&mut self.arrived, &mut self.held);
        let before = arrived.len();
        let work = self.client.poll(&mut |record| {
            let header = record.header;
            let stream = StreamId(header.stream.get());
            let count = held.entry(stream).or_default();
            *count = count.saturating_add(1);
            arrived.push_back(Message {
                stream,
                sequence: header.sequence.get(),
                producer: ProducerId(header.producer_id.get()),
                producer_seq: header.producer_seq.get(),
                received_ns: header.received_ns.get(),
                payload: record.payload[usize::from(header.ext_len.get())..].to_vec(),
            });
        })?;
        if self.arrived.len() > before {
            self.hold_back();
        }
        self.spins = if work > 0 { 0 } else { self.spins.saturating_add(1) };
        if self.spins > SPINS {
            self.spins = SPINS;
            self.rest();
        }
        Ok(work)
    }

    /// Leaves the core to others until something arrives, or for a moment.
    fn rest(&self) {
        match self.client.port().socket() {
            // What cannot be waited for is polled.
            Some(socket) => drop(wait_readable(&[socket], REST)),
            None => std::thread::yield_now(),
        }
    }

    /// Tells the polled client how many messages wait here.
    fn hold_back(&mut self) {
        for (stream, count) in &self.held {
            self.client.hold_back(*stream, *count);
        }
    }

    fn take_arrived(&mut self) -> Option<Message> {
        let message = self.arrived.pop_front()?;
        let count = self.held.entry(message.stream).or_default();
        *count = count.saturating_sub(1);
        let count = *count;
        self.client.hold_back(message.stream, count);
        Some(message)
    }

    /// Offers a message without waiting for it, but for room.
    ///
    /// # Errors
    /// When the session ended, the message is too large, or the server takes none. `BackPressure::Completions` when
    /// a window of messages is durable and their completions were not taken ([`Client::next_completion`],
    /// [`Client::flush`]); `BackPressure::Window` when the server has given no room for as long as a silent server
    /// is waited for.
    pub fn offer(&mut self, stream: StreamId, payload: &[u8]) -> Result<u64, Error> {
        let since_ns = self.client.clock().now_ns();
        loop {
            if self.completed.len() >= self.window_messages {
                return Err(OfferError::BackPressure(BackPressure::Completions).into());
            }
            let blocked = match self.client.offer(stream, payload) {
                Ok(seq) => return Ok(seq),
                Err(OfferError::BackPressure(BackPressure::Server(
                    state @ (PublishState::NoSpace | PublishState::Failed | PublishState::Damaged),
                ))) => {
                    let code = state.refusal().expect("nothing more is taken");
                    return Err(ClientError::Refused(code.with(0)).into());
                }
                Err(blocked @ (OfferError::NotConnected | OfferError::BackPressure(_))) => blocked,
                Err(error @ (OfferError::TooLarge { .. } | OfferError::NotAPublisher)) => {
                    return Err(error.into());
                }
            };
            self.take_completions();
            self.turn()?;
            let waited_ns = self.client.clock().now_ns().saturating_sub(since_ns);
            if waited_ns > self.dead_after_ns {
                return Err(blocked.into());
            }
        }
    }

    /// Makes room in the polled client's window.
    fn take_completions(&mut self) {
        while self.completed.len() < self.window_messages {
            let Some(completion) = self.client.next_completion() else { break };
            self.completed.push_back(completion);
        }
    }

    /// The next completion that is there already, in the order of the offers.
    pub fn next_completion(&mut self) -> Option<Completion> {
        self.completed.pop_front().or_else(|| self.client.next_completion())
    }

    /// Publishes one message and waits until it is durable. Completions of earlier offers stay to be taken.
    ///
    /// # Errors
    /// As [`Client::offer`]; the message may then still become durable.
    pub fn publish(&mut self, stream: StreamId, payload: &[u8]) -> Result<Receipt, Error> {
        let seq = self.offer(stream, payload)?;
        loop {
            self.turn()?;
            while let Some(completion) = self.client.next_completion() {
                if completion.producer_seq == seq {
                    return Ok(completion.receipt);
                }
                self.completed.push_back(completion);
            }
        }
    }

    /// Waits until everything offered is durable and gives each completion to `done`.
    ///
    /// # Errors
    /// When the session ended before.
    pub fn flush(&mut self, mut done: impl FnMut(&Completion)) -> Result<(), Error> {
        loop {
            while let Some(completion) = self.next_completion() {
                done(&completion);
            }
            if self.client.outstanding() == 0 {
                return Ok(());
            }
            self.turn()?;
        }
    }

    /// Makes a stream, or finds the one of this name.
    ///
    /// # Errors
    /// When the session ended or the server refuses.
    pub fn create_stream(&mut self, name: &str) -> Result<StreamDescription, Error> {
        check_name(name)?;
        self.one(Request::CreateStream(name.into()), format!("stream {name}"))
    }

    /// The same; a new one on the shard of this number.
    ///
    /// # Errors
    /// When the session ended or the server refuses.
    pub fn create_stream_on(&mut self, name: &str, shard: u32) -> Result<StreamDescription, Error> {
        check_name(name)?;
        self.one(Request::CreateStreamOn(name.into(), shard), format!("stream {name}"))
    }

    /// Finds a stream.
    ///
    /// # Errors
    /// When the session ended or there is no such stream.
    pub fn describe_stream(&mut self, name: &str) -> Result<StreamDescription, Error> {
        check_name(name)?;
        self.one(Request::DescribeStream(name.into()), format!("stream {name}"))
    }

    /// Trims a stream: nothing below `first` is kept, durably. Where that is gone already, nothing changes.
    ///
    /// # Errors
    /// When the session ended, there is no such stream, or it has not come so far.
    pub fn trim_stream(
        &mut self,
        stream: StreamId,
        first: u64,
    ) -> Result<StreamDescription, Error> {
        check_number("the first message to be kept", first)?;
        self.one(Request::TrimStream(stream, first), format!("stream {stream}"))
    }

    /// All streams of the shard this session is with, by id.
    ///
    /// # Errors
    /// When the session ended.
    pub fn list_streams(&mut self) -> Result<Vec<StreamDescription>, Error> {
        let mut streams = Vec::new();
        let asked = self.client.request(Request::ListStreams);
        self.wait_for("streams", |event| {
            if let Event::Stream { request, info } = event {
                streams.extend((request == asked).then_some(info));
                return None;
            }
            matches!(event, Event::ListEnd { request } if request == asked).then_some(())
        })?;
        Ok(streams)
    }

    fn one(&mut self, request: Request, what: String) -> Result<StreamDescription, Error> {
        let asked = self.client.request(request);
        self.wait_for(&what, |event| {
            let Event::Stream { request, info } = event else { return None };
            (request == asked).then_some(info)
        })
    }

    /// Subscribes and waits until the subscription stands; returns the first sequence to come and the
    /// one after the newest durable.
    ///
    /// # Errors
    /// When the session ended, there is no such stream, or the position is gone.
    pub fn subscribe(&mut self, stream: StreamId, from: StartFrom) -> Result<(u64, u64), Error> {
        check_number("the position", from.encode().value)?;
        self.client.subscribe(stream, from, WINDOW);
        self.hold_back();
        let asked = stream;
        self.wait_for(&format!("stream {stream}"), |event| {
            let Event::Subscribed { stream, start, durable_next } = event else { return None };
            (stream == asked).then_some((start, durable_next))
        })
    }

    /// Waits for the event that `pick` takes something from; those before it are of no use to anybody any more.
    fn wait_for<T>(
        &mut self,
        what: &str,
        mut pick: impl FnMut(Event) -> Option<T>,
    ) -> Result<T, Error> {
        loop {
            while let Some(event) = self.client.next_event() {
                if let Some(found) = pick(check(event, what)?) {
                    return Ok(found);
                }
            }
            self.turn()?;
        }
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// When the session ended, or messages are trimmed or damaged.
    pub fn next_message(&mut self) -> Result<Message, Error> {
        loop {
            if let Some(message) = self.try_message()? {
                return Ok(message);
            }
        }
    }

    /// The next message, if one has arrived; otherwise one turn.
    ///
    /// # Errors
    /// As [`Client::next_message`].
    pub fn try_message(&mut self) -> Result<Option<Message>, Error> {
        if let Some(message) = self.take_arrived() {
            return Ok(Some(message));
        }
        while let Some(event) = self.client.next_event() {
            check(event, "subscription")?;
        }
        self.turn()?;
        Ok(self.take_arrived())
    }

    /// Ends the session and gives the port back.
    pub fn close(self) -> P {
        self.client.close()
    }
}

/// Events that are refusals become errors.
fn check(event: Event, what: &str) -> Result<Event, Error> {
    match event {
        Event::Refused { code, detail, .. } => {
            Err(Error::Refused { what: what.to_owned(), why: code.with(detail) })
        }
        Event::Redirected { shard, server, .. } => {
            Err(Error::Redirected { what: what.to_owned(), shard, server })
        }
        Event::Trimmed { stream, log_start } => Err(Error::Trimmed { stream, log_start }),
        Event::TooLarge { stream, sequence, needs, takes, limit } => {
            Err(Error::TooLarge { stream, sequence, needs, takes, limit })
        }
        Event::DataLoss { stream, first, last } => Err(Error::DataLoss { stream, first, last }),
        Event::Subscribed { stream, start, durable_next } if start > durable_next => {
            Err(Error::BeyondEnd { stream, position: start, next: durable_next })
        }
        Event::Connected { .. }
        | Event::Subscribed { .. }
        | Event::Stream { .. }
        | Event::ListEnd { .. } => Ok(event),
    }
}
