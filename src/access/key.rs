//! Keys: X25519, 32 bytes each.

use std::fmt;

use aws_lc_rs::agreement::{PrivateKey, X25519};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A key that only its owner knows. Its memory is zeroed when it is dropped, and nothing prints it.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct SecretKey([u8; 32]);

/// What others know its owner by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; 32]);

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

impl SecretKey {
    /// A new one, random.
    ///
    /// # Panics
    /// When the operating system gives no random bytes.
    #[must_use]
    pub fn generate() -> Self {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
        Self(bytes)
    }

    /// This one.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What others know its owner by.
    ///
    /// # Panics
    /// Never: every 32 bytes are a key.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let key = PrivateKey::from_private_key(&X25519, &self.0).expect("32 bytes");
        let public = key.compute_public_key().expect("a key has its public half");
        PublicKey(public.as_ref().try_into().expect("32 bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of RFC 7748, 5.2: the first iteration.
    #[test]
    fn the_public_half_agrees_with_the_published_one() {
        let mut nine = [0; 32];
        nine[0] = 9;
        let public = SecretKey::from_bytes(nine).public();
        let expected = "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079";
        assert_eq!(data_encoding::HEXLOWER.encode(&public.0), expected);
    }

    #[test]
    fn a_secret_is_not_printed() {
        let secret = SecretKey::from_bytes([7; 32]);
        assert_eq!(format!("{secret:?}"), "SecretKey(..)");
    }
}
