//! The Ethernet addresses of a few neighbours, as ARP told them.
//!
//! Only those that were asked for are remembered, so nobody can push them out by shouting. A received
//! datagram names its neighbour itself; this table is for who speaks first.

use std::net::Ipv4Addr;

use crate::limits::NEIGHBOURS_MAX;

/// A question is not repeated sooner.
const ASK_AGAIN_MS: u64 = 200;

/// An answer is believed this long, and no longer: hosts change their cards.
const BELIEVED_MS: u64 = 60_000;

#[derive(Clone, Copy, Debug)]
struct Neighbour {
    ip: Ipv4Addr,
    asked_ms: u64,
    /// Address and when it was heard.
    heard: Option<([u8; 6], u64)>,
}

/// The table; time is passed in, in milliseconds from any start.
#[derive(Debug, Default)]
pub(crate) struct Neighbours {
    entries: [Option<Neighbour>; NEIGHBOURS_MAX],
    /// The next entry to give up when all are taken.
    oldest: usize,
}

/// What `Neighbours::find` knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The neighbour's Ethernet address.
    Known([u8; 6]),
    /// Unknown, and it is time to ask.
    Ask,
    /// Unknown, and asked a moment ago.
    Wait,
}

impl Neighbours {
    /// The address of `ip`; after `Ask` the question counts as asked.
    pub(crate) fn find(&mut self, ip: Ipv4Addr, now_ms: u64) -> Found {
        let Some(entry) = self.entries.iter_mut().flatten().find(|entry| entry.ip == ip) else {
            self.entries[self.oldest] = Some(Neighbour { ip, asked_ms: now_ms, heard: None });
            self.oldest = (self.oldest + 1) % NEIGHBOURS_MAX;
            return Found::Ask;
        };
        match entry.heard {
            Some((mac, heard_ms)) if now_ms.saturating_sub(heard_ms) < BELIEVED_MS => {
                Found::Known(mac)
            }
            _ if now_ms.saturating_sub(entry.asked_ms) < ASK_AGAIN_MS => Found::Wait,
            _ => {
                entry.asked_ms = now_ms;
                Found::Ask
            }
        }
    }

    /// Somebody said that `ip` is at `mac`.
    pub(crate) fn hear(&mut self, ip: Ipv4Addr, mac: [u8; 6], now_ms: u64) {
        if let Some(entry) = self.entries.iter_mut().flatten().find(|entry| entry.ip == ip) {
            entry.heard = Some((mac, now_ms));
        }
    }

    /// Forgets all: the link was down, and who is there now may be somebody else.
    pub(crate) fn clear(&mut self) {
        self.entries = [None; NEIGHBOURS_MAX];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, last)
    }

    #[test]
    fn a_question_is_asked_answered_and_believed_for_a_while() {
        let mut table = Neighbours::default();
        assert_eq!(table.find(ip(1), 0), Found::Ask);
        assert_eq!(table.find(ip(1), ASK_AGAIN_MS - 1), Found::Wait);
        assert_eq!(table.find(ip(1), ASK_AGAIN_MS), Found::Ask);
        table.hear(ip(1), MAC, 300);
        assert_eq!(table.find(ip(1), 300 + BELIEVED_MS - 1), Found::Known(MAC));
        assert_eq!(table.find(ip(1), 300 + BELIEVED_MS), Found::Ask);
        table.hear(ip(1), MAC, 70_000);
        table.clear();
        assert_eq!(table.find(ip(1), 70_001), Found::Ask);
    }

    #[test]
    fn who_was_not_asked_is_not_remembered_and_the_oldest_gives_way() {
        let mut table = Neighbours::default();
        table.hear(ip(1), MAC, 0);
        assert_eq!(table.find(ip(1), 0), Found::Ask);
        table.hear(ip(1), MAC, 0);
        for last in 2..=u8::try_from(NEIGHBOURS_MAX).unwrap() {
            assert_eq!(table.find(ip(last), 0), Found::Ask);
            table.hear(ip(last + 100), MAC, 0);
        }
        assert_eq!(table.find(ip(1), 0), Found::Known(MAC));
        assert_eq!(table.find(ip(99), 0), Found::Ask);
        assert_eq!(table.find(ip(1), 0), Found::Ask, "it was the oldest");
    }
}
