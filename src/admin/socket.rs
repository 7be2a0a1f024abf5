//! The unix socket housekeeping answers on: made when it can be, and made again when it vanishes.
//!
//! A lock beside it says whose it is: of two appliances that start at once one gets both, and what a killed one left
//! behind is nobody's. Only a socket that nobody listens on is ever removed.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;

use super::server;
use crate::profile::runtime;

/// A path of a socket, at most: the kernel keeps it in 108 bytes with a zero at the end.
const PATH_BYTES_MAX: usize = 107;

/// Between two looks whether it is still there.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why there is no socket.
#[derive(Debug)]
pub(super) enum NoSocket {
    /// The path names something that is to stay: a mistake in the profile.
    Taken(String),
    /// It cannot be made for now.
    Warning(String),
}

/// A socket of ours, listened on while it can be.
#[derive(Debug)]
pub(super) struct AdminSocket {
    path: PathBuf,
    lock: Option<File>,
    listener: Option<UnixListener>,
    /// Which file it is, 0 for none. Set before and read after the process is told to end: it orders nothing.
    own: Arc<AtomicU64>,
}

impl AdminSocket {
    /// Makes it if it can be made.
    ///
    /// # Errors
    /// When the path names something that is no socket.
    pub(super) fn open(path: &Path, warnings: &mut Vec<String>) -> Result<Self, String> {
        let own = Arc::default();
        let mut socket = Self { path: path.to_owned(), lock: None, listener: None, own };
        match socket.make() {
            Ok(()) => {}
            Err(NoSocket::Taken(why)) => return Err(why),
            Err(NoSocket::Warning(why)) => warnings.push(format!(
                "metrics.socket: {}: {why}; `buslane stat` does not find this appliance until that is mended",
                path.display()
            )),
        }
        Ok(socket)
    }

    /// What removes its name when the process ends in order.
    pub(super) fn file(&self) -> SocketFile {
        SocketFile { path: self.path.clone(), own: Arc::clone(&self.own) }
    }

    /// Takes the lock, then makes the socket.
    fn make(&mut self) -> Result<(), NoSocket> {
        let warning = |error: io::Error| NoSocket::Warning(error.to_string());
        let bytes = self.path.as_os_str().len();
        if bytes > PATH_BYTES_MAX {
            let mend = "name a shorter one, or set XDG_RUNTIME_DIR to a shorter directory";
            let why =
                format!("has {bytes} bytes, a socket's path {PATH_BYTES_MAX} at most; {mend}");
            return Err(NoSocket::Warning(why));
        }
        refuse_what_is_no_socket(&self.path)?;
        self.take_lock()?;
        match UnixStream::connect(&self.path) {
            Ok(_) => {
                let why = "another program answers there; give this one another `instance`, or another path";
                return Err(NoSocket::Warning(why.into()));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                // Looked at again, since only a socket may go.
                refuse_what_is_no_socket(&self.path)?;
                fs::remove_file(&self.path).map_err(warning)?;
            }
            // Where there is something that cannot be asked, it is in the way of the next step.
            Err(_) => {}
        }
        let listener = UnixListener::bind(&self.path).map_err(warning)?;
        listener.set_nonblocking(true).map_err(warning)?;
        // Where its group may come here, it may ask: nothing can be changed by asking.
        if self.path.parent().is_some_and(runtime::is_for_the_group) {
            let mode = fs::Permissions::from_mode(0o660);
            fs::set_permissions(&self.path, mode).map_err(warning)?;
        }
        self.own.store(file_number(&self.path).unwrap_or(0), Ordering::Relaxed);
        self.listener = Some(listener);
        Ok(())
    }

    fn take_lock(&mut self) -> Result<(), NoSocket> {
        let warning = |error: io::Error| NoSocket::Warning(error.to_string());
        let mut name = self.path.as_os_str().to_owned();
        name.push(".lock");
        let name = PathBuf::from(name);
        let held = self.lock.as_ref().and_then(|lock| lock.metadata().ok());
        if held.is_some_and(|held| file_number(&name) == Some(held.ino())) {
            return Ok(());
        }
        let lock = File::options().write(true).create(true).truncate(false).mode(0o600).open(name);
        let lock = lock.map_err(warning)?;
        match lock.try_lock() {
            Ok(()) => self.lock = Some(lock),
            Err(TryLockError::WouldBlock) => {
                let why = "another appliance answers there, and `buslane stat` shows that one; give this one \
                           another `instance`, or another path";
                return Err(NoSocket::Warning(why.into()));
            }
            Err(TryLockError::Error(error)) => return Err(warning(error)),
        }
        Ok(())
    }

    /// Answers for ever, and makes the socket again when it is gone: a clean-up of `/tmp` takes sockets too.
    pub(super) async fn serve(mut self, app: Router) {
        let mut serving = None;
        let mut every = tokio::time::interval(LOOK_EVERY);
        loop {
            if let Some(listener) = self.listener.take() {
                match tokio::net::UnixListener::from_std(listener) {
                    Ok(listener) => {
                        serving = Some(tokio::spawn(server::serve(listener, app.clone())))
                    }
                    Err(_) => self.own.store(0, Ordering::Relaxed),
                }
            }
            every.tick().await;
            let own = self.own.load(Ordering::Relaxed);
            if own > 0 && file_number(&self.path) == Some(own) {
                continue;
            }
            if let Some(dir) = self.path.parent().filter(|dir| !dir.exists()) {
                let _ = runtime::make(dir);
            }
            if self.make().is_ok()
                && let Some(old) = serving.take()
            {
                old.abort();
            }
        }
    }
}

fn refuse_what_is_no_socket(path: &Path) -> Result<(), NoSocket> {
    match path.symlink_metadata() {
        Ok(found) if !found.file_type().is_socket() => {
            let why = "is there and is no socket; it stays as it is: name another path, or \"off\"";
            Err(NoSocket::Taken(why.into()))
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

fn file_number(path: &Path) -> Option<u64> {
    path.symlink_metadata().ok().map(|metadata| metadata.ino())
}

/// The unix socket's name, removed when this is dropped, if it is still ours.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    own: Arc<AtomicU64>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let own = self.own.load(Ordering::Relaxed);
        if own > 0 && file_number(&self.path) == Some(own) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> (AdminSocket, Vec<String>) {
        let mut warnings = Vec::new();
        let socket = AdminSocket::open(path, &mut warnings).expect("no error");
        (socket, warnings)
    }

    #[test]
    fn a_socket_belongs_to_one_and_outlives_no_kill() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("admin.sock");
        // What a killed one leaves: nobody listens.
        drop(UnixListener::bind(&path).expect("left behind"));
        let (first, warnings) = open(&path);
        assert!(first.listener.is_some() && warnings.is_empty(), "{warnings:?}");
        let (second, warnings) = open(&path);
        assert!(
            second.listener.is_none() && warnings[0].contains("another appliance"),
            "{warnings:?}"
        );
        UnixStream::connect(&path).expect("the first one's still");
        drop(second.file());
        assert!(path.exists(), "it is not the second one's");
        drop(first.file());
        assert!(!path.exists());
        drop(first);
        assert!(open(&path).0.listener.is_some());
    }

    #[test]
    fn the_group_may_ask_where_it_may_enter_and_nobody_else_does() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("admin.sock");
        let mode = |path: &Path| path.metadata().expect("there").mode() & 0o777;
        for (of_directory, may_write) in [(0o700, 0), (0o750, 0o020), (0o755, 0), (0o770, 0)] {
            let wanted = fs::Permissions::from_mode(of_directory);
            fs::set_permissions(dir.path(), wanted).expect("it is ours");
            let (first, warnings) = open(&path);
            assert!(warnings.is_empty(), "{warnings:?}");
            assert_eq!(mode(&path) & 0o022, may_write, "{of_directory:o}");
            assert_eq!(mode(&dir.path().join("admin.sock.lock")) & 0o077, 0, "the lock is its own");
            drop(first.file());
        }
    }

    #[test]
    fn what_is_no_socket_stays_and_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        fs::write(&path, "a thousand orders").expect("written");
        let error = AdminSocket::open(&path, &mut Vec::new()).expect_err("a file");
        assert!(error.contains("no socket"), "{error}");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("linked");
        AdminSocket::open(&link, &mut Vec::new()).expect_err("a link is no socket either");
        AdminSocket::open(dir.path(), &mut Vec::new()).expect_err("nor is a directory");
        assert_eq!(fs::read(&path).expect("there"), b"a thousand orders");
    }

    #[test]
    fn a_program_that_listens_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("other.sock");
        let _other = UnixListener::bind(&path).expect("somebody else's");
        let (socket, warnings) = open(&path);
        assert!(
            socket.listener.is_none() && warnings[0].contains("another program"),
            "{warnings:?}"
        );
        UnixStream::connect(&path).expect("it answers still");
    }

    #[test]
    fn a_path_that_is_too_long_or_cannot_be_written_is_said_and_no_more() {
        let dir = tempfile::tempdir().expect("a directory");
        let (socket, warnings) = open(&dir.path().join("x".repeat(200)));
        assert!(socket.listener.is_none() && warnings[0].contains("107 at most"), "{warnings:?}");
        let (socket, warnings) = open(Path::new("/proc/no/admin.sock"));
        assert!(
            socket.listener.is_none() && warnings[0].contains("/proc/no/admin.sock"),
            "{warnings:?}"
        );
    }

    #[test]
    fn a_socket_that_vanishes_is_made_again() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("an event loop").block_on(vanishes());
    }

    async fn vanishes() {
        let dir = tempfile::tempdir().expect("a directory");
        let place = dir.path().join("run");
        fs::create_dir(&place).expect("made");
        let path = place.join("admin.sock");
        let (socket, _) = open(&path);
        let file = socket.file();
        tokio::spawn(socket.serve(Router::new()));
        for _ in 0..2 {
            fs::remove_dir_all(&place).expect("cleaned away, its directory with it");
            tokio::time::timeout(Duration::from_secs(20), async {
                while tokio::net::UnixStream::connect(&path).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
            .await
            .expect("it is back");
        }
        drop(file);
        assert!(!path.exists(), "the new one is ours too");
    }
}
