//! Asking an appliance on this host for its state, over its unix socket: the one way `stat` and `top` have.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use super::CommandError;
use crate::admin::socket_path;
use crate::admin::state::{SessionsView, ShardsView, StreamsView};
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
}

/// Whom to ask.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    path: PathBuf,
}

impl Asker {
    /// The appliance of the profile's instance.
    pub(super) fn new(globals: &Globals) -> Result<Self, CommandError> {
        let profile = profile::load(globals.profile_or_default(), &globals.set)?;
        match socket_path(&profile)? {
            Some(path) => Ok(Self { path }),
            None => {
                let what = "metrics.socket is off in this profile: there is nothing to ask";
                Err(CommandError::Usage(what.to_owned()))
            }
        }
    }

    pub(super) fn shards(&self) -> Result<ShardsView, CommandError> {
        self.ask("/shards")
    }

    pub(super) fn views(&self) -> Result<Views, CommandError> {
        Ok(Views {
            shards: self.shards()?,
            sessions: self.ask("/sessions")?,
            streams: self.ask("/streams")?,
        })
    }

    /// One HTTP request.
    fn ask<T: serde::de::DeserializeOwned>(&self, route: &str) -> Result<T, CommandError> {
        let failed = |why: String| {
            let path = self.path.display();
            CommandError::Unreachable(format!(
                "{path}: {why}; is an appliance of this profile and `instance` running on this host, as this user?"
            ))
        };
        let mut answer = Vec::new();
        UnixStream::connect(&self.path)
            .and_then(|mut stream| {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                let head = "HTTP/1.1\r\nHost: buslane\r\nConnection: close";
                write!(stream, "GET {route} {head}\r\n\r\n")?;
                stream.read_to_end(&mut answer)
            })
            .map_err(|error| failed(error.to_string()))?;
        let text = String::from_utf8_lossy(&answer);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        if !head.starts_with("HTTP/1.1 200") {
            return Err(failed(format!(
                "it answered {}",
                head.lines().next().unwrap_or("nothing")
            )));
        }
        serde_json::from_str(body).map_err(|error| {
            failed(format!("it answered what this version does not know: {error}"))
        })
    }
}
