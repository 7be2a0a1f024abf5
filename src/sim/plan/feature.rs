//! What may be part of a run, and the dice that say whether it is, and how much of it.

use crate::random::Random;

/// One thing that may be part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "`Plan` says what each is")]
pub enum Feature {
    Loss,
    Duplication,
    Reordering,
    Corruption,
    PayloadFlip,
    Travel,
    Late,
    SlowDisk,
    WriteError,
    WriteErrorStored,
    Hang,
    ReadError,
    BadRead,
    LateWrite,
    Kill,
    PowerCut,
    Stop,
    Pause,
    ClientKill,
    Partition,
    ClockStep,
    ClockDrift,
    ClockJitter,
    ZombieAck,
    Rot,
    RotAnywhere,
    Trim,
    Retire,
    Visit,
    Limits,
    ServerDatagram,
    ClientDatagram,
    Size,
    Window,
    Patience,
    Pace,
    Stranger,
    Sealed,
}

/// Features that end many runs early: none of a class is on in half of the runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// The device fails.
    Device = 1,
    /// Media change what they hold.
    Media = 2,
}

impl Feature {
    /// All of them.
    pub const ALL: [Self; 38] = [
        Self::Loss,
        Self::Duplication,
        Self::Reordering,
        Self::Corruption,
        Self::PayloadFlip,
        Self::Travel,
        Self::Late,
        Self::SlowDisk,
        Self::WriteError,
        Self::WriteErrorStored,
        Self::Hang,
        Self::ReadError,
        Self::BadRead,
        Self::LateWrite,
        Self::Kill,
        Self::PowerCut,
        Self::Stop,
        Self::Pause,
        Self::ClientKill,
        Self::Partition,
        Self::ClockStep,
        Self::ClockDrift,
        Self::ClockJitter,
        Self::ZombieAck,
        Self::Rot,
        Self::RotAnywhere,
        Self::Trim,
        Self::Retire,
        Self::Visit,
        Self::Limits,
        Self::ServerDatagram,
        Self::ClientDatagram,
        Self::Size,
        Self::Window,
        Self::Patience,
        Self::Pace,
        Self::Stranger,
        Self::Sealed,
    ];

    /// Its name on the command line, and between what its rate lies, in the unit of its field in a plan.
    fn facts(self) -> (&'static str, u64, u64) {
        match self {
            Self::Loss => ("loss", 5, 300),
            Self::Duplication => ("duplication", 5, 500),
            Self::Reordering => ("reordering", 5, 400),
            Self::Corruption => ("corruption", 3, 200),
            Self::PayloadFlip => ("payload-flip", 1, 50),
            Self::Travel => ("travel", 1_000, 20_000_000),
            Self::Late => ("late", 1, 30),
            Self::SlowDisk => ("slow-disk", 1, 50),
            Self::WriteError => ("write-error", 1, 4),
            Self::WriteErrorStored => ("write-error-stored", 1, 4),
            Self::Hang => ("hang", 1, 16),
            Self::ReadError => ("read-error", 1, 60),
            Self::BadRead => ("bad-read", 1, 80),
            Self::LateWrite => ("late-write", 30, 1_000),
            Self::Kill => ("kill", 10, 600),
            Self::PowerCut => ("power-cut", 10, 600),
            Self::Stop => ("stop", 10, 200),
            Self::Pause => ("pause", 5, 100),
            Self::ClientKill => ("client-kill", 20, 600),
            Self::Partition => ("partition", 10, 400),
            Self::ClockStep => ("clock-step", 20, 500),
            Self::ClockDrift => ("clock-drift", 1, 100_000),
            Self::ClockJitter => ("clock-jitter", 1, 1_000_000_000),
            Self::ZombieAck => ("zombie-ack", 50, 800),
            Self::Rot => ("rot", 20, 600),
            Self::RotAnywhere => ("rot-anywhere", 20, 600),
            Self::Trim => ("trim", 50, 3_000),
            Self::Retire => ("retire", 50, 3_000),
            Self::Visit => ("visit", 50, 3_000),
            Self::Stranger => ("stranger", 50, 20_000),
            Self::Sealed => ("sealed", 32, 4_096),
            Self::Limits => ("limits", 1, 1),
            Self::ServerDatagram => ("server-datagram", 576, 8_972),
            Self::ClientDatagram => ("client-datagram", 1, 1),
            Self::Size => ("size", 1, 1),
            Self::Window => ("window", 1, 1),
            Self::Patience => ("patience", 1, 1),
            Self::Pace => ("pace", 1_000, 50_000_000),
        }
    }

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.facts().0
    }

    /// The feature of this name.
    ///
    /// # Errors
    /// What features there are.
    pub fn named(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|feature| feature.name() == name).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.into_iter().map(Self::name).collect();
            format!("no feature `{name}`; there are: {}", names.join(", "))
        })
    }

    fn class(self) -> Option<Class> {
        let device = [Self::WriteError, Self::WriteErrorStored, Self::Hang, Self::ReadError];
        let media = [Self::Rot, Self::RotAnywhere, Self::BadRead];
        let classes = [(Class::Device, device.as_slice()), (Class::Media, &media)];
        classes.into_iter().find(|(_, all)| all.contains(&self)).map(|(class, _)| class)
    }

    /// Whether others decide with it whether it is on.
    #[cfg(test)]
    pub(super) fn is_of_a_class(self) -> bool {
        self.class().is_some()
    }
}

/// Says of each feature whether it is on, and how much of it there is, whatever the others are.
#[derive(Clone, Copy, Debug)]
pub(in crate::sim) struct Dice {
    seed: u64,
    /// Features left out, a bit each.
    left_out: u64,
}

const _: () = assert!(Feature::ALL.len() <= u64::BITS as usize, "each feature has a bit");

impl Dice {
    /// The dice of a seed; these features are off.
    #[must_use]
    pub(super) fn new(seed: u64, left_out: &[Feature]) -> Self {
        let bits = left_out.iter().fold(0, |bits, feature| bits | 1 << *feature as u8);
        Self { seed, left_out: bits }
    }

    fn numbers(self, of: u64) -> Random {
        let mut random = Random::new(self.seed ^ (of << 48));
        Random::new(random.next_u64())
    }

    /// Where a feature is on, numbers of its own.
    pub(super) fn random(self, feature: Feature) -> Option<Random> {
        if self.left_out & (1 << feature as u8) != 0 {
            return None;
        }
        let class_is_on = feature
            .class()
            .is_none_or(|class| self.numbers(0x100 + class as u64).one_of_thousand(500));
        let mut random = self.numbers(1 + feature as u64);
        // What is sealed costs time and hides what is said: one run in eight shows what that changes.
        let of_thousand = if feature == Feature::Sealed { 125 } else { 500 };
        (random.one_of_thousand(of_thousand) && class_is_on).then_some(random)
    }

    /// Whether a feature is on.
    #[must_use]
    pub(in crate::sim) fn is_on(self, feature: Feature) -> bool {
        self.random(feature).is_some()
    }

    /// How much of a feature there is; 0 where it is off.
    pub(super) fn rate(self, feature: Feature) -> u64 {
        let (_, least, most) = feature.facts();
        self.random(feature).map_or(0, |mut random| log_uniform(&mut random, least, most))
    }

    /// The features that are on.
    pub(super) fn features(self) -> impl Iterator<Item = Feature> {
        Feature::ALL.into_iter().filter(move |feature| self.is_on(*feature))
    }
}

/// A number between two, each as likely to be small as to be large: any doubling is as likely as another.
pub(in crate::sim) fn log_uniform(random: &mut Random, least: u64, most: u64) -> u64 {
    assert!(0 < least && least <= most, "{least} to {most}");
    let doublings = u64::from((most / least).ilog2());
    // The last doubling may be cut off: what is beyond is the most there is.
    let from = least << random.below(doublings + 1);
    (from + random.below(from)).min(most)
}
