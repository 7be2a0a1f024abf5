//! Opening a DPDK port from a profile.

use crate::port::dpdk::{DpdkConfig, DpdkPort};
use crate::port::{AnyPort, Port, PortError, Steering};
use crate::profile::{PortProfile, Profile};

/// Starts DPDK's environment for a port that is opened later.
pub(super) fn start(profile: &PortProfile) -> Result<(), PortError> {
    DpdkPort::start_environment(&config(profile)).map(|_| ())
}

/// A port a shard, all on one device.
pub(super) fn open_all(profile: &Profile) -> Result<Vec<Box<dyn Port + Send>>, PortError> {
    let ports = u16::try_from(profile.shard.count).expect("few shards");
    let steering = profile.shard.steering;
    let ports = DpdkPort::open_all(&DpdkConfig { ports, steering, ..config(&profile.port) })?;
    Ok(ports.into_iter().map(|port| -> Box<dyn Port + Send> { Box::new(port) }).collect())
}

pub(super) fn open(profile: &PortProfile) -> Result<Box<dyn Port + Send>, PortError> {
    Ok(Box::new(DpdkPort::open(&config(profile))?))
}

/// The appliance's port and a client's, in one process.
pub(super) fn open_pair(
    server: &PortProfile,
    client: &PortProfile,
) -> Result<(AnyPort, AnyPort), PortError> {
    let (server, client) = DpdkPort::open_pair(&config(server), &config(client))?;
    Ok((Box::new(server), Box::new(client)))
}

fn config(profile: &PortProfile) -> DpdkConfig {
    let dpdk = profile.dpdk.clone().unwrap_or_default();
    DpdkConfig {
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
        ports: 1,
        steering: Steering::Flow,
    }
}
