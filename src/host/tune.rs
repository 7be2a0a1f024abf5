//! Mending what checks found: a plan, the script that does it, and doing and undoing its run-time part.
//!
//! Only files of the running kernel are written, each after its old value was saved in a state file, so
//! that all can be put back. Boot parameters and commands are proposed, never carried out.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::tree::Tree;
use super::{Finding, Knob};
use crate::printable::one_line;
use crate::whole;

/// Where old values are kept, below the root.
pub(crate) const STATE_PATH: &str = "var/lib/buslane/host-tune.json";

/// The version of the state file.
const SCHEMA_VERSION: u32 = 1;

/// A file of the kernel to be written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Step {
    /// The check that wants it.
    pub check: &'static str,
    /// The file, from `/`.
    pub path: String,
    /// What to write.
    pub value: String,
    /// What it holds now.
    pub now: Option<String>,
}

/// What a person has to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Advice {
    /// The check that wants it.
    pub check: &'static str,
    /// What to type, or to do.
    pub command: String,
}

/// What would mend the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Plan {
    /// At run time, and reversibly.
    pub steps: Vec<Step>,
    /// In the kernel's command line, with a restart.
    pub boot: Vec<String>,
    /// By hand.
    pub advice: Vec<Advice>,
}

/// Makes a plan of what `findings` say is wrong.
#[must_use]
pub(crate) fn plan(tree: &Tree, findings: &[Finding]) -> Plan {
    let mut plan = Plan::default();
    for finding in findings.iter().filter(|finding| finding.status.is_bad()) {
        let mend = &finding.mend;
        for Knob { path, value } in &mend.knobs {
            if plan.steps.iter().all(|step| step.path != *path) {
                let now = tree.chosen(path);
                let (path, value) = (path.clone(), value.clone());
                plan.steps.push(Step { check: finding.id, path, value, now });
            }
        }
        for parameter in &mend.boot {
            if !plan.boot.contains(parameter) {
                plan.boot.push(parameter.clone());
            }
        }
        if mend.knobs.is_empty() && mend.boot.is_empty() && !mend.command.is_empty() {
            plan.advice.push(Advice { check: finding.id, command: mend.command.clone() });
        }
    }
    plan
}

impl Plan {
    /// A shell script that does the run-time part, with the rest as comments.
    #[must_use]
    pub(crate) fn script(&self, profile: &str) -> String {
        let profile = one_line(profile);
        let mut text = format!(
            "#!/bin/sh\n# Written by `buslane host tune` for profile {profile}. Read it before you run it, as root.\n\
             # Nothing in it outlives a restart of the host.\nset -u\n\
             failed=0\nput() {{\n    if ! echo \"$1\" > \"$2\"; then failed=1; fi\n}}\n"
        );
        let mut check = "";
        for step in &self.steps {
            if step.check != check {
                check = step.check;
                write!(text, "\n# {check}\n").expect("a String takes everything");
            }
            let now = one_line(step.now.as_deref().unwrap_or("unknown"));
            let (value, path) = (quoted(&step.value), quoted(&step.path));
            writeln!(text, "put {value} {path}  # now: {now}").expect("a String takes everything");
        }
        if self.steps.is_empty() {
            text.push_str("\n# Nothing can be mended while the host runs.\n");
        }
        if !self.boot.is_empty() {
            let parameters = self.boot.join(" ");
            let parameters = one_line(&parameters);
            write!(
                text,
                "\n# To be added to the kernel's command line by hand, then restart the host:\n#   {parameters}\n"
            )
            .expect("a String takes everything");
        }
        if !self.advice.is_empty() {
            text.push_str("\n# To be done by hand:\n");
            for Advice { check, command } in &self.advice {
                let command = one_line(command);
                writeln!(text, "#   {check}: {command}").expect("a String takes everything");
            }
        }
        text.push_str("\nexit $failed\n");
        text
    }
}

/// A word of a shell, whatever is in it: the tree may be anybody's.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-:,+".contains(c);
    if word.starts_with('/') && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", one_line(word).replace('\'', "'\\''"))
}

/// What `apply` or `revert` did with one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Written {
    /// The file, from `/`.
    pub path: String,
    /// What it held before.
    pub before: String,
    /// What was written.
    pub value: String,
    /// Why it could not be.
    pub error: Option<String>,
}

/// Old values, as they are kept.
#[derive(Debug, Default, Deserialize, Serialize)]
struct State {
    schema_version: u32,
    /// The boot they are of: the next one begins with values of its own. Empty where the host does not say.
    #[serde(default)]
    boot: String,
    /// In the order they were changed.
    saved: Vec<Saved>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Saved {
    path: String,
    value: String,
}

/// Why nothing was done.
#[derive(Debug, displaydoc::Display, thiserror::Error)]
pub enum TuneError {
    /// {path}: {why}; nothing was changed
    State {
        /// The file.
        path: PathBuf,
        /// What the operating system or its text says.
        why: String,
    },
    /// {0}: another `host tune` is at work; wait until it has ended; nothing was changed
    AtWork(PathBuf),
    /// {0}: the host was restarted since, and with that all is as it was before; the file is removed
    OtherBoot(PathBuf),
    /// {0}: there is no such file: nothing was applied, or all was reverted
    NothingSaved(PathBuf),
}

/// Where the state file is, unless told otherwise.
#[must_use]
pub(crate) fn state_path(tree: &Tree) -> PathBuf {
    tree.real(STATE_PATH)
}

/// Does the run-time part of a plan. Old values are on media before the first file is written; where
/// some were saved by an earlier call, the earlier ones stay.
///
/// # Errors
/// When the state file cannot be read or written; files that cannot be written are in the result.
pub(crate) fn apply(
    tree: &Tree,
    plan: &Plan,
    state_path: &Path,
) -> Result<Vec<Written>, TuneError> {
    let _lock = lock(state_path)?;
    let boot = boot_id(tree);
    let saved = load(state_path)?.filter(|saved| !is_of_other_boot(saved, &boot));
    let mut state = saved.unwrap_or_default();
    state.boot = boot;
    let earlier = state.saved.len();
    let mut todo = Vec::new();
    for step in &plan.steps {
        let Some(now) = tree.chosen(&step.path) else {
            todo.push((step, None));
            continue;
        };
        if state.saved.iter().all(|saved| saved.path != step.path) {
            state.saved.push(Saved { path: step.path.clone(), value: now.clone() });
        }
        todo.push((step, Some(now)));
    }
    if plan.steps.is_empty() {
        return Ok(Vec::new());
    }
    save(state_path, &state)?;
    let mut written = Vec::new();
    for (step, now) in todo {
        let error = match now {
            None => Some("its old value cannot be read, so it was left alone".to_owned()),
            Some(_) => write(tree, &step.path, &step.value).err().map(|error| error.to_string()),
        };
        let (path, value) = (step.path.clone(), step.value.clone());
        written.push(Written { path, before: now.unwrap_or_default(), value, error });
    }
    let failed: BTreeMap<&str, ()> = written
        .iter()
        .filter(|one| one.error.is_some())
        .map(|one| (one.path.as_str(), ()))
        .collect();
    let mut at = 0;
    state.saved.retain(|saved| {
        at += 1;
        at <= earlier || !failed.contains_key(saved.path.as_str())
    });
    save(state_path, &state)?;
    Ok(written)
}

/// Puts back what `apply` changed, last first, and removes the state file when all of it is back.
///
/// # Errors
/// When there is no state file, or it cannot be read; files that cannot be written are in the result.
pub(crate) fn revert(tree: &Tree, state_path: &Path) -> Result<Vec<Written>, TuneError> {
    let _lock = lock(state_path)?;
    let mut state =
        load(state_path)?.ok_or_else(|| TuneError::NothingSaved(state_path.to_owned()))?;
    if is_of_other_boot(&state, &boot_id(tree)) {
        fs::remove_file(state_path).map_err(|error| wrong(state_path, &error))?;
        return Err(TuneError::OtherBoot(state_path.to_owned()));
    }
    let mut written = Vec::new();
    let mut left = Vec::new();
    for saved in state.saved.iter().rev() {
        let before = tree.chosen(&saved.path).unwrap_or_default();
        let error = write(tree, &saved.path, &saved.value).err().map(|error| error.to_string());
        if error.is_some() {
            left.insert(0, saved.clone());
        }
        let (path, value) = (saved.path.clone(), saved.value.clone());
        written.push(Written { path, before, value, error });
    }
    if left.is_empty() {
        let gone = fs::remove_file(state_path);
        gone.map_err(|error| wrong(state_path, &error))?;
    } else {
        state.saved = left;
        save(state_path, &state)?;
    }
    Ok(written)
}

/// Which boot this is, as the kernel says; empty where it does not.
fn boot_id(tree: &Tree) -> String {
    tree.text("proc/sys/kernel/random/boot_id").unwrap_or_default()
}

fn is_of_other_boot(state: &State, boot: &str) -> bool {
    !state.boot.is_empty() && !boot.is_empty() && state.boot != boot
}

/// Whoever holds it is the only one that changes the host and the state file. It goes with the process.
fn lock(state_path: &Path) -> Result<fs::File, TuneError> {
    let open = || -> io::Result<fs::File> {
        if let Some(directory) = state_path.parent() {
            fs::create_dir_all(directory)?;
        }
        let path = state_path.with_extension("lock");
        fs::OpenOptions::new().write(true).create(true).truncate(false).open(path)
    };
    let file = open().map_err(|error| wrong(state_path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(TuneError::AtWork(state_path.to_owned())),
        Err(fs::TryLockError::Error(error)) => Err(wrong(state_path, &error)),
    }
}

/// Writes a file of the kernel: it has to be there, and takes a value in one call. A tree that somebody sent may
/// lead out of itself by a link: that is not followed.
fn write(tree: &Tree, path: &str, value: &str) -> io::Result<()> {
    let real = tree.real(path).canonicalize()?;
    if !real.starts_with(tree.root().canonicalize()?) {
        let what = format!("it leads out of the tree, to {}", real.display());
        return Err(io::Error::other(what));
    }
    let mut file = fs::OpenOptions::new().write(true).truncate(true).open(real)?;
    file.write_all(format!("{value}\n").as_bytes())
}

fn wrong(path: &Path, why: &dyn std::fmt::Display) -> TuneError {
    TuneError::State { path: path.to_owned(), why: why.to_string() }
}

fn load(path: &Path) -> Result<Option<State>, TuneError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong(path, &error)),
    };
    let state: State = serde_json::from_str(&text).map_err(|error| wrong(path, &error))?;
    if state.schema_version > SCHEMA_VERSION {
        return Err(wrong(path, &"written by a newer buslane; use that one"));
    }
    Ok(Some(state))
}

/// Whole or not at all: a host whose old values are half known cannot be put back.
fn save(path: &Path, state: &State) -> Result<(), TuneError> {
    let (boot, saved) = (state.boot.clone(), state.saved.clone());
    let state = State { schema_version: SCHEMA_VERSION, boot, saved };
    let text = serde_json::to_string_pretty(&state).expect("strings and numbers");
    let made = path.parent().map_or(Ok(()), fs::create_dir_all);
    made.and_then(|()| whole::replace(path, text.as_bytes())).map_err(|error| wrong(path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Mend, Severity, Status};

    fn finding(id: &'static str, mend: Mend) -> Finding {
        Finding {
            id,
            status: Status::Warn,
            severity: Severity::Warning,
            required: false,
            place: "/x",
            wanted: "a".into(),
            found: "b".into(),
            mend,
        }
    }

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Tree) {
        let place = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = place.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let tree = Tree::new(place.path());
        (place, tree)
    }

    fn knob(path: &str, value: &str) -> Knob {
        Knob { path: path.into(), value: value.into() }
    }

    #[test]
    fn what_was_applied_is_put_back() {
        let (_place, tree) = host(&[("sys/thp", "always [madvise] never\n"), ("proc/nb", "1\n")]);
        let findings = [
            finding("thp", Mend::knobs(vec![knob("/sys/thp", "never")])),
            finding("nb", Mend::knobs(vec![knob("/proc/nb", "0"), knob("/proc/gone", "0")])),
        ];
        let plan = plan(&tree, &findings);
        let state = state_path(&tree);
        let written = apply(&tree, &plan, &state).unwrap();
        assert_eq!(written.len(), 3);
        assert_eq!(written.iter().filter(|one| one.error.is_some()).count(), 1, "{written:?}");
        assert_eq!(tree.text("sys/thp").as_deref(), Some("never"));
        assert_eq!(tree.text("proc/nb").as_deref(), Some("0"));
        assert!(!tree.exists("proc/gone"), "nothing is made");

        // Once more: the values of the first time are the old ones.
        apply(&tree, &plan, &state).unwrap();
        let written = revert(&tree, &state).unwrap();
        assert_eq!(written.len(), 2);
        assert_eq!(tree.text("sys/thp").as_deref(), Some("madvise"));
        assert_eq!(tree.text("proc/nb").as_deref(), Some("1"));
        assert!(!state.exists());
        assert!(matches!(revert(&tree, &state), Err(TuneError::NothingSaved(_))));
    }

    #[test]
    fn what_cannot_be_put_back_stays_saved() {
        let (place, tree) = host(&[("proc/a", "1\n"), ("proc/b", "1\n")]);
        let knobs = vec![knob("/proc/a", "0"), knob("/proc/b", "0")];
        let plan = plan(&tree, &[finding("x", Mend::knobs(knobs))]);
        let state = state_path(&tree);
        apply(&tree, &plan, &state).unwrap();
        fs::remove_file(place.path().join("proc/a")).unwrap();
        let written = revert(&tree, &state).unwrap();
        assert!(written.iter().any(|one| one.error.is_some()));
        let left = load(&state).unwrap().unwrap().saved;
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].path, "/proc/a");
    }

    #[test]
    fn without_a_place_for_old_values_nothing_is_changed() {
        let (place, tree) = host(&[("proc/a", "1\n")]);
        let plan = plan(&tree, &[finding("x", Mend::knobs(vec![knob("/proc/a", "0")]))]);
        let state = place.path().join("proc/a/state.json");
        assert!(apply(&tree, &plan, &state).is_err());
        assert_eq!(tree.text("proc/a").as_deref(), Some("1"));
        let broken = place.path().join("broken.json");
        fs::write(&broken, "{").unwrap();
        assert!(apply(&tree, &plan, &broken).is_err());
        assert_eq!(tree.text("proc/a").as_deref(), Some("1"));
    }

    #[test]
    fn a_strange_tree_puts_no_command_into_the_script() {
        let (_place, tree) = host(&[("sys/thp", "[always\nreboot\n#] never\n")]);
        let knobs = vec![knob("/sys/thp", "never"), knob("/sys/a b;reboot", "it's\nreboot")];
        let mut strange = finding("thp", Mend::knobs(knobs));
        strange.mend.command = String::new();
        let advice = finding("irq.balance", Mend::command("x\nreboot"));
        let boot = finding("cpu.isolated", Mend::boot(&["a\nreboot".into()]));
        let script = plan(&tree, &[strange, advice, boot]).script("p\nreboot");
        assert!(script.lines().all(|line| !line.starts_with("reboot")), "{script}");
        assert!(script.contains("put 'never' /sys/thp  # now: always\\nreboot"), "{script}");
        assert!(script.contains(r"put 'it'\''s\nreboot' '/sys/a b;reboot'"), "{script}");
    }

    #[test]
    fn a_tree_that_leads_out_of_itself_is_not_written() {
        let (place, tree) = host(&[("sys/thp", "always\n")]);
        let outside = tempfile::NamedTempFile::new().unwrap();
        std::os::unix::fs::symlink(outside.path(), place.path().join("sys/out")).unwrap();
        let plan = plan(&tree, &[finding("x", Mend::knobs(vec![knob("/sys/out", "1")]))]);
        let written = apply(&tree, &plan, &state_path(&tree)).unwrap();
        assert!(written[0].error.as_ref().unwrap().contains("leads out"), "{written:?}");
        assert_eq!(fs::read(outside.path()).unwrap(), b"");
    }

    #[test]
    fn a_saved_state_is_of_one_boot_and_of_one_at_a_time() {
        let boot = "proc/sys/kernel/random/boot_id";
        let (place, tree) = host(&[("proc/a", "1\n"), (boot, "one\n")]);
        let plan = plan(&tree, &[finding("x", Mend::knobs(vec![knob("/proc/a", "0")]))]);
        let state = state_path(&tree);
        apply(&tree, &plan, &state).unwrap();
        let held = lock(&state).unwrap();
        assert!(matches!(apply(&tree, &plan, &state), Err(TuneError::AtWork(_))));
        assert!(matches!(revert(&tree, &state), Err(TuneError::AtWork(_))));
        drop(held);
        // The host restarts, and somebody sets another value.
        fs::write(place.path().join(boot), "two\n").unwrap();
        fs::write(place.path().join("proc/a"), "5\n").unwrap();
        assert!(matches!(revert(&tree, &state), Err(TuneError::OtherBoot(_))));
        assert_eq!(
            tree.text("proc/a").as_deref(),
            Some("5"),
            "what it held before the boot is void"
        );
        apply(&tree, &plan, &state).unwrap();
        revert(&tree, &state).unwrap();
        assert_eq!(tree.text("proc/a").as_deref(), Some("5"));
    }

    #[test]
    fn the_script_does_only_what_can_be_undone() {
        let (_place, tree) = host(&[("sys/thp", "[always] never\n")]);
        let mut good = finding("fine", Mend::knobs(vec![knob("/sys/fine", "1")]));
        good.status = Status::Pass;
        let findings = [
            finding("thp", Mend::knobs(vec![knob("/sys/thp", "never")])),
            finding("cpu.isolated", Mend::boot(&["isolcpus=3".into()])),
            finding("again", Mend::boot(&["isolcpus=3".into()])),
            finding("irq.balance", Mend::command("systemctl disable --now irqbalance")),
            good,
        ];
        let script = plan(&tree, &findings).script("p");
        assert!(script.starts_with("#!/bin/sh\n"), "{script}");
        assert!(script.contains("put 'never' /sys/thp  # now: always\n"), "{script}");
        assert!(script.contains("#   isolcpus=3\n"), "{script}");
        assert!(script.contains("#   irq.balance: systemctl disable"), "{script}");
        assert!(!script.contains("/sys/fine"), "{script}");
        let does: Vec<&str> = script.lines().filter(|line| line.starts_with("put ")).collect();
        assert_eq!(does.len(), 1);
    }
}
