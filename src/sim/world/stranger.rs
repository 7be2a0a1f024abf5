//! A stranger: somebody who was given no connection id, and sends what the grammar allows and what it does not, from
//! addresses of its own, of others, and of the server itself.

use std::net::{Ipv4Addr, SocketAddrV4};

use zerocopy::IntoBytes;

use super::World;
use crate::ids::ConnId;
use crate::port::memory::Traffic;
use crate::shard::reject;
use crate::sim::fuzz::mutate;
use crate::sim::oracle::Violation;
use crate::sim::server::SERVER;
use crate::wire::control::ErrorCode;
use crate::wire::datagram::{Hello, Init, Reset, Retry, Tag, Versions};
use crate::wire::mac::MacKey;
use crate::wire::samples::{Sample, all, edges};

/// Datagrams at once, at most.
const FLOOD: u64 = 64;

/// Addresses of its own.
const ADDRESSES: u64 = 4;

/// The first port that is one of them; those of clients are above.
const PORT: u64 = 10;

/// Its own addresses.
pub(super) fn addresses() -> impl Iterator<Item = SocketAddrV4> {
    (PORT..PORT + ADDRESSES).map(address)
}

fn address(port: u64) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, u16::try_from(port).expect("a port"))
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
            // In the server's name also to clients.
            let client = address(101 + self.random.below(u64::from(self.others.next_port - 100)));
            let to =
                if from == SERVER && self.random.one_of_thousand(500) { client } else { SERVER };
            self.net.forge(from, to, &datagram);
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
        if self.random.one_of_thousand(400) {
            return self.of_no_session();
        }
        let samples = all(1 + u32::from(self.random.one_of_thousand(500)), 1);
        let nth = usize::try_from(self.random.below(samples.len() as u64)).expect("few kinds");
        let mut sample = samples[nth].clone();
        if self.random.one_of_thousand(700) {
            self.set_a_number(&mut sample);
        }
        let conn_id = match self.random.below(3) {
            0 => ConnId(1),
            1 => ConnId(u64::MAX),
            _ => ConnId(self.random.next_u64().max(1)),
        };
        let mut datagram = sample.datagram(conn_id);
        if self.random.one_of_thousand(200) {
            // The same again in one datagram, without end, or anything.
            datagram = if self.random.one_of_thousand(500) {
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

    /// A wish for a session, most of them sound but for the cookie, or what answers one.
    fn of_no_session(&mut self) -> Vec<u8> {
        let client_id = ConnId(self.random.next_u64().max(1));
        let mut tag: Tag = [0; 16];
        if self.random.one_of_thousand(300) {
            tag[..8].copy_from_slice(&self.random.next_u64().to_le_bytes());
        }
        let key = MacKey::of_server(&[0; 32]);
        let hello = Hello::new(self.random.next_u64() >> 1, 1_472, 9);
        let init = Init::plain(client_id, tag, hello);
        let mut bytes = match self.random.below(8) {
            0 => Retry::new(client_id, tag).with_mac(&key).as_bytes().to_vec(),
            1 => Reset::new(client_id, tag).as_bytes().to_vec(),
            2 => reject(client_id, ErrorCode::Draining, 1).as_bytes().to_vec(),
            3 => Versions::new(client_id.0).with_mac(&key).as_bytes().to_vec(),
            _ => init.with_mac(&key).as_bytes().to_vec(),
        };
        if self.random.one_of_thousand(200) {
            bytes = mutate(&[bytes], &mut self.random);
            bytes.truncate(self.plan.datagram_bytes);
        }
        bytes
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
