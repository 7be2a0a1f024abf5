//! What a shard shows of itself: stages of its messages, turns that took too long, and a snapshot a second.
//!
//! Nothing here makes a system call, allocates, or looks at the clock in a turn without work.

use std::sync::Arc;

use crate::limits::{ROWS_A_TURN, SESSIONS_MAX, STREAMS_MAX, TIMES_WAITING_MAX};
use crate::metrics::recorder::{MARKS, Recorder, Turn};
use crate::metrics::snapshot::{LogState, Reporter, Snapshot};
use crate::metrics::stages::{BatchTimes, Stages, Stall, StallLog};
use crate::port::{Port, PortCounters};
use crate::position::{BatchSeq, SessionSlot};
use crate::session::table::Phase;

use super::{Condition, Stations};

/// Between two snapshots.
const EVERY_NS: u64 = 1_000_000_000;

/// A point that a turn with work passes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mark {
    /// What was received is appended.
    Received,
    /// The disk was polled, and had something.
    Committed,
    /// Acknowledgements have left.
    Transmitted,
}

/// Names of the stretches that end at each mark, and of the one behind the last.
const STRETCHES: [&str; MARKS + 1] = ["receive", "commit", "transmit", "deliver"];

/// How long a snapshot waits at most for what it says of producers to be durable.
const SETTLE_NS: u64 = 100_000_000;

/// Where the copying of rows stands. Producers come first: whose session begins meanwhile is among the sessions, and what
/// they have published is durable when the rest is copied, or soon.
#[derive(Clone, Copy, Debug)]
enum Filling {
    Producers(usize),
    Sessions(usize, Appended),
    Subscriptions(usize, Appended),
    Streams(usize, Appended),
    Settling(Appended),
}

/// The batch up to which something was appended at a moment.
#[derive(Clone, Copy, Debug)]
struct Appended {
    batch_seq: BatchSeq,
    at_ns: u64,
}

/// What the shard needs to be observed.
#[derive(Debug)]
pub struct Observer {
    reporter: Reporter,
    recorder: Arc<Recorder>,
    stages: Stages,
    stalls: StallLog,
    /// Durable batches whose acknowledgements have not left.
    waiting: Vec<BatchTimes>,
    /// The turn that is on its way, its number from 1.
    turn: Turn,
    turn_began_ns: u64,
    marks: [u64; MARKS],
    next_ns: u64,
    begin_unix_ns: u64,
    filling: Option<(Box<Snapshot>, Filling)>,
}

impl Observer {
    /// An observer that reports to `reporter` once a second, and to `recorder` at once.
    #[must_use]
    pub fn new(reporter: Reporter, recorder: Arc<Recorder>) -> Self {
        Self {
            reporter,
            recorder,
            stages: Stages::default(),
            stalls: StallLog::default(),
            waiting: Vec::with_capacity(TIMES_WAITING_MAX),
            turn: Turn::default(),
            turn_began_ns: 0,
            marks: [0; MARKS],
            next_ns: 0,
            begin_unix_ns: 0,
            filling: None,
        }
    }

    /// A batch became durable.
    pub(super) fn durable(&mut self, times: &BatchTimes) {
        if !self.recorder.records_stages() || times.messages == 0 {
            return;
        }
        if self.waiting.len() < TIMES_WAITING_MAX {
            self.waiting.push(*times);
        } else if let Some(last) = self.waiting.last_mut() {
            last.messages = last.messages.saturating_add(times.messages);
        }
    }

    /// Everything owed was acknowledged at `now_ns`.
    pub(super) fn told(&mut self, now_ns: u64) {
        for batch in self.waiting.drain(..) {
            self.stages.record(&batch, now_ns);
        }
    }

    pub(super) fn is_owed(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn mark(&mut self, mark: Mark, now_ns: u64) {
        self.marks[mark as usize] = now_ns;
        self.recorder.mark(mark as usize, now_ns.saturating_sub(self.turn_began_ns));
    }

    /// A turn begins, and with it ends the one before.
    fn begin_turn(&mut self, now_ns: u64, unix_ns: u64) {
        let began_ns = std::mem::replace(&mut self.turn_began_ns, now_ns);
        let number = self.turn.number.saturating_add(1);
        let mut ended =
            std::mem::replace(&mut self.turn, Turn { number, unix_ns, ..Turn::default() });
        ended.took_ns = now_ns.saturating_sub(began_ns);
        let is_stall = ended.took_ns > self.recorder.turn_ns_max() && began_ns > 0;
        if is_stall || ended.work > 0 {
            ended.marks_ns = self.marks.map(|mark| mark.saturating_sub(began_ns));
            self.keep_turn(
                &ended,
                is_stall.then(|| longest_stretch(began_ns, &self.marks, now_ns)),
            );
        }
        self.marks = [0; MARKS];
        self.recorder.begin(number, unix_ns);
    }

    fn keep_turn(&mut self, ended: &Turn, stalled_in: Option<&'static str>) {
        if ended.work > 0 {
            self.recorder.worked(ended);
        }
        if let Some(stage) = stalled_in {
            self.recorder.stalled(ended);
            let unix_ns = ended.unix_ns.saturating_add(ended.took_ns);
            self.stalls.push(Stall { unix_ns, ns: ended.took_ns, stage });
        }
    }
}

/// Which part of a turn took longest, by the marks that it passed (0: not passed).
fn longest_stretch(began_ns: u64, marks: &[u64], ended_ns: u64) -> &'static str {
    let mut longest = ("idle", 0);
    let mut from = began_ns;
    let passed = marks.iter().any(|&mark| mark > 0);
    for (name, &mark) in STRETCHES.iter().zip(marks.iter().chain([&ended_ns])) {
        if mark == 0 || !passed {
            continue;
        }
        let took = mark.saturating_sub(from);
        if took > longest.1 {
            longest = (name, took);
        }
        from = mark;
    }
    longest.0
}

impl Condition {
    fn name(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Full => "full",
            Self::Failed(_) => "failed",
            Self::DiskLost(_) => "disk lost",
            Self::Draining => "draining",
        }
    }
}

impl Stations {
    pub(super) fn observe_turn(&mut self) {
        if let Some(observer) = &mut self.observer {
            observer.begin_turn(self.now.monotonic_ns, self.now.unix_ns);
        }
    }

    /// What the turn that ends did.
    #[inline]
    pub(super) fn note_work(&mut self, work: usize) {
        if let Some(observer) = &mut self.observer {
            observer.turn.work = work as u64;
        }
    }

    #[inline]
    pub(super) fn mark(&mut self, mark: Mark) {
        if let Some(observer) = &mut self.observer {
            observer.mark(mark, self.now.monotonic_ns);
        }
    }

    /// Takes a snapshot when it is time, a few rows a turn.
    pub(super) fn report(&mut self, port: &dyn Port) {
        let Some(observer) = &mut self.observer else { return };
        if let Some((mut snapshot, filling)) = observer.filling.take() {
            let filled = self.fill(&mut snapshot, filling);
            let Some(observer) = &mut self.observer else { return };
            match filled {
                Some(filling) => observer.filling = Some((snapshot, filling)),
                None => self.send(snapshot, port.counters()),
            }
            return;
        }
        if self.now.monotonic_ns < observer.next_ns {
            return;
        }
        observer.next_ns = self.now.monotonic_ns.saturating_add(EVERY_NS);
        if observer.begin_unix_ns == 0 {
            observer.begin_unix_ns = self.now.unix_ns;
        }
        if let Some(snapshot) = observer.reporter.take() {
            observer.filling = Some((snapshot, Filling::Producers(0)));
        }
    }

    fn send(&mut self, mut snapshot: Box<Snapshot>, port: PortCounters) {
        let Some(observer) = &mut self.observer else { return };
        std::mem::swap(&mut snapshot.stages, &mut observer.stages);
        snapshot.begin_unix_ns = std::mem::replace(&mut observer.begin_unix_ns, self.now.unix_ns);
        snapshot.end_unix_ns = self.now.unix_ns;
        snapshot.stalls.clone_from(&observer.stalls);
        snapshot.counters.clone_from(&self.counters);
        let PortCounters { received, transmitted, receive_dropped, transmit_dropped, handed_over } =
            port;
        snapshot.port = [received, transmitted, receive_dropped, transmit_dropped, handed_over];
        snapshot.condition = self.service.condition().name();
        snapshot.takes_plain = self.guard.takes_plain();
        let segments = self.log.segments();
        snapshot.log = LogState {
            epoch: self.log.epoch().0,
            segments_used: segments.live,
            segments_free: segments.free,
            in_flight_bytes: self.log.bytes_in_flight(),
            room_bytes: self.log.room_bytes(),
        };
        observer.reporter.send(snapshot);
    }

    /// Copies the next rows; returns where to go on, or that all are there.
    fn fill(&self, snapshot: &mut Snapshot, filling: Filling) -> Option<Filling> {
        let is_all = match filling {
            Filling::Producers(from) => self.fill_producers(snapshot, from),
            Filling::Sessions(from, _) => self.fill_sessions(snapshot, from),
            Filling::Subscriptions(from, _) => self.fill_subscriptions(snapshot, from),
            Filling::Streams(from, _) => self.fill_streams(snapshot, from),
            Filling::Settling(appended) => {
                snapshot.producers_durable = self.log.is_durable(appended.batch_seq);
                let waited_ns = self.now.monotonic_ns.saturating_sub(appended.at_ns);
                snapshot.producers_durable || self.condition().is_over() || waited_ns > SETTLE_NS
            }
        };
        let go_on = |from: usize| from.saturating_add(ROWS_A_TURN);
        match (filling, is_all) {
            (Filling::Producers(from), false) => Some(Filling::Producers(go_on(from))),
            (Filling::Producers(_), true) => {
                let batch_seq = self.log.appended_batch();
                Some(Filling::Sessions(0, Appended { batch_seq, at_ns: self.now.monotonic_ns }))
            }
            (Filling::Sessions(from, at), false) => Some(Filling::Sessions(go_on(from), at)),
            (Filling::Sessions(_, at), true) => Some(Filling::Subscriptions(0, at)),
            (Filling::Subscriptions(from, at), false) => {
                Some(Filling::Subscriptions(go_on(from), at))
            }
            (Filling::Subscriptions(_, at), true) => Some(Filling::Streams(0, at)),
            (Filling::Streams(from, at), false) => Some(Filling::Streams(go_on(from), at)),
            (Filling::Streams(_, at), true) | (Filling::Settling(at), false) => {
                Some(Filling::Settling(at))
            }
            (Filling::Settling(_), true) => None,
        }
    }

    fn fill_producers(&self, snapshot: &mut Snapshot, from: usize) -> bool {
        let places = self.log.producer_places();
        let to = from.saturating_add(ROWS_A_TURN).min(places.len());
        for producer in places[from.min(to)..to].iter().filter(|producer| producer.id.0 != 0) {
            let Some(row) = snapshot.producers.add() else { break };
            row.id = producer.id.0;
            row.accepted_to = producer.last_seq;
            row.active_unix_ns = producer.last_active_ns;
            row.ended = producer.ended;
        }
        to == places.len()
    }

    fn fill_sessions(&self, snapshot: &mut Snapshot, from: usize) -> bool {
        let to = from.saturating_add(ROWS_A_TURN).min(SESSIONS_MAX);
        for slot in (from..to).map(SessionSlot::new) {
            let session = self.sessions.get(slot);
            if session.phase != Phase::Open {
                continue;
            }
            let Some(row) = snapshot.sessions.add() else { break };
            row.conn_id = session.conn_id.short();
            row.peer = session.peer.addr;
            row.producer_id = session.producer.map_or(0, |producer| producer.id.0);
            row.accepted_to = session.receiver.accepted_to();
            row.durable_to = session.receipts.durable_to();
            row.subscriptions = session.subscriptions;
            row.silent_ns = self.now.monotonic_ns.saturating_sub(session.last_received_ns);
        }
        to == SESSIONS_MAX
    }

    /// One that moves while rows are copied is missed or shown twice, until the next snapshot.
    fn fill_subscriptions(&self, snapshot: &mut Snapshot, from: usize) -> bool {
        let to = from.saturating_add(ROWS_A_TURN).min(self.fanout.len());
        for index in from..to {
            let subscription = self.fanout.get(index);
            let Some(row) = snapshot.subscriptions.add() else { break };
            row.conn_id = self.sessions.get(subscription.session()).conn_id.short();
            row.stream = subscription.cursor.stream().0;
            row.next = subscription.cursor.next();
            row.told = subscription.cursor.told();
            row.stopped = subscription.cursor.stopped().is_some();
        }
        to >= self.fanout.len()
    }

    fn fill_streams(&self, snapshot: &mut Snapshot, from: usize) -> bool {
        for stream in self.log.streams().skip(from).take(ROWS_A_TURN) {
            let Some(row) = snapshot.streams.add() else { break };
            row.id = stream.id.0;
            row.name.clear();
            row.name.push_str(&stream.name);
            row.first_sequence = stream.first_sequence;
            row.durable_next = stream.durable_next;
            row.bytes = stream.bytes;
        }
        from.saturating_add(ROWS_A_TURN) >= STREAMS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Peer;
    use crate::metrics::snapshot::exchange;
    use crate::metrics::stages::Stage;
    use crate::port::memory::Faults;
    use crate::testing::rig::{Rig, address};

    #[test]
    fn a_batch_beyond_those_remembered_is_counted_with_the_last() {
        let recorder = Arc::new(Recorder::new(1_000, true));
        let mut observer = Observer::new(exchange().0, recorder);
        let batch = BatchTimes { messages: 2, durable_ns: 500, ..BatchTimes::default() };
        (0..TIMES_WAITING_MAX + 5).for_each(|_| observer.durable(&batch));
        assert_eq!(observer.waiting.len(), TIMES_WAITING_MAX);
        observer.told(900);
        assert_eq!(observer.stages.get(Stage::Whole).count(), 2 * (TIMES_WAITING_MAX as u64 + 5));
        assert!(!observer.is_owed());
    }

    #[test]
    fn a_turn_copies_so_many_rows_and_the_next_one_goes_on() {
        let mut rig = Rig::new(1, Faults::default());
        let stations = &mut rig.shards[0].stations;
        for number in 0..ROWS_A_TURN as u64 + 1 {
            stations.silent(Peer::ip_only(address(9)), number);
        }
        let at = Appended { batch_seq: BatchSeq::NONE, at_ns: 0 };
        let mut snapshot = Snapshot::new();
        let mut next = Filling::Sessions(0, at);
        for copied in [ROWS_A_TURN, ROWS_A_TURN + 1, ROWS_A_TURN + 1] {
            next = stations.fill(&mut snapshot, next).expect("there is more");
            assert_eq!(snapshot.sessions.as_slice().len(), copied);
        }
        let mut turns = 3;
        while matches!(next, Filling::Sessions(..)) {
            next = stations.fill(&mut snapshot, next).expect("there is more");
            turns += 1;
        }
        assert_eq!(turns, SESSIONS_MAX / ROWS_A_TURN);
    }

    #[test]
    fn the_longest_stretch_of_a_turn_is_named() {
        assert_eq!(longest_stretch(100, &[0, 0, 0], 5_000), "idle");
        assert_eq!(longest_stretch(100, &[4_000, 4_100, 4_200], 5_000), "receive");
        assert_eq!(longest_stretch(100, &[200, 4_100, 4_200], 5_000), "commit");
        assert_eq!(longest_stretch(100, &[0, 200, 4_200], 5_000), "transmit");
        assert_eq!(longest_stretch(100, &[150, 200, 300], 5_000), "deliver");
    }
}
