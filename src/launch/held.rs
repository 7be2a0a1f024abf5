//! What the disks of an appliance are on.

use std::path::Path;
use std::sync::Arc;

use super::{AnyDisk, FORMAT_MEMORY_BYTES, LaunchError, Progress};
use super::{of_share, open_disk, open_uring, spdk_disk};
use crate::disk::DiskError;
use crate::disk::uring::{UringConfig, UringDisk, UringFile};
use crate::log::create::FormatOptions;
use crate::log::shares::format_shares;
use crate::log::superblock::ShareId;
use crate::profile::{DiskDriver, DiskProfile, Profile};

/// What the disks of all shards are on: held while the appliance serves, also while the disk is lost.
pub(super) enum Held {
    /// Each has memory of its own.
    Nothing,
    File(Arc<UringFile>),
    Namespace(spdk_disk::Namespace),
}

impl Held {
    /// Takes hold of what the log is on. A file that does not exist is made, initialised and formatted.
    pub(super) fn of(
        profile: &Profile,
        watch: &mut dyn FnMut(Progress),
    ) -> Result<Self, LaunchError> {
        let (disk, count) = (&profile.disk, profile.shard.count);
        Ok(match disk.driver {
            DiskDriver::Ram => Self::Nothing,
            DiskDriver::Spdk => Self::Namespace(spdk_disk::hold(disk, count)?),
            DiskDriver::Uring => {
                make_file(disk, count, watch)?;
                let path = disk.path.clone().into();
                let config = UringConfig { path, memory_bytes: 0, read_only: false, direct: true };
                Self::File(UringFile::open(&config)?)
            }
        })
    }

    /// The disk of one shard, with `memory_bytes` to work in.
    pub(super) fn open(
        &self,
        profile: &DiskProfile,
        share: ShareId,
        memory_bytes: usize,
        watch: &mut dyn FnMut(Progress),
    ) -> Result<AnyDisk, LaunchError> {
        match self {
            Self::File(file) => of_share(UringDisk::on(Arc::clone(file), memory_bytes)?, share),
            Self::Namespace(namespace) => spdk_disk::open_on(namespace, memory_bytes, share),
            Self::Nothing => {
                let size = profile.size / u64::from(share.count);
                open_disk(&DiskProfile { size, ..profile.clone() }, memory_bytes, watch)
            }
        }
    }
}

/// Makes, initialises and formats the file of a log for `count` shards, unless it is there.
pub(super) fn make_file(
    profile: &DiskProfile,
    count: u32,
    watch: &mut dyn FnMut(Progress),
) -> Result<(), LaunchError> {
    let path = Path::new(&profile.path);
    if path.exists() {
        return Ok(());
    }
    // Under another name until it is whole: a start that was interrupted leaves nothing to mend.
    let draft = path.with_extension("being-made");
    let _ = std::fs::remove_file(&draft);
    UringDisk::create(&draft, profile.size, true, &mut |done, all| {
        watch(Progress::Creating(path.to_owned(), done, all));
    })?;
    let mut disk = open_uring(&draft, FORMAT_MEMORY_BYTES, false)?;
    let options = FormatOptions { segment_bytes: profile.segment, force: false };
    format_shares(&mut disk, &options, count)?;
    drop(disk);
    std::fs::rename(&draft, path).map_err(|error| DiskError::Open {
        name: profile.path.clone(),
        why: error.to_string(),
        mend: "choose another disk.path".into(),
    })?;
    Ok(())
}
