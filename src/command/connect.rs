//! Connecting a command to an appliance.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::mpsc::{Receiver, TryRecvError, channel};

use super::credentials::Pass;
use super::publish::missing;
use super::{CommandError, note};
use crate::access::Credentials;
use crate::cli::Globals;
use crate::cli::parse::{self, Server};
use crate::client::blocking::{Client, Error};
use crate::client::{ClientError, ClientOptions, Publisher, StreamDescription, polled};
use crate::clock::{Clock, HostClock};
use crate::cpu;
use crate::launch::{LaunchError, open_port};
use crate::port::{AnyPort, PortError};
use crate::profile::{self, Profile};
use crate::wire::control::ErrorCode;

/// After so long without a session, another address is tried.
const TRY_NS: u64 = 1_000_000_000;

/// A client over the client port of the profile: kernel UDP unless another was named.
pub(super) fn connect(
    globals: &Globals,
    publisher: Publisher,
) -> Result<Client<AnyPort>, CommandError> {
    let profile = profile::load(globals.profile_or_default(), &globals.set)?;
    profile.check_client(&cpu::available_cores())?;
    let servers = servers_of(globals, &profile)?;
    let pass = Pass::find(globals, &profile, &servers)?;
    connect_to(globals, open_port(&profile.client.port)?, &servers, publisher, &pass)
}

/// The pass for one shard.
fn pass_for(globals: &Globals, server: SocketAddrV4) -> Result<Pass, CommandError> {
    let profile = profile::load(globals.profile_or_default(), &globals.set)?;
    Pass::find(globals, &profile, &[server])
}

/// A client of one shard, over a port that is open.
pub(super) fn connect_at(
    globals: &Globals,
    port: AnyPort,
    server: SocketAddrV4,
    publisher: Publisher,
) -> Result<Client<AnyPort>, CommandError> {
    let pass = pass_for(globals, server)?;
    connect_to(globals, port, &[server], publisher, &pass)
}

/// A client of another shard of the appliance that answers at `by`, over a port that is open.
pub(super) fn connect_shard(
    globals: &Globals,
    port: AnyPort,
    shard: u32,
    server: SocketAddrV4,
    by: SocketAddrV4,
) -> Result<Client<AnyPort>, CommandError> {
    let opened = connect_at(globals, port, server, Publisher::No);
    opened.map_err(|error| {
        if matches!(error, CommandError::Unreachable(_)) {
            return Error::from(ClientError::ShardUnreachable { shard, server, by }).into();
        }
        error
    })
}

/// A client of the first of these addresses that answers.
fn connect_to(
    globals: &Globals,
    port: AnyPort,
    servers: &[SocketAddrV4],
    publisher: Publisher,
    pass: &Pass,
) -> Result<Client<AnyPort>, CommandError> {
    let dead_after_ns = globals.connect_timeout;
    let security = pass.security.clone();
    let options = ClientOptions { dead_after_ns, ..ClientOptions::new(publisher, security) };
    let each_ns = TRY_NS.min(dead_after_ns / u64::try_from(servers.len()).expect("few"));
    let mut starting = Starting { since_ns: None, is_said: globals.quiet };
    let mut watch = |client: &_| starting.watch(client);
    let connected = Client::over_any_watched(port, servers, each_ns, options, &mut watch);
    connected.map_err(|error| match servers {
        [_, .., _] if error.is_unreachable() => {
            let all: Vec<_> = servers.iter().map(ToString::to_string).collect();
            let what = "answers: is the appliance running, and are these its addresses?";
            CommandError::Unreachable(format!("none of {} {what}", all.join(", ")))
        }
        _ => pass.explain(error),
    })
}

/// An appliance that starts, and is waited for however long it takes.
struct Starting {
    since_ns: Option<u64>,
    is_said: bool,
}

impl Starting {
    /// Says it once, when it takes longer than a moment.
    fn watch(&mut self, client: &polled::Client<AnyPort, HostClock>) {
        let Some((ErrorCode::Starting, _)) = client.refusal().filter(|_| !self.is_said) else {
            return;
        };
        let now_ns = client.clock().now_ns();
        if now_ns.saturating_sub(*self.since_ns.get_or_insert(now_ns)) < TRY_NS {
            return;
        }
        self.is_said = true;
        let says = ErrorCode::Starting;
        note(&format!("{}: {says}; waiting for it", client.server()));
    }
}

/// A stream, and a publisher with a session on its shard. Who asks for it does not publish yet: a producer that
/// moves on leaves its place in the table of the shard behind.
pub(super) fn connect_publisher(
    globals: &Globals,
    name: &str,
    publisher: Publisher,
) -> Result<(Client<AnyPort>, StreamDescription), CommandError> {
    let mut asking = connect(globals, Publisher::No)?;
    let stream = asking.describe_stream(name).map_err(|error| missing(error, name))?;
    let server = asking.polled().server();
    Ok((connect_at(globals, asking.close(), server, publisher)?, stream))
}

/// Where the appliance is, the first address first: what was asked for, or what the profile says.
pub(super) fn servers_of(
    globals: &Globals,
    profile: &Profile,
) -> Result<Vec<SocketAddrV4>, CommandError> {
    let listens = profile.port.address;
    let resolve =
        |server: &Server| server.resolve(listens.port()).map_err(CommandError::Unreachable);
    let mut servers = match (&globals.server, &globals.access) {
        (Some(server), _) => resolve(server)?,
        // Who was given credentials was given an address with them.
        (None, Some(path)) => match Credentials::load(path)?.server {
            Some(server) => resolve(&parse::server(&server).map_err(CommandError::Usage)?)?,
            None => vec![listens],
        },
        (None, None) => vec![listens],
    };
    for server in &mut servers {
        // A profile may listen on every address of this host.
        if server.ip().is_unspecified() {
            server.set_ip(Ipv4Addr::LOCALHOST);
        }
    }
    Ok(servers)
}

/// The way to an appliance that may move: while it is lost, its name is looked up anew, and each address tried.
#[derive(Debug)]
pub(super) struct Route {
    /// `None` where there is one address only, for good.
    server: Option<Server>,
    lost_ns: Option<u64>,
    tried: usize,
    /// An answer that is due: names are looked up by a thread, for that may take seconds.
    answer: Option<Receiver<Vec<SocketAddrV4>>>,
}

impl Route {
    /// The way to what was asked for.
    pub(super) fn of(globals: &Globals) -> Self {
        let server = globals.server.clone().filter(Server::is_name);
        Self { server, lost_ns: None, tried: 0, answer: None }
    }

    /// To be called again and again; does nothing while there is a session.
    #[allow(clippy::disallowed_methods, reason = "a thread that only asks for a name")]
    pub(super) fn keep(&mut self, client: &mut polled::Client<AnyPort, HostClock>) {
        let Some(server) = &self.server else { return };
        if client.is_connected() {
            self.lost_ns = None;
            return;
        }
        let now_ns = client.clock().now_ns();
        let lost_ns = *self.lost_ns.get_or_insert(now_ns);
        if let Some(answer) = &self.answer {
            let found = match answer.try_recv() {
                Ok(found) => found,
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => Vec::new(),
            };
            self.answer = None;
            if !found.is_empty() {
                // The port is that of the shard the session is with.
                let port = client.server().port();
                let ip = *found[self.tried % found.len()].ip();
                client.set_server(SocketAddrV4::new(ip, port));
                self.tried += 1;
            }
            self.lost_ns = Some(now_ns);
        } else if now_ns - lost_ns >= TRY_NS {
            let (sender, answer) = channel();
            let server = server.clone();
            std::thread::spawn(move || {
                let _ = sender.send(server.resolve(1).unwrap_or_default());
            });
            self.answer = Some(answer);
        }
    }
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
            | LaunchError::Access(_)
            | LaunchError::Disk(_)
            | LaunchError::Format(_)
            | LaunchError::Open(_)
            | LaunchError::Pin(_)
            | LaunchError::Signals(_)
            | LaunchError::Housekeeping(_)
            | LaunchError::Thread(_)
            | LaunchError::Stopped
            | LaunchError::OfShard(..)
            | LaunchError::Failed(_)) => Self::Failed(error.to_string()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the way is looked for in real time")]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn an_appliance_that_is_lost_is_looked_for_under_its_name() {
        let port = Profile::default().client.port;
        let old = "127.0.0.2:9".parse().unwrap();
        let options = ClientOptions::plain(Publisher::No);
        let mut client =
            polled::Client::new(open_port(&port).unwrap(), HostClock::new(), old, options);
        let cli = Cli::parse_from(["buslane", "-s", "localhost:9310", "stream", "list"]);
        let mut route = Route::of(&cli.globals);
        while client.server() == old {
            route.keep(&mut client);
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert_eq!(client.server().to_string(), "127.0.0.1:9", "the port of the shard stays");
        let cli = Cli::parse_from(["buslane", "-s", "10.0.0.1", "stream", "list"]);
        assert!(Route::of(&cli.globals).server.is_none(), "a number does not move");
    }

    #[test]
    fn a_profile_that_listens_everywhere_is_found_here() {
        let mut profile = Profile::default();
        profile.port.address = "0.0.0.0:9400".parse().unwrap();
        let cli = Cli::parse_from(["buslane", "stream", "list"]);
        let found = servers_of(&cli.globals, &profile).unwrap();
        assert_eq!(found, ["127.0.0.1:9400".parse().unwrap()]);
        let cli = Cli::parse_from(["buslane", "-s", "10.0.0.1", "stream", "list"]);
        let found = servers_of(&cli.globals, &profile).unwrap();
        assert_eq!(found, ["10.0.0.1:9400".parse().unwrap()]);
    }
}
