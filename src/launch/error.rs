//! Why an appliance does not start, or ends.

use crate::access::AccessError;
use crate::disk::DiskError;
use crate::log::create::FormatError;
use crate::log::recovery::OpenError;
use crate::port::PortError;
use crate::profile::ProfileError;

/// Why an appliance did not start, or ended.
#[derive(Debug, displaydoc::Display, thiserror::Error)]
pub enum LaunchError {
    /// {0}
    Profile(#[from] ProfileError),
    /// {0}
    Access(#[from] AccessError),
    /// {0}
    Port(#[from] PortError),
    /// {0}
    Disk(#[from] DiskError),
    /// {0}
    Format(#[from] FormatError),
    /// {0}
    Open(#[from] OpenError),
    /// core {0}: the operating system does not let this thread run there; choose another shard.core
    Pin(usize),
    /// catching signals: {0}
    Signals(std::io::Error),
    /// starting the housekeeping thread: {0}
    Housekeeping(std::io::Error),
    /// starting a shard's thread: {0}
    Thread(std::io::Error),
    /// told to stop before it served
    Stopped,
    /// shard {0}: {1}
    OfShard(u32, Box<LaunchError>),
    /// {0}
    Failed(String),
}
