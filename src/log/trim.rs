//! Trimming: messages nobody wants any more, and the segments that hold nothing else.
//!
//! A trim is a record in the log. Once it is durable, the stream begins where it says, and a segment of
//! which no stream keeps a message is freed: both copies of its header are wiped, and behind the wipes its
//! place is used again. Recovery needs no word about what was freed: the segments that are there have to
//! hold every message that is kept (see `kept_in`).
//!
//! A segment also holds a checkpoint of all tables. So one is freed only when a later one holds records, and a
//! header that is on the media says that these are durable: recovery, which opens the newest segment with
//! records, will find it. For the same reason a segment that holds records but no messages is needed no more once
//! a later one holds records: the later one's header says behind which segment with messages it goes on
//! (`joins`), so that the one between can be given back, and neither trims nor restarts use the disk up.

use super::control::Control;
use super::queue::{Cargo, Span};
use super::recovery::wipe;
use super::segment::Place;
use super::segments::Live;
use super::{AppendError, ControlError, Log, LogFault};
use crate::disk::Disk;
use crate::ids::StreamId;
use crate::limits::{BATCH_BYTES_MAX, FLIGHTS_SPARE, RESERVED_SEGMENTS, SEGMENTS_FREED_A_TURN};
use crate::memory::Memory;
use crate::mutant::Mutant;
use crate::position::BatchSeq;

/// Segments that stay free whatever is trimmed: an opening and a close take one each.
const RESERVED_FOR_OPENING: usize = 1;

/// Why a stream was not trimmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, displaydoc::Display, thiserror::Error)]
pub enum TrimError {
    /// there is no such stream
    NoStream,
    /// the stream has not come so far: {durable_next} is the next to be durable
    NotThere {
        /// The sequence after the newest durable one.
        durable_next: u64,
    },
    /// {0}
    NotAppended(#[from] ControlError),
}

impl Log {
    /// Trims a stream: messages below `first` are kept no more once the batch returned is durable; `None` when
    /// they are gone already. A full log takes it too.
    ///
    /// # Errors
    /// `TrimError` says what; nothing was changed.
    pub fn trim_stream(
        &mut self,
        memory: &mut Memory,
        id: StreamId,
        first: u64,
        unix_ns: u64,
    ) -> Result<Option<BatchSeq>, TrimError> {
        let stream = self.catalog.streams().get(id).ok_or(TrimError::NoStream)?;
        let durable_next = stream.durable_next;
        if first > durable_next {
            return Err(TrimError::NotThere { durable_next });
        }
        if first <= stream.first_recorded() {
            return Ok(self.prefix.trim_waits(id));
        }
        if !self.prefix.has_room_for_trim() {
            return Err(ControlError::Busy.into());
        }
        let said = Control::Trim { id, first };
        self.put_control(memory, &said, RESERVED_FOR_OPENING, unix_ns)
            .map_err(ControlError::from)?;
        self.catalog.trim_recorded(id, first);
        self.prefix.note_trim(self.tail.batch_seq(), id, first);
        if Mutant::TrimBeforeDurable.is_on() {
            self.apply_trim(id, first);
        }
        Ok(Some(self.tail.batch_seq()))
    }

    /// Whether messages of a stream below `first` are kept no more, durably.
    #[must_use]
    pub fn is_trimmed(&self, id: StreamId, first: u64) -> bool {
        self.stream(id).is_some_and(|stream| first <= stream.first_sequence)
    }

    /// A trim whose record is durable takes effect.
    pub(super) fn apply_trim(&mut self, id: StreamId, first: u64) {
        // Where the index says, or before: what is kept is in that segment at the earliest.
        let log_off = self.locate(id, first).log_off;
        self.catalog.trim_durable(id, first, self.segments.geometry().seg_no(log_off));
        self.segments.look_again();
    }

    /// Wipes segments that hold nothing kept, a few a turn.
    pub(super) fn free_trimmed(&mut self) {
        for _ in 0..SEGMENTS_FREED_A_TURN {
            if self.queue.room() < FLIGHTS_SPARE {
                return;
            }
            let Some(gone) = self.take_unneeded() else {
                self.segments.looked();
                return;
            };
            self.wipe(gone.place);
        }
    }

    /// Takes a segment out that nobody needs.
    fn take_unneeded(&mut self) -> Option<Live> {
        let (kept_from, closes) = (self.catalog.streams().kept_from(), self.uses_auxiliary());
        self.segments.take_unneeded(kept_from, self.prefix.marked(), closes)
    }

    /// At an opening: gives back at once what nobody needs, so that there is a place for the new epoch's segment
    /// whatever was done between. All that is on the media is durable, and the newest segment was closed.
    pub(super) fn free_unneeded_now(&mut self, disk: &mut dyn Disk) -> Result<(), LogFault> {
        while self.segments.counts().free <= RESERVED_SEGMENTS {
            let Some(gone) = self.take_unneeded() else { break };
            let geometry = self.segments.geometry();
            wipe(disk, geometry, gone.place).map_err(|fault| {
                let disk_offset = geometry.segment(gone.place);
                LogFault { disk_offset, fault }
            })?;
            self.segments.freed_at_opening(gone.place);
        }
        Ok(())
    }

    fn wipe(&mut self, place: Place) {
        let zeros = self.buffers.zeros();
        let geometry = self.segments.geometry();
        let segment = geometry.segment(place);
        let copy = segment + geometry.copy_offset();
        for (disk_offset, frees) in [(segment, None), (copy, Some(place))] {
            let span = Span { disk_offset, memory_offset: zeros.start, bytes: zeros.len() };
            self.queue.push(span, Cargo::Wipe { frees });
        }
    }

    /// A place whose headers are wiped may be used again; a log that was full takes messages again.
    pub(super) fn free_place(&mut self, place: Place) {
        let fits = self.tail.fits(BATCH_BYTES_MAX);
        self.segments.freed(place, fits);
    }

    /// The stream that keeps the oldest segment: until it is trimmed, no other trim frees that. `None` while no stream
    /// keeps anything.
    #[must_use]
    pub fn oldest_keeper(&self) -> Option<&str> {
        self.catalog.streams().oldest_keeper().map(|stream| stream.name.as_str())
    }

    /// How many segments were freed since this was last asked.
    pub fn take_freed(&mut self) -> u64 {
        self.segments.take_freed()
    }
}

impl From<AppendError> for TrimError {
    fn from(error: AppendError) -> Self {
        Self::NotAppended(error.into())
    }
}
