//! Launch: from a profile to a serving shard, and the only place where threads are placed.
//!
//! In this order, each missing thing one clear line: check the profile against the host, and the host against what
//! the profile requires, open the port, open the disk and recover the log, pin the thread, serve. The only shard runs
//! on the calling thread: DPDK's buffer caches belong to the thread that started its environment. Where there are
//! several, each has a thread of its own, see `shards`.

#[cfg(feature = "dpdk")]
#[path = "dpdk.rs"]
mod dpdk_port;
#[cfg(not(feature = "dpdk"))]
#[path = "no_dpdk.rs"]
mod dpdk_port;
mod door;
mod files;
mod held;
mod house;
mod logfile;
pub mod notify;
mod present;
mod seat;
mod shards;
#[cfg(not(feature = "spdk"))]
#[path = "no_spdk.rs"]
mod spdk_disk;
#[cfg(feature = "spdk")]
#[path = "spdk.rs"]
mod spdk_disk;
mod stop;

use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use door::Entrance;
use held::{Held, ensure_file};
use house::{House, Houses, keep_house};
use logfile::Missing;
use seat::Seat;
use stop::LastResort;

pub use stop::catch_signals;

use crate::admin::Hangup;
use crate::clock::{Clock, FollowingClock, HostClock};
use crate::cpu;
use crate::disk::ram::RamDisk;
use crate::disk::share::Share;
use crate::disk::uring::{UringConfig, UringDisk, UringFile};
use crate::disk::{Disk, DiskError, DiskFault, is_transport_id};
use crate::host::{self, Needs, Topology, Tree};
use crate::ids::Durability;
use crate::limits::QUEUE_DEPTH_MAX;
use crate::log::create::{FormatError, FormatOptions, format};
use crate::log::recovery::{OpenError, Recovery};
use crate::log::shares;
use crate::log::superblock::ShareId;
use crate::port::udp::UdpPort;
use crate::port::{Port, PortError};
use crate::profile::{
    Core, DiskDriver, DiskProfile, PortDriver, PortProfile, Profile, ProfileError,
};
use crate::shard::Shard;

/// A port of any kind.
pub type AnyPort = Box<dyn Port>;
/// A disk of any kind.
pub type AnyDisk = Box<dyn Disk>;

/// Turns between two looks at the signals, and between two signs of life. Few, because a turn that waits for
/// the disk on a core it shares takes as long as the other's time slice, and the watchdog must not take that for
/// a shard that hangs.
const TURNS_A_LOOK: u32 = 16;

/// Memory to format a disk in.
const FORMAT_MEMORY_BYTES: usize = 2 << 20;

/// How long a stop waits for what is in flight.
const DRAIN_NS: u64 = 5_000_000_000;

/// Why an appliance did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// the profile does not fit the host
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// the port could not be opened
    #[error(transparent)]
    Port(#[from] PortError),
    /// the disk could not be opened
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// the log could not be made
    #[error(transparent)]
    Format(#[from] FormatError),
    /// the log could not be opened
    #[error(transparent)]
    Open(#[from] OpenError),
    /// the thread could not be pinned
    #[error(
        "core {0}: the operating system does not let this thread run there; choose another shard.core"
    )]
    Pin(usize),
    /// signals could not be caught
    #[error("catching signals: {0}")]
    Signals(std::io::Error),
    /// the housekeeping thread could not be started
    #[error("starting the housekeeping thread: {0}")]
    Housekeeping(std::io::Error),
    /// a shard's thread could not be started
    #[error("starting a shard's thread: {0}")]
    Thread(std::io::Error),
    /// told to stop before it served
    #[error("told to stop before it served")]
    Stopped,
    /// a shard did not start, or ended
    #[error("shard {0}: {1}")]
    OfShard(u32, Box<LaunchError>),
    /// serving ended with a failure
    #[error("{0}")]
    Failed(String),
}

/// What happens while an appliance starts and runs, for whoever watches.
#[derive(Debug)]
pub enum Progress {
    /// A log file is written: bytes done, bytes in all.
    Creating(PathBuf, u64, u64),
    /// The log is open.
    Opened(String, Recovery, u64),
    /// The disk is gone, or was reset; it is opened again as soon as it is back.
    Lost(String, DiskFault),
    /// Why it is not back yet.
    Waiting(String),
    /// Serving: the port's address, the disk, why it is durable, the core.
    Ready(SocketAddrV4, String, Durability, Option<usize>),
    /// Of one shard of several.
    OfShard(u32, Box<Progress>),
    /// All shards serve: where the first listens, how many, the disk, why it is durable.
    AllReady(SocketAddrV4, u32, String, Durability),
    /// Something is not as wished, and serving goes on.
    Warning(String),
    /// Nothing more is acknowledged.
    Failing(String),
    /// The log is full; the stream that keeps its oldest segment.
    Full(Option<String>),
    /// A log that was full takes messages again: room for so many bytes.
    Room(u64),
    /// Finishing what is in flight.
    Stopping,
}

impl Progress {
    /// Whether somebody can publish from now on.
    fn is_ready(&self) -> bool {
        if let Self::OfShard(_, progress) = self {
            return progress.is_ready();
        }
        matches!(self, Self::Ready(..) | Self::AllReady(..))
    }
}

/// Opens the port a profile names.
///
/// # Errors
/// What keeps it from being opened, and how to mend it.
pub fn open_port(profile: &PortProfile) -> Result<AnyPort, PortError> {
    match profile.driver {
        PortDriver::Udp => Ok(Box::new(UdpPort::open(profile.address, profile.datagram_bytes)?)),
        PortDriver::Dpdk => Ok(dpdk_port::open(profile)?),
    }
}

/// Opens the appliance's port and a client's as a pair in this process, both as `[port.dpdk]` and
/// `[client.port.dpdk]` say but for the device.
///
/// # Errors
/// What keeps them from being opened, and how to mend it.
pub fn open_port_pair(profile: &Profile) -> Result<(AnyPort, AnyPort), PortError> {
    dpdk_port::open_pair(&profile.port, &profile.client.port)
}

/// Opens the disk a profile names, with `memory_bytes` to work in. A file that does not exist is made,
/// initialised and formatted.
///
/// # Errors
/// What keeps it from being opened, and how to mend it.
pub fn open_disk(
    profile: &DiskProfile,
    memory_bytes: usize,
    watch: &mut dyn FnMut(Progress),
) -> Result<AnyDisk, LaunchError> {
    let options = FormatOptions { segment_bytes: profile.segment, force: false };
    if profile.driver == DiskDriver::Ram {
        let mut disk = RamDisk::new(profile.size, memory_bytes, QUEUE_DEPTH_MAX)?;
        format(&mut disk, &options)?;
        return Ok(Box::new(disk));
    }
    if profile.driver == DiskDriver::Spdk {
        return spdk_disk::open(profile, &profile.path, memory_bytes, false);
    }
    ensure_file(profile, 1, &AtomicBool::new(false), Missing::Refuse, watch)?;
    of_share(open_uring(Path::new(&profile.path), memory_bytes, false)?, ShareId::WHOLE)
}

/// The share of a disk that belongs to a shard, or all of it where that is the only one.
///
/// # Errors
/// When the disk was formatted for another number of shards, or the share is another's.
pub fn of_share<D: Disk + 'static>(mut disk: D, share: ShareId) -> Result<AnyDisk, LaunchError> {
    Ok(match shares::find(&mut disk, share)? {
        Some((start, bytes)) => Box::new(Share::new(disk, start, bytes)),
        None => Box::new(disk),
    })
}

/// Opens a disk for a tool, for looking only where `read_only`: by its name a file, a block device, or a
/// namespace through SPDK.
///
/// # Errors
/// What keeps it from being opened, and how to mend it.
pub fn open_tool_disk(
    profile: &DiskProfile,
    name: &str,
    memory_bytes: usize,
    read_only: bool,
) -> Result<AnyDisk, LaunchError> {
    if is_transport_id(name) {
        return spdk_disk::open(profile, name, memory_bytes, read_only);
    }
    Ok(Box::new(open_uring(Path::new(name), memory_bytes, read_only)?))
}

/// Opens a disk for reading though an appliance may be writing it, and without keeping one from it: by its name
/// a file or a block device. A namespace through SPDK has one user, so there nothing may serve.
///
/// # Errors
/// What keeps it from being opened, and how to mend it.
pub fn open_served_disk(
    profile: &DiskProfile,
    name: &str,
    memory_bytes: usize,
) -> Result<AnyDisk, LaunchError> {
    if is_transport_id(name) {
        return spdk_disk::open(profile, name, memory_bytes, true);
    }
    Ok(Box::new(UringDisk::on(UringFile::open_beside(Path::new(name))?, memory_bytes)?))
}

/// Opens a file or block device, for looking only where `read_only`.
///
/// # Errors
/// What keeps it from being opened, and how to mend it.
pub fn open_uring(
    path: &Path,
    memory_bytes: usize,
    read_only: bool,
) -> Result<UringDisk, DiskError> {
    UringDisk::open(&UringConfig { path: path.to_owned(), memory_bytes, read_only })
}

/// Makes a new, empty log for `count` shards in the file a profile names, also where there was one before, until
/// a signal says otherwise.
///
/// # Errors
/// What keeps it from being made, and how to mend it.
pub fn make_log_file(
    profile: &DiskProfile,
    count: u32,
    watch: &mut dyn FnMut(Progress),
) -> Result<(), LaunchError> {
    ensure_file(profile, count, &*catch_signals()?, Missing::MakeAnew, watch)
}

/// Removes a log's file and what says that there is one.
pub fn remove_log_file(path: &Path) {
    let _ = std::fs::remove_file(path);
    let _ = std::fs::remove_file(logfile::note_of(path));
}

/// Pins the calling thread to the core a profile names, if it names one.
///
/// # Errors
/// When the operating system refuses.
pub fn pin(core: Core, cores: &[usize]) -> Result<Option<usize>, LaunchError> {
    pin_to(core.resolve(cores).map_err(LaunchError::Pin)?)
}

/// Pins the calling thread to a core, if there is one for it.
///
/// # Errors
/// When the operating system refuses.
pub fn pin_to(core: Option<usize>) -> Result<Option<usize>, LaunchError> {
    match core {
        Some(number) if !cpu::pin_to_core(number) => Err(LaunchError::Pin(number)),
        Some(_) | None => Ok(core),
    }
}

/// Serves until SIGTERM or SIGINT; one that comes later ends the process at once. A disk that is lost while serving
/// is opened again as soon as it is back.
///
/// # Errors
/// Why it did not start, or how it failed.
pub fn serve(profile: &Profile, watch: &mut dyn FnMut(Progress)) -> Result<(), LaunchError> {
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
    watch: &mut dyn FnMut(Progress),
) -> Result<(), LaunchError> {
    let cores = cpu::available_cores();
    profile.check_serve(&cores)?;
    if let Some(crowding) = check_host(profile, &cores)? {
        watch(Progress::Warning(crowding));
    }
    cpu::allow_core_dumps();
    let notify = notify::Notify::from_environment();
    let clock = HostClock::new();
    let shard_cores = profile.shard_cores(&cores)?;
    if profile.disk.driver == DiskDriver::Spdk && profile.port.driver == PortDriver::Dpdk {
        // One EAL for both: the port's, since only it says what devices it wants.
        dpdk_port::start(&profile.port)?;
    }
    if shard_cores.len() > 1 {
        return shards::serve(profile, &shard_cores, (&notify, stop, &clock), hangup, watch);
    }
    let entrance = Entrance::open(&profile.port)?;
    // Before this thread is pinned, so that the keeper and housekeeping are not; and before the log is made, so
    // that what it cannot have is said first, and whoever asks hears that it starts.
    let beats = [Arc::default()];
    let Houses { socket: _socket, mut houses, alive } = keep_house(profile, &beats, hangup, watch)?;
    let _keeper = notify.keep_alive(&[alive]);
    let house = houses.pop().expect("one for each beat");
    let held = Held::of(profile, stop, watch)?;
    let [beat] = beats;
    let (stop, clock) = (Arc::clone(stop), FollowingClock::new(clock));
    let mut seat = Seat::new(ShareId::WHOLE, &held, profile, clock, stop, beat);
    let opened = seat.open_first(watch)?;
    seat.core = pin_to(shard_cores[0])?;
    let port = entrance.pass();
    seat.serve(port, opened, house, None, &mut |progress| {
        if matches!(progress, Progress::Ready(..)) {
            notify.say("READY=1");
        } else if matches!(progress, Progress::Stopping) {
            notify.say("STOPPING=1");
        }
        watch(progress);
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

fn failure<P: Port, D: Disk, C: Clock>(
    shard: &Shard<P, D, C>,
    code: crate::wire::control::ErrorCode,
    misplaced: Option<&str>,
) -> String {
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
    mut shard: Shard<AnyPort, AnyDisk, C>,
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
    shard.close().map(|_| ()).map_err(LaunchError::Failed)
}
