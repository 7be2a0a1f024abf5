//! The one file a client has: the server's public key, and a secret of its own.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use zeroize::Zeroizing;

use super::error::AccessError;
use super::file::Source;
use super::key::{PublicKey, SecretKey};
use super::private::{self, Way};
use super::{is_identity_name, runtime};
use crate::limits::CREDENTIALS_LOOKED_AT_MAX;

/// What the name of such a file ends in.
pub(crate) const ENDING: &str = "access";

/// Where `serve` keeps those of `local` unless told otherwise.
const LOCAL_HERE: &str = "buslane-data/keys/local.access";

/// Bytes of `HOST:PORT`, at most: a name has 253.
const SERVER_BYTES_MAX: usize = 260;

/// What a client needs to reach an appliance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Where the appliance is, `HOST:PORT`, where the file says it.
    pub server: Option<String>,
    /// By what the appliance is known.
    pub server_key: PublicKey,
    /// The client's own key.
    pub secret: SecretKey,
    /// A secret shared with the appliance, where there is one.
    pub psk: Option<SecretKey>,
    /// What the appliance calls the client.
    pub identity: String,
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CredentialsFile {
    server: Option<Spanned<String>>,
    server_key: Spanned<String>,
    secret: Spanned<String>,
    psk: Option<Spanned<String>>,
    identity: Spanned<String>,
}

impl Credentials {
    /// What the file `path` says.
    ///
    /// # Errors
    /// `AccessError` when it is not there, when others than its owner may read or write it, when it belongs to somebody
    /// else, or when it says what cannot be.
    pub fn load(path: &Path) -> Result<Self, AccessError> {
        Self::read(path, Way::Named)
    }

    fn read(path: &Path, way: Way) -> Result<Self, AccessError> {
        Self::parse(path, &private::read(path, way)?)
    }

    /// What `text`, of the file `path`, says.
    ///
    /// # Errors
    /// What cannot be.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, AccessError> {
        let source = Source { path, text };
        let file: CredentialsFile = source.parse()?;
        let wrong = |value: &Spanned<String>, what: &str| source.wrong(value.span().start, what);
        let server_key = source.public(&file.server_key)?;
        if !server_key.is_sound() {
            return Err(wrong(
                &file.server_key,
                "the server_key is no key that anybody can have alone",
            ));
        }
        if let Some(server) = file.server.as_ref().filter(|server| !is_server(server.get_ref())) {
            return Err(wrong(server, "server: write HOST:PORT, as in 10.0.0.1:9310"));
        }
        if !is_identity_name(file.identity.get_ref()) {
            return Err(wrong(&file.identity, "identity: this cannot name one"));
        }
        Ok(Self {
            server: file.server.map(Spanned::into_inner),
            server_key,
            secret: source.secret("the secret", file.secret)?,
            psk: file.psk.map(|psk| source.secret("the psk", psk)).transpose()?,
            identity: file.identity.into_inner(),
        })
    }

    /// Writes them to a file that is not there yet, for its owner alone. When it returns, the file is on the disk.
    ///
    /// # Errors
    /// What the operating system says; `AlreadyExists` for a file that is there, `InvalidInput` where `server` or
    /// `identity` cannot be what they are.
    pub fn write_new(&self, path: &Path) -> io::Result<()> {
        let is_sound =
            is_identity_name(&self.identity) && self.server.as_deref().is_none_or(is_server);
        if !is_sound {
            let what = "neither server nor identity can have such a name";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        private::create(path, &self.to_toml(), None)?;
        private::sync_directory(private::directory_of(path))
    }

    fn to_toml(&self) -> Zeroizing<String> {
        let secret = self.secret.to_text();
        let psk = self.psk.as_ref().map(SecretKey::to_text);
        // Room for all of it, so that no part is left behind where the text grew.
        let mut text = Zeroizing::new(String::with_capacity(1024 + 2 * SERVER_BYTES_MAX));
        let mut line = |key: &str, value: &str| {
            for part in [key, " = \"", value, "\"\n"] {
                text.push_str(part);
            }
        };
        line("identity", &self.identity);
        if let Some(server) = &self.server {
            line("server", server);
        }
        line("server_key", &self.server_key.to_string());
        line("secret", &secret);
        if let Some(psk) = &psk {
            line("psk", psk);
        }
        text
    }
}

/// Writes a secret to a file that is not there yet, for its owner alone: the beginning of a file of credentials, to which
/// comes what only the appliance knows.
///
/// # Errors
/// What the operating system says; `AlreadyExists` for a file that is there.
pub fn write_secret(path: &Path, secret: &SecretKey) -> io::Result<()> {
    let public = secret.public();
    let secret = secret.to_text();
    let mut text = Zeroizing::new(String::with_capacity(512));
    for part in [
        "# Give ",
        &public.to_string(),
        " to whoever runs the appliance.\n\
         # What `buslane key authorize` says there, identity and server_key, goes in here.\n\
         secret = \"",
        &secret,
        "\"\n",
    ] {
        text.push_str(part);
    }
    private::create(path, &text, None)?;
    private::sync_directory(private::directory_of(path))
}

/// Whether this may be `HOST:PORT`: nothing in it has a meaning in TOML or on a terminal.
fn is_server(text: &str) -> bool {
    let is_plain = |c: char| c.is_alphanumeric() || ".-_:".contains(c);
    (1..=SERVER_BYTES_MAX).contains(&text.len()) && text.chars().all(is_plain)
}

/// Finds the credentials for the appliance at `server`, and the file they are in:
///
/// 1. `explicit`, which the user named;
/// 2. the link that `serve` makes in the runtime directory of this user, for the address or, on this host, for 0.0.0.0. It
///    stands before the next ones because another appliance may run from another directory;
/// 3. the file in `~/.config/buslane` whose `server` is this address, so that an appliance elsewhere is not asked with the
///    keys of the one that ran here;
/// 4. for root, the link in the runtime directory of another user: it may look after the appliance of any of them;
/// 5. on this host, the only appliance that this user has links of: its ports may be mapped to others on the way;
/// 6. `buslane-data/keys/local.access` below `here`;
/// 7. the only file in `~/.config/buslane`.
///
/// What is not there, leads nowhere, or is in a directory that this user may not enter, is passed over; so is a runtime
/// directory that is not this user's alone. What is found and cannot be used is an error.
///
/// # Errors
/// `AccessError` of the file, or when there are several in `~/.config/buslane` and none says this address.
pub fn find(
    explicit: Option<&Path>,
    server: SocketAddrV4,
    environment: &dyn Fn(&str) -> Option<OsString>,
    here: &Path,
) -> Result<Option<(PathBuf, Credentials)>, AccessError> {
    if let Some(path) = explicit {
        return Ok(Some((path.to_owned(), Credentials::load(path)?)));
    }
    let found = |path: PathBuf| Credentials::read(&path, Way::Found).map(|read| Some((path, read)));
    if let Some(link) = link_of(server, environment) {
        return found(link);
    }
    let config = Config::read(environment);
    if let Some(known) = config.of(server)? {
        return Ok(Some(known));
    }
    if let Some(link) = link_of_another(server, environment) {
        // What belongs to the owner of the directory is believed.
        return Credentials::read(&link, Way::Named).map(|read| Some((link, read)));
    }
    let own = runtime::existing(environment("XDG_RUNTIME_DIR"));
    let own = own.filter(|_| is_of_this_host(*server.ip()));
    if let Some(target) = own.and_then(|dir| runtime::only_target(&dir)) {
        return found(target);
    }
    let local = here.join(LOCAL_HERE);
    if is_there(&local) { found(local) } else { config.only(server) }
}

/// The credentials of this process for the appliance at `server`, and the file they are in: those of `explicit` or of
/// `$BUSLANE_ACCESS`, or what [`find`] finds.
///
/// # Errors
/// That there are none, with where they were looked for, or what is wrong with those that are there.
pub fn find_here(
    explicit: Option<&Path>,
    server: SocketAddrV4,
) -> Result<(PathBuf, Credentials), AccessError> {
    let named = std::env::var_os("BUSLANE_ACCESS").map(PathBuf::from);
    let here = std::env::current_dir().unwrap_or_default();
    let environment = |name: &str| std::env::var_os(name);
    let found = find(explicit.or(named.as_deref()), server, &environment, &here)?;
    found.ok_or_else(|| {
        AccessError::Absent(format!(
            "no credentials for an appliance at {server}: none is served there by this user, and \
             there are none in {LOCAL_HERE} nor ~/.config/buslane; start it, or have a file made \
             for you where it runs (buslane key authorize NAME) and give that with --access FILE; \
             --plain speaks in the clear"
        ))
    })
}

fn is_there(path: &Path) -> bool {
    fs::metadata(path).is_ok()
}

/// The link of the appliance at `server`, where it leads somewhere.
fn link_of(
    server: SocketAddrV4,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Option<PathBuf> {
    link_in(&runtime::existing(environment("XDG_RUNTIME_DIR"))?, server)
}

/// The same of an appliance of another user, for root.
fn link_of_another(
    server: SocketAddrV4,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Option<PathBuf> {
    let is_root = private::own_user() == 0;
    let dirs = is_root.then(|| runtime::of_others(environment("XDG_RUNTIME_DIR")));
    dirs?.iter().find_map(|dir| link_in(dir, server))
}

fn link_in(dir: &Path, server: SocketAddrV4) -> Option<PathBuf> {
    let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, server.port());
    let addresses = [Some(server), is_of_this_host(*server.ip()).then_some(any)];
    let links =
        addresses.into_iter().flatten().map(|address| dir.join(runtime::link_name(address)));
    links.into_iter().find(|link| is_there(link))
}

/// Whether an address is one of this host, as the kernel knows them.
fn is_of_this_host(address: Ipv4Addr) -> bool {
    address.is_loopback() || UdpSocket::bind((address, 0)).is_ok()
}

/// What is in the user's directory for such files.
struct Config {
    /// Each file, in order of names, and what it says.
    files: Vec<(PathBuf, Result<Credentials, AccessError>)>,
}

impl Config {
    fn read(environment: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let absolute =
            |name| environment(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let dir = absolute("XDG_CONFIG_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".config")));
        let entries = dir.and_then(|dir| fs::read_dir(dir.join("buslane")).ok());
        let paths = entries.into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
        let is_one = |path: &PathBuf| path.extension().is_some_and(|ending| ending == ENDING);
        let mut paths: Vec<PathBuf> = paths.filter(|path| is_one(path) && is_there(path)).collect();
        paths.sort_unstable();
        paths.truncate(CREDENTIALS_LOOKED_AT_MAX);
        let read = |path: PathBuf| {
            let read = Credentials::read(&path, Way::Found);
            (path, read)
        };
        Self { files: paths.into_iter().map(read).collect() }
    }

    /// The one that says this address.
    fn of(&self, server: SocketAddrV4) -> Result<Option<(PathBuf, Credentials)>, AccessError> {
        let server = server.to_string();
        let is_of = |known: &Credentials| known.server.as_deref() == Some(server.as_str());
        let all = self.files.iter().filter_map(|(path, read)| Some((path, read.as_ref().ok()?)));
        let mut all = all.filter(|(_, known)| is_of(known));
        let Some((path, known)) = all.next() else { return Ok(None) };
        match all.next() {
            None => Ok(Some((path.clone(), known.clone()))),
            Some((other, _)) => {
                let other = other.display();
                let what = format!("both it and {other} are for {server}; say which with --access");
                Err(AccessError::wrong(path, None, what))
            }
        }
    }

    /// The only one there is.
    fn only(self, server: SocketAddrV4) -> Result<Option<(PathBuf, Credentials)>, AccessError> {
        let count = self.files.len();
        let mut files = self.files.into_iter();
        let Some((path, read)) = files.next() else { return Ok(None) };
        if count == 1 {
            return read.map(|known| Some((path, known)));
        }
        // One that cannot be read may be the one.
        read?;
        if let Some(error) = files.find_map(|(_, read)| read.err()) {
            return Err(error);
        }
        let what = format!(
            "there are {count} files of credentials and none says `server = \"{server}\"`; say which with --access"
        );
        Err(AccessError::wrong(private::directory_of(&path), None, what))
    }
}

#[cfg(test)]
#[path = "credentials_tests.rs"]
mod tests;
