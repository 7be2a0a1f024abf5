//! `buslane verify-history`: whether what clients wrote down can be true of one log.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{CommandError, Out};
use crate::cli::arguments::VerifyHistoryArgs;
use crate::cli::{Globals, Output};
use crate::history::verify::{Line, Verdict, verify};
use crate::history::{Entry, read};
use crate::report::{count_of, thousands};

/// Contradictions that are told one by one.
const TOLD_MAX: usize = 20;

#[derive(Serialize)]
struct Report<'a> {
    schema_version: u32,
    histories: usize,
    offered: u64,
    acknowledged: u64,
    delivered: u64,
    sequences: u64,
    /// All of them, and the first ones.
    contradictions_total: usize,
    contradictions: Vec<Told<'a>>,
}

#[derive(Serialize)]
struct Told<'a> {
    check: &'static str,
    what: &'a str,
    file: &'a Path,
    line: usize,
    other_file: Option<&'a Path>,
    other_line: Option<usize>,
}

pub(super) fn verify_history(
    globals: &Globals,
    args: &VerifyHistoryArgs,
) -> Result<(), CommandError> {
    let histories: Vec<Vec<Entry>> = args
        .files
        .iter()
        .map(|path| read(path))
        .collect::<Result<_, _>>()
        .map_err(CommandError::Failed)?;
    let verdict = verify(&histories);
    print(globals, &args.files, &verdict)?;
    match verdict.contradictions.len() {
        0 => Ok(()),
        count => Err(CommandError::Failed(format!(
            "{}: these histories are not of one log that keeps what it acknowledges",
            count_of(count as u64, "contradiction")
        ))),
    }
}

fn print(globals: &Globals, files: &[PathBuf], verdict: &Verdict) -> Result<(), CommandError> {
    let file = |line: Line| files[line.history].as_path();
    let first = verdict.contradictions.iter().take(TOLD_MAX);
    let mut out = Out::stdout();
    if globals.output() == Output::Json {
        let told = first.map(|found| Told {
            check: found.check,
            what: &found.what,
            file: file(found.line),
            line: found.line.line,
            other_file: found.other.map(file),
            other_line: found.other.map(|other| other.line),
        });
        out.json(&Report {
            schema_version: 1,
            histories: files.len(),
            offered: verdict.offered,
            acknowledged: verdict.acknowledged,
            delivered: verdict.delivered,
            sequences: verdict.sequences,
            contradictions_total: verdict.contradictions.len(),
            contradictions: told.collect(),
        })?;
        return out.finish();
    }
    for found in first {
        let place = |line: Line| format!("{}:{}", file(line).display(), line.line);
        let other = found.other.map_or_else(String::new, |other| format!(" ({})", place(other)));
        let (check, what) = (found.check, &found.what);
        out.line(&format!("{}: {check}: {what}{other}", place(found.line)))?;
    }
    let more = verdict.contradictions.len().saturating_sub(TOLD_MAX);
    if more > 0 {
        out.line(&format!("... and {} more", thousands(more as u64)))?;
    }
    if !globals.quiet {
        out.line(&format!(
            "{}: {} offered, {} acknowledged, {} delivered, {} known by sequence",
            match files.len() {
                1 => "1 history".to_owned(),
                count => format!("{count} histories"),
            },
            thousands(verdict.offered),
            thousands(verdict.acknowledged),
            thousands(verdict.delivered),
            thousands(verdict.sequences),
        ))?;
    }
    out.finish()
}
