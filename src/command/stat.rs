//! `buslane stat`: what an appliance on this host is doing.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::{CommandError, Out};
use crate::admin::socket_path;
use crate::admin::state::{SessionsView, ShardView, ShardsView, StreamView, StreamsView};
use crate::cli::arguments::StatArgs;
use crate::cli::{Globals, Output};
use crate::metrics::stages::Stage;
use crate::profile;
use crate::report::{micros, thousands};

/// An appliance that answers takes less.
const PATIENCE: Duration = Duration::from_secs(5);

/// Rows of a table shown.
const ROWS_MAX: usize = 16;

/// Stalls shown.
const STALLS_MAX: usize = 4;

pub(super) fn stat(globals: &Globals, args: &StatArgs) -> Result<(), CommandError> {
    let profile = profile::load(globals.profile_or_default(), &globals.set)?;
    let Some(path) = socket_path(&profile)? else {
        let what = "metrics.socket is off in this profile: there is nothing to ask";
        return Err(CommandError::Usage(what.to_owned()));
    };
    let mut out = Out::stdout();
    loop {
        let shards: ShardsView = ask(&path, "/shards")?;
        if globals.output() == Output::Json {
            out.json(&shards)?;
        } else {
            let sessions: SessionsView = ask(&path, "/sessions")?;
            let streams: StreamsView = ask(&path, "/streams")?;
            let text = screen(&shards, &sessions, &streams);
            // From the top, when shown again.
            let clear = if args.watch.is_some() { "\x1b[H\x1b[2J" } else { "" };
            out.bytes(format!("{clear}{text}").as_bytes())?;
        }
        out.flush()?;
        let Some(seconds) = args.watch else { return out.finish() };
        pause(Duration::from_secs(seconds));
    }
}

#[allow(clippy::disallowed_methods, reason = "a person watches")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// One HTTP request over a unix socket.
fn ask<T: serde::de::DeserializeOwned>(path: &Path, route: &str) -> Result<T, CommandError> {
    let failed = |why: String| {
        let path = path.display();
        CommandError::Unreachable(format!(
            "{path}: {why}; is an appliance of this profile and `instance` running on this host, as this user?"
        ))
    };
    let mut stream = UnixStream::connect(path).map_err(|error| failed(error.to_string()))?;
    let mut answer = Vec::new();
    stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| {
            write!(stream, "GET {route} HTTP/1.1\r\nHost: buslane\r\nConnection: close\r\n\r\n")
        })
        .and_then(|()| stream.read_to_end(&mut answer))
        .map_err(|error| failed(error.to_string()))?;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    if !head.starts_with("HTTP/1.1 200") {
        return Err(failed(format!("it answered {}", head.lines().next().unwrap_or("nothing"))));
    }
    serde_json::from_str(body)
        .map_err(|error| failed(format!("it answered what this version does not know: {error}")))
}

fn screen(shards: &ShardsView, sessions: &SessionsView, streams: &StreamsView) -> String {
    let mut text = String::new();
    if shards.shards.is_empty() {
        text.push_str("no shard has reported yet\n");
    }
    for shard in &shards.shards {
        // Writing to a String does not fail.
        let _ = write_shard(&mut text, shard);
    }
    let _ = write_streams(&mut text, &streams.streams);
    let _ = write_sessions(&mut text, sessions);
    text
}

fn write_shard(text: &mut String, shard: &ShardView) -> std::fmt::Result {
    let core =
        shard.core.map_or_else(|| "no core of its own".into(), |core| format!("core {core}"));
    writeln!(text, "shard {}: {} on {}, {core}", shard.shard, shard.condition, shard.address)?;
    writeln!(
        text,
        "disk {} ({}), epoch {}, {} segments used, {} free, {} bytes in flight",
        shard.disk,
        shard.durability,
        shard.epoch,
        thousands(shard.segments_used as u64),
        thousands(shard.segments_free as u64),
        thousands(shard.in_flight_bytes as u64)
    )?;
    writeln!(text)?;
    writeln!(
        text,
        "{:<18} {:>10} {:>11} {:>11} {:>11} {:>11} {:>11}",
        "LATENCY (us)", "MESSAGES", "P50", "P90", "P99", "P99.9", "MAX"
    )?;
    for stage in Stage::ALL {
        let Some(view) = shard.stages.get(stage.name()) else { continue };
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

fn more(text: &mut String, rows: usize) -> std::fmt::Result {
    if rows > ROWS_MAX {
        writeln!(text, "and {} more; see: -o json, or the socket's routes", rows - ROWS_MAX)?;
    }
    writeln!(text)
}
