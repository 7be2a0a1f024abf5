//! Interval logs: HdrHistogram's text format (version 1.3), a line a stage and interval.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::metrics::latency::{hlog_lines, write_hlog_header};
use crate::metrics::snapshot::Snapshot;
use crate::metrics::stages::Stage;

/// A file that is larger gives way to the next.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Files kept; the oldest goes when there would be more.
const FILES_KEPT: usize = 16;

/// The file that is being written.
#[derive(Debug)]
pub(super) struct IntervalLog {
    dir: PathBuf,
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl IntervalLog {
    /// Starts a file in a directory, which is made if need be.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let (path, file) = start(dir)?;
        Ok(Self { dir: dir.to_owned(), path, file, bytes: 0 })
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a snapshot of a shard: one line for each stage that has something.
    pub(super) fn write(&mut self, shard: usize, snapshot: &Snapshot) -> io::Result<()> {
        if self.bytes > FILE_BYTES_MAX {
            (self.path, self.file) = start(&self.dir)?;
            self.bytes = 0;
        }
        let begin = UNIX_EPOCH + Duration::from_nanos(snapshot.begin_unix_ns);
        let lasted = snapshot.end_unix_ns.saturating_sub(snapshot.begin_unix_ns);
        let names = Stage::ALL.map(|stage| format!("shard{shard}.{}", stage.name()));
        let tagged: Vec<_> = Stage::ALL
            .iter()
            .zip(&names)
            .map(|(&stage, name)| (name.as_str(), snapshot.stages.get(stage)))
            .filter(|(_, histogram)| histogram.count() > 0)
            .collect();
        let lines = hlog_lines(begin, Duration::from_nanos(lasted), &tagged)?;
        self.bytes += lines.len() as u64;
        self.file.write_all(&lines)
    }
}

#[allow(clippy::disallowed_methods, reason = "names of files are wall time")]
fn start(dir: &Path) -> io::Result<(PathBuf, File)> {
    let now = SystemTime::now();
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut names: Vec<_> = fs::read_dir(dir)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("stages-") && name.ends_with(".hlog"))
        .collect();
    names.sort_unstable();
    for name in names.iter().take((names.len() + 1).saturating_sub(FILES_KEPT)) {
        fs::remove_file(dir.join(name))?;
    }
    // Ten digits of seconds sort as they count until the year 2286.
    let path = (0..)
        .map(|number| dir.join(format!("stages-{seconds:010}-{number}.hlog")))
        .find(|path| !path.exists())
        .expect("there is a number nobody took");
    let mut file = OpenOptions::new().create_new(true).append(true).open(&path)?;
    let mut header = Vec::new();
    write_hlog_header(&mut header, now)?;
    file.write_all(&header)?;
    Ok((path, file))
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
            log.write(0, &snapshot).expect("written");
        }
        let text = fs::read(log.path()).expect("read");
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
    fn only_the_newest_files_are_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        for number in 0..40 {
            fs::write(dir.path().join(format!("stages-00000000{number:02}-0.hlog")), "")
                .expect("made");
        }
        fs::write(dir.path().join("other.hlog"), "").expect("made");
        let log = IntervalLog::open(dir.path()).expect("made");
        assert!(log.path().exists());
        let left = fs::read_dir(dir.path()).expect("read").count();
        assert_eq!(left, FILES_KEPT + 1, "and what is not ours");
    }
}
