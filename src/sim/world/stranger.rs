//! A stranger: somebody who was given no connection id, and sends what the grammar allows and what it does not, from
//! addresses of its own, of others, and of the server itself.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::World;
use crate::ids::ConnId;
use crate::port::memory::Traffic;
use crate::sim::fuzz::mutate;
use crate::sim::oracle::Violation;
use crate::sim::server::SERVER;
use crate::wire::frame::Kind;
use crate::wire::samples::{Sample, all, edges};
use crate::wire::{Frame, parse};

/// Datagrams at once, at most.
const FLOOD: u64 = 64;

/// Addresses of its own.
const ADDRESSES: u64 = 4;

/// The first port that is one of them; those of clients are above.
const PORT: u64 = 10;

/// The producer of a REGISTER.
const REGISTER_PRODUCER: std::ops::Range<usize> = 8..16;

/// Its own addresses.
pub(super) fn addresses() -> impl Iterator<Item = SocketAddrV4> {
    (PORT..PORT + ADDRESSES).map(address)
}

fn address(port: u64) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, u16::try_from(port).expect("a port"))
}

/// Whether it registers as a producer there may be. Whoever reaches the port may do so until sessions are authenticated:
/// that the one before is fenced is no fault.
fn takes_over(datagram: &[u8]) -> bool {
    let Ok((_, _, frames)) = parse(datagram) else { return false };
    frames.flatten().any(|frame| matches!(frame, Frame::Register(of) if of.producer_id.get() != 0))
}

impl World {
    /// The stranger sends a datagram, or many.
    pub(super) fn disturb(&mut self) {
        // As often a few as many.
        let most = 1 << self.random.below(u64::from(FLOOD.ilog2()) + 1);
        let count = 1 + self.random.below(most);
        let from = self.stranger_address();
        self.server.hits.client.strangers += count;
        self.trace.note("stranger", from.port().into(), count);
        for _ in 0..count {
            let datagram = self.strange_datagram();
            if !takes_over(&datagram) {
                self.net.forge(from, SERVER, &datagram);
            }
        }
    }

    fn stranger_address(&mut self) -> SocketAddrV4 {
        match self.random.below(8) {
            0 => SERVER,
            // A client's: it is answered for what it has not sent.
            1 => address(101 + self.random.below(u64::from(self.others.next_port - 100))),
            _ => address(PORT + self.random.below(ADDRESSES)),
        }
    }

    fn strange_datagram(&mut self) -> Vec<u8> {
        let samples = all(1 + u32::from(self.random.one_of_thousand(500)), 1);
        let nth = usize::try_from(self.random.below(samples.len() as u64)).expect("few kinds");
        let mut sample = samples[nth].clone();
        if self.random.one_of_thousand(700) {
            self.set_a_number(&mut sample);
        }
        if sample.kind == Kind::Register {
            sample.body[REGISTER_PRODUCER].fill(0);
            let nonce = self.random.next_u64().to_le_bytes();
            sample.body[..nonce.len()].copy_from_slice(&nonce);
        }
        let conn_id = match self.random.below(4) {
            _ if sample.kind == Kind::Register => ConnId(0),
            0 => ConnId(0),
            1 => ConnId(u32::MAX),
            _ => ConnId(u32::try_from(self.random.below(u64::from(u32::MAX))).expect("32 bits")),
        };
        let mut datagram = sample.datagram(conn_id);
        if self.random.one_of_thousand(200) {
            // The same again in one datagram, without end, or anything.
            datagram = if sample.kind == Kind::Register || self.random.one_of_thousand(500) {
                let frame = datagram.split_off(crate::wire::DATAGRAM_HEADER_BYTES);
                let times = (self.plan.datagram_bytes - datagram.len()) / frame.len();
                [datagram, frame.repeat(times)].concat()
            } else {
                let mut changed = mutate(&[datagram], &mut self.random);
                changed.truncate(self.plan.datagram_bytes);
                changed
            };
        }
        datagram
    }

    fn set_a_number(&mut self, sample: &mut Sample) {
        if sample.widths.is_empty() {
            return;
        }
        let nth = usize::try_from(self.random.below(sample.widths.len() as u64)).expect("few");
        let at: usize = sample.widths[..nth].iter().sum();
        let width = sample.widths[nth];
        let edges = edges(width);
        let edge = usize::try_from(self.random.below(edges.len() as u64)).expect("few edges");
        sample.body[at..at + width].copy_from_slice(&edges[edge].to_le_bytes()[..width]);
    }

    /// Nobody is sent more than was sent in its name before it has shown that it receives there.
    pub(super) fn check_strangers(&self) -> Result<(), Violation> {
        match self.net.flooded() {
            None => Ok(()),
            Some((address, Traffic { sent, got })) => {
                let what = format!("{address} sent {sent} bytes, and is sent {got}");
                Err(Violation { oracle: "O11", what })
            }
        }
    }
}
