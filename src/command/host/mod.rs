//! `buslane host`: whether a host is set up for an appliance, and what would make it so.

mod check;
mod topology;
mod tune;

use std::path::Path;

use super::{CommandError, Out};
use crate::cli::host::{HostArgs, HostCommand, HostGenerateCommand, HostProfileCommand};
use crate::cli::host::{HostOutArgs, HostProfileNewArgs, HostSystemdArgs, HostTunedArgs};
use crate::cli::{Globals, Output};
use crate::cpu;
use crate::host::generate::{self, BINARY, Unit};
use crate::host::{CATALOGUE, Needs, Topology, Tree, access, profile as new_profile};
use crate::printable::one_line;
use crate::profile::{self, Profile};
use crate::whole;

pub(super) fn host(globals: &Globals, command: &HostCommand) -> Result<(), CommandError> {
    match command {
        HostCommand::Check(args) => check::check(globals, args),
        HostCommand::Tune(args) => tune::tune(globals, args),
        HostCommand::Topology(args) => topology::topology(globals, args),
        HostCommand::Generate(HostGenerateCommand::Tuned(args)) => tuned(globals, args),
        HostCommand::Generate(HostGenerateCommand::Systemd(args)) => systemd(globals, args),
        HostCommand::Profile(HostProfileCommand::New(args)) => new(globals, args),
    }
}

/// The tree below `--root`; a directory that holds none is a mistake, not a host without anything.
fn tree(args: &HostArgs) -> Result<Tree, CommandError> {
    let tree = Tree::new(&args.root);
    if tree.exists("proc") || tree.exists("sys") {
        return Ok(tree);
    }
    Err(CommandError::Usage(format!(
        "--root {}: neither proc nor sys is below it; give the directory of a captured tree",
        args.root.display()
    )))
}

/// The profile, and what it needs of the host in `tree`.
fn needs(globals: &Globals, tree: &Tree) -> Result<(Profile, Needs), CommandError> {
    let profile = profile::load(globals.profile_or_default(), &globals.set)?;
    let cores: Vec<usize> = if tree.is_live() {
        cpu::available_cores()
    } else {
        Topology::read(tree).online().iter().collect()
    };
    if !cores.is_empty() {
        profile.check_cores(&cores)?;
    }
    let needs = Needs::of(&profile, &cores);
    Ok((profile, needs))
}

/// Refuses names of checks there are not.
fn check_names(names: &[String]) -> Result<(), CommandError> {
    let known = |name: &String| CATALOGUE.iter().any(|item| item.id == name);
    match names.iter().find(|name| !known(name)) {
        None => Ok(()),
        Some(name) => {
            let ids: Vec<&str> = CATALOGUE.iter().map(|item| item.id).collect();
            let what =
                format!("--only {name}: there is no such check; there are {}", ids.join(", "));
            Err(CommandError::Usage(what))
        }
    }
}

fn tuned(globals: &Globals, args: &HostTunedArgs) -> Result<(), CommandError> {
    let tree = tree(&args.host)?;
    let (_, needs) = needs(globals, &tree)?;
    let text = generate::tuned(&needs, &Topology::read(&tree), &profile_word(globals))
        .map_err(CommandError::Failed)?;
    write(globals, "host generate", &args.to, &text)
}

/// The profile as a unit's `--profile` takes it: a unit starts in a directory of its own, so a path has to be whole.
fn profile_word(globals: &Globals) -> String {
    let name = globals.profile_or_default();
    let shipped = profile::SHIPPED.iter().any(|(shipped, _)| *shipped == name);
    let absolute = std::fs::canonicalize(name).ok().filter(|_| !shipped);
    absolute.map_or_else(|| name.to_owned(), |path| path.display().to_string())
}

fn systemd(globals: &Globals, args: &HostSystemdArgs) -> Result<(), CommandError> {
    let tree = tree(&args.host)?;
    let (_, needs) = needs(globals, &tree)?;
    let own = std::env::current_exe();
    let binary = args.binary.clone().or_else(|| own.ok()).unwrap_or_else(|| BINARY.into());
    let profile = profile_word(globals);
    let unit =
        Unit { profile: &profile, settings: &globals.set, binary: &binary, user: &args.user };
    // Only of this host is it known who may pass.
    let closed =
        if tree.is_live() { access::closed(&args.user, &unit.paths(&needs)) } else { Vec::new() };
    let text = generate::systemd(&needs, &Topology::read(&tree), &unit, &closed);
    write(globals, "host generate", &args.to, &text)?;
    for what in closed.iter().filter(|_| !globals.quiet) {
        eprintln!("warning: {}", one_line(what));
    }
    Ok(())
}

fn new(globals: &Globals, args: &HostProfileNewArgs) -> Result<(), CommandError> {
    let tree = tree(&args.host)?;
    let text = new_profile::new(&tree, &args.name);
    // What is written has to be a profile: a bad --name is refused here, not when it is served.
    profile::file::check_new(&text)?;
    write(globals, "host profile new", &args.to, &text)
}

/// Writes a file of another program as it is, whole or not at all, or prints it.
fn write(
    globals: &Globals,
    command: &str,
    to: &HostOutArgs,
    text: &str,
) -> Result<(), CommandError> {
    if globals.output() == Output::Json {
        let what = format!("{command} prints a file of another program; leave -o json out");
        return Err(CommandError::Usage(what));
    }
    if to.out == Path::new("-") {
        return print(Out::stdout(), text);
    }
    if to.out.exists() && !globals.yes {
        let what = format!("{} exists already; overwrite it with --yes", to.out.display());
        return Err(CommandError::Failed(what));
    }
    if to.out.exists() && !to.out.is_file() {
        // A pipe or a device takes it as it comes.
        return print(Out::file(&to.out)?, text);
    }
    let failed = |error| CommandError::Failed(format!("{}: {error}", to.out.display()));
    whole::replace_target(&to.out, text.as_bytes()).map_err(failed)
}

fn print(mut out: Out, text: &str) -> Result<(), CommandError> {
    out.bytes(text.as_bytes())?;
    out.finish()
}
