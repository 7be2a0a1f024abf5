//! Sealed sessions for tests: an appliance's key, who has access, and somebody who answers handshakes.

use std::sync::Arc;

use crate::access::key::{PublicKey, SecretKey};
use crate::access::{Access, Identity, Rights};
use crate::client::{ClientKeys, Security};
use crate::seal::entropy::Entropy;
use crate::seal::keys::Rotation;
use crate::session::handshake::{Handshaker, HandshakerEnd, rings};
use crate::shard::Security as ShardSecurity;

/// The appliance's.
pub(crate) fn server_key() -> SecretKey {
    SecretKey::from_bytes([77; 32])
}

/// That of a client, by a number.
pub(crate) fn client_key(number: u8) -> SecretKey {
    SecretKey::from_bytes([number; 32])
}

/// One who may do everything, with the key of number 1.
#[cfg(feature = "sim")]
pub(crate) fn everything() -> Access {
    let keys = vec![client_key(1).public()];
    let all = vec![Identity::new("everybody", keys, None, Rights::all())];
    Access::new(all, Rights::none()).expect("one identity")
}

/// Somebody who may do so much, with the key of this number.
#[cfg(test)]
pub(crate) fn identity(name: &str, number: u8, rights: Rights) -> Identity {
    Identity::new(name, vec![client_key(number).public()], None, rights)
}

/// What a client needs that comes with the key of this number.
pub(crate) fn keys(number: u8) -> ClientKeys {
    let (server, secret) = (server_key().public(), client_key(number));
    ClientKeys { server, secret, psk: None }
}

/// Who comes with the key of this number.
pub(crate) fn security(number: u8) -> Security {
    Security::Sealed(Arc::new(keys(number)))
}

/// Who answers handshakes, for all shards.
pub(crate) struct House {
    pub(crate) handshaker: Handshaker,
    access: Arc<Access>,
    ends: Vec<HandshakerEnd>,
    takes_plain: bool,
}

impl House {
    /// For these, and those who come in the clear where that is so.
    pub(crate) fn new(access: Access, takes_plain: bool, rotation: Rotation, seed: u64) -> Self {
        let access = Arc::new(access);
        let entropy = Entropy::seeded(seed);
        let handshaker = Handshaker::new(server_key(), Arc::clone(&access), entropy);
        let handshaker = handshaker.with_rotation(rotation);
        Self { handshaker, access, ends: Vec::new(), takes_plain }
    }

    /// What one more shard needs.
    pub(crate) fn for_shard(&mut self) -> ShardSecurity {
        let (end, own) = rings(Arc::clone(&self.access));
        self.ends.push(own);
        let key: PublicKey = server_key().public();
        ShardSecurity { end, access: Arc::clone(&self.access), key, takes_plain: self.takes_plain }
    }

    /// Others have access from now on.
    #[cfg(test)]
    pub(crate) fn set_access(&mut self, access: Access) {
        self.access = Arc::new(access);
        self.handshaker.set_access(Arc::clone(&self.access));
    }

    /// All that shards want done.
    pub(crate) fn turn(&mut self, now_ns: u64) {
        for end in &mut self.ends {
            self.handshaker.turn(end, now_ns);
        }
    }
}
