//! SIGHUP: the profile is read again, and what can change while serving changes.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use super::hlog::IntervalLog;
use crate::access::{Access, Keyring};
use crate::profile::{self, Profile};

/// Keys that change without a restart.
const LIVE: [&str; 4] = ["limits.turn_us", "limits.watchdog_ms", "metrics.stages", "metrics.dir"];

/// Whether SIGHUP came, and what is read again then beside the profile. One that comes before anybody asks is kept:
/// while a log is made or recovered, say.
#[derive(Clone, Debug, Default)]
pub struct Hangup {
    came: Arc<AtomicBool>,
    access: Option<Arc<AccessSource>>,
}

/// Who has access, to be read again, and who is told of it.
#[derive(Debug)]
pub struct AccessSource {
    keyring: Keyring,
    tell: mpsc::Sender<Access>,
}

impl AccessSource {
    /// That of these keys.
    #[must_use]
    pub fn new(keyring: Keyring, tell: mpsc::Sender<Access>) -> Self {
        Self { keyring, tell }
    }

    /// Reads it again, and tells who answers handshakes, and through that the shards; what to say of it.
    ///
    /// # Errors
    /// Why all stays as it is.
    fn reload(&self) -> Result<String, String> {
        let access = self.keyring.reload().map_err(|error| error.to_string())?;
        let said = match access.identities().len() {
            1 => "access of 1 identity".to_owned(),
            count => format!("access of {count} identities"),
        };
        // Where nobody answers handshakes any more, nothing is served.
        let _ = self.tell.send(access);
        Ok(said)
    }
}

impl Hangup {
    /// Catches it from now on.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn catch() -> std::io::Result<Self> {
        let hangup = Self::default();
        signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::clone(&hangup.came))?;
        Ok(hangup)
    }

    /// The same, with what is read again, too.
    #[must_use]
    pub fn rereads(self, access: Option<AccessSource>) -> Self {
        Self { access: access.map(Arc::new), ..self }
    }

    /// Who has access, where that can be read again.
    pub(super) fn access(&self) -> Option<Arc<AccessSource>> {
        self.access.clone()
    }

    /// Whether it came since this was asked last.
    pub(super) fn take(&self) -> bool {
        // Only a flag: it orders nothing but itself.
        self.came.swap(false, Ordering::Relaxed)
    }
}

/// A profile read again.
#[derive(Debug)]
pub(super) struct Reloaded {
    /// The profile in force: the old one with the new values of the keys that can change.
    pub(super) profile: Profile,
    /// What becomes of the interval log.
    pub(super) log: LogChange,
    /// What to tell.
    pub(super) said: String,
}

/// What becomes of the interval log.
#[derive(Debug)]
pub(super) enum LogChange {
    /// It goes on, or there is none.
    Stays,
    /// Another one begins.
    Begins(IntervalLog),
    /// None is wanted any more.
    Ends,
}

/// Reads the profile in force again, from where it was read. It may wait for a disk, so it is for a thread of its
/// own. An interval log in the same directory goes on, unless writing it had ended.
///
/// # Errors
/// Why all stays as it is.
pub(super) fn reload(
    serving: &Profile,
    writes_log: bool,
    access: Option<&AccessSource>,
) -> Result<Reloaded, String> {
    // Whatever the profile is like: who is shut out is out.
    let access = access.map(AccessSource::reload);
    let read = reload_profile(serving, writes_log);
    match access {
        None => read,
        Some(Ok(what)) => {
            read.map(|read| read.and_said(&what)).map_err(|why| format!("{why}; but {what} is"))
        }
        Some(Err(why)) => {
            let stays = format!("access stays as it was: {why}");
            read.map(|read| read.and_said(&stays)).map_err(|why| format!("{why}; {stays}"))
        }
    }
}

fn reload_profile(serving: &Profile, writes_log: bool) -> Result<Reloaded, String> {
    let new = profile::load_again(serving).map_err(|error| error.to_string())?;
    let dir = &new.metrics.dir;
    let is_same = *dir == serving.metrics.dir;
    let log = match dir.as_str() {
        "" if is_same => LogChange::Stays,
        "" => LogChange::Ends,
        _ if is_same && writes_log => LogChange::Stays,
        dir => LogChange::Begins(open(&new, dir)?),
    };
    let (live, restart): (Vec<String>, Vec<String>) =
        serving.differences(&new).into_iter().partition(|key| LIVE.contains(&key.as_str()));
    let mut said = match live.as_slice() {
        [] => "reloaded: nothing changed".to_owned(),
        keys => format!("reloaded: {}", keys.join(", ")),
    };
    if let LogChange::Begins(log) = &log {
        said.push_str(&format!("; interval logs go on in {}", log.dir().display()));
    }
    if !restart.is_empty() {
        said.push_str(&format!("; needs a restart: {}", restart.join(", ")));
    }
    Ok(Reloaded { profile: merged(serving, &new), log, said })
}

impl Reloaded {
    fn and_said(mut self, what: &str) -> Self {
        self.said.push_str("; ");
        self.said.push_str(what);
        self
    }
}

fn open(new: &Profile, dir: &str) -> Result<IntervalLog, String> {
    IntervalLog::open(Path::new(dir)).map_err(|error| {
        let place = new.source.place("metrics.dir");
        format!("{place}: metrics.dir: {dir}: {error}; choose a directory that can be written")
    })
}

/// What is in force after a reload. What needs a restart stays, so that the next reload names it again.
fn merged(serving: &Profile, new: &Profile) -> Profile {
    let mut profile = serving.clone();
    profile.limits.turn_us = new.limits.turn_us;
    profile.limits.watchdog_ms = new.limits.watchdog_ms;
    profile.metrics.stages = new.metrics.stages;
    profile.metrics.dir.clone_from(&new.metrics.dir);
    profile
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn profile(dir: &Path, text: &str) -> Profile {
        let path = dir.join("x.toml");
        fs::write(&path, text).expect("written");
        profile::load(&path.display().to_string(), &["instance=reload".into()]).expect("a profile")
    }

    /// Who is shut out is out, whatever the profile is like; and the other way round.
    #[test]
    fn access_and_profile_are_read_each_by_itself() {
        let dir = tempfile::tempdir().expect("a directory");
        let serving = profile(dir.path(), "[limits]\nturn_us = 500\n");
        let keys = dir.path().join("keys");
        let (keyring, _) = Keyring::open_or_make(&keys).expect("keys");
        let (tell, told) = mpsc::channel();
        let source = AccessSource::new(keyring, tell);
        let again = |serving| reload(serving, true, Some(&source));
        let said = again(&serving).expect("both").said;
        assert_eq!(said, "reloaded: nothing changed; access of 1 identity");
        fs::write(dir.path().join("x.toml"), "[limits]\nturn_us = \"soon\"\n").expect("written");
        let why = again(&serving).expect_err("a wrong profile");
        assert!(why.ends_with("; but access of 1 identity is"), "{why}");
        assert_eq!(told.try_iter().count(), 2);
        fs::write(dir.path().join("x.toml"), "[limits]\nturn_us = 500\n").expect("written");
        fs::write(keys.join("access.toml"), "[[identity]]\n").expect("written");
        let said = again(&serving).expect("the profile").said;
        assert!(
            said.contains("; access stays as it was: ") && said.contains("access.toml:"),
            "{said}"
        );
        assert_eq!(told.try_iter().count(), 0);
    }

    #[test]
    fn live_keys_change_and_the_others_are_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let serving = profile(dir.path(), "[limits]\nturn_us = 500\n");
        let unchanged = reload(&serving, true, None).expect("the same");
        assert_eq!(unchanged.said, "reloaded: nothing changed");
        let metrics = dir.path().join("metrics").display().to_string();
        let text = format!(
            "[limits]\nturn_us = 9\nwindow_messages = 5\n[metrics]\nstages = false\ndir = \"{metrics}\"\n\
             [disk]\nqueue_depth = 2\n"
        );
        profile(dir.path(), &text);
        let reloaded = reload(&serving, true, None).expect("a profile");
        assert!(
            reloaded
                .said
                .starts_with("reloaded: limits.turn_us, metrics.dir, metrics.stages; interval"),
            "{}",
            reloaded.said
        );
        let restart = "; needs a restart: disk.queue_depth, limits.window_messages";
        assert!(reloaded.said.ends_with(restart), "{}", reloaded.said);
        assert_eq!((reloaded.profile.limits.turn_us, reloaded.profile.disk.queue_depth), (9, 8));
        assert_eq!(reloaded.profile.instance, "reload", "--set counts again");
        assert!(reload(&reloaded.profile, true, None).expect("again").said.ends_with(restart));
        assert!(merged(&serving, &reloaded.profile) == reloaded.profile);
    }

    #[test]
    fn an_interval_log_goes_on_unless_its_directory_changes_or_it_had_ended() {
        let dir = tempfile::tempdir().expect("a directory");
        let with = |metrics: &str| {
            let metrics = dir.path().join(metrics).display().to_string();
            profile(dir.path(), &format!("[metrics]\ndir = \"{metrics}\"\n"))
        };
        let serving = with("a");
        let log = |writes| reload(&serving, writes, None).expect("a profile").log;
        assert!(matches!(log(true), LogChange::Stays));
        assert!(matches!(log(false), LogChange::Begins(_)));
        with("b");
        assert!(matches!(log(true), LogChange::Begins(_)));
        profile(dir.path(), "[limits]\nturn_us = 5\n");
        assert!(matches!(log(true), LogChange::Ends));
    }

    #[test]
    fn only_a_file_that_holds_something_is_read_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let serving = profile(dir.path(), "[limits]\nturn_us = 500\n");
        let path = dir.path().join("x.toml");
        fs::write(&path, "").expect("written");
        assert!(reload(&serving, true, None).expect_err("empty").contains("x.toml: it is empty"));
        fs::remove_file(&path).expect("removed");
        // What a pipe, standard input or a socket is: no file.
        std::os::unix::net::UnixListener::bind(&path).expect("a socket");
        let said = reload(&serving, true, None).expect_err("no file");
        assert!(said.contains("it is no file, so it cannot be read again"), "{said}");
    }

    #[test]
    fn a_broken_profile_changes_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let serving = profile(dir.path(), "[limits]\nturn_us = 500\n");
        fs::write(dir.path().join("x.toml"), "[limits]\nturn_us = 0\n").expect("written");
        let said = reload(&serving, true, None).expect_err("out of range");
        assert!(said.contains("x.toml:2: limits.turn_us is 0"), "{said}");
        fs::write(dir.path().join("x.toml"), "[metrics]\ndir = \"/proc/no\"\n").expect("written");
        assert!(reload(&serving, true, None).expect_err("not a place").contains("can be written"));
    }
}
