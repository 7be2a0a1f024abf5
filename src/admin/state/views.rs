//! How the state is shown: plain structures, serialised as they are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::metrics::latency::Percentiles;

/// A stage of an interval, or since launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct StageView {
    /// Messages.
    pub count: u64,
    /// Their latencies.
    #[serde(flatten)]
    pub ns: Percentiles,
}

/// A turn that took too long.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct StallView {
    /// Unix time of its end, in nanoseconds.
    pub unix_ns: u64,
    /// How long it took.
    pub ns: u64,
    /// The longest stretch of it.
    pub stage: String,
}

/// Where a shard runs, which does not change while it does.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct PlaceView {
    /// Where it receives.
    pub address: String,
    /// On what, and how it comes to what is for it.
    #[serde(default)]
    pub port: String,
    /// Which sessions it takes: `sealed`, `plain`, or `sealed and plain`.
    #[serde(default)]
    pub security: String,
    /// Its disk.
    pub disk: String,
    /// Why an acknowledged message is safe there.
    pub durability: String,
    /// The core it is pinned to.
    pub core: Option<usize>,
}

/// The log of a shard.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct LogView {
    /// Its epoch.
    pub epoch: u64,
    /// Segments that hold something.
    pub segments_used: usize,
    /// Segments that hold nothing.
    pub segments_free: usize,
    /// Bytes that messages may still take.
    #[serde(default)]
    pub room_bytes: u64,
    /// How many seconds they do at the rate of the last minute; nothing while nothing is written.
    #[serde(default)]
    pub room_s: Option<f64>,
    /// Bytes given to the disk and not durable.
    pub in_flight_bytes: usize,
}

/// A shard.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct ShardView {
    /// Its number.
    pub shard: usize,
    /// `serving`, `full`, `failed`, `disk lost`, `draining`, or `opening`.
    pub condition: String,
    /// How long its thread has made no turn, in milliseconds.
    pub silent_ms: u64,
    /// Where it runs.
    #[serde(flatten)]
    pub place: PlaceView,
    /// Its log.
    #[serde(flatten)]
    pub log: LogView,
    /// Sessions.
    pub sessions: usize,
    /// Unix time of this, in nanoseconds.
    pub unix_ns: u64,
    /// How long the newest interval was, in seconds.
    pub interval_s: f64,
    /// What was counted since launch, by name.
    pub counters: BTreeMap<String, u64>,
    /// The same, a second of the newest interval.
    pub rates: BTreeMap<String, f64>,
    /// Stages of the newest interval.
    pub stages: BTreeMap<String, StageView>,
    /// Stages since launch.
    pub stages_total: BTreeMap<String, StageView>,
    /// Turns that took too long, since launch.
    pub stalls: u64,
    /// The newest of them.
    pub stall_log: Vec<StallView>,
}

/// All shards.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct ShardsView {
    /// [`SCHEMA_VERSION`](super::SCHEMA_VERSION).
    pub schema_version: u32,
    /// One each.
    pub shards: Vec<ShardView>,
}

/// A session.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct SessionView {
    /// Its shard.
    pub shard: usize,
    /// Its connection id.
    pub connection: u32,
    /// Where it sends from.
    pub peer: String,
    /// The producer it publishes as; 0 where it does not.
    pub producer_id: u64,
    /// Of that producer: every number up to this one is accepted.
    pub accepted_to: u64,
    /// Of that producer: every number up to this one is durable.
    pub durable_to: u64,
    /// Subscriptions it has.
    pub subscriptions: usize,
    /// Each of them.
    #[serde(default)]
    pub subscribed: Vec<SubscriptionView>,
    /// How long it said nothing.
    pub silent_ns: u64,
}

/// A subscription of a session.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct SubscriptionView {
    /// The stream's name.
    pub stream: String,
    /// The sequence it is sent next.
    pub next: u64,
    /// Durable messages that it has not said have arrived.
    pub lag_messages: u64,
    /// How long the oldest of them has been durable, in seconds; older than some minutes it is coarse.
    pub lag_s: f64,
    /// It met damage or was trimmed: nothing more is sent.
    pub stopped: bool,
}

/// A subscription whose consumer fell silent, so that its session was dropped. It goes when the consumer, or another
/// of its host, subscribes again, or after a day.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct LostView {
    /// Its shard.
    pub shard: usize,
    /// The connection id it had.
    pub connection: u32,
    /// Where it was.
    pub peer: String,
    /// How it stands now.
    #[serde(flatten)]
    pub subscription: SubscriptionView,
    /// How long it said nothing.
    pub silent_ns: u64,
}

impl LostView {
    /// The session it had, as it would be listed.
    #[must_use]
    pub(crate) fn as_session(&self) -> SessionView {
        SessionView {
            shard: self.shard,
            connection: self.connection,
            peer: self.peer.clone(),
            producer_id: 0,
            accepted_to: 0,
            durable_to: 0,
            subscriptions: 0,
            subscribed: vec![self.subscription.clone()],
            silent_ns: self.silent_ns,
        }
    }
}

impl SessionView {
    /// Whether it is one that was lost.
    #[must_use]
    pub(crate) fn is_lost(&self) -> bool {
        self.subscriptions == 0 && !self.subscribed.is_empty()
    }
}

/// A producer that the log knows, or that published since the appliance was started.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct ProducerView {
    /// Its shard.
    pub shard: usize,
    /// Its number.
    pub producer_id: u64,
    /// Where it sends from, or sent from last; empty where it had no session since the appliance was started.
    pub peer: String,
    /// Whether it has a session.
    pub connected: bool,
    /// It said that it will not return, so that the log has forgotten it, or is about to.
    #[serde(default)]
    pub ended: bool,
    /// Every number up to this one is durable. Of one that has ended as the newest report before its end said.
    pub durable_to: u64,
    /// Unix time it was last active, in nanoseconds.
    pub seen_unix_ns: u64,
}

impl ProducerView {
    /// How it stands, in a word: connected, ended (it will not return), or gone (it may).
    #[must_use]
    pub(crate) fn session(&self) -> &'static str {
        match (self.connected, self.ended) {
            (true, _) => "connected",
            (false, true) => "ended",
            (false, false) => "gone",
        }
    }
}

/// All producers.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct ProducersView {
    /// [`SCHEMA_VERSION`](super::SCHEMA_VERSION).
    pub schema_version: u32,
    /// One each.
    pub producers: Vec<ProducerView>,
}

/// All sessions.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct SessionsView {
    /// [`SCHEMA_VERSION`](super::SCHEMA_VERSION).
    pub schema_version: u32,
    /// One each.
    pub sessions: Vec<SessionView>,
    /// Subscriptions of sessions that were lost.
    #[serde(default)]
    pub lost: Vec<LostView>,
}

/// A stream.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct StreamView {
    /// Its shard.
    pub shard: usize,
    /// Its number.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// The oldest sequence that is kept.
    pub first_sequence: u64,
    /// The sequence after the newest durable one.
    pub durable_next: u64,
    /// Payload bytes since creation.
    pub payload_bytes: u64,
    /// Sessions that have subscribed to it.
    #[serde(default)]
    pub subscriptions: usize,
}

/// All streams.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct StreamsView {
    /// [`SCHEMA_VERSION`](super::SCHEMA_VERSION).
    pub schema_version: u32,
    /// One each.
    pub streams: Vec<StreamView>,
}
