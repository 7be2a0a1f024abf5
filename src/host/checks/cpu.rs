//! Checks of processors: who else may run where shards run, and how fast they run.

use super::{cores, left_to_others, no_core, or_none, processes};
use crate::host::topology;
use crate::host::verdict::{Knob, Mend, Verdict, knob};
use crate::host::{CpuSet, View};

const CPU: &str = "sys/devices/system/cpu";

/// What the names of an appliance's own threads begin with, DPDK's and SPDK's among them.
const OWN_THREADS: [&str; 4] = ["buslane", "dpdk-", "rte_mp_", "reactor_"];

/// The longest a core may take to wake.
const WAKE_US_MAX: i64 = 2;

/// Boot parameters a host for low latency has, unless the profile names others.
const CMDLINE: [&str; 4] =
    ["skew_tick=1", "tsc=reliable", "nosoftlockup", "rcupdate.rcu_normal_after_boot=1"];

pub(in crate::host) fn isolated(view: &View<'_>) -> Verdict {
    if let Some(verdict) = no_core(view) {
        return verdict;
    }
    let wanted = cores(&view.cores);
    let Some(isolated) = topology::isolated(view.tree) else {
        return Verdict::unknown(wanted, "the kernel lists no isolated cores");
    };
    let good = view.cores.without(&isolated).is_empty();
    Verdict::when(good, wanted, or_none(&isolated.to_string()), || {
        left_to_others(view, |_| {
            Mend::boot(&[format!("isolcpus=managed_irq,domain,{}", view.cores)])
        })
    })
}

pub(in crate::host) fn nohz_full(view: &View<'_>) -> Verdict {
    if let Some(verdict) = no_core(view) {
        return verdict;
    }
    let wanted = cores(&view.cores);
    let Some(quiet) = view.tree.cpus(&format!("{CPU}/nohz_full")) else {
        return Verdict::unknown(wanted, "this kernel has no such file (CONFIG_NO_HZ_FULL)");
    };
    let good = view.cores.without(&quiet).is_empty();
    Verdict::when(good, wanted, or_none(&quiet.to_string()), || {
        left_to_others(view, |_| Mend::boot(&[format!("nohz_full={}", view.cores)]))
    })
}

pub(in crate::host) fn rcu_nocbs(view: &View<'_>) -> Verdict {
    if let Some(verdict) = no_core(view) {
        return verdict;
    }
    let wanted = cores(&view.cores);
    if view.cmdline.is_none() {
        return Verdict::unknown(wanted, "/proc/cmdline cannot be read");
    }
    let list = |name: &str| match view.boot(name)? {
        "all" => Some(view.topology.online()),
        text => CpuSet::parse(text),
    };
    // nohz_full implies it.
    let found = list("rcu_nocbs").unwrap_or_default().or(&list("nohz_full").unwrap_or_default());
    let good = view.cores.without(&found).is_empty();
    Verdict::when(good, wanted, or_none(&found.to_string()), || {
        left_to_others(view, |_| Mend::boot(&[format!("rcu_nocbs={}", view.cores)]))
    })
}

pub(in crate::host) fn cmdline(view: &View<'_>) -> Verdict {
    let mut expected: Vec<String> = view.needs.cmdline.clone();
    if expected.is_empty() {
        expected.extend(CMDLINE.map(str::to_owned));
    }
    let wanted = expected.join(" ");
    let Some(given) = &view.cmdline else {
        return Verdict::unknown(wanted, "/proc/cmdline cannot be read");
    };
    let missing: Vec<String> =
        expected.iter().filter(|word| !given.contains(word)).cloned().collect();
    let found = if missing.is_empty() {
        "all of them".to_owned()
    } else {
        format!("without {}", missing.join(" "))
    };
    Verdict::when(missing.is_empty(), wanted, found, || Mend::boot(&missing))
}

/// `core: value` for each core whose file has another value than `good`.
fn deviating(view: &View<'_>, file: &str, good: &str) -> Vec<(usize, String)> {
    let read = |core| Some((core, view.tree.text(&format!("{CPU}/cpu{core}/cpufreq/{file}"))?));
    view.cores.iter().filter_map(read).filter(|(_, value)| value != good).collect()
}

pub(in crate::host) fn governor(view: &View<'_>) -> Verdict {
    if let Some(verdict) = no_core(view) {
        return verdict;
    }
    let wanted = "performance";
    let seen = |core| view.tree.exists(&format!("{CPU}/cpu{core}/cpufreq/scaling_governor"));
    if !view.cores.iter().any(seen) {
        return Verdict::unknown(wanted, "no cpufreq: firmware or hypervisor sets the frequency");
    }
    let mut knobs: Vec<Knob> = Vec::new();
    let mut found = Vec::new();
    for file in ["scaling_governor", "energy_performance_preference"] {
        for (core, value) in deviating(view, file, "performance") {
            let path = format!("/{CPU}/cpu{core}/cpufreq/{file}");
            knobs.push(knob(path, "performance"));
            found.push(format!("core {core} {value}"));
        }
    }
    let good = knobs.is_empty();
    let found = if good { "performance".to_owned() } else { found.join(", ") };
    Verdict::when(good, wanted, found, || Mend::knobs(knobs))
}

pub(in crate::host) fn turbo(view: &View<'_>) -> Verdict {
    if let Some(verdict) = no_core(view) {
        return verdict;
    }
    let wanted = "a fixed frequency";
    let core = view.cores.iter().next().expect("checked above");
    let mhz =
        |file: &str| Some(view.tree.number(&format!("{CPU}/cpu{core}/cpufreq/{file}"))? / 1000);
    let intel = format!("{CPU}/intel_pstate/no_turbo");
    let other = format!("{CPU}/cpufreq/boost");
    let (turbo, knobs) = match (view.tree.number(&intel), view.tree.number(&other)) {
        (Some(off), _) => (Some(off == 0), vec![knob(format!("/{intel}"), "1")]),
        (None, Some(on)) => (Some(on == 1), vec![knob(format!("/{other}"), "0")]),
        (None, None) => (None, Vec::new()),
    };
    let range = mhz("scaling_min_freq").zip(mhz("scaling_max_freq"));
    let range_text = range.map_or_else(String::new, |(low, high)| format!(", {low}-{high} MHz"));
    match (turbo, range) {
        (None, None) => Verdict::unknown(wanted, "the host shows neither frequency nor turbo"),
        (Some(false), _) => Verdict::good(wanted, format!("turbo off{range_text}")),
        (_, Some((low, high))) if low == high => Verdict::good(wanted, format!("{low} MHz")),
        (Some(true), _) => {
            Verdict::bad(wanted, format!("turbo on{range_text}"), Mend::knobs(knobs))
        }
        (None, Some(_)) => Verdict::unknown(wanted, format!("turbo not shown{range_text}")),
    }
}

/// States of a core that are allowed and take longer to leave than `WAKE_US_MAX`: number, name, latency.
fn deep_states(view: &View<'_>, core: usize) -> Option<Vec<(usize, String, i64)>> {
    let directory = format!("{CPU}/cpu{core}/cpuidle");
    let states = view.tree.numbered(&directory, "state")?;
    let mut deep = Vec::new();
    for state in states {
        let file = |name: &str| format!("{directory}/state{state}/{name}");
        let latency = view.tree.number(&file("latency")).unwrap_or(0);
        let disabled = view.tree.number(&file("disable")).unwrap_or(0) != 0;
        if !disabled && latency > WAKE_US_MAX {
            deep.push((state, view.tree.text(&file("name")).unwrap_or_default(), latency));
        }
    }
    Some(deep)
}

pub(in crate::host) fn cstates(view: &View<'_>) -> Verdict {
    if let Some(verdict) = no_core(view) {
        return verdict;
    }
    let wanted = format!("awake within {WAKE_US_MAX} us");
    if view.boot("idle") == Some("poll") {
        return Verdict::good(wanted, "idle=poll");
    }
    // Four bytes: the least that anybody holding the file asks for. Only root may read it.
    let held = view.tree.bytes("dev/cpu_dma_latency");
    let held = held.and_then(|bytes| Some(i32::from_le_bytes(bytes.try_into().ok()?)));
    if let Some(us) = held.filter(|us| i64::from(*us) <= WAKE_US_MAX) {
        return Verdict::good(wanted, format!("cpu_dma_latency is held at {us} us"));
    }
    let mut deepest: Option<(i64, String)> = None;
    let mut knobs = Vec::new();
    let mut seen = false;
    for core in view.cores.iter() {
        let Some(deep) = deep_states(view, core) else {
            continue;
        };
        seen = true;
        for (state, name, latency) in deep {
            knobs.push(knob(format!("/{CPU}/cpu{core}/cpuidle/state{state}/disable"), "1"));
            let this = (latency, format!("core {core} may sleep in {name}, {latency} us to wake"));
            deepest = deepest.max(Some(this));
        }
    }
    match deepest {
        Some((_, found)) => Verdict::bad(wanted, found, Mend::knobs(knobs)),
        None if seen => Verdict::good(wanted, "no deeper state is allowed"),
        None => Verdict::unknown(wanted, "no cpuidle: firmware or hypervisor decides"),
    }
}

pub(in crate::host) fn smt(view: &View<'_>) -> Verdict {
    if let Some(verdict) = no_core(view) {
        return verdict;
    }
    let wanted = "siblings of shards' cores idle";
    if view.tree.number(&format!("{CPU}/smt/active")) == Some(0) {
        return Verdict::good(wanted, "SMT is off");
    }
    let known = |core| view.tree.exists(&format!("{CPU}/cpu{core}/topology/thread_siblings_list"));
    if !view.cores.iter().all(known) {
        return Verdict::unknown(wanted, "the host does not show which threads share a core");
    }
    let siblings_of = |core: usize| -> CpuSet {
        let cpu = view.topology.cpu(core);
        cpu.into_iter().flat_map(|cpu| cpu.siblings.iter().copied()).collect()
    };
    let siblings =
        view.cores.iter().fold(CpuSet::default(), |all, core| all.or(&siblings_of(core)));
    let shared = siblings.and(&view.cores);
    if !shared.is_empty() {
        let found = format!("{} are threads of one physical core, both for shards", cores(&shared));
        let mend = Mend::command("choose cores of their own: buslane host topology");
        return Verdict::bad(wanted, found, mend);
    }
    let isolated = topology::isolated(view.tree).unwrap_or_default();
    let busy = siblings.and(&view.topology.online()).without(&isolated);
    if busy.is_empty() {
        return Verdict::good(wanted, "they are offline, isolated, or there are none");
    }
    let knobs = busy.iter().map(|cpu| knob(format!("/{CPU}/cpu{cpu}/online"), "0")).collect();
    Verdict::poor(wanted, format!("sibling {busy} takes any work"), Mend::knobs(knobs))
}

/// Threads that are not the kernel's, nor ours, and may run on a shard's core: how many, of whom.
fn intruders(view: &View<'_>) -> Option<(usize, Vec<String>)> {
    let own = std::process::id() as usize;
    let (mut count, mut names) = (0, Vec::new());
    let ids = processes(view)?;
    let mut read = false;
    for id in ids.into_iter().filter(|id| !view.tree.is_live() || *id != own) {
        for task in view.tree.numbered(&format!("proc/{id}/task"), "").unwrap_or_default() {
            // A process may end while we look.
            let Some(status) = view.tree.text(&format!("proc/{id}/task/{task}/status")) else {
                continue;
            };
            read = true;
            let field = |name: &str| {
                let line = status.lines().find(|line| line.starts_with(name));
                line.map(|line| line[name.len()..].trim().to_owned())
            };
            let allowed = field("Cpus_allowed_list:").and_then(|list| CpuSet::parse(&list));
            // Threads of the kernel have no memory of their own, and stay where they are.
            let user = field("VmSize:").is_some();
            let name = field("Name:").unwrap_or_default();
            let ours = OWN_THREADS.iter().any(|own| name.starts_with(own));
            if user && !ours && allowed.is_some_and(|cpus| !cpus.and(&view.cores).is_empty()) {
                count += 1;
                names.push(name);
            }
        }
    }
    names.sort_unstable();
    names.dedup();
    read.then_some((count, names))
}

pub(in crate::host) fn affinity(view: &View<'_>) -> Verdict {
    if let Some(verdict) = no_core(view) {
        return verdict;
    }
    let wanted = format!("no other thread on {}", cores(&view.cores));
    let Some((count, names)) = intruders(view) else {
        return Verdict::unknown(wanted, "other processes cannot be seen");
    };
    if count == 0 {
        return Verdict::good(wanted, "none");
    }
    let some = names.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
    let more = if names.len() > 3 { ", ..." } else { "" };
    let found = format!("{count} threads may run there ({some}{more})");
    let mend = left_to_others(view, |others| {
        Mend::command(format!(
            "for s in system.slice user.slice init.scope; do systemctl set-property --runtime $s \
             AllowedCPUs={others}; done"
        ))
    });
    Verdict::bad(wanted, found, mend)
}
