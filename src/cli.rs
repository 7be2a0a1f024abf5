//! The command line: what can be asked, and how it is written.
//!
//! Noun, then verb: `buslane stream create orders`. Data goes to stdout, everything else to stderr.
//! Exit codes: 0 done, 1 failed, 2 wrong usage, 3 nobody answers, 4 done with warnings under
//! `--strict`, 130 interrupted. This module only says what was asked; `command` does it.

pub(crate) mod arguments;
pub(crate) mod host;
pub(crate) mod key;
pub(crate) mod parse;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use arguments::{
    BenchCommand, CompletionArgs, ConsumeArgs, LogCommand, PublishArgs, SampleCommand, StatArgs,
    StreamCommand, TopArgs, VerifyHistoryArgs,
};
use host::HostCommand;
use key::KeyCommand;
use parse::Server;

/// The version, and the commit it was built from: `0.1.0 (4711abcdef01)`.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("BUSLANE_COMMIT"), ")");

/// Where an appliance listens unless told otherwise.
pub const SERVER_DEFAULT: &str = "127.0.0.1:9310";

/// The profile of `serve`, `log` and `bench` unless told otherwise.
pub const PROFILE_DEFAULT: &str = "loopback";

/// A durable, low-latency message appliance for order flow: acknowledged means on media.
#[derive(Debug, Parser)]
#[command(name = "buslane", version = VERSION, propagate_version = true, max_term_width = 100)]
#[command(
    arg_required_else_help = true,
    after_help = "\
EXAMPLES
  buslane serve                                        serve on 127.0.0.1:9310, log in a file
  buslane stream create orders
  buslane sample orders --count 10k --out orders.itch50
  buslane publish orders --itch orders.itch50 --rate 1000
  buslane consume orders --from start --count 10
  buslane bench run --rate 1000 --floor                latency, with the floor beside it
  buslane host check                                   whether this host is set up for it

`buslane help COMMAND` says more about one command."
)]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub globals: Globals,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// Appliance to talk to, by name or IPv4 address [default: where the profile listens, or 127.0.0.1:9310]
    #[arg(short, long, global = true, env = "BUSLANE_SERVER", value_name = "HOST[:PORT]")]
    #[arg(value_parser = parse::server)]
    pub server: Option<Server>,
    /// Credentials to come with [default: those of the appliance of this user, or in ~/.config/buslane]
    #[arg(long, global = true, env = "BUSLANE_ACCESS", value_name = "FILE")]
    pub access: Option<PathBuf>,
    /// Speak in the clear, to an appliance that does so; whoever is on the way can read and change all of it
    #[arg(long, global = true, conflicts_with = "access")]
    pub plain: bool,
    /// How long to look for an appliance that does not answer before giving up
    #[arg(long, global = true, env = "BUSLANE_CONNECT_TIMEOUT", value_name = "TIME")]
    #[arg(default_value = "5s", value_parser = parse::connect_timeout)]
    pub connect_timeout: u64,
    /// How results are written [default: text]
    #[arg(short, long, global = true, value_name = "FORMAT")]
    pub output: Option<Output>,
    /// Say nothing but errors and results
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more, where a command has more to say: bench, publish, consume
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Do not ask before what cannot be undone
    #[arg(long, global = true)]
    pub yes: bool,
    #[arg(long, global = true, value_name = "NAME|FILE", help = profile_help())]
    /// The name of a shipped profile, or a file.
    pub profile: Option<String>,
    /// Override one key of the profile, as in shard.core=3; may be repeated
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl Globals {
    /// How results are written.
    #[must_use]
    pub fn output(&self) -> Output {
        self.output.unwrap_or(Output::Text)
    }

    /// The profile asked for, or the one that needs nothing.
    #[must_use]
    pub fn profile_or_default(&self) -> &str {
        self.profile.as_deref().unwrap_or(PROFILE_DEFAULT)
    }
}

/// The shipped profiles are named in one place.
fn profile_help() -> String {
    let names = crate::profile::SHIPPED.map(|(name, _)| name).join(", ");
    format!("Profile: the name of a shipped one ({names}) or a file")
}

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// One JSON object, or one a line.
    Json,
    /// Payloads as they were published, nothing between them (`consume` only).
    Raw,
    /// Payloads after their lengths, for `publish --framed` (`consume` only).
    Framed,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve: open the log, recover it, listen
    #[command(after_help = "\
Stops cleanly on SIGTERM or SIGINT, at once on one that comes later than half a second behind it. A
log file that does not exist is made.
SIGHUP reads the profile again: what changed at once is said, and what needs a restart.

EXAMPLES
  buslane serve
  buslane serve --set disk.path=/mnt/nvme/orders.log --set disk.size=64GiB
  buslane serve --set shard.count=2 --set shard.cores=[2,3]
  buslane serve --profile memif --set shard.core=3")]
    Serve,
    /// Publish messages; done when all are on media
    Publish(PublishArgs),
    /// Consume messages in sequence, from any point of the stream
    Consume(ConsumeArgs),
    /// Check that what clients wrote down (--history) can be true of one log
    VerifyHistory(VerifyHistoryArgs),
    /// Create, list and describe streams
    #[command(subcommand)]
    Stream(StreamCommand),
    /// Format, inspect and copy logs
    #[command(subcommand)]
    Log(LogCommand),
    /// Write input to play with
    #[command(subcommand)]
    Sample(SampleCommand),
    /// Run the deterministic simulator: the shipping code under every fault, by seed
    #[cfg(feature = "sim")]
    Sim(arguments::SimArgs),
    /// Feed parsers, server, client and recovery with damaged input
    #[cfg(feature = "sim")]
    Fuzz(arguments::FuzzArgs),
    /// Show what an appliance on this host is doing
    Stat(StatArgs),
    /// Watch an appliance on this host: shards, sessions, streams, disks, ports, producers
    Top(TopArgs),
    /// Measure latency and throughput, and the floor below them
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Make keys, and say who may do what
    #[command(subcommand)]
    Key(KeyCommand),
    /// Check the host, tune it, and write profiles and units for it
    #[command(subcommand)]
    Host(HostCommand),
    /// Print a completion script for a shell
    Completion(CompletionArgs),
    /// Write manual pages
    #[command(hide = true)]
    Man(arguments::ManArgs),
    /// Print the version and what this binary was built with
    #[command(after_help = "EXAMPLES\n  buslane version\n  buslane version -o json")]
    Version,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::arguments::*;
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("buslane").chain(line.split_whitespace()))
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_example_in_the_help_texts_parses() {
        let mut count = 0;
        let mut commands = vec![Cli::command()];
        while let Some(command) = commands.pop() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in help.lines().filter_map(|line| line.strip_prefix("  buslane ")) {
                let (line, _) = line.split_once("  ").unwrap_or((line, ""));
                let (line, _) = line.split_once(['|', '>']).unwrap_or((line, ""));
                parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
                count += 1;
            }
            let leaf = !command.has_subcommands();
            assert!(!leaf || !help.is_empty(), "{} has no example", command.get_name());
            commands.extend(command.get_subcommands().cloned());
        }
        assert!(count > 20, "only {count} examples were found");
    }

    #[test]
    fn globals_stand_before_or_after_the_command() {
        for line in [
            "-s 10.0.0.1:1 stream list -o json --set a=b",
            "stream list --server 10.0.0.1:1 -ojson",
        ] {
            let cli = parse(line).unwrap();
            assert_eq!(cli.globals.server.as_ref().unwrap().to_string(), "10.0.0.1:1");
            assert_eq!(cli.globals.output(), Output::Json);
            assert_eq!(cli.globals.profile_or_default(), "loopback");
        }
    }

    #[test]
    fn the_help_names_every_shipped_profile() {
        let help = Cli::command().render_long_help().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for (name, _) in crate::profile::SHIPPED {
            assert!(
                help.contains(&format!(" {name},"))
                    || help.contains(&format!(" {name})"))
                    || help.contains(&format!("({name},")),
                "{name}: {help}"
            );
        }
    }

    #[test]
    fn who_comes_in_the_clear_has_no_credentials() {
        assert!(parse("stream list --plain --access x").is_err());
        let sealed = parse("stream list --access x").unwrap().globals;
        assert_eq!((sealed.access, sealed.plain), (Some("x".into()), false));
        assert!(parse("--plain stream list").unwrap().globals.plain);
    }

    #[test]
    fn rights_are_given_one_by_one_or_with_commas() {
        let line = "key authorize a --publish x,y.* --publish z --admin";
        let Command::Key(KeyCommand::Authorize(args)) = parse(line).unwrap().command else {
            panic!("key authorize")
        };
        assert_eq!((args.publish, args.admin), (["x", "y.*", "z"].map(str::to_owned).into(), true));
        assert!(parse("key authorize a blp1x --out f").is_err(), "its secret is elsewhere");
    }

    #[test]
    fn a_publish_has_one_source() {
        assert!(parse("publish orders").is_err());
        assert!(parse("publish orders --itch a --lines b").is_err());
        assert!(parse("publish orders --framed a --lines b").is_err());
        assert!(parse("publish orders --lines - --pace").is_err(), "lines carry no time");
        assert!(parse("publish orders --itch a --pace --rate 1").is_err());
        let cli = parse("publish orders --itch a --rate 1.5k").unwrap();
        let Command::Publish(args) = cli.command else { panic!("publish") };
        assert_eq!(args.rate, Some(1_500.0));
    }

    #[test]
    fn a_bench_has_a_rate_or_goes_as_fast_as_it_can() {
        assert!(parse("bench run --max --rate 1k").is_err());
        assert!(parse("bench run --count 10 --duration 1s").is_err());
        let cli = parse("bench run --rate 1k/s --size 1KiB --duration 500ms").unwrap();
        let Command::Bench(BenchCommand::Run(args)) = cli.command else { panic!("bench run") };
        assert_eq!((args.load.size, args.duration), (1024, Some(500_000_000)));
    }
}
