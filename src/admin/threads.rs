//! What the kernel says of a thread of this process: how long it ran, and what it is doing.

use std::fs;

/// A thread, as the kernel numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ThreadId(u32);

/// A thread at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ThreadState {
    /// How long it ran since it was made, in nanoseconds.
    pub(super) ran_ns: u64,
    /// The kernel's letter: R runs or would like to, S waits, D waits for a device, T and t are stopped.
    pub(super) letter: char,
}

impl ThreadId {
    /// The calling thread's; `None` without `/proc`.
    pub(super) fn own() -> Option<Self> {
        // It reads PID/task/TID.
        let link = fs::read_link("/proc/thread-self").ok()?;
        link.file_name()?.to_str()?.parse().ok().map(Self)
    }

    /// Its number.
    pub(super) fn number(self) -> u32 {
        self.0
    }

    /// That with a number; `None` for 0, which no thread has.
    pub(super) fn numbered(number: u32) -> Option<Self> {
        (number > 0).then_some(Self(number))
    }

    /// How it is now; `None` when it has ended, or the kernel does not say.
    pub(super) fn state(self) -> Option<ThreadState> {
        let read = |file: &str| fs::read_to_string(format!("/proc/self/task/{}/{file}", self.0));
        let stat = read("stat").ok()?;
        let (letter, ticks) = parse_stat(&stat)?;
        // Nanoseconds, where the kernel counts them; else ticks of 10 ms.
        let exact = read("schedstat").ok().and_then(|text| parse_schedstat(&text));
        Some(ThreadState {
            ran_ns: exact.unwrap_or_else(|| ticks.saturating_mul(10_000_000)),
            letter,
        })
    }
}

/// State, and ticks of 10 ms in user and kernel mode. The name before them may hold anything, also `)`.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let letter = fields.next()?.chars().next()?;
    // Fields 14 and 15 of proc(5); the state is the third.
    let mut times = fields.skip(10);
    let (user, kernel): (u64, u64) = (times.next()?.parse().ok()?, times.next()?.parse().ok()?);
    Some((letter, user.saturating_add(kernel)))
}

fn parse_schedstat(text: &str) -> Option<u64> {
    // All zeros where the kernel does not count.
    text.split_whitespace().next()?.parse().ok().filter(|ran| *ran > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_waits_and_one_that_runs_are_told_apart() {
        let own = ThreadId::own().expect("a kernel with /proc");
        let before = own.state().expect("it lives");
        let mut sum = 0u64;
        while own.state().expect("it lives").ran_ns < before.ran_ns + 20_000_000 {
            sum = std::hint::black_box(sum + 1);
        }
        assert_eq!(own.state().expect("it lives").letter, 'R');
        let (tell, told) = std::sync::mpsc::channel();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let waits = std::thread::Builder::new().spawn(move || {
            tell.send(ThreadId::own()).expect("somebody listens");
            let _ = wait.recv();
        });
        let other = told.recv().expect("told").expect("a kernel with /proc");
        // It says so before it waits.
        while other.state().expect("it lives").letter != 'S' {}
        drop(go);
        waits.expect("a thread").join().expect("it ends");
        // The kernel takes a moment longer to forget it.
        while other.state().is_some() {}
    }

    #[test]
    fn names_of_threads_hold_anything() {
        let stat = "7 (a) R 1 (b) S 1 2 3 4 5 6 7 8 9 10 30 12 0";
        assert_eq!(parse_stat(stat), Some(('S', 42)));
        assert_eq!(parse_stat("7 (x) S 1"), None);
        assert_eq!(parse_schedstat("0 0 0"), None);
        assert_eq!(parse_schedstat("5 1 9\n"), Some(5));
    }
}
