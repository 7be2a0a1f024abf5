//! The checks, by what they look at. Each takes the host in view and returns a verdict.

pub(super) mod cpu;
pub(super) mod irq;
pub(super) mod kernel;
pub(super) mod memory;
pub(super) mod network;
pub(super) mod pci;
pub(super) mod storage;
pub(super) mod system;

use super::measure;
use super::verdict::{Mend, Verdict};
use super::{CpuSet, View};

/// `cores 2-3`, or `core 2`.
fn cores(set: &super::CpuSet) -> String {
    if set.len() == 1 { format!("core {set}") } else { format!("cores {set}") }
}

/// `text`, or `none` where there is nothing in it.
fn or_none(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

/// The verdict where no shard is pinned, and so no core is ours.
fn no_core(view: &View<'_>) -> Option<Verdict> {
    let none = view.cores.is_empty();
    none.then(|| Verdict::not_applicable("the profile pins no shard to a core"))
}

/// What mends a check by leaving something to the cores that are no shard's. Where there are none it would do nothing,
/// or harm: that is said instead.
fn left_to_others(view: &View<'_>, mend: impl FnOnce(&CpuSet) -> Mend) -> Mend {
    match view.housekeeping() {
        Some(others) => mend(&others),
        None => Mend::command(
            "no core is left for anything else: pin fewer shards, or take a larger host",
        ),
    }
}

/// Ids of running processes; `None` where they cannot be listed, or only our own are (`hidepid`): the first
/// one is everybody's.
fn processes(view: &View<'_>) -> Option<Vec<usize>> {
    view.tree.text("proc/1/comm")?;
    view.tree.numbered("proc", "")
}

/// Whether a program of one of these names runs: its name.
fn running(view: &View<'_>, names: &[&str]) -> Option<Option<String>> {
    let comm = |id: usize| view.tree.text(&format!("proc/{id}/comm"));
    let mut found = processes(view)?.into_iter().filter_map(comm);
    Some(found.find(|name| names.contains(&name.as_str())))
}

/// The soft limit of this process, as in `unlimited` or `8388608`.
fn limit(view: &View<'_>, name: &str) -> Option<String> {
    let text = view.tree.text("proc/self/limits")?;
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?.to_owned();
    rest.split_whitespace().next().map(str::to_owned)
}

/// The verdict of a check that needs a measurement, where there is none.
fn not_measured(view: &View<'_>, wanted: impl Into<String>) -> Verdict {
    let (why, command) = if !view.tree.is_live() {
        ("a captured tree cannot be measured", "")
    } else if view.cores.iter().any(|core| measure::is_served(view.tree, core)) {
        ("an appliance serves there: not measured, so as not to disturb it", "")
    } else {
        ("not measured", "buslane host check --measure 1s")
    };
    Verdict::unknown(wanted, why).with_command(command)
}
