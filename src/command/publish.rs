//! `buslane publish`: messages from a file or a pipe onto media.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use super::connect::connect_publisher;
use super::itch::timestamp_ns;
use super::progress::Progress;
use super::source::{Next, Source};
use super::{CommandError, Out};
use crate::cli::arguments::PublishArgs;
use crate::cli::{Globals, Output};
use crate::client::Completion;
use crate::client::blocking::Client;
use crate::clock::Clock;
use crate::ids::StreamId;
use crate::launch::{AnyPort, catch_signals};
use crate::measure::Schedule;
use crate::metrics::latency::{LatencyHistogram, Percentiles};
use crate::report::{micros, thousands};
use crate::wire::publish::PublishState;

/// How long acknowledgements may still come from an appliance that takes no more messages.
const SETTLE_NS: u64 = 300_000_000;

/// How long a command that was told to end waits for acknowledgements still.
const PARTING_NS: u64 = 2_000_000_000;

/// What was done.
#[derive(Debug, Serialize)]
struct Summary {
    schema_version: u32,
    stream: String,
    producer_id: u64,
    published: u64,
    acknowledged: u64,
    first_sequence: Option<u64>,
    last_sequence: Option<u64>,
    durability: &'static str,
    seconds: f64,
    /// Acknowledgement minus offer.
    ack_ns: Percentiles,
}

/// What is counted while publishing.
#[derive(Debug)]
struct Tally {
    acknowledged: u64,
    first: Option<u64>,
    last: Option<u64>,
    durability: &'static str,
    ack: LatencyHistogram,
    /// When something was last acknowledged.
    moved_ns: u64,
    interrupted: Arc<AtomicBool>,
    /// When that was first seen.
    interrupted_ns: Option<u64>,
}

impl Tally {
    fn take(&mut self, now_ns: u64, completion: &Completion) {
        self.acknowledged += 1;
        self.moved_ns = now_ns;
        let sequence = completion.receipt.sequence.map(std::num::NonZeroU64::get);
        self.first = self.first.or(sequence);
        self.last = sequence.or(self.last);
        self.durability = completion.receipt.durability.name();
        self.ack.record(now_ns.saturating_sub(completion.offered_ns));
    }
}

pub(super) fn publish(globals: &Globals, args: &PublishArgs) -> Result<(), CommandError> {
    let (mut source, name) = Source::open(&args.source)?;
    let (mut client, stream) = connect_publisher(globals, &args.stream)?;
    // From here on an appliance that goes away is waited for.
    client.polled().set_dead_after_ns(u64::MAX);
    let interrupted = catch_signals()?;
    let producer_id = client.polled().producer().0.0;
    let begin_ns = client.polled().clock().now_ns();
    let schedule = Schedule::new(begin_ns, args.rate, 1);
    let progress = Progress::new(globals.quiet, "messages", args.count);
    let mut tally = Tally {
        acknowledged: 0,
        first: None,
        last: None,
        durability: "unknown",
        ack: LatencyHistogram::new(),
        moved_ns: begin_ns,
        interrupted: Arc::clone(&interrupted),
        interrupted_ns: None,
    };
    let (mut published, mut first_time_ns) = (0, None);
    let limit = args.count.unwrap_or(u64::MAX);
    while published < limit {
        let next = source.next().map_err(|why| CommandError::Failed(format!("{name}: {why}")))?;
        let message = match next {
            Next::Message(message) => message,
            Next::NotYet => {
                take(&mut client, &mut tally)?;
                if interrupted.load(Ordering::Relaxed) {
                    break;
                }
                continue;
            }
            Next::End => break,
        };
        let due_ns = if args.pace {
            let time_ns = timestamp_ns(message).unwrap_or(0);
            let first = *first_time_ns.get_or_insert(time_ns);
            begin_ns + time_ns.saturating_sub(first)
        } else {
            schedule.intended_ns(published).unwrap_or(0)
        };
        wait_until(&mut client, due_ns, &mut tally)?;
        if interrupted.load(Ordering::Relaxed) {
            break;
        }
        offer(&mut client, stream.id, message, &mut tally)?;
        published += 1;
        if published % 1024 == 0 {
            progress.set(published);
        }
    }
    finish(&mut client, &mut tally)?;
    let seconds = seconds_since(begin_ns, client.polled().clock().now_ns());
    drop(progress);
    client.close();
    let summary = Summary {
        schema_version: 1,
        stream: args.stream.clone(),
        producer_id,
        published,
        acknowledged: tally.acknowledged,
        first_sequence: tally.first,
        last_sequence: tally.last,
        durability: tally.durability,
        seconds,
        ack_ns: tally.ack.percentiles(),
    };
    print(globals, &summary)?;
    if interrupted.load(Ordering::Relaxed) { Err(CommandError::Interrupted) } else { Ok(()) }
}

/// An unknown stream gets the command that makes it.
pub(super) fn missing(error: crate::client::blocking::Error, name: &str) -> CommandError {
    use crate::client::blocking::Error;
    match error {
        Error::Refused { code: crate::wire::control::ErrorCode::UnknownStream, .. } => {
            CommandError::Failed(format!(
                "stream {name}: no such stream; make it with: buslane stream create {name}"
            ))
        }
        error @ (Error::Port(_)
        | Error::Client(_)
        | Error::Offer(_)
        | Error::Refused { .. }
        | Error::Redirected { .. }
        | Error::Trimmed { .. }
        | Error::DataLoss { .. }) => error.into(),
    }
}

fn offer(
    client: &mut Client<AnyPort>,
    stream: StreamId,
    message: &[u8],
    tally: &mut Tally,
) -> Result<(), CommandError> {
    use crate::client::OfferError;
    loop {
        match client.polled().offer(stream, message) {
            Ok(_) => return Ok(()),
            Err(OfferError::BackPressure(_) | OfferError::NotConnected) => take(client, tally)?,
            Err(error @ (OfferError::TooLarge { .. } | OfferError::NotAPublisher)) => {
                return Err(CommandError::Failed(error.to_string()));
            }
        }
    }
}

fn take(client: &mut Client<AnyPort>, tally: &mut Tally) -> Result<(), CommandError> {
    client.turn()?;
    let now_ns = client.polled().clock().now_ns();
    while let Some(completion) = client.next_completion() {
        tally.take(now_ns, &completion);
    }
    if tally.interrupted.load(Ordering::Relaxed) {
        let since_ns = *tally.interrupted_ns.get_or_insert(now_ns);
        if now_ns.saturating_sub(since_ns.max(tally.moved_ns)) > PARTING_NS {
            return Err(CommandError::Failed(format!(
                "interrupted, and the appliance does not answer: {} messages are acknowledged, {} more were sent \
                 and may still be stored",
                thousands(tally.acknowledged),
                thousands(client.polled().outstanding())
            )));
        }
    }
    let why = match client.polled().publish_state() {
        PublishState::Open | PublishState::Draining => return Ok(()),
        PublishState::NoSpace => "the log is full",
        PublishState::Failed => "the appliance's disk failed",
    };
    // What is on its way to the media is still acknowledged.
    if now_ns.saturating_sub(tally.moved_ns) < SETTLE_NS {
        return Ok(());
    }
    Err(CommandError::Failed(format!(
        "{why}: {} messages are acknowledged, the rest is not stored; make room \
         (buslane stream trim, or a larger disk.size) and publish the rest",
        thousands(tally.acknowledged)
    )))
}

fn wait_until(
    client: &mut Client<AnyPort>,
    due_ns: u64,
    tally: &mut Tally,
) -> Result<(), CommandError> {
    while client.polled().clock().now_ns() < due_ns {
        take(client, tally)?;
    }
    Ok(())
}

fn finish(client: &mut Client<AnyPort>, tally: &mut Tally) -> Result<(), CommandError> {
    while client.polled().outstanding() > 0 {
        take(client, tally)?;
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "seconds for people")]
fn seconds_since(begin_ns: u64, end_ns: u64) -> f64 {
    (end_ns - begin_ns) as f64 / 1e9
}

fn print(globals: &Globals, summary: &Summary) -> Result<(), CommandError> {
    let mut out = Out::stdout();
    if globals.output() == Output::Json {
        out.json(summary)?;
    } else if !globals.quiet {
        out.line(&format!(
            "{} messages published to {}, {} acknowledged ({}) in {:.3} s; ack p50 {} us, p99 {} us",
            thousands(summary.published),
            summary.stream,
            thousands(summary.acknowledged),
            summary.durability,
            summary.seconds,
            micros(summary.ack_ns.p50),
            micros(summary.ack_ns.p99),
        ))?;
    }
    out.finish()
}
