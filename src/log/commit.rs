//! Committing: batches to the disk, completions back, the durable prefix.

use super::batch::BatchKind;
use super::queue::{Written, WrittenBatch};
use super::{DurableBatch, Log, LogFault};
use crate::disk::{Completion, Disk, DiskFault, Operation};
use crate::fired::Timer;
use crate::limits::QUEUE_DEPTH_MAX;
use crate::memory::Memory;
use crate::position::DiskOffset;

/// How long a log rests before it writes down that what is durable is durable.
const LAC_DELAY_NS: u64 = 1_000_000;

impl Log {
    /// Seals the open batch and submits what is sealed while fewer than `queue_depth` writes are in
    /// flight; returns how many were submitted.
    pub fn submit(&mut self, disk: &mut dyn Disk, now_ns: u64, unix_ns: u64) -> usize {
        let mut count = 0;
        while self.queue.may_submit() {
            if self.queue.is_submitted() {
                if self.tail.is_empty() {
                    break;
                }
                self.seal_open(disk.memory_mut(), BatchKind::Data, unix_ns);
            }
            if !self.queue.submit(disk, now_ns) {
                break;
            }
            count += 1;
        }
        count
    }

    /// Takes a finished write in.
    ///
    /// # Errors
    /// The first failed write latches: the durable prefix never passes it.
    ///
    /// # Panics
    /// When the completion is not of a write of this log.
    pub fn on_completion(&mut self, completion: &Completion, now_ns: u64) -> Result<(), LogFault> {
        self.queue.complete(completion)?;
        while let Some(written) = self.queue.take_written() {
            match written {
                Written::Batch(batch) => self.advance(&batch, now_ns),
                Written::Auxiliary | Written::Wipe { frees: None } => {}
                Written::Wipe { frees: Some(place) } => self.free_place(place),
            }
        }
        Ok(())
    }

    /// Nothing more becomes durable: the disk is out of service.
    pub fn latch(&mut self, fault: DiskFault) -> LogFault {
        self.queue.latch(fault)
    }

    /// The same, and not even what is written already: it is not where it would be looked for.
    pub fn halt(&mut self, fault: DiskFault) {
        self.queue.halt(fault);
    }

    fn advance(&mut self, written: &WrittenBatch, now_ns: u64) {
        if self.prefix.advance(written, now_ns) {
            self.segments.look_again();
        }
        self.write_closing_when_due();
        while let Some((id, next)) = self.prefix.take_next() {
            self.catalog.durable(id, next);
        }
        while let Some((id, first)) = self.prefix.take_trim() {
            self.apply_trim(id, first);
        }
    }

    /// The next batch that became durable, in order.
    pub fn take_durable(&mut self) -> Option<DurableBatch> {
        self.prefix.take()
    }

    /// Writes down that what is durable is durable, once the log has rested for a millisecond: until
    /// then recovery could not tell damage to the last batches from a torn tail. Frees what was trimmed.
    pub fn tick(&mut self, memory: &mut Memory, now_ns: u64, unix_ns: u64) {
        self.catalog.turn(now_ns);
        if self.segments.look_is_due() {
            self.free_trimmed();
        }
        let rests = self.tail.leaves_unsaid(&self.prefix)
            && self.segments.is_open()
            && self.queue.is_empty()
            && self.tail.is_empty()
            && now_ns.saturating_sub(self.prefix.since_ns()) >= LAC_DELAY_NS;
        if rests {
            // There is always a block left: that of the roll, which need not be there.
            assert!(self.tail.has_block(), "room for a mark");
            Timer::IdleMark.fired();
            self.seal_open(memory, BatchKind::Lac, unix_ns);
        }
    }

    /// Brings everything to the disk, closes the segment and marks the log as cleanly stopped.
    ///
    /// # Errors
    /// What kept it from that; the log is then recovered at the next opening.
    pub fn close(mut self, disk: &mut dyn Disk) -> Result<(), LogFault> {
        if !self.tail.is_empty() {
            self.seal_open(disk.memory_mut(), BatchKind::Data, 0);
        }
        self.drain(disk)?;
        // A full log takes nothing more, but its last segment is still open.
        if self.segments.is_open() {
            self.close_segment(disk.memory_mut());
            self.drain(disk)?;
        }
        let mut superblock = self.superblock.next();
        superblock.clean = 1.into();
        superblock.closed_end = self.prefix.batch_seq().into();
        superblock.write(disk).map_err(|fault| LogFault { disk_offset: DiskOffset::START, fault })
    }

    /// Waits until nothing is in flight; for start and stop.
    pub(super) fn drain(&mut self, disk: &mut dyn Disk) -> Result<(), LogFault> {
        let mut done = [Completion::NONE; QUEUE_DEPTH_MAX];
        while !self.queue.is_empty() {
            self.submit(disk, 0, 0);
            let count = disk.poll(&mut done);
            for completion in &done[..count] {
                // A replay read may still come in; nobody waits for it any more.
                if completion.io.operation == Operation::Write {
                    self.on_completion(completion, 0)?;
                }
            }
            if count == 0 {
                if let Some(fault) = disk.out_of_service() {
                    return Err(self.latch(fault));
                }
                std::hint::spin_loop();
            }
        }
        self.prefix.forget_taken();
        Ok(())
    }
}
