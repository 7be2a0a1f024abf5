//! A name of this host that one process holds: for what can be reached by several ways, and has no lock of its own.
//!
//! A namespace over a network has many spellings, and two namespaces may be one disk. So the name is of what
//! they are, read from them: the namespace's identity, and the log's. A file in the host's shared memory keeps out
//! who sees the same files, a socket without a file who sees the same network. A container that sees neither is kept
//! out by the reservation, where the namespace has them.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Where the files are.
const SHARED: &str = "/dev/shm";

/// The same where that is not.
const TEMPORARY: &str = "/tmp";

/// A name, held until it is dropped or the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
    _socket: UnixListener,
}

impl Lock {
    /// Takes hold of a name.
    ///
    /// # Errors
    /// Why not: that another process holds it, or what the operating system said.
    pub fn take(what: &str) -> Result<Self, String> {
        let name = format!("buslane-{:032x}", xxh3_128(what.as_bytes()));
        let path = directory().join(format!("{name}.lock"));
        let cannot =
            |error: &dyn std::fmt::Display| format!("{} cannot be locked: {error}", path.display());
        let file = open(&path).map_err(|error| cannot(&error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(taken()),
            Err(TryLockError::Error(error)) => return Err(cannot(&error)),
        }
        let bound =
            SocketAddr::from_abstract_name(name).and_then(|name| UnixListener::bind_addr(&name));
        match bound {
            Ok(socket) => Ok(Self { _file: file, _socket: socket }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(taken()),
            Err(error) => Err(cannot(&error)),
        }
    }
}

fn taken() -> String {
    "another Buslane process of this host uses it".to_owned()
}

fn directory() -> PathBuf {
    let shared = Path::new(SHARED);
    if shared.is_dir() { shared.to_owned() } else { PathBuf::from(TEMPORARY) }
}

/// The file of a name. It stays when the process ends: who removed it might remove another's.
fn open(path: &Path) -> io::Result<File> {
    let options = |create: bool| {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_NOFOLLOW);
        if create {
            options.write(true).create_new(true);
        }
        options
    };
    match options(false).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    match options(true).open(path) {
        Ok(file) => {
            // Another user's process opens it too.
            file.set_permissions(Permissions::from_mode(0o444))?;
            Ok(file)
        }
        // Another process was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options(false).open(path),
        Err(error) => Err(error),
    }
}

/// A number of the place where a lock of this process is seen: this boot of the host, and the files it sees. Whoever
/// says the same number, and does not hold the lock, is gone.
#[must_use]
pub fn place() -> u32 {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let directory = directory().metadata().map(|of| (of.dev(), of.ino())).unwrap_or_default();
    let number = xxh3_64(format!("{boot} {directory:?}").as_bytes());
    u32::try_from(number >> 32).expect("the upper half")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_held_by_one_and_free_when_that_one_is_gone() {
        let name = format!("test of {}", std::process::id());
        let first = Lock::take(&name).unwrap();
        assert_eq!(Lock::take(&name).unwrap_err(), "another Buslane process of this host uses it");
        let _other = Lock::take(&format!("{name}, another")).unwrap();
        drop(first);
        drop(Lock::take(&name).unwrap());
        for name in [name.clone(), format!("{name}, another")] {
            let name = format!("buslane-{:032x}.lock", xxh3_128(name.as_bytes()));
            std::fs::remove_file(directory().join(name)).unwrap();
        }
    }

    #[test]
    fn a_place_stays_the_same() {
        assert_eq!(place(), place());
    }
}
