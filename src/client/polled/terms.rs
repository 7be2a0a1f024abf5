//! What the appliance said of itself when it opened the session: which log it is, why what it acknowledges is safe, how
//! many shards it has, and how long a message may be.

use std::net::SocketAddrV4;

use crate::client::{ClientError, Compared, ShardFacts, SizeLimit};
use crate::ids::{Durability, Lineage};
use crate::wire::control::Registered;
use crate::wire::datagram::Accept;
use crate::wire::publish::{MESSAGE_HEAD_BYTES, PUBLISH_HEAD_BYTES};
use crate::wire::{DATAGRAM_HEADER_BYTES, FRAME_HEAD_BYTES};

/// What a datagram spends before the payload of its only message.
const MESSAGE_OVERHEAD: usize =
    DATAGRAM_HEADER_BYTES + FRAME_HEAD_BYTES + PUBLISH_HEAD_BYTES + MESSAGE_HEAD_BYTES;

/// What holds for the session.
#[derive(Debug)]
pub(super) struct Terms {
    /// 0 before the first session.
    epoch: u64,
    /// The log that the first answer was from; zeros before that.
    log_id: [u8; 16],
    /// Of what is appended in the session.
    lineage: Lineage,
    durability: Durability,
    shards: ShardFacts,
    /// Payload of one message; 0 where nothing is taken.
    message_bytes_max: usize,
    /// What makes it so small.
    size_limit: SizeLimit,
    /// UDP payload that this side's port takes.
    own_datagram_bytes: usize,
    /// What sealing adds to it.
    seal_bytes: usize,
    server_datagram_bytes: usize,
}

impl Terms {
    pub(super) fn new(server: SocketAddrV4, own_datagram_bytes: usize, seal_bytes: usize) -> Self {
        Self {
            epoch: 0,
            log_id: [0; 16],
            lineage: Lineage(0),
            durability: Durability::Volatile,
            shards: ShardFacts { shard: 0, shards: 1, base: server },
            message_bytes_max: 0,
            size_limit: SizeLimit::Server,
            own_datagram_bytes,
            seal_bytes,
            server_datagram_bytes: own_datagram_bytes,
        }
    }

    /// Whether a session can be of the log that this client has published to or read from.
    pub(super) fn check(
        &self,
        server: SocketAddrV4,
        registered: &Registered,
    ) -> Result<(), ClientError> {
        if self.log_id != [0; 16] && self.log_id != registered.log_id {
            let (begun, found) = (self.log(), tag(&registered.log_id));
            return Err(ClientError::OtherLog { server, begun, found });
        }
        let found = registered.epoch.get();
        if found < self.epoch {
            let (what, acknowledged) = (Compared::Epoch, self.epoch);
            return Err(ClientError::Behind { server, what, acknowledged, found });
        }
        Ok(())
    }

    /// Takes what was said of the log; `window_bytes` is what a message may have at most on this side.
    pub(super) fn take(&mut self, registered: &Registered, window_bytes: usize) {
        self.epoch = registered.epoch.get();
        self.log_id = registered.log_id;
        self.lineage = Lineage(registered.lineage.get());
        self.durability =
            Durability::from_code(registered.durability).unwrap_or(Durability::Volatile);
        self.take_sizes(registered, window_bytes);
    }

    /// Takes what was said of the appliance when it gave a session.
    pub(super) fn take_shards(&mut self, server: SocketAddrV4, accept: &Accept) {
        // Ports may be mapped on the way: the others are as far from the one dialled as they are over there.
        let base_port = server.port().saturating_sub(accept.shard.get());
        self.shards = ShardFacts {
            shard: u32::from(accept.shard.get()),
            shards: u32::from(accept.shards.get()),
            base: SocketAddrV4::new(*server.ip(), base_port),
        };
        self.server_datagram_bytes = usize::from(accept.datagram_bytes.get());
    }

    /// What a message may be long: the least of what the server takes, this side's port, and its window.
    fn take_sizes(&mut self, registered: &Registered, window_bytes: usize) {
        let announced = usize::try_from(registered.message_bytes_max.get()).expect("32 bits fit");
        self.server_datagram_bytes = usize::from(registered.datagram_bytes.get());
        let overhead = MESSAGE_OVERHEAD.saturating_add(self.seal_bytes);
        let fits = |datagram_bytes: usize| datagram_bytes.saturating_sub(overhead);
        let limits = [
            (announced.min(fits(self.server_datagram_bytes)), SizeLimit::Server),
            (fits(self.own_datagram_bytes), SizeLimit::Client),
            (window_bytes, SizeLimit::Window),
        ];
        let least = limits.into_iter().min_by_key(|(bytes, _)| *bytes);
        (self.message_bytes_max, self.size_limit) = least.expect("three limits");
    }

    /// It goes to another shard, whose epochs are its own; nothing is taken for a producer that is not known yet.
    pub(super) fn forget_log(&mut self) {
        (self.epoch, self.message_bytes_max) = (0, 0);
        (self.log_id, self.lineage) = ([0; 16], Lineage(0));
    }

    /// Whether there was a session with this log: then the appliance is the one that is meant, and what was offered
    /// to it may still become durable.
    pub(super) fn was_connected(&self) -> bool {
        self.epoch != 0
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The log, as `log describe` begins its identity; 0 before there was one.
    pub(super) fn log(&self) -> u32 {
        tag(&self.log_id)
    }

    pub(super) fn log_id(&self) -> [u8; 16] {
        self.log_id
    }

    pub(super) fn lineage(&self) -> Lineage {
        self.lineage
    }

    pub(super) fn durability(&self) -> Durability {
        self.durability
    }

    pub(super) fn shards(&self) -> ShardFacts {
        self.shards
    }

    pub(super) fn message_bytes_max(&self) -> usize {
        self.message_bytes_max
    }

    /// Of a message so long that it is not taken.
    pub(super) fn size_limit(&self) -> SizeLimit {
        self.size_limit
    }

    /// Of a datagram to the server.
    pub(super) fn server_datagram_bytes(&self) -> usize {
        self.server_datagram_bytes
    }

    /// Whose datagrams are too small for a message of the server's.
    pub(super) fn size_limit_of_consuming(&self) -> SizeLimit {
        let ours = self.own_datagram_bytes <= self.server_datagram_bytes;
        if ours { SizeLimit::Client } else { SizeLimit::Server }
    }
}

/// The first bytes of a log's identity.
fn tag(log_id: &[u8; 16]) -> u32 {
    let [a, b, c, d, ..] = *log_id;
    u32::from_le_bytes([d, c, b, a])
}
