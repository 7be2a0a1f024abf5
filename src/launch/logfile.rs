//! The life of a log's file, right with the power cut or the process killed at each step.
//!
//! A log is made under another name (the draft), synced, renamed, and then every directory above it is synced, before
//! anything is acknowledged. Who finds a log syncs the directories too: whoever made it may have been killed before.
//! A draft is removed only when nothing can have been acknowledged from it; one that was served is the log, and
//! gets its name back.
//!
//! A log that was there and is gone is an error, not a reason to make a new one. What tells: a note beside the log
//! (`NAME.made`), a note beside the mount point it is below (`.MOUNT.buslane`), and mounts that `/etc/fstab` names.
//! `buslane log format` makes a new one all the same.

use std::io;
use std::path::{Component, Path, PathBuf};

use super::LaunchError;
use crate::disk::DiskError;
use crate::log::create::Made;

/// Links followed from a log's name, at most, as the kernel does.
const LINKS_MAX: usize = 40;

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    File,
    Directory,
    Device,
}

/// A place where a file system is mounted.
#[derive(Clone, Debug)]
pub(super) struct MountPoint {
    pub(super) path: PathBuf,
    /// In memory: nobody expects to find it again.
    pub(super) is_memory: bool,
}

/// What is done to files, so that a test can cut the power between any two steps.
pub(super) trait Files {
    /// A draft that nobody else touches while this lives.
    type Draft;

    /// What a path leads to, links followed.
    fn find(&self, path: &Path) -> io::Result<Found>;
    /// Whether a file begins as a log does.
    fn is_log(&self, path: &Path) -> bool;
    /// What a symbolic link says; `None` where there is none.
    fn link(&self, path: &Path) -> Option<PathBuf>;
    /// A path from the root on, links and `..` in it left alone.
    fn absolute(&self, path: &Path) -> PathBuf;
    fn make_directory(&self, dir: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_directory(&self, dir: &Path) -> io::Result<()>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Writes a small file and makes its bytes durable.
    fn write(&self, path: &Path, text: &str) -> io::Result<()>;
    /// Takes hold of a draft, and tells what it holds; `None` where there is none.
    fn hold(&self, path: &Path) -> Result<Option<(Self::Draft, Made)>, LaunchError>;
    /// Makes a whole log at a path where there is nothing, its bytes durable.
    fn make(&self, path: &Path) -> Result<Self::Draft, LaunchError>;
    fn mount_points(&self) -> Vec<MountPoint>;
    /// Where the system's table of file systems wants one mounted.
    fn wanted_mount_points(&self) -> Vec<PathBuf>;
}

/// Whether a log that was there and is gone may be replaced by a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    Refuse,
    MakeAnew,
}

/// Sees to it that there is a log at `path`, durably; where there is none, one is made. Says what is worth
/// knowing.
///
/// # Errors
/// What keeps it from being so, with nothing lost.
pub(super) fn ensure<F: Files>(
    files: &F,
    path: &Path,
    missing: Missing,
    say: &mut dyn FnMut(String),
) -> Result<(), LaunchError> {
    let asked = path;
    let path = &follow(files, asked)?;
    let draft = &draft_of(path);
    let found = files.find(path).map_err(|error| wrong(path, &error))?;
    match found {
        // Its name is not ours to make; and a directory is refused by whoever opens it.
        Found::Device | Found::Directory => return Ok(()),
        Found::File => {
            if !files.is_log(path) {
                // It is mended or refused by whoever opens it, with nothing written beside it.
                return sync_up(files, &real(files, directory_of(path))?);
            }
            settle(files, path)?;
            clear_beside(files, path, draft, say);
            return Ok(());
        }
        Found::Nothing => {}
    }
    let dir = directory_of(path);
    if path != asked && files.find(dir).map_err(|error| wrong(dir, &error))? == Found::Nothing {
        let why = format!("leads to {}, whose directory is not there", path.display());
        return Err(refused(asked, &why, "mount its file system, or make the link anew"));
    }
    if let Some((held, made)) = files.hold(draft)? {
        match made {
            Made::Nothing => files.remove(draft).map_err(|error| wrong(draft, &error))?,
            Made::Served => {
                files.rename(draft, path).map_err(|error| wrong(path, &error))?;
                settle(files, path)?;
                say(format!(
                    "{} is a log that has been served; its name was lost, by a power cut say, and it is {} again",
                    draft.display(),
                    path.display()
                ));
                return Ok(());
            }
            Made::Unknown => {
                let why = format!("is not there, and {} is perhaps the log", draft.display());
                let mend =
                    "look at it (buslane log describe), then rename it to that, or remove it";
                return Err(refused(path, &why, mend));
            }
        }
        drop(held);
    }
    // Another process may have made it while its draft was waited for.
    if files.find(path).map_err(|error| wrong(path, &error))? != Found::Nothing {
        return settle(files, path);
    }
    if missing == Missing::Refuse {
        refuse_if_lost(files, path)?;
    }
    make(files, path, draft)
}

/// Makes a log where there is none.
fn make<F: Files>(files: &F, path: &Path, draft: &Path) -> Result<(), LaunchError> {
    make_directories(files, directory_of(path))?;
    let held = files.make(draft)?;
    // Whoever makes a log of this name holds its draft; so only somebody else can have been here.
    if files.find(path).map_err(|error| wrong(path, &error))? != Found::Nothing {
        files.remove(draft).map_err(|error| wrong(draft, &error))?;
        return Err(refused(path, "appeared while a log was made", "start again to use it"));
    }
    files.rename(draft, path).map_err(|error| wrong(path, &error))?;
    settle(files, path)?;
    drop(held);
    Ok(())
}

/// Makes the name of a log durable, and then notes that there is one.
fn settle<F: Files>(files: &F, path: &Path) -> Result<(), LaunchError> {
    let dir = real(files, directory_of(path))?;
    sync_up(files, &dir)?;
    let note = note_of(path);
    if files.find(&note).map_err(|error| wrong(&note, &error))? == Found::Nothing {
        let text = format!(
            "Buslane's log {} was made here. Without it, serve makes no new one while this note is there.\n",
            path.display()
        );
        // A directory that cannot be written is no reason not to serve what is there.
        if files.write(&note, &text).is_ok() {
            sync_up(files, &dir)?;
        }
    }
    note_mount(files, &dir);
    Ok(())
}

/// Makes the names of a directory durable, and its own in those above it. One that may not be looked into is
/// somebody else's, and older.
fn sync_up<F: Files>(files: &F, dir: &Path) -> Result<(), LaunchError> {
    for dir in dir.ancestors().filter(|dir| !dir.as_os_str().is_empty()) {
        match files.sync_directory(dir) {
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => {
                return Err(wrong(dir, &error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn make_directories<F: Files>(files: &F, dir: &Path) -> Result<(), LaunchError> {
    for dir in dir.ancestors().collect::<Vec<_>>().into_iter().rev() {
        if dir.as_os_str().is_empty() {
            continue;
        }
        if files.find(dir).map_err(|error| wrong(dir, &error))? != Found::Nothing {
            continue;
        }
        if files.link(dir).is_some() {
            let why = format!("leads to {}, which is not there", real(files, dir)?.display());
            return Err(refused(dir, &why, "mount its file system, or make the link anew"));
        }
        match files.make_directory(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(wrong(dir, &error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// A draft beside a log: one that was interrupted goes, one that may hold something stays and is told of.
fn clear_beside<F: Files>(files: &F, path: &Path, draft: &Path, say: &mut dyn FnMut(String)) {
    match files.hold(draft) {
        Ok(None) => {}
        Ok(Some((_held, Made::Nothing))) => {
            // It stays if it has to: it is in nobody's way.
            let _ = files.remove(draft);
        }
        Ok(Some((_, Made::Served | Made::Unknown))) => say(format!(
            "{} holds a log beside {}, which is the one that is served; look at it (buslane log describe), then \
             move it away or remove it",
            draft.display(),
            path.display()
        )),
        Err(error) => say(error.to_string()),
    }
}

/// Whether a path is of a device, be it that there is none.
pub(super) fn names_a_device(path: &Path) -> bool {
    path.starts_with("/dev") && !path.starts_with("/dev/shm")
}

/// Refuses to make a log where there was one.
fn refuse_if_lost<F: Files>(files: &F, path: &Path) -> Result<(), LaunchError> {
    let anew = format!("or make a new, empty log: buslane log format {}", path.display());
    let note = note_of(path);
    if files.find(&note).map_err(|error| wrong(&note, &error))? != Found::Nothing {
        let why = format!("the log that was here is gone ({} says so)", note.display());
        return Err(refused(path, &why, &format!("put it back, {anew}")));
    }
    if names_a_device(path) {
        let mend = "attach it; a file for a log goes elsewhere";
        return Err(refused(path, "there is no such device", mend));
    }
    let dir = real(files, directory_of(path))?;
    let (mounted, wanted) = (files.mount_points(), files.wanted_mount_points());
    for dir in dir.ancestors().filter(|dir| dir.parent().is_some()) {
        if mounted.iter().any(|mount| mount.path == dir) {
            break;
        }
        let Some(note) = note_of_mount(dir) else { break };
        let noted = files.find(&note).is_ok_and(|found| found != Found::Nothing);
        let source = if noted {
            format!("{} says that", note.display())
        } else if wanted.iter().any(|wanted| wanted == dir) {
            "/etc/fstab says that".to_owned()
        } else {
            continue;
        };
        let why =
            format!("{source} a file system belongs on {}, and none is mounted", dir.display());
        return Err(refused(path, &why, &format!("mount it, {anew}")));
    }
    Ok(())
}

/// Notes beside the mount point a log is below that there is something on what is mounted. As far as it can be
/// written: whose mounts are the system's has the unit's `RequiresMountsFor`.
fn note_mount<F: Files>(files: &F, dir: &Path) {
    let mounted = files.mount_points();
    let mounted = |dir: &Path| mounted.iter().find(|mount| mount.path == dir);
    let mount = dir.ancestors().filter(|dir| dir.parent().is_some()).find_map(mounted);
    let Some(mount) = mount.filter(|mount| !mount.is_memory) else { return };
    let Some(note) = note_of_mount(&mount.path) else { return };
    if files.find(&note).is_ok_and(|found| found == Found::Nothing) {
        let text = format!(
            "A log of Buslane is on what is mounted on {}. Without that, serve makes no new one below it while \
             this note is there.\n",
            mount.path.display()
        );
        if files.write(&note, &text).is_ok() {
            let _ = files.sync_directory(directory_of(&note));
        }
    }
}

/// Where a name leads, be it that nothing is there.
fn follow<F: Files>(files: &F, path: &Path) -> Result<PathBuf, LaunchError> {
    let mut at = path.to_owned();
    for _ in 0..LINKS_MAX {
        let Some(to) = files.link(&at) else { return Ok(at) };
        at = directory_of(&at).join(to);
    }
    Err(refused(path, "too many symbolic links", "name the file itself"))
}

/// A path without links, also of what is not there: below a mount point without its mount, say.
fn real<F: Files>(files: &F, path: &Path) -> Result<PathBuf, LaunchError> {
    let parts = |path: &Path| -> Vec<PathBuf> {
        let named = path.components().filter(|part| *part != Component::CurDir);
        named.rev().map(|part| PathBuf::from(part.as_os_str())).collect()
    };
    let (mut at, mut links) = (PathBuf::new(), 0);
    let mut left = parts(&files.absolute(path));
    while let Some(part) = left.pop() {
        if part == Path::new("..") {
            at.pop();
            continue;
        }
        let there = at.join(part);
        let Some(to) = files.link(&there) else {
            at = there;
            continue;
        };
        links += 1;
        if links > LINKS_MAX {
            return Err(refused(path, "too many symbolic links", "name the directory itself"));
        }
        // One from the root on replaces what came before when it is joined.
        left.extend(parts(&to));
    }
    Ok(at)
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    // Appended, not in place of what follows a dot: `log.0` and `log.1` are two logs.
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn draft_of(path: &Path) -> PathBuf {
    with_suffix(path, ".being-made")
}

/// The note beside a log that says that there is one.
pub(super) fn note_of(path: &Path) -> PathBuf {
    with_suffix(path, ".made")
}

fn note_of_mount(point: &Path) -> Option<PathBuf> {
    let mut name = std::ffi::OsString::from(".");
    name.push(point.file_name()?);
    name.push(".buslane");
    Some(point.with_file_name(name))
}

fn refused(path: &Path, why: &str, mend: &str) -> LaunchError {
    let (name, why, mend) = (path.display().to_string(), why.to_owned(), mend.to_owned());
    DiskError::Open { name, why, mend }.into()
}

fn wrong(path: &Path, error: &io::Error) -> LaunchError {
    refused(path, &error.to_string(), "make it accessible, or choose another disk.path")
}

#[cfg(test)]
#[path = "logfile_tests.rs"]
mod tests;
