//! A shard's thread: pinned, its log open, served until it is told to stop, and served again when its disk was lost and
//! is back.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::door::Entrance;
use super::housekeeping::Reports;
use super::listener::Event;
use super::log_disk::LogDisk;
use super::open_log::Opened;
use super::{DRAIN_NS, LaunchError, Progress, pin_to};
use crate::admin::state::PlaceView;
use crate::clock::{Clock, FollowingClock};
use crate::disk::lock::Lock;
use crate::disk::uring::UringFile;
use crate::disk::{Disk, DiskFault};
use crate::limits::Limits;
use crate::log::superblock::ShareId;
use crate::port::AnyPort;
use crate::profile::Profile;
use crate::shard::{Condition, Security, Shard, ShardOptions, Siblings};
use crate::wire::control::ErrorCode;

/// Turns between two looks at the signals, and between two signs of life. Few, because a turn that waits for
/// the disk on a core it shares takes as long as the other's time slice, and the watchdog must not take that for
/// a shard that hangs.
const TURNS_A_LOOK: u32 = 16;

/// Of a log that is full, trimmed and full again many times a second, one word a second is said.
const SAY_EVERY_NS: u64 = 1_000_000_000;

/// Between two looks of a shard at its disk while others open their logs: the disk gives a sign of life a second to
/// whoever wants to know whether the namespace's owner lives, and takes 16 looks at most to come to it.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Where a shard runs, and on what.
pub(super) struct ShardThread<'a> {
    pub(super) share: ShareId,
    pub(super) disk: &'a LogDisk,
    pub(super) profile: &'a Profile,
    pub(super) clock: FollowingClock,
    pub(super) stop: Arc<AtomicBool>,
    /// Moves while the shard makes turns.
    pub(super) beat: Arc<AtomicU64>,
    pub(super) core: Option<usize>,
    /// That no other process of this host serves the same log, be it by another way.
    pub(super) log_lock: RefCell<Option<Lock>>,
    /// For sealed sessions.
    pub(super) security: RefCell<Option<Security>>,
}

/// A shard that panics takes the process with it: recovery is the restart.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

impl ShardThread<'_> {
    /// Opens the log, waits to be let go, and serves; says what happens, and last how it ended.
    pub(super) fn run(
        &self,
        entrance: Entrance,
        reports: Reports,
        go: &mpsc::Receiver<Option<Siblings>>,
        events: &mpsc::Sender<(u32, Event)>,
    ) {
        let _abort = AbortOnPanic;
        let tell = |event| {
            // The listener goes last.
            let _ = events.send((self.share.index, event));
        };
        let mut watch = |progress| tell(Event::Progress(progress));
        // Memory is touched first by the core that works with it, so the thread is pinned before there is any.
        let opened = pin_to(self.core).and_then(|_| self.open_first(&mut watch));
        let ended = opened.and_then(|opened| {
            tell(Event::Opened(opened.1.streams().map(|stream| stream.name.clone()).collect()));
            let mut reopen = |opened, fault| self.reopen(opened, fault, &mut watch);
            match wait_to_go(go, opened, &mut reopen)? {
                Some((siblings, opened)) => {
                    self.serve(entrance.pass(), opened, siblings, reports, &mut watch)
                }
                None => Ok(()),
            }
        });
        tell(Event::Ended(ended));
    }

    /// Serves until it is told to stop; a disk that is lost is opened again as soon as it is back.
    fn serve(
        &self,
        mut port: AnyPort,
        mut opened: Opened,
        mut siblings: Option<Siblings>,
        reports: Reports,
        watch: &mut dyn FnMut(Progress),
    ) -> Result<(), LaunchError> {
        let Reports { life, facts, mut observer } = reports;
        loop {
            let (disk, log, runs) = opened;
            let (name, durability) = (disk.info().name.clone(), disk.info().durability);
            let options = ShardOptions {
                limits: Limits::MAX,
                window_messages: self.profile.limits.window_messages,
                secret: log.secret(),
                shard: u16::try_from(self.share.index).expect("at most 64 shards"),
            };
            let mut shard = Shard::new(port, disk, self.clock.clone(), log, runs, options);
            let security = self.security.take();
            let takes = security.as_ref().map_or("plain", Security::takes);
            if let Some(security) = security {
                shard.secure(security);
            }
            // Housekeeping goes with the process only.
            let _ = facts.send(PlaceView {
                address: shard.port().local().to_string(),
                port: shard.port().describe(),
                security: takes.to_owned(),
                disk: name.clone(),
                durability: durability.name().to_owned(),
                core: self.core,
            });
            shard.observe(observer);
            if let Some(siblings) = siblings.take() {
                shard.join(siblings);
            }
            life.begin();
            watch(Progress::Ready(shard.port().local(), name.clone(), durability, self.core));
            let fault = self.turns(&mut shard, watch);
            life.pause();
            let Some(fault) = fault else {
                watch(Progress::Stopping);
                return stop_shard(shard, &self.clock, watch);
            };
            watch(Progress::Lost(name, fault));
            observer = shard.take_observer().expect("given above");
            siblings = shard.take_siblings();
            *self.security.borrow_mut() = shard.take_security();
            let witness = shard.log().witness();
            port = shard.abandon();
            let Some(again) = self.open_again(Some(&witness), u64::MAX, watch)? else {
                return Ok(());
            };
            opened = again;
        }
    }

    /// Turns until it is told to stop (`None`), or the disk is lost.
    fn turns<C: Clock>(
        &self,
        shard: &mut Shard<C>,
        watch: &mut dyn FnMut(Progress),
    ) -> Option<DiskFault> {
        // A log may be full from the beginning.
        let (mut told, mut told_ns) = (Condition::Serving, None);
        let mut keeper: Option<String> = None;
        loop {
            for _ in 0..TURNS_A_LOOK {
                shard.turn();
            }
            // Only this thread writes it, and it orders nothing.
            self.beat.store(self.beat.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
            // Only a flag: it orders nothing but itself.
            let stops = self.stop.load(Ordering::Relaxed);
            let misplaced = self.disk.misplaced();
            if misplaced.is_some() {
                shard.give_up_disk(DiskFault::Misplaced);
            }
            let condition = shard.condition();
            let now_ns = self.clock.now_ns();
            // One that comes and goes is said once in a while, and before a stop.
            let was_said = |said_ns: u64| now_ns.saturating_sub(said_ns) < SAY_EVERY_NS;
            let may_wait = condition.takes_trims() && told_ns.is_some_and(was_said);
            // Of a log that stays full after a trim it is said who keeps it so now.
            let is_kept_by_another = condition == Condition::Full
                && told == condition
                && !may_wait
                && shard.log().oldest_keeper() != keeper.as_deref();
            if (condition != told || is_kept_by_another) && (stops || !may_wait) {
                match condition {
                    Condition::Failed(code) => {
                        let open = misplaced.map(UringFile::own_name);
                        watch(Progress::Failing(failure(shard, code, open.as_deref())));
                    }
                    Condition::Full => {
                        keeper = shard.log().oldest_keeper().map(str::to_owned);
                        watch(Progress::Full(keeper.clone()));
                    }
                    Condition::DiskLost(fault) if !stops => return Some(fault),
                    Condition::Serving => watch(Progress::Room(shard.log().room_bytes())),
                    Condition::DiskLost(_) | Condition::Draining => {}
                }
                (told, told_ns) = (condition, Some(now_ns));
            }
            if stops {
                return None;
            }
        }
    }
}

/// Waits until the logs of all shards are open, which may take the slowest long; `None` where one of them could not
/// begin, with this one closed. A disk that is lost meanwhile is let go of: others wait for that to have theirs.
fn wait_to_go(
    go: &mpsc::Receiver<Option<Siblings>>,
    mut opened: Opened,
    reopen: &mut dyn FnMut(Opened, DiskFault) -> Result<Opened, LaunchError>,
) -> Result<Option<(Option<Siblings>, Opened)>, LaunchError> {
    loop {
        match go.recv_timeout(LOOK_EVERY) {
            Ok(siblings) => return Ok(Some((siblings, opened))),
            Err(mpsc::RecvTimeoutError::Disconnected) => return close(opened).map(|()| None),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                // An open log has nothing in flight: what is polled for is what a disk does by itself.
                let finished = opened.0.poll(&mut []);
                assert_eq!(finished, 0, "there is no place for a completion");
                if let Some(fault) = opened.0.out_of_service() {
                    opened = reopen(opened, fault)?;
                }
            }
        }
    }
}

fn close(opened: Opened) -> Result<(), LaunchError> {
    let (mut disk, log, _) = opened;
    log.close(&mut disk).map_err(|error| LaunchError::Failed(error.to_string()))
}

fn failure<C: Clock>(shard: &Shard<C>, code: ErrorCode, misplaced: Option<&str>) -> String {
    if let Some(open) = misplaced {
        let fault = DiskFault::Misplaced;
        return format!(
            "the log: {fault}; nothing more is acknowledged; copy {open} to save what is in it, put that in its \
             place, then restart"
        );
    }
    if let Some(damage) = shard.damage() {
        let stream = shard.log().stream(damage.stream).map_or("?", |facts| facts.name.as_str());
        let (first, last) = (damage.first, damage.last);
        return format!(
            "acknowledged data is damaged: stream {stream}, sequences {first} to {last}; nothing more \
             is acknowledged; see: buslane log verify"
        );
    }
    match shard.log().fault() {
        Some(fault) => format!("{fault}; nothing more is acknowledged; restart once it is mended"),
        None => code.to_string(),
    }
}

fn stop_shard<C: Clock>(
    mut shard: Shard<C>,
    clock: &C,
    watch: &mut dyn FnMut(Progress),
) -> Result<(), LaunchError> {
    shard.drain();
    let begin_ns = clock.now_ns();
    while !shard.is_drained() && clock.now_ns() - begin_ns < DRAIN_NS {
        shard.turn();
    }
    let open_bytes = shard.log().bytes_in_flight();
    if !shard.is_drained() && open_bytes > 0 {
        watch(Progress::Failing(format!(
            "{} bytes of the log are not on media {} s after the stop",
            open_bytes,
            DRAIN_NS / 1_000_000_000
        )));
    }
    shard.close().map_err(LaunchError::Failed)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::listener::Go;
    use super::*;
    use crate::ids::Lineage;
    use crate::log::Log;
    use crate::log::recovery::OpenOptions;
    use crate::testing::disk::{RING, TestDisk};

    /// On a disk that is lost after it was polled so often in a row, or lets go of the sender.
    fn opened(mut go: Option<Go>) -> Opened {
        let mut disk = TestDisk::formatted(16 << 20);
        let options =
            OpenOptions { queue_depth: 4, ring_bytes: RING, unix_ns: 1, lineage: Lineage(9) };
        let (log, _) = Log::open(&mut disk, &options, &mut |_| {}).unwrap();
        let mut polls_left = 20;
        disk.watch(move || {
            polls_left -= 1;
            polls_left == 0 && go.take().is_none()
        });
        (Box::new(disk), log, BTreeMap::new())
    }

    /// It ends only because the disks are polled: nobody else lets go of the sender.
    #[test]
    fn a_disk_is_looked_at_while_its_shard_waits_for_the_slowest() {
        let (go, wait) = mpsc::channel();
        let (mut lost, mut go) = (0, Some(go));
        let mut reopen = |before: Opened, fault| {
            assert_eq!(fault, DiskFault::Gone);
            drop(before);
            lost += 1;
            Ok(opened(go.take()))
        };
        let ended = wait_to_go(&wait, opened(None), &mut reopen).unwrap();
        assert!(ended.is_none(), "nobody sent anything");
        assert_eq!(lost, 1, "it was let go of, and opened again");
    }
}
