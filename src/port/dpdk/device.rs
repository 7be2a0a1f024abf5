//! The calls of `native/dpdk`: EAL, devices by name, and one device's frames.
#![allow(unsafe_code, reason = "the only callers of native/dpdk")]

use std::ffi::{CStr, CString};
use std::io;
use std::ptr::{self, NonNull};

use crate::limits::{ALLOCATE_BURST, RECEIVE_BURST, TRANSMIT_BURST};
use crate::port::{PortError, eal};

use super::DpdkConfig;

/// What bindgen makes of `native/port_dpdk.h`, asserts on its layouts included.
pub(super) mod native {
    #![allow(
        warnings,
        clippy::all,
        clippy::restriction,
        reason = "generated; our own header is the reviewed text"
    )]
    include!(concat!(env!("OUT_DIR"), "/port_dpdk.rs"));
}

pub(super) use native::buslane_frame as Frame;

const _: () = assert!(ALLOCATE_BURST <= TRANSMIT_BURST);

/// At most `N` frames that are ours: from a receive or an allocation until freed or transmitted.
#[derive(Debug)]
pub(super) struct Frames<const N: usize> {
    frames: [Frame; N],
    pub(super) count: usize,
}

impl<const N: usize> Frames<N> {
    pub(super) fn new() -> Self {
        let none = Frame { data: ptr::null_mut(), handle: ptr::null_mut(), length: 0, flags: 0 };
        Self { frames: [none; N], count: 0 }
    }

    pub(super) fn as_slice(&self) -> &[Frame] {
        &self.frames[..self.count]
    }

    #[inline]
    pub(super) fn get(&self, index: usize) -> Frame {
        self.as_slice()[index]
    }

    #[inline]
    pub(super) fn bytes(&self, index: usize) -> &[u8] {
        let frame = self.get(index);
        let length = usize::try_from(frame.length).expect("u32 fits usize");
        // SAFETY: the shim gave `length` readable bytes at `data`; the frame is ours, so the device does
        // not write it, and it is not freed while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(frame.data, length) }
    }

    #[inline]
    pub(super) fn last_bytes_mut(&mut self) -> &mut [u8] {
        self.bytes_mut(self.count - 1)
    }

    #[inline]
    pub(super) fn bytes_mut(&mut self, index: usize) -> &mut [u8] {
        let frame = self.get(index);
        let length = usize::try_from(frame.length).expect("u32 fits usize");
        // SAFETY: as in `bytes`, and each frame is in one place only, so `&mut self` is the sole access;
        // the driver's buffers are mapped memory without uninitialised padding.
        unsafe { std::slice::from_raw_parts_mut(frame.data, length) }
    }

    pub(super) fn push(&mut self, frame: Frame) {
        self.frames[self.count] = frame;
        self.count += 1;
    }

    pub(super) fn pop(&mut self) -> Option<Frame> {
        self.count = self.count.checked_sub(1)?;
        Some(self.frames[self.count])
    }

    /// The first `count` belong to the device now.
    pub(super) fn forget_first(&mut self, count: usize) {
        self.frames.copy_within(count..self.count, 0);
        self.count -= count;
    }

    #[inline]
    pub(super) fn free(&mut self) {
        if self.count > 0 {
            // SAFETY: the `count` first frames are ours, and are forgotten below.
            unsafe { native::buslane_dpdk_free(self.frames.as_ptr(), to_u16(self.count)) };
            self.count = 0;
        }
    }
}

/// The shim's handle, closed once.
#[derive(Debug)]
pub(super) struct Device(NonNull<native::buslane_port>);

impl Device {
    /// As many as `request.count`.
    pub(super) fn open(
        name: &str,
        request: &native::buslane_port_request,
    ) -> Result<(Vec<Self>, native::buslane_port_facts), PortError> {
        let mut facts = native::buslane_port_facts::default();
        let mut handles = vec![ptr::null_mut(); usize::from(request.count)];
        // SAFETY: EAL is started (`find` needs it too); all three pointers lead to live values, the last to
        // room for `count` handles.
        let result =
            unsafe { native::buslane_dpdk_open(request, &raw mut facts, handles.as_mut_ptr()) };
        if result == 0 {
            let opened = |handle| Self(NonNull::new(handle).expect("the shim sets it on success"));
            return Ok((handles.into_iter().map(opened).collect(), facts));
        }
        if result == -libc::ENODEV {
            return Err(no_such_device(name));
        }
        let (why, mend) = why_not(-result, request, &facts);
        Err(device_error(name, &why, mend))
    }

    /// Gives a received frame to port `to` of the same device as well; `false` when too many wait there.
    pub(super) fn hand_over(&mut self, to: u16, frame: &Frame) -> bool {
        // SAFETY: the handle is open and ours alone; the frame is one it received, and not freed yet.
        unsafe { native::buslane_dpdk_hand_over(self.0.as_ptr(), to, frame) == 0 }
    }

    /// Frames of other ports that were dropped instead of transmitted.
    pub(super) fn relay_dropped(&self) -> u64 {
        // SAFETY: the handle is open; it is only read.
        unsafe { native::buslane_dpdk_relay_dropped(self.0.as_ptr()) }
    }

    #[inline]
    pub(super) fn receive(&mut self, frames: &mut Frames<RECEIVE_BURST>) {
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

    pub(super) fn allocate(&mut self, frames: &mut Frames<TRANSMIT_BURST>) -> bool {
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
    pub(super) fn transmit(&mut self, frames: &[Frame]) -> usize {
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
    pub(super) fn link(&self) -> (bool, u32) {
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

fn why_not(
    errno: i32,
    request: &native::buslane_port_request,
    facts: &native::buslane_port_facts,
) -> (String, &'static str) {
    match errno {
        libc::EMSGSIZE => (
            format!("it takes an MTU of at most {}", facts.mtu_max),
            "lower datagram_bytes to 28 less than that",
        ),
        libc::ENOMEM | libc::ENOBUFS => (
            format!(
                "no memory for {} times {} buffers of {} bytes",
                request.count, request.mbufs, request.buffer_bytes
            ),
            "give EAL more (`-m MEGABYTES` with --no-huge, else more huge pages) or lower descriptors",
        ),
        libc::EBUSY => {
            ("the process has a memif port already".to_owned(), "use one memif a process")
        }
        libc::ERANGE => (
            format!(
                "it has {} queue pairs for us, and there are {} shards",
                facts.queues_max, request.count
            ),
            "take shard.steering = \"software\", with which shard 0 hands over, or fewer shards",
        ),
        libc::EPROTO => (
            format!("it takes no rule that steers a UDP port to a queue: {}", text(&facts.refusal)),
            "take shard.steering = \"rss\", or \"software\"",
        ),
        code => (
            io::Error::from_raw_os_error(code).to_string(),
            "see what DPDK wrote to standard error",
        ),
    }
}

// SAFETY: the shim asks for one thread at a time, not for a certain one: launch moves the port to its
// shard's thread once, before the shard starts.
unsafe impl Send for Device {}
// SAFETY: the frames are buffers of the port's own pool, which any one thread at a time may use; they
// move with the device.
unsafe impl<const N: usize> Send for Frames<N> {}

pub(super) fn start(config: &DpdkConfig, arguments: &[CString]) -> Result<(), PortError> {
    let first = !started();
    let gate = eal::gate(&config.eal, &config.device);
    if first {
        eal::clear_stale_sockets(&config.eal, gate.as_ref())?;
    }
    let pointers: Vec<_> = arguments.iter().map(|argument| argument.as_ptr()).collect();
    let count = i32::try_from(pointers.len()).expect("a few arguments");
    // SAFETY: `count` C strings that live through the call; the shim copies them.
    let result = unsafe { native::buslane_dpdk_start(count, pointers.as_ptr()) };
    if result == 0 {
        return gate.filter(|_| first).map_or(Ok(()), |gate| put_gate(&gate));
    }
    let error = io::Error::from_raw_os_error(-result);
    Err(device_error(
        "DPDK",
        &format!("its environment did not start with `{}`: {error}", config.eal.join(" ")),
        "see the EAL lines on standard error; without huge pages pass `--no-huge -m MEGABYTES`, a second \
         process needs another `--file-prefix`, a missing driver its package, and this process a restart",
    ))
}

/// Puts the gate before the memif server that EAL has started.
fn put_gate(gate: &eal::Gate) -> Result<(), PortError> {
    let name = |name: &str| CString::new(name).expect("an argument of EAL without zero bytes");
    let (address, behind) = (name(&gate.address), name(&gate.behind));
    let is_abstract = i32::from(gate.is_abstract);
    // SAFETY: two C strings that live through the call; the shim copies what it keeps.
    let result =
        unsafe { native::buslane_dpdk_gate(address.as_ptr(), is_abstract, behind.as_ptr()) };
    if result == 0 {
        return Ok(());
    }
    let why = io::Error::from_raw_os_error(-result);
    let mend = "see that its directory can be written and nobody else serves there, or name another `socket=`";
    Err(device_error(&gate.address, &format!("a memif cannot be served here: {why}"), mend))
}

/// Makes two devices, each receiving what the other transmits, and names them.
pub(super) fn make_ring_pair() -> Result<[&'static str; 2], PortError> {
    // SAFETY: takes nothing; EAL runs.
    let made = unsafe { native::buslane_dpdk_ring_pair() };
    if made == 0 {
        return Ok(["net_ring_buslane0", "net_ring_buslane1"]);
    }
    let why = io::Error::from_raw_os_error(-made).to_string();
    Err(device_error("a pair of DPDK rings", &why, "give EAL more memory (-m)"))
}

/// Whether EAL runs: only then are there devices.
fn started() -> bool {
    // SAFETY: reads a count that is zero before EAL starts.
    unsafe { native::buslane_dpdk_count() > 0 }
}

pub(super) fn find(device: &str) -> Result<u16, PortError> {
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

pub(super) fn text(chars: &[std::ffi::c_char]) -> String {
    let bytes: Vec<u8> = chars.iter().map(|char| char.cast_unsigned()).collect();
    CStr::from_bytes_until_nul(&bytes)
        .map(|text| text.to_string_lossy().into_owned())
        .unwrap_or_default()
}

#[inline]
pub(super) fn now_ms() -> u64 {
    // SAFETY: no arguments; EAL is started, since a port exists.
    unsafe { native::buslane_dpdk_now_ms() }
}
pub(super) fn device_error(what: &str, why: &str, mend: &str) -> PortError {
    PortError::Device { what: what.to_owned(), why: why.to_owned(), mend: mend.to_owned() }
}

fn to_u16(count: usize) -> u16 {
    u16::try_from(count).expect("at most a burst")
}

pub(super) fn to_u32(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("at most a jumbo frame")
}
