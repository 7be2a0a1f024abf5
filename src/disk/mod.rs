//! Disks: where blocks are written.
//!
//! A disk owns the memory that it reads and writes (`Memory`), so that the memory can be registered
//! with the kernel or the device once. An operation names a range of that memory; the range is pinned
//! until its completion is polled. A write that completed without error is on non-volatile media, as
//! `DiskInfo::durability` says; order between operations in flight is not promised.
//!
//! Every disk is one `queue::Queue` over a backend, which starts operations and says which ended: a file
//! ([`uring`]), a namespace (`spdk`), memory ([`ram`]), those of the tests. A [`share::Share`] is a part of a disk.

pub mod lock;
#[cfg(test)]
mod lost_tests;
pub(crate) mod media;
pub(crate) mod queue;
pub mod ram;
pub mod share;
#[cfg(feature = "spdk")]
pub mod spdk;
pub mod uring;

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use crate::ids::Durability;
use crate::limits::BLOCK_BYTES;
use crate::memory::Memory;
use crate::position::DiskOffset;

/// What a disk is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Device to memory.
    Read,
    /// Memory to media; complete only when durable.
    Write,
}

/// One operation. All three numbers are multiples of `limits::BLOCK_BYTES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Io {
    /// Read or write.
    pub operation: Operation,
    /// Given back with the completion.
    pub tag: u64,
    /// Where on the disk, in bytes.
    pub disk_offset: DiskOffset,
    /// Where in the disk's memory, in bytes.
    pub memory_offset: usize,
    /// How many bytes, at most `DiskInfo::transfer_bytes_max`.
    pub bytes: usize,
}

impl Io {
    /// The memory it reads or writes.
    #[must_use]
    pub fn memory(&self) -> Range<usize> {
        self.memory_offset..self.memory_offset + self.bytes
    }

    /// Checks what every disk demands of its caller.
    fn assert_valid(&self, info: &DiskInfo) {
        let (block, start) = (BLOCK_BYTES as u64, self.disk_offset.get());
        assert!(self.bytes > 0 && self.bytes <= info.transfer_bytes_max, "{self:?}: size");
        assert!(self.bytes.is_multiple_of(BLOCK_BYTES), "{self:?}: whole blocks");
        assert!(self.memory_offset.is_multiple_of(BLOCK_BYTES), "{self:?}: memory alignment");
        assert!(start.is_multiple_of(block), "{self:?}: disk alignment");
        let end = start.checked_add(self.bytes as u64).expect("below 2^64");
        assert!(end <= info.bytes, "{self:?}: beyond the disk's {} bytes", info.bytes);
    }
}

/// One finished operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The operation, as submitted.
    pub io: Io,
    /// Whether all of its bytes were moved.
    pub result: Result<(), DiskFault>,
}

impl Completion {
    /// That of nothing: where the next one is stored.
    pub const NONE: Self = Self {
        io: Io {
            operation: Operation::Read,
            tag: 0,
            disk_offset: DiskOffset::START,
            memory_offset: 0,
            bytes: 0,
        },
        result: Ok(()),
    };
}

/// What a device said when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, displaydoc::Display, thiserror::Error)]
pub enum DiskFault {
    /// {0}
    Errno(Errno),
    /// the device moved {done} of {asked} bytes
    Short {
        /// Bytes moved.
        done: usize,
        /// Bytes asked for.
        asked: usize,
    },
    /// the device answered {0}
    Status(NvmeStatus),
    /// the device did not answer within its time limit
    TimedOut,
    /// its file is no longer at its path: it was removed, renamed or replaced
    Misplaced,
    /// the controller was reset, or it or its namespace is gone
    Gone,
    /// another appliance has taken the namespace over
    TakenOver,
}

/// What the operating system answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

/// What an NVMe controller answered: the status code type above the status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NvmeStatus(pub u16);

impl fmt::Display for NvmeStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status code type {:#x}, status code {:#04x}", self.0 >> 8, self.0 & 0xff)
    }
}

/// What is known of a disk when it is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskInfo {
    /// Path or transport address, as the profile names it.
    pub name: String,
    /// `uring`, `ram` or `spdk`.
    pub driver: &'static str,
    /// Size, a multiple of `limits::BLOCK_BYTES`.
    pub bytes: u64,
    /// One operation moves at most this.
    pub transfer_bytes_max: usize,
    /// Operations in flight at most.
    pub queue_depth: usize,
    /// Why a completed write is safe.
    pub durability: Durability,
    /// NGUID or another identity of the device that survives renaming; zero where there is none.
    pub identity: [u8; 16],
}

/// Block operations, submitted and polled, never blocking.
pub trait Disk {
    /// What is known of the disk.
    fn info(&self) -> &DiskInfo;

    /// The memory operations read and write.
    fn memory(&self) -> &Memory;

    /// The same, to fill.
    fn memory_mut(&mut self) -> &mut Memory;

    /// Starts an operation and pins its memory.
    ///
    /// # Errors
    /// Gives the operation back when the queue is full.
    ///
    /// # Panics
    /// When the operation is not aligned, or lies outside the disk or its memory: a bug of the caller.
    fn submit(&mut self, io: Io) -> Result<(), Io>;

    /// Collects finished operations and unpins their memory; returns how many were stored.
    fn poll(&mut self, done: &mut [Completion]) -> usize;

    /// Operations submitted and not yet polled.
    fn in_flight(&self) -> usize;

    /// What is particular to the device, for people: names and values.
    fn facts(&mut self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// Why it takes no operation any more, though some may still be in flight: their memory stays pinned
    /// until they complete or the disk is closed. Looked at after `poll`.
    fn out_of_service(&self) -> Option<DiskFault> {
        None
    }

    /// How long after it was opened what an earlier process has sent may still arrive, where nothing keeps it out.
    fn settles_in(&self) -> Option<Duration> {
        None
    }
}

/// A disk of any kind, known at launch.
pub type AnyDisk = Box<dyn Disk>;

impl fmt::Debug for dyn Disk + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("info", self.info()).finish_non_exhaustive()
    }
}

/// A disk behind a pointer is a disk.
macro_rules! forward {
    ($($pointer:ty),*) => {
        $(
            impl<D: Disk + ?Sized> Disk for $pointer {
            fn info(&self) -> &DiskInfo {
                (**self).info()
            }

            fn memory(&self) -> &Memory {
                (**self).memory()
            }

            fn memory_mut(&mut self) -> &mut Memory {
                (**self).memory_mut()
            }

            fn submit(&mut self, io: Io) -> Result<(), Io> {
                (**self).submit(io)
            }

            fn poll(&mut self, done: &mut [Completion]) -> usize {
                (**self).poll(done)
            }

            fn in_flight(&self) -> usize {
                (**self).in_flight()
            }

            fn facts(&mut self) -> Vec<(&'static str, String)> {
                (**self).facts()
            }

            fn out_of_service(&self) -> Option<DiskFault> {
                (**self).out_of_service()
            }

            fn settles_in(&self) -> Option<Duration> {
                (**self).settles_in()
            }
            }
        )*
    };
}

forward!(Box<D>, &mut D);

/// Whether a disk's name is a transport id of SPDK.
#[must_use]
pub fn is_transport_id(name: &str) -> bool {
    name.split_whitespace().next().is_some_and(|first| first.starts_with("trtype:"))
}

impl DiskFault {
    /// Whether the device is out of service, so that it may be back: not that it failed at what it was told.
    #[must_use]
    pub fn may_come_back(self) -> bool {
        match self {
            Self::TimedOut | Self::Gone | Self::TakenOver => true,
            Self::Errno(_) | Self::Short { .. } | Self::Status(_) | Self::Misplaced => false,
        }
    }
}

/// Why a disk could not be opened.
#[derive(Debug, displaydoc::Display, thiserror::Error)]
pub enum DiskError {
    /// {name}: {why}; {mend}
    Refused {
        /// Path or transport address.
        name: String,
        /// In what it is not as wanted.
        why: String,
        /// What to do about it.
        mend: String,
    },
    /// {name}: {why}; {mend}
    Open {
        /// Path or transport address.
        name: String,
        /// What went wrong.
        why: String,
        /// What to do about it.
        mend: String,
    },
    /// {name} was lost while it was opened: {fault}
    Lost {
        /// Path or transport address.
        name: String,
        /// How it was lost.
        fault: DiskFault,
    },
}

/// Runs one operation to its end, for start-up and tools: the disk must have nothing else in flight.
///
/// # Errors
/// What the device said.
///
/// # Panics
/// When other operations are in flight.
pub fn run<D: Disk + ?Sized>(disk: &mut D, io: Io) -> Result<(), DiskFault> {
    if let Some(fault) = disk.out_of_service() {
        return Err(fault);
    }
    assert_eq!(disk.in_flight(), 0, "run is for an idle disk");
    if disk.submit(io).is_err() {
        // An idle disk takes one operation, unless it was lost while nobody looked.
        return Err(disk.out_of_service().unwrap_or(DiskFault::Gone));
    }
    let mut done = [Completion { io, result: Ok(()) }; 1];
    while disk.poll(&mut done) == 0 {
        if let Some(fault) = disk.out_of_service() {
            return Err(fault);
        }
        std::hint::spin_loop();
    }
    assert_eq!(done[0].io, io, "the only operation in flight");
    done[0].result
}
