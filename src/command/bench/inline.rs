//! Both ends on one core: the appliance, or an echo, takes a turn each time the client looks at its port.
//!
//! On two cores a client, an appliance and an NVMe target that all spin would measure the scheduler.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::rc::Rc;
use std::sync::Arc;

use crate::access::{Access, Identity, Rights, SecretKey};
use crate::client::{ClientKeys, Security};
use crate::clock::{Clock, HostClock};
use crate::ids::{Lineage, Peer};
use crate::launch::{LaunchError, open_log_disk, open_port_pair, open_tool_disk};
use crate::log::Log;
use crate::log::create::FormatOptions;
use crate::log::recovery::OpenOptions;
use crate::log::shares::format_shares;
use crate::measure::floor::echo_turn;
use crate::port::{AnyPort, Port, PortCounters};
use crate::profile::{DiskDriver, Profile, SecurityMode};
use crate::seal::entropy::Entropy;
use crate::session::handshake::{Handshaker, HandshakerEnd, rings};
use crate::shard::{self, Shard, ShardOptions, recovered_run};

/// What is at the other end of the pair.
enum End {
    /// Nobody.
    Idle(AnyPort),
    /// What it gets goes back.
    Echo(AnyPort, Vec<u8>),
    /// An appliance.
    Serve(Box<Served>),
    /// On its way from one to the other.
    Gone,
}

/// An appliance, and who answers handshakes with it.
struct Served {
    shard: Shard<HostClock>,
    handshakes: Option<(Handshaker, HandshakerEnd)>,
    turns: u32,
    security: Security,
}

/// Turns of a shard between two looks of who answers handshakes: that has a core of its own otherwise.
const TURNS_A_LOOK: u32 = 1024;

impl Served {
    fn new(mut shard: Shard<HostClock>, is_sealed: bool) -> Self {
        let (mut handshakes, mut security) = (None, Security::Plain);
        if is_sealed {
            let (server, secret) = (SecretKey::generate(), SecretKey::generate());
            let keys = vec![secret.public()];
            let everybody = vec![Identity::new("bench", keys, None, Rights::all())];
            let access = Access::new(everybody, Rights::none()).expect("one identity");
            let access = Arc::new(access);
            let (end, other) = rings(Arc::clone(&access));
            let key = server.public();
            shard.secure(shard::Security {
                end,
                access: Arc::clone(&access),
                key,
                takes_plain: false,
            });
            handshakes = Some((Handshaker::new(server, access, Entropy::system()), other));
            security = Security::Sealed(Arc::new(ClientKeys { server: key, secret, psk: None }));
        }
        Self { shard, handshakes, turns: 0, security }
    }

    fn turn(&mut self, clock: &HostClock) {
        self.shard.turn();
        self.turns = self.turns.wrapping_add(1);
        if self.turns.is_multiple_of(TURNS_A_LOOK)
            && let Some((handshaker, end)) = &mut self.handshakes
        {
            handshaker.turn(end, clock.now_ns());
        }
    }
}

/// The other end of a pair of ports in this process.
#[derive(Clone)]
pub(super) struct Inline(Rc<RefCell<End>>, HostClock);

impl Inline {
    /// The other end, idle, and the client's port.
    pub(super) fn open(profile: &Profile) -> Result<(Self, AnyPort), LaunchError> {
        let (server, client) = open_port_pair(profile)?;
        let end = Self(Rc::new(RefCell::new(End::Idle(server))), HostClock::new());
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
        let is_sealed = profile.security.mode == SecurityMode::Sealed;
        *self.0.borrow_mut() = End::Serve(Box::new(Served::new(shard, is_sealed)));
        Ok(Running(self.clone()))
    }

    /// How clients of the appliance are known.
    pub(super) fn security(&self) -> Security {
        match &*self.0.borrow() {
            End::Serve(served) => served.security.clone(),
            End::Idle(_) | End::Echo(..) | End::Gone => Security::Plain,
        }
    }

    fn take_port(&self) -> AnyPort {
        match self.0.replace(End::Gone) {
            End::Idle(port) | End::Echo(port, _) => port,
            End::Serve(served) => served.shard.abandon(),
            End::Gone => unreachable!("it is put back before anybody else asks"),
        }
    }

    fn turn(&self) {
        match &mut *self.0.borrow_mut() {
            End::Idle(port) => {
                port.receive();
            }
            End::Echo(port, copy) => echo_turn(port, copy),
            End::Serve(served) => served.turn(&self.1),
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
