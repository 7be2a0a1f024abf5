//! What a seed means: how much goes wrong, of which kind, for how long.

mod feature;

use super::disk::DiskFaults;
use crate::limits::{
    BATCH_BYTES_MAX, DATAGRAM_BYTES, DATAGRAM_BYTES_MAX, DATAGRAM_BYTES_MIN, IN_FLIGHT_BYTES_MIN,
    Limits,
};
use crate::port::memory::Faults;
use crate::random::Random;
use feature::Dice;
pub(crate) use feature::Feature;
pub(super) use feature::log_uniform;

/// A turn takes at most so long where a run has no pace of its own.
const PACE_NS: u64 = 30_000;

/// Who comes, and how much they offer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Publishers.
    pub publishers: usize,
    /// Consumers.
    pub consumers: usize,
    /// Streams.
    pub streams: usize,
    /// Messages offered in one go, at most.
    pub burst: u64,
    /// Payload bytes, at most, where a run has no sizes of its own.
    pub payload: u64,
    /// Chance in thousandths that a publisher offers in a turn.
    pub offer: u64,
}

/// Chances in a hundred thousand turns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chances {
    /// The process is killed.
    pub kill: u64,
    /// The power goes.
    pub power_cut: u64,
    /// The server is stopped in an orderly way and started again.
    pub stop: u64,
    /// The server is held for a while.
    pub pause: u64,
    /// A client is killed and started again.
    pub client_kill: u64,
    /// A client is cut off for a while.
    pub partition: u64,
    /// The wall clock is set, up to 30 days forward or back.
    pub clock_step: u64,
    /// An acknowledgement of an earlier epoch, as a fenced writer would send it, arrives.
    pub zombie_ack: u64,
    /// Acknowledged data rots on the media.
    pub rot: u64,
    /// A bit flips anywhere on the media while the server is down.
    pub rot_anywhere: u64,
    /// An operator trims a stream.
    pub trim: u64,
    /// A publisher ends for good, and another one begins.
    pub retire: u64,
    /// Somebody registers who is gone before publishing anything.
    pub visit: u64,
    /// A stranger sends something.
    pub stranger: u64,
}

/// A run's settings, all drawn from its seed. Each feature is off in half of the runs, so that one does not hide
/// another; where it is on, its rate is as often small as large.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// The seed.
    pub seed: u64,
    /// Features that are on.
    pub(super) dice: Dice,
    /// Turns before the faults end.
    pub turns: u64,
    /// A turn takes at most so long.
    pub pace_ns: u64,
    /// Size of the disk in segments of 1 MiB.
    pub segments: u64,
    /// Who comes, and how much they offer.
    pub load: Load,
    /// The network.
    pub net: Faults,
    /// The disk.
    pub disk: DiskFaults,
    /// What happens besides, and how often.
    pub chance: Chances,
    /// So many millionths of its time the wall clock goes too fast.
    pub clock_drift: u64,
    /// The wall clock is off by up to so much at each look.
    pub clock_jitter_ns: u64,
    /// Writes of the disk in flight, at most.
    pub queue_depth: usize,
    /// What the server has room for: by turns at one opening and the next.
    pub limits: [Limits; 2],
    /// UDP payload of a datagram of the server.
    pub datagram_bytes: usize,
    /// Sessions are sealed, and a direction goes on to other keys after so many datagrams; 0 where they are not.
    pub sealed: u64,
}

impl Plan {
    /// The plan of a seed.
    #[cfg(test)]
    #[must_use]
    pub(crate) fn of(seed: u64) -> Self {
        Self::without(seed, &[])
    }

    /// The plan of a seed, these features left out; the others are as they were.
    #[must_use]
    pub(crate) fn without(seed: u64, left_out: &[Feature]) -> Self {
        let dice = Dice::new(seed, left_out);
        let rate = |feature| dice.rate(feature);
        let mut random = Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5eed);
        let mut some = |least: u64, below: u64| least + random.below(below);
        let plan = Self {
            seed,
            dice,
            turns: some(600, 3_000),
            pace_ns: rate(Feature::Pace).max(PACE_NS * u64::from(!dice.is_on(Feature::Pace))),
            segments: some(7, 16),
            load: Load {
                publishers: few(some(1, 3)),
                consumers: few(some(1, 3)),
                streams: few(some(1, 3)),
                burst: some(1, 24),
                payload: some(40, 300),
                offer: some(20, 400),
            },
            net: net_of(&dice),
            disk: disk_of(&dice),
            chance: chances_of(&dice),
            clock_drift: rate(Feature::ClockDrift),
            clock_jitter_ns: rate(Feature::ClockJitter),
            queue_depth: few(some(1, 8)),
            limits: [Limits::MAX; 2],
            datagram_bytes: DATAGRAM_BYTES,
            sealed: rate(Feature::Sealed),
        };
        let datagram_bytes = match rate(Feature::ServerDatagram) {
            0 => DATAGRAM_BYTES,
            bytes => few(bytes),
        };
        let limits = match dice.random(Feature::Limits) {
            Some(mut random) => {
                [small_limits(&mut random, &plan), small_limits(&mut random, &plan)]
            }
            None => [Limits::MAX; 2],
        };
        Self { limits, datagram_bytes, ..plan }
    }

    /// A plan in which nothing goes wrong.
    #[must_use]
    pub(crate) fn quiet() -> Self {
        Self::without(0, &Feature::ALL)
    }

    /// The features that are on.
    pub(crate) fn features(&self) -> impl Iterator<Item = Feature> {
        self.dice.features()
    }

    /// Whether a consumer may be told that a message cannot be read.
    #[must_use]
    pub(crate) fn may_lose(&self) -> bool {
        self.disk_lies() || self.disk.read_error > 0
    }

    /// Whether the disk may give back other bytes than it was given: then the server may halt.
    #[must_use]
    pub(crate) fn disk_lies(&self) -> bool {
        self.chance.rot > 0 || self.chance.rot_anywhere > 0 || self.disk.bad_read > 0
    }

    /// How long a datagram may be on its way.
    #[must_use]
    pub(crate) fn travel_ns_max(&self) -> u64 {
        let times = if self.net.reordering > 0 { 10 } else { 1 };
        self.net.delay_ns * times + self.net.late_ns
    }
}

fn chances_of(dice: &Dice) -> Chances {
    let rot_anywhere = dice.rate(Feature::RotAnywhere);
    let stop = dice.rate(Feature::Stop);
    Chances {
        kill: dice.rate(Feature::Kill),
        power_cut: dice.rate(Feature::PowerCut),
        // What rots a stopped log needs a stop.
        stop: if rot_anywhere > 0 { stop.max(40) } else { stop },
        pause: dice.rate(Feature::Pause),
        client_kill: dice.rate(Feature::ClientKill),
        partition: dice.rate(Feature::Partition),
        clock_step: dice.rate(Feature::ClockStep),
        zombie_ack: dice.rate(Feature::ZombieAck),
        rot: dice.rate(Feature::Rot),
        rot_anywhere,
        trim: dice.rate(Feature::Trim),
        retire: dice.rate(Feature::Retire),
        visit: dice.rate(Feature::Visit),
        stranger: dice.rate(Feature::Stranger),
    }
}

fn net_of(dice: &Dice) -> Faults {
    let late = dice.rate(Feature::Late);
    let late_ns = dice.random(Feature::Late).map_or(0, |mut random| {
        // As often a millisecond as a minute.
        random.next_u64();
        log_uniform(&mut random, 1_000_000, 60_000_000_000)
    });
    Faults {
        loss: dice.rate(Feature::Loss),
        duplication: dice.rate(Feature::Duplication),
        reordering: dice.rate(Feature::Reordering),
        corruption: dice.rate(Feature::Corruption),
        payload_flip: dice.rate(Feature::PayloadFlip),
        delay_ns: dice.rate(Feature::Travel).max(1_000),
        late,
        late_ns,
    }
}

fn disk_of(dice: &Dice) -> DiskFaults {
    DiskFaults {
        slow: dice.rate(Feature::SlowDisk),
        error: dice.rate(Feature::WriteError),
        error_but_stored: dice.rate(Feature::WriteErrorStored),
        hang: dice.rate(Feature::Hang),
        read_error: dice.rate(Feature::ReadError),
        bad_read: dice.rate(Feature::BadRead),
        late: dice.rate(Feature::LateWrite),
    }
}

/// Limits that fill, each in half of the cases; with places for all clients that live at once, so that everybody comes
/// on when the others rest.
fn small_limits(random: &mut Random, plan: &Plan) -> Limits {
    let mut some = |most: usize, least: u64, below: u64| {
        let small = least + random.below(below - least + 1);
        if random.one_of_thousand(500) { few(small) } else { most }
    };
    let clients = (plan.load.publishers + plan.load.consumers + 2) as u64;
    let max = Limits::MAX;
    Limits {
        producers: some(max.producers, (plan.load.publishers as u64).max(2), 6),
        sessions: some(max.sessions, clients, 12),
        streams: some(max.streams, plan.load.streams as u64, 8),
        held_frames: u16::try_from(some(max.held_frames.into(), 2, 8)).expect("few"),
        replies: u8::try_from(some(max.replies.into(), 4, 4)).expect("few"),
        replay_buffers: some(max.replay_buffers, 1, 1),
        in_flight_bytes: some(max.in_flight_bytes, IN_FLIGHT_BYTES_MIN as u64, 1 << 20),
        // An operator looks at more streams than a consumer has.
        subscriptions: some(max.subscriptions, plan.load.streams as u64, plan.load.streams as u64),
    }
}

fn few(value: u64) -> usize {
    usize::try_from(value).expect("a small number")
}

/// What one client is like; it stays so when it is started again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gear {
    /// UDP payload of its datagrams.
    pub(super) datagram_bytes: usize,
    /// Messages of its window, also of a subscription's.
    pub(super) window_messages: usize,
    /// Bytes of it.
    pub(super) window_bytes: usize,
    /// After so long a silence it gives up.
    pub(super) patience_ns: u64,
}

impl Gear {
    /// That of a client that is like its server, and waits for ever.
    #[must_use]
    pub(super) fn plain(plan: &Plan) -> Self {
        Self {
            datagram_bytes: plan.datagram_bytes,
            window_messages: 256,
            window_bytes: 2 * BATCH_BYTES_MAX,
            patience_ns: u64::MAX,
        }
    }

    /// That of any client.
    #[must_use]
    pub(super) fn of(plan: &Plan, random: &mut Random) -> Self {
        let mut gear = Self::plain(plan);
        let least = plan.dice.is_on(Feature::ClientDatagram) && random.one_of_thousand(700);
        if least {
            let (least, most) = (DATAGRAM_BYTES_MIN as u64, DATAGRAM_BYTES_MAX as u64);
            gear.datagram_bytes = few(log_uniform(random, least, most));
        }
        if plan.dice.is_on(Feature::Window) {
            gear.window_messages = few(log_uniform(random, 1, 1_024));
            gear.window_bytes = few(log_uniform(random, 64, 256 << 10));
        }
        if plan.dice.is_on(Feature::Patience) && random.one_of_thousand(700) {
            gear.patience_ns = log_uniform(random, 3_000_000_000, 30_000_000_000);
        }
        gear
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_changes_nothing_of_the_rest() {
        for seed in 0..200 {
            let whole = Plan::of(seed);
            for feature in whole.dice.features() {
                let less = Plan::without(seed, &[feature]);
                assert!(!less.dice.is_on(feature), "seed {seed}: {feature:?}");
                let left: Vec<_> = whole.dice.features().filter(|on| *on != feature).collect();
                assert_eq!(less.dice.features().collect::<Vec<_>>(), left, "seed {seed}");
                assert_eq!((less.turns, less.segments), (whole.turns, whole.segments));
                if feature != Feature::Kill {
                    assert_eq!(
                        less.chance.kill, whole.chance.kill,
                        "seed {seed}: without {feature:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn each_feature_is_off_in_half_of_the_runs_and_small_as_often_as_large() {
        let plans: Vec<Plan> = (0..2_000).map(Plan::of).collect();
        for feature in Feature::ALL {
            let on = plans.iter().filter(|plan| plan.dice.is_on(feature)).count();
            let is_of_most = feature != Feature::Sealed;
            let expected = if feature.is_of_a_class() { 400..600 } else { 900..1_100 };
            let expected = if is_of_most { expected } else { 200..300 };
            assert!(expected.contains(&on), "{feature:?} is on in {on} of 2,000");
        }
        let small = plans.iter().filter(|plan| (1..70).contains(&plan.chance.kill)).count();
        let large = plans.iter().filter(|plan| plan.chance.kill > 90).count();
        assert!(small.abs_diff(large) < 200, "{small} with few kills, {large} with many");
    }

    #[test]
    fn nothing_goes_wrong_in_a_quiet_plan() {
        let plan = Plan::quiet();
        assert_eq!(plan.dice.features().count(), 0);
        assert_eq!(
            (plan.chance.kill, plan.net.loss, plan.disk.error, plan.chance.trim),
            (0, 0, 0, 0)
        );
        assert_eq!((plan.limits, plan.pace_ns), ([Limits::MAX; 2], PACE_NS));
    }
}
