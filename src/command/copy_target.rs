//! Where a copy of a log is written: a file that has its name once it is whole, or a device. Either is held
//! against every other process from before its first byte until it is whole or given up.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::CommandError;
use super::log::{MEMORY_BYTES, open};
use crate::disk::uring::{UringConfig, UringDisk, UringFile};
use crate::disk::{AnyDisk, DiskError};
use crate::launch::LaunchError;
use crate::profile::Profile;

/// What a copy is written to.
#[derive(Debug)]
pub(super) enum Target<'a> {
    /// A file or block device, held.
    Held(Arc<UringFile>),
    /// A namespace without the kernel: it has one user at a time, whoever opens it.
    Namespace(&'a Path),
}

impl Target<'_> {
    /// Takes hold of a block device.
    pub(super) fn device(path: &Path) -> Result<Self, CommandError> {
        let config = UringConfig { path: path.to_owned(), memory_bytes: 0, read_only: false };
        Ok(Self::Held(UringFile::open(&config).map_err(LaunchError::from)?))
    }

    /// A disk on it, to write or to read again what is on media.
    pub(super) fn disk(&self, profile: &Profile) -> Result<AnyDisk, CommandError> {
        match self {
            Self::Held(file) => {
                let disk = UringDisk::on(Arc::clone(file), MEMORY_BYTES);
                Ok(Box::new(disk.map_err(LaunchError::from)?))
            }
            Self::Namespace(path) => open(profile, path, false),
        }
    }
}

pub(super) fn is_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device())
}

/// A file under the name it has until it is whole; removed unless it is finished. Whoever makes a copy of
/// that name holds the file, so what is at the path is nobody else's while this lives.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) held: Arc<UringFile>,
    pub(super) path: PathBuf,
}

impl Draft {
    /// Makes it, all of its bytes written; `progress` says whether to go on.
    pub(super) fn create(
        to: &Path,
        size: u64,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Self, CommandError> {
        let mut name = to.as_os_str().to_owned();
        name.push(".being-copied");
        let path = PathBuf::from(name);
        if fs::symlink_metadata(&path).is_ok() {
            remove_left_over(&path)?;
        }
        let held = UringFile::create(&path, size, progress)
            .map_err(|error| LaunchError::from(as_of_a_copy(error)))?;
        Ok(Self { held, path })
    }

    /// Gives the file its name, for the user that the log belongs to. It is there with this name after a power
    /// cut too.
    pub(super) fn finish(&self, from: &Path, to: &Path, dir: &Path) -> Result<(), CommandError> {
        let failed = |what: String| {
            CommandError::Failed(format!("{}: {what}; there is no copy", to.display()))
        };
        if !self.held.is_at(&self.path) {
            return Err(failed(format!("{} was removed meanwhile", self.path.display())));
        }
        if let Some(owner) = fs::metadata(from).ok().filter(fs::Metadata::is_file) {
            // Only root may give files away; for others it stays theirs.
            let _ = std::os::unix::fs::chown(&self.path, Some(owner.uid()), Some(owner.gid()));
        }
        File::open(&self.path)
            .and_then(|file| file.sync_all())
            .map_err(|error| failed(error.to_string()))?;
        // Unlike a rename, a link never replaces what came there meanwhile. Some file systems have none.
        if let Err(error) = fs::hard_link(&self.path, to) {
            if fs::symlink_metadata(to).is_ok() {
                return Err(failed(error.to_string()));
            }
            fs::rename(&self.path, to).map_err(|error| failed(error.to_string()))?;
        }
        let synced = File::open(dir).and_then(|dir| dir.sync_all());
        synced.map_err(|error| {
            let what = "the copy is whole, but its name may not be there after a power cut";
            CommandError::Failed(format!("{}: {error}: {what}", to.display()))
        })
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Of a copy that is finished this is its other name.
        if self.held.is_at(&self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes what a copy that was killed left behind. What is still being made is held, and stays.
fn remove_left_over(path: &Path) -> Result<(), CommandError> {
    let config = UringConfig { path: path.to_owned(), memory_bytes: 0, read_only: false };
    let failed = |what: &dyn std::fmt::Display| {
        let of = "a copy of that name is being made, or left this behind";
        CommandError::Failed(format!("{}: {what}; {of}", path.display()))
    };
    let held = match UringFile::open(&config) {
        Ok(held) => held,
        Err(_) if fs::symlink_metadata(path).is_err() => return Ok(()),
        Err(DiskError::Open { why, .. } | DiskError::Refused { why, .. }) => {
            return Err(failed(&why));
        }
        Err(error @ DiskError::Lost { .. }) => return Err(failed(&error)),
    };
    // Whoever held it before may have removed it, and another be there by now.
    if !held.is_at(path) {
        return Ok(());
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// What mends it in the words of this command, which has its own option for a file's size.
fn as_of_a_copy(error: DiskError) -> DiskError {
    let reword = |mend: String| {
        mend.replace(" in the profile", "")
            .replace("lower disk.size", "make a smaller copy: --size")
            .replace("disk.path", "file")
    };
    match error {
        DiskError::Open { name, why, mend } => DiskError::Open { name, why, mend: reword(mend) },
        DiskError::Refused { name, why, mend } => {
            DiskError::Refused { name, why, mend: reword(mend) }
        }
        lost @ DiskError::Lost { .. } => lost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u64 = 1 << 20;

    fn make(to: &Path) -> Result<Draft, CommandError> {
        Draft::create(to, BYTES, &mut |_, _| true)
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Not under /tmp: that may be memory, which takes no direct I/O.
    fn place() -> tempfile::TempDir {
        let target = concat!(env!("CARGO_MANIFEST_DIR"), "/target");
        tempfile::tempdir_in(target).unwrap()
    }

    #[test]
    fn of_two_copies_to_one_name_the_first_goes_on_and_the_second_takes_nothing() {
        let dir = place();
        let to = dir.path().join("copy");
        let first = make(&to).unwrap();
        let error = make(&to).unwrap_err().to_string();
        assert!(error.contains("is being made"), "{error}");
        assert!(first.held.is_at(&first.path), "it is there still");
        first.finish(&to, &to, dir.path()).unwrap();
        drop(first);
        assert_eq!(names(dir.path()), ["copy"]);
    }

    #[test]
    fn what_was_given_up_or_left_behind_goes_and_what_somebody_else_put_there_stays() {
        let dir = place();
        let to = dir.path().join("copy");
        drop(make(&to).unwrap());
        assert!(names(dir.path()).is_empty());
        let path = dir.path().join("copy.being-copied");
        fs::write(&path, "of a copy that was killed").unwrap();
        let draft = make(&to).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another's").unwrap();
        let error = draft.finish(&to, &to, dir.path()).unwrap_err().to_string();
        assert!(error.contains("there is no copy"), "{error}");
        drop(draft);
        assert_eq!(fs::read_to_string(&path).unwrap(), "another's");
        assert!(!to.exists());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let error = make(&to).unwrap_err().to_string();
        assert!(error.contains("left this behind"), "{error}");
    }

    #[test]
    fn a_disk_that_is_full_is_told_with_the_option_of_this_command() {
        let dir = place();
        let error = Draft::create(&dir.path().join("copy"), 1 << 60, &mut |_, _| true);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("--size") && !error.contains("disk."), "{error}");
        assert!(names(dir.path()).is_empty());
    }
}
