//! What is said when a namespace is not opened.

use std::io;

use super::SpdkConfig;
use crate::disk::{DiskError, DiskFault};

/// It could not be opened; another try may go well.
pub(super) fn failed(config: &SpdkConfig, why: &str, mend: &str) -> DiskError {
    DiskError::Open { name: config.transport_id.clone(), why: why.into(), mend: mend.into() }
}

/// It is not what is wanted; no other try goes well until somebody changes it.
pub(super) fn refused(config: &SpdkConfig, why: &str, mend: &str) -> DiskError {
    DiskError::Refused { name: config.transport_id.clone(), why: why.into(), mend: mend.into() }
}

/// What a controller that is out of service is out of service for.
pub(super) fn fault_of(errno: i32) -> DiskFault {
    match -errno {
        libc::ETIMEDOUT => DiskFault::TimedOut,
        libc::EPERM => DiskFault::TakenOver,
        _ => DiskFault::Gone,
    }
}

/// It was there, and went away before it was open.
pub(super) fn lost(config: &SpdkConfig, errno: i32) -> DiskError {
    DiskError::Lost { name: config.transport_id.clone(), fault: fault_of(errno) }
}

/// Whether a call says that the controller is out of service, whatever was asked of it.
pub(super) fn is_lost(errno: i32) -> bool {
    matches!(-errno, libc::ENXIO | libc::ETIMEDOUT)
}

pub(super) fn open_error(config: &SpdkConfig, errno: i32) -> DiskError {
    if is_lost(errno) {
        return lost(config, errno);
    }
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
    if is_lost(errno) {
        return lost(config, errno);
    }
    let (why, mend) = match -errno {
        libc::EBUSY if other != 0 => (
            format!("another appliance serves it, by reservation key {other:#018x}"),
            "stop that one: a log has one writer",
        ),
        libc::EBUSY => (
            "the controller gives no queue pair to take a reservation with".to_owned(),
            "let go of other users of the device, or raise its number of queues",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_lost_is_that_whatever_was_asked_of_it() {
        let config = SpdkConfig {
            transport_id: "trtype:PCIe traddr:0000:00:00.0".into(),
            huge_memory_mib: 64,
            timeout_ms: 50,
            identity: String::new(),
            write_cache_off: false,
            power_loss_protected: Vec::new(),
            accept_volatile: false,
            read_only: false,
        };
        for (errno, expected) in
            [(libc::ENXIO, DiskFault::Gone), (libc::ETIMEDOUT, DiskFault::TimedOut)]
        {
            for error in [open_error(&config, -errno), reserve_error(&config, -errno, 0)] {
                let DiskError::Lost { fault, .. } = error else { panic!("{error}") };
                assert_eq!(fault, expected);
                assert!(fault.may_come_back());
            }
        }
        for errno in [libc::ENODEV, libc::ENOENT, libc::EBADF, libc::EBUSY, libc::EIO] {
            let error = open_error(&config, -errno);
            assert!(matches!(error, DiskError::Open { .. }), "{error}");
        }
    }
}
