//! Connecting a command to an appliance.

use std::net::SocketAddrV4;

use super::CommandError;
use super::publish::missing;
use crate::cli::{Globals, SERVER_DEFAULT};
use crate::client::blocking::{Client, Error};
use crate::client::{ClientOptions, Publisher, StreamDescription};
use crate::cpu;
use crate::launch::{AnyPort, LaunchError, open_port};
use crate::port::PortError;
use crate::profile::{self, Profile};

/// How long a command looks for the appliance.
const CONNECT_NS: u64 = 5_000_000_000;

/// A client over kernel UDP, or over the client port of the profile that was named.
pub(super) fn connect(
    globals: &Globals,
    publisher: Publisher,
) -> Result<Client<AnyPort>, CommandError> {
    let (port, server) = match &globals.profile {
        None => {
            let profile = Profile::default();
            let server = SERVER_DEFAULT.parse().expect("a constant address");
            let mut port = profile.client.port;
            port.datagram_bytes = crate::limits::DATAGRAM_BYTES_MAX;
            (open_port(&port)?, globals.server.unwrap_or(server))
        }
        Some(name) => {
            let profile = profile::load(name, &globals.set)?;
            profile.check_client(&cpu::available_cores())?;
            (open_port(&profile.client.port)?, server_of(globals, &profile))
        }
    };
    connect_at(port, server, publisher)
}

/// A client of one shard, over a port that is open.
pub(super) fn connect_at(
    port: AnyPort,
    server: SocketAddrV4,
    publisher: Publisher,
) -> Result<Client<AnyPort>, CommandError> {
    let options = ClientOptions { dead_after_ns: CONNECT_NS, ..ClientOptions::new(publisher) };
    Ok(Client::over(port, server, options)?)
}

/// A stream, and a publisher with a session on its shard. Who asks for it does not publish yet: a producer that
/// moves on leaves its place in the table of the shard behind.
pub(super) fn connect_publisher(
    globals: &Globals,
    name: &str,
) -> Result<(Client<AnyPort>, StreamDescription), CommandError> {
    let mut asking = connect(globals, Publisher::No)?;
    let stream = asking.describe_stream(name).map_err(|error| missing(error, name))?;
    let server = asking.polled().server();
    Ok((connect_at(asking.close(), server, Publisher::New)?, stream))
}

/// Where the appliance of a profile is.
pub(super) fn server_of(globals: &Globals, profile: &Profile) -> SocketAddrV4 {
    globals.server.unwrap_or(profile.port.address)
}

impl From<Error> for CommandError {
    fn from(error: Error) -> Self {
        if error.is_unreachable() {
            Self::Unreachable(error.to_string())
        } else {
            Self::Failed(error.to_string())
        }
    }
}

impl From<PortError> for CommandError {
    fn from(error: PortError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<LaunchError> for CommandError {
    fn from(error: LaunchError) -> Self {
        match error {
            LaunchError::Profile(error) => error.into(),
            error @ (LaunchError::Port(_)
            | LaunchError::Disk(_)
            | LaunchError::Format(_)
            | LaunchError::Open(_)
            | LaunchError::Pin(_)
            | LaunchError::Signals(_)
            | LaunchError::Housekeeping(_)
            | LaunchError::Thread(_)
            | LaunchError::Failed(_)) => Self::Failed(error.to_string()),
        }
    }
}
