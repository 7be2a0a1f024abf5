//! What is to be said in the transmit station, noted while receiving and committing.
//!
//! Acknowledgements and data are not here: they are derived from the sessions' state. Nobody fills the outbox
//! for others: a session has so many replies in it, those without a session so many together, and whatever more
//! is asked for is dropped; every request in the protocol is repeated until it is answered.

use crate::ids::{ConnId, Peer, StreamId};
use crate::limits::{REFUSALS_MAX, REPLIES_MAX, SESSIONS_MAX};
use crate::metrics::{Counter, Counters};
use crate::position::SessionSlot;
use crate::session::table::Farewell;
use crate::wire::control::ErrorCode;
use crate::wire::datagram::{Reset, Retry, Versions};

/// One reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// There is a session for who asked: the one at `slot`.
    Accepted {
        /// Session.
        slot: SessionSlot,
    },
    /// The session at `slot` is open.
    Registered {
        /// Session.
        slot: SessionSlot,
    },
    /// The subscription of the session at `slot` stands.
    Subscribed {
        /// Session.
        slot: SessionSlot,
        /// The subscription.
        sub: u32,
    },
    /// The position asked for is gone.
    Trimmed {
        /// Session.
        slot: SessionSlot,
        /// The subscription.
        sub: u32,
        /// The oldest sequence kept.
        log_start: u64,
    },
    /// Sequences are damaged on the media.
    DataLoss {
        /// Session.
        slot: SessionSlot,
        /// The subscription.
        sub: u32,
        /// The first.
        first: u64,
        /// The last, as far as is known.
        last: u64,
    },
    /// Facts of a stream.
    StreamInfo {
        /// Session.
        slot: SessionSlot,
        /// Of the request.
        request: u32,
        /// Stream.
        stream: StreamId,
    },
    /// Streams with an id above `after`.
    List {
        /// Session.
        slot: SessionSlot,
        /// Of the request.
        request: u32,
        /// Where to go on.
        after: u32,
    },
    /// The stream is on another shard.
    Redirect {
        /// Session.
        slot: SessionSlot,
        /// Of the request.
        request: u32,
        /// Where to ask.
        shard: u32,
    },
    /// I am alive.
    Heartbeat {
        /// Session.
        slot: SessionSlot,
    },
    /// A refusal within a session.
    Error {
        /// Session.
        slot: SessionSlot,
        /// Why.
        code: ErrorCode,
        /// The request refused, or 0.
        request: u32,
        /// Belongs to the reason.
        detail: u64,
    },
    /// Who asks for a session has to ask again, with a cookie.
    Retry {
        /// Who asked.
        peer: Peer,
        /// What it is told.
        retry: Retry,
    },
    /// There is no session for who asked.
    Rejected {
        /// Who asked.
        peer: Peer,
        /// How it numbers the session it wanted.
        client_id: ConnId,
        /// Why.
        code: ErrorCode,
    },
    /// There is no session of that number.
    Reset {
        /// Who named it.
        peer: Peer,
        /// What it is told.
        reset: Reset,
    },
    /// Which versions there are.
    Versions {
        /// Who speaks another one.
        peer: Peer,
        /// What it is told.
        versions: Versions,
    },
    /// A session has ended for good.
    Close {
        /// What is said last, and to whom.
        farewell: Farewell,
    },
}

impl Reply {
    /// The session it is for, if it is for one.
    fn slot(&self) -> Option<SessionSlot> {
        match *self {
            Self::Accepted { slot }
            | Self::Registered { slot }
            | Self::Subscribed { slot, .. }
            | Self::Trimmed { slot, .. }
            | Self::DataLoss { slot, .. }
            | Self::StreamInfo { slot, .. }
            | Self::List { slot, .. }
            | Self::Redirect { slot, .. }
            | Self::Heartbeat { slot }
            | Self::Error { slot, .. } => Some(slot),
            Self::Retry { .. }
            | Self::Rejected { .. }
            | Self::Reset { .. }
            | Self::Versions { .. }
            | Self::Close { .. } => None,
        }
    }
}

/// Whether a reply is one that says as much once as often: a heartbeat, that a session is open.
fn kinds(reply: &Reply) -> [bool; 3] {
    [
        matches!(reply, Reply::Heartbeat { .. }),
        matches!(reply, Reply::Registered { .. }),
        matches!(reply, Reply::Accepted { .. }),
    ]
}

/// What one session has in the outbox.
#[derive(Clone, Copy, Debug, Default)]
struct Noted {
    replies: u8,
    /// Which of [`kinds`] are among them.
    once: [bool; 3],
}

/// The replies that were not sent yet.
#[derive(Debug)]
pub(super) struct Outbox {
    replies: Vec<Reply>,
    /// By session.
    noted: Box<[Noted]>,
    refusals: usize,
    /// Replies of one session, at most.
    replies_a_session: u8,
}

impl Outbox {
    /// An empty outbox, in which a session has so many replies; allocates what it will ever need.
    #[must_use]
    pub(super) fn new(replies_a_session: u8) -> Self {
        let noted = vec![Noted::default(); SESSIONS_MAX].into_boxed_slice();
        let replies = Vec::with_capacity(REPLIES_MAX);
        Self { replies, noted, refusals: 0, replies_a_session }
    }

    /// Notes a reply, or counts that it was dropped: what was asked is asked again.
    pub(super) fn note(&mut self, reply: Reply, counters: &mut Counters) {
        if !self.push(reply) {
            counters.add(Counter::RepliesDropped, 1);
        }
    }

    /// Notes a reply; `false` when there is no room and it was dropped.
    pub(super) fn push(&mut self, reply: Reply) -> bool {
        if self.replies.len() == REPLIES_MAX {
            return false;
        }
        match reply.slot() {
            Some(slot) => {
                let noted = &mut self.noted[slot.index()];
                let kinds = kinds(&reply);
                if kinds.iter().zip(noted.once).any(|(is_it, is_noted)| *is_it && is_noted) {
                    return true;
                }
                if noted.replies == self.replies_a_session {
                    return false;
                }
                noted.replies = noted.replies.saturating_add(1);
                noted.once.iter_mut().zip(kinds).for_each(|(noted, is_it)| *noted |= is_it);
            }
            None => {
                if self.refusals == REFUSALS_MAX {
                    return false;
                }
                self.refusals = self.refusals.saturating_add(1);
            }
        }
        self.replies.push(reply);
        true
    }

    /// Removes the oldest `count` replies: they are sent.
    pub(super) fn consume(&mut self, count: usize) {
        for reply in self.replies.drain(..count) {
            let Some(slot) = reply.slot() else {
                self.refusals = self.refusals.saturating_sub(1);
                continue;
            };
            let noted = &mut self.noted[slot.index()];
            noted.replies = noted.replies.saturating_sub(1);
            let kinds = kinds(&reply);
            noted.once.iter_mut().zip(kinds).for_each(|(noted, is_it)| *noted &= !is_it);
        }
    }

    /// Forgets what a session was to be told that has ended: its place may be another's soon.
    pub(super) fn forget(&mut self, slot: SessionSlot) {
        if self.noted[slot.index()].replies > 0 {
            self.replies.retain(|reply| reply.slot() != Some(slot));
        }
        self.noted[slot.index()] = Noted::default();
    }

    /// Reply `index`.
    #[must_use]
    pub(super) fn get(&self, index: usize) -> Option<Reply> {
        self.replies.get(index).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{RECEIVE_BURST, REPLIES_A_SESSION_MAX};

    #[test]
    fn nobody_fills_the_outbox_for_others() {
        let mut outbox = Outbox::new(REPLIES_A_SESSION_MAX);
        let list = |slot, request| Reply::List { slot: SessionSlot::new(slot), request, after: 0 };
        let peer = Peer::ip_only(std::net::SocketAddrV4::new([127, 0, 0, 1].into(), 9));
        let refuse = Reply::Rejected { peer, client_id: ConnId(1), code: ErrorCode::SessionsFull };
        let taken = |outbox: &mut Outbox, reply: &dyn Fn(u32) -> Reply| {
            (0..1_000).filter(|&n| outbox.push(reply(n))).count()
        };
        assert_eq!(taken(&mut outbox, &|_| refuse), REFUSALS_MAX);
        for slot in 0..RECEIVE_BURST {
            assert_eq!(taken(&mut outbox, &|n| list(slot, n)), usize::from(REPLIES_A_SESSION_MAX));
        }
        assert_eq!(outbox.replies.len(), REPLIES_MAX);
        let mut counters = Counters::default();
        outbox.note(list(RECEIVE_BURST, 0), &mut counters);
        assert_eq!(counters.get(Counter::RepliesDropped), 1, "that is all there is room for");
        outbox.consume(REFUSALS_MAX + 1);
        assert!(outbox.push(refuse) && outbox.push(list(0, 0)), "what is sent makes room");
        outbox.forget(SessionSlot::new(1));
        assert!((0..16).all(|n| outbox.push(list(1, n))) && !outbox.push(list(1, 16)));
    }

    #[test]
    fn a_heartbeat_is_said_once() {
        let mut outbox = Outbox::new(REPLIES_A_SESSION_MAX);
        let beat = Reply::Heartbeat { slot: SessionSlot::new(3) };
        for _ in 0..447 {
            assert!(outbox.push(beat));
        }
        assert_eq!((outbox.get(0), outbox.get(1)), (Some(beat), None));
        outbox.consume(1);
        assert!(outbox.push(beat));
        assert_eq!(outbox.get(0), Some(beat), "and again once it was sent");
    }
}
