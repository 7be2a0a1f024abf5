//! The queue of a disk: what is the same whatever moves the blocks.
//!
//! It owns what is known of the disk, the memory and the operations in flight. An operation is checked, is given a slot
//! and has its memory pinned before a [`Backend`] is told to start it, and keeps both until the backend says that it
//! ended. So a backend cannot forget a check or a pin, end what is not in flight, or see memory go before it is closed.

use std::fmt;
use std::ptr::NonNull;
use std::time::Duration;

use super::{Completion, Disk, DiskFault, DiskInfo, Io, Operation};
use crate::memory::Memory;

/// Whether a write is compared with all others in flight: tests and the simulator look, the path trusts them.
const FINDS_OVERLAPS: bool = cfg!(any(test, feature = "sim"));

/// What moves blocks between a disk and memory.
pub trait Backend {
    /// Starts an operation. It ends, whenever that is, in [`Backend::reap`].
    ///
    /// # Errors
    /// When nothing was started, and the memory is not the device's.
    fn start(&mut self, start: &Start<'_>) -> Result<(), Refused>;

    /// Ends operations that are done, at most as many as there is room for. Called often, also with nothing in flight.
    fn reap(&mut self, reaped: &mut Reaped<'_>);

    /// The last call, with how many operations have not ended. When it returns, the memory is given back:
    /// a backend whose device may use it still takes it over (`Memory::take`), or waits until it does not.
    fn close(&mut self, memory: &mut Memory, in_flight: usize);

    /// See [`Disk::facts`].
    fn facts(&mut self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// See [`Disk::out_of_service`]. Nothing is started while it says why.
    fn out_of_service(&self) -> Option<DiskFault> {
        None
    }

    /// See [`Disk::settles_in`].
    fn settles_in(&self) -> Option<Duration> {
        None
    }
}

/// Why an operation is given back: the backend takes no more for now, or is out of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// An operation to start. Only a [`Queue`] makes one: it is valid, its slot is its own, and its memory is pinned, and
/// stays where it is, until the operation ended or the backend is closed.
#[derive(Debug)]
pub struct Start<'a> {
    slot: usize,
    io: Io,
    memory: &'a Memory,
}

impl Start<'_> {
    /// By which it is known until it ends; below the number of slots of its queue.
    #[must_use]
    pub fn slot(&self) -> usize {
        self.slot
    }

    /// What to do.
    #[must_use]
    pub fn io(&self) -> &Io {
        &self.io
    }

    /// Where its memory begins, for a device.
    #[must_use]
    pub fn address(&self) -> NonNull<u8> {
        self.memory.address(self.io.memory_offset)
    }

    /// What a write carries.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.memory.bytes(self.io.memory())
    }
}

/// Where a backend says which operations ended.
#[derive(Debug)]
pub struct Reaped<'a> {
    slots: &'a mut Slots,
    memory: &'a mut Memory,
    done: &'a mut [Completion],
    count: usize,
}

impl Reaped<'_> {
    /// How many more can be ended now; the others wait for the next time.
    #[must_use]
    pub fn room(&self) -> usize {
        self.done.len() - self.count
    }

    /// Operations that have not ended.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.slots.in_flight()
    }

    /// The operation in `slot` ended. `result` says how, and moves the bytes where no device did: the device's hold on
    /// the memory is over.
    ///
    /// # Panics
    /// When there is no room, or nothing in flight in that slot.
    #[inline]
    pub fn end(
        &mut self,
        slot: usize,
        result: impl FnOnce(&Io, &mut Memory) -> Result<(), DiskFault>,
    ) {
        let io = self.slots.free(slot);
        self.memory.unpin(&io.memory());
        let result = result(&io, self.memory);
        self.done[self.count] = Completion { io, result };
        self.count += 1;
    }
}

/// The operations in flight, each in a slot of its own.
#[derive(Debug)]
struct Slots {
    in_use: Vec<Option<Io>>,
    free: Vec<usize>,
}

impl Slots {
    fn new(count: usize) -> Self {
        Self { in_use: vec![None; count], free: (0..count).rev().collect() }
    }

    fn in_flight(&self) -> usize {
        self.in_use.len() - self.free.len()
    }

    #[inline]
    fn take(&mut self, io: Io) -> Option<usize> {
        let slot = self.free.pop()?;
        self.in_use[slot] = Some(io);
        Some(slot)
    }

    #[inline]
    fn free(&mut self, slot: usize) -> Io {
        let io = self.in_use[slot].take().expect("an operation ends once");
        self.free.push(slot);
        io
    }

    /// Which of two writes to one block stays is not promised.
    fn assert_alone(&self, io: &Io) {
        let over = self.in_use.iter().flatten().find(|other| io.writes_over(other));
        assert_eq!(over, None, "{io:?} writes what another write in flight does");
    }
}

impl Io {
    /// Pins its memory the way its direction asks for.
    #[inline]
    fn pin(&self, memory: &mut Memory) {
        match self.operation {
            Operation::Read => memory.pin_for_device_to_write(self.memory()),
            Operation::Write => memory.pin_for_device_to_read(self.memory()),
        }
    }

    /// Whether both write, and one of the blocks is the same.
    fn writes_over(&self, other: &Self) -> bool {
        let end = |io: &Self| io.disk_offset + io.bytes as u64;
        let write = [self, other].iter().all(|io| io.operation == Operation::Write);
        write && self.disk_offset < end(other) && other.disk_offset < end(self)
    }
}

/// A disk: a backend, and all that disks have in common.
pub struct Queue<B: Backend> {
    info: DiskInfo,
    slots: Slots,
    /// Before `memory`: with it goes what a device knows of the memory.
    backend: B,
    memory: Memory,
}

impl<B: Backend> fmt::Debug for Queue<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("info", &self.info).finish_non_exhaustive()
    }
}

impl<B: Backend> Queue<B> {
    /// A disk that works in `memory`, with as many as `operations_max` operations in flight.
    pub(crate) fn over(backend: B, info: DiskInfo, memory: Memory, operations_max: usize) -> Self {
        Self { info, slots: Slots::new(operations_max), backend, memory }
    }

    /// What moves its blocks, to ask what only it knows.
    #[cfg(any(test, feature = "spdk"))]
    pub(crate) fn backend(&self) -> &B {
        &self.backend
    }

    /// The same, to tell it something. It stays the backend of this queue.
    #[cfg(any(test, feature = "sim", feature = "spdk"))]
    pub(crate) fn backend_mut(&mut self) -> &mut B {
        &mut self.backend
    }
}

impl<B: Backend> Disk for Queue<B> {
    fn info(&self) -> &DiskInfo {
        &self.info
    }

    fn memory(&self) -> &Memory {
        &self.memory
    }

    fn memory_mut(&mut self) -> &mut Memory {
        &mut self.memory
    }

    fn submit(&mut self, io: Io) -> Result<(), Io> {
        io.assert_valid(&self.info);
        if FINDS_OVERLAPS {
            self.slots.assert_alone(&io);
        }
        if self.backend.out_of_service().is_some() {
            return Err(io);
        }
        let Some(slot) = self.slots.take(io) else { return Err(io) };
        io.pin(&mut self.memory);
        let start = Start { slot, io, memory: &self.memory };
        self.backend.start(&start).map_err(|Refused| {
            self.slots.free(slot);
            self.memory.unpin(&io.memory());
            io
        })
    }

    fn poll(&mut self, done: &mut [Completion]) -> usize {
        let Self { slots, backend, memory, .. } = self;
        let mut reaped = Reaped { slots, memory, done, count: 0 };
        backend.reap(&mut reaped);
        reaped.count
    }

    fn in_flight(&self) -> usize {
        self.slots.in_flight()
    }

    fn facts(&mut self) -> Vec<(&'static str, String)> {
        self.backend.facts()
    }

    fn out_of_service(&self) -> Option<DiskFault> {
        self.backend.out_of_service()
    }

    fn settles_in(&self) -> Option<Duration> {
        self.backend.settles_in()
    }
}

impl<B: Backend> Drop for Queue<B> {
    fn drop(&mut self) {
        self.backend.close(&mut self.memory, self.slots.in_flight());
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::disk::ram::RamDisk;
    use crate::ids::Durability;
    use crate::limits::{BLOCK_BYTES, TRANSFER_BYTES_MAX};
    use crate::position::DiskOffset;

    const SLOTS: usize = 4;

    fn io(operation: Operation, block: u64, blocks: usize, memory_block: usize) -> Io {
        let (bytes, memory_offset) = (blocks * BLOCK_BYTES, memory_block * BLOCK_BYTES);
        let disk_offset = DiskOffset::new(block * BLOCK_BYTES as u64);
        Io { operation, tag: 0, disk_offset, memory_offset, bytes }
    }

    /// Memory that was taken over, and how many operations had not ended.
    type Limbo = Rc<RefCell<Vec<(usize, Memory)>>>;

    /// Ends what it is told to end.
    #[derive(Default)]
    struct Told {
        refuses: bool,
        lost: Option<DiskFault>,
        started: Vec<usize>,
        end: Vec<usize>,
        limbo: Option<Limbo>,
    }

    impl Backend for Told {
        fn start(&mut self, start: &Start<'_>) -> Result<(), Refused> {
            assert_eq!(self.lost, None, "nothing is started on what is out of service");
            if self.refuses {
                return Err(Refused);
            }
            self.started.push(start.slot());
            Ok(())
        }

        fn reap(&mut self, reaped: &mut Reaped<'_>) {
            for slot in self.end.drain(..) {
                reaped.end(slot, |_, _| Ok(()));
            }
        }

        fn close(&mut self, memory: &mut Memory, in_flight: usize) {
            if let Some(limbo) = &self.limbo {
                limbo.borrow_mut().push((in_flight, memory.take()));
            }
        }

        fn out_of_service(&self) -> Option<DiskFault> {
            self.lost
        }
    }

    fn told() -> Queue<Told> {
        let info = DiskInfo {
            name: "told".into(),
            driver: "test",
            bytes: 64 * BLOCK_BYTES as u64,
            transfer_bytes_max: 8 * BLOCK_BYTES,
            queue_depth: SLOTS,
            durability: Durability::Volatile,
            identity: [0; 16],
        };
        Queue::over(Told::default(), info, Memory::allocate(8 * BLOCK_BYTES).unwrap(), SLOTS)
    }

    #[test]
    fn reads_and_writes_beside_each_other_are_sound() {
        let mut disk = RamDisk::new(1 << 20, 1 << 20, 8).unwrap();
        for sound in [
            io(Operation::Write, 4, 4, 0),
            io(Operation::Read, 20, 4, 4),
            io(Operation::Write, 0, 4, 8),
            io(Operation::Write, 8, 1, 12),
            io(Operation::Write, 20, 1, 13),
            io(Operation::Read, 4, 4, 14),
        ] {
            disk.submit(sound).unwrap();
        }
        assert_eq!((disk.poll(&mut [Completion::NONE; 8]), disk.in_flight()), (6, 0));
        disk.submit(io(Operation::Write, 4, 4, 0)).unwrap();
    }

    #[test]
    #[should_panic(expected = "another write in flight")]
    fn a_write_over_a_write_in_flight_is_not() {
        let mut disk = RamDisk::new(1 << 20, 1 << 20, 4).unwrap();
        disk.submit(io(Operation::Write, 4, 4, 0)).unwrap();
        let _ = disk.submit(io(Operation::Write, 7, 4, 4));
    }

    #[test]
    #[should_panic(expected = "beyond the disk")]
    fn nor_is_an_operation_behind_the_end() {
        let mut disk = RamDisk::new(1 << 20, 1 << 20, 4).unwrap();
        let _ = disk.submit(io(Operation::Read, 255, 2, 0));
    }

    #[test]
    fn an_operation_is_as_large_as_the_disk_takes_and_no_larger() {
        let (bytes, transfer_bytes_max) = (2 * TRANSFER_BYTES_MAX as u64, TRANSFER_BYTES_MAX);
        let info = DiskInfo { bytes, transfer_bytes_max, ..told().info().clone() };
        let blocks = TRANSFER_BYTES_MAX / BLOCK_BYTES;
        let is_valid = |blocks| {
            let io = io(Operation::Read, 0, blocks, 0);
            std::panic::catch_unwind(|| io.assert_valid(&info)).is_ok()
        };
        assert_eq!([0, 1, blocks, blocks + 1].map(is_valid), [false, true, true, false]);
    }

    #[test]
    fn what_was_refused_leaves_nothing_behind() {
        let mut disk = told();
        let read = io(Operation::Read, 0, 1, 0);
        disk.backend_mut().refuses = true;
        for _ in 0..=SLOTS {
            assert_eq!((disk.submit(read), disk.in_flight()), (Err(read), 0));
        }
        disk.memory_mut().bytes_mut(0..1)[0] = 1;
        disk.backend_mut().refuses = false;
        disk.submit(read).unwrap();
    }

    #[test]
    fn no_more_is_started_than_there_are_slots_and_nothing_out_of_service() {
        let mut disk = told();
        for index in 0..SLOTS {
            disk.submit(io(Operation::Read, 0, 1, index)).unwrap();
        }
        let more = io(Operation::Read, 0, 1, SLOTS);
        assert_eq!((disk.submit(more), disk.in_flight()), (Err(more), SLOTS));
        let mut slots = disk.backend().started.clone();
        disk.backend_mut().end.push(slots[2]);
        assert_eq!((disk.poll(&mut [Completion::NONE; 8]), disk.in_flight()), (1, SLOTS - 1));
        slots.sort_unstable();
        assert_eq!(slots, [0, 1, 2, 3], "each its own");
        disk.backend_mut().lost = Some(DiskFault::Gone);
        assert_eq!((disk.submit(more), disk.out_of_service()), (Err(more), Some(DiskFault::Gone)));
    }

    #[test]
    #[should_panic(expected = "an operation ends once")]
    fn nothing_ends_twice() {
        let mut disk = told();
        disk.submit(io(Operation::Write, 0, 1, 0)).unwrap();
        let slot = disk.backend().started[0];
        disk.backend_mut().end = vec![slot, slot];
        disk.poll(&mut [Completion::NONE; 8]);
    }

    #[test]
    #[should_panic(expected = "a device is writing")]
    fn what_is_read_is_not_looked_at_before_the_end() {
        let mut disk = told();
        disk.submit(io(Operation::Read, 0, 1, 1)).unwrap();
        let _ = disk.memory().bytes(0..2 * BLOCK_BYTES);
    }

    #[test]
    fn what_finds_no_room_waits_for_the_next_poll() {
        let mut disk = RamDisk::new(1 << 20, 1 << 20, SLOTS).unwrap();
        for index in 0..SLOTS {
            disk.submit(io(Operation::Read, 0, 1, index)).unwrap();
        }
        assert_eq!(disk.poll(&mut []), 0);
        assert_eq!((disk.poll(&mut [Completion::NONE; 3]), disk.in_flight()), (3, 1));
        assert_eq!((disk.poll(&mut [Completion::NONE; 3]), disk.in_flight()), (1, 0));
    }

    #[test]
    fn memory_that_a_device_may_use_outlives_its_disk() {
        let limbo = Limbo::default();
        let mut disk = told();
        disk.backend_mut().limbo = Some(Rc::clone(&limbo));
        disk.memory_mut().bytes_mut(0..BLOCK_BYTES).fill(7);
        disk.submit(io(Operation::Write, 0, 1, 0)).unwrap();
        disk.submit(io(Operation::Write, 1, 1, 0)).unwrap();
        drop(disk);
        let kept = limbo.borrow();
        let [(in_flight, memory)] = &kept[..] else { panic!("{kept:?}") };
        assert_eq!((*in_flight, memory.len()), (2, 8 * BLOCK_BYTES));
        assert_eq!(memory.bytes(0..BLOCK_BYTES), [7; BLOCK_BYTES]);
    }
}
