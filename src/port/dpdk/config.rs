//! What a DPDK port is told, and whether it makes sense.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::device::{device_error, native};
use crate::limits::{DATAGRAM_BYTES, DATAGRAM_BYTES_MAX, RECEIVE_BURST, TRANSMIT_BURST};
use crate::port::inet::{HEADER_BYTES, VLAN_BYTES};
use crate::port::{PortError, Steering};

/// Buffers a driver or the pool's per-thread cache may hold besides the descriptors: `net_memif` takes
/// 32 before it looks how many it needs, the cache keeps up to one and a half times its 128.
const DRIVER_MBUFS: usize = 32 + 192;

/// Frames handed to a port that wait at most.
const HANDED_MAX: usize = native::BUSLANE_HANDED_MAX as usize;

/// What to open.
#[derive(Clone, Debug)]
pub struct DpdkConfig {
    /// Arguments of EAL without a program name; those of the first port opened count.
    pub eal: Vec<String>,
    /// The device, by name (`net_memif0`, `0000:03:00.0`) or by number.
    pub device: String,
    /// Our address. Port 0 takes one from the dynamic range by process id, for clients.
    pub address: SocketAddrV4,
    /// Our Ethernet address; `None` takes the device's, or on a memif one made from the IPv4 address, so
    /// that it is the same after a restart.
    pub mac: Option<[u8; 6]>,
    /// Addresses that share this many leading bits with ours are on the same wire.
    pub prefix_len: u8,
    /// Where to send for all others; `None` reaches only those on the wire.
    pub gateway: Option<Ipv4Addr>,
    /// UDP payload of a datagram, at most.
    pub datagram_bytes: usize,
    /// Frames the device may hold received.
    pub rx_descriptors: u16,
    /// Frames the device may hold to transmit.
    pub tx_descriptors: u16,
    /// Buffers in the pool; 0 takes the least that can never run out.
    pub mbufs: usize,
    /// Send UDP checksums. Off is sound only between processes of one host (memif).
    pub udp_checksum: bool,
    /// Ports on the device, the address of each one UDP port higher than that of the one before.
    pub ports: u16,
    /// How each comes to what is for it.
    pub steering: Steering,
}

impl DpdkConfig {
    /// A port on `device` with the usual sizes.
    #[must_use]
    pub fn new(eal: Vec<String>, device: &str, address: SocketAddrV4) -> Self {
        Self {
            eal,
            device: device.to_owned(),
            address,
            mac: None,
            prefix_len: 24,
            gateway: None,
            datagram_bytes: DATAGRAM_BYTES,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            mbufs: 0,
            udp_checksum: true,
            ports: 1,
            steering: Steering::Flow,
        }
    }

    /// The least number of buffers of a port with which no request for one can fail.
    #[must_use]
    pub fn mbufs_needed(&self) -> usize {
        let handed_over = if self.ports == 1 { 0 } else { usize::from(self.ports) * HANDED_MAX };
        usize::from(self.rx_descriptors) // waiting to be filled
            + usize::from(self.tx_descriptors) // on their way out
            + RECEIVE_BURST // being read by the caller
            + TRANSMIT_BURST // queued
            + TRANSMIT_BURST // spare, to be reserved
            + 1 // an answer to ARP or ping
            + handed_over // waiting for another port
            + DRIVER_MBUFS
    }

    pub(super) fn check(&self) -> Result<(), PortError> {
        let wrong = |why: String| Err(device_error(&self.device, &why, "correct the profile"));
        if !(1..=native::BUSLANE_PORTS_MAX).contains(&u32::from(self.ports)) {
            return wrong(format!(
                "{} ports are not 1 to {}",
                self.ports,
                native::BUSLANE_PORTS_MAX
            ));
        }
        if !(1..=DATAGRAM_BYTES_MAX).contains(&self.datagram_bytes) {
            return wrong(format!(
                "datagram_bytes {} is not from 1 to {DATAGRAM_BYTES_MAX}",
                self.datagram_bytes
            ));
        }
        if self.prefix_len > 32 {
            return wrong(format!("prefix_len {} is above 32", self.prefix_len));
        }
        let ip = self.address.ip();
        if ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || ip.is_loopback() {
            return wrong(format!("{ip} is not an address a device can have"));
        }
        let last_port = u32::from(self.address.port()) + u32::from(self.ports) - 1;
        if self.ports > 1 && (self.address.port() == 0 || last_port > u32::from(u16::MAX)) {
            return wrong(format!(
                "UDP port {} has not {} ports from it on",
                self.address.port(),
                self.ports
            ));
        }
        if self.mac.is_some_and(|mac| mac[0] & 1 == 1 || mac == [0; 6]) {
            return wrong("mac is not the address of one host".to_owned());
        }
        if self.mbufs != 0 && self.mbufs < self.mbufs_needed() {
            return wrong(format!(
                "{} mbufs are fewer than the {} in use at most",
                self.mbufs,
                self.mbufs_needed()
            ));
        }
        Ok(())
    }

    pub(super) fn frame_bytes(&self) -> usize {
        HEADER_BYTES + VLAN_BYTES + self.datagram_bytes
    }
}
