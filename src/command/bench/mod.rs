//! `buslane bench`: latency and throughput, the floor beside them, and the proof that nothing was lost.
//!
//! The other end runs in a process of its own, on the shard's core and on a log of its own beside the
//! profile's; with `--inline` on the client's core, in this process; with `--server` it is whatever listens
//! there.

mod appliance;
mod clients;
mod files;
mod inline;
mod report;

use crate::disk::AnyDisk;
use crate::port::AnyPort;
use std::fs::File;
use std::net::SocketAddrV4;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use super::connect::servers_of;
use super::credentials::Pass;
use super::{CommandError, Out};
use crate::cli::arguments::{BenchCommand, BenchFloorArgs, BenchRunArgs};
use crate::cli::{Globals, Output};
use crate::client::{ClientOptions, Publisher};
use crate::clock::{Clock, HostClock};
use crate::cpu;
use crate::disk::ram::RamDisk;
use crate::disk::uring::UringDisk;
use crate::host::{Needs, Tree};
use crate::launch::{
    LaunchError, catch_signals, open_port, open_tool_disk, open_uring, pin, pin_to, remove_log_file,
};
use crate::limits::{BLOCK_BYTES, QUEUE_DEPTH_MAX};
use crate::measure::floor::{Pace, disk_writes, echo, port_round_trips};
use crate::measure::load::{self, LoadError, LoadOptions, LoadResult};
use crate::metrics::latency::{LatencyHistogram, write_hlog};
use crate::profile::{self, DiskDriver, DiskProfile, PortDriver, Profile};
use crate::report::{BenchReport, Delivery, Floor, Host, LatencyTable, SCHEMA_VERSION, Times};

use appliance::{OtherProcess, Role, Spawner, log_path, own_settings};
use inline::{Inline, Running};

/// Rounds of floor and load with `--floor`, alternating.
const ROUNDS: u64 = 5;

/// What a message costs on the wire besides its payload: datagram, frame and message heads.
const WIRE_BYTES: usize = 48;

/// Bytes of the file whose writes are the disk's floor.
const FLOOR_FILE_BYTES: u64 = 64 << 20;

/// Without a rate or `--max`.
const RATE_DEFAULT: f64 = 1_000.0;

/// Intervals of a run that are told apart, all rounds together.
const INTERVALS: u64 = 60;

/// Without a count or a duration.
const DURATION_NS: u64 = 10_000_000_000;

pub(super) fn bench(globals: &Globals, command: &BenchCommand) -> Result<(), CommandError> {
    match command {
        BenchCommand::Run(args) => run(globals, args),
        BenchCommand::Floor(args) => floor(globals, args),
        BenchCommand::Report(args) => report::report(globals, args),
        BenchCommand::Echo => echo_until_stopped(globals),
    }
}

/// What all rounds of a benchmark share.
struct Bench {
    profile: Profile,
    profile_name: String,
    settings: Vec<String>,
    server: SocketAddrV4,
    globals: Globals,
    clock: HostClock,
    spawner: Spawner,
    shard_core: Option<usize>,
    /// What the host is checked for; cores are those there were before this thread was pinned.
    needs: Needs,
    /// A DPDK port can be opened once in a process: it goes from round to round.
    port: Option<AnyPort>,
    /// With `--inline`, the other end.
    inline: Option<Inline>,
}

/// The other end while it runs.
enum OtherEnd {
    Process(OtherProcess),
    Inline(#[allow(dead_code, reason = "for its drop")] Running),
}

/// What `bench run` and `bench floor` share.
#[derive(Clone, Copy)]
struct Where {
    inline: bool,
    overwrite: bool,
}

impl Bench {
    fn new(globals: &Globals, Where { inline, overwrite }: Where) -> Result<Self, CommandError> {
        let profile_name = globals.profile_or_default().to_owned();
        let mut settings = globals.set.clone();
        let asked = profile::load(&profile_name, &settings)?;
        if globals.server.is_none() {
            settings.extend(own_settings(&asked)?);
        }
        let profile = profile::load(&profile_name, &settings)?;
        check_where(globals, &profile, inline, overwrite)?;
        let cores = cpu::available_cores();
        profile.check_client(&cores)?;
        let server = servers_of(globals, &profile)?[0];
        let clock = HostClock::new();
        let spawner = Spawner::new();
        let shard_core = profile.shard_cores(&cores).ok().and_then(|all| *all.first()?);
        let mut bench = Self {
            shard_core,
            needs: Needs::of(&asked, &cores),
            spawner,
            profile,
            profile_name,
            settings,
            server,
            globals: globals.clone(),
            clock,
            port: None,
            inline: None,
        };
        if inline {
            bench.profile.check_serve(&cores)?;
            let (other, port) = Inline::open(&bench.profile)?;
            (bench.inline, bench.port) = (Some(other), Some(port));
            pin_to(bench.shard_core)?;
            return Ok(bench);
        }
        if bench.profile.client.port.driver == PortDriver::Dpdk {
            bench.port = Some(open_port(&bench.profile.client.port)?);
        }
        pin(bench.profile.client.core, &cores)?;
        Ok(bench)
    }

    /// How a client of the other end behaves.
    fn options(&self, publisher: Publisher) -> Result<ClientOptions, CommandError> {
        let security = match &self.inline {
            Some(inline) => inline.security(),
            None => Pass::find(&self.globals, &self.profile, &[self.server])?.security,
        };
        Ok(ClientOptions::new(publisher, security))
    }

    fn take_port(&mut self) -> Result<AnyPort, CommandError> {
        match self.port.take() {
            Some(port) => Ok(port),
            None => Ok(open_port(&self.profile.client.port)?),
        }
    }

    fn give_back(&mut self, port: AnyPort) {
        if self.inline.is_some() || self.profile.client.port.driver == PortDriver::Dpdk {
            self.port = Some(port);
        }
    }

    fn start(&self, role: Role) -> Result<OtherEnd, CommandError> {
        if let Some(inline) = &self.inline {
            return Ok(OtherEnd::Inline(match role {
                Role::Serve => inline.serve(&self.profile)?,
                Role::Echo => inline.echo(),
            }));
        }
        if role == Role::Serve && self.profile.disk.driver == DiskDriver::Spdk {
            appliance::format(&self.spawner, &self.profile, &self.profile_name, &self.settings)?;
        }
        let other = OtherProcess::start(&self.spawner, role, &self.profile_name, &self.settings)?;
        Ok(OtherEnd::Process(other))
    }

    /// Round trips of the bare port.
    fn port_floor(
        &mut self,
        bytes: usize,
        pace: Pace,
        histogram: &mut LatencyHistogram,
    ) -> Result<(), CommandError> {
        let _other = self.start(Role::Echo)?;
        let mut port = self.take_port()?;
        let bytes = bytes + WIRE_BYTES;
        port_round_trips(&mut port, &self.clock, self.server, bytes, pace, histogram)
            .map_err(CommandError::Failed)?;
        self.give_back(port);
        Ok(())
    }

    /// Writes to the bare disk, a file beside the log or memory, on the shard's core: which core takes
    /// the disk's interrupts makes a difference.
    fn disk_floor(&self, pace: Pace, histogram: &mut LatencyHistogram) -> Result<(), CommandError> {
        let (profile, core, clock) = (&self.profile.disk, self.shard_core, self.clock.clone());
        let path = match profile.driver {
            DiskDriver::Spdk => profile.path.clone(),
            DiskDriver::Uring | DiskDriver::Ram => format!("{}.floor", log_path(&self.profile)),
        };
        let mut measure = || {
            let mut disk = floor_disk(profile, &path).map_err(|error| error.to_string())?;
            disk_writes(&mut disk, &clock, pace, histogram).map_err(|fault| fault.to_string())
        };
        let measured = if self.inline.is_some() {
            measure()
        } else {
            std::thread::scope(|scope| {
                let measuring = scope.spawn(move || {
                    if core.is_some_and(|core| !cpu::pin_to_core(core)) {
                        return Err("the shard's core cannot be used".to_owned());
                    }
                    measure()
                });
                measuring.join().unwrap_or_else(|_| Err("it panicked".to_owned()))
            })
        };
        if profile.driver == DiskDriver::Uring {
            let _ = std::fs::remove_file(&path);
        }
        measured.map_err(|why| CommandError::Failed(format!("{path}: {why}")))
    }

    fn load(
        &mut self,
        args: &BenchRunArgs,
        options: &LoadOptions,
    ) -> Result<LoadResult, CommandError> {
        let (streams, mut participants) = clients::open(self, args, options.run)?;
        let result = load::run(&mut participants, &streams, options).map_err(CommandError::from);
        for mut participant in participants {
            // Said once: where the shard runs in this thread nobody could answer.
            participant.client.retire();
            let port = participant.client.close();
            self.give_back(port);
        }
        result
    }
}

/// A benchmark on a namespace overwrites it, and SPDK has its own demands on a process.
fn check_where(
    globals: &Globals,
    profile: &Profile,
    inline: bool,
    overwrite: bool,
) -> Result<(), CommandError> {
    let usage = |what: String| Err(CommandError::Usage(what));
    if inline && globals.server.is_some() {
        return usage(
            "--inline has both ends in this process; leave --server and BUSLANE_SERVER out".into(),
        );
    }
    if inline && profile.shard.count > 1 {
        return usage("--inline has one shard on the client's core; leave shard.count out".into());
    }
    if inline && profile.port.driver != PortDriver::Dpdk {
        return usage(format!(
            "--inline joins both ends by DPDK rings; profile {} has port.driver udp: take memif, memif-ram \
             or vfio-user",
            profile.name
        ));
    }
    if profile.disk.driver != DiskDriver::Spdk || globals.server.is_some() {
        return Ok(());
    }
    if !overwrite {
        return usage(format!(
            "a benchmark overwrites the namespace {}; say --overwrite if nothing on it is needed",
            profile.disk.path
        ));
    }
    if !inline && profile.client.port.driver == PortDriver::Dpdk {
        return usage(
            "with SPDK and DPDK on one host, client, appliance and target all spin; use --inline, or a \
             client on another host with --server"
                .into(),
        );
    }
    Ok(())
}

fn floor_disk(profile: &DiskProfile, path: &str) -> Result<AnyDisk, LaunchError> {
    if profile.driver == DiskDriver::Ram {
        return Ok(Box::new(RamDisk::new(FLOOR_FILE_BYTES, BLOCK_BYTES, QUEUE_DEPTH_MAX)?));
    }
    if profile.driver == DiskDriver::Spdk {
        return open_tool_disk(profile, path, BLOCK_BYTES, false);
    }
    let path = Path::new(path);
    UringDisk::create(path, FLOOR_FILE_BYTES)?;
    Ok(Box::new(open_uring(path, BLOCK_BYTES, false)?))
}

impl From<LoadError> for CommandError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Client(error @ crate::client::ClientError::Unreachable { .. }) => {
                Self::Unreachable(error.to_string())
            }
            error @ (LoadError::Client(_) | LoadError::Offer(_) | LoadError::Other(_)) => {
                Self::Failed(error.to_string())
            }
        }
    }
}

fn run(globals: &Globals, args: &BenchRunArgs) -> Result<(), CommandError> {
    if args.floor && globals.server.is_some() {
        let what = "--floor measures the profile's own port and disk; leave --server and BUSLANE_SERVER out";
        return Err(CommandError::Usage(what.into()));
    }
    let at = Where { inline: args.inline, overwrite: args.overwrite };
    let mut bench = Bench::new(globals, at)?;
    let rate = if args.load.max { None } else { Some(args.load.rate.unwrap_or(RATE_DEFAULT)) };
    let rounds = if args.floor { ROUNDS } else { 1 };
    let duration_ns = match (args.duration, args.count) {
        (Some(duration_ns), _) => duration_ns,
        // A count at a rate takes its time and some; without a rate it takes what it takes.
        (None, Some(count)) => {
            rate.map_or(600_000_000_000, |rate| nanos(count, rate) + DURATION_NS)
        }
        (None, None) => DURATION_NS,
    };
    let intervals = u32::try_from(INTERVALS / rounds).expect("a small constant");
    let options = LoadOptions {
        run: std::process::id(),
        message_bytes: args.load.size,
        rate,
        batch: u64::from(args.load.batch),
        warmup_ns: args.warmup / rounds,
        duration_ns: duration_ns / rounds,
        count: args.count.map_or(u64::MAX, |count| count.div_ceil(rounds)),
        intervals,
    };
    let started = SystemTime::UNIX_EPOCH + Duration::from_nanos(bench.clock.unix_ns());
    let measured = measure(&mut bench, globals, args, &options, rounds);
    remove_log(&bench);
    let (load, floors) = measured?;
    let mut report = report_of(&bench, args, rate, &load, floors.as_ref());
    if globals.server.is_some() {
        report.of_a_remote(bench.server);
    }
    files::write(&args.out, started, &report, &load, floors.as_ref())?;
    print(globals, &report, &args.out)?;
    let failures = report.failures();
    if !failures.is_empty() {
        return Err(CommandError::Failed(failures.join("; ")));
    }
    let checks: Vec<&str> =
        report.hosts().flat_map(|host| &host.checks_failed).map(String::as_str).collect();
    if args.strict && !checks.is_empty() {
        let checks = checks.join(", ");
        return Err(CommandError::Warnings(format!("host checks failed: {checks}")));
    }
    Ok(())
}

/// Histograms of the floors.
struct Floors {
    port: LatencyHistogram,
    disk: LatencyHistogram,
}

impl Floors {
    fn new() -> Self {
        Self { port: LatencyHistogram::new(), disk: LatencyHistogram::new() }
    }

    /// By the tags they have in a histogram log.
    fn tagged(&self) -> [(&'static str, &LatencyHistogram); 2] {
        [("floor-port", &self.port), ("floor-disk", &self.disk)]
    }
}

fn measure(
    bench: &mut Bench,
    globals: &Globals,
    args: &BenchRunArgs,
    options: &LoadOptions,
    rounds: u64,
) -> Result<(LoadResult, Option<Floors>), CommandError> {
    let mut floors = args.floor.then(Floors::new);
    let mut load: Option<LoadResult> = None;
    let mut options = *options;
    for _ in 0..rounds {
        if let Some(Floors { port, disk }) = &mut floors {
            let rate = options.rate.unwrap_or(RATE_DEFAULT);
            let count = count_in(rate, options.duration_ns).clamp(100, 100_000);
            let pace = Pace { rate, count };
            bench.port_floor(args.load.size, pace, port)?;
            bench.disk_floor(pace, disk)?;
        }
        // Messages of another round must not be taken for this one's.
        options.run = options.run.wrapping_add(1 << 22);
        let other = match globals.server {
            Some(_) => None,
            None => Some(bench.start(Role::Serve)?),
        };
        let result = bench.load(args, &options)?;
        if let Some(OtherEnd::Process(other)) = &other
            && let Some(bytes) = other.resident_bytes()
            && globals.verbose > 0
        {
            eprintln!("appliance: {} MiB resident", bytes >> 20);
        }
        match &mut load {
            Some(load) => load.merge(result),
            None => load = Some(result),
        }
    }
    Ok((load.expect("at least one round"), floors))
}

fn remove_log(bench: &Bench) {
    if bench.profile.disk.driver == DiskDriver::Uring
        && bench.settings.iter().any(|setting| setting.starts_with("instance=bench-"))
    {
        remove_log_file(Path::new(&bench.profile.disk.path));
    }
    if bench.settings.iter().any(|setting| setting.starts_with("security.keys=")) {
        let _ = std::fs::remove_dir_all(&bench.profile.security.keys);
    }
}

#[allow(clippy::cast_precision_loss, reason = "rates and seconds for people")]
fn report_of(
    bench: &Bench,
    args: &BenchRunArgs,
    rate: Option<f64>,
    load: &LoadResult,
    floors: Option<&Floors>,
) -> BenchReport {
    let seconds = load.elapsed_ns as f64 / 1e9;
    let (lost, duplicated, reordered) = load.verdict;
    let of = &load.latencies;
    BenchReport {
        schema_version: SCHEMA_VERSION,
        profile: bench.profile.name.clone(),
        durability: load.durability.map_or("unknown", crate::ids::Durability::name).into(),
        message_bytes: args.load.size,
        delivery: Delivery { messages: load.messages, lost, duplicated, reordered },
        target_rate: rate,
        achieved_rate: if seconds > 0.0 { load.messages as f64 / seconds } else { 0.0 },
        times: Times {
            response_ns: of.response.percentiles(),
            service_ns: of.service.percentiles(),
            delay_ns: of.delay.percentiles(),
            server_ns: of.server.percentiles(),
            device_ns: of.device.percentiles(),
        },
        floor: floors.map(floor_of),
        host: Some(Host::read(&Tree::new(Path::new("/")), &bench.needs)),
        client: None,
    }
}

fn floor_of(floors: &Floors) -> Floor {
    Floor {
        port_rtt_ns: floors.port.percentiles().into(),
        disk_write_ns: floors.disk.percentiles().into(),
    }
}

fn print(globals: &Globals, report: &BenchReport, dir: &Path) -> Result<(), CommandError> {
    let mut out = Out::stdout();
    if globals.output() == Output::Json {
        out.json(report)?;
    } else {
        out.bytes(report.text().as_bytes())?;
        out.line(&format!("files: {0}/run.json {0}/run.hlog {0}/run.hgrm", dir.display()))?;
    }
    out.finish()
}

fn floor(globals: &Globals, args: &BenchFloorArgs) -> Result<(), CommandError> {
    if globals.server.is_some() {
        let what =
            "a floor is of the profile's own port and disk; leave --server and BUSLANE_SERVER out";
        return Err(CommandError::Usage(what.into()));
    }
    let at = Where { inline: args.inline, overwrite: args.overwrite };
    let mut bench = Bench::new(globals, at)?;
    let mut floors = Floors::new();
    let pace = Pace { rate: args.rate, count: args.count };
    bench.port_floor(args.size, pace, &mut floors.port)?;
    bench.disk_floor(pace, &mut floors.disk)?;
    let mut out = Out::stdout();
    if globals.output() == Output::Json {
        out.json(&floor_of(&floors))?;
    } else {
        let mut table = LatencyTable::default();
        table.row("port round trip", floors.port.percentiles());
        table.row("disk write", floors.disk.percentiles());
        out.bytes(table.text().as_bytes())?;
    }
    out.finish()?;
    std::fs::create_dir_all(&args.out)
        .and_then(|()| File::create(args.out.join("floor.hlog")))
        .and_then(|mut file| {
            write_hlog(&mut file, SystemTime::UNIX_EPOCH, Duration::ZERO, &floors.tagged())
        })
        .map_err(|error| CommandError::Failed(format!("{}: {error}", args.out.display())))
}

/// The other end of the port's floor.
fn echo_until_stopped(globals: &Globals) -> Result<(), CommandError> {
    let profile = profile::load(globals.profile_or_default(), &globals.set)?;
    let cores = cpu::available_cores();
    let stop = catch_signals()?;
    let mut port = open_port(&profile.port)?;
    pin_to(profile.shard_cores(&cores)?[0])?;
    eprintln!("ready on {}", port.local());
    echo(&mut port, || stop.load(Ordering::Relaxed));
    Ok(())
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a benchmark is shorter than 2^53 ns"
)]
fn nanos(count: u64, rate: f64) -> u64 {
    (count as f64 * 1e9 / rate) as u64
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a benchmark is shorter than 2^53 ns"
)]
fn count_in(rate: f64, duration_ns: u64) -> u64 {
    (rate * duration_ns as f64 / 1e9) as u64
}
