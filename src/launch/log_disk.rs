//! What the log of an appliance is on: the one way to a shard's disk.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::files::HostFiles;
use super::logfile::{self, Missing};
use super::present::Presence;
use super::{FORMAT_MEMORY_BYTES, LaunchError, Progress, catch_signals, of_share, spdk_disk};
use crate::disk::AnyDisk;
use crate::disk::media::Media;
use crate::disk::ram::RamDisk;
use crate::disk::uring::{UringConfig, UringDisk, UringFile};
use crate::limits::QUEUE_DEPTH_MAX;
use crate::log::create::{FormatOptions, segments_in};
use crate::log::shares::{self, format_shares};
use crate::log::superblock::{ShareId, Superblock};
use crate::profile::units::format_bytes;
use crate::profile::{DiskDriver, DiskProfile, Profile, ProfileError};
use crate::whole;

/// File systems round, and keep small things elsewhere: less is no hole.
const HOLE_BYTES_MIN: u64 = 1 << 20;

/// What the disks of all shards are on: held while the appliance serves, also while the disk is lost.
pub(super) enum LogDisk {
    /// Each has memory of its own, and a new log in it.
    Memory {
        /// Of all shards together.
        bytes: u64,
        segment_bytes: u64,
    },
    File(Arc<UringFile>, Presence),
    Namespace(spdk_disk::Namespace),
}

impl LogDisk {
    /// Takes hold of what the log is on. A file that does not exist, and never did, is made for as many shards as the
    /// profile says.
    pub(super) fn take(
        profile: &Profile,
        stop: &AtomicBool,
        watch: &mut dyn FnMut(Progress),
    ) -> Result<Self, LaunchError> {
        let (disk, count) = (&profile.disk, profile.shard.count);
        Ok(match disk.driver {
            DiskDriver::Ram => Self::Memory { bytes: disk.size, segment_bytes: disk.segment },
            DiskDriver::Spdk => Self::Namespace(spdk_disk::hold(disk, count)?),
            DiskDriver::Uring => {
                refuse_memory(profile)?;
                ensure_file(disk, count, stop, Missing::Refuse, watch)?;
                // Where a link has led to somewhere else, it is found now.
                refuse_memory(profile)?;
                let path = disk.path.clone().into();
                let config = UringConfig { path, memory_bytes: 0, read_only: false };
                let path = config.path.clone();
                let file = UringFile::open(&config)?;
                let head = head_of(&file);
                let differences =
                    head.as_ref().map(|head| differences(profile, head)).unwrap_or_default();
                let another = head.and_then(|head| another_log(&path, &head));
                for said in differences.into_iter().chain(another).chain(fill_holes(disk, &file)) {
                    watch(Progress::Warning(said));
                }
                let presence = Presence::watch(&file, path)?;
                Self::File(file, presence)
            }
        })
    }

    /// The file, where it is no longer what its path leads to.
    pub(super) fn misplaced(&self) -> Option<&UringFile> {
        match self {
            Self::File(file, presence) if presence.is_lost() => Some(file),
            Self::File(..) | Self::Memory { .. } | Self::Namespace(_) => None,
        }
    }

    /// The disk of one shard, with `memory_bytes` to work in.
    pub(super) fn open(&self, share: ShareId, memory_bytes: usize) -> Result<AnyDisk, LaunchError> {
        match self {
            Self::File(file, _) => of_share(UringDisk::on(Arc::clone(file), memory_bytes)?, share),
            Self::Namespace(namespace) => spdk_disk::open_on(namespace, memory_bytes, share),
            Self::Memory { bytes, segment_bytes } => {
                let bytes = bytes / u64::from(share.count);
                let mut disk = RamDisk::new(bytes, memory_bytes, QUEUE_DEPTH_MAX)?;
                let options = FormatOptions { segment_bytes: *segment_bytes, force: false };
                format_shares(&mut disk, &options, 1)?;
                of_share(disk, ShareId::WHOLE)
            }
        }
    }
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
    ensure_file(profile, count, &*catch_signals()?, Missing::MakeAnew, watch)?;
    note_log_file(Path::new(&profile.path));
    Ok(())
}

/// Removes a log's file and what says that there is one.
pub fn remove_log_file(path: &Path) {
    let _ = std::fs::remove_file(path);
    let _ = std::fs::remove_file(logfile::note_of(path));
}

/// Sees to it that the log's file is there; where it is not, and never was, it is made for `count` shards.
fn ensure_file(
    profile: &DiskProfile,
    count: u32,
    stop: &AtomicBool,
    missing: Missing,
    watch: &mut dyn FnMut(Progress),
) -> Result<(), LaunchError> {
    let files = HostFiles { profile, count, stop, watch: RefCell::new(&mut *watch) };
    logfile::ensure(&files, Path::new(&profile.path), missing, &mut |what| {
        files.tell(Progress::Warning(what));
    })
}

/// A log that was copied with holes gets the room it was made with, or it is said that it has not.
fn fill_holes(disk: &DiskProfile, file: &UringFile) -> Option<String> {
    let holes = file.hole_bytes();
    if holes < HOLE_BYTES_MIN {
        return None;
    }
    let filled = match file.fill_holes() {
        Ok(()) => "they have their place now".to_owned(),
        Err(error) => {
            format!("the file system gives them no place ({error}): when it is full, so is the log")
        }
    };
    Some(format!("{} has holes, {} in all: {filled}", disk.path, format_bytes(holes)))
}

/// The superblock at a file's head. What is no log, or damaged, is said when it is opened.
fn head_of(file: &Arc<UringFile>) -> Option<Superblock> {
    let mut disk = UringDisk::on(Arc::clone(file), FORMAT_MEMORY_BYTES).ok()?;
    shares::head(&mut disk).ok().flatten()
}

/// How the note beside a log says which it is.
const IDENTITY: &str = "It is log ";

/// A log's identity, as `log describe` prints it.
fn identity(head: &Superblock) -> String {
    head.cluster.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The note beside a log that is there, where a link leads.
fn note_beside(path: &Path) -> PathBuf {
    logfile::note_of(&path.canonicalize().unwrap_or_else(|_| path.to_owned()))
}

/// Whether a log is another than the one that was served here before, which the note beside it tells; one that does not
/// tell is made to.
fn another_log(path: &Path, head: &Superblock) -> Option<String> {
    let note = note_beside(path);
    let (said, found) = (std::fs::read_to_string(&note).ok()?, identity(head));
    let Some((_, before)) = said.split_once(IDENTITY) else {
        note_identity(&note, &said, &found);
        return None;
    };
    let before = before.trim_end();
    (before != found).then(|| {
        format!(
            "{} is log {found}, and the one that was here before was {before} ({} says so): is the right disk mounted, \
             the right copy restored? If it is meant, remove that note",
            path.display(),
            note.display()
        )
    })
}

/// Notes of a log that was made over another that it is this one.
pub fn note_log_file(path: &Path) {
    let config = UringConfig { path: path.to_owned(), memory_bytes: 0, read_only: true };
    let Some(head) = UringFile::open(&config).ok().and_then(|file| head_of(&file)) else { return };
    let note = note_beside(path);
    let Ok(said) = std::fs::read_to_string(&note) else { return };
    let kept = said.split_once(IDENTITY).map_or(said.as_str(), |(kept, _)| kept);
    note_identity(&note, kept, &identity(&head));
}

/// As far as it can be written: a log is made and served all the same.
fn note_identity(note: &Path, before: &str, identity: &str) {
    let _ = whole::replace(note, format!("{before}{IDENTITY}{identity}\n").as_bytes());
}

/// Where the profile would have made another log than there is.
fn differences(profile: &Profile, head: &Superblock) -> Vec<String> {
    let disk = &profile.disk;
    let (segments, bytes) = (head.segment_count.get(), head.segment_bytes());
    let differs = |key: &str, asked: u64, there: String| {
        format!(
            "{}: {key} is {}, and the log in {} was made with {there} and keeps that; another size takes \
             another log (buslane log format)",
            profile.source.place(key),
            format_bytes(asked),
            disk.path
        )
    };
    let mut differences = Vec::new();
    if profile.source.is_given("disk.segment") && disk.segment != bytes {
        let there = format!("segments of {}", format_bytes(bytes));
        differences.push(differs("disk.segment", disk.segment, there));
    }
    let is_device = Path::new(&disk.path).metadata().is_ok_and(|found| !found.is_file());
    let share = shares::share_bytes(disk.size, head.share().count);
    if profile.source.is_given("disk.size") && !is_device && segments_in(share, bytes) != segments {
        let of = shares::shards(head.share().count);
        let there = format!("{segments} segments of {} for {of}", format_bytes(bytes));
        differences.push(differs("disk.size", disk.size, there));
    }
    differences
}

/// Refuses a log in memory, unless the profile accepts that.
fn refuse_memory(profile: &Profile) -> Result<(), ProfileError> {
    let path = Path::new(&profile.disk.path);
    if logfile::names_a_device(path) && !path.exists() {
        // That there is none is said by whoever would make it.
        return Ok(());
    }
    // What is not there yet will be on what its directory is on.
    let there = path.ancestors().find(|path| path.exists()).unwrap_or_else(|| Path::new("."));
    match Media::default().memory(there) {
        Some(why) if !profile.disk.accept_volatile => Err(ProfileError::Host(format!(
            "{}: disk.path is {}: {why}, and an acknowledged message is lost with the power; name a path on a \
             disk, or accept it with disk.accept_volatile = true",
            profile.source.place("disk.path"),
            path.display()
        ))),
        Some(_) | None => Ok(()),
    }
}
