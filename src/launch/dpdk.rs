//! Opening a DPDK port from a profile.

use crate::launch::AnyPort;
use crate::port::PortError;
use crate::port::dpdk::{DpdkConfig, DpdkPort};
use crate::profile::PortProfile;

pub(super) fn open(profile: &PortProfile) -> Result<AnyPort, PortError> {
    let dpdk = profile.dpdk.clone().unwrap_or_default();
    let config = DpdkConfig {
        eal: dpdk.eal,
        device: dpdk.device,
        address: profile.address,
        mac: dpdk.mac.map(|mac| mac.0),
        prefix_len: dpdk.prefix_len,
        gateway: dpdk.gateway,
        datagram_bytes: profile.datagram_bytes,
        rx_descriptors: dpdk.rx_descriptors,
        tx_descriptors: dpdk.tx_descriptors,
        mbufs: dpdk.mbufs,
        udp_checksum: dpdk.udp_checksum,
    };
    Ok(Box::new(DpdkPort::open(&config)?))
}
