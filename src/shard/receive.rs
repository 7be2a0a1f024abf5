//! The receive station: what a datagram says, and to whom.

use crate::access::IdentityId;
use crate::ids::{ConnId, Peer};
use crate::metrics::Counter;
use crate::position::SessionSlot;
use crate::seal::keys::SessionKeys;
use crate::session::gate::Verdict;
use crate::session::table::{Phase, Requester, Unopened};
use crate::wire::control::{CLOSE_FORGET, ErrorCode, HEARTBEAT_ANSWER, Heartbeat};
use crate::wire::datagram::{Init, RESET_CAUSE_BYTES};
use crate::wire::frame::Body;
use crate::wire::{Datagram, FromClient, parse};

use super::{Reply, Stations};

impl Stations {
    /// Handles one datagram. Whatever is wrong with it is counted and changes nothing.
    pub(super) fn on_datagram(&mut self, peer: Peer, bytes: &mut [u8]) {
        self.counters.add(Counter::DatagramsReceived, 1);
        match parse(bytes) {
            Ok(Datagram::Session { conn_id, packet_no, frames }) => {
                let slot = self.session_of(conn_id, peer);
                match slot.filter(|&slot| self.sessions.get(slot).is_plain()) {
                    Some(slot) => self.on_session(slot, packet_no, frames),
                    None => self.on_unknown(peer, conn_id, bytes.len()),
                }
            }
            Ok(Datagram::Sealed { conn_id, packet_no, phase }) => {
                let Some(slot) = self.session_of(conn_id, peer) else {
                    self.on_unknown(peer, conn_id, bytes.len());
                    return;
                };
                let now_ns = self.now.monotonic_ns;
                match self.sessions.opens(slot, packet_no, phase, bytes, now_ns) {
                    Ok(frames) => {
                        self.on_session(slot, packet_no, frames);
                        self.keep_keys(slot);
                    }
                    Err(Unopened::Repeated) => self.counters.add(Counter::DroppedRepeated, 1),
                    Err(Unopened::Forged) => self.counters.add(Counter::DroppedForged, 1),
                }
            }
            Ok(Datagram::Init(init)) => self.on_init(peer, init),
            Ok(Datagram::OtherVersion(init)) => {
                self.counters.add(Counter::DroppedMalformed, 1);
                if let Some(versions) = self.gate.versions(init) {
                    self.reply(Reply::Versions { peer, versions });
                }
            }
            // What only a server says.
            Ok(
                Datagram::Retry(_) | Datagram::Resp(_) | Datagram::Reset(_) | Datagram::Versions(_),
            )
            | Err(_) => self.counters.add(Counter::DroppedMalformed, 1),
        }
    }

    #[inline]
    fn session_of(&self, conn_id: ConnId, peer: Peer) -> Option<SessionSlot> {
        let slot = self.sessions.find(conn_id);
        slot.filter(|&slot| self.sessions.get(slot).peer.addr == peer.addr)
    }

    /// A datagram of a session that there is not.
    fn on_unknown(&mut self, peer: Peer, conn_id: ConnId, bytes: usize) {
        self.counters.add(Counter::DroppedUnknownSession, 1);
        // Of one that there is nothing is said to somebody else: with what RESET says, its client could be made to
        // believe that it is gone.
        let is_of_another = self.sessions.find(conn_id).is_some();
        if bytes < RESET_CAUSE_BYTES || is_of_another || !self.sessions.made(conn_id) {
            return;
        }
        if let Some(reset) = self.gate.reset(conn_id, self.now.monotonic_ns) {
            self.reply(Reply::Reset { peer, reset });
        }
    }

    /// Somebody wants a session.
    fn on_init(&mut self, peer: Peer, init: &Init) {
        match self.gate.judge(peer.addr, init, self.now.unix_ns) {
            Verdict::Drop => self.counters.add(Counter::DroppedInits, 1),
            Verdict::Retry(retry) => self.reply(Reply::Retry { peer, retry }),
            Verdict::Admit if init.is_plain() => self.admit(peer, init),
            Verdict::Admit => self.ask_for_keys(peer, init),
        }
    }

    fn admit(&mut self, peer: Peer, init: &Init) {
        if self.guard.rights(IdentityId::NOBODY).are_none() {
            // It would take a place for nothing.
            self.counters.add(Counter::DroppedInits, 1);
            return;
        }
        let client_id = ConnId(init.client_id.get());
        let instance = u128::from_le_bytes(init.hello.instance);
        let identity = IdentityId::NOBODY;
        let requester = Requester { peer, client_id, instance, identity };
        if let Some(slot) = self.sessions.asked_by(requester) {
            self.reply(Reply::Accepted { slot });
            return;
        }
        let datagram_bytes = usize::from(init.hello.datagram_bytes.get());
        let reply = match self.open_session(requester, None, datagram_bytes) {
            Ok(slot) => Reply::Accepted { slot },
            Err(_) => Reply::Rejected { peer, client_id, code: ErrorCode::SessionsFull },
        };
        self.reply(reply);
    }

    /// Gives a session to a client, with a number and keys where these were made before; they come back where there is
    /// no place.
    pub(super) fn open_session(
        &mut self,
        requester: Requester,
        made: Option<(ConnId, Box<SessionKeys>)>,
        datagram_bytes: usize,
    ) -> Result<SessionSlot, Option<Box<SessionKeys>>> {
        let leaves = self.sessions.leaves_for_another();
        if let Some(leaves) = leaves.or_else(|| self.sessions.leaves_for_itself(requester)) {
            self.close_session(leaves);
        }
        let (conn_id, keys) = match made {
            Some((conn_id, keys)) => (conn_id, Some(keys)),
            None => (self.sessions.new_id(), None),
        };
        let slot = self.sessions.open_as(conn_id, requester, keys, self.now.monotonic_ns)?;
        self.sessions.get_mut(slot).datagram_bytes =
            datagram_bytes.min(self.settings.datagram_bytes);
        self.counters.add(Counter::SessionsOpened, 1);
        Ok(slot)
    }

    fn on_session(&mut self, slot: SessionSlot, packet_no: u64, frames: Body<'_>) {
        if !self.sessions.accepts(slot, packet_no, self.now.monotonic_ns) {
            self.counters.add(Counter::DroppedRepeated, 1);
            return;
        }
        if self.sessions.get(slot).phase == Phase::Unconfirmed {
            self.sessions.confirm(slot);
            while let Some(before) = self.sessions.replaced_by(slot) {
                self.close_session(before);
            }
        }
        for frame in frames.from_client() {
            let Ok(frame) = frame else {
                self.counters.add(Counter::DroppedMalformed, 1);
                self.end_nonsense(slot);
                return;
            };
            if let FromClient::Register(register) = &frame {
                // One a datagram, and what follows is not looked at: it is of a session that is not open.
                self.on_register(slot, register);
                return;
            }
            if let FromClient::Close(close) = &frame {
                self.on_close(slot, close.flags.get() & CLOSE_FORGET != 0);
                return;
            }
            if self.sessions.get(slot).phase != Phase::Open {
                self.counters.add(Counter::DroppedMalformed, 1);
                return;
            }
            if self.sessions.hear(slot) {
                self.tell_condition(slot);
            }
            self.on_frame(slot, &frame);
        }
    }

    /// What is sealed is what its client said: if that is nonsense, the client is broken. In the clear it may be
    /// anybody's.
    fn end_nonsense(&mut self, slot: SessionSlot) {
        if !self.sessions.get(slot).is_plain() {
            let farewell = self.sessions.get_mut(slot).farewell(ErrorCode::Protocol);
            self.close_session(slot);
            self.reply(Reply::Close { farewell });
        }
    }

    fn on_frame(&mut self, slot: SessionSlot, frame: &FromClient<'_>) {
        match frame {
            FromClient::Publish(publish) => self.on_publish(slot, publish),
            FromClient::Probe(probe) => self.on_probe(slot, probe),
            FromClient::Status(status) => self.on_status(slot, status),
            FromClient::Heartbeat(heartbeat) => self.on_heartbeat(slot, heartbeat),
            FromClient::Subscribe(subscribe) => self.on_subscribe(slot, subscribe),
            FromClient::Unsubscribe(unsubscribe) => self.on_unsubscribe(slot, unsubscribe),
            FromClient::CreateStream(request) => self.on_create_stream(slot, request),
            FromClient::DescribeStream(request) => self.on_describe_stream(slot, request),
            FromClient::TrimStream(request) => self.on_trim_stream(slot, request),
            FromClient::ListStreams(request) => {
                let (request, after) = (request.request.get(), request.after.get());
                self.reply(Reply::List { slot, request, after });
            }
            FromClient::Pad(_) | FromClient::Register(_) | FromClient::Close(_) => {}
        }
    }

    fn on_heartbeat(&mut self, slot: SessionSlot, heartbeat: &Heartbeat) {
        if heartbeat.flags.get() & HEARTBEAT_ANSWER != 0 {
            self.reply(Reply::Heartbeat { slot });
        }
    }

    /// Notes a reply for the transmit station.
    pub(super) fn reply(&mut self, reply: Reply) {
        self.outbox.note(reply, &mut self.counters);
    }
}
