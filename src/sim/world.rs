//! A run: server, clients, network and disk, and what happens to them turn by turn.

mod operate;
mod retire;
mod settle;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use zerocopy::{FromZeros, IntoBytes};

use super::allowed::Injected;
use super::disk::Crash;
use super::oracle::{Journal, Oracle, Row, Violation};
use super::plan::Plan;
use super::server::{DATAGRAM, Opening, SERVER, Server};
use super::trace::Trace;
use super::{End, Outcome};
use crate::client::polled::Client;
use crate::client::{ClientOptions, Event, Publisher, Request, StartFrom};
use crate::clock::{Clock, ManualClock};
use crate::ids::{Durability, StreamId};
use crate::limits::Limits;
use crate::port::memory::{Faults, MemoryNet, MemoryPort};
use crate::random::Random;
use crate::shard::Condition;
use crate::wire::DatagramWriter;
use crate::wire::control::ErrorCode;
use crate::wire::frame::Kind;
use crate::wire::publish::AckHead;

type SimClient = Client<MemoryPort, ManualClock>;

/// A write that hangs this long is taken for dead, and the server with it.
const HANG_NS: u64 = 50_000_000;

struct Publishing {
    client: Option<SimClient>,
    journal: usize,
    /// The client has said what of the journal is durable.
    resumed: bool,
    /// When a killed one comes back.
    back_ns: u64,
    /// It will not return, and says so: its place is for a new producer.
    retires: bool,
}

struct Consuming {
    client: SimClient,
    /// Per stream, the next sequence.
    expected: BTreeMap<StreamId, u64>,
    rows: BTreeMap<StreamId, Vec<Row>>,
    subscribed: bool,
    lossy: bool,
}

impl Consuming {
    /// What it wanted is trimmed: the next that comes is `first`.
    fn goes_on_at(&mut self, stream: StreamId, first: u64) {
        let next = self.expected.get_mut(&stream).expect("a stream it subscribed to");
        *next = first.max(*next);
    }
}

/// Everything of one run.
pub(super) struct World {
    plan: Plan,
    random: Random,
    clock: ManualClock,
    trace: Trace,
    net: MemoryNet,
    server: Server,
    oracle: Oracle,
    streams: Vec<StreamId>,
    publishers: Vec<Publishing>,
    consumers: Vec<Consuming>,
    zombies: Vec<SimClient>,
    operator: Option<SimClient>,
    next_port: u16,
    paused_until: u64,
    down_until: u64,
    hung_since: u64,
    /// Addresses that are cut off, and until when.
    cut: Vec<(SocketAddrV4, u64)>,
    halted: bool,
    rotted: bool,
}

impl World {
    /// A world before anything happened.
    pub(super) fn new(plan: &Plan) -> Self {
        let clock = ManualClock::new();
        clock.advance_ns(1_000_000);
        let trace = Trace::new(clock.clone());
        let faults = Faults { delay_ns: plan.net.delay_ns, ..Faults::default() };
        let net = MemoryNet::new(clock.clone(), plan.seed ^ 0x0e7, faults);
        net.watch(SERVER);
        let server = Server::new(plan, &net, &clock, &trace);
        Self {
            plan: *plan,
            random: Random::new(plan.seed ^ 0x30b1d),
            clock,
            trace,
            net,
            server,
            oracle: Oracle::default(),
            streams: Vec::new(),
            publishers: Vec::new(),
            consumers: Vec::new(),
            zombies: Vec::new(),
            operator: None,
            next_port: 100,
            paused_until: 0,
            down_until: 0,
            hung_since: 0,
            cut: Vec::new(),
            halted: false,
            rotted: false,
        }
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// The first promise broken.
    pub(super) fn run(&mut self) -> Result<End, Violation> {
        self.set_up()?;
        self.net.set_faults(self.plan.net);
        self.server.device.borrow_mut().set_faults(self.plan.disk);
        for _ in 0..self.plan.turns {
            self.clock.advance_ns(1_000 + self.random.below(30_000));
            self.misfortune()?;
            self.turn()?;
            if self.halted {
                return Ok(End::Halted);
            }
            self.offer();
        }
        self.settle()
    }

    /// What came of it.
    pub(super) fn outcome(self, end: Result<End, Violation>) -> Outcome {
        let mut counters = self.server.counters.clone();
        if let Some(shard) = &self.server.shard {
            counters.add_all(shard.counters());
        }
        self.trace.note("end", self.net.digest(), self.oracle.delivered);
        let disk = self.server.device.borrow().hits;
        Outcome {
            seed: self.plan.seed,
            end,
            digest: self.trace.value(),
            events: self.trace.events(),
            acknowledged: self.oracle.journals.iter().map(|journal| journal.acked_to).sum(),
            consumed: self.oracle.delivered,
            virtual_ns: self.clock.now_ns(),
            net: self.net.hits(),
            disk,
            server: self.server.hits,
            counters,
        }
    }

    fn set_up(&mut self) -> Result<(), Violation> {
        self.start_server()?;
        for _ in 0..self.plan.publishers {
            let journal = self.oracle.journals.len();
            self.oracle.journals.push(Journal::default());
            let client = Some(self.client(Publisher::New));
            self.publishers.push(Publishing {
                client,
                journal,
                resumed: false,
                back_ns: 0,
                retires: false,
            });
        }
        let mut maker = self.client(Publisher::No);
        for number in 0..self.plan.streams {
            let name = format!("stream-{number}");
            let on_shard = self.random.one_of_thousand(200);
            maker.request(match on_shard {
                true => Request::CreateStreamOn(name, 0),
                false => Request::CreateStream(name),
            });
        }
        let mut turns = 0;
        while self.streams.len() < self.plan.streams {
            self.clock.advance_ns(10_000);
            self.turn()?;
            if let Err(error) = maker.poll(&mut |_| {}) {
                self.injected().allows_end("the maker of streams", &error)?;
            }
            while let Some(event) = maker.next_event() {
                if let Event::Stream { info, .. } = event {
                    self.streams.push(info.id);
                }
            }
            turns += 1;
            Oracle::within("turns to make the streams", turns, 100_000)?;
        }
        self.streams.sort_unstable();
        for _ in 0..self.plan.consumers {
            let consumer = self.consumer();
            self.consumers.push(consumer);
        }
        Ok(())
    }

    fn client(&mut self, publisher: Publisher) -> SimClient {
        self.next_port += 1;
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.next_port);
        let options = ClientOptions {
            publisher,
            window_messages: 256,
            window_bytes: 256 << 10,
            dead_after_ns: u64::MAX,
            nonce: self.random.next_u64(),
        };
        Client::new(self.net.port(address, DATAGRAM), self.clock.clone(), SERVER, options)
    }

    fn consumer(&mut self) -> Consuming {
        let client = self.client(Publisher::No);
        let expected = self.streams.iter().map(|stream| (*stream, 1)).collect();
        Consuming { client, expected, rows: BTreeMap::new(), subscribed: false, lossy: false }
    }

    /// What has happened so far that somebody may be told of.
    fn injected(&self) -> Injected {
        let disk = self.server.device.borrow().hits;
        Injected {
            write_failed: disk.errors + disk.errors_stored > 0,
            data_spoilt: disk.read_errors + disk.bad_reads + disk.rotten + disk.lost > 0,
            full: self.server.was_full,
            stopped: self.server.was_told_to_stop,
            limited: self.plan.limits != [Limits::MAX; 2],
        }
    }

    fn start_server(&mut self) -> Result<(), Violation> {
        match self.server.start(&mut self.oracle)? {
            Opening::Serves => {}
            Opening::Failed => self.down_until = self.clock.now_ns() + 1_000_000,
            Opening::Halted => self.halted = true,
        }
        Ok(())
    }

    fn chance(&mut self, in_hundred_thousand: u64) -> bool {
        in_hundred_thousand > 0 && self.random.below(100_000) < in_hundred_thousand
    }

    /// What goes wrong in this turn, beside what network and disk do by themselves.
    fn misfortune(&mut self) -> Result<(), Violation> {
        let (plan, now_ns) = (self.plan, self.clock.now_ns());
        if self.server.shard.is_some() {
            let crash = if self.chance(plan.kill) {
                Some(Crash::Kill)
            } else if self.chance(plan.power_cut) {
                Some(Crash::PowerCut)
            } else {
                None
            };
            if let Some(how) = crash {
                self.server.crash(how);
                self.down_until = now_ns + self.random.below(3_000_000);
            } else if self.chance(plan.stop) {
                let stops = self.server.hits.stops;
                self.server.stop(&mut self.oracle)?;
                let stopped = self.server.hits.stops > stops;
                if stopped && !self.rotted && plan.rot_anywhere > 0 {
                    self.rotted = true;
                    // The rarest to be told apart the most often.
                    let kind = self.random.below(6).saturating_sub(2);
                    self.server.device.borrow_mut().rot_segment(kind);
                }
                self.down_until = now_ns + self.random.below(3_000_000);
            }
            if self.chance(plan.pause) {
                self.paused_until = now_ns + self.random.below(3_000_000_000);
                self.server.hits.pauses += 1;
                self.trace.note("pause", self.paused_until - now_ns, 0);
                // Whoever looks on waits too.
                self.clock.advance_ns(self.random.below(200_000_000));
            }
        } else if !self.rotted && self.chance(plan.rot_anywhere * 10) {
            // Once: both copies of a header gone are more than one leg can tell (see docs/testing.md).
            self.rotted = true;
            self.server.device.borrow_mut().rot_anywhere();
        }
        if self.chance(plan.rot) {
            self.server.device.borrow_mut().rot();
        }
        if self.chance(plan.client_kill) {
            self.kill_a_client();
        }
        if self.chance(plan.partition) && !self.publishers.is_empty() {
            let port = 101 + self.random.below(u64::from(self.next_port - 100));
            let port = u16::try_from(port).expect("a port");
            let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
            let until = now_ns + self.random.below(20_000_000);
            self.net.set_cut(address, true);
            self.cut.push((address, until));
            self.server.hits.partitions += 1;
        }
        while let Some(index) = self.cut.iter().position(|(_, until)| *until <= now_ns) {
            let (address, _) = self.cut.swap_remove(index);
            self.net.set_cut(address, false);
        }
        if self.chance(plan.clock_jump) {
            let hours = self.random.below(48);
            self.clock.set_unix_jump_ns(hours * 3_600_000_000_000);
            self.server.hits.clock_jumps += 1;
        }
        if self.chance(plan.zombie_ack) {
            self.forge_ack();
        }
        if self.chance(plan.trim) {
            self.trim();
        }
        if self.chance(plan.retire) {
            self.begin_to_retire();
        }
        Ok(())
    }

    fn kill_a_client(&mut self) {
        self.server.hits.client_kills += 1;
        let all = (self.publishers.len() + self.consumers.len()) as u64;
        let index = usize::try_from(self.random.below(all)).expect("few clients");
        self.trace.note("client killed", index as u64, 0);
        if let Some(publisher) = self.publishers.get_mut(index) {
            let retires = publisher.retires;
            let Some(client) = publisher.client.take() else { return };
            publisher.back_ns = self.clock.now_ns() + 2_000_000 + self.random.below(20_000_000);
            // One that had not registered yet would rightly fence its successor.
            let lives_on = publisher.resumed && !retires && self.zombies.len() < 4;
            if self.random.one_of_thousand(200) && lives_on {
                self.server.hits.zombies += 1;
                self.zombies.push(client);
            } else {
                drop(client.abandon());
            }
            if retires {
                // It may have been heard.
                self.begin_anew(index);
            }
            return;
        }
        let index = index - self.publishers.len();
        let client = self.client(Publisher::No);
        let forgets = self.random.one_of_thousand(500);
        let consumer = &mut self.consumers[index];
        drop(std::mem::replace(&mut consumer.client, client).abandon());
        consumer.subscribed = false;
        if forgets {
            consumer.expected.values_mut().for_each(|next| *next = 1);
            consumer.rows.clear();
        }
    }

    /// What a writer of an earlier epoch would say that does not know it was replaced.
    fn forge_ack(&mut self) {
        let index = usize::try_from(self.random.below(self.publishers.len() as u64)).expect("few");
        let Some(client) = &self.publishers[index].client else { return };
        let (conn_id, epoch) = client.session();
        if epoch < 2 || client.outstanding() == 0 {
            return;
        }
        let last = client.next_seq() - 1;
        let mut head = AckHead::new_zeroed();
        head.epoch = (epoch - 1).into();
        head.received_to = last.into();
        head.durable_to = last.into();
        head.max_seq_allowed = (last + 256).into();
        head.max_bytes_allowed = (1 << 20).into();
        head.receipts_from = (last + 1).into();
        head.durability = Durability::Volatile.code();
        let mut room = [0; 256];
        let mut writer = DatagramWriter::new(&mut room, conn_id, 1 << 40);
        assert!(writer.frame(Kind::Ack, head.as_bytes(), &[]), "an ACK fits");
        let len = writer.len();
        let to = client.local();
        self.net.inject(SERVER, to, &room[..len]);
        self.server.hits.zombie_acks += 1;
        self.trace.note("zombie ack", index as u64, last);
    }

    /// One turn of everybody.
    fn turn(&mut self) -> Result<(), Violation> {
        let now_ns = self.clock.now_ns();
        self.keep_running(now_ns)?;
        if now_ns >= self.paused_until {
            self.server.turn(&mut self.oracle)?;
        }
        for index in 0..self.publishers.len() {
            self.poll_publisher(index, now_ns)?;
        }
        for index in 0..self.consumers.len() {
            self.poll_consumer(index)?;
        }
        self.poll_operator()?;
        for zombie in &mut self.zombies {
            // It may be fenced at any moment, and is not heard any more then.
            let _ = zombie.poll(&mut |_| {});
            while zombie.next_completion().is_some() {}
        }
        Ok(())
    }

    /// What an operator, or systemd, does: starts what is down, restarts what has failed.
    fn keep_running(&mut self, now_ns: u64) -> Result<(), Violation> {
        if self.server.shard.is_none() {
            if now_ns >= self.down_until && now_ns >= self.paused_until {
                self.start_server()?;
            }
            return Ok(());
        }
        let condition = self.server.shard.as_ref().map(crate::shard::Shard::condition);
        if let Some(Condition::Failed(code)) = condition {
            if code == ErrorCode::DataLoss && !self.plan.may_lose() {
                let what = "the server found damage on a faultless disk".into();
                return Err(Violation { oracle: "O1", what });
            }
            if self.random.one_of_thousand(20) {
                self.server.crash(Crash::Kill);
                self.down_until = now_ns + 1_000_000;
            }
            return Ok(());
        }
        if self.server.device.borrow().is_hung() {
            if self.hung_since == 0 {
                self.hung_since = now_ns;
                self.server.device.borrow_mut().hits.hangs += 1;
            } else if now_ns - self.hung_since > HANG_NS || self.random.one_of_thousand(5) {
                self.server.crash(Crash::PowerCut);
                self.hung_since = 0;
            }
        } else {
            self.hung_since = 0;
        }
        Ok(())
    }

    fn poll_publisher(&mut self, index: usize, now_ns: u64) -> Result<(), Violation> {
        let publisher = &mut self.publishers[index];
        let journal = publisher.journal;
        let Some(client) = &mut publisher.client else {
            if now_ns >= publisher.back_ns {
                let who = match self.oracle.journals[journal].producer {
                    Some(producer) => Publisher::Known(producer),
                    None => Publisher::New,
                };
                let client = self.client(who);
                let publisher = &mut self.publishers[index];
                publisher.client = Some(client);
                publisher.resumed = false;
            }
            return Ok(());
        };
        if publisher.retires {
            if client.retire() {
                publisher.client = None;
                self.begin_anew(index);
            }
            return Ok(());
        }
        let polled = client.poll(&mut |_| {});
        while let Some(event) = client.next_event() {
            if let Event::Connected { producer } = event
                && !publisher.resumed
            {
                publisher.resumed = true;
                self.oracle.resumed(journal, producer, client.next_seq() - 1)?;
            }
        }
        while let Some(done) = client.next_completion() {
            self.oracle.acknowledged(journal, done.producer_seq, &done.receipt)?;
        }
        if let Err(error) = polled {
            self.injected().allows_end(&format!("the publisher of journal {journal}"), &error)?;
            let publisher = &mut self.publishers[index];
            publisher.client = None;
            publisher.back_ns = now_ns + 5_000_000;
        }
        Ok(())
    }

    #[allow(clippy::too_many_lines, reason = "a table of what a consumer may be told")]
    fn poll_consumer(&mut self, index: usize) -> Result<(), Violation> {
        let injected = self.injected();
        let consumer = &mut self.consumers[index];
        if !consumer.subscribed {
            for (stream, next) in &consumer.expected {
                let from = if *next == 1 { StartFrom::Start } else { StartFrom::Sequence(*next) };
                consumer.client.subscribe(*stream, from, 64);
            }
            consumer.subscribed = true;
        }
        let (oracle, expected, rows) =
            (&mut self.oracle, &mut consumer.expected, &mut consumer.rows);
        let mut broken = Ok(());
        let polled = consumer.client.poll(&mut |record| {
            let stream = StreamId(record.header.stream.get());
            let next = expected.get_mut(&stream).expect("a stream it subscribed to");
            let sequence = record.header.sequence.get();
            if *next == 1 && sequence > 1 && broken.is_ok() {
                // It asked for the start, wherever that is.
                broken = oracle.told_begin(stream, sequence);
                *next = sequence;
            }
            if broken.is_ok() {
                broken = oracle.delivered(stream, *next, record);
            }
            *next += 1;
            let row = (record.header.producer_id.get(), record.header.producer_seq.get());
            rows.entry(stream).or_default().push(row);
        });
        broken?;
        if let Err(error) = &polled {
            injected.allows_end("a consumer", error)?;
        }
        let mut again = polled.is_err();
        while let Some(event) = consumer.client.next_event() {
            match event {
                Event::DataLoss { stream, first, .. } if self.plan.may_lose() => {
                    self.trace.note("data loss", u64::from(stream.0), first);
                    consumer.lossy = true;
                    again = true;
                }
                Event::DataLoss { stream, first, .. } => {
                    let what = format!("stream {stream}: {first} is lost on a faultless disk");
                    return Err(Violation { oracle: "O1", what });
                }
                Event::Refused { code, .. } => {
                    injected.allows_refusal("a consumer", code)?;
                    again = true;
                }
                Event::Trimmed { stream, log_start } => {
                    self.server.hits.trimmed += 1;
                    self.oracle.told_begin(stream, log_start)?;
                    consumer.goes_on_at(stream, log_start);
                    consumer.client.subscribe(stream, StartFrom::Sequence(log_start), 64);
                }
                Event::TooLarge { stream, sequence, .. } => {
                    let what = format!("stream {stream}: {sequence} is too large for a consumer");
                    return Err(Violation { oracle: "O1", what });
                }
                Event::Connected { .. }
                | Event::Subscribed { .. }
                | Event::Stream { .. }
                | Event::ListEnd { .. }
                | Event::Redirected { .. } => {}
            }
        }
        if again {
            let client = self.client(Publisher::No);
            let consumer = &mut self.consumers[index];
            consumer.client = client;
            consumer.subscribed = false;
        }
        Ok(())
    }

    /// Publishers publish: what their journal holds beyond what is durable, then something new.
    fn offer(&mut self) {
        for publisher in &mut self.publishers {
            let Some(client) = &mut publisher.client else { continue };
            if !publisher.resumed
                || publisher.retires
                || !self.random.one_of_thousand(self.plan.offer)
            {
                continue;
            }
            let count = self.random.below(self.plan.burst) + 1;
            let messages = &mut self.oracle.journals[publisher.journal].messages;
            for _ in 0..count {
                let index = usize::try_from(client.next_seq() - 1).expect("few messages");
                let is_new = index == messages.len();
                if is_new {
                    let stream = self.random.below(self.streams.len() as u64);
                    let stream = self.streams[usize::try_from(stream).expect("few streams")];
                    let len = usize::try_from(self.random.below(self.plan.payload)).expect("small");
                    let number = publisher.journal as u64 * 1_000_003 + index as u64;
                    let bytes = number.to_le_bytes();
                    messages.push((stream, bytes.iter().cycle().take(len).copied().collect()));
                }
                let (stream, payload) = &messages[index];
                if client.offer(*stream, payload).is_err() {
                    if is_new {
                        messages.pop();
                    }
                    break;
                }
            }
        }
    }
}
