//! Being told to stop, and seeing to it that the process does.
//!
//! SIGTERM or SIGINT sets a flag, and everything that takes long looks at it. What looks at nothing any more (a
//! device that does not answer, a file system that stands still) is given a time, and then the process ends as it is:
//! what was acknowledged is on media, and the next start recovers the rest.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use super::{DRAIN_NS, LaunchError};
use crate::admin::voice;

/// Between two looks at the flags.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A start that was told to stop is over by then: nothing was acknowledged in it.
const START_LOOKS: u32 = 20;

/// A log that is drained, or given up, is closed by then.
const CLOSE_NS: u64 = 2_000_000_000;

/// Signals that come together are one: `timeout` signals its child and then the group the child is in, as a terminal and
/// a supervisor do at once.
const TOGETHER: Duration = Duration::from_millis(500);

/// A flag that the first SIGTERM or SIGINT sets; one that comes a while later ends the process.
///
/// # Errors
/// What the operating system said.
pub fn catch_signals() -> Result<Arc<AtomicBool>, LaunchError> {
    // Only flags: they order nothing but themselves.
    let (stop, again) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (mut told, teller) = UnixStream::pair().map_err(LaunchError::Signals)?;
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&again))
            .map_err(LaunchError::Signals)?;
        signal_hook::flag::register(signal, Arc::clone(&stop)).map_err(LaunchError::Signals)?;
        let teller = teller.try_clone().map_err(LaunchError::Signals)?;
        signal_hook::low_level::pipe::register(signal, teller).map_err(LaunchError::Signals)?;
    }
    let body = move || {
        if told.read_exact(&mut [0]).is_ok() {
            std::thread::park_timeout(TOGETHER);
            again.store(true, Ordering::Relaxed);
        }
    };
    Builder::new().name("signals".into()).spawn(body).map_err(LaunchError::Signals)?;
    Ok(stop)
}

/// Ends the process when it was told to stop and does not; until this is dropped. All flags are only that: they
/// order nothing but themselves.
pub(super) struct LastResort {
    serves: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl LastResort {
    /// Begins to look at `stop`. Before the calling thread is pinned.
    pub(super) fn watch(stop: &Arc<AtomicBool>) -> Result<Self, LaunchError> {
        let (serves, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (stop, is_over, serving) = (Arc::clone(stop), Arc::clone(&over), Arc::clone(&serves));
        let body = move || {
            let mut looks = 0;
            while !is_over.load(Ordering::Relaxed) {
                if stop.load(Ordering::Relaxed) {
                    looks += 1;
                }
                if looks > looks_max(serving.load(Ordering::Relaxed)) {
                    end(serving.load(Ordering::Relaxed));
                }
                std::thread::park_timeout(LOOK_EVERY);
            }
        };
        let thread = Builder::new().name("buslane-stop".into()).spawn(body);
        Ok(Self { serves, over, thread: Some(thread.map_err(LaunchError::Thread)?) })
    }

    /// From now on there is something to finish.
    pub(super) fn note_serving(&self) {
        self.serves.store(true, Ordering::Relaxed);
    }
}

impl Drop for LastResort {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

fn looks_max(serves: bool) -> u32 {
    let serving = Duration::from_nanos(DRAIN_NS + CLOSE_NS).as_millis() / LOOK_EVERY.as_millis();
    if serves { u32::try_from(serving).expect("seconds") } else { START_LOOKS }
}

fn end(served: bool) {
    let what = if served {
        "error: the disk has not finished what it was given, and the process ends without it: what was acknowledged \
         is on media, and the next start recovers the log"
    } else {
        "error: stopped while the log was opened, as it was told; nothing was acknowledged"
    };
    voice::say(what);
    voice::flush();
    signal_hook::low_level::exit(1);
}
