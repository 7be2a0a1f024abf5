//! Launch: from a profile to a serving shard, and the only place where threads are placed.
//!
//! In this order, each missing thing one clear line: check the profile against the host, and the host
//! against what the profile requires, open the disk and recover the log, open the port, pin the thread, serve. The shard runs on the calling thread: DPDK's
//! buffer caches belong to the thread that started its environment.

#[cfg(feature = "dpdk")]
#[path = "dpdk.rs"]
mod dpdk_port;
#[cfg(not(feature = "dpdk"))]
#[path = "no_dpdk.rs"]
mod dpdk_port;
pub mod notify;
#[cfg(not(feature = "spdk"))]
#[path = "no_spdk.rs"]
mod spdk_disk;
#[cfg(feature = "spdk")]
#[path = "spdk.rs"]
mod spdk_disk;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use crate::admin::state::ShardFacts;
use crate::admin::{Listeners, SocketFile, Watched};
use crate::clock::{Clock, HostClock};
use crate::cpu;
use crate::disk::ram::RamDisk;
use crate::disk::uring::{UringConfig, UringDisk};
use crate::disk::{Disk, DiskError, DiskFault, is_transport_id};
use crate::host::{self, Needs, Topology, Tree};
use crate::limits::QUEUE_DEPTH_MAX;
use crate::log::Log;
use crate::log::create::{FormatError, FormatOptions, format};
use crate::log::recovery::{OpenError, OpenOptions, Recovery};
use crate::metrics::recorder::Recorder;
use crate::metrics::snapshot::exchange;
use crate::port::udp::UdpPort;
use crate::port::{Port, PortError};
use crate::profile::{
    Core, DiskDriver, DiskProfile, PortDriver, PortProfile, Profile, ProfileError,
};
use crate::session::receipts::Run;
use crate::shard::observe::Observer;
use crate::shard::{Condition, Shard, ShardOptions, recovered_run};

/// A port of any kind.
pub type AnyPort = Box<dyn Port>;
/// A disk of any kind.
pub type AnyDisk = Box<dyn Disk>;

/// Turns between two looks at the signals.
const TURNS_A_LOOK: u32 = 1024;

/// Between two tries to open a disk that is gone.
const REOPEN_EVERY: Duration = Duration::from_millis(100);

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
    /// serving ended with a failure
    #[error("{0}")]
    Failed(String),
}

/// What happens while an appliance starts and runs, for whoever watches.
#[derive(Debug)]
pub enum Progress<'a> {
    /// A log file is written: bytes done, bytes in all.
    Creating(&'a Path, u64, u64),
    /// The log is open.
    Opened(&'a str, &'a Recovery, u64),
    /// The disk is gone, or was reset; it is opened again as soon as it is back.
    Lost(&'a str, DiskFault),
    /// Why it is not back yet.
    Waiting(&'a str),
    /// Serving: the port's address, the disk, why it is durable, the core.
    Ready(std::net::SocketAddrV4, &'a str, crate::ids::Durability, Option<usize>),
    /// Something is not as wished, and serving goes on.
    Warning(&'a str),
    /// Nothing more is acknowledged.
    Failing(String),
    /// The log is full.
    Full,
    /// Finishing what is in flight.
    Stopping,
}

/// Opens the port a profile names.
///
/// # Errors
/// What keeps it from being opened, and how to mend it.
pub fn open_port(profile: &PortProfile) -> Result<AnyPort, PortError> {
    match profile.driver {
        PortDriver::Udp => Ok(Box::new(UdpPort::open(profile.address, profile.datagram_bytes)?)),
        PortDriver::Dpdk => dpdk_port::open(profile),
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
    watch: &mut dyn FnMut(Progress<'_>),
) -> Result<AnyDisk, LaunchError> {
    let options = FormatOptions { segment_bytes: profile.segment, force: false };
    if profile.driver == DiskDriver::Ram {
        let mut disk = RamDisk::new(profile.size, memory_bytes, QUEUE_DEPTH_MAX)?;
        format(&mut disk, &options)?;
        return Ok(Box::new(disk));
    }
    if profile.driver == DiskDriver::Spdk {
        return spdk_disk::open(profile, &profile.path, memory_bytes);
    }
    let path = Path::new(&profile.path);
    let is_new = !path.exists();
    if is_new {
        // Under another name until it is whole: a start that was interrupted leaves nothing to mend.
        let draft = path.with_extension("being-made");
        let _ = std::fs::remove_file(&draft);
        UringDisk::create(&draft, profile.size, true, &mut |done, all| {
            watch(Progress::Creating(path, done, all));
        })?;
        let mut disk = open_uring(&draft, memory_bytes, false)?;
        format(&mut disk, &options)?;
        drop(disk);
        std::fs::rename(&draft, path).map_err(|error| DiskError::Open {
            name: profile.path.clone(),
            why: error.to_string(),
            mend: "choose another disk.path".into(),
        })?;
    }
    Ok(Box::new(open_uring(path, memory_bytes, false)?))
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
        return spdk_disk::open(profile, name, memory_bytes);
    }
    Ok(Box::new(open_uring(Path::new(name), memory_bytes, read_only)?))
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
    UringDisk::open(&UringConfig { path: path.to_owned(), memory_bytes, read_only, direct: true })
}

/// Pins the calling thread to the core a profile names, if it names one.
///
/// # Errors
/// When the operating system refuses.
pub fn pin(core: Core, cores: &[usize]) -> Result<Option<usize>, LaunchError> {
    let core = core.resolve(cores).map_err(LaunchError::Pin)?;
    match core {
        Some(number) if !cpu::pin_to_core(number) => Err(LaunchError::Pin(number)),
        Some(_) | None => Ok(core),
    }
}

/// Serves until SIGTERM or SIGINT; a second one ends the process at once. A disk that is lost while serving
/// is opened again as soon as it is back.
///
/// # Errors
/// Why it did not start, or how it failed.
pub fn serve(profile: &Profile, watch: &mut dyn FnMut(Progress<'_>)) -> Result<(), LaunchError> {
    let cores = cpu::available_cores();
    profile.check_serve(&cores)?;
    check_host(profile, &cores)?;
    cpu::allow_core_dumps();
    let notify = notify::Notify::from_environment();
    let stop = catch_signals()?;
    let clock = HostClock::new();
    if profile.disk.driver == DiskDriver::Spdk && profile.port.driver == PortDriver::Dpdk {
        // One EAL for both: the port's, since only it says what devices it wants.
        dpdk_port::start(&profile.port)?;
    }
    let mut opened = open_log(profile, &clock, watch)?;
    let beat = Arc::new(AtomicU64::new(0));
    // Before DPDK or we pin this thread, so that the keeper and housekeeping are not.
    let _keeper = notify.keep_alive(&beat);
    let (house, mut observer) = keep_house(profile, &beat, watch)?;
    let mut port = open_port(&profile.port)?;
    let core = pin(profile.shard.core, &cores)?;
    loop {
        let (disk, log, runs) = opened;
        let leg = log.leg();
        let (name, durability) = (disk.info().name.clone(), disk.info().durability);
        let options = ShardOptions { window_messages: profile.limits.window_messages };
        let mut shard = Shard::new(port, disk, clock.clone(), log, runs, options);
        // Housekeeping goes with the process only.
        let _ = house.facts.send(ShardFacts {
            address: shard.port().local().to_string(),
            disk: name.clone(),
            durability: durability.name(),
            core,
        });
        shard.observe(observer);
        house.turns.store(true, Ordering::Relaxed);
        watch(Progress::Ready(shard.port().local(), &name, durability, core));
        notify.say("READY=1");
        let Some(fault) = run(&mut shard, &stop, &beat, watch) else {
            house.turns.store(false, Ordering::Relaxed);
            watch(Progress::Stopping);
            notify.say("STOPPING=1");
            return stop_shard(shard, &clock);
        };
        house.turns.store(false, Ordering::Relaxed);
        watch(Progress::Lost(&name, fault));
        observer = shard.take_observer().expect("given above");
        port = shard.abandon();
        let Some(again) = open_again(profile, &clock, &stop, &beat, watch)? else { return Ok(()) };
        if again.1.leg() != leg {
            return Err(LaunchError::Failed(format!(
                "{name}: what came back holds another log; start again if that is the one to serve"
            )));
        }
        opened = again;
    }
}

/// What the serving thread tells housekeeping.
struct House {
    /// Whether the shard is to make turns. A flag that orders nothing but itself.
    turns: Arc<AtomicBool>,
    facts: mpsc::Sender<ShardFacts>,
    _socket: Option<SocketFile>,
}

/// Starts housekeeping on a thread of its own, and makes what observes the shard.
fn keep_house(
    profile: &Profile,
    beat: &Arc<AtomicU64>,
    watch: &mut dyn FnMut(Progress<'_>),
) -> Result<(House, Observer), LaunchError> {
    let mut listeners = Listeners::open(profile)?;
    for warning in &listeners.warnings {
        watch(Progress::Warning(warning));
    }
    let (facts, facts_out) = mpsc::channel();
    let house = House { turns: Arc::default(), facts, _socket: listeners.socket_file() };
    let (reporter, collector) = exchange();
    let turn_ns_max = profile.limits.turn_us.saturating_mul(1_000);
    let recorder = Arc::new(Recorder::new(turn_ns_max, profile.metrics.stages));
    let watched = Watched {
        collector,
        beat: Arc::clone(beat),
        turns: Arc::clone(&house.turns),
        facts: facts_out,
        recorder: Arc::clone(&recorder),
    };
    std::thread::Builder::new()
        .name("buslane-house".into())
        .spawn(move || listeners.run(vec![watched]))
        .map_err(LaunchError::Housekeeping)?;
    Ok((house, Observer::new(reporter, recorder)))
}

/// A disk, its log, and the runs of messages recovery has seen, by producer.
type Opened = (AnyDisk, Log, BTreeMap<u64, Vec<Run>>);

fn open_log(
    profile: &Profile,
    clock: &HostClock,
    watch: &mut dyn FnMut(Progress<'_>),
) -> Result<Opened, LaunchError> {
    let ring_bytes = usize::try_from(profile.disk.ring).expect("a 64-bit machine");
    let mut disk = open_disk(&profile.disk, Log::memory_bytes(ring_bytes), watch)?;
    let options =
        OpenOptions { queue_depth: profile.disk.queue_depth, ring_bytes, unix_ns: clock.unix_ns() };
    let begin_ns = clock.now_ns();
    let mut runs = BTreeMap::new();
    let (log, recovery) =
        Log::open(&mut disk, &options, &mut |message| recovered_run(&mut runs, message))?;
    watch(Progress::Opened(&disk.info().name, &recovery, clock.now_ns() - begin_ns));
    Ok((disk, log, runs))
}

/// Opens a disk that was lost, as often as it takes; `None` when told to stop meanwhile.
///
/// # Errors
/// What no waiting mends: the device is back, and its log is damaged or gone.
fn open_again(
    profile: &Profile,
    clock: &HostClock,
    stop: &AtomicBool,
    beat: &AtomicU64,
    watch: &mut dyn FnMut(Progress<'_>),
) -> Result<Option<Opened>, LaunchError> {
    let mut told = String::new();
    // Only a flag: it orders nothing but itself.
    while !stop.load(Ordering::Relaxed) {
        // Only this thread writes it, and it orders nothing.
        beat.store(beat.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        match open_log(profile, clock, watch) {
            Ok(opened) => return Ok(Some(opened)),
            Err(
                error @ (LaunchError::Disk(_)
                | LaunchError::Open(OpenError::Device { .. } | OpenError::Write { .. })),
            ) => {
                let why = error.to_string();
                if why != told {
                    watch(Progress::Waiting(&why));
                    told = why;
                }
            }
            Err(error) => return Err(error),
        }
        wait(REOPEN_EVERY);
    }
    Ok(None)
}

#[allow(clippy::disallowed_methods, reason = "no disk, so nothing to poll")]
fn wait(time: Duration) {
    std::thread::sleep(time);
}

/// Whether cores and devices are where the profile may have them, and the checks it requires pass.
fn check_host(profile: &Profile, cores: &[usize]) -> Result<(), ProfileError> {
    let tree = Tree::new(Path::new("/"));
    let needs = Needs::of(profile, cores);
    let place = |key: &str| profile.source.place(key);
    needs.check_placement(&Topology::read(&tree), &place)?;
    if needs.require.is_empty() {
        return Ok(());
    }
    host::check_required(&tree, &needs, &place("host.require"))
}

/// Turns until it is told to stop (`None`), or the disk is lost.
fn run<C: Clock>(
    shard: &mut Shard<AnyPort, AnyDisk, C>,
    stop: &AtomicBool,
    beat: &AtomicU64,
    watch: &mut dyn FnMut(Progress<'_>),
) -> Option<DiskFault> {
    let mut told = shard.condition();
    loop {
        for _ in 0..TURNS_A_LOOK {
            shard.turn();
        }
        // Only this thread writes it, and it orders nothing.
        beat.store(beat.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        // Only a flag: it orders nothing but itself.
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        let condition = shard.condition();
        if condition != told {
            told = condition;
            match condition {
                Condition::Failed(code) => watch(Progress::Failing(failure(shard, code))),
                Condition::Full => watch(Progress::Full),
                Condition::DiskLost(fault) => return Some(fault),
                Condition::Serving | Condition::Draining => {}
            }
        }
    }
}

fn failure<P: Port, D: Disk, C: Clock>(
    shard: &Shard<P, D, C>,
    code: crate::wire::control::ErrorCode,
) -> String {
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
) -> Result<(), LaunchError> {
    shard.drain();
    let begin_ns = clock.now_ns();
    while !shard.is_drained() && clock.now_ns() - begin_ns < DRAIN_NS {
        shard.turn();
    }
    shard.close().map(|_| ()).map_err(LaunchError::Failed)
}

/// A flag that the first SIGTERM or SIGINT sets; the second one ends the process.
///
/// # Errors
/// What the operating system said.
pub fn catch_signals() -> Result<Arc<AtomicBool>, LaunchError> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        // In this order: the first signal finds the flag unset, and sets it.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))
            .map_err(LaunchError::Signals)?;
        signal_hook::flag::register(signal, Arc::clone(&stop)).map_err(LaunchError::Signals)?;
    }
    Ok(stop)
}
