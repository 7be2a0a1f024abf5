//! The histories of all clients of a run: what they did and were told, held against each other at its end, as
//! `buslane verify-history` does with those of real processes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::oracle::Violation;
use crate::history::verify::verify;
use crate::history::{Entry, Fact, HISTORY_VERSION, History, Sink};

/// All of them.
#[derive(Debug)]
pub(super) struct Histories {
    now_ns: Arc<AtomicU64>,
    count: usize,
    from_clients: Sender<(usize, Entry)>,
    noted: Receiver<(usize, Entry)>,
}

/// That of one client.
#[derive(Debug)]
struct Writing {
    now_ns: Arc<AtomicU64>,
    index: usize,
    to: Sender<(usize, Entry)>,
}

impl Sink for Writing {
    fn note(&mut self, fact: Fact) {
        // A run has one thread.
        let entry = Entry { ns: self.now_ns.load(Ordering::Relaxed), fact };
        self.to.send((self.index, entry)).expect("a client does not outlive its world");
    }

    fn flush(&mut self) -> Result<(), String> {
        Ok(())
    }
}

impl Histories {
    /// None yet.
    pub(super) fn new() -> Self {
        let (from_clients, noted) = channel();
        Self { now_ns: Arc::default(), count: 0, from_clients, noted }
    }

    /// What happens from now on happens then.
    pub(super) fn set_now(&self, now_ns: u64) {
        self.now_ns.store(now_ns, Ordering::Relaxed);
    }

    /// That of a client that begins.
    pub(super) fn begin(&mut self) -> History {
        let (now_ns, to) = (Arc::clone(&self.now_ns), self.from_clients.clone());
        let mut writing = Writing { now_ns, index: self.count, to };
        self.count += 1;
        let (version, boot) = (String::new(), String::new());
        writing.note(Fact::Begin { history: HISTORY_VERSION, version, boot, pid: 0 });
        History::new(Box::new(writing))
    }

    /// Whether they can be of one log.
    ///
    /// # Errors
    /// `history` with the first contradiction.
    pub(super) fn check(&self) -> Result<(), Violation> {
        let mut histories = vec![Vec::new(); self.count];
        while let Ok((index, entry)) = self.noted.try_recv() {
            histories[index].push(entry);
        }
        match verify(&histories).contradictions.first() {
            None => Ok(()),
            Some(found) => {
                let (line, other) = (found.line, found.other);
                let what = format!("{}: {} ({line:?}, {other:?})", found.check, found.what);
                Err(Violation { oracle: "history", what })
            }
        }
    }
}
