//! Answers for an appliance that is not ready yet: it makes its log, or recovers it.
//!
//! Whoever wants to register hears that it has to wait, and so knows that somebody is there; whoever had a session
//! with the process before hears that it is gone. Nothing else is answered, nothing by more than it is long.

use std::io;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use super::{LaunchError, dpdk_port};
use crate::ids::ConnId;
use crate::port::udp::UdpPort;
use crate::port::{Port, PortError};
use crate::profile::{PortDriver, PortProfile, Profile};
use crate::retry::retry;
use crate::shard::{REFUSAL_BYTES, refuse};
use crate::wire::control::{ErrorCode, STARTING};
use crate::wire::{Frame, parse};

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
    pub(super) fn open(mut port: SendPort) -> io::Result<Self> {
        let taken = Arc::new(AtomicBool::new(false));
        let is_taken = Arc::clone(&taken);
        let thread = Builder::new().name("buslane-door".into()).spawn(move || {
            while !is_taken.load(Ordering::Relaxed) {
                if answer(&mut port) == 0 {
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
pub(super) enum Entrance {
    /// Answered on meanwhile.
    Door(Door),
    /// DPDK's: what comes waits in the device, since its buffer caches belong to the shard's thread.
    Port(SendPort),
}

impl Entrance {
    /// One for each shard; those of a DPDK device are opened together.
    pub(super) fn open_all(profile: &Profile) -> Result<Vec<Self>, LaunchError> {
        match profile.port.driver {
            PortDriver::Udp => {
                let ports = (0..profile.shard.count).map(|shard| port_of(&profile.port, shard));
                ports.map(|port| Self::open_udp(&port)).collect()
            }
            PortDriver::Dpdk => {
                Ok(dpdk_port::open_all(profile)?.into_iter().map(Self::Port).collect())
            }
        }
    }

    fn open_udp(profile: &PortProfile) -> Result<Self, LaunchError> {
        let port = open_udp(profile)?;
        Ok(Self::Door(Door::open(Box::new(port)).map_err(LaunchError::Thread)?))
    }

    pub(super) fn pass(self) -> SendPort {
        match self {
            Self::Door(door) => door.take(),
            Self::Port(port) => port,
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
fn answer(port: &mut SendPort) -> usize {
    let received = port.receive();
    for index in 0..received {
        let (peer, bytes) = port.datagram(index);
        if let Some((conn_id, code)) = answer_to(bytes) {
            // Where the port has no room, the other asks again.
            let detail = if code == ErrorCode::Draining { STARTING } else { 0 };
            let _ = refuse(port, peer, conn_id, code, detail);
        }
    }
    port.flush();
    received
}

/// What to say to whoever sent this.
fn answer_to(bytes: &[u8]) -> Option<(ConnId, ErrorCode)> {
    let (conn_id, _, mut frames) = parse(bytes).ok().filter(|_| bytes.len() >= REFUSAL_BYTES)?;
    if conn_id.0 == 0 {
        let first = frames.next()?.ok()?;
        return matches!(first, Frame::Register(_)).then_some((conn_id, ErrorCode::Draining));
    }
    frames.ask().then_some((conn_id, ErrorCode::UnknownSession))
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;
    use crate::wire::DatagramWriter;
    use crate::wire::control::{ErrorHead, Heartbeat, Register};
    use crate::wire::frame::Kind;

    fn datagram(conn_id: u32, kind: Kind, body: &[u8]) -> Vec<u8> {
        let mut buffer = [0; 256];
        let mut writer = DatagramWriter::new(&mut buffer, ConnId(conn_id), 1);
        assert!(writer.frame(kind, body, &[]));
        let len = writer.len();
        buffer[..len].to_vec()
    }

    #[test]
    fn whoever_comes_is_told_to_wait_and_who_reports_an_end_is_told_nothing() {
        let register = Register {
            nonce: 1.into(),
            producer_id: 0.into(),
            producer_epoch: 0.into(),
            datagram_bytes: 1500.into(),
            flags: 0.into(),
            instance: 7.into(),
            padding: [0; 40],
        };
        let asked = datagram(0, Kind::Register, register.as_bytes());
        assert_eq!(answer_to(&asked), Some((ConnId(0), ErrorCode::Draining)));
        assert_eq!(answer_to(&asked[..asked.len() - 1]), None, "cut");
        let zero = 0.into();
        let beat = Heartbeat { stream: zero, reserved: zero, durable_next: 0.into() };
        let known = datagram(9, Kind::Heartbeat, beat.as_bytes());
        assert_eq!(answer_to(&known), Some((ConnId(9), ErrorCode::UnknownSession)));
        let short = datagram(9, Kind::Close, &[]);
        assert!(
            short.len() < REFUSAL_BYTES && answer_to(&short).is_none(),
            "shorter than the answer"
        );
        let error =
            ErrorHead { code: 1.into(), reserved: 0.into(), request: 0.into(), detail: 0.into() };
        assert_eq!(answer_to(&datagram(9, Kind::Error, error.as_bytes())), None);
        assert_eq!(answer_to(&[]), None);
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
