//! Keys: X25519, 32 bytes each.

use std::fmt;

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
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

impl PublicKey {
    /// Whether somebody can have its secret: it is written the one way there is to write it, and no point of low order,
    /// with which everybody agrees on the same shared secret.
    ///
    /// # Panics
    /// Never: every 32 bytes are a secret.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let any = PrivateKey::from_private_key(&X25519, &[1; 32]).expect("32 bytes");
        let peer = UnparsedPublicKey::new(&X25519, self.0);
        is_reduced(&self.0) && agree(&any, peer, (), |_| Ok(())).is_ok()
    }
}

/// Whether the number is below 2^255 - 19: what is not is another way to write a smaller one.
fn is_reduced(bytes: &[u8; 32]) -> bool {
    let [lowest, middle @ .., highest] = bytes;
    *highest < 0x7f
        || *highest == 0x7f && (middle.iter().any(|byte| *byte != 0xff) || *lowest < 0xed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The points of order 1, 2, 4 and 8, and other ways to write them and a good one.
    #[test]
    fn a_public_key_that_everybody_could_speak_for_is_not_sound() {
        let hex = |text: &str| {
            let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap();
            PublicKey(bytes.try_into().unwrap())
        };
        for bad in [
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0100000000000000000000000000000000000000000000000000000000000000",
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "f6ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        ] {
            assert!(!hex(bad).is_sound(), "{bad}");
        }
        let mut good = SecretKey::from_bytes([9; 32]).public();
        assert!(good.is_sound());
        good.0[31] |= 0x80;
        assert!(!good.is_sound(), "the same point, written otherwise");
    }

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
