//! Telling the service manager: ready, stopping, alive (`sd_notify(3)`).
//!
//! One datagram a message to the socket named by `$NOTIFY_SOCKET`; without one, nothing. "Alive" comes
//! from a thread of its own, off the shards' cores, and only while the shard makes turns: a shard that
//! hangs is restarted, not kept.
//!
//! Not the crate `sd-notify`: its socket blocks, so that a manager that reads slowly would hold us, and it takes the name
//! of an abstract socket (`@…`) for that of a file (0.5).

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// The service manager, if there is one.
#[derive(Debug)]
pub(crate) struct Notify {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notify {
    /// The one the environment names.
    #[must_use]
    pub(crate) fn from_environment() -> Self {
        let number = |name: &str| env::var(name).ok()?.parse::<u64>().ok();
        // The variable is meant for the process it names, not for its children.
        let own = number("WATCHDOG_PID").is_none_or(|id| id == u64::from(std::process::id()));
        let micros = number("WATCHDOG_USEC").filter(|micros| own && *micros > 0);
        let to = env::var("NOTIFY_SOCKET").ok().and_then(|path| connect(&path).ok());
        Self { to, watchdog: micros.map(Duration::from_micros) }
    }

    /// Says `message`, as in `READY=1`. A manager that does not listen is no reason to stop.
    pub(crate) fn say(&self, message: &str) {
        if let Some((socket, address)) = &self.to {
            let _ = socket.send_to_addr(message.as_bytes(), address);
        }
    }

    /// Starts saying that the process is alive, twice per period of the watchdog, whenever all of `beats` have
    /// moved; `None` where nobody asked for it. Call it before the calling thread is pinned.
    #[must_use]
    pub(crate) fn keep_alive(&self, beats: &[Arc<AtomicU64>]) -> Option<Keeper> {
        let period = self.watchdog? / 2;
        let (socket, address) = self.to.as_ref()?;
        let (socket, address) = (socket.try_clone().ok()?, address.clone());
        let stop = Arc::new(AtomicBool::new(false));
        let (beats, told) = (beats.to_vec(), Arc::clone(&stop));
        let body = move || {
            let mut last = vec![None; beats.len()];
            // Both are flags of their own: they order nothing else.
            while !told.load(Ordering::Relaxed) {
                let now = || beats.iter().map(|beat| Some(beat.load(Ordering::Relaxed)));
                if last.iter().copied().zip(now()).all(|(last, now)| last != now) {
                    let _ = socket.send_to_addr(b"WATCHDOG=1", &address);
                    last = now().collect();
                }
                std::thread::park_timeout(period);
            }
        };
        let thread = Builder::new().name("buslane-watch".into()).spawn(body).ok()?;
        Some(Keeper { stop, thread: Some(thread) })
    }
}

fn connect(path: &str) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    // A manager that is slow to read must not hold us.
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

/// Says that the process is alive until it is dropped.
#[derive(Debug)]
pub(crate) struct Keeper {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager() -> (tempfile::TempDir, UnixDatagram, Notify) {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let to = Some(connect(path.to_str().unwrap()).unwrap());
        (place, manager, Notify { to, watchdog: Some(Duration::from_millis(20)) })
    }

    fn heard(manager: &UnixDatagram) -> Option<String> {
        let mut bytes = [0; 64];
        let n = manager.recv(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes[..n]).into_owned())
    }

    #[test]
    fn alive_is_said_only_while_the_beat_moves() {
        let (_place, manager, notify) = manager();
        notify.say("READY=1");
        assert_eq!(heard(&manager).as_deref(), Some("READY=1"));
        let beat = Arc::new(AtomicU64::new(0));
        let other = Arc::new(AtomicU64::new(0));
        let keeper = notify.keep_alive(&[Arc::clone(&beat), Arc::clone(&other)]).unwrap();
        assert_eq!(heard(&manager).as_deref(), Some("WATCHDOG=1"));
        assert_eq!(heard(&manager), None, "the beat stands still");
        beat.fetch_add(1, Ordering::Relaxed);
        assert_eq!(heard(&manager), None, "the other one stands still");
        other.fetch_add(1, Ordering::Relaxed);
        assert_eq!(heard(&manager).as_deref(), Some("WATCHDOG=1"));
        drop(keeper);
        beat.fetch_add(1, Ordering::Relaxed);
        assert_eq!(heard(&manager), None, "nobody watches any more");
    }

    #[test]
    fn abstract_sockets_are_managers_too() {
        let name = format!("buslane-notify-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        let to = Some(connect(&format!("@{name}")).unwrap());
        Notify { to, watchdog: None }.say("STOPPING=1");
        assert_eq!(heard(&manager).as_deref(), Some("STOPPING=1"));
    }

    #[test]
    fn without_a_manager_nothing_is_said() {
        let notify = Notify { to: None, watchdog: None };
        notify.say("READY=1");
        assert!(notify.keep_alive(&[Arc::new(AtomicU64::new(0))]).is_none());
    }
}
