//! Housekeeping begins: what it is told by the shards, and what it answers on.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, mpsc};

use super::{LaunchError, Progress};
use crate::admin::state::ShardFacts;
use crate::admin::{Hangup, Life, Listeners, SocketFile, Watched, voice};
use crate::metrics::recorder::Recorder;
use crate::metrics::snapshot::exchange;
use crate::profile::Profile;
use crate::shard::observe::Observer;

/// What the serving thread tells housekeeping.
pub(super) struct House {
    pub(super) life: Arc<Life>,
    pub(super) facts: mpsc::Sender<ShardFacts>,
}

/// Housekeeping, as launch holds it.
pub(super) struct Houses {
    /// The socket it answers on.
    pub(super) socket: Option<SocketFile>,
    /// What each shard tells it.
    pub(super) houses: Vec<(House, Observer)>,
    /// Moves while no shard hangs.
    pub(super) alive: Arc<AtomicU64>,
}

/// Starts housekeeping on a thread of its own, and makes what observes each shard.
pub(super) fn keep_house(
    profile: &Profile,
    beats: &[Arc<AtomicU64>],
    hangup: Hangup,
    watch: &mut dyn FnMut(Progress),
) -> Result<Houses, LaunchError> {
    let listeners = Listeners::open(profile, hangup)?;
    for warning in &listeners.warnings {
        watch(Progress::Warning(warning.clone()));
    }
    let socket = listeners.socket_file();
    let turn_ns_max = profile.limits.turn_us.saturating_mul(1_000);
    let (mut watched, mut houses) = (Vec::new(), Vec::new());
    for beat in beats {
        let (facts, facts_out) = mpsc::channel();
        let house = House { life: Arc::new(Life::new(Arc::clone(beat))), facts };
        let (reporter, collector) = exchange();
        let recorder = Arc::new(Recorder::new(turn_ns_max, profile.metrics.stages));
        watched.push(Watched {
            collector,
            life: Arc::clone(&house.life),
            facts: facts_out,
            recorder: Arc::clone(&recorder),
        });
        houses.push((house, Observer::new(reporter, recorder)));
    }
    let alive = Arc::new(AtomicU64::new(0));
    let moves = Arc::clone(&alive);
    let body = move || {
        if let Err(error) = listeners.run(watched, moves) {
            voice::say(&format!("error: housekeeping ends: {error}; nothing watches the shards"));
        }
    };
    let thread = std::thread::Builder::new().name("buslane-house".into()).spawn(body);
    thread.map_err(LaunchError::Housekeeping)?;
    Ok(Houses { socket, houses, alive })
}
