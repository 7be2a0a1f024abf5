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
#![allow(unsafe_code, reason = "the only callers of native/port_dpdk.c")]

use std::ffi::{CStr, CString};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;
use std::ptr::{self, NonNull};

use crate::ids::Peer;
use crate::limits::{DATAGRAM_BYTES_MAX, RECEIVE_BURST, TRANSMIT_BURST};
use crate::port::inet::{self, Check, HEADER_BYTES, Local, Parsed, UdpChecksum, VLAN_BYTES};
use crate::port::neighbours::{Found, Neighbours};
use crate::port::{Port, PortCounters, PortError, eal};

mod config;

pub use config::DpdkConfig;

/// What bindgen makes of `native/port_dpdk.h`, asserts on its layouts included.
mod native {
    #![allow(
        warnings,
        clippy::all,
        clippy::restriction,
        reason = "generated; our own header is the reviewed text"
    )]
    include!(concat!(env!("OUT_DIR"), "/port_dpdk.rs"));
}

use native::buslane_frame as Frame;

/// Buffers fetched from the pool at a time.
const ALLOCATE_BURST: usize = 32;

/// Smallest buffer most devices accept for receiving.
const BUFFER_BYTES_MIN: usize = 2048;

const _: () =
    assert!(RECEIVE_BURST <= 64 && TRANSMIT_BURST <= 64 && ALLOCATE_BURST <= TRANSMIT_BURST);
const _: () = assert!(
    HEADER_BYTES + VLAN_BYTES + DATAGRAM_BYTES_MAX <= eal::MEMIF_BUFFER_BYTES_MAX,
    "the largest datagram fits one buffer of a memif"
);

/// Queue pair 0 of a DPDK device.
#[derive(Debug)]
pub struct DpdkPort {
    device: Device,
    local: Local,
    prefix_len: u8,
    gateway: Option<Ipv4Addr>,
    datagram_bytes: usize,
    check: Check,
    checksum: UdpChecksum,
    counters: PortCounters,
    neighbours: Neighbours,
    /// How often the link had come up when `neighbours` was last cleared.
    link_ups: u32,
    /// Frames of the last burst, to be freed before the next.
    received: Frames<RECEIVE_BURST>,
    /// Those of them that hold a datagram for us.
    good: [Good; RECEIVE_BURST],
    good_count: usize,
    spare: Frames<TRANSMIT_BURST>,
    queued: Frames<TRANSMIT_BURST>,
    reserved: Option<Peer>,
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
    /// Starts EAL if this is the first port of the process, and opens the device. A memif client opens
    /// whether or not its server is there.
    ///
    /// # Errors
    /// `PortError::Device` with what is missing and how to mend it.
    pub fn open(config: &DpdkConfig) -> Result<Self, PortError> {
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
            rx_descriptors: config.rx_descriptors,
            tx_descriptors: config.tx_descriptors,
            mac: config.mac.unwrap_or_default(),
            set_mac: u8::from(config.mac.is_some()),
            padding: [0; 3],
        };
        let (device, facts) = Device::open(&config.device, &request)?;
        Ok(Self::with(device, &facts, config))
    }

    /// Starts EAL with the arguments of a port that is opened later, so that a disk may share it.
    ///
    /// # Errors
    /// As [`DpdkPort::open`].
    pub fn start_environment(config: &DpdkConfig) -> Result<Vec<CString>, PortError> {
        config.check()?;
        let arguments = eal::complete(&config.eal, config.frame_bytes())?;
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
        // SAFETY: takes nothing; EAL runs.
        let made = unsafe { native::buslane_dpdk_ring_pair() };
        if made != 0 {
            return Err(PortError::Device {
                what: "a pair of DPDK rings".into(),
                why: io::Error::from_raw_os_error(-made).to_string(),
                mend: "give EAL more memory (-m)".into(),
            });
        }
        let on = |config: &DpdkConfig, device: &str| {
            Self::open(&DpdkConfig { device: device.to_owned(), ..config.clone() })
        };
        Ok((on(server, "net_ring_buslane0")?, on(client, "net_ring_buslane1")?))
    }

    fn with(device: Device, facts: &native::buslane_port_facts, config: &DpdkConfig) -> Self {
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
        Self {
            device,
            local: Local { mac: config.mac.unwrap_or(own_mac), addr },
            prefix_len: config.prefix_len,
            gateway: config.gateway,
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
            received: Frames::new(),
            good: [Good { peer: Peer::ip_only(addr), frame: 0, start: 0, end: 0 }; RECEIVE_BURST],
            good_count: 0,
            spare: Frames::new(),
            queued: Frames::new(),
            reserved: None,
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
        let frame = self.received.get(index);
        let parsed = if frame.flags & native::BUSLANE_FRAME_BAD != 0 {
            Parsed::Drop(inet::Reason::Checksum)
        } else {
            let checked = frame.flags & native::BUSLANE_FRAME_CHECKED != 0;
            let check = if checked { Check::Nothing } else { self.check };
            inet::parse(self.received.bytes(index), &self.local, check)
        };
        match parsed {
            Parsed::Udp { peer, payload } if payload.len() <= self.datagram_bytes => {
                let Range { start, end } = payload;
                self.good[self.good_count] = Good { peer, frame: index, start, end };
                self.good_count += 1;
            }
            Parsed::Udp { .. } | Parsed::Drop(_) => self.counters.receive_dropped += 1,
            Parsed::Arp { request, mac, ip } => {
                self.neighbours.hear(ip, mac, now_ms());
                if request {
                    self.send_arp(Some(mac), ip);
                }
            }
            Parsed::Echo { mac, ip, message } => self.answer_echo(index, mac, ip, message),
        }
    }

    fn send_arp(&mut self, to: Option<[u8; 6]>, ip: Ipv4Addr) {
        if !self.find_spare() {
            return;
        }
        inet::emit_arp(self.spare.last_bytes_mut(), &self.local, to, ip);
        self.send_now(inet::ARP_FRAME_BYTES);
    }

    fn answer_echo(&mut self, index: usize, mac: [u8; 6], ip: Ipv4Addr, message: Range<usize>) {
        let headers = inet::ETHERNET_BYTES + inet::IPV4_BYTES;
        let len = headers + message.len();
        if !self.find_spare() || len > self.spare.last_bytes_mut().len() {
            self.counters.receive_dropped += 1;
            return;
        }
        let reply = &mut self.spare.last_bytes_mut()[..len];
        reply[headers..].copy_from_slice(&self.received.bytes(index)[message]);
        inet::emit_echo_reply(reply, &self.local, mac, ip);
        self.send_now(len);
    }

    /// Transmits the first `len` bytes of the last spare frame, past the queue. When the device is full
    /// the frame stays spare and the question or answer is lost: it will be asked again.
    fn send_now(&mut self, len: usize) {
        let mut frame = self.spare.pop().expect("find_spare found one");
        let room = frame.length;
        (frame.length, frame.flags) = (to_u32(len), 0);
        if self.device.transmit(&[frame]) == 0 {
            frame.length = room;
            self.spare.push(frame);
        }
    }

    fn find_spare(&mut self) -> bool {
        self.spare.count > 0 || self.device.allocate(&mut self.spare)
    }

    fn next_hop(&self, ip: Ipv4Addr) -> Option<Ipv4Addr> {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix_len)).unwrap_or(0);
        let near = (u32::from(ip) ^ u32::from(*self.local.addr.ip())) & mask == 0;
        if near { Some(ip) } else { self.gateway }
    }
}

impl Port for DpdkPort {
    fn receive(&mut self) -> usize {
        self.good_count = 0;
        self.received.free();
        self.device.receive(&mut self.received);
        let (_, ups) = self.device.link();
        if ups != self.link_ups {
            self.link_ups = ups;
            self.neighbours.clear();
        }
        for index in 0..self.received.count {
            self.take_frame(index);
        }
        self.counters.received += to_u64(self.good_count);
        self.good_count
    }

    fn datagram(&self, index: usize) -> (Peer, &[u8]) {
        assert!(index < self.good_count, "datagram {index} of {}", self.good_count);
        let Good { peer, frame, start, end } = self.good[index];
        (peer, &self.received.bytes(frame)[start..end])
    }

    fn reserve(&mut self, peer: Peer) -> Option<&mut [u8]> {
        if self.queued.count == TRANSMIT_BURST || !self.find_spare() {
            return None;
        }
        self.reserved = Some(peer);
        let end = HEADER_BYTES + self.datagram_bytes;
        Some(&mut self.spare.last_bytes_mut()[HEADER_BYTES..end])
    }

    fn commit(&mut self, len: usize) {
        let peer = self.reserved.take().expect("nothing is reserved");
        assert!(len <= self.datagram_bytes, "{len} of {} bytes", self.datagram_bytes);
        let bytes = &mut self.spare.last_bytes_mut()[..HEADER_BYTES + len];
        inet::emit_udp(bytes, &self.local, peer, self.checksum);
        let mut frame = self.spare.pop().expect("reserve found one");
        frame.length = to_u32(HEADER_BYTES + len);
        frame.flags = match self.checksum {
            UdpChecksum::Device => native::BUSLANE_FRAME_UDP_CHECKSUM,
            UdpChecksum::Software | UdpChecksum::Absent => 0,
        };
        self.queued.push(frame);
    }

    fn flush(&mut self) -> usize {
        if self.queued.count == 0 {
            return 0;
        }
        let taken = self.device.transmit(self.queued.as_slice());
        self.queued.forget_first(taken);
        self.counters.transmitted += to_u64(taken);
        if self.queued.count > 0 && !self.device.link().0 {
            self.counters.transmit_dropped += to_u64(self.queued.count);
            self.queued.free();
        }
        taken
    }

    fn resolve(&mut self, addr: SocketAddrV4) -> Option<Peer> {
        let hop = self.next_hop(*addr.ip())?;
        match self.neighbours.find(hop, now_ms()) {
            Found::Known(mac) => return Some(Peer { addr, mac }),
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
        self.counters
    }
}

impl Drop for DpdkPort {
    fn drop(&mut self) {
        // Before `device`, which closes the pool they belong to.
        self.received.free();
        self.spare.free();
        self.queued.free();
    }
}

/// At most `N` frames that are ours: from a receive or an allocation until freed or transmitted.
#[derive(Debug)]
struct Frames<const N: usize> {
    frames: [Frame; N],
    count: usize,
}

impl<const N: usize> Frames<N> {
    fn new() -> Self {
        let none = Frame { data: ptr::null_mut(), handle: ptr::null_mut(), length: 0, flags: 0 };
        Self { frames: [none; N], count: 0 }
    }

    fn as_slice(&self) -> &[Frame] {
        &self.frames[..self.count]
    }

    #[inline]
    fn get(&self, index: usize) -> Frame {
        self.as_slice()[index]
    }

    #[inline]
    fn bytes(&self, index: usize) -> &[u8] {
        let frame = self.get(index);
        let length = usize::try_from(frame.length).expect("u32 fits usize");
        // SAFETY: the shim gave `length` readable bytes at `data`; the frame is ours, so the device does
        // not write it, and it is not freed while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(frame.data, length) }
    }

    #[inline]
    fn last_bytes_mut(&mut self) -> &mut [u8] {
        let frame = self.get(self.count - 1);
        let length = usize::try_from(frame.length).expect("u32 fits usize");
        // SAFETY: as in `bytes`, and each frame is in one place only, so `&mut self` is the sole access;
        // the driver's buffers are mapped memory without uninitialised padding.
        unsafe { std::slice::from_raw_parts_mut(frame.data, length) }
    }

    fn push(&mut self, frame: Frame) {
        self.frames[self.count] = frame;
        self.count += 1;
    }

    fn pop(&mut self) -> Option<Frame> {
        self.count = self.count.checked_sub(1)?;
        Some(self.frames[self.count])
    }

    /// The first `count` belong to the device now.
    fn forget_first(&mut self, count: usize) {
        self.frames.copy_within(count..self.count, 0);
        self.count -= count;
    }

    #[inline]
    fn free(&mut self) {
        if self.count > 0 {
            // SAFETY: the `count` first frames are ours, and are forgotten below.
            unsafe { native::buslane_dpdk_free(self.frames.as_ptr(), to_u16(self.count)) };
            self.count = 0;
        }
    }
}

/// The shim's handle, closed once.
#[derive(Debug)]
struct Device(NonNull<native::buslane_port>);

impl Device {
    fn open(
        name: &str,
        request: &native::buslane_port_request,
    ) -> Result<(Self, native::buslane_port_facts), PortError> {
        let mut facts = native::buslane_port_facts::default();
        let mut handle = ptr::null_mut();
        // SAFETY: EAL is started (`find` needs it too); all three pointers lead to live values.
        let result = unsafe { native::buslane_dpdk_open(request, &raw mut facts, &raw mut handle) };
        if result == 0 {
            return Ok((Self(NonNull::new(handle).expect("the shim sets it on success")), facts));
        }
        let (why, mend) = match -result {
            libc::ENODEV => return Err(no_such_device(name)),
            libc::EMSGSIZE => (
                format!("it takes an MTU of at most {}", facts.mtu_max),
                "lower datagram_bytes to 28 less than that",
            ),
            libc::ENOMEM | libc::ENOBUFS => (
                format!(
                    "no memory for {} buffers of {} bytes",
                    request.mbufs, request.buffer_bytes
                ),
                "give EAL more (`-m MEGABYTES` with --no-huge, else more huge pages) or lower descriptors",
            ),
            libc::EBUSY => {
                ("the process has a memif port already".to_owned(), "use one memif a process")
            }
            code => (
                io::Error::from_raw_os_error(code).to_string(),
                "see what DPDK wrote to standard error",
            ),
        };
        Err(device_error(name, &why, mend))
    }

    #[inline]
    fn receive(&mut self, frames: &mut Frames<RECEIVE_BURST>) {
        assert!(frames.count == 0, "the burst before was freed");
        let room = to_u16(RECEIVE_BURST);
        // SAFETY: the handle is open until drop, and `&mut self` makes this its only user; `frames` has
        // room for that many.
        let count = unsafe {
            native::buslane_dpdk_receive(self.0.as_ptr(), frames.frames.as_mut_ptr(), room)
        };
        assert!(count <= room, "{count} frames in room for {room}");
        frames.count = usize::from(count);
    }

    fn allocate(&mut self, frames: &mut Frames<TRANSMIT_BURST>) -> bool {
        assert!(frames.count == 0, "spare frames are used up first");
        let count = to_u16(ALLOCATE_BURST);
        // SAFETY: the handle is open and ours alone; `frames` has room for `count`.
        let result = unsafe {
            native::buslane_dpdk_allocate(self.0.as_ptr(), frames.frames.as_mut_ptr(), count)
        };
        if result == 0 {
            frames.count = ALLOCATE_BURST;
        }
        result == 0
    }

    /// How many of the first `frames` the device took; those are no longer ours.
    #[inline]
    fn transmit(&mut self, frames: &[Frame]) -> usize {
        let count = to_u16(frames.len());
        // SAFETY: the handle is open and ours alone; the caller owns these frames and forgets those
        // that are taken.
        let taken =
            unsafe { native::buslane_dpdk_transmit(self.0.as_ptr(), frames.as_ptr(), count) };
        assert!(taken <= count, "{taken} frames taken of {count}");
        usize::from(taken)
    }

    /// Whether the link is up, and how often it has come up.
    #[inline]
    fn link(&self) -> (bool, u32) {
        let mut ups = 0;
        // SAFETY: the handle is open; it is only read.
        let up = unsafe { native::buslane_dpdk_link(self.0.as_ptr(), &raw mut ups) };
        (up != 0, ups)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: opened once, closed once; its frames were freed by the port's drop, which ran first.
        unsafe { native::buslane_dpdk_close(self.0.as_ptr()) };
    }
}

// SAFETY: the shim asks for one thread at a time, not for a certain one: launch moves the port to its
// shard's thread once, before the shard starts.
unsafe impl Send for Device {}
// SAFETY: the frames are buffers of the port's own pool, which any one thread at a time may use; they
// move with the device.
unsafe impl<const N: usize> Send for Frames<N> {}

fn start(config: &DpdkConfig, arguments: &[CString]) -> Result<(), PortError> {
    if !started() {
        eal::clear_stale_sockets(&config.eal)?;
    }
    let pointers: Vec<_> = arguments.iter().map(|argument| argument.as_ptr()).collect();
    let count = i32::try_from(pointers.len()).expect("a few arguments");
    // SAFETY: `count` C strings that live through the call; the shim copies them.
    let result = unsafe { native::buslane_dpdk_start(count, pointers.as_ptr()) };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::from_raw_os_error(-result);
    Err(device_error(
        "DPDK",
        &format!("its environment did not start with `{}`: {error}", config.eal.join(" ")),
        "see the EAL lines on standard error; without huge pages pass `--no-huge -m MEGABYTES`, a second \
         process needs another `--file-prefix`, a missing driver its package, and this process a restart",
    ))
}

/// Whether EAL runs: only then are there devices.
fn started() -> bool {
    // SAFETY: reads a count that is zero before EAL starts.
    unsafe { native::buslane_dpdk_count() > 0 }
}

fn find(device: &str) -> Result<u16, PortError> {
    if let Ok(number) = device.parse() {
        return Ok(number);
    }
    let name = CString::new(device)
        .map_err(|_| device_error(device, "its name holds a zero byte", "correct the profile"))?;
    let mut number = 0;
    // SAFETY: a C string and a live integer.
    if unsafe { native::buslane_dpdk_find(name.as_ptr(), &raw mut number) } == 0 {
        return Ok(number);
    }
    Err(no_such_device(device))
}

fn no_such_device(device: &str) -> PortError {
    // SAFETY: no arguments; EAL is started.
    let count = unsafe { native::buslane_dpdk_count() };
    let names: Vec<String> = (0..count).map(device_name).collect();
    device_error(
        device,
        &format!("DPDK has no such device; it has: [{}]", names.join(", ")),
        "bind the NIC to vfio-pci, or add a `--vdev=` argument for it",
    )
}

fn device_name(index: u16) -> String {
    let mut name = [0; 64];
    // SAFETY: `name` is writable for the length passed, and is terminated by the shim.
    unsafe { native::buslane_dpdk_name(index, name.as_mut_ptr(), to_u32(name.len())) };
    text(&name)
}

fn text(chars: &[std::ffi::c_char]) -> String {
    let bytes: Vec<u8> = chars.iter().map(|char| char.cast_unsigned()).collect();
    CStr::from_bytes_until_nul(&bytes)
        .map(|text| text.to_string_lossy().into_owned())
        .unwrap_or_default()
}

#[inline]
fn now_ms() -> u64 {
    // SAFETY: no arguments; EAL is started, since a port exists.
    unsafe { native::buslane_dpdk_now_ms() }
}

/// A port of the dynamic range (49152 and up) that differs between processes.
fn dynamic_port(process: u32) -> u16 {
    49_152 + u16::try_from(process % 16_384).expect("below 16384")
}

fn device_error(what: &str, why: &str, mend: &str) -> PortError {
    PortError::Device { what: what.to_owned(), why: why.to_owned(), mend: mend.to_owned() }
}

fn to_u16(count: usize) -> u16 {
    u16::try_from(count).expect("at most a burst")
}

fn to_u32(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("at most a jumbo frame")
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
        let changes: [(Change, &str); 6] = [
            (|config| config.datagram_bytes = 9000, "datagram_bytes"),
            (|config| config.prefix_len = 33, "prefix_len"),
            (|config| config.address.set_ip(Ipv4Addr::UNSPECIFIED), "0.0.0.0"),
            (|config| config.mac = Some([1, 0, 0, 0, 0, 0]), "mac"),
            (|config| config.mbufs = 100, "mbufs"),
            (|config| config.eal.push("--help".to_owned()), "--help"),
        ];
        for (change, named) in changes {
            let mut bad = config();
            change(&mut bad);
            let error = DpdkPort::open(&bad).unwrap_err().to_string();
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
