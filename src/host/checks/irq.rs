//! Checks of what interrupts a core: devices, and the kernel's own work.

use super::{cores, left_to_others, no_core, not_measured, running};
use crate::host::verdict::{Mend, Verdict, knob};
use crate::host::{CpuSet, View};

const WORKQUEUE: &str = "sys/devices/virtual/workqueue";

/// Interrupts a second a shard's core may take.
const RATE_MAX: u64 = 10;

/// Interrupts that go to a core of ours: their numbers.
fn on_our_cores(view: &View<'_>) -> Option<Vec<usize>> {
    let numbers = view.tree.numbered("proc/irq", "")?;
    let mut ours = Vec::new();
    let mut seen = false;
    for number in numbers {
        let list = |file: &str| view.tree.cpus(&format!("proc/irq/{number}/{file}"));
        // Where it really goes, and only where the kernel does not say, where it may go.
        let effective = list("effective_affinity_list").filter(|cpus| !cpus.is_empty());
        let Some(cpus) = effective.or_else(|| list("smp_affinity_list")) else {
            continue;
        };
        seen = true;
        if !cpus.and(&view.cores).is_empty() {
            ours.push(number);
        }
    }
    seen.then_some(ours)
}

/// What an interrupt is for: the last words of its line in `/proc/interrupts`.
fn name(view: &View<'_>, number: usize) -> String {
    let text = view.tree.text("proc/interrupts").unwrap_or_default();
    let head = format!("{number}:");
    let line = text.lines().find(|line| line.trim_start().starts_with(&head));
    let name = line.and_then(|line| line.split_whitespace().last());
    name.filter(|name| *name != head).map_or_else(String::new, |name| format!(" {name}"))
}

pub(in crate::host) fn affinity(view: &View<'_>) -> Verdict {
    if let Some(verdict) = no_core(view) {
        return verdict;
    }
    let wanted = format!("no device's interrupt on {}", cores(&view.cores));
    let Some(numbers) = on_our_cores(view) else {
        return Verdict::unknown(wanted, "/proc/irq cannot be read");
    };
    if numbers.is_empty() {
        return Verdict::good(wanted, "none");
    }
    let some: Vec<String> =
        numbers.iter().take(3).map(|number| format!("{number}{}", name(view, *number))).collect();
    let more = if numbers.len() > 3 { ", ..." } else { "" };
    let found = format!("{} go there ({}{more})", numbers.len(), some.join(", "));
    let mend = left_to_others(view, |others| {
        let file = |number: &usize| format!("/proc/irq/{number}/smp_affinity_list");
        let to = |number: &usize| knob(file(number), others.to_string());
        Mend::knobs(numbers.iter().map(to).collect())
    });
    Verdict::bad(wanted, found, mend)
}

pub(in crate::host) fn rate(view: &View<'_>) -> Verdict {
    if let Some(verdict) = no_core(view) {
        return verdict;
    }
    let wanted = format!("at most {RATE_MAX} a second on {}", cores(&view.cores));
    let Some(rates) = view.measured.as_ref().map(|measured| &measured.interrupts_per_second) else {
        return not_measured(view, wanted);
    };
    let Some((core, rate)) = rates.iter().copied().max_by_key(|(_, rate)| *rate) else {
        return Verdict::unknown(wanted, "/proc/interrupts cannot be read");
    };
    Verdict::when(rate <= RATE_MAX, wanted, format!("{rate} on core {core}"), || {
        left_to_others(view, |_| {
            let mut mend = Mend::boot(&[format!("nohz_full={}", view.cores)]);
            mend.command.push_str(", and move interrupts (irq.affinity)");
            mend
        })
    })
}

/// The processors irqbalance is told to leave alone: its environment, or the file it is read from.
fn banned(view: &View<'_>) -> CpuSet {
    let mut texts = Vec::new();
    for id in view.tree.numbered("proc", "").unwrap_or_default() {
        if view.tree.text(&format!("proc/{id}/comm")).as_deref() == Some("irqbalance") {
            let environment = view.tree.text(&format!("proc/{id}/environ")).unwrap_or_default();
            texts.push(environment.replace('\0', "\n"));
        }
    }
    for file in ["etc/default/irqbalance", "etc/sysconfig/irqbalance"] {
        texts.extend(view.tree.text(file));
    }
    let lines = texts.iter().flat_map(|text| text.lines());
    lines
        .filter_map(|line| line.trim().strip_prefix("IRQBALANCE_BANNED_CPULIST="))
        .filter_map(|list| CpuSet::parse(list.trim_matches('"')))
        .fold(CpuSet::default(), |all, list| all.or(&list))
}

pub(in crate::host) fn balance(view: &View<'_>) -> Verdict {
    if let Some(verdict) = no_core(view) {
        return verdict;
    }
    let wanted = format!("off, or kept off {}", cores(&view.cores));
    match running(view, &["irqbalance"]) {
        None => Verdict::unknown(wanted, "other processes cannot be seen"),
        Some(None) => Verdict::good(wanted, "not running"),
        Some(Some(_)) => {
            let banned = banned(view);
            if view.cores.without(&banned).is_empty() {
                return Verdict::good(wanted, format!("running, kept off {banned}"));
            }
            let mend = Mend::command("systemctl disable --now irqbalance");
            Verdict::bad(wanted, "running on all cores", mend)
        }
    }
}

pub(in crate::host) fn workqueue(view: &View<'_>) -> Verdict {
    if let Some(verdict) = no_core(view) {
        return verdict;
    }
    let wanted = format!("without {}", cores(&view.cores));
    let mut found = Vec::new();
    let mut ours: Vec<String> = Vec::new();
    for path in [WORKQUEUE.to_owned(), format!("{WORKQUEUE}/writeback")] {
        let path = format!("{path}/cpumask");
        let Some(cpus) = view.tree.text(&path).and_then(|mask| CpuSet::parse_mask(&mask)) else {
            continue;
        };
        if !cpus.and(&view.cores).is_empty() {
            ours.push(format!("/{path}"));
        }
        found.push(cpus.to_string());
    }
    if found.is_empty() {
        return Verdict::unknown(wanted, "the kernel does not show its mask");
    }
    found.dedup();
    let found = format!("cores {}", found.join(" and "));
    Verdict::when(ours.is_empty(), wanted, found, || {
        left_to_others(view, |others| {
            let to = |path: &String| knob(path.clone(), others.mask());
            Mend::knobs(ours.iter().map(to).collect())
        })
    })
}
