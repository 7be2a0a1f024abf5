//! Files for other programs: a profile for tuned, a unit for systemd.

use std::fmt::Write as _;
use std::path::Path;

use super::tree::CpuSet;
use super::words::{command, list, shell_word, unit_word};
use super::{Needs, Topology};
use crate::printable::one_line;

/// Threads of ours and of DPDK that tuned must leave where they are, after those cpu-partitioning lists:
/// DPDK's current names are not among them.
const OWN_THREADS: &str = ".*pmd.*;.*PMD.*;^DPDK;^lcore-slave-.*;^rte_mp_handle$;^rte_mp_async$;\
                           ^eal-intr-thread$;^dpdk-.*;^buslane.*;^reactor_.*";

/// How long the main process may be silent before systemd ends it.
const WATCHDOG_SECONDS: u32 = 5;

/// The user of a unit unless another is asked for.
pub(crate) const USER: &str = "buslane";

/// Where a package puts the binary.
pub(crate) const BINARY: &str = "/usr/bin/buslane";

/// Where users' directories are.
const HOMES: &str = "/home";

/// What the process may not do, whatever the profile says.
const HARDENING: &str = "\
NoNewPrivileges=yes
UMask=0077
ProtectSystem=strict
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

/// `/etc/tuned/buslane/tuned.conf`: a child of cpu-partitioning.
///
/// # Errors
/// When the profile pins no shard, or leaves no core to anything else, and what to do about it.
pub(crate) fn tuned(needs: &Needs, host: &Topology, profile: &str) -> Result<String, String> {
    let cores = needs.cores();
    if cores.is_empty() {
        // Where a shard runs then is the scheduler's, which gives it no isolated core.
        return Err(format!(
            "profile {} pins no shard to a core, so there is none to isolate: set shard.core (proposed: {})",
            one_line(&needs.profile),
            host.propose().shards
        ));
    }
    let online = host.online();
    if !online.is_empty() && online.without(&cores).is_empty() {
        return Err(format!(
            "shards on cores {cores} leave no core for anything else: pin fewer shards, or take a larger host"
        ));
    }
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
    Ok(format!(
        "\
# Written by `buslane host generate tuned` for profile {path}.
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
        path = one_line(profile),
        profile = one_line(&needs.profile),
    ))
}

/// What a unit has to know besides the profile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unit<'a> {
    /// The profile, as `--profile` takes it.
    pub profile: &'a str,
    /// What `--set` is given.
    pub settings: &'a [String],
    /// The binary.
    pub binary: &'a Path,
    /// The user it runs as.
    pub user: &'a str,
}

impl Unit<'_> {
    /// What its user has to come to, besides the unit's own directories.
    pub(crate) fn paths(&self, needs: &Needs) -> Vec<String> {
        let mut paths = vec![self.binary.display().to_string(), self.profile.to_owned()];
        paths.extend(Paths::of(needs).all().map(str::to_owned));
        paths
    }
}

/// `/etc/systemd/system/buslane.service`.
#[must_use]
#[allow(clippy::too_many_lines, reason = "one text, from top to bottom")]
pub(crate) fn systemd(
    needs: &Needs,
    host: &Topology,
    unit: &Unit<'_>,
    closed: &[String],
) -> String {
    let Unit { profile, settings, binary, user } = unit;
    let binary = binary.display().to_string();
    let cores = needs.cores();
    let paths = Paths::of(needs);
    let mut words = vec!["serve", "--profile", profile];
    words.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    let hidden = [profile, binary.as_str()].into_iter().chain(paths.all());
    format!(
        "\
# Written by `buslane host generate systemd` for profile {name}.
# Install, as root:
{install}{closed}# Check:    systemd-analyze verify buslane.service
#           systemd-analyze security buslane.service
# Ask it:   buslane stat, as root, as {user}, or as who is in that group (usermod -aG {user} NAME):
#           its socket is below /run/buslane. Asking changes nothing.
[Unit]
Description=Buslane message appliance, profile {description}
Wants=network-online.target
After=network-online.target tuned.service
# Below a mount point that is not mounted no log is found, and a first start would make one there.
RequiresMountsFor={mounts}
# It is tried for ever: what keeps it from starting (a disk, a mount, an address) may come back.
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
# What changes without a restart, and what does not, is said in the journal.
ExecReload=/bin/kill -HUP $MAINPID
User={user}
Group={user}
# Relative paths of the profile begin here.
StateDirectory=buslane
StateDirectoryMode=0750
WorkingDirectory=/var/lib/buslane
# `buslane stat` looks for the socket here, whoever asks. Units of several instances share it.
RuntimeDirectory=buslane
RuntimeDirectoryMode=0750
RuntimeDirectoryPreserve=yes
Environment=XDG_RUNTIME_DIR=/run/buslane
# Making a large log, and recovering one, take their time before the appliance is ready.
TimeoutStartSec=infinity
TimeoutStopSec=30s
# Told only while no shard hangs.
WatchdogSec={WATCHDOG_SECONDS}s
Restart=always
RestartSec=1s
OOMScoreAdjust=-900

{pinning}
{placement}LimitMEMLOCK=infinity
LimitNOFILE=65536
LimitCORE=infinity

CapabilityBoundingSet=CAP_IPC_LOCK CAP_SYS_NICE{raw}
AmbientCapabilities=CAP_IPC_LOCK CAP_SYS_NICE{raw}
{HARDENING}{views}RestrictAddressFamilies=AF_INET{ipv6} AF_UNIX AF_NETLINK{packet}
SystemCallArchitectures=native
# The last two only to read how well the clock is kept: without CAP_SYS_TIME nothing can be set.
SystemCallFilter=@system-service adjtimex clock_adjtime
SystemCallErrorNumber=EPERM
DevicePolicy=closed
{devices}{writable}
[Install]
WantedBy=multi-user.target
",
        name = one_line(profile),
        closed = notes(closed),
        description = one_line(&needs.profile).replace('%', "%%"),
        install = install(unit, &paths, needs.disk_path.as_deref()),
        mounts = list(&paths.mounts()),
        command = command(&binary, &words),
        pinning = pinning(&needs.cores()),
        placement = placement(needs, host, &cores),
        raw = if needs.hugepage_bytes.is_some() { " CAP_NET_RAW" } else { "" },
        views = views(hidden),
        ipv6 = if needs.http_is_ipv6 { " AF_INET6" } else { "" },
        packet = if needs.address.is_none() { " AF_PACKET" } else { "" },
        devices = devices(needs),
        writable = paths.writable(),
    )
}

/// Directories that the appliance writes to, outside its state directory.
struct Paths {
    log: Option<String>,
    others: Vec<String>,
}

impl Paths {
    fn of(needs: &Needs) -> Self {
        let log = needs.disk_path.as_deref().filter(|path| !path.starts_with("/dev/"));
        let log = log.and_then(|path| Path::new(path).parent()?.to_str());
        let is_own = |path: &str| {
            let path = Path::new(path);
            let given = ["/var/lib/buslane", "/run/buslane"];
            path.is_absolute() && !given.iter().any(|given| path.starts_with(given))
        };
        let own = |path: &str| is_own(path).then(|| path.to_owned());
        let mut others: Vec<String> =
            needs.directories.iter().filter_map(|path| own(path)).collect();
        let log = log.and_then(own);
        others.retain(|path| Some(path) != log.as_ref());
        others.dedup();
        Self { log, others }
    }

    fn all(&self) -> impl Iterator<Item = &str> {
        self.log.iter().chain(&self.others).map(String::as_str)
    }

    /// Where a file system has to be before it starts; the state directory is one such place.
    fn mounts(&self) -> Vec<&str> {
        let mut mounts: Vec<&str> = self.all().collect();
        mounts.insert(0, "/var/lib/buslane");
        mounts
    }

    fn writable(&self) -> String {
        self.all().map(|path| format!("ReadWritePaths={}\n", list(&[path]))).collect()
    }
}

/// The lines that install the unit, as comments.
fn install(unit: &Unit<'_>, paths: &Paths, log: Option<&str>) -> String {
    let Unit { profile, settings, binary, user } = unit;
    let mut lines = vec![format!(
        "useradd --system --user-group --home-dir /var/lib/buslane --shell /usr/sbin/nologin {user}"
    )];
    for path in paths.all() {
        // Whoever made it, the appliance has to own it.
        lines.push(format!("install -d -o {user} -g {user} -m 0750 {}", shell_word(path)));
    }
    if let Some(path) = paths.log.as_ref().and(log) {
        let path = shell_word(path);
        lines.push(format!("[ ! -e {path} ] || chown {user}: {path}"));
    }
    let settings: String =
        settings.iter().map(|setting| format!(" --set {}", shell_word(setting))).collect();
    let profile = shell_word(profile);
    // Without it the line would write a unit of another user than the one above it makes.
    let as_user =
        if *user == USER { String::new() } else { format!(" --user {}", shell_word(user)) };
    let binary = binary.display().to_string();
    let of_binary =
        if binary == BINARY { String::new() } else { format!(" --binary {}", shell_word(&binary)) };
    lines.push(format!(
        "buslane host generate systemd --profile {profile}{settings}{as_user}{of_binary} --out /etc/systemd/system/buslane.service"
    ));
    lines.push("systemctl daemon-reload && systemctl enable --now buslane".to_owned());
    lines.iter().map(|line| format!("#           {}\n", one_line(line))).collect()
}

/// What has to be mended before it starts, as comments.
fn notes(closed: &[String]) -> String {
    closed.iter().map(|what| format!("# Mend:     {}\n", one_line(what))).collect()
}

/// Home and temporary directories, hidden unless something of the appliance is there.
fn views<'a>(paths: impl Iterator<Item = &'a str>) -> String {
    let (mut home, mut temporary) = ("yes", "yes");
    for path in paths.map(Path::new) {
        // A directory of users' homes, of root's, or of runtime directories.
        if [HOMES, "/root", "/run/user"].iter().any(|hidden| path.starts_with(hidden)) {
            home = "read-only";
        }
        if ["/tmp", "/var/tmp"].iter().any(|hidden| path.starts_with(hidden)) {
            temporary = "no";
        }
    }
    format!("ProtectHome={home}\nPrivateTmp={temporary}\n")
}

/// What the unit says of the shards' cores.
fn pinning(cores: &CpuSet) -> String {
    if cores.is_empty() {
        return "# The profile pins no shard to a core: where they run is the scheduler's."
            .to_owned();
    }
    if cores.len() == 1 {
        return format!(
            "# Shards pin themselves to core {cores}; an isolated core takes nothing else by itself."
        );
    }
    format!(
        "# Shards pin themselves to cores {cores}; isolated cores take nothing else by themselves."
    )
}

fn placement(needs: &Needs, host: &Topology, cores: &CpuSet) -> String {
    let mut text = String::new();
    let others = CpuSet::parse(&host.propose().housekeeping).unwrap_or_default();
    let all = cores.or(&others.without(cores));
    if !cores.is_empty() {
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
    if let Some(path) = needs.disk_path.as_deref().filter(|path| path.starts_with("/dev/")) {
        let _ = writeln!(text, "DeviceAllow={} rw", unit_word(path));
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
        unit_of(needs, "/etc/buslane/lab.toml", &[])
    }

    fn unit_of(needs: &Needs, profile: &str, settings: &[String]) -> String {
        let binary = Path::new("/usr/bin/buslane");
        let unit = Unit { profile, settings, binary, user: "buslane" };
        systemd(needs, &Topology::default(), &unit, &[])
    }

    fn has(text: &str, line: &str) {
        assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
    }

    #[test]
    fn every_path_of_the_profile_is_waited_for_and_can_be_written() {
        let needs = Needs {
            disk_path: Some("/mnt/orders 100%/log".into()),
            directories: vec!["/mnt/metrics".into(), "relative".into(), "/run/buslane/x".into()],
            http_is_ipv6: true,
            ..needs()
        };
        let text = unit_of(&needs, "/etc/bus lane/prod.toml", &["disk.size=1GiB".into()]);
        has(&text, "RequiresMountsFor=/var/lib/buslane \"/mnt/orders 100%%\" /mnt/metrics");
        has(&text, "StartLimitIntervalSec=0");
        has(&text, "ReadWritePaths=\"/mnt/orders 100%%\"");
        has(&text, "ReadWritePaths=/mnt/metrics");
        assert!(!text.contains("relative") && !text.contains("ReadWritePaths=/run"), "{text}");
        has(
            &text,
            "ExecStart=/usr/bin/buslane serve --profile \"/etc/bus lane/prod.toml\" --set disk.size=1GiB",
        );
        has(&text, "#           install -d -o buslane -g buslane -m 0750 '/mnt/orders 100%'");
        has(
            &text,
            "#           [ ! -e '/mnt/orders 100%/log' ] || chown buslane: '/mnt/orders 100%/log'",
        );
        has(
            &text,
            "#           buslane host generate systemd --profile '/etc/bus lane/prod.toml' --set disk.size=1GiB --out \
             /etc/systemd/system/buslane.service",
        );
        has(&text, "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK AF_PACKET");
    }

    #[test]
    fn the_unit_of_another_user_or_binary_is_installed_as_that_one_s() {
        let (needs, binary) = (needs(), Path::new("/opt/buslane"));
        let unit = Unit { profile: "/x.toml", settings: &[], binary, user: "desk" };
        let text = systemd(&needs, &Topology::default(), &unit, &[]);
        let wanted = "--profile /x.toml --user desk --binary /opt/buslane --out /etc/systemd";
        assert!(text.contains(wanted), "{text}");
        let plain = self::unit(&needs);
        assert!(!plain.contains("--user ") && !plain.contains("--binary"), "they are the default");
    }

    #[test]
    fn what_is_below_a_home_or_tmp_is_not_hidden() {
        has(&unit(&needs()), "ProtectHome=yes");
        has(&unit(&needs()), "PrivateTmp=yes");
        let home = Needs { disk_path: Some("/root/data/log".into()), ..needs() };
        has(&unit(&home), "ProtectHome=read-only");
        has(&unit_of(&needs(), "/tmp/x.toml", &[]), "PrivateTmp=no");
    }

    #[test]
    fn names_put_no_line_into_a_unit() {
        let needs = Needs { profile: "a\nUser=root".into(), ..needs() };
        let text = unit_of(&needs, "/etc/a\nUser=root", &["name=$x \\ \"%i\"".into()]);
        assert!(!text.lines().any(|line| line == "User=root"), "{text}");
        let wanted = "ExecStart=/usr/bin/buslane serve --profile \"/etc/a\\x0aUser=root\" --set \
                      \"name=$$x \\\\ \\\"%%i\\\"\"";
        has(&text, wanted);
        assert!(
            tuned(&needs, &Topology::default(), "lab\nx")
                .unwrap()
                .lines()
                .all(|line| line != "User=root")
        );
    }

    #[test]
    fn a_tuned_profile_isolates_the_shards_cores() {
        let text = tuned(&needs(), &Topology::default(), "lab").unwrap();
        assert!(text.contains("include=cpu-partitioning\n"), "{text}");
        assert!(text.contains("isolated_cores=3\n"), "{text}");
        assert!(text.contains("isolcpus=managed_irq,domain,3 "), "{text}");
        assert!(text.contains("^dpdk-.*;^buslane.*"), "{text}");
        assert!(!text.contains("hugepages"), "{text}");
        let huge = Needs { hugepage_bytes: Some(3 << 30), ..needs() };
        assert!(tuned(&huge, &Topology::default(), "lab").unwrap().contains("hugepages=3\n"));
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
            "# Shards pin themselves to core 3; an isolated core takes nothing else by itself.",
            "ExecStart=/usr/bin/buslane serve --profile /etc/buslane/lab.toml",
            "RestrictAddressFamilies=AF_INET AF_UNIX AF_NETLINK AF_PACKET",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("vfio"), "{text}");
        let free = unit(&Needs { shards: Vec::new(), ..needs() });
        has(&free, "# The profile pins no shard to a core: where they run is the scheduler's.");
        assert!(!free.contains("pin themselves") && !free.contains("CPUAffinity"), "{free}");
        let nics = vec![Named { key: "port.dpdk.device".into(), value: "0000:81:00.0".into() }];
        let disk = Some("/mnt/nvme/orders.log".to_owned());
        let text = unit(&Needs { nics, disk_path: disk, ..needs() });
        assert!(text.contains("DeviceAllow=char-vfio rw\n"), "{text}");
        assert!(text.contains("ReadWritePaths=/mnt/nvme\n"), "{text}");
        let block = Needs { disk_path: Some("/dev/nvme1n1".into()), ..needs() };
        assert!(unit(&block).contains("DeviceAllow=/dev/nvme1n1 rw\n"));
    }
}
