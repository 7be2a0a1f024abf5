//! A generation of a direction's keys, and what the next one follows from.

use std::fmt;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::SEAL_BYTES;

/// Bytes before what is sealed: they can be read by everybody, and changed by nobody.
const OPEN_BYTES: usize = 16;

/// Phases, after which they begin again: enough to tell a generation from those beside it.
const PHASES: u8 = 4;

/// What a generation's keys follow from, and the next one's.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub(crate) struct Chain {
    pub(super) phase: u8,
    secret: [u8; 32],
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain").field("phase", &self.phase).finish_non_exhaustive()
    }
}

/// A length of derived bytes.
struct Bytes(usize);

impl KeyType for Bytes {
    fn len(&self) -> usize {
        self.0
    }
}

impl Chain {
    /// That of a direction whose secret the handshake gave.
    pub(crate) fn begin(secret: &[u8; 32]) -> Self {
        Self { phase: 0, secret: *secret }
    }

    fn derive<const N: usize>(&self, purpose: &str) -> [u8; N] {
        let mut bytes = [0; N];
        let secret = Prk::new_less_safe(HKDF_SHA256, &self.secret);
        let info = [purpose.as_bytes()];
        let derived = secret.expand(&info, Bytes(N)).expect("a few bytes");
        derived.fill(&mut bytes).expect("as many as were asked for");
        bytes
    }
}

/// What follows from a chain, for whoever compares it with what others make of it.
#[cfg(test)]
pub(crate) struct Derived {
    pub(crate) secret: [u8; 32],
    pub(crate) key: [u8; 16],
    pub(crate) iv: [u8; 12],
}

#[cfg(test)]
impl Chain {
    pub(crate) fn derived(&self) -> Derived {
        let (key, iv) = (self.derive("buslane key"), self.derive("buslane iv"));
        Derived { secret: self.secret, key, iv }
    }
}

/// The keys of a direction for some of its datagrams. Its memory is zeroed when it is dropped.
pub(crate) struct Generation {
    phase: u8,
    key: LessSafeKey,
    iv: [u8; 12],
    after: Chain,
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation").field("phase", &self.phase).finish_non_exhaustive()
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.iv.zeroize();
    }
}

impl Generation {
    /// The next one of a chain.
    pub(crate) fn of(chain: &Chain) -> Box<Self> {
        let mut key: [u8; 16] = chain.derive("buslane key");
        let unbound = UnboundKey::new(&AES_128_GCM, &key).expect("16 bytes");
        key.zeroize();
        let phase = chain.phase.wrapping_add(1) % PHASES;
        let after = Chain { phase, secret: chain.derive("buslane next") };
        let (key, iv) = (LessSafeKey::new(unbound), chain.derive("buslane iv"));
        Box::new(Self { phase: chain.phase, key, iv, after })
    }

    /// Which of four it is.
    pub(crate) fn phase(&self) -> u8 {
        self.phase
    }

    /// What the one behind it follows from.
    pub(crate) fn after(&self) -> &Chain {
        &self.after
    }

    fn nonce(&self, packet_no: u64) -> Nonce {
        let mut nonce = self.iv;
        nonce.iter_mut().zip(packet_no.to_le_bytes()).for_each(|(byte, of)| *byte ^= of);
        Nonce::assume_unique_for_key(nonce)
    }

    /// Seals the first `len` bytes of a datagram, and returns how many it has then. No number is to be used twice.
    ///
    /// # Panics
    /// When there is no room, or nothing to seal.
    #[inline]
    pub(crate) fn seal(&self, packet_no: u64, datagram: &mut [u8], len: usize) -> usize {
        let (open, rest) = datagram.split_at_mut(OPEN_BYTES);
        let (sealed, behind) = rest.split_at_mut(len.saturating_sub(OPEN_BYTES));
        let (nonce, aad) = (self.nonce(packet_no), Aad::from(&*open));
        let tag = self.key.seal_in_place_separate_tag(nonce, aad, sealed);
        let tag = tag.expect("a datagram is short enough");
        behind[..SEAL_BYTES].copy_from_slice(tag.as_ref());
        len.saturating_add(SEAL_BYTES)
    }

    /// Opens a datagram where it is; `false` where it was not sealed so, and then its bytes mean nothing.
    #[inline]
    pub(crate) fn open(&self, packet_no: u64, datagram: &mut [u8]) -> bool {
        let Some((open, sealed)) = datagram.split_at_mut_checked(OPEN_BYTES) else { return false };
        let (nonce, aad) = (self.nonce(packet_no), Aad::from(&*open));
        self.key.open_in_place(nonce, aad, sealed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(generation: &Generation, packet_no: u64) -> Vec<u8> {
        let mut datagram = vec![7; 60 + SEAL_BYTES];
        assert_eq!(generation.seal(packet_no, &mut datagram, 60), 60 + SEAL_BYTES);
        datagram
    }

    #[test]
    fn what_is_sealed_is_opened_by_its_generation_and_number_only() {
        let generation = Generation::of(&Chain::begin(&[1; 32]));
        let next = Generation::of(generation.after());
        let other = Generation::of(&Chain::begin(&[2; 32]));
        let datagram = sealed(&generation, 9);
        assert_eq!(datagram[..16], [7; 16], "the first bytes can be read");
        assert_ne!(datagram[16..60], [7; 44]);
        let mut opened = datagram.clone();
        assert!(generation.open(9, &mut opened));
        assert_eq!(opened[..60], [7; 60]);
        for (key, packet_no) in [(&generation, 10), (&generation, 0), (&next, 9), (&other, 9)] {
            assert!(!key.open(packet_no, &mut datagram.clone()));
        }
        assert_eq!((generation.phase(), next.phase()), (0, 1));
    }

    #[test]
    fn a_changed_missing_or_added_byte_is_noticed() {
        let generation = Generation::of(&Chain::begin(&[1; 32]));
        let datagram = sealed(&generation, 1);
        for at in 0..datagram.len() {
            let mut changed = datagram.clone();
            changed[at] ^= 1;
            assert!(!generation.open(1, &mut changed), "byte {at}");
            assert!(!generation.open(1, &mut datagram[..at].to_vec()), "cut at {at}");
        }
        let mut longer = datagram.clone();
        longer.push(0);
        assert!(!generation.open(1, &mut longer));
    }

    #[test]
    fn phases_come_round_and_keys_do_not() {
        let mut generation = Generation::of(&Chain::begin(&[1; 32]));
        let first = sealed(&generation, 1);
        let mut phases = Vec::new();
        for _ in 0..8 {
            phases.push(generation.phase());
            generation = Generation::of(generation.after());
            assert_ne!(sealed(&generation, 1), first);
        }
        assert_eq!(phases, [0, 1, 2, 3, 0, 1, 2, 3]);
    }

    #[test]
    fn nothing_of_a_key_is_printed() {
        let chain = Chain::begin(&[0xab; 32]);
        let printed = format!("{:?} {:?}", chain, Generation::of(&chain));
        assert_eq!(printed, "Chain { phase: 0, .. } Generation { phase: 0, .. }");
    }
}
