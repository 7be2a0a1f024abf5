//! Sessions without clients, for the tests of a shard.

use super::Stations;
use crate::access::IdentityId;
use crate::ids::{ConnId, Peer, ProducerId, ProducerName};
use crate::position::SessionSlot;
use crate::session::table::{Phase, Requester};
use crate::wire::control::{
    CreateStream, CreateStreamHead, DescribeStream, DescribeStreamHead, Register, RegisterHead,
    Subscribe, Want,
};
use zerocopy::FromZeros;

impl Stations {
    /// A session of a client that has shown to be at its address, and has not registered.
    pub(super) fn confirmed(&mut self, peer: Peer, number: u64) -> SessionSlot {
        let (client_id, instance) = (ConnId(number + 1), u128::from(number) + 1);
        let identity = IdentityId::NOBODY;
        let requester = Requester { peer, client_id, instance, identity };
        let slot = self.sessions.open(requester, self.now.monotonic_ns).expect("a free place");
        self.sessions.confirm(slot);
        slot
    }

    /// One that has registered as nobody, and says nothing.
    pub(super) fn silent(&mut self, peer: Peer, number: u64) -> SessionSlot {
        let slot = self.confirmed(peer, number);
        self.sessions.get_mut(slot).phase = Phase::Open;
        slot
    }

    /// A session registers, as a new producer where it wants one.
    pub(super) fn registers(&mut self, slot: SessionSlot, want: Want) {
        let mut head = RegisterHead::new_zeroed();
        head.request = 1.into();
        head.datagram_bytes = 1_472.into();
        self.on_register(slot, &Register { head: &head, want, name: ProducerName::NONE });
    }

    /// A session registers as a producer that it takes over.
    pub(super) fn takes_over(&mut self, slot: SessionSlot, producer: ProducerId) {
        let mut head = RegisterHead::new_zeroed();
        head.request = 1.into();
        head.datagram_bytes = 1_472.into();
        head.producer_id = producer.0.into();
        let register = Register { head: &head, want: Want::Known, name: ProducerName::NONE };
        self.on_register(slot, &register);
    }

    /// A session asks for a stream to be made.
    pub(super) fn asks_to_create(&mut self, slot: SessionSlot, request: u32, name: &str) {
        let shard = crate::wire::control::ANY_SHARD.into();
        let head = CreateStreamHead { request: request.into(), shard };
        self.on_create_stream(slot, &CreateStream { head: &head, name });
    }

    /// A session asks what a stream is.
    pub(super) fn asks_to_describe(&mut self, slot: SessionSlot, request: u32, name: &str) {
        let head = DescribeStreamHead { request: request.into(), stream: 0.into() };
        self.on_describe_stream(slot, &DescribeStream { head: &head, name });
    }

    /// A session asks for a stream from its start.
    pub(super) fn asks_to_subscribe(&mut self, slot: SessionSlot, request: u32, stream: u32) {
        let mut subscribe = Subscribe::new_zeroed();
        (subscribe.request, subscribe.stream) = (request.into(), stream.into());
        subscribe.window = 16.into();
        self.on_subscribe(slot, &subscribe);
    }
}
