//! What housekeeping opens before a shard serves: HTTP, the unix socket, the interval log.

use std::fs::{self, File, TryLockError};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use super::hlog::IntervalLog;
use super::reload::Hangup;
use crate::profile::{HTTP_DEFAULT, Profile, ProfileError, runtime};

/// Where a request for the state comes in.
#[derive(Debug)]
pub struct Listeners {
    pub(super) http: Option<TcpListener>,
    pub(super) socket: Option<UnixListener>,
    file: Option<SocketFile>,
    /// What is not as wished, and does not keep an appliance from serving.
    pub warnings: Vec<String>,
    pub(super) log: Option<IntervalLog>,
    pub(super) hangup: Hangup,
    pub(super) profile: Profile,
}

/// The path of an appliance's socket; `None` when its profile wants none.
///
/// # Errors
/// When there is no runtime directory to have it in.
pub fn socket_path(profile: &Profile) -> Result<Option<PathBuf>, ProfileError> {
    match profile.metrics.socket.as_str() {
        "off" => Ok(None),
        "" => Ok(Some(runtime::directory()?.join(format!("admin-{}.sock", profile.instance)))),
        path => Ok(Some(PathBuf::from(path))),
    }
}

impl Listeners {
    /// Opens what a profile asks for, and catches SIGHUP. A unix socket that another appliance has stays its own.
    ///
    /// # Errors
    /// What cannot be opened, and how to mend it.
    pub fn open(profile: &Profile) -> Result<Self, ProfileError> {
        let mut warnings = Vec::new();
        let http = open_http(profile, &mut warnings)?;
        let log = open_log(profile)?;
        let (socket, file) = match socket_path(profile)? {
            Some(path) => open_socket(profile, &path, &mut warnings)?.unzip(),
            None => (None, None),
        };
        let hangup = Hangup::catch()
            .map_err(|error| ProfileError::Host(format!("catching SIGHUP: {error}")))?;
        Ok(Self { http, socket, file, warnings, log, hangup, profile: profile.clone() })
    }

    /// The unix socket, to be removed when the process ends in order; `None` when asked again.
    #[must_use]
    pub fn socket_file(&mut self) -> Option<SocketFile> {
        self.file.take()
    }
}

/// The unix socket's name, and the lock that says that it is ours. The name is removed when this is dropped.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    _lock: File,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn failed(profile: &Profile, key: &str, what: &str, error: &io::Error, mend: &str) -> ProfileError {
    let place = profile.source.place(key);
    ProfileError::Host(format!("{place}: {key}: {what}: {error}; {mend}"))
}

/// An address that was asked for is opened or refused; the default one is nice to have.
fn open_http(
    profile: &Profile,
    warnings: &mut Vec<String>,
) -> Result<Option<TcpListener>, ProfileError> {
    let Some(address) = profile.metrics.http_address() else { return Ok(None) };
    match TcpListener::bind(address) {
        Ok(listener) => {
            warnings.extend(exposure(address));
            Ok(Some(listener))
        }
        Err(error) if profile.source.is_given("metrics.http") => {
            let mend = "choose a free address and port, or \"off\"";
            Err(failed(profile, "metrics.http", &profile.metrics.http, &error, mend))
        }
        Err(error) => {
            warnings.push(format!(
                "metrics.http: {HTTP_DEFAULT}: {error}; no metrics over HTTP; choose another address with \
                 --set metrics.http=ADDRESS:PORT, or --set metrics.http=off"
            ));
            Ok(None)
        }
    }
}

fn exposure(address: SocketAddr) -> Option<String> {
    (!address.ip().is_loopback()).then(|| {
        format!(
            "metrics.http: {address} can be reached from other hosts, and whoever reaches it reads the names of \
             streams and the addresses of clients: there is no authentication"
        )
    })
}

fn open_log(profile: &Profile) -> Result<Option<IntervalLog>, ProfileError> {
    let dir = &profile.metrics.dir;
    if dir.is_empty() {
        return Ok(None);
    }
    IntervalLog::open(Path::new(dir)).map(Some).map_err(|error| {
        failed(profile, "metrics.dir", dir, &error, "choose a directory that can be written")
    })
}

/// Takes the lock beside a socket and then makes the socket: of two that start at once one gets both, and what a
/// killed one left behind is nobody's.
fn open_socket(
    profile: &Profile,
    path: &Path,
    warnings: &mut Vec<String>,
) -> Result<Option<(UnixListener, SocketFile)>, ProfileError> {
    let wrong = |error: &io::Error| {
        let mend = "choose another path, or \"off\"";
        failed(profile, "metrics.socket", &path.display().to_string(), error, mend)
    };
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock = File::options().write(true).create(true).truncate(false).open(name);
    let lock = lock.map_err(|error| wrong(&error))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            warnings.push(format!(
                "{}: another appliance answers there; `buslane stat` shows that one; give this one \
                 another `instance`, or metrics.socket",
                path.display()
            ));
            return Ok(None);
        }
        Err(TryLockError::Error(error)) => return Err(wrong(&error)),
    }
    let _ = fs::remove_file(path);
    let listener = UnixListener::bind(path).map_err(|error| wrong(&error))?;
    Ok(Some((listener, SocketFile { path: path.to_owned(), _lock: lock })))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::profile::load;

    fn profile(settings: &[&str]) -> Profile {
        let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
        load("loopback", &settings).expect("a profile")
    }

    #[test]
    fn a_taken_address_is_a_warning_only_when_nobody_asked_for_it() {
        // Taken by this test, or by somebody before it.
        let _taken = TcpListener::bind(HTTP_DEFAULT);
        let mut warnings = Vec::new();
        let http = open_http(&profile(&[]), &mut warnings).expect("no error");
        assert!(http.is_none());
        assert!(warnings[0].contains("--set metrics.http=off"), "{warnings:?}");
        let asked = profile(&["metrics.http=127.0.0.1:9464"]);
        let error = open_http(&asked, &mut warnings).expect_err("it was asked for").to_string();
        assert!(error.starts_with("--set metrics.http=127.0.0.1:9464: metrics.http: "), "{error}");
        for none in ["metrics.http=off", "metrics.http="] {
            assert!(open_http(&profile(&[none]), &mut warnings).expect("none").is_none());
        }
        assert_eq!(warnings.len(), 1);
        let open = profile(&["metrics.http=0.0.0.0:0"]);
        assert!(open_http(&open, &mut warnings).expect("a free port").is_some());
        assert!(warnings[1].contains("no authentication"), "{warnings:?}");
    }

    #[test]
    fn a_socket_belongs_to_one_and_outlives_no_kill() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("admin.sock");
        fs::write(&path, "left behind").expect("written");
        let profile = profile(&[]);
        let mut warnings = Vec::new();
        let mut open = || open_socket(&profile, &path, &mut warnings).expect("no error");
        let (listener, file) = open().expect("free");
        assert!(open().is_none(), "it has an owner");
        UnixStream::connect(&path).expect("the first one's still");
        drop((listener, file));
        assert!(!path.exists());
        assert!(open().is_some());
        assert_eq!(warnings.len(), 1);
    }
}
