//! Progress of long work, on stderr, only when a terminal watches.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often the bar is redrawn, at most.
const DRAWS_PER_SECOND: u8 = 10;

/// A bar, or nothing where nobody would see it. Gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Work on `total` of `what` (`messages`); `None` where the end is not known.
    #[must_use]
    pub(crate) fn new(quiet: bool, what: &'static str, total: Option<u64>) -> Self {
        if quiet || !std::io::stderr().is_terminal() {
            return Self { bar: None };
        }
        let target = ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND);
        let bar = ProgressBar::with_draw_target(total, target);
        let template = if total.is_some() {
            "{wide_bar} {human_pos}/{human_len} {msg} {per_sec} {eta}"
        } else {
            "{spinner} {human_pos} {msg} {per_sec}"
        };
        let style = ProgressStyle::with_template(template).expect("the templates are correct");
        bar.set_style(style);
        bar.set_message(what);
        Self { bar: Some(bar) }
    }

    /// So much is done. Cheap enough to call every few hundred messages.
    pub(crate) fn set(&self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
