//! `buslane completion`: a script for a shell.

use clap::CommandFactory;

use super::{CommandError, Out};
use crate::cli::Cli;
use crate::cli::arguments::CompletionArgs;

/// Prints the script; it is made in memory first, because its generator panics when a pipe closes.
pub(super) fn completion(args: &CompletionArgs) -> Result<(), CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "buslane", &mut script);
    let mut out = Out::stdout();
    out.bytes(&script)?;
    out.finish()
}
