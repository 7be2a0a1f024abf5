//! The server's process: started on what the device holds, turned, killed, started again.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;

use super::disk::{Crash, Device, DiskFaults, SEGMENT_BYTES, SimDisk};
use super::oracle::{Oracle, Violation};
use super::plan::Plan;
use super::trace::Trace;
use crate::clock::{Clock, ManualClock};
use crate::disk::Disk;
use crate::limits::{Limits, RING_BYTES_MIN, SEGMENTS_MIN};
use crate::log::create::{FormatOptions, format_as};
use crate::log::recovery::{OpenError, OpenOptions, Reason, Recovery};
use crate::log::verify::verify;
use crate::log::{Log, StreamFacts};
use crate::metrics::Counters;
use crate::port::memory::MemoryNet;
use crate::seal::keys::Rotation;
use crate::session::receipts::Run;
use crate::shard::{Condition, Shard, ShardOptions, recovered_run};
use crate::testing::sealed::{House, everything};
use crate::wire::control::ErrorCode;

/// Where the server listens.
pub(super) const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);

/// A log that has rested for so long has said what is durable, as `docs/testing.md` has it.
const MARKED_NS: u64 = 1_000_000;

const RING: usize = RING_BYTES_MIN;

/// Changes of a shard's condition that runs have to see. The disk of the simulator never leaves its service.
pub(crate) const EDGES: [(&str, &str); 6] = [
    ("serving", "full"),
    ("full", "serving"),
    ("serving", "failed"),
    ("full", "failed"),
    ("serving", "draining"),
    ("full", "draining"),
];

fn name_of(condition: Condition) -> &'static str {
    match condition {
        Condition::Serving => "serving",
        Condition::Full => "full",
        Condition::Failed(_) => "failed",
        Condition::DiskLost(_) => "without a disk",
        Condition::Draining => "draining",
    }
}

/// What happened to the processes, for the coverage report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServerHits {
    /// Kills.
    pub kills: u64,
    /// Power cuts.
    pub power_cuts: u64,
    /// Orderly stops.
    pub stops: u64,
    /// Pauses.
    pub pauses: u64,
    /// Times the wall clock was set.
    pub clock_steps: u64,
    /// Servers that stopped acknowledging after a failed write or damaged data.
    pub failures: u64,
    /// Logs that became full.
    pub full: u64,
    /// Logs that were full and take messages again.
    pub roomy_again: u64,
    /// Changes of condition, as [`EDGES`] lists them.
    pub edges: [u64; EDGES.len()],
    /// Openings of the log.
    pub open: OpenHits,
    /// What happened to clients, or through them.
    pub client: ClientHits,
}

/// What openings found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OpenHits {
    /// Openings, all.
    pub all: u64,
    /// Those that cut an unacknowledged tail.
    pub cuts: u64,
    /// Those of a log that was stopped cleanly.
    pub clean: u64,
    /// Those that halted because acknowledged data is damaged.
    pub halts: u64,
    /// The same by row of the recovery table, whether another try went well or not.
    pub rows: [u64; Reason::ALL.len()],
    /// Those at which no two copies of the superblock agreed.
    pub no_quorum: u64,
    /// Those that failed because the device failed.
    pub failed: u64,
}

/// What happened to clients, or through them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClientHits {
    /// Clients killed.
    pub kills: u64,
    /// Old instances that lived on.
    pub zombies: u64,
    /// Publishers that were gone before they had published anything.
    pub visits: u64,
    /// Datagrams of strangers.
    pub strangers: u64,
    /// Producers that said they would not return.
    pub retired: u64,
    /// Partitions.
    pub partitions: u64,
    /// Acknowledgements of an earlier epoch.
    pub zombie_acks: u64,
    /// Trims asked for.
    pub trims: u64,
    /// Consumers that were told that what they wanted is trimmed.
    pub trimmed: u64,
    /// Messages too large for the datagrams of a consumer.
    pub too_large: u64,
}

type Running = Shard<ManualClock>;

/// How an opening went.
pub(super) enum Opening {
    /// It serves.
    Serves,
    /// The device failed; another try may go well.
    Failed,
    /// Acknowledged data is damaged on the media.
    Halted,
}

/// The process and the machine under it.
pub(super) struct Server {
    net: MemoryNet,
    clock: ManualClock,
    trace: Trace,
    /// The hardware.
    pub device: Rc<RefCell<Device>>,
    /// The process, while there is one.
    pub shard: Option<Running>,
    queue_depth: usize,
    /// The log was full at some time.
    pub was_full: bool,
    /// It was told to stop at some time.
    pub was_told_to_stop: bool,
    /// What happened.
    pub hits: ServerHits,
    /// Of the processes before this one.
    pub counters: Counters,
    lies: bool,
    limits: [Limits; 2],
    datagram_bytes: usize,
    /// When keys change, where sessions are sealed.
    rotation: Option<Rotation>,
    /// Who answers handshakes then.
    house: Option<House>,
}

/// Keys change after a few datagrams, and not while many of these may still be on their way.
fn rotation_of(plan: &Plan) -> Option<Rotation> {
    let datagrams = Some(plan.sealed).filter(|datagrams| *datagrams > 0)?;
    Some(Rotation { datagrams, least_ns: 500_000_000, ..Rotation::DEFAULT })
}

/// The first damage that `verify` finds on an image; a log without its superblocks is damaged, too.
fn verified(media: &Rc<RefCell<Device>>) -> Result<Option<String>, Violation> {
    let mut disk = SimDisk::open(media, Log::memory_bytes(RING)).expect("memory");
    match verify(&mut disk, &mut |_, _| {}) {
        Ok(report) => Ok(report
            .findings
            .into_iter()
            .find(|finding| finding.is_damage)
            .map(|finding| finding.what)),
        Err(error @ (OpenError::NoQuorum { .. } | OpenError::NotFormatted { .. })) => {
            Ok(Some(error.to_string()))
        }
        Err(error) => Err(Violation { oracle: "O9", what: error.to_string() }),
    }
}

fn not_opened(error: &OpenError) -> Violation {
    Violation { oracle: "O1", what: format!("the log is not opened: {error}") }
}

impl Server {
    /// A machine with a formatted disk; no process yet.
    ///
    /// # Panics
    /// When a faultless disk cannot be formatted.
    pub(super) fn new(plan: &Plan, net: &MemoryNet, clock: &ManualClock, trace: &Trace) -> Self {
        let bytes = crate::log::create::disk_bytes_min(SEGMENT_BYTES)
            + (plan.segments - SEGMENTS_MIN) * SEGMENT_BYTES;
        let device = Device::new(clock.clone(), trace.clone(), plan.seed ^ 0xd15c, bytes);
        let device = Rc::new(RefCell::new(device));
        let mut disk = SimDisk::open(&device, Log::memory_bytes(RING)).expect("memory for a disk");
        let options = FormatOptions { segment_bytes: SEGMENT_BYTES, force: true };
        let mut identity = [0x42; 48];
        identity[..8].copy_from_slice(&plan.seed.to_le_bytes());
        format_as(&mut disk, &options, &identity).expect("a faultless disk is formatted");
        Self {
            net: net.clone(),
            clock: clock.clone(),
            trace: trace.clone(),
            device,
            shard: None,
            queue_depth: plan.queue_depth,
            was_full: false,
            was_told_to_stop: false,
            hits: ServerHits::default(),
            counters: Counters::default(),
            lies: plan.disk_lies(),
            limits: plan.limits,
            datagram_bytes: plan.datagram_bytes,
            rotation: rotation_of(plan),
            house: None,
        }
    }

    /// Starts the process.
    ///
    /// # Errors
    /// A promise broken by what was found.
    pub(super) fn start(&mut self, oracle: &mut Oracle) -> Result<Opening, Violation> {
        self.hits.open.all += 1;
        if self.hits.open.all.is_multiple_of(3) {
            self.open_twice()?;
        }
        let mut runs = BTreeMap::new();
        match open(&self.device, self.queue_depth, &self.clock, &mut runs) {
            Ok((mut disk, log, recovery)) => {
                self.trace.note("opened", recovery.epoch, recovery.messages);
                self.hits.open.cuts += u64::from(recovery.cut);
                self.hits.open.clean += u64::from(recovery.clean);
                oracle.opened(recovery.epoch)?;
                oracle.has_streams(log.streams().map(|facts| (facts.id, facts.name.as_str())))?;
                disk.take_time();
                let port = self.net.port(SERVER, self.datagram_bytes);
                let options = ShardOptions { limits: self.limits_now(), ..ShardOptions::default() };
                let (port, disk) = (Box::new(port), Box::new(disk));
                let mut shard = Shard::new(port, disk, self.clock.begun(), log, runs, options);
                self.house = self
                    .rotation
                    .map(|rotation| House::new(everything(), false, rotation, recovery.epoch));
                if let Some(house) = &mut self.house {
                    shard.secure(house.for_shard());
                }
                self.shard = Some(shard);
                Ok(Opening::Serves)
            }
            Err(error) => self.on_open_error(&error),
        }
    }

    fn limits_now(&self) -> Limits {
        self.limits[usize::from(self.hits.open.all.is_multiple_of(2))]
    }

    fn on_open_error(&mut self, error: &OpenError) -> Result<Opening, Violation> {
        if let OpenError::Damaged(damaged) = error {
            let row = Reason::ALL.iter().position(|reason| *reason == damaged.because);
            self.hits.open.rows[row.expect("every halt has its row")] += 1;
        }
        self.hits.open.no_quorum += u64::from(matches!(error, OpenError::NoQuorum { .. }));
        self.device.borrow_mut().crash(Crash::Kill);
        match error {
            OpenError::Device { .. } | OpenError::Write { .. } => {
                self.trace.note("opening failed", 0, 0);
                self.hits.open.failed += 1;
                Ok(Opening::Failed)
            }
            OpenError::Damaged(_) | OpenError::NoQuorum { .. } | OpenError::NotFormatted { .. } => {
                // A failed or bad read is over with the next; what is on the media stays.
                let media = Rc::new(RefCell::new(self.device.borrow().fork()));
                let again = open(&media, self.queue_depth, &self.clock, &mut BTreeMap::new());
                self.trace.note("halted", u64::from(again.is_err()), 0);
                let reads_fail = self.lies || matches!(error, OpenError::NoQuorum { .. });
                if again.is_ok() && reads_fail {
                    self.hits.open.failed += 1;
                    return Ok(Opening::Failed);
                }
                self.hits.open.halts += 1;
                if self.lies { Ok(Opening::Halted) } else { Err(not_opened(error)) }
            }
            OpenError::Earlier { .. }
            | OpenError::Later { .. }
            | OpenError::Smaller { .. }
            | OpenError::Shards { .. }
            | OpenError::Share { .. }
            | OpenError::NotTheSame { .. } => Err(not_opened(error)),
        }
    }

    /// O9: opening a log, being killed, and opening it again finds the same. O22: where it finds damage, `verify` does.
    fn open_twice(&self) -> Result<(), Violation> {
        let media = Rc::new(RefCell::new(self.device.borrow().fork()));
        let damage = verified(&media)?;
        if let Some(what) = damage.as_ref().filter(|_| !self.lies) {
            let what = format!("verify finds damage where a crash was all: {what}");
            return Err(Violation { oracle: "O9", what });
        }
        let mut found = Vec::new();
        for _ in 0..2 {
            let opened = open(&media, self.queue_depth, &self.clock, &mut BTreeMap::new());
            if let (Err(OpenError::Damaged(damaged)), None) = (&opened, &damage) {
                let what = format!("verify finds nothing where opening says: {damaged}");
                return Err(Violation { oracle: "O22", what });
            }
            found.push(match &opened {
                Ok((_, log, _)) => summary(log),
                Err(error) => error.to_string(),
            });
            media.borrow_mut().crash(Crash::Kill);
        }
        Oracle::same(&found[0], &found[1])
    }

    /// One turn of the process; then what must be true of it.
    ///
    /// # Errors
    /// A promise broken.
    pub(super) fn turn(&mut self, oracle: &mut Oracle) -> Result<(), Violation> {
        let limits = self.limits_now();
        let Some(shard) = &mut self.shard else { return Ok(()) };
        let before = shard.condition();
        shard.turn();
        if let Some(house) = &mut self.house {
            house.turn(self.clock.now_ns());
        }
        let after = shard.condition();
        self.was_full |= after == Condition::Full || shard.log().is_full();
        if before != after {
            self.note_edge(before, after);
        }
        if !self.was_full && self.net.errors(ErrorCode::NoSpace) > 0 {
            let what = "somebody was told that the log is full, and it never was".into();
            return Err(Violation { oracle: "O15", what });
        }
        let Some(shard) = &self.shard else { return Ok(()) };
        let log = shard.log();
        oracle.serves(log.epoch().0, log.durable_end())?;
        if after == Condition::Serving && log.is_idle() {
            let done_ns = self.clock.now_ns().saturating_sub(MARKED_NS);
            self.device.borrow_mut().vouch_at_rest(done_ns);
        }
        for stream in log.streams() {
            oracle.begins(stream.id, stream.first_sequence)?;
        }
        let in_flight = log.bytes_in_flight() as u64;
        Oracle::within("bytes in flight", in_flight, limits.in_flight_bytes as u64)?;
        Oracle::within("sessions", shard.sessions() as u64, limits.sessions as u64)
    }

    fn note_edge(&mut self, before: Condition, after: Condition) {
        self.trace.note("condition", 0, 0);
        let edge = (name_of(before), name_of(after));
        if let Some(index) = EDGES.iter().position(|known| *known == edge) {
            self.hits.edges[index] += 1;
        }
        match after {
            Condition::Failed(_) => self.hits.failures += 1,
            Condition::Full => self.hits.full += 1,
            Condition::Serving => self.hits.roomy_again += 1,
            Condition::DiskLost(_) | Condition::Draining => {}
        }
    }

    /// The process ends at once.
    pub(super) fn crash(&mut self, how: Crash) {
        self.end_process();
        self.device.borrow_mut().crash(how);
        match how {
            Crash::Kill => self.hits.kills += 1,
            Crash::PowerCut => self.hits.power_cuts += 1,
        }
        self.trace.note("crash", u64::from(how == Crash::PowerCut), 0);
    }

    fn end_process(&mut self) {
        if let Some(shard) = self.shard.take() {
            self.counters.add_all(shard.counters());
        }
    }

    /// The process drains and ends in an orderly way; killed where that takes too long.
    ///
    /// # Errors
    /// A promise broken meanwhile.
    pub(super) fn stop(&mut self, oracle: &mut Oracle) -> Result<(), Violation> {
        let Some(shard) = &mut self.shard else { return Ok(()) };
        let before = shard.condition();
        shard.drain();
        let after = shard.condition();
        self.note_edge(before, after);
        self.was_told_to_stop = true;
        for _ in 0..2_000 {
            self.clock.advance_ns(20_000);
            self.turn(oracle)?;
            if self.shard.as_ref().is_some_and(Shard::is_drained) {
                break;
            }
        }
        let drained = self.shard.as_ref().is_some_and(Shard::is_drained);
        let hung = self.device.borrow().is_hung();
        if !drained || hung {
            self.crash(Crash::Kill);
            return Ok(());
        }
        let shard = self.shard.take().expect("it ran a moment ago");
        self.counters.add_all(shard.counters());
        // Closing waits for the disk, and nobody turns the clock.
        self.device.borrow_mut().set_at_once(true);
        let closed = shard.close();
        self.device.borrow_mut().set_at_once(false);
        self.trace.note("stopped", u64::from(closed.is_ok()), 0);
        // One that could not close its log has not stopped in order: it left as if it was killed.
        self.hits.stops += u64::from(closed.is_ok());
        self.hits.kills += u64::from(closed.is_err());
        self.device.borrow_mut().crash(Crash::Kill);
        Ok(())
    }

    /// Whether it takes messages.
    pub(super) fn serves(&self) -> bool {
        self.shard.as_ref().is_some_and(|shard| shard.condition() == Condition::Serving)
    }

    /// Ends all faults of the disk.
    pub(super) fn heal(&mut self) {
        self.device.borrow_mut().set_faults(DiskFaults::default());
    }
}

type Opened = (SimDisk, Log, Recovery);

pub(super) fn open(
    device: &Rc<RefCell<Device>>,
    queue_depth: usize,
    clock: &ManualClock,
    runs: &mut BTreeMap<u64, Vec<Run>>,
) -> Result<Opened, OpenError> {
    let mut disk = SimDisk::open(device, Log::memory_bytes(RING)).expect("memory for a disk");
    let (unix_ns, lineage) = (clock.unix_ns(), device.borrow_mut().next_lineage());
    let options = OpenOptions { queue_depth, ring_bytes: RING, unix_ns, lineage };
    let (log, recovery) =
        Log::open(&mut disk, &options, &mut |message| recovered_run(runs, message))?;
    assert_eq!(disk.in_flight(), 0, "an opening leaves nothing in flight");
    Ok((disk, log, recovery))
}

/// What an opening found, but for its epoch.
fn summary(log: &Log) -> String {
    let facts = |s: &StreamFacts| (s.id, s.first_sequence, s.next_sequence, s.durable_next);
    let streams: Vec<_> = log.streams().map(facts).collect();
    let producers: Vec<_> = log.producers().map(|p| (p.id, p.epoch, p.last_seq)).collect();
    format!("streams {streams:?} producers {producers:?}")
}
