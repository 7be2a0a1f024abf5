//! Several shards in one process: a thread each, pinned, with a share of the disk and a UDP port of its own.
//!
//! A DPDK device is opened for all of them first. The threads open their logs side by side. When all are open, their
//! streams are entered into the directory, and all begin to serve. The calling thread only listens to what they
//! say; they wait for nobody. The first failure at launch, or one that no waiting mends, stops them all.

use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use super::held::Held;
use super::notify::Notify;
use super::seat::{Opened, Seat};
use super::{Entrance, House, Houses, LaunchError, Progress};
use super::{dpdk_port, keep_house, pin_to};
use crate::admin::Hangup;
use crate::clock::{FollowingClock, HostClock};
use crate::disk::{Disk, DiskFault};
use crate::log::superblock::ShareId;
use crate::profile::{PortDriver, PortProfile, Profile};
use crate::shard::Neighbours;
use crate::shard::directory::{Directory, Placer, directory};
use crate::shard::observe::Observer;

/// Between two looks of a shard at its disk while others open their logs: the disk gives a sign of life a second to
/// whoever wants to know whether the namespace's owner lives, and takes 16 looks at most to come to it.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a shard's thread says.
enum Word {
    /// Its log is open: the names of its streams.
    Opened(Vec<String>),
    Said(Progress),
    Ended(Result<(), LaunchError>),
}

/// To a shard's thread: serve. Without it, end.
type Go = mpsc::Sender<Neighbours>;

pub(super) fn serve(
    profile: &Profile,
    cores: &[Option<usize>],
    (notify, stop, clock): (&Notify, &Arc<AtomicBool>, &HostClock),
    hangup: Hangup,
    watch: &mut dyn FnMut(Progress),
) -> Result<(), LaunchError> {
    let count = profile.shard.count;
    let entrances = entrances(profile)?;
    let beats: Vec<Arc<AtomicU64>> = cores.iter().map(|_| Arc::default()).collect();
    // Before the log is made: what it cannot have is said first, and whoever asks hears that it starts.
    let Houses { socket: _socket, houses, alive } = keep_house(profile, &beats, hangup, watch)?;
    let _keeper = notify.keep_alive(&[alive]);
    let held = Held::of(profile, stop, watch)?;
    let (say, heard) = mpsc::channel();
    thread::scope(|scope| {
        let mut go = Vec::new();
        let places = cores.iter().zip(&beats).zip(entrances);
        for ((index, house), ((core, beat), entrance)) in (0..).zip(houses).zip(places) {
            let share = ShareId { index, count };
            let mut seat = Seat::new(
                share,
                &held,
                profile,
                FollowingClock::new(clock.clone()),
                Arc::clone(stop),
                Arc::clone(beat),
            );
            seat.core = *core;
            let (go_in, go_out) = mpsc::channel();
            go.push(go_in);
            let say = say.clone();
            let body = move || run(&seat, house, entrance, &go_out, &say);
            let name = format!("buslane-shard-{index}");
            if let Err(error) = thread::Builder::new().name(name).spawn_scoped(scope, body) {
                stop.store(true, Ordering::Relaxed);
                return Err(LaunchError::Thread(error));
            }
        }
        drop(say);
        Listener::new(profile, go, (notify, stop)).listen(&heard, watch)
    })
}

/// A shard that panics takes the process with it: recovery is the restart.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

/// What a shard's thread does.
fn run(
    seat: &Seat<'_>,
    house: (House, Observer),
    entrance: Entrance,
    go: &mpsc::Receiver<Neighbours>,
    say: &mpsc::Sender<(u32, Word)>,
) {
    let _abort = AbortOnPanic;
    let tell = |word| {
        // The listener goes last.
        let _ = say.send((seat.share.index, word));
    };
    let mut watch = |progress| tell(Word::Said(progress));
    // Memory is touched first by the core that works with it, so the thread is pinned before there is any.
    let opened = pin_to(seat.core).and_then(|_| seat.open_first(&mut watch));
    let ended = opened.and_then(|opened| {
        tell(Word::Opened(opened.1.streams().map(|stream| stream.name.clone()).collect()));
        let mut reopen = |opened, fault| seat.reopen(opened, fault, &mut watch);
        match wait_to_go(go, opened, &mut reopen)? {
            Some((neighbours, opened)) => {
                seat.serve(entrance.pass(), opened, house, Some(neighbours), &mut watch)
            }
            None => Ok(()),
        }
    });
    tell(Word::Ended(ended));
}

/// Waits until the logs of all shards are open, which may take the slowest long; `None` where one of them could not
/// begin, with this one closed. A disk that is lost meanwhile is let go of: others wait for that to have theirs.
fn wait_to_go(
    go: &mpsc::Receiver<Neighbours>,
    mut opened: Opened,
    reopen: &mut dyn FnMut(Opened, DiskFault) -> Result<Opened, LaunchError>,
) -> Result<Option<(Neighbours, Opened)>, LaunchError> {
    loop {
        match go.recv_timeout(LOOK_EVERY) {
            Ok(neighbours) => return Ok(Some((neighbours, opened))),
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

/// The port of each shard; those of a DPDK device are opened together.
fn entrances(profile: &Profile) -> Result<Vec<Entrance>, LaunchError> {
    match profile.port.driver {
        PortDriver::Udp => {
            let ports = (0..profile.shard.count).map(|shard| port_of(&profile.port, shard));
            ports.map(|port| Entrance::open(&port)).collect()
        }
        PortDriver::Dpdk => {
            Ok(dpdk_port::open_all(profile)?.into_iter().map(Entrance::Port).collect())
        }
    }
}

fn close((mut disk, log, _): Opened) -> Result<(), LaunchError> {
    log.close(&mut disk).map_err(|error| LaunchError::Failed(error.to_string()))
}

fn port_of(base: &PortProfile, shard: u32) -> PortProfile {
    let offset = u16::try_from(shard).expect("few shards");
    let address = SocketAddrV4::new(*base.address.ip(), base.address.port() + offset);
    PortProfile { address, ..base.clone() }
}

/// Hears what the shards say, and lets them begin.
struct Listener<'a> {
    profile: &'a Profile,
    notify: &'a Notify,
    stop: &'a AtomicBool,
    /// Empty once all were told to go, or that they need not.
    go: Vec<Go>,
    directory: Arc<Directory>,
    placer: Option<Placer>,
    /// Shards whose logs are open, and that have begun to serve.
    opened: usize,
    ready: u32,
    is_stopping: bool,
    /// The first failure.
    failed: Option<LaunchError>,
}

impl<'a> Listener<'a> {
    fn new(
        profile: &'a Profile,
        go: Vec<Go>,
        (notify, stop): (&'a Notify, &'a AtomicBool),
    ) -> Self {
        let (placer, directory) = directory(profile.shard.count);
        let placer = Some(placer);
        let (opened, ready, is_stopping, failed) = (0, 0, false, None);
        Self { profile, notify, stop, go, directory, placer, opened, ready, is_stopping, failed }
    }

    /// Until the last shard has ended.
    fn listen(
        mut self,
        heard: &mpsc::Receiver<(u32, Word)>,
        watch: &mut dyn FnMut(Progress),
    ) -> Result<(), LaunchError> {
        for (shard, word) in heard {
            match word {
                Word::Opened(streams) => self.enter(shard, &streams),
                Word::Said(progress) => self.on_said(shard, progress, watch),
                Word::Ended(Ok(())) => {}
                Word::Ended(Err(LaunchError::Stopped)) => self.fail(LaunchError::Stopped),
                Word::Ended(Err(error)) => self.fail(LaunchError::OfShard(shard, Box::new(error))),
            }
        }
        self.failed.map_or(Ok(()), Err)
    }

    fn fail(&mut self, error: LaunchError) {
        self.failed.get_or_insert(error);
        // Only a flag: it orders nothing but itself.
        self.stop.store(true, Ordering::Relaxed);
        self.go.clear();
    }

    /// A shard's log is open: its streams are known from now on. The last one lets all begin.
    fn enter(&mut self, shard: u32, streams: &[String]) {
        let placer = self.placer.as_mut().expect("nobody serves yet");
        for name in streams {
            if let Err(other) = placer.add(name, shard) {
                self.fail(LaunchError::Failed(format!(
                    "{}: stream {name} is on shard {other} and on shard {shard}; these are shares of different \
                     logs: restore the disk",
                    self.profile.disk.path
                )));
                return;
            }
        }
        self.opened += 1;
        if self.opened < self.profile.shard.count as usize {
            return;
        }
        for (shard, go) in (0..).zip(self.go.drain(..)) {
            // A shard that has ended says why itself.
            let _ = go.send(Neighbours {
                shard,
                shards: self.profile.shard.count,
                base_port: self.profile.port.address.port(),
                directory: Arc::clone(&self.directory),
                placer: self.placer.take(),
            });
        }
    }

    fn on_said(&mut self, shard: u32, progress: Progress, watch: &mut dyn FnMut(Progress)) {
        if matches!(progress, Progress::Stopping) {
            if !self.is_stopping {
                self.notify.say("STOPPING=1");
                watch(Progress::Stopping);
            }
            self.is_stopping = true;
            return;
        }
        let ready = if let Progress::Ready(_, _, durability, _) = progress {
            Some(durability)
        } else {
            None
        };
        watch(Progress::OfShard(shard, Box::new(progress)));
        let Some(durability) = ready else { return };
        self.ready += 1;
        let count = self.profile.shard.count;
        if self.ready == count {
            let (address, disk) = (self.profile.port.address, self.profile.disk.path.clone());
            watch(Progress::AllReady(address, count, disk, durability));
            self.notify.say("READY=1");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::disk::ram::RamDisk;
    use crate::disk::{Completion, DiskInfo, Io};
    use crate::log::Log;
    use crate::log::create::{FormatOptions, format};
    use crate::log::recovery::OpenOptions;
    use crate::memory::Memory;

    /// Is lost after it was polled so often in a row, or lets go of the sender.
    struct Polled {
        disk: RamDisk,
        polls_left: u32,
        go: Option<Go>,
        is_lost: bool,
    }

    impl Disk for Polled {
        fn info(&self) -> &DiskInfo {
            self.disk.info()
        }

        fn memory(&self) -> &Memory {
            self.disk.memory()
        }

        fn memory_mut(&mut self) -> &mut Memory {
            self.disk.memory_mut()
        }

        fn submit(&mut self, io: Io) -> Result<(), Io> {
            self.disk.submit(io)
        }

        fn poll(&mut self, done: &mut [Completion]) -> usize {
            if done.is_empty() {
                self.polls_left -= 1;
                if self.polls_left == 0 {
                    self.is_lost = self.go.is_none();
                    self.go = None;
                }
            }
            self.disk.poll(done)
        }

        fn in_flight(&self) -> usize {
            self.disk.in_flight()
        }

        fn out_of_service(&self) -> Option<DiskFault> {
            self.is_lost.then_some(DiskFault::Gone)
        }
    }

    fn opened(go: Option<Go>) -> Opened {
        let ring_bytes = 2 << 20;
        let mut disk = RamDisk::new(16 << 20, Log::memory_bytes(ring_bytes), 4).unwrap();
        format(&mut disk, &FormatOptions { segment_bytes: 1 << 20, force: false }).unwrap();
        let options = OpenOptions { queue_depth: 4, ring_bytes, unix_ns: 1 };
        let (log, _) = Log::open(&mut disk, &options, &mut |_| {}).unwrap();
        (Box::new(Polled { disk, polls_left: 20, go, is_lost: false }), log, BTreeMap::new())
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
