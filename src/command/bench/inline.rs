//! Both ends on one core: the appliance, or an echo, takes a turn each time the client looks at its port.
//!
//! On two cores a client, an appliance and an NVMe target that all spin would measure the scheduler.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::rc::Rc;

use crate::clock::{Clock, HostClock};
use crate::ids::{Lineage, Peer};
use crate::launch::{LaunchError, open_log_disk, open_port_pair, open_tool_disk};
use crate::log::Log;
use crate::log::create::FormatOptions;
use crate::log::recovery::OpenOptions;
use crate::log::shares::format_shares;
use crate::measure::floor::echo_turn;
use crate::port::{AnyPort, Port, PortCounters};
use crate::profile::{DiskDriver, Profile};
use crate::shard::{Shard, ShardOptions, recovered_run};

/// What is at the other end of the pair.
enum End {
    /// Nobody.
    Idle(AnyPort),
    /// What it gets goes back.
    Echo(AnyPort, Vec<u8>),
    /// An appliance.
    Serve(Box<Shard<HostClock>>),
    /// On its way from one to the other.
    Gone,
}

/// The other end of a pair of ports in this process.
#[derive(Clone)]
pub(super) struct Inline(Rc<RefCell<End>>);

impl Inline {
    /// The other end, idle, and the client's port.
    pub(super) fn open(profile: &Profile) -> Result<(Self, AnyPort), LaunchError> {
        let (server, client) = open_port_pair(profile)?;
        let end = Self(Rc::new(RefCell::new(End::Idle(server))));
        Ok((end.clone(), Box::new(Beside { port: client, end })))
    }

    /// Makes it an echo until the value is dropped.
    pub(super) fn echo(&self) -> Running {
        let port = self.take_port();
        let copy = vec![0; port.datagram_bytes()];
        *self.0.borrow_mut() = End::Echo(port, copy);
        Running(self.clone())
    }

    /// Makes it an appliance with an empty log until the value is dropped.
    pub(super) fn serve(&self, profile: &Profile) -> Result<Running, LaunchError> {
        let clock = HostClock::new();
        let ring_bytes = usize::try_from(profile.disk.ring).expect("a 64-bit machine");
        let memory_bytes = Log::memory_bytes(ring_bytes);
        if profile.disk.driver == DiskDriver::Spdk {
            let segment_bytes = profile.disk.segment;
            let mut whole = open_tool_disk(&profile.disk, &profile.disk.path, memory_bytes, false)?;
            format_shares(&mut whole, &FormatOptions { segment_bytes, force: true }, 1)?;
        }
        let mut disk = open_log_disk(profile, memory_bytes)?;
        let options = OpenOptions {
            queue_depth: profile.disk.queue_depth,
            ring_bytes,
            unix_ns: clock.unix_ns(),
            lineage: Lineage::random(),
        };
        let mut runs = BTreeMap::new();
        let (log, _) =
            Log::open(&mut disk, &options, &mut |message| recovered_run(&mut runs, message))?;
        let window_messages = profile.limits.window_messages;
        let options = ShardOptions { window_messages, ..ShardOptions::default() };
        let shard = Shard::new(self.take_port(), disk, clock, log, runs, options);
        *self.0.borrow_mut() = End::Serve(Box::new(shard));
        Ok(Running(self.clone()))
    }

    fn take_port(&self) -> AnyPort {
        match self.0.replace(End::Gone) {
            End::Idle(port) | End::Echo(port, _) => port,
            End::Serve(shard) => shard.abandon(),
            End::Gone => unreachable!("it is put back before anybody else asks"),
        }
    }

    fn turn(&self) {
        match &mut *self.0.borrow_mut() {
            End::Idle(port) => {
                port.receive();
            }
            End::Echo(port, copy) => echo_turn(port, copy),
            End::Serve(shard) => {
                shard.turn();
            }
            End::Gone => {}
        }
    }
}

/// The other end is idle again when this is dropped.
pub(super) struct Running(Inline);

impl Drop for Running {
    fn drop(&mut self) {
        let port = self.0.take_port();
        *self.0.0.borrow_mut() = End::Idle(port);
    }
}

/// The client's port: the other end has its turn before each look at what arrived.
struct Beside {
    port: AnyPort,
    end: Inline,
}

impl Port for Beside {
    fn receive(&mut self) -> usize {
        self.end.turn();
        self.port.receive()
    }

    fn datagram(&mut self, index: usize) -> (Peer, &mut [u8]) {
        self.port.datagram(index)
    }

    fn reserve(&mut self, peer: Peer) -> Option<&mut [u8]> {
        self.port.reserve(peer)
    }

    fn commit(&mut self, len: usize) {
        self.port.commit(len);
    }

    fn flush(&mut self) -> usize {
        self.port.flush()
    }

    fn resolve(&mut self, addr: SocketAddrV4) -> Option<Peer> {
        self.port.resolve(addr)
    }

    fn local(&self) -> SocketAddrV4 {
        self.port.local()
    }

    fn datagram_bytes(&self) -> usize {
        self.port.datagram_bytes()
    }

    fn counters(&self) -> PortCounters {
        self.port.counters()
    }

    fn describe(&self) -> String {
        self.port.describe()
    }
}
