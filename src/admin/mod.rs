//! Housekeeping: what the shards report, kept and shown, off their cores.
//!
//! One thread takes the shards' snapshots, writes interval logs, answers HTTP on a loopback address and a
//! unix socket, and ends the process when a shard makes no turn any more.
#![allow(
    clippy::disallowed_types,
    reason = "the lock is between the tasks of this one thread, never a shard's"
)]

mod hlog;
mod http;
mod prometheus;
pub mod state;
mod watchdog;

use std::fs;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::metrics::snapshot::Collector;
use crate::profile::{Profile, ProfileError, runtime};

use hlog::IntervalLog;
use state::{ShardFacts, State};
use watchdog::Watchdog;

/// Between two looks at the shards.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Where a request for the state comes in.
#[derive(Debug)]
pub struct Listeners {
    http: Option<TcpListener>,
    socket: Option<UnixListener>,
    path: PathBuf,
    /// Why the socket is not ours.
    pub warning: Option<String>,
    log: Option<IntervalLog>,
    watchdog_ms: u64,
}

/// A shard as housekeeping sees it.
#[derive(Debug)]
pub struct Watched {
    /// Its snapshots.
    pub collector: Collector,
    /// Moves while it makes turns.
    pub beat: Arc<AtomicU64>,
    /// Whether it is to make turns: not while it opens its log.
    pub turns: Arc<AtomicBool>,
    /// What does not change while it serves, each time it begins to.
    pub facts: Receiver<ShardFacts>,
}

/// The path of an appliance's socket; `None` when its profile wants none.
///
/// # Errors
/// When there is no runtime directory to have it in.
pub fn socket_path(profile: &Profile) -> Result<Option<PathBuf>, ProfileError> {
    match profile.metrics.socket.as_str() {
        "off" => Ok(None),
        "" => Ok(Some(runtime::directory()?.join(format!("admin-{}.sock", profile.instance)))),
        path => Ok(Some(PathBuf::from(path))),
    }
}

impl Listeners {
    /// Opens what a profile asks for. A unix socket that another appliance answers on stays its own.
    ///
    /// # Errors
    /// What cannot be opened, and how to mend it.
    pub fn open(profile: &Profile) -> Result<Self, ProfileError> {
        let metrics = &profile.metrics;
        let failed = |key: &str, what: &str, error: &io::Error, mend: &str| {
            let place = profile.source.place(key);
            ProfileError::Host(format!("{place}: {key}: {what}: {error}; {mend}"))
        };
        let http = match metrics.http.parse::<SocketAddr>() {
            Ok(address) => Some(TcpListener::bind(address).map_err(|error| {
                failed("metrics.http", &metrics.http, &error, "choose a free address and port")
            })?),
            Err(_) => None,
        };
        let log = match metrics.dir.as_str() {
            "" => None,
            dir => Some(IntervalLog::open(Path::new(dir)).map_err(|error| {
                failed("metrics.dir", dir, &error, "choose a directory that can be written")
            })?),
        };
        let mut warning = None;
        let (mut socket, mut path) = (None, PathBuf::new());
        if let Some(wanted) = socket_path(profile)? {
            if UnixStream::connect(&wanted).is_ok() {
                warning = Some(format!(
                    "{}: another appliance answers there; `buslane stat` shows that one; give this one \
                     another `instance`, or metrics.socket",
                    wanted.display()
                ));
            } else {
                // What an appliance that was killed left behind.
                let _ = fs::remove_file(&wanted);
                let text = wanted.display().to_string();
                socket = Some(UnixListener::bind(&wanted).map_err(|error| {
                    failed("metrics.socket", &text, &error, "choose another path, or \"off\"")
                })?);
                path = wanted;
            }
        }
        Ok(Self { http, socket, path, warning, log, watchdog_ms: profile.limits.watchdog_ms })
    }

    /// Does the housekeeping of `shards` until the process ends. For a thread of its own.
    ///
    /// # Errors
    /// When the operating system gives no event loop.
    pub fn run(self, shards: Vec<Watched>) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let state = Arc::new(Mutex::new(State::new(shards.len())));
        let Self { http, socket, log, watchdog_ms, .. } = self;
        runtime.block_on(async move {
            if let Some(http) = http {
                http.set_nonblocking(true)?;
                let listener = tokio::net::TcpListener::from_std(http)?;
                let app = http::app(Arc::clone(&state));
                tokio::spawn(async move { axum::serve(listener, app).await });
            }
            if let Some(socket) = socket {
                socket.set_nonblocking(true)?;
                let listener = tokio::net::UnixListener::from_std(socket)?;
                let app = http::app(Arc::clone(&state));
                tokio::spawn(async move { axum::serve(listener, app).await });
            }
            keep_house(&state, shards, log, watchdog_ms).await;
            Ok(())
        })
    }

    /// The unix socket, to be removed when the process ends in order.
    #[must_use]
    pub fn socket_file(&self) -> Option<SocketFile> {
        self.socket.as_ref().map(|_| SocketFile(self.path.clone()))
    }
}

/// Removes the socket when it is dropped.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

async fn keep_house(
    state: &Mutex<State>,
    mut shards: Vec<Watched>,
    mut log: Option<IntervalLog>,
    watchdog_ms: u64,
) {
    let mut watchdog = Watchdog::new(shards.len(), watchdog_ms);
    let start = tokio::time::Instant::now();
    let mut every = tokio::time::interval(LOOK_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let now_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        for (index, shard) in shards.iter_mut().enumerate() {
            while let Some(snapshot) = shard.collector.take() {
                if let Some(file) = &mut log
                    && let Err(error) = file.write(index, &snapshot)
                {
                    say(&format!(
                        "warning: {}: {error}; no more is written",
                        file.path().display()
                    ));
                    log = None;
                }
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(old) = state.take_in(index, snapshot) {
                    shard.collector.give_back(old);
                }
            }
            // Both are signs of life: they order nothing else.
            let turns = shard.turns.load(Ordering::Relaxed);
            let beat = turns.then(|| shard.beat.load(Ordering::Relaxed));
            let alive = watchdog.is_alive(index, beat, now_ms);
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            while let Ok(facts) = shard.facts.try_recv() {
                state.note_facts(index, facts);
            }
            state.note_beat(index, turns, watchdog.silent_ms(index, now_ms));
            if !alive {
                say(&format!(
                    "error: shard {index} made no turn for {watchdog_ms} ms (limits.watchdog_ms); the process \
                     ends, and recovery is its restart"
                ));
                std::process::abort();
            }
        }
    }
}

fn say(what: &str) {
    // Where stderr is closed there is nobody to tell.
    let _ = writeln!(io::stderr(), "{what}");
}
