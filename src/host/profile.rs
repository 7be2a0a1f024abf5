//! A commented profile for this host, to begin with.

use std::fmt::Write as _;

use super::topology::Device;
use super::{CATALOGUE, CpuSet, Needs, Status, Topology, Tree, check};
use crate::profile::Profile;

/// Checks that need a measurement, and those that say nothing about whether to serve, are not proposed
/// as required.
const NOT_REQUIRED: [&str; 9] = [
    "virtualization",
    "mitigations",
    "microcode",
    "disk.directory",
    "disk.space",
    "irq.rate",
    "jitter",
    "clock.cost",
    "core.pingpong",
];

/// The text of a profile called `name`, for the host in `tree`.
#[must_use]
pub(crate) fn new(tree: &Tree, name: &str) -> String {
    let host = Topology::read(tree);
    let assignment = host.propose();
    let shards = CpuSet::parse(&assignment.shards).unwrap_or_default();
    let core = shards.iter().next();
    let client = CpuSet::parse(&assignment.housekeeping).unwrap_or_default().iter().next();
    let mut text = format!(
        "\
# Written by `buslane host profile new`. What is left out has its default; hw-profiles/README.md has
# every key. Try it: buslane host check --profile THIS-FILE
name = \"{name}\"
description = \"{} processors, NUMA nodes: {}\"

[shard]
# Proposed for shards: cores {} ({}).
# To be left idle, as threads of the same physical cores: {}. For everything else: {}.
core = {}

[port]
# Kernel UDP on the loopback. For other hosts: the address of a network device.
driver = \"udp\"
address = \"127.0.0.1:9310\"
",
        host.online().len(),
        host.nodes.len(),
        or_none(&assignment.shards),
        assignment.reason,
        or_none(&assignment.idle),
        or_none(&assignment.housekeeping),
        core.map_or_else(|| "\"last\"".to_owned(), |core| core.to_string()),
    );
    nics(&mut text, &host, core);
    disks(&mut text, &host);
    let client = client.map_or_else(|| "\"first\"".to_owned(), |core| core.to_string());
    let _ = write!(
        text,
        "\n[client]\ncore = {client}\n\n[client.port]\n# Any address: one of the loopback reaches no other host.\naddress = \"0.0.0.0:0\"\n"
    );
    requirements(&mut text, tree, core, name);
    text
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

fn about(device: &Device) -> String {
    let part = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let node = device.node.map_or_else(|| "unknown".to_owned(), |node| node.to_string());
    format!(
        "{} {}, node {node}, driver {}: {}",
        part(&device.name),
        part(&device.pci),
        part(&device.driver),
        device.about
    )
}

fn nics(text: &mut String, host: &Topology, core: Option<usize>) {
    if host.nics.is_empty() {
        return;
    }
    text.push_str("#\n# Network devices of this host:\n");
    for nic in &host.nics {
        let _ = writeln!(text, "#   {}", about(nic));
    }
    let node = core.and_then(|core| host.node_of(core));
    let near = |nic: &&Device| node.is_none() || nic.node.is_none() || nic.node == node;
    let free = |nic: &&Device| nic.driver.as_deref() == Some("vfio-pci");
    let device = host.nics.iter().filter(near).find(free);
    if let Some(address) = device.and_then(|nic| nic.pci.as_ref()) {
        let _ = write!(
            text,
            "\
# {address} is ready for DPDK (a binary with --features dpdk). In place of driver and address
# above, with the address it shall have:
# driver = \"dpdk\"
# address = \"192.0.2.1:9310\"
# [port.dpdk]
# eal = [\"--file-prefix=buslane-{{instance}}-server\"]
# device = \"{address}\"
"
        );
    }
}

fn disks(text: &mut String, host: &Topology) {
    text.push_str(
        "
[disk]
driver = \"uring\"
# A file, on a file system that takes direct I/O, or a whole block device.
# Relative paths begin where the appliance is started.
path = \"buslane-data/log\"
size = \"1GiB\"
",
    );
    if !host.nvmes.is_empty() {
        text.push_str("#\n# NVMe devices of this host:\n");
    }
    for nvme in &host.nvmes {
        let _ = writeln!(text, "#   {}", about(nvme));
    }
}

/// `[host]`: what passes today is required, so that it stays so; the rest is named.
fn requirements(text: &mut String, tree: &Tree, core: Option<usize>, name: &str) {
    let mut profile = Profile { name: name.to_owned(), ..Profile::default() };
    if let Some(core) = core {
        profile.shard.core = crate::profile::Core::Number(core);
    }
    let cores: Vec<usize> = Topology::read(tree).online().iter().collect();
    let findings = check(tree, &Needs::of(&profile, &cores), None);
    let ids = |wanted: &dyn Fn(Status) -> bool| -> Vec<&str> {
        let fits = findings.iter().filter(|finding| wanted(finding.status));
        fits.map(|finding| finding.id).filter(|id| !NOT_REQUIRED.contains(id)).collect()
    };
    text.push_str(
        "\n[host]\n# Checks without which `serve` does not start. These pass today:\nrequire = [\n",
    );
    for id in ids(&|status| status == Status::Pass) {
        let _ = writeln!(text, "    \"{id}\",");
    }
    text.push_str("]\n");
    let open = ids(&Status::is_bad);
    if !open.is_empty() {
        text.push_str("# These do not yet; mend them (buslane host tune), then add them:\n");
        for id in open {
            let why = CATALOGUE.iter().find(|item| item.id == id).map_or("", |item| item.why);
            let _ = writeln!(text, "#   \"{id}\"  {why}");
        }
    }
}
