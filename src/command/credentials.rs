//! What a command comes with: credentials that are found for the appliance, or nothing, in the clear.

use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::time::Duration;

use super::CommandError;
use crate::access::{self, AccessError, Credentials, PublicKey};
use crate::cli::Globals;
use crate::client::{ClientError, Security, blocking};
use crate::clock::{Clock, HostClock};
use crate::profile::{Profile, SecurityMode};
use crate::wire::control::{CodedError, ErrorCode};

/// Between two looks for credentials that are not there.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How a command is known to the appliance.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) security: Security,
    /// Whose it is, and where it was found; nobody's in the clear.
    found: Option<(String, PublicKey, PathBuf)>,
}

impl Pass {
    /// For the appliance at one of these addresses.
    #[allow(clippy::disallowed_methods, reason = "a command may wait for an appliance that starts")]
    pub(super) fn find(
        globals: &Globals,
        profile: &Profile,
        servers: &[SocketAddrV4],
    ) -> Result<Self, CommandError> {
        // Whoever gives a profile says so there, for both ends.
        if globals.plain || profile.security.mode == SecurityMode::Plain {
            return Ok(Self { security: Security::Plain, found: None });
        }
        let clock = HostClock::new();
        let until_ns = clock.now_ns().saturating_add(globals.connect_timeout);
        loop {
            match Self::look(globals, servers) {
                // It may be about to start.
                Err(AccessError::Absent(_)) if clock.now_ns() < until_ns => {
                    std::thread::sleep(LOOK_EVERY);
                }
                Err(AccessError::Absent(why)) => return Err(CommandError::Unreachable(why)),
                found => return Ok(Self::of(found?)),
            }
        }
    }

    fn look(
        globals: &Globals,
        servers: &[SocketAddrV4],
    ) -> Result<(PathBuf, Credentials), AccessError> {
        let explicit = globals.access.as_deref();
        let mut found = servers.iter().map(|&server| access::find_here(explicit, server));
        let first = found.next().expect("there is an address");
        first.or_else(|error| found.find_map(Result::ok).ok_or(error))
    }

    fn of(found: (PathBuf, Credentials)) -> Self {
        let (path, credentials) = found;
        let security = Security::of(&credentials);
        let found = Some((credentials.identity, credentials.secret.public(), path));
        Self { security, found }
    }

    /// Why there is no session, where what it came with may be why.
    pub(super) fn explain(&self, error: blocking::Error) -> CommandError {
        let is_silent = error.is_unreachable();
        let Some((identity, key, path)) = &self.found else {
            let why = "One that takes sealed sessions only does not answer in the clear";
            return if is_silent { silent(&error, why) } else { error.into() };
        };
        let path = path.display();
        if is_silent {
            return silent(
                &error,
                &format!("One with another key than {path} says does not answer"),
            );
        }
        let blocking::Error::Client(why) = &error else { return error.into() };
        if let ClientError::UnknownKey { server } = why {
            return CommandError::Failed(format!(
                "{server} does not know the key of {identity} ({path}); to let it in, on that host, as the appliance's \
                 user: buslane key authorize {identity} {key} --publish PATTERN --subscribe PATTERN"
            ));
        }
        if let ClientError::Refused(CodedError { code, .. }) = why
            && *code == ErrorCode::NotAuthorized
        {
            return CommandError::Failed(format!("{identity} ({path}): {code}"));
        }
        error.into()
    }
}

fn silent(error: &blocking::Error, why: &str) -> CommandError {
    CommandError::Unreachable(format!("{error} {why}"))
}
