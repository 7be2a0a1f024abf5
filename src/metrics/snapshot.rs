//! What a shard tells housekeeping: a box that goes there full and comes back empty.
//!
//! The shard fills it a few rows a turn and never waits for it: while no empty box is there it goes on
//! recording, and the interval grows.

use std::net::SocketAddrV4;

use rtrb::{Consumer, Producer, RingBuffer};

use super::Counters;
use super::stages::{Stages, StallLog};
use crate::limits::{
    PRODUCERS_MAX, SESSIONS_MAX, STREAM_NAME_BYTES_MAX, STREAMS_MAX, SUBSCRIPTIONS_A_SHARD,
};

/// Boxes between a shard and housekeeping: one at each end, one on its way.
const BOXES: usize = 3;

/// A session, as of a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRow {
    /// Its connection id.
    pub conn_id: u32,
    /// Where it sends from.
    pub peer: SocketAddrV4,
    /// The producer it publishes as; 0 where it does not.
    pub producer_id: u64,
    /// Of that producer: every number up to this one is accepted.
    pub accepted_to: u64,
    /// Of that producer: every number up to this one is durable.
    pub durable_to: u64,
    /// Subscriptions it has.
    pub subscriptions: usize,
    /// How long it said nothing.
    pub silent_ns: u64,
}

/// A subscription, as of a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriptionRow {
    /// Connection id of its session.
    pub conn_id: u32,
    /// Its stream.
    pub stream: u32,
    /// The sequence it is sent next.
    pub next: u64,
    /// Everything below this one has arrived, as the consumer said last.
    pub told: u64,
    /// It met damage or was trimmed: nothing more is sent.
    pub stopped: bool,
}

/// A stream, as of a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamRow {
    /// Its number.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// The oldest sequence that is kept.
    pub first_sequence: u64,
    /// The sequence after the newest durable one.
    pub durable_next: u64,
    /// Payload bytes since creation.
    pub bytes: u64,
}

/// A producer that the log knows, as of a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerRow {
    /// Its number.
    pub id: u64,
    /// Every number up to this one is accepted.
    pub accepted_to: u64,
    /// Unix time of its last message or registration, or of the end of its session.
    pub active_unix_ns: u64,
    /// It said that it will not return.
    pub ended: bool,
}

/// Rows in memory that is kept from one snapshot to the next.
#[derive(Clone, Debug)]
pub struct Rows<T> {
    rows: Vec<T>,
    used: usize,
}

impl<T: Clone> Rows<T> {
    fn new(row: &T, count: usize) -> Self {
        Self { rows: vec![row.clone(); count], used: 0 }
    }

    /// The next row, to be filled; `None` when all are.
    pub fn add(&mut self) -> Option<&mut T> {
        let row = self.rows.get_mut(self.used)?;
        self.used += 1;
        Some(row)
    }

    /// Those filled.
    #[must_use]
    pub fn as_slice(&self) -> &[T] {
        &self.rows[..self.used]
    }
}

/// A log, as of a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// Its epoch.
    pub epoch: u64,
    /// Segments that hold something.
    pub segments_used: usize,
    /// Places for segments that nothing stands in.
    pub segments_free: usize,
    /// Bytes submitted and not durable.
    pub in_flight_bytes: usize,
    /// Bytes that messages may still take.
    pub room_bytes: u64,
}

/// A shard, as of a moment, and what it did since the snapshot before.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Unix time of the beginning of what `stages` hold, in nanoseconds.
    pub begin_unix_ns: u64,
    /// Unix time it was taken.
    pub end_unix_ns: u64,
    /// Latencies of the interval.
    pub stages: Stages,
    /// Turns that took too long, since launch.
    pub stalls: StallLog,
    /// Everything counted since launch.
    pub counters: Counters,
    /// Datagrams received, transmitted, dropped on arrival, dropped on leaving, and frames handed over, since the
    /// port was opened.
    pub port: [u64; 5],
    /// `serving`, `full`, `failed`, `disk lost` or `draining`.
    pub condition: &'static str,
    /// Sessions in the clear are taken.
    pub takes_plain: bool,
    /// The log.
    pub log: LogState,
    /// Sessions.
    pub sessions: Rows<SessionRow>,
    /// Subscriptions.
    pub subscriptions: Rows<SubscriptionRow>,
    /// Streams.
    pub streams: Rows<StreamRow>,
    /// Producers.
    pub producers: Rows<ProducerRow>,
    /// Whether all that these rows say is accepted is durable, too.
    pub producers_durable: bool,
}

impl Snapshot {
    /// An empty one, with all the memory it will ever need.
    #[must_use]
    pub fn new() -> Self {
        let session = SessionRow {
            conn_id: 0,
            peer: SocketAddrV4::new(std::net::Ipv4Addr::UNSPECIFIED, 0),
            producer_id: 0,
            accepted_to: 0,
            durable_to: 0,
            subscriptions: 0,
            silent_ns: 0,
        };
        let subscription =
            SubscriptionRow { conn_id: 0, stream: 0, next: 0, told: 0, stopped: false };
        let stream =
            StreamRow { id: 0, name: String::new(), first_sequence: 0, durable_next: 0, bytes: 0 };
        let producer = ProducerRow { id: 0, accepted_to: 0, active_unix_ns: 0, ended: false };
        let mut streams = Rows::new(&stream, STREAMS_MAX);
        streams.rows.iter_mut().for_each(|row| row.name.reserve_exact(STREAM_NAME_BYTES_MAX));
        Self {
            begin_unix_ns: 0,
            end_unix_ns: 0,
            stages: Stages::default(),
            stalls: StallLog::default(),
            counters: Counters::default(),
            port: [0; 5],
            condition: "serving",
            takes_plain: false,
            log: LogState::default(),
            sessions: Rows::new(&session, SESSIONS_MAX),
            subscriptions: Rows::new(&subscription, SUBSCRIPTIONS_A_SHARD),
            streams,
            producers: Rows::new(&producer, PRODUCERS_MAX),
            producers_durable: false,
        }
    }

    /// Makes it empty; nothing of its memory is given back.
    pub fn clear(&mut self) {
        self.stages.reset();
        self.sessions.used = 0;
        self.subscriptions.used = 0;
        self.streams.used = 0;
        self.producers.used = 0;
    }
}

impl Default for Snapshot {
    fn default() -> Self {
        Self::new()
    }
}

/// The shard's end.
#[derive(Debug)]
pub struct Reporter {
    full: Producer<Box<Snapshot>>,
    empty: Consumer<Box<Snapshot>>,
}

impl Reporter {
    /// An empty box, if one is there.
    pub fn take(&mut self) -> Option<Box<Snapshot>> {
        self.empty.pop().ok()
    }

    /// Sends a full one off.
    ///
    /// # Panics
    /// Never: the ring has room for all boxes there are.
    pub fn send(&mut self, snapshot: Box<Snapshot>) {
        self.full.push(snapshot).expect("room for all boxes");
    }
}

/// Housekeeping's end.
#[derive(Debug)]
pub struct Collector {
    full: Consumer<Box<Snapshot>>,
    empty: Producer<Box<Snapshot>>,
}

impl Collector {
    /// A full box, if one came.
    pub fn take(&mut self) -> Option<Box<Snapshot>> {
        self.full.pop().ok()
    }

    /// Gives one back.
    ///
    /// # Panics
    /// Never: the ring has room for all boxes there are.
    pub fn give_back(&mut self, mut snapshot: Box<Snapshot>) {
        snapshot.clear();
        self.empty.push(snapshot).expect("room for all boxes");
    }
}

/// Both ends, with the boxes at housekeeping's.
#[must_use]
pub fn exchange() -> (Reporter, Collector) {
    let (full_in, full_out) = RingBuffer::new(BOXES);
    let (empty_in, empty_out) = RingBuffer::new(BOXES);
    let mut collector = Collector { full: full_out, empty: empty_in };
    for _ in 0..BOXES {
        collector.give_back(Box::default());
    }
    (Reporter { full: full_in, empty: empty_out }, collector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_go_round_and_run_out() {
        let (mut shard, mut housekeeping) = exchange();
        for round in 1..10 {
            let mut taken: Vec<_> = std::iter::from_fn(|| shard.take()).collect();
            assert_eq!(taken.len(), BOXES);
            taken[0].log.epoch = round;
            let row = taken[0].streams.add().expect("room");
            row.name.push_str("orders");
            taken.into_iter().for_each(|full| shard.send(full));
            let first = housekeeping.take().expect("it was sent");
            assert_eq!(
                (first.log.epoch, first.streams.as_slice()[0].name.as_str()),
                (round, "orders")
            );
            let mut first = first;
            first.streams.rows[0].name.clear();
            housekeeping.give_back(first);
            while let Some(next) = housekeeping.take() {
                assert!(next.streams.as_slice().is_empty(), "it came back empty");
                housekeeping.give_back(next);
            }
        }
    }
}
