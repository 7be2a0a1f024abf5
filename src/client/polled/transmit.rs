//! The sending side of a polled client: what is due, as few datagrams as fit.

use zerocopy::IntoBytes;

use super::Link;
use super::route::Left;
use crate::client::Request;
use crate::clock::Clock;
use crate::limits::DATAGRAMS_A_POLL;
use crate::port::Port;
use crate::wire::DatagramWriter;
use crate::wire::control::{
    CreateStreamOnHead, Heartbeat, ListStreams, NameRequestHead, REGISTER_PUBLISHER, Register,
    TrimStream, Unsubscribe,
};
use crate::wire::frame::Kind;

impl<C: Clock> Link<C> {
    pub(super) fn transmit<P: Port>(&mut self, port: &mut P) -> usize {
        if let Some(left) = self.route.take_left() {
            self.say_goodbye(port, left);
        }
        if !self.session.is_open() {
            return if self.session.is_register_due(self.now_ns) { self.register(port) } else { 0 };
        }
        self.transmit_publishes(port).saturating_add(self.send_small(port))
    }

    /// Ends a session that is not this one any more; where that is lost, the server ends it in its own time.
    fn say_goodbye<P: Port>(&mut self, port: &mut P, Left { server, conn_id }: Left) {
        let Some(peer) = port.resolve(server) else { return };
        let Some(buffer) = port.reserve(peer) else { return };
        let mut writer = DatagramWriter::new(buffer, conn_id, self.session.next_packet_no());
        let _ = writer.frame(Kind::Close, &[], &[]);
        let len = writer.len();
        port.commit(len);
    }

    /// Sends the messages that may be sent, and nothing else.
    pub(super) fn transmit_publishes<P: Port>(&mut self, port: &mut P) -> usize {
        let mut sent = 0;
        while sent < DATAGRAMS_A_POLL
            && self.publishing.sender().has_unsent()
            && self.send_publishes(port)
        {
            sent = sent.saturating_add(1);
        }
        sent
    }

    fn register<P: Port>(&mut self, port: &mut P) -> usize {
        let datagram_bytes = u16::try_from(port.datagram_bytes()).unwrap_or(u16::MAX);
        let body = Register {
            nonce: self.session.nonce().into(),
            producer_id: self.publishing.producer().0.into(),
            producer_epoch: self.publishing.producer_epoch().into(),
            datagram_bytes: datagram_bytes.into(),
            flags: if self.publishing.publishes() { REGISTER_PUBLISHER } else { 0 }.into(),
            instance: self.options.nonce.into(),
            padding: [0; 40],
        };
        self.session.begin_register();
        let sent = self.send(port, |writer| {
            let _ = writer.frame(Kind::Register, body.as_bytes(), &[]);
        });
        if sent {
            self.session.registers(self.now_ns);
        }
        usize::from(sent)
    }

    fn send_publishes<P: Port>(&mut self, port: &mut P) -> bool {
        let Some(peer) = port.resolve(self.route.server()) else { return false };
        let Some(buffer) = port.reserve(peer) else { return false };
        let room = buffer.len().min(self.terms.server_datagram_bytes());
        let mut writer = self.session.writer(&mut buffer[..room]);
        if !self.publishing.sender_mut().pack(&mut writer, self.now_ns) {
            return false;
        }
        let len = writer.len();
        port.commit(len);
        self.session.said(self.now_ns);
        true
    }

    /// Sends what fits a datagram of small frames, when any is due.
    fn send_small<P: Port>(&mut self, port: &mut P) -> usize {
        let now_ns = self.now_ns;
        let mut sent = 0_usize;
        if self.publishing.publishes()
            && let Some(probe) = self.publishing.sender_mut().probe(now_ns)
        {
            sent = sent.saturating_add(usize::from(self.send(port, |writer| {
                let _ = writer.frame(Kind::Probe, probe.as_bytes(), &[]);
            })));
        }
        while let Some(stream) = self.subscriptions.take_unsubscribe() {
            let body = Unsubscribe { stream: stream.0.into() };
            let said = self.send(port, |writer| {
                let _ = writer.frame(Kind::Unsubscribe, body.as_bytes(), &[]);
            });
            if !said {
                self.subscriptions.put_back(stream);
                break;
            }
            sent = sent.saturating_add(1);
        }
        for index in 0..self.subscriptions.len() {
            if let Some(subscribe) = self.subscriptions.nth(index).ask(now_ns) {
                sent = sent.saturating_add(usize::from(self.send(port, |writer| {
                    let _ = writer.frame(Kind::Subscribe, subscribe.as_bytes(), &[]);
                })));
            }
            if let Some(status) = self.subscriptions.nth(index).status(now_ns) {
                sent = sent.saturating_add(usize::from(self.send(port, |writer| {
                    let _ = writer.frame(Kind::Status, status.as_bytes(), &[]);
                })));
            }
        }
        for index in 0..self.requests.len() {
            sent = sent.saturating_add(self.ask(index, port));
        }
        if self.session.is_heartbeat_due(now_ns) {
            let body = Heartbeat { stream: 0.into(), reserved: 0.into(), durable_next: 0.into() };
            sent = sent.saturating_add(usize::from(self.send(port, |writer| {
                let _ = writer.frame(Kind::Heartbeat, body.as_bytes(), &[]);
            })));
        }
        sent
    }

    fn ask<P: Port>(&mut self, index: usize, port: &mut P) -> usize {
        let Some((id, after, request)) = self.requests.due(index, self.now_ns) else { return 0 };
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
        let Some(peer) = port.resolve(self.route.server()) else { return false };
        let Some(buffer) = port.reserve(peer) else { return false };
        let mut writer = self.session.writer(buffer);
        fill(&mut writer);
        let len = writer.len();
        port.commit(len);
        self.session.said(self.now_ns);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Publisher;
    use crate::port::memory::Faults;
    use crate::testing::rig::Rig;

    #[test]
    fn a_poll_sends_so_many_datagrams_of_messages_and_the_next_one_the_others() {
        let mut rig = Rig::new(1, Faults::default());
        let publisher = rig.client(Publisher::New);
        let stream = rig.create(publisher, "orders");
        let client = &mut rig.clients[publisher];
        // One fits a datagram, two do not.
        for _ in 0..=DATAGRAMS_A_POLL {
            client.offer(stream, &[1; 1_000]).unwrap();
        }
        let port = client.port.as_mut().expect("it is not closed");
        let sent = [(); 3].map(|()| client.link.transmit_publishes(port));
        assert_eq!(sent, [DATAGRAMS_A_POLL, 1, 0]);
    }
}
