//! Axes: from values to places on a plot, and the ticks between.

use crate::report::thousands;

/// Latencies that differ by more than this are told apart on a logarithmic axis only.
const LOG_FROM: f64 = 12.0;

/// The least latency a logarithmic axis shows, in microseconds: below is what a clock cannot tell.
const LOG_MIN_US: f64 = 0.01;

/// Where a value stands between the ends of an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    log: bool,
}

/// A mark on an axis: the value, and what is written beside it; nothing for a line without words.
pub(super) type Tick = (f64, String);

impl Axis {
    /// From `low` to `high`, evenly.
    pub(super) fn linear(low: f64, high: f64) -> Self {
        Self { low, high: if high > low { high } else { low + 1.0 }, log: false }
    }

    /// From zero to a little over `high`, where a tick is.
    pub(super) fn from_zero(high: f64) -> Self {
        let step = step(high.max(f64::MIN_POSITIVE));
        Self::linear(0.0, (high / step).ceil().max(1.0) * step)
    }

    /// For latencies in microseconds: logarithmic where their range demands it, else from zero.
    pub(super) fn latency(values: impl Iterator<Item = f64> + Clone) -> Self {
        let high = values.clone().fold(0.0, f64::max);
        let low = values.filter(|value| *value > 0.0).fold(high, f64::min).max(LOG_MIN_US);
        if high <= low * LOG_FROM {
            return Self::from_zero(high);
        }
        Self { low: nice_below(low), high: nice_above(high), log: true }
    }

    /// 0 at the low end, 1 at the high end; what lies outside stands at the end.
    pub(super) fn place(self, value: f64) -> f64 {
        let place = if self.log {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        place.clamp(0.0, 1.0)
    }

    /// The ends, and whether it is logarithmic, for whoever has to turn a place into a value.
    pub(super) fn ends(self) -> (f64, f64, bool) {
        (self.low, self.high, self.log)
    }

    /// Ticks with their words.
    pub(super) fn ticks(self) -> Vec<Tick> {
        if self.log { self.log_ticks() } else { self.linear_ticks() }
    }

    fn linear_ticks(self) -> Vec<Tick> {
        let step = step(self.high - self.low);
        let first = (self.low / step).ceil();
        let count = ((self.high - self.low) / step * (1.0 + 1e-9)).floor();
        (0_u8..20)
            .map(f64::from)
            .take_while(|at| *at <= count)
            .map(|at| (first + at) * step)
            .map(|value| (value, number(value)))
            .collect()
    }

    /// Decades with words, their halves and fifths too where there are few.
    fn log_ticks(self) -> Vec<Tick> {
        let few = (self.high / self.low).log10() < 3.5;
        let mut ticks = Vec::new();
        let mut decade = 10_f64.powf(self.low.log10().floor());
        while decade <= self.high * (1.0 + 1e-9) {
            for part in [1.0, 2.0, 5.0] {
                let value = decade * part;
                if value >= self.low * (1.0 - 1e-9) && value <= self.high * (1.0 + 1e-9) {
                    let said = few || part < 1.5;
                    ticks.push((value, if said { number(value) } else { String::new() }));
                }
            }
            decade *= 10.0;
        }
        ticks
    }
}

/// Place of a quantile on a percentile axis: the decimal logarithm of 1/(1-q).
pub(super) fn tail(quantile: f64) -> f64 {
    -(1.0 - quantile).log10()
}

/// The axis of percentiles for so many values: ticks up to the last that means something.
pub(super) fn percentile_axis(count: u64) -> (Axis, Vec<Tick>) {
    let high = (count.max(20) as f64).log10();
    let mut ticks: Vec<Tick> = vec![(0.0, "0".to_owned()), (tail(0.5), "50".to_owned())];
    let mut words = "90".to_owned();
    for nines in 1_u8.. {
        if f64::from(nines) > high + 1e-9 {
            break;
        }
        ticks.push((f64::from(nines), words.clone()));
        words = match nines {
            1 => "99".to_owned(),
            2 => "99.9".to_owned(),
            _ => words + "9",
        };
    }
    (Axis::linear(0.0, high), ticks)
}

/// A step of 1, 2 or 5 times a power of ten that divides a range into four to ten.
fn step(range: f64) -> f64 {
    let power = 10_f64.powf((range / 10.0).log10().floor());
    let rough = range / 10.0 / power;
    let nice = [1.0, 2.0, 5.0, 10.0].into_iter().find(|nice| *nice >= rough * (1.0 - 1e-9));
    nice.unwrap_or(10.0) * power
}

fn nice_below(value: f64) -> f64 {
    let decade = 10_f64.powf(value.log10().floor());
    let part = [5.0, 2.0, 1.0].into_iter().find(|part| part * decade <= value * (1.0 + 1e-9));
    part.unwrap_or(1.0) * decade
}

fn nice_above(value: f64) -> f64 {
    let decade = 10_f64.powf(value.log10().floor());
    let part = [1.0, 2.0, 5.0].into_iter().find(|part| part * decade >= value * (1.0 - 1e-9));
    part.unwrap_or(10.0) * decade
}

/// A number as people write it: separators above a thousand, no zeros behind the point.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "only where it is positive and below 2^53"
)]
pub(super) fn number(value: f64) -> String {
    if (1_000.0..9e15).contains(&value) {
        return thousands(value.round() as u64);
    }
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(ticks: &[Tick]) -> Vec<&str> {
        ticks.iter().map(|(_, words)| words.as_str()).collect()
    }

    #[test]
    fn a_small_range_is_even_and_begins_at_zero() {
        let axis = Axis::latency([120.0, 480.0].into_iter());
        assert_eq!(axis.ends(), (0.0, 500.0, false));
        let ticks = axis.ticks();
        assert_eq!(words(&ticks)[..3], ["0", "50", "100"]);
        assert_eq!(ticks.last().unwrap().1, "500");
        assert!((axis.place(250.0) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn a_large_range_is_logarithmic() {
        let axis = Axis::latency([0.0, 3.0, 40.0, 70_000.0].into_iter());
        assert_eq!(axis.ends(), (2.0, 100_000.0, true));
        let ticks = axis.ticks();
        assert_eq!(words(&ticks)[..5], ["", "", "10", "", ""]);
        assert_eq!(ticks.last().unwrap().1, "100,000");
        assert!(axis.place(0.0).abs() < 1e-9, "zero stands at the low end");
        let step = axis.place(20_000.0) - axis.place(2_000.0);
        assert!((step - (axis.place(200.0) - axis.place(20.0))).abs() < 1e-9);
        let few = Axis::latency([0.2, 90.0].into_iter());
        assert_eq!(words(&few.ticks()), ["0.2", "0.5", "1", "2", "5", "10", "20", "50", "100"]);
    }

    #[test]
    fn axes_of_nothing_are_axes() {
        for axis in [Axis::latency(std::iter::empty()), Axis::from_zero(0.0)] {
            assert!((0.0..=1.0).contains(&axis.place(1.0)));
            assert!(axis.ticks().len() < 12, "{axis:?}");
        }
        assert!(Axis::linear(5.0, 5.0).place(5.0).abs() < 1e-9);
    }

    #[test]
    fn percentiles_go_as_far_as_there_are_values() {
        let (axis, ticks) = percentile_axis(100_000);
        assert_eq!(words(&ticks), ["0", "50", "90", "99", "99.9", "99.99", "99.999"]);
        assert!((axis.place(tail(0.999)) - 0.6).abs() < 1e-9);
        assert_eq!(words(&percentile_axis(20).1), ["0", "50", "90"]);
    }

    #[test]
    fn steps_are_nice() {
        for (range, wanted) in [(1.0, 0.1), (1.5, 0.2), (7.0, 1.0), (42.0, 5.0), (1_000.0, 100.0)] {
            assert!((step(range) - wanted).abs() < wanted * 1e-9, "{range}");
        }
        assert_eq!(number(0.25), "0.25");
        assert_eq!(number(1_234.5), "1,235");
        assert_eq!(number(0.0), "0");
    }
}
