//! The sending half of a publisher's session: messages wait here until they are durable.
//!
//! Nothing is forgotten before the server says that it is on media, so that whatever is lost on the way,
//! and whatever a restart of the server has not seen, is sent again under the same number.

mod probing;
mod receipts;
mod store;

use std::collections::VecDeque;

use zerocopy::IntoBytes;

use probing::Probing;
use receipts::{Given, Receipts};
use store::{Slot, Store};

use crate::fired::Timer;
use crate::ids::{ProducerId, StreamId};
use crate::wire::DatagramWriter;
use crate::wire::frame::Kind;
use crate::wire::publish::{
    Ack, MESSAGE_HEAD_BYTES, MessageHead, Nak, PUBLISH_HEAD_BYTES, Probe, PublishHead, PublishState,
};
use crate::wire::record::Signed;

/// What a PUBLISH frame has before the payload of its first message.
const MESSAGE_BYTES_MIN: usize = PUBLISH_HEAD_BYTES + MESSAGE_HEAD_BYTES;

/// A message that is durable, and what the server said of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
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
pub(crate) enum Blocked {
    /// As many messages or bytes as fit wait for their acknowledgement.
    Window,
    /// The server gives no credit.
    Server(PublishState),
}

/// What the server lets a session send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Credit {
    /// Numbers up to this one.
    pub seq_max: u64,
    /// Payload bytes of the session, at most.
    pub bytes_max: u64,
}

/// Messages that are sent again, by number.
#[derive(Clone, Copy, Debug)]
struct Lost {
    first: u64,
    last: u64,
}

/// The sending half.
#[derive(Debug)]
pub(crate) struct Sender {
    producer_id: ProducerId,
    store: Store,
    /// The next number to send.
    unsent: u64,
    received_to: u64,
    durable_to: u64,
    receipts: Receipts,
    credit: Credit,
    /// Payload bytes sent for the first time in this session.
    session_bytes: u64,
    state: PublishState,
    /// Ranges to be sent again.
    resend: VecDeque<Lost>,
    probing: Probing,
    /// When it began to wait for what is not durable, or something last became durable.
    waits_since_ns: u64,
}

impl Sender {
    /// Room for `messages` (a power of two) and `bytes` of payload.
    ///
    /// # Panics
    /// When `messages` is not a power of two.
    #[must_use]
    pub(crate) fn new(messages: usize, bytes: usize) -> Self {
        Self {
            producer_id: ProducerId(0),
            store: Store::new(messages, bytes),
            unsent: 1,
            received_to: 0,
            durable_to: 0,
            receipts: Receipts::new(messages),
            credit: Credit { seq_max: 0, bytes_max: 0 },
            session_bytes: 0,
            state: PublishState::Open,
            resend: VecDeque::with_capacity(64),
            probing: Probing::new(),
            waits_since_ns: 0,
        }
    }

    /// A session began (again): everything up to `accepted_to` was received, and up to `durable_to` it is durable; the
    /// rest is sent again.
    pub(crate) fn begin(
        &mut self,
        producer_id: ProducerId,
        accepted_to: u64,
        durable_to: u64,
        credit: Credit,
        state: PublishState,
        now_ns: u64,
    ) {
        self.producer_id = producer_id;
        if self.store.next() == 1 && accepted_to > 0 {
            // Another life of this producer published these.
            self.store.go_on_at(accepted_to.saturating_add(1));
            self.receipts.go_on_after(accepted_to);
            self.durable_to = accepted_to;
        }
        self.durable_to = self.durable_to.max(durable_to);
        self.received_to = accepted_to;
        self.unsent = accepted_to.saturating_add(1);
        self.session_bytes = 0;
        self.credit = credit;
        self.resend.clear();
        self.state = state;
        self.waits_since_ns = now_ns;
        self.probing.begin(now_ns);
        self.probing.set_lacks_receipts(self.durable_to > self.receipts.to());
    }

    /// Messages that are not completed.
    #[must_use]
    pub(crate) fn outstanding(&self) -> u64 {
        self.store.count()
    }

    /// All numbers up to this one were said to be durable.
    #[must_use]
    pub(crate) fn durable_to(&self) -> u64 {
        self.durable_to
    }

    /// The number the next message gets.
    #[must_use]
    pub(crate) fn next_seq(&self) -> u64 {
        self.store.next()
    }

    /// Since when nothing that waits became durable, where something waits and the server has not said why.
    #[must_use]
    pub(crate) fn stalled_since_ns(&self) -> Option<u64> {
        let waits = self.store.next() > self.durable_to.saturating_add(1);
        (waits && self.state == PublishState::Open).then_some(self.waits_since_ns)
    }

    /// The longest payload that is not durable yet.
    #[must_use]
    pub(crate) fn longest_payload(&self) -> usize {
        let first = self.store.first().max(self.durable_to.saturating_add(1));
        let waiting = first..self.store.next();
        waiting.map(|seq| self.store.slot(seq).len as usize).max().unwrap_or(0)
    }

    /// What the server last said of publishing.
    #[must_use]
    pub(crate) fn state(&self) -> PublishState {
        self.state
    }

    /// Takes a message; returns its number.
    ///
    /// # Errors
    /// Why there is no room for it now; nothing was changed.
    #[inline]
    pub(crate) fn offer(
        &mut self,
        stream: StreamId,
        payload: &[u8],
        now_ns: u64,
    ) -> Result<u64, Blocked> {
        let seq = self.store.next();
        if seq > self.credit.seq_max {
            // The credit of a healthy server moves with every ACK.
            return Err(match self.state {
                PublishState::Open => Blocked::Window,
                state @ (PublishState::NoSpace
                | PublishState::Failed
                | PublishState::Damaged
                | PublishState::Draining) => Blocked::Server(state),
            });
        }
        let (producer_id, producer_seq) = (self.producer_id, seq);
        let signed = Signed { producer_id, producer_seq, stream, flags: 0, ext_len: 0 };
        let stored = self.store.put(stream, payload, now_ns, || signed.crc32c(payload));
        stored.ok_or(Blocked::Window)?;
        if self.durable_to.saturating_add(1) >= seq {
            self.waits_since_ns = now_ns;
        }
        Ok(seq)
    }

    /// Behind the last number that may be sent.
    #[inline]
    fn end_of_credit(&self) -> u64 {
        self.store.next().min(self.credit.seq_max.saturating_add(1))
    }

    /// The longest payload there is room for once nothing else waits.
    #[must_use]
    pub(crate) fn payload_bytes_max(&self) -> usize {
        self.store.bytes_max()
    }

    /// Whether something waits to be sent and may be.
    #[must_use]
    #[inline]
    pub(crate) fn has_unsent(&self) -> bool {
        self.unsent < self.end_of_credit() || !self.resend.is_empty()
    }

    /// Writes what is to be sent, first what was lost; `false` when there was nothing.
    pub(crate) fn pack(&mut self, writer: &mut DatagramWriter<'_>, now_ns: u64) -> bool {
        let mut wrote = false;
        while let Some(Lost { first, last }) = self.resend.pop_front() {
            let first = first.max(self.received_to.saturating_add(1));
            let end = last.saturating_add(1).min(self.unsent);
            let reached = self.pack_range(writer, first, end, now_ns, true);
            wrote |= reached > first;
            if reached < end {
                self.resend.push_front(Lost { first: reached, last });
                return wrote;
            }
        }
        let end = self.end_of_credit();
        if self.unsent < end {
            let first = self.unsent;
            self.unsent = self.pack_range(writer, first, end, now_ns, false);
            if self.unsent > first {
                self.probing.sent(now_ns);
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
            let stream = self.store.slot(seq).stream;
            let need = MESSAGE_BYTES_MIN.saturating_add(self.store.slot(seq).len as usize);
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
                let slot = *self.store.slot(seq);
                let need = MESSAGE_HEAD_BYTES.saturating_add(slot.len as usize);
                let fits = need <= writer.room_in_frame();
                if slot.stream != stream || !fits || !self.has_bytes(seq, again) {
                    break;
                }
                self.pack_message(writer, &slot);
                if !again {
                    self.session_bytes = self.session_bytes.saturating_add(u64::from(slot.len));
                }
                self.store.slot_mut(seq).sent_ns = now_ns;
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
        let len = u64::from(self.store.slot(seq).len);
        again || self.session_bytes.saturating_add(len) <= self.credit.bytes_max
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
        writer.extend(head.as_bytes());
        writer.extend(self.store.payload(slot));
    }

    /// Takes an ACK in.
    pub(crate) fn on_ack(&mut self, ack: &Ack<'_>, now_ns: u64) {
        let head = ack.head;
        let (received_to, durable_to) = (head.received_to.get(), head.durable_to.get());
        if received_to >= self.store.next() || durable_to > received_to {
            return;
        }
        self.state = PublishState::from_code(head.state);
        self.credit.seq_max = self.credit.seq_max.max(head.max_seq_allowed.get());
        self.credit.bytes_max = self.credit.bytes_max.max(head.max_bytes_allowed.get());
        if received_to > self.received_to || durable_to > self.durable_to {
            self.probing.moved(now_ns);
        }
        self.received_to = self.received_to.max(received_to);
        self.unsent = self.unsent.max(self.received_to.saturating_add(1));
        if durable_to > self.durable_to && durable_to >= self.store.first() {
            let sent_ns = self.store.slot(durable_to).sent_ns;
            self.probing.sample(now_ns.saturating_sub(sent_ns));
        }
        if durable_to > self.durable_to || self.state != PublishState::Open {
            self.waits_since_ns = now_ns;
        }
        self.durable_to = self.durable_to.max(durable_to);
        self.receipts.take(ack, self.durable_to, self.store.next());
        self.probing.set_lacks_receipts(self.durable_to > self.receipts.to());
    }

    /// Takes a NAK in: these numbers are sent again.
    pub(crate) fn on_nak(&mut self, nak: &Nak<'_>, now_ns: u64) {
        self.resend.clear();
        let recent_ns = self.probing.recent_ns();
        for range in nak.ranges {
            let first =
                range.first.get().max(self.received_to.saturating_add(1)).max(self.store.first());
            let last = range.last.get().min(self.unsent.saturating_sub(1));
            if first > last {
                continue;
            }
            if now_ns.saturating_sub(self.store.slot(first).sent_ns) < recent_ns {
                Timer::ResendHeldBack.fired();
                continue;
            }
            self.resend.push_back(Lost { first, last });
        }
    }

    /// Whether the server is to be asked where we are; if so, counts it as asked.
    pub(crate) fn probe(&mut self, now_ns: u64) -> Option<Probe> {
        let waiting =
            self.unsent > self.durable_to.saturating_add(1) || self.durable_to > self.receipts.to();
        let blocked = self.store.next() > self.unsent || self.state != PublishState::Open;
        if !self.probing.is_due(waiting || blocked, now_ns) {
            return None;
        }
        Some(Probe { next_seq: self.unsent.into(), receipts_to: self.receipts.to().into() })
    }

    /// The next message that is durable and has its receipt, in order.
    #[inline]
    pub(crate) fn next_sent(&mut self) -> Option<Sent> {
        let seq = self.store.first();
        if seq > self.durable_to.min(self.receipts.to()) || seq == self.store.next() {
            return None;
        }
        let Given { sequence, server_ns, device_ns } = self.receipts.take_first(seq);
        let slot = *self.store.slot(seq);
        self.store.release_first();
        Some(Sent {
            producer_seq: seq,
            stream: StreamId(slot.stream),
            sequence,
            server_ns,
            device_ns,
            offered_ns: slot.offered_ns,
            sent_ns: slot.sent_ns,
        })
    }
}
