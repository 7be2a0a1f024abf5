//! `buslane log`: a log made, described, verified and dumped, while no appliance serves it. What copies it while
//! one does is in `log_copy`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::progress::Progress;
use super::{CommandError, Out, log_copy};
use crate::cli::arguments::LogCommand;
use crate::cli::{Globals, Output};
use crate::disk::{AnyDisk, Disk, is_transport_id};
use crate::launch::{self, LaunchError, make_log_file, note_log_file, of_share, open_tool_disk};
use crate::log::create::FormatOptions;
use crate::log::inspect::{BatchRow, LogDescription, StreamDescription, describe, dump};
use crate::log::recovery::OpenError;
use crate::log::shares::{format_shares, head, shard_count};
use crate::log::superblock::ShareId;
use crate::log::verify::{VerifyReport, verify};
use crate::profile::{self, DiskProfile, Profile};
use crate::report::{batches, count_of, thousands};

/// Memory the tools work in.
pub(super) const MEMORY_BYTES: usize = 2 << 20;

pub(super) fn log(globals: &Globals, command: &LogCommand) -> Result<(), CommandError> {
    let profile = profile::load(globals.profile_or_default(), &globals.set)?;
    let at =
        |path: &Option<PathBuf>| path.clone().unwrap_or_else(|| profile.disk.path.clone().into());
    match command {
        LogCommand::Format { path, force, shards } => {
            let shards = shards.unwrap_or(profile.shard.count);
            format_log(globals, &profile, &at(path), force.as_deref(), shards)
        }
        LogCommand::Copy(args) => log_copy::copy_log(globals, &profile, args),
        LogCommand::Describe { path, shard } => {
            describe_log(globals, &Logs::find(&profile, at(path), *shard)?)
        }
        LogCommand::Verify { path, shard } => {
            verify_log(globals, &Logs::find(&profile, at(path), *shard)?)
        }
        LogCommand::Dump { path, shard, stream, from, count } => {
            let wanted = Wanted { stream: stream.as_deref(), from: *from, count: *count };
            dump_log(globals, &Logs::find(&profile, at(path), *shard)?, &wanted)
        }
    }
}

impl From<OpenError> for CommandError {
    fn from(error: OpenError) -> Self {
        Self::Failed(error.to_string())
    }
}

pub(super) fn open(
    profile: &Profile,
    path: &Path,
    read_only: bool,
) -> Result<AnyDisk, CommandError> {
    Ok(open_tool_disk(&profile.disk, &path.to_string_lossy(), MEMORY_BYTES, read_only)?)
}

/// The logs of a disk that are to be looked at.
struct Logs<'a> {
    profile: &'a Profile,
    path: PathBuf,
    shares: Vec<ShareId>,
}

impl<'a> Logs<'a> {
    /// All on the disk, or that of one shard. What a damaged head does not say, the profile says.
    fn find(profile: &'a Profile, path: PathBuf, shard: Option<u32>) -> Result<Self, CommandError> {
        let count = shard_count(&mut open(profile, &path, true)?)?.unwrap_or(profile.shard.count);
        if let Some(shard) = shard.filter(|&shard| shard >= count) {
            let what =
                format!("{}: there is no shard {shard}, only 0 to {}", path.display(), count - 1);
            return Err(CommandError::Usage(what));
        }
        let shares = (0..count).filter(|&index| shard.is_none_or(|shard| shard == index));
        let shares = shares.map(|index| ShareId { index, count }).collect();
        Ok(Self { profile, path, shares })
    }

    /// Each disk or share, opened when it is its turn.
    fn each(&self) -> impl Iterator<Item = Result<(ShareId, AnyDisk), CommandError>> {
        self.shares.iter().map(|&share| {
            let disk = open(self.profile, &self.path, true)?;
            Ok((share, of_share(disk, share)?))
        })
    }
}

/// The heading of what is said of a shard; none where it is the only one.
pub(super) fn heading(out: &mut Out, share: ShareId) -> Result<(), CommandError> {
    if share.count > 1 {
        out.line(&format!("shard {} of {}", share.index, share.count))
    } else {
        Ok(())
    }
}

/// What a stream keeps.
pub(super) fn sequences(stream: &StreamDescription) -> String {
    let (first, next) = (stream.first_sequence, stream.next_sequence);
    if first >= next {
        return format!("nothing kept, {} is next", thousands(next));
    }
    format!("sequences {} to {}", thousands(first), thousands(next - 1))
}

/// The shard in JSON; left out where it is the only one.
fn shard_of(share: ShareId) -> Option<u32> {
    (share.count > 1).then_some(share.index)
}

fn format_log(
    globals: &Globals,
    profile: &Profile,
    path: &Path,
    force: Option<&Path>,
    shards: u32,
) -> Result<(), CommandError> {
    if force.is_some_and(|named| named != path) {
        return Err(CommandError::Usage(format!(
            "--force names what is to be overwritten, so it has to be {} itself",
            path.display()
        )));
    }
    if !is_transport_id(&path.to_string_lossy()) && !path.exists() {
        make_log(globals, profile, path, shards)?;
    } else {
        let mut disk = open(profile, path, false)?;
        let options = FormatOptions { segment_bytes: profile.disk.segment, force: force.is_some() };
        format_shares(&mut disk, &options, shards).map_err(LaunchError::from)?;
        drop(disk);
        note_log_file(path);
    }
    let mut out = Out::stdout();
    if globals.output() == Output::Json {
        for made in Logs::find(profile, path.to_owned(), None)?.each() {
            let (share, mut disk) = made?;
            let (log, device) = (&describe(&mut disk)?, BTreeMap::new());
            out.json(&Described { shard: shard_of(share), log, device })?;
        }
    } else if !globals.quiet {
        let of = if shards == 1 { String::new() } else { format!("{shards} shards, each with ") };
        let superblock = head(&mut open(profile, path, true)?);
        let superblock = superblock.ok().flatten().expect("it was just formatted");
        out.line(&format!(
            "{}: formatted, {of}{} of {} bytes",
            path.display(),
            count_of(superblock.segment_count.get(), "segment"),
            thousands(superblock.segment_bytes())
        ))?;
    }
    out.finish()
}

/// Makes the file of a log where there is none.
fn make_log(
    globals: &Globals,
    profile: &Profile,
    path: &Path,
    shards: u32,
) -> Result<(), CommandError> {
    let disk = DiskProfile { path: path.display().to_string(), ..profile.disk.clone() };
    let bar = Progress::new(globals.quiet, "bytes", Some(disk.size));
    make_log_file(&disk, shards, &mut |progress| {
        if let launch::Progress::Creating(_, done, _) = progress {
            bar.set(done);
        }
    })?;
    Ok(())
}

#[derive(Serialize)]
struct Described<'a, T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    shard: Option<u32>,
    #[serde(flatten)]
    log: &'a T,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    device: BTreeMap<&'static str, String>,
}

fn describe_log(globals: &Globals, logs: &Logs<'_>) -> Result<(), CommandError> {
    let mut out = Out::stdout();
    for opened in logs.each() {
        let (share, mut disk) = opened?;
        let facts = disk.facts();
        let found = describe(&mut disk)?;
        if globals.output() == Output::Json {
            let device = facts.into_iter().collect();
            out.json(&Described { shard: shard_of(share), log: &found, device })?;
        } else {
            heading(&mut out, share)?;
            print_description(&mut out, &found, &facts)?;
        }
    }
    out.finish()
}

fn print_description(
    out: &mut Out,
    found: &LogDescription,
    facts: &[(&'static str, String)],
) -> Result<(), CommandError> {
    for (what, value) in facts {
        out.line(&format!("{what:<16} {value}"))?;
    }
    let (all, kept) = (thousands(found.messages), thousands(found.messages_kept));
    let messages = if all == kept { all } else { format!("{kept} of {all} since it was made") };
    for (what, value) in [
        ("log", found.cluster.clone()),
        ("leg", found.leg.clone()),
        ("durability", found.durability.clone()),
        ("segment bytes", thousands(found.segment_bytes)),
        ("segments", format!("{} of {} used", found.segments_used, found.segments)),
        ("epoch", found.epoch.to_string()),
        ("stopped cleanly", if found.clean { "yes" } else { "no" }.into()),
        ("messages", messages),
        ("producers", producers(found.producers)),
    ] {
        out.line(&format!("{what:<16} {value}"))?;
    }
    for stream in &found.streams {
        out.line(&format!(
            "stream {}: {}, {} payload bytes",
            stream.name,
            sequences(stream),
            thousands(stream.payload_bytes)
        ))?;
    }
    Ok(())
}

/// Only those count that the log keeps a place for: one whose client said that it will not return has none.
fn producers(known: u64) -> String {
    format!("{} that may return; one that ends in order is forgotten", thousands(known))
}

#[derive(Serialize)]
struct Verified<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    shard: Option<u32>,
    #[serde(flatten)]
    report: &'a VerifyReport,
}

fn verify_log(globals: &Globals, logs: &Logs<'_>) -> Result<(), CommandError> {
    let mut out = Out::stdout();
    let mut damaged = Vec::new();
    for opened in logs.each() {
        let (share, mut disk) = opened?;
        let progress = Progress::new(globals.quiet, "segments", None);
        let report = verify(&mut disk, &mut |done, _| progress.set(done))?;
        drop(progress);
        if globals.output() == Output::Json {
            out.json(&Verified { shard: shard_of(share), report: &report })?;
        } else {
            heading(&mut out, share)?;
            print_report(&mut out, &report)?;
        }
        let count = report.findings.iter().filter(|finding| finding.is_damage).count();
        if count > 0 {
            damaged.push(format!(
                "{}: {} damaged",
                disk.info().name,
                count_of(count as u64, "place")
            ));
        }
    }
    out.finish()?;
    if damaged.is_empty() { Ok(()) } else { Err(CommandError::Failed(damaged.join("; "))) }
}

fn print_report(out: &mut Out, report: &VerifyReport) -> Result<(), CommandError> {
    for finding in &report.findings {
        let kind = if finding.is_damage { "DAMAGED" } else { "note" };
        let mut line = format!("{kind}: {}", finding.what);
        for missing in &finding.streams {
            let last = missing.last.map_or_else(|| "the end".to_owned(), |last| last.to_string());
            line.push_str(&format!(
                "; stream {}: sequences {} to {last}",
                missing.stream, missing.first
            ));
        }
        out.line(&line)?;
    }
    out.line(&whole(report))
}

/// How much was found whole.
pub(super) fn whole(report: &VerifyReport) -> String {
    let empty = match report.segments_empty {
        0 => String::new(),
        empty => format!(" ({} of them with nothing in it yet)", thousands(empty)),
    };
    let verdict = if report.findings.iter().any(|finding| finding.is_damage) {
        "are whole"
    } else {
        "all whole"
    };
    format!(
        "{}{empty}, {}, {}, {verdict}",
        count_of(report.segments, "segment"),
        batches(report.batches),
        count_of(report.messages, "message")
    )
}

/// What of a log is to be dumped.
struct Wanted<'a> {
    stream: Option<&'a str>,
    from: u64,
    count: Option<u64>,
}

#[derive(Serialize)]
struct Dumped<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    shard: Option<u32>,
    #[serde(flatten)]
    row: &'a BatchRow,
}

fn dump_log(globals: &Globals, logs: &Logs<'_>, wanted: &Wanted<'_>) -> Result<(), CommandError> {
    let mut out = Out::stdout();
    let mut left = wanted.count.unwrap_or(u64::MAX);
    let mut found = false;
    for opened in logs.each() {
        let (share, mut disk) = opened?;
        let mut only = None;
        if let Some(name) = wanted.stream {
            let streams = describe(&mut disk)?.streams;
            let Some(stream) = streams.iter().find(|stream| stream.name == name) else { continue };
            only = Some(stream.id);
        }
        found = true;
        if left > 0 {
            let output = globals.output();
            dump_one(&mut out, output, share, &mut disk, only, wanted.from, &mut left)?;
        }
    }
    if let Some(name) = wanted.stream.filter(|_| !found) {
        let what = format!("{}: no stream {name} in this log", logs.path.display());
        return Err(CommandError::Failed(what));
    }
    out.finish()
}

fn dump_one(
    out: &mut Out,
    output: Output,
    share: ShareId,
    disk: &mut AnyDisk,
    only: Option<u32>,
    from: u64,
    left: &mut u64,
) -> Result<(), CommandError> {
    if output != Output::Json {
        heading(out, share)?;
    }
    let mut failed = None;
    dump(disk, &mut |mut row| {
        if let Some(id) = only {
            row.messages.retain(|message| message.stream == id && message.sequence >= from);
        }
        row.messages.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
        if only.is_some() && row.messages.is_empty() {
            return true;
        }
        *left -= row.messages.len() as u64;
        let written = write_row(out, output, shard_of(share), &row);
        failed = written.err();
        failed.is_none() && *left > 0
    })?;
    failed.map_or(Ok(()), Err)
}

fn write_row(
    out: &mut Out,
    output: Output,
    shard: Option<u32>,
    row: &BatchRow,
) -> Result<(), CommandError> {
    if output == Output::Json {
        return out.json(&Dumped { shard, row });
    }
    out.line(&format!(
        "segment {} batch {} {} at {} ({} bytes), epoch {}, last durable {}",
        row.segment, row.batch, row.kind, row.disk_offset, row.bytes, row.epoch, row.last_durable
    ))?;
    for message in &row.messages {
        let damaged = if message.intact { "" } else { " DAMAGED" };
        out.line(&format!(
            "  stream {} sequence {} producer {}/{} {} bytes{damaged}",
            message.stream,
            message.sequence,
            message.producer_id,
            message.producer_seq,
            message.payload_bytes
        ))?;
    }
    Ok(())
}
