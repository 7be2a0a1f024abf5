//! What is on its way to the disk: writes in the order in which they count, each done once, taken out from the front.

use std::collections::VecDeque;

use super::LogFault;
use super::segment::Place;
use crate::disk::{Completion, Disk, DiskFault, Io, Operation};
use crate::limits::FLIGHTS_MAX;
use crate::memory::resident;
use crate::metrics::stages::BatchTimes;
use crate::mutant::Mutant;
use crate::position::{BatchSeq, DiskOffset, LogOffset};

/// What a batch is that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SealedBatch {
    pub(super) batch_seq: BatchSeq,
    /// Where in the log.
    pub(super) log_off: LogOffset,
    /// Whether it holds records.
    pub(super) content: bool,
    /// The newest batch with records that was durable when its header was made.
    pub(super) marked: BatchSeq,
    /// Chain value after it.
    pub(super) chain: u64,
    /// When it passed which point.
    pub(super) times: BatchTimes,
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cargo {
    /// A batch.
    Batch(SealedBatch),
    /// A segment's header or closing index, from the auxiliary buffer.
    Auxiliary,
    /// Zeros over a header of a trimmed segment; behind the last of them its place is free.
    Wipe { frees: Option<Place> },
}

/// From where in memory to where on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) disk_offset: DiskOffset,
    pub(super) memory_offset: usize,
    pub(super) bytes: usize,
}

/// A write on its way, or waiting to be.
#[derive(Clone, Copy, Debug)]
struct Flight {
    span: Span,
    cargo: Cargo,
    done: bool,
}

const NO_FLIGHT: Flight = Flight {
    span: Span { disk_offset: DiskOffset::START, memory_offset: 0, bytes: 0 },
    cargo: Cargo::Auxiliary,
    done: false,
};

/// A batch that is on media, and all before it. Only the queue makes one, so that nothing else can move the durable
/// prefix.
#[derive(Clone, Copy, Debug)]
pub(super) struct WrittenBatch {
    batch: SealedBatch,
    bytes: usize,
}

impl WrittenBatch {
    /// Which it is.
    pub(super) fn batch(&self) -> &SealedBatch {
        &self.batch
    }

    /// Its size on the disk.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A write that is done, and all before it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Written {
    /// Of a batch.
    Batch(WrittenBatch),
    /// Of a segment's header or closing index.
    Auxiliary,
    /// Of zeros; a place is free where it says.
    Wipe { frees: Option<Place> },
}

/// The queue.
#[derive(Debug)]
pub(super) struct WriteQueue {
    flights: VecDeque<Flight>,
    /// Number of the first flight in the queue.
    first: u64,
    /// Flights of the queue that were submitted.
    submitted: usize,
    /// Of these, the ones the disk has not answered.
    in_flight: usize,
    /// How many these may be.
    depth: usize,
    /// Bytes of batches in the queue.
    batch_bytes: usize,
    /// Writes from the auxiliary buffer in the queue.
    auxiliary: usize,
    /// Nothing is taken out any more, also what is done.
    halted: bool,
    fault: Option<LogFault>,
}

impl WriteQueue {
    /// An empty queue of which so many writes are in flight at most; allocates what it will ever need.
    pub(super) fn new(depth: usize) -> Self {
        Self {
            flights: resident(FLIGHTS_MAX, NO_FLIGHT).into(),
            first: 0,
            submitted: 0,
            in_flight: 0,
            depth,
            batch_bytes: 0,
            auxiliary: 0,
            halted: false,
            fault: None,
        }
    }

    /// Whether nothing is on its way.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    /// Writes it takes still.
    pub(super) fn room(&self) -> usize {
        FLIGHTS_MAX.saturating_sub(self.flights.len())
    }

    /// Bytes of batches on their way.
    #[inline]
    pub(super) fn batch_bytes(&self) -> usize {
        self.batch_bytes
    }

    /// Whether the auxiliary buffer is being written.
    pub(super) fn has_auxiliary(&self) -> bool {
        self.auxiliary > 0
    }

    /// What stopped it.
    pub(super) fn fault(&self) -> Option<LogFault> {
        self.fault
    }

    /// Puts a write behind all others. There is room for all that may be appended; whoever wipes asks before.
    pub(super) fn push(&mut self, span: Span, cargo: Cargo) {
        debug_assert!(self.room() > 0, "the queue holds what it was made for");
        match cargo {
            Cargo::Batch(_) => self.batch_bytes += span.bytes,
            Cargo::Auxiliary => self.auxiliary += 1,
            Cargo::Wipe { .. } => {}
        }
        self.flights.push_back(Flight { span, cargo, done: false });
    }

    /// Notes the same as [`Tail::note_times`](super::tail::Tail::note_times) of batches that were full, or the last of
    /// their segment, before the turn that filled them had appended what it received.
    pub(super) fn note_times(&mut self, received_ns: u64, appended_ns: u64) {
        let waiting = self.flights.iter_mut().skip(self.submitted);
        for flight in waiting.rev() {
            let Cargo::Batch(SealedBatch { times, .. }) = &mut flight.cargo else { continue };
            if times.messages == 0 {
                continue;
            }
            if times.appended_ns > 0 {
                return;
            }
            (times.received_ns, times.appended_ns) = (received_ns, appended_ns);
        }
    }

    /// Whether the disk may be given another write.
    #[inline]
    pub(super) fn may_submit(&self) -> bool {
        self.in_flight < self.depth && self.fault.is_none()
    }

    /// Whether the disk was given all there is.
    #[inline]
    pub(super) fn is_submitted(&self) -> bool {
        self.submitted == self.flights.len()
    }

    /// Gives the disk the next write, which is there; whether the disk took it.
    pub(super) fn submit(&mut self, disk: &mut dyn Disk, now_ns: u64) -> bool {
        let tag = self.first + self.submitted as u64;
        let flight = &mut self.flights[self.submitted];
        let Span { disk_offset, memory_offset, bytes } = flight.span;
        let io = Io { operation: Operation::Write, tag, disk_offset, memory_offset, bytes };
        if let Cargo::Batch(batch) = &mut flight.cargo {
            batch.times.submitted_ns = now_ns;
        }
        let taken = disk.submit(io).is_ok();
        self.submitted += usize::from(taken);
        self.in_flight += usize::from(taken);
        taken
    }

    /// Notes what the disk says of a write.
    ///
    /// # Errors
    /// The first failed write latches: nothing behind it is ever taken out.
    ///
    /// # Panics
    /// When it is not a write of this queue, or was completed before.
    pub(super) fn complete(&mut self, completion: &Completion) -> Result<(), LogFault> {
        self.in_flight -= 1;
        if Mutant::PrefixPastHole.is_on() && completion.io.tag < self.first {
            return Ok(());
        }
        let index = usize::try_from(completion.io.tag - self.first).expect("in the queue");
        let flight = &mut self.flights[index];
        assert!(index < self.submitted && !flight.done, "each write completes once");
        if let Err(fault) = completion.result {
            let fault = LogFault { disk_offset: flight.span.disk_offset, fault };
            self.fault.get_or_insert(fault);
            return Err(fault);
        }
        flight.done = true;
        Ok(())
    }

    /// Takes the first write out, once it is done.
    pub(super) fn take_written(&mut self) -> Option<Written> {
        let skips = Mutant::PrefixPastHole.is_on() && self.flights.iter().any(|flight| flight.done);
        if self.halted || !(self.flights.front()?.done || skips) {
            return None;
        }
        let flight = self.flights.pop_front()?;
        self.first += 1;
        self.submitted -= 1;
        let bytes = flight.span.bytes;
        Some(match flight.cargo {
            Cargo::Batch(batch) => {
                self.batch_bytes -= bytes;
                Written::Batch(WrittenBatch { batch, bytes })
            }
            Cargo::Auxiliary => {
                self.auxiliary -= 1;
                Written::Auxiliary
            }
            Cargo::Wipe { frees } => Written::Wipe { frees },
        })
    }

    /// The disk is given no more: it is out of service. What it has written is taken out still.
    pub(super) fn latch(&mut self, fault: DiskFault) -> LogFault {
        let first = self.flights.front();
        let disk_offset = first.map_or(DiskOffset::START, |flight| flight.span.disk_offset);
        *self.fault.get_or_insert(LogFault { disk_offset, fault })
    }

    /// The same, and not even what is written already: it is not where it would be looked for.
    pub(super) fn halt(&mut self, fault: DiskFault) {
        self.latch(fault);
        self.halted = true;
    }
}
