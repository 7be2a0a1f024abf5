//! The sending side of a polled client: what is due, as few datagrams as fit.

use std::net::SocketAddrV4;

use zerocopy::IntoBytes;

use super::{Link, Phase};
use crate::client::{Publisher, Request};
use crate::clock::Clock;
use crate::fired::Timer;
use crate::ids::ConnId;
use crate::port::Port;
use crate::wire::DatagramWriter;
use crate::wire::control::{
    CreateStreamOnHead, Heartbeat, ListStreams, NameRequestHead, REGISTER_PUBLISHER, Register,
    TrimStream, Unsubscribe,
};
use crate::wire::frame::Kind;

/// Repetition of REGISTER: first, and at most.
pub(super) const REGISTER_NS: (u64, u64) = (2_000_000, 200_000_000);
/// Repetition of a request: first, and at most.
const REQUEST_NS: (u64, u64) = (5_000_000, 100_000_000);
/// After so long without a word from us, a heartbeat.
const HEARTBEAT_NS: u64 = 1_000_000_000;
/// Datagrams sent in one poll, at most.
const DATAGRAMS_A_POLL: usize = 32;

impl<C: Clock> Link<C> {
    pub(super) fn transmit<P: Port>(&mut self, port: &mut P) -> usize {
        if let Some((server, conn_id)) = self.left.take() {
            self.say_goodbye(port, server, conn_id);
        }
        if let Phase::Registering { asked_ns, wait_ns } = self.phase {
            if self.now_ns.saturating_sub(asked_ns) >= wait_ns {
                return self.register(port, wait_ns);
            }
            return 0;
        }
        self.transmit_publishes(port).saturating_add(self.send_small(port))
    }

    /// Ends a session that is not this one any more; where that is lost, the server ends it in its own time.
    fn say_goodbye<P: Port>(&mut self, port: &mut P, server: SocketAddrV4, conn_id: ConnId) {
        let Some(peer) = port.resolve(server) else { return };
        let Some(buffer) = port.reserve(peer) else { return };
        let mut writer = DatagramWriter::new(buffer, conn_id, self.packet_no.saturating_add(1));
        let _ = writer.frame(Kind::Close, &[], &[]);
        let len = writer.len();
        port.commit(len);
    }

    /// Sends the messages that may be sent, and nothing else.
    pub(super) fn transmit_publishes<P: Port>(&mut self, port: &mut P) -> usize {
        let mut sent = 0;
        while sent < DATAGRAMS_A_POLL && self.sender.has_unsent() && self.send_publishes(port) {
            sent = sent.saturating_add(1);
        }
        sent
    }

    fn register<P: Port>(&mut self, port: &mut P, wait_ns: u64) -> usize {
        let publishes = self.options.publisher != Publisher::No;
        let datagram_bytes = u16::try_from(port.datagram_bytes()).unwrap_or(u16::MAX);
        let body = Register {
            nonce: self.nonce.into(),
            producer_id: self.producer.0.0.into(),
            producer_epoch: self.producer.1.into(),
            datagram_bytes: datagram_bytes.into(),
            flags: if publishes { REGISTER_PUBLISHER } else { 0 }.into(),
            instance: self.options.nonce.into(),
            padding: [0; 40],
        };
        self.conn_id = ConnId(0);
        let sent = self.send(port, |writer| {
            let _ = writer.frame(Kind::Register, body.as_bytes(), &[]);
        });
        if sent {
            if wait_ns > REGISTER_NS.0 {
                Timer::RegisterAgain.fired();
            }
            let wait_ns = wait_ns.saturating_mul(2).clamp(REGISTER_NS.0, REGISTER_NS.1);
            self.register_asked_ns = self.now_ns;
            self.phase = Phase::Registering { asked_ns: self.now_ns, wait_ns };
        }
        usize::from(sent)
    }

    fn send_publishes<P: Port>(&mut self, port: &mut P) -> bool {
        let Some(peer) = port.resolve(self.server) else { return false };
        let Some(buffer) = port.reserve(peer) else { return false };
        let room = buffer.len().min(self.server_datagram_bytes);
        let packet_no = self.packet_no.saturating_add(1);
        let mut writer = DatagramWriter::new(&mut buffer[..room], self.conn_id, packet_no);
        if !self.sender.pack(&mut writer, self.now_ns) {
            return false;
        }
        let len = writer.len();
        self.packet_no = packet_no;
        port.commit(len);
        (self.said_ns, self.is_mute) = (self.now_ns, false);
        true
    }

    /// Sends what fits a datagram of small frames, when any is due.
    fn send_small<P: Port>(&mut self, port: &mut P) -> usize {
        let now_ns = self.now_ns;
        let mut sent = 0_usize;
        if self.options.publisher != Publisher::No
            && let Some(probe) = self.sender.probe(now_ns)
        {
            sent = sent.saturating_add(usize::from(self.send(port, |writer| {
                let _ = writer.frame(Kind::Probe, probe.as_bytes(), &[]);
            })));
        }
        while let Some(stream) = self.unsubscribe.pop() {
            let body = Unsubscribe { stream: stream.0.into() };
            let said = self.send(port, |writer| {
                let _ = writer.frame(Kind::Unsubscribe, body.as_bytes(), &[]);
            });
            if !said {
                self.unsubscribe.push(stream);
                break;
            }
            sent = sent.saturating_add(1);
        }
        for index in 0..self.subscriptions.len() {
            if let Some(subscribe) = self.subscriptions[index].ask(now_ns) {
                sent = sent.saturating_add(usize::from(self.send(port, |writer| {
                    let _ = writer.frame(Kind::Subscribe, subscribe.as_bytes(), &[]);
                })));
            }
            if let Some(status) = self.subscriptions[index].status(now_ns) {
                sent = sent.saturating_add(usize::from(self.send(port, |writer| {
                    let _ = writer.frame(Kind::Status, status.as_bytes(), &[]);
                })));
            }
        }
        for index in 0..self.asked.len() {
            sent = sent.saturating_add(self.ask(index, port));
        }
        let rests = now_ns.saturating_sub(self.said_ns) >= HEARTBEAT_NS;
        if rests {
            Timer::ClientHeartbeat.fired();
        }
        if rests || self.is_mute {
            let body = Heartbeat { stream: 0.into(), reserved: 0.into(), durable_next: 0.into() };
            sent = sent.saturating_add(usize::from(self.send(port, |writer| {
                let _ = writer.frame(Kind::Heartbeat, body.as_bytes(), &[]);
            })));
        }
        sent
    }

    fn ask<P: Port>(&mut self, index: usize, port: &mut P) -> usize {
        let asked = &mut self.asked[index];
        if self.now_ns.saturating_sub(asked.asked_ns) < asked.wait_ns {
            return 0;
        }
        if asked.wait_ns > 0 {
            Timer::RequestAgain.fired();
        }
        asked.asked_ns = self.now_ns;
        asked.wait_ns = asked.wait_ns.saturating_mul(2).clamp(REQUEST_NS.0, REQUEST_NS.1);
        let (id, after, request) = (asked.id, asked.after, asked.request.clone());
        let named = |writer: &mut DatagramWriter<'_>, kind, name: &str| {
            let head = NameRequestHead { request: id.into() };
            let _ = writer.frame(kind, head.as_bytes(), name.as_bytes());
        };
        usize::from(self.send(port, |writer| match &request {
            Request::CreateStream(name) => named(writer, Kind::CreateStream, name),
            Request::CreateStreamOn(name, shard) => {
                let head = CreateStreamOnHead { request: id.into(), shard: (*shard).into() };
                let _ = writer.frame(Kind::CreateStreamOn, head.as_bytes(), name.as_bytes());
            }
            Request::DescribeStream(name) => named(writer, Kind::DescribeStream, name),
            Request::TrimStream(stream, first) => {
                let (stream, first) = (stream.0.into(), (*first).into());
                let body = TrimStream { request: id.into(), stream, first };
                let _ = writer.frame(Kind::TrimStream, body.as_bytes(), &[]);
            }
            Request::ListStreams => {
                let body = ListStreams { request: id.into(), after: after.into() };
                let _ = writer.frame(Kind::ListStreams, body.as_bytes(), &[]);
            }
        }))
    }

    pub(super) fn send<P: Port>(
        &mut self,
        port: &mut P,
        fill: impl FnOnce(&mut DatagramWriter<'_>),
    ) -> bool {
        let Some(peer) = port.resolve(self.server) else { return false };
        let Some(buffer) = port.reserve(peer) else { return false };
        self.packet_no = self.packet_no.saturating_add(1);
        let mut writer = DatagramWriter::new(buffer, self.conn_id, self.packet_no);
        fill(&mut writer);
        let len = writer.len();
        port.commit(len);
        (self.said_ns, self.is_mute) = (self.now_ns, false);
        true
    }
}
