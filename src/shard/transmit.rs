//! The transmit station: acknowledgements, reports of gaps, and the replies noted in this turn.

use zerocopy::little_endian::U16;
use zerocopy::{FromZeros, IntoBytes};

use crate::ids::{ConnId, Peer};
use crate::limits::{
    CREDIT_BYTES_MIN, CREDIT_MESSAGES_MIN, GAPS_A_TURN, NAK_RANGES_MAX, TRANSMIT_BURST,
};
use crate::log::{Position, StreamFacts};
use crate::metrics::Counter;
use crate::mutant::Mutant;
use crate::port::Port;
use crate::position::SessionSlot;
use crate::session::table::{Farewell, Granted, Phase, Session};
use crate::wire::control::{
    DataLoss, ErrorCode, ErrorHead, Heartbeat, ListEnd, Redirect, Registered, StreamInfoHead,
    Subscribed, Trimmed,
};
use crate::wire::datagram::{Accept, Resp, SUITE_PLAIN};
use crate::wire::publish::{ACK_HEAD_BYTES, AckHead, RECEIPT_RUN_BYTES, ReceiptRun, SeqRange};
use crate::wire::{DatagramWriter, FRAME_HEAD_BYTES, Kind, NAME, tlv_bytes};

use super::placement::OwnShard;
use super::timers::SILENCE_NS;
use super::{Reply, Stations};

impl Stations {
    pub(super) fn transmit(&mut self, port: &mut dyn Port) -> usize {
        let acknowledged = self.acknowledge_due(port);
        let reported = self.report_gaps(port);
        let let_in = self.take_answers(port);
        [acknowledged, reported, let_in, self.answer(port)]
            .into_iter()
            .fold(0, usize::saturating_add)
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
        if session.lacks_keys() {
            // It is told later: others do not wait for it.
            return true;
        }
        let Some(buffer) = port.reserve(session.peer) else { return false };
        let (mut writer, owed) = session.writer(buffer);
        let receipts_max = writer.room().saturating_sub(ACK_HEAD_BYTES) / RECEIPT_RUN_BYTES;
        let receipts = owed.untold().min(receipts_max);
        head.receipt_count = u16::try_from(receipts).expect("fewer than RUNS_MAX").into();
        writer.begin(Kind::Ack);
        writer.extend(head.as_bytes());
        owed.tell(receipts, |run: &ReceiptRun| writer.extend(run.as_bytes()));
        writer.end();
        let len = writer.finish();
        session.said();
        port.commit(len);
        self.counters.add(Counter::AcksSent, 1);
        true
    }

    fn ack_head(&mut self, slot: SessionSlot) -> AckHead {
        let credit = self.credit(slot);
        let session = self.sessions.get(slot);
        let durable_to = session.receipts.durable_to().into();
        let head = AckHead {
            received_to: session.receiver.accepted_to().into(),
            replicated_to: durable_to,
            durable_to,
            max_seq_allowed: credit.seq_max().into(),
            max_bytes_allowed: credit.bytes_max().into(),
            sack: session.receiver.sack().map(Into::into),
            receipts_from: session.receipts.held_from().into(),
            receipt_count: 0.into(),
            state: self.condition().publish_state() as u8,
            copies: 1,
            retry_ms: 0.into(),
        };
        if Mutant::AckBeforeDurable.is_on() {
            let accepted_to = session.receiver.accepted_to();
            let receipts_from = accepted_to.saturating_add(1).into();
            let (durable_to, replicated_to) = (accepted_to.into(), accepted_to.into());
            return AckHead { durable_to, replicated_to, receipts_from, ..head };
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
        let slot = match reply {
            Reply::Retry { peer, retry } => return send_to(port, peer, retry.as_bytes()),
            Reply::Reset { peer, reset } => return send_to(port, peer, reset.as_bytes()),
            Reply::Versions { peer, versions } => return send_to(port, peer, versions.as_bytes()),
            Reply::Rejected { peer, client_id, code } => {
                let resp = reject(client_id, code, self.now.unix_ns);
                return send_to(port, peer, resp.as_bytes());
            }
            Reply::Close { farewell } => return farewell.send(port),
            Reply::Accepted { slot } => return self.send_accept(slot, port),
            Reply::Registered { slot }
            | Reply::Subscribed { slot, .. }
            | Reply::Trimmed { slot, .. }
            | Reply::DataLoss { slot, .. }
            | Reply::StreamInfo { slot, .. }
            | Reply::List { slot, .. }
            | Reply::Redirect { slot, .. }
            | Reply::Heartbeat { slot }
            | Reply::Error { slot, .. } => slot,
        };
        let registers = matches!(reply, Reply::Error { .. });
        match self.sessions.get(slot).phase {
            Phase::Open => {}
            Phase::Confirmed if registers => {}
            Phase::Free | Phase::Unconfirmed | Phase::Confirmed | Phase::Registering { .. } => {
                return true;
            }
        }
        match reply {
            Reply::Registered { .. } => {
                let body = self.registered(slot);
                self.send_frame(slot, port, Kind::Registered, body.as_bytes())
            }
            Reply::Subscribed { sub, .. } => {
                let Some(body) = self.subscribed(slot, sub) else { return true };
                self.send_frame(slot, port, Kind::Subscribed, body.as_bytes())
            }
            Reply::Trimmed { sub, log_start, .. } => {
                let (sub, reserved, log_start) = (sub.into(), 0.into(), log_start.into());
                let body = Trimmed { sub, reserved, log_start };
                self.send_frame(slot, port, Kind::Trimmed, body.as_bytes())
            }
            Reply::DataLoss { sub, first, last, .. } => {
                let (sub, reserved) = (sub.into(), 0.into());
                let body = DataLoss { sub, reserved, first: first.into(), last: last.into() };
                self.send_frame(slot, port, Kind::DataLoss, body.as_bytes())
            }
            Reply::StreamInfo { request, stream, .. } => {
                self.send_info(slot, port, request, stream)
            }
            Reply::List { request, after, .. } => self.send_list(slot, port, request, after),
            Reply::Error { code, request, detail, .. } => {
                let head = error_head(code, request, detail);
                self.send_frame(slot, port, Kind::Error, head.as_bytes())
            }
            Reply::Redirect { request, shard, .. } => {
                let body = Redirect { request: request.into(), shard: shard.into() };
                self.send_frame(slot, port, Kind::Redirect, body.as_bytes())
            }
            Reply::Heartbeat { .. } => {
                let body = Heartbeat::new_zeroed();
                self.send_frame(slot, port, Kind::Heartbeat, body.as_bytes())
            }
            Reply::Accepted { .. }
            | Reply::Retry { .. }
            | Reply::Rejected { .. }
            | Reply::Reset { .. }
            | Reply::Versions { .. }
            | Reply::Close { .. } => true,
        }
    }

    /// Tells a client of its session.
    fn send_accept(&mut self, slot: SessionSlot, port: &mut dyn Port) -> bool {
        let session = self.sessions.get(slot);
        if session.phase == Phase::Free {
            return true;
        }
        let (peer, client_id, conn_id) = (session.peer, session.client_id, session.conn_id);
        let accept = self.accept_of(peer, conn_id, SUITE_PLAIN);
        send_to(port, peer, Resp::plain(client_id, accept).as_bytes())
    }

    /// What is said of a session to who may have it.
    pub(super) fn accept_of(&mut self, peer: Peer, conn_id: ConnId, suite: u16) -> Accept {
        let OwnShard { number: shard, of: shards } = self.own_shard();
        let code = |number| u16::try_from(number).expect("at most 64 shards");
        let mut accept = Accept::refusal(self.now.unix_ns);
        accept.suite = suite.into();
        accept.datagram_bytes = datagram_bytes(self.settings.datagram_bytes);
        accept.server_id = conn_id.0.into();
        accept.reset_token = self.gate.reset_token(conn_id);
        accept.cookie = self.gate.cookie_for(peer.addr, self.now.unix_ns);
        (accept.shard, accept.shards) = (code(shard).into(), code(shards).into());
        accept
    }

    fn send_frame(
        &mut self,
        slot: SessionSlot,
        port: &mut dyn Port,
        kind: Kind,
        body: &[u8],
    ) -> bool {
        let session = self.sessions.get_mut(slot);
        send(session, port, |writer| {
            let _ = writer.frame(kind, body, &[]);
        })
    }

    fn registered(&mut self, slot: SessionSlot) -> Registered {
        let credit = self.credit(slot);
        let session = self.sessions.get(slot);
        let producer = session.producer;
        let (accepted_to, durable_to) =
            (session.receiver.accepted_to(), session.receipts.durable_to());
        // Of what is not durable yet nothing is said that a power cut could undo.
        let known = producer.filter(|_| durable_to == accepted_to);
        let known = known.and_then(|producer| self.log.producer(producer.id));
        let last = known.map_or(Position::NONE, |known| known.last);
        let lineage = self.log.lineage_of(last.stream, last.sequence).unwrap_or_default();
        let message_bytes_max = u32::try_from(self.settings.message_bytes_max);
        Registered {
            request: session.answered.request.into(),
            flags: session.answered.flags.into(),
            datagram_bytes: datagram_bytes(self.settings.datagram_bytes),
            log_id: self.log.id(),
            epoch: self.epoch().0.into(),
            lineage: self.log.lineage().0.into(),
            producer_id: producer.map_or(0, |producer| producer.id.0).into(),
            producer_epoch: producer.map_or(0, |producer| producer.epoch).into(),
            message_bytes_max: message_bytes_max.expect("below 64 KiB").into(),
            accepted_to: accepted_to.into(),
            durable_to: durable_to.into(),
            max_seq_allowed: credit.seq_max().into(),
            max_bytes_allowed: credit.bytes_max().into(),
            last_sequence: last.sequence.into(),
            last_lineage: lineage.0.into(),
            last_stream: last.stream.0.into(),
            durability: self.durability().code(),
            state: self.condition().publish_state() as u8,
            copies: 1,
            reserved: 0,
            idle_ms: u32::try_from(SILENCE_NS / 1_000_000).expect("10 s").into(),
            padding: 0.into(),
        }
    }

    fn subscribed(&self, slot: SessionSlot, sub: u32) -> Option<Subscribed> {
        let subscription = self.fanout.get(self.fanout.find(slot, sub)?);
        let (stream, start) = (subscription.cursor.stream(), subscription.cursor.start());
        let facts = self.log.stream(stream)?;
        let lineage = self.log.lineage_of(stream, start.saturating_sub(1)).unwrap_or_default();
        Some(Subscribed {
            request: sub.into(),
            stream: stream.0.into(),
            start: start.into(),
            log_start: facts.first_sequence.into(),
            durable_next: facts.durable_next.into(),
            lineage: lineage.0.into(),
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
            let name = facts.name.as_bytes();
            let _ = writer.frame_with(Kind::StreamInfo, head.as_bytes(), NAME, name);
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
        let rights = self.guard.rights(self.sessions.get(slot).identity);
        let session = self.sessions.get_mut(slot);
        send(session, port, |writer| {
            const END_BYTES: usize = FRAME_HEAD_BYTES + size_of::<ListEnd>();
            let mut listed = after;
            let mut more = false;
            let shown = |facts: &&StreamFacts| facts.id.0 > after && rights.may_see(&facts.name);
            for facts in log.streams().filter(shown) {
                let head = info_head(facts, request, own);
                let name = facts.name.as_bytes();
                let bytes = head.as_bytes().len().saturating_add(tlv_bytes(name.len()));
                if writer.room() < bytes.saturating_add(END_BYTES) {
                    more = true;
                    break;
                }
                let _ = writer.frame_with(Kind::StreamInfo, head.as_bytes(), NAME, name);
                listed = facts.id.0;
            }
            let end =
                ListEnd { request: request.into(), after: if more { listed } else { 0 }.into() };
            let _ = writer.frame(Kind::ListEnd, end.as_bytes(), &[]);
        })
    }
}

fn info_head(facts: &StreamFacts, request: u32, shard: u32) -> StreamInfoHead {
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
    if session.lacks_keys() {
        // As good as lost on the way: it is asked for again, and others do not wait for it.
        return true;
    }
    let Some(buffer) = port.reserve(session.peer) else { return false };
    let (mut writer, _) = session.writer(buffer);
    fill(&mut writer);
    let len = writer.finish();
    session.said();
    port.commit(len);
    true
}

impl Farewell {
    fn send(&self, port: &mut dyn Port) -> bool {
        send_to(port, self.peer, self.last_word.bytes())
    }
}

/// Queues bytes for somebody; `false` when the port has no room.
pub fn send_to(port: &mut dyn Port, peer: Peer, bytes: &[u8]) -> bool {
    let Some(buffer) = port.reserve(peer) else { return false };
    buffer[..bytes.len()].copy_from_slice(bytes);
    port.commit(bytes.len());
    true
}

fn datagram_bytes(bytes: usize) -> U16 {
    u16::try_from(bytes).expect("below 64 KiB").into()
}

/// That there is no session for a client, and why.
#[must_use]
pub fn reject(client_id: ConnId, code: ErrorCode, unix_ns: u64) -> Resp {
    Resp::plain(client_id, Accept::refusal(unix_ns).refused(code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::IdentityId;
    use crate::limits::{SESSIONS_MAX, WINDOW_MESSAGES_MAX};
    use crate::port::memory::Faults;
    use crate::session::table::Requester;
    use crate::testing::rig::{Rig, address};

    #[test]
    fn the_window_is_shared_by_those_who_publish_and_nobody_gets_less_than_the_least() {
        let mut rig = Rig::new(1, Faults::default());
        let stations = &mut rig.shards[0].stations;
        let mut granted = |publishers| {
            let (peer, number) = (Peer::ip_only(address(9)), publishers as u64);
            let (client_id, instance) = (ConnId(number), number.into());
            let identity = IdentityId::NOBODY;
            let asker = Requester { peer, client_id, instance, identity };
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
