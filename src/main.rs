//! The `buslane` binary: parse, run one command, exit code.

use std::io::Write;
use std::process::ExitCode;

use buslane::cli::Cli;
use buslane::command::{self, CommandError};
use clap::Parser;

fn main() -> ExitCode {
    // Wrong usage ends here, with 2 and a hint.
    let cli = Cli::parse();
    match command::run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

/// Says why on stderr; where that is closed too there is nobody to tell.
fn tell(error: &CommandError) {
    match error {
        CommandError::OutputClosed => {}
        CommandError::Warnings(_) => drop(writeln!(std::io::stderr(), "warning: {error}")),
        CommandError::Failed(_)
        | CommandError::Usage(_)
        | CommandError::Unreachable(_)
        | CommandError::Stopped(_)
        | CommandError::Interrupted => drop(writeln!(std::io::stderr(), "error: {error}")),
    }
}
