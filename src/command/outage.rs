//! An appliance that does not answer is waited for; that it is, is said once, and once that it is over.

use super::note;
use crate::client::polled::Client;
use crate::clock::{Clock, HostClock};
use crate::port::AnyPort;
use crate::report::thousands;
use crate::wire::publish::PublishState;

/// An outage is said when it has lasted for so long: a restart takes less.
const PATIENCE_NS: u64 = 3_000_000_000;

/// The longest that one that comes again and again is waited for before it is said.
const PATIENCE_NS_MAX: u64 = 300_000_000_000;

/// After so long without an outage the next is said as early as the first.
const FORGOTTEN_NS: u64 = 600_000_000_000;

/// What is to be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notice {
    /// It has lasted for so long.
    Lost(u64),
    /// It is over, and lasted for so long.
    Back(u64),
}

/// Whether an appliance serves a session, and what was said of that.
#[derive(Debug)]
pub(super) struct Outage {
    quiet: bool,
    /// Since when it does not.
    since_ns: Option<u64>,
    is_said: bool,
    /// When the last one ended.
    ended_ns: u64,
    patience_ns: u64,
}

impl Outage {
    pub(super) fn new(quiet: bool) -> Self {
        let patience_ns = PATIENCE_NS;
        Self { quiet, since_ns: None, is_said: false, ended_ns: 0, patience_ns }
    }

    /// To be called again and again. `left` says what is left to be done once it is over.
    pub(super) fn watch(
        &mut self,
        client: &Client<AnyPort, HostClock>,
        left: impl FnOnce() -> String,
    ) {
        let now_ns = client.clock().now_ns();
        let takes = client.publish_state() != PublishState::Draining;
        let serves = client.is_connected() && takes;
        let word = self.judge(now_ns, serves, client.silent_ns());
        let server = client.server();
        match word.filter(|_| !self.quiet) {
            None => {}
            Some(Notice::Lost(lasts_ns)) => {
                let since = utc(client.clock().unix_ns().saturating_sub(lasts_ns));
                let what = match client.refusal() {
                    Some((code, detail)) => {
                        format!("{server} says since {since}: {}", code.with(detail))
                    }
                    None if client.is_connected() && !takes => {
                        format!(
                            "{server} takes no messages since {since}: it stops, or its disk is away"
                        )
                    }
                    None => format!("{server} has not answered since {since}"),
                };
                note(&format!("{what}; waiting for it, {}", left()));
            }
            Some(Notice::Back(lasted_ns)) => {
                note(&format!(
                    "{server} answers again, after {} s",
                    thousands(lasted_ns / 1_000_000_000)
                ));
            }
        }
    }

    /// From whether it serves now, and how long it said nothing.
    fn judge(&mut self, now_ns: u64, serves: bool, silent_ns: u64) -> Option<Notice> {
        if serves && silent_ns < PATIENCE_NS {
            let since_ns = self.since_ns.take()?;
            self.ended_ns = now_ns;
            if !std::mem::take(&mut self.is_said) {
                return None;
            }
            self.patience_ns = self.patience_ns.saturating_mul(2).min(PATIENCE_NS_MAX);
            return Some(Notice::Back(now_ns.saturating_sub(since_ns)));
        }
        let since_ns = *self.since_ns.get_or_insert_with(|| now_ns.saturating_sub(silent_ns));
        if since_ns.saturating_sub(self.ended_ns) > FORGOTTEN_NS {
            self.patience_ns = PATIENCE_NS;
        }
        let lasts_ns = now_ns.saturating_sub(since_ns);
        if self.is_said || lasts_ns < self.patience_ns {
            return None;
        }
        self.is_said = true;
        Some(Notice::Lost(lasts_ns))
    }
}

/// The time of day.
fn utc(unix_ns: u64) -> String {
    let seconds = unix_ns / 1_000_000_000 % (24 * 3600);
    format!("{:02}:{:02}:{:02} UTC", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// What is said while it serves or not, second by second.
    fn said(outage: &mut Outage, from_s: u64, serves: &[bool]) -> Vec<(u64, Notice)> {
        let mut said = Vec::new();
        let mut heard_s = from_s;
        for (second, serves) in (from_s..).zip(serves) {
            if *serves {
                heard_s = second;
            }
            let silent_ns = (second - heard_s) * SECOND;
            let word = outage.judge(second * SECOND, *serves, silent_ns);
            said.extend(word.map(|word| (second, word)));
        }
        said
    }

    #[test]
    fn an_outage_is_said_once_and_its_end_once() {
        let mut outage = Outage::new(false);
        let serves: Vec<_> = (0..100).map(|second| !(10..50).contains(&second)).collect();
        let heard = said(&mut outage, 1_000, &serves);
        // The last word came at 9.
        let words = [(1_012, Notice::Lost(3 * SECOND)), (1_050, Notice::Back(41 * SECOND))];
        assert_eq!(heard, words);
    }

    #[test]
    fn a_restart_is_no_outage_and_neither_is_a_word_that_is_late() {
        let mut outage = Outage::new(false);
        let serves = [true, false, false, true, true, false, false, true];
        assert_eq!(said(&mut outage, 1_000, &serves), []);
    }

    #[test]
    fn one_that_refuses_is_waited_for_as_well() {
        let mut outage = Outage::new(false);
        // It says so each second: it is never silent.
        assert_eq!(outage.judge(1_000 * SECOND, false, 0), None);
        assert_eq!(outage.judge(1_002 * SECOND, false, 0), None);
        assert_eq!(outage.judge(1_003 * SECOND, false, 0), Some(Notice::Lost(3 * SECOND)));
        assert_eq!(outage.judge(1_004 * SECOND, false, 0), None);
        assert_eq!(outage.judge(1_005 * SECOND, true, 0), Some(Notice::Back(5 * SECOND)));
    }

    #[test]
    fn one_that_comes_and_goes_floods_nobody() {
        let mut outage = Outage::new(false);
        // Ten seconds away, ten there, for a day.
        let serves: Vec<_> = (0..86_410).map(|second| second / 10 % 2 == 0).collect();
        let heard = said(&mut outage, 1_000, &serves);
        assert_eq!(heard.len(), 4, "as often as it has patience for less than ten seconds");
        // And a day later it is said as at first.
        let serves: Vec<_> = (0..100).map(|second| second < 50).collect();
        let heard = said(&mut outage, 200_000, &serves);
        assert_eq!(heard, [(200_052, Notice::Lost(3 * SECOND))]);
    }

    #[test]
    fn the_time_of_day_is_that_of_the_unix_clock() {
        assert_eq!(utc(1_769_783_399_999_999_999), "14:29:59 UTC");
        assert_eq!(utc(0), "00:00:00 UTC");
    }
}
