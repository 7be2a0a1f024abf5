//! Cores, and what the host is: the facts a report has to state beside its numbers.

use std::fs;
use std::path::Path;

use serde::Serialize;

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

/// What a report says of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostFacts {
    /// Model of the processor.
    pub cpu: String,
    /// Kernel release.
    pub kernel: String,
    /// Whether it is a virtual machine.
    #[serde(rename = "virtual")]
    pub is_virtual: bool,
    /// Checks that failed, by name; what cannot be read is not counted as failed.
    pub checks_failed: Vec<String>,
}

impl HostFacts {
    /// Reads them below `root`, which is `/` but in tests.
    #[must_use]
    pub fn read(root: &Path) -> Self {
        let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
        let cpuinfo = text("proc/cpuinfo");
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':')).map_or("", |(_, value)| value.trim())
        };
        let is_virtual = field("flags").split(' ').any(|flag| flag == "hypervisor");
        let clock = text("sys/devices/system/clocksource/clocksource0/current_clocksource");
        let governor = text("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
        let thp = text("sys/kernel/mm/transparent_hugepage/enabled");
        let isolated = fs::read_to_string(root.join("sys/devices/system/cpu/isolated"));
        let checks = [
            ("virtualization", is_virtual),
            ("clocksource", !clock.is_empty() && clock.trim() != "tsc"),
            ("cpu.governor", !governor.is_empty() && governor.trim() != "performance"),
            ("thp", thp.contains("[always]")),
            ("cpu.isolated", isolated.is_ok_and(|cores| cores.trim().is_empty())),
        ];
        let failed = checks.into_iter().filter(|(_, failed)| *failed);
        Self {
            cpu: field("model name").to_owned(),
            kernel: text("proc/sys/kernel/osrelease").trim().to_owned(),
            is_virtual,
            checks_failed: failed.map(|(name, _)| name.to_owned()).collect(),
        }
    }
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

    #[test]
    fn facts_of_a_captured_host() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(HostFacts::read(dir.path()).checks_failed, [""; 0], "unknown is not failed");
        write("proc/cpuinfo", "model name\t: A CPU\nflags\t\t: fpu hypervisor\n");
        write("proc/sys/kernel/osrelease", "6.1.0\n");
        write("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n");
        write("sys/devices/system/cpu/isolated", "\n");
        let facts = HostFacts::read(dir.path());
        assert_eq!((facts.cpu.as_str(), facts.kernel.as_str()), ("A CPU", "6.1.0"));
        assert_eq!(facts.checks_failed, ["virtualization", "thp", "cpu.isolated"]);
    }
}
