//! The load: publishers on a fixed schedule, consumers that check, all in one thread that never sleeps.

use std::net::SocketAddrV4;

use super::Schedule;
use super::intervals::{Latencies, LoadInterval, Recorder};
use super::verify::{Checker, stamp};
use crate::client::polled::Client;
use crate::client::{ClientError, Event, OfferError, Request, StartFrom, StreamDescription};
use crate::clock::Clock;
use crate::ids::{Durability, StreamId};
use crate::port::Port;

/// Messages offered in one go with `--max`, so that acknowledgements are taken in between.
const OFFERS_A_TURN: u64 = 512;

/// How long the end of a run may take.
const FINISH_NS: u64 = 20_000_000_000;

/// Messages on their way to a consumer at most.
const WINDOW: u32 = 8192;

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoadOptions {
    /// Tells the messages of this run from others.
    pub run: u32,
    /// Bytes of a message.
    pub message_bytes: usize,
    /// Messages a second, all publishers together; `None` as fast as the credit allows.
    pub rate: Option<f64>,
    /// Messages that are due at once.
    pub batch: u64,
    /// Not measured at the start.
    pub warmup_ns: u64,
    /// Measured.
    pub duration_ns: u64,
    /// Ends after so many messages behind the warm-up, if that is sooner.
    pub count: u64,
    /// Intervals that are told apart at most. Their histograms are made before the load starts, 1.1 MiB
    /// each, so that it never waits for memory.
    pub intervals: u32,
}

/// What came out.
#[derive(Clone, Debug)]
pub(crate) struct LoadResult {
    /// Of all intervals together.
    pub latencies: Latencies,
    /// The run over time; the last takes what is left.
    pub intervals: Vec<LoadInterval>,
    /// Messages measured.
    pub messages: u64,
    /// From the first intended send to the last acknowledgement measured.
    pub elapsed_ns: u64,
    /// Lost, duplicated, reordered.
    pub verdict: (u64, u64, u64),
    /// As receipts told.
    pub durability: Option<Durability>,
}

impl LoadResult {
    fn new() -> Self {
        Self {
            latencies: Latencies::new(),
            intervals: Vec::new(),
            messages: 0,
            elapsed_ns: 0,
            verdict: (0, 0, 0),
            durability: None,
        }
    }

    /// Adds what another round of the same run brought.
    pub(crate) fn merge(&mut self, other: Self) {
        self.latencies.merge(&other.latencies);
        self.intervals.extend(other.intervals);
        self.messages += other.messages;
        self.elapsed_ns += other.elapsed_ns;
        let (lost, duplicated, reordered) = other.verdict;
        self.verdict.0 += lost;
        self.verdict.1 += duplicated;
        self.verdict.2 += reordered;
        self.durability = self.durability.or(other.durability);
    }
}

/// Why a load did not come to its end.
#[derive(Debug, displaydoc::Display, thiserror::Error)]
pub enum LoadError {
    /// {0}
    Client(#[from] ClientError),
    /// {0}
    Offer(#[from] OfferError),
    /// {0}
    Other(String),
}

/// A stream of the load, and where it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    /// Its number on its shard.
    pub id: StreamId,
    /// Where its shard listens.
    pub server: SocketAddrV4,
    /// The sequence its first message gets.
    pub from: u64,
}

/// One client of the load: a session with one shard, and what it does with which streams there, by their places
/// in the list of all.
#[derive(Debug)]
pub(crate) struct Participant<P: Port, C: Clock> {
    /// Its session.
    pub client: Client<P, C>,
    /// It publishes to these in turn.
    pub publishes: Vec<usize>,
    /// It consumes these and checks.
    pub consumes: Vec<usize>,
}

/// A publisher's place in the schedule.
#[derive(Clone, Copy, Debug, Default)]
struct Lane {
    publisher: u64,
    publishers: u64,
    /// Number of its next message.
    next: u64,
    /// When that is due, worked out once; 0 for at once.
    due_ns: u64,
    /// Number of the first message it does not send; known once the warm-up is over.
    end: Option<u64>,
    /// Producer number of its message 0.
    base_seq: u64,
    acknowledged: u64,
    /// What it sends to one stream is a source, with numbers of its own; this is its first.
    source: u64,
    /// Its streams, and so its sources.
    streams: u64,
}

impl Lane {
    /// Place of its message `number` among those of all publishers.
    fn index(&self, number: u64) -> u64 {
        number * self.publishers + self.publisher
    }

    fn find_due(&mut self, schedule: &Schedule) {
        self.due_ns = schedule.intended_ns(self.index(self.next)).unwrap_or(0);
    }

    /// Source of its message `number`, and the number there.
    fn stamp(&self, number: u64) -> (u64, u64) {
        (self.source + number % self.streams, number / self.streams)
    }

    /// Messages acknowledged of each of its sources.
    fn acknowledged_of_sources(&self) -> impl Iterator<Item = u64> {
        let Self { acknowledged, streams, .. } = *self;
        (0..streams).map(move |place| (acknowledged + streams - 1 - place) / streams)
    }

    fn is_done(&self) -> bool {
        self.end.is_some_and(|end| self.next >= end)
    }
}

/// Makes the streams of a load, wherever the appliance puts them.
///
/// # Errors
/// When the session ends or a stream is refused.
pub(crate) fn place<P: Port, C: Clock>(
    client: &mut Client<P, C>,
    names: &[String],
) -> Result<Vec<Placed>, LoadError> {
    let mut placed = Vec::new();
    for name in names {
        let info = ask(client, Request::CreateStream(name.clone()))?;
        placed.push(Placed { id: info.id, server: client.server(), from: info.durable_next });
    }
    Ok(placed)
}

/// Runs a load on streams that the participants share.
///
/// # Errors
/// When a session ends or something is refused; what was measured is then worthless.
pub(crate) fn run<P: Port, C: Clock>(
    participants: &mut [Participant<P, C>],
    streams: &[Placed],
    options: &LoadOptions,
) -> Result<LoadResult, LoadError> {
    // The stream of each source.
    let sources: Vec<usize> =
        participants.iter().flat_map(|participant| participant.publishes.clone()).collect();
    let mut checkers = Vec::new();
    for participant in participants.iter_mut() {
        connect(&mut participant.client)?;
        checkers.push(Checker::new(options.run, sources.len()));
        for &stream in &participant.consumes {
            subscribe(&mut participant.client, streams[stream].id, StartFrom::End)?;
        }
    }
    let mut load = Load::new(participants, streams, options);
    load.go(&mut checkers)?;
    let acknowledged: Vec<u64> =
        load.lanes.iter().flatten().flat_map(Lane::acknowledged_of_sources).collect();
    let (mut result, recorder, last_ns) = (load.result, load.recorder, load.last_ns);
    let clock = participants[0].client.clock();
    (result.latencies, result.intervals) =
        recorder.finish(last_ns, |now_ns| clock.unix_ns_at(now_ns));
    if participants.iter().all(|participant| participant.consumes.is_empty()) {
        read_back(participants, streams)?;
    }
    for (participant, checker) in participants.iter_mut().zip(&mut checkers) {
        let consumes = |stream: &usize| participant.consumes.contains(stream);
        let expected: Vec<u64> = sources
            .iter()
            .zip(&acknowledged)
            .map(|(stream, &count)| if consumes(stream) { count } else { 0 })
            .collect();
        finish_check(participant, checker, expected.iter().sum())?;
        let (lost, duplicated, reordered) = checker.verdict(&expected);
        result.verdict.0 += lost;
        result.verdict.1 += duplicated;
        result.verdict.2 += reordered;
    }
    Ok(result)
}

/// Nobody watched while it ran: each stream is read by the first that published to it.
fn read_back<P: Port, C: Clock>(
    participants: &mut [Participant<P, C>],
    streams: &[Placed],
) -> Result<(), LoadError> {
    for (index, stream) in streams.iter().enumerate() {
        let reader = participants.iter_mut().find(|reader| reader.publishes.contains(&index));
        let Some(reader) = reader else { continue };
        subscribe(&mut reader.client, stream.id, StartFrom::Sequence(stream.from))?;
        reader.consumes.push(index);
    }
    Ok(())
}

struct Load<'a, P: Port, C: Clock> {
    participants: &'a mut [Participant<P, C>],
    /// Per participant; `None` for those that do not publish.
    lanes: Vec<Option<Lane>>,
    streams: &'a [Placed],
    options: LoadOptions,
    schedule: Schedule,
    start_ns: u64,
    measure_ns: u64,
    end_ns: u64,
    payload: Vec<u8>,
    result: LoadResult,
    recorder: Recorder,
    last_ns: u64,
}

impl<'a, P: Port, C: Clock> Load<'a, P, C> {
    fn new(
        participants: &'a mut [Participant<P, C>],
        streams: &'a [Placed],
        options: &LoadOptions,
    ) -> Self {
        let is_publisher = |participant: &&Participant<P, C>| !participant.publishes.is_empty();
        let publishers = participants.iter().filter(is_publisher).count();
        let (mut next, mut source) = (0, 0);
        let lane = |participant: &Participant<P, C>| {
            is_publisher(&participant).then(|| {
                next += 1;
                let streams = participant.publishes.len() as u64;
                source += streams;
                Lane {
                    publisher: next - 1,
                    publishers: publishers as u64,
                    next: 0,
                    due_ns: 0,
                    end: None,
                    base_seq: participant.client.next_seq(),
                    acknowledged: 0,
                    source: source - streams,
                    streams,
                }
            })
        };
        let mut lanes: Vec<Option<Lane>> = participants.iter().map(lane).collect();
        let mut recorder = Recorder::new(options.duration_ns, options.intervals);
        let start_ns = participants[0].client.clock().now_ns() + 1_000_000;
        let schedule = Schedule::new(start_ns, options.rate, options.batch);
        lanes.iter_mut().flatten().for_each(|lane| lane.find_due(&schedule));
        let measure_ns = start_ns + options.warmup_ns;
        recorder.start(measure_ns);
        Self {
            participants,
            lanes,
            streams,
            options: *options,
            schedule,
            start_ns,
            measure_ns,
            end_ns: measure_ns + options.duration_ns,
            payload: vec![0x2e; options.message_bytes],
            result: LoadResult::new(),
            recorder,
            last_ns: measure_ns,
        }
    }

    fn go(&mut self, checkers: &mut [Checker]) -> Result<(), LoadError> {
        let mut open = true;
        loop {
            let now_ns = self.participants[0].client.clock().now_ns();
            open = open && now_ns < self.end_ns;
            let mut waiting = 0;
            for (index, checker) in checkers.iter_mut().enumerate() {
                if open && now_ns >= self.start_ns {
                    self.offer_due(index, now_ns)?;
                }
                let client = &mut self.participants[index].client;
                client.poll(&mut |record| checker.take(record.payload))?;
                self.complete(index);
                waiting += self.participants[index].client.outstanding();
            }
            open = open && !self.lanes.iter().flatten().all(Lane::is_done);
            if !open && waiting == 0 {
                self.result.elapsed_ns = self.last_ns.saturating_sub(self.measure_ns);
                return Ok(());
            }
            if !open && now_ns > self.end_ns.saturating_add(FINISH_NS) {
                return Err(LoadError::Other(format!("{waiting} messages were not acknowledged")));
            }
        }
    }

    /// Offers what is due, and sends it at once.
    fn offer_due(&mut self, index: usize, now_ns: u64) -> Result<(), LoadError> {
        let Some(lane) = &mut self.lanes[index] else { return Ok(()) };
        if lane.due_ns > now_ns {
            return Ok(());
        }
        let Participant { client, publishes, .. } = &mut self.participants[index];
        let mut offered = 0;
        let count = self.options.count.div_ceil(lane.publishers);
        while offered < OFFERS_A_TURN {
            let due_ns = if lane.due_ns == 0 { now_ns } else { lane.due_ns };
            if due_ns > now_ns.min(self.end_ns) {
                break;
            }
            if lane.end.is_none() && due_ns >= self.measure_ns {
                lane.end = Some(lane.next.saturating_add(count));
            }
            if lane.is_done() {
                break;
            }
            let (source, number) = lane.stamp(lane.next);
            let source = u32::try_from(source).expect("few sources");
            stamp(&mut self.payload, self.options.run, source, number);
            let place = usize::try_from(lane.next % lane.streams).expect("few streams");
            match client.offer(self.streams[publishes[place]].id, &self.payload) {
                Ok(_) => {}
                Err(OfferError::BackPressure(crate::client::BackPressure::Server(
                    state @ (crate::wire::publish::PublishState::NoSpace
                    | crate::wire::publish::PublishState::Failed
                    | crate::wire::publish::PublishState::Damaged),
                ))) => {
                    let why =
                        format!("the server takes no more messages: {state:?}; a larger log?");
                    return Err(LoadError::Other(why));
                }
                Err(OfferError::BackPressure(_) | OfferError::NotConnected) => break,
                Err(error) => return Err(error.into()),
            }
            lane.next += 1;
            lane.find_due(&self.schedule);
            offered += 1;
        }
        if offered > 0 {
            client.flush();
        }
        Ok(())
    }

    fn complete(&mut self, index: usize) {
        let Some(lane) = &mut self.lanes[index] else { return };
        let client = &mut self.participants[index].client;
        let (mut now_ns, mut interval) = (0, 0);
        while let Some(done) = client.next_completion() {
            if now_ns == 0 {
                now_ns = client.clock().now_ns();
                interval = self.recorder.index(now_ns);
            }
            lane.acknowledged += 1;
            let number = done.producer_seq - lane.base_seq;
            let intended_ns =
                self.schedule.intended_ns(lane.index(number)).unwrap_or(done.offered_ns);
            if intended_ns < self.measure_ns {
                continue;
            }
            let latencies = self.recorder.get(interval);
            latencies.response.record(now_ns.saturating_sub(intended_ns));
            latencies.service.record(now_ns.saturating_sub(done.sent_ns));
            latencies.delay.record(done.sent_ns.saturating_sub(intended_ns));
            latencies.server.record(u64::from(done.receipt.server_ns));
            latencies.device.record(u64::from(done.receipt.device_ns));
            let result = &mut self.result;
            result.messages += 1;
            result.durability = Some(done.receipt.durability);
            self.last_ns = now_ns;
        }
    }
}

fn connect<P: Port, C: Clock>(client: &mut Client<P, C>) -> Result<(), ClientError> {
    while !client.is_connected() {
        client.poll(&mut |_| {})?;
    }
    Ok(())
}

/// Asks for one stream and waits for the answer.
fn ask<P: Port, C: Clock>(
    client: &mut Client<P, C>,
    request: Request,
) -> Result<StreamDescription, LoadError> {
    client.request(request);
    loop {
        while let Some(event) = client.next_event() {
            match event {
                Event::Stream { info, .. } => return Ok(info),
                Event::Refused { code, .. } => {
                    return Err(LoadError::Other(format!("the benchmark's stream: {code}")));
                }
                Event::Redirected { server, .. } => {
                    return Err(LoadError::Other(format!("the benchmark's stream is at {server}")));
                }
                Event::Connected { .. }
                | Event::Subscribed { .. }
                | Event::ListEnd { .. }
                | Event::Trimmed { .. }
                | Event::TooLarge { .. }
                | Event::DataLoss { .. } => {}
            }
        }
        client.poll(&mut |_| {})?;
    }
}

fn subscribe<P: Port, C: Clock>(
    client: &mut Client<P, C>,
    stream: StreamId,
    from: StartFrom,
) -> Result<(), LoadError> {
    client.subscribe(stream, from, WINDOW);
    // No message may come before this returns: the stream is at rest.
    loop {
        while let Some(event) = client.next_event() {
            match event {
                Event::Subscribed { .. } => return Ok(()),
                Event::Refused { code, .. } => {
                    return Err(LoadError::Other(format!("subscribing: {code}")));
                }
                Event::Connected { .. }
                | Event::Stream { .. }
                | Event::ListEnd { .. }
                | Event::Redirected { .. }
                | Event::Trimmed { .. }
                | Event::TooLarge { .. }
                | Event::DataLoss { .. } => {}
            }
        }
        if matches!(from, StartFrom::End) {
            client.poll(&mut |_| {})?;
        } else {
            // Replayed messages are taken by the checks.
            return Ok(());
        }
    }
}

fn finish_check<P: Port, C: Clock>(
    participant: &mut Participant<P, C>,
    checker: &mut Checker,
    expected: u64,
) -> Result<(), LoadError> {
    let client = &mut participant.client;
    let mut seen = checker.seen();
    let mut moved_ns = client.clock().now_ns();
    while checker.seen() < expected {
        client.poll(&mut |record| checker.take(record.payload))?;
        let now_ns = client.clock().now_ns();
        if checker.seen() > seen {
            (seen, moved_ns) = (checker.seen(), now_ns);
        } else if now_ns - moved_ns > FINISH_NS / 4 {
            // What has not come by now is lost; the verdict says so.
            break;
        }
    }
    Ok(())
}
