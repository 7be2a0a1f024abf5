//! What is known of the shards, and how it is shown: plain structures, serialised as they are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::guard::ALIVE_MS;
use crate::metrics::latency::Percentiles;
use crate::metrics::snapshot::Snapshot;
use crate::metrics::stages::{Stage, Stages};

/// Version of every JSON object here; it grows when a field changes its meaning or goes.
pub const SCHEMA_VERSION: u32 = 1;

/// A shard that has been silent for so long is not ready.
const READY_MS: u64 = 1_000;

/// What does not change while a shard serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardFacts {
    /// Where it receives.
    pub address: String,
    /// On what, and how it comes to what is for it.
    pub port: String,
    /// Its disk.
    pub disk: String,
    /// Why an acknowledged message is safe there.
    pub durability: &'static str,
    /// The core it is pinned to.
    pub core: Option<usize>,
}

/// A stage of an interval, or since launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct StageView {
    /// Messages.
    pub count: u64,
    /// Their latencies.
    #[serde(flatten)]
    pub ns: Percentiles,
}

/// A turn that took too long.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct StallView {
    /// Unix time of its end, in nanoseconds.
    pub unix_ns: u64,
    /// How long it took.
    pub ns: u64,
    /// The longest stretch of it.
    pub stage: String,
}

/// A shard.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ShardView {
    /// Its number.
    pub shard: usize,
    /// `serving`, `full`, `failed`, `disk lost`, `draining`, or `opening`.
    pub condition: String,
    /// How long its thread has made no turn, in milliseconds.
    pub silent_ms: u64,
    /// Where it receives.
    pub address: String,
    /// On what, and how it comes to what is for it.
    #[serde(default)]
    pub port: String,
    /// Its disk.
    pub disk: String,
    /// Why an acknowledged message is safe there.
    pub durability: String,
    /// The core it is pinned to.
    pub core: Option<usize>,
    /// Epoch of its log.
    pub epoch: u64,
    /// Segments that hold something.
    pub segments_used: usize,
    /// Segments that hold nothing.
    pub segments_free: usize,
    /// Bytes given to the disk and not durable.
    pub in_flight_bytes: usize,
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
pub struct ShardsView {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// One each.
    pub shards: Vec<ShardView>,
}

/// A session.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct SessionView {
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
    /// How long it said nothing.
    pub silent_ns: u64,
}

/// All sessions.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct SessionsView {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// One each.
    pub sessions: Vec<SessionView>,
}

/// A stream.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct StreamView {
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
}

/// All streams.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct StreamsView {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// One each.
    pub streams: Vec<StreamView>,
}

/// A shard's newest snapshot, and the sum of all.
#[derive(Debug, Default)]
struct Known {
    newest: Option<Box<Snapshot>>,
    facts: ShardFacts,
    total: Stages,
    /// By counter: how many a second in the newest interval.
    rates: BTreeMap<String, f64>,
    turns: bool,
    silent_ms: u64,
    /// How much of its silence counts as hanging.
    hung_ms: u64,
}

/// What is known of all shards.
#[derive(Debug)]
pub(super) struct State {
    shards: Vec<Known>,
}

impl State {
    pub(super) fn new(shards: usize) -> Self {
        Self { shards: (0..shards).map(|_| Known::default()).collect() }
    }

    /// Takes a snapshot in; returns the one before, to be used again.
    pub(super) fn take_in(
        &mut self,
        shard: usize,
        snapshot: Box<Snapshot>,
    ) -> Option<Box<Snapshot>> {
        let known = &mut self.shards[shard];
        known.total.merge(&snapshot.stages);
        known.rates = known.newest.as_ref().map_or_else(BTreeMap::new, |before| {
            let seconds = seconds(snapshot.end_unix_ns.saturating_sub(before.end_unix_ns));
            let rate = |((name, now), (_, before)): ((&str, u64), (&str, u64))| {
                #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
                let grown = now.saturating_sub(before) as f64;
                (name.to_owned(), if seconds > 0.0 { grown / seconds } else { 0.0 })
            };
            counts(&snapshot).zip(counts(before)).map(rate).collect()
        });
        known.newest.replace(snapshot)
    }

    /// A shard begins to serve.
    pub(super) fn note_facts(&mut self, shard: usize, facts: ShardFacts) {
        self.shards[shard].facts = facts;
    }

    pub(super) fn note_silence(&mut self, shard: usize, turns: bool, silent_ms: u64, hung_ms: u64) {
        let known = &mut self.shards[shard];
        (known.turns, known.silent_ms, known.hung_ms) = (turns, silent_ms, hung_ms);
    }

    /// Each shard with its newest snapshot, total and durability.
    pub(super) fn newest(&self) -> impl Iterator<Item = (usize, &Snapshot, &Stages)> {
        self.shards.iter().enumerate().filter_map(|(index, known)| {
            known.newest.as_deref().map(|newest| (index, newest, &known.total))
        })
    }

    /// Each shard's silence in milliseconds: how long it has made no turn although it should.
    pub(super) fn silent_ms(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        let silent = |known: &Known| if known.turns { known.silent_ms } else { 0 };
        self.shards.iter().map(silent).enumerate()
    }

    /// Shards that hang: a restart would mend them. One that only gets no time, or waits for its disk, is not
    /// among them.
    pub(super) fn unhealthy(&self) -> Vec<String> {
        self.silent(|known| known.hung_ms >= ALIVE_MS)
    }

    fn silent(&self, is_so: impl Fn(&Known) -> bool) -> Vec<String> {
        let shards =
            self.shards.iter().enumerate().filter(|(_, known)| known.turns && is_so(known));
        shards
            .map(|(index, known)| format!("shard {index}: no turn for {} ms", known.silent_ms))
            .collect()
    }

    /// Shards that do not serve, and why.
    pub(super) fn not_ready(&self) -> Vec<String> {
        let mut reasons = self.silent(|known| known.silent_ms >= READY_MS);
        for (index, known) in self.shards.iter().enumerate() {
            let condition = known.condition();
            if condition != "serving" {
                reasons.push(format!("shard {index}: {condition}"));
            }
        }
        reasons
    }

    pub(super) fn shards(&self) -> ShardsView {
        let shards = self.shards.iter().enumerate();
        ShardsView {
            schema_version: SCHEMA_VERSION,
            shards: shards.filter_map(|(index, known)| known.view(index)).collect(),
        }
    }

    pub(super) fn sessions(&self) -> SessionsView {
        let rows = self.newest().flat_map(|(shard, newest, _)| {
            newest.sessions.as_slice().iter().map(move |row| SessionView {
                shard,
                connection: row.conn_id,
                peer: row.peer.to_string(),
                producer_id: row.producer_id,
                accepted_to: row.accepted_to,
                durable_to: row.durable_to,
                subscriptions: row.subscriptions,
                silent_ns: row.silent_ns,
            })
        });
        SessionsView { schema_version: SCHEMA_VERSION, sessions: rows.collect() }
    }

    pub(super) fn streams(&self) -> StreamsView {
        let rows = self.newest().flat_map(|(shard, newest, _)| {
            newest.streams.as_slice().iter().map(move |row| StreamView {
                shard,
                id: row.id,
                name: row.name.clone(),
                first_sequence: row.first_sequence,
                durable_next: row.durable_next,
                payload_bytes: row.bytes,
            })
        });
        StreamsView { schema_version: SCHEMA_VERSION, streams: rows.collect() }
    }
}

impl Known {
    fn condition(&self) -> &'static str {
        match &self.newest {
            Some(newest) if self.turns => newest.condition,
            Some(_) | None => "opening",
        }
    }

    fn view(&self, shard: usize) -> Option<ShardView> {
        let newest = self.newest.as_deref()?;
        Some(ShardView {
            shard,
            condition: self.condition().to_owned(),
            silent_ms: self.silent_ms,
            address: self.facts.address.clone(),
            port: self.facts.port.clone(),
            disk: self.facts.disk.clone(),
            durability: self.facts.durability.to_owned(),
            core: self.facts.core,
            epoch: newest.epoch,
            segments_used: newest.segments.0,
            segments_free: newest.segments.1,
            in_flight_bytes: newest.in_flight_bytes,
            sessions: newest.sessions.as_slice().len(),
            unix_ns: newest.end_unix_ns,
            interval_s: seconds(newest.end_unix_ns.saturating_sub(newest.begin_unix_ns)),
            counters: counts(newest).map(|(name, value)| (name.to_owned(), value)).collect(),
            rates: self.rates.clone(),
            stages: stages(&newest.stages),
            stages_total: stages(&self.total),
            stalls: newest.stalls.count(),
            stall_log: newest
                .stalls
                .newest()
                .map(|stall| StallView {
                    unix_ns: stall.unix_ns,
                    ns: stall.ns,
                    stage: stall.stage.to_owned(),
                })
                .collect(),
        })
    }
}

/// Everything a snapshot counts, by name.
fn counts(snapshot: &Snapshot) -> impl Iterator<Item = (&'static str, u64)> + '_ {
    let names = [
        "port_received",
        "port_transmitted",
        "port_receive_dropped",
        "port_transmit_dropped",
        "port_handed_over",
    ];
    snapshot.counters.iter().chain(names.into_iter().zip(snapshot.port))
}

fn stages(stages: &Stages) -> BTreeMap<String, StageView> {
    let view = |stage: Stage| {
        let histogram = stages.get(stage);
        (
            stage.name().to_owned(),
            StageView { count: histogram.count(), ns: histogram.percentiles() },
        )
    };
    Stage::ALL.into_iter().map(view).collect()
}

#[allow(clippy::cast_precision_loss, reason = "seconds for people")]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Counter;
    use crate::metrics::stages::BatchTimes;

    fn snapshot(second: u64, accepted: u64) -> Box<Snapshot> {
        let mut snapshot = Box::new(Snapshot::new());
        snapshot.begin_unix_ns = second * 1_000_000_000;
        snapshot.end_unix_ns = (second + 2) * 1_000_000_000;
        snapshot.counters.add(Counter::MessagesAccepted, accepted);
        snapshot.port[1] = 2 * accepted;
        let batch = BatchTimes { messages: 10, durable_ns: 400, ..BatchTimes::default() };
        snapshot.stages.record(&batch, 1_000);
        snapshot
    }

    #[test]
    fn rates_are_of_the_newest_interval_and_totals_of_all() {
        let mut state = State::new(1);
        assert_eq!(state.not_ready(), ["shard 0: opening"]);
        state.note_silence(0, true, 0, 0);
        assert!(state.take_in(0, snapshot(0, 100)).is_none());
        assert!(state.take_in(0, snapshot(2, 300)).is_some());
        let view = state.shards();
        let shard = &view.shards[0];
        assert!((shard.rates["messages_accepted"] - 100.0).abs() < 1e-9, "{:?}", shard.rates);
        assert!((shard.rates["port_transmitted"] - 200.0).abs() < 1e-9, "{:?}", shard.rates);
        assert_eq!(shard.counters["messages_accepted"], 300);
        assert_eq!((shard.stages["whole"].count, shard.stages_total["whole"].count), (10, 20));
        assert!(state.not_ready().is_empty());
        state.note_silence(0, true, 1_500, 200);
        assert!(state.unhealthy().is_empty(), "it was not scheduled");
        assert_eq!(state.not_ready(), ["shard 0: no turn for 1500 ms"]);
        state.note_silence(0, true, 1_500, 1_500);
        assert_eq!(state.unhealthy(), ["shard 0: no turn for 1500 ms"]);
    }
}
