//! Sealing: what is said in a session can be read and changed by its two ends only.
//!
//! A handshake (`Noise_IKpsk2_25519_AESGCM_SHA256`) gives each direction a secret. Of that follow, generation after
//! generation, the keys its datagrams are sealed with (AES-128-GCM): whoever learns a key cannot open what was said
//! before its generation. Keys are made and dropped where there is time for it, never on a shard's path.

pub mod entropy;
pub(crate) mod generation;
pub(crate) mod keys;
pub(crate) mod noise;

/// Bytes that sealing adds behind a datagram.
pub const SEAL_BYTES: usize = 16;
