//! Asking an appliance on this host for its state, over its unix socket: the one way `stat` and `top` have.

use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::CommandError;
use crate::admin::socket_path;
use crate::admin::state::{ProducersView, SessionsView, ShardsView, StreamsView};
use crate::cli::Globals;
use crate::profile;

/// An appliance that answers takes less.
const PATIENCE: Duration = Duration::from_secs(5);

/// Everything an appliance tells, as of about the same moment.
#[derive(Clone, Debug)]
pub(super) struct Views {
    pub(super) shards: ShardsView,
    pub(super) sessions: SessionsView,
    pub(super) streams: StreamsView,
    pub(super) producers: ProducersView,
}

impl Views {
    /// When the newest of it was so.
    pub(super) fn unix_ns(&self) -> u64 {
        self.shards.shards.iter().map(|shard| shard.unix_ns).max().unwrap_or(0)
    }
}

/// The runtime directory of the unit that `host generate systemd` writes.
const SYSTEM_RUNTIME: &str = "/run/buslane";

/// Whom to ask.
#[derive(Clone, Debug)]
pub(super) struct AdminClient {
    /// Where its socket may be, the likeliest first.
    paths: Vec<PathBuf>,
    /// The name of the socket, where the profile does not say where it is.
    name: Option<String>,
}

impl AdminClient {
    /// The appliance of the profile's instance: where this login would have its socket, or else where a service or
    /// another login of this user has.
    pub(super) fn new(globals: &Globals) -> Result<Self, CommandError> {
        // In the environment it is for the other commands.
        if globals.server.is_some() && std::env::var_os("BUSLANE_SERVER").is_none() {
            let what = "this shows an appliance of this host, over its unix socket: leave --server out; one of another \
                        host tells the same at its metrics.http (/shards, /sessions)";
            return Err(CommandError::Usage(what.to_owned()));
        }
        let profile = profile::load(globals.profile_or_default(), &globals.set)?;
        let own = match socket_path(&profile) {
            Ok(None) => {
                let what = "metrics.socket is off in this profile: there is nothing to ask";
                return Err(CommandError::Usage(what.to_owned()));
            }
            Ok(own) => own,
            // Somebody else may have one all the same.
            Err(_) => None,
        };
        if !profile.metrics.socket.is_empty() {
            return Ok(Self { paths: own.into_iter().collect(), name: None });
        }
        let user = Path::new("/proc/self").metadata().map_or(0, |facts| facts.uid());
        let name = format!("admin-{}.sock", profile.instance);
        let mut paths: Vec<PathBuf> = own.into_iter().collect();
        for directory in [
            format!("/run/user/{user}/buslane"),
            format!("/tmp/buslane-{user}"),
            format!("{SYSTEM_RUNTIME}/buslane"),
        ] {
            let path = Path::new(&directory).join(&name);
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
        Ok(Self { paths, name: Some(name) })
    }

    pub(super) fn shards(&self) -> Result<ShardsView, CommandError> {
        self.ask("/shards")
    }

    pub(super) fn views(&self) -> Result<Views, CommandError> {
        Ok(Views {
            shards: self.shards()?,
            sessions: self.ask("/sessions")?,
            streams: self.ask("/streams")?,
            producers: self.ask("/producers")?,
        })
    }

    /// One HTTP request, to the first that takes it.
    fn ask<T: serde::de::DeserializeOwned>(&self, route: &str) -> Result<T, CommandError> {
        let mut looked = Vec::new();
        for path in &self.paths {
            match UnixStream::connect(path) {
                Ok(stream) => return ask(stream, path, route),
                Err(error) => looked.push(format!("{}: {error}", path.display())),
            }
        }
        let elsewhere = self.elsewhere();
        for (path, _) in elsewhere.iter().filter(|(_, is_ours)| *is_ours) {
            if let Ok(stream) = UnixStream::connect(path) {
                return ask(stream, path, route);
            }
        }
        let mut why = looked.join("; ");
        for (path, _) in &elsewhere {
            let path = path.display();
            why.push_str(&format!(
                "; one has its socket at {path}: ask as its user or, of a service, as who is in its group, or with --set \
                 metrics.socket={path}"
            ));
        }
        Err(CommandError::Unreachable(format!(
            "{why}; is an appliance of this profile and `instance` running on this host, as this user, with this \
             XDG_RUNTIME_DIR?"
        )))
    }

    /// Sockets of that name which the kernel knows and which are none of `paths`, and whether they are this user's:
    /// another's may be anybody's.
    fn elsewhere(&self) -> Vec<(PathBuf, bool)> {
        let Some(name) = &self.name else { return Vec::new() };
        let table = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
        let user = Path::new("/proc/self").metadata().map_or(0, |facts| facts.uid());
        let mut found: Vec<(PathBuf, bool)> = sockets(&table, name)
            .filter(|path| !self.paths.contains(path))
            .map(|path| {
                let is_ours = path.metadata().is_ok_and(|facts| facts.uid() == user);
                (path, is_ours)
            })
            .collect();
        found.sort();
        found.dedup();
        found
    }
}

/// Paths in the kernel's table of unix sockets that end with `name`.
fn sockets(table: &str, name: &str) -> impl Iterator<Item = PathBuf> {
    table.lines().filter_map(move |line| {
        // The path is the eighth field, and may hold spaces.
        let path = Path::new(&line[line.find(" /")? + 1..]);
        (path.file_name()? == name).then(|| path.to_owned())
    })
}

fn ask<T: serde::de::DeserializeOwned>(
    mut stream: UnixStream,
    path: &Path,
    route: &str,
) -> Result<T, CommandError> {
    let failed = |why: String| CommandError::Unreachable(format!("{}: {why}", path.display()));
    let mut answer = Vec::new();
    let mut talk = || {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let head = "HTTP/1.1\r\nHost: buslane\r\nConnection: close";
        write!(stream, "GET {route} {head}\r\n\r\n")?;
        stream.read_to_end(&mut answer)
    };
    talk().map_err(|error| failed(error.to_string()))?;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    if !head.starts_with("HTTP/1.1 200") {
        return Err(failed(format!("it answered {}", head.lines().next().unwrap_or("nothing"))));
    }
    serde_json::from_str(body)
        .map_err(|error| failed(format!("it answered what this version does not know: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_found_by_name_wherever_they_are() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
                     0: 00000002 00000000 00010000 0001 01 27 /run/a b/admin-x.sock\n\
                     0: 00000002 00000000 00010000 0001 01 28 /run/admin-xy.sock\n\
                     0: 00000002 00000000 00010000 0001 01 29\n";
        let found: Vec<PathBuf> = sockets(table, "admin-x.sock").collect();
        assert_eq!(found, [PathBuf::from("/run/a b/admin-x.sock")]);
    }

    #[test]
    fn who_is_not_found_is_looked_for_in_every_place_and_these_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin-ask-test.sock");
        let nowhere = dir.path().join("nowhere");
        let admin = AdminClient { paths: vec![nowhere], name: Some("admin-ask-test.sock".into()) };
        let said = |admin: &AdminClient| admin.shards().unwrap_err().to_string();
        assert!(said(&admin).contains("/nowhere: No such file"), "{}", said(&admin));
        assert!(said(&admin).contains("XDG_RUNTIME_DIR"), "{}", said(&admin));
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(admin.elsewhere(), [(path, true)], "the kernel knows where it is");
        drop(listener);
    }
}
