//! What is known of the shards, and how it is shown.

mod views;

use std::collections::BTreeMap;

use super::guard::{ALIVE_MS, Pause};
use super::lag::{History, Rate};
use super::silent::Silent;
use crate::limits::PRODUCERS_MAX;
use crate::metrics::Counter;
use crate::metrics::snapshot::{LogState, Snapshot, SubscriptionRow};
use crate::metrics::stages::{Stage, Stages};

pub(crate) use views::{
    LogView, LostView, PlaceView, ProducerView, ProducersView, SessionView, SessionsView,
    ShardView, ShardsView, StageView, StallView, StreamView, StreamsView, SubscriptionView,
};

/// Version of every JSON object here; it grows when a field changes its meaning or goes.
pub(crate) const SCHEMA_VERSION: u32 = 1;

/// A shard that has been silent for so long is not ready.
const READY_MS: u64 = 1_000;

/// A shard's newest snapshot, and the sum of all.
#[derive(Debug, Default)]
struct Known {
    newest: Option<Box<Snapshot>>,
    facts: PlaceView,
    total: Stages,
    /// By counter: how many a second in the newest interval.
    rates: BTreeMap<String, f64>,
    /// By stream: where its durable end was.
    ends: BTreeMap<u32, History>,
    /// What is written.
    written: Rate,
    /// By number.
    producers: BTreeMap<u64, ProducerView>,
    /// Consumers that went silent.
    silent: Silent,
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
        known.remember(shard, &snapshot);
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
    pub(super) fn note_facts(&mut self, shard: usize, facts: PlaceView) {
        self.shards[shard].facts = facts;
    }

    pub(super) fn note_pause(&mut self, shard: usize, pause: Pause) {
        let known = &mut self.shards[shard];
        (known.turns, known.silent_ms, known.hung_ms) =
            (pause.turns, pause.silent_ms, pause.hung_ms);
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
            let known = &self.shards[shard];
            newest.sessions.as_slice().iter().map(move |row| SessionView {
                shard,
                connection: row.conn_id,
                peer: row.peer.to_string(),
                producer_id: row.producer_id,
                accepted_to: row.accepted_to,
                durable_to: row.durable_to,
                subscriptions: row.subscriptions,
                subscribed: known.subscribed(newest, row.conn_id),
                silent_ns: row.silent_ns,
            })
        });
        let sessions = rows.collect();
        let lost =
            self.newest().flat_map(|(shard, newest, _)| self.shards[shard].lost(shard, newest));
        SessionsView { schema_version: SCHEMA_VERSION, sessions, lost: lost.collect() }
    }

    pub(super) fn producers(&self) -> ProducersView {
        let producers = self.shards.iter().flat_map(|known| known.producers.values().cloned());
        ProducersView { schema_version: SCHEMA_VERSION, producers: producers.collect() }
    }

    /// How many seconds the room of a shard's log does; `None` while nothing is written.
    pub(super) fn room_s(&self, shard: usize) -> Option<f64> {
        let known = &self.shards[shard];
        known.newest.as_ref().and_then(|newest| known.written.seconds_for(newest.log.room_bytes))
    }

    pub(super) fn streams(&self) -> StreamsView {
        let rows = self.newest().flat_map(|(shard, newest, _)| {
            let mut subscriptions = BTreeMap::<u32, usize>::new();
            for row in newest.subscriptions.as_slice() {
                *subscriptions.entry(row.stream).or_default() += 1;
            }
            newest.streams.as_slice().iter().map(move |row| StreamView {
                shard,
                id: row.id,
                name: row.name.clone(),
                first_sequence: row.first_sequence,
                durable_next: row.durable_next,
                payload_bytes: row.bytes,
                subscriptions: subscriptions.get(&row.id).copied().unwrap_or(0),
            })
        });
        StreamsView { schema_version: SCHEMA_VERSION, streams: rows.collect() }
    }
}

impl Known {
    /// Keeps what the next snapshots are compared with.
    fn remember(&mut self, shard: usize, snapshot: &Snapshot) {
        let now_ns = snapshot.end_unix_ns;
        self.written.note(now_ns, snapshot.counters.get(Counter::BytesDurable));
        let streams = snapshot.streams.as_slice();
        for stream in streams {
            self.ends.entry(stream.id).or_default().note(now_ns, stream.durable_next);
        }
        self.ends.retain(|id, _| streams.iter().any(|stream| stream.id == *id));
        self.silent.note(self.newest.as_deref(), snapshot);
        self.remember_producers(shard, snapshot);
    }

    /// Those the log knows, with the address that each had last; and the newest of those it has forgotten.
    fn remember_producers(&mut self, shard: usize, snapshot: &Snapshot) {
        let mut before = std::mem::take(&mut self.producers);
        for row in snapshot.producers.as_slice() {
            let known = before.remove(&row.id);
            let durable_to = known.as_ref().map_or(0, |known| known.durable_to);
            let producer = ProducerView {
                shard,
                producer_id: row.id,
                peer: known.map_or_else(String::new, |known| known.peer),
                connected: false,
                ended: row.ended,
                durable_to: if snapshot.producers_durable { row.accepted_to } else { durable_to },
                seen_unix_ns: row.active_unix_ns,
            };
            self.producers.insert(row.id, producer);
        }
        for row in snapshot.sessions.as_slice().iter().filter(|row| row.producer_id > 0) {
            let producer = ProducerView {
                shard,
                producer_id: row.producer_id,
                peer: row.peer.to_string(),
                connected: true,
                ended: false,
                durable_to: row.durable_to,
                seen_unix_ns: snapshot.end_unix_ns,
            };
            before.remove(&row.producer_id);
            self.producers.insert(row.producer_id, producer);
        }
        let mut forgotten: Vec<_> = before.into_values().collect();
        forgotten.sort_by_key(|producer| std::cmp::Reverse(producer.seen_unix_ns));
        let room = PRODUCERS_MAX.saturating_sub(self.producers.len());
        // One that came and ended between two reports says nothing of what it did.
        let seen = forgotten.into_iter().filter(|producer| !producer.peer.is_empty());
        for producer in seen.take(room) {
            let ended = ProducerView { connected: false, ended: true, ..producer };
            self.producers.insert(ended.producer_id, ended);
        }
    }

    fn subscribed(&self, newest: &Snapshot, conn_id: u32) -> Vec<SubscriptionView> {
        let rows = newest.subscriptions.as_slice().iter().filter(|row| row.conn_id == conn_id);
        rows.map(|row| self.subscription(newest, row)).collect()
    }

    /// How a subscription stands, or one that is no more would.
    fn subscription(&self, newest: &Snapshot, row: &SubscriptionRow) -> SubscriptionView {
        let stream = newest.streams.as_slice().iter().find(|stream| stream.id == row.stream);
        let end = stream.map_or(row.told, |stream| stream.durable_next);
        let passed = self.ends.get(&row.stream);
        let lag_messages = end.saturating_sub(row.told);
        let lag_ns = passed.map_or(0, |ends| ends.passed_ns(row.told, newest.end_unix_ns));
        SubscriptionView {
            stream: stream.map_or_else(|| row.stream.to_string(), |stream| stream.name.clone()),
            next: row.next,
            lag_messages,
            lag_s: if lag_messages > 0 { seconds(lag_ns) } else { 0.0 },
            stopped: row.stopped,
        }
    }

    fn lost(&self, shard: usize, newest: &Snapshot) -> impl Iterator<Item = LostView> {
        self.silent.lost().iter().map(move |lost| LostView {
            shard,
            connection: lost.row.conn_id,
            peer: lost.peer.to_string(),
            subscription: self.subscription(newest, &lost.row),
            silent_ns: newest.end_unix_ns.saturating_sub(lost.heard_unix_ns),
        })
    }

    fn condition(&self) -> &'static str {
        match &self.newest {
            Some(newest) if self.turns => newest.condition,
            Some(_) | None => "opening",
        }
    }

    fn log(&self, log: &LogState) -> LogView {
        LogView {
            epoch: log.epoch,
            segments_used: log.segments_used,
            segments_free: log.segments_free,
            room_bytes: log.room_bytes,
            room_s: self.written.seconds_for(log.room_bytes),
            in_flight_bytes: log.in_flight_bytes,
        }
    }

    fn view(&self, shard: usize) -> Option<ShardView> {
        let newest = self.newest.as_deref()?;
        Some(ShardView {
            shard,
            condition: self.condition().to_owned(),
            silent_ms: self.silent_ms,
            place: self.facts.clone(),
            log: self.log(&newest.log),
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
    fn a_subscription_shows_how_far_it_is_behind_and_a_producer_who_it_was() {
        let mut state = State::new(1);
        for second in 0..10 {
            let mut snapshot = snapshot(second, 0);
            snapshot.log.room_bytes = 1_000;
            snapshot.counters.add(Counter::BytesDurable, second * 10);
            let stream = snapshot.streams.add().expect("room");
            (stream.id, stream.durable_next) = (7, 100 * (second + 1));
            stream.name.push_str("orders");
            if second < 9 {
                let session = snapshot.sessions.add().expect("room");
                (session.conn_id, session.producer_id) = (3, 44);
                (session.durable_to, session.subscriptions) = (second, 1);
                let row = snapshot.subscriptions.add().expect("room");
                (row.conn_id, row.stream, row.next, row.told) = (3, 7, 700, 450);
            }
            // The log knows it, and one that was there before the start.
            for (id, accepted_to) in [(44, second), (7, 99)] {
                let row = snapshot.producers.add().expect("room");
                (row.id, row.accepted_to, row.active_unix_ns) = (id, accepted_to, second);
            }
            // In the last second what was accepted is not durable yet.
            snapshot.producers_durable = second < 9;
            state.take_in(0, snapshot);
            if second == 8 {
                let view = state.sessions().sessions.remove(0);
                assert_eq!(view.subscribed.len(), 1);
                let subscribed = &view.subscribed[0];
                assert_eq!((subscribed.stream.as_str(), subscribed.lag_messages), ("orders", 450));
                // Message 450 was first seen as durable at second 4, in the snapshot that ends at 6.
                assert!((subscribed.lag_s - 4.0).abs() < 1e-9, "{subscribed:?}");
                assert!(state.producers().producers[1].connected);
            }
        }
        let mut producers = state.producers().producers;
        let before = producers.remove(0);
        assert_eq!((before.producer_id, before.durable_to, before.peer.as_str()), (7, 99, ""));
        let producer = producers.remove(0);
        assert_eq!((producer.producer_id, producer.durable_to, producer.connected), (44, 8, false));
        assert_eq!(producer.peer, "0.0.0.0:0");
        assert!(!producer.ended, "the log knows it");
        let left = state.room_s(0).expect("ninety bytes were written in this minute");
        assert!((left - 60.0 * 1_000.0 / 90.0).abs() < 1e-9, "{left}");
        assert_eq!(state.shards().shards[0].log.room_bytes, 1_000);
        // Whom the log has forgotten is shown as one that will not return.
        state.take_in(0, snapshot(10, 0));
        let producers = state.producers().producers;
        let words: Vec<_> = producers.iter().map(ProducerView::session).collect();
        assert_eq!(words, ["ended"], "and the other had no session since the start");
        assert_eq!((producers[0].durable_to, producers[0].peer.as_str()), (8, "0.0.0.0:0"));
    }

    #[test]
    fn a_consumer_that_hangs_falls_behind_though_its_session_is_dropped() {
        let mut state = State::new(1);
        for second in 0..200 {
            let mut snapshot = snapshot(second, 0);
            let stream = snapshot.streams.add().expect("room");
            (stream.id, stream.durable_next) = (7, 100 * (second + 1));
            stream.name.push_str("orders");
            // Its last word comes at second 20, and 10 s later its session is dropped.
            if second <= 30 {
                let session = snapshot.sessions.add().expect("room");
                session.conn_id = 3;
                session.silent_ns = second.saturating_sub(20) * 1_000_000_000;
                let row = snapshot.subscriptions.add().expect("room");
                (row.conn_id, row.stream) = (3, 7);
                // It was sent more than it said has arrived.
                row.told = 100 * (second.min(20) + 1);
                row.next = row.told + 4_000;
            }
            state.take_in(0, snapshot);
            let streams = state.streams().streams;
            assert_eq!(streams[0].subscriptions, usize::from(second <= 30));
        }
        let sessions = state.sessions();
        assert!(sessions.sessions.is_empty());
        let lost = &sessions.lost[0];
        assert_eq!((lost.connection, lost.subscription.stream.as_str()), (3, "orders"));
        assert_eq!(lost.subscription.lag_messages, 100 * 179);
        assert!((lost.subscription.lag_s - 178.0).abs() < 5.0, "{lost:?}");
        assert_eq!(lost.silent_ns, 179 * 1_000_000_000);
    }

    #[test]
    fn rates_are_of_the_newest_interval_and_totals_of_all() {
        let mut state = State::new(1);
        assert_eq!(state.not_ready(), ["shard 0: opening"]);
        state.note_pause(0, Pause { turns: true, silent_ms: 0, hung_ms: 0 });
        assert!(state.take_in(0, snapshot(0, 100)).is_none());
        assert!(state.take_in(0, snapshot(2, 300)).is_some());
        let view = state.shards();
        let shard = &view.shards[0];
        assert!((shard.rates["messages_accepted"] - 100.0).abs() < 1e-9, "{:?}", shard.rates);
        assert!((shard.rates["port_transmitted"] - 200.0).abs() < 1e-9, "{:?}", shard.rates);
        assert_eq!(shard.counters["messages_accepted"], 300);
        assert_eq!((shard.stages["whole"].count, shard.stages_total["whole"].count), (10, 20));
        assert!(state.not_ready().is_empty());
        state.note_pause(0, Pause { turns: true, silent_ms: 1_500, hung_ms: 200 });
        assert!(state.unhealthy().is_empty(), "it was not scheduled");
        assert_eq!(state.not_ready(), ["shard 0: no turn for 1500 ms"]);
        state.note_pause(0, Pause { turns: true, silent_ms: 1_500, hung_ms: 1_500 });
        assert_eq!(state.unhealthy(), ["shard 0: no turn for 1500 ms"]);
    }
}
