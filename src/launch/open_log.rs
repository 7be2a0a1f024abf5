//! A shard's log opened at launch, and opened again when its disk was lost and is back.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::shard_thread::ShardThread;
use super::{LaunchError, Progress};
use crate::clock::Clock;
use crate::disk::lock::Lock;
use crate::disk::{AnyDisk, Disk, DiskError, DiskFault};
use crate::ids::Lineage;
use crate::log::recovery::{OpenError, OpenOptions};
use crate::log::superblock::Identities;
use crate::log::{Log, Witness};
use crate::profile::DiskDriver;
use crate::session::receipts::Run;
use crate::shard::recovered_run;

/// Between two tries to open a disk that is gone.
const REOPEN_EVERY: Duration = Duration::from_millis(100);

/// How long a launch waits for a device that was there and went away.
const LAUNCH_WAIT_NS: u64 = 20_000_000_000;

/// A disk, its log, and the runs of messages recovery has seen, by producer.
pub(super) type Opened = (AnyDisk, Log, BTreeMap<u64, Vec<Run>>);

impl ShardThread<'_> {
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
        before: Opened,
        fault: DiskFault,
        watch: &mut dyn FnMut(Progress),
    ) -> Result<Opened, LaunchError> {
        let (disk, log, _) = before;
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
        let mut disk = self.disk.open(self.share, memory_bytes)?;
        if !self.settle(&mut disk, witness.is_some(), watch) {
            return Ok(None);
        }
        self.lock_log(&mut disk)?;
        let (queue_depth, unix_ns) = (self.profile.disk.queue_depth, self.clock.unix_ns());
        let lineage = Lineage::random();
        let options = OpenOptions { queue_depth, ring_bytes, unix_ns, lineage };
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
    pub(super) fn open_again(
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
                Err(LaunchError::Open(OpenError::NotFormatted { name, .. }))
                    if witness.is_some() =>
                {
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
