//! What each command takes.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::parse;
use crate::client::StartFrom;
use crate::ids::ProducerName;
use crate::profile::units::{parse_bytes, parse_count, parse_duration_ns, parse_rate};

/// `publish`.
#[derive(Debug, Args)]
#[command(after_help = "\
Every message is on media when the command ends. When the appliance goes away, the command waits
for it and goes on where it stood: nothing is lost, nothing is stored twice. A command that ends
before its input does says how many messages are acknowledged: they are the first ones of the
input, and --skip with that number goes on behind them.

With --producer NAME none of that has to be kept: the appliance knows how far NAME has come. The
same command with the same input, started again after whatever ended it, goes on behind what is
stored; each message is stored once.

What is no ITCH 5.0 file is refused with the byte where it is none; a packed one is unpacked first:
gzip -dc FILE | buslane publish STREAM --itch -

EXAMPLES
  buslane publish orders --itch orders.itch50
  buslane publish orders --itch orders.itch50 --pace
  buslane publish orders --itch orders.itch50 --skip 16384
  buslane publish orders --itch orders.itch50 --producer gateway-7
  buslane publish orders --lines - --rate 10k
  buslane publish copy --framed orders.framed")]
pub struct PublishArgs {
    /// Stream to publish to
    pub stream: String,
    /// Where messages come from.
    #[command(flatten)]
    pub source: PublishSource,
    /// Messages a second, as 1000, 10k or 1.5M [default: as fast as the appliance takes them]
    #[arg(long, value_parser = parse_rate, value_name = "RATE")]
    pub rate: Option<f64>,
    /// At the pace of the recording (ITCH time stamps)
    #[arg(long, conflicts_with_all = ["rate", "lines", "framed"])]
    pub pace: bool,
    /// Leave out the first messages of the input: those an earlier command said are acknowledged
    #[arg(long, value_parser = parse_count, value_name = "N", default_value = "0")]
    pub skip: u64,
    /// Publish as the producer of this name, which goes on behind its last message
    #[arg(long, value_parser = parse::producer, value_name = "NAME", conflicts_with = "skip")]
    pub producer: Option<ProducerName>,
    /// Also from another publisher of that name, which then ends
    #[arg(long, requires = "producer")]
    pub take_over: bool,
    /// End after this many messages [default: all]
    #[arg(long, value_parser = parse_count, value_name = "N")]
    pub count: Option<u64>,
    /// Write down in this new file what was offered and acknowledged, for verify-history
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
}

/// Where published messages come from.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct PublishSource {
    /// An ITCH 5.0 file, one message a message; - is stdin
    #[arg(long, value_name = "FILE|-")]
    pub itch: Option<PathBuf>,
    /// A text file, one message a line; - is stdin
    #[arg(long, value_name = "FILE|-")]
    pub lines: Option<PathBuf>,
    /// What `consume -o framed` wrote; - is stdin
    #[arg(long, value_name = "FILE|-")]
    pub framed: Option<PathBuf>,
}

/// `consume`.
#[derive(Debug, Args)]
#[command(after_help = "\
Ends at the end of the stream as it stood when the command began, or after --count messages;
--follow waits for more. -o raw writes payloads and nothing else; -o framed writes them after their
lengths, with a mark at the end, for publish --framed.

EXAMPLES
  buslane consume orders --from start --count 10
  buslane consume orders --from 12_000 -o json
  buslane consume orders --from @2026-01-30T14:30:00Z --follow
  buslane consume orders --from start -o raw > orders.bin
  buslane consume orders -o framed | buslane publish copy --framed -")]
pub struct ConsumeArgs {
    /// Stream to consume
    pub stream: String,
    /// Where to begin: start, end, a sequence, or @TIME (RFC 3339 or seconds since 1970)
    #[arg(long, default_value = "start", value_parser = parse::from, value_name = "POSITION",
          allow_negative_numbers = true)]
    pub from: StartFrom,
    /// End after this many messages
    #[arg(long, value_parser = parse_count, value_name = "N")]
    pub count: Option<u64>,
    /// Wait for messages that are not there yet
    #[arg(short, long)]
    pub follow: bool,
    /// Write down in this new file what came, for verify-history
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
}

/// `verify-history`.
#[derive(Debug, Args)]
#[command(after_help = "\
Histories are what publish and consume write with --history, and clients of the library; all of one
appliance, of any number of processes. Whatever two of them say has to be true of one log: a
sequence is one message, what was acknowledged before another message was offered is before it, what
somebody was told is durable stays so, consumers get everything in sequence, once. Moments are
compared among processes of one boot of one host; the rest across hosts too.
Each contradiction is told with both lines; the command fails where there is one.

EXAMPLES
  buslane publish orders --itch orders.itch50 --history publisher.jsonl
  buslane consume orders --history consumer.jsonl > /dev/null
  buslane verify-history publisher.jsonl consumer.jsonl")]
pub struct VerifyHistoryArgs {
    /// Files with histories
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// `stat`.
#[derive(Debug, Args)]
#[command(after_help = "\
Asks the appliance of the profile's instance on its unix socket. Latencies are of the newest
interval, about a second; counters are since launch.

EXAMPLES
  buslane stat
  buslane stat --watch
  buslane stat --profile memif --watch 5
  buslane stat -o json | jq '.shards[0].stages.whole'")]
pub struct StatArgs {
    /// Show it again every so many seconds, until interrupted
    #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub watch: Option<u64>,
}

/// `top`.
#[derive(Debug, Args)]
#[command(after_help = "\
Asks as `buslane stat` does, twice a second. Latencies are of the newest interval, about a second.
Keys: 1-6 or Tab chooses the view, s sorts, p pauses, ? helps, q ends.

EXAMPLES
  buslane top
  buslane top --profile memif
  buslane top --view sessions")]
pub struct TopArgs {
    /// The view it begins with
    #[arg(long, value_enum, default_value_t = TopView::Shards, value_name = "VIEW")]
    pub view: TopView,
}

/// What `top` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TopView {
    /// Stages of the shards, rates, stalls.
    Shards,
    /// Who talks to them.
    Sessions,
    /// What they keep.
    Streams,
    /// Where they keep it.
    Disks,
    /// Where datagrams enter and leave.
    Ports,
    /// Who publishes, or has published.
    Producers,
}

/// `stream`.
#[derive(Debug, Subcommand)]
pub enum StreamCommand {
    /// Create a stream; one that exists is left as it is
    #[command(after_help = "\
A stream lives on one shard; a new one goes where the fewest are.

EXAMPLES
  buslane stream create orders
  buslane stream create orders --shard 1")]
    Create {
        /// Name: 1 to 64 bytes
        name: String,
        /// Shard it is to live on [default: the one with the fewest streams]
        #[arg(long, value_name = "K")]
        shard: Option<u32>,
    },
    /// List all streams, of all shards
    #[command(after_help = "EXAMPLES\n  buslane stream list\n  buslane stream list -o json")]
    List,
    /// Describe one stream
    #[command(after_help = "EXAMPLES\n  buslane stream describe orders")]
    Describe {
        /// Name
        name: String,
    },
    /// Remove the oldest messages of a stream for good, and free the segments nobody needs any more
    #[command(after_help = "\
Consumers that still wanted them are told that they are trimmed. A full log that is trimmed takes
messages again. Asks before it removes anything, unless --yes.

EXAMPLES
  buslane stream trim orders --before 1_000_000        # keeps 1,000,000 and what follows
  buslane stream trim orders --before @2026-01-30T00:00:00Z
  buslane stream trim orders --keep 100k --yes         # keeps the newest 100,000
  buslane stream trim orders --before end --yes        # keeps nothing")]
    #[command(group = ArgGroup::new("kept").args(["before", "keep"]).required(true))]
    Trim {
        /// Name
        name: String,
        /// The first message to keep: a sequence, the first one stored at or after @TIME, or end
        #[arg(long, value_name = "N|@TIME|end", value_parser = parse::from)]
        before: Option<StartFrom>,
        /// How many of the newest messages to keep
        #[arg(long, value_name = "COUNT", value_parser = parse_count)]
        keep: Option<u64>,
    },
}

/// `log`. Each works on the disk of the profile, or on the one named.
#[derive(Debug, Subcommand)]
pub enum LogCommand {
    /// Make an empty log; refuses a disk that holds anything
    #[command(after_help = "\
A log for several shards is cut into equal shares, one for each; their number stays.

EXAMPLES
  buslane log format --set disk.size=64GiB /mnt/nvme/orders.log
  buslane log format --shards 4 /dev/nvme1n1
  buslane log format /dev/nvme1n1 --force /dev/nvme1n1")]
    Format {
        /// File or block device [default: disk.path of the profile]
        path: Option<PathBuf>,
        /// Overwrite what is there; the path again, so that it cannot be the wrong one
        #[arg(long, value_name = "PATH")]
        force: Option<PathBuf>,
        /// Shards it is for, 1 to 64 [default: shard.count of the profile]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
        shards: Option<u32>,
    },
    /// Say what the log holds: superblock, epochs, segments, streams
    #[command(after_help = "\
EXAMPLES
  buslane log describe buslane-data/loopback.log
  buslane log describe --shard 1 -o json")]
    Describe {
        /// File or block device [default: disk.path of the profile]
        path: Option<PathBuf>,
        /// Only this shard [default: all]
        #[arg(long, value_name = "K")]
        shard: Option<u32>,
    },
    /// Read everything and check every sum; names what is hurt
    #[command(after_help = "\
EXAMPLES
  buslane log verify buslane-data/loopback.log -o json
  buslane log verify buslane-data/loopback.log --shard 1")]
    Verify {
        /// File or block device [default: disk.path of the profile]
        path: Option<PathBuf>,
        /// Only this shard [default: all]
        #[arg(long, value_name = "K")]
        shard: Option<u32>,
    },
    /// Copy a log, also while an appliance serves it; checked before it has its name
    Copy(LogCopyArgs),
    /// Print the records of the log
    #[command(after_help = "\
EXAMPLES
  buslane log dump buslane-data/loopback.log --stream orders --count 10
  buslane log dump -o json")]
    Dump {
        /// File or block device [default: disk.path of the profile]
        path: Option<PathBuf>,
        /// Only this shard [default: all, or the one of --stream]
        #[arg(long, value_name = "K")]
        shard: Option<u32>,
        /// Only this stream
        #[arg(long)]
        stream: Option<String>,
        /// First sequence
        #[arg(long, value_parser = parse_count, default_value = "1", value_name = "N")]
        from: u64,
        /// End after this many records
        #[arg(long, value_parser = parse_count, value_name = "N")]
        count: Option<u64>,
    },
}

/// `log copy`.
#[derive(Debug, Args)]
#[command(after_help = "\
The copy holds every message that was acknowledged before it began, each whole, and more up to
where it ended. It is read again and every sum checked; exit code 0 says it is good. What is
interrupted or finds no room leaves nothing behind. The appliance goes on serving and may be
restarted meanwhile; what is trimmed meanwhile may be missing.

A copy is the same log on another disk. Never serve both: docs/operate.md says what happens, and how
to back up, restore and move to a larger disk.

EXAMPLES
  buslane log copy /var/lib/buslane/orders.log /mnt/backup/orders-2026-01-30.log
  buslane log copy orders.log larger.log --size 256GiB
  buslane log copy orders.log /dev/nvme1n1 --rate 200MiB")]
pub struct LogCopyArgs {
    /// File or block device to copy; a namespace (trtype:...) only while nothing serves it
    pub from: PathBuf,
    /// A file that is not there yet, or a device
    pub to: PathBuf,
    /// Size of the file: larger, or smaller as far as its messages fit [default: as that of the log]
    #[arg(long, value_parser = parse_bytes, value_name = "BYTES")]
    pub size: Option<u64>,
    /// Read at most so many bytes a second, so that the appliance keeps its disk's time [default: no limit]
    #[arg(long, value_parser = parse_bytes, value_name = "BYTES")]
    pub rate: Option<u64>,
    /// Overwrite the device that is the copy's; its name again, so that it cannot be the wrong one
    #[arg(long, value_name = "DEVICE")]
    pub force: Option<PathBuf>,
}

/// `sample`.
#[derive(Debug, Subcommand)]
pub enum SampleCommand {
    /// Write a plausible ITCH 5.0 order flow of our own making
    #[command(after_help = "\
The same seed gives the same flow, byte for byte. No real order, price or symbol is in it.

EXAMPLES
  buslane sample orders --count 10k --out orders.itch50
  buslane sample orders --count 1M --seed 7 | buslane publish orders --itch -")]
    Orders(SampleOrdersArgs),
}

/// `sample orders`.
#[derive(Debug, Args)]
pub struct SampleOrdersArgs {
    /// Messages to write
    #[arg(long, value_parser = parse_count, value_name = "N")]
    pub count: u64,
    /// Which flow
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Where to; - is stdout
    #[arg(long, default_value = "-", value_name = "FILE|-")]
    pub out: PathBuf,
}

/// `bench`.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Publish and consume on a fixed schedule; latency, throughput, and proof that nothing was lost
    #[command(after_help = "\
Response is acknowledgement minus intended send, and the number to quote; service is
acknowledgement minus actual send; delay is actual minus intended send. Nothing is corrected by
formula. Ends with 1 when a message was lost, duplicated or reordered, or less than 99 % of the
rate was achieved.

EXAMPLES
  buslane bench run --rate 1000 --floor
  buslane bench run --rate 100k --batch 8 --duration 30s -o json
  buslane bench run --profile memif-ram --max --count 10M
  buslane bench run --set shard.count=2 --publishers 8 --streams 16 --max
  buslane bench run --profile vfio-user --inline --floor --overwrite")]
    Run(BenchRunArgs),
    /// The bare port's round trip and the bare disk's write, with nothing of the engine in between
    #[command(after_help = "\
EXAMPLES
  buslane bench floor --rate 1000
  buslane bench floor --profile memif -o json")]
    Floor(BenchFloorArgs),
    /// Interval logs as a page with plots, or as a table of percentiles
    #[command(after_help = "\
Reads the .hlog files of `bench run` and of an appliance with metrics.dir, and other HdrHistogram
interval logs of nanoseconds. The page is one file, below 1 MiB, that opens anywhere and asks
nobody for anything: percentiles by stage, throughput and latency over time, the floor, the host.
Of long logs, intervals are merged to be drawn, and the page says so; percentiles are of all.

A FILE.json of the same name beside FILE.hlog, as `bench run` writes it, is read for the profile,
the floor and the host. Several files are compared.

EXAMPLES
  buslane bench report buslane-report/run.hlog
  buslane bench report buslane-report/run.hlog --html report.html
  buslane bench report before/run.hlog after/run.hlog --html compared.html
  buslane bench report buslane-data/metrics/stages-1769783400-0.hlog --html - > stages.html
  buslane bench report other.hlog --run buslane-report/run.json -o json")]
    Report(BenchReportArgs),
    /// Send back every datagram: the other end of the port's floor.
    #[command(hide = true, after_help = "EXAMPLES\n  buslane bench echo --profile loopback")]
    Echo,
}

/// What `bench run` offers.
#[derive(Debug, Args)]
pub struct BenchLoad {
    /// Messages a second, all publishers together [default: 1000]
    #[arg(long, value_parser = parse_rate, value_name = "RATE")]
    pub rate: Option<f64>,
    /// As fast as the appliance takes them
    #[arg(long, conflicts_with = "rate")]
    pub max: bool,
    /// Bytes of a message
    #[arg(long, default_value = "128B", value_parser = parse::message_bytes, value_name = "BYTES")]
    pub size: usize,
    /// Messages sent together
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub batch: u32,
    /// Publishers, each with a session a shard of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub publishers: u16,
    /// Streams, shared out over the publishers and, by the appliance, over its shards
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub streams: u16,
    /// Consumers of all streams, each with a session a shard of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(0..=64))]
    pub consumers: u16,
}

/// `bench run`.
#[derive(Debug, Args)]
pub struct BenchRunArgs {
    /// What is offered
    #[command(flatten)]
    pub load: BenchLoad,
    /// Messages to measure [default: as --duration says]
    #[arg(long, value_parser = parse_count, value_name = "N", conflicts_with = "duration")]
    pub count: Option<u64>,
    /// How long to measure [default: 10s]
    #[arg(long, value_parser = parse_duration_ns, value_name = "TIME")]
    pub duration: Option<u64>,
    /// How long to run before measuring
    #[arg(long, default_value = "1s", value_parser = parse_duration_ns, value_name = "TIME")]
    pub warmup: u64,
    /// Measure the floor as well, in turns with the run
    #[arg(long)]
    pub floor: bool,
    /// Both ends on the shard's core, in this process, joined by DPDK rings: for machines with few cores
    #[arg(long)]
    pub inline: bool,
    /// Overwrite the NVMe namespace the profile names
    #[arg(long)]
    pub overwrite: bool,
    /// Directory for the report (.json, .hlog, .hgrm)
    #[arg(long, default_value = "buslane-report", value_name = "DIR")]
    pub out: PathBuf,
    /// End with 4 when there are warnings, such as a host that is not set up for low latency
    #[arg(long)]
    pub strict: bool,
}

/// `bench floor`.
#[derive(Debug, Args)]
pub struct BenchFloorArgs {
    /// Round trips and writes a second: a disk asked rarely answers slower
    #[arg(long, default_value = "1000", value_parser = parse_rate, value_name = "RATE")]
    pub rate: f64,
    /// Bytes of a message
    #[arg(long, default_value = "128B", value_parser = parse::message_bytes, value_name = "BYTES")]
    pub size: usize,
    /// Round trips and writes to measure
    #[arg(long, default_value = "5000", value_parser = parse_count, value_name = "N")]
    pub count: u64,
    /// Both ends on the shard's core, in this process, joined by DPDK rings: for machines with few cores
    #[arg(long)]
    pub inline: bool,
    /// Overwrite the NVMe namespace the profile names
    #[arg(long)]
    pub overwrite: bool,
    /// Directory for the report (.hlog, .hgrm)
    #[arg(long, default_value = "buslane-report", value_name = "DIR")]
    pub out: PathBuf,
}

/// `bench report`.
#[derive(Debug, Args)]
pub struct BenchReportArgs {
    /// Interval logs; several are compared
    #[arg(required = true, value_name = "FILE.hlog")]
    pub files: Vec<PathBuf>,
    /// Write a page; - is stdout [default: a table of percentiles]
    #[arg(long, value_name = "FILE|-")]
    pub html: Option<PathBuf>,
    /// Report of the run the log is of [default: FILE.json beside FILE.hlog, if it is there]
    #[arg(long, value_name = "FILE.json")]
    pub run: Option<PathBuf>,
}

/// `completion`.
#[derive(Debug, Args)]
#[command(after_help = "\
EXAMPLES
  buslane completion bash > ~/.local/share/bash-completion/completions/buslane
  buslane completion fish > ~/.config/fish/completions/buslane.fish")]
pub struct CompletionArgs {
    /// Which shell
    pub shell: Shell,
}

/// `man`.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES\n  buslane man target/man")]
pub struct ManArgs {
    /// Directory the pages are written to
    pub dir: PathBuf,
}

/// `buslane sim`.
#[cfg(feature = "sim")]
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
EXAMPLES
  buslane sim --seeds 0..1000
  buslane sim --seed 4711 -v                what happened in one run
  buslane sim --seeds 0..500 --twice        each seed twice; both runs must be the same
  buslane sim --minutes 10                  new seeds for ten minutes")]
pub struct SimArgs {
    /// Seeds from A up to, and without, B
    #[arg(long, value_name = "A..B", value_parser = super::parse::seeds, conflicts_with = "seed")]
    pub seeds: Option<(u64, u64)>,
    /// One seed, its events told
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// What of the seed is left out, as a failure says it
    #[arg(long, value_name = "FEATURE,...", value_delimiter = ',', requires = "seed",
          value_parser = crate::sim::Feature::named)]
    pub without: Vec<crate::sim::Feature>,
    /// New seeds for so many minutes
    #[arg(long, value_name = "M", conflicts_with_all = ["seeds", "seed"])]
    pub minutes: Option<u64>,
    /// Run each seed twice and compare
    #[arg(long)]
    pub twice: bool,
    /// Fail when a fault, or a row of the recovery table, was never hit
    #[arg(long)]
    pub covered: bool,
    /// Threads, each with seeds of its own
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: u64,
    /// Switch a mistake on and see that it is caught (feature `mutants`); `all` for each in turn
    #[arg(long, value_name = "NAME")]
    pub mutant: Option<String>,
}

/// `buslane fuzz`.
#[cfg(feature = "sim")]
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
EXAMPLES
  buslane fuzz                              all targets, 20,000 inputs each
  buslane fuzz image --minutes 10
  buslane fuzz image --input crash-image    an input that was found, again")]
pub struct FuzzArgs {
    /// Target [default: all]
    #[arg(value_name = "TARGET")]
    pub target: Option<String>,
    /// Inputs a target
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    pub count: u64,
    /// Minutes a target, instead of a number of inputs
    #[arg(long, value_name = "M")]
    pub minutes: Option<u64>,
    /// Seed of the inputs
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// One input from a file
    #[arg(long, value_name = "FILE", requires = "target")]
    pub input: Option<PathBuf>,
}
