//! What has to be measured: how long a core is away, what interrupts it, what clocks and caches cost.
//!
//! A thread on each shard's core reads the clock in a loop; any gap is time the core was taken away,
//! be it by an interrupt, the scheduler, the firmware or a hypervisor. Nothing is measured where the tree
//! is a captured one.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

use super::{Needs, Tree};
use crate::clock::{Clock, HostClock};
use crate::cpu;

/// Checks that need it.
pub(crate) const CHECKS: [&str; 4] = ["irq.rate", "jitter", "clock.cost", "core.pingpong"];

/// How long to look at each core, unless told otherwise.
pub(crate) const NS_DEFAULT: u64 = 1_000_000_000;

/// Round trips of a cache line.
const ROUND_TRIPS: u64 = 20_000;

/// A core that does not answer within this is not there: two threads may share one.
const PINGPONG_NS_MAX: u64 = 200_000_000;

/// Readings of the clock, to know what one costs.
const READINGS: u64 = 100_000;

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// The longest each core was away.
    pub jitter_ns: Vec<(usize, u64)>,
    /// How often another thread was given each core meanwhile.
    pub preempted: Vec<(usize, u64)>,
    /// Interrupts each core took while it was looked at, a second.
    pub interrupts_per_second: Vec<(usize, u64)>,
    /// What it costs to read the clock.
    pub clock_ns: u64,
    /// A cache line there and back between a shard's core and another.
    pub pingpong_ns: Option<u64>,
}

/// Whether another appliance's thread is pinned to `core`.
#[must_use]
pub(crate) fn is_served(tree: &Tree, core: usize) -> bool {
    let own = usize::try_from(std::process::id()).ok();
    let mut ids = tree.numbered("proc", "").unwrap_or_default();
    ids.retain(|id| Some(*id) != own);
    let ours = |id: &usize| {
        tree.text(&format!("proc/{id}/comm")).is_some_and(|name| name.starts_with("buslane"))
    };
    ids.into_iter().filter(ours).any(|id| {
        let tasks = tree.numbered(&format!("proc/{id}/task"), "").unwrap_or_default();
        tasks.into_iter().any(|task| {
            let status = tree.text(&format!("proc/{id}/task/{task}/status")).unwrap_or_default();
            let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
            list.is_some_and(|list| list.trim() == core.to_string())
        })
    })
}

/// Measures for `ns` on each shard's core, one after the other; `None` for a captured tree, and where an
/// appliance serves, which it would disturb.
#[must_use]
pub(crate) fn measure(tree: &Tree, needs: &Needs, ns: u64) -> Option<Measured> {
    let served = |shard: &super::needs::Named<usize>| is_served(tree, shard.value);
    if !tree.is_live() || ns == 0 || needs.shards.iter().any(served) {
        return None;
    }
    let clock = HostClock::new();
    let mut measured = Measured { clock_ns: clock_cost(&clock), ..Measured::default() };
    for shard in &needs.shards {
        let core = shard.value;
        let before = interrupts(tree, core);
        let look = || {
            let before = preemptions();
            let worst = longest_gap(&clock, ns);
            (worst, before.zip(preemptions()).map(|(before, after)| after.saturating_sub(before)))
        };
        if let Some((worst, preempted)) = on_core(core, look) {
            measured.jitter_ns.push((core, worst));
            measured.preempted.extend(preempted.map(|count| (core, count)));
        }
        if let (Some(before), Some(after)) = (before, interrupts(tree, core)) {
            let count = after.saturating_sub(before).saturating_mul(1_000_000_000) / ns;
            measured.interrupts_per_second.push((core, count));
        }
    }
    let ours = needs.shards.first().map(|shard| shard.value);
    let other = cpu::available_cores().into_iter().find(|core| Some(*core) != ours);
    if let (Some(core), Some(other)) = (ours, other) {
        measured.pingpong_ns = pingpong(&clock, core, other);
    }
    Some(measured)
}

/// Does `what` on a core, in a thread of its own; `None` where the core cannot be had.
fn on_core<T: Send>(core: usize, what: impl FnOnce() -> T + Send) -> Option<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || cpu::pin_to_core(core).then(what));
        thread.join().ok().flatten()
    })
}

fn clock_cost(clock: &HostClock) -> u64 {
    let begin = clock.now_ns();
    let mut last = begin;
    for _ in 0..READINGS {
        last = std::hint::black_box(clock.now_ns());
    }
    (last - begin) / READINGS
}

fn longest_gap(clock: &HostClock, ns: u64) -> u64 {
    let begin = clock.now_ns();
    let (mut last, mut worst) = (begin, 0);
    while last - begin < ns {
        let now = clock.now_ns();
        worst = worst.max(now - last);
        last = now;
    }
    worst
}

/// How often the scheduler took the core from this thread.
fn preemptions() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/thread-self/status").ok()?;
    let mut lines = status.lines();
    let count = lines.find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"))?;
    count.trim().parse().ok()
}

/// Interrupts a processor has taken since boot.
fn interrupts(tree: &Tree, core: usize) -> Option<u64> {
    let text = tree.text("proc/interrupts")?;
    let mut lines = text.lines();
    let column = lines.next()?.split_whitespace().position(|name| name == format!("CPU{core}"))?;
    let count = |line: &str| line.split_whitespace().nth(column + 1)?.parse::<u64>().ok();
    Some(lines.filter_map(count).sum())
}

/// The time a cache line takes from one core to another and back.
fn pingpong(clock: &HostClock, one: usize, other: usize) -> Option<u64> {
    let line = CachePadded::new(AtomicU64::new(0));
    let deadline = clock.now_ns() + PINGPONG_NS_MAX;
    // Even numbers are the first core's to answer, odd ones the other's. Each pairs with the other.
    let play = |core: usize, odd: u64| -> Option<u64> {
        if !cpu::pin_to_core(core) {
            return None;
        }
        let begin = clock.now_ns();
        for round in 0..ROUND_TRIPS {
            let mine = 2 * round + odd;
            while line.load(Ordering::Acquire) != mine {
                std::hint::spin_loop();
                if clock.now_ns() > deadline {
                    return None;
                }
            }
            line.store(mine + 1, Ordering::Release);
        }
        Some((clock.now_ns() - begin) / ROUND_TRIPS)
    };
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| play(other, 1));
        let first = scope.spawn(|| play(one, 0));
        thread.join().ok().flatten()?;
        first.join().ok().flatten()
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::host::needs::Named;

    #[test]
    fn a_core_of_this_host_is_measured() {
        let core = *cpu::available_cores().last().unwrap();
        let shards = vec![Named { key: "shard.core".into(), value: core }];
        let needs = Needs { shards, ..Needs::default() };
        // Another test, or another user, may serve on it just now.
        let Some(measured) = measure(&Tree::new(Path::new("/")), &needs, 5_000_000) else {
            assert!(is_served(&Tree::new(Path::new("/")), core));
            return;
        };
        assert_eq!(measured.jitter_ns.len(), 1);
        assert!(measured.jitter_ns[0].1 > 0 && measured.clock_ns < 10_000, "{measured:?}");
        assert_eq!(measure(&Tree::new(Path::new("/elsewhere")), &needs, 1), None);
        let far = vec![Named { key: "shard.core".into(), value: 5_000 }];
        let needs = Needs { shards: far, ..Needs::default() };
        let measured = measure(&Tree::new(Path::new("/")), &needs, 1_000).unwrap();
        assert!(measured.jitter_ns.is_empty() && measured.pingpong_ns.is_none());
    }

    #[test]
    fn a_core_with_an_appliance_is_left_alone() {
        let place = tempfile::tempdir().unwrap();
        let task = place.path().join("proc/77/task/77");
        std::fs::create_dir_all(&task).unwrap();
        std::fs::write(place.path().join("proc/77/comm"), "buslane\n").unwrap();
        std::fs::write(task.join("status"), "Name:\tbuslane\nCpus_allowed_list:\t3\n").unwrap();
        let tree = Tree::new(place.path());
        assert!(is_served(&tree, 3));
        assert!(!is_served(&tree, 2));
    }

    #[test]
    fn interrupts_are_counted_by_core() {
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir(place.path().join("proc")).unwrap();
        let text = "      CPU0  CPU3\n 24:  1  20  PCI eth0\nLOC: 5 6 Local\nERR: 0\n";
        std::fs::write(place.path().join("proc/interrupts"), text).unwrap();
        let tree = Tree::new(place.path());
        assert_eq!(interrupts(&tree, 3), Some(26));
        assert_eq!(interrupts(&tree, 0), Some(6));
        assert_eq!(interrupts(&tree, 1), None);
    }
}
