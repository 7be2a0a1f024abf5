//! What `buslane host` takes.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::host::generate::USER;
use crate::profile::units::parse_duration_ns;

/// `host`.
#[derive(Debug, Subcommand)]
pub enum HostCommand {
    /// Say whether this host is set up for the profile: PASS, WARN, FAIL or UNKNOWN for each check
    #[command(
        visible_alias = "doctor",
        after_help = "\
Ends with 1 when a check fails, with 4 under --strict when one warns. UNKNOWN is what the host does
not tell, N-A what the profile does not use. Each shard's core is kept busy for a second, to measure
how long it is taken away; where an appliance serves on it, say --measure 0ms.

EXAMPLES
  buslane host check
  buslane host check --profile /etc/buslane/prod.toml --strict
  buslane host check --only cpu.isolated,thp -o json
  buslane host check --root tests/host/cloud-vm"
    )]
    Check(HostCheckArgs),
    /// Print a script that mends what can be mended while the host runs; carry it out with --apply
    #[command(after_help = "\
The script is for reading first. --apply writes the same files at once, after it has saved their old
values; --revert puts them back. Boot parameters are only ever proposed.

EXAMPLES
  buslane host tune > tune.sh
  buslane host tune --profile /etc/buslane/prod.toml --apply
  buslane host tune --revert")]
    Tune(HostTuneArgs),
    /// Show cores, NUMA nodes, NICs and NVMe devices, and which cores shards should have
    #[command(after_help = "EXAMPLES\n  buslane host topology\n  buslane host topology -o json")]
    Topology(HostArgs),
    /// Write files for other programs
    #[command(subcommand)]
    Generate(HostGenerateCommand),
    /// Profiles for this host
    #[command(subcommand)]
    Profile(HostProfileCommand),
}

/// What every command of `host` takes.
#[derive(Clone, Debug, Args)]
pub struct HostArgs {
    /// Read a captured tree instead of this host: a directory with proc and sys below it
    #[arg(long, default_value = "/", value_name = "DIR")]
    pub root: PathBuf,
}

/// `host check`.
#[derive(Debug, Args)]
pub struct HostCheckArgs {
    /// Where to look.
    #[command(flatten)]
    pub host: HostArgs,
    /// Only these checks
    #[arg(long, value_name = "ID,...", value_delimiter = ',')]
    pub only: Vec<String>,
    /// How long to measure each shard's core; 0ms does not
    #[arg(long, default_value = "1s", value_parser = parse_duration_ns, value_name = "TIME")]
    pub measure: u64,
    /// End with 4 when there are warnings
    #[arg(long)]
    pub strict: bool,
}

/// `host tune`.
#[derive(Debug, Args)]
pub struct HostTuneArgs {
    /// Where to look, and to write.
    #[command(flatten)]
    pub host: HostArgs,
    /// Only what these checks want
    #[arg(long, value_name = "ID,...", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Write the files now, after saving their old values
    #[arg(long)]
    pub apply: bool,
    /// Put back what --apply changed
    #[arg(long, conflicts_with_all = ["apply", "only"])]
    pub revert: bool,
    /// Where old values are kept [default: ROOT/var/lib/buslane/host-tune.json]
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
}

/// `host generate`.
#[derive(Debug, Subcommand)]
pub enum HostGenerateCommand {
    /// A profile for tuned, a child of cpu-partitioning
    #[command(after_help = "\
EXAMPLES
  buslane host generate tuned --profile /etc/buslane/prod.toml --out /etc/tuned/buslane/tuned.conf")]
    Tuned(HostTunedArgs),
    /// A hardened unit for systemd, with notification and watchdog
    #[command(after_help = "\
EXAMPLES
  buslane host generate systemd --profile /etc/buslane/prod.toml --out buslane.service")]
    Systemd(HostSystemdArgs),
}

/// Where a file for another program, or a profile, is written.
#[derive(Clone, Debug, Args)]
pub struct HostOutArgs {
    /// Where to; - is stdout. The file is there whole or not at all; one that exists is left alone without --yes
    #[arg(long, default_value = "-", value_name = "FILE|-")]
    pub out: PathBuf,
}

/// `host generate tuned`.
#[derive(Debug, Args)]
pub struct HostTunedArgs {
    /// Where to look.
    #[command(flatten)]
    pub host: HostArgs,
    /// Where to write.
    #[command(flatten)]
    pub to: HostOutArgs,
}

/// `host generate systemd`.
#[derive(Debug, Args)]
pub struct HostSystemdArgs {
    /// Where to look.
    #[command(flatten)]
    pub host: HostArgs,
    /// The user it runs as
    #[arg(long, default_value = USER)]
    pub user: String,
    /// The binary [default: this one]
    #[arg(long, value_name = "FILE")]
    pub binary: Option<PathBuf>,
    /// Where to write.
    #[command(flatten)]
    pub to: HostOutArgs,
}

/// `host profile`.
#[derive(Debug, Subcommand)]
pub enum HostProfileCommand {
    /// Write a commented profile for this host
    #[command(after_help = "\
EXAMPLES
  buslane host profile new --out prod.toml
  buslane host profile new --name prod --root tests/host/bare-metal-tuned")]
    New(HostProfileNewArgs),
}

/// `host profile new`.
#[derive(Debug, Args)]
pub struct HostProfileNewArgs {
    /// Where to look.
    #[command(flatten)]
    pub host: HostArgs,
    /// What reports call it
    #[arg(long, default_value = "local")]
    pub name: String,
    /// Where to write.
    #[command(flatten)]
    pub to: HostOutArgs,
}
