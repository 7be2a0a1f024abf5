//! A run that broke a promise, made smaller: what it does not need is left out.

use crate::sim::{Feature, Plan};

/// Leaves features out one at a time, for as long as a promise is still broken and by the same oracle; returns all
/// that may be left out. `oracle_of` runs the seed without some features.
pub(super) fn reduce(
    seed: u64,
    oracle: &str,
    oracle_of: &dyn Fn(&[Feature]) -> Option<String>,
) -> Vec<Feature> {
    let mut left_out = Vec::new();
    // What could be left out only once another was is found in a later round.
    loop {
        let before = left_out.len();
        for feature in Plan::without(seed, &left_out).features() {
            left_out.push(feature);
            if oracle_of(&left_out).as_deref() != Some(oracle) {
                left_out.pop();
            }
        }
        if left_out.len() == before {
            return left_out;
        }
    }
}

/// The option that leaves these features out.
pub(super) fn option(left_out: &[Feature]) -> String {
    if left_out.is_empty() {
        return String::new();
    }
    let names: Vec<&str> = left_out.iter().map(|feature| feature.name()).collect();
    format!(" --without {}", names.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failure_does_not_need_is_left_out_and_what_it_needs_stays() {
        let seed = (0..).find(|&seed| Plan::of(seed).features().count() > 12).unwrap();
        let all: Vec<Feature> = Plan::of(seed).features().collect();
        let needed = [all[3], all[7]];
        // The last one can be left out only once the one before it is.
        let (one, two) = (all[10], all[11]);
        let oracle_of = |left_out: &[Feature]| {
            let fails = needed.iter().all(|feature| !left_out.contains(feature));
            let other = left_out.contains(&one) && !left_out.contains(&two);
            fails.then(|| if other { "O2" } else { "O1" }.to_owned())
        };
        let left_out = reduce(seed, "O1", &oracle_of);
        let left: Vec<Feature> = Plan::without(seed, &left_out).features().collect();
        assert_eq!(left, needed);
        let names = option(&needed);
        let named: Result<Vec<_>, _> =
            names.trim_start_matches(" --without ").split(',').map(Feature::named).collect();
        assert_eq!(named.unwrap(), needed, "{names}");
    }
}
