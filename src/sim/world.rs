//! A run: server, clients, network and disk, and what happens to them turn by turn.

mod consume;
mod misfortune;
mod operate;
mod overtaken;
mod publish;
mod retire;
mod settle;
mod stranger;
mod visit;

use std::net::{Ipv4Addr, SocketAddrV4};

use self::consume::Consuming;
use self::overtaken::Overtaken;
use self::publish::Publishing;
use self::visit::Visiting;
use super::allowed::Injected;
use super::disk::Crash;
use super::histories::Histories;
use super::oracle::{Journal, Oracle, Violation};
use super::plan::{Gear, Plan, log_uniform};
use super::server::{Opening, SERVER, Server};
use super::trace::Trace;
use super::{End, Outcome};
use crate::client::polled::Client;
use crate::client::{ClientOptions, Event, Publisher, Request, Security};
use crate::clock::{Clock, ManualClock, Wall};
use crate::fired;
use crate::ids::StreamId;
use crate::limits::Limits;
use crate::port::memory::{Faults, MemoryNet, MemoryPort};
use crate::random::Random;
use crate::seal::entropy::Entropy;
use crate::shard::Condition;
use crate::testing::sealed;
use crate::wire::control::ErrorCode;

type SimClient = Client<MemoryPort, ManualClock>;

/// A write that hangs this long is taken for dead, and the server with it.
const HANG_NS: u64 = 50_000_000;

/// Clients that neither publish nor consume.
struct Others {
    overtaken: Vec<Overtaken>,
    visitors: Vec<Visiting>,
    operator: Option<SimClient>,
    operator_gear: Gear,
    next_port: u16,
}

/// Who is away for now, and until when.
#[derive(Default)]
struct Outage {
    paused_until: u64,
    down_until: u64,
    hung_since: u64,
    /// Addresses that are cut off, and until when.
    cut: Vec<(SocketAddrV4, u64)>,
}

/// What a run has come to.
#[derive(Default)]
struct Phase {
    halted: bool,
    rotted: bool,
    /// No more faults: everybody waits for as long as it takes.
    settles: bool,
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
    others: Others,
    outage: Outage,
    phase: Phase,
    /// What all clients did and were told.
    histories: Histories,
}

impl World {
    /// A world before anything happened.
    pub(super) fn new(plan: &Plan) -> Self {
        let clock = ManualClock::new();
        clock.advance_ns(1_000_000);
        let (drift_ppm, jitter_ns) = (plan.clock_drift, plan.clock_jitter_ns);
        clock.set_wall(Wall { ahead_ns: 0, drift_ppm, jitter_ns });
        fired::start();
        let trace = Trace::new(clock.clone());
        let histories = Histories::new();
        let faults = Faults { delay_ns: plan.net.delay_ns, ..Faults::default() };
        let net = MemoryNet::new(clock.clone(), plan.seed ^ 0x0e7, faults);
        net.watch(SERVER);
        stranger::addresses().for_each(|address| net.watch_stranger(address));
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
            others: Others {
                overtaken: Vec::new(),
                visitors: Vec::new(),
                operator: None,
                operator_gear: Gear::plain(plan),
                next_port: 100,
            },
            outage: Outage::default(),
            phase: Phase::default(),
            histories,
        }
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// The first promise broken.
    pub(super) fn run(&mut self) -> Result<End, Violation> {
        let end = self.live()?;
        self.histories.check()?;
        Ok(end)
    }

    fn live(&mut self) -> Result<End, Violation> {
        self.set_up()?;
        self.net.set_faults(self.plan.net);
        self.server.device.borrow_mut().set_faults(self.plan.disk);
        for _ in 0..self.plan.turns {
            self.clock.advance_ns(1 + self.random.below(self.plan.pace_ns));
            self.misfortune()?;
            self.turn()?;
            if self.phase.halted {
                return Ok(End::Halted);
            }
            self.offer()?;
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
            fired: fired::take(),
        }
    }

    fn set_up(&mut self) -> Result<(), Violation> {
        self.start_server()?;
        for _ in 0..self.plan.load.publishers {
            let journal = self.oracle.journals.len();
            self.oracle.journals.push(Journal::default());
            let gear = Gear::of(&self.plan, &mut self.random);
            let client = self.client(Publisher::New, &gear);
            self.publishers.push(Publishing::new(client, journal, gear));
        }
        let mut maker = self.plain_client(Publisher::No);
        for number in 0..self.plan.load.streams {
            let name = format!("stream-{number}");
            let on_shard = self.random.one_of_thousand(200);
            maker.request(match on_shard {
                true => Request::CreateStreamOn(name, 0),
                false => Request::CreateStream(name),
            });
        }
        let mut turns = 0;
        while self.streams.len() < self.plan.load.streams {
            self.clock.advance_ns(10_000);
            self.turn()?;
            if let Err(error) = maker.poll(&mut |_| {}) {
                self.injected().allows_end("the maker of streams", &error)?;
            }
            while let Some(event) = maker.next_event() {
                if let Event::Stream { info, .. } = event {
                    self.oracle.told_stream(info.id, &info.name);
                    self.streams.push(info.id);
                }
            }
            turns += 1;
            Oracle::within("turns to make the streams", turns, 100_000)?;
        }
        self.streams.sort_unstable();
        let patience_ns = Gear::of(&self.plan, &mut self.random).patience_ns;
        self.others.operator_gear.patience_ns = patience_ns;
        for _ in 0..self.plan.load.consumers {
            let gear = Gear::of(&self.plan, &mut self.random);
            let consumer = self.consumer(gear);
            self.consumers.push(consumer);
        }
        Ok(())
    }

    /// A client that is like its server.
    fn plain_client(&mut self, publisher: Publisher) -> SimClient {
        self.client(publisher, &Gear::plain(&self.plan))
    }

    /// A process of its own, with an address and a clock that nobody had before.
    fn client(&mut self, publisher: Publisher, gear: &Gear) -> SimClient {
        self.others.next_port += 1;
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.others.next_port);
        let options = ClientOptions {
            publisher,
            window_messages: gear.window_messages,
            window_bytes: gear.window_bytes,
            dead_after_ns: if self.phase.settles { u64::MAX } else { gear.patience_ns },
            security: if self.plan.sealed > 0 { sealed::security(1) } else { Security::Plain },
            entropy: Entropy::seeded(self.random.next_u64()),
        };
        let port = self.net.port(address, gear.datagram_bytes);
        let mut client = Client::new(port, self.clock.begun(), SERVER, options);
        client.record(self.histories.begin());
        client
    }

    fn consumer(&mut self, gear: Gear) -> Consuming {
        let client = self.client(Publisher::No, &gear);
        Consuming::new(client, gear, &self.streams)
    }

    /// How long a fault lasts, or somebody is away: for one turn as often as for thousands.
    fn lasting_ns(&mut self) -> u64 {
        log_uniform(&mut self.random, 1, 2_000) * (self.plan.pace_ns / 2).max(1)
    }

    /// What has happened so far that somebody may be told of.
    fn injected(&self) -> Injected {
        let disk = self.server.device.borrow().hits;
        let (net, server) = (self.net.hits(), &self.server.hits);
        let lost = net.lost + net.damaged + net.cut + net.held + net.late;
        let away = server.kills + server.power_cuts + server.stops + server.pauses;
        let stuck = disk.hangs + disk.slow + server.failures + server.open.failed + server.full;
        let straggles = self.plan.travel_ns_max() > 1_000_000;
        Injected {
            silent: lost + away + stuck > 0 || straggles,
            stragglers: false,
            impatient: false,
            write_failed: disk.errors + disk.errors_stored > 0,
            data_spoilt: disk.read_errors + disk.bad_reads + disk.rotten + disk.lost > 0,
            full: self.server.was_full,
            stopped: self.server.was_told_to_stop,
            limited: self.plan.limits != [Limits::MAX; 2] || server.client.strangers > 0,
        }
    }

    fn start_server(&mut self) -> Result<(), Violation> {
        match self.server.start(&mut self.oracle)? {
            Opening::Serves => {}
            Opening::Failed => self.outage.down_until = self.clock.now_ns() + 1_000_000,
            Opening::Halted => self.phase.halted = true,
        }
        Ok(())
    }

    fn chance(&mut self, in_hundred_thousand: u64) -> bool {
        in_hundred_thousand > 0 && self.random.below(100_000) < in_hundred_thousand
    }

    /// The same, for a client that is like this.
    fn injected_with(&self, gear: &Gear) -> Injected {
        let impatient = gear.patience_ns < u64::MAX && !self.phase.settles;
        Injected { impatient, ..self.injected() }
    }

    /// One turn of everybody.
    fn turn(&mut self) -> Result<(), Violation> {
        let now_ns = self.clock.now_ns();
        self.histories.set_now(now_ns);
        self.keep_running(now_ns)?;
        if now_ns >= self.outage.paused_until {
            self.server.turn(&mut self.oracle)?;
            self.check_strangers()?;
        }
        for index in 0..self.publishers.len() {
            self.poll_publisher(index, now_ns)?;
        }
        for index in 0..self.consumers.len() {
            self.poll_consumer(index)?;
        }
        self.poll_operator()?;
        if !self.others.visitors.is_empty() {
            self.poll_visitors()?;
        }
        self.poll_overtaken()
    }

    /// What an operator, or systemd, does: starts what is down, restarts what has failed.
    fn keep_running(&mut self, now_ns: u64) -> Result<(), Violation> {
        if self.server.shard.is_none() {
            if now_ns >= self.outage.down_until && now_ns >= self.outage.paused_until {
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
                self.outage.down_until = now_ns + 1_000_000;
            }
            return Ok(());
        }
        if self.server.device.borrow().is_hung() {
            if self.outage.hung_since == 0 {
                self.outage.hung_since = now_ns;
                self.server.device.borrow_mut().hits.hangs += 1;
            } else if now_ns - self.outage.hung_since > HANG_NS.max(400 * self.plan.pace_ns)
                || self.random.one_of_thousand(1)
            {
                self.server.crash(Crash::PowerCut);
                self.outage.hung_since = 0;
            }
        } else {
            self.outage.hung_since = 0;
        }
        Ok(())
    }
}
