//! Delivery to consumers: the durable records of a stream, in sequence, from the newest part of the log
//! in memory or, further back, from the disk. Live and replay are the same walk over the same batches,
//! so there is no seam between them to lose a message in.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

mod cursor;
mod frame;

pub(crate) use cursor::{Begin, Cursor, Step, Stop};
pub(crate) use frame::{DATA_FRAME_BYTES_MIN, DataFrame, Packed};

use crate::fired::Timer;
use crate::ids::StreamId;
use crate::limits::SUBSCRIPTIONS_A_SHARD;
use crate::position::SessionSlot;

/// The first heartbeat after the last message; each next one waits twice as long.
const BEAT_NS_MIN: u64 = 1_000_000;

/// The longest wait between heartbeats.
const BEAT_NS_MAX: u64 = 256_000_000;

/// One subscription.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subscription {
    session: SessionSlot,
    request: u32,
    /// When something was last sent.
    sent_ns: u64,
    /// How long to wait before the next heartbeat; 0 before the first.
    beat_ns: u64,
    /// Where it stands.
    pub cursor: Cursor,
}

impl Subscription {
    /// One of `session`, made by `request`.
    #[must_use]
    pub(crate) fn new(session: SessionSlot, request: u32, cursor: Cursor, now_ns: u64) -> Self {
        Self { session, request, sent_ns: now_ns, beat_ns: 0, cursor }
    }

    /// The session it belongs to.
    #[must_use]
    pub(crate) fn session(&self) -> SessionSlot {
        self.session
    }

    /// The request that made it.
    #[must_use]
    pub(crate) fn request(&self) -> u32 {
        self.request
    }

    /// Messages were sent.
    pub(crate) fn sent(&mut self, now_ns: u64) {
        (self.sent_ns, self.beat_ns) = (now_ns, 0);
        self.cursor.reads_well();
    }

    /// Whether the consumer, which was sent all it may have, is to be told where the end is.
    #[must_use]
    pub(crate) fn beat_is_due(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.sent_ns) >= self.beat_ns.max(BEAT_NS_MIN)
    }

    /// It was told.
    pub(crate) fn beat(&mut self, now_ns: u64) {
        if self.beat_ns == BEAT_NS_MAX {
            Timer::ConsumerHeartbeatRare.fired();
        }
        self.sent_ns = now_ns;
        self.beat_ns = self.beat_ns.max(BEAT_NS_MIN).saturating_mul(2).min(BEAT_NS_MAX);
    }
}

/// The subscriptions of a shard and the replay buffers they share.
#[derive(Debug)]
pub(crate) struct Fanout {
    subscriptions: Vec<Subscription>,
    free_buffers: Vec<usize>,
    /// Where the next turn starts, so that everybody is served.
    turn: usize,
}

impl Fanout {
    /// No subscriptions, and so many replay buffers; allocates what it will ever need.
    #[must_use]
    pub(crate) fn new(replay_buffers: usize) -> Self {
        Self {
            subscriptions: Vec::with_capacity(SUBSCRIPTIONS_A_SHARD),
            free_buffers: (0..replay_buffers).collect(),
            turn: 0,
        }
    }

    /// How many subscriptions there are.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.subscriptions.len()
    }

    /// The subscription at `index`.
    #[must_use]
    pub(crate) fn get(&self, index: usize) -> &Subscription {
        &self.subscriptions[index]
    }

    /// The same, to change.
    #[must_use]
    pub(crate) fn get_mut(&mut self, index: usize) -> &mut Subscription {
        &mut self.subscriptions[index]
    }

    /// The subscription that a session numbers so.
    #[must_use]
    pub(crate) fn find(&self, session: SessionSlot, request: u32) -> Option<usize> {
        let is_it = |of: &Subscription| of.session == session && of.request == request;
        self.subscriptions.iter().position(is_it)
    }

    /// That of a session to a stream.
    #[must_use]
    pub(crate) fn to_stream(&self, session: SessionSlot, stream: StreamId) -> Option<usize> {
        let is_it = |of: &Subscription| of.session == session && of.cursor.stream() == stream;
        self.subscriptions.iter().position(is_it)
    }

    /// Adds one; `false` when the table is full.
    pub(crate) fn add(&mut self, subscription: Subscription) -> bool {
        let room = self.subscriptions.len() < SUBSCRIPTIONS_A_SHARD;
        if room {
            self.subscriptions.push(subscription);
        }
        room
    }

    /// Removes one. Its buffer is freed now or, when a read is on its way, at the read's completion.
    pub(crate) fn remove(&mut self, index: usize) {
        self.release(index);
        self.subscriptions.swap_remove(index);
    }

    /// Where to start looking in this turn; moves on by one.
    pub(crate) fn next_turn(&mut self) -> usize {
        let next = self.turn.saturating_add(1);
        self.turn = if next < self.subscriptions.len() { next } else { 0 };
        self.turn
    }

    /// Gives the buffer of a subscription that does not need it back.
    pub(crate) fn release(&mut self, index: usize) {
        if let Some(buffer) = self.subscriptions[index].cursor.release() {
            self.give_back(buffer);
        }
    }

    /// Into which buffer the next read goes; none while all are in use.
    #[must_use]
    pub(crate) fn free_buffer(&self) -> Option<usize> {
        self.free_buffers.last().copied()
    }

    /// A read of the log from a subscription's cursor on is on its way into the free buffer.
    ///
    /// # Panics
    /// When there is none.
    pub(crate) fn begin_read(&mut self, index: usize) {
        let buffer = self.free_buffers.pop().expect("a buffer is free");
        self.subscriptions[index].cursor.begin_read(buffer);
    }

    /// The read into `buffer` brought so many bytes, or failed; which subscription waited for it, unless it has ended
    /// meanwhile.
    pub(crate) fn end_read(&mut self, buffer: usize, bytes: Option<usize>) -> Option<usize> {
        let waits = |of: &Subscription| of.cursor.reads_into(buffer);
        let waiting = self.subscriptions.iter().position(waits);
        if let Some(index) = waiting {
            self.subscriptions[index].cursor.end_read(bytes);
        }
        if waiting.is_none() || bytes.is_none() {
            self.give_back(buffer);
        }
        waiting
    }

    fn give_back(&mut self, buffer: usize) {
        debug_assert!(!self.free_buffers.contains(&buffer), "buffer {buffer} was free");
        self.free_buffers.push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::REPLAY_READS_MAX;

    fn subscription(session: usize) -> Subscription {
        let session = SessionSlot::new(session);
        Subscription::new(session, 1, Cursor::new(StreamId(1), Begin::Sequence(1), 8), 0)
    }

    #[test]
    fn a_shard_has_so_many_subscriptions_and_takes_no_more() {
        let mut fanout = Fanout::new(1);
        assert!((0..SUBSCRIPTIONS_A_SHARD).all(|session| fanout.add(subscription(session))));
        assert!(!fanout.add(subscription(0)), "whoever asks is told");
        fanout.remove(7);
        assert!(fanout.add(subscription(0)) && !fanout.add(subscription(0)));
    }

    #[test]
    fn a_read_waits_while_all_buffers_are_in_use() {
        let mut fanout = Fanout::new(REPLAY_READS_MAX);
        let all = (0..=REPLAY_READS_MAX).all(|session| fanout.add(subscription(session)));
        assert!(all);
        let mut buffers = Vec::new();
        for index in 0..REPLAY_READS_MAX {
            buffers.extend(fanout.free_buffer());
            fanout.begin_read(index);
        }
        buffers.sort_unstable();
        assert!(buffers.iter().copied().eq(0..REPLAY_READS_MAX), "each has its own: {buffers:?}");
        assert_eq!(fanout.free_buffer(), None, "the next one waits");
        fanout.remove(3);
        assert_eq!(fanout.free_buffer(), None, "the device writes there still");
        let ended = (0..REPLAY_READS_MAX).filter(|&buffer| fanout.end_read(buffer, None).is_none());
        let ended: Vec<_> = ended.collect();
        assert_eq!(ended, [REPLAY_READS_MAX - 4], "whose subscription is gone");
        assert!(fanout.free_buffer().is_some());
    }
}
