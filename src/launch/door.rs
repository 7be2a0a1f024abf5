//! Answers for an appliance that is not ready yet: it makes its log, or recovers it.
//!
//! Whoever wants a session, and shows that it receives where it says it is, hears that it has to wait, and so knows that
//! somebody is there. Nothing else is answered: whoever had a session with the process before learns what became of it
//! once the log is open.

use std::io;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use zerocopy::IntoBytes;

use super::keys::Keys;
use super::{LaunchError, dpdk_port};
use crate::clock::{Clock, HostClock, Now};
use crate::ids::{ConnId, Peer};
use crate::port::udp::UdpPort;
use crate::port::{Port, PortError};
use crate::profile::{PortDriver, PortProfile, Profile};
use crate::retry::retry;
use crate::session::gate::{Gate, Verdict};
use crate::session::handshake::{Handshaker, Request};
use crate::shard::{Security, reject, send_to};
use crate::wire::control::ErrorCode;
use crate::wire::datagram::{Accept, Init, Resp};
use crate::wire::{Datagram, parse};

/// A port that can be handed from thread to thread.
pub(super) type SendPort = Box<dyn Port + Send>;

/// Between two looks at a port on which nothing came.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// How long an address in use is tried again: a process that was killed a moment ago has its sockets until the kernel
/// has taken it down.
const PORT_PATIENCE: Duration = Duration::from_secs(2);

/// A port that is answered on until the appliance takes it over.
pub(super) struct Door {
    /// A flag that orders nothing but itself: the thread's end orders the rest.
    taken: Arc<AtomicBool>,
    thread: Option<JoinHandle<SendPort>>,
}

impl Door {
    /// Begins to answer, on a thread of its own.
    ///
    /// # Errors
    /// When the thread could not be started.
    pub(super) fn open(
        mut port: SendPort,
        security: Option<(Handshaker, Security)>,
    ) -> io::Result<Self> {
        let taken = Arc::new(AtomicBool::new(false));
        let is_taken = Arc::clone(&taken);
        let thread = Builder::new().name("buslane-door".into()).spawn(move || {
            let mut secret = [0; 32];
            getrandom::fill(&mut secret).expect("the operating system gives random bytes");
            let (mut gate, clock) = (Gate::new(&secret, 0), HostClock::new());
            let mut handshaker = security.map(|(handshaker, security)| {
                gate.seal(&security.key, security.takes_plain);
                handshaker
            });
            while !is_taken.load(Ordering::Relaxed) {
                if answer(&mut *port, &mut gate, handshaker.as_mut(), clock.now()) == 0 {
                    std::thread::park_timeout(LOOK_EVERY);
                }
            }
            port
        })?;
        Ok(Self { taken, thread: Some(thread) })
    }

    /// The port, for the appliance.
    pub(super) fn take(mut self) -> SendPort {
        self.end().expect("it is taken once").join().expect("the door does not panic")
    }

    fn end(&mut self) -> Option<JoinHandle<SendPort>> {
        self.taken.store(true, Ordering::Relaxed);
        let thread = self.thread.take()?;
        thread.thread().unpark();
        Some(thread)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Some(thread) = self.end() {
            let _ = thread.join();
        }
    }
}

/// A shard's port while its log is made and opened.
pub(super) struct Entrance {
    local: SocketAddrV4,
    way: Way,
}

/// What stands at the entrance.
enum Way {
    /// Answered on meanwhile.
    Door(Door),
    /// DPDK's: what comes waits in the device, since its buffer caches belong to the shard's thread.
    Port(SendPort),
}

impl Entrance {
    /// One for each shard; those of a DPDK device are opened together.
    pub(super) fn open_all(
        profile: &Profile,
        keys: Option<&Keys>,
    ) -> Result<Vec<Self>, LaunchError> {
        match profile.port.driver {
            PortDriver::Udp => {
                let ports = (0..profile.shard.count).map(|shard| port_of(&profile.port, shard));
                ports.map(|port| Self::open_udp(&port, keys)).collect()
            }
            PortDriver::Dpdk => {
                let of = |port: SendPort| Self { local: port.local(), way: Way::Port(port) };
                Ok(dpdk_port::open_all(profile)?.into_iter().map(of).collect())
            }
        }
    }

    fn open_udp(profile: &PortProfile, keys: Option<&Keys>) -> Result<Self, LaunchError> {
        let port = open_udp(profile)?;
        let local = port.local();
        let door = Door::open(Box::new(port), keys.map(Keys::for_door));
        Ok(Self { local, way: Way::Door(door.map_err(LaunchError::Thread)?) })
    }

    /// Where it is.
    pub(super) fn local(&self) -> SocketAddrV4 {
        self.local
    }

    pub(super) fn pass(self) -> SendPort {
        match self.way {
            Way::Door(door) => door.take(),
            Way::Port(port) => port,
        }
    }
}

fn port_of(base: &PortProfile, shard: u32) -> PortProfile {
    let offset = u16::try_from(shard).expect("few shards");
    let address = SocketAddrV4::new(*base.address.ip(), base.address.port() + offset);
    PortProfile { address, ..base.clone() }
}

fn open_udp(profile: &PortProfile) -> Result<UdpPort, PortError> {
    let in_use = |error: &PortError| {
        let PortError::Listen { source, .. } = error else { return false };
        source.kind() == io::ErrorKind::AddrInUse
    };
    retry(PORT_PATIENCE, in_use, || UdpPort::open(profile.address, profile.datagram_bytes))
}

/// Answers what has come in; returns how much that was.
fn answer(
    port: &mut dyn Port,
    gate: &mut Gate,
    mut handshaker: Option<&mut Handshaker>,
    now: Now,
) -> usize {
    let received = port.receive();
    gate.begin_turn();
    for index in 0..received {
        let (peer, bytes) = port.datagram(index);
        let Ok(Datagram::Init(init)) = parse(bytes) else { continue };
        let init = *init;
        // Where the port has no room, the other asks again.
        let _ = match gate.judge(peer.addr, &init, now.unix_ns) {
            Verdict::Drop => true,
            Verdict::Retry(retry) => send_to(port, peer, retry.as_bytes()),
            Verdict::Admit => {
                let said = says_wait(peer, &init, handshaker.as_deref_mut(), now);
                said.is_none_or(|resp| send_to(port, peer, resp.as_bytes()))
            }
        };
    }
    port.flush();
    received
}

/// That somebody has to wait.
fn says_wait(
    peer: Peer,
    init: &Init,
    handshaker: Option<&mut Handshaker>,
    now: Now,
) -> Option<Resp> {
    let code = ErrorCode::Starting;
    if init.is_plain() {
        return Some(reject(ConnId(init.client_id.get()), code, now.unix_ns));
    }
    let accept = Accept::refusal(now.unix_ns).refused(code);
    let answer = handshaker?.answer(&Request { peer, init: *init, accept }, now.monotonic_ns);
    answer.map(|answer| answer.resp)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::ids::Peer;
    use crate::port::PortCounters;
    use crate::wire::datagram::{Hello, Init, Tag};
    use crate::wire::mac::MacKey;

    /// One datagram that came, and what was said to it.
    struct OneCame {
        bytes: Vec<u8>,
        said: Vec<u8>,
        len: Option<usize>,
    }

    impl Port for OneCame {
        fn receive(&mut self) -> usize {
            1
        }

        fn datagram(&mut self, _: usize) -> (Peer, &mut [u8]) {
            (Peer::ip_only(self.local()), &mut self.bytes)
        }

        fn reserve(&mut self, _: Peer) -> Option<&mut [u8]> {
            Some(&mut self.said)
        }

        fn commit(&mut self, len: usize) {
            self.len = Some(len);
        }

        fn flush(&mut self) -> usize {
            0
        }

        fn resolve(&mut self, addr: SocketAddrV4) -> Option<Peer> {
            Some(Peer::ip_only(addr))
        }

        fn local(&self) -> SocketAddrV4 {
            SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9)
        }

        fn datagram_bytes(&self) -> usize {
            576
        }

        fn counters(&self) -> PortCounters {
            PortCounters::default()
        }

        fn describe(&self) -> String {
            String::new()
        }
    }

    fn said(gate: &mut Gate, handshaker: Option<&mut Handshaker>, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut port = OneCame { bytes: bytes.to_vec(), said: vec![0; 576], len: None };
        assert_eq!(answer(&mut port, gate, handshaker, Now { monotonic_ns: 1, unix_ns: 1 }), 1);
        port.len.map(|len| port.said[..len].to_vec())
    }

    #[test]
    fn whoever_wants_a_session_is_told_to_wait_and_nobody_else_is_told_anything() {
        let mut gate = Gate::new(&[1; 32], 0);
        let init = |cookie: Tag| {
            let init = Init::plain(ConnId(7), cookie, Hello::new(1, 576, 9));
            init.with_mac(&MacKey::of_server(&[0; 32])).as_bytes().to_vec()
        };
        let told = said(&mut gate, None, &init([0; 16])).expect("it is to show that it receives");
        let Ok(Datagram::Retry(retry)) = parse(&told) else { panic!("{told:?}") };
        let told = said(&mut gate, None, &init(retry.cookie)).expect("it has to wait");
        let Ok(Datagram::Resp(resp)) = parse(&told) else { panic!("{told:?}") };
        assert_eq!(resp.accept.status.get(), ErrorCode::Starting.code());
        assert!(told.len() < size_of::<Init>());
        let mut known = vec![0; 64];
        known[0] = 0x17;
        (known[2], known[8]) = (1, 1);
        assert!(matches!(parse(&known), Ok(Datagram::Session { .. })));
        for other in [known.as_slice(), &[], &told, &init([0; 16])[1..]] {
            assert_eq!(said(&mut gate, None, other), None, "{other:?}");
        }
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "another process lets go of a port meanwhile")]
    fn a_port_of_a_process_that_is_dying_is_waited_for() {
        let dying = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
        let std::net::SocketAddr::V4(address) = dying.local_addr().expect("bound") else {
            panic!("it is of IPv4")
        };
        let profile = PortProfile { address, ..crate::profile::Profile::default().port };
        let dies = std::thread::spawn(move || {
            std::thread::park_timeout(Duration::from_millis(100));
            drop(dying);
        });
        let port = open_udp(&profile);
        assert!(port.is_ok(), "{:?}", port.err());
        dies.join().expect("it died");
        let taken = open_udp(&profile);
        assert!(taken.is_err(), "another has it, and keeps it");
    }
}
