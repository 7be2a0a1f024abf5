//! Measuring: an open-loop load on a fixed schedule, the floor beside it, and the proof that nothing was
//! lost on the way.
//!
//! *Response* is acknowledgement minus intended send and is the number to quote; *service* is
//! acknowledgement minus actual send; *delay* is actual minus intended send. A load that cannot keep
//! its schedule shows it in the response and in the achieved rate; nothing is corrected by formula.

pub(crate) mod floor;
pub(crate) mod intervals;
pub(crate) mod load;
pub(crate) mod verify;

/// The times of a fixed schedule: `count` messages, `batch` at once, evenly spread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    start_ns: u64,
    /// Messages a second, all publishers together; `None` sends as fast as the credit allows.
    rate: Option<f64>,
    batch: u64,
}

impl Schedule {
    /// A schedule that starts at `start_ns`.
    #[must_use]
    pub(crate) fn new(start_ns: u64, rate: Option<f64>, batch: u64) -> Self {
        Self { start_ns, rate, batch: batch.max(1) }
    }

    /// When message `index` is to be sent; `None` means as soon as possible.
    #[must_use]
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a schedule is positive and shorter than 2^53 ns, 104 days"
    )]
    pub(crate) fn intended_ns(&self, index: u64) -> Option<u64> {
        let rate = self.rate?;
        let batch = index / self.batch * self.batch;
        Some(self.start_ns + (batch as f64 * 1e9 / rate) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_even_and_does_not_drift() {
        let schedule = Schedule::new(1_000, Some(3.0), 1);
        assert_eq!(schedule.intended_ns(0), Some(1_000));
        assert_eq!(schedule.intended_ns(1), Some(333_334_333));
        assert_eq!(schedule.intended_ns(3_000_000), Some(1_000_000_000_001_000));
        let batched = Schedule::new(0, Some(1_000.0), 4);
        assert_eq!(batched.intended_ns(3), Some(0));
        assert_eq!(batched.intended_ns(4), Some(4_000_000));
        assert_eq!(Schedule::new(0, None, 1).intended_ns(9), None);
    }
}
