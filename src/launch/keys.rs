//! Keys: the appliance's own are read, or made at its first start, and a thread answers handshakes with them, beside
//! housekeeping: a shard has no time for it.

use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use super::{LaunchError, Progress};
use crate::access::{Access, Keyring, RuntimeLink, SecretKey};
use crate::admin::AccessSource;
use crate::clock::{Clock, HostClock};
use crate::profile::{DiskDriver, Profile, SecurityMode};
use crate::seal::entropy::Entropy;
use crate::session::handshake::{Handshaker, HandshakerEnd, rings};
use crate::shard::Security;

/// Between two looks at what shards want done, where there was nothing: a client waits so long for its session.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// What an appliance serves sealed sessions with.
pub(super) struct Keys {
    secret: SecretKey,
    access: Arc<Access>,
    takes_plain: bool,
    ends: Vec<HandshakerEnd>,
    changes: mpsc::Receiver<Access>,
    /// What clients of this user come with, and where they find it.
    local_access: PathBuf,
    links: Vec<RuntimeLink>,
}

impl Keys {
    /// Reads the keys of a profile, or makes them; `None` where its sessions are in the clear. What reads them again
    /// comes with them.
    pub(super) fn open(
        profile: &Profile,
        watch: &mut dyn FnMut(Progress),
    ) -> Result<Option<(Self, AccessSource)>, LaunchError> {
        if profile.security.mode == SecurityMode::Plain {
            watch(Progress::InTheClear);
            return Ok(None);
        }
        let (keyring, is_made) = Keyring::open_or_make(&profile.keys_dir())?;
        if is_made {
            watch(Progress::KeysMade(keyring.dir().to_owned()));
            if is_older_log(profile) {
                watch(Progress::Warning(format!(
                    "these keys are new, and the log is not: who has credentials of before is not \
                     answered; if there were keys, stop, and bring them back to {} (security.keys)",
                    keyring.dir().display()
                )));
            }
        }
        let (tell, changes) = mpsc::channel();
        let keys = Self {
            secret: keyring.secret.clone(),
            access: Arc::new(keyring.access.clone()),
            takes_plain: profile.security.accept_plain,
            ends: Vec::new(),
            changes,
            local_access: keyring.local_access(),
            links: Vec::new(),
        };
        if keys.takes_plain {
            watch(Progress::InTheClear);
        }
        Ok(Some((keys, AccessSource::new(keyring, tell))))
    }

    fn handshaker(&self) -> Handshaker {
        Handshaker::new(self.secret.clone(), Arc::clone(&self.access), Entropy::system())
    }

    /// What answers for a shard that is not there yet.
    pub(super) fn for_door(&self) -> (Handshaker, Security) {
        let (security, _) = self.security();
        (self.handshaker(), security)
    }

    /// What a shard needs.
    pub(super) fn for_shard(&mut self) -> Security {
        let (security, end) = self.security();
        self.ends.push(end);
        security
    }

    fn security(&self) -> (Security, HandshakerEnd) {
        let (end, other) = rings(Arc::clone(&self.access));
        let (key, takes_plain) = (self.secret.public(), self.takes_plain);
        (Security { end, access: Arc::clone(&self.access), key, takes_plain }, other)
    }

    /// Lets clients of this user on this host find their keys at these addresses.
    pub(super) fn show(&mut self, addresses: &[SocketAddrV4], watch: &mut dyn FnMut(Progress)) {
        for &address in addresses {
            match RuntimeLink::make(address, &self.local_access) {
                Ok(link) => self.links.push(link),
                Err(error) => watch(Progress::Warning(format!(
                    "clients of this user do not find their keys by themselves: {error}; give them \
                     --access {}",
                    self.local_access.display()
                ))),
            }
        }
    }

    /// Answers handshakes from now on, until the value is dropped.
    pub(super) fn answer(self, clock: HostClock) -> Result<Answering, LaunchError> {
        let ended = Arc::new(AtomicBool::new(false));
        let is_ended = Arc::clone(&ended);
        let mut handshaker = self.handshaker();
        let Self { mut ends, changes, links, .. } = self;
        let body = move || {
            // Only a flag: it orders nothing but itself.
            while !is_ended.load(Ordering::Relaxed) {
                if let Some(access) = changes.try_iter().last() {
                    handshaker.set_access(Arc::new(access));
                }
                let since_ns = clock.now_ns();
                let done: usize =
                    ends.iter_mut().map(|end| handshaker.turn(end, clock.now_ns())).sum();
                let worked = Duration::from_nanos(clock.now_ns().saturating_sub(since_ns));
                // Half of the core is for others, however many ask.
                let rest = if done == 0 { LOOK_EVERY } else { worked.min(LOOK_EVERY) };
                std::thread::park_timeout(rest);
            }
            drop(links);
        };
        let thread = Builder::new().name("buslane-keys".into()).spawn(body);
        Ok(Answering { ended, thread: Some(thread.map_err(LaunchError::Thread)?) })
    }
}

/// Whether the log was there before: a file with anything in it.
fn is_older_log(profile: &Profile) -> bool {
    profile.disk.driver == DiskDriver::Uring
        && std::fs::metadata(&profile.disk.path).is_ok_and(|log| log.is_file() && log.len() > 0)
}

/// Ends when it is dropped.
pub(super) struct Answering {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}
