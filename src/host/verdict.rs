//! What a check finds, and what mends it.

use serde::Serialize;

/// How much a check matters when it finds something wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The appliance cannot keep its promises, or cannot start: FAIL.
    Fatal,
    /// Latency suffers: WARN.
    Warning,
    /// Reports should say it: WARN where it is not as it should be for numbers to be quoted.
    Info,
}

/// What came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Status {
    /// As wanted.
    #[serde(rename = "PASS")]
    Pass,
    /// Not as wanted; it works, worse.
    #[serde(rename = "WARN")]
    Warn,
    /// Not as wanted, and it has to be.
    #[serde(rename = "FAIL")]
    Fail,
    /// The host does not say.
    #[serde(rename = "UNKNOWN")]
    Unknown,
    /// The profile uses nothing of the kind.
    #[serde(rename = "N-A")]
    NotApplicable,
}

impl Status {
    /// As it stands in a table.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
            Self::Unknown => "UNKNOWN",
            Self::NotApplicable => "N-A",
        }
    }

    /// Whether something is wrong, as far as one can see.
    #[must_use]
    pub fn is_bad(self) -> bool {
        matches!(self, Self::Warn | Self::Fail)
    }
}

/// A value of the running kernel that a check wants changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Knob {
    /// The file, from `/`.
    pub path: String,
    /// What to write.
    pub value: String,
}

/// More files than this are no command to be typed.
const FILES_IN_A_COMMAND: usize = 4;

/// Stands for the id of the check in a command, which the check itself does not know.
pub(super) const CHECK_ID: &str = "{check}";

/// What mends a finding.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Mend {
    /// What to type.
    pub command: String,
    /// What can be changed while the host runs, and changed back.
    pub knobs: Vec<Knob>,
    /// What has to stand in the kernel's command line.
    pub boot: Vec<String>,
}

impl Mend {
    /// A command that only a person should run.
    pub(super) fn command(command: impl Into<String>) -> Self {
        Self { command: command.into(), ..Self::default() }
    }

    /// Files of the running kernel.
    pub(super) fn knobs(knobs: Vec<Knob>) -> Self {
        let command = match &knobs[..] {
            [] => String::new(),
            [knob] => format!("echo {} > {}", knob.value, knob.path),
            [first, rest @ ..] if rest.iter().all(|knob| knob.value == first.value) => {
                let paths: Vec<&str> = knobs.iter().map(|knob| knob.path.as_str()).collect();
                if paths.len() > FILES_IN_A_COMMAND {
                    format!("buslane host tune --apply --only {CHECK_ID}")
                } else {
                    format!("echo {} | tee {}", first.value, paths.join(" "))
                }
            }
            [_, ..] => {
                let writes =
                    knobs.iter().map(|knob| format!("echo {} > {}", knob.value, knob.path));
                writes.collect::<Vec<_>>().join("; ")
            }
        };
        Self { command, knobs, boot: Vec::new() }
    }

    /// Boot parameters.
    pub(super) fn boot(parameters: &[String]) -> Self {
        let command = format!("boot with: {}", parameters.join(" "));
        Self { command, knobs: Vec::new(), boot: parameters.to_vec() }
    }
}

/// A file and what to write to it.
pub(super) fn knob(path: impl Into<String>, value: impl Into<String>) -> Knob {
    Knob { path: path.into(), value: value.into() }
}

/// What a check found, before its severity is applied.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    pub(super) outcome: Outcome,
    pub(super) wanted: String,
    pub(super) found: String,
    pub(super) mend: Mend,
}

/// Whether it is as wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Good,
    /// As bad as the check's severity says.
    Bad,
    /// Not as bad as the severity says.
    Poor,
    Unknown,
    NotApplicable,
}

impl Verdict {
    fn new(outcome: Outcome, wanted: impl Into<String>, found: impl Into<String>) -> Self {
        Self { outcome, wanted: wanted.into(), found: found.into(), mend: Mend::default() }
    }

    pub(super) fn good(wanted: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(Outcome::Good, wanted, found)
    }

    pub(super) fn bad(wanted: impl Into<String>, found: impl Into<String>, mend: Mend) -> Self {
        Self { mend, ..Self::new(Outcome::Bad, wanted, found) }
    }

    pub(super) fn poor(wanted: impl Into<String>, found: impl Into<String>, mend: Mend) -> Self {
        Self { mend, ..Self::new(Outcome::Poor, wanted, found) }
    }

    /// `good`, or else bad with this mend.
    pub(super) fn when(
        good: bool,
        wanted: impl Into<String>,
        found: impl Into<String>,
        mend: impl FnOnce() -> Mend,
    ) -> Self {
        if good { Self::good(wanted, found) } else { Self::bad(wanted, found, mend()) }
    }

    pub(super) fn unknown(wanted: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Outcome::Unknown, wanted, why)
    }

    pub(super) fn not_applicable(why: impl Into<String>) -> Self {
        Self::new(Outcome::NotApplicable, "-", why)
    }

    /// With a command, whatever the outcome.
    pub(super) fn with_command(mut self, command: impl Into<String>) -> Self {
        self.mend = Mend::command(command);
        self
    }

    pub(super) fn status(&self, severity: Severity) -> Status {
        match (self.outcome, severity) {
            (Outcome::Good, _) => Status::Pass,
            (Outcome::Bad, Severity::Fatal) => Status::Fail,
            (Outcome::Bad, Severity::Warning | Severity::Info) | (Outcome::Poor, _) => Status::Warn,
            (Outcome::Unknown, _) => Status::Unknown,
            (Outcome::NotApplicable, _) => Status::NotApplicable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn severity_makes_a_status_of_an_outcome() {
        let bad = Verdict::bad("a", "b", Mend::default());
        assert_eq!(bad.status(Severity::Fatal), Status::Fail);
        assert_eq!(bad.status(Severity::Warning), Status::Warn);
        assert_eq!(Verdict::poor("a", "b", Mend::default()).status(Severity::Fatal), Status::Warn);
        assert_eq!(Verdict::unknown("a", "b").status(Severity::Fatal), Status::Unknown);
        assert!(!Status::Unknown.is_bad() && Status::Fail.is_bad());
    }

    #[test]
    fn knobs_are_a_command_that_can_be_typed() {
        assert_eq!(Mend::knobs(vec![knob("/a", "1")]).command, "echo 1 > /a");
        let same = vec![knob("/a", "1"), knob("/b", "1")];
        assert_eq!(Mend::knobs(same).command, "echo 1 | tee /a /b");
        let differ = vec![knob("/a", "1"), knob("/b", "2")];
        assert_eq!(Mend::knobs(differ).command, "echo 1 > /a; echo 2 > /b");
        let many = (0..9).map(|n| knob(format!("/{n}"), "1")).collect();
        assert_eq!(Mend::knobs(many).command, "buslane host tune --apply --only {check}");
    }
}
