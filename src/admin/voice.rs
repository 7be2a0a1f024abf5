//! What is said on stderr while an appliance serves: through a queue, by a thread of its own.
//!
//! Whoever reads stderr may stop to, and a full pipe holds whoever writes to it. So no thread that serves,
//! watches or answers ever writes: it leaves a line in the queue and goes on. What there is no room for is
//! counted, and the count is said as soon as somebody reads again.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::Builder;
use std::time::Duration;

use crate::limits::VOICE_LINES_MAX;
use crate::printable::printable;

/// How long a process that ends waits for its last words to be written.
pub const LAST_WORDS: Duration = Duration::from_secs(1);

/// The one of this process; stderr is one too.
static VOICE: OnceLock<Voice> = OnceLock::new();

/// Starts the thread that writes to stderr. Call it before the calling thread is pinned.
///
/// # Errors
/// When the operating system gives no thread.
pub fn start() -> io::Result<()> {
    if VOICE.get().is_none() {
        let _ = VOICE.set(Voice::start(io::stderr())?);
    }
    Ok(())
}

/// Says a line, and waits for nobody. What of it would be a command to a terminal is shown instead. Where no thread was started, it is written at once.
pub fn say(line: &str) {
    match VOICE.get() {
        Some(voice) => voice.say(line),
        // Where stderr is closed there is nobody to tell.
        None => drop(writeln!(io::stderr(), "{}", printable(line))),
    }
}

/// Waits until everything said before is written, but no longer than [`LAST_WORDS`]; whether it is.
pub fn flush() -> bool {
    VOICE.get().is_none_or(|voice| voice.flush(LAST_WORDS))
}

enum Output {
    Line(String),
    /// Everything before it is written.
    Reached(SyncSender<()>),
}

struct Voice {
    words: SyncSender<Output>,
    /// Lines there was no room for, and that nobody was told of yet.
    dropped: &'static AtomicU64,
}

impl Voice {
    fn start(to: impl Write + Send + 'static) -> io::Result<Self> {
        let (words, queue) = sync_channel(VOICE_LINES_MAX);
        // One for each voice, and a process has one.
        let dropped: &'static AtomicU64 = Box::leak(Box::default());
        Builder::new().name("buslane-voice".into()).spawn(move || write(to, &queue, dropped))?;
        Ok(Self { words, dropped })
    }

    fn say(&self, line: &str) {
        if let Err(TrySendError::Full(_)) = self.words.try_send(Output::Line(line.to_owned())) {
            // Only a count: it orders nothing.
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self, patience: Duration) -> bool {
        let (reached, wait) = sync_channel(1);
        if self.words.try_send(Output::Reached(reached)).is_err() {
            // Full: nobody reads.
            return false;
        }
        match wait.recv_timeout(patience) {
            Ok(()) => true,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => false,
        }
    }
}

/// Until the process ends.
fn write(mut to: impl Write, queue: &Receiver<Output>, dropped: &AtomicU64) {
    for word in queue {
        // Where stderr is closed there is nobody to tell.
        match word {
            Output::Line(line) => drop(to.write_all(format!("{}\n", printable(&line)).as_bytes())),
            Output::Reached(reached) => drop(reached.try_send(())),
        }
        let count = dropped.swap(0, Ordering::Relaxed);
        if count > 0 {
            let lost = format!("warning: {count} lines are missing here: nobody read stderr\n");
            let _ = to.write_all(lost.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;

    #[test]
    fn a_pipe_that_nobody_reads_holds_nobody() {
        let (reader, writer) = io::pipe().expect("a pipe");
        let voice = Voice::start(writer).expect("a thread");
        voice.say("first");
        assert!(voice.flush(Duration::from_secs(20)), "there is room for it");
        let long = "x".repeat(1 << 10);
        // A pipe holds 64 KiB, and one line waits for room in it.
        (0..1_000).for_each(|_| voice.say(&long));
        assert!(!voice.flush(Duration::from_millis(20)), "nobody reads");
        let mut lines = BufReader::new(reader).lines().map(|line| line.expect("text"));
        assert_eq!(lines.next().as_deref(), Some("first"));
        let lost = lines.find(|line| line != &long).expect("it is said how many are missing");
        let missing =
            lost.strip_prefix("warning: ").and_then(|text| text.split_once(" lines are missing"));
        let missing: usize = missing.expect("a warning").0.parse().expect("a number");
        assert!((1_000 - VOICE_LINES_MAX - 65..1_000).contains(&missing), "{lost}");
        // The queue may be full still when it is said first.
        voice.say("last");
        let is_last = |line: String| {
            voice.say("last");
            line == "last"
        };
        assert!(lines.any(is_last), "somebody reads again");
    }

    #[test]
    fn a_closed_stderr_is_no_reason_to_stop() {
        let (reader, writer) = io::pipe().expect("a pipe");
        drop(reader);
        let voice = Voice::start(writer).expect("a thread");
        voice.say("nobody hears");
        assert!(voice.flush(Duration::from_secs(20)), "and it goes on");
    }
}
