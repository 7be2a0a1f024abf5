//! Housekeeping begins: what it is told by the shards, and what it answers on.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, mpsc};

use super::{LaunchError, Progress};
use crate::admin::state::ShardFacts;
use crate::admin::{Listeners, SocketFile, Watched};
use crate::metrics::recorder::Recorder;
use crate::metrics::snapshot::exchange;
use crate::profile::Profile;
use crate::shard::observe::Observer;

/// What the serving thread tells housekeeping.
pub(super) struct House {
    /// Whether the shard is to make turns. A flag that orders nothing but itself.
    pub(super) turns: Arc<AtomicBool>,
    pub(super) facts: mpsc::Sender<ShardFacts>,
}

/// The socket housekeeping answers on, and what each shard tells it.
pub(super) type Houses = (Option<SocketFile>, Vec<(House, Observer)>);

/// Starts housekeeping on a thread of its own, and makes what observes each shard.
pub(super) fn keep_house(
    profile: &Profile,
    beats: &[Arc<AtomicU64>],
    watch: &mut dyn FnMut(Progress),
) -> Result<Houses, LaunchError> {
    let listeners = Listeners::open(profile)?;
    for warning in &listeners.warnings {
        watch(Progress::Warning(warning.clone()));
    }
    let socket = listeners.socket_file();
    let turn_ns_max = profile.limits.turn_us.saturating_mul(1_000);
    let (mut watched, mut houses) = (Vec::new(), Vec::new());
    for beat in beats {
        let (facts, facts_out) = mpsc::channel();
        let house = House { turns: Arc::default(), facts };
        let (reporter, collector) = exchange();
        let recorder = Arc::new(Recorder::new(turn_ns_max, profile.metrics.stages));
        watched.push(Watched {
            collector,
            beat: Arc::clone(beat),
            turns: Arc::clone(&house.turns),
            facts: facts_out,
            recorder: Arc::clone(&recorder),
        });
        houses.push((house, Observer::new(reporter, recorder)));
    }
    std::thread::Builder::new()
        .name("buslane-house".into())
        .spawn(move || listeners.run(watched))
        .map_err(LaunchError::Housekeeping)?;
    Ok((socket, houses))
}
