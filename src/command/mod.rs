//! Commands: one file each, and what they share.
//!
//! A command writes its data through [`Out`], everything else to stderr, and ends with a
//! [`CommandError`] whose kind is the exit code.

pub(crate) mod framed;
pub(crate) mod out;
pub(crate) mod progress;
mod ask;
mod connect;
mod copy_target;
mod credentials;
mod idle;
mod keepers;
mod key;
mod serve;
mod source;
mod stat;
mod top;
mod log;
mod log_copy;
mod man;
mod outage;
mod bench;
mod host;
mod publish;
mod consume;
mod stream;
mod completion;
mod sample;
#[cfg(feature = "sim")]
mod sim;
#[cfg(feature = "sim")]
mod fuzz;
mod verify_history;
mod version;

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::SIGHUP;

use crate::access::AccessError;
use crate::cli::arguments::SampleCommand;
use crate::cli::{Cli, Command, Globals, Output};
use crate::client::blocking::Client;
use crate::history::{History, HistoryFile};
use crate::launch::{LaunchError, catch_signals};
use crate::port::AnyPort;
use crate::profile::ProfileError;

pub use out::Out;

/// Why a command did not do all that was asked. The message is what is printed after `error: `.
#[derive(Debug, displaydoc::Display, thiserror::Error)]
#[ignore_extra_doc_attributes]
pub enum CommandError {
    /// {0}
    ///
    /// It failed.
    Failed(String),
    /// {0}
    ///
    /// It was asked the wrong way.
    Usage(String),
    /// {0}
    ///
    /// Nobody answered.
    Unreachable(String),
    /// {0}
    ///
    /// It is done, with warnings that `--strict` does not allow.
    Warnings(String),
    /// interrupted
    Interrupted,
    /// {0}
    ///
    /// It was interrupted, and says how far it had come.
    Stopped(String),
    /// the output was closed
    ///
    /// Whoever read it stopped reading, as `head` does; nothing to complain about.
    OutputClosed,
}

impl CommandError {
    /// The exit code scripts rely on.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::OutputClosed => 0,
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
            Self::Warnings(_) => 4,
            Self::Interrupted | Self::Stopped(_) => 130,
        }
    }

    /// A failure to write results.
    #[must_use]
    pub fn output(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::OutputClosed
        } else {
            Self::Failed(format!("cannot write the result: {error}"))
        }
    }
}

impl From<ProfileError> for CommandError {
    fn from(error: ProfileError) -> Self {
        if error.is_usage() {
            Self::Usage(error.to_string())
        } else {
            Self::Failed(error.to_string())
        }
    }
}

impl From<AccessError> for CommandError {
    fn from(error: AccessError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Says something beside the results; where stderr is closed there is nobody to hear it.
fn note(what: &str) {
    let _ = writeln!(io::stderr(), "note: {what}");
}

/// Says with whom a session is, where more is to be said.
fn note_session(globals: &Globals, client: &mut Client<AnyPort>) {
    if globals.verbose == 0 {
        return;
    }
    let client = client.polled();
    let (server, facts, producer) = (client.server(), client.shards(), client.producer().0.0);
    let who = if producer == 0 { String::new() } else { format!(", as producer {producer}") };
    let durability = client.durability().name();
    note(&format!("shard {} of {} at {server} ({durability}){who}", facts.shard, facts.shards));
}

/// Where a client's history is to be written down, begins it there.
fn record(client: &mut Client<AnyPort>, path: Option<&Path>) -> Result<(), CommandError> {
    let Some(path) = path else { return Ok(()) };
    let file = HistoryFile::create(path).map_err(|error| {
        let path = path.display();
        CommandError::Failed(if error.kind() == io::ErrorKind::AlreadyExists {
            format!("{path}: there is a file already; each history has a file of its own")
        } else {
            format!("{path}: the history cannot be written: {error}")
        })
    })?;
    client.polled().record(History::new(Box::new(file)));
    Ok(())
}

/// A flag that whatever tells a command to end sets: SIGTERM, SIGINT, and a terminal that is gone (SIGHUP), unless that
/// is ignored, as `nohup` wants it.
fn told_to_end() -> Result<Arc<AtomicBool>, CommandError> {
    let stop = catch_signals()?;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    if ignored & 1 << (SIGHUP - 1) == 0 {
        signal_hook::flag::register(SIGHUP, Arc::clone(&stop)).map_err(LaunchError::Signals)?;
    }
    Ok(stop)
}

/// Does what was asked.
///
/// # Errors
/// `CommandError`, whose kind is the exit code.
pub fn run(cli: &Cli) -> Result<(), CommandError> {
    let globals = &cli.globals;
    let of_payloads = matches!(globals.output(), Output::Raw | Output::Framed);
    if of_payloads && !matches!(cli.command, Command::Consume(_)) {
        let what = "-o raw and -o framed are for consume: other results are not payloads; use text or json";
        return Err(CommandError::Usage(what.to_owned()));
    }
    match &cli.command {
        Command::Sample(SampleCommand::Orders(args)) => sample::orders(globals, args),
        #[cfg(feature = "sim")]
        Command::Sim(args) => sim::sim(globals, args),
        #[cfg(feature = "sim")]
        Command::Fuzz(args) => fuzz::fuzz(globals, args),
        Command::Completion(args) => completion::completion(args),
        Command::Man(args) => man::man(&args.dir),
        Command::Version => version::version(globals),
        Command::Serve => serve::serve(globals),
        Command::Publish(args) => publish::publish(globals, args),
        Command::Consume(args) => consume::consume(globals, args),
        Command::VerifyHistory(args) => verify_history::verify_history(globals, args),
        Command::Stream(command) => stream::stream(globals, command),
        Command::Log(command) => log::log(globals, command),
        Command::Stat(args) => stat::stat(globals, args),
        Command::Top(args) => top::top(globals, args),
        Command::Bench(command) => bench::bench(globals, command),
        Command::Host(command) => host::host(globals, command),
        Command::Key(command) => key::key(globals, command),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_the_design() {
        let text = String::new;
        for (error, code) in [
            (CommandError::OutputClosed, 0),
            (CommandError::Failed(text()), 1),
            (CommandError::Usage(text()), 2),
            (CommandError::Unreachable(text()), 3),
            (CommandError::Warnings(text()), 4),
            (CommandError::Interrupted, 130),
            (CommandError::Stopped(text()), 130),
            (ProfileError::Wrong(text()).into(), 2),
            (ProfileError::Host(text()).into(), 1),
            (CommandError::output(&io::ErrorKind::BrokenPipe.into()), 0),
            (CommandError::output(&io::ErrorKind::StorageFull.into()), 1),
        ] {
            assert_eq!(error.exit_code(), code, "{error:?}");
        }
    }
}
