//! `buslane publish`: messages from a file or a pipe onto media.
//!
//! However it ends, it says how far it came: acknowledged are always the first messages of the input, so that
//! `--skip` with their number goes on behind them.

mod before;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use self::before::Before;
use super::connect::{Route, connect_publisher};
use super::idle::Idle;
use super::outage::Outage;
use super::progress::Progress;
use super::source::{Next, Source};
use super::{CommandError, Out, note, note_session, record, told_to_end};
use crate::cli::arguments::PublishArgs;
use crate::cli::{Globals, Output};
use crate::client::blocking::{Client, Error};
use crate::client::{ClientError, Compared, Completion, OfferError, Publisher};
use crate::clock::Clock;
use crate::ids::{ProducerName, StreamId};
use crate::itch::timestamp_ns;
use crate::measure::Schedule;
use crate::metrics::latency::{LatencyHistogram, Percentiles};
use crate::port::AnyPort;
use crate::report::{count_of, micros, thousands};
use crate::wire::control::{CodedError, ErrorCode};
use crate::wire::publish::PublishState;

/// How long acknowledgements may still come from an appliance that takes no more messages.
const SETTLE_NS: u64 = 300_000_000;

/// How long a command that was told to end waits for acknowledgements still.
const PARTING_NS: u64 = 2_000_000_000;

/// After so long without a message or an acknowledgement from an appliance that answers, that is said.
pub(super) const STALL_NS: u64 = 5_000_000_000;

/// What was done.
#[derive(Debug, Serialize)]
struct Summary {
    schema_version: u32,
    stream: String,
    producer_id: u64,
    /// Left out at the beginning of the input.
    skipped: u64,
    published: u64,
    acknowledged: u64,
    /// Whether all that was to be published is acknowledged.
    complete: bool,
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
    skipped: u64,
    published: u64,
    acknowledged: u64,
    first: Option<u64>,
    last: Option<u64>,
    durability: &'static str,
    ack: LatencyHistogram,
    /// When something was last acknowledged.
    moved_ns: u64,
    /// What became of what is not acknowledged.
    rest: Rest,
    /// The producer, where it has a name.
    of: Option<ProducerName>,
}

/// What became of messages that were sent and not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// They may be stored.
    Unknown,
    /// They were refused, and are not stored.
    Refused,
    /// What answers now is not the log that acknowledged the others, or lacks some of them; so many of this producer's it
    /// has, where that is known.
    OtherLog(Option<u64>),
}

impl Rest {
    fn after(error: &Error) -> Self {
        let Error::Client(error) = error else { return Self::Unknown };
        match *error {
            ClientError::Behind { what: Compared::Messages, found, .. } => {
                Self::OtherLog(Some(found))
            }
            ClientError::Behind { .. }
            | ClientError::OtherLog { .. }
            | ClientError::OtherHistory { .. }
            | ClientError::OtherProducer { what: Compared::Producer, .. }
            | ClientError::Refused(CodedError { code: ErrorCode::UnknownProducer, .. }) => {
                Self::OtherLog(None)
            }
            ClientError::Unreachable { .. }
            | ClientError::ShardUnreachable { .. }
            | ClientError::Unanswered { .. }
            | ClientError::UnknownKey { .. }
            | ClientError::OtherVersion { .. }
            | ClientError::TooLarge { .. }
            | ClientError::Refused(_)
            // In the same log, as another program.
            | ClientError::OtherProducer { .. }
            | ClientError::Nonsense { .. }
            | ClientError::DamagedMessage { .. } => Self::Unknown,
        }
    }
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

    /// How far it came and how to go on, for a command that ends before its input.
    fn so_far(&self) -> String {
        let acknowledged = thousands(self.acknowledged);
        if let Some(name) = self.of.filter(|_| !matches!(self.rest, Rest::OtherLog(_))) {
            return format!(
                "{acknowledged} messages are acknowledged; the same command goes on behind what is stored of \
                 producer {}",
                name.as_str()
            );
        }
        let (unknown, through) =
            (self.published - self.acknowledged, self.skipped + self.acknowledged);
        if let Rest::OtherLog(has) = self.rest {
            let has = has.map_or_else(
                || "look at the end of its stream for what it has".to_owned(),
                |has| format!("--skip {} goes on behind what it has", self.skipped + has),
            );
            return format!(
                "{acknowledged} messages are acknowledged, by the log that was there before: bring it back, and \
                 --skip {through} goes on behind them; to give up what only that log has, {has}"
            );
        }
        if unknown > 0 && self.rest == Rest::Unknown {
            return format!(
                "{acknowledged} messages are acknowledged, {} more were sent and may still be stored; look at the \
                 end of the stream before --skip {through} goes on behind the acknowledged ones",
                thousands(unknown)
            );
        }
        let on = match through {
            0 => String::new(),
            through => format!("; --skip {through} goes on behind them"),
        };
        format!("{acknowledged} messages are acknowledged{on}")
    }
}

/// Why no more is read from the input.
#[derive(Debug)]
enum Ended {
    /// All is read, and what is to be said of that.
    Whole(Option<&'static str>),
    Interrupted,
    /// What is wrong with the input.
    Input(String),
}

/// What kept a publisher from its stream, and how far it came.
fn nothing_acknowledged(error: CommandError) -> CommandError {
    let say = |why: String| format!("{why}; 0 messages are acknowledged");
    match error {
        CommandError::Failed(why) => CommandError::Failed(say(why)),
        CommandError::Unreachable(why) => CommandError::Unreachable(say(why)),
        CommandError::Usage(_)
        | CommandError::Warnings(_)
        | CommandError::Interrupted
        | CommandError::Stopped(_)
        | CommandError::OutputClosed => error,
    }
}

pub(super) fn publish(globals: &Globals, args: &PublishArgs) -> Result<(), CommandError> {
    let (source, name) = Source::open(&args.source)?;
    let publisher = args
        .producer
        .map_or(Publisher::New, |name| Publisher::Named { name, take_over: args.take_over });
    let (mut client, stream) =
        connect_publisher(globals, &args.stream, publisher).map_err(nothing_acknowledged)?;
    let before = match args.producer {
        Some(name) => Before::of(&mut client, &stream, name)?,
        None => Before { messages: args.skip, last: None, of: None },
    };
    // From here on an appliance that goes away is waited for.
    client.polled().set_dead_after_ns(u64::MAX);
    note_session(globals, &mut client);
    record(&mut client, args.history.as_deref())?;
    let interrupted = told_to_end()?;
    let producer_id = client.polled().producer().0.0;
    let begin_ns = client.polled().clock().now_ns();
    let tally = Tally {
        skipped: 0,
        published: 0,
        acknowledged: 0,
        first: None,
        last: None,
        durability: "unknown",
        ack: LatencyHistogram::new(),
        moved_ns: begin_ns,
        rest: Rest::Unknown,
        of: before.of,
    };
    let route = Route::of(globals);
    let mut work = Work {
        client,
        stream: stream.id,
        source,
        tally,
        idle: Idle::default(),
        outage: Outage::new(globals.quiet),
        route,
        interrupted,
        interrupted_ns: None,
        stalled_ns: None,
    };
    let progress = Progress::new(globals.quiet, "messages", args.count);
    // What was read before the input ended, in whatever way, is on media first.
    let ended = work.feed(args, &before, &progress).and_then(|ended| work.finish().map(|()| ended));
    drop(progress);
    let Work { mut client, tally, .. } = work;
    let seconds = seconds_since(begin_ns, client.polled().clock().now_ns());
    let recorded = client.polled().end_history().map_err(CommandError::Failed);
    if args.producer.is_some() {
        drop(client.close());
    } else {
        client.retire();
    }
    let summary = Summary {
        schema_version: 1,
        stream: args.stream.clone(),
        producer_id,
        skipped: tally.skipped,
        published: tally.published,
        acknowledged: tally.acknowledged,
        complete: matches!(ended, Ok(Ended::Whole(_))),
        first_sequence: tally.first,
        last_sequence: tally.last,
        durability: tally.durability,
        seconds,
        ack_ns: tally.ack.percentiles(),
    };
    let printed = print(globals, &summary);
    conclude(globals, &name, &tally, ended)?;
    recorded?;
    printed
}

/// What the command ends with.
fn conclude(
    globals: &Globals,
    name: &str,
    tally: &Tally,
    ended: Result<Ended, CommandError>,
) -> Result<(), CommandError> {
    match ended {
        Ok(Ended::Whole(said)) => {
            if let Some(said) = said.filter(|_| !globals.quiet) {
                note(&format!("{name}: {said}"));
            }
            Ok(())
        }
        Ok(Ended::Interrupted) => {
            Err(CommandError::Stopped(format!("interrupted: {}", tally.so_far())))
        }
        Ok(Ended::Input(why)) => {
            Err(CommandError::Failed(format!("{name}: {why}: {}", tally.so_far())))
        }
        Err(CommandError::Unreachable(why)) => {
            Err(CommandError::Unreachable(format!("{why}: {}", tally.so_far())))
        }
        Err(error) => Err(CommandError::Failed(format!("{error}: {}", tally.so_far()))),
    }
}

/// An unknown stream gets the command that makes it.
pub(super) fn missing(error: crate::client::blocking::Error, name: &str) -> CommandError {
    use crate::client::blocking::Error;
    if let Error::Refused { why: CodedError { code: ErrorCode::UnknownStream, .. }, .. } = error {
        return CommandError::Failed(format!(
            "stream {name}: no such stream; make it with: buslane stream create {name}"
        ));
    }
    error.into()
}

/// What the source gave.
enum Read {
    Message,
    NotYet,
    Ended(Ended),
}

/// What there is to wait for when there is nothing to do.
#[derive(Clone, Copy)]
enum Awaited {
    /// More from the source.
    Input,
    /// A moment.
    Time(u64),
    /// The appliance.
    Answers,
}

/// Everything that publishing needs.
struct Work {
    client: Client<AnyPort>,
    stream: StreamId,
    source: Source,
    tally: Tally,
    idle: Idle,
    outage: Outage,
    route: Route,
    interrupted: Arc<AtomicBool>,
    /// When that was first seen.
    interrupted_ns: Option<u64>,
    /// Since when nothing gets through to an appliance that answers; 0 once that was said.
    stalled_ns: Option<u64>,
}

impl Work {
    /// Offers what the source has until that ends.
    fn feed(
        &mut self,
        args: &PublishArgs,
        before: &Before,
        progress: &Progress,
    ) -> Result<Ended, CommandError> {
        let begin_ns = self.client.polled().clock().now_ns();
        let schedule = Schedule::new(begin_ns, args.rate, 1);
        let mut first_time_ns = None;
        let limit = args.count.unwrap_or(u64::MAX);
        let mut message = Vec::new();
        while self.tally.published < limit {
            match self.read(&mut message, before) {
                Read::Message => {}
                Read::NotYet => {
                    self.turn(Awaited::Input)?;
                    if self.is_interrupted() {
                        return Ok(Ended::Interrupted);
                    }
                    continue;
                }
                Read::Ended(ended) => return Ok(ended),
            }
            if self.source.taken() <= before.messages {
                self.tally.skipped += 1;
                if let Some(why) = before.differs(self.source.taken(), &message) {
                    return Ok(Ended::Input(why));
                }
                continue;
            }
            let due_ns = if args.pace {
                let time_ns = timestamp_ns(&message).unwrap_or(0);
                let first = *first_time_ns.get_or_insert(time_ns);
                begin_ns + time_ns.saturating_sub(first)
            } else {
                schedule.intended_ns(self.tally.published).unwrap_or(0)
            };
            while self.client.polled().clock().now_ns() < due_ns && !self.is_interrupted() {
                self.turn(Awaited::Time(due_ns))?;
            }
            if self.is_interrupted() {
                return Ok(Ended::Interrupted);
            }
            if let Some(ended) = self.offer(&message)? {
                return Ok(ended);
            }
            self.tally.published += 1;
            if self.tally.published.is_multiple_of(1024) {
                progress.set(self.tally.published);
            }
        }
        Ok(Ended::Whole(None))
    }

    /// Asks the source for a message.
    fn read(&mut self, message: &mut Vec<u8>, before: &Before) -> Read {
        let ended = match self.source.next() {
            Ok(Next::Message(next)) => {
                message.clear();
                message.extend_from_slice(next);
                return Read::Message;
            }
            Ok(Next::NotYet) => return Read::NotYet,
            Ok(Next::End(said)) => Ended::Whole(said),
            Err(why) => Ended::Input(why),
        };
        let has = self.source.taken();
        if matches!(ended, Ended::Whole(_)) && has < before.messages {
            let has = thousands(has);
            let what = match before.of {
                None => {
                    format!("it has {has} messages only, and --skip {} was said", before.messages)
                }
                Some(name) => format!(
                    "it has {has} messages only, and producer {} has published {}: is it another input?",
                    name.as_str(),
                    thousands(before.messages)
                ),
            };
            return Read::Ended(Ended::Input(what));
        }
        Read::Ended(ended)
    }

    /// Waits for room and offers a message; returns why it is not one.
    fn offer(&mut self, message: &[u8]) -> Result<Option<Ended>, CommandError> {
        loop {
            match self.client.polled().offer(self.stream, message) {
                Ok(_) => return Ok(None),
                Err(OfferError::BackPressure(_) | OfferError::NotConnected) => {
                    self.turn(Awaited::Answers)?;
                    if self.is_interrupted() {
                        return Ok(Some(Ended::Interrupted));
                    }
                }
                Err(error @ OfferError::TooLarge { .. }) => {
                    return Ok(Some(Ended::Input(format!("{}: {error}", self.source.place()))));
                }
                Err(error @ OfferError::NotAPublisher) => {
                    return Err(CommandError::Failed(error.to_string()));
                }
            }
        }
    }

    /// One turn of the client, and a rest when there is nothing to do.
    fn turn(&mut self, awaited: Awaited) -> Result<(), CommandError> {
        let turned = self.client.turn();
        let now_ns = self.client.polled().clock().now_ns();
        let mut taken = 0;
        while let Some(completion) = self.client.next_completion() {
            self.tally.take(now_ns, &completion);
            taken += 1;
        }
        if let Err(error) = &turned {
            self.tally.rest = Rest::after(error);
        }
        let work = turned? + taken;
        self.check_parting(now_ns)?;
        self.check_state(now_ns)?;
        self.check_stall(now_ns, taken);
        self.route.keep(self.client.polled());
        let unknown = self.tally.published - self.tally.acknowledged;
        self.outage.watch(self.client.polled(), || {
            format!("{} messages are not acknowledged", thousands(unknown))
        });
        let (wake, until_ns) = match awaited {
            Awaited::Input => (Some(self.source.wake()), None),
            Awaited::Time(until_ns) => (None, Some(until_ns)),
            Awaited::Answers => (None, None),
        };
        self.idle.rest(&mut self.client, work, wake, until_ns);
        Ok(())
    }

    /// One that was told to end does not wait for an appliance that is gone.
    fn check_parting(&mut self, now_ns: u64) -> Result<(), CommandError> {
        if !self.is_interrupted() {
            return Ok(());
        }
        let since_ns = *self.interrupted_ns.get_or_insert(now_ns);
        if now_ns.saturating_sub(since_ns.max(self.tally.moved_ns)) <= PARTING_NS {
            return Ok(());
        }
        Err(CommandError::Failed("interrupted, and the appliance does not answer".to_owned()))
    }

    fn check_state(&mut self, now_ns: u64) -> Result<(), CommandError> {
        // What was on its way to a disk that failed may be there when it is mended.
        let (why, rest) = match self.client.polled().publish_state() {
            PublishState::Open | PublishState::Draining => return Ok(()),
            PublishState::NoSpace => (
                "the log is full; make room (buslane stream trim, or buslane log copy --size)",
                Rest::Refused,
            ),
            PublishState::Failed => ("the appliance's disk failed", Rest::Unknown),
            PublishState::Damaged => {
                ("the appliance found acknowledged data damaged", Rest::Unknown)
            }
        };
        // What is on its way to the media is still acknowledged.
        if now_ns.saturating_sub(self.tally.moved_ns) < SETTLE_NS {
            return Ok(());
        }
        self.tally.rest = rest;
        Err(CommandError::Failed(why.to_owned()))
    }

    /// An appliance that answers, and to which nothing gets through: likely the path takes no large datagrams.
    fn check_stall(&mut self, now_ns: u64, taken: usize) {
        let client = self.client.polled();
        let is_open = client.is_connected() && client.publish_state() == PublishState::Open;
        if client.outstanding() == 0 || !is_open || taken > 0 {
            self.stalled_ns = None;
            return;
        }
        let since_ns = *self.stalled_ns.get_or_insert(now_ns);
        if since_ns > 0 && now_ns.saturating_sub(since_ns) > STALL_NS {
            self.stalled_ns = Some(0);
            note(
                "the appliance answers, and acknowledged nothing for 5 s; where the network carries no datagrams \
                 as large as these: --set client.port.datagram_bytes=576",
            );
        }
    }

    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Waits until everything offered is durable.
    fn finish(&mut self) -> Result<(), CommandError> {
        while self.client.polled().outstanding() > 0 {
            self.turn(Awaited::Answers)?;
        }
        Ok(())
    }
}

#[allow(clippy::cast_precision_loss, reason = "seconds for people")]
fn seconds_since(begin_ns: u64, end_ns: u64) -> f64 {
    (end_ns - begin_ns) as f64 / 1e9
}

fn print(globals: &Globals, summary: &Summary) -> Result<(), CommandError> {
    let mut out = Out::stdout();
    if globals.output() == Output::Json {
        out.json(summary)?;
    } else if !globals.quiet && (summary.complete || summary.published > 0) {
        out.line(&format!(
            "{} published to {}, {} acknowledged ({}) in {:.3} s; ack p50 {} us, p99 {} us",
            count_of(summary.published, "message"),
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
