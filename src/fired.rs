//! Timers that have fired, counted for the simulator: in some run each of them has to (see `docs/testing.md`).
//!
//! Without feature `sim` nothing is counted, and nothing is left of it in the program.

#[cfg(feature = "sim")]
pub use count::{start, take};

/// Something that a shard or a client does because time has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Timer {
    /// A client: INIT is repeated.
    InitAgain,
    /// A client: REGISTER is repeated.
    RegisterAgain,
    /// A client: a request is repeated.
    RequestAgain,
    /// A client: a producer's end is told again.
    RetireAgain,
    /// A client: SUBSCRIBE is repeated.
    SubscribeAgain,
    /// A client: a consumer tells its credit again.
    StatusAgain,
    /// A client: it has had nothing to say for long, and says so.
    ClientHeartbeat,
    /// A client: its server is silent, and it registers again.
    ServerSilent,
    /// A publisher: nothing moves, and it asks where it is.
    ProbeTail,
    /// A publisher: receipts are missing, and it asks for them.
    ProbeReceipts,
    /// A publisher: what is asked for was sent a moment ago, and is not sent again.
    ResendHeldBack,
    /// A client gives up: its server is not there.
    GivesUpServer,
    /// A client gives up: its server is there, and does not answer REGISTER.
    GivesUpRegister,
    /// A client gives up: a request is not answered.
    GivesUpRequest,
    /// A client gives up: SUBSCRIBE is not answered.
    GivesUpSubscribe,
    /// A client gives up: nothing becomes durable.
    GivesUpPublish,
    /// A client gives up: it is refused for too long.
    GivesUpRefused,
    /// A shard: a session said nothing for long, and ends.
    SessionSilent,
    /// A shard: a session's client has not used it, and it ends.
    SessionUnconfirmed,
    /// A shard: a session's client has not registered, and it ends.
    SessionUnregistered,
    /// A shard: a gap stands for long, and is reported.
    NakLate,
    /// A shard: a gap is reported again.
    NakAgain,
    /// A shard: it tells a consumer where the end is.
    ConsumerHeartbeat,
    /// A shard: it does so at the longest of its intervals.
    ConsumerHeartbeatRare,
    /// A log that rests writes down that what is durable is durable.
    IdleMark,
    /// A log looks again whom it may forget, where it found nobody a while ago.
    ForgetAgain,
    /// A log does not look yet.
    ForgetHeldBack,
    /// A log forgets a producer that was idle for a week.
    ForgetIdle,
}

impl Timer {
    /// All of them.
    pub const ALL: [Self; 28] = [
        Self::InitAgain,
        Self::RegisterAgain,
        Self::RequestAgain,
        Self::RetireAgain,
        Self::SubscribeAgain,
        Self::StatusAgain,
        Self::ClientHeartbeat,
        Self::ServerSilent,
        Self::ProbeTail,
        Self::ProbeReceipts,
        Self::ResendHeldBack,
        Self::GivesUpServer,
        Self::GivesUpRegister,
        Self::GivesUpRequest,
        Self::GivesUpSubscribe,
        Self::GivesUpPublish,
        Self::GivesUpRefused,
        Self::SessionSilent,
        Self::SessionUnconfirmed,
        Self::SessionUnregistered,
        Self::NakLate,
        Self::NakAgain,
        Self::ConsumerHeartbeat,
        Self::ConsumerHeartbeatRare,
        Self::IdleMark,
        Self::ForgetAgain,
        Self::ForgetHeldBack,
        Self::ForgetIdle,
    ];

    /// Counts that it has fired.
    #[inline]
    pub fn fired(self) {
        count::add(self);
    }
}

/// How often each has fired, as [`Timer::ALL`] lists them.
pub type Fired = [u64; Timer::ALL.len()];

#[cfg(feature = "sim")]
mod count {
    use std::cell::Cell;

    use super::{Fired, Timer};

    thread_local! {
        /// A run of the simulator has a thread for itself.
        static FIRED: Cell<Fired> = const { Cell::new([0; Timer::ALL.len()]) };
    }

    pub(super) fn add(timer: Timer) {
        FIRED.with(|fired| {
            let mut counts = fired.get();
            let index = usize::from(timer as u8);
            counts[index] = counts[index].saturating_add(1);
            fired.set(counts);
        });
    }

    /// Counts from zero on.
    pub fn start() {
        FIRED.set([0; Timer::ALL.len()]);
    }

    /// What was counted in this thread.
    #[must_use]
    pub fn take() -> Fired {
        FIRED.replace([0; Timer::ALL.len()])
    }
}

#[cfg(not(feature = "sim"))]
mod count {
    pub(super) fn add(_: super::Timer) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_timer_is_listed_at_its_number() {
        for (index, timer) in Timer::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(timer as u8), index, "{timer:?}");
        }
    }
}
