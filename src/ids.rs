//! Identifiers and the small facts that travel with every message.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $raw:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $raw);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A stream, numbered from 1 in the catalog of its shard; 0 is no stream.
    StreamId, u32
);
id!(
    /// A publisher across its sessions and restarts, assigned by the server; 0 asks for a new one.
    ProducerId, u64
);
id!(
    /// One reign of one writer over a shard's log, strictly increasing from 1.
    Epoch, u64
);
id!(
    /// One opening of a log for writing: random, so that copies of a log that went different ways differ. The same
    /// sequence of a stream, of the same lineage, is the same message in the same history.
    Lineage, u64
);
id!(
    /// One session as one of its ends numbers it: random, and never 0. Datagrams to that end bear it.
    ConnId, u64
);

impl ConnId {
    /// Its low half: tells the sessions of a shard apart where people look at them, and does not let anybody speak in
    /// their name.
    #[must_use]
    pub fn short(self) -> u32 {
        let [a, b, c, d, ..] = self.0.to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }
}

impl Lineage {
    /// One that nobody has had.
    ///
    /// # Panics
    /// When the operating system gives no random bytes.
    #[must_use]
    pub fn random() -> Self {
        Self(getrandom::u64().expect("the operating system gives random bytes").max(1))
    }
}

/// Whether a text has the form of a name, of a stream or a producer: letters, digits, `.`, `_`, `-`, `/` and `:`, not
/// starting with `.`.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:".contains(&byte);
    !text.starts_with('.') && text.bytes().all(allowed)
}

/// Bytes of a producer's name, at most.
pub const PRODUCER_NAME_BYTES_MAX: usize = 40;

/// The name a producer is known by, where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerName([u8; PRODUCER_NAME_BYTES_MAX]);

impl ProducerName {
    /// That of a producer without one.
    pub const NONE: Self = Self([0; PRODUCER_NAME_BYTES_MAX]);

    /// This name, where it can be one: 1 to 40 bytes of the form that names have.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let fits = (1..=PRODUCER_NAME_BYTES_MAX).contains(&name.len());
        (fits && is_name(name)).then(|| {
            let mut bytes = [0; PRODUCER_NAME_BYTES_MAX];
            bytes[..name.len()].copy_from_slice(name.as_bytes());
            Self(bytes)
        })
    }

    /// The bytes, zeros behind them.
    #[must_use]
    pub fn bytes(&self) -> &[u8; PRODUCER_NAME_BYTES_MAX] {
        &self.0
    }

    /// Back from such bytes; `None` where they are neither zeros nor a name.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; PRODUCER_NAME_BYTES_MAX]) -> Option<Self> {
        let len = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        let (name, rest) = bytes.split_at(len);
        if rest.iter().any(|&byte| byte != 0) {
            return None;
        }
        match std::str::from_utf8(name).ok()? {
            "" => Some(Self::NONE),
            name => Self::new(name),
        }
    }

    /// The name; empty where there is none.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let len = self.0.iter().position(|&byte| byte == 0).unwrap_or(self.0.len());
        std::str::from_utf8(&self.0[..len]).expect("a name is ASCII")
    }
}

/// The other end of a conversation, as a port addresses it.
///
/// The MAC address is what a frame is sent to (the next hop); a kernel port leaves it zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// IPv4 address and UDP port.
    pub addr: SocketAddrV4,
    /// Ethernet address of the next hop, zero on a kernel port.
    pub mac: [u8; 6],
    /// Which of our addresses it talks to, where a port has several; answers come from there.
    pub local: Option<Ipv4Addr>,
}

impl Peer {
    /// A peer that is addressed by IP alone.
    #[must_use]
    pub fn ip_only(addr: SocketAddrV4) -> Self {
        Self { addr, mac: [0; 6], local: None }
    }
}

/// Why an acknowledged message is safe, found when the disk is attached, stored in the superblock
/// and told in every receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Durability {
    /// Memory only: lost with the process. Serving on it must be asked for by name.
    Volatile = 0,
    /// The device reports no volatile write cache.
    NoWriteCache = 1,
    /// The volatile write cache was switched off and read back as off.
    WriteCacheOff = 2,
    /// Every write carries Force Unit Access.
    ForceUnitAccess = 3,
    /// The operator vouches for power-loss protection of this model and firmware.
    PowerLossProtected = 4,
    /// The kernel completes each write only after the device's cache was flushed (`O_DSYNC`).
    KernelSync = 5,
}

impl Durability {
    /// All classes, in the order of their codes.
    pub const ALL: [Self; 6] = [
        Self::Volatile,
        Self::NoWriteCache,
        Self::WriteCacheOff,
        Self::ForceUnitAccess,
        Self::PowerLossProtected,
        Self::KernelSync,
    ];

    /// The class with this code on wire or disk; `None` for a code of a later release.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// The code on wire and disk.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// Lower-case name, as printed and as profiles spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Volatile => "volatile",
            Self::NoWriteCache => "no-write-cache",
            Self::WriteCacheOff => "write-cache-off",
            Self::ForceUnitAccess => "force-unit-access",
            Self::PowerLossProtected => "power-loss-protected",
            Self::KernelSync => "kernel-sync",
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
