//! `buslane log copy`: a log copied while it is served or not, and checked before it has its name.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use super::copy_target::{Draft, Target, is_device};
use super::log::{MEMORY_BYTES, heading, sequences, whole};
use super::progress::Progress;
use super::{CommandError, Out};
use crate::cli::arguments::LogCopyArgs;
use crate::cli::{Globals, Output};
use crate::clock::{Clock, HostClock};
use crate::disk::share::{Extent, Share};
use crate::disk::{Disk, is_transport_id};
use crate::launch::{LaunchError, catch_signals, of_share, open_served_disk};
use crate::limits::SEGMENT_BYTES_MIN;
use crate::log::copy::{CopyError, CopyOptions, copy};
use crate::log::create::{FormatError, occupant};
use crate::log::inspect::{LogDescription, describe};
use crate::log::shares::{
    self, bytes_needed, bytes_of_all, clear_ends, head, shard_count, share_bytes,
};
use crate::log::superblock::ShareId;
use crate::log::verify::{VerifyReport, verify};
use crate::profile::Profile;

/// What is copied, and where to.
struct Job<'a> {
    profile: &'a Profile,
    from: &'a Path,
    count: u32,
    segment_bytes: u64,
    rate: Option<u64>,
    stop: &'a AtomicBool,
    quiet: bool,
}

pub(super) fn copy_log(
    globals: &Globals,
    profile: &Profile,
    args: &LogCopyArgs,
) -> Result<(), CommandError> {
    let stop = catch_signals()?;
    let mut source = open_served_disk(&profile.disk, &args.from.to_string_lossy(), MEMORY_BYTES)?;
    let count = shard_count(&mut source)?.unwrap_or(profile.shard.count);
    let said = head(&mut source).ok().flatten();
    // What a damaged head does not say, is found to be too small later.
    let segment_bytes = said.map_or(SEGMENT_BYTES_MIN as u64, |head| head.segment_bytes());
    let from_bytes = source.info().bytes;
    // Before anything is made at TO: what is no log is told of FROM.
    for index in 0..count {
        shares::find(&mut source, ShareId { index, count })?;
    }
    drop(source);
    let (profile, from, rate, quiet) = (profile, args.from.as_path(), args.rate, globals.quiet);
    let job = Job { profile, from, count, segment_bytes, rate, stop: &stop, quiet };
    refuse_itself(from, &args.to)?;
    let to = &args.to;
    let is_file = !is_transport_id(&to.to_string_lossy()) && !is_device(to);
    let made = if is_file {
        if args.force.is_some() {
            let what = "--force is for a device: a file that is there is never overwritten; remove it first";
            return Err(CommandError::Usage(what.to_owned()));
        }
        job.to_file(to, args.size.unwrap_or(from_bytes))?
    } else {
        if args.size.is_some() {
            let what = "--size is for a file: on a device the copy has all of its room";
            return Err(CommandError::Usage(what.to_owned()));
        }
        job.to_device(to, args.force.as_deref())?
    };
    print(globals, to, &made)
}

fn refuse_itself(from: &Path, to: &Path) -> Result<(), CommandError> {
    let id = |path: &Path| {
        let meta = fs::metadata(path).ok()?;
        let device = meta.file_type().is_block_device();
        Some(if device { (meta.rdev(), 0) } else { (meta.dev(), meta.ino()) })
    };
    if from == to || id(from).is_some_and(|of| id(to) == Some(of)) {
        let what = format!("{} is the log itself: name another place for its copy", to.display());
        return Err(CommandError::Usage(what));
    }
    Ok(())
}

/// A copy of one shard's log, as it was read again.
struct Made {
    log: LogDescription,
    rounds: u32,
    report: VerifyReport,
}

impl Job<'_> {
    /// A file has its name only once it is whole and on media: an interrupted copy leaves nothing.
    fn to_file(&self, to: &Path, size: u64) -> Result<Vec<Made>, CommandError> {
        if fs::symlink_metadata(to).is_ok() {
            let what =
                format!("{} is there already: remove it, or name another file", to.display());
            return Err(CommandError::Failed(what));
        }
        let dir =
            to.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        if !dir.is_dir() {
            let what = format!("{}: no such directory; is its disk mounted?", dir.display());
            return Err(CommandError::Failed(what));
        }
        let bar = Progress::new(self.quiet, "bytes made", Some(size));
        let draft = Draft::create(to, size, &mut |done, _| {
            bar.set(done);
            // Only a flag: it orders nothing but itself.
            !self.stop.load(Ordering::Relaxed)
        });
        drop(bar);
        let draft = match draft {
            Err(_) if self.stop.load(Ordering::Relaxed) => return Err(CommandError::Interrupted),
            draft => draft?,
        };
        // Nobody has asked for the name it has meanwhile.
        let (name, meanwhile) = (to.display().to_string(), draft.path.display().to_string());
        let filled = self.fill(&Target::Held(Arc::clone(&draft.held)));
        let mut made = filled.map_err(|error| {
            if let CommandError::Failed(why) = error {
                return CommandError::Failed(why.replace(&meanwhile, &name));
            }
            error
        })?;
        draft.finish(self.from, to, dir)?;
        made.iter_mut().for_each(|made| made.log.disk = made.log.disk.replace(&meanwhile, &name));
        Ok(made)
    }

    fn to_device(&self, to: &Path, force: Option<&Path>) -> Result<Vec<Made>, CommandError> {
        if force.is_some_and(|named| named != to) {
            return Err(CommandError::Usage(format!(
                "--force names what is to be overwritten, so it has to be {} itself",
                to.display()
            )));
        }
        let is_namespace = is_transport_id(&to.to_string_lossy());
        let target = if is_namespace { Target::Namespace(to) } else { Target::device(to)? };
        let mut disk = target.disk(self.profile)?;
        let name = disk.info().name.clone();
        let found = occupant(&mut disk).map_err(|fault| {
            LaunchError::from(FormatError::Device { name: name.clone(), fault })
        })?;
        if let Some(what) = found.filter(|_| force.is_none()) {
            return Err(LaunchError::from(FormatError::Occupied { name, what }).into());
        }
        drop(disk);
        self.fill(&target)
    }

    /// Copies each shard's log; the first last, since what a disk is for is read from its head.
    fn fill(&self, to: &Target<'_>) -> Result<Vec<Made>, CommandError> {
        let mut disk = to.disk(self.profile)?;
        let (name, found) = (disk.info().name.clone(), disk.info().bytes);
        let needed = bytes_needed(self.segment_bytes, self.count);
        if found < needed {
            return Err(CopyError::TooSmall { name, found, needed }.into());
        }
        clear_ends(&mut disk)
            .map_err(|fault| LaunchError::from(FormatError::Device { name, fault }))?;
        drop(disk);
        let mut rounds = Vec::new();
        for index in (0..self.count).rev() {
            rounds.push(self.copy_share(to, ShareId { index, count: self.count })?);
        }
        let mut made = Vec::new();
        for (index, rounds) in (0..self.count).zip(rounds.into_iter().rev()) {
            made.push(self.read_again(to, ShareId { index, count: self.count }, rounds)?);
        }
        Ok(made)
    }

    fn copy_share(&self, to: &Target<'_>, share: ShareId) -> Result<u32, CommandError> {
        let from = &self.from.to_string_lossy();
        let mut source =
            of_share(open_served_disk(&self.profile.disk, from, MEMORY_BYTES)?, share)?;
        let target = to.disk(self.profile)?;
        let all_bytes = target.info().bytes;
        let bytes = share_bytes(all_bytes, share.count);
        let mut target = Share::new(target, Extent::nth(share.index, bytes));
        let mut leg = [0; 16];
        getrandom::fill(&mut leg).map_err(|error| LaunchError::from(FormatError::Random(error)))?;
        let options = CopyOptions { leg, share };
        let bar = Progress::new(self.quiet, "bytes copied", None);
        let pace = Pace::new(self.rate);
        let copied = copy(&mut source, &mut target, &options, &mut |done| {
            bar.set(done);
            // Only a flag: it orders nothing but itself.
            pace.keep(done, self.stop) && !self.stop.load(Ordering::Relaxed)
        });
        match copied {
            Ok(copied) => Ok(copied.rounds),
            // Each share is as large as the largest has to be.
            Err(CopyError::TooSmall { name, needed, .. }) => Err(CopyError::TooSmall {
                name,
                found: all_bytes,
                needed: bytes_of_all(needed, share.count),
            }
            .into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads a copy from the media and checks every sum, as `log verify` does.
    fn read_again(
        &self,
        to: &Target<'_>,
        share: ShareId,
        rounds: u32,
    ) -> Result<Made, CommandError> {
        let mut disk = of_share(to.disk(self.profile)?, share)?;
        let bar = Progress::new(self.quiet, "segments verified", None);
        let report = verify(&mut disk, &mut |done, _| bar.set(done))?;
        drop(bar);
        if let Some(finding) = report.findings.iter().find(|finding| finding.is_damage) {
            return Err(CommandError::Failed(format!(
                "{}: the copy is not whole: {}; see: buslane log verify {}",
                disk.info().name,
                finding.what,
                self.from.display()
            )));
        }
        Ok(Made { log: describe(&mut disk)?, rounds, report })
    }
}

/// Keeps a copy from taking all of a disk's time.
struct Pace {
    clock: HostClock,
    begin_ns: u64,
    bytes_a_second: Option<u64>,
}

impl Pace {
    fn new(bytes_a_second: Option<u64>) -> Self {
        let clock = HostClock::new();
        Self { begin_ns: clock.now_ns(), clock, bytes_a_second }
    }

    /// Waits until `done` bytes are due, or until told to stop; says whether it was not.
    fn keep(&self, done: u64, stop: &AtomicBool) -> bool {
        let Some(rate) = self.bytes_a_second else { return true };
        let due_ns = u128::from(done) * 1_000_000_000 / u128::from(rate.max(1));
        while u128::from(self.clock.now_ns() - self.begin_ns) < due_ns {
            // Only a flag: it orders nothing but itself.
            if stop.load(Ordering::Relaxed) {
                return false;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(5));
        }
        true
    }
}

impl From<CopyError> for CommandError {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::Stopped => Self::Interrupted,
            CopyError::Source(_)
            | CopyError::Read { .. }
            | CopyError::Write { .. }
            | CopyError::Hurt { .. }
            | CopyError::TooSmall { .. }
            | CopyError::TooFast { .. } => Self::Failed(error.to_string()),
        }
    }
}

#[derive(Serialize)]
struct Row<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    shard: Option<u32>,
    rounds: u32,
    batches: u64,
    #[serde(flatten)]
    log: &'a LogDescription,
}

fn print(globals: &Globals, to: &Path, made: &[Made]) -> Result<(), CommandError> {
    let mut out = Out::stdout();
    let count = u32::try_from(made.len()).expect("few shards");
    for (index, made) in (0..).zip(made) {
        let shard = (count > 1).then_some(index);
        if globals.output() == Output::Json {
            let batches = made.report.batches;
            out.json(&Row { shard, rounds: made.rounds, batches, log: &made.log })?;
            continue;
        }
        heading(&mut out, ShareId { index, count })?;
        out.line(&format!("{}: {}", made.log.disk, whole(&made.report)))?;
        for stream in &made.log.streams {
            out.line(&format!("stream {}: {}", stream.name, sequences(stream)))?;
        }
    }
    if globals.output() != Output::Json && !globals.quiet {
        out.line(&format!("{}: copied, read again and whole", to.display()))?;
    }
    out.finish()
}
