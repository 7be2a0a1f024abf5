#![allow(unsafe_code, reason = "memory that devices read and write is mapped by hand")]
//! Memory that a device may read and write: page-aligned, populated at start, never moved.
//!
//! A range is pinned while a device uses it. Pinned for the device to write (a disk read), nobody may
//! look at it; pinned for the device to read (a disk write), nobody may change it. Both are asserted,
//! so a slice handed out never overlaps what a device is working on.

use std::fmt;
use std::io;
use std::ops::Range;
use std::ptr::NonNull;

use crate::limits::{QUEUE_DEPTH_MAX, REPLAY_READS_MAX};

/// Page-aligned memory with pinned ranges.
pub struct Memory {
    base: NonNull<u8>,
    bytes: usize,
    /// Gives memory back that was not mapped here.
    release: Option<fn(NonNull<u8>)>,
    /// Ranges a device reads: they must not change.
    read_by_device: Vec<Range<usize>>,
    /// Ranges a device writes: they must not be looked at.
    written_by_device: Vec<Range<usize>>,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Memory {
    /// Maps and populates `bytes` of zeroed memory, in huge pages where the kernel has them to give.
    ///
    /// # Errors
    /// What `mmap` said.
    ///
    /// # Panics
    /// When `bytes` is zero.
    pub fn allocate(bytes: usize) -> io::Result<Self> {
        assert!(bytes > 0, "an empty mapping has no address");
        // SAFETY: a new anonymous mapping overlaps nothing that exists.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the range is the mapping just made; the advice changes no contents, and a kernel
        // without huge pages only refuses it.
        let _ = unsafe { libc::madvise(address, bytes, libc::MADV_HUGEPAGE) };
        let base = NonNull::new(address.cast::<u8>()).expect("mmap does not answer null");
        // SAFETY: the mapping is `bytes` long, writable, and nobody else knows it yet. Writing it
        // here takes the page faults at start instead of on the path.
        unsafe { base.as_ptr().write_bytes(0, bytes) };
        Ok(Self::with(base, bytes, None))
    }

    /// Memory of a device's driver, which `release` takes back.
    ///
    /// # Safety
    /// `base` has to be `bytes` initialised bytes, aligned to a block, that nobody else uses.
    #[cfg(feature = "spdk")]
    pub(crate) unsafe fn of_device(
        base: NonNull<u8>,
        bytes: usize,
        release: fn(NonNull<u8>),
    ) -> Self {
        Self::with(base, bytes, Some(release))
    }

    /// All of it, pins included; what stays is empty.
    #[cfg(any(test, feature = "spdk"))]
    #[must_use]
    pub(crate) fn take(&mut self) -> Self {
        std::mem::replace(self, Self::with(NonNull::dangling(), 0, Some(|_| ())))
    }

    fn with(base: NonNull<u8>, bytes: usize, release: Option<fn(NonNull<u8>)>) -> Self {
        Self {
            base,
            bytes,
            release,
            read_by_device: Vec::with_capacity(QUEUE_DEPTH_MAX + REPLAY_READS_MAX),
            written_by_device: Vec::with_capacity(QUEUE_DEPTH_MAX + REPLAY_READS_MAX),
        }
    }

    /// Size in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether there is none of it: so only where it was taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The bytes of `range`.
    ///
    /// # Panics
    /// When the range is outside the memory or a device is writing it.
    #[must_use]
    #[inline]
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        self.check(&range);
        assert!(!overlaps(&self.written_by_device, &range), "a device is writing {range:?}");
        // SAFETY: in bounds (checked above), and `&self` keeps other writers out.
        let start = unsafe { self.base.as_ptr().add(range.start) };
        // SAFETY: initialised at allocation, in bounds, no device writes it, lifetime tied to `&self`.
        unsafe { std::slice::from_raw_parts(start, range.len()) }
    }

    /// The bytes of `range`, to fill.
    ///
    /// # Panics
    /// When the range is outside the memory or a device is using it.
    #[inline]
    pub fn bytes_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        self.check(&range);
        assert!(!overlaps(&self.written_by_device, &range), "a device is writing {range:?}");
        assert!(!overlaps(&self.read_by_device, &range), "a device is reading {range:?}");
        // SAFETY: in bounds (checked above), and `&mut self` keeps everybody else out.
        let start = unsafe { self.base.as_ptr().add(range.start) };
        // SAFETY: initialised at allocation, in bounds, no device uses it, lifetime tied to `&mut self`.
        unsafe { std::slice::from_raw_parts_mut(start, range.len()) }
    }

    /// The address of `offset`, to be given to a device together with a pin.
    ///
    /// # Panics
    /// When the offset is outside the memory.
    #[must_use]
    pub fn address(&self, offset: usize) -> NonNull<u8> {
        assert!(offset < self.bytes, "offset {offset} of {}", self.bytes);
        // SAFETY: in bounds, so the sum stays inside one allocation.
        unsafe { self.base.add(offset) }
    }

    /// Says that a device reads `range` until it is unpinned.
    pub(crate) fn pin_for_device_to_read(&mut self, range: Range<usize>) {
        self.check(&range);
        assert!(!overlaps(&self.written_by_device, &range), "a device is writing {range:?}");
        self.read_by_device.push(range);
    }

    /// Says that a device writes `range` until it is unpinned.
    pub(crate) fn pin_for_device_to_write(&mut self, range: Range<usize>) {
        self.check(&range);
        assert!(!overlaps(&self.written_by_device, &range), "a device is writing {range:?}");
        assert!(!overlaps(&self.read_by_device, &range), "a device is reading {range:?}");
        self.written_by_device.push(range);
    }

    /// Says that the device is done with `range`.
    ///
    /// # Panics
    /// When the range is not pinned.
    pub(crate) fn unpin(&mut self, range: &Range<usize>) {
        for pins in [&mut self.read_by_device, &mut self.written_by_device] {
            if let Some(index) = pins.iter().position(|pin| pin == range) {
                pins.swap_remove(index);
                return;
            }
        }
        panic!("{range:?} is not pinned");
    }

    #[inline]
    fn check(&self, range: &Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.bytes, "{range:?} of {}", self.bytes);
    }
}

#[inline]
fn overlaps(pins: &[Range<usize>], range: &Range<usize>) -> bool {
    pins.iter().any(|pin| pin.start < range.end && range.start < pin.end)
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some(release) = self.release {
            return release(self.base);
        }
        // SAFETY: the mapping made in `allocate`, unmapped once; no slice outlives `self`, and a disk
        // drains its operations before it drops its memory.
        let _ = unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

// SAFETY: the mapping belongs to this value alone; launch moves it, with its disk, to the shard's
// thread once, before the shard starts.
unsafe impl Send for Memory {}

/// An empty list whose whole capacity has been written once: it takes its page faults at start, and the
/// process does not grow when the list is first filled.
#[must_use]
pub(crate) fn resident<T: Clone>(capacity: usize, value: T) -> Vec<T> {
    let mut list = vec![value; capacity];
    list.clear();
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_zero_and_aligned() {
        let memory = Memory::allocate(1 << 20).unwrap();
        assert!(memory.bytes(0..1 << 20).iter().all(|&byte| byte == 0));
        assert_eq!(memory.address(0).addr().get() % 4096, 0);
    }

    #[test]
    #[should_panic(expected = "a device is writing")]
    fn what_a_device_writes_is_not_looked_at() {
        let mut memory = Memory::allocate(8192).unwrap();
        memory.pin_for_device_to_write(0..4096);
        let _ = memory.bytes(4000..4100);
    }

    #[test]
    #[should_panic(expected = "a device is reading")]
    fn what_a_device_reads_is_not_changed() {
        let mut memory = Memory::allocate(8192).unwrap();
        memory.pin_for_device_to_read(0..4096);
        assert_eq!(memory.bytes(0..1), [0], "looking is fine");
        memory.bytes_mut(0..1)[0] = 1;
    }

    #[test]
    fn unpinned_ranges_are_free_again() {
        let mut memory = Memory::allocate(8192).unwrap();
        memory.pin_for_device_to_write(0..4096);
        memory.unpin(&(0..4096));
        memory.bytes_mut(0..1)[0] = 1;
    }
}
