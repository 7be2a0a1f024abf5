//! Delivery to consumers: the durable records of a stream, in sequence, from the newest part of the log
//! in memory or, further back, from the disk. Live and replay are the same walk over the same batches,
//! so there is no seam between them to lose a message in.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use zerocopy::IntoBytes;

use crate::ids::StreamId;
use crate::limits::{SESSIONS_MAX, SUBSCRIPTIONS_MAX};
use crate::wire::DatagramWriter;
use crate::wire::frame::Kind;
use crate::wire::publish::{DATA_HEAD_BYTES, DataHead};
use crate::wire::record::Record;

/// Subscriptions of one shard, at most.
pub const SUBSCRIPTIONS_A_SHARD: usize = SESSIONS_MAX * 4;
const _: () = assert!(SUBSCRIPTIONS_MAX <= SUBSCRIPTIONS_A_SHARD);

/// Where a subscription gets its batches from when they are no longer in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replay {
    /// Memory holds what is wanted next, or nothing is wanted.
    #[default]
    Idle,
    /// A read is on its way into this buffer.
    Reading {
        /// Replay buffer.
        buffer: usize,
        /// Log offset of its first byte; the cursor may be elsewhere by the time it is read.
        log_off: u64,
    },
    /// This buffer holds the log from one offset to another.
    Ready {
        /// Replay buffer.
        buffer: usize,
        /// Log offset of its first byte.
        log_off: u64,
        /// Bytes of whole blocks read.
        bytes: usize,
    },
}

/// After so many bad reads in a row of one place the media are damaged there.
const BAD_READS_MAX: u32 = 4;

/// One subscription.
#[derive(Clone, Copy, Debug)]
pub struct Subscription {
    /// The session it belongs to.
    pub session: usize,
    /// Stream.
    pub stream: StreamId,
    /// The request that made it.
    pub request: u32,
    /// The first sequence it delivers.
    pub start: u64,
    /// The next sequence to send.
    pub next: u64,
    /// Everything below this one has arrived, as the consumer said last.
    pub told: u64,
    /// Sequences below this one may be sent.
    pub limit: u64,
    /// Messages it may be sent before it says more.
    pub window: u64,
    /// Not delivering yet: looking for the first message received at or after this Unix time.
    pub seek_ns: Option<u64>,
    /// Log offset of the batch to look at next.
    pub cursor: u64,
    /// Bytes of that batch's body that were looked at already.
    pub at: usize,
    /// The disk side.
    pub replay: Replay,
    /// Reads in a row that failed or brought what was not written.
    pub bad_reads: u32,
    /// When something was last sent.
    pub sent_ns: u64,
    /// How long to wait before the next heartbeat; 0 before the first.
    pub beat_ns: u64,
    /// Nothing more is sent, and why; told again until the consumer ends it.
    pub stopped: Option<Stop>,
}

/// What a subscription cannot get past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// These sequences are damaged on the media.
    Damaged {
        /// First.
        first: u64,
        /// Last, as far as is known.
        last: u64,
    },
    /// The next message does not fit a datagram of this consumer.
    TooLarge {
        /// UDP payload of a datagram that holds it.
        needs: usize,
        /// What this consumer gets.
        takes: usize,
    },
}

impl Subscription {
    /// One that is to be sent so many messages from `next` on before it says more.
    #[must_use]
    pub fn new(session: usize, (stream, request): (StreamId, u32), next: u64, window: u64) -> Self {
        Self {
            session,
            stream,
            request,
            start: next,
            next,
            told: next,
            limit: next.saturating_add(window),
            window,
            seek_ns: None,
            cursor: 0,
            at: 0,
            replay: Replay::Idle,
            bad_reads: 0,
            sent_ns: 0,
            beat_ns: 0,
            stopped: None,
        }
    }

    /// Counts a read that failed or brought what was not written; `true` when another try is due.
    pub fn reads_again(&mut self) -> bool {
        self.bad_reads = self.bad_reads.saturating_add(1);
        self.bad_reads < BAD_READS_MAX
    }

    /// Whether it still looks for its start.
    #[must_use]
    pub fn is_seeking(&self) -> bool {
        self.seek_ns.is_some()
    }

    /// Looks in `body`, the body of the batch at the cursor, for the first record of the time sought;
    /// `true` once it is found.
    pub fn seek_in(&mut self, body: &[u8]) -> bool {
        let Some(seek_ns) = self.seek_ns else { return true };
        let mut rest = body;
        while let Some((record, after)) = Record::split_first(rest) {
            let sequence = record.header.sequence.get();
            if record.header.stream.get() == self.stream.0 && sequence >= self.next {
                if record.header.received_ns.get() >= seek_ns {
                    self.found(sequence);
                    return true;
                }
                self.next = sequence.saturating_add(1);
            }
            rest = after;
        }
        false
    }

    /// Ends the search: delivery starts at `sequence`.
    pub fn found(&mut self, sequence: u64) {
        self.seek_ns = None;
        self.start = sequence;
        self.next = sequence;
        self.limit = sequence.saturating_add(self.window);
    }
}

/// How a walk over one batch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packed {
    /// The batch holds nothing more for this subscription.
    BatchEnd,
    /// The datagram is full: this record has no room.
    Full {
        /// Its bytes.
        record_bytes: usize,
    },
    /// The consumer has no more credit.
    NoCredit,
    /// The record that should come is not there: the log is damaged.
    Gap,
}

/// The open DATA frame of a datagram, filled from one batch after the other.
#[derive(Debug)]
pub struct DataFrame {
    first: u64,
    count: u16,
}

impl DataFrame {
    /// Starts a frame at `subscription`'s next sequence; the caller has seen that the head fits.
    pub fn begin(subscription: &Subscription, writer: &mut DatagramWriter<'_>) -> Self {
        let head = DataHead {
            stream: subscription.stream.0.into(),
            count: 0.into(),
            reserved: 0.into(),
            first_sequence: subscription.next.into(),
        };
        writer.begin(Kind::Data);
        writer.extend(head.as_bytes());
        Self { first: subscription.next, count: 0 }
    }

    /// Adds what `body`, the body of the batch at the cursor, has for the subscription.
    pub fn pack(
        &mut self,
        subscription: &mut Subscription,
        body: &[u8],
        writer: &mut DatagramWriter<'_>,
    ) -> Packed {
        let mut rest = body.get(subscription.at..).unwrap_or_default();
        while let Some((record, after)) = Record::split_first(rest) {
            let sequence = record.header.sequence.get();
            if record.header.stream.get() == subscription.stream.0 && sequence >= subscription.next
            {
                if sequence > subscription.next {
                    return Packed::Gap;
                }
                if sequence >= subscription.limit {
                    return Packed::NoCredit;
                }
                let record_bytes = rest.len().saturating_sub(after.len());
                if record_bytes > writer.room_in_frame() || self.count == u16::MAX {
                    return Packed::Full { record_bytes };
                }
                writer.extend(&rest[..record_bytes]);
                self.count = self.count.saturating_add(1);
                subscription.next = sequence.saturating_add(1);
            }
            let passed = rest.len().saturating_sub(after.len());
            subscription.at = subscription.at.saturating_add(passed);
            rest = after;
        }
        Packed::BatchEnd
    }

    /// Ends the frame; how many records it holds.
    pub fn end(self, writer: &mut DatagramWriter<'_>) -> u16 {
        let head = DataHead {
            stream: 0.into(),
            count: self.count.into(),
            reserved: 0.into(),
            first_sequence: self.first.into(),
        };
        // Only the count, at bytes 4..6, was not known at the start.
        writer.patch(4, &head.as_bytes()[4..6]);
        writer.end();
        self.count
    }
}

/// Bytes a DATA frame needs before its first record.
pub const DATA_FRAME_BYTES_MIN: usize = crate::wire::FRAME_HEAD_BYTES + DATA_HEAD_BYTES;

/// The subscriptions of a shard and the replay buffers they share.
#[derive(Debug)]
pub struct Fanout {
    subscriptions: Vec<Subscription>,
    free_buffers: Vec<usize>,
    /// Where the next turn starts, so that everybody is served.
    turn: usize,
}

impl Fanout {
    /// No subscriptions, and so many replay buffers; allocates what it will ever need.
    #[must_use]
    pub fn new(replay_buffers: usize) -> Self {
        Self {
            subscriptions: Vec::with_capacity(SUBSCRIPTIONS_A_SHARD),
            free_buffers: (0..replay_buffers).collect(),
            turn: 0,
        }
    }

    /// How many subscriptions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.subscriptions.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.subscriptions.is_empty()
    }

    /// The subscription at `index`.
    #[must_use]
    pub fn get(&self, index: usize) -> &Subscription {
        &self.subscriptions[index]
    }

    /// The same, to change.
    #[must_use]
    pub fn get_mut(&mut self, index: usize) -> &mut Subscription {
        &mut self.subscriptions[index]
    }

    /// The subscription of a session to a stream.
    #[must_use]
    pub fn find(&self, session: usize, stream: StreamId) -> Option<usize> {
        self.subscriptions.iter().position(|sub| sub.session == session && sub.stream == stream)
    }

    /// Adds one; `false` when the table is full.
    pub fn add(&mut self, subscription: Subscription) -> bool {
        let room = self.subscriptions.len() < SUBSCRIPTIONS_A_SHARD;
        if room {
            self.subscriptions.push(subscription);
        }
        room
    }

    /// Removes one. Its buffer is freed now or, when a read is on its way, at the read's completion.
    pub fn remove(&mut self, index: usize) {
        let removed = self.subscriptions.swap_remove(index);
        if let Replay::Ready { buffer, .. } = removed.replay {
            self.free_buffers.push(buffer);
        }
    }

    /// Where to start looking in this turn; moves on by one.
    pub fn next_turn(&mut self) -> usize {
        let next = self.turn.saturating_add(1);
        self.turn = if next < self.subscriptions.len() { next } else { 0 };
        self.turn
    }

    /// Takes a replay buffer.
    pub fn take_buffer(&mut self) -> Option<usize> {
        self.free_buffers.pop()
    }

    /// Gives a replay buffer back.
    pub fn free_buffer(&mut self, buffer: usize) {
        debug_assert!(!self.free_buffers.contains(&buffer), "buffer {buffer} was free");
        self.free_buffers.push(buffer);
    }

    /// The subscription that waits for a read into `buffer`, if it is still there.
    #[must_use]
    pub fn waiting_for(&self, buffer: usize) -> Option<usize> {
        let waits = |replay| matches!(replay, Replay::Reading { buffer: own, .. } if own == buffer);
        self.subscriptions.iter().position(|subscription| waits(subscription.replay))
    }
}
