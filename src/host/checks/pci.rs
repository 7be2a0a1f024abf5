//! Checks of PCI devices that are driven from user space.

use super::or_none;
use crate::host::View;
use crate::host::needs::Named;
use crate::host::verdict::{Mend, Verdict, knob};

const PCI: &str = "sys/bus/pci/devices";

/// Drivers that share a device with DPDK: binding it away would be wrong.
const SHARED_DRIVERS: [&str; 3] = ["mlx5_core", "mlx4_core", "mana"];

/// The verdict where the profile uses no such device.
fn no_device(view: &View<'_>) -> Option<Verdict> {
    let none = view.needs.devices().next().is_none();
    none.then(|| Verdict::not_applicable("the profile drives no PCI device"))
}

fn driver(view: &View<'_>, address: &str) -> Option<String> {
    view.tree.link_name(&format!("{PCI}/{address}/driver"))
}

/// Devices that need vfio-pci: all but those whose kernel driver shares them.
fn for_vfio<'a>(view: &'a View<'_>) -> Vec<&'a Named<String>> {
    let shared = |device: &&Named<String>| {
        driver(view, &device.value).is_some_and(|name| SHARED_DRIVERS.contains(&name.as_str()))
    };
    view.needs.devices().filter(|device| !shared(device)).collect()
}

pub(in crate::host) fn iommu(view: &View<'_>) -> Verdict {
    if let Some(verdict) = no_device(view) {
        return verdict;
    }
    let wanted = "on, in pass-through mode for the kernel (iommu=pt)";
    let some = |path: &str| view.tree.names(path).map(|names| !names.is_empty());
    let seen = (some("sys/kernel/iommu_groups"), some("sys/class/iommu"));
    let mut boot = vec!["iommu=pt".to_owned()];
    if view.cpu_field("vendor_id") == Some("GenuineIntel") {
        boot.insert(0, "intel_iommu=on".to_owned());
    }
    match seen {
        (None, None) => Verdict::unknown(wanted, "the kernel shows nothing of it"),
        (Some(true), _) | (_, Some(true)) if view.boot("iommu") == Some("pt") => {
            Verdict::good(wanted, "on, iommu=pt")
        }
        (Some(true), _) | (_, Some(true)) => {
            Verdict::poor(wanted, "on, translating for the kernel too", Mend::boot(&boot))
        }
        (Some(false) | None, Some(false) | None) if no_iommu_mode(view) => {
            let found = "OFF: devices may write ANYWHERE in memory (vfio no-IOMMU mode)";
            Verdict::poor(wanted, found, Mend::boot(&boot))
        }
        (Some(false) | None, Some(false) | None) => Verdict::bad(wanted, "off", Mend::boot(&boot)),
    }
}

/// Whether vfio hands out devices that no IOMMU holds back.
fn no_iommu_mode(view: &View<'_>) -> bool {
    let path = "sys/module/vfio/parameters/enable_unsafe_noiommu_mode";
    view.tree.text(path).as_deref() == Some("Y")
}

pub(in crate::host) fn vfio(view: &View<'_>) -> Verdict {
    if let Some(verdict) = no_device(view) {
        return verdict;
    }
    let devices = for_vfio(view);
    if devices.is_empty() {
        return Verdict::not_applicable("the devices' kernel driver shares them with DPDK");
    }
    let wanted = "vfio-pci loaded, groups accessible, no-IOMMU mode off";
    if view.tree.names("sys/bus/pci/drivers").is_none() {
        return Verdict::unknown(wanted, "the kernel shows no PCI drivers");
    }
    if !view.tree.exists("sys/bus/pci/drivers/vfio-pci") {
        return Verdict::bad(wanted, "vfio-pci is not loaded", Mend::command("modprobe vfio-pci"));
    }
    for Named { value: address, .. } in devices {
        let Some(group) = view.tree.link_name(&format!("{PCI}/{address}/iommu_group")) else {
            continue;
        };
        let ours = driver(view, address).as_deref() == Some("vfio-pci");
        let node = [format!("dev/vfio/{group}"), format!("dev/vfio/noiommu-{group}")];
        if ours && !node.iter().any(|path| view.tree.exists(path)) {
            let found = format!("no /dev/vfio/{group} for {address}");
            let mend = Mend::command(format!("ls -l /dev/vfio; chown $USER /dev/vfio/{group}"));
            return Verdict::bad(wanted, found, mend);
        }
    }
    if no_iommu_mode(view) {
        let path = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode";
        let mend = Mend::knobs(vec![knob(path, "N")]);
        return Verdict::poor(wanted, "loaded, no-IOMMU mode is on", mend);
    }
    Verdict::good(wanted, "loaded")
}

/// Why the kernel cannot do without a device: the default route, or a mounted file system.
fn in_use(view: &View<'_>, address: &str) -> Option<String> {
    let nics = view.topology.nics.iter().filter(|nic| nic.pci.as_deref() == Some(address));
    let routes = view.tree.text("proc/net/route").unwrap_or_default();
    for name in nics.filter_map(|nic| nic.name.as_deref()) {
        let is_default = |line: &str| {
            let mut fields = line.split_whitespace();
            fields.next() == Some(name) && fields.next() == Some("00000000")
        };
        if routes.lines().any(is_default) {
            return Some(format!("{name} carries the default route"));
        }
    }
    let nvmes = view.topology.nvmes.iter().filter(|nvme| nvme.pci.as_deref() == Some(address));
    let mounts = view.tree.text("proc/mounts").unwrap_or_default();
    for name in nvmes.filter_map(|nvme| nvme.name.as_deref()) {
        let prefix = format!("/dev/{name}n");
        if let Some(line) = mounts.lines().find(|line| line.starts_with(&prefix)) {
            let place = line.split(' ').nth(1).unwrap_or("?");
            return Some(format!("{name} is mounted on {place}"));
        }
    }
    None
}

pub(in crate::host) fn bound(view: &View<'_>) -> Verdict {
    if let Some(verdict) = no_device(view) {
        return verdict;
    }
    let wanted = "vfio-pci, or a driver that shares the device";
    if view.tree.names(PCI).is_none() {
        return Verdict::unknown(wanted, "the kernel shows no PCI devices");
    }
    let mut found = Vec::new();
    for Named { key, value: address } in view.needs.devices() {
        if !view.tree.exists(&format!("{PCI}/{address}")) {
            let mend = Mend::command(format!("set {key} to a device of: buslane host topology"));
            return Verdict::bad(wanted, format!("{address} is not there"), mend);
        }
        let name = driver(view, address).unwrap_or_default();
        if name != "vfio-pci" && !SHARED_DRIVERS.contains(&name.as_str()) {
            let (what, mend) = match in_use(view, address) {
                Some(use_) => (format!(", and {use_}"), format!("choose another device for {key}")),
                None => (String::new(), format!("driverctl set-override {address} vfio-pci")),
            };
            let found = format!("{address} {}{what}", or_none(&name));
            return Verdict::bad(wanted, found, Mend::command(mend));
        }
        found.push(format!("{address} {name}"));
    }
    Verdict::good(wanted, found.join(", "))
}

pub(in crate::host) fn group(view: &View<'_>) -> Verdict {
    if let Some(verdict) = no_device(view) {
        return verdict;
    }
    let wanted = "only our devices, and bridges";
    let mut seen = false;
    for Named { value: address, .. } in view.needs.devices() {
        let directory = format!("{PCI}/{address}/iommu_group/devices");
        for other in view.tree.names(&directory).unwrap_or_default() {
            seen = true;
            let ours = view.needs.devices().any(|device| device.value == other);
            let class = view.tree.text(&format!("{PCI}/{other}/class")).unwrap_or_default();
            if !ours && !class.starts_with("0x06") {
                let found = format!("{address} shares its group with {other}");
                let mend = Mend::command(
                    "move the card to another slot, or switch on ACS for the slot in the firmware",
                );
                return Verdict::bad(wanted, found, mend);
            }
        }
    }
    if seen {
        Verdict::good(wanted, "nothing else")
    } else {
        Verdict::unknown(wanted, "the devices have no IOMMU group")
    }
}

pub(in crate::host) fn numa(view: &View<'_>) -> Verdict {
    if let Some(verdict) = no_device(view) {
        return verdict;
    }
    let node_of = |core| view.topology.node_of(core);
    let Some(node) = view.cores.iter().find_map(node_of) else {
        return Verdict::unknown("one node", "the nodes of the shards' cores are not known");
    };
    let wanted = format!("node {node}, as core {}", view.cores);
    let mut found = Vec::new();
    for Named { key, value: address } in view.needs.devices() {
        let number = view.tree.number(&format!("{PCI}/{address}/numa_node"));
        // -1: the firmware does not say.
        let Some(there) = number.and_then(|number| usize::try_from(number).ok()) else {
            return Verdict::unknown(wanted, format!("{address} does not say its node"));
        };
        if there != node {
            let cpus = view.topology.node_cpus(there);
            let mend = Mend::command(format!(
                "pin shards to cores of node {there} ({cpus}), or set {key}"
            ));
            return Verdict::bad(wanted, format!("{address} on node {there}"), mend);
        }
        found.push(address.clone());
    }
    Verdict::good(wanted, format!("{} on node {node}", found.join(", ")))
}

pub(in crate::host) fn link(view: &View<'_>) -> Verdict {
    if let Some(verdict) = no_device(view) {
        return verdict;
    }
    let wanted = "all the device can";
    let mut found = Vec::new();
    for Named { value: address, .. } in view.needs.devices() {
        let text = |name: &str| view.tree.text(&format!("{PCI}/{address}/{name}"));
        let now = text("current_link_speed").zip(text("current_link_width"));
        let most = text("max_link_speed").zip(text("max_link_width"));
        let Some(((speed, width), (speed_max, width_max))) = now.zip(most) else {
            return Verdict::unknown(wanted, format!("{address} does not show its link"));
        };
        let link = format!("{address} {} x{width}", speed.trim_end_matches(" PCIe"));
        if speed != speed_max || width != width_max {
            let found = format!("{link}, of {} x{width_max}", speed_max.trim_end_matches(" PCIe"));
            let mend = Mend::command("move the card to a slot with all lanes, of its generation");
            return Verdict::bad(wanted, found, mend);
        }
        found.push(link);
    }
    Verdict::good(wanted, found.join(", "))
}

pub(in crate::host) fn aspm(view: &View<'_>) -> Verdict {
    if let Some(verdict) = no_device(view) {
        return verdict;
    }
    let wanted = "performance, or off";
    if view.boot("pcie_aspm") == Some("off") {
        return Verdict::good(wanted, "pcie_aspm=off");
    }
    let path = "sys/module/pcie_aspm/parameters/policy";
    let Some(found) = view.tree.chosen(path) else {
        return Verdict::unknown(wanted, "the kernel does not show its policy");
    };
    Verdict::when(found == "performance", wanted, found, || {
        Mend::knobs(vec![knob(format!("/{path}"), "performance")])
    })
}
