//! The `buslane` binary: parse, run one command, exit code.

use std::process::ExitCode;

use buslane::admin::voice;
use buslane::cli::Cli;
use buslane::command::{self, CommandError};
use clap::Parser;

fn main() -> ExitCode {
    // Wrong usage ends here, with 2 and a hint.
    let cli = Cli::parse();
    let result = command::run(&cli);
    if let Err(error) = &result {
        tell(error);
    }
    // Whoever reads stderr may have stopped to: that keeps nothing from ending.
    voice::flush();
    result.map_or_else(|error| ExitCode::from(error.exit_code()), |()| ExitCode::SUCCESS)
}

/// Says why on stderr.
fn tell(error: &CommandError) {
    match error {
        CommandError::OutputClosed => {}
        CommandError::Warnings(_) => voice::say(&format!("warning: {error}")),
        CommandError::Failed(_)
        | CommandError::Usage(_)
        | CommandError::Unreachable(_)
        | CommandError::Stopped(_)
        | CommandError::Interrupted => voice::say(&format!("error: {error}")),
    }
}
