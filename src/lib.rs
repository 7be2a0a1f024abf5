//! Buslane: a durable, low-latency message appliance for order flow.
//!
//! Messages go from the NIC queue to the disk and back on one pinned core. When the acknowledgement
//! arrives, the message is on non-volatile media, in one agreed sequence, and will be delivered to
//! every consumer in that sequence.
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | message | opaque payload plus header; at most one datagram |
//! | stream | named, totally ordered sequence of messages; `sequence` is dense from 1 within a stream |
//! | publisher, consumer | the two client roles; a publisher has a `producer_id` and numbers its messages with `producer_seq` |
//! | session | the reliable conversation between one client and one shard, over datagrams |
//! | shard | one pinned core with its own port, disk queue, segments and streams; shares nothing |
//! | port | where datagrams enter and leave: a DPDK queue pair or a kernel UDP socket |
//! | disk | where blocks are written: a file or block device through io_uring, RAM |
//! | batch | the unit of write, acknowledgement and recovery |
//! | segment | fixed-size run of blocks, granted to one shard and one epoch |
//! | epoch | one reign of one writer over a shard's log |
//! | durable prefix | the contiguous run of batches complete on media; nothing past it is acknowledged or shown |
//! | receipt | what an acknowledgement carries: sequence, epoch, durability, time in server and in device |
//! | profile | a TOML file that says which cores, ports, disks and limits an appliance uses |
//!
//! # The way of a message
//!
//! ```text
//! publisher -> port.receive -> wire.parse -> session.receive -> log.append
//!                                                                  | log.submit (one write for all appended)
//!                                                                  v
//! publisher <- ack, receipt <-------- durable prefix <--------- disk.poll
//! consumer  <- DATA <- fanout <---------/
//! ```
//!
//! Modules stand from the ground up, those of the engine in the order a message travels; each uses only those above it.
//! Of them, `port` and `disk` do not know each other, nor do `session`, `log`, `fanout` and `history`: `shard`, which knows
//! them all, hands over. `profile` also takes the names of checks from `host`, which reads profiles. A test of `src/tidy.rs`
//! says where this is not so.

pub mod ids;
pub mod limits;
pub mod position;
pub mod clock;
pub mod random;
mod retry;
mod memory;
mod cpu;
mod printable;
mod whole;
pub mod metrics;
pub mod mutant;
pub mod fired;
pub mod access;
pub mod seal;

pub mod wire;
pub mod port;
pub mod disk;
mod session;
pub mod log;
mod fanout;
mod history;
pub mod shard;

pub mod profile;
pub mod host;
mod report;
pub mod client;

mod measure;
pub mod admin;
pub mod launch;
mod itch;

#[cfg(feature = "sim")]
pub mod sim;
pub mod cli;
pub mod command;

#[cfg(any(test, feature = "sim"))]
mod testing;
#[cfg(test)]
mod tidy;
