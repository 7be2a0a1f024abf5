//! What is to be said in the transmit station, noted while receiving and committing.
//!
//! Acknowledgements and data are not here: they are derived from the sessions' state. A full outbox
//! drops the newest reply; every request in the protocol is repeated until it is answered.

use crate::ids::{ConnId, Peer, StreamId};
use crate::wire::control::ErrorCode;

/// Replies noted in one turn, at most.
pub(super) const OUTBOX_MAX: usize = 256;

/// One reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// The session at `slot` is open.
    Registered {
        /// Session.
        slot: usize,
    },
    /// The subscription of the session at `slot` stands.
    Subscribed {
        /// Session.
        slot: usize,
        /// Stream.
        stream: StreamId,
    },
    /// The position asked for is gone.
    Trimmed {
        /// Session.
        slot: usize,
        /// Stream.
        stream: StreamId,
        /// Of the SUBSCRIBE.
        request: u32,
        /// The oldest sequence kept.
        log_start: u64,
    },
    /// Sequences are damaged on the media.
    DataLoss {
        /// Session.
        slot: usize,
        /// Stream.
        stream: StreamId,
        /// First and last sequence.
        range: (u64, u64),
    },
    /// Facts of a stream.
    StreamInfo {
        /// Session.
        slot: usize,
        /// Of the request.
        request: u32,
        /// Stream.
        stream: StreamId,
    },
    /// Streams with an id above `after`.
    List {
        /// Session.
        slot: usize,
        /// Of the request.
        request: u32,
        /// Where to go on.
        after: u32,
    },
    /// The stream is on another shard.
    Redirect {
        /// Session.
        slot: usize,
        /// Of the request.
        request: u32,
        /// Where to ask.
        shard: u32,
    },
    /// I am alive.
    Heartbeat {
        /// Session.
        slot: usize,
    },
    /// A refusal within a session.
    Error {
        /// Session.
        slot: usize,
        /// Why.
        code: ErrorCode,
        /// The request refused, or 0.
        request: u32,
        /// Belongs to the reason.
        detail: u64,
    },
    /// A refusal to somebody without a session.
    Refuse {
        /// Who asked.
        peer: Peer,
        /// The connection id it used.
        conn_id: ConnId,
        /// Why.
        code: ErrorCode,
        /// Belongs to the reason.
        detail: u64,
    },
    /// The session has ended.
    Close {
        /// Who it was.
        peer: Peer,
        /// Its connection id.
        conn_id: ConnId,
    },
}

/// The replies of this turn.
#[derive(Debug)]
pub(super) struct Outbox {
    replies: Vec<Reply>,
}

impl Outbox {
    /// An empty outbox; allocates what it will ever need.
    #[must_use]
    pub(super) fn new() -> Self {
        Self { replies: Vec::with_capacity(OUTBOX_MAX) }
    }

    /// Notes a reply; `false` when there is no room and it was dropped.
    pub(super) fn push(&mut self, reply: Reply) -> bool {
        let room = self.replies.len() < OUTBOX_MAX;
        if room {
            self.replies.push(reply);
        }
        room
    }

    /// Removes the oldest `count` replies.
    pub(super) fn consume(&mut self, count: usize) {
        self.replies.drain(..count);
    }

    /// Reply `index`.
    #[must_use]
    pub(super) fn get(&self, index: usize) -> Option<Reply> {
        self.replies.get(index).copied()
    }
}

impl Default for Outbox {
    fn default() -> Self {
        Self::new()
    }
}
