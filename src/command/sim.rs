//! `buslane sim`: seeds through the simulator, and what they covered.

mod coverage;
mod reduce;

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use self::coverage::{coverage, unseen};
use super::progress::Progress;
use super::{CommandError, Out};
use crate::cli::arguments::SimArgs;
use crate::cli::{Globals, Output};
use crate::clock::{Clock, HostClock};
use crate::mutant::Mutant;
use crate::sim::{End, Feature, Outcome, Plan, run_plan};

/// Seeds run when nothing is said.
const SEEDS: u64 = 1_000;

/// Within so many seeds a mutant has to be caught.
const MUTANT_SEEDS: u64 = 3_000;

/// A seed that broke a promise, panicked, or did not repeat.
#[derive(Clone, Debug)]
struct Finding {
    seed: u64,
    /// Who found it, or that it panicked.
    oracle: String,
    says: String,
    outcome: Option<Box<Outcome>>,
}

/// What many seeds came to.
#[derive(Default)]
struct Totals {
    seeds: u64,
    whole: u64,
    full: u64,
    halted: u64,
    acknowledged: u64,
    consumed: u64,
    virtual_s: f64,
    /// Name and count of everything that is counted.
    coverage: Vec<(String, u64)>,
}

impl Totals {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        match outcome.end {
            Ok(End::Whole) => self.whole += 1,
            Ok(End::Full) => self.full += 1,
            Ok(End::Halted) => self.halted += 1,
            Err(_) => {}
        }
        self.acknowledged += outcome.acknowledged;
        self.consumed += outcome.consumed;
        self.virtual_s += outcome.virtual_ns as f64 / 1e9;
        for (index, (name, count)) in coverage(outcome).into_iter().enumerate() {
            match self.coverage.get_mut(index) {
                Some(entry) => entry.1 += count,
                None => self.coverage.push((name, count)),
            }
        }
    }

    fn merge(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.whole += other.whole;
        self.full += other.full;
        self.halted += other.halted;
        self.acknowledged += other.acknowledged;
        self.consumed += other.consumed;
        self.virtual_s += other.virtual_s;
        for (index, (name, count)) in other.coverage.iter().enumerate() {
            match self.coverage.get_mut(index) {
                Some(entry) => entry.1 += count,
                None => self.coverage.push((name.clone(), *count)),
            }
        }
    }
}

thread_local! {
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// Runs one seed without some features; a panic is a finding.
fn try_seed(seed: u64, left_out: &[Feature], twice: bool) -> Result<Outcome, Finding> {
    SEED.set(seed);
    let plan = Plan::without(seed, left_out);
    let attempt = || {
        panic::catch_unwind(AssertUnwindSafe(|| run_plan(&plan))).map_err(|cause| {
            let says = cause
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                .unwrap_or_default();
            let oracle = oracle_of_panic(&says).to_owned();
            Finding { seed, oracle, says: format!("panicked: {says}"), outcome: None }
        })
    };
    let outcome = attempt()?;
    if twice {
        let again = attempt()?;
        if again.digest != outcome.digest {
            let says = format!("not repeatable: {:x} and {:x}", outcome.digest, again.digest);
            let oracle = "digests".to_owned();
            return Err(Finding { seed, oracle, says, outcome: Some(Box::new(outcome)) });
        }
    }
    match &outcome.end {
        Ok(_) => Ok(outcome),
        Err(violation) => {
            let (oracle, says) = (violation.oracle.to_owned(), violation.to_string());
            Err(Finding { seed, oracle, says, outcome: Some(Box::new(outcome)) })
        }
    }
}

/// The oracle that panics with its name in front, as the audit of a shard does.
fn oracle_of_panic(says: &str) -> &str {
    let name = says.split_once(": ").map_or("", |(name, _)| name);
    let number = name.strip_prefix('O').unwrap_or_default();
    if number.parse::<u8>().is_ok() { name } else { "panicked" }
}

/// Runs seeds until there are no more or one fails.
fn run_seeds(
    next: &(dyn Fn() -> Option<u64> + Sync),
    twice: bool,
    threads: u64,
    done: &(dyn Fn(u64) + Sync),
) -> (Totals, Option<Finding>) {
    let count = AtomicU64::new(0);
    let worker = || {
        let mut totals = Totals::default();
        while let Some(seed) = next() {
            match try_seed(seed, &[], twice) {
                Ok(outcome) => totals.add(&outcome),
                Err(finding) => return (totals, Some(finding)),
            }
            done(count.fetch_add(1, Ordering::Relaxed) + 1);
        }
        (totals, None)
    };
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(worker)).collect();
        let mut totals = Totals::default();
        let mut findings = Vec::new();
        for handle in handles {
            let (part, finding) = handle.join().expect("a worker catches what panics");
            totals.merge(&part);
            findings.extend(finding);
        }
        findings.sort_by_key(|finding| finding.seed);
        (totals, findings.into_iter().next())
    })
}

#[derive(Serialize)]
struct Report<'a> {
    schema_version: u32,
    seeds: u64,
    whole: u64,
    full: u64,
    halted: u64,
    acknowledged: u64,
    consumed: u64,
    virtual_seconds: f64,
    seconds: f64,
    coverage: std::collections::BTreeMap<&'a str, u64>,
}

/// `sim`.
pub(super) fn sim(globals: &Globals, args: &SimArgs) -> Result<(), CommandError> {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        eprintln!("seed {}:", SEED.get());
        before(info);
    }));
    if let Some(name) = &args.mutant {
        return mutants(globals, name, args.threads);
    }
    if let Some(seed) = args.seed {
        return one(seed, &args.without, args.twice);
    }
    let clock = HostClock::new();
    let (from, to) = match (args.seeds, args.minutes) {
        (Some(range), _) => range,
        (None, Some(_)) => (clock.unix_ns() >> 20, u64::MAX),
        (None, None) => (0, SEEDS),
    };
    let until_ns = args.minutes.map_or(u64::MAX, |minutes| minutes * 60_000_000_000);
    let total = if args.minutes.is_some() { None } else { Some(to - from) };
    let counter = AtomicU64::new(from);
    let next = || {
        let seed = counter.fetch_add(1, Ordering::Relaxed);
        (seed < to && clock.now_ns() < until_ns).then_some(seed)
    };
    let progress = Progress::new(globals.quiet, "seeds", total);
    let (totals, finding) = run_seeds(&next, args.twice, args.threads, &|done| progress.set(done));
    drop(progress);
    if let Some(finding) = finding {
        return Err(tell_reduced(finding));
    }
    report(globals, &totals, clock.now_ns() as f64 / 1e9)?;
    let unseen = unseen(&totals.coverage);
    if args.covered && !unseen.is_empty() {
        return Err(CommandError::Failed(unseen.join("; ")));
    }
    Ok(())
}

fn report(globals: &Globals, totals: &Totals, seconds: f64) -> Result<(), CommandError> {
    let mut out = Out::stdout();
    if globals.output() == Output::Json {
        let coverage = totals.coverage.iter().map(|(name, count)| (name.as_str(), *count));
        out.json(&Report {
            schema_version: 1,
            seeds: totals.seeds,
            whole: totals.whole,
            full: totals.full,
            halted: totals.halted,
            acknowledged: totals.acknowledged,
            consumed: totals.consumed,
            virtual_seconds: totals.virtual_s,
            seconds,
            coverage: coverage.collect(),
        })?;
        return out.finish();
    }
    for (name, count) in &totals.coverage {
        out.line(&format!("{count:>12}  {name}"))?;
    }
    out.line(&format!(
        "{} seeds kept every promise in {seconds:.0} s ({:.0} s of virtual time): {} whole, {} with a full \
         log, {} halted on damaged media; {} messages acknowledged, {} consumed",
        totals.seeds,
        totals.virtual_s,
        totals.whole,
        totals.full,
        totals.halted,
        totals.acknowledged,
        totals.consumed
    ))?;
    out.finish()
}

/// Says what a seed broke, what it needs for that, and what happened before.
fn tell_reduced(finding: Finding) -> CommandError {
    let seed = finding.seed;
    // Many runs that panic, of which the last is told.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let oracle_of =
        |left_out: &[Feature]| try_seed(seed, left_out, false).err().map(|finding| finding.oracle);
    let left_out = reduce::reduce(seed, &finding.oracle, &oracle_of);
    panic::set_hook(hook);
    let reduced = try_seed(seed, &left_out, false).err();
    eprintln!("seed {seed} as drawn: {}", finding.says);
    tell(&reduced.unwrap_or(finding), &left_out)
}

/// Says what a seed broke without some features, and what happened before.
fn tell(finding: &Finding, left_out: &[Feature]) -> CommandError {
    let plan = Plan::without(finding.seed, left_out);
    let on: Vec<&str> = plan.features().map(Feature::name).collect();
    eprintln!("{plan:#?}\nfeatures that are on: {}", on.join(", "));
    if let Some(outcome) = &finding.outcome {
        eprintln!("newest events (ns, what, numbers):");
        for (now_ns, what, one, two) in &outcome.events {
            eprintln!("{now_ns:>14}  {what} {one} {two}");
        }
    }
    let version = env!("CARGO_PKG_VERSION");
    CommandError::Failed(format!(
        "seed {} (version {version}): {}; see it again with: buslane sim --seed {}{}",
        finding.seed,
        finding.says,
        finding.seed,
        reduce::option(left_out)
    ))
}

fn one(seed: u64, left_out: &[Feature], twice: bool) -> Result<(), CommandError> {
    let outcome = try_seed(seed, left_out, twice).map_err(|finding| {
        if left_out.is_empty() { tell_reduced(finding) } else { tell(&finding, left_out) }
    })?;
    let mut out = Out::stdout();
    for (now_ns, what, one, two) in &outcome.events {
        out.line(&format!("{now_ns:>14}  {what} {one} {two}"))?;
    }
    for (name, count) in coverage(&outcome).iter().filter(|(_, count)| *count > 0) {
        out.line(&format!("{count:>12}  {name}"))?;
    }
    out.line(&format!("seed {seed}: {:?}, digest {:016x}", outcome.end, outcome.digest))?;
    out.finish()
}

/// The first seed that this oracle finds something with, the same for any number of threads: those before it are run to
/// their end. What another oracle finds before is no proof of this one.
fn first_caught(oracle: &str, threads: u64, progress: &(dyn Fn(u64) + Sync)) -> Option<Finding> {
    let (next, end) = (AtomicU64::new(0), AtomicU64::new(MUTANT_SEEDS));
    let worker = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end.load(Ordering::Relaxed) {
                return None;
            }
            progress(seed);
            let finding = try_seed(seed, &[], false).err();
            if let Some(finding) = finding.filter(|finding| finding.oracle == oracle) {
                end.fetch_min(seed, Ordering::Relaxed);
                return Some(finding);
            }
        }
    };
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(worker)).collect();
        let caught =
            handles.into_iter().filter_map(|handle| handle.join().expect("what panics is caught"));
        caught.min_by_key(|finding| finding.seed)
    })
}

/// Each mistake has to be caught; a table says by what, and how soon.
fn mutants(globals: &Globals, name: &str, threads: u64) -> Result<(), CommandError> {
    let chosen: Vec<Mutant> =
        Mutant::ALL.into_iter().filter(|mutant| name == "all" || mutant.name() == name).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = Mutant::ALL.iter().map(|mutant| mutant.name()).collect();
        let says = format!("no mutant `{name}`; there are: all, {}", names.join(", "));
        return Err(CommandError::Usage(says));
    }
    let mut out = Out::stdout();
    let mut missed = Vec::new();
    panic::set_hook(Box::new(|_| {}));
    for mutant in chosen {
        switch_on(Some(mutant))?;
        let progress = Progress::new(globals.quiet, "seeds", Some(MUTANT_SEEDS));
        let caught = first_caught(mutant.oracle(), threads, &|seed| progress.set(seed));
        drop(progress);
        switch_on(None)?;
        match caught {
            Some(finding) => {
                let line = finding.says.lines().next().unwrap_or_default();
                let says: String = line.chars().take(100).collect();
                out.line(&format!(
                    "caught  {:<28} after {:>3} seeds: {says}",
                    mutant.name(),
                    finding.seed + 1
                ))?;
            }
            None => missed.push(format!("{} by {}", mutant.name(), mutant.oracle())),
        }
    }
    out.finish()?;
    if missed.is_empty() {
        return Ok(());
    }
    let missed = missed.join(", ");
    Err(CommandError::Failed(format!("not caught within {MUTANT_SEEDS} seeds: {missed}")))
}

#[cfg(feature = "mutants")]
#[allow(clippy::unnecessary_wraps, reason = "the other build refuses")]
fn switch_on(mutant: Option<Mutant>) -> Result<(), CommandError> {
    crate::mutant::switch_on(mutant);
    Ok(())
}

#[cfg(not(feature = "mutants"))]
fn switch_on(_: Option<Mutant>) -> Result<(), CommandError> {
    let says = "this program has no mutants; build it with --features mutants";
    Err(CommandError::Usage(says.to_owned()))
}
