//! `buslane stat`: what an appliance on this host is doing.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::ask::{AdminClient, Views};
use super::{CommandError, Out};
use crate::admin::state::{LostView, SessionView, SessionsView, ShardView, ShardsView, StreamView};
use crate::cli::arguments::StatArgs;
use crate::cli::{Globals, Output};
use crate::clock::{Clock, HostClock};
use crate::launch::catch_signals;
use crate::metrics::stages::Stage;
use crate::report::{count_of, micros, thousands};

/// Rows of a table shown.
const ROWS_MAX: usize = 16;

/// Stalls shown.
const STALLS_MAX: usize = 4;

/// Between two looks whether it is interrupted.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Shards report once a second. One that has not by then has something else to do, and is shown as it was.
const LOOKS_FOR_NEW: usize = 30;

pub(super) fn stat(globals: &Globals, args: &StatArgs) -> Result<(), CommandError> {
    let admin = AdminClient::new(globals)?;
    let mut out = Out::stdout();
    let clock = HostClock::new();
    let Some(seconds) = args.watch else {
        wait_for_reports(&admin, clock.unix_ns())?;
        show(globals, &admin, &clock, &mut out)?;
        return out.finish();
    };
    let interrupted = catch_signals()?;
    // Where nobody sees the screen there is none to clear.
    let clears = globals.output() != Output::Json && io::stdout().is_terminal();
    loop {
        if clears {
            out.bytes(b"\x1b[H\x1b[2J")?;
        }
        show(globals, &admin, &clock, &mut out)?;
        out.flush()?;
        if !pause(Duration::from_secs(seconds), &interrupted) {
            return Err(CommandError::Interrupted);
        }
    }
}

/// Whoever asks once wants to see what was acknowledged before: waits until every shard has reported since.
fn wait_for_reports(admin: &AdminClient, asked_unix_ns: u64) -> Result<(), CommandError> {
    let never = AtomicBool::new(false);
    for _ in 0..LOOKS_FOR_NEW {
        if is_since(&admin.shards()?, asked_unix_ns) {
            break;
        }
        pause(LOOK_EVERY, &never);
    }
    Ok(())
}

fn is_since(shards: &ShardsView, unix_ns: u64) -> bool {
    let shards = &shards.shards;
    !shards.is_empty() && shards.iter().all(|shard| shard.unix_ns >= unix_ns)
}

fn show(
    globals: &Globals,
    admin: &AdminClient,
    clock: &HostClock,
    out: &mut Out,
) -> Result<(), CommandError> {
    if globals.output() == Output::Json {
        return out.json(&admin.shards()?);
    }
    let views = admin.views()?;
    out.text(&screen(&views, clock.unix_ns()))
}

/// Waits; `false` when interrupted meanwhile.
#[allow(clippy::disallowed_methods, reason = "a person watches")]
fn pause(time: Duration, interrupted: &AtomicBool) -> bool {
    let looks = time.as_millis() / LOOK_EVERY.as_millis();
    // Only a flag: it orders nothing but itself.
    (0..looks).all(|_| {
        std::thread::sleep(LOOK_EVERY);
        !interrupted.load(Ordering::Relaxed)
    })
}

fn screen(views: &Views, now_unix_ns: u64) -> String {
    let Views { shards, sessions, streams, .. } = views;
    let mut text = String::new();
    if shards.shards.is_empty() {
        text.push_str("no shard has reported yet\n");
    }
    for shard in &shards.shards {
        // Writing to a String does not fail.
        let _ = write_shard(&mut text, shard, now_unix_ns);
    }
    let _ = write_streams(&mut text, &streams.streams);
    let _ = write_sessions(&mut text, sessions);
    let _ = write_subscriptions(&mut text, sessions);
    let _ = write_gone(&mut text, views);
    text
}

fn write_shard(text: &mut String, shard: &ShardView, now_unix_ns: u64) -> std::fmt::Result {
    let core =
        shard.place.core.map_or_else(|| "no core of its own".into(), |core| format!("core {core}"));
    writeln!(
        text,
        "shard {}: {} on {}, {}, {} sessions, {core}; as of {:.1} s ago",
        shard.shard,
        shard.condition,
        shard.place.address,
        shard.place.port,
        shard.place.security,
        seconds(now_unix_ns.saturating_sub(shard.unix_ns))
    )?;
    writeln!(
        text,
        "disk {} ({}), epoch {}, {} used, {} free, {} bytes in flight",
        shard.place.disk,
        shard.place.durability,
        shard.log.epoch,
        count_of(shard.log.segments_used as u64, "segment"),
        thousands(shard.log.segments_free as u64),
        thousands(shard.log.in_flight_bytes as u64)
    )?;
    match shard.log.room_s {
        Some(room_s) => writeln!(
            text,
            "room for {} bytes more: {:.0} s at the rate of the last minute",
            thousands(shard.log.room_bytes),
            room_s
        )?,
        None => writeln!(text, "room for {} bytes more", thousands(shard.log.room_bytes))?,
    }
    writeln!(text)?;
    write_stages(text, shard)?;
    writeln!(text)?;
    writeln!(text, "{:<28} {:>18} {:>14}", "COUNTER", "SINCE LAUNCH", "PER SECOND")?;
    for (name, value) in shard.counters.iter().filter(|(_, value)| **value > 0) {
        let rate =
            shard.rates.get(name).map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}"));
        writeln!(text, "{name:<28} {:>18} {rate:>14}", thousands(*value))?;
    }
    if shard.stalls > 0 {
        writeln!(text)?;
        writeln!(text, "{} turns took too long; the newest:", thousands(shard.stalls))?;
        for stall in shard.stall_log.iter().take(STALLS_MAX) {
            let ago = shard.unix_ns.saturating_sub(stall.unix_ns) / 1_000_000_000;
            writeln!(text, "  {} us in {}, {ago} s before", micros(stall.ns), stall.stage)?;
        }
    }
    writeln!(text)
}

/// Latency in the newest interval; where it has no message, that since launch.
fn write_stages(text: &mut String, shard: &ShardView) -> std::fmt::Result {
    let is_idle = shard.stages.values().all(|stage| stage.count == 0);
    let (stages, of) = if is_idle {
        (&shard.stages_total, format!("since launch, none in the last {:.1} s", shard.interval_s))
    } else {
        (&shard.stages, format!("in the last {:.1} s", shard.interval_s))
    };
    writeln!(text, "messages acknowledged {of}:")?;
    writeln!(
        text,
        "{:<18} {:>10} {:>11} {:>11} {:>11} {:>11} {:>11}",
        "LATENCY (us)", "MESSAGES", "P50", "P90", "P99", "P99.9", "MAX"
    )?;
    for stage in Stage::ALL {
        let Some(view) = stages.get(stage.name()) else { continue };
        writeln!(
            text,
            "{:<18} {:>10} {:>11} {:>11} {:>11} {:>11} {:>11}",
            stage.name(),
            thousands(view.count),
            micros(view.ns.p50),
            micros(view.ns.p90),
            micros(view.ns.p99),
            micros(view.ns.p99_9),
            micros(view.ns.max)
        )?;
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

fn write_streams(text: &mut String, streams: &[StreamView]) -> std::fmt::Result {
    if streams.is_empty() {
        return Ok(());
    }
    writeln!(
        text,
        "{:<32} {:>5} {:>14} {:>14} {:>18}",
        "STREAM", "SHARD", "FIRST", "NEXT", "PAYLOAD BYTES"
    )?;
    for stream in streams.iter().take(ROWS_MAX) {
        writeln!(
            text,
            "{:<32} {:>5} {:>14} {:>14} {:>18}",
            stream.name,
            stream.shard,
            thousands(stream.first_sequence),
            thousands(stream.durable_next),
            thousands(stream.payload_bytes)
        )?;
    }
    more(text, streams.len())
}

fn write_sessions(text: &mut String, sessions: &SessionsView) -> std::fmt::Result {
    let sessions = &sessions.sessions;
    if sessions.is_empty() {
        return Ok(());
    }
    writeln!(
        text,
        "{:<22} {:>5} {:>12} {:>14} {:>14} {:>13} {:>11}",
        "SESSION", "SHARD", "PRODUCER", "ACCEPTED TO", "DURABLE TO", "SUBSCRIPTIONS", "SILENT (ms)"
    )?;
    for session in sessions.iter().take(ROWS_MAX) {
        writeln!(
            text,
            "{:<22} {:>5} {:>12} {:>14} {:>14} {:>13} {:>11}",
            session.peer,
            session.shard,
            session.producer_id,
            thousands(session.accepted_to),
            thousands(session.durable_to),
            session.subscriptions,
            thousands(session.silent_ns / 1_000_000)
        )?;
    }
    more(text, sessions.len())
}

fn write_subscriptions(text: &mut String, sessions: &SessionsView) -> std::fmt::Result {
    let of = |session: &'_ SessionView| {
        let peer = session.peer.clone();
        session
            .subscribed
            .iter()
            .map(move |one| (peer.clone(), one.clone(), None))
            .collect::<Vec<_>>()
    };
    let lost = |lost: &LostView| {
        let silent_s = lost.silent_ns / 1_000_000_000;
        (lost.peer.clone(), lost.subscription.clone(), Some(silent_s))
    };
    let mut rows: Vec<_> = sessions.sessions.iter().flat_map(of).collect();
    rows.extend(sessions.lost.iter().map(lost));
    if rows.is_empty() {
        return Ok(());
    }
    // Whoever is most behind is what one looks for.
    rows.sort_by_key(|(_, one, _)| std::cmp::Reverse(one.lag_messages));
    writeln!(
        text,
        "{:<22} {:<32} {:>14} {:>14} {:>9}",
        "SUBSCRIPTION", "STREAM", "NEXT", "LAG", "LAG (s)"
    )?;
    for (peer, one, lost_s) in rows.iter().take(ROWS_MAX) {
        let state = match lost_s {
            Some(silent_s) => format!("  lost, silent for {} s", thousands(*silent_s)),
            None if one.stopped => "  stopped".to_owned(),
            None => String::new(),
        };
        writeln!(
            text,
            "{peer:<22} {:<32} {:>14} {:>14} {:>9.0}{state}",
            one.stream,
            thousands(one.next),
            thousands(one.lag_messages),
            one.lag_s,
        )?;
    }
    more(text, rows.len())
}

/// Producers without a session, the newest first.
fn write_gone(text: &mut String, views: &Views) -> std::fmt::Result {
    let producers = &views.producers.producers;
    let mut gone: Vec<_> = producers.iter().filter(|one| !one.connected).collect();
    if gone.is_empty() {
        return Ok(());
    }
    gone.sort_by_key(|one| std::cmp::Reverse((one.seen_unix_ns, one.producer_id)));
    let now_ns = views.unix_ns();
    writeln!(
        text,
        "{:<22} {:>5} {:>20} {:>14} {:>12}",
        "PRODUCER, GONE", "SHARD", "PRODUCER", "DURABLE TO", "ACTIVE s AGO"
    )?;
    for one in gone.iter().take(ROWS_MAX) {
        writeln!(
            text,
            "{:<22} {:>5} {:>20} {:>14} {:>12}{}",
            if one.peer.is_empty() { "-" } else { &one.peer },
            one.shard,
            one.producer_id,
            thousands(one.durable_to),
            thousands(now_ns.saturating_sub(one.seen_unix_ns) / 1_000_000_000),
            if one.ended { "  ended" } else { "" }
        )?;
    }
    more(text, gone.len())
}

fn more(text: &mut String, rows: usize) -> std::fmt::Result {
    if rows > ROWS_MAX {
        writeln!(text, "and {} more; see: -o json, or the socket's routes", rows - ROWS_MAX)?;
    }
    writeln!(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::state::StageView;

    fn shard(unix_ns: u64, newest: u64, total: u64) -> ShardView {
        let stage =
            |count| serde_json::json!({ "whole": StageView { count, ns: Default::default() } });
        let shard = serde_json::json!({
            "shard": 0, "condition": "serving", "silent_ms": 0, "address": "x", "disk": "d",
            "durability": "kernel-sync", "core": null, "epoch": 1, "segments_used": 1,
            "segments_free": 2, "in_flight_bytes": 0, "sessions": 0, "unix_ns": unix_ns,
            "interval_s": 1.0, "counters": {}, "rates": {}, "stages": stage(newest),
            "stages_total": stage(total), "stalls": 0, "stall_log": [],
        });
        serde_json::from_value(shard).unwrap()
    }

    fn shown(newest: u64, total: u64) -> String {
        let mut text = String::new();
        write_shard(&mut text, &shard(5_000_000_000, newest, total), 5_400_000_000).unwrap();
        text
    }

    #[test]
    fn how_old_a_report_is_and_which_messages_it_counts_is_said() {
        let text = shown(7, 1_500);
        assert!(text.contains(", no core of its own; as of 0.4 s ago\n"), "{text}");
        assert!(text.contains("messages acknowledged in the last 1.0 s:\n"), "{text}");
        assert!(text.contains("\nwhole                       7 "), "{text}");
        let idle = shown(0, 1_500);
        assert!(idle.contains("acknowledged since launch, none in the last 1.0 s:\n"), "{idle}");
        assert!(idle.contains("\nwhole                   1,500 "), "{idle}");
    }

    #[test]
    fn a_report_is_new_when_each_shard_has_made_it_since() {
        let view = |times: &[u64]| ShardsView {
            schema_version: 1,
            shards: times.iter().map(|&unix_ns| shard(unix_ns, 0, 0)).collect(),
        };
        assert!(is_since(&view(&[7, 8]), 7));
        assert!(!is_since(&view(&[7, 6]), 7));
        assert!(!is_since(&view(&[]), 7), "none has reported");
    }
}
