//! Profiles: which cores, ports, disks and limits an appliance uses, and how its clients reach it.
//!
//! A profile is a TOML file. What it leaves out has the value of [`Profile::default`], and `--set
//! key=value` goes above both; `hw-profiles/README.md` describes every key. The shipped profiles are
//! part of the binary and go by name (`loopback`), every other one by path.
//!
//! Three questions are kept apart: [`load`] answers whether the text is a profile and its values are in
//! range, [`Profile::check_serve`] and [`Profile::check_client`] whether this host and this binary have
//! what it asks for. Every answer is one line: where, what was found, what is wanted, how to mend it.

pub(crate) mod file;
pub(crate) mod runtime;
pub(crate) mod units;
mod check;
mod security;
mod shards;
mod values;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use serde::{Deserialize, Serialize};

use crate::limits::{DATAGRAM_BYTES, RING_BYTES, WINDOW_MESSAGES_MAX};
use crate::port::Steering;

pub use file::{SHIPPED, Source, load, load_again};
pub use security::{SecurityMode, SecurityProfile};
pub use values::{Core, MacAddress};

/// Where metrics and state are served over HTTP unless told otherwise.
pub const HTTP_DEFAULT: &str = "127.0.0.1:9464";

/// A profile, complete and in range.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// What reports call it.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// Tells appliances on one host apart: `{instance}` in paths and EAL arguments becomes this.
    pub instance: String,
    /// The shards, and the cores they run on.
    pub shard: ShardProfile,
    /// Where the appliance receives.
    pub port: PortProfile,
    /// Where the log is.
    pub disk: DiskProfile,
    /// How clients on this host reach it.
    pub client: ClientProfile,
    /// How sessions are protected, and where the keys are.
    pub security: SecurityProfile,
    /// Maxima lower than those of the build.
    pub limits: LimitsProfile,
    /// What it tells of itself.
    pub metrics: MetricsProfile,
    /// What the host must be like.
    pub host: HostProfile,
    /// Where each value comes from, for messages.
    #[serde(skip)]
    pub source: Source,
}

/// The shards and their cores.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ShardProfile {
    /// The core it is pinned to, where there is one shard.
    pub core: Core,
    /// Shards, each with a share of the disk and a UDP port of its own.
    pub count: u32,
    /// The core of each; empty takes the last ones the process may use, downward.
    pub cores: Vec<usize>,
    /// How frames come to the shard they are for, where several are on one DPDK device.
    pub steering: Steering,
}

/// Which kind of port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PortDriver {
    /// Kernel UDP.
    Udp,
    /// A DPDK device.
    Dpdk,
}

/// Where datagrams enter and leave.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PortProfile {
    /// Kernel UDP or DPDK.
    pub driver: PortDriver,
    /// IPv4 address and UDP port; UDP port 0 takes a free one.
    pub address: SocketAddrV4,
    /// UDP payload of a datagram at most, `DATAGRAM_BYTES_MIN` to `DATAGRAM_BYTES_MAX`.
    pub datagram_bytes: usize,
    /// The device, with driver `dpdk`.
    #[serde(default)]
    pub dpdk: Option<DpdkProfile>,
}

/// A DPDK device and what DPDK's environment (EAL) is told.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct DpdkProfile {
    /// Arguments of EAL, without a program name.
    pub eal: Vec<String>,
    /// The device, by name (`net_memif0`, `0000:03:00.0`).
    pub device: String,
    /// Our Ethernet address; without one, the device's.
    pub mac: Option<MacAddress>,
    /// Addresses that share this many leading bits with ours are on the same wire.
    pub prefix_len: u8,
    /// Where to send for all others; without one, only those on the wire are reached.
    pub gateway: Option<Ipv4Addr>,
    /// Frames the device may hold received.
    pub rx_descriptors: u16,
    /// Frames the device may hold to transmit.
    pub tx_descriptors: u16,
    /// Buffers in the pool; 0 takes the least that can never run out.
    pub mbufs: usize,
    /// Send UDP checksums; off is sound only between processes of one host.
    pub udp_checksum: bool,
}

/// Which kind of disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskDriver {
    /// A file or block device through `io_uring`.
    Uring,
    /// Memory; for measuring the engine alone.
    Ram,
    /// An `NVMe` namespace through SPDK.
    Spdk,
}

/// Where the log is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DiskProfile {
    /// `uring`, `ram` or `spdk`.
    pub driver: DiskDriver,
    /// File or block device, relative to the current directory; with driver `spdk` a transport id.
    pub path: String,
    /// Bytes of the log; a file is created with this size.
    #[serde(deserialize_with = "units::bytes")]
    pub size: u64,
    /// Bytes of a segment.
    #[serde(deserialize_with = "units::bytes")]
    pub segment: u64,
    /// Writes in flight at most.
    pub queue_depth: usize,
    /// Bytes of memory that hold the newest part of the log.
    #[serde(deserialize_with = "units::bytes")]
    pub ring: u64,
    /// Serve although an acknowledged message is lost when the power goes.
    pub accept_volatile: bool,
    /// What is particular to driver `spdk`.
    pub spdk: SpdkProfile,
}

/// An `NVMe` namespace and what SPDK is told.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpdkProfile {
    /// Bytes of huge pages the process takes when it starts SPDK.
    #[serde(deserialize_with = "units::bytes")]
    pub memory: u64,
    /// An operation that takes longer, in milliseconds, puts the disk out of service.
    pub timeout_ms: u32,
    /// NGUID or UUID the namespace has to have; empty for any.
    pub identity: String,
    /// Switch the volatile write cache off, instead of Force Unit Access on every write.
    pub write_cache_off: bool,
    /// `MODEL FIRMWARE` of devices whose cache survives a power cut, as the operator asserts.
    pub power_loss_protected: Vec<String>,
}

/// How clients on this host reach the appliance.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ClientProfile {
    /// The core a client is pinned to.
    pub core: Core,
    /// The client's own port.
    pub port: PortProfile,
}

/// Maxima lower than those of the build.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsProfile {
    /// Messages a publisher may have sent and not yet seen durable.
    pub window_messages: usize,
    /// A turn of the shard that takes longer, in microseconds, is counted and kept in the stall log.
    pub turn_us: u64,
    /// A shard that makes no turn for so long, in milliseconds, ends the process; 0 never.
    pub watchdog_ms: u64,
}

/// What an appliance tells of itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsProfile {
    /// Record the latency of each stage.
    pub stages: bool,
    /// Address and port of metrics and state over HTTP; `off` or empty for none.
    pub http: String,
    /// Unix socket of the same; empty for one named by the instance in the runtime directory, `off` for none.
    pub socket: String,
    /// Directory of interval logs, one histogram a stage and second; empty for none.
    pub dir: String,
}

/// What the host must be like.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HostProfile {
    /// Checks of the host, by id, without which the appliance does not serve.
    pub require: Vec<String>,
    /// Boot parameters the check `cpu.cmdline` wants; empty takes the usual ones.
    pub cmdline: Vec<String>,
    /// The longest a shard's core may be away, for the check `jitter`.
    pub jitter_us_max: u64,
    /// How far the host's clock may be off, for the check `time.sync`.
    pub clock_us_max: u64,
}

impl MetricsProfile {
    /// Where HTTP is to be served; `None` for nowhere.
    #[must_use]
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.parse().ok()
    }
}

impl Default for HostProfile {
    fn default() -> Self {
        Self { require: Vec::new(), cmdline: Vec::new(), jitter_us_max: 50, clock_us_max: 1000 }
    }
}

impl Default for Profile {
    fn default() -> Self {
        let port = PortProfile {
            driver: PortDriver::Udp,
            address: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9310),
            datagram_bytes: DATAGRAM_BYTES,
            dpdk: None,
        };
        let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        let client_port = PortProfile { address: any, ..port.clone() };
        Self {
            name: "unnamed".to_owned(),
            description: String::new(),
            instance: "default".to_owned(),
            shard: ShardProfile {
                core: Core::Last,
                count: 1,
                cores: Vec::new(),
                steering: Steering::Flow,
            },
            port,
            disk: DiskProfile {
                driver: DiskDriver::Uring,
                path: "buslane-data/log".to_owned(),
                size: 1 << 30,
                segment: 16 << 20,
                queue_depth: 8,
                ring: u64::try_from(RING_BYTES).expect("64-bit"),
                accept_volatile: false,
                spdk: SpdkProfile::default(),
            },
            client: ClientProfile { core: Core::First, port: client_port },
            security: SecurityProfile::default(),
            limits: LimitsProfile {
                window_messages: WINDOW_MESSAGES_MAX,
                turn_us: 1000,
                watchdog_ms: 1000,
            },
            metrics: MetricsProfile {
                stages: true,
                http: HTTP_DEFAULT.to_owned(),
                socket: String::new(),
                dir: String::new(),
            },
            host: HostProfile::default(),
            source: Source::default(),
        }
    }
}

impl Default for SpdkProfile {
    fn default() -> Self {
        Self {
            memory: 256 << 20,
            timeout_ms: 50,
            identity: String::new(),
            write_cache_off: false,
            power_loss_protected: Vec::new(),
        }
    }
}

impl Default for DpdkProfile {
    fn default() -> Self {
        Self {
            eal: Vec::new(),
            device: String::new(),
            mac: None,
            prefix_len: 24,
            gateway: None,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            mbufs: 0,
            udp_checksum: true,
        }
    }
}

/// Why a profile cannot be used.
#[derive(Debug, PartialEq, Eq, displaydoc::Display, thiserror::Error)]
#[ignore_extra_doc_attributes]
pub enum ProfileError {
    /// {0}
    ///
    /// The text is wrong, wherever it is used.
    Wrong(String),
    /// {0}
    ///
    /// This host or this binary has not what it asks for.
    Host(String),
}

impl ProfileError {
    /// Whether the text is to blame, and so whoever wrote it (exit code 2), rather than the host (1).
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Wrong(_))
    }
}
