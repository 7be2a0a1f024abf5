//! The proof that nothing was lost, doubled or reordered: each message carries who sent it and its
//! number, and a consumer checks them as they come.

use std::collections::BTreeSet;

/// Bytes of the stamp at the start of each payload; a benchmark's message is at least so long.
pub(crate) const STAMP_BYTES: usize = 16;

/// Writes the stamp of message `number` of `publisher` in run `run`.
///
/// # Panics
/// When the payload is shorter than a stamp.
#[inline]
pub(crate) fn stamp(payload: &mut [u8], run: u32, publisher: u32, number: u64) {
    payload[..4].copy_from_slice(&run.to_le_bytes());
    payload[4..8].copy_from_slice(&publisher.to_le_bytes());
    payload[8..STAMP_BYTES].copy_from_slice(&number.to_le_bytes());
}

/// What one consumer has seen.
#[derive(Clone, Debug)]
pub(crate) struct Checker {
    run: u32,
    publishers: Vec<Seen>,
    duplicated: u64,
    reordered: u64,
    foreign: u64,
}

/// What came from one publisher.
#[derive(Clone, Debug, Default)]
struct Seen {
    next: u64,
    missing: BTreeSet<u64>,
}

impl Checker {
    /// A checker for the messages of `publishers` publishers in run `run`.
    #[must_use]
    pub(crate) fn new(run: u32, publishers: usize) -> Self {
        let publishers = vec![Seen::default(); publishers];
        Self { run, publishers, duplicated: 0, reordered: 0, foreign: 0 }
    }

    /// Takes a message in.
    #[inline]
    pub(crate) fn take(&mut self, payload: &[u8]) {
        let Some((run, publisher, number)) = read_stamp(payload) else {
            self.foreign += 1;
            return;
        };
        let seen = usize::try_from(publisher).ok().and_then(|p| self.publishers.get_mut(p));
        let Some(seen) = seen.filter(|_| run == self.run) else {
            self.foreign += 1;
            return;
        };
        if number == seen.next {
            seen.next += 1;
        } else if number > seen.next {
            seen.missing.extend(seen.next..number);
            seen.next = number + 1;
        } else if seen.missing.remove(&number) {
            self.reordered += 1;
        } else {
            self.duplicated += 1;
        }
    }

    /// Messages seen, each once.
    #[must_use]
    pub(crate) fn seen(&self) -> u64 {
        self.publishers.iter().map(|seen| seen.next - seen.missing.len() as u64).sum()
    }

    /// Lost, duplicated and reordered messages, when each publisher had so many acknowledged.
    #[must_use]
    pub(crate) fn verdict(&self, acknowledged: &[u64]) -> (u64, u64, u64) {
        let lost = |(seen, &acknowledged): (&Seen, &u64)| {
            seen.missing.range(..acknowledged).count() as u64
                + acknowledged.saturating_sub(seen.next)
        };
        let lost = self.publishers.iter().zip(acknowledged).map(lost).sum();
        (lost, self.duplicated + self.foreign, self.reordered)
    }
}

fn read_stamp(payload: &[u8]) -> Option<(u32, u32, u64)> {
    let (run, rest) = payload.split_first_chunk()?;
    let (publisher, rest) = rest.split_first_chunk()?;
    let (number, _) = rest.split_first_chunk()?;
    Some((u32::from_le_bytes(*run), u32::from_le_bytes(*publisher), u64::from_le_bytes(*number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(numbers: &[u64], acknowledged: u64) -> (u64, u64, u64) {
        let mut checker = Checker::new(7, 1);
        for &number in numbers {
            let mut payload = [0; 20];
            stamp(&mut payload, 7, 0, number);
            checker.take(&payload);
        }
        checker.verdict(&[acknowledged])
    }

    #[test]
    fn each_kind_of_fault_is_counted_as_what_it_is() {
        assert_eq!(check(&[0, 1, 2, 3], 4), (0, 0, 0));
        assert_eq!(check(&[0, 2, 3], 4), (1, 0, 0));
        assert_eq!(check(&[0, 1], 4), (2, 0, 0));
        assert_eq!(check(&[0, 1, 1, 2, 3], 4), (0, 1, 0));
        assert_eq!(check(&[0, 2, 1, 3], 4), (0, 0, 1));
        assert_eq!(check(&[0, 1, 2, 3, 4], 4), (0, 0, 0), "durable before it was acknowledged");
    }

    #[test]
    fn what_is_of_another_run_is_not_taken_for_ours() {
        let mut checker = Checker::new(7, 1);
        checker.take(b"not a stamp");
        let mut payload = [0; 16];
        stamp(&mut payload, 8, 0, 0);
        checker.take(&payload);
        assert_eq!(checker.verdict(&[0]), (0, 2, 0));
    }
}
