//! What happens while an appliance starts and runs.

use std::net::SocketAddrV4;
use std::path::PathBuf;

use crate::disk::DiskFault;
use crate::ids::Durability;
use crate::log::recovery::Recovery;

/// What happens while an appliance starts and runs, for whoever watches.
#[derive(Debug)]
pub enum Progress {
    /// A log file is written: bytes done, bytes in all.
    Creating(PathBuf, u64, u64),
    /// The log is open.
    Opened(String, Recovery, u64),
    /// The disk is gone, or was reset; it is opened again as soon as it is back.
    Lost(String, DiskFault),
    /// Why it is not back yet.
    Waiting(String),
    /// Serving: the port's address, the disk, why it is durable, the core.
    Ready(SocketAddrV4, String, Durability, Option<usize>),
    /// Of one shard of several.
    OfShard(u32, Box<Progress>),
    /// All of several shards serve: where the first listens, how many, the disk, why it is durable.
    AllReady(SocketAddrV4, u32, String, Durability),
    /// The appliance has new keys, in this directory.
    KeysMade(PathBuf),
    /// Sessions in the clear are served.
    InTheClear,
    /// Something is not as wished, and serving goes on.
    Warning(String),
    /// Nothing more is acknowledged.
    Failing(String),
    /// The log is full; the stream that keeps its oldest segment.
    Full(Option<String>),
    /// A log that was full takes messages again: room for so many bytes.
    Room(u64),
    /// Finishing what is in flight.
    Stopping,
}

impl Progress {
    /// Whether somebody can publish from now on.
    pub(super) fn is_ready(&self) -> bool {
        if let Self::OfShard(_, progress) = self {
            return progress.is_ready();
        }
        matches!(self, Self::Ready(..) | Self::AllReady(..))
    }
}
