//! Housekeeping: what the shards report, kept and shown, off their cores.
//!
//! Each thing that may have to wait has a thread of its own, so that none holds another, and none a shard: one
//! takes the shards' snapshots and answers HTTP on a loopback address and a unix socket; the guard ends the
//! process when a shard hangs; one writes interval logs, one stderr, and a reload is read by one of its own.
#![allow(
    clippy::disallowed_types,
    reason = "the lock is between the tasks of this one thread, never a shard's"
)]

mod guard;
mod hlog;
mod lag;
mod http;
mod listen;
mod postmortem;
mod prometheus;
mod reload;
mod server;
mod silent;
mod socket;
pub(crate) mod state;
mod threads;
pub mod voice;
mod watchdog;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::Builder;
use std::time::Duration;

use crate::metrics::recorder::Recorder;
use crate::metrics::snapshot::Collector;
use crate::profile::Profile;

pub use guard::Life;
pub use listen::{Listeners, socket_path};
pub use reload::{AccessSource, Hangup};
pub use socket::SocketFile;

use guard::{Guard, Guarded};
use hlog::IntervalWriter;
use postmortem::PostMortem;
use reload::{LogChange, Reloaded};
use state::{PlaceView, State};

/// Between two looks at the shards.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A shard as housekeeping sees it.
#[derive(Debug)]
pub struct Watched {
    /// Its snapshots.
    pub collector: Collector,
    /// What its thread shows of itself.
    pub life: Arc<Life>,
    /// What does not change while it serves, each time it begins to.
    pub(crate) facts: Receiver<PlaceView>,
    /// Its turns.
    pub recorder: Arc<Recorder>,
}

impl Listeners {
    /// Does the housekeeping of `shards` until the process ends. For a thread of its own. `alive` moves while none
    /// of them hangs.
    ///
    /// # Errors
    /// When the operating system does not let what is open be waited for, or gives no thread.
    pub fn run(self, shards: Vec<Watched>, alive: Arc<AtomicU64>) -> io::Result<()> {
        let state = Arc::new(Mutex::new(State::new(shards.len())));
        let Self { http, socket, log, hangup, profile, runtime, .. } = self;
        let recorders = shards.iter().map(|shard| Arc::clone(&shard.recorder));
        let post_mortem = PostMortem::new(&profile, recorders);
        post_mortem.write_on_panic();
        let guarded: Arc<[Guarded]> = shards
            .iter()
            .map(|shard| Guarded::new(Arc::clone(&shard.life), Arc::clone(&shard.recorder)))
            .collect();
        let limit_ms = Arc::new(AtomicU64::new(profile.limits.watchdog_ms));
        let (seen, limit) = (Arc::clone(&guarded), Arc::clone(&limit_ms));
        Guard { shards: guarded, limit_ms: limit, alive, post_mortem }.start()?;
        let log = log.map(hlog::IntervalLog::write_beside).transpose()?;
        runtime.block_on(async move {
            if let Some(http) = http {
                http.set_nonblocking(true)?;
                let listener = tokio::net::TcpListener::from_std(http)?;
                tokio::spawn(server::serve(listener, http::app(Arc::clone(&state))));
            }
            if let Some(socket) = socket {
                tokio::spawn(socket.serve(http::app(Arc::clone(&state))));
            }
            Housekeeping { state, shards, seen, log, limit_ms, hangup, profile, reading: None }
                .keep()
                .await;
            Ok(())
        })
    }
}

/// Everything the housekeeping thread looks after.
struct Housekeeping {
    state: Arc<Mutex<State>>,
    shards: Vec<Watched>,
    /// What the guard has seen of them.
    seen: Arc<[Guarded]>,
    log: Option<IntervalWriter>,
    /// The guard's limit.
    limit_ms: Arc<AtomicU64>,
    hangup: Hangup,
    /// In force.
    profile: Profile,
    /// The profile that is being read again.
    reading: Option<Receiver<Result<Reloaded, String>>>,
}

impl Housekeeping {
    async fn keep(mut self) {
        let mut every = tokio::time::interval(LOOK_EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            self.reload();
            for shard in 0..self.shards.len() {
                self.collect(shard);
                let pause = self.seen[shard].pause();
                lock(&self.state).note_pause(shard, pause);
            }
        }
    }

    /// Takes in what a shard has sent.
    fn collect(&mut self, index: usize) {
        while let Some(snapshot) = self.shards[index].collector.take() {
            if let Some(log) = &mut self.log
                && !log.write(index, &snapshot)
            {
                self.log = None;
            }
            let old = lock(&self.state).take_in(index, snapshot);
            if let Some(old) = old {
                self.shards[index].collector.give_back(old);
            }
        }
        let mut state = lock(&self.state);
        while let Ok(facts) = self.shards[index].facts.try_recv() {
            state.note_facts(index, facts);
        }
    }

    /// Begins to read the profile again when told to, and takes in what was read. One at a time: a SIGHUP that
    /// comes meanwhile is kept.
    fn reload(&mut self) {
        let Some(reading) = &self.reading else {
            if self.hangup.take() {
                self.reading = self.read_again();
            }
            return;
        };
        let read = match reading.try_recv() {
            Ok(read) => read,
            Err(TryRecvError::Empty) => return,
            Err(TryRecvError::Disconnected) => Err("reading the profile failed".to_owned()),
        };
        self.reading = None;
        let reloaded = read.and_then(|reloaded| self.take_over(reloaded));
        voice::say(&reloaded.unwrap_or_else(|why| format!("error: nothing is reloaded: {why}")));
    }

    fn read_again(&self) -> Option<Receiver<Result<Reloaded, String>>> {
        let (done, wait) = mpsc::channel();
        let (serving, writes_log) = (self.profile.clone(), self.log.is_some());
        let access = self.hangup.access();
        let read = move || reload::reload(&serving, writes_log, access.as_deref());
        let body = move || drop(done.send(read()));
        match Builder::new().name("buslane-reload".into()).spawn(body) {
            Ok(_) => Some(wait),
            Err(error) => {
                voice::say(&format!("error: nothing is reloaded: no thread to read it: {error}"));
                None
            }
        }
    }

    /// Lets a profile be in force; returns what to tell.
    fn take_over(&mut self, reloaded: Reloaded) -> Result<String, String> {
        let Reloaded { profile, log, said } = reloaded;
        match log {
            LogChange::Stays => {}
            LogChange::Ends => self.log = None,
            LogChange::Begins(log) => {
                let writer = log.write_beside().map_err(|error| format!("metrics.dir: {error}"))?;
                self.log = Some(writer);
            }
        }
        let turn_ns_max = profile.limits.turn_us.saturating_mul(1_000);
        for shard in &self.shards {
            shard.recorder.set(turn_ns_max, profile.metrics.stages);
        }
        // Only a number: it orders nothing.
        self.limit_ms.store(profile.limits.watchdog_ms, Ordering::Relaxed);
        self.profile = profile;
        Ok(said)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
