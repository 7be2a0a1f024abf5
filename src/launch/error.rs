//! Why an appliance does not start, or ends.

use crate::disk::DiskError;
use crate::log::create::FormatError;
use crate::log::recovery::OpenError;
use crate::port::PortError;
use crate::profile::ProfileError;

/// Why an appliance did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// the profile does not fit the host
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// the port could not be opened
    #[error(transparent)]
    Port(#[from] PortError),
    /// the disk could not be opened
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// the log could not be made
    #[error(transparent)]
    Format(#[from] FormatError),
    /// the log could not be opened
    #[error(transparent)]
    Open(#[from] OpenError),
    /// the thread could not be pinned
    #[error(
        "core {0}: the operating system does not let this thread run there; choose another shard.core"
    )]
    Pin(usize),
    /// signals could not be caught
    #[error("catching signals: {0}")]
    Signals(std::io::Error),
    /// the housekeeping thread could not be started
    #[error("starting the housekeeping thread: {0}")]
    Housekeeping(std::io::Error),
    /// a thread could not be started
    #[error("starting a shard's thread: {0}")]
    Thread(std::io::Error),
    /// told to stop before it served
    #[error("told to stop before it served")]
    Stopped,
    /// one of several shards did not start, or ended
    #[error("shard {0}: {1}")]
    OfShard(u32, Box<LaunchError>),
    /// serving ended with a failure
    #[error("{0}")]
    Failed(String),
}
