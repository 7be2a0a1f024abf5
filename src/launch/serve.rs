//! Serving: what the shards of an appliance have in common is opened, and each gets a thread.
//!
//! The first shard runs on the calling thread: DPDK's environment was started by it, and it is the process's first,
//! which tools show by the process's number. Every further one has a thread of its own, and so has the listener.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, mpsc};
use std::thread::{self, Builder};

use super::door::Entrance;
use super::housekeeping::{Housekeeping, Reports};
use super::keys::Keys;
use super::listener::{Event, Listener};
use super::log_disk::LogDisk;
use super::notify::Notify;
use super::shard_thread::ShardThread;
use super::stop::LastResort;
use super::{LaunchError, Progress, catch_signals, dpdk_port};
use crate::admin::Hangup;
use crate::clock::{FollowingClock, HostClock};
use crate::cpu;
use crate::host::{self, Needs, Topology, Tree};
use crate::log::superblock::ShareId;
use crate::profile::{DiskDriver, PortDriver, Profile, ProfileError};

/// Whoever watches, from whatever thread.
type Watch<'a> = dyn FnMut(Progress) + Send + 'a;

/// A shard's thread, and what it begins with.
struct Start<'a> {
    thread: ShardThread<'a>,
    entrance: Entrance,
    reports: Reports,
}

/// Serves until SIGTERM or SIGINT; one that comes later ends the process at once. A disk that is lost while serving
/// is opened again as soon as it is back.
///
/// # Errors
/// Why it did not start, or how it failed.
pub fn serve(profile: &Profile, watch: &mut Watch<'_>) -> Result<(), LaunchError> {
    let stop = catch_signals()?;
    // Before anything that takes long: until it is caught, it ends the process.
    let hangup = Hangup::catch().map_err(LaunchError::Signals)?;
    let last_resort = LastResort::watch(&stop)?;
    let served = serve_until(profile, &stop, hangup, &mut |progress| {
        if progress.is_ready() {
            last_resort.note_serving();
        }
        watch(progress);
    });
    match served {
        // As was asked for: there is nothing to finish.
        Err(LaunchError::Stopped) => Ok(()),
        other => other,
    }
}

fn serve_until(
    profile: &Profile,
    stop: &Arc<AtomicBool>,
    hangup: Hangup,
    watch: &mut Watch<'_>,
) -> Result<(), LaunchError> {
    let cores = cpu::available_cores();
    profile.check_serve(&cores)?;
    if let Some(crowding) = check_host(profile, &cores)? {
        watch(Progress::Warning(crowding));
    }
    cpu::allow_core_dumps();
    let notify = Notify::from_environment();
    let clock = HostClock::new();
    let shard_cores = profile.shard_cores(&cores)?;
    if profile.disk.driver == DiskDriver::Spdk && profile.port.driver == PortDriver::Dpdk {
        // One EAL for both: the port's, since only it says what devices it wants.
        dpdk_port::start(&profile.port)?;
    }
    let (mut keys, source) = Keys::open(profile, watch)?.unzip();
    let hangup = hangup.rereads(source);
    let entrances = Entrance::open_all(profile, keys.as_ref())?;
    if let Some(keys) = &mut keys {
        let addresses: Vec<_> = entrances.iter().map(Entrance::local).collect();
        keys.show(&addresses, watch);
    }
    let mut security: Vec<_> =
        entrances.iter().map(|_| keys.as_mut().map(Keys::for_shard)).collect();
    let beats: Vec<Arc<AtomicU64>> = shard_cores.iter().map(|_| Arc::default()).collect();
    // Before this thread is pinned, so that the keeper and housekeeping are not; and before the log is made, so
    // that what it cannot have is said first, and whoever asks hears that it starts.
    let Housekeeping { socket: _socket, reports, alive } =
        Housekeeping::start(profile, &beats, hangup, watch)?;
    let _keeper = notify.keep_alive(&[alive]);
    let _answering = keys.map(|keys| keys.answer(clock.clone())).transpose()?;
    let disk = LogDisk::take(profile, stop, watch)?;
    let count = profile.shard.count;
    let mut thread = |((index, core), beat)| ShardThread {
        share: ShareId { index, count },
        disk: &disk,
        profile,
        clock: FollowingClock::new(clock.clone()),
        stop: Arc::clone(stop),
        beat,
        core,
        log_lock: std::cell::RefCell::default(),
        security: std::cell::RefCell::new(
            security.get_mut(usize::try_from(index).expect("few shards")).and_then(Option::take),
        ),
    };
    let threads = (0..).zip(shard_cores).zip(beats).map(&mut thread);
    let start = |((thread, entrance), reports)| Start { thread, entrance, reports };
    let starts = threads.zip(entrances).zip(reports).map(start).collect();
    run(profile, starts, &notify, stop, watch)
}

/// Runs every shard until all have ended.
fn run(
    profile: &Profile,
    starts: Vec<Start<'_>>,
    notify: &Notify,
    stop: &AtomicBool,
    watch: &mut Watch<'_>,
) -> Result<(), LaunchError> {
    thread::scope(|scope| {
        let (events, heard) = mpsc::channel();
        let (mut go, mut bodies) = (Vec::new(), Vec::new());
        for Start { thread, entrance, reports } in starts {
            let (go_in, go_out) = mpsc::channel();
            go.push(go_in);
            let events = events.clone();
            bodies.push(move || thread.run(entrance, reports, &go_out, &events));
        }
        let listener = Listener::new(profile, notify, stop, go);
        let listening = Builder::new()
            .name("buslane-launch".into())
            .spawn_scoped(scope, move || listener.listen(&heard, watch))
            .map_err(LaunchError::Thread)?;
        let mut bodies = (0..).zip(bodies);
        let (_, first) = bodies.next().expect("at least one shard");
        for (index, body) in bodies {
            let name = format!("buslane-shard-{index}");
            if let Err(error) = Builder::new().name(name).spawn_scoped(scope, body) {
                // Those that have begun are told so by the listener.
                let _ = events.send((index, Event::Ended(Err(LaunchError::Thread(error)))));
                break;
            }
        }
        drop(events);
        first();
        listening.join().expect("the listener does not panic")
    })
}

/// Whether cores and devices are where the profile may have them, and the checks it requires pass. Returns what
/// is let pass with a warning.
fn check_host(profile: &Profile, cores: &[usize]) -> Result<Option<String>, ProfileError> {
    let tree = Tree::new(Path::new("/"));
    let needs = Needs::of(profile, cores);
    let place = |key: &str| profile.source.place(key);
    let topology = Topology::read(&tree);
    needs.check_placement(&topology, &place)?;
    if !needs.require.is_empty() {
        host::check_required(&tree, &needs, &place("host.require"))?;
    }
    Ok(needs.crowding(&topology))
}
