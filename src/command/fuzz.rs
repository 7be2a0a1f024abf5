//! `buslane fuzz`: damaged input for everything that reads input.

use std::panic::{self, AssertUnwindSafe};

use super::progress::Progress;
use super::{CommandError, Out};
use crate::cli::Globals;
use crate::cli::arguments::FuzzArgs;
use crate::clock::{Clock, HostClock};
use crate::random::Random;
use crate::sim::fuzz::{TARGETS, Target, mutate};

/// How often progress is told and the time looked at, in inputs.
const PROGRESS_EVERY: u64 = 64;

/// `fuzz`.
pub(super) fn fuzz(globals: &Globals, args: &FuzzArgs) -> Result<(), CommandError> {
    let is_asked = |target: &&Target| args.target.as_deref().is_none_or(|name| name == target.name);
    let targets: Vec<&Target> = TARGETS.iter().filter(is_asked).collect();
    if targets.is_empty() {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        let name = args.target.as_deref().unwrap_or_default();
        let says = format!("no target `{name}`; there are: {}", names.join(", "));
        return Err(CommandError::Usage(says));
    }
    if let Some(path) = &args.input {
        let bytes = std::fs::read(path)
            .map_err(|error| CommandError::Failed(format!("{}: {error}", path.display())))?;
        (targets[0].run)(&bytes);
        return Ok(());
    }
    let mut out = Out::stdout();
    for target in targets {
        let (inputs, seconds) = fuzz_target(globals, args, target)?;
        out.line(&format!(
            "{:<12} {inputs:>10} inputs in {seconds:.0} s, no finding",
            target.name
        ))?;
        out.flush()?;
    }
    out.finish()
}

fn fuzz_target(
    globals: &Globals,
    args: &FuzzArgs,
    target: &Target,
) -> Result<(u64, f64), CommandError> {
    let clock = HostClock::new();
    let until_ns = args.minutes.map(|minutes| minutes * 60_000_000_000);
    let progress = Progress::new(globals.quiet, "inputs", until_ns.is_none().then_some(args.count));
    let examples = (target.examples)();
    let mut random = Random::new(args.seed);
    let mut done = 0;
    loop {
        if done % PROGRESS_EVERY == 0 {
            progress.set(done);
            if until_ns.is_some_and(|until_ns| clock.now_ns() >= until_ns) {
                break;
            }
        }
        if until_ns.is_none() && done == args.count {
            break;
        }
        let input = mutate(&examples, &mut random);
        if panic::catch_unwind(AssertUnwindSafe(|| (target.run)(&input))).is_err() {
            let path = format!("crash-{}", target.name);
            let kept = std::fs::write(&path, &input);
            let says = format!(
                "target {} fails on input {done} of seed {} ({} bytes; kept as {path}: {}); see it again \
                 with: buslane fuzz {} --input {path}",
                target.name,
                args.seed,
                input.len(),
                if kept.is_ok() { "yes" } else { "no" },
                target.name
            );
            return Err(CommandError::Failed(says));
        }
        done += 1;
    }
    Ok((done, clock.now_ns() as f64 / 1e9))
}
