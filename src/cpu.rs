//! Cores, and what the kernel says of a process, of its clock and of a file system.
#![allow(unsafe_code, reason = "system calls that fill a structure")]

use std::ffi::CString;
use std::fs;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The cores this process may use, ascending.
#[must_use]
pub(crate) fn available_cores() -> Vec<usize> {
    let mut cores: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
    cores.sort_unstable();
    cores
}

/// Pins the calling thread to a core; `false` when the operating system refuses.
#[must_use]
pub(crate) fn pin_to_core(core: usize) -> bool {
    // The mask the crate fills has room for so many, and panics above.
    let room = usize::try_from(libc::CPU_SETSIZE).is_ok_and(|cores| core < cores);
    room && core_affinity::set_for_current(core_affinity::CoreId { id: core })
}

/// Resident memory of a process in bytes, from `/proc`; `None` where it cannot be read.
#[must_use]
pub(crate) fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// Keeps what this process has open, but for standard input, output and error, from the processes it starts.
/// DPDK opens its files and sockets so that they would be passed on: a process that held our end of a memif
/// by that would hear of everything said on it, and keep it up when we are gone.
///
/// # Errors
/// What the kernel says.
pub(crate) fn keep_descriptors() -> std::io::Result<()> {
    let flags = libc::c_int::try_from(libc::CLOSE_RANGE_CLOEXEC).expect("a small constant");
    // SAFETY: takes numbers only.
    let code = unsafe { libc::close_range(3, libc::c_uint::MAX, flags) };
    if code == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// How well the kernel's clock is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClockState {
    /// Whether somebody keeps it.
    pub is_synchronised: bool,
    /// How far it may be off, in microseconds, as its keeper says.
    pub error_us_max: u64,
}

/// What `adjtimex` says of the kernel's clock; `None` where it says nothing.
#[must_use]
pub(crate) fn clock_state() -> Option<ClockState> {
    // SAFETY: `timex` is plain numbers, for which all zeros are valid; no modes: only read.
    let mut state: libc::timex = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: the kernel fills the structure during the call.
    let code = unsafe { libc::adjtimex(&raw mut state) };
    let is_synchronised = code != libc::TIME_ERROR && state.status & libc::STA_UNSYNC == 0;
    let error_us_max = u64::try_from(state.maxerror).ok()?;
    (code >= 0).then_some(ClockState { is_synchronised, error_us_max })
}

/// Bytes an unprivileged user may still write to the file system of `path`.
#[must_use]
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: `statvfs` is plain numbers, for which all zeros are valid.
    let mut facts: libc::statvfs = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: the path ends with a zero; the kernel fills the structure during the call.
    let code = unsafe { libc::statvfs(path.as_ptr(), &raw mut facts) };
    (code == 0).then(|| facts.f_bavail.saturating_mul(facts.f_frsize))
}

/// Lets the kernel write a core dump of this process, as large as the hard limit allows, also when the binary
/// has capabilities. Where it may not, there is none: nothing else depends on it.
pub(crate) fn allow_core_dumps() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills the structure during the call.
    let code = unsafe { libc::getrlimit(libc::RLIMIT_CORE, &raw mut limit) };
    limit.rlim_cur = limit.rlim_max;
    if code == 0 {
        // SAFETY: the kernel reads the structure during the call.
        let _ = unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const limit) };
    }
    // SAFETY: takes numbers only.
    let _ = unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) };
}

/// Keeps the kernel from writing a core dump of this process into a file; one that a pipe takes stays allowed.
pub(crate) fn forbid_core_files() {
    let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills the structure during the call.
    let code = unsafe { libc::getrlimit(libc::RLIMIT_CORE, &raw mut now) };
    if code == 0 {
        now.rlim_cur = 0;
        // SAFETY: the kernel reads the structure during the call.
        let _ = unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const now) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers() {
        assert!(free_bytes(Path::new("/")).is_some());
        assert_eq!(free_bytes(Path::new("/no/such/place")), None);
        assert!(clock_state().is_some_and(|state| state.error_us_max < u64::MAX));
    }

    #[test]
    fn a_thread_can_be_pinned_to_each_of_its_cores() {
        let cores = available_cores();
        assert!(!cores.is_empty());
        assert!(pin_to_core(cores[0]));
        assert!(!pin_to_core(5_000));
    }
}
