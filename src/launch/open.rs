//! Ports and disks, opened as a profile says: for clients and tools, and for a shard that is built by hand.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::log_disk::LogDisk;
use super::{LaunchError, dpdk_port, spdk_disk};
use crate::disk::share::Share;
use crate::disk::uring::{UringConfig, UringDisk, UringFile};
use crate::disk::{AnyDisk, Disk, DiskError, is_transport_id};
use crate::log::shares;
use crate::log::superblock::ShareId;
use crate::port::udp::UdpPort;
use crate::port::{AnyPort, PortError};
use crate::profile::{DiskProfile, PortDriver, PortProfile, Profile};

/// Opens the port a profile names.
///
/// # Errors
/// What keeps it from being opened, and how to mend it.
pub fn open_port(profile: &PortProfile) -> Result<AnyPort, PortError> {
    match profile.driver {
        PortDriver::Udp => Ok(Box::new(UdpPort::open(profile.address, profile.datagram_bytes)?)),
        PortDriver::Dpdk => Ok(dpdk_port::open(profile)?),
    }
}

/// Opens the appliance's port and a client's as a pair in this process, both as `[port.dpdk]` and
/// `[client.port.dpdk]` say but for the device.
///
/// # Errors
/// What keeps them from being opened, and how to mend it.
pub fn open_port_pair(profile: &Profile) -> Result<(AnyPort, AnyPort), PortError> {
    dpdk_port::open_pair(&profile.port, &profile.client.port)
}

/// Opens the disk of the only shard of an appliance, with `memory_bytes` to work in, as `serve` does: a file that does
/// not exist is made.
///
/// # Errors
/// What keeps it from being opened, and how to mend it.
pub fn open_log_disk(profile: &Profile, memory_bytes: usize) -> Result<AnyDisk, LaunchError> {
    LogDisk::take(profile, &AtomicBool::new(false), &mut |_| {})?.open(ShareId::WHOLE, memory_bytes)
}

/// The share of a disk that belongs to a shard.
///
/// # Errors
/// When the disk was formatted for another number of shards, or the share is another's.
pub fn of_share<D: Disk + 'static>(mut disk: D, share: ShareId) -> Result<AnyDisk, LaunchError> {
    let part = shares::find(&mut disk, share)?;
    Ok(Box::new(Share::new(disk, part)))
}

/// Opens a disk for a tool, for looking only where `read_only`: by its name a file, a block device, or a
/// namespace through SPDK.
///
/// # Errors
/// What keeps it from being opened, and how to mend it.
pub fn open_tool_disk(
    profile: &DiskProfile,
    name: &str,
    memory_bytes: usize,
    read_only: bool,
) -> Result<AnyDisk, LaunchError> {
    if is_transport_id(name) {
        return spdk_disk::open(profile, name, memory_bytes, read_only);
    }
    Ok(Box::new(open_uring(Path::new(name), memory_bytes, read_only)?))
}

/// Opens a disk for reading though an appliance may be writing it, and without keeping one from it: by its name
/// a file or a block device. A namespace through SPDK has one user, so there nothing may serve.
///
/// # Errors
/// What keeps it from being opened, and how to mend it.
pub fn open_served_disk(
    profile: &DiskProfile,
    name: &str,
    memory_bytes: usize,
) -> Result<AnyDisk, LaunchError> {
    if is_transport_id(name) {
        return spdk_disk::open(profile, name, memory_bytes, true);
    }
    Ok(Box::new(UringDisk::on(UringFile::open_beside(Path::new(name))?, memory_bytes)?))
}

/// Opens a file or block device, for looking only where `read_only`.
///
/// # Errors
/// What keeps it from being opened, and how to mend it.
pub fn open_uring(
    path: &Path,
    memory_bytes: usize,
    read_only: bool,
) -> Result<UringDisk, DiskError> {
    UringDisk::open(&UringConfig { path: path.to_owned(), memory_bytes, read_only })
}
