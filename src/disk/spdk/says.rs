//! What is said when a namespace is not opened.

use std::io;

use super::SpdkConfig;
use crate::disk::DiskError;

/// It could not be opened; another try may go well.
pub(super) fn failed(config: &SpdkConfig, why: &str, mend: &str) -> DiskError {
    DiskError::Open { name: config.transport_id.clone(), why: why.into(), mend: mend.into() }
}

/// It is not what is wanted; no other try goes well until somebody changes it.
pub(super) fn refused(config: &SpdkConfig, why: &str, mend: &str) -> DiskError {
    DiskError::Refused { name: config.transport_id.clone(), why: why.into(), mend: mend.into() }
}

pub(super) fn open_error(config: &SpdkConfig, errno: i32) -> DiskError {
    let (why, mend) = match -errno {
        libc::ENODEV => (
            "no NVMe controller answers there",
            "is the device bound to vfio-pci, or the target running? see docs/spdk.md",
        ),
        libc::ENOENT => ("the controller has no such namespace", "name another with ns:N"),
        libc::EBADF => (
            "its blocks carry metadata or protection information",
            "format the namespace with 512 or 4096 bytes and no metadata",
        ),
        libc::EBUSY => (
            "the controller gives no queue pair",
            "let go of other users of the device, or raise its number of queues",
        ),
        _ => ("cannot be opened", "see the SPDK lines on standard error"),
    };
    failed(config, why, mend)
}

/// A reservation could not be taken; `other` is the key of who has it.
pub(super) fn reserve_error(config: &SpdkConfig, errno: i32, other: u64) -> DiskError {
    let (why, mend) = match -errno {
        libc::EBUSY => (
            format!("another appliance serves it, by reservation key {other:#018x}"),
            "stop that one: a log has one writer",
        ),
        libc::EPERM => (
            "another appliance has taken it at the same time".to_owned(),
            "stop that one: a log has one writer",
        ),
        other_errno => (
            format!(
                "its reservation cannot be taken: {}",
                io::Error::from_raw_os_error(other_errno)
            ),
            "see the target's log; a reservation keeps late writes and other hosts out",
        ),
    };
    failed(config, &why, mend)
}
