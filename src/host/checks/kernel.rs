//! Checks of the kernel: its clock, its habits, its age.

use super::super::verdict::{Mend, Verdict, knob};
use crate::host::View;

const CLOCK: &str = "sys/devices/system/clocksource/clocksource0";

/// The kernel from which `io_uring` has what the log uses, without the faults of its youth.
const VERSION_MIN: (u32, u32) = (5, 15);

pub(in crate::host) fn clocksource(view: &View<'_>) -> Verdict {
    let wanted = "tsc, constant and nonstop";
    let Some(current) = view.tree.text(&format!("{CLOCK}/current_clocksource")) else {
        return Verdict::unknown(wanted, "the kernel does not say which clock it uses");
    };
    let flags = view.cpu_flag("constant_tsc").zip(view.cpu_flag("nonstop_tsc"));
    let Some((constant, nonstop)) = flags else {
        return Verdict::unknown(wanted, format!("{current}; the processor lists no features"));
    };
    if !constant || !nonstop {
        let found = format!("{current}, on a processor whose counter changes its pace or stops");
        return Verdict::bad(wanted, found, Mend::command("use a processor with an invariant TSC"));
    }
    if current == "tsc" {
        return Verdict::good(wanted, "tsc, constant and nonstop");
    }
    let available = view.tree.text(&format!("{CLOCK}/available_clocksource")).unwrap_or_default();
    let mend = if available.split(' ').any(|name| name == "tsc") {
        Mend::knobs(vec![knob(format!("/{CLOCK}/current_clocksource"), "tsc")])
    } else {
        Mend::boot(&["clocksource=tsc".to_owned(), "tsc=reliable".to_owned()])
    };
    Verdict::bad(wanted, current, mend)
}

pub(in crate::host) fn numa_balancing(view: &View<'_>) -> Verdict {
    let path = "proc/sys/kernel/numa_balancing";
    match view.tree.number(path) {
        None => Verdict::unknown("0", "the kernel has no such setting, or it cannot be read"),
        Some(value) => Verdict::when(value == 0, "0", value.to_string(), || {
            Mend::knobs(vec![knob(format!("/{path}"), "0")])
        }),
    }
}

pub(in crate::host) fn watchdogs(view: &View<'_>) -> Verdict {
    let wanted = "nmi_watchdog 0, watchdog 0, timer_migration 0, stat_interval 10 or more";
    let mut found = Vec::new();
    let mut knobs = Vec::new();
    let mut seen = false;
    for (path, least, most, value) in [
        ("kernel/nmi_watchdog", 0, 0, "0"),
        ("kernel/watchdog", 0, 0, "0"),
        ("kernel/timer_migration", 0, 0, "0"),
        ("vm/stat_interval", 10, i64::MAX, "10"),
    ] {
        let Some(current) = view.tree.number(&format!("proc/sys/{path}")) else {
            continue;
        };
        seen = true;
        if !(least..=most).contains(&current) {
            let name = path.rsplit('/').next().expect("a path has a name");
            found.push(format!("{name} {current}"));
            knobs.push(knob(format!("/proc/sys/{path}"), value));
        }
    }
    if !seen {
        return Verdict::unknown(wanted, "none of them can be read");
    }
    let good = knobs.is_empty();
    let found = if good { "as wanted".to_owned() } else { found.join(", ") };
    Verdict::when(good, wanted, found, || {
        let settings = knobs.iter().map(|knob| {
            let name = knob.path.trim_start_matches("/proc/sys/").replace('/', ".");
            format!("{name}={}", knob.value)
        });
        let command = format!("sysctl -w {}", settings.collect::<Vec<_>>().join(" "));
        Mend { command, ..Mend::knobs(knobs) }
    })
}

pub(in crate::host) fn version(view: &View<'_>) -> Verdict {
    let (major, minor) = VERSION_MIN;
    let wanted = format!("Linux {major}.{minor} or later");
    let Some(release) = view.tree.text("proc/sys/kernel/osrelease") else {
        return Verdict::unknown(wanted, "the kernel does not say");
    };
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let (Some(Ok(found_major)), Some(Ok(found_minor))) = (numbers.next(), numbers.next()) else {
        return Verdict::unknown(wanted, release);
    };
    let found: (u32, u32) = (found_major, found_minor);
    Verdict::when(found >= VERSION_MIN, wanted, release, || {
        Mend::command("install a newer kernel of your distribution")
    })
}
