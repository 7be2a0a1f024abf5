//! `buslane host tune`.

use std::io::Write;

use serde::Serialize;

use crate::cli::host::HostTuneArgs;
use crate::cli::{Globals, Output};
use crate::command::{CommandError, Out};
use crate::host::tune::{self, Plan, Written};
use crate::host::{check_some, tune::TuneError};

/// The version of the objects; it changes when a field goes or changes its meaning.
const SCHEMA_VERSION: u32 = 1;

#[derive(Serialize)]
struct Proposal<'a> {
    schema_version: u32,
    profile: &'a str,
    #[serde(flatten)]
    plan: &'a Plan,
}

#[derive(Serialize)]
struct Done<'a> {
    schema_version: u32,
    written: &'a [Written],
}

impl From<TuneError> for CommandError {
    fn from(error: TuneError) -> Self {
        Self::Failed(error.to_string())
    }
}

pub(super) fn tune(globals: &Globals, args: &HostTuneArgs) -> Result<(), CommandError> {
    super::check_names(&args.only)?;
    let tree = super::tree(&args.host)?;
    let state = args.state.clone().unwrap_or_else(|| tune::state_path(&tree));
    if args.revert {
        return report(globals, &tune::revert(&tree, &state)?, "put back");
    }
    let (_, needs) = super::needs(globals, &tree)?;
    let wanted = |id: &str| args.only.is_empty() || args.only.iter().any(|name| name == id);
    let plan = tune::plan(&tree, &check_some(&tree, &needs, None, &wanted));
    if !args.apply {
        let mut out = Out::stdout();
        if globals.output() == Output::Json {
            let (schema_version, profile) = (SCHEMA_VERSION, needs.profile.as_str());
            out.json(&Proposal { schema_version, profile, plan: &plan })?;
        } else {
            out.bytes(plan.script(&needs.profile).as_bytes())?;
        }
        return out.finish();
    }
    let written = tune::apply(&tree, &plan, &state)?;
    if !globals.quiet {
        let mut stderr = std::io::stderr();
        if !written.is_empty() {
            let _ = writeln!(stderr, "old values are in {}", state.display());
        }
        if !plan.boot.is_empty() {
            let _ = writeln!(stderr, "left to you, with a restart: {}", plan.boot.join(" "));
        }
        for advice in &plan.advice {
            let _ = writeln!(stderr, "left to you: {}: {}", advice.check, advice.command);
        }
    }
    report(globals, &written, "written")
}

fn report(globals: &Globals, written: &[Written], done: &str) -> Result<(), CommandError> {
    let mut out = Out::stdout();
    if globals.output() == Output::Json {
        out.json(&Done { schema_version: SCHEMA_VERSION, written })?;
    } else {
        for Written { path, before, value, error } in written {
            let how =
                error.as_ref().map_or_else(|| done.to_owned(), |why| format!("FAILED: {why}"));
            out.line(&format!("{path}: {before} -> {value}: {how}"))?;
        }
        if written.is_empty() {
            out.line("nothing to write")?;
        }
    }
    out.finish()?;
    let failed = written.iter().filter(|one| one.error.is_some()).count();
    if failed > 0 {
        let what = format!("{failed} of {} files could not be written", written.len());
        return Err(CommandError::Failed(what));
    }
    Ok(())
}
