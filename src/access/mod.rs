//! Who may reach an appliance, and what each may do there.
//!
//! | word | meaning |
//! |---|---|
//! | identity | a name that rights are given to: a gateway, a desk, a host |
//! | key | an X25519 secret and its public half; an identity may come with several, so that they can be changed |
//! | right | what an identity may do with which streams, and in the name of which producers |
//! | keyring | the directory of an appliance with its own key, its `access.toml`, and `local.access` |
//! | credentials | one file a client has, `NAME.access`: the server's public key and the client's own secret |
//! | plain | what comes in the clear, from nobody; its rights are the table `[plain]` |
//!
//! What is not said is denied. A file of keys that others may read or write is not read at all. A secret is in no message
//! and in no `Debug`; its text is zeroed when it has been read.

pub mod credentials;
pub mod edit;
pub mod error;
pub mod file;
pub mod key;
pub mod keyring;
mod private;
pub mod rights;
pub mod runtime;
pub mod text;

use std::collections::BTreeMap;

pub use credentials::{Credentials, find, find_here, write_secret};
pub use error::AccessError;
pub use key::{PublicKey, SecretKey};
pub use keyring::Keyring;
pub use rights::{Patterns, Rights};
pub use runtime::RuntimeLink;

use crate::ids::is_name;
use crate::limits::{IDENTITIES_MAX, IDENTITY_NAME_BYTES_MAX, KEYS_AN_IDENTITY_MAX};

/// An identity as shards and logs know it: of its name, and the same on every appliance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IdentityId(pub u64);

impl IdentityId {
    /// Who comes in the clear.
    pub const NOBODY: Self = Self(0);

    /// That of the identity `name`; never [`Self::NOBODY`].
    ///
    /// # Panics
    /// Never: a hash has more than 8 bytes.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let hash = blake3::derive_key("buslane identity", name.as_bytes());
        let (first, _) = hash.split_first_chunk().expect("32 bytes");
        Self(u64::from_le_bytes(*first).max(1))
    }
}

/// Somebody with rights.
#[derive(Clone, Debug)]
pub struct Identity {
    /// What people call it: 1 to 40 letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// What shards and logs call it.
    pub id: IdentityId,
    /// The keys it may come with; with none it cannot come.
    pub keys: Vec<PublicKey>,
    /// A secret that it shares with the appliance beside its key, where it has one.
    pub psk: Option<SecretKey>,
    /// What it may do.
    pub rights: Rights,
}

impl Identity {
    /// The identity `name`.
    #[must_use]
    pub fn new(name: &str, keys: Vec<PublicKey>, psk: Option<SecretKey>, rights: Rights) -> Self {
        Self { name: name.to_owned(), id: IdentityId::of(name), keys, psk, rights }
    }
}

/// Whether an identity can have this name. It becomes part of file names and stands on command lines, and it must not be
/// taken for a key.
#[must_use]
pub fn is_identity_name(name: &str) -> bool {
    let is_key = ["blp1", "bls1"].iter().any(|prefix| name.starts_with(prefix));
    (1..=IDENTITY_NAME_BYTES_MAX).contains(&name.len())
        && is_name(name)
        && !name.contains(['/', ':'])
        && !name.starts_with('-')
        && !is_key
}

/// Everybody an appliance knows, and what each may do.
#[derive(Clone, Debug)]
pub struct Access {
    /// By id, ascending.
    identities: Vec<Identity>,
    /// Every key, ascending, and the place of its identity.
    keys: Vec<(PublicKey, usize)>,
    /// What those may do who come in the clear.
    plain: Rights,
}

/// What is wrong with one of several identities.
#[derive(Debug)]
pub(crate) struct Fault {
    /// Its place among them.
    pub(crate) index: usize,
    /// What is wrong, and what to do.
    pub(crate) what: String,
}

impl Access {
    /// These identities; `plain` are the rights of those who come in the clear.
    ///
    /// # Errors
    /// What is wrong: too many of something, a name that can be none, two with one name or key, a key nobody can have.
    ///
    /// # Panics
    /// When an id is not that of the name.
    pub fn new(identities: Vec<Identity>, plain: Rights) -> Result<Self, String> {
        Self::checked(identities, plain).map_err(|fault| fault.what)
    }

    /// The same, telling which identity is wrong.
    pub(crate) fn checked(mut identities: Vec<Identity>, plain: Rights) -> Result<Self, Fault> {
        check(&identities)?;
        identities.sort_unstable_by_key(|identity| identity.id);
        let places = identities.iter().enumerate();
        let mut keys: Vec<(PublicKey, usize)> = places
            .flat_map(|(place, identity)| identity.keys.iter().map(move |key| (*key, place)))
            .collect();
        keys.sort_unstable();
        Ok(Self { identities, keys, plain })
    }

    /// No identities, and everything allowed to those who come in the clear: for plain mode.
    #[must_use]
    pub fn open_to_all() -> Self {
        Self { identities: Vec::new(), keys: Vec::new(), plain: Rights::all() }
    }

    /// Whose key this is.
    #[must_use]
    pub fn by_key(&self, key: &PublicKey) -> Option<&Identity> {
        let at = self.keys.binary_search_by(|(known, _)| known.cmp(key)).ok()?;
        self.identities.get(self.keys[at].1)
    }

    /// The identity with this id; nobody is none.
    #[must_use]
    pub fn by_id(&self, id: IdentityId) -> Option<&Identity> {
        let at = self.identities.binary_search_by_key(&id, |identity| identity.id).ok()?;
        self.identities.get(at)
    }

    /// What somebody may do, also nobody; `None` for one that is not known any more.
    #[must_use]
    pub fn rights(&self, id: IdentityId) -> Option<&Rights> {
        if id == IdentityId::NOBODY {
            return Some(&self.plain);
        }
        self.by_id(id).map(|identity| &identity.rights)
    }

    /// Whether this is a key of this identity.
    #[must_use]
    pub fn knows(&self, key: &PublicKey, id: IdentityId) -> bool {
        self.by_key(key).is_some_and(|identity| identity.id == id)
    }

    /// All identities, by id.
    #[must_use]
    pub fn identities(&self) -> &[Identity] {
        &self.identities
    }
}

/// Whether these can be all identities of one appliance.
fn check(identities: &[Identity]) -> Result<(), Fault> {
    let (mut names, mut keys) = (BTreeMap::new(), BTreeMap::new());
    for (index, identity) in identities.iter().enumerate() {
        let fault = |what: String| Fault { index, what };
        check_one(identity).map_err(fault)?;
        if index >= IDENTITIES_MAX {
            let what = format!(
                "there are more than {IDENTITIES_MAX} identities; let hosts that may do the same share one"
            );
            return Err(fault(what));
        }
        let name = identity.name.as_str();
        match names.insert(identity.id, name) {
            None => {}
            Some(other) if other == name => {
                return Err(fault(format!("there are two identities {name}; make them one")));
            }
            Some(other) => {
                return Err(fault(format!(
                    "{name} and {other} have the same number by chance; rename one"
                )));
            }
        }
        assert_eq!(identity.id, IdentityId::of(name), "an id is that of the name");
        for key in &identity.keys {
            if let Some(other) = keys.insert(*key, name) {
                return Err(fault(format!(
                    "{key} is a key of {other} and again one of {name}; leave it with one of them, once"
                )));
            }
        }
    }
    Ok(())
}

/// Whether an identity can be one.
fn check_one(identity: &Identity) -> Result<(), String> {
    let Identity { name, keys, .. } = identity;
    if !is_identity_name(name) {
        return Err(format!(
            "`{}` cannot name an identity: 1 to {IDENTITY_NAME_BYTES_MAX} letters, digits, `.`, `_` and `-`, not \
             starting with `.`, `-`, `blp1` or `bls1`",
            name.escape_debug()
        ));
    }
    if keys.len() > KEYS_AN_IDENTITY_MAX {
        return Err(format!(
            "{name} has {} keys, {KEYS_AN_IDENTITY_MAX} are the most; revoke those that are not used any more",
            keys.len()
        ));
    }
    match keys.iter().find(|key| !key.is_sound()) {
        None => Ok(()),
        Some(key) => Err(format!(
            "{key} of {name} is no key that anybody can have alone; make one with `buslane key new`"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> PublicKey {
        SecretKey::from_bytes([seed; 32]).public()
    }

    fn identity(name: &str, seeds: &[u8]) -> Identity {
        Identity::new(name, seeds.iter().copied().map(key).collect(), None, Rights::none())
    }

    fn refused(identities: Vec<Identity>) -> String {
        Access::new(identities, Rights::all()).unwrap_err()
    }

    #[test]
    fn identities_are_found_by_key_and_by_id() {
        let mut all =
            vec![identity("a", &[10, 20]), identity("b", &[11, 21]), identity("c", &[12, 22])];
        all[1].rights.admin = true;
        let access = Access::new(all, Rights::none()).unwrap();
        assert_eq!(access.by_key(&key(11)).unwrap().name, "b");
        assert_eq!(access.by_key(&key(22)).unwrap().name, "c");
        assert!(access.by_key(&key(1)).is_none());
        assert_eq!(access.by_id(IdentityId::of("a")).unwrap().name, "a");
        assert!(access.by_id(IdentityId::NOBODY).is_none());
        assert!(access.rights(IdentityId::of("b")).unwrap().admin);
        assert!(access.rights(IdentityId(4711)).is_none());
        assert!(!access.rights(IdentityId::NOBODY).unwrap().subscribe.matches("orders"));
        assert_eq!(access.identities().len(), 3);
    }

    /// The number is in logs: it stays what it is.
    #[test]
    fn the_number_of_an_identity_is_that_of_its_name() {
        assert_eq!(IdentityId::of("local"), IdentityId(13_427_446_996_487_799_038));
        assert_ne!(IdentityId::of("gateway-7"), IdentityId::of("gateway-8"));
        assert_ne!(IdentityId::of(""), IdentityId::NOBODY);
    }

    #[test]
    fn open_to_all_is_open() {
        let access = Access::open_to_all();
        let rights = access.rights(IdentityId::NOBODY).unwrap();
        assert!(rights.admin && rights.publish.matches("x") && rights.producers.matches("y"));
        assert!(access.by_key(&key(1)).is_none());
    }

    #[test]
    fn what_is_doubled_is_refused() {
        let said = refused(vec![identity("a", &[1]), identity("a", &[2])]);
        assert_eq!(said, "there are two identities a; make them one");
        let said = refused(vec![identity("a", &[1]), identity("b", &[1])]);
        assert!(said.contains("is a key of a and again one of b"), "{said}");
        let mut chance = identity("b", &[]);
        chance.id = IdentityId::of("a");
        let said = refused(vec![identity("a", &[]), chance]);
        assert_eq!(said, "b and a have the same number by chance; rename one");
        let said = refused(vec![identity("a", &[1, 1])]);
        assert!(said.contains("is a key of a and again one of a"), "{said}");
    }

    #[test]
    fn there_are_no_more_than_the_limits_say() {
        let many = |count: usize| -> Vec<Identity> {
            (0..count).map(|number| identity(&format!("n{number}"), &[])).collect()
        };
        assert!(Access::new(many(IDENTITIES_MAX), Rights::all()).is_ok());
        assert!(refused(many(IDENTITIES_MAX + 1)).contains("more than 256"));
        let seeds: Vec<u8> = (1..=9).collect();
        assert!(
            Access::new(vec![identity("a", &seeds[..KEYS_AN_IDENTITY_MAX])], Rights::all()).is_ok()
        );
        assert!(refused(vec![identity("a", &seeds)]).contains("a has 9 keys, 8 are the most"));
    }

    #[test]
    fn a_name_is_safe_in_files_and_on_command_lines() {
        let longest = "x".repeat(IDENTITY_NAME_BYTES_MAX);
        for good in ["a", "gateway-7", "Desk_1.eu", longest.as_str()] {
            assert!(is_identity_name(good), "{good}");
        }
        let longer = "x".repeat(IDENTITY_NAME_BYTES_MAX + 1);
        for bad in
            ["", ".", "..", ".a", "-a", "a/b", "a:b", "a b", "ä", "a\n", "bls1x", "blp1x", &longer]
        {
            assert!(!is_identity_name(bad), "{bad}");
            assert!(refused(vec![identity(bad, &[])]).contains("cannot name an identity"), "{bad}");
        }
    }

    #[test]
    fn a_key_that_is_nobodys_is_refused() {
        let mut zero = identity("a", &[]);
        zero.keys.push(PublicKey([0; 32]));
        assert!(refused(vec![zero]).contains("of a is no key that anybody can have alone"));
    }

    #[test]
    fn what_is_known_of_everybody_shows_no_secret() {
        let psk = SecretKey::from_bytes([7; 32]);
        let known = Identity::new("a", vec![key(1)], Some(psk.clone()), Rights::all());
        let shown = format!("{:?}", Access::new(vec![known], Rights::all()).unwrap());
        assert!(shown.contains("SecretKey(..)") && !shown.contains("7, 7"), "{shown}");
        assert!(!shown.contains(psk.to_text().as_str()));
    }
}
