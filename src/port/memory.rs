//! A network in memory, for tests and the simulator: any number of ports, and faults by a seed.

use std::cell::RefCell;
use std::net::SocketAddrV4;
use std::rc::Rc;

use super::{Port, PortCounters};
use crate::clock::{Clock, ManualClock};
use crate::ids::Peer;
use crate::limits::{RECEIVE_BURST, TRANSMIT_BURST};

/// What may happen to a datagram, in thousandths, and how long it travels.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// It is lost.
    pub loss: u64,
    /// It arrives twice.
    pub duplication: u64,
    /// It travels up to ten times as long, so that others overtake it.
    pub reordering: u64,
    /// One of its bits is flipped. Over UDP with checksums that is a loss; a port without them lets it by.
    pub corruption: u64,
    /// How long it travels.
    pub delay_ns: u64,
}

/// A small generator of numbers: the same seed, the same numbers (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Numbers of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not zero.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next_u64() % end
    }

    /// True in so many of a thousand cases.
    pub fn one_of_thousand(&mut self, thousandths: u64) -> bool {
        self.below(1000) < thousandths
    }
}

#[derive(Debug)]
struct Packet {
    arrives_ns: u64,
    number: u64,
    from: SocketAddrV4,
    to: SocketAddrV4,
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct Net {
    clock: ManualClock,
    random: Random,
    faults: Faults,
    packets: Vec<Packet>,
    number: u64,
}

/// The network; clones are the same one.
#[derive(Clone, Debug)]
pub struct MemoryNet(Rc<RefCell<Net>>);

impl MemoryNet {
    /// A network whose faults follow from a seed.
    #[must_use]
    pub fn new(clock: ManualClock, seed: u64, faults: Faults) -> Self {
        let random = Random::new(seed);
        Self(Rc::new(RefCell::new(Net { clock, random, faults, packets: Vec::new(), number: 0 })))
    }

    /// Changes what happens from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.0.borrow_mut().faults = faults;
    }

    /// A port at an address.
    #[must_use]
    pub fn port(&self, local: SocketAddrV4, datagram_bytes: usize) -> MemoryPort {
        MemoryPort {
            net: self.clone(),
            local,
            datagram_bytes,
            inbox: Vec::new(),
            out: Vec::new(),
            reserved: None,
            room: vec![0; datagram_bytes],
            counters: PortCounters::default(),
        }
    }

    /// Puts bytes on the network as if somebody at `from` had sent them.
    pub fn inject(&self, from: SocketAddrV4, to: SocketAddrV4, bytes: &[u8]) {
        self.0.borrow_mut().send(from, to, bytes);
    }
}

impl Net {
    fn send(&mut self, from: SocketAddrV4, to: SocketAddrV4, bytes: &[u8]) {
        let faults = self.faults;
        let copies = 1 + u32::from(self.random.one_of_thousand(faults.duplication));
        for _ in 0..copies {
            if self.random.one_of_thousand(faults.loss) {
                continue;
            }
            let mut bytes = bytes.to_vec();
            if self.random.one_of_thousand(faults.corruption) && !bytes.is_empty() {
                let bit = self.random.below(bytes.len() as u64 * 8);
                bytes[usize::try_from(bit / 8).expect("an index")] ^= 1 << (bit % 8);
            }
            let mut travel_ns = faults.delay_ns;
            if self.random.one_of_thousand(faults.reordering) {
                travel_ns *= 1 + self.random.below(10);
            }
            self.number += 1;
            let arrives_ns = self.clock.now_ns() + travel_ns;
            self.packets.push(Packet { arrives_ns, number: self.number, from, to, bytes });
        }
    }
}

/// A port of a [`MemoryNet`].
#[derive(Debug)]
pub struct MemoryPort {
    net: MemoryNet,
    local: SocketAddrV4,
    datagram_bytes: usize,
    inbox: Vec<(Peer, Vec<u8>)>,
    out: Vec<(SocketAddrV4, Vec<u8>)>,
    reserved: Option<SocketAddrV4>,
    room: Vec<u8>,
    counters: PortCounters,
}

impl Port for MemoryPort {
    fn receive(&mut self) -> usize {
        self.inbox.clear();
        let mut net = self.net.0.borrow_mut();
        let now_ns = net.clock.now_ns();
        while self.inbox.len() < RECEIVE_BURST {
            let next = net
                .packets
                .iter()
                .enumerate()
                .filter(|(_, packet)| packet.to == self.local && packet.arrives_ns <= now_ns)
                .min_by_key(|(_, packet)| (packet.arrives_ns, packet.number))
                .map(|(index, _)| index);
            let Some(index) = next else { break };
            let packet = net.packets.remove(index);
            if packet.bytes.len() <= self.datagram_bytes {
                self.inbox.push((Peer::ip_only(packet.from), packet.bytes));
            }
        }
        self.counters.received += self.inbox.len() as u64;
        self.inbox.len()
    }

    fn datagram(&self, index: usize) -> (Peer, &[u8]) {
        let (peer, bytes) = &self.inbox[index];
        (*peer, bytes)
    }

    fn reserve(&mut self, peer: Peer) -> Option<&mut [u8]> {
        if self.out.len() == TRANSMIT_BURST {
            return None;
        }
        self.reserved = Some(peer.addr);
        Some(&mut self.room)
    }

    fn commit(&mut self, len: usize) {
        let to = self.reserved.take().expect("something is reserved");
        self.out.push((to, self.room[..len].to_vec()));
    }

    fn flush(&mut self) -> usize {
        let count = self.out.len();
        for (to, bytes) in self.out.drain(..) {
            self.net.0.borrow_mut().send(self.local, to, &bytes);
        }
        self.counters.transmitted += count as u64;
        count
    }

    fn resolve(&mut self, addr: SocketAddrV4) -> Option<Peer> {
        Some(Peer::ip_only(addr))
    }

    fn local(&self) -> SocketAddrV4 {
        self.local
    }

    fn datagram_bytes(&self) -> usize {
        self.datagram_bytes
    }

    fn counters(&self) -> PortCounters {
        self.counters
    }
}
