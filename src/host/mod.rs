//! The host an appliance runs on: whether it is set up for low latency, and what would make it so.
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | check | one question about the host, with an id (`cpu.isolated`) and a severity |
//! | finding | the answer: PASS, WARN, FAIL, UNKNOWN or N-A, with wanted, found, and what mends it |
//! | tree | `/proc` and `/sys` of this host, or a captured copy of another's |
//! | needs | what a profile uses of the host: cores, devices, memory, a file |
//! | knob | a file of the running kernel that can be written, and written back |
//! | boot parameter | what only the kernel's command line can change; proposed, never written |
//!
//! UNKNOWN says that the host does not tell, as virtual machines often do not: absent is never
//! good. N-A says that the profile uses nothing of the kind. Checks only read, so they work on a captured
//! tree (`--root`) as on the host; what has to be measured is measured on the host only.

pub(crate) mod needs;
pub(crate) mod topology;
pub(crate) mod tree;
pub(crate) mod tune;
pub(crate) mod measure;
pub(crate) mod verdict;
pub(crate) mod generate;
pub(crate) mod profile;
pub(crate) mod access;
mod words;
mod catalogue;
mod checks;

use serde::Serialize;

pub use catalogue::{CATALOGUE, Item};
pub use measure::Measured;
pub use needs::Needs;
pub use topology::Topology;
pub use tree::{CpuSet, Tree};
pub use verdict::{Knob, Mend, Severity, Status};

use crate::profile::ProfileError;

/// What checks look at.
#[derive(Debug)]
pub(crate) struct View<'a> {
    tree: &'a Tree,
    needs: &'a Needs,
    topology: Topology,
    cores: CpuSet,
    cmdline: Option<Vec<String>>,
    cpuinfo: Option<String>,
    measured: Option<Measured>,
}

/// The answer of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check.
    pub id: &'static str,
    /// What came out.
    pub status: Status,
    /// How much it matters.
    pub severity: Severity,
    /// Whether the profile does not serve without it.
    pub required: bool,
    /// Where it looked.
    pub place: &'static str,
    /// What it wants.
    pub wanted: String,
    /// What it found, or why it could not see.
    pub found: String,
    /// What mends it.
    pub mend: Mend,
}

/// Reads the host and asks every check, in the order of the catalogue.
#[must_use]
pub fn check(tree: &Tree, needs: &Needs, measured: Option<Measured>) -> Vec<Finding> {
    check_some(tree, needs, measured, &|_| true)
}

/// Asks the checks that `wanted` picks by id.
#[must_use]
pub fn check_some(
    tree: &Tree,
    needs: &Needs,
    measured: Option<Measured>,
    wanted: &dyn Fn(&str) -> bool,
) -> Vec<Finding> {
    let cmdline = tree.text("proc/cmdline");
    let view = View {
        tree,
        needs,
        topology: Topology::read(tree),
        cores: needs.cores(),
        cmdline: cmdline.map(|text| text.split_whitespace().map(str::to_owned).collect()),
        cpuinfo: tree.text("proc/cpuinfo"),
        measured,
    };
    CATALOGUE.iter().filter(|item| wanted(item.id)).map(|item| item.ask(&view)).collect()
}

/// Whether the checks a profile requires pass; `place` is where it requires them.
///
/// # Errors
/// `ProfileError::Host` with one line for each that does not: what, where, wanted, found, what mends it.
pub fn check_required(tree: &Tree, needs: &Needs, place: &str) -> Result<(), ProfileError> {
    let measures = needs.require.iter().any(|id| measure::CHECKS.contains(&id.as_str()));
    let measured = measures.then(|| measure::measure(tree, needs, measure::NS_DEFAULT)).flatten();
    let required = |id: &str| needs.require.iter().any(|name| name == id);
    let findings = check_some(tree, needs, measured, &required);
    let missing: Vec<String> = findings
        .iter()
        .filter(|finding| !matches!(finding.status, Status::Pass | Status::NotApplicable))
        .map(|finding| finding.refusal(place))
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(ProfileError::Host(missing.join("\nerror: "))) }
}

impl Finding {
    /// One line for a check that is required at `place` and does not pass.
    #[must_use]
    pub fn refusal(&self, place: &str) -> String {
        let mend = if self.mend.command.is_empty() {
            format!("take {} out of host.require", self.id)
        } else {
            self.mend.command.clone()
        };
        format!(
            "{place}: required check {} is {}: {}: wanted {}, found {}; mend: {mend}",
            self.id,
            self.status.word(),
            self.place,
            self.wanted,
            self.found
        )
    }
}

/// How many came out how, and the worst of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// As wanted.
    pub pass: usize,
    /// Not as wanted; it works, worse.
    pub warn: usize,
    /// Not as wanted, and it has to be.
    pub fail: usize,
    /// The host does not say.
    pub unknown: usize,
    /// Not asked for by the profile.
    pub not_applicable: usize,
}

impl Summary {
    /// Counts `findings`.
    #[must_use]
    pub fn of(findings: &[Finding]) -> Self {
        let count = |status| findings.iter().filter(|finding| finding.status == status).count();
        Self {
            pass: count(Status::Pass),
            warn: count(Status::Warn),
            fail: count(Status::Fail),
            unknown: count(Status::Unknown),
            not_applicable: count(Status::NotApplicable),
        }
    }
}

impl View<'_> {
    /// The value of a boot parameter; empty for one without a value, `None` where it is not given.
    fn boot(&self, name: &str) -> Option<&str> {
        self.cmdline.as_ref()?.iter().rev().find_map(|word| {
            let rest = word.strip_prefix(name)?;
            if rest.is_empty() { Some("") } else { rest.strip_prefix('=') }
        })
    }

    /// A field of the first processor in `/proc/cpuinfo`.
    fn cpu_field(&self, name: &str) -> Option<&str> {
        let mut lines = self.cpuinfo.as_deref()?.lines();
        let line = lines.find(|line| line.split(':').next().is_some_and(|key| key.trim() == name));
        line?.split_once(':').map(|(_, value)| value.trim())
    }

    /// Whether the processor has a feature; `None` where features are not listed.
    fn cpu_flag(&self, flag: &str) -> Option<bool> {
        Some(self.cpu_field("flags")?.split(' ').any(|word| word == flag))
    }

    /// Processors that are not for shards, nor siblings of those that are where there are others; `None` when none is
    /// left.
    fn housekeeping(&self) -> Option<CpuSet> {
        let all = self.topology.online();
        let ours = self.cores.iter().filter_map(|core| self.topology.cpu(core));
        let siblings: CpuSet = ours.flat_map(|cpu| cpu.siblings.iter().copied()).collect();
        let alone = all.without(&self.cores);
        let quiet = alone.without(&siblings);
        [quiet, alone].into_iter().find(|cpus| !cpus.is_empty())
    }
}

#[cfg(test)]
mod tests;
