//! Interval logs: HdrHistogram's text format (version 1.3), a line a stage and interval.
//!
//! They are written by a thread of their own: a disk that stands still holds that one, and neither an answer nor
//! the watchdog. What it cannot take is left out, and how much is said.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::Builder;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::voice;
use crate::limits::{
    INTERVAL_FILE_BYTES_MAX, INTERVAL_FILES_BYTES_MAX, INTERVAL_FILES_KEPT, INTERVALS_WAITING_MAX,
};
use crate::metrics::latency::{hlog_lines, write_hlog_header};
use crate::metrics::snapshot::Snapshot;
use crate::metrics::stages::Stage;

/// The directory, and the file in it that is being written.
#[derive(Debug)]
pub(super) struct IntervalLog {
    dir: PathBuf,
    /// There is none before there is something to write: an appliance that does not come up, again and again, leaves
    /// nothing and pushes nothing out.
    file: Option<Writing>,
}

#[derive(Debug)]
struct Writing {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl IntervalLog {
    /// Files will be made in a directory, which is made if need be.
    ///
    /// # Errors
    /// When none can be made there.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let probe = dir.join(format!(".stages-{}", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).open(&probe) {
            // One that was killed here before had the same number.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(_) | Err(_) => fs::remove_file(&probe)?,
        }
        Ok(Self { dir: dir.to_owned(), file: None })
    }

    /// The directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Lets a thread write it from now on.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub(super) fn write_beside(self) -> io::Result<IntervalWriter> {
        let (writer, queue) = IntervalWriter::new();
        let body = move || self.write_until_it_fails(&queue);
        Builder::new().name("buslane-hlog".into()).spawn(body)?;
        Ok(writer)
    }

    fn write_until_it_fails(mut self, queue: &Receiver<Vec<u8>>) {
        for lines in queue {
            if let Err(error) = self.write(&lines) {
                let path = self.file.as_ref().map_or(&self.dir, |writing| &writing.path).display();
                voice::say(&format!("warning: {path}: {error}; no more is written until SIGHUP"));
                return;
            }
        }
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let has_room = |writing: &mut Writing| writing.bytes <= INTERVAL_FILE_BYTES_MAX;
        let writing = match self.file.take_if(has_room) {
            Some(writing) => writing,
            None => start(&self.dir)?,
        };
        let writing = self.file.insert(writing);
        writing.bytes += lines.len() as u64;
        writing.file.write_all(lines)
    }
}

/// Interval logs, to whoever has the intervals.
#[derive(Debug)]
pub(super) struct IntervalWriter {
    lines: SyncSender<Vec<u8>>,
    /// Intervals that nobody wrote, and nobody was told of.
    missing: u64,
}

impl IntervalWriter {
    /// One, and what somebody has to write.
    fn new() -> (Self, Receiver<Vec<u8>>) {
        let (lines, queue) = sync_channel(INTERVALS_WAITING_MAX);
        (Self { lines, missing: 0 }, queue)
    }

    /// Has a snapshot of a shard written, one line for each stage that has something; `false` once nothing can be
    /// any more.
    pub(super) fn write(&mut self, shard: usize, snapshot: &Snapshot) -> bool {
        let Ok(lines) = lines_of(shard, snapshot) else { return true };
        match self.lines.try_send(lines) {
            Ok(()) if self.missing > 0 => {
                let missing = std::mem::take(&mut self.missing);
                voice::say(&format!(
                    "warning: metrics.dir: {missing} intervals were not written: its disk stood still"
                ));
                true
            }
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.missing += 1;
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }
}

fn lines_of(shard: usize, snapshot: &Snapshot) -> io::Result<Vec<u8>> {
    let begin = UNIX_EPOCH + Duration::from_nanos(snapshot.begin_unix_ns);
    let lasted = snapshot.end_unix_ns.saturating_sub(snapshot.begin_unix_ns);
    let names = Stage::ALL.map(|stage| format!("shard{shard}.{}", stage.name()));
    let tagged: Vec<_> = Stage::ALL
        .iter()
        .zip(&names)
        .map(|(&stage, name)| (name.as_str(), snapshot.stages.get(stage)))
        .filter(|(_, histogram)| histogram.count() > 0)
        .collect();
    hlog_lines(begin, Duration::from_nanos(lasted), &tagged)
}

#[allow(clippy::disallowed_methods, reason = "names of files are wall time")]
fn start(dir: &Path) -> io::Result<Writing> {
    let now = SystemTime::now();
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    // Ten digits of seconds sort as they count until the year 2286.
    let path = (0..)
        .map(|number| dir.join(format!("stages-{seconds:010}-{number}.hlog")))
        .find(|path| !path.exists())
        .expect("there is a number nobody took");
    let mut file = OpenOptions::new().create_new(true).append(true).open(&path)?;
    let mut header = Vec::new();
    write_hlog_header(&mut header, now)?;
    file.write_all(&header)?;
    forget_oldest(dir)?;
    Ok(Writing { path, file, bytes: 0 })
}

/// Removes the oldest files until those that are left are few and small enough.
fn forget_oldest(dir: &Path) -> io::Result<()> {
    let mut files: Vec<_> = fs::read_dir(dir)?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.file_name().into_string().ok()?, entry.metadata().ok()?.len()))
        })
        .filter(|(name, _)| name.starts_with("stages-") && name.ends_with(".hlog"))
        .collect();
    files.sort_unstable();
    let mut bytes = 0u64;
    for (newer, (name, own)) in files.iter().rev().enumerate() {
        bytes = bytes.saturating_add(*own);
        if newer >= INTERVAL_FILES_KEPT || bytes > INTERVAL_FILES_BYTES_MAX {
            fs::remove_file(dir.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::stages::BatchTimes;

    #[test]
    fn intervals_are_read_back_by_the_format_s_own_reader() {
        use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

        let dir = tempfile::tempdir().expect("a directory");
        let mut log = IntervalLog::open(dir.path()).expect("made");
        let mut snapshot = Snapshot::new();
        for second in 0..3u64 {
            snapshot.begin_unix_ns = (1_700_000_000 + second) * 1_000_000_000;
            snapshot.end_unix_ns = snapshot.begin_unix_ns + 1_000_000_000;
            let batch = BatchTimes { messages: 2, durable_ns: 500, ..BatchTimes::default() };
            snapshot.stages.record(&batch, 900 + second);
            log.write(&lines_of(0, &snapshot).expect("formatted")).expect("written");
        }
        let text = fs::read(&log.file.expect("begun").path).expect("read");
        let entries: Vec<_> =
            IntervalLogIterator::new(&text).map(|entry| entry.expect("an entry")).collect();
        let tags: Vec<_> = entries
            .iter()
            .filter_map(|entry| match entry {
                LogEntry::Interval(interval) => Some(interval.tag().expect("tagged").as_str()),
                LogEntry::StartTime(_) | LogEntry::BaseTime(_) => None,
            })
            .collect();
        assert_eq!(tags.len(), 15);
        assert_eq!((tags[0], tags[4]), ("shard0.receive_append", "shard0.whole"));
    }

    #[test]
    fn many_starts_do_not_push_out_what_was_measured_and_much_data_does() {
        let dir = tempfile::tempdir().expect("a directory");
        let make = |number: u64, bytes| {
            let name = dir.path().join(format!("stages-00000{number:05}-0.hlog"));
            File::create(name).expect("made").set_len(bytes).expect("sized");
        };
        (0..40).for_each(|number| make(number, 1_000));
        fs::write(dir.path().join("other.hlog"), "").expect("made");
        let left = || fs::read_dir(dir.path()).expect("read").count();
        IntervalLog::open(dir.path()).expect("made").write(b"").expect("written");
        assert_eq!(left(), 41, "nothing is made for nothing");
        let begin = || IntervalLog::open(dir.path()).expect("made").write(b"1").expect("written");
        begin();
        assert_eq!(left(), 42, "small ones stay");
        // Files with holes: they take no room.
        (100..140).for_each(|number| make(number, INTERVAL_FILE_BYTES_MAX));
        begin();
        let newest = usize::try_from(INTERVAL_FILES_BYTES_MAX / INTERVAL_FILE_BYTES_MAX).unwrap();
        assert_eq!(
            left(),
            (newest - 1) + 2 + 1,
            "the newest gigabyte, the two that are open, and what is not ours"
        );
    }

    #[test]
    fn so_many_files_are_kept_however_small() {
        let dir = tempfile::tempdir().expect("a directory");
        let name = |number| dir.path().join(format!("stages-00000{number:05}-0.hlog"));
        (0..INTERVAL_FILES_KEPT).for_each(|number| drop(File::create(name(number)).expect("made")));
        let mut log = IntervalLog::open(dir.path()).expect("made");
        assert!(name(0).exists(), "nothing is written yet");
        log.write(b"1").expect("written");
        assert_eq!(fs::read_dir(dir.path()).expect("read").count(), INTERVAL_FILES_KEPT);
        assert!(!name(0).exists() && name(1).exists(), "the oldest gave way to the new one");
    }

    #[test]
    fn a_disk_that_stands_still_holds_nobody() {
        let (mut writer, queue) = IntervalWriter::new();
        let snapshot = Snapshot::new();
        assert!(
            (0..INTERVALS_WAITING_MAX + 3).all(|_| writer.write(0, &snapshot)),
            "nobody takes them, and that is no error"
        );
        assert_eq!(writer.missing, 3);
        queue.try_iter().for_each(drop);
        assert!(writer.write(0, &snapshot) && writer.missing == 0, "it goes on");
        drop(queue);
        assert!(!writer.write(0, &snapshot), "it was given up");
    }
}
