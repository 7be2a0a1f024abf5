//! `buslane log`: a log made, described, verified and dumped, while no appliance serves it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::progress::Progress;
use super::{CommandError, Out};
use crate::cli::arguments::LogCommand;
use crate::cli::{Globals, Output};
use crate::disk::uring::UringDisk;
use crate::disk::{Disk, is_transport_id};
use crate::launch::{AnyDisk, LaunchError, open_tool_disk};
use crate::log::create::{FormatOptions, format};
use crate::log::inspect::{BatchRow, describe, dump};
use crate::log::recovery::OpenError;
use crate::log::verify::{VerifyReport, verify};
use crate::profile::{self, Profile};
use crate::report::thousands;

/// Memory the tools work in.
const MEMORY_BYTES: usize = 2 << 20;

pub(super) fn log(globals: &Globals, command: &LogCommand) -> Result<(), CommandError> {
    let profile = profile::load(globals.profile_or_default(), &globals.set)?;
    let at =
        |path: &Option<PathBuf>| path.clone().unwrap_or_else(|| profile.disk.path.clone().into());
    match command {
        LogCommand::Format { path, force } => {
            format_log(globals, &profile, &at(path), force.as_deref())
        }
        LogCommand::Describe { path } => describe_log(globals, &profile, &at(path)),
        LogCommand::Verify { path } => verify_log(globals, &profile, &at(path)),
        LogCommand::Dump { path, stream, from, count } => {
            let wanted = Wanted { stream: stream.as_deref(), from: *from, count: *count };
            dump_log(globals, &profile, &at(path), &wanted)
        }
    }
}

impl From<OpenError> for CommandError {
    fn from(error: OpenError) -> Self {
        Self::Failed(error.to_string())
    }
}

fn open(profile: &Profile, path: &Path, read_only: bool) -> Result<AnyDisk, CommandError> {
    Ok(open_tool_disk(&profile.disk, &path.to_string_lossy(), MEMORY_BYTES, read_only)?)
}

fn format_log(
    globals: &Globals,
    profile: &Profile,
    path: &Path,
    force: Option<&Path>,
) -> Result<(), CommandError> {
    if force.is_some_and(|named| named != path) {
        return Err(CommandError::Usage(format!(
            "--force names what is to be overwritten, so it has to be {} itself",
            path.display()
        )));
    }
    if !is_transport_id(&path.to_string_lossy()) && !path.exists() {
        let progress = Progress::new(globals.quiet, "bytes", Some(profile.disk.size));
        UringDisk::create(path, profile.disk.size, true, &mut |done, _| progress.set(done))
            .map_err(LaunchError::from)?;
    }
    let mut disk = open(profile, path, false)?;
    let options = FormatOptions { segment_bytes: profile.disk.segment, force: force.is_some() };
    let superblock = format(&mut disk, &options).map_err(LaunchError::from)?;
    let mut out = Out::stdout();
    if globals.output() == Output::Json {
        out.json(&describe(&mut disk)?)?;
    } else if !globals.quiet {
        out.line(&format!(
            "{}: formatted, {} segments of {} bytes",
            path.display(),
            superblock.segment_count,
            thousands(superblock.segment_bytes())
        ))?;
    }
    out.finish()
}

#[derive(Serialize)]
struct Described<'a, T> {
    #[serde(flatten)]
    log: &'a T,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    device: BTreeMap<&'static str, String>,
}

fn describe_log(globals: &Globals, profile: &Profile, path: &Path) -> Result<(), CommandError> {
    let mut disk = open(profile, path, true)?;
    let facts = disk.facts();
    let found = describe(&mut disk)?;
    let mut out = Out::stdout();
    if globals.output() == Output::Json {
        out.json(&Described { log: &found, device: facts.into_iter().collect() })?;
        return out.finish();
    }
    for (what, value) in &facts {
        out.line(&format!("{what:<16} {value}"))?;
    }
    for (what, value) in [
        ("log", found.cluster.clone()),
        ("leg", found.leg.clone()),
        ("durability", found.durability.clone()),
        ("segment bytes", thousands(found.segment_bytes)),
        ("segments", format!("{} of {} used", found.segments_used, found.segments)),
        ("epoch", found.epoch.to_string()),
        ("stopped cleanly", if found.clean { "yes" } else { "no" }.into()),
        ("messages", thousands(found.messages)),
        ("producers", thousands(found.producers)),
    ] {
        out.line(&format!("{what:<16} {value}"))?;
    }
    for stream in &found.streams {
        out.line(&format!(
            "stream {}: sequences {} to {}, {} payload bytes",
            stream.name,
            thousands(stream.first_sequence),
            thousands(stream.next_sequence - 1),
            thousands(stream.payload_bytes)
        ))?;
    }
    out.finish()
}

fn verify_log(globals: &Globals, profile: &Profile, path: &Path) -> Result<(), CommandError> {
    let mut disk = open(profile, path, true)?;
    let progress = Progress::new(globals.quiet, "segments", None);
    let report = verify(&mut disk, &mut |done, _| progress.set(done))?;
    drop(progress);
    let mut out = Out::stdout();
    if globals.output() == Output::Json {
        out.json(&report)?;
    } else {
        print_report(&mut out, &report)?;
    }
    out.finish()?;
    if report.is_damaged() {
        let count = report.findings.iter().filter(|finding| finding.is_damage).count();
        return Err(CommandError::Failed(format!(
            "{}: {count} places are damaged",
            path.display()
        )));
    }
    Ok(())
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
    out.line(&format!(
        "{} segments, {} batches, {} messages are whole",
        report.segments,
        thousands(report.batches),
        thousands(report.messages)
    ))
}

/// What of a log is to be dumped.
struct Wanted<'a> {
    stream: Option<&'a str>,
    from: u64,
    count: Option<u64>,
}

fn dump_log(
    globals: &Globals,
    profile: &Profile,
    path: &Path,
    wanted: &Wanted<'_>,
) -> Result<(), CommandError> {
    let mut disk = open(profile, path, true)?;
    let mut only = None;
    if let Some(name) = wanted.stream {
        let streams = describe(&mut disk)?.streams;
        let found = streams.iter().find(|stream| stream.name == name);
        let found = found.ok_or_else(|| {
            CommandError::Failed(format!("{}: no stream {name} in this log", path.display()))
        })?;
        only = Some(found.id);
    }
    let mut out = Out::stdout();
    let mut left = wanted.count.unwrap_or(u64::MAX);
    let mut failed = None;
    dump(&mut disk, &mut |mut row| {
        if let Some(id) = only {
            row.messages.retain(|message| message.stream == id && message.sequence >= wanted.from);
        }
        row.messages.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        if only.is_some() && row.messages.is_empty() {
            return true;
        }
        left -= row.messages.len() as u64;
        let written = write_row(&mut out, globals.output(), &row);
        failed = written.err();
        failed.is_none() && left > 0
    })?;
    match failed {
        Some(error) => Err(error),
        None => out.finish(),
    }
}

fn write_row(out: &mut Out, output: Output, row: &BatchRow) -> Result<(), CommandError> {
    if output == Output::Json {
        return out.json(row);
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
