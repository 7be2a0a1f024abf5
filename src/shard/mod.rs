//! A shard: one core, one port, one disk queue, and the turn that moves messages between them.
//!
//! ```text
//! turn:  receive -> commit -> transmit -> deliver -> keep
//! ```
//!
//! Only the shard knows all stations; a station returns values and never calls back. A turn never
//! blocks and never allocates; each of its steps is bounded by a constant of `limits`. The group commit
//! needs no timer: what was appended is sealed and submitted at once while the disk has room in its
//! queue, else it waits for the next completion, and grows.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

mod audit;
mod commit;
mod condition;
mod control;
mod deliver;
pub mod directory;
pub mod observe;
mod outbox;
mod placement;
mod publish;
mod publishers;
mod receive;
mod register;
mod requests;
mod security;
mod slots;
mod timers;
mod transmit;

#[cfg(test)]
mod pretend;
#[cfg(test)]
mod producer_tests;
#[cfg(test)]
mod return_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod edge_tests;
#[cfg(test)]
mod enemy_tests;
#[cfg(test)]
mod sealed_tests;
#[cfg(test)]
mod stranger_tests;
#[cfg(test)]
mod patience_tests;
#[cfg(test)]
mod turn_tests;

use std::collections::BTreeMap;

use crate::clock::{Clock, Now};
use crate::disk::{AnyDisk, Completion, Disk, DiskFault};
use crate::fanout::Fanout;
use crate::ids::{Durability, Epoch};
use crate::limits::{CREDIT_BYTES_MIN, DATAGRAM_BYTES_MIN, Limits, RUNS_MAX, WINDOW_MESSAGES_MAX};
use crate::log::Log;
use crate::log::recovery::RecoveredMessage;
use crate::metrics::Counters;
use crate::mutant::Mutant;
use crate::port::{AnyPort, Port};
use crate::seal::SEAL_BYTES;
use crate::session::gate::Gate;
use crate::session::receipts::Run;
use crate::session::table::Sessions;
use crate::wire::control::ErrorCode;
use crate::wire::publish::{MESSAGE_HEAD_BYTES, PUBLISH_HEAD_BYTES};
use crate::wire::record::RECORD_HEADER_BYTES;
use crate::wire::{DATAGRAM_HEADER_BYTES, FRAME_HEAD_BYTES};

pub use crate::session::handshake::{Handshaker, HandshakerEnd, ShardEnd, rings};
use condition::Service;
pub use condition::{Condition, Damage};
use observe::{Mark, Observer};
use outbox::{Outbox, Reply};
pub use placement::Siblings;
use publishers::Publishers;
use requests::Requests;
use security::Guard;
pub use security::Security;
pub use transmit::{reject, send_to};

/// What a datagram spends before the payload of its only message, as PUBLISH or as DATA, padding included.
const MESSAGE_OVERHEAD: usize = {
    let publish =
        DATAGRAM_HEADER_BYTES + FRAME_HEAD_BYTES + PUBLISH_HEAD_BYTES + MESSAGE_HEAD_BYTES;
    let data = DATAGRAM_HEADER_BYTES
        + FRAME_HEAD_BYTES
        + crate::wire::publish::DATA_HEAD_BYTES
        + RECORD_HEADER_BYTES
        + 7;
    if publish > data { publish } else { data }
};
const _: () = assert!(MESSAGE_OVERHEAD < DATAGRAM_BYTES_MIN);

/// What a shard is told at launch.
#[derive(Clone, Copy, Debug)]
pub struct ShardOptions {
    /// Messages one publisher may have sent and not yet seen durable, at most `WINDOW_MESSAGES_MAX`.
    pub window_messages: usize,
    /// Known to nobody else: numbers of sessions, cookies and the tokens of RESET follow from it. The same after a
    /// restart, so that clients of the process before learn at once that it is gone.
    pub secret: [u8; 32],
    /// Which shard of its appliance it is.
    pub shard: u16,
    /// How much of what there may be it has.
    pub limits: Limits,
}

impl Default for ShardOptions {
    fn default() -> Self {
        Self {
            window_messages: WINDOW_MESSAGES_MAX,
            secret: [0; 32],
            shard: 0,
            limits: Limits::MAX,
        }
    }
}

/// What does not change while a shard runs.
#[derive(Clone, Copy, Debug)]
struct Settings {
    /// Messages one publisher may have sent and not yet seen durable.
    window_messages: usize,
    limits: Limits,
    /// The largest message that fits a datagram, published or delivered.
    message_bytes_max: usize,
    /// UDP payload of a datagram.
    datagram_bytes: usize,
}

/// Everything of a shard but its port and clock, so that a received datagram can be read in place while
/// the rest changes.
#[derive(Debug)]
struct Stations {
    disk: AnyDisk,
    log: Log,
    sessions: Sessions,
    gate: Gate,
    fanout: Fanout,
    outbox: Outbox,
    publishers: Publishers,
    requests: Requests,
    counters: Counters,
    /// Completions of this turn.
    done: Vec<Completion>,
    service: Service,
    settings: Settings,
    /// When this turn began, or its poll of the disk brought something.
    now: Now,
    observer: Option<Box<Observer>>,
    /// The other shards; `None` where there are none.
    siblings: Option<Siblings>,
    guard: Guard,
}

/// Notes a message that recovery has seen, for the receipts of its producer; the newest runs are kept.
pub fn recovered_run(runs: &mut BTreeMap<u64, Vec<Run>>, message: &RecoveredMessage) {
    let of_producer = runs.entry(message.producer_id.0).or_default();
    if let Some(last) = of_producer.last_mut() {
        let goes_on = last.stream == message.stream.0
            && last.end_seq() == message.producer_seq
            && last.first_sequence.saturating_add(u64::from(last.count)) == message.sequence;
        if goes_on && let Some(count) = last.count.checked_add(1) {
            last.count = count;
            return;
        }
    }
    if of_producer.len() == RUNS_MAX {
        of_producer.remove(0);
    }
    of_producer.push(Run {
        first_seq: message.producer_seq,
        first_sequence: message.sequence,
        count: 1,
        stream: message.stream.0,
        ..Run::default()
    });
}

/// One shard.
#[derive(Debug)]
pub struct Shard<C> {
    port: AnyPort,
    clock: C,
    stations: Stations,
}

impl<C: Clock> Shard<C> {
    /// Puts a shard together from an open log; `runs` are the messages recovery has seen, by producer.
    /// Allocates what the shard will ever need.
    pub fn new(
        port: AnyPort,
        disk: AnyDisk,
        clock: C,
        mut log: Log,
        runs: BTreeMap<u64, Vec<Run>>,
        options: ShardOptions,
    ) -> Self {
        let limits = options.limits;
        limits.assert_sound();
        log.set_limits(limits);
        let datagram_bytes = port.datagram_bytes();
        let mut message_bytes_max = datagram_bytes.saturating_sub(MESSAGE_OVERHEAD).max(1);
        if Mutant::MessageSizeUnchecked.is_on() {
            message_bytes_max = message_bytes_max.saturating_add(8);
        }
        assert!(message_bytes_max <= CREDIT_BYTES_MIN, "the smallest credit holds every message");
        let window_messages = options.window_messages;
        let settings = Settings { window_messages, limits, message_bytes_max, datagram_bytes };
        let service = Service::new(log.is_full());
        let stations = Stations {
            sessions: Sessions::new(log.epoch(), &options.secret, &limits),
            gate: Gate::new(&options.secret, options.shard),
            disk,
            log,
            fanout: Fanout::new(limits.replay_buffers),
            outbox: Outbox::new(limits.replies),
            publishers: Publishers::new(runs),
            requests: Requests::new(),
            counters: Counters::default(),
            done: commit::new_completions(),
            service,
            settings,
            now: clock.now(),
            observer: None,
            siblings: None,
            guard: Guard::new(),
        };
        Self { port, clock, stations }
    }

    /// Lets it be observed from now on.
    pub fn observe(&mut self, observer: Observer) {
        self.stations.observer = Some(Box::new(observer));
    }

    /// Takes its observer away, for the shard that follows.
    pub fn take_observer(&mut self) -> Option<Observer> {
        self.stations.observer.take().map(|observer| *observer)
    }

    /// Tells it of the other shards of its appliance.
    pub fn join(&mut self, siblings: Siblings) {
        self.stations.service.tell(Some(&siblings));
        self.stations.siblings = Some(siblings);
    }

    /// Serves sealed sessions from now on; nobody has one in the clear yet.
    pub fn secure(&mut self, security: Security) {
        let stations = &mut self.stations;
        stations.gate.seal(&security.key, security.takes_plain);
        let settings = &mut stations.settings;
        settings.message_bytes_max = settings.message_bytes_max.saturating_sub(SEAL_BYTES).max(1);
        stations.guard.set(security);
    }

    /// Takes what it has for sealed sessions away, for the shard that follows. Keys of sessions are dropped here: it
    /// serves no more.
    pub fn take_security(&mut self) -> Option<Security> {
        self.stations.guard.take()
    }

    /// Takes what it knows of the others away, for the shard that follows.
    pub fn take_siblings(&mut self) -> Option<Siblings> {
        self.stations.siblings.take()
    }

    /// One turn; returns the work done, so that the caller can see idleness.
    pub fn turn(&mut self) -> usize {
        let received = self.port.receive();
        self.stations.begin_turn(&self.clock);
        for index in 0..received {
            let (peer, bytes) = self.port.datagram(index);
            self.stations.on_datagram(peer, bytes);
        }
        let committed = self.stations.commit(&self.clock);
        // Publishers wait for their acknowledgements: these leave before consumers are served.
        let transmitted = self.stations.transmit(&mut *self.port);
        let mut flushed = if transmitted > 0 { self.port.flush() } else { 0 };
        self.stations.note_told(&self.clock);
        let delivered = self.stations.deliver(&mut *self.port);
        flushed = flushed.saturating_add(self.port.flush());
        self.stations.keep();
        self.stations.report(&*self.port);
        let work = [received, committed, delivered, transmitted, flushed];
        let work = work.into_iter().fold(0, usize::saturating_add);
        self.stations.note_work(work);
        work
    }

    /// Stops taking messages; what was received is still made durable and acknowledged.
    pub fn drain(&mut self) {
        self.stations.drain();
    }

    /// Acknowledges nothing more, for a reason that the disk does not know of.
    pub fn give_up_disk(&mut self, fault: DiskFault) {
        self.stations.log.halt(fault);
        self.stations.fail(ErrorCode::DiskFailed);
    }

    /// Whether nothing is in flight any more.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        let stations = &self.stations;
        stations.log.is_idle()
            && stations.disk.in_flight() == 0
            && stations.publishers.none_is_due()
    }

    /// Closes the log and lets go of port and disk. Nobody is told: the appliance may be back in a moment, and
    /// clients wait for it as they do for one that was killed.
    ///
    /// # Errors
    /// What kept the log from being closed; it is then recovered at the next start.
    pub fn close(self) -> Result<(), String> {
        let Stations { mut disk, log, service, .. } = self.stations;
        match service.condition() {
            Condition::Failed(code) => return Err(code.to_string()),
            Condition::DiskLost(fault) => return Err(fault.to_string()),
            Condition::Serving | Condition::Full | Condition::Draining => {}
        }
        log.close(&mut disk).map_err(|error| error.to_string())
    }

    /// Lets go of disk and log as they are, and gives the port back; the log is recovered at its next opening.
    pub fn abandon(self) -> AnyPort {
        self.port
    }

    /// What the shard does for publishers now.
    #[must_use]
    pub fn condition(&self) -> Condition {
        self.stations.condition()
    }

    /// Acknowledged messages found damaged while they were delivered, the last case.
    #[must_use]
    pub fn damage(&self) -> Option<Damage> {
        self.stations.service.damage()
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.stations.counters
    }

    /// The log, to look at.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.stations.log
    }

    /// The port, to look at.
    #[must_use]
    pub fn port(&self) -> &dyn Port {
        &*self.port
    }

    /// Sessions open now.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.stations.sessions.len()
    }
}

impl Stations {
    fn begin_turn<C: Clock>(&mut self, clock: &C) {
        self.now = clock.now();
        self.gate.begin_turn();
        self.observe_turn();
    }

    /// What is owed has left with the flush just made, if nothing waits for the next turn.
    fn note_told<C: Clock>(&mut self, clock: &C) {
        let Some(observer) = &mut self.observer else { return };
        if self.publishers.none_is_due() && observer.is_owed() {
            let now_ns = clock.now_ns();
            observer.told(now_ns);
            observer.mark(Mark::Transmitted, now_ns);
        }
    }

    fn durability(&self) -> Durability {
        if Mutant::DurabilityOverstated.is_on() {
            return Durability::KernelSync;
        }
        self.disk.info().durability
    }

    fn epoch(&self) -> Epoch {
        self.log.epoch()
    }
}
