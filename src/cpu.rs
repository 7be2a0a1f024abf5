//! Cores, and what the kernel says of a process.

use std::fs;

/// The cores this process may use, ascending.
#[must_use]
pub fn available_cores() -> Vec<usize> {
    let mut cores: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
    cores.sort_unstable();
    cores
}

/// Pins the calling thread to a core; `false` when the operating system refuses.
#[must_use]
pub fn pin_to_core(core: usize) -> bool {
    core_affinity::set_for_current(core_affinity::CoreId { id: core })
}

/// Resident memory of a process in bytes, from `/proc`; `None` where it cannot be read.
#[must_use]
pub fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_can_be_pinned_to_each_of_its_cores() {
        let cores = available_cores();
        assert!(!cores.is_empty());
        assert!(pin_to_core(cores[0]));
    }
}
