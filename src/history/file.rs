//! Histories as files.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::{Entry, Fact, HISTORY_VERSION, Sink};

/// What the monotonic clock of the host reads: the same one for all processes of a boot.
fn host_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = Duration::from_secs(u64::try_from(now.tv_sec).unwrap_or(0));
    let nanos = Duration::from_nanos(u64::try_from(now.tv_nsec).unwrap_or(0));
    u64::try_from(seconds.saturating_add(nanos).as_nanos()).unwrap_or(u64::MAX)
}

/// A history that goes into a file of its own.
#[derive(Debug)]
pub(crate) struct HistoryFile {
    path: PathBuf,
    out: BufWriter<File>,
    /// The first thing that went wrong; nothing is written behind it.
    failed: Option<io::Error>,
}

impl HistoryFile {
    /// Makes the file, which must not be there: a history is of one client, from its beginning on.
    ///
    /// # Errors
    /// Why it cannot be made.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        let out = BufWriter::new(file);
        let mut history = Self { path: path.to_owned(), out, failed: None };
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        history.note(Fact::Begin {
            history: HISTORY_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            boot: boot.trim().to_owned(),
            pid: std::process::id(),
        });
        Ok(history)
    }
}

impl Sink for HistoryFile {
    fn note(&mut self, fact: Fact) {
        let entry = Entry { ns: host_ns(), fact };
        if self.failed.is_some() {
            return;
        }
        let written = serde_json::to_writer(&mut self.out, &entry)
            .map_err(io::Error::from)
            .and_then(|()| self.out.write_all(b"\n"));
        self.failed = written.err();
    }

    fn flush(&mut self) -> Result<(), String> {
        let flushed = match &self.failed {
            None => self.out.flush(),
            Some(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        flushed.map_err(|error| {
            format!("{}: the history cannot be written: {error}", self.path.display())
        })
    }
}

/// The entries of a history. A last line that is cut off is that of a process that was killed, and left out.
///
/// # Errors
/// The line that is none, by its number, or why the file cannot be read.
pub(crate) fn read(path: &Path) -> Result<Vec<Entry>, String> {
    let say = |what: String| format!("{}: {what}", path.display());
    let file = File::open(path).map_err(|error| say(error.to_string()))?;
    let mut reader = BufReader::new(file);
    let (mut entries, mut line) = (Vec::new(), Vec::new());
    loop {
        line.clear();
        let count = reader.read_until(b'\n', &mut line).map_err(|error| say(error.to_string()))?;
        if count == 0 || line.last() != Some(&b'\n') {
            break;
        }
        let number = entries.len() + 1;
        let entry: Entry = serde_json::from_slice(&line)
            .map_err(|error| say(format!("line {number} is none of a history: {error}")))?;
        check_order(&entries, &entry).map_err(|what| say(format!("line {number}: {what}")))?;
        entries.push(entry);
    }
    if entries.is_empty() {
        return Err(say("it holds no history".to_owned()));
    }
    Ok(entries)
}

fn check_order(before: &[Entry], entry: &Entry) -> Result<(), String> {
    match (&entry.fact, before.last()) {
        (Fact::Begin { history: HISTORY_VERSION, .. }, None) => Ok(()),
        (Fact::Begin { history, .. }, None) => {
            Err(format!("it is of version {history}, and this program reads {HISTORY_VERSION}"))
        }
        (_, None) => Err("a history begins with `begin`".to_owned()),
        (Fact::Begin { .. }, Some(_)) => Err("a second history begins".to_owned()),
        (_, Some(Entry { fact: Fact::End, .. })) => Err("something behind the end".to_owned()),
        (_, Some(last)) if entry.ns < last.ns => {
            Err("it is earlier than the line before".to_owned())
        }
        (_, Some(_)) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Payload;

    fn offer(producer_seq: u64) -> Fact {
        Fact::Offer { stream: 1, producer: 7, producer_seq, payload: Payload::of(b"payload") }
    }

    #[test]
    fn what_is_written_is_read_and_what_was_cut_off_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history");
        let mut history = HistoryFile::create(&path).unwrap();
        for seq in 1..4 {
            history.note(offer(seq));
        }
        history.flush().unwrap();
        let entries = read(&path).unwrap();
        let facts: Vec<&Fact> = entries.iter().skip(1).map(|entry| &entry.fact).collect();
        assert_eq!(facts, [&offer(1), &offer(2), &offer(3)]);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
        assert_eq!(read(&path).unwrap().len(), 3);
        assert!(HistoryFile::create(&path).is_err(), "one that is there is kept");
    }

    #[test]
    fn what_is_no_history_is_refused_by_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history");
        let begin = r#"{"ns":5,"did":"begin","history":1,"version":"0","boot":"b","pid":1}"#;
        let refused = |lines: &str| {
            std::fs::write(&path, lines).unwrap();
            read(&path).unwrap_err()
        };
        for (lines, says) in [
            (String::new(), "it holds no history"),
            ("no\n".to_owned(), "line 1 is none of a history"),
            ("{\"ns\":1,\"did\":\"end\"}\n".to_owned(), "line 1: a history begins with"),
            (begin.replace(":1,\"version", ":9,\"version") + "\n", "it is of version 9"),
            (format!("{begin}\n{begin}\n"), "line 2: a second history"),
            (format!("{begin}\n{{\"ns\":4,\"did\":\"end\"}}\n"), "line 2: it is earlier"),
            (format!("{begin}\n{{\"ns\":6,\"did\":\"gone\"}}\n"), "line 2 is none of a history"),
        ] {
            let refused = refused(&lines);
            assert!(refused.contains(says), "{refused}");
        }
    }

    #[test]
    fn a_disk_that_is_full_is_said() {
        let mut history = HistoryFile::create_in_full_device();
        for seq in 0..10_000 {
            history.note(offer(seq));
        }
        assert!(history.flush().unwrap_err().contains("cannot be written"));
    }

    impl HistoryFile {
        fn create_in_full_device() -> Self {
            let file = OpenOptions::new().write(true).open("/dev/full").unwrap();
            Self { path: "/dev/full".into(), out: BufWriter::new(file), failed: None }
        }
    }
}
