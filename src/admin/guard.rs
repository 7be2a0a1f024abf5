//! The thread that ends the process when a shard hangs. It reads memory and `/proc`, and does nothing else that
//! could hold it: it writes to no descriptor, takes no lock, and what it says goes through [`voice`].

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::{Builder, park_timeout};
use std::time::Duration;

use super::postmortem::PostMortem;
use super::threads::ThreadId;
use super::voice;
use super::watchdog::{Look, Silence, Watchdog};
use crate::clock::{Clock, HostClock};
use crate::metrics::recorder::Recorder;

/// Between two looks at the shards.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A shard that hangs for so long is not alive.
pub(super) const ALIVE_MS: u64 = 1_000;

/// What a shard's thread shows of itself. Each field is for itself, and orders nothing else.
#[derive(Debug, Default)]
pub struct Life {
    /// Moves while whoever runs the shard does.
    pub beat: Arc<AtomicU64>,
    /// Whether it is to make turns: not while it opens its log.
    turns: AtomicBool,
    /// The number of its thread; 0 while nobody knows.
    thread: AtomicU32,
}

impl Life {
    /// With a beat that is there already.
    #[must_use]
    pub fn new(beat: Arc<AtomicU64>) -> Self {
        Self { beat, ..Self::default() }
    }

    /// The calling thread makes turns from now on.
    pub fn begin(&self) {
        let own = ThreadId::own().map_or(0, ThreadId::number);
        self.thread.store(own, Ordering::Relaxed);
        self.turns.store(true, Ordering::Relaxed);
    }

    /// It makes none for now: it opens its log, or ends.
    pub fn pause(&self) {
        self.turns.store(false, Ordering::Relaxed);
    }
}

/// A shard as the guard sees it, and what others see of that.
#[derive(Debug)]
pub(super) struct Guarded {
    life: Arc<Life>,
    recorder: Arc<Recorder>,
    silent_ms: AtomicU64,
    hung_ms: AtomicU64,
}

/// Since when a shard makes no turns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pause {
    /// It is to make turns.
    pub(super) turns: bool,
    /// How long it has made none.
    pub(super) silent_ms: u64,
    /// How much of that counts as hanging.
    pub(super) hung_ms: u64,
}

impl Guarded {
    pub(super) fn new(life: Arc<Life>, recorder: Arc<Recorder>) -> Self {
        Self { life, recorder, silent_ms: AtomicU64::default(), hung_ms: AtomicU64::default() }
    }

    /// What it was seen to do at the last look.
    pub(super) fn pause(&self) -> Pause {
        Pause {
            turns: self.life.turns.load(Ordering::Relaxed),
            silent_ms: self.silent_ms.load(Ordering::Relaxed),
            hung_ms: self.hung_ms.load(Ordering::Relaxed),
        }
    }

    fn look(&self) -> Look {
        let turns = self.life.turns.load(Ordering::Relaxed);
        let thread = ThreadId::numbered(self.life.thread.load(Ordering::Relaxed));
        // All are signs of life.
        let beat = self.life.beat.load(Ordering::Relaxed).wrapping_add(self.recorder.begun());
        Look { beat: turns.then_some(beat), thread: thread.and_then(ThreadId::state) }
    }
}

/// The guard.
#[derive(Debug)]
pub(super) struct Guard {
    pub(super) shards: Arc<[Guarded]>,
    /// `limits.watchdog_ms`; 0 for never.
    pub(super) limit_ms: Arc<AtomicU64>,
    /// Moves at each look while no shard hangs.
    pub(super) alive: Arc<AtomicU64>,
    pub(super) post_mortem: PostMortem,
}

impl Guard {
    /// Looks at the shards until the process ends, on a thread of its own.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub(super) fn start(self) -> io::Result<()> {
        Builder::new().name("buslane-guard".into()).spawn(move || self.watch()).map(drop)
    }

    fn watch(self) {
        let clock = HostClock::new();
        let mut watchdog = Watchdog::new(self.shards.len());
        let mut warned = vec![false; self.shards.len()];
        loop {
            let now_ms = clock.now_ns() / 1_000_000;
            let limit_ms = self.limit_ms.load(Ordering::Relaxed);
            let mut is_alive = true;
            for (index, (shard, warned)) in self.shards.iter().zip(&mut warned).enumerate() {
                let silence = watchdog.look(index, shard.look(), now_ms);
                shard.silent_ms.store(silence.silent_ms, Ordering::Relaxed);
                shard.hung_ms.store(silence.hung_ms, Ordering::Relaxed);
                is_alive &= silence.hung_ms < ALIVE_MS;
                if limit_ms > 0 {
                    self.judge(index, silence, limit_ms, warned);
                }
            }
            if is_alive {
                self.alive.fetch_add(1, Ordering::Relaxed);
            }
            park_timeout(LOOK_EVERY);
        }
    }

    fn judge(&self, index: usize, silence: Silence, limit_ms: u64, warned: &mut bool) {
        let Silence { silent_ms, hung_ms, .. } = silence;
        if silent_ms < limit_ms {
            *warned = false;
        } else if hung_ms < limit_ms {
            if !std::mem::replace(warned, true) {
                voice::say(&format!(
                    "warning: shard {index} made no turn for {silent_ms} ms: {}; that is no reason to end the \
                     process (limits.watchdog_ms)",
                    silence.describe()
                ));
            }
        } else {
            let what = format!("shard {index} made no turn for {limit_ms} ms");
            let does = silence.describe();
            voice::say(&format!(
                "error: {what} (limits.watchdog_ms): {does}; the process ends, and recovery is its restart"
            ));
            self.post_mortem.write(&format!("{what}: {does}"));
            std::process::abort();
        }
    }
}
