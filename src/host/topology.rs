//! What the host is made of: processors, NUMA nodes, network and NVMe devices, and which belong together.

use serde::Serialize;

use super::tree::{CpuSet, Tree};

const CPU: &str = "sys/devices/system/cpu";
const NODE: &str = "sys/devices/system/node";
const PCI: &str = "sys/bus/pci/devices";

/// A logical processor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cpu {
    /// Its number.
    pub number: usize,
    /// Whether it runs; nothing more is known of one that does not.
    pub online: bool,
    /// The physical core it is a thread of, within the socket.
    pub core: Option<usize>,
    /// The socket.
    pub socket: Option<usize>,
    /// The NUMA node.
    pub node: Option<usize>,
    /// The other threads of its physical core.
    pub siblings: Vec<usize>,
    /// Whether the scheduler keeps off it.
    pub isolated: bool,
}

/// A NUMA node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Its number.
    pub number: usize,
    /// Its processors, as in `0-3,8`.
    pub cpus: String,
    /// Its memory.
    pub memory_bytes: Option<u64>,
}

/// A network or NVMe device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Device {
    /// What the kernel calls it (`eth0`, `nvme0`); none when its driver is vfio-pci.
    pub name: Option<String>,
    /// Its PCI address.
    pub pci: Option<String>,
    /// The driver it is bound to.
    pub driver: Option<String>,
    /// The NUMA node it is attached to; none where the firmware does not say.
    pub node: Option<usize>,
    /// What it is: speed and link of a NIC, model of a disk.
    pub about: String,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Topology {
    /// Processors, ascending.
    pub cpus: Vec<Cpu>,
    /// NUMA nodes, ascending.
    pub nodes: Vec<Node>,
    /// Network devices that are hardware, or look like it.
    pub nics: Vec<Device>,
    /// NVMe controllers.
    pub nvmes: Vec<Device>,
}

impl Topology {
    /// Reads it; what cannot be read is left out.
    #[must_use]
    pub fn read(tree: &Tree) -> Self {
        let nodes = nodes(tree);
        Self { cpus: cpus(tree, &nodes), nodes, nics: nics(tree), nvmes: nvmes(tree) }
    }

    /// Processors that run.
    #[must_use]
    pub fn online(&self) -> CpuSet {
        self.cpus.iter().filter(|cpu| cpu.online).map(|cpu| cpu.number).collect()
    }

    /// The processor with this number.
    #[must_use]
    pub fn cpu(&self, number: usize) -> Option<&Cpu> {
        self.cpus.iter().find(|cpu| cpu.number == number)
    }

    /// The NUMA node of a processor.
    #[must_use]
    pub fn node_of(&self, cpu: usize) -> Option<usize> {
        self.cpu(cpu)?.node
    }

    /// The processors of a NUMA node.
    #[must_use]
    pub fn node_cpus(&self, node: usize) -> CpuSet {
        let node = self.nodes.iter().find(|one| one.number == node);
        node.and_then(|node| CpuSet::parse(&node.cpus)).unwrap_or_default()
    }

    /// Physical cores that are online; 0 where the host does not say.
    #[must_use]
    pub fn physical_cores(&self) -> usize {
        let online = self.online();
        let is_first = |cpu: &&Cpu| {
            let mut siblings = cpu.siblings.iter();
            online.contains(cpu.number)
                && siblings.all(|sibling| *sibling > cpu.number || !online.contains(*sibling))
        };
        self.cpus.iter().filter(is_first).count()
    }

    /// A proposal: where shards may run, and what is left to everything else.
    #[must_use]
    pub fn propose(&self) -> Assignment {
        let node = self.busiest_node();
        let firsts = self
            .cpus
            .iter()
            .filter(|cpu| cpu.online && cpu.siblings.iter().all(|sibling| *sibling > cpu.number));
        // The first physical core of a host takes what the kernel cannot put elsewhere.
        let free: Vec<&Cpu> = firsts.skip(1).collect();
        let isolated: Vec<&Cpu> = free.iter().copied().filter(|cpu| cpu.isolated).collect();
        let pool = if isolated.is_empty() { &free } else { &isolated };
        let is_near = |cpu: &&Cpu| node.is_some() && cpu.node == node;
        let near: Vec<&Cpu> = pool.iter().copied().filter(is_near).collect();
        let chosen = if near.is_empty() { pool } else { &near };
        let mut shards: CpuSet = chosen.iter().map(|cpu| cpu.number).collect();
        let kind = if isolated.is_empty() { "physical cores" } else { "isolated cores" };
        let at_devices = shards.iter().all(|cpu| self.node_of(cpu) == node);
        let mut reason = match node.filter(|_| at_devices) {
            Some(node) => format!("{kind} of NUMA node {node}, where the devices are"),
            None if isolated.is_empty() => "all physical cores but the first".to_owned(),
            None => kind.to_owned(),
        };
        if shards.is_empty() {
            shards = self.online().iter().last().into_iter().collect();
            reason = "the host has one physical core: the shard shares it".to_owned();
        }
        let siblings = self.cpus.iter().filter(|cpu| shards.contains(cpu.number));
        let idle: CpuSet = siblings.flat_map(|cpu| cpu.siblings.iter().copied()).collect();
        let housekeeping = self.online().without(&shards).without(&idle);
        Assignment {
            shards: shards.to_string(),
            idle: idle.to_string(),
            housekeeping: housekeeping.to_string(),
            reason,
        }
    }

    /// The node most devices are attached to; those bound to vfio-pci count most, they are meant for us.
    fn busiest_node(&self) -> Option<usize> {
        let weight = |node: usize| -> usize {
            let here =
                self.nics.iter().chain(&self.nvmes).filter(|device| device.node == Some(node));
            here.map(|device| 1 + 4 * usize::from(device.driver.as_deref() == Some("vfio-pci")))
                .sum()
        };
        let busiest = self.nodes.iter().map(|node| node.number).rev().max_by_key(|n| weight(*n))?;
        (self.nodes.len() > 1 && weight(busiest) > 0).then_some(busiest)
    }
}

/// Which processors do what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Assignment {
    /// For shards, one each.
    pub shards: String,
    /// Their siblings: left idle, or switched off.
    pub idle: String,
    /// For the kernel, interrupts, housekeeping and everything else.
    pub housekeeping: String,
    /// Why so.
    pub reason: String,
}

fn nodes(tree: &Tree) -> Vec<Node> {
    let numbers = tree.numbered(NODE, "node").unwrap_or_default();
    let read = |number| Node {
        number,
        cpus: tree.text(&format!("{NODE}/node{number}/cpulist")).unwrap_or_default(),
        memory_bytes: memory(tree, number),
    };
    numbers.into_iter().map(read).collect()
}

fn memory(tree: &Tree, node: usize) -> Option<u64> {
    let text = tree.text(&format!("{NODE}/node{node}/meminfo"))?;
    let line = text.lines().find(|line| line.contains("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().rev().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

fn cpus(tree: &Tree, nodes: &[Node]) -> Vec<Cpu> {
    let numbers = tree.numbered(CPU, "cpu").unwrap_or_default();
    let online = tree
        .cpus(&format!("{CPU}/online"))
        .unwrap_or_else(|| numbers.iter().copied().collect::<CpuSet>());
    let isolated = isolated(tree).unwrap_or_default();
    let read = |number: usize| {
        let topology = format!("{CPU}/cpu{number}/topology");
        let whole = |name: &str| {
            let number = tree.number(&format!("{topology}/{name}"))?;
            usize::try_from(number).ok()
        };
        let siblings = tree.cpus(&format!("{topology}/thread_siblings_list")).unwrap_or_default();
        let node = nodes
            .iter()
            .find(|node| CpuSet::parse(&node.cpus).is_some_and(|cpus| cpus.contains(number)));
        Cpu {
            number,
            online: online.contains(number),
            core: whole("core_id"),
            socket: whole("physical_package_id"),
            node: node.map(|node| node.number),
            siblings: siblings.iter().filter(|sibling| *sibling != number).collect(),
            isolated: isolated.contains(number),
        }
    };
    numbers.into_iter().map(read).collect()
}

/// Processors the scheduler keeps off, by boot parameter or by cgroup partition; `None` where neither
/// can be read.
#[must_use]
pub(crate) fn isolated(tree: &Tree) -> Option<CpuSet> {
    let boot = tree.cpus(&format!("{CPU}/isolated"));
    let mut partitions = tree.cpus("sys/fs/cgroup/cpuset.cpus.isolated");
    for name in tree.names("sys/fs/cgroup").unwrap_or_default() {
        let group = format!("sys/fs/cgroup/{name}");
        if tree.text(&format!("{group}/cpuset.cpus.partition")).as_deref() == Some("isolated") {
            let cpus = tree.cpus(&format!("{group}/cpuset.cpus.effective")).unwrap_or_default();
            partitions = Some(partitions.unwrap_or_default().or(&cpus));
        }
    }
    match (boot, partitions) {
        (Some(boot), Some(partitions)) => Some(boot.or(&partitions)),
        (boot, partitions) => boot.or(partitions),
    }
}

fn pci_device(tree: &Tree, address: &str) -> Device {
    let node = tree.number(&format!("{PCI}/{address}/numa_node"));
    Device {
        name: None,
        pci: Some(address.to_owned()),
        driver: tree.link_name(&format!("{PCI}/{address}/driver")),
        node: node.and_then(|node| usize::try_from(node).ok()),
        about: String::new(),
    }
}

/// PCI devices whose class begins so.
fn of_class(tree: &Tree, class: &str) -> Vec<String> {
    let mut addresses = tree.names(PCI).unwrap_or_default();
    addresses.retain(|address| {
        tree.text(&format!("{PCI}/{address}/class")).is_some_and(|text| text.starts_with(class))
    });
    addresses
}

/// What a PCI device is, in numbers: `8086:1592`.
fn vendor_device(tree: &Tree, address: &str) -> String {
    let number = |name: &str| tree.text(&format!("{PCI}/{address}/{name}")).unwrap_or_default();
    let plain = |text: String| text.trim_start_matches("0x").to_owned();
    format!("{}:{}", plain(number("vendor")), plain(number("device")))
}

fn nics(tree: &Tree) -> Vec<Device> {
    let mut nics = Vec::new();
    for name in tree.names("sys/class/net").unwrap_or_default() {
        let path = format!("sys/class/net/{name}");
        let Some(address) = tree.pci_of(&format!("{path}/device")) else {
            continue;
        };
        let speed = tree.number(&format!("{path}/speed")).filter(|speed| *speed > 0);
        let speed =
            speed.map_or_else(|| "speed unknown".to_owned(), |mbit| format!("{mbit} Mbit/s"));
        let link = tree.text(&format!("{path}/operstate")).unwrap_or_else(|| "unknown".to_owned());
        let device = pci_device(tree, &address);
        nics.push(Device { name: Some(name), about: format!("{speed}, link {link}"), ..device });
    }
    for address in of_class(tree, "0x02") {
        if nics.iter().all(|nic| nic.pci.as_ref() != Some(&address)) {
            let about = vendor_device(tree, &address);
            nics.push(Device { about, ..pci_device(tree, &address) });
        }
    }
    nics
}

fn nvmes(tree: &Tree) -> Vec<Device> {
    let mut nvmes = Vec::new();
    for name in tree.names("sys/class/nvme").unwrap_or_default() {
        let path = format!("sys/class/nvme/{name}");
        let text = |field: &str| tree.text(&format!("{path}/{field}")).unwrap_or_default();
        let address = tree.text(&format!("{path}/address"));
        let device = address.map(|address| pci_device(tree, &address)).unwrap_or_default();
        let about = format!("{} firmware {}", text("model"), text("firmware_rev"));
        nvmes.push(Device { name: Some(name), about, ..device });
    }
    for address in of_class(tree, "0x0108") {
        if nvmes.iter().all(|nvme| nvme.pci.as_ref() != Some(&address)) {
            let about = vendor_device(tree, &address);
            nvmes.push(Device { about, ..pci_device(tree, &address) });
        }
    }
    nvmes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(number: usize, node: usize, siblings: &[usize]) -> Cpu {
        Cpu {
            number,
            online: true,
            core: Some(number),
            socket: Some(node),
            node: Some(node),
            siblings: siblings.to_vec(),
            isolated: false,
        }
    }

    fn two_sockets() -> Topology {
        let cpus = (0..8).map(|n| cpu(n, n / 2 % 2, &[(n + 4) % 8])).collect();
        let node =
            |number: usize, cpus: &str| Node { number, cpus: cpus.to_owned(), memory_bytes: None };
        let nodes = vec![node(0, "0-1,4-5"), node(1, "2-3,6-7")];
        Topology { cpus, nodes, ..Topology::default() }
    }

    #[test]
    fn shards_go_where_the_devices_are_and_siblings_stay_idle() {
        let mut host = two_sockets();
        let all = host.propose();
        assert_eq!((all.shards.as_str(), all.idle.as_str()), ("1-3", "5-7"));
        assert_eq!(all.housekeeping, "0,4");
        host.nics.push(Device { node: Some(1), ..Device::default() });
        let near = host.propose();
        assert_eq!((near.shards.as_str(), near.idle.as_str()), ("2-3", "6-7"));
        assert_eq!(near.housekeeping, "0-1,4-5");
        assert!(near.reason.contains("node 1"), "{}", near.reason);
        host.cpus[3].isolated = true;
        assert_eq!(host.propose().shards, "3");
    }

    #[test]
    fn small_hosts_get_a_proposal_too() {
        let one = Topology { cpus: vec![cpu(0, 0, &[])], ..Topology::default() };
        assert_eq!(one.propose().shards, "0");
        let two = Topology { cpus: vec![cpu(0, 0, &[]), cpu(1, 0, &[])], ..Topology::default() };
        let proposal = two.propose();
        assert_eq!((proposal.shards.as_str(), proposal.housekeeping.as_str()), ("1", "0"));
        assert_eq!(Topology::default().propose().shards, "");
    }
}
