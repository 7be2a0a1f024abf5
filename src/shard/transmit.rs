//! The transmit station: acknowledgements, reports of gaps, and the replies noted in this turn.

use zerocopy::IntoBytes;

use crate::ids::{ConnId, Peer};
use crate::limits::{
    CREDIT_BYTES_MIN, CREDIT_MESSAGES_MIN, GAPS_A_TURN, NAK_RANGES_MAX, TRANSMIT_BURST,
};
use crate::metrics::Counter;
use crate::mutant::Mutant;
use crate::port::Port;
use crate::position::SessionSlot;
use crate::session::table::{Granted, Phase, Session};
use crate::wire::control::{
    DataLoss, ErrorCode, ErrorHead, Heartbeat, ListEnd, Registered, StreamInfoHead, Subscribed,
    Trimmed,
};
use crate::wire::frame::Kind;
use crate::wire::publish::{ACK_HEAD_BYTES, AckHead, RECEIPT_RUN_BYTES, ReceiptRun, SeqRange};
use crate::wire::{DatagramWriter, FRAME_HEAD_BYTES};

use super::placement::OwnShard;
use super::{Reply, Stations};

impl Stations {
    pub(super) fn transmit(&mut self, port: &mut dyn Port) -> usize {
        let acknowledged = self.acknowledge_due(port);
        let reported = self.report_gaps(port);
        acknowledged.saturating_add(reported).saturating_add(self.answer(port))
    }

    fn acknowledge_due(&mut self, port: &mut dyn Port) -> usize {
        let mut sent = 0_usize;
        while sent < TRANSMIT_BURST {
            let Some(slot) = self.publishers.due() else { break };
            if self.sessions.get(slot).phase == Phase::Open && !self.send_ack(slot, port) {
                break;
            }
            sent = sent.saturating_add(1);
            let session = self.sessions.get(slot);
            let there_is_more = session.phase == Phase::Open && session.receipts.untold() > 0;
            self.publishers.told(there_is_more);
        }
        sent
    }

    /// Sends one ACK with as many receipts as fit; `false` when the port has no room.
    fn send_ack(&mut self, slot: SessionSlot, port: &mut dyn Port) -> bool {
        let mut head = self.ack_head(slot);
        let session = self.sessions.get_mut(slot);
        let Some(buffer) = port.reserve(session.peer) else { return false };
        let room = session.datagram_bytes.min(buffer.len());
        let packet_no = session.next_packet_no();
        let mut writer = DatagramWriter::new(&mut buffer[..room], session.conn_id, packet_no);
        let receipts_max = writer.room().saturating_sub(ACK_HEAD_BYTES) / RECEIPT_RUN_BYTES;
        let receipts = session.receipts.untold().min(receipts_max);
        head.receipt_count = u16::try_from(receipts).expect("fewer than RUNS_MAX").into();
        writer.begin(Kind::Ack);
        writer.extend(head.as_bytes());
        session.receipts.tell(receipts, |run: &ReceiptRun| writer.extend(run.as_bytes()));
        writer.end();
        let len = writer.len();
        port.commit(len);
        self.counters.add(Counter::AcksSent, 1);
        true
    }

    fn ack_head(&mut self, slot: SessionSlot) -> AckHead {
        let credit = self.credit(slot);
        let session = self.sessions.get(slot);
        let head = AckHead {
            epoch: self.epoch().0.into(),
            received_to: session.receiver.accepted_to().into(),
            durable_to: session.receipts.durable_to().into(),
            max_seq_allowed: credit.seq_max().into(),
            max_bytes_allowed: credit.bytes_max().into(),
            sack: session.receiver.sack().map(Into::into),
            receipts_from: session.receipts.held_from().into(),
            durability: self.durability().code(),
            state: self.condition().publish_state() as u8,
            receipt_count: 0.into(),
            reserved: 0.into(),
        };
        if Mutant::AckBeforeDurable.is_on() {
            let accepted_to = session.receiver.accepted_to();
            let receipts_from = accepted_to.saturating_add(1).into();
            return AckHead { durable_to: accepted_to.into(), receipts_from, ..head };
        }
        head
    }

    /// How far a publisher may send: the window and the bytes that may be in flight, shared by those
    /// who publish. Both limits are absolute and never go back.
    fn credit(&mut self, slot: SessionSlot) -> Granted {
        let publishers = self.publishers.len().max(1);
        let window = self.settings.window_messages.checked_div(publishers).unwrap_or(0);
        let window = window.max(CREDIT_MESSAGES_MIN) as u64;
        let free = self.settings.limits.in_flight_bytes.saturating_sub(self.log.bytes_in_flight());
        let share = free.checked_div(publishers.saturating_mul(2)).unwrap_or(0);
        let share = if Mutant::CreditBelowMessage.is_on() {
            share.min(CREDIT_BYTES_MIN / 8)
        } else {
            share.max(CREDIT_BYTES_MIN)
        } as u64;
        let open = self.condition() == super::Condition::Serving;
        let session = self.sessions.get_mut(slot);
        if open {
            let seq = session.receipts.durable_to().saturating_add(window);
            session.credit.allow(seq, share);
        }
        session.credit
    }

    fn report_gaps(&mut self, port: &mut dyn Port) -> usize {
        if self.condition() != super::Condition::Serving {
            // Nothing would be taken: nothing is asked for.
            return 0;
        }
        let mut sent = 0_usize;
        for _ in 0..self.publishers.gaps().min(GAPS_A_TURN) {
            let Some(slot) = self.publishers.take_gap() else { break };
            let session = self.sessions.get_mut(slot);
            if session.phase != Phase::Open || !session.receiver.has_gap() {
                continue;
            }
            self.publishers.note_gap(slot);
            if port.reserve(session.peer).is_none() {
                // It is not counted as reported, and comes again.
                break;
            }
            if !session.receiver.nak_due(self.now.monotonic_ns) {
                continue;
            }
            let mut ranges = [SeqRange::default(); NAK_RANGES_MAX];
            let count = session.receiver.missing(&mut ranges);
            if count == 0 {
                continue;
            }
            let ranges = &ranges[..count];
            let frame = |writer: &mut DatagramWriter<'_>| {
                let _ = writer.frame(Kind::Nak, ranges.as_bytes(), &[]);
            };
            if !send(session, port, frame) {
                break;
            }
            self.counters.add(Counter::NaksSent, 1);
            // The ACK beside it carries what was received selectively, and the credit.
            self.publishers.acknowledge(slot);
            sent = sent.saturating_add(1);
        }
        sent
    }

    fn answer(&mut self, port: &mut dyn Port) -> usize {
        let mut done = 0_usize;
        while let Some(reply) = self.outbox.get(done) {
            if !self.send_reply(reply, port) {
                break;
            }
            done = done.saturating_add(1);
        }
        self.outbox.consume(done);
        done
    }

    /// Sends one reply; `false` when the port has no room. A reply whose session is gone is forgotten.
    fn send_reply(&mut self, reply: Reply, port: &mut dyn Port) -> bool {
        let (kind, slot) = match reply {
            Reply::Refuse { peer, conn_id, code, detail } => {
                return refuse(port, peer, conn_id, code, detail);
            }
            Reply::Close { peer, conn_id } => {
                let Some(buffer) = port.reserve(peer) else { return false };
                let mut writer = DatagramWriter::new(buffer, conn_id, u64::MAX);
                let _ = writer.frame(Kind::Close, &[], &[]);
                let len = writer.len();
                port.commit(len);
                return true;
            }
            Reply::Registered { slot } => (Kind::Registered, slot),
            Reply::Subscribed { slot, .. } => (Kind::Subscribed, slot),
            Reply::Trimmed { slot, .. } => (Kind::Trimmed, slot),
            Reply::DataLoss { slot, .. } => (Kind::DataLoss, slot),
            Reply::StreamInfo { slot, .. } => (Kind::StreamInfo, slot),
            Reply::List { slot, .. } => (Kind::ListEnd, slot),
            Reply::Redirect { slot, .. } => (Kind::Redirect, slot),
            Reply::Heartbeat { slot } => (Kind::Heartbeat, slot),
            Reply::Error { slot, .. } => (Kind::Error, slot),
        };
        if self.sessions.get(slot).phase != Phase::Open {
            return true;
        }
        match reply {
            Reply::Registered { .. } => {
                let body = self.registered(slot);
                self.send_frame(slot, port, kind, body.as_bytes(), &[])
            }
            Reply::Subscribed { stream, .. } => {
                let Some(body) = self.subscribed(slot, stream) else { return true };
                self.send_frame(slot, port, kind, body.as_bytes(), &[])
            }
            Reply::Trimmed { stream, request, log_start, .. } => {
                let (stream, request) = (stream.0.into(), request.into());
                let body = Trimmed { stream, request, log_start: log_start.into() };
                self.send_frame(slot, port, kind, body.as_bytes(), &[])
            }
            Reply::DataLoss { stream, first, last, .. } => {
                let (stream, reserved) = (stream.0.into(), 0.into());
                let (first, last) = (first.into(), last.into());
                let body = DataLoss { stream, reserved, first, last };
                self.send_frame(slot, port, kind, body.as_bytes(), &[])
            }
            Reply::StreamInfo { request, stream, .. } => {
                self.send_info(slot, port, request, stream)
            }
            Reply::List { request, after, .. } => self.send_list(slot, port, request, after),
            Reply::Error { code, request, detail, .. } => {
                let head = error_head(code, request, detail);
                self.send_frame(slot, port, kind, head.as_bytes(), &[])
            }
            Reply::Redirect { request, shard, .. } => {
                let Some(body) = self.redirect(request, shard) else { return true };
                self.send_frame(slot, port, kind, body.as_bytes(), &[])
            }
            Reply::Heartbeat { .. } | Reply::Refuse { .. } | Reply::Close { .. } => {
                let zero = 0.into();
                let body = Heartbeat { stream: zero, reserved: zero, durable_next: 0.into() };
                self.send_frame(slot, port, kind, body.as_bytes(), &[])
            }
        }
    }

    fn send_frame(
        &mut self,
        slot: SessionSlot,
        port: &mut dyn Port,
        kind: Kind,
        head: &[u8],
        tail: &[u8],
    ) -> bool {
        let session = self.sessions.get_mut(slot);
        send(session, port, |writer| {
            let _ = writer.frame(kind, head, tail);
        })
    }

    fn registered(&mut self, slot: SessionSlot) -> Registered {
        let credit = self.credit(slot);
        let session = self.sessions.get(slot);
        let producer = session.producer;
        let OwnShard { number: shard, of: shards } = self.own_shard();
        let base_port = self.siblings.as_ref().map_or(0, |all| all.base_port);
        let code = |number| u8::try_from(number).expect("at most 64 shards");
        Registered {
            nonce: session.client.nonce.into(),
            conn_id: session.conn_id.0.into(),
            producer_epoch: producer.map_or(0, |producer| producer.epoch).into(),
            producer_id: producer.map_or(0, |producer| producer.id.0).into(),
            epoch: self.epoch().0.into(),
            durable_to: session.receipts.durable_to().into(),
            max_seq_allowed: credit.seq_max().into(),
            max_bytes_allowed: credit.bytes_max().into(),
            message_bytes_max: u32::try_from(self.settings.message_bytes_max)
                .expect("below 64 KiB")
                .into(),
            durability: self.durability().code(),
            shard: code(shard),
            shards: code(shards),
            reserved: 0,
            datagram_bytes: u16::try_from(self.settings.datagram_bytes)
                .expect("below 64 KiB")
                .into(),
            base_port: base_port.into(),
            log: self.log.tag().into(),
        }
    }

    fn subscribed(&self, slot: SessionSlot, stream: crate::ids::StreamId) -> Option<Subscribed> {
        let subscription = self.fanout.get(self.fanout.find(slot, stream)?);
        let facts = self.log.stream(stream)?;
        Some(Subscribed {
            request: subscription.request().into(),
            stream: stream.0.into(),
            start: subscription.cursor.start().into(),
            log_start: facts.first_sequence.into(),
            durable_next: facts.durable_next.into(),
        })
    }

    fn send_info(
        &mut self,
        slot: SessionSlot,
        port: &mut dyn Port,
        request: u32,
        stream: crate::ids::StreamId,
    ) -> bool {
        let Some(facts) = self.log.stream(stream) else { return true };
        let head = info_head(facts, request, self.own_shard().number);
        let session = self.sessions.get_mut(slot);
        send(session, port, |writer| {
            let _ = writer.frame(Kind::StreamInfo, head.as_bytes(), facts.name.as_bytes());
        })
    }

    /// Sends one datagram of STREAM_INFO frames and a LIST_END that says where to go on.
    fn send_list(
        &mut self,
        slot: SessionSlot,
        port: &mut dyn Port,
        request: u32,
        after: u32,
    ) -> bool {
        let own = self.own_shard().number;
        let log = &self.log;
        let session = self.sessions.get_mut(slot);
        send(session, port, |writer| {
            const END_BYTES: usize = FRAME_HEAD_BYTES + size_of::<ListEnd>();
            let mut listed = after;
            let mut more = false;
            for facts in log.streams().filter(|facts| facts.id.0 > after) {
                let head = info_head(facts, request, own);
                let bytes = head.as_bytes().len().saturating_add(facts.name.len());
                if writer.room() < bytes.saturating_add(END_BYTES) {
                    more = true;
                    break;
                }
                let _ = writer.frame(Kind::StreamInfo, head.as_bytes(), facts.name.as_bytes());
                listed = facts.id.0;
            }
            let end =
                ListEnd { request: request.into(), after: if more { listed } else { 0 }.into() };
            let _ = writer.frame(Kind::ListEnd, end.as_bytes(), &[]);
        })
    }
}

fn info_head(facts: &crate::log::StreamFacts, request: u32, shard: u32) -> StreamInfoHead {
    StreamInfoHead {
        request: request.into(),
        stream: facts.id.0.into(),
        log_start: facts.first_sequence.into(),
        durable_next: facts.durable_next.into(),
        created_ns: facts.created_ns.into(),
        bytes: facts.bytes.into(),
        shard: shard.into(),
        reserved: 0.into(),
    }
}

fn error_head(code: ErrorCode, request: u32, detail: u64) -> ErrorHead {
    ErrorHead {
        code: code.code().into(),
        reserved: 0.into(),
        request: request.into(),
        detail: detail.into(),
    }
}

/// Sends one datagram to a session's client; `false` when the port has no room.
pub(super) fn send(
    session: &mut Session,
    port: &mut dyn Port,
    fill: impl FnOnce(&mut DatagramWriter<'_>),
) -> bool {
    let Some(buffer) = port.reserve(session.peer) else { return false };
    let room = session.datagram_bytes.min(buffer.len());
    let packet_no = session.next_packet_no();
    let mut writer = DatagramWriter::new(&mut buffer[..room], session.conn_id, packet_no);
    fill(&mut writer);
    let len = writer.len();
    port.commit(len);
    true
}

/// Queues a refusal for somebody without a session; `false` when the port has no room.
pub fn refuse(
    port: &mut dyn Port,
    peer: Peer,
    conn_id: ConnId,
    code: ErrorCode,
    detail: u64,
) -> bool {
    let Some(buffer) = port.reserve(peer) else { return false };
    // Without a session there is nothing to count packets by.
    let mut writer = DatagramWriter::new(buffer, conn_id, u64::MAX);
    let _ = writer.frame(Kind::Error, error_head(code, 0, detail).as_bytes(), &[]);
    let len = writer.len();
    port.commit(len);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{SESSIONS_MAX, WINDOW_MESSAGES_MAX};
    use crate::port::memory::Faults;
    use crate::session::table::Requester;
    use crate::testing::rig::{Rig, address};

    #[test]
    fn the_window_is_shared_by_those_who_publish_and_nobody_gets_less_than_the_least() {
        let mut rig = Rig::new(1, Faults::default());
        let stations = &mut rig.shards[0].stations;
        let mut granted = |publishers| {
            let asker = Requester { peer: Peer::ip_only(address(9)), nonce: publishers as u64 };
            let slot = stations.sessions.open(asker, 1).unwrap();
            stations.publishers.pretend(publishers);
            stations.credit(slot)
        };
        let many = WINDOW_MESSAGES_MAX / CREDIT_MESSAGES_MIN;
        let (whole, least) = (WINDOW_MESSAGES_MAX as u64, CREDIT_MESSAGES_MIN as u64);
        let expected = [whole, whole / 2, least + least / (many as u64 - 1), least, least, least];
        let granted = [1, 2, many - 1, many, many + 1, SESSIONS_MAX].map(&mut granted);
        assert_eq!(granted.map(|granted| granted.seq_max()), expected);
        let bytes_max = granted.map(|granted| granted.bytes_max());
        assert_eq!(bytes_max[5], CREDIT_BYTES_MIN as u64, "the largest message, for everybody");
    }
}
