//! The receive station: what a datagram says, and to whom.

use crate::ids::Peer;
use crate::metrics::Counter;
use crate::position::SessionSlot;
use crate::session::table::Phase;
use crate::wire::control::{ErrorCode, ErrorHead, Heartbeat, Registered};
use crate::wire::{DATAGRAM_HEADER_BYTES, FRAME_HEAD_BYTES, Frame, parse};

use super::{Reply, Stations};
use crate::limits::REGISTERS_A_DATAGRAM;

/// Length of the datagram that refuses somebody without a session.
pub const REFUSAL_BYTES: usize = DATAGRAM_HEADER_BYTES + FRAME_HEAD_BYTES + size_of::<ErrorHead>();

/// Length of the datagram that answers a registration.
const REGISTERED_BYTES: usize = DATAGRAM_HEADER_BYTES + FRAME_HEAD_BYTES + size_of::<Registered>();

impl Stations {
    /// Handles one datagram. Whatever is wrong with it is counted and changes nothing.
    pub(super) fn on_datagram(&mut self, peer: Peer, bytes: &[u8]) {
        self.counters.add(Counter::DatagramsReceived, 1);
        let Ok((conn_id, _, frames)) = parse(bytes) else {
            self.counters.add(Counter::DroppedMalformed, 1);
            return;
        };
        if conn_id.0 == 0 {
            // No answers are longer than what was asked, so that nobody is flooded through us.
            let mut answers = REGISTERS_A_DATAGRAM.min(bytes.len() / REGISTERED_BYTES);
            for frame in frames {
                if let (Ok(Frame::Register(register)), Some(left)) = (frame, answers.checked_sub(1))
                {
                    answers = left;
                    self.on_register(peer, register);
                } else {
                    self.counters.add(Counter::DroppedMalformed, 1);
                    break;
                }
            }
            return;
        }
        let slot = self.sessions.find(conn_id).filter(|&slot| {
            let session = self.sessions.get(slot);
            session.peer.addr == peer.addr && session.phase == Phase::Open
        });
        let Some(slot) = slot else {
            self.counters.add(Counter::DroppedUnknownSession, 1);
            if bytes.len() >= REFUSAL_BYTES && frames.ask() {
                let code = ErrorCode::UnknownSession;
                self.reply(Reply::Refuse { peer, conn_id, code, detail: 0 });
            }
            return;
        };
        if self.sessions.hear(slot, self.now.monotonic_ns) {
            self.tell_condition(slot);
        }
        for frame in frames {
            let Ok(frame) = frame else {
                self.counters.add(Counter::DroppedMalformed, 1);
                return;
            };
            self.on_frame(slot, &frame);
            if self.sessions.get(slot).phase == Phase::Free {
                return;
            }
        }
    }

    fn on_frame(&mut self, slot: SessionSlot, frame: &Frame<'_>) {
        match frame {
            Frame::Publish(publish) => self.on_publish(slot, publish),
            Frame::Probe(probe) => self.on_probe(slot, probe),
            Frame::Status(status) => self.on_status(slot, status),
            Frame::Heartbeat(heartbeat) => self.on_heartbeat(slot, heartbeat),
            Frame::Subscribe(subscribe) => self.on_subscribe(slot, subscribe),
            Frame::Unsubscribe(unsubscribe) => self.on_unsubscribe(slot, unsubscribe),
            Frame::CreateStream(request) => self.on_create_stream(slot, request, None),
            Frame::CreateStreamOn(asked) => {
                self.on_create_stream(slot, &asked.stream, Some(asked.shard));
            }
            Frame::DescribeStream(request) => self.on_describe_stream(slot, request),
            Frame::TrimStream(request) => self.on_trim_stream(slot, request),
            Frame::ListStreams(request) => {
                let (request, after) = (request.request.get(), request.after.get());
                self.reply(Reply::List { slot, request, after });
            }
            Frame::Close => self.close_session(slot),
            Frame::Retire(retire) => self.on_retire(slot, retire),
            // What only a server says, and a registration inside a session, is not for us.
            Frame::Register(_)
            | Frame::Registered(_)
            | Frame::Ack(_)
            | Frame::Nak(_)
            | Frame::Subscribed(_)
            | Frame::Data(_)
            | Frame::Trimmed(_)
            | Frame::DataLoss(_)
            | Frame::StreamInfo(_)
            | Frame::ListEnd(_)
            | Frame::Redirect(_)
            | Frame::Error(_) => self.counters.add(Counter::DroppedMalformed, 1),
        }
    }

    fn on_heartbeat(&mut self, slot: SessionSlot, _heartbeat: &Heartbeat) {
        self.reply(Reply::Heartbeat { slot });
    }

    /// Notes a reply for the transmit station.
    pub(super) fn reply(&mut self, reply: Reply) {
        self.outbox.note(reply, &mut self.counters);
    }
}
