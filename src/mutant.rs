//! Mistakes that can be switched on, to see that the simulator catches each (see `docs/testing.md`).
//!
//! Without feature `mutants` every question is answered `false` at compile time and nothing is left of
//! them in the program.

/// One mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mutant {
    /// Messages are acknowledged when they arrive, before they are durable.
    AckBeforeDurable = 1,
    /// A write that completes out of order moves the durable prefix past one that has not.
    PrefixPastHole,
    /// Checkpoints leave out how far each producer has come.
    ProducersNotCheckpointed,
    /// A client believes what is said to a session that it had before.
    OldSessionHeard,
    /// Recovery takes a batch with a valid header for whole.
    HeaderTrusted,
    /// Neither hash nor header of a batch are bound to their place on the disk.
    PlaceNotChecked,
    /// A failed write is tried again instead of latching.
    RetryAfterError,
    /// A message that was accepted before is appended again when it is sent again.
    DuplicatesAppended,
    /// The newest durable mark is not looked at: damage to acknowledged data is cut like a torn tail.
    MarkIgnored,
    /// A segment's closing index is written before all of the segment is durable.
    ClosedBeforeDurable,
    /// A trim takes effect, and frees segments, before its record is durable.
    TrimBeforeDurable,
    /// Where all places of producers are taken, one whose session is open is forgotten.
    EvictOpenProducer,
    /// A session publishes from a place that does not say whose it is.
    PlaceWithoutOwner,
    /// Messages are taken that fit no datagram once they are delivered.
    MessageSizeUnchecked,
    /// A message that is too large for a consumer is taken for damage.
    SmallDatagramIsDamage,
    /// A log that is busy says that it is full.
    BusySaysFull,
    /// A log that was full when it was opened takes nothing more, however much is trimmed.
    FullStaysAfterRestart,
    /// A session that says nothing any more keeps its place.
    SilentSessionKept,
    /// The smallest credit is less than the largest message.
    CreditBelowMessage,
    /// A receipt says more of the device than it grants.
    DurabilityOverstated,
    /// The time a receipt states is longer than it was.
    StampsDrift,
    /// A subscription from the end begins behind what is not durable yet.
    EndSkipsAcknowledged,
    /// A subscription from a time leaves the first message of that time out.
    TimeSeekOneLate,
    /// Who held a producer before another instance took it over is let in again.
    FencedComesBack,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 24] = [
        Self::AckBeforeDurable,
        Self::PrefixPastHole,
        Self::ProducersNotCheckpointed,
        Self::OldSessionHeard,
        Self::HeaderTrusted,
        Self::PlaceNotChecked,
        Self::RetryAfterError,
        Self::DuplicatesAppended,
        Self::MarkIgnored,
        Self::ClosedBeforeDurable,
        Self::TrimBeforeDurable,
        Self::EvictOpenProducer,
        Self::PlaceWithoutOwner,
        Self::MessageSizeUnchecked,
        Self::SmallDatagramIsDamage,
        Self::BusySaysFull,
        Self::FullStaysAfterRestart,
        Self::SilentSessionKept,
        Self::CreditBelowMessage,
        Self::DurabilityOverstated,
        Self::StampsDrift,
        Self::EndSkipsAcknowledged,
        Self::TimeSeekOneLate,
        Self::FencedComesBack,
    ];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AckBeforeDurable => "ack-before-durable",
            Self::PrefixPastHole => "prefix-past-hole",
            Self::ProducersNotCheckpointed => "producers-not-checkpointed",
            Self::OldSessionHeard => "old-session-heard",
            Self::HeaderTrusted => "header-trusted",
            Self::PlaceNotChecked => "place-not-checked",
            Self::RetryAfterError => "retry-after-error",
            Self::DuplicatesAppended => "duplicates-appended",
            Self::MarkIgnored => "mark-ignored",
            Self::ClosedBeforeDurable => "closed-before-durable",
            Self::TrimBeforeDurable => "trim-before-durable",
            Self::EvictOpenProducer => "evict-open-producer",
            Self::PlaceWithoutOwner => "place-without-owner",
            Self::MessageSizeUnchecked => "message-size-unchecked",
            Self::SmallDatagramIsDamage => "small-datagram-is-damage",
            Self::BusySaysFull => "busy-says-full",
            Self::FullStaysAfterRestart => "full-stays-after-restart",
            Self::SilentSessionKept => "silent-session-kept",
            Self::CreditBelowMessage => "credit-below-message",
            Self::DurabilityOverstated => "durability-overstated",
            Self::StampsDrift => "stamps-drift",
            Self::EndSkipsAcknowledged => "end-skips-acknowledged",
            Self::TimeSeekOneLate => "time-seek-one-late",
            Self::FencedComesBack => "fenced-comes-back",
        }
    }

    /// The promise that it breaks, by the name of its oracle: that one has to catch it (see `docs/testing.md`).
    #[must_use]
    pub fn oracle(self) -> &'static str {
        match self {
            Self::AckBeforeDurable
            | Self::PrefixPastHole
            | Self::ProducersNotCheckpointed
            | Self::OldSessionHeard
            | Self::RetryAfterError
            | Self::MarkIgnored
            | Self::DuplicatesAppended
            | Self::TrimBeforeDurable
            | Self::FencedComesBack
            | Self::SmallDatagramIsDamage => "O1",
            Self::HeaderTrusted => "O2",
            Self::PlaceNotChecked | Self::SilentSessionKept | Self::CreditBelowMessage => "O7",
            Self::ClosedBeforeDurable => "O9",
            Self::EvictOpenProducer | Self::PlaceWithoutOwner => "O13",
            Self::MessageSizeUnchecked => "O21",
            Self::BusySaysFull => "O15",
            Self::FullStaysAfterRestart => "O16",
            Self::DurabilityOverstated => "O18",
            Self::StampsDrift => "O19",
            Self::EndSkipsAcknowledged | Self::TimeSeekOneLate => "O26",
        }
    }

    /// Whether it is switched on.
    #[inline]
    #[must_use]
    pub fn is_on(self) -> bool {
        #[cfg(feature = "mutants")]
        return switch::is_on(self);
        #[cfg(not(feature = "mutants"))]
        false
    }
}

#[cfg(feature = "mutants")]
pub use switch::switch_on;

#[cfg(feature = "mutants")]
mod switch {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::Mutant;

    static ON: AtomicU8 = AtomicU8::new(0);

    /// Switches one mistake on for the whole process, or all off.
    pub fn switch_on(mutant: Option<Mutant>) {
        ON.store(mutant.map_or(0, |mutant| mutant as u8), Ordering::Relaxed);
    }

    pub(super) fn is_on(mutant: Mutant) -> bool {
        ON.load(Ordering::Relaxed) == mutant as u8
    }
}
