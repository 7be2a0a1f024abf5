//! Consumers that went silent: their session is dropped, and where they were is kept, so that it is
//! seen how long they are silent and how far behind they fall.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;

use crate::limits::LOST_SUBSCRIPTIONS_KEPT;
use crate::metrics::snapshot::{Snapshot, SubscriptionRow};

/// A session that was silent for so long and is gone was not ended by its client: that says goodbye, and while it
/// lives it says where it is many times a second.
const SILENT_NS: u64 = 5_000_000_000;

/// For so long they are remembered.
const REMEMBERED_NS: u64 = 24 * 3600 * 1_000_000_000;

/// A subscription whose consumer went silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    /// Where the consumer was.
    pub(super) peer: SocketAddrV4,
    /// As it was last.
    pub(super) row: SubscriptionRow,
    /// Unix time of its last word, in nanoseconds.
    pub(super) heard_unix_ns: u64,
}

/// A subscription that took over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Heir {
    conn_id: u32,
    stream: u32,
}

/// Those of one shard.
#[derive(Debug, Default)]
pub(super) struct Silent {
    /// The longest lost first.
    lost: Vec<Lost>,
    /// When each session there is was seen first.
    since: BTreeMap<u32, u64>,
    /// Subscriptions that took over from one that was lost: from one only.
    heirs: BTreeSet<Heir>,
}

impl Silent {
    /// Those that have not come back.
    pub(super) fn lost(&self) -> &[Lost] {
        &self.lost
    }

    /// Compares a snapshot with the one before it.
    pub(super) fn note(&mut self, before: Option<&Snapshot>, now: &Snapshot) {
        let now_ns = now.end_unix_ns;
        let open: BTreeSet<u32> = now.sessions.as_slice().iter().map(|row| row.conn_id).collect();
        self.since.retain(|conn_id, _| open.contains(conn_id));
        self.heirs.retain(|heir| open.contains(&heir.conn_id));
        for conn_id in &open {
            self.since.entry(*conn_id).or_insert(now_ns);
        }
        if let Some(before) = before {
            self.lose(before, &open);
        }
        self.lost.retain(|lost| lost.heard_unix_ns.saturating_add(REMEMBERED_NS) > now_ns);
        if !self.lost.is_empty() {
            let lost = std::mem::take(&mut self.lost);
            self.lost = lost.into_iter().filter(|lost| !self.is_back(lost, now)).collect();
        }
        let over = self.lost.len().saturating_sub(LOST_SUBSCRIPTIONS_KEPT);
        self.lost.drain(..over);
    }

    /// What was subscribed to by sessions that are no more and were silent at last.
    fn lose(&mut self, before: &Snapshot, open: &BTreeSet<u32>) {
        let is_lost = |conn_id, silent_ns| silent_ns >= SILENT_NS && !open.contains(&conn_id);
        let sessions = before.sessions.as_slice().iter();
        for session in sessions.filter(|row| is_lost(row.conn_id, row.silent_ns)) {
            let of_it = |row: &&SubscriptionRow| row.conn_id == session.conn_id && !row.stopped;
            let heard_unix_ns = before.end_unix_ns.saturating_sub(session.silent_ns);
            let lost = before.subscriptions.as_slice().iter().filter(of_it);
            let lost = lost.map(|row| Lost { peer: session.peer, row: *row, heard_unix_ns });
            self.lost.extend(lost);
        }
    }

    /// Whether the consumer, or another of its host in its place, has subscribed since its last word.
    fn is_back(&mut self, lost: &Lost, now: &Snapshot) -> bool {
        let peer_of = |conn_id| {
            let mut sessions = now.sessions.as_slice().iter();
            sessions.find(|session| session.conn_id == conn_id).map(|session| session.peer)
        };
        let is_new = |row: &&SubscriptionRow| {
            let since = self.since.get(&row.conn_id);
            let heir = Heir { conn_id: row.conn_id, stream: row.stream };
            row.stream == lost.row.stream
                && since.is_some_and(|since_ns| *since_ns > lost.heard_unix_ns)
                && !self.heirs.contains(&heir)
                && peer_of(row.conn_id).is_some_and(|peer| peer.ip() == lost.peer.ip())
        };
        let candidates = now.subscriptions.as_slice().iter().filter(is_new);
        // Itself, where it is among them.
        let heir = candidates.min_by_key(|row| peer_of(row.conn_id) != Some(lost.peer));
        heir.is_some_and(|row| self.heirs.insert(Heir { conn_id: row.conn_id, stream: row.stream }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// At a second: sessions with their peer, how long they are silent, and the next sequence of stream 7.
    fn snapshot(second: u64, sessions: &[(u32, &str, u64, u64)]) -> Snapshot {
        let mut snapshot = Snapshot::new();
        snapshot.end_unix_ns = second * SECOND;
        for (conn_id, peer, silent_s, next) in sessions {
            let row = snapshot.sessions.add().expect("room");
            (row.conn_id, row.peer) = (*conn_id, peer.parse().expect("an address"));
            row.silent_ns = silent_s * SECOND;
            let row = snapshot.subscriptions.add().expect("room");
            (row.conn_id, row.stream, row.next, row.stopped) = (*conn_id, 7, *next, false);
        }
        snapshot
    }

    fn peers(silent: &Silent) -> Vec<String> {
        silent.lost().iter().map(|lost| lost.peer.to_string()).collect()
    }

    const A: &str = "10.0.0.2:40001";
    const B: &str = "10.0.0.2:40002";
    const C: &str = "10.0.0.3:40003";

    #[test]
    fn whoever_hangs_is_remembered_and_whoever_says_goodbye_is_not() {
        let mut silent = Silent::default();
        let before = snapshot(100, &[(1, A, 9, 450), (2, C, 0, 12)]);
        silent.note(None, &before);
        let after = snapshot(102, &[]);
        silent.note(Some(&before), &after);
        assert_eq!(peers(&silent), [A]);
        let lost = silent.lost()[0];
        assert_eq!((lost.row.next, lost.heard_unix_ns), (450, 91 * SECOND));
        // Of another host it is another consumer.
        let other = snapshot(103, &[(3, C, 0, 450)]);
        silent.note(Some(&after), &other);
        assert_eq!(peers(&silent), [A]);
        // It comes back, and whoever was there already has not taken its place.
        let back = snapshot(104, &[(3, C, 0, 450), (4, A, 0, 450)]);
        silent.note(Some(&other), &back);
        assert!(silent.lost().is_empty());
    }

    #[test]
    fn a_consumer_that_was_started_again_is_none_that_is_lost() {
        let mut silent = Silent::default();
        // Killed; the next one is there before the session of the first is dropped.
        let first = snapshot(100, &[(1, A, 0, 450)]);
        silent.note(None, &first);
        let both = snapshot(103, &[(1, A, 3, 450), (2, B, 0, 450)]);
        silent.note(Some(&first), &both);
        let late = snapshot(109, &[(1, A, 9, 450), (2, B, 0, 460)]);
        silent.note(Some(&both), &late);
        let one = snapshot(111, &[(2, B, 0, 470)]);
        silent.note(Some(&late), &one);
        assert!(silent.lost().is_empty(), "the second took its place");
        // The second hangs as well, and nobody takes its place: not even the one that had taken one before.
        let hangs = snapshot(120, &[(2, B, 9, 470)]);
        silent.note(Some(&one), &hangs);
        let none = snapshot(122, &[]);
        silent.note(Some(&hangs), &none);
        assert_eq!(peers(&silent), [B]);
    }

    #[test]
    fn one_heir_takes_the_place_of_one() {
        let mut silent = Silent::default();
        let before = snapshot(100, &[(1, A, 9, 450), (2, B, 9, 12)]);
        silent.note(None, &before);
        let after = snapshot(102, &[(3, B, 0, 12)]);
        silent.note(Some(&before), &after);
        assert_eq!(silent.lost().len(), 1);
        silent.note(Some(&after), &snapshot(103, &[(3, B, 0, 12)]));
        assert_eq!(silent.lost().len(), 1);
        let tomorrow = 102 + 24 * 3600;
        silent.note(Some(&after), &snapshot(tomorrow, &[(3, B, 0, 12)]));
        assert!(silent.lost().is_empty(), "it will hardly come back");
    }

    #[test]
    fn so_many_are_remembered_the_newest() {
        let mut silent = Silent::default();
        for round in 0..u32::try_from(LOST_SUBSCRIPTIONS_KEPT + 9).expect("few") {
            let second = 100 + u64::from(round) * 2;
            // Of a host of its own: nobody takes another's place.
            let peer = format!("10.1.{}.{}:40001", round / 256, round % 256);
            let before = snapshot(second, &[(round + 1, &peer, 9, u64::from(round))]);
            silent.note(None, &before);
            silent.note(Some(&before), &snapshot(second + 1, &[]));
        }
        assert_eq!((silent.lost().len(), silent.lost()[0].row.next), (LOST_SUBSCRIPTIONS_KEPT, 9));
    }
}
