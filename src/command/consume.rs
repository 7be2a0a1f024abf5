//! `buslane consume`: a stream to stdout, from anywhere on.

use std::sync::atomic::Ordering;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;

use super::connect::connect;
use super::publish::missing;
use super::{CommandError, Out};
use crate::cli::arguments::ConsumeArgs;
use crate::cli::{Globals, Output, parse};
use crate::client::blocking::Message;
use crate::client::{Publisher, StartFrom};
use crate::launch::catch_signals;

#[derive(Serialize)]
struct Row<'a> {
    stream: &'a str,
    sequence: u64,
    received_ns: u64,
    producer_id: u64,
    producer_seq: u64,
    payload_base64: String,
}

pub(super) fn consume(globals: &Globals, args: &ConsumeArgs) -> Result<(), CommandError> {
    let mut client = connect(globals, Publisher::No)?;
    let stream =
        client.describe_stream(&args.stream).map_err(|error| missing(error, &args.stream))?;
    // From here on an appliance that goes away is waited for.
    client.polled().set_dead_after_ns(u64::MAX);
    let interrupted = catch_signals()?;
    let from = match args.from {
        parse::From::Start => StartFrom::Start,
        parse::From::End => StartFrom::End,
        parse::From::Sequence(sequence) => StartFrom::Sequence(sequence),
        parse::From::Time(unix_ns) => StartFrom::Time(unix_ns),
    };
    let (start, durable_next) = client.subscribe(stream.id, from)?;
    let end = if args.follow { u64::MAX } else { durable_next };
    let end = end.min(start.saturating_add(args.count.unwrap_or(u64::MAX)));
    let mut out = Out::stdout();
    let mut next = start;
    while next < end {
        if interrupted.load(Ordering::Relaxed) {
            out.finish()?;
            return Err(CommandError::Interrupted);
        }
        let Some(message) = client.try_message()? else {
            // Whoever follows wants to see what there is now.
            out.flush()?;
            continue;
        };
        next = message.sequence + 1;
        write(&mut out, globals.output(), &args.stream, &message)?;
    }
    client.close();
    out.finish()
}

fn write(
    out: &mut Out,
    output: Output,
    stream: &str,
    message: &Message,
) -> Result<(), CommandError> {
    match output {
        Output::Raw => out.bytes(&message.payload),
        Output::Json => out.json(&Row {
            stream,
            sequence: message.sequence,
            received_ns: message.received_ns,
            producer_id: message.producer.0,
            producer_seq: message.producer_seq,
            payload_base64: BASE64_STANDARD.encode(&message.payload),
        }),
        Output::Text => {
            let seconds = message.received_ns / 1_000_000_000;
            let nanos = message.received_ns % 1_000_000_000;
            let payload = message.payload.escape_ascii();
            out.line(&format!("{} @{seconds}.{nanos:09} {payload}", message.sequence))
        }
    }
}
