//! What a profile needs of the host: the cores, devices and memory that the checks look at.

use std::path::Path;

use super::topology::Topology;
use super::tree::{CpuSet, is_pci_address};
use crate::profile::{DiskDriver, PortDriver, Profile, ProfileError};

/// Huge pages a DPDK environment takes when its arguments do not say: what its pools need, rounded up.
const HUGEPAGE_BYTES_DEFAULT: u64 = 1 << 30;

/// A core or device, and the key of the profile that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named<T> {
    /// The key, as in `shard.core`.
    pub key: String,
    /// What it names.
    pub value: T,
}

/// How far off a host may be, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tolerance {
    /// The longest a pinned core may be away from its thread.
    pub jitter_us_max: u64,
    /// How far its clock may be off.
    pub clock_us_max: u64,
}

/// What a profile needs of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Name of the profile.
    pub profile: String,
    /// The core of each shard; none for a shard that is not pinned.
    pub shards: Vec<Named<usize>>,
    /// Network devices, by PCI address.
    pub nics: Vec<Named<String>>,
    /// NVMe devices the kernel does not drive, by PCI address.
    pub nvmes: Vec<Named<String>>,
    /// The IPv4 address the kernel receives at, when the port is the kernel's.
    pub address: Option<std::net::Ipv4Addr>,
    /// UDP payload of a datagram at most.
    pub datagram_bytes: usize,
    /// File or block device of the log, when the kernel drives the disk.
    pub disk_path: Option<String>,
    /// Bytes of the log.
    pub disk_bytes: u64,
    /// Directories, besides the log's, that files are made in: interval logs, the unix socket, keys.
    pub directories: Vec<String>,
    /// Whether metrics are served at an IPv6 address.
    pub http_is_ipv6: bool,
    /// Bytes of huge pages; none when it uses no huge pages.
    pub hugepage_bytes: Option<u64>,
    /// Boot parameters it expects; empty takes the usual ones.
    pub cmdline: Vec<String>,
    /// How far off it may be.
    pub tolerance: Tolerance,
    /// Checks without which it does not serve.
    pub require: Vec<String>,
}

impl Needs {
    /// What `profile` needs on a host where it may use `cores`. A core that is not there is left out: it is
    /// an error of the profile, reported as such.
    #[must_use]
    pub fn of(profile: &Profile, cores: &[usize]) -> Self {
        let shards = profile.shard_cores(cores).unwrap_or_default().into_iter().enumerate();
        let shards =
            shards.filter_map(|(at, core)| Some(named(&profile.shard_core_key(at), core?)));
        let dpdk = profile.port.dpdk.as_ref().filter(|_| profile.port.driver == PortDriver::Dpdk);
        let device = dpdk.map(|dpdk| dpdk.device.as_str());
        let (driver, path) = (profile.disk.driver, profile.disk.path.as_str());
        let nvme = Some(path).filter(|_| driver == DiskDriver::Spdk);
        let eal = dpdk.map_or(&[][..], |dpdk| &dpdk.eal);
        let huge = (dpdk.is_some() || nvme.is_some()) && !eal.iter().any(|arg| arg == "--no-huge");
        Self {
            profile: profile.name.clone(),
            shards: shards.collect(),
            nics: device
                .and_then(pci_address)
                .map(|a| named("port.dpdk.device", a))
                .into_iter()
                .collect(),
            nvmes: nvme.and_then(pci_address).map(|a| named("disk.path", a)).into_iter().collect(),
            address: dpdk.is_none().then(|| *profile.port.address.ip()),
            datagram_bytes: profile.port.datagram_bytes,
            disk_path: (driver == DiskDriver::Uring).then(|| path.to_owned()),
            disk_bytes: profile.disk.size,
            directories: directories(profile),
            http_is_ipv6: profile.metrics.http_address().is_some_and(|address| address.is_ipv6()),
            hugepage_bytes: huge.then(|| eal_bytes(eal).unwrap_or(HUGEPAGE_BYTES_DEFAULT)),
            cmdline: profile.host.cmdline.clone(),
            tolerance: Tolerance {
                jitter_us_max: profile.host.jitter_us_max,
                clock_us_max: profile.host.clock_us_max,
            },
            require: profile.host.require.clone(),
        }
    }

    /// The cores of all shards.
    #[must_use]
    pub fn cores(&self) -> CpuSet {
        self.shards.iter().map(|shard| shard.value).collect()
    }

    /// Every device that is driven from user space.
    pub fn devices(&self) -> impl Iterator<Item = &Named<String>> {
        self.nics.iter().chain(&self.nvmes)
    }

    /// Whether shards and devices are where they belong: no two shards on one physical core, every
    /// device on the NUMA node of the cores that use it. What the host does not say is let pass.
    ///
    /// # Errors
    /// `ProfileError::Host`: the keys, what was found, and what to choose instead. `place` says where a key
    /// was written.
    pub fn check_placement(
        &self,
        host: &Topology,
        place: &dyn Fn(&str) -> String,
    ) -> Result<(), ProfileError> {
        let wrong =
            |key: &str, what: String| Err(ProfileError::Host(format!("{}: {what}", place(key))));
        for (at, shard) in self.shards.iter().enumerate() {
            let Named { key, value: core } = shard;
            let there = host.online();
            if !there.is_empty() && !there.contains(*core) {
                let what =
                    format!("{key} is {core}, but this host has core {there}; choose one of them");
                return wrong(key, what);
            }
            for other in &self.shards[..at] {
                if let Some(what) = shared_core(host, other, shard, self.is_crowded(host)) {
                    return wrong(key, what);
                }
            }
            for device in self.devices() {
                if let Some(what) = far_device(host, shard, device) {
                    return wrong(&device.key, what);
                }
            }
        }
        Ok(())
    }

    /// Whether there are more shards than physical cores, so that siblings have to do.
    fn is_crowded(&self, host: &Topology) -> bool {
        let physical = host.physical_cores();
        physical > 0 && physical < self.shards.len()
    }

    /// What is not as it should be with the cores and is let pass, because the host has no better ones.
    #[must_use]
    pub fn crowding(&self, host: &Topology) -> Option<String> {
        self.is_crowded(host).then(|| {
            format!(
                "{} shards run on {} physical cores: those on two threads of one core slow each other down",
                self.shards.len(),
                host.physical_cores()
            )
        })
    }
}

/// Where interval logs and the unix socket are, and what the directory of keys is made in, if the profile says so.
fn directories(profile: &Profile) -> Vec<String> {
    let metrics = &profile.metrics;
    let socket = Some(metrics.socket.as_str()).filter(|path| !["", "off"].contains(path));
    let beside = socket.and_then(|path| Path::new(path).parent()).and_then(Path::to_str);
    let dir = Some(metrics.dir.as_str());
    let keys = Path::new(&profile.security.keys).parent().and_then(Path::to_str);
    [dir, beside, keys]
        .into_iter()
        .flatten()
        .filter(|path| !path.is_empty())
        .map(str::to_owned)
        .collect()
}

fn named<T>(key: &str, value: T) -> Named<T> {
    Named { key: key.to_owned(), value }
}

/// What is wrong with two shards on one physical core, if they are.
fn shared_core(
    host: &Topology,
    one: &Named<usize>,
    other: &Named<usize>,
    is_crowded: bool,
) -> Option<String> {
    let (core, taken) = (other.value, one.value);
    let (key, taker) = (&other.key, &one.key);
    if core == taken {
        return Some(format!(
            "{key} is core {core}, which {taker} has already; a shard needs a core of its own"
        ));
    }
    let siblings = &host.cpu(core)?.siblings;
    (siblings.contains(&taken) && !is_crowded).then(|| {
        format!(
            "{key} is core {core} and {taker} is core {taken}, two threads of one physical core; give \
             each shard a physical core of its own (see: buslane host topology)"
        )
    })
}

/// What is wrong with a device on another NUMA node than a core, if it is.
fn far_device(host: &Topology, shard: &Named<usize>, device: &Named<String>) -> Option<String> {
    let core = shard.value;
    let core_node = host.node_of(core)?;
    let mut devices = host.nics.iter().chain(&host.nvmes);
    let found = devices.find(|one| one.pci.as_ref() == Some(&device.value))?;
    let node = found.node.filter(|node| *node != core_node)?;
    Some(format!(
        "{} is {} on NUMA node {node}, but {} is core {core} on node {core_node}; choose one of cores {}, \
         or a device of node {core_node}",
        device.key,
        device.value,
        shard.key,
        host.node_cpus(node)
    ))
}

/// The PCI address in what a profile calls a device: `0000:41:00.0`, `41:00.0`, with options behind it, or
/// after `traddr`.
fn pci_address(text: &str) -> Option<String> {
    let mut words = text.split([',', ' ', ';', '=']);
    words.find_map(|word| {
        let word = word.strip_prefix("traddr:").unwrap_or(word).to_lowercase();
        let long = format!("0000:{word}");
        [word, long].into_iter().find(|address| is_pci_address(address))
    })
}

/// The memory that arguments of DPDK's environment ask for.
fn eal_bytes(eal: &[String]) -> Option<u64> {
    let joined = eal.join(" ").replace('=', " ");
    let mut words = joined.split_whitespace();
    while let Some(word) = words.next() {
        let list = match word {
            "-m" | "--socket-mem" | "--numa-mem" | "--memory-size" => words.next(),
            _ => word.strip_prefix("-m").filter(|rest| rest.parse::<u64>().is_ok()),
        };
        if let Some(list) = list {
            let mib: Option<u64> = list.split(',').map(|mib| mib.parse::<u64>().ok()).sum();
            return mib.map(|mib| mib << 20);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::topology::{Cpu, Device, Node};

    fn host() -> Topology {
        let cpu = |number: usize| Cpu {
            number,
            online: true,
            core: Some(number % 4),
            socket: Some(number % 4 / 2),
            node: Some(number % 4 / 2),
            siblings: vec![(number + 4) % 8],
            isolated: false,
        };
        let node = |number, cpus: &str| Node { number, cpus: cpus.into(), memory_bytes: None };
        let nic = Device { pci: Some("0000:81:00.0".into()), node: Some(1), ..Device::default() };
        Topology {
            cpus: (0..8).map(cpu).collect(),
            nodes: vec![node(0, "0-1,4-5"), node(1, "2-3,6-7")],
            nics: vec![nic],
            nvmes: Vec::new(),
        }
    }

    fn said(needs: &Needs) -> Option<String> {
        let place = |key: &str| format!("x.toml:{}", key.len());
        needs.check_placement(&host(), &place).err().map(|error| error.to_string())
    }

    fn shards(cores: &[usize]) -> Needs {
        let shard = |(at, core): (usize, &usize)| named(&format!("shard.{at}.core"), *core);
        let shards = cores.iter().enumerate().map(shard).collect();
        Needs { shards, ..Needs::default() }
    }

    #[test]
    fn siblings_do_where_there_are_more_shards_than_physical_cores() {
        let five = shards(&[0, 1, 2, 3, 7]);
        assert_eq!(said(&five), None);
        assert_eq!(
            five.crowding(&host()).unwrap(),
            "5 shards run on 4 physical cores: those on two threads of one core slow each other down"
        );
        assert_eq!(shards(&[0, 1, 2, 3]).crowding(&host()), None);
        assert!(said(&shards(&[0, 1, 2, 3, 3])).unwrap().contains("needs a core of its own"));
    }

    #[test]
    fn a_shard_has_a_physical_core_of_its_own() {
        assert_eq!(said(&shards(&[1, 2, 3])), None);
        assert_eq!(
            said(&shards(&[1, 2, 6])).unwrap(),
            "x.toml:12: shard.2.core is core 6 and shard.1.core is core 2, two threads of one physical \
             core; give each shard a physical core of its own (see: buslane host topology)"
        );
        assert_eq!(
            said(&shards(&[1, 1])).unwrap(),
            "x.toml:12: shard.1.core is core 1, which shard.0.core has already; a shard needs a core of \
             its own"
        );
        assert_eq!(
            said(&shards(&[64])).unwrap(),
            "x.toml:12: shard.0.core is 64, but this host has core 0-7; choose one of them"
        );
    }

    #[test]
    fn a_device_is_on_the_node_of_its_core() {
        let nics = vec![named("port.dpdk.device", "0000:81:00.0".to_owned())];
        assert_eq!(said(&Needs { nics: nics.clone(), ..shards(&[2]) }), None);
        assert_eq!(
            said(&Needs { nics, ..shards(&[1]) }).unwrap(),
            "x.toml:16: port.dpdk.device is 0000:81:00.0 on NUMA node 1, but shard.0.core is core 1 on \
             node 0; choose one of cores 2-3,6-7, or a device of node 0"
        );
        let elsewhere = vec![named("port.dpdk.device", "0000:01:00.0".to_owned())];
        assert_eq!(said(&Needs { nics: elsewhere, ..shards(&[1]) }), None, "unknown passes");
    }

    #[test]
    fn devices_and_memory_are_read_from_the_profile() {
        assert_eq!(pci_address("0000:81:00.0,representor=1").as_deref(), Some("0000:81:00.0"));
        assert_eq!(pci_address("81:00.0").as_deref(), Some("0000:81:00.0"));
        let transport = pci_address("trtype:PCIe traddr:0000:C1:00.0").unwrap();
        assert_eq!(transport, "0000:c1:00.0");
        assert_eq!(pci_address("net_memif0"), None);
        let eal =
            |args: &[&str]| eal_bytes(&args.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(eal(&["-m256"]), Some(256 << 20));
        assert_eq!(eal(&["-m", "64"]), Some(64 << 20));
        assert_eq!(eal(&["--socket-mem=1024,0"]), Some(1 << 30));
        assert_eq!(eal(&["--file-prefix=a", "--main-lcore", "2"]), None);
        let memif = crate::profile::load("memif-ram", &[]).unwrap();
        let needs = Needs::of(&memif, &[0, 1]);
        assert_eq!((needs.hugepage_bytes, needs.disk_path), (None, None));
        assert_eq!(needs.shards, [named("shard.core", 1)]);
    }
}
