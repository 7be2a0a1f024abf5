//! A network in memory, for tests and the simulator: any number of ports, and faults by a seed.

mod frames;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;
use std::rc::Rc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Port, PortCounters};
use crate::clock::{Clock, ManualClock};
use crate::ids::Peer;
use crate::limits::{RECEIVE_BURST, TRANSMIT_BURST};
use crate::random::Random;
#[cfg(feature = "sim")]
use crate::wire::control::ErrorCode;
use crate::wire::{Datagram, FromClient, parse};
pub(crate) use frames::FrameHits;

/// What may happen to a datagram, in thousandths, and how long it travels.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// It is lost.
    pub loss: u64,
    /// It arrives twice.
    pub duplication: u64,
    /// It travels up to ten times as long, so that others overtake it.
    pub reordering: u64,
    /// One of its bits is flipped on the way; the checksum of UDP finds that, and it is dropped.
    pub corruption: u64,
    /// The last byte of a PUBLISH is changed where no checksum of the network finds it: in memory, on
    /// its way to the disk.
    pub payload_flip: u64,
    /// How long it travels.
    pub delay_ns: u64,
    /// It is late, by up to `late_ns`, so that it belongs to nothing any more.
    pub late: u64,
    /// How late.
    pub late_ns: u64,
}

/// Datagrams kept at most.
const KEPT_MAX: usize = 512;

#[derive(Debug)]
struct Packet {
    from: SocketAddrV4,
    bytes: Vec<u8>,
}

/// What has happened to datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NetHits {
    /// Sent.
    pub sent: u64,
    /// Lost.
    pub lost: u64,
    /// Doubled.
    pub doubled: u64,
    /// Held back, so that others overtake.
    pub held: u64,
    /// Late by more than a second.
    pub late: u64,
    /// Damaged and dropped.
    pub damaged: u64,
    /// Payloads changed where only our own checksum can find it.
    pub flipped: u64,
    /// Dropped by a partition.
    pub cut: u64,
    /// Frames sent, where the network knows its server.
    pub frames: FrameHits,
}

/// Bytes that went from an address, and to it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    /// From there.
    pub sent: u64,
    /// To there.
    pub got: u64,
}

#[derive(Debug)]
struct Net {
    clock: ManualClock,
    random: Random,
    faults: Faults,
    /// By address, time of arrival and number.
    packets: BTreeMap<(SocketAddrV4, u64, u64), Packet>,
    number: u64,
    /// Addresses nobody reaches.
    cut: Vec<SocketAddrV4>,
    /// Whose frames are counted apart from those of others.
    server: Option<SocketAddrV4>,
    /// Addresses of strangers, and what went from there and there.
    strangers: BTreeMap<SocketAddrV4, Traffic>,
    /// Addresses somebody listens at.
    open: BTreeSet<SocketAddrV4>,
    hits: NetHits,
    /// Of all datagrams sent, in order.
    digest: u64,
    /// The first datagrams sent, where they are asked for.
    kept: Option<Vec<Vec<u8>>>,
}

/// The network; clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct MemoryNet(Rc<RefCell<Net>>);

impl MemoryNet {
    /// A network whose faults follow from a seed.
    #[must_use]
    pub(crate) fn new(clock: ManualClock, seed: u64, faults: Faults) -> Self {
        Self(Rc::new(RefCell::new(Net {
            clock,
            random: Random::new(seed),
            faults,
            packets: BTreeMap::new(),
            number: 0,
            cut: Vec::new(),
            server: None,
            strangers: BTreeMap::new(),
            open: BTreeSet::new(),
            hits: NetHits::default(),
            digest: 0,
            kept: None,
        })))
    }

    /// Cuts an address off, or joins it again.
    pub(crate) fn set_cut(&self, addr: SocketAddrV4, is_cut: bool) {
        let cut = &mut self.0.borrow_mut().cut;
        cut.retain(|other| *other != addr);
        if is_cut {
            cut.push(addr);
        }
    }

    /// What has happened so far.
    #[must_use]
    pub(crate) fn hits(&self) -> NetHits {
        self.0.borrow().hits
    }

    /// Whether the first datagrams sent are kept.
    pub(crate) fn keep_datagrams(&self, keep: bool) {
        self.0.borrow_mut().kept = keep.then(Vec::new);
    }

    /// The datagrams that were kept.
    #[must_use]
    pub(crate) fn kept(&self) -> Vec<Vec<u8>> {
        self.0.borrow().kept.clone().unwrap_or_default()
    }

    /// From now on what is sent to this address is held against what came from it.
    pub(crate) fn watch_stranger(&self, address: SocketAddrV4) {
        self.0.borrow_mut().strangers.insert(address, Traffic::default());
    }

    /// Bytes that were sent to an address of a stranger.
    #[cfg(test)]
    pub(crate) fn sent_to(&self, stranger: SocketAddrV4) -> u64 {
        self.0.borrow().strangers[&stranger].got
    }

    /// A port at an address.
    #[must_use]
    pub(crate) fn port(&self, local: SocketAddrV4, datagram_bytes: usize) -> MemoryPort {
        self.0.borrow_mut().open.insert(local);
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
    pub(crate) fn inject(&self, from: SocketAddrV4, to: SocketAddrV4, bytes: &[u8]) {
        self.0.borrow_mut().send(from, to, bytes, true);
    }
}

/// What only the simulator asks of it.
#[cfg(feature = "sim")]
impl MemoryNet {
    /// From now on frames are counted: those to this address, and those from it.
    pub(crate) fn watch(&self, server: SocketAddrV4) {
        self.0.borrow_mut().server = Some(server);
    }

    /// How often the server told this error.
    #[must_use]
    pub(crate) fn errors(&self, code: ErrorCode) -> u64 {
        self.0.borrow().hits.frames.errors[usize::from(code.code())]
    }

    /// A digest of all datagrams sent, in order.
    #[must_use]
    pub(crate) fn digest(&self) -> u64 {
        self.0.borrow().digest
    }

    /// Whether nothing arrives within so long a time.
    #[must_use]
    pub(crate) fn is_quiet_for(&self, ns: u64) -> bool {
        let net = self.0.borrow();
        let until_ns = net.clock.now_ns() + ns;
        !net.packets.keys().any(|(_, arrives_ns, _)| *arrives_ns <= until_ns)
    }

    /// Changes what happens from now on.
    pub(crate) fn set_faults(&self, faults: Faults) {
        self.0.borrow_mut().faults = faults;
    }

    /// Puts bytes on the network in somebody's name; their frames are not among those counted.
    pub(crate) fn forge(&self, from: SocketAddrV4, to: SocketAddrV4, bytes: &[u8]) {
        self.0.borrow_mut().send(from, to, bytes, false);
    }

    /// An address of a stranger that was sent more than came from it, and how many bytes.
    #[must_use]
    pub(crate) fn flooded(&self) -> Option<(SocketAddrV4, Traffic)> {
        let net = self.0.borrow();
        let flooded = net.strangers.iter().find(|(_, traffic)| traffic.got > traffic.sent);
        flooded.map(|(address, traffic)| (*address, *traffic))
    }
}

impl Net {
    fn send(&mut self, from: SocketAddrV4, to: SocketAddrV4, bytes: &[u8], counted: bool) {
        let faults = self.faults;
        self.digest = xxh3_64_with_seed(bytes, self.digest ^ u64::from(to.port()));
        self.hits.sent += 1;
        let of_stranger =
            self.strangers.get_mut(&to).map(|traffic| traffic.got += bytes.len() as u64);
        if let Some(server) = self.server.filter(|_| counted && of_stranger.is_none()) {
            self.hits.frames.add(from == server, bytes);
        }
        if let Some(kept) = self.kept.as_mut().filter(|kept| kept.len() < KEPT_MAX) {
            kept.push(bytes.to_vec());
        }
        if self.cut.contains(&from) || self.cut.contains(&to) {
            self.hits.cut += 1;
            return;
        }
        let copies = 1 + u32::from(self.random.one_of_thousand(faults.duplication));
        self.hits.doubled += u64::from(copies - 1);
        if let Some(Traffic { sent, .. }) = self.strangers.get_mut(&from) {
            *sent += u64::from(copies) * bytes.len() as u64;
        }
        for _ in 0..copies {
            if self.random.one_of_thousand(faults.loss) {
                self.hits.lost += 1;
                continue;
            }
            if self.random.one_of_thousand(faults.corruption) {
                self.hits.damaged += 1;
                continue;
            }
            let mut bytes = bytes.to_vec();
            if self.random.one_of_thousand(faults.payload_flip) && is_lone_publish(&bytes) {
                self.hits.flipped += 1;
                let bit = self.random.below(8);
                *bytes.last_mut().expect("a PUBLISH has bytes") ^= 1 << bit;
            }
            let mut travel_ns = faults.delay_ns;
            if self.random.one_of_thousand(faults.reordering) {
                self.hits.held += 1;
                travel_ns *= 1 + self.random.below(10);
            }
            if faults.late > 0 && self.random.one_of_thousand(faults.late) {
                let late_ns = self.random.below(faults.late_ns);
                self.hits.late += u64::from(late_ns > 1_000_000_000);
                travel_ns += late_ns;
            }
            self.number += 1;
            if self.open.contains(&to) {
                let arrives_ns = self.clock.now_ns() + travel_ns;
                self.packets.insert((to, arrives_ns, self.number), Packet { from, bytes });
            }
        }
    }
}

/// Whether a datagram is one PUBLISH frame, so that its last byte is of a payload.
fn is_lone_publish(bytes: &[u8]) -> bool {
    let Ok(Datagram::Session { frames, .. }) = parse(bytes) else { return false };
    let mut frames = frames.from_client();
    let publish = frames.next();
    matches!(publish, Some(Ok(FromClient::Publish(_)))) && frames.next().is_none()
}

/// A port of a [`MemoryNet`].
#[derive(Debug)]
pub(crate) struct MemoryPort {
    net: MemoryNet,
    local: SocketAddrV4,
    datagram_bytes: usize,
    inbox: Vec<(Peer, Vec<u8>)>,
    out: Vec<(SocketAddrV4, Vec<u8>)>,
    reserved: Option<SocketAddrV4>,
    room: Vec<u8>,
    counters: PortCounters,
}

impl Drop for MemoryPort {
    /// Nobody listens any more: what comes is lost, and what is on its way.
    fn drop(&mut self) {
        let mut net = self.net.0.borrow_mut();
        net.open.remove(&self.local);
        let all = (self.local, 0, 0)..=(self.local, u64::MAX, u64::MAX);
        let on_their_way: Vec<_> = net.packets.range(all).map(|(key, _)| *key).collect();
        for key in on_their_way {
            net.packets.remove(&key);
        }
    }
}

impl Port for MemoryPort {
    fn receive(&mut self) -> usize {
        self.inbox.clear();
        let mut net = self.net.0.borrow_mut();
        let now_ns = net.clock.now_ns();
        while self.inbox.len() < RECEIVE_BURST {
            let arrived = (self.local, 0, 0)..=(self.local, now_ns, u64::MAX);
            let Some((&key, _)) = net.packets.range(arrived).next() else { break };
            let packet = net.packets.remove(&key).expect("found a moment ago");
            if packet.bytes.len() <= self.datagram_bytes {
                self.inbox.push((Peer::ip_only(packet.from), packet.bytes));
            }
        }
        self.counters.received += self.inbox.len() as u64;
        self.inbox.len()
    }

    fn datagram(&mut self, index: usize) -> (Peer, &mut [u8]) {
        let (peer, bytes) = &mut self.inbox[index];
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
            self.net.0.borrow_mut().send(self.local, to, &bytes, true);
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

    fn describe(&self) -> String {
        "memory".to_owned()
    }
}
