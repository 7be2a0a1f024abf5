//! The keys of an appliance: a directory with its own key, its `access.toml`, and the credentials of `local`.
//!
//! It is made as a whole, in a directory beside it that then gets its name: after a power cut it is there or not, and of
//! two processes that make it at once one wins, and the other has what that made. Who makes one holds a lock on it, so
//! that one whose maker is gone is known by having none, and is cleared away.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::error::AccessError;
use super::key::SecretKey;
use super::private::{self, Way, directory_of};
use super::{Access, Credentials, file};

/// The appliance's own key.
const SERVER_KEY: &str = "server.key";

/// Who may do what.
const ACCESS: &str = "access.toml";

/// Credentials of the identity that may do all, for clients of the appliance's own user.
const LOCAL_ACCESS: &str = "local.access";

/// The identity of those.
pub const LOCAL: &str = "local";

/// What is said where there is no directory.
const NO_KEYS: &str = "there are no keys; `buslane serve` makes them at its first start, where security.keys of its profile \
                       says";

/// What is said where a file is missing in one.
const NO_FILE: &str = "is not there, though the directory is; bring it back from a backup, or move the whole directory away: \
                       then new keys are made, and every client needs new ones";

/// Directories that come in each other's way so often are not made by chance.
const ATTEMPTS: usize = 8;

/// The keys of an appliance.
#[derive(Debug)]
pub struct Keyring {
    /// Its own key.
    pub secret: SecretKey,
    /// Who may do what, as it was when this was read.
    pub access: Access,
    dir: PathBuf,
}

impl Keyring {
    /// What is in the directory `dir`, which is made with all that belongs into it where it is not there or empty; and
    /// whether it was made.
    ///
    /// # Errors
    /// `AccessError` when it cannot be made, or is not as it has to be.
    pub fn open_or_make(dir: &Path) -> Result<(Self, bool), AccessError> {
        let cannot = |error: io::Error| cannot_make(dir, &error);
        let mut is_made = false;
        if is_missing(dir).map_err(cannot)? {
            is_made = make(dir).map_err(cannot)?;
        }
        Ok((Self::open(dir)?, is_made))
    }

    /// What is in the directory `dir`.
    ///
    /// # Errors
    /// `AccessError` when something is missing or says what cannot be, or others may read or write it.
    pub fn open(dir: &Path) -> Result<Self, AccessError> {
        private::check_directory(dir).map_err(|error| error.if_absent(dir, NO_KEYS))?;
        if is_missing(dir).is_ok_and(|is_missing| is_missing) {
            return Err(AccessError::absent(dir, NO_KEYS));
        }
        let path = dir.join(SERVER_KEY);
        let text =
            private::read(&path, Way::Named).map_err(|error| error.if_absent(&path, NO_FILE))?;
        let secret = SecretKey::from_text(text.trim())
            .map_err(|error| AccessError::wrong(&path, None, format!("what is in it {error}")))?;
        let access = load(dir)?;
        Ok(Self { secret, access, dir: dir.to_owned() })
    }

    /// Who may do what, read again: all of it, or nothing.
    ///
    /// # Errors
    /// As [`Access::load`].
    pub fn reload(&self) -> Result<Access, AccessError> {
        private::check_directory(&self.dir)?;
        load(&self.dir)
    }

    /// Where they are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file of the credentials that may do all; it may have been taken away.
    #[must_use]
    pub fn local_access(&self) -> PathBuf {
        self.dir.join(LOCAL_ACCESS)
    }

    /// Changes `access.toml` to what `change` makes of its text, whole or not at all, and returns what it then says. Nobody
    /// else changes it meanwhile.
    ///
    /// # Errors
    /// `AccessError` when it cannot be read or written, `change` does not want to, or what it makes cannot be.
    pub fn edit(
        &self,
        change: impl FnOnce(&str) -> Result<String, String>,
    ) -> Result<Access, AccessError> {
        let path = self.dir.join(ACCESS);
        let cannot = |error: io::Error| {
            AccessError::host(&path, format!("cannot be changed: {error}; nothing was changed"))
        };
        // Only its owner and root can open the directory, so nobody else keeps it locked.
        let lock = File::open(&self.dir).map_err(cannot)?;
        lock.lock().map_err(cannot)?;
        let text = private::read(&path, Way::Named)?;
        file::parse(&path, &text)?;
        let new = change(&text).map_err(|what| AccessError::wrong(&path, None, what))?;
        private::check_length(new.len() as u64)
            .map_err(|what| AccessError::wrong(&path, None, format!("changed so, it {what}")))?;
        let access = file::parse(&path, &new)?;
        private::replace(&path, &new).map_err(cannot)?;
        Ok(access)
    }
}

fn load(dir: &Path) -> Result<Access, AccessError> {
    let path = dir.join(ACCESS);
    Access::load(&path).map_err(|error| error.if_absent(&path, NO_FILE))
}

fn cannot_make(dir: &Path, error: &io::Error) -> AccessError {
    AccessError::host(
        dir,
        format!("keys cannot be made here: {error}; name another directory with security.keys"),
    )
}

/// Whether there is nothing, or an empty directory that can give way to one with keys.
fn is_missing(dir: &Path) -> io::Result<bool> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        // What is there, and why it is of no use, is said when it is opened.
        Err(error)
            if [ErrorKind::PermissionDenied, ErrorKind::NotADirectory].contains(&error.kind()) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Makes the directory; false where somebody else did.
fn make(dir: &Path) -> io::Result<bool> {
    let dir = &std::path::absolute(dir)?;
    let parent = directory_of(dir);
    match fs::create_dir(parent) {
        Ok(()) => private::sync_directory(directory_of(parent))?,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    clear_away(dir)?;
    for _ in 0..ATTEMPTS {
        // Somebody who clears away may take it before it is locked: then there is none of its name, or it is held.
        let draft = draft(dir);
        private::make_directory(&draft)?;
        let Some(_lock) = try_hold(&draft) else { continue };
        let made = fill(&draft).and_then(|()| fs::rename(&draft, dir));
        match made {
            Ok(()) => {
                private::sync_directory(parent)?;
                return Ok(true);
            }
            Err(error) => {
                // What is left of it is cleared away the next time.
                let _ = fs::remove_dir_all(&draft);
                if !is_missing(dir)? {
                    return Ok(false);
                }
                if error.kind() != ErrorKind::NotFound {
                    return Err(error);
                }
            }
        }
    }
    Err(io::Error::other("others take away what is made"))
}

/// The lock on a directory, while it is open; `None` where another process has it, or the directory is gone.
fn try_hold(draft: &Path) -> Option<File> {
    let file = File::open(draft).ok()?;
    file.try_lock().ok()?;
    Some(file)
}

/// What names of directories begin with that are not ready.
fn draft_prefix(dir: &Path) -> String {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    format!("{name}.new-")
}

fn draft(dir: &Path) -> PathBuf {
    let number = getrandom::u64().expect("the operating system gives random bytes");
    dir.with_file_name(format!("{}{number:016x}", draft_prefix(dir)))
}

/// Removes the directories that processes left behind that were killed while they made them.
fn clear_away(dir: &Path) -> io::Result<()> {
    let prefix = draft_prefix(dir);
    for entry in fs::read_dir(directory_of(dir))? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(&prefix) {
            continue;
        }
        let is_ours = |facts: fs::Metadata| facts.is_dir() && facts.uid() == private::own_user();
        if entry.metadata().is_ok_and(is_ours)
            && let Some(_lock) = try_hold(&entry.path())
        {
            // Another process may be doing the same.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// Makes all that belongs into it. When it returns, it is on the disk.
fn fill(dir: &Path) -> io::Result<()> {
    let (server, local) = (SecretKey::generate(), SecretKey::generate());
    let (server_key, local_key) = (server.public(), local.public());
    private::create(&dir.join(ACCESS), &access_toml(&local_key.to_string()), None)?;
    let credentials = Credentials {
        server: None,
        server_key,
        secret: local,
        psk: None,
        identity: LOCAL.to_owned(),
    };
    credentials.write_new(&dir.join(LOCAL_ACCESS))?;
    private::create(&dir.join(SERVER_KEY), &server.to_text(), None)?;
    private::sync_directory(dir)
}

fn access_toml(local_key: &str) -> String {
    format!(
        "# Who may do what here. What is not said is denied. To let somebody in:\n\
         #   buslane key authorize gateway-7 --publish 'orders.*' --subscribe fills\n\
         # It writes gateway-7.access, the one file to hand over. To shut somebody out:\n\
         #   buslane key revoke gateway-7\n\
         # What is changed here counts after: systemctl reload buslane (or kill -HUP)\n\
         \n\
         # Whoever can read local.access, which is beside this file.\n\
         [[identity]]\n\
         name = \"{LOCAL}\"\n\
         keys = [\"{local_key}\"]\n\
         publish = [\"*\"]\n\
         subscribe = [\"*\"]\n\
         create = [\"*\"]\n\
         trim = [\"*\"]\n\
         producers = [\"*\"]\n\
         admin = true\n"
    )
}

#[cfg(test)]
#[path = "keyring_tests.rs"]
mod tests;
