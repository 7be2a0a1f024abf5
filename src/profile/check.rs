//! Whether the values of a profile are in range, and whether this host and binary have what it names.

use std::fmt::Display;
use std::ops::RangeInclusive;

use crate::disk::is_transport_id;

use super::{DiskDriver, HTTP_DEFAULT, PortDriver, PortProfile, Profile, ProfileError};
use crate::host::CATALOGUE;
use crate::limits::{
    BATCH_BYTES_MAX, BLOCK_BYTES, DATAGRAM_BYTES_MAX, DATAGRAM_BYTES_MIN, QUEUE_DEPTH_MAX,
    RING_BYTES_MIN, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, WINDOW_MESSAGES_MAX,
};
use crate::profile::units::format_bytes;

/// A log has at least this many segments, so that some can be free while others are read.
const SEGMENTS_OF_A_PROFILE: u64 = 8;

/// A name becomes part of file names.
pub(super) const NAME_CHARS_MAX: usize = 32;

/// A path of a socket, at most: the kernel keeps it in 108 bytes with a zero at the end.
const SOCKET_PATH_BYTES_MAX: usize = 107;

const BLOCK: u64 = BLOCK_BYTES as u64;
const SEGMENT_MIN: u64 = SEGMENT_BYTES_MIN as u64;
const SEGMENT_MAX: u64 = SEGMENT_BYTES_MAX as u64;
/// Live consumers read what is not being written.
const RING_MIN: u64 = RING_BYTES_MIN as u64;
const RING_MAX: u64 = 64 << 30;

const _: () = assert!(RING_MIN >= 2 * BATCH_BYTES_MAX as u64 && RING_MIN <= RING_MAX);

impl Profile {
    /// Everything that can be said without looking at the host.
    pub(super) fn check_ranges(&self) -> Result<(), ProfileError> {
        self.check_words()?;
        self.check_port("port", &self.port)?;
        self.check_port("client.port", &self.client.port)?;
        if self.port.address.port() == 0 && self.port.driver == PortDriver::Dpdk {
            return Err(self.wrong(
                "port.address",
                "an appliance on DPDK needs a UDP port of its own; write one, as in 10.0.0.1:9310",
            ));
        }
        self.check_shards()?;
        self.check_disk()?;
        self.check_required_names()?;
        let http = &self.metrics.http;
        if !matches!(http.as_str(), "" | "off") && self.metrics.http_address().is_none() {
            let what = format!(
                "metrics.http is {http}, wanted address:port, as in {HTTP_DEFAULT}, or off"
            );
            return Err(self.wrong("metrics.http", &what));
        }
        self.check_between("limits.turn_us", self.limits.turn_us, 1..=60_000_000)?;
        self.check_between("limits.watchdog_ms", self.limits.watchdog_ms, 0..=3_600_000)?;
        self.check_between(
            "limits.window_messages",
            self.limits.window_messages,
            1..=WINDOW_MESSAGES_MAX,
        )
    }

    /// Whether this host and this binary can serve with the profile; `cores` are those the process may
    /// use.
    ///
    /// # Errors
    /// `ProfileError` that names the key, what it asks for, and how to mend it.
    pub fn check_serve(&self, cores: &[usize]) -> Result<(), ProfileError> {
        self.check_cores(cores)?;
        self.check_driver("port", &self.port)?;
        self.check_security()?;
        if self.disk.driver == DiskDriver::Spdk && !cfg!(feature = "spdk") {
            let what = "disk.driver is spdk, which this binary was built without; build one with \
                        `cargo build --release --features spdk`";
            return Err(self.host("disk.driver", what));
        }
        if self.disk.driver == DiskDriver::Ram && !self.disk.accept_volatile {
            return Err(self.wrong(
                "disk.driver",
                "a log in memory is lost with the process; use uring, or accept it with \
                 disk.accept_volatile = true",
            ));
        }
        Ok(())
    }

    /// Whether the shards' cores are among `cores`.
    ///
    /// # Errors
    /// `ProfileError` that names the key, the core, and those there are.
    pub fn check_cores(&self, cores: &[usize]) -> Result<(), ProfileError> {
        self.shard_cores(cores).map(|_| ())
    }

    /// Whether a client on this host can use the profile; `cores` are those the process may use.
    ///
    /// # Errors
    /// `ProfileError` that names the key, what it asks for, and how to mend it.
    pub fn check_client(&self, cores: &[usize]) -> Result<(), ProfileError> {
        self.check_core("client.core", self.client.core, cores)?;
        self.check_driver("client.port", &self.client.port)
    }

    fn check_words(&self) -> Result<(), ProfileError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.';
        for (key, word) in [("name", &self.name), ("instance", &self.instance)] {
            if word.is_empty() || word.len() > NAME_CHARS_MAX || !word.chars().all(plain) {
                let what = format!(
                    "{key} is `{word}`, wanted 1 to {NAME_CHARS_MAX} letters, digits, `-`, `_` or `.`, because it \
                     becomes part of file names"
                );
                return Err(self.wrong(key, &what));
            }
        }
        Ok(())
    }

    fn check_required_names(&self) -> Result<(), ProfileError> {
        for name in &self.host.require {
            if CATALOGUE.iter().any(|item| item.id == name) {
                continue;
            }
            let near = CATALOGUE
                .iter()
                .map(|item| item.id)
                .min_by_key(|id| strsim::damerau_levenshtein(id, name))
                .filter(|id| strsim::damerau_levenshtein(id, name) <= 3.max(name.len() / 3));
            let mend = near.map_or_else(
                || "`buslane host check` lists every check".to_owned(),
                |near| format!("did you mean {near}?"),
            );
            let what = format!("host.require: there is no check {name}; {mend}");
            return Err(self.wrong("host.require", &what));
        }
        Ok(())
    }

    fn check_port(&self, name: &str, port: &PortProfile) -> Result<(), ProfileError> {
        let bytes = DATAGRAM_BYTES_MIN..=DATAGRAM_BYTES_MAX;
        self.check_between(&format!("{name}.datagram_bytes"), port.datagram_bytes, bytes)?;
        let Some(dpdk) = &port.dpdk else {
            if port.driver == PortDriver::Dpdk {
                let what = format!("driver dpdk needs to know the device; add a [{name}.dpdk]");
                return Err(self.wrong(&format!("{name}.driver"), &what));
            }
            return Ok(());
        };
        let key = |key: &str| format!("{name}.dpdk.{key}");
        if port.driver == PortDriver::Dpdk && dpdk.device.is_empty() {
            let what = "a DPDK port needs a device; write its name, as in \"net_memif0\"";
            return Err(self.wrong(&key("device"), what));
        }
        if port.driver == PortDriver::Dpdk && port.address.ip().is_unspecified() {
            let what = "a DPDK port has no address but this one; write it, as in 10.0.0.1:9310";
            return Err(self.wrong(&format!("{name}.address"), what));
        }
        self.check_between(&key("prefix_len"), usize::from(dpdk.prefix_len), 0..=32)?;
        for (descriptors, count) in
            [("rx_descriptors", dpdk.rx_descriptors), ("tx_descriptors", dpdk.tx_descriptors)]
        {
            self.check_between(&key(descriptors), usize::from(count), 64..=32_768)?;
        }
        self.check_eal(&key("eal"), &dpdk.eal)
    }

    fn check_eal(&self, key: &str, eal: &[String]) -> Result<(), ProfileError> {
        for argument in eal {
            let socket = argument.split(',').find_map(|part| part.strip_prefix("socket="));
            if socket.is_some_and(|path| path.len() > SOCKET_PATH_BYTES_MAX) {
                let what = format!(
                    "a socket's path has {SOCKET_PATH_BYTES_MAX} bytes at most; shorten it in \
                     `{argument}`"
                );
                return Err(self.wrong(key, &what));
            }
        }
        Ok(())
    }

    fn check_disk(&self) -> Result<(), ProfileError> {
        let disk = &self.disk;
        if disk.path.is_empty() && disk.driver != DiskDriver::Ram {
            return Err(self.wrong("disk.path", "is empty; name a file or a block device"));
        }
        if (disk.driver == DiskDriver::Spdk) != is_transport_id(&disk.path) {
            return Err(self.wrong(
                "disk.path",
                "a transport id (`trtype:PCIe traddr:0000:81:00.0`) goes with disk.driver = \"spdk\", a \
                 file or block device with the other drivers",
            ));
        }
        self.check_between("disk.spdk.timeout_ms", disk.spdk.timeout_ms as usize, 1..=60_000)?;
        self.check_size("disk.segment", disk.segment, SEGMENT_MIN..=SEGMENT_MAX)?;
        self.check_size("disk.ring", disk.ring, RING_MIN..=RING_MAX)?;
        self.check_size("disk.size", disk.size, BLOCK..=u64::MAX)?;
        let count = self.shard.count;
        let size_min = SEGMENTS_OF_A_PROFILE * disk.segment * u64::from(count);
        if disk.size < size_min {
            let each =
                if count == 1 { String::new() } else { format!(" for each of {count} shards") };
            let what = format!(
                "disk.size is {}, wanted at least {SEGMENTS_OF_A_PROFILE} segments of {}{each}, {} in all; raise it \
                 or lower disk.segment",
                format_bytes(disk.size),
                format_bytes(disk.segment),
                format_bytes(size_min)
            );
            return Err(self.wrong("disk.size", &what));
        }
        self.check_between("disk.queue_depth", disk.queue_depth, 1..=QUEUE_DEPTH_MAX)
    }

    fn check_size(
        &self,
        key: &str,
        bytes: u64,
        allowed: RangeInclusive<u64>,
    ) -> Result<(), ProfileError> {
        if bytes.is_multiple_of(BLOCK) && allowed.contains(&bytes) {
            return Ok(());
        }
        let (least, most) = allowed.into_inner();
        let most =
            if most == u64::MAX { String::new() } else { format!(" to {}", format_bytes(most)) };
        let what = format!(
            "{key} is {}, wanted a multiple of {} from {}{most}",
            format_bytes(bytes),
            format_bytes(BLOCK),
            format_bytes(least)
        );
        Err(self.wrong(key, &what))
    }

    pub(super) fn check_between<T: PartialOrd + Display>(
        &self,
        key: &str,
        value: T,
        allowed: RangeInclusive<T>,
    ) -> Result<(), ProfileError> {
        if allowed.contains(&value) {
            return Ok(());
        }
        let (least, most) = allowed.into_inner();
        Err(self.wrong(key, &format!("{key} is {value}, wanted {least} to {most}")))
    }

    pub(super) fn check_core(
        &self,
        key: &str,
        core: super::Core,
        cores: &[usize],
    ) -> Result<(), ProfileError> {
        let Err(number) = core.resolve(cores) else {
            return Ok(());
        };
        let there: Vec<String> = cores.iter().map(ToString::to_string).collect();
        let what = format!(
            "{key} is {number}, but this process may use core {}; choose one of them, or \"last\"",
            there.join(", ")
        );
        Err(self.host(key, &what))
    }

    fn check_driver(&self, name: &str, port: &PortProfile) -> Result<(), ProfileError> {
        if port.driver == PortDriver::Dpdk && !cfg!(feature = "dpdk") {
            let what = format!(
                "{name}.driver is dpdk, which this binary was built without; build one with \
                 `cargo build --release --features dpdk`"
            );
            return Err(self.host(&format!("{name}.driver"), &what));
        }
        Ok(())
    }

    pub(super) fn wrong(&self, key: &str, what: &str) -> ProfileError {
        ProfileError::Wrong(format!("{}: {what}", self.source.place(key)))
    }

    pub(super) fn host(&self, key: &str, what: &str) -> ProfileError {
        ProfileError::Host(format!("{}: {what}", self.source.place(key)))
    }
}
