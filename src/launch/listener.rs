//! Hears what the shards' threads say, and lets them begin.
//!
//! The threads open their logs side by side. When all are open, their streams are entered into the directory, and all
//! begin to serve. They wait for nobody from then on. The first failure at launch, or one that no waiting mends, stops
//! them all. Of an appliance of one shard nothing says which shard it is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use super::notify::Notify;
use super::{LaunchError, Progress};
use crate::profile::Profile;
use crate::shard::Siblings;
use crate::shard::directory::{Directory, Placer, directory};

/// What a shard's thread says.
pub(super) enum Event {
    /// Its log is open: the names of its streams.
    Opened(Vec<String>),
    Progress(Progress),
    Ended(Result<(), LaunchError>),
}

/// To a shard's thread: serve, beside these if it is not alone. Without it, end.
pub(super) type Go = mpsc::Sender<Option<Siblings>>;

/// Hears what the shards say, and lets them begin.
pub(super) struct Listener<'a> {
    profile: &'a Profile,
    notify: &'a Notify,
    stop: &'a AtomicBool,
    /// Empty once all were told to go, or that they need not.
    go: Vec<Go>,
    directory: Arc<Directory>,
    placer: Option<Placer>,
    /// Shards whose logs are open, and that have begun to serve.
    opened: u32,
    ready: u32,
    is_stopping: bool,
    /// The first failure.
    failed: Option<LaunchError>,
}

impl<'a> Listener<'a> {
    /// One for as many shards as the profile says; `go` has one for each.
    pub(super) fn new(
        profile: &'a Profile,
        notify: &'a Notify,
        stop: &'a AtomicBool,
        go: Vec<Go>,
    ) -> Self {
        let (placer, directory) = directory(profile.shard.count);
        let placer = Some(placer);
        let (opened, ready, is_stopping, failed) = (0, 0, false, None);
        Self { profile, notify, stop, go, directory, placer, opened, ready, is_stopping, failed }
    }

    /// Until the last shard has ended.
    pub(super) fn listen(
        mut self,
        events: &mpsc::Receiver<(u32, Event)>,
        watch: &mut dyn FnMut(Progress),
    ) -> Result<(), LaunchError> {
        for (shard, event) in events {
            match event {
                Event::Opened(streams) => self.enter(shard, &streams),
                Event::Progress(progress) => self.on_progress(shard, progress, watch),
                Event::Ended(Ok(())) => {}
                Event::Ended(Err(LaunchError::Stopped)) => self.fail(LaunchError::Stopped),
                Event::Ended(Err(error)) if self.is_alone() => self.fail(error),
                Event::Ended(Err(error)) => {
                    self.fail(LaunchError::OfShard(shard, Box::new(error)));
                }
            }
        }
        self.failed.map_or(Ok(()), Err)
    }

    fn is_alone(&self) -> bool {
        self.profile.shard.count == 1
    }

    fn fail(&mut self, error: LaunchError) {
        self.failed.get_or_insert(error);
        // Only a flag: it orders nothing but itself.
        self.stop.store(true, Ordering::Relaxed);
        self.go.clear();
    }

    /// A shard's log is open: its streams are known from now on. The last one lets all begin.
    fn enter(&mut self, shard: u32, streams: &[String]) {
        let placer = self.placer.as_mut().expect("nobody serves yet");
        for name in streams {
            if let Err(other) = placer.add(name, shard) {
                self.fail(LaunchError::Failed(format!(
                    "{}: stream {name} is on shard {other} and on shard {shard}; these are shares of different \
                     logs: restore the disk",
                    self.profile.disk.path
                )));
                return;
            }
        }
        self.opened += 1;
        let shards = self.profile.shard.count;
        if self.opened < shards {
            return;
        }
        for (shard, go) in (0..).zip(std::mem::take(&mut self.go)) {
            let siblings = Siblings {
                shard,
                shards,
                directory: Arc::clone(&self.directory),
                placer: self.placer.take(),
            };
            // A shard that has ended says why itself.
            let _ = go.send((!self.is_alone()).then_some(siblings));
        }
    }

    fn on_progress(&mut self, shard: u32, progress: Progress, watch: &mut dyn FnMut(Progress)) {
        if matches!(progress, Progress::Stopping) {
            if !self.is_stopping {
                self.notify.say("STOPPING=1");
                watch(Progress::Stopping);
            }
            self.is_stopping = true;
            return;
        }
        let ready = if let Progress::Ready(_, _, durability, _) = progress {
            Some(durability)
        } else {
            None
        };
        if self.is_alone() {
            watch(progress);
        } else {
            watch(Progress::OfShard(shard, Box::new(progress)));
        }
        let Some(durability) = ready else { return };
        self.ready += 1;
        let count = self.profile.shard.count;
        if self.ready != count {
            return;
        }
        if !self.is_alone() {
            let (address, disk) = (self.profile.port.address, self.profile.disk.path.clone());
            watch(Progress::AllReady(address, count, disk, durability));
        }
        self.notify.say("READY=1");
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::ids::Durability;

    /// What the watcher saw, how it ended, and what each shard was told.
    struct Heard {
        seen: Vec<String>,
        ended: Result<(), LaunchError>,
        told: Vec<Result<Option<Siblings>, mpsc::TryRecvError>>,
        is_stopped: bool,
    }

    fn hear(count: u32, said: Vec<(u32, Event)>) -> Heard {
        let mut profile = Profile::default();
        profile.shard.count = count;
        let (notify, stop) = (Notify::from_environment(), AtomicBool::new(false));
        let (go, waiting): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel()).unzip();
        let (events, heard) = mpsc::channel();
        for event in said {
            events.send(event).expect("it is heard below");
        }
        drop(events);
        let mut seen = Vec::new();
        let listener = Listener::new(&profile, &notify, &stop, go);
        let ended = listener.listen(&heard, &mut |progress| seen.push(format!("{progress:?}")));
        let told = waiting.iter().map(mpsc::Receiver::try_recv).collect();
        Heard { seen, ended, told, is_stopped: stop.load(Ordering::Relaxed) }
    }

    fn opened(shard: u32, stream: &str) -> (u32, Event) {
        (shard, Event::Opened(vec![stream.to_owned()]))
    }

    fn ready(shard: u32, port: u16) -> (u32, Event) {
        let address = format!("127.0.0.1:{port}").parse().expect("an address");
        let durability = Durability::Volatile;
        (shard, Event::Progress(Progress::Ready(address, "disk".into(), durability, None)))
    }

    fn failed(shard: u32) -> (u32, Event) {
        (shard, Event::Ended(Err(LaunchError::Failed("why".into()))))
    }

    #[test]
    fn the_only_shard_has_no_neighbours_and_nothing_says_that_it_is_the_first() {
        // Whatever port the system gave it, that is the one that is told.
        let heard = hear(1, vec![opened(0, "orders"), ready(0, 4711), failed(0)]);
        assert!(matches!(heard.told[..], [Ok(None)]), "it goes alone");
        assert_eq!(heard.seen.len(), 1, "{:?}", heard.seen);
        assert!(heard.seen[0].starts_with("Ready(127.0.0.1:4711"), "{:?}", heard.seen);
        assert_eq!(heard.ended.unwrap_err().to_string(), "why");
    }

    #[test]
    fn of_several_shards_each_knows_the_others_and_is_named() {
        let all = vec![opened(1, "there"), opened(0, "here"), ready(1, 2), ready(0, 1), failed(1)];
        let mut heard = hear(2, all);
        let of_second = heard.told.pop().unwrap().unwrap().expect("siblings");
        let of_first = heard.told.pop().unwrap().unwrap().expect("siblings");
        assert_eq!((of_first.shard, of_second.shard, of_second.shards), (0, 1, 2));
        assert!(of_first.placer.is_some() && of_second.placer.is_none(), "the first one places");
        assert_eq!(of_first.directory.find("there"), Some(1));
        let begins = ["OfShard(1, Ready", "OfShard(0, Ready", "AllReady"];
        for (seen, begin) in heard.seen.iter().zip(begins) {
            assert!(seen.starts_with(begin), "{seen}");
        }
        assert_eq!(heard.seen.len(), begins.len());
        assert_eq!(heard.ended.unwrap_err().to_string(), "shard 1: why");
    }

    /// Nobody waits for a shard that is not there.
    #[test]
    fn a_thread_that_cannot_be_started_ends_the_others() {
        let refused = LaunchError::Thread(io::Error::from(io::ErrorKind::OutOfMemory));
        let heard = hear(2, vec![opened(0, "here"), (1, Event::Ended(Err(refused)))]);
        assert!(matches!(heard.told[0], Err(mpsc::TryRecvError::Disconnected)), "let go of");
        assert!(heard.is_stopped);
        let why = heard.ended.unwrap_err().to_string();
        assert!(why.starts_with("shard 1: starting a shard's thread: "), "{why}");
    }
}
