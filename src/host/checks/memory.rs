//! Checks of memory: huge pages, and what would take pages away.

use super::limit;
use crate::host::View;
use crate::host::verdict::{Mend, Verdict, knob};
use crate::profile::units::format_bytes;

const NODE: &str = "sys/devices/system/node";

/// Pages of one size on one node.
struct Pages {
    bytes: u64,
    total: u64,
    free: u64,
}

fn pages(view: &View<'_>, node: usize) -> Option<Vec<Pages>> {
    let directory = format!("{NODE}/node{node}/hugepages");
    let mut all = Vec::new();
    for name in view.tree.names(&directory)? {
        let kib = name.strip_prefix("hugepages-").and_then(|rest| rest.strip_suffix("kB"));
        let Some(kib) = kib.and_then(|kib| kib.parse::<u64>().ok()) else {
            continue;
        };
        let count = |file: &str| {
            let number = view.tree.number(&format!("{directory}/{name}/{file}"))?;
            u64::try_from(number).ok()
        };
        let (total, free) = count("nr_hugepages").zip(count("free_hugepages"))?;
        all.push(Pages { bytes: kib * 1024, total, free });
    }
    Some(all)
}

/// The node the first device is on, or the first shard's core, or the first there is.
fn node(view: &View<'_>) -> usize {
    let devices = view.topology.nics.iter().chain(&view.topology.nvmes);
    let ours =
        |pci: &Option<String>| view.needs.devices().any(|one| Some(&one.value) == pci.as_ref());
    let device = devices.filter(|device| ours(&device.pci)).find_map(|device| device.node);
    let core = view.cores.iter().next().and_then(|core| view.topology.node_of(core));
    device.or(core).unwrap_or(0)
}

pub(in crate::host) fn hugepages(view: &View<'_>) -> Verdict {
    let Some(bytes) = view.needs.hugepage_bytes else {
        return Verdict::not_applicable("the profile uses no huge pages");
    };
    let node = node(view);
    let wanted = format!("{} free on node {node}, in pages of 1GiB", format_bytes(bytes));
    let Some(pages) = pages(view, node).filter(|pages| !pages.is_empty()) else {
        return Verdict::unknown(wanted, "the kernel shows no huge pages for the node");
    };
    let free: u64 = pages.iter().map(|size| size.bytes * size.free).sum();
    let texts = pages.iter().map(|size| {
        format!("{} free of {} of {}", size.free, size.total, format_bytes(size.bytes))
    });
    let found = texts.collect::<Vec<_>>().join(", ");
    let gib = bytes.div_ceil(1 << 30);
    let boot = ["default_hugepagesz=1G".into(), "hugepagesz=1G".into(), format!("hugepages={gib}")];
    if free < bytes {
        let small = pages.iter().find(|size| size.bytes == 2 << 20);
        let mut mend = Mend::boot(&boot);
        if let Some(small) = small {
            let missing = (bytes - free).div_ceil(2 << 20) + small.total;
            let path = format!("/{NODE}/node{node}/hugepages/hugepages-2048kB/nr_hugepages");
            mend = Mend::knobs(vec![knob(path, missing.to_string())]);
            mend.boot = boot.to_vec();
        }
        return Verdict::bad(wanted, found, mend);
    }
    let mounts = view.tree.text("proc/mounts").unwrap_or_default();
    if !mounts.lines().any(|line| line.split(' ').nth(2) == Some("hugetlbfs")) {
        let mend = Mend::command("mount -t hugetlbfs nodev /dev/hugepages");
        return Verdict::bad(wanted, format!("{found}, hugetlbfs is not mounted"), mend);
    }
    let large: u64 = pages.iter().filter(|s| s.bytes == 1 << 30).map(|s| s.bytes * s.free).sum();
    if large < bytes {
        return Verdict::poor(wanted, found, Mend::boot(&boot));
    }
    Verdict::good(wanted, found)
}

pub(in crate::host) fn thp(view: &View<'_>) -> Verdict {
    let path = "sys/kernel/mm/transparent_hugepage/enabled";
    let Some(found) = view.tree.chosen(path) else {
        return Verdict::unknown(
            "never",
            "the kernel has no transparent huge pages, or hides them",
        );
    };
    Verdict::when(found == "never", "never", found, || {
        Mend::knobs(vec![knob(format!("/{path}"), "never")])
    })
}

pub(in crate::host) fn swap(view: &View<'_>) -> Verdict {
    let wanted = "no swap, swappiness 10 or less";
    let swaps = view.tree.text("proc/swaps");
    let devices = swaps.map(|text| text.lines().skip(1).filter(|l| !l.is_empty()).count());
    let path = "proc/sys/vm/swappiness";
    let (Some(devices), Some(swappiness)) = (devices, view.tree.number(path)) else {
        return Verdict::unknown(wanted, "/proc/swaps or vm.swappiness cannot be read");
    };
    let found = format!("{devices} swap areas, swappiness {swappiness}");
    let mut mend = Mend::default();
    if swappiness > 10 {
        mend = Mend { command: "sysctl -w vm.swappiness=10".into(), ..mend_swappiness(path) };
    }
    if devices > 0 {
        let both = if mend.command.is_empty() { "" } else { "; " };
        mend.command = format!("swapoff -a{both}{}", mend.command);
    }
    Verdict::when(mend.command.is_empty(), wanted, found, || mend)
}

fn mend_swappiness(path: &str) -> Mend {
    Mend::knobs(vec![knob(format!("/{path}"), "10")])
}

pub(in crate::host) fn memlock(view: &View<'_>) -> Verdict {
    let Some(found) = limit(view, "Max locked memory") else {
        return Verdict::unknown("unlimited", "/proc/self/limits cannot be read");
    };
    let command = "LimitMEMLOCK=infinity in the unit (buslane host generate systemd), or: ulimit -l unlimited";
    if found == "unlimited" {
        return Verdict::good("unlimited", found);
    }
    let bytes = found.parse().map_or_else(|_| found.clone(), format_bytes);
    // The kernel's own ports and disks pin little; devices pin all they may write to.
    if view.needs.devices().next().is_some() {
        Verdict::bad("unlimited", bytes, Mend::command(command))
    } else {
        Verdict::poor("unlimited", bytes, Mend::command(command))
    }
}
