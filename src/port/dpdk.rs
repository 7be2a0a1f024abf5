//! A DPDK poll-mode driver as a port: a NIC, `net_memif` (shared memory of one host), `net_af_packet`.
//!
//! Nothing is copied between the driver's buffers and the caller: a received datagram is read where the
//! device put it, one to be sent is written where the device takes it. ARP requests and pings for our
//! address are answered within `receive`. On a memif the other end may go and come back at any time:
//! while it is away nothing arrives and what is sent is dropped, counted, as on a pulled cable.
//!
//! EAL starts once a process, with the arguments of the port that is opened first. It would pin the
//! calling thread to its main core; `open` restores the thread's affinity, so that launch decides where
//! the port is polled. EAL's own threads (interrupts) run on the cores the opening thread may use.
//!
//! Several ports on one device have the same address but for the UDP port, one after the other, and a thread each.
//! How a frame comes to its port is their [`Steering`]; one that comes to another is passed on over a ring, whatever
//! the steering, so that a device that steers otherwise than told costs time and loses nothing.

use std::ffi::CString;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;

use crate::ids::Peer;
use crate::limits::{DATAGRAM_BYTES_MAX, RECEIVE_BURST, TRANSMIT_BURST};
use crate::port::inet::{self, Check, HEADER_BYTES, Local, Parsed, UdpChecksum, VLAN_BYTES};
use crate::port::neighbours::{Found, Neighbours};
use crate::port::{Port, PortCounters, PortError, Steering, eal};

mod config;
mod device;

pub use config::DpdkConfig;

use device::{Device, Frames, find, make_ring_pair, native, now_ms, start, text, to_u32};

/// Smallest buffer most devices accept for receiving.
const BUFFER_BYTES_MIN: usize = 2048;

const _: () = assert!(RECEIVE_BURST <= 64 && TRANSMIT_BURST <= 64);
const _: () = assert!(
    HEADER_BYTES + VLAN_BYTES + DATAGRAM_BYTES_MAX <= eal::MEMIF_BUFFER_BYTES_MAX,
    "the largest datagram fits one buffer of a memif"
);

/// A port on a DPDK device.
#[derive(Debug)]
pub struct DpdkPort {
    device: Device,
    local: Local,
    ports: Ports,
    description: String,
    subnet: Subnet,
    datagram_bytes: usize,
    check: Check,
    checksum: UdpChecksum,
    counters: PortCounters,
    neighbours: Neighbours,
    /// How often the link had come up when `neighbours` was last cleared.
    link_ups: u32,
    received: Received,
    sending: Sending,
}

/// The ports on a device, each for the UDP port behind that of the one before.
#[derive(Clone, Copy, Debug)]
struct Ports {
    first: u16,
    count: u16,
}

/// Whom a frame reaches without a router, and the router for the others.
#[derive(Clone, Copy, Debug)]
struct Subnet {
    prefix_len: u8,
    gateway: Option<Ipv4Addr>,
}

/// What leaves with the next burst.
#[derive(Debug)]
struct Sending {
    /// Empty, to be filled.
    spare: Frames<TRANSMIT_BURST>,
    queued: Frames<TRANSMIT_BURST>,
    /// For whom the next spare one is reserved.
    reserved: Option<Peer>,
}

/// What came with the last burst.
#[derive(Debug)]
struct Received {
    /// To be freed before the next.
    frames: Frames<RECEIVE_BURST>,
    /// Those of them that hold a datagram for us.
    good: [Good; RECEIVE_BURST],
    good_count: usize,
}

/// A datagram within a received frame.
#[derive(Clone, Copy, Debug)]
struct Good {
    peer: Peer,
    frame: usize,
    start: usize,
    end: usize,
}

impl DpdkPort {
    /// The only port on a device.
    ///
    /// # Errors
    /// As [`DpdkPort::open_all`].
    ///
    /// # Panics
    /// When the configuration is for several.
    pub fn open(config: &DpdkConfig) -> Result<Self, PortError> {
        assert!(config.ports == 1, "one port");
        Ok(Self::open_all(config)?.pop().expect("as many as asked for"))
    }

    /// Starts EAL if these are the first ports of the process, and opens the device. A memif client opens
    /// whether or not its server is there.
    ///
    /// # Errors
    /// `PortError::Device` with what is missing and how to mend it.
    pub fn open_all(config: &DpdkConfig) -> Result<Vec<Self>, PortError> {
        let arguments = Self::start_environment(config)?;
        let number = find(&config.device)?;
        let buffer_bytes = eal::memif_buffer_bytes(&arguments)
            .unwrap_or(0)
            .max(config.frame_bytes())
            .max(BUFFER_BYTES_MIN);
        let mbufs = if config.mbufs == 0 { config.mbufs_needed() } else { config.mbufs };
        let request = native::buslane_port_request {
            frame_bytes: to_u32(config.frame_bytes()),
            buffer_bytes: to_u32(buffer_bytes),
            mbufs: u32::try_from(mbufs).unwrap_or(u32::MAX),
            port: number,
            count: config.ports,
            udp_port: config.address.port(),
            rx_descriptors: config.rx_descriptors,
            tx_descriptors: config.tx_descriptors,
            mac: config.mac.unwrap_or_default(),
            set_mac: u8::from(config.mac.is_some()),
            steering: steering_code(config.steering),
            padding: [0; 2],
        };
        let (devices, facts) = Device::open(&config.device, &request)?;
        Ok((0..).zip(devices).map(|(k, device)| Self::with(device, k, &facts, config)).collect())
    }

    /// Starts EAL with the arguments of a port that is opened later, so that a disk may share it.
    ///
    /// # Errors
    /// As [`DpdkPort::open`].
    pub fn start_environment(config: &DpdkConfig) -> Result<Vec<CString>, PortError> {
        config.check()?;
        let arguments = eal::complete(&config.eal, &config.device, config.frame_bytes())?;
        start(config, &arguments)?;
        Ok(arguments)
    }

    /// Two ports of this process, each receiving what the other transmits: EAL is started as `server` says,
    /// the addresses are those of both configurations.
    ///
    /// # Errors
    /// As [`DpdkPort::open`].
    pub fn open_pair(server: &DpdkConfig, client: &DpdkConfig) -> Result<(Self, Self), PortError> {
        Self::start_environment(server)?;
        let [server_end, client_end] = make_ring_pair()?;
        let on = |config: &DpdkConfig, device: &str| {
            Self::open(&DpdkConfig { device: device.to_owned(), ..config.clone() })
        };
        Ok((on(server, server_end)?, on(client, client_end)?))
    }

    fn with(
        device: Device,
        k: u16,
        facts: &native::buslane_port_facts,
        config: &DpdkConfig,
    ) -> Self {
        let driver = text(&facts.driver);
        let [a, b, c, d] = config.address.ip().octets();
        let own_mac = if matches!(driver.as_str(), "net_memif" | "net_ring") {
            [2, 0, a, b, c, d]
        } else {
            facts.mac
        };
        let mut addr = config.address;
        if addr.port() == 0 {
            addr.set_port(dynamic_port(std::process::id()));
        }
        let first = addr.port();
        addr.set_port(first + k);
        Self {
            device,
            ports: Ports { first, count: config.ports },
            description: describe(k, facts, &driver, config),
            local: Local { mac: config.mac.unwrap_or(own_mac), addr },
            subnet: Subnet { prefix_len: config.prefix_len, gateway: config.gateway },
            datagram_bytes: config.datagram_bytes,
            // The kernel leaves the sum of what it sends into a veth to a device that is not there.
            check: if driver == "net_af_packet" { Check::AllOrPartial } else { Check::All },
            checksum: match (config.udp_checksum, facts.makes_udp_checksums != 0) {
                (false, _) => UdpChecksum::Absent,
                (true, true) => UdpChecksum::Device,
                (true, false) => UdpChecksum::Software,
            },
            counters: PortCounters::default(),
            neighbours: Neighbours::default(),
            link_ups: 0,
            received: Received {
                frames: Frames::new(),
                good: [Good { peer: Peer::ip_only(addr), frame: 0, start: 0, end: 0 };
                    RECEIVE_BURST],
                good_count: 0,
            },
            sending: Sending { spare: Frames::new(), queued: Frames::new(), reserved: None },
        }
    }

    /// Whether frames can pass, as of the last `receive`.
    #[must_use]
    pub fn link_is_up(&self) -> bool {
        self.device.link().0
    }

    /// Our Ethernet address.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.local.mac
    }

    fn take_frame(&mut self, index: usize) {
        let frame = self.received.frames.get(index);
        let parsed = if frame.flags & native::BUSLANE_FRAME_BAD != 0 {
            Parsed::Drop(inet::Reason::Checksum)
        } else {
            let checked = frame.flags & native::BUSLANE_FRAME_CHECKED != 0;
            let check = if checked { Check::Nothing } else { self.check };
            inet::parse(self.received.frames.bytes(index), &self.local, check)
        };
        match parsed {
            Parsed::Udp { peer, payload } if payload.len() <= self.datagram_bytes => {
                let Range { start, end } = payload;
                self.received.good[self.received.good_count] =
                    Good { peer, frame: index, start, end };
                self.received.good_count += 1;
            }
            Parsed::Udp { .. } | Parsed::Drop(_) => self.counters.receive_dropped += 1,
            Parsed::Arp { request, mac, ip } => {
                self.neighbours.hear(ip, mac, now_ms());
                if request {
                    self.send_arp(Some(mac), ip);
                }
            }
            Parsed::Echo { mac, ip, message } => self.answer_echo(index, mac, ip, message),
            Parsed::OtherPort(udp_port) => self.hand_over(index, udp_port),
        }
    }

    fn hand_over(&mut self, index: usize, udp_port: u16) {
        let to = udp_port.checked_sub(self.ports.first).filter(|&to| to < self.ports.count);
        if to.is_some_and(|to| self.device.hand_over(to, &self.received.frames.get(index))) {
            self.counters.handed_over += 1;
        } else {
            self.counters.receive_dropped += 1;
        }
    }

    fn send_arp(&mut self, to: Option<[u8; 6]>, ip: Ipv4Addr) {
        if !self.find_spare() {
            return;
        }
        inet::emit_arp(self.sending.spare.last_bytes_mut(), &self.local, to, ip);
        self.send_now(inet::ARP_FRAME_BYTES);
    }

    fn answer_echo(&mut self, index: usize, mac: [u8; 6], ip: Ipv4Addr, message: Range<usize>) {
        let headers = inet::ETHERNET_BYTES + inet::IPV4_BYTES;
        let len = headers + message.len();
        if !self.find_spare() || len > self.sending.spare.last_bytes_mut().len() {
            self.counters.receive_dropped += 1;
            return;
        }
        let reply = &mut self.sending.spare.last_bytes_mut()[..len];
        reply[headers..].copy_from_slice(&self.received.frames.bytes(index)[message]);
        inet::emit_echo_reply(reply, &self.local, mac, ip);
        self.send_now(len);
    }

    /// Transmits the first `len` bytes of the last spare frame, past the queue. When the device is full
    /// the frame stays spare and the question or answer is lost: it will be asked again.
    fn send_now(&mut self, len: usize) {
        let mut frame = self.sending.spare.pop().expect("find_spare found one");
        let room = frame.length;
        (frame.length, frame.flags) = (to_u32(len), 0);
        if self.device.transmit(&[frame]) == 0 {
            frame.length = room;
            self.sending.spare.push(frame);
        }
    }

    fn find_spare(&mut self) -> bool {
        self.sending.spare.count > 0 || self.device.allocate(&mut self.sending.spare)
    }

    fn next_hop(&self, ip: Ipv4Addr) -> Option<Ipv4Addr> {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.subnet.prefix_len)).unwrap_or(0);
        let near = (u32::from(ip) ^ u32::from(*self.local.addr.ip())) & mask == 0;
        if near { Some(ip) } else { self.subnet.gateway }
    }
}

impl Port for DpdkPort {
    fn receive(&mut self) -> usize {
        self.received.good_count = 0;
        self.received.frames.free();
        self.device.receive(&mut self.received.frames);
        let (_, ups) = self.device.link();
        if ups != self.link_ups {
            self.link_ups = ups;
            self.neighbours.clear();
        }
        for index in 0..self.received.frames.count {
            self.take_frame(index);
        }
        self.counters.received += to_u64(self.received.good_count);
        self.received.good_count
    }

    fn datagram(&mut self, index: usize) -> (Peer, &mut [u8]) {
        let Received { frames, good, good_count } = &mut self.received;
        assert!(index < *good_count, "datagram {index} of {good_count}");
        let Good { peer, frame, start, end } = good[index];
        (peer, &mut frames.bytes_mut(frame)[start..end])
    }

    fn reserve(&mut self, peer: Peer) -> Option<&mut [u8]> {
        if self.sending.queued.count == TRANSMIT_BURST || !self.find_spare() {
            return None;
        }
        self.sending.reserved = Some(peer);
        let end = HEADER_BYTES + self.datagram_bytes;
        Some(&mut self.sending.spare.last_bytes_mut()[HEADER_BYTES..end])
    }

    fn commit(&mut self, len: usize) {
        let peer = self.sending.reserved.take().expect("nothing is reserved");
        assert!(len <= self.datagram_bytes, "{len} of {} bytes", self.datagram_bytes);
        let bytes = &mut self.sending.spare.last_bytes_mut()[..HEADER_BYTES + len];
        inet::emit_udp(bytes, &self.local, peer, self.checksum);
        let mut frame = self.sending.spare.pop().expect("reserve found one");
        frame.length = to_u32(HEADER_BYTES + len);
        frame.flags = match self.checksum {
            UdpChecksum::Device => native::BUSLANE_FRAME_UDP_CHECKSUM,
            UdpChecksum::Software | UdpChecksum::Absent => 0,
        };
        self.sending.queued.push(frame);
    }

    fn flush(&mut self) -> usize {
        if self.sending.queued.count == 0 {
            return 0;
        }
        let taken = self.device.transmit(self.sending.queued.as_slice());
        self.sending.queued.forget_first(taken);
        self.counters.transmitted += to_u64(taken);
        if self.sending.queued.count > 0 && !self.device.link().0 {
            self.counters.transmit_dropped += to_u64(self.sending.queued.count);
            self.sending.queued.free();
        }
        taken
    }

    fn resolve(&mut self, addr: SocketAddrV4) -> Option<Peer> {
        let hop = self.next_hop(*addr.ip())?;
        match self.neighbours.find(hop, now_ms()) {
            Found::Known(mac) => return Some(Peer { addr, mac, local: None }),
            Found::Ask => self.send_arp(None, hop),
            Found::Wait => {}
        }
        None
    }

    fn local(&self) -> SocketAddrV4 {
        self.local.addr
    }

    fn datagram_bytes(&self) -> usize {
        self.datagram_bytes
    }

    fn counters(&self) -> PortCounters {
        let transmit_dropped = self.counters.transmit_dropped + self.device.relay_dropped();
        PortCounters { transmit_dropped, ..self.counters }
    }

    fn describe(&self) -> String {
        self.description.clone()
    }
}

impl Drop for DpdkPort {
    fn drop(&mut self) {
        // Before `device`, which closes the pool they belong to.
        self.received.frames.free();
        self.sending.spare.free();
        self.sending.queued.free();
    }
}

fn describe(
    k: u16,
    facts: &native::buslane_port_facts,
    driver: &str,
    config: &DpdkConfig,
) -> String {
    let device = format!("{} ({driver})", config.device);
    if config.ports == 1 {
        return device;
    }
    let ports = config.ports;
    match config.steering {
        Steering::Software if k == 0 => format!("{device}, steering software: hands over"),
        Steering::Software => format!("{device}, steering software: by way of shard 0"),
        Steering::Rss => format!("{device}, steering rss, queue {k} of {ports}"),
        Steering::Flow => {
            let read_back = if facts.rules_read_back == ports { "read back" } else { "taken" };
            format!("{device}, steering flow, queue {k} of {ports}, rule {read_back}")
        }
    }
}

fn steering_code(steering: Steering) -> u8 {
    let code = match steering {
        Steering::Flow => native::BUSLANE_STEERING_FLOW,
        Steering::Rss => native::BUSLANE_STEERING_RSS,
        Steering::Software => native::BUSLANE_STEERING_SOFTWARE,
    };
    u8::try_from(code).expect("a small code")
}

/// A port of the dynamic range (49152 and up) that differs between processes.
fn dynamic_port(process: u32) -> u16 {
    49_152 + u16::try_from(process % 16_384).expect("below 16384")
}

fn to_u64(count: usize) -> u64 {
    u64::try_from(count).expect("usize fits u64")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> DpdkConfig {
        let address = SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, 1), 7000);
        DpdkConfig::new(Vec::new(), "net_memif0", address)
    }

    #[test]
    fn a_config_that_cannot_work_is_refused_before_eal_starts() {
        type Change = fn(&mut DpdkConfig);
        let changes: [(Change, &str); 8] = [
            (|config| config.datagram_bytes = 9000, "datagram_bytes"),
            (|config| config.prefix_len = 33, "prefix_len"),
            (|config| config.address.set_ip(Ipv4Addr::UNSPECIFIED), "0.0.0.0"),
            (|config| config.mac = Some([1, 0, 0, 0, 0, 0]), "mac"),
            (|config| config.mbufs = 100, "mbufs"),
            (|config| config.ports = 65, "ports"),
            (
                |config| (config.ports, config.address) = (2, "10.1.0.1:65535".parse().unwrap()),
                "65535",
            ),
            (|config| config.eal.push("--help".to_owned()), "--help"),
        ];
        for (change, named) in changes {
            let mut bad = config();
            change(&mut bad);
            let error = DpdkPort::open_all(&bad).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
        config().check().unwrap();
    }

    #[test]
    fn dynamic_ports_stay_in_their_range() {
        assert_eq!(dynamic_port(0), 49_152);
        assert_eq!(dynamic_port(16_383), u16::MAX);
    }
}
