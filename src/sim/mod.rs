//! The deterministic simulator: the shard, log, sessions and clients that ship, in one thread, under one
//! seed, with a clock that is turned by hand, a network that loses and a disk that fails.
//!
//! ```text
//! seed -> Plan (how bad, how long) -> World { server, publishers, consumers, network, disk }
//!                                        | events: traffic, faults, crashes, power cuts
//!                                        v
//!                                     Oracle: what must be true, always and at the end
//! ```
//!
//! The same seed makes the same run, bit for bit; `Outcome::digest` shows it.

mod allowed;
mod disk;
pub mod fuzz;
mod histories;
mod oracle;
mod plan;
mod server;
mod trace;
mod world;

pub(crate) use disk::DiskHits;
pub(crate) use oracle::Violation;
pub(crate) use plan::{Feature, Plan};
pub(crate) use server::{EDGES, ServerHits};
pub(crate) use trace::Event;

use crate::fired::Fired;
use crate::metrics::Counters;
use crate::port::memory::NetHits;

/// How a run ended that broke no promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Everything was acknowledged, consumed and read back.
    Whole,
    /// The log was full: what was acknowledged was read back, and when all was trimmed it took messages again.
    Full,
    /// Acknowledged data was damaged on the media; the server said so and stopped.
    Halted,
}

/// What came of a seed.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// How it ended, or what it broke.
    pub end: Result<End, Violation>,
    /// Of everything that happened.
    pub digest: u64,
    /// The newest events.
    pub events: Vec<Event>,
    /// Messages acknowledged.
    pub acknowledged: u64,
    /// Messages consumed.
    pub consumed: u64,
    /// Virtual time in nanoseconds.
    pub virtual_ns: u64,
    /// What the network did.
    pub net: NetHits,
    /// What the disk did.
    pub disk: DiskHits,
    /// What happened to the server and the clients.
    pub server: ServerHits,
    /// What the servers counted, all together.
    pub counters: Counters,
    /// How often each timer has fired.
    pub fired: Fired,
}

/// Runs one plan.
#[must_use]
pub(crate) fn run_plan(plan: &Plan) -> Outcome {
    let mut world = world::World::new(plan);
    let end = world.run();
    world.outcome(end)
}
