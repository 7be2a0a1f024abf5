//! Ports: where datagrams enter and leave.
//!
//! A port moves bursts. What it received stays readable until the next burst is asked for; what is
//! to be sent is written straight into the port's own buffers, so nothing is copied on the way.
//! A port checks what belongs to its layer (Ethernet, IPv4, UDP, their checksums) and drops, counted,
//! what is damaged or not for it; the payload is the wire module's business.

pub mod udp;
#[cfg(any(test, feature = "dpdk"))]
pub(crate) mod inet;
#[cfg(any(test, feature = "sim"))]
pub(crate) mod memory;
#[cfg(feature = "dpdk")]
pub(crate) mod neighbours;
#[cfg(feature = "dpdk")]
pub(crate) mod eal;
#[cfg(feature = "dpdk")]
pub mod dpdk;

use std::fmt;
use std::net::SocketAddrV4;
use std::os::fd::BorrowedFd;

use crate::ids::Peer;

/// Datagrams in and out, in bursts, never blocking.
pub trait Port {
    /// Takes the datagrams that have arrived, at most `limits::RECEIVE_BURST`, and returns how many.
    /// Those of the burst before are gone.
    fn receive(&mut self) -> usize;

    /// Datagram `index` of the last burst: who sent it and its UDP payload, to be opened in place.
    ///
    /// # Panics
    /// When `index` is not below what `receive` returned.
    fn datagram(&mut self, index: usize) -> (Peer, &mut [u8]);

    /// Room for one datagram to `peer`, `datagram_bytes` long; `None` when the port can take no more
    /// before it is flushed. A reservation that is not committed is simply overwritten by the next.
    fn reserve(&mut self, peer: Peer) -> Option<&mut [u8]>;

    /// Queues the reserved datagram with its first `len` bytes.
    ///
    /// # Panics
    /// When nothing is reserved or `len` exceeds the room.
    fn commit(&mut self, len: usize);

    /// Hands what is queued to the device and returns how many datagrams it took. What it refuses
    /// stays queued for the next call; what can never be sent is dropped and counted.
    fn flush(&mut self) -> usize;

    /// The peer at `addr`, once the port knows how to reach it. A kernel port always does; an Ethernet
    /// port asks by ARP, at most a few times a second, and answers `None` until it has heard.
    fn resolve(&mut self, addr: SocketAddrV4) -> Option<Peer>;

    /// Where this port receives.
    fn local(&self) -> SocketAddrV4;

    /// UDP payload of a datagram, at most.
    fn datagram_bytes(&self) -> usize;

    /// What was moved and dropped since the port was opened.
    fn counters(&self) -> PortCounters;

    /// What it is, for people: the device, and how frames come to this port where there are several on it.
    fn describe(&self) -> String;

    /// What becomes readable when a datagram arrives, for those who may sleep; `None` where only polling tells.
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// A port of any kind, known at launch.
pub type AnyPort = Box<dyn Port>;

impl fmt::Debug for dyn Port + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port").field("local", &self.local()).finish_non_exhaustive()
    }
}

impl<P: Port + ?Sized> Port for Box<P> {
    fn receive(&mut self) -> usize {
        (**self).receive()
    }

    fn datagram(&mut self, index: usize) -> (Peer, &mut [u8]) {
        (**self).datagram(index)
    }

    fn reserve(&mut self, peer: Peer) -> Option<&mut [u8]> {
        (**self).reserve(peer)
    }

    fn commit(&mut self, len: usize) {
        (**self).commit(len);
    }

    fn flush(&mut self) -> usize {
        (**self).flush()
    }

    fn resolve(&mut self, addr: SocketAddrV4) -> Option<Peer> {
        (**self).resolve(addr)
    }

    fn local(&self) -> SocketAddrV4 {
        (**self).local()
    }

    fn datagram_bytes(&self) -> usize {
        (**self).datagram_bytes()
    }

    fn counters(&self) -> PortCounters {
        (**self).counters()
    }

    fn describe(&self) -> String {
        (**self).describe()
    }

    fn socket(&self) -> Option<BorrowedFd<'_>> {
        (**self).socket()
    }
}

/// What a port moved and dropped since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// Datagrams given to the caller.
    pub received: u64,
    /// Datagrams the device took.
    pub transmitted: u64,
    /// Frames dropped because they were damaged, truncated or not for this port.
    pub receive_dropped: u64,
    /// Datagrams the device would never take.
    pub transmit_dropped: u64,
    /// Frames for another port of the same device, passed on to it.
    pub handed_over: u64,
}

/// How frames come to the port they are for, where a device has several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Steering {
    /// A rule of the device for each UDP port: a frame never meets another core.
    Flow,
    /// The device spreads frames by a hash of their addresses and ports; what lands elsewhere is handed over.
    Rss,
    /// Port 0 alone talks to the device, and hands over in both directions.
    Software,
}

/// Why a port could not be opened.
#[derive(Debug, displaydoc::Display, thiserror::Error)]
pub enum PortError {
    /// cannot listen on {addr}: {source}; the address has to be free and of this host (port.address,
    /// client.port.address)
    Listen {
        /// The address that was asked for.
        addr: SocketAddrV4,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// {what}: {why}; {mend}
    Device {
        /// The device or library, as the profile names it.
        what: String,
        /// What went wrong.
        why: String,
        /// What to do about it.
        mend: String,
    },
}
