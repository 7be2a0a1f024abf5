//! `buslane stream`: streams made, listed and described.

use serde::Serialize;

use super::connect::connect;
use super::publish::missing;
use super::{CommandError, Out};
use crate::cli::arguments::StreamCommand;
use crate::cli::{Globals, Output};
use crate::client::{Publisher, StreamDescription};
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
        StreamCommand::Create { name } | StreamCommand::Describe { name } => name.as_str(),
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
        StreamCommand::Create { name } => vec![client.create_stream(name)?.into()],
        StreamCommand::Describe { name } => {
            let found = client.describe_stream(name).map_err(|error| missing(error, name))?;
            vec![found.into()]
        }
        StreamCommand::List => client.list_streams()?.into_iter().map(Row::from).collect(),
    };
    client.close();
    let mut out = Out::stdout();
    if globals.output() == Output::Json {
        out.json(&List { schema_version: 1, streams: rows })?;
    } else {
        out.line(&format!(
            "{:<32} {:>6} {:>14} {:>14} {:>16}",
            "NAME", "ID", "FIRST", "NEXT", "PAYLOAD BYTES"
        ))?;
        for row in rows {
            out.line(&format!(
                "{:<32} {:>6} {:>14} {:>14} {:>16}",
                row.name,
                row.id,
                thousands(row.first_sequence),
                thousands(row.next_sequence),
                thousands(row.payload_bytes)
            ))?;
        }
    }
    out.finish()
}
