//! The range of every number on the wire, checked once when its frame is parsed.
//!
//! What is not here may be anything: it is compared or given back, and never counted with (lineages, identities,
//! requests, ids that are looked up, details of errors).

use super::Malformed;
use super::control::{
    CLOSE_FORGET, Close, CreateStreamHead, DataLoss, DescribeStreamHead, HEARTBEAT_ANSWER,
    Heartbeat, ListEnd, ListStreams, Redirect, RegisterHead, Registered, STATUS_REWIND, Status,
    StreamInfoHead, Subscribe, Subscribed, TrimStream, Trimmed, Unsubscribe,
};
use super::publish::{AckHead, DataHead, Probe, PublishHead, ReceiptRun, SeqRange};
use crate::limits::{DATAGRAM_BYTES_MAX, DATAGRAM_BYTES_MIN, NUMBER_MAX, SHARDS_MAX};

/// What has numbers with a range.
pub(super) trait Ranged {
    /// Whether all of them are in it.
    fn in_range(&self) -> bool;
}

/// `frame`, where its numbers are in their ranges.
pub(super) fn ranged<T: Ranged>(frame: &T) -> Result<&T, Malformed> {
    if frame.in_range() { Ok(frame) } else { Err(Malformed::Range) }
}

/// A producer number, a sequence, a limit or a time.
fn number(number: u64) -> bool {
    number <= NUMBER_MAX
}

/// `count` numbers from `first` on, which is not 0.
fn run(first: u64, count: u64) -> bool {
    first > 0 && first.checked_add(count).is_some_and(number)
}

/// What is kept of a stream: from the oldest to the one after the newest durable.
fn kept(log_start: u64, durable_next: u64) -> bool {
    0 < log_start && log_start <= durable_next && number(durable_next)
}

fn datagram(bytes: u16) -> bool {
    (DATAGRAM_BYTES_MIN..=DATAGRAM_BYTES_MAX).contains(&usize::from(bytes))
}

impl Ranged for RegisterHead {
    fn in_range(&self) -> bool {
        self.request.get() > 0
            && datagram(self.datagram_bytes.get())
            && number(self.producer_id.get())
            && number(self.witness_sequence.get())
            && number(self.durable_to.get())
            && number(self.epoch.get())
    }
}

impl Ranged for Registered {
    fn in_range(&self) -> bool {
        let (accepted_to, durable_to) = (self.accepted_to.get(), self.durable_to.get());
        self.request.get() > 0
            && datagram(self.datagram_bytes.get())
            && self.epoch.get() > 0
            && number(self.epoch.get())
            && self.lineage.get() > 0
            && number(self.producer_id.get())
            && (1..=DATAGRAM_BYTES_MAX as u64).contains(&u64::from(self.message_bytes_max.get()))
            && durable_to <= accepted_to
            && number(accepted_to)
            && number(self.max_seq_allowed.get())
            && number(self.max_bytes_allowed.get())
            && number(self.last_sequence.get())
            && self.reserved == 0
            && self.padding.get() == 0
    }
}

impl Ranged for Close {
    fn in_range(&self) -> bool {
        self.flags.get() & !CLOSE_FORGET == 0 && self.reserved.get() == 0
    }
}

impl Ranged for PublishHead {
    fn in_range(&self) -> bool {
        self.reserved.get() == 0 && run(self.first_seq.get(), u64::from(self.count.get()))
    }
}

impl Ranged for AckHead {
    fn in_range(&self) -> bool {
        let durable_to = self.durable_to.get();
        durable_to <= self.replicated_to.get()
            && self.replicated_to <= self.received_to
            && number(self.received_to.get())
            && number(self.max_seq_allowed.get())
            && number(self.max_bytes_allowed.get())
            && number(self.receipts_from.get())
    }
}

impl Ranged for ReceiptRun {
    fn in_range(&self) -> bool {
        let count = u64::from(self.count.get());
        count > 0
            && run(self.first_seq.get(), count)
            && run(self.first_sequence.get().max(1), count)
            && number(self.received_ns.get())
    }
}

impl Ranged for SeqRange {
    fn in_range(&self) -> bool {
        0 < self.first.get() && self.first <= self.last && number(self.last.get())
    }
}

impl Ranged for Probe {
    fn in_range(&self) -> bool {
        self.next_seq.get() > 0 && number(self.next_seq.get()) && number(self.receipts_to.get())
    }
}

impl Ranged for DataHead {
    fn in_range(&self) -> bool {
        self.sub.get() > 0
            && self.reserved.get() == 0
            && self.lineage.get() > 0
            && run(self.first_sequence.get(), u64::from(self.count.get()))
    }
}

impl Ranged for Subscribe {
    fn in_range(&self) -> bool {
        self.request.get() > 0 && self.reserved == [0; 3] && number(self.from_value.get())
    }
}

impl Ranged for Subscribed {
    fn in_range(&self) -> bool {
        self.request.get() > 0
            && number(self.start.get())
            && kept(self.log_start.get(), self.durable_next.get())
    }
}

impl Ranged for Status {
    fn in_range(&self) -> bool {
        self.sub.get() > 0
            && self.flags.get() & !STATUS_REWIND == 0
            && number(self.position.get())
            && number(self.limit.get())
    }
}

impl Ranged for Heartbeat {
    fn in_range(&self) -> bool {
        self.flags.get() & !HEARTBEAT_ANSWER == 0 && number(self.durable_next.get())
    }
}

impl Ranged for Trimmed {
    fn in_range(&self) -> bool {
        self.sub.get() > 0 && self.reserved.get() == 0 && number(self.log_start.get())
    }
}

impl Ranged for DataLoss {
    fn in_range(&self) -> bool {
        self.sub.get() > 0
            && self.reserved.get() == 0
            && self.first.get() > 0
            && self.first <= self.last
            && number(self.last.get())
    }
}

impl Ranged for TrimStream {
    fn in_range(&self) -> bool {
        self.request.get() > 0 && number(self.first.get())
    }
}

impl Ranged for StreamInfoHead {
    fn in_range(&self) -> bool {
        self.request.get() > 0
            && kept(self.log_start.get(), self.durable_next.get())
            && number(self.created_ns.get())
            && number(self.bytes.get())
            && self.shard.get() < SHARDS_MAX
            && self.reserved.get() == 0
    }
}

impl Ranged for DescribeStreamHead {
    fn in_range(&self) -> bool {
        self.request.get() > 0 && self.stream.get() == 0
    }
}

impl Ranged for Unsubscribe {
    fn in_range(&self) -> bool {
        self.sub.get() > 0
    }
}

impl Ranged for Redirect {
    fn in_range(&self) -> bool {
        self.request.get() > 0 && self.shard.get() < SHARDS_MAX
    }
}

impl Ranged for CreateStreamHead {
    fn in_range(&self) -> bool {
        self.request.get() > 0
    }
}

impl Ranged for ListStreams {
    fn in_range(&self) -> bool {
        self.request.get() > 0
    }
}

impl Ranged for ListEnd {
    fn in_range(&self) -> bool {
        self.request.get() > 0
    }
}
