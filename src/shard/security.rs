//! Sealed sessions: handshakes let through and answered, keys that are changed, and who may do what.
//!
//! Keys are neither made nor dropped here: see [`crate::session::handshake`].

use std::sync::Arc;

use zerocopy::IntoBytes;

use crate::access::key::PublicKey;
use crate::access::{Access, IdentityId, Rights};
use crate::ids::{Peer, StreamId};
use crate::limits::HANDSHAKES_A_TURN;
use crate::metrics::Counter;
use crate::port::Port;
use crate::position::SessionSlot;
use crate::seal::keys::{SessionKeys, Upkeep};
use crate::session::handshake::{Answer, Ask, Established, Request, ShardEnd, Spent, Told};
use crate::session::table::{Phase, Requester, SessionPlace, StreamSet};
use crate::wire::control::ErrorCode;
use crate::wire::datagram::{Init, SUITE_AES_GCM};

use super::transmit::send_to;
use super::{Reply, Stations};

/// What a shard needs for sealed sessions.
#[derive(Debug)]
pub struct Security {
    /// To who answers handshakes.
    pub end: ShardEnd,
    /// Who may come, as of now.
    pub access: Arc<Access>,
    /// What the appliance is known by.
    pub key: PublicKey,
    /// Those are served too who come in the clear.
    pub takes_plain: bool,
}

impl Security {
    /// Which sessions are taken, for people.
    #[must_use]
    pub fn takes(&self) -> &'static str {
        if self.takes_plain { "sealed and plain" } else { "sealed" }
    }
}

/// Who may do what, and what is needed for those who have keys.
#[derive(Debug)]
pub(super) struct Guard {
    /// `None` where all sessions are in the clear, and everybody may do everything.
    security: Option<Security>,
    open_to_all: Access,
}

impl Guard {
    /// For sessions in the clear.
    pub(super) fn new() -> Self {
        Self { security: None, open_to_all: Access::open_to_all() }
    }

    /// For sealed ones.
    pub(super) fn set(&mut self, security: Security) {
        self.security = Some(security);
    }

    /// Gives back what it has for sealed ones.
    pub(super) fn take(&mut self) -> Option<Security> {
        self.security.take()
    }

    /// Whether sessions in the clear are taken.
    pub(super) fn takes_plain(&self) -> bool {
        self.security.as_ref().is_none_or(|security| security.takes_plain)
    }

    fn access(&self) -> &Access {
        self.security.as_ref().map_or(&self.open_to_all, |security| &security.access)
    }

    /// What somebody may do; nothing, where it is not known any more.
    pub(super) fn rights(&self, identity: IdentityId) -> &Rights {
        const NONE: &Rights = &Rights::none();
        self.access().rights(identity).unwrap_or(NONE)
    }

    fn drop_elsewhere(&mut self, spent: Spent) {
        if let Some(security) = &mut self.security {
            security.end.drop_elsewhere(spent);
        }
    }
}

impl Stations {
    /// Somebody who receives at its address, and knows the appliance's key, wants a sealed session.
    pub(super) fn ask_for_keys(&mut self, peer: Peer, init: &Init) {
        let conn_id = self.sessions.new_id();
        let accept = self.accept_of(peer, conn_id, SUITE_AES_GCM);
        let accept =
            if self.sessions.has_room() { accept } else { accept.refused(ErrorCode::SessionsFull) };
        let Some(security) = &mut self.guard.security else { return };
        if !security.end.ask(&Request { peer, init: *init, accept }) {
            self.counters.add(Counter::DroppedInits, 1);
        }
    }

    /// Takes what was answered; returns what was sent.
    pub(super) fn take_answers(&mut self, port: &mut dyn Port) -> usize {
        let mut sent = 0_usize;
        for _ in 0..HANDSHAKES_A_TURN {
            let Some(security) = &mut self.guard.security else { break };
            let Ok(Answer { peer, .. }) = security.end.answers.peek() else { break };
            if port.reserve(*peer).is_none() {
                break;
            }
            let Ok(Answer { peer, resp, established }) = security.end.answers.pop() else { break };
            // Where there is no place any more nothing is said: it asks again.
            let stands = established.is_none_or(|established| self.establish(peer, established));
            if stands && send_to(port, peer, resp.as_bytes()) {
                sent = sent.saturating_add(1);
            }
        }
        sent
    }

    /// Takes keys that were made, and who has access from now on.
    pub(super) fn take_keys(&mut self) {
        for _ in 0..HANDSHAKES_A_TURN {
            let Some(security) = &mut self.guard.security else { return };
            let Ok(told) = security.end.told.pop() else { return };
            match told {
                Told::Made(SessionPlace { slot, conn_id }, direction, made) => {
                    let is_there = self.sessions.find(conn_id) == Some(slot);
                    let session = is_there.then(|| self.sessions.get_mut(slot));
                    let keys = session.and_then(|session| session.keys_mut());
                    let left = match keys {
                        Some(keys) => keys.take(direction, made).err(),
                        None => Some(made),
                    };
                    if let Some(left) = left {
                        self.guard.drop_elsewhere(Spent::Generation(left));
                    }
                }
                Told::Access(access) => self.take_access(access),
            }
        }
    }

    /// A session is there, once its client uses it; `false` where it has no place.
    fn establish(&mut self, peer: Peer, established: Established) -> bool {
        let Established { identity, key, client_id, conn_id, hello, keys } = established;
        let instance = u128::from_le_bytes(hello.instance);
        let requester = Requester { peer, client_id, instance, identity };
        if !self.guard.access().knows(&key, identity) || self.sessions.asked_by(requester).is_some()
        {
            self.guard.drop_elsewhere(Spent::Keys(keys));
            return false;
        }
        let datagram_bytes = usize::from(hello.datagram_bytes.get());
        match self.open_session(requester, Some((conn_id, keys)), datagram_bytes) {
            Ok(slot) => {
                self.sessions.get_mut(slot).key = key;
                true
            }
            Err(keys) => {
                self.drop_keys(keys);
                false
            }
        }
    }

    /// Others have access from now on: who has it no more is told so, and gone.
    fn take_access(&mut self, access: Arc<Access>) {
        let Some(security) = &mut self.guard.security else { return };
        let before = std::mem::replace(&mut security.access, access);
        self.guard.drop_elsewhere(Spent::Access(before));
        for slot in SessionSlot::all() {
            let session = self.sessions.get_mut(slot);
            if session.phase == Phase::Free {
                continue;
            }
            // What it may do is asked again.
            session.publishes_to = StreamSet::new();
            let (identity, key) = (session.identity, session.key);
            if !session.is_plain() && !self.guard.access().knows(&key, identity) {
                let farewell = self.sessions.get_mut(slot).farewell(ErrorCode::Revoked);
                self.close_session(slot);
                self.reply(Reply::Close { farewell });
            }
        }
        self.end_forbidden();
    }

    /// What consumers may not have any more ends.
    fn end_forbidden(&mut self) {
        let mut index = 0_usize;
        while index < self.fanout.len() {
            let subscription = self.fanout.get(index);
            let (slot, request) = (subscription.session(), subscription.request());
            let stream = subscription.cursor.stream();
            if !self.may(slot, stream, |rights, name| rights.subscribe.matches(name)) {
                self.end_subscription(slot, index);
                let (code, detail) = (ErrorCode::NotAuthorized, stream.0.into());
                self.reply(Reply::Error { slot, code, request, detail });
            } else {
                index = index.saturating_add(1);
            }
        }
    }

    /// What the client of a session may do.
    pub(super) fn rights(&self, slot: SessionSlot) -> &Rights {
        self.guard.rights(self.sessions.get(slot).identity)
    }

    /// Whether the client of a session may do something with a stream that there is; of one that there is not, whoever
    /// asks is told so.
    pub(super) fn may(
        &self,
        slot: SessionSlot,
        stream: StreamId,
        right: impl FnOnce(&Rights, &str) -> bool,
    ) -> bool {
        let Some(facts) = self.log.stream(stream) else { return true };
        right(self.rights(slot), &facts.name)
    }

    /// Whether it may publish to a stream; asked once for each.
    #[inline]
    pub(super) fn may_publish(&mut self, slot: SessionSlot, stream: StreamId) -> bool {
        if self.sessions.get(slot).publishes_to.has(stream) {
            return true;
        }
        let may = self.may(slot, stream, |rights, name| rights.publish.matches(name));
        if may && self.log.stream(stream).is_some() {
            self.sessions.get_mut(slot).publishes_to.add(stream);
        }
        may
    }

    /// The keys of a session go on in time.
    pub(super) fn keep_keys(&mut self, slot: SessionSlot) {
        let Some(security) = &mut self.guard.security else { return };
        let session = self.sessions.get_mut(slot);
        let place = SessionPlace { slot, conn_id: session.conn_id };
        let Some(keys) = session.keys_mut() else { return };
        while security.end.asks.slots() > 0 {
            let ask = match keys.keep(self.now.monotonic_ns) {
                None => break,
                Some(Upkeep::Drop(generation)) => Ask::Drop(Spent::Generation(generation)),
                Some(Upkeep::Make(direction, chain)) => Ask::Make(place, direction, chain),
            };
            security.end.asks.push(ask).expect("there was room");
        }
    }

    pub(super) fn drop_keys(&mut self, keys: Option<Box<SessionKeys>>) {
        if let Some(keys) = keys {
            self.guard.drop_elsewhere(Spent::Keys(keys));
        }
    }
}
