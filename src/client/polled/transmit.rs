//! The sending side of a polled client: what is due, as few datagrams as fit.

use zerocopy::IntoBytes;

use super::Link;
use super::route::Left;
use crate::client::Request;
use crate::clock::Clock;
use crate::limits::{DATAGRAM_BYTES_MAX, DATAGRAMS_A_POLL};
use crate::port::Port;
use crate::wire::control::{
    ANY_SHARD, Close, CreateStreamHead, DescribeStreamHead, HEARTBEAT_ANSWER, Heartbeat,
    ListStreams, RegisterHead, TrimStream, Unsubscribe,
};
use crate::wire::{DatagramWriter, Kind, NAME};
use zerocopy::little_endian::{U16, U32};

/// The client wishes it so.
pub(super) const CLOSE: Close = Close { code: U16::ZERO, flags: U16::ZERO, reserved: U32::ZERO };

impl<C: Clock> Link<C> {
    pub(super) fn transmit<P: Port>(&mut self, port: &mut P) -> usize {
        if let Some(left) = self.route.take_left() {
            self.say_goodbye(port, left);
        }
        if !self.session.is_open() {
            return self.ask_for_session(port);
        }
        self.transmit_publishes(port).saturating_add(self.send_small(port))
    }

    /// Ends a session that is not this one any more; where that is lost, the server ends it in its own time.
    fn say_goodbye<P: Port>(&mut self, port: &mut P, left: Left) {
        let Some(peer) = port.resolve(left.server) else { return };
        let Some(buffer) = port.reserve(peer) else { return };
        let bytes = left.goodbye.bytes();
        buffer[..bytes.len()].copy_from_slice(bytes);
        port.commit(bytes.len());
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

    /// Sends what is due of INIT or REGISTER.
    fn ask_for_session<P: Port>(&mut self, port: &mut P) -> usize {
        let datagram_bytes = u16::try_from(port.datagram_bytes().min(DATAGRAM_BYTES_MAX));
        let datagram_bytes = datagram_bytes.expect("below 64 KiB");
        let Some(peer) = port.resolve(self.route.server()) else { return 0 };
        if let Some(request) = self.session.register(self.now_ns) {
            let (want, name) = self.publishing.want();
            let head = self.register(request, want, datagram_bytes);
            return usize::from(self.send(port, |writer| {
                let (head, name) = (head.as_bytes(), name.as_str().as_bytes());
                let _ = if name.is_empty() {
                    writer.frame(Kind::Register, head, &[])
                } else {
                    writer.frame_with(Kind::Register, head, NAME, name)
                };
            }));
        }
        let unix_ns = self.clock.unix_ns_at(self.now_ns);
        let Some(init) = self.session.init(unix_ns, datagram_bytes, self.now_ns) else { return 0 };
        let Some(buffer) = port.reserve(peer) else { return 0 };
        let bytes = init.as_bytes();
        buffer[..bytes.len()].copy_from_slice(bytes);
        port.commit(bytes.len());
        1
    }

    fn register(&self, request: u32, want: u16, datagram_bytes: u16) -> RegisterHead {
        let publishing = &self.publishing;
        let newest = publishing.newest();
        RegisterHead {
            request: request.into(),
            want: want.into(),
            datagram_bytes: datagram_bytes.into(),
            log_id: self.terms.log_id(),
            producer_id: publishing.producer().0.into(),
            producer_epoch: publishing.producer_epoch().into(),
            witness_stream: newest.map_or(0, |newest| newest.stream.0).into(),
            witness_sequence: newest.map_or(0, |newest| newest.sequence).into(),
            witness_lineage: newest.map_or(0, |newest| newest.lineage.0).into(),
            durable_to: publishing.sender().durable_to().into(),
            epoch: self.terms.epoch().into(),
        }
    }

    fn send_publishes<P: Port>(&mut self, port: &mut P) -> bool {
        let Some(peer) = port.resolve(self.route.server()) else { return false };
        let Some(buffer) = port.reserve(peer) else { return false };
        let room = buffer.len().min(self.terms.server_datagram_bytes());
        let Some(mut writer) = self.session.writer(&mut buffer[..room]) else { return false };
        if !self.publishing.sender_mut().pack(&mut writer, self.now_ns) {
            return false;
        }
        let len = writer.finish();
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
        while let Some(sub) = self.subscriptions.take_unsubscribe() {
            let body = Unsubscribe { sub: sub.into() };
            let said = self.send(port, |writer| {
                let _ = writer.frame(Kind::Unsubscribe, body.as_bytes(), &[]);
            });
            if !said {
                self.subscriptions.put_back(sub);
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
            let (sub, flags, durable_next) = (0.into(), HEARTBEAT_ANSWER.into(), 0.into());
            let body = Heartbeat { sub, flags, durable_next };
            sent = sent.saturating_add(usize::from(self.send(port, |writer| {
                let _ = writer.frame(Kind::Heartbeat, body.as_bytes(), &[]);
            })));
        }
        sent
    }

    fn ask<P: Port>(&mut self, index: usize, port: &mut P) -> usize {
        let Some((id, after, request)) = self.requests.due(index, self.now_ns) else { return 0 };
        let create = |writer: &mut DatagramWriter<'_>, name: &str, shard: u32| {
            let head = CreateStreamHead { request: id.into(), shard: shard.into() };
            let name = name.as_bytes();
            let _ = writer.frame_with(Kind::CreateStream, head.as_bytes(), NAME, name);
        };
        usize::from(self.send(port, |writer| match &request {
            Request::CreateStream(name) => create(writer, name, ANY_SHARD),
            Request::CreateStreamOn(name, shard) => create(writer, name, *shard),
            Request::DescribeStream(name) => {
                let head = DescribeStreamHead { request: id.into(), stream: 0.into() };
                let name = name.as_bytes();
                let _ = writer.frame_with(Kind::DescribeStream, head.as_bytes(), NAME, name);
            }
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
        let Some(mut writer) = self.session.writer(buffer) else { return false };
        fill(&mut writer);
        let len = writer.finish();
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
