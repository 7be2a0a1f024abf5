//! Random bytes that nobody can foretell, and in simulations ones that are the same for the same seed.

use crate::access::key::SecretKey;

/// Where random bytes come from.
#[derive(Clone, Debug)]
pub struct Entropy(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    #[cfg(any(test, feature = "sim"))]
    Seeded(Seed),
}

/// What the bytes of a simulation follow from.
#[cfg(any(test, feature = "sim"))]
#[derive(Clone, Debug)]
struct Seed {
    seed: [u8; 32],
    taken: u64,
}

impl Entropy {
    /// The operating system's.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// The same bytes for the same seed: for simulations, where there are no secrets.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        let seed = blake3::derive_key("buslane simulated entropy", &seed.to_le_bytes());
        Self(Source::Seeded(Seed { seed, taken: 0 }))
    }

    /// 32 random bytes.
    ///
    /// # Panics
    /// When the operating system gives none.
    #[must_use]
    pub fn key(&mut self) -> SecretKey {
        match &mut self.0 {
            Source::System => SecretKey::generate(),
            #[cfg(any(test, feature = "sim"))]
            Source::Seeded(seed) => {
                seed.taken = seed.taken.wrapping_add(1);
                let hash = blake3::keyed_hash(&seed.seed, &seed.taken.to_le_bytes());
                SecretKey::from_bytes(*hash.as_bytes())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_bytes_and_each_but_once() {
        let taken = |seed| {
            let mut entropy = Entropy::seeded(seed);
            [(); 3].map(|()| *entropy.key().bytes())
        };
        assert_eq!(taken(1), taken(1));
        assert_ne!(taken(1), taken(2));
        assert_ne!(taken(1)[0], taken(1)[1]);
        let mut system = Entropy::system();
        assert_ne!(system.key(), system.key());
    }
}
