//! A shard's seat: its log opened, served, and opened again when its disk was lost and is back.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::held::Held;
use super::{AnyDisk, AnyPort, House, LaunchError, Progress, TURNS_A_LOOK, failure, stop_shard};
use crate::admin::state::ShardFacts;
use crate::clock::{Clock, FollowingClock};
use crate::disk::lock::Lock;
use crate::disk::uring::UringFile;
use crate::disk::{Disk, DiskError, DiskFault};
use crate::limits::Limits;
use crate::log::recovery::{OpenError, OpenOptions};
use crate::log::superblock::{Identities, ShareId};
use crate::log::{Log, Witness};
use crate::port::Port;
use crate::profile::{DiskDriver, Profile};
use crate::session::receipts::Run;
use crate::shard::observe::Observer;
use crate::shard::{Condition, Neighbours, Shard, ShardOptions, recovered_run};

/// Between two tries to open a disk that is gone.
const REOPEN_EVERY: Duration = Duration::from_millis(100);

/// Of a log that is full, trimmed and full again many times a second, one word a second is said.
const SAY_EVERY_NS: u64 = 1_000_000_000;

/// How long a launch waits for a device that was there and went away.
const LAUNCH_WAIT_NS: u64 = 20_000_000_000;

/// A disk, its log, and the runs of messages recovery has seen, by producer.
pub(super) type Opened = (AnyDisk, Log, BTreeMap<u64, Vec<Run>>);

/// Where a shard runs, and on what.
pub(super) struct Seat<'a> {
    pub(super) share: ShareId,
    held: &'a Held,
    pub(super) profile: &'a Profile,
    clock: FollowingClock,
    stop: Arc<AtomicBool>,
    /// Moves while the shard makes turns.
    pub(super) beat: Arc<AtomicU64>,
    pub(super) core: Option<usize>,
    /// That no other process of this host serves the same log, be it by another way.
    log_lock: RefCell<Option<Lock>>,
}

impl<'a> Seat<'a> {
    /// A seat that has no core yet.
    pub(super) fn new(
        share: ShareId,
        held: &'a Held,
        profile: &'a Profile,
        clock: FollowingClock,
        stop: Arc<AtomicBool>,
        beat: Arc<AtomicU64>,
    ) -> Self {
        Self { share, held, profile, clock, stop, beat, core: None, log_lock: RefCell::default() }
    }

    /// Serves until it is told to stop; a disk that is lost is opened again as soon as it is back.
    pub(super) fn serve(
        &self,
        mut port: AnyPort,
        mut opened: Opened,
        (house, mut observer): (House, Observer),
        mut neighbours: Option<Neighbours>,
        watch: &mut dyn FnMut(Progress),
    ) -> Result<(), LaunchError> {
        loop {
            let (disk, log, runs) = opened;
            let (name, durability) = (disk.info().name.clone(), disk.info().durability);
            let options = ShardOptions {
                limits: Limits::MAX,
                window_messages: self.profile.limits.window_messages,
                secret: getrandom::u64().expect("the operating system gives random bytes"),
            };
            let mut shard = Shard::new(port, disk, self.clock.clone(), log, runs, options);
            // Housekeeping goes with the process only.
            let _ = house.facts.send(ShardFacts {
                address: shard.port().local().to_string(),
                port: shard.port().describe(),
                disk: name.clone(),
                durability: durability.name(),
                core: self.core,
            });
            shard.observe(observer);
            if let Some(neighbours) = neighbours.take() {
                shard.join(neighbours);
            }
            house.life.begin();
            watch(Progress::Ready(shard.port().local(), name.clone(), durability, self.core));
            let fault = self.run(&mut shard, watch);
            house.life.pause();
            let Some(fault) = fault else {
                watch(Progress::Stopping);
                return stop_shard(shard, &self.clock, watch);
            };
            watch(Progress::Lost(name, fault));
            observer = shard.take_observer().expect("given above");
            neighbours = shard.take_neighbours();
            let witness = shard.log().witness();
            port = shard.abandon();
            let Some(again) = self.open_again(Some(&witness), u64::MAX, watch)? else {
                return Ok(());
            };
            opened = again;
        }
    }

    /// Turns until it is told to stop (`None`), or the disk is lost.
    fn run<C: Clock>(
        &self,
        shard: &mut Shard<AnyPort, AnyDisk, C>,
        watch: &mut dyn FnMut(Progress),
    ) -> Option<DiskFault> {
        // A log may be full from the beginning.
        let (mut told, mut told_ns) = (Condition::Serving, 0);
        loop {
            for _ in 0..TURNS_A_LOOK {
                shard.turn();
            }
            // Only this thread writes it, and it orders nothing.
            self.beat.store(self.beat.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
            // Only a flag: it orders nothing but itself.
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            let misplaced = self.held.misplaced();
            if misplaced.is_some() {
                shard.give_up_disk(DiskFault::Misplaced);
            }
            let condition = shard.condition();
            if condition == told {
                continue;
            }
            let now_ns = self.clock.now_ns();
            if condition.takes_trims() && now_ns.saturating_sub(told_ns) < SAY_EVERY_NS {
                continue;
            }
            match condition {
                Condition::Failed(code) => {
                    let open = misplaced.map(UringFile::own_name);
                    watch(Progress::Failing(failure(shard, code, open.as_deref())));
                }
                Condition::Full => {
                    watch(Progress::Full(shard.log().oldest_keeper().map(str::to_owned)));
                }
                Condition::DiskLost(fault) => return Some(fault),
                Condition::Serving => watch(Progress::Room(shard.log().room_bytes())),
                Condition::Draining => {}
            }
            (told, told_ns) = (condition, now_ns);
        }
    }

    /// Opens the log at launch. A device that goes away while it is read is
    /// waited for, one that was not there is not.
    pub(super) fn open_first(
        &self,
        watch: &mut dyn FnMut(Progress),
    ) -> Result<Opened, LaunchError> {
        let until = self.clock.now_ns().saturating_add(LAUNCH_WAIT_NS);
        let opened = match self.open_log(None, watch) {
            Err(error) if was_lost(&error) => {
                watch(Progress::Waiting(error.to_string()));
                self.open_again(None, until, watch)?
            }
            opened => opened?,
        };
        opened.ok_or(LaunchError::Stopped)
    }

    /// Opens the log of a launch again whose disk was lost before it served.
    pub(super) fn reopen(
        &self,
        (disk, log, _): Opened,
        fault: DiskFault,
        watch: &mut dyn FnMut(Progress),
    ) -> Result<Opened, LaunchError> {
        watch(Progress::Lost(disk.info().name.clone(), fault));
        let witness = log.witness();
        drop((log, disk));
        let until = self.clock.now_ns().saturating_add(LAUNCH_WAIT_NS);
        self.open_again(Some(&witness), until, watch)?.ok_or(LaunchError::Stopped)
    }

    /// `None` when told to stop meanwhile.
    fn open_log(
        &self,
        witness: Option<&Witness>,
        watch: &mut dyn FnMut(Progress),
    ) -> Result<Option<Opened>, LaunchError> {
        let ring_bytes = usize::try_from(self.profile.disk.ring).expect("a 64-bit machine");
        let memory_bytes = Log::memory_bytes(ring_bytes);
        let mut disk = self.held.open(&self.profile.disk, self.share, memory_bytes, watch)?;
        if !self.settle(&mut disk, witness.is_some(), watch) {
            return Ok(None);
        }
        self.lock_log(&mut disk)?;
        let (queue_depth, unix_ns) = (self.profile.disk.queue_depth, self.clock.unix_ns());
        let options = OpenOptions { queue_depth, ring_bytes, unix_ns };
        let begin_ns = self.clock.now_ns();
        let mut runs = BTreeMap::new();
        let mut seen = |message: &_| recovered_run(&mut runs, message);
        let (log, recovery) = Log::open_again(&mut disk, &options, witness, &mut seen)?;
        let took_ns = self.clock.now_ns() - begin_ns;
        watch(Progress::Opened(disk.info().name.clone(), recovery, took_ns));
        Ok(Some((disk, log, runs)))
    }

    /// Waits until nothing that an earlier process has sent can arrive any more, where nothing keeps it out and the
    /// log was not stopped in order; `false` when told to stop.
    fn settle(&self, disk: &mut AnyDisk, was_lost: bool, watch: &mut dyn FnMut(Progress)) -> bool {
        let Some(settles_in) = disk.settles_in() else { return true };
        if !was_lost && Identities::read(disk).is_some_and(|log| log.clean) {
            return true;
        }
        watch(Progress::Waiting(format!(
            "{}: the namespace has no reservations: for {} s what was sent before may still arrive",
            disk.info().name,
            settles_in.as_secs()
        )));
        let mut waited = Duration::ZERO;
        while waited < settles_in {
            if !self.goes_on() {
                return false;
            }
            wait(REOPEN_EVERY);
            waited += REOPEN_EVERY;
            disk.poll(&mut []);
            if disk.out_of_service().is_some() {
                // The opening says so.
                break;
            }
        }
        true
    }

    /// Two namespaces may be the same disk. What is read here may be damaged; opening the log says so.
    fn lock_log(&self, disk: &mut AnyDisk) -> Result<(), LaunchError> {
        if self.profile.disk.driver != DiskDriver::Spdk || self.log_lock.borrow().is_some() {
            return Ok(());
        }
        let Some(log) = Identities::read(disk) else { return Ok(()) };
        let leg: String = log.leg.iter().map(|byte| format!("{byte:02x}")).collect();
        let lock = Lock::take(&format!("log {leg}")).map_err(|why| DiskError::Open {
            name: disk.info().name.clone(),
            why: format!("its log, {leg}, is open by another name: {why}"),
            mend: "stop the other one: a log has one writer".into(),
        })?;
        *self.log_lock.borrow_mut() = Some(lock);
        Ok(())
    }

    /// Opens a disk that was lost, as often as it takes; `None` when told to stop meanwhile.
    ///
    /// # Errors
    /// What no waiting mends: the device is back, and its log is damaged, gone, another, or an older copy. After
    /// `until_ns` whatever it is.
    fn open_again(
        &self,
        witness: Option<&Witness>,
        until_ns: u64,
        watch: &mut dyn FnMut(Progress),
    ) -> Result<Option<Opened>, LaunchError> {
        let mut told = String::new();
        while self.goes_on() {
            match self.open_log(witness, watch) {
                Ok(opened) => return Ok(opened),
                Err(error) if may_be_mended(&error) && self.clock.now_ns() < until_ns => {
                    let why = error.to_string();
                    if why != told {
                        watch(Progress::Waiting(why.clone()));
                        told = why;
                    }
                }
                Err(LaunchError::Open(OpenError::NotFormatted { name })) if witness.is_some() => {
                    let why = "it holds no log".into();
                    return Err(OpenError::NotTheSame { name, why }.into());
                }
                Err(error) => return Err(error),
            }
            wait(REOPEN_EVERY);
        }
        Ok(None)
    }

    /// Whether it was not told to stop; and a sign of life.
    fn goes_on(&self) -> bool {
        // Only this thread writes it, and it orders nothing.
        self.beat.store(self.beat.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        // Only a flag: it orders nothing but itself.
        !self.stop.load(Ordering::Relaxed)
    }
}

/// Whether a device was there and went away.
fn was_lost(error: &LaunchError) -> bool {
    let fault = if let LaunchError::Open(OpenError::Device { fault, .. }) = error {
        Some(*fault)
    } else if let LaunchError::Disk(DiskError::Lost { fault, .. }) = error {
        Some(*fault)
    } else if let LaunchError::Open(OpenError::Write { fault, .. }) = error {
        Some(fault.fault)
    } else {
        None
    };
    fault.is_some_and(DiskFault::may_come_back)
}

/// Whether it may go better the next time.
fn may_be_mended(error: &LaunchError) -> bool {
    matches!(
        error,
        LaunchError::Disk(DiskError::Open { .. } | DiskError::Lost { .. })
            | LaunchError::Open(OpenError::Device { .. } | OpenError::Write { .. })
    )
}

#[allow(clippy::disallowed_methods, reason = "no disk, so nothing to poll")]
fn wait(time: Duration) {
    std::thread::sleep(time);
}
