//! Whether histories of clients can be those of one log that keeps its promise.
//!
//! A log numbers its messages, so there is no search: what everybody saw under a number is put together, and has to be
//! one thing. What is checked:
//!
//! * **content**: a sequence of a stream is one message, whoever saw it, with the payload that was offered under its number;
//! * **once**: a number of a producer is one sequence, and later numbers are later sequences of a stream;
//! * **order**: what was acknowledged before another message was offered has the lower sequence;
//! * **durable**: whoever asks how far a stream goes is told at least as much as anybody was told before;
//! * **gap**: a consumer gets one sequence after the other;
//! * **lost**: what was acknowledged before a consumer began at the first sequence is among what it got;
//! * **log**: a shard serves one log.

use std::collections::{BTreeMap, BTreeSet};

use super::{Entry, Fact, Payload};

/// A line of one of the histories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Line {
    /// Which history, from 0 on.
    pub history: usize,
    /// Its line, from 1 on.
    pub line: usize,
}

/// Two lines that cannot both be true of one log, or one that cannot be of any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contradiction {
    /// Which of the checks found it.
    pub check: &'static str,
    /// The later of the lines.
    pub line: Line,
    /// The one it contradicts.
    pub other: Option<Line>,
    /// What is wrong.
    pub what: String,
}

/// What histories come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Messages offered, those offered again counted again.
    pub offered: u64,
    /// Messages acknowledged.
    pub acknowledged: u64,
    /// Messages delivered, to all consumers together.
    pub delivered: u64,
    /// Sequences that somebody knows.
    pub sequences: u64,
    /// What cannot be, by line; what follows from the same is there again.
    pub contradictions: Vec<Contradiction>,
}

/// A stream of a shard.
type Stream = (u32, u32);

/// A message as its producer numbers it: shard, producer, number.
type Number = (u32, u64, u64);

/// A message that was offered.
#[derive(Clone, Copy, Debug)]
struct Offered {
    line: Line,
    stream: u32,
    payload: Payload,
}

/// A message that was acknowledged.
#[derive(Clone, Copy, Debug)]
struct Acknowledged {
    line: Line,
    boot: u32,
    ns: u64,
    stream: Stream,
    number: Number,
    sequence: Option<u64>,
}

/// A step in the order of a stream: offered, or acknowledged.
#[derive(Clone, Copy, Debug)]
struct Step {
    line: Line,
    ns: u64,
    is_offer: bool,
    sequence: u64,
}

/// What is known of a sequence.
#[derive(Clone, Copy, Debug)]
struct Known {
    line: Line,
    producer: u64,
    producer_seq: u64,
    payload: Option<Payload>,
}

/// That a stream goes so far at least, which somebody was told.
#[derive(Clone, Copy, Debug)]
struct Told {
    ns: u64,
    next: u64,
    line: Line,
}

/// A subscription, and how far it has come.
#[derive(Clone, Copy, Debug)]
struct Reading {
    asked: Line,
    asked_ns: u64,
    /// The next sequence; 0 before it stands.
    next: u64,
    /// It began at the first sequence there is.
    is_from_first: bool,
    /// What was durable when it was answered.
    durable_next: u64,
}

/// Looks at histories of one appliance.
#[must_use]
pub(crate) fn verify(histories: &[Vec<Entry>]) -> Verdict {
    let mut check = Check::default();
    for (index, entries) in histories.iter().enumerate() {
        check.take(index, entries);
    }
    check.contents();
    check.producers();
    check.order();
    check.durable();
    check.lost();
    let mut verdict = check.verdict;
    verdict.sequences = check.known.len() as u64;
    verdict.contradictions.sort_by_key(|found| found.line);
    verdict
}

#[derive(Debug, Default)]
struct Check {
    verdict: Verdict,
    /// The log of each shard, where it was said.
    logs: BTreeMap<u32, (u32, Line)>,
    offers: BTreeMap<Number, Vec<Offered>>,
    known: BTreeMap<(Stream, u64), Known>,
    acknowledged: Vec<Acknowledged>,
    /// Boots by their names.
    boots: BTreeMap<String, u32>,
    told: BTreeMap<(u32, Stream), Vec<Told>>,
    asked: BTreeMap<(u32, Stream), Vec<(u64, Told)>>,
    /// Offers by boot, for those whose sequence becomes known.
    offered_in: Vec<(u32, Number, u64)>,
    /// Subscriptions from the first sequence on, and where they ended.
    reads: Vec<(u32, Stream, Reading)>,
    /// Histories that are cut off: what is missing in them may have been.
    producers_cut: BTreeSet<(u32, u64)>,
}

/// Where a history stands.
#[derive(Debug)]
struct Standing {
    history: usize,
    boot: u32,
    shard: u32,
    producer: u64,
    readings: BTreeMap<u32, Reading>,
}

impl Check {
    fn contradict(&mut self, check: &'static str, line: Line, other: Option<Line>, what: String) {
        self.verdict.contradictions.push(Contradiction { check, line, other, what });
    }

    fn take(&mut self, history: usize, entries: &[Entry]) {
        let mut standing =
            Standing { history, boot: 0, shard: 0, producer: 0, readings: BTreeMap::new() };
        for (index, entry) in entries.iter().enumerate() {
            let line = Line { history, line: index + 1 };
            self.take_one(&mut standing, line, entry);
        }
        let is_cut = !matches!(entries.last(), Some(Entry { fact: Fact::End, .. }));
        if is_cut && standing.producer != 0 {
            self.producers_cut.insert((standing.shard, standing.producer));
        }
        for (stream, reading) in standing.readings {
            self.reads.push((standing.boot, (standing.shard, stream), reading));
        }
    }

    fn take_one(&mut self, at: &mut Standing, line: Line, entry: &Entry) {
        let ns = entry.ns;
        match entry.fact {
            Fact::Begin { ref boot, .. } => {
                let next = u32::try_from(self.boots.len()).unwrap_or(u32::MAX);
                at.boot = *self.boots.entry(boot.clone()).or_insert(next);
            }
            Fact::Session { shard, log, producer } => {
                (at.shard, at.producer) = (shard, producer);
                self.take_log(shard, log, line);
            }
            Fact::Offer { stream, producer, producer_seq, payload } => {
                self.verdict.offered += 1;
                let number = (at.shard, producer, producer_seq);
                self.offers.entry(number).or_default().push(Offered { line, stream, payload });
                self.offered_in.push((at.boot, number, ns));
            }
            Fact::Acknowledged { stream, producer, producer_seq, sequence } => {
                self.verdict.acknowledged += 1;
                let (number, of) = ((at.shard, producer, producer_seq), (at.shard, stream));
                let offers = self.offers.get(&number).map_or(&[][..], Vec::as_slice);
                // What this client itself offered under the number, last.
                let own = offers.iter().rev().find(|offer| offer.line.history == at.history);
                let payload = own.map(|offer| offer.payload);
                if let Some(sequence) = sequence {
                    let known = Known { line, producer, producer_seq, payload };
                    self.know((of, sequence), known);
                    self.tell(at.boot, of, Told { ns, next: sequence.saturating_add(1), line });
                }
                let (boot, stream) = (at.boot, of);
                self.acknowledged.push(Acknowledged { line, boot, ns, stream, number, sequence });
            }
            Fact::Subscribe { stream } => {
                let reading = Reading {
                    asked: line,
                    asked_ns: ns,
                    next: 0,
                    is_from_first: false,
                    durable_next: 0,
                };
                if let Some(before) = at.readings.insert(stream, reading) {
                    self.reads.push((at.boot, (at.shard, stream), before));
                }
            }
            Fact::Subscribed { stream, start, durable_next } => {
                self.subscribed(at, line, ns, (stream, start, durable_next));
            }
            Fact::Delivered { stream, sequence, producer, producer_seq, payload } => {
                self.verdict.delivered += 1;
                let of = (at.shard, stream);
                self.know(
                    (of, sequence),
                    Known { line, producer, producer_seq, payload: Some(payload) },
                );
                self.tell(at.boot, of, Told { ns, next: sequence.saturating_add(1), line });
                self.delivered(at, line, stream, sequence);
            }
            Fact::Trimmed { stream, log_start } => {
                // The client ends such a subscription, and may begin another one.
                if let Some(reading) = at.readings.get_mut(&stream) {
                    reading.next = reading.next.max(log_start);
                    reading.is_from_first = false;
                }
            }
            Fact::End => {}
        }
    }

    fn take_log(&mut self, shard: u32, log: u32, line: Line) {
        if log == 0 {
            return;
        }
        let &mut (known, before) = self.logs.entry(shard).or_insert((log, line));
        if known != log {
            let what = format!("shard {shard} serves log {log:08x}, where it was log {known:08x}");
            self.contradict("log", line, Some(before), what);
        }
    }

    fn tell(&mut self, boot: u32, of: Stream, told: Told) {
        self.told.entry((boot, of)).or_default().push(told);
    }

    fn subscribed(&mut self, at: &mut Standing, line: Line, ns: u64, answer: (u32, u64, u64)) {
        let (stream, start, durable_next) = answer;
        let of = (at.shard, stream);
        let told = Told { ns, next: durable_next, line };
        self.tell(at.boot, of, told);
        let Some(reading) = at.readings.get_mut(&stream) else { return };
        if reading.next == 0 {
            reading.next = start;
            reading.is_from_first = start == 1;
            reading.durable_next = durable_next;
            let asked_ns = reading.asked_ns;
            self.asked.entry((at.boot, of)).or_default().push((asked_ns, told));
        }
    }

    fn delivered(&mut self, at: &mut Standing, line: Line, stream: u32, sequence: u64) {
        let Some(reading) = at.readings.get_mut(&stream).filter(|reading| reading.next != 0) else {
            let what = format!("stream {stream}: {sequence} came, and nobody had asked for it");
            self.contradict("gap", line, None, what);
            return;
        };
        let (next, asked) = (reading.next, reading.asked);
        reading.next = sequence.saturating_add(1);
        if sequence != next {
            let what = format!("stream {stream}: {sequence} came where {next} was next");
            self.contradict("gap", line, Some(asked), what);
        }
    }

    fn know(&mut self, at: (Stream, u64), new: Known) {
        let known = self.known.entry(at).or_insert(new);
        let before = *known;
        known.payload = known.payload.or(new.payload);
        let is_one = (before.producer, before.producer_seq) == (new.producer, new.producer_seq);
        let differs = |one: Payload| new.payload.is_some_and(|other| other != one);
        let ((_, stream), sequence) = at;
        if !is_one {
            let what = format!(
                "stream {stream}: {sequence} is message {} of producer {}, where it was {} of {}",
                new.producer_seq, new.producer, before.producer_seq, before.producer
            );
            self.contradict("content", new.line, Some(before.line), what);
        } else if before.payload.is_some_and(differs) {
            let what = format!("stream {stream}: {sequence} holds another payload");
            self.contradict("content", new.line, Some(before.line), what);
        }
    }

    /// What is known of a sequence was offered so, wherever the history of its producer is there.
    fn contents(&mut self) {
        let mut found = Vec::new();
        for ((of, sequence), known) in &self.known {
            let number = (of.0, known.producer, known.producer_seq);
            let Some(payload) = known.payload else { continue };
            let Some(offers) = self.offers.get(&number) else { continue };
            let is_it = |offer: &Offered| offer.stream == of.1 && offer.payload == payload;
            let is_cut = self.producers_cut.contains(&(of.0, known.producer));
            if offers.iter().any(is_it) || is_cut {
                continue;
            }
            let what = format!(
                "stream {}: {sequence} is not what producer {} offered as its message {}",
                of.1, known.producer, known.producer_seq
            );
            found.push((known.line, offers[0].line, what));
        }
        for (line, other, what) in found {
            self.contradict("content", line, Some(other), what);
        }
    }

    /// A number of a producer is one sequence, and the order of numbers is that of sequences.
    fn producers(&mut self) {
        let mut all: Vec<_> = self.known.iter().collect();
        all.sort_unstable_by_key(|((of, sequence), known)| {
            (of.0, known.producer, known.producer_seq, of.1, *sequence)
        });
        let mut newest: BTreeMap<(u32, u64, u32), (u64, Line)> = BTreeMap::new();
        let mut found = Vec::new();
        let mut before: Option<(Number, (Stream, u64), Line)> = None;
        for (&(of, sequence), known) in all {
            let number = (of.0, known.producer, known.producer_seq);
            if let Some((_, (other, at), line)) = before.filter(|(same, ..)| *same == number) {
                let what = format!(
                    "message {} of producer {} is {sequence} of stream {}, and {at} of stream {}",
                    known.producer_seq, known.producer, of.1, other.1
                );
                found.push(("once", known.line, line, what));
            }
            before = Some((number, (of, sequence), known.line));
            let key = (of.0, known.producer, of.1);
            if let Some(&(last, line)) = newest.get(&key)
                && sequence < last
            {
                let what = format!(
                    "stream {}: {sequence} is message {} of producer {}, and {last} an earlier one",
                    of.1, known.producer_seq, known.producer
                );
                found.push(("once", known.line, line, what));
            }
            newest.insert(key, (sequence, known.line));
        }
        for (check, line, other, what) in found {
            self.contradict(check, line, Some(other), what);
        }
    }

    /// What was acknowledged before something was offered is before it.
    fn order(&mut self) {
        let mut sequence_of: BTreeMap<Number, (Stream, u64)> = BTreeMap::new();
        for ((of, sequence), known) in &self.known {
            sequence_of.insert((of.0, known.producer, known.producer_seq), (*of, *sequence));
        }
        for told in &self.acknowledged {
            if let Some(sequence) = told.sequence {
                sequence_of.entry(told.number).or_insert((told.stream, sequence));
            }
        }
        // By stream and time: what is acknowledged from then on, and what is offered.
        let mut steps: BTreeMap<(u32, Stream), Vec<Step>> = BTreeMap::new();
        for &Acknowledged { line, boot, ns, stream, sequence, .. } in &self.acknowledged {
            let Some(sequence) = sequence else { continue };
            let step = Step { line, ns, is_offer: false, sequence };
            steps.entry((boot, stream)).or_default().push(step);
        }
        for &(boot, number, ns) in &self.offered_in {
            let Some(&(of, sequence)) = sequence_of.get(&number) else { continue };
            let offers = &self.offers[&number];
            // Of one that was offered again nobody knows which was stored.
            if offers.len() == 1 {
                let step = Step { line: offers[0].line, ns, is_offer: true, sequence };
                steps.entry((boot, of)).or_default().push(step);
            }
        }
        for ((_, of), mut steps) in steps {
            // At the same moment neither is before the other: what is offered is looked at first.
            steps.sort_unstable_by_key(|step| (step.ns, !step.is_offer));
            let mut highest: Option<(u64, Line)> = None;
            for Step { line, is_offer, sequence, .. } in steps {
                if !is_offer {
                    highest = highest.max(Some((sequence, line)));
                    continue;
                }
                if let Some((last, other)) = highest.filter(|(last, _)| *last >= sequence) {
                    let what = format!(
                        "stream {}: what was offered here became {sequence}, and {last} was acknowledged before",
                        of.1
                    );
                    self.contradict("order", line, Some(other), what);
                }
            }
        }
    }

    /// Whoever asks is told at least what others were told before.
    fn durable(&mut self) {
        let mut told = std::mem::take(&mut self.told);
        for (key, mut asked) in std::mem::take(&mut self.asked) {
            let mut facts = told.remove(&key).unwrap_or_default();
            facts.sort_unstable_by_key(|fact| fact.ns);
            asked.sort_unstable_by_key(|(ns, _)| *ns);
            let mut facts = facts.into_iter().peekable();
            let mut most: Option<Told> = None;
            for (asked_ns, answer) in asked {
                while let Some(fact) = facts.next_if(|fact| fact.ns < asked_ns) {
                    most = Some(most.filter(|most| most.next >= fact.next).unwrap_or(fact));
                }
                if let Some(most) = most.filter(|most| most.next > answer.next) {
                    let what = format!(
                        "stream {}: {} is said to be next, where {} was before it was asked",
                        key.1.1, answer.next, most.next
                    );
                    self.contradict("durable", answer.line, Some(most.line), what);
                }
            }
        }
    }

    /// Who read a stream from its first sequence on has all that was acknowledged before it asked.
    fn lost(&mut self) {
        let seen: BTreeSet<Number> = self
            .known
            .iter()
            .map(|((of, _), known)| (of.0, known.producer, known.producer_seq))
            .collect();
        let mut found = Vec::new();
        for &Acknowledged { line, boot, ns, stream: of, number, .. } in &self.acknowledged {
            if seen.contains(&number) {
                continue;
            }
            let reader = self.reads.iter().find(|(there, stream, reading)| {
                let is_whole = reading.is_from_first && reading.next >= reading.durable_next;
                (*there, *stream) == (boot, of) && is_whole && reading.asked_ns > ns
            });
            if let Some((.., reading)) = reader {
                let what = format!(
                    "stream {}: message {} of producer {} was acknowledged, and whoever read all later did not get it",
                    of.1, number.2, number.1
                );
                found.push((reading.asked, line, what));
            }
        }
        for (line, other, what) in found {
            self.contradict("lost", line, Some(other), what);
        }
    }
}

#[cfg(test)]
mod tests;
