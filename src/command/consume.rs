//! `buslane consume`: a stream to stdout, from anywhere on.

use std::sync::atomic::Ordering;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;

use super::connect::{Route, connect};
use super::framed::FramedWriter;
use super::idle::Idle;
use super::outage::Outage;
use super::publish::{STALL_NS, missing};
use super::{CommandError, Out, note, note_session, record, told_to_end};
use crate::cli::arguments::ConsumeArgs;
use crate::cli::{Globals, Output};
use crate::client::blocking::{Client, Error, Message};
use crate::client::{Publisher, StartFrom, StreamDescription};
use crate::clock::Clock;
use crate::ids::StreamId;
use crate::port::AnyPort;
use crate::report::thousands;

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
    note_session(globals, &mut client);
    check_position(&stream, args.from)?;
    record(&mut client, args.history.as_deref())?;
    // From here on an appliance that goes away is waited for.
    client.polled().set_dead_after_ns(u64::MAX);
    let interrupted = told_to_end()?;
    let (start, durable_next) =
        client.subscribe(stream.id, args.from).map_err(|error| about(error, &args.stream))?;
    // A time that has not come yet: what is stored before it is not asked for.
    let mut not_before_ns = None;
    if let StartFrom::Time(unix_ns) = args.from
        && start == durable_next
    {
        not_before_ns = Some(unix_ns);
    }
    if not_before_ns.is_some() && !globals.quiet {
        let has = what_it_has(&stream);
        note(&format!("stream {} has nothing that new yet: {has}", args.stream));
    }
    let end = if args.follow { u64::MAX } else { durable_next };
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut writer = Writer::begin(globals.output(), &args.stream)?;
    let (mut idle, mut route) = (Idle::default(), Route::of(globals));
    let (mut next, mut stalled_ns) = (start, None);
    let mut outage = Outage::new(globals.quiet);
    while next < end && left > 0 {
        if interrupted.load(Ordering::Relaxed) {
            writer.out.finish()?;
            client.polled().end_history().map_err(CommandError::Failed)?;
            return Err(interrupted_at(next));
        }
        let message = client.try_message().map_err(|error| about(error, &args.stream))?;
        let Some(message) = message else {
            // Whoever follows wants to see what there is now.
            writer.out.flush()?;
            client.polled().flush_history().map_err(CommandError::Failed)?;
            route.keep(client.polled());
            outage.watch(client.polled(), || format!("{} is the next message", thousands(next)));
            idle.rest(&mut client, 0, None, None);
            check_stall(&mut client, args.follow.then_some(stream.id), &mut stalled_ns);
            continue;
        };
        (idle, stalled_ns) = (Idle::default(), None);
        next = message.sequence + 1;
        if not_before_ns.is_some_and(|ns| message.received_ns < ns) {
            continue;
        }
        not_before_ns = None;
        left -= 1;
        writer.message(&message)?;
    }
    let recorded = client.polled().end_history().map_err(CommandError::Failed);
    client.close();
    writer.end()?;
    recorded
}

/// Says how to go on.
fn interrupted_at(next: u64) -> CommandError {
    CommandError::Stopped(format!("interrupted; --from {next} goes on behind what was written"))
}

/// Messages are there, the appliance answers, and none arrives: likely the path takes no large datagrams.
/// Who follows may wait for what is not there yet, unless the appliance has said that it is.
fn check_stall(
    client: &mut Client<AnyPort>,
    follows: Option<StreamId>,
    stalled_ns: &mut Option<u64>,
) {
    let client = client.polled();
    let may_wait = follows.is_some_and(|stream| !client.lacks(stream));
    if may_wait || !client.is_connected() {
        *stalled_ns = None;
        return;
    }
    let now_ns = client.clock().now_ns();
    let since_ns = *stalled_ns.get_or_insert(now_ns);
    if since_ns > 0 && now_ns.saturating_sub(since_ns) > STALL_NS {
        *stalled_ns = Some(0);
        note(
            "the appliance answers, and of what the stream has nothing came for 5 s; where the network carries no \
             datagrams as large as these: --set client.port.datagram_bytes=576",
        );
    }
}

/// What a stream holds, in words.
pub(super) fn what_it_has(stream: &StreamDescription) -> String {
    let (first, next) = (stream.log_start, stream.durable_next);
    if first == next {
        return format!("it is empty, and its next message will be {}", thousands(next));
    }
    let (first, last) = (thousands(first), thousands(next - 1));
    format!("it has {first} to {last}, and the next will be {}", thousands(next))
}

/// A position beyond the end is of another log, or a slip: nothing would ever come of it.
fn check_position(stream: &StreamDescription, from: StartFrom) -> Result<(), CommandError> {
    let StartFrom::Sequence(wanted) = from else { return Ok(()) };
    if wanted <= stream.durable_next {
        return Ok(());
    }
    let (wanted, has) = (thousands(wanted), what_it_has(stream));
    let name = &stream.name;
    Err(CommandError::Failed(format!("stream {name} has no message {wanted} yet: {has}")))
}

/// What ends a subscription, by the name of the stream rather than its number.
fn about(error: Error, name: &str) -> CommandError {
    CommandError::Failed(match error {
        Error::Trimmed { log_start, .. } => {
            let first = thousands(log_start);
            format!(
                "stream {name}: what was asked for is trimmed; the oldest message kept is {first}"
            )
        }
        Error::BeyondEnd { position, next, .. } => format!(
            "stream {name} has no message {} yet: the next will be {}; was the log set up anew?",
            thousands(position),
            thousands(next)
        ),
        Error::DataLoss { first, last, .. } => {
            let (first, last) = (thousands(first), thousands(last));
            format!("stream {name}: sequences {first} to {last} are damaged on the media")
        }
        Error::TooLarge { sequence, needs, takes, limit, .. } => format!(
            "stream {name}: message {} needs datagrams of {needs} bytes, and this consumer gets {takes}: raise \
             {limit}",
            thousands(sequence)
        ),
        error @ (Error::Port(_)
        | Error::Client(_)
        | Error::Offer(_)
        | Error::Argument { .. }
        | Error::Refused { .. }
        | Error::Redirected { .. }) => return error.into(),
    })
}

/// Messages on their way out.
struct Writer<'a> {
    out: Out,
    output: Output,
    stream: &'a str,
    framed: Option<FramedWriter>,
}

impl<'a> Writer<'a> {
    fn begin(output: Output, stream: &'a str) -> Result<Self, CommandError> {
        let mut out = Out::stdout();
        let framed = match output {
            Output::Framed => Some(FramedWriter::begin(&mut out)?),
            Output::Text | Output::Json | Output::Raw => None,
        };
        Ok(Self { out, output, stream, framed })
    }

    fn message(&mut self, message: &Message) -> Result<(), CommandError> {
        if let Some(framed) = &mut self.framed {
            return framed.message(&mut self.out, &message.payload);
        }
        write(&mut self.out, self.output, self.stream, message)
    }

    fn end(mut self) -> Result<(), CommandError> {
        if let Some(framed) = self.framed {
            framed.end(&mut self.out)?;
        }
        self.out.finish()
    }
}

fn write(
    out: &mut Out,
    output: Output,
    stream: &str,
    message: &Message,
) -> Result<(), CommandError> {
    match output {
        Output::Raw | Output::Framed => out.bytes(&message.payload),
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
