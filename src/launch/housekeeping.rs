//! Housekeeping begins: what it is told by the shards, and what it answers on.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, mpsc};

use super::{LaunchError, Progress};
use crate::admin::state::PlaceView;
use crate::admin::{Hangup, Life, Listeners, SocketFile, Watched, voice};
use crate::metrics::recorder::Recorder;
use crate::metrics::snapshot::exchange;
use crate::profile::Profile;
use crate::shard::observe::Observer;

/// What a shard's thread tells housekeeping.
pub(super) struct Reports {
    pub(super) life: Arc<Life>,
    pub(super) facts: mpsc::Sender<PlaceView>,
    pub(super) observer: Observer,
}

/// Housekeeping, as launch holds it.
pub(super) struct Housekeeping {
    /// The socket it answers on.
    pub(super) socket: Option<SocketFile>,
    /// What each shard tells it.
    pub(super) reports: Vec<Reports>,
    /// Moves while no shard hangs.
    pub(super) alive: Arc<AtomicU64>,
}

impl Housekeeping {
    /// Starts it on a thread of its own; each of `beats` moves while a shard lives.
    pub(super) fn start(
        profile: &Profile,
        beats: &[Arc<AtomicU64>],
        hangup: Hangup,
        watch: &mut dyn FnMut(Progress),
    ) -> Result<Self, LaunchError> {
        let listeners = Listeners::open(profile, hangup)?;
        for warning in &listeners.warnings {
            watch(Progress::Warning(warning.clone()));
        }
        let socket = listeners.socket_file();
        let turn_ns_max = profile.limits.turn_us.saturating_mul(1_000);
        let (mut watched, mut reports) = (Vec::new(), Vec::new());
        for beat in beats {
            let (facts, facts_out) = mpsc::channel();
            let life = Arc::new(Life::new(Arc::clone(beat)));
            let (reporter, collector) = exchange();
            let recorder = Arc::new(Recorder::new(turn_ns_max, profile.metrics.stages));
            watched.push(Watched {
                collector,
                life: Arc::clone(&life),
                facts: facts_out,
                recorder: Arc::clone(&recorder),
            });
            reports.push(Reports { life, facts, observer: Observer::new(reporter, recorder) });
        }
        let alive = Arc::new(AtomicU64::new(0));
        let moves = Arc::clone(&alive);
        let body = move || {
            if let Err(error) = listeners.run(watched, moves) {
                voice::say(&format!(
                    "error: housekeeping ends: {error}; nothing watches the shards"
                ));
            }
        };
        let thread = std::thread::Builder::new().name("buslane-house".into()).spawn(body);
        thread.map_err(LaunchError::Housekeeping)?;
        Ok(Self { socket, reports, alive })
    }
}
