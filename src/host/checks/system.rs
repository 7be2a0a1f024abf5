//! Checks of the system as a whole, and those that are measured.

use super::{limit, no_core, not_measured, running};
use crate::cpu;
use crate::host::View;
use crate::host::verdict::{Mend, Verdict};

/// Programs that keep the clock.
const CLOCK_KEEPERS: [&str; 5] = ["chronyd", "ptp4l", "phc2sys", "ntpd", "systemd-timesyn"];

/// Open files an appliance may need.
const FILES_MIN: u64 = 1024;

/// Reading the clock costs less where it is the processor's counter.
const CLOCK_NS_MAX: u64 = 60;

pub(in crate::host) fn mitigations(view: &View<'_>) -> Verdict {
    let wanted = "stated";
    let directory = "sys/devices/system/cpu/vulnerabilities";
    let Some(names) = view.tree.names(directory) else {
        return Verdict::unknown(wanted, "the kernel does not list them");
    };
    let (mut mitigated, mut open) = (0, Vec::new());
    for name in &names {
        let text = view.tree.text(&format!("{directory}/{name}")).unwrap_or_default();
        if text.starts_with("Mitigation") {
            mitigated += 1;
        } else if text.starts_with("Vulnerable") {
            open.push(name.as_str());
        }
    }
    let open = if open.is_empty() { "none".to_owned() } else { open.join(", ") };
    Verdict::good(wanted, format!("{mitigated} of {} mitigated, open: {open}", names.len()))
}

pub(in crate::host) fn microcode(view: &View<'_>) -> Verdict {
    match view.cpu_field("microcode") {
        None => Verdict::unknown("stated", "the processor does not show it"),
        Some(version) => Verdict::good(
            "stated",
            format!("{} of {}", version, view.cpu_field("model name").unwrap_or("?")),
        ),
    }
}

pub(in crate::host) fn virtualization(view: &View<'_>) -> Verdict {
    let wanted = "bare metal";
    let Some(is_virtual) = view.cpu_flag("hypervisor") else {
        return Verdict::unknown(wanted, "the processor lists no features");
    };
    let dmi = |file: &str| view.tree.text(&format!("sys/class/dmi/id/{file}")).unwrap_or_default();
    let machine = format!("{} {}", dmi("sys_vendor"), dmi("product_name"));
    let machine = machine.trim();
    let named = |kind: &str| {
        if machine.is_empty() { kind.to_owned() } else { format!("{kind}: {machine}") }
    };
    let found = named(if is_virtual { "virtual machine" } else { "bare metal" });
    Verdict::when(!is_virtual, wanted, found, || {
        Mend::command("measure what you promise on bare metal")
    })
}

pub(in crate::host) fn time_sync(view: &View<'_>) -> Verdict {
    let most = view.needs.tolerance.clock_us_max;
    let wanted = format!("kept, error below {most} us");
    let keeper = running(view, &CLOCK_KEEPERS).flatten();
    let state = if view.tree.is_live() { cpu::clock_state() } else { None };
    let by =
        keeper.as_ref().map_or_else(|| "no keeper seen".to_owned(), |name| format!("{name} runs"));
    let mend = || match &keeper {
        Some(name) if name == "chronyd" => Mend::command("chronyc sources; chronyc tracking"),
        Some(_) => Mend::command("see what it says: timedatectl timesync-status, or its log"),
        None => Mend::command("apt-get install chrony (or linuxptp, with a NIC that stamps)"),
    };
    match state {
        None if running(view, &[]).is_none() => Verdict::unknown(wanted, "not shown"),
        None if keeper.is_some() => {
            Verdict::unknown(wanted, format!("{by}, its error is not shown"))
        }
        None => Verdict::bad(wanted, by, mend()),
        Some(state) if !state.is_synchronised => {
            Verdict::bad(wanted, format!("{by}, the kernel's clock is not kept"), mend())
        }
        Some(state) => {
            let found = format!("{by}, error below {} us", state.error_us_max);
            Verdict::when(state.error_us_max < most, wanted, found, mend)
        }
    }
}

pub(in crate::host) fn open_files(view: &View<'_>) -> Verdict {
    let wanted = format!("{FILES_MIN} or more");
    let Some(found) = limit(view, "Max open files") else {
        return Verdict::unknown(wanted, "/proc/self/limits cannot be read");
    };
    let good = found == "unlimited" || found.parse().is_ok_and(|files: u64| files >= FILES_MIN);
    Verdict::when(good, wanted, found, || {
        Mend::command(format!("LimitNOFILE={FILES_MIN} in the unit, or: ulimit -n {FILES_MIN}"))
    })
}

pub(in crate::host) fn coredump(view: &View<'_>) -> Verdict {
    let wanted = "allowed, with a place to go";
    let Some(size) = limit(view, "Max core file size") else {
        return Verdict::unknown(wanted, "/proc/self/limits cannot be read");
    };
    let pattern = view.tree.text("proc/sys/kernel/core_pattern").unwrap_or_default();
    let found = format!("size {size}, core_pattern {}", super::or_none(&pattern));
    // A pattern that is a program gets the dump whatever the limit, unless the limit is 1.
    let good = !pattern.is_empty() && (pattern.starts_with('|') || size != "0");
    Verdict::when(good, wanted, found, || {
        Mend::command("LimitCORE=infinity in the unit, or: ulimit -c unlimited")
    })
}

pub(in crate::host) fn jitter(view: &View<'_>) -> Verdict {
    if let Some(verdict) = no_core(view) {
        return verdict;
    }
    let most = view.needs.tolerance.jitter_us_max;
    let wanted = format!("never away for more than {most} us");
    let Some(measured) = &view.measured else {
        return not_measured(view, wanted);
    };
    let Some((core, ns)) = measured.jitter_ns.iter().copied().max_by_key(|(_, ns)| *ns) else {
        return Verdict::unknown(wanted, "the process may not run on the core");
    };
    let times = measured.preempted.iter().find(|(other, _)| *other == core);
    let times = times.map_or_else(String::new, |(_, n)| format!(", other threads ran {n} times"));
    let found = format!("core {core}: {} us{times}", ns.div_ceil(1000));
    Verdict::when(ns <= most * 1000, wanted, found, || {
        Mend::command("isolate the core: cpu.isolated, cpu.nohz_full, irq.affinity")
    })
}

pub(in crate::host) fn clock_cost(view: &View<'_>) -> Verdict {
    let wanted = format!("{CLOCK_NS_MAX} ns or less");
    let Some(ns) = view.measured.as_ref().map(|measured| measured.clock_ns) else {
        return not_measured(view, wanted);
    };
    Verdict::when(ns <= CLOCK_NS_MAX, wanted, format!("{ns} ns"), || {
        Mend::command("see clocksource: without an invariant TSC each reading is a system call")
    })
}

pub(in crate::host) fn pingpong(view: &View<'_>) -> Verdict {
    match view.measured.as_ref().map(|measured| measured.pingpong_ns) {
        None => not_measured(view, "stated"),
        Some(None) => Verdict::unknown("stated", "there is no second core to measure with"),
        Some(Some(ns)) => Verdict::good("stated", format!("{ns} ns there and back")),
    }
}
