//! The files of this host, for the life of a log.

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::logfile::{Files, Found, MountPoint};
use super::{FORMAT_MEMORY_BYTES, LaunchError, Progress};
use crate::disk::media::{Media, Mount, unescape};
use crate::disk::uring::{UringConfig, UringDisk, UringFile};
use crate::disk::{Disk, DiskError};
use crate::log::create::{FormatOptions, Made, made};
use crate::log::shares::format_shares;
use crate::log::superblock::{END_BYTES, copy_offsets, is_superblock};
use crate::profile::DiskProfile;

/// The files of this host; a log is made as a profile says.
pub(super) struct HostFiles<'a> {
    pub(super) profile: &'a DiskProfile,
    /// Shards the log is for.
    pub(super) count: u32,
    /// Set by a signal: whatever is being made is given up.
    pub(super) stop: &'a AtomicBool,
    pub(super) watch: RefCell<&'a mut (dyn FnMut(Progress) + 'a)>,
}

impl HostFiles<'_> {
    pub(super) fn tell(&self, progress: Progress) {
        (self.watch.borrow_mut())(progress);
    }

    fn fill(&self, path: &Path) -> Result<Arc<UringFile>, LaunchError> {
        let is_stopped = || self.stop.load(Ordering::Relaxed);
        let held = UringFile::create(path, self.profile.size, &mut |done, all| {
            self.tell(Progress::Creating(PathBuf::from(&self.profile.path), done, all));
            // Only a flag: it orders nothing but itself.
            !is_stopped()
        });
        held.map_err(|error| if is_stopped() { LaunchError::Stopped } else { error.into() })
    }

    fn format(&self, held: &Arc<UringFile>) -> Result<(), LaunchError> {
        let mut disk = UringDisk::on(Arc::clone(held), FORMAT_MEMORY_BYTES)?;
        let options = FormatOptions { segment_bytes: self.profile.segment, force: false };
        format_shares(&mut disk, &options, self.count)?;
        Ok(())
    }
}

impl Files for HostFiles<'_> {
    type Draft = Arc<UringFile>;

    fn find(&self, path: &Path) -> io::Result<Found> {
        match fs::metadata(path) {
            Ok(found) if found.file_type().is_block_device() => Ok(Found::Device),
            Ok(found) if found.is_dir() => Ok(Found::Directory),
            Ok(_) => Ok(Found::File),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
            Err(error) => Err(error),
        }
    }

    fn is_log(&self, path: &Path) -> bool {
        let Ok(file) = File::open(path) else { return false };
        // Either of the copies at its head; the rest is looked at when it is opened.
        copy_offsets(END_BYTES * 2).into_iter().take(2).any(|offset| {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, offset.get()).is_ok() && is_superblock(&bytes)
        })
    }

    fn link(&self, path: &Path) -> Option<PathBuf> {
        fs::read_link(path).ok()
    }

    fn absolute(&self, path: &Path) -> PathBuf {
        std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
    }

    fn make_directory(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir(dir)
    }

    fn sync_directory(&self, dir: &Path) -> io::Result<()> {
        match File::open(dir)?.sync_all() {
            // Some file systems have no such thing, and those mounted for reading nothing to sync.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EROFS)) => {
                Ok(())
            }
            other => other,
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    }

    fn hold(&self, path: &Path) -> Result<Option<(Arc<UringFile>, Made)>, LaunchError> {
        if self.find(path).is_ok_and(|found| found == Found::Nothing) {
            return Ok(None);
        }
        let config = UringConfig { path: path.to_owned(), memory_bytes: 0, read_only: false };
        let held = UringFile::open(&config)?;
        if !held.is_at(path) {
            // Whoever held it before has renamed or removed it.
            return Ok(None);
        }
        if held.bytes()? == 0 {
            return Ok(Some((held, Made::Nothing)));
        }
        let mut disk = UringDisk::on(Arc::clone(&held), FORMAT_MEMORY_BYTES)?;
        let found = made(&mut disk).map_err(|fault| DiskError::Open {
            name: disk.info().name.clone(),
            why: format!("reading it: {fault}"),
            mend:
                "look at it (buslane log describe), then rename it to the log's name, or remove it"
                    .into(),
        })?;
        drop(disk);
        Ok(Some((held, found)))
    }

    fn make(&self, path: &Path) -> Result<Arc<UringFile>, LaunchError> {
        let held = self.fill(path)?;
        self.format(&held).inspect_err(|_| {
            // What is no log must not be taken for one.
            let _ = fs::remove_file(path);
        })?;
        Ok(held)
    }

    fn mount_points(&self) -> Vec<MountPoint> {
        let mounts = Media::default().mounts().unwrap_or_default();
        let point = |mount: Mount| {
            let is_memory = mount.is_memory();
            MountPoint { path: mount.point, is_memory }
        };
        mounts.into_iter().map(point).collect()
    }

    fn wanted_mount_points(&self) -> Vec<PathBuf> {
        mount_points_of(&fs::read_to_string("/etc/fstab").unwrap_or_default())
    }
}

/// The second word of each line of `fstab`.
fn mount_points_of(table: &str) -> Vec<PathBuf> {
    let lines = table.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let points = lines.filter_map(|line| line.split_whitespace().nth(1));
    points.filter(|point| point.starts_with('/')).map(|point| unescape(point).into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_file_systems_names_its_mount_points() {
        let table = "# a comment /no\nUUID=1 / ext4 rw 0 1\n\n  /dev/sdb1\t/srv/a\\040b xfs defaults\nx none swap sw\n";
        let points = [PathBuf::from("/"), PathBuf::from("/srv/a b")];
        assert_eq!(mount_points_of(table), points);
    }
}
