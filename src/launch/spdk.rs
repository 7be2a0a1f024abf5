//! Opening an SPDK disk from a profile.

use std::sync::Arc;

use crate::disk::AnyDisk;
use crate::disk::spdk::{SpdkConfig, SpdkDisk, SpdkNamespace};
use crate::launch::LaunchError;
use crate::log::superblock::ShareId;
use crate::profile::DiskProfile;

/// Nobody waits for a tool within microseconds, and it gives up at the first operation that takes longer.
const TOOL_TIMEOUT_MS: u32 = 10_000;

/// A namespace that shards work on.
pub(super) type Namespace = Arc<SpdkNamespace>;

/// Takes hold of the namespace of a log for `shards` shards.
pub(super) fn hold(profile: &DiskProfile, shards: u32) -> Result<Namespace, LaunchError> {
    Ok(SpdkNamespace::new(config(profile, &profile.path, false), shards)?)
}

/// A shard's disk on it.
pub(super) fn open_on(
    namespace: &Namespace,
    memory_bytes: usize,
    share: ShareId,
) -> Result<AnyDisk, LaunchError> {
    super::of_share(SpdkDisk::on(namespace, memory_bytes)?, share)
}

/// The whole namespace, for this process alone, for looking only where `read_only`.
pub(super) fn open(
    profile: &DiskProfile,
    transport_id: &str,
    memory_bytes: usize,
    read_only: bool,
) -> Result<AnyDisk, LaunchError> {
    let mut config = config(profile, transport_id, read_only);
    config.timeout_ms = config.timeout_ms.max(TOOL_TIMEOUT_MS);
    Ok(Box::new(SpdkDisk::open(&config, memory_bytes)?))
}

fn config(profile: &DiskProfile, transport_id: &str, read_only: bool) -> SpdkConfig {
    let spdk = profile.spdk.clone();
    SpdkConfig {
        transport_id: transport_id.to_owned(),
        huge_memory_mib: u32::try_from(spdk.memory >> 20).unwrap_or(u32::MAX),
        timeout_ms: spdk.timeout_ms,
        identity: spdk.identity,
        write_cache_off: spdk.write_cache_off,
        power_loss_protected: spdk.power_loss_protected,
        accept_volatile: profile.accept_volatile,
        read_only,
    }
}
