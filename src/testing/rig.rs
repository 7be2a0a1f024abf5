//! An appliance in one thread: shards, and clients at them, over a network in memory, by a clock that the test turns.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use super::disk::{RING, Remains, TestDisk};
use super::sealed::{self, House};
use crate::client::polled::Client;
use crate::client::{ClientOptions, Event, Publisher, Request, Security};
use crate::clock::{Clock, ManualClock};
use crate::ids::{Lineage, StreamId};
use crate::log::Log;
use crate::log::recovery::{OpenOptions, RecoveredMessage};
use crate::port::memory::{Faults, MemoryNet, MemoryPort};
use crate::seal::entropy::Entropy;
use crate::session::receipts::Run;
use crate::shard::directory::directory;
use crate::shard::{Shard, ShardOptions, Siblings, recovered_run};

/// The port of the first shard; each further one has the next.
pub(crate) const BASE_PORT: u16 = 1;

/// The port of the first client; each further one has the next.
pub(crate) const CLIENT_PORT: u16 = 101;

/// Who has this port.
pub(crate) fn address(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)
}

/// A shard as the tests have it.
pub(crate) type TestShard = Shard<ManualClock>;

/// What a consumer was given: sequence, producer's number, payload.
pub(crate) type Received = (u64, u64, Vec<u8>);

/// The appliance and its clients.
pub(crate) struct Rig {
    pub(crate) clock: ManualClock,
    pub(crate) net: MemoryNet,
    /// Those that run.
    pub(crate) shards: Vec<TestShard>,
    /// What the disk of each shard leaves.
    remains: Vec<Remains>,
    pub(crate) clients: Vec<Client<MemoryPort, ManualClock>>,
    /// What each client was given.
    pub(crate) received: Vec<Vec<Received>>,
    /// UDP payload of the port of a shard that is started.
    pub(crate) datagram_bytes: usize,
    /// A client may end, as one does that another takes over from; otherwise the test fails with its error.
    pub(crate) clients_end: bool,
    /// How its clients are known that are made from now on.
    pub(crate) security: Security,
    /// Who answers handshakes, where sessions are sealed.
    pub(crate) house: Option<House>,
    next_port: u16,
    /// Of logs.
    openings: u64,
}

impl Rig {
    /// One shard on a new disk of 64 MiB.
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        let mut rig = Self::empty(seed, faults);
        rig.start(TestDisk::formatted(64 << 20));
        rig
    }

    /// The same with sealed sessions; its first client may come with the key of number 1.
    pub(crate) fn sealed(seed: u64, faults: Faults, house: House) -> Self {
        let mut rig = Self::empty(seed, faults);
        (rig.house, rig.security) = (Some(house), sealed::security(1));
        rig.start(TestDisk::formatted(64 << 20));
        rig
    }

    /// So many shards that know each other, each on a new disk of 12 MiB.
    pub(crate) fn of_shards(count: u32, seed: u64, faults: Faults) -> Self {
        let mut rig = Self::empty(seed, faults);
        let (placer, directory) = directory(count);
        let mut placer = Some(placer);
        for shard in 0..count {
            rig.start(TestDisk::formatted(12 << 20));
            let (directory, placer) = (directory.clone(), placer.take());
            let all = Siblings { shard, shards: count, directory, placer };
            rig.shards.last_mut().unwrap().join(all);
        }
        rig
    }

    fn empty(seed: u64, faults: Faults) -> Self {
        let clock = ManualClock::new();
        clock.advance_ns(1_000_000);
        let net = MemoryNet::new(clock.clone(), seed, faults);
        Self {
            clock,
            net,
            shards: Vec::new(),
            remains: Vec::new(),
            clients: Vec::new(),
            received: Vec::new(),
            datagram_bytes: 1472,
            clients_end: false,
            security: Security::Plain,
            house: None,
            next_port: CLIENT_PORT,
            openings: 0,
        }
    }

    /// Starts one more shard, from what is on this disk.
    pub(crate) fn start(&mut self, mut disk: TestDisk) {
        let mut runs: BTreeMap<u64, Vec<Run>> = BTreeMap::new();
        self.openings += 1;
        let options = OpenOptions {
            queue_depth: 4,
            ring_bytes: RING,
            unix_ns: self.clock.unix_ns(),
            lineage: Lineage(self.openings),
        };
        let (log, _) = Log::open(&mut disk, &options, &mut |message: &RecoveredMessage| {
            recovered_run(&mut runs, message);
        })
        .unwrap();
        let port = BASE_PORT + u16::try_from(self.shards.len()).unwrap();
        let port = self.net.port(address(port), self.datagram_bytes);
        let options = ShardOptions::default();
        self.remains.push(disk.remains());
        let (port, disk) = (Box::new(port), Box::new(disk));
        let mut shard = Shard::new(port, disk, self.clock.clone(), log, runs, options);
        if let Some(house) = &mut self.house {
            shard.secure(house.for_shard());
        }
        self.shards.push(shard);
    }

    /// The only shard's process is gone; what its disk has, it keeps. What was in flight is lost.
    pub(crate) fn kill(&mut self) -> TestDisk {
        assert_eq!(self.shards.len(), 1, "of several it is not said which");
        drop(self.shards.pop());
        self.left_disk()
    }

    /// The disk of a shard that was taken away and has ended: what it has, it keeps.
    pub(crate) fn left_disk(&mut self) -> TestDisk {
        self.remains.pop().unwrap().into_disk()
    }

    /// The same, and it is started again.
    pub(crate) fn crash(&mut self) {
        let disk = self.kill();
        self.start(disk);
    }

    /// The same, from another disk.
    pub(crate) fn restart_on(&mut self, disk: TestDisk) {
        drop(self.kill());
        self.start(disk);
    }

    /// A client of the first shard.
    pub(crate) fn client(&mut self, publisher: Publisher) -> usize {
        self.add_client(publisher, address(BASE_PORT), 1472)
    }

    /// This client, which the rig polls no more; those behind it come one forward.
    pub(crate) fn take(&mut self, client: usize) -> Client<MemoryPort, ManualClock> {
        self.received.remove(client);
        self.clients.remove(client)
    }

    /// One whose datagrams have this size.
    pub(crate) fn client_of(&mut self, publisher: Publisher, datagram_bytes: usize) -> usize {
        self.add_client(publisher, address(BASE_PORT), datagram_bytes)
    }

    /// One that asks this shard first.
    pub(crate) fn client_at(&mut self, publisher: Publisher, shard: u16) -> usize {
        self.add_client(publisher, address(BASE_PORT + shard), 1472)
    }

    fn add_client(
        &mut self,
        publisher: Publisher,
        server: SocketAddrV4,
        datagram_bytes: usize,
    ) -> usize {
        let port = self.net.port(address(self.next_port), datagram_bytes);
        let options = ClientOptions {
            publisher,
            window_messages: 1024,
            window_bytes: 1 << 20,
            dead_after_ns: u64::MAX,
            security: self.security.clone(),
            entropy: Entropy::seeded(u64::from(self.next_port) * 1_000),
        };
        self.next_port += 1;
        self.clients.push(Client::new(port, self.clock.clone(), server, options));
        self.received.push(Vec::new());
        self.clients.len() - 1
    }

    /// 10 us pass, every shard makes a turn, and every client is polled.
    pub(crate) fn turn(&mut self) {
        self.clock.advance_ns(10_000);
        for shard in &mut self.shards {
            shard.turn();
        }
        if let Some(house) = &mut self.house {
            house.turn(self.clock.now_ns());
        }
        for (client, received) in self.clients.iter_mut().zip(&mut self.received) {
            let polled = client.poll(&mut |record| {
                let header = record.header;
                let row =
                    (header.sequence.get(), header.producer_seq.get(), record.payload.to_vec());
                received.push(row);
            });
            if let Err(error) = polled {
                assert!(self.clients_end, "{error}");
            }
        }
    }

    /// Turns until something is so.
    pub(crate) fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        for _ in 0..2_000_000 {
            if done(self) {
                return;
            }
            self.turn();
        }
        panic!("never came true: {what}");
    }

    /// The answer to a request; what else the client is told meanwhile is dropped.
    pub(crate) fn ask(&mut self, client: usize, request: Request) -> Event {
        let asked = self.clients[client].request(request);
        let mut answer = None;
        self.until("the request is answered", |rig| {
            while let Some(event) = rig.clients[client].next_event() {
                if let Event::Stream { request, .. }
                | Event::Refused { request, .. }
                | Event::Redirected { request, .. } = event
                    && request == asked
                {
                    answer = Some(event);
                }
            }
            answer.is_some()
        });
        answer.unwrap()
    }

    /// Makes a stream.
    pub(crate) fn create(&mut self, client: usize, name: &str) -> StreamId {
        let answer = self.ask(client, Request::CreateStream(name.into()));
        let Event::Stream { info, .. } = answer else { panic!("{answer:?}") };
        info.id
    }
}
