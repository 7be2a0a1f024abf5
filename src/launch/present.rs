//! Whether the log's file is still at its path. Somebody may remove, rename or replace it under a serving
//! appliance: what is acknowledged from then on would be gone at the next start.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use super::LaunchError;
use crate::disk::uring::UringFile;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Looks at a file from a thread of its own, since a look may take as long as a file system stands still. Both flags
/// are only that: they order nothing but themselves.
pub(super) struct Presence {
    is_lost: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Presence {
    /// Begins to look whether `file` is at `path`. Before the calling thread is pinned.
    pub(super) fn watch(file: &Arc<UringFile>, path: PathBuf) -> Result<Self, LaunchError> {
        let (is_lost, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (lost, is_over, file) = (Arc::clone(&is_lost), Arc::clone(&over), Arc::downgrade(file));
        let body = move || {
            while !is_over.load(Ordering::Relaxed) {
                let Some(file) = file.upgrade() else { return };
                if !file.is_at(&path) {
                    lost.store(true, Ordering::Relaxed);
                    return;
                }
                drop(file);
                std::thread::park_timeout(LOOK_EVERY);
            }
        };
        let thread = Builder::new().name("buslane-file".into()).spawn(body);
        Ok(Self { is_lost, over, thread: Some(thread.map_err(LaunchError::Thread)?) })
    }

    /// Set once the file is gone from its path.
    #[inline]
    pub(super) fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Relaxed)
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Not waited for: its look may be one that never ends.
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
        }
    }
}
