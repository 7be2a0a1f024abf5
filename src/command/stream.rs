//! `buslane stream`: streams made, listed and described.

use std::io::{IsTerminal, Write};

use serde::Serialize;

use super::connect::{connect, connect_shard};
use super::consume::what_it_has;
use super::keepers::Before;
use super::publish::missing;
use super::{CommandError, Out};
use crate::cli::arguments::StreamCommand;
use crate::cli::{Globals, Output};
use crate::client::blocking::Client;
use crate::client::{Publisher, StartFrom, StreamDescription};
use crate::port::AnyPort;
use crate::report::thousands;
use crate::wire::control::is_stream_name;

#[derive(Serialize)]
struct Row {
    id: u32,
    name: String,
    first_sequence: u64,
    next_sequence: u64,
    messages: u64,
    payload_bytes: u64,
    created_ns: u64,
    shard: u32,
}

#[derive(Serialize)]
struct List {
    schema_version: u32,
    streams: Vec<Row>,
}

impl From<StreamDescription> for Row {
    fn from(stream: StreamDescription) -> Self {
        Self {
            id: stream.id.0,
            name: stream.name,
            first_sequence: stream.log_start,
            next_sequence: stream.durable_next,
            messages: stream.durable_next - stream.log_start,
            payload_bytes: stream.bytes,
            created_ns: stream.created_ns,
            shard: stream.shard,
        }
    }
}

pub(super) fn stream(globals: &Globals, command: &StreamCommand) -> Result<(), CommandError> {
    let name = match command {
        StreamCommand::Create { name, .. }
        | StreamCommand::Describe { name }
        | StreamCommand::Trim { name, .. } => name.as_str(),
        StreamCommand::List => "any",
    };
    if !is_stream_name(name) {
        return Err(CommandError::Usage(format!(
            "`{name}` cannot name a stream: 1 to 64 letters, digits, `.`, `_`, `-`, `/` or `:`, not \
             starting with `.`"
        )));
    }
    let mut client = connect(globals, Publisher::No)?;
    let rows: Vec<Row> = match command {
        StreamCommand::Create { name, shard: None } => vec![client.create_stream(name)?.into()],
        StreamCommand::Create { name, shard: Some(shard) } => {
            vec![create_on(&mut client, name, *shard)?.into()]
        }
        StreamCommand::Describe { name } => {
            let found = client.describe_stream(name).map_err(|error| missing(error, name))?;
            vec![found.into()]
        }
        StreamCommand::Trim { name, before, keep } => {
            let found = client.describe_stream(name).map_err(|error| missing(error, name))?;
            let first = first_kept(&mut client, &found, *before, *keep)?;
            confirm(globals, &found, first)?;
            let looks = first > found.log_start && !globals.quiet;
            let before = if looks { Before::trim(globals, &found) } else { None };
            let trimmed = client.trim_stream(found.id, first)?;
            if let Some(before) = before {
                before.tell_of_older();
            }
            vec![trimmed.into()]
        }
        StreamCommand::List => {
            let rows = list(globals, client)?;
            return print(globals, rows.into_iter().map(Row::from).collect());
        }
    };
    client.close();
    print(globals, rows)
}

fn create_on(
    client: &mut Client<AnyPort>,
    name: &str,
    shard: u32,
) -> Result<StreamDescription, CommandError> {
    let shards = client.polled().shards().shards;
    if shard >= shards {
        let has = match shards {
            1 => "one shard, 0".to_owned(),
            _ => format!("shards 0 to {}", shards - 1),
        };
        let what = format!("--shard {shard}: this appliance has {has}");
        return Err(CommandError::Usage(what));
    }
    // The only shard needs not be named, and one of an earlier release does not know how it is.
    let stream = if shards == 1 {
        client.create_stream(name)?
    } else {
        client.create_stream_on(name, shard)?
    };
    if stream.shard != shard {
        let what = format!(
            "stream {name} is on shard {}, where it stays; nothing was changed",
            stream.shard
        );
        return Err(CommandError::Failed(what));
    }
    Ok(stream)
}

/// The streams of all shards, one session after the other over the same port.
fn list(
    globals: &Globals,
    mut client: Client<AnyPort>,
) -> Result<Vec<StreamDescription>, CommandError> {
    let all = client.polled().shards();
    let mut streams = Vec::new();
    for shard in 0..all.shards {
        if client.polled().shards().shard != shard {
            // The session told of the shards that there are.
            let Some(server) = all.address_of(shard) else { break };
            let by = client.polled().server();
            client = connect_shard(globals, client.close(), shard, server, by)?;
        }
        streams.extend(client.list_streams()?);
    }
    client.close();
    Ok(streams)
}

fn print(globals: &Globals, rows: Vec<Row>) -> Result<(), CommandError> {
    let mut out = Out::stdout();
    if globals.output() == Output::Json {
        out.json(&List { schema_version: 1, streams: rows })?;
    } else {
        out.line(&format!(
            "{:<32} {:>5} {:>6} {:>14} {:>14} {:>16}",
            "NAME", "SHARD", "ID", "FIRST", "NEXT", "PAYLOAD BYTES"
        ))?;
        for row in rows {
            out.line(&format!(
                "{:<32} {:>5} {:>6} {:>14} {:>14} {:>16}",
                row.name,
                row.shard,
                row.id,
                thousands(row.first_sequence),
                thousands(row.next_sequence),
                thousands(row.payload_bytes)
            ))?;
        }
    }
    out.finish()
}

/// The first sequence that is to be kept.
fn first_kept(
    client: &mut Client<AnyPort>,
    stream: &StreamDescription,
    before: Option<StartFrom>,
    keep: Option<u64>,
) -> Result<u64, CommandError> {
    let (start, next) = (stream.log_start, stream.durable_next);
    let first = match before {
        Some(StartFrom::Time(unix_ns)) => client.subscribe(stream.id, StartFrom::Time(unix_ns))?.0,
        Some(StartFrom::Sequence(sequence)) => sequence,
        Some(StartFrom::Start) => start,
        Some(StartFrom::End) => next,
        None => next.saturating_sub(keep.unwrap_or(u64::MAX)),
    };
    if first > next {
        let name = &stream.name;
        let (first, has) = (thousands(first), what_it_has(stream));
        return Err(CommandError::Usage(format!(
            "stream {name} has no message {first} yet: {has}; --before end keeps nothing"
        )));
    }
    Ok(first.max(start))
}

/// Asks whether to remove what is below `first`; without anybody to ask, `--yes` has to be there.
fn confirm(globals: &Globals, stream: &StreamDescription, first: u64) -> Result<(), CommandError> {
    let count = first - stream.log_start;
    if globals.yes || count == 0 {
        return Ok(());
    }
    let what = format!("{} messages of stream {}", thousands(count), stream.name);
    if !std::io::stdin().is_terminal() {
        let what = format!("this removes {what} for good: add --yes");
        return Err(CommandError::Usage(what));
    }
    // Where stderr is closed, nobody is asked, and the answer is no.
    let _ = write!(std::io::stderr(), "remove {what} for good? [y/N] ");
    let mut answer = String::new();
    let _ = std::io::stdin().read_line(&mut answer);
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(CommandError::Failed("nothing was removed".to_owned())),
    }
}
