//! Every check: its name, how much it matters, where it looks, why.

use super::checks::{cpu, irq, kernel, memory, network, pci, storage, system};
use super::verdict::{CHECK_ID, Severity, Verdict};
use super::{Finding, View};

/// A check.
#[derive(Clone, Copy)]
pub struct Item {
    /// What it goes by.
    pub id: &'static str,
    /// How much it matters when it finds something wrong.
    pub severity: Severity,
    /// Where it looks.
    pub place: &'static str,
    /// Why it matters, in a sentence.
    pub why: &'static str,
    ask: fn(&View<'_>) -> Verdict,
}

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Item").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Item {
    /// The answer on the host in view.
    pub(super) fn ask(&self, view: &View<'_>) -> Finding {
        let mut verdict = (self.ask)(view);
        verdict.mend.command = verdict.mend.command.replace(CHECK_ID, self.id);
        Finding {
            id: self.id,
            status: verdict.status(self.severity),
            severity: self.severity,
            required: view.needs.require.iter().any(|id| id == self.id),
            place: self.place,
            wanted: verdict.wanted,
            found: verdict.found,
            mend: verdict.mend,
        }
    }
}

const fn item(
    id: &'static str,
    severity: Severity,
    place: &'static str,
    why: &'static str,
    ask: fn(&View<'_>) -> Verdict,
) -> Item {
    Item { id, severity, place, why, ask }
}

use Severity::{Fatal, Info, Warning};

/// Every check, in the order of reports.
#[rustfmt::skip]
pub const CATALOGUE: [Item; 44] = [
    item("hugepages", Fatal, "/sys/devices/system/node/node*/hugepages",
        "DPDK and SPDK keep packets and blocks in huge pages; without them they do not start", memory::hugepages),
    item("thp", Warning, "/sys/kernel/mm/transparent_hugepage/enabled",
        "the kernel stops a thread while it joins or splits its pages", memory::thp),
    item("cpu.isolated", Fatal, "/sys/devices/system/cpu/isolated, /sys/fs/cgroup/*/cpuset.cpus.partition",
        "any other thread on a shard's core stops the shard for a time slice, milliseconds", cpu::isolated),
    item("cpu.nohz_full", Warning, "/sys/devices/system/cpu/nohz_full",
        "the timer tick interrupts a busy core 100 to 1000 times a second", cpu::nohz_full),
    item("cpu.rcu_nocbs", Warning, "/proc/cmdline",
        "the kernel's deferred work runs on the core that caused it, unless told otherwise", cpu::rcu_nocbs),
    item("cpu.cmdline", Warning, "/proc/cmdline",
        "some sources of delay can only be switched off at boot", cpu::cmdline),
    item("cpu.governor", Warning, "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
        "a core that changes its frequency stops while it does, and starts slow", cpu::governor),
    item("cpu.turbo", Info, "/sys/devices/system/cpu/intel_pstate/no_turbo, cpufreq/boost",
        "numbers measured at a frequency that comes and goes cannot be repeated", cpu::turbo),
    item("cpu.cstates", Warning, "/sys/devices/system/cpu/cpu*/cpuidle, /dev/cpu_dma_latency",
        "a core that sleeps deeply takes up to hundreds of microseconds to wake", cpu::cstates),
    item("cpu.smt", Fatal, "/sys/devices/system/cpu/smt/active, cpu*/topology/thread_siblings_list",
        "two threads of a physical core share its units and caches: each slows the other", cpu::smt),
    item("cpu.affinity", Warning, "/proc/*/task/*/status",
        "a thread that may run on a shard's core will, sooner or later", cpu::affinity),
    item("irq.affinity", Warning, "/proc/irq/*/effective_affinity_list",
        "an interrupt takes its core away for 1 to 20 microseconds, and cools its caches", irq::affinity),
    item("irq.rate", Warning, "/proc/interrupts",
        "what counts in the end: interrupts a shard's core really takes", irq::rate),
    item("irq.balance", Warning, "/proc/*/comm, IRQBALANCE_BANNED_CPULIST",
        "irqbalance moves interrupts back to where they were driven away", irq::balance),
    item("workqueue", Warning, "/sys/devices/virtual/workqueue/cpumask",
        "the kernel's work queues run on any core that is not excluded", irq::workqueue),
    item("clocksource", Fatal, "/sys/devices/system/clocksource/clocksource0/current_clocksource",
        "time stamps come from the processor's counter, which has to tick evenly on all cores", kernel::clocksource),
    item("numa.balancing", Warning, "/proc/sys/kernel/numa_balancing",
        "the kernel unmaps pages to see who uses them: a page fault on the path", kernel::numa_balancing),
    item("watchdogs", Warning, "/proc/sys/kernel/{nmi_watchdog,watchdog,timer_migration}, /proc/sys/vm/stat_interval",
        "they wake on every core, shards' included", kernel::watchdogs),
    item("swap", Warning, "/proc/swaps, /proc/sys/vm/swappiness",
        "a page that was swapped out comes back in milliseconds", memory::swap),
    item("memlock", Fatal, "/proc/self/limits",
        "memory that devices write to must stay where it is", memory::memlock),
    item("iommu", Fatal, "/sys/kernel/iommu_groups, /sys/class/iommu",
        "without it a device can write anywhere in memory, and vfio-pci refuses it", pci::iommu),
    item("vfio", Fatal, "/sys/bus/pci/drivers/vfio-pci, /dev/vfio",
        "it hands devices to DPDK and SPDK", pci::vfio),
    item("pci.bound", Fatal, "/sys/bus/pci/devices/*/driver",
        "a device belongs to the kernel or to us; one in use by the kernel must not be taken", pci::bound),
    item("pci.group", Warning, "/sys/bus/pci/devices/*/iommu_group/devices",
        "devices of one group can only be handed over together", pci::group),
    item("pci.numa", Warning, "/sys/bus/pci/devices/*/numa_node",
        "every access across sockets costs about 100 ns more, for each packet and block", pci::numa),
    item("pci.link", Warning, "/sys/bus/pci/devices/*/{current,max}_link_{speed,width}",
        "a card in the wrong slot has half its bandwidth", pci::link),
    item("pci.aspm", Warning, "/sys/module/pcie_aspm/parameters/policy",
        "a link that sleeps to save power takes microseconds to wake", pci::aspm),
    item("disk.cache", Fatal, "/sys/class/block/*/queue/{write_cache,fua}",
        "a volatile write cache needs a flush before every acknowledgement", storage::cache),
    item("disk.identity", Info, "/sys/class/nvme/*/{model,firmware_rev,state}, /sys/class/block/*/queue",
        "latency and durability belong to a model and a firmware", storage::identity),
    item("disk.temperature", Fatal, "/sys/class/nvme/*/hwmon*/temp1_input",
        "a hot device slows itself down, then stops", storage::temperature),
    item("disk.health", Fatal, "nvme smart-log",
        "a device that is worn out or reports errors will lose what it was given", storage::health),
    item("nic", Warning, "/sys/class/net/*/{operstate,speed,mtu}, /proc/net/route",
        "the link has to be up, fast, and take whole datagrams", network::nic),
    item("mitigations", Info, "/sys/devices/system/cpu/vulnerabilities, /proc/cpuinfo",
        "mitigations make system calls slower: kernel UDP and io_uring feel it, DPDK and SPDK do not", system::mitigations),
    item("virtualization", Info, "/proc/cpuinfo, /sys/class/dmi/id",
        "a hypervisor takes the core away when it likes; numbers for an SLA need bare metal", system::virtualization),
    item("time.sync", Warning, "adjtimex(2), /proc/*/comm",
        "one-way latency between hosts, and replay by time, are as good as the clocks", system::time_sync),
    item("limits.files", Warning, "/proc/self/limits",
        "sockets, rings and segments are open files", system::open_files),
    item("coredump", Warning, "/proc/self/limits, /proc/sys/kernel/core_pattern",
        "a shard that meets the impossible aborts; the core dump says why", system::coredump),
    item("disk.directory", Warning, "mode of the directory of disk.path",
        "whoever can write there can put another log in its place", storage::directory),
    item("disk.space", Fatal, "statvfs(2) of the directory of disk.path",
        "the log's file is made with its whole size", storage::space),
    item("kernel.version", Warning, "/proc/sys/kernel/osrelease",
        "older kernels lack parts of io_uring, or have slow ones", kernel::version),
    item("jitter", Warning, "measured: a loop on each shard's core",
        "the longest a shard's core was away, whatever the reason", system::jitter),
    item("clock.cost", Info, "measured: reading the clock",
        "every message is stamped several times", system::clock_cost),
    item("core.pingpong", Info, "measured: a cache line between a shard's core and another",
        "what the host charges for two cores to meet", system::pingpong),
    item("microcode", Info, "/proc/cpuinfo",
        "latency changes with it: two hosts compare only with the same", system::microcode),
];
