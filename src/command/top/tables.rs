//! The tables of `top`: their columns, rows and orders.

use std::cmp::Ordering;

use super::model::Model;
use crate::admin::state::{LostView, ProducerView, SessionView, ShardView, StreamView};
use crate::cli::arguments::TopView;
use crate::command::ask::Views;
use crate::metrics::stages::Stage;
use crate::report::{micros, thousands};

/// A column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) title: &'static str,
    pub(super) width: u16,
    /// Numbers stand on the right.
    pub(super) is_number: bool,
    /// Only where there is room.
    pub(super) is_extra: bool,
}

const fn text(title: &'static str, width: u16) -> Column {
    Column { title, width, is_number: false, is_extra: false }
}

const fn number(title: &'static str, width: u16) -> Column {
    Column { title, width, is_number: true, is_extra: false }
}

const fn extra(column: Column) -> Column {
    Column { is_extra: true, ..column }
}

/// A table, its rows in order.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) columns: &'static [Column],
    pub(super) rows: Vec<Vec<String>>,
}

const SHARDS: [Column; 11] = [
    number("SHARD", 5),
    text("CONDITION", 10),
    number("SESS", 5),
    number("MSG/S", 10),
    number("P50", 9),
    number("P99", 9),
    number("P99.9", 9),
    number("MAX", 9),
    number("STALLS", 6),
    extra(number("CORE", 4)),
    extra(text("ADDRESS", 21)),
];

const SESSIONS: [Column; 10] = [
    text("SESSION", 21),
    number("SHARD", 5),
    number("PRODUCER", 10),
    number("ACCEPTED TO", 12),
    number("NOT DURABLE", 11),
    number("SUBS", 4),
    number("LAG", 9),
    extra(number("SILENT ms", 9)),
    extra(number("LAG s", 8)),
    extra(text("MOST BEHIND IN", 24)),
];

const STREAMS: [Column; 6] = [
    text("STREAM", 28),
    number("SHARD", 5),
    number("FIRST", 11),
    number("NEXT", 12),
    number("MSG/S", 8),
    number("PAYLOAD", 10),
];

const DISKS: [Column; 10] = [
    number("SHARD", 5),
    text("DISK", 16),
    text("DURABILITY", 14),
    text("USED", 12),
    number("IN FLIGHT", 9),
    number("BATCHES/S", 9),
    number("P99", 8),
    extra(number("BYTES/S", 10)),
    extra(number("P50", 9)),
    extra(number("EPOCH", 8)),
];

const PORTS: [Column; 9] = [
    number("SHARD", 5),
    text("ADDRESS", 21),
    number("IN/S", 9),
    number("OUT/S", 9),
    number("IN LOST", 8),
    number("OUT LOST", 8),
    number("ACKS/S", 9),
    extra(number("RECEIVED", 16)),
    extra(number("TRANSMITTED", 16)),
];

const PRODUCERS: [Column; 6] = [
    number("PRODUCER", 12),
    number("SHARD", 5),
    text("SESSION", 9),
    text("ADDRESS", 21),
    number("DURABLE TO", 14),
    number("ACTIVE s AGO", 12),
];

/// Columns of a shard's stages.
pub(super) const STAGES: [Column; 7] = [
    text("STAGE", 18),
    number("MESSAGES", 10),
    number("P50", 9),
    number("P90", 9),
    number("P99", 9),
    number("P99.9", 9),
    number("MAX", 9),
];

/// Orders of a view's rows, by name; the first is what it begins with.
pub(super) fn orders(view: TopView) -> &'static [&'static str] {
    match view {
        TopView::Shards => &["shard", "rate", "p99", "stalls"],
        TopView::Sessions => &["session", "producer", "not durable", "silent"],
        TopView::Streams => &["stream", "rate", "next", "payload"],
        TopView::Disks => &["shard", "used", "in flight", "p99"],
        TopView::Ports => &["shard", "in", "out", "lost"],
        TopView::Producers => &["active", "producer", "durable"],
    }
}

type RowOf = fn(&ShardView) -> Vec<String>;

/// The table of the view that is shown.
pub(super) fn listing(model: &Model, views: &Views) -> Listing {
    let order = model.place().order;
    match model.view {
        TopView::Shards | TopView::Disks | TopView::Ports => {
            let (columns, row): (&'static [Column], RowOf) = match model.view {
                TopView::Disks => (&DISKS, disk_row),
                TopView::Ports => (&PORTS, port_row),
                TopView::Shards | TopView::Sessions | TopView::Streams | TopView::Producers => {
                    (&SHARDS, shard_row)
                }
            };
            let rows = shards(model, views).into_iter().map(row).collect();
            Listing { columns, rows }
        }
        TopView::Sessions => {
            let mut rows = views.sessions.sessions.clone();
            rows.extend(views.sessions.lost.iter().map(LostView::as_session));
            match order {
                1 => rows.sort_by_key(|session| session.producer_id),
                2 => rows.sort_by_key(|session| std::cmp::Reverse(not_durable(session))),
                3 => rows.sort_by_key(|session| std::cmp::Reverse(session.silent_ns)),
                _ => rows.sort_by(|a, b| (&a.peer, a.shard).cmp(&(&b.peer, b.shard))),
            }
            Listing { columns: &SESSIONS, rows: rows.iter().map(session_row).collect() }
        }
        TopView::Streams => {
            let mut rows: Vec<&StreamView> = views.streams.streams.iter().collect();
            match order {
                1 => rows.sort_by(|a, b| descending(model.stream_rate(a), model.stream_rate(b))),
                2 => rows.sort_by_key(|stream| std::cmp::Reverse(stream.durable_next)),
                3 => rows.sort_by_key(|stream| std::cmp::Reverse(stream.payload_bytes)),
                _ => rows.sort_by(|a, b| (&a.name, a.shard).cmp(&(&b.name, b.shard))),
            }
            let row = |stream| stream_row(stream, model.stream_rate(stream));
            Listing { columns: &STREAMS, rows: rows.into_iter().map(row).collect() }
        }
        TopView::Producers => {
            let mut rows: Vec<&ProducerView> = views.producers.producers.iter().collect();
            match order {
                1 => rows.sort_by_key(|one| (one.shard, one.producer_id)),
                2 => rows.sort_by_key(|one| std::cmp::Reverse(one.durable_to)),
                _ => rows.sort_by_key(|one| std::cmp::Reverse((one.seen_unix_ns, one.producer_id))),
            }
            let row = |one| producer_row(one, views.unix_ns());
            Listing { columns: &PRODUCERS, rows: rows.into_iter().map(row).collect() }
        }
    }
}

/// The shards in the order of the view that is shown.
pub(super) fn shards<'a>(model: &Model, views: &'a Views) -> Vec<&'a ShardView> {
    let mut rows: Vec<&ShardView> = views.shards.shards.iter().collect();
    let lost = |shard: &ShardView| {
        count(shard, "port_receive_dropped") + count(shard, "port_transmit_dropped")
    };
    let by: Option<fn(&ShardView) -> f64> = match (model.view, model.place().order) {
        (TopView::Shards, 1) => Some(|shard| rate(shard, "messages_accepted")),
        (TopView::Shards, 2) => Some(|shard| precise(p99(shard, Stage::Whole))),
        (TopView::Shards, 3) => Some(|shard| precise(shard.stalls)),
        (TopView::Disks, 1) => Some(used),
        (TopView::Disks, 2) => Some(|shard| precise(shard.log.in_flight_bytes as u64)),
        (TopView::Disks, 3) => Some(|shard| precise(p99(shard, Stage::SubmitDurable))),
        (TopView::Ports, 1) => Some(|shard| rate(shard, "port_received")),
        (TopView::Ports, 2) => Some(|shard| rate(shard, "port_transmitted")),
        _ => None,
    };
    if (model.view, model.place().order) == (TopView::Ports, 3) {
        rows.sort_by_key(|shard| std::cmp::Reverse(lost(shard)));
    } else if let Some(by) = by {
        rows.sort_by(|a, b| descending(by(a), by(b)));
    }
    rows
}

fn descending(a: f64, b: f64) -> Ordering {
    b.total_cmp(&a)
}

fn shard_row(shard: &ShardView) -> Vec<String> {
    let whole = shard.stages.get(Stage::Whole.name()).copied();
    let ns = |pick: fn(&crate::metrics::latency::Percentiles) -> u64| {
        whole
            .filter(|whole| whole.count > 0)
            .map_or_else(|| "-".into(), |whole| micros(pick(&whole.ns)))
    };
    vec![
        shard.shard.to_string(),
        shard.condition.clone(),
        shard.sessions.to_string(),
        rounded(rate(shard, "messages_accepted")),
        ns(|ns| ns.p50),
        ns(|ns| ns.p99),
        ns(|ns| ns.p99_9),
        ns(|ns| ns.max),
        thousands(shard.stalls),
        shard.place.core.map_or_else(|| "-".into(), |core| core.to_string()),
        shard.place.address.clone(),
    ]
}

/// The stages of a shard's newest interval.
pub(super) fn stage_rows(shard: &ShardView) -> Vec<Vec<String>> {
    let row = |stage: &Stage| {
        let view = shard.stages.get(stage.name())?;
        let mut cells = vec![stage.name().to_owned(), thousands(view.count)];
        let ns = view.ns;
        let latencies = [ns.p50, ns.p90, ns.p99, ns.p99_9, ns.max];
        let cell = |ns| if view.count > 0 { micros(ns) } else { "-".into() };
        cells.extend(latencies.into_iter().map(cell));
        Some(cells)
    };
    Stage::ALL.iter().filter_map(row).collect()
}

fn not_durable(session: &SessionView) -> u64 {
    session.accepted_to.saturating_sub(session.durable_to)
}

fn session_row(session: &SessionView) -> Vec<String> {
    let publishes = session.producer_id != 0;
    let of_producer = |text: String| if publishes { text } else { "-".into() };
    let behind = session.subscribed.iter().max_by_key(|one| one.lag_messages);
    vec![
        session.peer.clone(),
        session.shard.to_string(),
        of_producer(session.producer_id.to_string()),
        of_producer(thousands(session.accepted_to)),
        of_producer(thousands(not_durable(session))),
        if session.is_lost() { "lost".into() } else { session.subscriptions.to_string() },
        behind.map_or_else(|| "-".into(), |one| thousands(one.lag_messages)),
        thousands(session.silent_ns / 1_000_000),
        behind.map_or_else(|| "-".into(), |one| format!("{:.0}", one.lag_s)),
        behind.map_or_else(|| "-".into(), |one| one.stream.clone()),
    ]
}

fn stream_row(stream: &StreamView, a_second: f64) -> Vec<String> {
    vec![
        stream.name.clone(),
        stream.shard.to_string(),
        thousands(stream.first_sequence),
        thousands(stream.durable_next),
        rounded(a_second),
        bytes(precise(stream.payload_bytes)),
    ]
}

fn producer_row(one: &ProducerView, unix_ns: u64) -> Vec<String> {
    let dash = |text: &str| if text.is_empty() { "-".into() } else { text.to_owned() };
    vec![
        one.producer_id.to_string(),
        one.shard.to_string(),
        one.session().to_owned(),
        dash(&one.peer),
        thousands(one.durable_to),
        thousands(unix_ns.saturating_sub(one.seen_unix_ns) / 1_000_000_000),
    ]
}

fn disk_row(shard: &ShardView) -> Vec<String> {
    // The end of a path says more than its begin.
    let skip = shard.place.disk.chars().count().saturating_sub(16);
    let write = shard.stages.get(Stage::SubmitDurable.name()).filter(|view| view.count > 0);
    let latency = |ns: Option<u64>| ns.map_or_else(|| "-".into(), micros);
    vec![
        shard.shard.to_string(),
        shard.place.disk.chars().skip(skip).collect(),
        shard.place.durability.clone(),
        bar(used(shard)),
        bytes(precise(shard.log.in_flight_bytes as u64)),
        rounded(rate(shard, "batches_durable")),
        latency(write.map(|view| view.ns.p99)),
        bytes(rate(shard, "bytes_durable")),
        latency(write.map(|view| view.ns.p50)),
        shard.log.epoch.to_string(),
    ]
}

fn port_row(shard: &ShardView) -> Vec<String> {
    vec![
        shard.shard.to_string(),
        shard.place.address.clone(),
        rounded(rate(shard, "port_received")),
        rounded(rate(shard, "port_transmitted")),
        thousands(count(shard, "port_receive_dropped")),
        thousands(count(shard, "port_transmit_dropped")),
        rounded(rate(shard, "acks_sent")),
        thousands(count(shard, "port_received")),
        thousands(count(shard, "port_transmitted")),
    ]
}

fn count(shard: &ShardView, name: &str) -> u64 {
    shard.counters.get(name).copied().unwrap_or(0)
}

fn rate(shard: &ShardView, name: &str) -> f64 {
    shard.rates.get(name).copied().unwrap_or(0.0)
}

fn p99(shard: &ShardView, stage: Stage) -> u64 {
    shard.stages.get(stage.name()).map_or(0, |view| view.ns.p99)
}

/// The part of the segments that holds something, 0 to 1.
fn used(shard: &ShardView) -> f64 {
    let all = shard.log.segments_used + shard.log.segments_free;
    if all == 0 { 0.0 } else { precise(shard.log.segments_used as u64) / precise(all as u64) }
}

/// Eighths of a bar and per cent: `###.....  37%`.
fn bar(part: f64) -> String {
    let full = (0..7).filter(|eighth| part * 7.0 > f64::from(*eighth)).count();
    format!("{}{} {:>3.0}%", "#".repeat(full), ".".repeat(7 - full), part * 100.0)
}

#[allow(clippy::cast_precision_loss, reason = "numbers for people")]
fn precise(number: u64) -> f64 {
    number as f64
}

fn rounded(rate: f64) -> String {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate is positive and far below 2^53"
    )]
    let whole = rate.round() as u64;
    thousands(whole)
}

/// Bytes in the unit that leaves the fewest digits: `3.2 MiB`.
fn bytes(bytes: f64) -> String {
    let mut left = bytes;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if left < 1024.0 {
            return if unit == "B" { format!("{left:.0} B") } else { format!("{left:.1} {unit}") };
        }
        left /= 1024.0;
    }
    format!("{left:.1} TiB")
}
