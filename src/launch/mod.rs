//! Launch: from a profile to shards that serve, and the only place where threads are placed.
//!
//! In this order, each missing thing one clear line: the profile against the host, and the host against what the
//! profile requires; the ports; housekeeping; what the log is on; and then, on a thread for each shard, the log of
//! that shard, and serving. One shard takes the same way as many: it is the first of one.
//!
//! | file | what it does |
//! |---|---|
//! | `serve` | checks, opens what shards have in common, and starts their threads |
//! | `shard_thread` | a shard's thread: pinned, its log open, served until it is told to stop |
//! | `open_log` | a shard's log opened, and opened again when its disk was lost and is back |
//! | `listener` | hears what the threads say, and lets them begin |
//! | `log_disk` | what the log is on, held while the appliance serves; `logfile` and `files`: the life of a log's file |
//! | `keys` | the appliance's keys, and a thread that answers handshakes with them |
//! | `door` | answers for an appliance that is not ready yet |
//! | `open`, `cores` | ports, disks and cores, also for clients and tools |
//! | `stop`, `notify`, `present`, `housekeeping` | being told to stop, telling systemd, looking after the file, watching the shards |

mod cores;
mod door;
#[cfg(feature = "dpdk")]
#[path = "dpdk.rs"]
mod dpdk_port;
#[cfg(not(feature = "dpdk"))]
#[path = "no_dpdk.rs"]
mod dpdk_port;
mod error;
mod files;
mod housekeeping;
mod keys;
mod listener;
mod log_disk;
mod logfile;
pub(crate) mod notify;
mod open;
mod open_log;
mod present;
mod progress;
mod serve;
mod shard_thread;
#[cfg(not(feature = "spdk"))]
#[path = "no_spdk.rs"]
mod spdk_disk;
#[cfg(feature = "spdk")]
#[path = "spdk.rs"]
mod spdk_disk;
mod stop;

pub use cores::{pin, pin_to};
pub use error::LaunchError;
pub use log_disk::{make_log_file, note_log_file, remove_log_file};
pub use open::{
    of_share, open_log_disk, open_port, open_port_pair, open_served_disk, open_tool_disk,
    open_uring,
};
pub use progress::Progress;
pub use serve::serve;
pub use stop::catch_signals;

/// Memory to format a disk in.
const FORMAT_MEMORY_BYTES: usize = 2 << 20;

/// How long a stop waits for what is in flight.
const DRAIN_NS: u64 = 5_000_000_000;
