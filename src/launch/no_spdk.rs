//! In a binary without SPDK: say so.

use crate::disk::DiskError;
use crate::launch::{AnyDisk, LaunchError};
use crate::profile::DiskProfile;

pub(super) fn open(
    _profile: &DiskProfile,
    transport_id: &str,
    _memory_bytes: usize,
) -> Result<AnyDisk, LaunchError> {
    Err(LaunchError::Disk(DiskError::Open {
        name: transport_id.to_owned(),
        why: "this binary was built without SPDK".into(),
        mend: "build it with: cargo build --release --features spdk".into(),
    }))
}
