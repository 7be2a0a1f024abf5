//! The sending half of a publisher's session: messages wait here until they are durable.
//!
//! Nothing is forgotten before the server says that it is on media, so that whatever is lost on the way,
//! and whatever a restart of the server has not seen, is sent again under the same number.

use std::collections::VecDeque;

use zerocopy::IntoBytes;

use crate::fired::Timer;
use crate::ids::{ProducerId, StreamId};
use crate::wire::DatagramWriter;
use crate::wire::frame::Kind;
use crate::wire::publish::{
    Ack, MESSAGE_HEAD_BYTES, MessageHead, Nak, PUBLISH_HEAD_BYTES, Probe, PublishHead,
    PublishState, ReceiptRun,
};
use crate::wire::record::Signed;

/// Before anything is known of the round trip.
const SRTT_NS_START: u64 = 1_000_000;
/// The shortest wait before the server is asked where we are.
const PROBE_NS_MIN: u64 = 1_000_000;
/// The longest wait.
const PROBE_NS_MAX: u64 = 100_000_000;
/// What was sent so recently is not sent again: it may still be on its way.
const RESEND_NS_MIN: u64 = 50_000;

/// What a PUBLISH frame has before the payload of its first message.
const MESSAGE_BYTES_MIN: usize = PUBLISH_HEAD_BYTES + MESSAGE_HEAD_BYTES;

/// One message on its way.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Where its payload begins, counted over the life of the store.
    start: u64,
    len: u32,
    crc32c: u32,
    stream: u32,
    offered_ns: u64,
    sent_ns: u64,
}

/// A message that is durable, and what the server said of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The producer's number.
    pub producer_seq: u64,
    /// Stream.
    pub stream: StreamId,
    /// Its sequence; `None` where the receipt was lost with the server's memory.
    pub sequence: Option<u64>,
    /// Receive to durable, nanoseconds; 0 where the receipt was lost.
    pub server_ns: u32,
    /// Of these in the device.
    pub device_ns: u32,
    /// When it was offered, on the client's clock.
    pub offered_ns: u64,
    /// When it was last sent.
    pub sent_ns: u64,
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// As many messages or bytes as fit wait for their acknowledgement.
    Window,
    /// The server gives no credit.
    Server(PublishState),
}

/// The sending half.
#[derive(Debug)]
pub struct Sender {
    producer_id: ProducerId,
    slots: Vec<Slot>,
    bytes: Vec<u8>,
    /// Bytes ever stored, and ever given back.
    stored: u64,
    released: u64,
    /// The oldest number that is not completed, the next to send, the next to give out.
    first: u64,
    unsent: u64,
    next: u64,
    received_to: u64,
    durable_to: u64,
    receipts_to: u64,
    receipts: VecDeque<ReceiptRun>,
    max_seq: u64,
    max_bytes: u64,
    /// Payload bytes sent for the first time in this session.
    session_bytes: u64,
    state: PublishState,
    /// Ranges to be sent again.
    resend: VecDeque<(u64, u64)>,
    srtt_ns: u64,
    probe_wait_ns: u64,
    /// When something was last sent or heard that moved things on.
    moved_ns: u64,
    probe_due: bool,
    probed_ns: u64,
    /// When it began to wait for what is not durable, or something last became durable.
    waits_since_ns: u64,
}

impl Sender {
    /// Room for `messages` (a power of two) and `bytes` of payload.
    ///
    /// # Panics
    /// When `messages` is not a power of two.
    #[must_use]
    pub fn new(messages: usize, bytes: usize) -> Self {
        assert!(messages.is_power_of_two(), "found by masking");
        Self {
            producer_id: ProducerId(0),
            slots: vec![Slot::default(); messages],
            bytes: vec![0; bytes],
            stored: 0,
            released: 0,
            first: 1,
            unsent: 1,
            next: 1,
            received_to: 0,
            durable_to: 0,
            receipts_to: 0,
            receipts: VecDeque::with_capacity(messages),
            max_seq: 0,
            max_bytes: 0,
            session_bytes: 0,
            state: PublishState::Open,
            resend: VecDeque::with_capacity(64),
            srtt_ns: SRTT_NS_START,
            probe_wait_ns: PROBE_NS_MIN,
            moved_ns: 0,
            probe_due: false,
            probed_ns: 0,
            waits_since_ns: 0,
        }
    }

    /// A session began (again): everything up to `durable_to` is durable, the rest is sent again.
    pub fn begin(
        &mut self,
        producer_id: ProducerId,
        durable_to: u64,
        credit: (u64, u64),
        now_ns: u64,
    ) {
        self.producer_id = producer_id;
        if self.next == 1 && durable_to > 0 {
            // Another life of this producer published these.
            let next = durable_to.saturating_add(1);
            (self.first, self.next, self.receipts_to) = (next, next, durable_to);
        }
        self.durable_to = self.durable_to.max(durable_to);
        self.received_to = durable_to;
        self.unsent = durable_to.saturating_add(1);
        self.session_bytes = 0;
        (self.max_seq, self.max_bytes) = credit;
        self.resend.clear();
        self.state = PublishState::Open;
        self.moved_ns = now_ns;
        self.waits_since_ns = now_ns;
        self.probe_wait_ns = PROBE_NS_MIN;
        self.probe_due = self.durable_to > self.receipts_to;
    }

    /// Messages that are not completed.
    #[must_use]
    pub fn outstanding(&self) -> u64 {
        self.next.saturating_sub(self.first)
    }

    /// All numbers up to this one were said to be durable.
    #[must_use]
    pub fn durable_to(&self) -> u64 {
        self.durable_to
    }

    /// The number the next message gets.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.next
    }

    /// Since when nothing that waits became durable, where something waits and the server has not said why.
    #[must_use]
    pub fn stalled_since_ns(&self) -> Option<u64> {
        let waits = self.next > self.durable_to.saturating_add(1);
        (waits && self.state == PublishState::Open).then_some(self.waits_since_ns)
    }

    /// The longest payload that is not durable yet.
    #[must_use]
    pub fn longest_payload(&self) -> usize {
        let waiting = self.first.max(self.durable_to.saturating_add(1))..self.next;
        waiting.map(|seq| self.slot(seq).len as usize).max().unwrap_or(0)
    }

    /// What the server last said of publishing.
    #[must_use]
    pub fn state(&self) -> PublishState {
        self.state
    }

    /// Takes a message; returns its number.
    ///
    /// # Errors
    /// Why there is no room for it now; nothing was changed.
    #[inline]
    pub fn offer(&mut self, stream: StreamId, payload: &[u8], now_ns: u64) -> Result<u64, Blocked> {
        let seq = self.next;
        if seq > self.max_seq {
            // The credit of a healthy server moves with every ACK.
            return Err(match self.state {
                PublishState::Open => Blocked::Window,
                state @ (PublishState::NoSpace
                | PublishState::Failed
                | PublishState::Damaged
                | PublishState::Draining) => Blocked::Server(state),
            });
        }
        if self.outstanding() == self.slots.len() as u64 {
            return Err(Blocked::Window);
        }
        let start = self.room_for(payload.len()).ok_or(Blocked::Window)?;
        let stored = start.saturating_add(payload.len() as u64);
        if self.durable_to.saturating_add(1) >= seq {
            self.waits_since_ns = now_ns;
        }
        let at = self.position(start);
        self.bytes[at..][..payload.len()].copy_from_slice(payload);
        let signed = Signed {
            producer_id: self.producer_id,
            producer_seq: seq,
            stream,
            flags: 0,
            ext_len: 0,
        };
        let crc32c = signed.crc32c(payload);
        let len = u32::try_from(payload.len()).expect("at most a datagram");
        *self.slot_mut(seq) =
            Slot { start, len, crc32c, stream: stream.0, offered_ns: now_ns, sent_ns: 0 };
        self.stored = stored;
        self.next = seq.saturating_add(1);
        Ok(seq)
    }

    /// Where a payload of this length can be stored in one piece, if it can now.
    #[inline]
    fn room_for(&mut self, len: usize) -> Option<u64> {
        let capacity = self.bytes.len();
        if self.first == self.next {
            // Nothing is stored: where the last one ended is no reason to find no room.
            (self.stored, self.released) = (0, 0);
        }
        let left = capacity.saturating_sub(self.position(self.stored));
        // Payloads stay in one piece: skip to the start of the store where this one does not fit behind.
        let skipped = if len > left { left as u64 } else { 0 };
        let start = self.stored.saturating_add(skipped);
        let used = start.saturating_add(len as u64).saturating_sub(self.released);
        (used <= capacity as u64).then_some(start)
    }

    /// The longest payload there is room for once nothing else waits.
    #[must_use]
    pub fn payload_bytes_max(&self) -> usize {
        self.bytes.len()
    }

    /// Whether something waits to be sent and may be.
    #[must_use]
    #[inline]
    pub fn has_unsent(&self) -> bool {
        self.unsent < self.next.min(self.max_seq.saturating_add(1)) || !self.resend.is_empty()
    }

    /// Writes what is to be sent, first what was lost; `false` when there was nothing.
    pub fn pack(&mut self, writer: &mut DatagramWriter<'_>, now_ns: u64) -> bool {
        let mut wrote = false;
        while let Some((first, last)) = self.resend.pop_front() {
            let first = first.max(self.received_to.saturating_add(1));
            let end = last.saturating_add(1).min(self.unsent);
            let reached = self.pack_range(writer, first, end, now_ns, true);
            wrote |= reached > first;
            if reached < end {
                self.resend.push_front((reached, last));
                return wrote;
            }
        }
        let end = self.next.min(self.max_seq.saturating_add(1));
        if self.unsent < end {
            let first = self.unsent;
            self.unsent = self.pack_range(writer, first, end, now_ns, false);
            if self.unsent > first {
                self.moved_ns = now_ns;
                wrote = true;
            }
        }
        wrote
    }

    /// Writes PUBLISH frames for numbers from `first` up to `end`; returns the first that did not fit.
    fn pack_range(
        &mut self,
        writer: &mut DatagramWriter<'_>,
        first: u64,
        end: u64,
        now_ns: u64,
        again: bool,
    ) -> u64 {
        let mut seq = first;
        while seq < end {
            let stream = self.slot(seq).stream;
            let need = MESSAGE_BYTES_MIN.saturating_add(self.slot(seq).len as usize);
            if writer.room() < need || !self.has_bytes(seq, again) {
                return seq;
            }
            let head = PublishHead {
                stream: stream.into(),
                count: 0.into(),
                reserved: 0.into(),
                first_seq: seq.into(),
            };
            writer.begin(Kind::Publish);
            writer.extend(head.as_bytes());
            let mut count = 0u16;
            while seq < end && count < u16::MAX {
                let slot = *self.slot(seq);
                let need = MESSAGE_HEAD_BYTES.saturating_add(slot.len as usize);
                let fits = need <= writer.room_in_frame();
                if slot.stream != stream || !fits || !self.has_bytes(seq, again) {
                    break;
                }
                self.pack_message(writer, &slot);
                if !again {
                    self.session_bytes = self.session_bytes.saturating_add(u64::from(slot.len));
                }
                self.slot_mut(seq).sent_ns = now_ns;
                seq = seq.saturating_add(1);
                count = count.saturating_add(1);
            }
            writer.patch(4, &count.to_le_bytes());
            writer.end();
        }
        seq
    }

    /// Whether the server's limit in bytes lets a message go that was not sent in this session before.
    #[inline]
    fn has_bytes(&self, seq: u64, again: bool) -> bool {
        let len = u64::from(self.slot(seq).len);
        again || self.session_bytes.saturating_add(len) <= self.max_bytes
    }

    #[inline]
    fn pack_message(&self, writer: &mut DatagramWriter<'_>, slot: &Slot) {
        let head = MessageHead {
            len: u16::try_from(slot.len).expect("at most a datagram").into(),
            ext_len: 0.into(),
            flags: 0.into(),
            reserved: 0.into(),
            crc32c: slot.crc32c.into(),
        };
        let at = self.position(slot.start);
        writer.extend(head.as_bytes());
        writer.extend(&self.bytes[at..][..slot.len as usize]);
    }

    /// Takes an ACK in.
    pub fn on_ack(&mut self, ack: &Ack<'_>, now_ns: u64) {
        let head = ack.head;
        let (received_to, durable_to) = (head.received_to.get(), head.durable_to.get());
        if received_to >= self.next || durable_to > received_to {
            return;
        }
        self.state = PublishState::from_code(head.state);
        self.max_seq = self.max_seq.max(head.max_seq_allowed.get());
        self.max_bytes = self.max_bytes.max(head.max_bytes_allowed.get());
        if received_to > self.received_to || durable_to > self.durable_to {
            self.moved_ns = now_ns;
            self.probe_wait_ns = self.srtt_ns.saturating_mul(4).clamp(PROBE_NS_MIN, PROBE_NS_MAX);
        }
        self.received_to = self.received_to.max(received_to);
        self.unsent = self.unsent.max(self.received_to.saturating_add(1));
        if durable_to > self.durable_to && durable_to >= self.first {
            let sample = now_ns.saturating_sub(self.slot(durable_to).sent_ns);
            self.srtt_ns = self.srtt_ns.saturating_mul(7).saturating_add(sample) / 8;
        }
        if durable_to > self.durable_to || self.state != PublishState::Open {
            self.waits_since_ns = now_ns;
        }
        self.durable_to = self.durable_to.max(durable_to);
        self.take_receipts(ack);
        self.probe_due = self.durable_to > self.receipts_to;
    }

    fn take_receipts(&mut self, ack: &Ack<'_>) {
        let held_from = ack.head.receipts_from.get();
        let lost_to = held_from.saturating_sub(1).min(self.durable_to);
        if lost_to > self.receipts_to {
            // The server no longer has these: durable, their sequences unsaid.
            self.push_receipt(ReceiptRun {
                first_seq: self.receipts_to.saturating_add(1).into(),
                count: u32::try_from(lost_to.saturating_sub(self.receipts_to))
                    .unwrap_or(u32::MAX)
                    .into(),
                ..ReceiptRun::default()
            });
        }
        for run in ack.receipts {
            let (first, count) = (run.first_seq.get(), u64::from(run.count.get()));
            let wanted = self.receipts_to.saturating_add(1);
            let known = wanted.saturating_sub(first);
            if first > wanted || known >= count || first.saturating_add(count) > self.next {
                continue;
            }
            let mut run = *run;
            run.first_seq = first.saturating_add(known).into();
            run.first_sequence = run.first_sequence.get().saturating_add(known).into();
            let left = count.saturating_sub(known);
            run.count = u32::try_from(left).expect("less than before").into();
            self.push_receipt(run);
        }
    }

    fn push_receipt(&mut self, run: ReceiptRun) {
        let end = run.first_seq.get().saturating_add(u64::from(run.count.get()));
        self.receipts_to = end.saturating_sub(1);
        self.receipts.push_back(run);
    }

    /// Takes a NAK in: these numbers are sent again.
    pub fn on_nak(&mut self, nak: &Nak<'_>, now_ns: u64) {
        self.resend.clear();
        let recent_ns = (self.srtt_ns / 2).clamp(RESEND_NS_MIN, PROBE_NS_MIN);
        for range in nak.ranges {
            let first = range.first.get().max(self.received_to.saturating_add(1)).max(self.first);
            let last = range.last.get().min(self.unsent.saturating_sub(1));
            if first > last {
                continue;
            }
            if now_ns.saturating_sub(self.slot(first).sent_ns) < recent_ns {
                Timer::ResendHeldBack.fired();
                continue;
            }
            self.resend.push_back((first, last));
        }
    }

    /// Whether the server is to be asked where we are; if so, counts it as asked.
    pub fn probe(&mut self, now_ns: u64) -> Option<Probe> {
        let waiting =
            self.unsent > self.durable_to.saturating_add(1) || self.durable_to > self.receipts_to;
        let blocked = self.next > self.unsent || self.state != PublishState::Open;
        let quiet_ns = now_ns.saturating_sub(self.moved_ns.max(self.probed_ns));
        let tail = (waiting || blocked) && quiet_ns >= self.probe_wait_ns;
        let gap = self.probe_due
            && now_ns.saturating_sub(self.probed_ns) >= self.srtt_ns.clamp(200_000, PROBE_NS_MAX);
        if !tail && !gap {
            return None;
        }
        if tail {
            Timer::ProbeTail.fired();
            self.probe_wait_ns = self.probe_wait_ns.saturating_mul(2).min(PROBE_NS_MAX);
        } else {
            Timer::ProbeReceipts.fired();
        }
        self.probe_due = false;
        self.probed_ns = now_ns;
        Some(Probe { next_seq: self.unsent.into(), receipts_to: self.receipts_to.into() })
    }

    /// The next message that is durable and has its receipt, in order.
    #[inline]
    pub fn next_sent(&mut self) -> Option<Sent> {
        let seq = self.first;
        if seq > self.durable_to.min(self.receipts_to) || seq == self.next {
            return None;
        }
        let run = self.receipts.front().expect("receipts reach up to receipts_to");
        let offset = seq.saturating_sub(run.first_seq.get());
        let slot = *self.slot(seq);
        let sent = Sent {
            producer_seq: seq,
            stream: StreamId(slot.stream),
            sequence: (run.first_sequence.get() > 0)
                .then(|| run.first_sequence.get().saturating_add(offset)),
            server_ns: run.server_ns.get(),
            device_ns: run.device_ns.get(),
            offered_ns: slot.offered_ns,
            sent_ns: slot.sent_ns,
        };
        if offset.saturating_add(1) >= u64::from(run.count.get()) {
            self.receipts.pop_front();
        }
        self.released = slot.start.saturating_add(u64::from(slot.len));
        self.first = seq.saturating_add(1);
        Some(sent)
    }

    #[inline]
    fn position(&self, offset: u64) -> usize {
        let at = offset.checked_rem(self.bytes.len() as u64).unwrap_or(0);
        usize::try_from(at).expect("below the store's size")
    }

    #[inline]
    fn slot(&self, seq: u64) -> &Slot {
        &self.slots[index(seq, self.slots.len())]
    }

    #[inline]
    fn slot_mut(&mut self, seq: u64) -> &mut Slot {
        let count = self.slots.len();
        &mut self.slots[index(seq, count)]
    }
}

#[inline]
fn index(seq: u64, count: usize) -> usize {
    usize::try_from(seq & (count as u64).saturating_sub(1)).expect("below the number of slots")
}
