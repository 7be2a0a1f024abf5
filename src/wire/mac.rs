//! What shows that a sender knows whom it asks, or was told something: `SipHash`-2-4 of 128 bits.

use std::hash::Hasher;

use sha2::{Digest, Sha256};
use siphasher::sip128::{Hasher128, SipHasher24};
use zerocopy::IntoBytes;

use super::datagram::{
    INIT_MAC_BYTES, Init, RETRY_MAC_BYTES, Retry, Tag, VERSIONS_MAC_BYTES, Versions,
};

/// A key of such tags.
#[derive(Clone, Copy, Debug)]
pub struct MacKey(Tag);

impl MacKey {
    /// This one.
    #[must_use]
    pub fn new(key: Tag) -> Self {
        Self(key)
    }

    /// That of a server with this public key; in the clear it is zeros, and the tag shows no more than that the sender
    /// speaks this protocol.
    #[must_use]
    pub fn of_server(public_key: &[u8; 32]) -> Self {
        let hash = Sha256::new_with_prefix(b"buslane mac1").chain_update(public_key).finalize();
        let (key, _) = hash.split_first_chunk().expect("a hash has 32 bytes");
        Self(*key)
    }

    /// The tag of some bytes, one part behind the other.
    #[must_use]
    pub fn tag(&self, parts: &[&[u8]]) -> Tag {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        for part in parts {
            hasher.write(part);
        }
        hasher.finish128().as_bytes()
    }
}

/// Whether two tags are the same; how long that takes does not say where they differ.
#[must_use]
pub fn is_same(one: &Tag, other: &Tag) -> bool {
    one.iter().zip(other).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

#[cfg(test)]
impl MacKey {
    pub(super) fn for_tests(&self) -> Tag {
        self.0
    }
}

impl Init {
    /// The same with its `mac`.
    #[must_use]
    pub fn with_mac(mut self, key: &MacKey) -> Self {
        self.mac = key.tag(&[&self.as_bytes()[..INIT_MAC_BYTES]]);
        self
    }

    /// Whether its `mac` is right.
    #[must_use]
    pub fn has_mac(&self, key: &MacKey) -> bool {
        is_same(&self.mac, &key.tag(&[&self.as_bytes()[..INIT_MAC_BYTES]]))
    }
}

impl Retry {
    /// The same with its `mac`.
    #[must_use]
    pub fn with_mac(mut self, key: &MacKey) -> Self {
        self.mac = key.tag(&[&self.as_bytes()[..RETRY_MAC_BYTES]]);
        self
    }

    /// Whether its `mac` is right.
    #[must_use]
    pub fn has_mac(&self, key: &MacKey) -> bool {
        is_same(&self.mac, &key.tag(&[&self.as_bytes()[..RETRY_MAC_BYTES]]))
    }
}

impl Versions {
    /// The same with its `mac`.
    #[must_use]
    pub fn with_mac(mut self, key: &MacKey) -> Self {
        self.mac = key.tag(&[&self.as_bytes()[..VERSIONS_MAC_BYTES]]);
        self
    }

    /// Whether its `mac` is right.
    #[must_use]
    pub fn has_mac(&self, key: &MacKey) -> bool {
        is_same(&self.mac, &key.tag(&[&self.as_bytes()[..VERSIONS_MAC_BYTES]]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ConnId;
    use crate::wire::datagram::Hello;

    /// Of the authors of `SipHash`: key 0, 1, 2 ..., and the first bytes of the same.
    #[test]
    fn tags_agree_with_the_published_vectors() {
        let bytes: [u8; 16] = std::array::from_fn(|at| u8::try_from(at).unwrap());
        let key = MacKey::new(bytes);
        let expected = [
            (0, "a3817f04ba25a8e66df67214c7550293"),
            (1, "da87c1d86b99af44347659119b22fc45"),
            (15, "5493e99933b0a8117e08ec0f97cfc3d9"),
        ];
        for (len, expected) in expected {
            let tag = key.tag(&[&bytes[..len / 2], &bytes[len / 2..len]]);
            let hex: String = tag.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, expected, "{len} bytes");
        }
    }

    #[test]
    fn a_changed_byte_before_the_tag_is_noticed() {
        let key = MacKey::of_server(&[0; 32]);
        let init = Init::plain(ConnId(7), [1; 16], Hello::new(5, 1472, 9)).with_mac(&key);
        assert!(init.has_mac(&key) && !init.has_mac(&MacKey::of_server(&[1; 32])));
        let mut other = init;
        other.client_id = 8.into();
        assert!(!other.has_mac(&key));
        let retry = Retry::new(ConnId(7), [2; 16]).with_mac(&key);
        let mut other = retry;
        other.cookie[15] ^= 1;
        assert!(retry.has_mac(&key) && !other.has_mac(&key));
    }
}
