//! What is left of a process that dies in disorder: the turns its shards made last, on stderr and in a file.
//!
//! The guard writes it before it aborts, and a panic on any thread does. It reads memory that the shards
//! only ever write, so a shard that stands still cannot hold it up; and it waits a bounded time for stderr, and
//! for the disk of the file, so that neither can.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::{Error, Write as _};
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::panic::PanicHookInfo;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread::Builder;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::voice;
use crate::cpu;
use crate::disk::is_transport_id;
use crate::metrics::recorder::{Recorder, Turn};
use crate::profile::{DiskDriver, Profile};

/// How long the file may take.
const FILE_TIME: Duration = Duration::from_secs(1);

/// Who writes a post-mortem, and where.
#[derive(Clone, Debug)]
pub(super) struct PostMortem {
    shards: Arc<[Arc<Recorder>]>,
    /// Directory of the file; `None` where only stderr is left.
    dir: Option<PathBuf>,
    instance: String,
    /// One is enough: what goes wrong after it is its consequence.
    is_written: Arc<AtomicBool>,
}

impl PostMortem {
    pub(super) fn new(profile: &Profile, shards: impl Iterator<Item = Arc<Recorder>>) -> Self {
        let instance = profile.instance.clone();
        Self {
            shards: shards.collect(),
            dir: directory(profile),
            instance,
            is_written: Arc::default(),
        }
    }

    /// Writes one when any thread panics, after the message of the panic.
    pub(super) fn write_on_panic(&self) {
        let own = self.clone();
        std::panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
            // Captured where the environment asks for it, as the usual hook does.
            let trace = Backtrace::capture();
            let thread = std::thread::current();
            let name = thread.name().unwrap_or("unnamed");
            voice::say(&format!("thread '{name}' {info}"));
            if trace.status() == BacktraceStatus::Captured {
                voice::say(&trace.to_string());
            }
            own.write("a thread panicked");
        }));
    }

    /// Writes it, on stderr and in a file, or gives up soon.
    pub(super) fn write(&self, why: &str) {
        // Only a flag: it orders nothing but itself.
        if self.is_written.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = describe(&mut text, why, &self.shards, unix_ns());
        voice::say(text.trim_end());
        if let Some(dir) = &self.dir {
            let seconds = unix_ns() / 1_000_000_000;
            let name = format!("postmortem-{}-{seconds}-{}.txt", self.instance, std::process::id());
            let path = dir.join(name);
            let shown = path.display().to_string();
            match within(FILE_TIME, move || write_file(&path, &text)) {
                Some(Ok(())) => voice::say(&format!("post-mortem: {shown}")),
                Some(Err(error)) => {
                    voice::say(&format!("post-mortem: {shown}: {error}; it is above only"));
                }
                None => {
                    voice::say(&format!(
                        "post-mortem: {shown}: the disk stands still; it is above only"
                    ));
                    // What does not take a page does not take a core.
                    cpu::forbid_core_files();
                }
            }
        }
        voice::flush();
    }
}

/// What `work` returns, unless it takes longer: then its thread is left to itself.
fn within<T: Send + 'static>(
    time: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (done, wait) = sync_channel(1);
    let body = move || drop(done.try_send(work()));
    Builder::new().name("buslane-mortem".into()).spawn(body).ok()?;
    wait.recv_timeout(time).ok()
}

/// Beside the interval logs; without them beside the log, where that is a file.
fn directory(profile: &Profile) -> Option<PathBuf> {
    if !profile.metrics.dir.is_empty() {
        return Some(PathBuf::from(&profile.metrics.dir));
    }
    let path = &profile.disk.path;
    let is_file = profile.disk.driver == DiskDriver::Uring
        && !is_transport_id(path)
        && !path.starts_with("/dev/");
    let parent = Path::new(path).parent().filter(|_| is_file)?;
    Some(if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.to_owned() })
}

fn write_file(path: &Path, text: &str) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    OpenOptions::new().write(true).create_new(true).open(path)?.write_all(text.as_bytes())
}

#[allow(clippy::disallowed_methods, reason = "a time of death is wall time")]
fn unix_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

fn describe(
    text: &mut String,
    why: &str,
    shards: &[Arc<Recorder>],
    now_unix_ns: u64,
) -> Result<(), Error> {
    writeln!(text, "post-mortem of buslane {}: {why}", env!("CARGO_PKG_VERSION"))?;
    for (index, recorder) in shards.iter().enumerate() {
        let current = recorder.current();
        if current.number == 0 {
            writeln!(text, "shard {index}: made no turn")?;
            continue;
        }
        writeln!(text, "shard {index}: in its turn {}", current.number)?;
        let turns = recorder.turns();
        let stalls = recorder.stalls();
        describe_turns(text, "the turn it is in", &[current], now_unix_ns)?;
        describe_turns(text, "turns that took too long, the newest first", &stalls, now_unix_ns)?;
        describe_turns(text, "turns with work, the newest first", &turns, now_unix_ns)?;
    }
    Ok(())
}

fn describe_turns(
    text: &mut String,
    title: &str,
    turns: &[Turn],
    now_unix_ns: u64,
) -> Result<(), Error> {
    if turns.is_empty() {
        return writeln!(text, "  {title}: none");
    }
    writeln!(text, "  {title}:")?;
    writeln!(
        text,
        "  {:>14} {:>16} {:>12} {:>12} {:>12} {:>12} {:>6}",
        "TURN", "BEGAN (us ago)", "RECEIVED", "COMMITTED", "TRANSMITTED", "TOOK (us)", "WORK"
    )?;
    for turn in turns {
        let [received, committed, transmitted] = turn.marks_ns.map(micros);
        writeln!(
            text,
            "  {:>14} {:>16} {received:>12} {committed:>12} {transmitted:>12} {:>12} {:>6}",
            turn.number,
            micros(now_unix_ns.saturating_sub(turn.unix_ns)),
            micros(turn.took_ns),
            turn.work
        )?;
    }
    Ok(())
}

/// Microseconds; what did not happen is a dash.
fn micros(ns: u64) -> String {
    if ns == 0 { "-".into() } else { format!("{}.{:03}", ns / 1_000, ns % 1_000) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorder() -> Arc<Recorder> {
        let recorder = Recorder::new(1_000, true);
        let turn = Turn {
            number: 4_711,
            unix_ns: 1_000_000,
            marks_ns: [1_500, 0, 2_750],
            took_ns: 3_000,
            work: 5,
        };
        recorder.worked(&turn);
        recorder.stalled(&turn);
        recorder.begin(4_712, 1_004_000);
        Arc::new(recorder)
    }

    #[test]
    fn the_last_turns_are_told_once_with_their_marks() {
        let mut text = String::new();
        let shards = [recorder(), Arc::new(Recorder::new(1, true))];
        describe(&mut text, "it hangs", &shards, 2_000_000).expect("a String takes all");
        let line = ["4711", "1000.000", "1.500", "-", "2.750", "3.000", "5"];
        let is_line = |said: &&str| said.split_whitespace().eq(line);
        assert_eq!(text.lines().filter(is_line).count(), 2, "{text}");
        assert!(text.contains("shard 0: in its turn 4712\n"), "{text}");
        assert!(text.ends_with("shard 1: made no turn\n"), "{text}");
    }

    #[test]
    fn a_file_is_written_once_beside_the_interval_logs() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut profile = Profile::default();
        profile.metrics.dir = dir.path().join("metrics").display().to_string();
        let post_mortem = PostMortem::new(&profile, std::iter::once(recorder()));
        post_mortem.write("a test");
        post_mortem.write("its consequence");
        let files: Vec<_> = fs::read_dir(&profile.metrics.dir)
            .expect("made")
            .map(|file| file.expect("one"))
            .collect();
        assert_eq!(files.len(), 1);
        let text = fs::read_to_string(files[0].path()).expect("written");
        assert!(text.contains(": a test\n") && text.contains("4711"), "{text}");
    }

    #[test]
    fn what_takes_too_long_is_left_to_itself() {
        let (_held, wait) = sync_channel::<()>(0);
        assert_eq!(within(Duration::from_millis(20), move || wait.recv().is_err()), None);
        assert_eq!(within(Duration::from_secs(20), || 7), Some(7));
    }

    #[test]
    fn without_interval_logs_it_stands_beside_the_log() {
        let at = |path: &str| {
            let mut profile = Profile::default();
            path.clone_into(&mut profile.disk.path);
            directory(&profile)
        };
        assert_eq!(at("data/log"), Some("data".into()));
        assert_eq!(at("log"), Some(".".into()));
        assert_eq!(at("/dev/nvme0n1"), None);
    }
}
