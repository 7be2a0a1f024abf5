//! Opening an SPDK disk from a profile.

use crate::disk::spdk::{SpdkConfig, SpdkDisk};
use crate::launch::{AnyDisk, LaunchError};
use crate::profile::DiskProfile;

pub(super) fn open(
    profile: &DiskProfile,
    transport_id: &str,
    memory_bytes: usize,
) -> Result<AnyDisk, LaunchError> {
    let spdk = profile.spdk.clone();
    let config = SpdkConfig {
        transport_id: transport_id.to_owned(),
        memory_bytes,
        huge_memory_mib: u32::try_from(spdk.memory >> 20).unwrap_or(u32::MAX),
        timeout_ms: spdk.timeout_ms,
        identity: spdk.identity,
        write_cache_off: spdk.write_cache_off,
        power_loss_protected: spdk.power_loss_protected,
        accept_volatile: profile.accept_volatile,
    };
    Ok(Box::new(SpdkDisk::open(&config)?))
}
