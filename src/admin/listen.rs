//! What housekeeping opens before a shard serves: HTTP, the unix socket, the interval log.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use super::hlog::IntervalLog;
use super::reload::Hangup;
use super::socket::{AdminSocket, SocketFile};
use crate::profile::{HTTP_DEFAULT, Profile, ProfileError, runtime};
use crate::retry::retry;

/// How long an address in use is tried again: a process that was killed a moment ago has it until the kernel has taken
/// it down.
const HTTP_PATIENCE: Duration = Duration::from_secs(1);

/// Where a request for the state comes in.
#[derive(Debug)]
pub struct Listeners {
    pub(super) http: Option<TcpListener>,
    pub(super) socket: Option<AdminSocket>,
    /// What is not as wished, and does not keep an appliance from serving.
    pub warnings: Vec<String>,
    pub(super) log: Option<IntervalLog>,
    pub(super) hangup: Hangup,
    pub(super) profile: Profile,
    pub(super) runtime: Runtime,
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
    /// Opens what a profile asks for. A unix socket that cannot be had is a warning.
    ///
    /// # Errors
    /// What cannot be opened, and how to mend it.
    pub fn open(profile: &Profile, hangup: Hangup) -> Result<Self, ProfileError> {
        let mut warnings = Vec::new();
        let http = open_http(profile, &mut warnings)?;
        let log = open_log(profile)?;
        let socket = open_socket(profile, &mut warnings)?;
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| {
            let mend = "raise the limit on open files (ulimit -n, LimitNOFILE=)";
            ProfileError::Host(format!("housekeeping: {error}; {mend}"))
        })?;
        Ok(Self { runtime, http, socket, warnings, log, hangup, profile: profile.clone() })
    }

    /// The unix socket's name, to be removed when the process ends in order.
    #[must_use]
    pub fn socket_file(&self) -> Option<SocketFile> {
        self.socket.as_ref().map(AdminSocket::file)
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
    let in_use = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
    match retry(HTTP_PATIENCE, in_use, || TcpListener::bind(address)) {
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

/// The socket, or what keeps it from being made: whoever cannot be asked can serve all the same. A path that
/// names something else is a mistake, and refused.
fn open_socket(
    profile: &Profile,
    warnings: &mut Vec<String>,
) -> Result<Option<AdminSocket>, ProfileError> {
    let path = match socket_path(profile) {
        Ok(Some(path)) => path,
        Ok(None) => return Ok(None),
        Err(error) => {
            warnings.push(format!("metrics.socket: {error}; `buslane stat` has nothing to ask"));
            return Ok(None);
        }
    };
    let wrong = |why| {
        let place = profile.source.place("metrics.socket");
        ProfileError::Host(format!("{place}: metrics.socket: {}: {why}", path.display()))
    };
    AdminSocket::open(&path, warnings).map(Some).map_err(wrong)
}

#[cfg(test)]
mod tests {
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
}
