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
mod listen;
mod postmortem;
mod prometheus;
mod reload;
mod server;
mod socket;
pub mod state;
mod watchdog;

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::metrics::recorder::Recorder;
use crate::metrics::snapshot::Collector;
use crate::profile::Profile;

pub use listen::{Listeners, socket_path};
pub use socket::SocketFile;

use hlog::IntervalLog;
use postmortem::PostMortem;
use reload::{Hangup, Reloaded};
use state::{ShardFacts, State};
use watchdog::Watchdog;

/// Between two looks at the shards.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A shard as housekeeping sees it.
#[derive(Debug)]
pub struct Watched {
    /// Its snapshots.
    pub collector: Collector,
    /// Moves while whoever runs it does.
    pub beat: Arc<AtomicU64>,
    /// Whether it is to make turns: not while it opens its log.
    pub turns: Arc<AtomicBool>,
    /// What does not change while it serves, each time it begins to.
    pub facts: Receiver<ShardFacts>,
    /// Its turns.
    pub recorder: Arc<Recorder>,
}

impl Watched {
    /// Moves while it makes turns; `None` while it is not to.
    fn sign_of_life(&self) -> Option<u64> {
        // All are signs of life: they order nothing else.
        let turns = self.turns.load(Ordering::Relaxed);
        turns.then(|| self.beat.load(Ordering::Relaxed).wrapping_add(self.recorder.begun()))
    }
}

impl Listeners {
    /// Does the housekeeping of `shards` until the process ends. For a thread of its own.
    ///
    /// # Errors
    /// When the operating system does not let what is open be waited for.
    pub fn run(self, shards: Vec<Watched>) -> io::Result<()> {
        let state = Arc::new(Mutex::new(State::new(shards.len())));
        let Self { http, socket, log, hangup, profile, runtime, .. } = self;
        let recorders = shards.iter().map(|shard| Arc::clone(&shard.recorder));
        let post_mortem = PostMortem::new(&profile, recorders);
        post_mortem.write_on_panic();
        runtime.block_on(async move {
            if let Some(http) = http {
                http.set_nonblocking(true)?;
                let listener = tokio::net::TcpListener::from_std(http)?;
                tokio::spawn(server::serve(listener, http::app(Arc::clone(&state))));
            }
            if let Some(socket) = socket {
                tokio::spawn(socket.serve(http::app(Arc::clone(&state))));
            }
            let watchdog = Watchdog::new(shards.len(), profile.limits.watchdog_ms);
            House { state, shards, log, watchdog, hangup, profile, post_mortem }.keep().await;
            Ok(())
        })
    }
}

/// Everything the housekeeping thread looks after.
struct House {
    state: Arc<Mutex<State>>,
    shards: Vec<Watched>,
    log: Option<IntervalLog>,
    watchdog: Watchdog,
    hangup: Hangup,
    /// In force.
    profile: Profile,
    post_mortem: PostMortem,
}

impl House {
    async fn keep(mut self) {
        let start = tokio::time::Instant::now();
        let mut every = tokio::time::interval(LOOK_EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            if self.hangup.take() {
                self.reload();
            }
            let now_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
            for shard in 0..self.shards.len() {
                self.collect(shard);
                self.look_at(shard, now_ms);
            }
        }
    }

    /// Takes in what a shard has sent.
    fn collect(&mut self, index: usize) {
        while let Some(snapshot) = self.shards[index].collector.take() {
            if let Some(file) = &mut self.log
                && let Err(error) = file.write(index, &snapshot)
            {
                let path = file.path().display();
                say(&format!("warning: {path}: {error}; no more is written until SIGHUP"));
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

    /// Whether a shard makes turns; where it does not, the process ends.
    fn look_at(&mut self, index: usize, now_ms: u64) {
        let beat = self.shards[index].sign_of_life();
        let alive = self.watchdog.is_alive(index, beat, now_ms);
        let silent_ms = self.watchdog.silent_ms(index, now_ms);
        lock(&self.state).note_beat(index, beat.is_some(), silent_ms);
        if !alive {
            let limit_ms = self.watchdog.limit_ms();
            say(&format!(
                "error: shard {index} made no turn for {limit_ms} ms (limits.watchdog_ms); the process \
                 ends, and recovery is its restart"
            ));
            self.post_mortem.write(&format!("shard {index} made no turn for {limit_ms} ms"));
            std::process::abort();
        }
    }

    fn reload(&mut self) {
        let Reloaded { profile, log, said } = match reload::reload(&self.profile) {
            Ok(reloaded) => reloaded,
            Err(why) => return say(&format!("error: nothing is reloaded: {why}")),
        };
        say(&said);
        let turn_ns_max = profile.limits.turn_us.saturating_mul(1_000);
        for shard in &self.shards {
            shard.recorder.set(turn_ns_max, profile.metrics.stages);
        }
        self.watchdog.set_limit_ms(profile.limits.watchdog_ms);
        (self.log, self.profile) = (log, profile);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn say(what: &str) {
    // Where stderr is closed there is nobody to tell.
    let _ = writeln!(io::stderr(), "{what}");
}
