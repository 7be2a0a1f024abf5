//! Files for other programs: a profile for tuned, a unit for systemd.

use std::fmt::Write as _;
use std::path::Path;

use super::tree::CpuSet;
use super::{Needs, Topology};

/// Threads of ours and of DPDK that tuned must leave where they are, after those cpu-partitioning lists:
/// DPDK's current names are not among them.
const OWN_THREADS: &str = ".*pmd.*;.*PMD.*;^DPDK;^lcore-slave-.*;^rte_mp_handle$;^rte_mp_async$;\
                           ^eal-intr-thread$;^dpdk-.*;^buslane.*;^reactor_.*";

/// How long the main process may be silent before systemd ends it.
const WATCHDOG_SECONDS: u32 = 5;

/// What the process may not do, whatever the profile says.
const HARDENING: &str = "\
NoNewPrivileges=yes
UMask=0077
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
";

/// Cores for shards: those of the profile, or else those proposed for the host.
fn shard_cores(needs: &Needs, host: &Topology) -> CpuSet {
    let cores = needs.cores();
    if !cores.is_empty() {
        return cores;
    }
    CpuSet::parse(&host.propose().shards).unwrap_or_default()
}

/// `/etc/tuned/buslane/tuned.conf`: a child of cpu-partitioning.
#[must_use]
pub fn tuned(needs: &Needs, host: &Topology) -> String {
    let cores = shard_cores(needs, host);
    let mut boot = format!(
        "isolcpus=managed_irq,domain,{cores} tsc=reliable rcupdate.rcu_normal_after_boot=1"
    );
    if needs.devices().next().is_some() {
        boot.push_str(" intel_iommu=on iommu=pt pcie_aspm=off");
    }
    if let Some(bytes) = needs.hugepage_bytes {
        let pages = bytes.div_ceil(1 << 30);
        write!(boot, " default_hugepagesz=1G hugepagesz=1G hugepages={pages}")
            .expect("a String takes everything");
    }
    format!(
        "\
# Written by `buslane host generate tuned` for profile {profile}.
# Install:  as /etc/tuned/buslane/tuned.conf, then:
#           tuned-adm profile buslane && reboot
# Check:    tuned-adm verify; buslane host check
[main]
summary=Buslane, profile {profile}: cores {cores} for shards
include=cpu-partitioning

[variables]
isolated_cores={cores}

[sysctl]
kernel.watchdog=0
vm.swappiness=10

[scheduler]
# cpu-partitioning's list spares only old names of DPDK's threads.
ps_blacklist={OWN_THREADS}

[bootloader]
# cpu-partitioning adds nohz_full, rcu_nocbs, nosoftlockup and skew_tick.
cmdline_buslane={boot}
",
        profile = needs.profile,
    )
}

/// What a unit has to know besides the profile.
#[derive(Clone, Copy, Debug)]
pub struct Unit<'a> {
    /// The profile, as `--profile` takes it.
    pub profile: &'a str,
    /// The binary.
    pub binary: &'a Path,
    /// The user it runs as.
    pub user: &'a str,
}

/// `/etc/systemd/system/buslane.service`.
#[must_use]
pub fn systemd(needs: &Needs, host: &Topology, unit: &Unit<'_>) -> String {
    let Unit { profile, binary, user } = unit;
    let cores = shard_cores(needs, host);
    format!(
        "\
# Written by `buslane host generate systemd` for profile {name}.
# Install:  useradd --system --home-dir /var/lib/buslane --shell /usr/sbin/nologin {user}
#           buslane host generate systemd > /etc/systemd/system/buslane.service
#           systemctl daemon-reload && systemctl enable --now buslane
# Check:    systemd-analyze verify buslane.service; systemd-analyze security buslane.service
[Unit]
Description=Buslane message appliance, profile {name}
Wants=network-online.target
After=network-online.target tuned.service

[Service]
Type=notify
NotifyAccess=main
ExecStart={binary} serve --profile {profile}
# What changes without a restart, and what does not, is said in the journal.
ExecReload=/bin/kill -HUP $MAINPID
User={user}
Group={user}
# Relative paths of the profile begin here.
StateDirectory=buslane
StateDirectoryMode=0750
WorkingDirectory=/var/lib/buslane
RuntimeDirectory=buslane
RuntimeDirectoryMode=0700
Environment=XDG_RUNTIME_DIR=/run/buslane
# Making a large log, and recovering one, take their time before the appliance is ready.
TimeoutStartSec=infinity
TimeoutStopSec=30s
# Told only while the shard makes turns.
WatchdogSec={WATCHDOG_SECONDS}s
Restart=always
RestartSec=1s
OOMScoreAdjust=-900

# Shards pin themselves to cores {cores}; isolated cores take nothing else by themselves.
{placement}LimitMEMLOCK=infinity
LimitNOFILE=65536
LimitCORE=infinity

CapabilityBoundingSet=CAP_IPC_LOCK CAP_SYS_NICE{raw}
AmbientCapabilities=CAP_IPC_LOCK CAP_SYS_NICE{raw}
{HARDENING}RestrictAddressFamilies=AF_INET AF_UNIX AF_NETLINK{packet}
SystemCallArchitectures=native
# The last two only to read how well the clock is kept: without CAP_SYS_TIME nothing can be set.
SystemCallFilter=@system-service adjtimex clock_adjtime
SystemCallErrorNumber=EPERM
DevicePolicy=closed
{devices}
[Install]
WantedBy=multi-user.target
",
        name = needs.profile,
        binary = binary.display(),
        placement = placement(needs, host, &cores),
        raw = if needs.hugepage_bytes.is_some() { " CAP_NET_RAW" } else { "" },
        packet = if needs.address.is_none() { " AF_PACKET" } else { "" },
        devices = devices(needs),
    )
}

fn placement(needs: &Needs, host: &Topology, cores: &CpuSet) -> String {
    let mut text = String::new();
    let others = CpuSet::parse(&host.propose().housekeeping).unwrap_or_default();
    let all = cores.or(&others.without(cores));
    if !all.is_empty() {
        let _ = writeln!(text, "CPUAffinity={}", all.to_string().replace(',', " "));
    }
    let node = needs.shards.first().and_then(|shard| host.node_of(shard.value));
    if let Some(node) = node.filter(|_| host.nodes.len() > 1) {
        let _ = write!(text, "NUMAPolicy=preferred\nNUMAMask={node}\n");
    }
    text
}

fn devices(needs: &Needs) -> String {
    let mut text = String::new();
    if needs.devices().next().is_some() {
        text.push_str("DeviceAllow=/dev/vfio/vfio rw\nDeviceAllow=char-vfio rw\n");
    }
    if needs.hugepage_bytes.is_some() {
        text.push_str("ReadWritePaths=/dev/hugepages\n");
    }
    let Some(path) = needs.disk_path.as_deref() else {
        return text;
    };
    if path.starts_with("/dev/") {
        let _ = writeln!(text, "DeviceAllow={path} rw");
    } else if let Some(directory) = Path::new(path).parent().filter(|_| path.starts_with('/')) {
        let _ = writeln!(text, "ReadWritePaths={}", directory.display());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::needs::Named;

    fn needs() -> Needs {
        let shards = vec![Named { key: "shard.core".into(), value: 3 }];
        Needs { profile: "lab".into(), shards, ..Needs::default() }
    }

    fn unit(needs: &Needs) -> String {
        let binary = Path::new("/usr/bin/buslane");
        let unit = Unit { profile: "/etc/buslane/lab.toml", binary, user: "buslane" };
        systemd(needs, &Topology::default(), &unit)
    }

    #[test]
    fn a_tuned_profile_isolates_the_shards_cores() {
        let text = tuned(&needs(), &Topology::default());
        assert!(text.contains("include=cpu-partitioning\n"), "{text}");
        assert!(text.contains("isolated_cores=3\n"), "{text}");
        assert!(text.contains("isolcpus=managed_irq,domain,3 "), "{text}");
        assert!(text.contains("^dpdk-.*;^buslane.*"), "{text}");
        assert!(!text.contains("hugepages"), "{text}");
        let huge = Needs { hugepage_bytes: Some(3 << 30), ..needs() };
        assert!(tuned(&huge, &Topology::default()).contains("hugepages=3\n"));
    }

    #[test]
    fn a_unit_notifies_is_watched_and_may_do_little() {
        let text = unit(&needs());
        for line in [
            "Type=notify",
            "WatchdogSec=5s",
            "ExecReload=/bin/kill -HUP $MAINPID",
            "LimitMEMLOCK=infinity",
            "OOMScoreAdjust=-900",
            "CPUAffinity=3",
            "ExecStart=/usr/bin/buslane serve --profile /etc/buslane/lab.toml",
            "RestrictAddressFamilies=AF_INET AF_UNIX AF_NETLINK AF_PACKET",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("vfio"), "{text}");
        let nics = vec![Named { key: "port.dpdk.device".into(), value: "0000:81:00.0".into() }];
        let disk = Some("/mnt/nvme/orders.log".to_owned());
        let text = unit(&Needs { nics, disk_path: disk, ..needs() });
        assert!(text.contains("DeviceAllow=char-vfio rw\n"), "{text}");
        assert!(text.contains("ReadWritePaths=/mnt/nvme\n"), "{text}");
        let block = Needs { disk_path: Some("/dev/nvme1n1".into()), ..needs() };
        assert!(unit(&block).contains("DeviceAllow=/dev/nvme1n1 rw\n"));
    }
}
