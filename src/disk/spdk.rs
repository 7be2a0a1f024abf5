//! A disk that is an NVMe namespace, through SPDK's user-space driver: no system call on the path.
//!
//! Named by SPDK's transport id: `trtype:PCIe traddr:0000:81:00.0`, a vfio-user socket, NVMe over TCP or
//! RDMA; `ns:2` names another namespace than the first. A controller is attached once; each disk on it has a
//! queue pair of its own, whose completions it polls. A write that failed is not sent again by the driver; one
//! that takes longer than the time limit, a controller that was reset or is gone put all its disks out of
//! service: nothing more is submitted, and what is in flight stays pinned until its completion comes or the
//! last of the disks is closed. Then the controller is attached anew.
#![allow(unsafe_code, reason = "the only callers of native/spdk")]
#![allow(clippy::disallowed_types, reason = "a lock for attaching and detaching, off the path")]

use std::ffi::{CString, OsString};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::lock::place;
use super::queue::{Backend, Queue, Reaped, Refused, Start};
use super::{DiskError, DiskFault, DiskInfo, Errno, NvmeStatus, Operation};
use crate::ids::Durability;
use crate::limits::{BLOCK_BYTES, OPERATIONS_MAX, QUEUE_DEPTH_MAX, TRANSFER_BYTES_MAX};
use crate::memory::Memory;

mod device;
mod hold;
mod says;

pub use device::{Device, Health};

use device::{check, device_of, durability, enough_queue_pairs, identity_of, lock_name};
use hold::{Locks, random};
use says::{failed, fault_of, is_lost, lost, open_error, reserve_error};

/// What bindgen makes of `native/disk_spdk.h`, asserts on its layouts included.
mod native {
    #![allow(
        warnings,
        clippy::all,
        clippy::restriction,
        reason = "generated; our own header is the reviewed text"
    )]
    include!(concat!(env!("OUT_DIR"), "/disk_spdk.rs"));
}

/// How long an owner from another place is watched for signs of life, of which it gives one a second.
const WATCH_MS: u32 = 5_000;

/// Memory for devices comes in huge pages.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// How a namespace is opened.
#[derive(Clone, Debug)]
pub struct SpdkConfig {
    /// SPDK's transport id.
    pub transport_id: String,
    /// Huge pages the process takes when it starts SPDK, in MiB.
    pub huge_memory_mib: u32,
    /// An operation that takes longer puts the disk out of service.
    pub timeout_ms: u32,
    /// NGUID or UUID the namespace has to have, 32 hexadecimal digits; empty for any.
    pub identity: String,
    /// Switch the volatile write cache off, where there is one that is on.
    pub write_cache_off: bool,
    /// Models, each with its firmware after a blank, whose cache the operator knows to survive a power cut.
    pub power_loss_protected: Vec<String>,
    /// Use it although what it acknowledges may be lost when the power goes.
    pub accept_volatile: bool,
    /// It is only looked at: nobody else is kept from writing.
    pub read_only: bool,
}

/// A namespace, attached to while there is a disk on it.
#[derive(Debug)]
pub struct SpdkNamespace {
    config: SpdkConfig,
    id: CString,
    /// Of a vfio-user target.
    socket: Option<PathBuf>,
    /// Disks on it at a time, at most.
    disks_max: u32,
    state: Mutex<State>,
}

/// Who attaches, opens, closes and detaches holds it: the shim wants one of these at a time.
#[derive(Debug, Default)]
struct State {
    attached: Option<Attached>,
    disks: u32,
    locks: Locks,
    /// Memory of disks that were closed with operations unanswered: the controller may still write there, until
    /// it was attached to, and so reset, again.
    limbo: Vec<Memory>,
}

/// A controller that is attached.
#[derive(Clone, Debug)]
struct Attached {
    controller: NonNull<native::buslane_controller>,
    facts: native::buslane_disk_facts,
    durability: Durability,
}

// SAFETY: a controller may be used by any thread; that it is one at a time, the mutex sees to.
unsafe impl Send for Attached {}

impl SpdkNamespace {
    /// Takes hold of a namespace for as many as `disks_max` disks, and starts SPDK's environment if nothing of the
    /// process did. The controller is attached with the first disk.
    ///
    /// # Errors
    /// [`DiskError::Open`] with what, why and what to do.
    pub fn new(config: SpdkConfig, disks_max: u32) -> Result<Arc<Self>, DiskError> {
        let id = CString::new(config.transport_id.clone())
            .map_err(|_| failed(&config, "holds a zero byte", "remove it"))?;
        let socket = start(&config, &id)?;
        Ok(Arc::new(Self { config, id, socket, disks_max, state: Mutex::default() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The controller with one disk more, attached if it is not.
    fn enter(&self, state: &mut State) -> Result<Attached, DiskError> {
        if state.disks == self.disks_max {
            return Err(failed(&self.config, "is open already", "close it first"));
        }
        if let Some(attached) = &state.attached {
            // SAFETY: it is attached as long as the state says so.
            let errno = unsafe { native::buslane_spdk_lost(attached.controller.as_ptr()) };
            if errno != 0 {
                // It is attached anew once all shards have let go of it.
                return Err(lost(&self.config, errno));
            }
        } else {
            if let Some(socket) = &self.socket {
                state.locks.socket(&self.config, socket)?;
            }
            state.attached =
                Some(attach(&self.config, &self.id, self.disks_max, &mut state.locks)?);
            // Attaching has reset the controller: what it had not answered is over.
            state.limbo.clear();
        }
        state.disks += 1;
        Ok(state.attached.clone().expect("attached above"))
    }

    fn leave(state: &mut State) {
        state.disks -= 1;
        if state.disks > 0 {
            return;
        }
        if let Some(attached) = state.attached.take() {
            detach(attached.controller);
        }
    }
}

fn detach(controller: NonNull<native::buslane_controller>) {
    // SAFETY: attached, without disks, and detached once.
    unsafe { native::buslane_spdk_detach(controller.as_ptr()) };
}

/// The queue pair of a disk.
struct QueuePair {
    handle: NonNull<native::buslane_disk>,
    controller: NonNull<native::buslane_controller>,
}

// SAFETY: the shim allows a queue pair to be moved between threads, one at a time.
unsafe impl Send for QueuePair {}

/// An NVMe namespace with a queue pair.
pub type SpdkDisk = Queue<Spdk>;

/// A queue pair of a controller that is attached.
pub struct Spdk {
    device: Device,
    pair: QueuePair,
    write: u32,
    done: Vec<native::buslane_disk_done>,
    /// Why nothing more is submitted.
    lost: Option<DiskFault>,
    settle_ms: u32,
    namespace: Arc<SpdkNamespace>,
}

impl std::fmt::Debug for Spdk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spdk").field("device", &self.device).finish_non_exhaustive()
    }
}

impl SpdkDisk {
    /// Opens a namespace as its only disk, with `memory_bytes` to work in.
    ///
    /// # Errors
    /// [`DiskError::Open`] with what, why and what to do.
    pub fn open(config: &SpdkConfig, memory_bytes: usize) -> Result<Self, DiskError> {
        Self::on(&SpdkNamespace::new(config.clone(), 1)?, memory_bytes)
    }

    /// One more disk on a namespace, with `memory_bytes` to work in.
    ///
    /// # Errors
    /// [`DiskError::Open`] with what, why and what to do.
    pub fn on(namespace: &Arc<SpdkNamespace>, memory_bytes: usize) -> Result<Self, DiskError> {
        let config = &namespace.config;
        let memory = allocate(memory_bytes).ok_or_else(|| {
            let why = format!("{memory_bytes} bytes of huge pages are not to be had");
            let mend = "raise vm.nr_hugepages, or lower disk.ring; disk.spdk.memory is what the process takes";
            failed(config, &why, mend)
        })?;
        let mut state = namespace.state();
        let attached = namespace.enter(&mut state)?;
        let mut opened = ptr::null_mut();
        // SAFETY: it is attached, and the state is held.
        let result =
            unsafe { native::buslane_spdk_open(attached.controller.as_ptr(), &raw mut opened) };
        if result != 0 {
            SpdkNamespace::leave(&mut state);
            return Err(open_error(config, result));
        }
        drop(state);
        let handle = NonNull::new(opened).expect("opened without error");
        let write = match attached.durability {
            Durability::ForceUnitAccess => native::BUSLANE_DISK_WRITE_THROUGH,
            Durability::Volatile
            | Durability::NoWriteCache
            | Durability::WriteCacheOff
            | Durability::PowerLossProtected
            | Durability::KernelSync => native::BUSLANE_DISK_WRITE,
        };
        let device = device_of(&attached.facts);
        let info = DiskInfo {
            name: config.transport_id.clone(),
            driver: "spdk",
            bytes: device.bytes / BLOCK_BYTES as u64 * BLOCK_BYTES as u64,
            transfer_bytes_max: TRANSFER_BYTES_MAX,
            queue_depth: QUEUE_DEPTH_MAX,
            durability: attached.durability,
            identity: identity_of(&attached.facts),
        };
        let spdk = Spdk {
            device,
            pair: QueuePair { handle, controller: attached.controller },
            write,
            done: vec![native::buslane_disk_done::default(); OPERATIONS_MAX],
            lost: None,
            settle_ms: attached.facts.settle_ms,
            namespace: Arc::clone(namespace),
        };
        Ok(Self::over(spdk, info, memory, OPERATIONS_MAX))
    }

    /// What it is.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.backend().device
    }

    /// Asks the controller how it is.
    ///
    /// # Errors
    /// When it does not answer, or has no such log.
    pub fn health(&mut self) -> Result<Health, DiskFault> {
        self.backend_mut().health()
    }
}

impl Spdk {
    fn health(&mut self) -> Result<Health, DiskFault> {
        let mut health = native::buslane_disk_health::default();
        let _one_at_a_time = self.namespace.state();
        // SAFETY: it is attached while there is a disk, and the structure lives through the call.
        let result =
            unsafe { native::buslane_spdk_health(self.pair.controller.as_ptr(), &raw mut health) };
        if result != 0 {
            let errno = DiskFault::Errno(Errno(-result));
            return Err(if is_lost(result) { fault_of(result) } else { errno });
        }
        Ok(Health {
            celsius: (health.kelvin > 0).then(|| i32::from(health.kelvin) - 273),
            used_percent: health.used_percent,
            spare_percent: health.spare_percent,
            critical_warnings: health.critical_warnings,
            media_errors: health.media_errors,
            unsafe_shutdowns: health.unsafe_shutdowns,
            power_on_hours: health.power_on_hours,
        })
    }
}

impl Backend for Spdk {
    fn start(&mut self, start: &Start<'_>) -> Result<(), Refused> {
        let io = start.io();
        let operation = match io.operation {
            Operation::Read => native::BUSLANE_DISK_READ,
            Operation::Write => self.write,
        };
        // SAFETY: a queue keeps the memory of a `Start` pinned, and in its place, until its slot is reaped or the
        // queue pair is closed; where the controller may use it still, `close` takes it over.
        let result = unsafe {
            native::buslane_spdk_submit(
                self.pair.handle.as_ptr(),
                operation,
                u32::try_from(start.slot()).expect("small"),
                start.address().as_ptr().cast(),
                io.disk_offset.get(),
                u32::try_from(io.bytes).expect("at most 1 MiB"),
            )
        };
        if result == 0 {
            return Ok(());
        }
        if result != -libc::EAGAIN {
            self.lost = Some(fault_of(result));
        }
        Err(Refused)
    }

    fn reap(&mut self, reaped: &mut Reaped<'_>) {
        let room = u32::try_from(reaped.room().min(OPERATIONS_MAX)).expect("small");
        // SAFETY: the handle is open and `self.done` has room for so many.
        let count = unsafe {
            native::buslane_spdk_poll(self.pair.handle.as_ptr(), self.done.as_mut_ptr(), room)
        };
        let count = usize::try_from(count).expect("small");
        if self.lost.is_none() {
            // SAFETY: it is attached while there is a disk.
            let lost = unsafe { native::buslane_spdk_lost(self.pair.controller.as_ptr()) };
            self.lost = (lost != 0).then(|| fault_of(lost));
        }
        for finished in &self.done[..count] {
            let result = match (finished.status, self.lost) {
                (0, _) => Ok(()),
                // The controller, the namespace or the way to it went; the media did not fail.
                (_, Some(fault)) => Err(fault),
                (status, None) => Err(DiskFault::Status(NvmeStatus(status))),
            };
            reaped.end(usize::try_from(finished.slot).expect("small"), |_, _| result);
        }
    }

    fn close(&mut self, memory: &mut Memory, in_flight: usize) {
        let mut state = self.namespace.state();
        // SAFETY: from `buslane_spdk_open`, closed once, by whoever holds the state.
        unsafe { native::buslane_spdk_close(self.pair.handle.as_ptr()) };
        // It goes before the state is let go of: nobody attaches or opens meanwhile.
        let memory = memory.take();
        if self.lost.is_some() && in_flight > 0 {
            // The controller did not answer, and may still write there.
            state.limbo.push(memory);
        }
        SpdkNamespace::leave(&mut state);
    }

    fn facts(&mut self) -> Vec<(&'static str, String)> {
        let device = self.device.clone();
        let cache = match (device.write_cache, device.write_cache_on) {
            (false, _) => "none",
            (true, false) => "off",
            (true, true) => "on",
        };
        let mut facts = vec![
            ("model", device.model),
            ("serial", device.serial),
            ("firmware", device.firmware),
            ("namespace", format!("{}, {} bytes", device.namespace, device.bytes)),
            ("identity", device.identity),
            ("logical block", format!("{} bytes", device.block_bytes)),
            ("transfer at most", format!("{} bytes", device.transfer_bytes_max)),
            ("write cache", cache.to_owned()),
            ("power fail unit", format!("{} logical blocks", device.power_fail_blocks)),
        ];
        match self.health() {
            Ok(health) => facts.extend([
                (
                    "temperature",
                    health.celsius.map_or_else(|| "not told".into(), |c| format!("{c} C")),
                ),
                (
                    "wear",
                    format!("{} % used, {} % spare", health.used_percent, health.spare_percent),
                ),
                ("critical warnings", format!("{:#04x}", health.critical_warnings)),
                ("media errors", health.media_errors.to_string()),
                ("unsafe shutdowns", health.unsafe_shutdowns.to_string()),
                ("power-on hours", health.power_on_hours.to_string()),
            ]),
            Err(fault) => facts.push(("health", format!("not told: {fault}"))),
        }
        facts
    }

    fn out_of_service(&self) -> Option<DiskFault> {
        self.lost
    }

    fn settles_in(&self) -> Option<Duration> {
        (self.settle_ms > 0).then(|| Duration::from_millis(self.settle_ms.into()))
    }
}

/// Attaches, and looks at whether the namespace is the right one, and why what it completes is on media.
fn attach(
    config: &SpdkConfig,
    id: &CString,
    queue_pairs: u32,
    locks: &mut Locks,
) -> Result<Attached, DiskError> {
    let mut host_id = [0; 16];
    random(config, &mut host_id)?;
    let request = native::buslane_disk_request {
        transport_id: id.as_ptr(),
        queue_pairs,
        operations: u32::try_from(OPERATIONS_MAX).expect("small"),
        timeout_ms: config.timeout_ms,
        host_id,
    };
    let mut facts = native::buslane_disk_facts::default();
    let mut attached = ptr::null_mut();
    // SAFETY: both structures live through the call; the transport id is a C string.
    let result = unsafe {
        native::buslane_spdk_attach(&raw const request, &raw mut facts, &raw mut attached)
    };
    if result != 0 {
        return Err(open_error(config, result));
    }
    let controller = NonNull::new(attached).expect("attached without error");
    let checked = check(&device_of(&facts), config)
        .and_then(|()| locks.namespace(config, &lock_name(&facts)))
        .and_then(|()| enough_queue_pairs(config, queue_pairs, facts.queue_pairs))
        .and_then(|()| set_write_cache(config, controller, &mut facts))
        .and_then(|()| durability(&device_of(&facts), config))
        .and_then(|class| reserve(config, controller, &facts).map(|()| class));
    match checked {
        Ok(durability) => Ok(Attached { controller, facts, durability }),
        Err(error) => {
            detach(controller);
            Err(error)
        }
    }
}

fn set_write_cache(
    config: &SpdkConfig,
    controller: NonNull<native::buslane_controller>,
    facts: &mut native::buslane_disk_facts,
) -> Result<(), DiskError> {
    if !config.write_cache_off || facts.cache_enabled == 0 {
        return Ok(());
    }
    // SAFETY: it is attached, the structure lives through the call.
    let off = unsafe { native::buslane_spdk_cache_off(controller.as_ptr(), facts) };
    if off == 0 {
        return Ok(());
    }
    if is_lost(off) {
        return Err(lost(config, off));
    }
    let why = format!("its write cache stays on: {}", io::Error::from_raw_os_error(-off));
    let mend = "leave disk.spdk.write_cache_off out: every write then carries Force Unit Access";
    Err(failed(config, &why, mend))
}

/// Keeps everybody else from writing, late writes of an earlier attachment included, where the namespace can.
fn reserve(
    config: &SpdkConfig,
    controller: NonNull<native::buslane_controller>,
    facts: &native::buslane_disk_facts,
) -> Result<(), DiskError> {
    if config.read_only || facts.can_reserve == 0 {
        return Ok(());
    }
    let mut other = 0;
    loop {
        let mut bytes = [0; 2];
        random(config, &mut bytes)?;
        let nonce = u16::from_le_bytes(bytes).max(1);
        let key = u64::from(place()) << 32 | u64::from(nonce) << 16;
        // SAFETY: it is attached and has no disk yet; the number lives through the call.
        let result = unsafe {
            native::buslane_spdk_reserve(controller.as_ptr(), key, WATCH_MS, &raw mut other)
        };
        if result == -libc::EAGAIN {
            continue;
        }
        if result == 0 {
            return Ok(());
        }
        return Err(reserve_error(config, result, other));
    }
}

/// Starts SPDK's environment, and says by which socket the namespace is reached, if it is by one.
fn start(config: &SpdkConfig, id: &CString) -> Result<Option<PathBuf>, DiskError> {
    let mut way = native::buslane_disk_way { needs_pci: 0, socket: [0; 300] };
    // SAFETY: a C string and a place for the answer, both live through the call.
    if unsafe { native::buslane_spdk_check(id.as_ptr(), &raw mut way) } != 0 {
        return Err(failed(
            config,
            "is not a transport id of SPDK",
            "write it like `trtype:PCIe traddr:0000:81:00.0 ns:1` or `trtype:VFIOUSER traddr:/run/x`",
        ));
    }
    // SAFETY: takes numbers only.
    let started =
        unsafe { native::buslane_spdk_start(config.huge_memory_mib, way.needs_pci.cast_signed()) };
    if started != 0 {
        return Err(failed(
            config,
            &format!(
                "SPDK's environment did not start: {}",
                io::Error::from_raw_os_error(-started)
            ),
            "see the EAL lines on standard error; it needs huge pages (vm.nr_hugepages and a mounted \
             hugetlbfs), and the DPDK it was built with",
        ));
    }
    let socket: Vec<u8> =
        way.socket.iter().take_while(|&&byte| byte != 0).map(|byte| byte.cast_unsigned()).collect();
    Ok((!socket.is_empty()).then(|| OsString::from_vec(socket).into()))
}

fn allocate(bytes: usize) -> Option<Memory> {
    let bytes_in_pages = bytes.next_multiple_of(HUGE_PAGE_BYTES);
    // SAFETY: takes a number only.
    let memory = unsafe { native::buslane_spdk_memory(bytes_in_pages as u64) };
    let base = NonNull::new(memory.cast::<u8>())?;
    // SAFETY: `bytes` zeroed bytes of our own, given back by `release`.
    Some(unsafe { Memory::of_device(base, bytes, release) })
}

fn release(base: NonNull<u8>) {
    // SAFETY: from `buslane_spdk_memory`, given back once.
    unsafe { native::buslane_spdk_memory_free(base.as_ptr().cast()) };
}
