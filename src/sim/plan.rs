//! What a seed means: how much goes wrong, of which kind, for how long.

use super::disk::DiskFaults;
use crate::limits::Limits;
use crate::port::memory::Faults;
use crate::random::Random;

/// A run's settings, all drawn from its seed. Each kind of fault is off in some runs, so that one does
/// not hide another.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// Turns before the faults end.
    pub turns: u64,
    /// Size of the disk in segments of 1 MiB.
    pub segments: u64,
    /// Publishers, consumers, streams.
    pub publishers: usize,
    /// Consumers.
    pub consumers: usize,
    /// Streams.
    pub streams: usize,
    /// Messages offered in one go, at most.
    pub burst: u64,
    /// Payload bytes, at most.
    pub payload: u64,
    /// Chance in thousandths that a publisher offers in a turn.
    pub offer: u64,
    /// The network.
    pub net: Faults,
    /// The disk.
    pub disk: DiskFaults,
    /// Chances in a hundred thousand turns.
    pub kill: u64,
    /// The power goes.
    pub power_cut: u64,
    /// The server is stopped in an orderly way and started again.
    pub stop: u64,
    /// The server is held for up to three seconds.
    pub pause: u64,
    /// A client is killed and started again.
    pub client_kill: u64,
    /// A client is cut off for a while.
    pub partition: u64,
    /// The wall clock jumps.
    pub clock_jump: u64,
    /// An acknowledgement of an earlier epoch, as a fenced writer would send it, arrives.
    pub zombie_ack: u64,
    /// Acknowledged data rots on the media.
    pub rot: u64,
    /// A bit flips anywhere on the media while the server is down.
    pub rot_anywhere: u64,
    /// Writes of the disk in flight, at most.
    pub queue_depth: usize,
    /// Chance in a hundred thousand turns that an operator trims a stream.
    pub trim: u64,
    /// Chance in a hundred thousand turns that a publisher ends for good, and another one begins.
    pub retire: u64,
    /// What the server has room for: by turns at one opening and the next.
    pub limits: [Limits; 2],
}

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5eed);
        let r = &mut random;
        let mut some = |thousandths: u64, below: u64| {
            let on = r.one_of_thousand(thousandths);
            let value = 1 + r.below(below);
            if on { value } else { 0 }
        };
        let net = Faults {
            loss: some(600, 300),
            duplication: some(500, 500),
            reordering: some(500, 400),
            corruption: some(300, 200),
            payload_flip: some(200, 50),
            delay_ns: 1_000 + some(1000, 60_000),
        };
        let disk = DiskFaults {
            slow: some(300, 50),
            error: some(100, 4),
            error_but_stored: some(100, 4),
            hang: some(80, 2),
            read_error: some(100, 60),
            bad_read: some(80, 80),
            late: 0,
        };
        let rot_anywhere = some(100, 300);
        let plan = Self {
            seed,
            turns: 600 + some(1000, 3_000),
            segments: 6 + some(1000, 16),
            publishers: at_least_one(some(1000, 3)),
            consumers: at_least_one(some(1000, 3)),
            streams: at_least_one(some(1000, 3)),
            burst: some(1000, 24),
            payload: if some(200, 1) > 0 { 1_300 } else { 40 + some(1000, 300) },
            offer: 20 + some(1000, 400),
            net,
            disk,
            kill: some(500, 200),
            power_cut: some(500, 200),
            // What rots a stopped log needs a stop.
            stop: some(if rot_anywhere > 0 { 1000 } else { 200 }, 80),
            pause: some(150, 60),
            client_kill: some(400, 250),
            partition: some(250, 120),
            clock_jump: some(200, 150),
            zombie_ack: some(300, 400),
            rot: some(100, 300),
            rot_anywhere,
            queue_depth: at_least_one(some(1000, 8)),
            trim: some(400, 1_500),
            retire: 0,
            limits: [Limits::MAX; 2],
        };
        // A kill finds something in flight in most cases only if writes are slow: so it is likely in half of the runs.
        let disk = DiskFaults { late: some(500, 1_000), ..plan.disk };
        let retire = some(300, 1_500);
        let limits = if r.one_of_thousand(500) {
            [small_limits(r, &plan), small_limits(r, &plan)]
        } else {
            [Limits::MAX; 2]
        };
        Self { disk, retire, limits, ..plan }
    }

    /// A plan in which nothing goes wrong.
    #[must_use]
    pub fn quiet() -> Self {
        let nothing = Self::of(0);
        Self {
            net: Faults { delay_ns: 1_000, ..Faults::default() },
            disk: DiskFaults::default(),
            kill: 0,
            power_cut: 0,
            stop: 0,
            pause: 0,
            client_kill: 0,
            partition: 0,
            clock_jump: 0,
            zombie_ack: 0,
            rot: 0,
            rot_anywhere: 0,
            trim: 0,
            retire: 0,
            limits: [Limits::MAX; 2],
            ..nothing
        }
    }

    /// Whether a consumer may be told that a message cannot be read.
    #[must_use]
    pub fn may_lose(&self) -> bool {
        self.disk_lies() || self.disk.read_error > 0
    }

    /// Whether the disk may give back other bytes than it was given: then the server may halt.
    #[must_use]
    pub fn disk_lies(&self) -> bool {
        self.rot > 0 || self.rot_anywhere > 0 || self.disk.bad_read > 0
    }
}

/// Limits that fill, each in half of the cases; with places for all clients that live at once, so that everybody comes
/// on when the others rest.
fn small_limits(random: &mut Random, plan: &Plan) -> Limits {
    let mut some = |most: usize, least: u64, below: u64| {
        let small = least + random.below(below - least + 1);
        let small = usize::try_from(small).expect("small");
        if random.one_of_thousand(500) { small } else { most }
    };
    let clients = (plan.publishers + plan.consumers + 2) as u64;
    let max = Limits::MAX;
    Limits {
        producers: some(max.producers, (plan.publishers as u64).max(2), 6),
        sessions: some(max.sessions, clients, 12),
        streams: some(max.streams, plan.streams as u64, 8),
        held_frames: u16::try_from(some(max.held_frames.into(), 2, 8)).expect("few"),
        replies: u8::try_from(some(max.replies.into(), 4, 4)).expect("few"),
        replay_buffers: some(max.replay_buffers, 1, 1),
        in_flight_bytes: some(max.in_flight_bytes, 768 << 10, 1 << 20),
    }
}

fn at_least_one(value: u64) -> usize {
    usize::try_from(value.max(1)).expect("a small number")
}
