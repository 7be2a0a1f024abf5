//! Trying again what may be over in a moment: the kernel takes down what a process had only after it has ended.

use std::thread;
use std::time::Duration;

/// How far apart two tries are.
const PAUSE: Duration = Duration::from_millis(5);

/// Tries until it goes well, fails for a reason that does not pass, or has been tried for so long. For start-up and
/// tools: it sleeps in between.
///
/// # Errors
/// Those of the last try.
pub(crate) fn retry<T, E>(
    patience: Duration,
    passes: impl Fn(&E) -> bool,
    mut attempt: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    for _ in 0..patience.as_millis() / PAUSE.as_millis() {
        match attempt() {
            Err(error) if passes(&error) => thread::park_timeout(PAUSE),
            other => return other,
        }
    }
    attempt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_tried_again_and_what_does_not_is_told_at_once() {
        let tried = |patience_ms, goes_well_at: u32, passes: bool| {
            let mut tries = 0;
            let result = retry(
                Duration::from_millis(patience_ms),
                |_| passes,
                || {
                    tries += 1;
                    (tries == goes_well_at).then_some(()).ok_or("not yet")
                },
            );
            (result, tries)
        };
        assert_eq!(tried(50, 1, true), (Ok(()), 1));
        assert_eq!(tried(50, 3, true), (Ok(()), 3));
        assert_eq!(tried(50, 3, false), (Err("not yet"), 1));
        assert_eq!(tried(0, 3, true), (Err("not yet"), 1));
        assert_eq!(tried(50, u32::MAX, true), (Err("not yet"), 11));
    }
}
