//! In a binary without SPDK: say so.

use crate::disk::{AnyDisk, DiskError};
use crate::launch::LaunchError;
use crate::log::superblock::ShareId;
use crate::profile::DiskProfile;

/// There is none.
pub(super) enum Namespace {}

pub(super) fn hold(profile: &DiskProfile, _shards: u32) -> Result<Namespace, LaunchError> {
    Err(open(profile, &profile.path, 0, false).expect_err("never opened here"))
}

pub(super) fn open_on(
    namespace: &Namespace,
    _memory_bytes: usize,
    _share: ShareId,
) -> Result<AnyDisk, LaunchError> {
    match *namespace {}
}

pub(super) fn open(
    _profile: &DiskProfile,
    transport_id: &str,
    _memory_bytes: usize,
    _read_only: bool,
) -> Result<AnyDisk, LaunchError> {
    Err(LaunchError::Disk(DiskError::Open {
        name: transport_id.to_owned(),
        why: "this binary was built without SPDK".into(),
        mend: "build it with: cargo build --release --features spdk".into(),
    }))
}
