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

use super::append::CONTROL_TRIM;
use super::queue::{Cargo, Span};
use super::recovery::wipe;
use super::{AppendError, ControlError, Live, Log, LogFault, RESERVED_SEGMENTS};
use crate::disk::Disk;
use crate::ids::StreamId;
use crate::limits::{BATCH_BYTES_MAX, BLOCK_BYTES};
use crate::memory::Memory;
use crate::mutant::Mutant;

/// Segments freed in one turn, at most.
const FREED_A_TURN: usize = 4;

/// Segments before the newest among which one without messages is looked for.
const LOOKED_AT: usize = 8;

/// Writes a turn leaves room for in the queue of flights.
const FLIGHTS_SPARE: usize = 128;

/// Segments that stay free whatever is trimmed: an opening and a close take one each.
const RESERVED_FOR_OPENING: usize = 1;

/// Why a stream was not trimmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrimError {
    /// there is no such stream
    #[error("there is no such stream")]
    NoStream,
    /// the stream has not come so far
    #[error("the stream has not come so far: {durable_next} is the next to be durable")]
    NotThere {
        /// The sequence after the newest durable one.
        durable_next: u64,
    },
    /// the record was not appended
    #[error(transparent)]
    NotAppended(#[from] ControlError),
}

impl Log {
    /// Trims a stream: messages below `first` are kept no more once the batch returned is durable; `None` when
    /// they are gone already. A full log takes it too.
    ///
    /// # Errors
    /// See [`TrimError`]; nothing was changed.
    pub fn trim_stream(
        &mut self,
        memory: &mut Memory,
        id: StreamId,
        first: u64,
        unix_ns: u64,
    ) -> Result<Option<u64>, TrimError> {
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
        let said = (CONTROL_TRIM, u64::from(id.0), first);
        self.put_control(memory, said, &[], RESERVED_FOR_OPENING, unix_ns)
            .map_err(ControlError::from)?;
        self.catalog.trim_recorded(id, first);
        self.prefix.note_trim(self.next_batch, id, first);
        if Mutant::TrimBeforeDurable.is_on() {
            self.apply_trim(id, first);
        }
        Ok(Some(self.next_batch))
    }

    /// Whether messages of a stream below `first` are kept no more, durably.
    #[must_use]
    pub fn is_trimmed(&self, id: StreamId, first: u64) -> bool {
        self.stream(id).is_some_and(|stream| first <= stream.first_sequence)
    }

    /// A trim whose record is durable takes effect.
    pub(super) fn apply_trim(&mut self, id: StreamId, first: u64) {
        // Where the index says, or before: what is kept is in that segment at the earliest.
        let (log_off, _) = self.locate(id, first);
        self.catalog.trim_durable(id, first, log_off / self.geometry.segment_bytes);
        self.free_due = true;
    }

    /// Wipes segments that hold nothing kept, a few a turn.
    pub(super) fn free_trimmed(&mut self) {
        self.free_due = false;
        for _ in 0..FREED_A_TURN {
            if self.queue.room() < FLIGHTS_SPARE {
                break;
            }
            let Some(gone) = self.take_unneeded() else { return };
            self.wipe(&gone);
        }
        self.free_due = true;
    }

    /// Takes a segment out that nobody needs: the oldest, when no stream keeps anything of it; or one of the newest
    /// without messages, when a later one tells all that it does. A header on the media has to say that the later
    /// one's records are durable.
    fn take_unneeded(&mut self) -> Option<Live> {
        let kept_from = self.catalog.streams().kept_from();
        let newest = self.live.len().checked_sub(1)?;
        let from = newest.saturating_sub(LOOKED_AT).max(1);
        let found = std::iter::once(0).chain(from..newest).find(|&index| {
            let live = &self.live[index];
            let Some(end) = live.end else { return false };
            let closes = index + 1 == newest && self.uses_auxiliary();
            let is_kept = if index == 0 {
                kept_from.is_some_and(|seg_no| live.seg_no >= seg_no)
            } else {
                !self.is_superseded(index)
            };
            !is_kept && !closes && self.prefix.marked() > end.base.batch_seq
        })?;
        let gone = self.live.remove(found)?;
        if found == 0 {
            self.places.iter_mut().for_each(|stream| stream.gone(gone.seg_no));
        }
        Some(gone)
    }

    /// Whether a segment holds no messages, and the next one says where it goes on without it.
    fn is_superseded(&self, index: usize) -> bool {
        let before = self.live.range(..index).rev().find_map(Live::messages_end);
        let (live, next) = (&self.live[index], &self.live[index + 1]);
        live.messages_end().is_none()
            && before
                .is_some_and(|end| (next.joins, next.base.message) == (end.batch_seq, end.message))
    }

    /// At an opening: gives back at once what nobody needs, so that there is a place for the new epoch's segment
    /// whatever was done between. All that is on the media is durable, and the newest segment was closed.
    pub(super) fn free_unneeded_now<D: Disk>(&mut self, disk: &mut D) -> Result<(), LogFault> {
        while self.free.len() <= RESERVED_SEGMENTS {
            let Some(gone) = self.take_unneeded() else { break };
            wipe(disk, &self.geometry, gone.phys).map_err(|fault| {
                let disk_offset = self.geometry.segment(gone.phys);
                LogFault { disk_offset, fault }
            })?;
            self.free.push_back(gone.phys);
        }
        Ok(())
    }

    fn wipe(&mut self, gone: &Live) {
        let zeros = Self::zeros_start(self.ring_bytes);
        let segment = self.geometry.segment(gone.phys);
        let copy = segment + self.geometry.copy_offset();
        for (disk_offset, frees) in [(segment, None), (copy, Some(gone.phys))] {
            let span = Span { disk_offset, memory_offset: zeros, bytes: BLOCK_BYTES };
            self.queue.push(span, Cargo::Wipe { frees });
        }
    }

    /// A place whose headers are wiped may be used again; a log that was full takes messages again.
    pub(super) fn add_free(&mut self, phys: u64) {
        assert!(!self.free.contains(&phys), "place {phys} is freed once");
        self.free.push_back(phys);
        self.freed += 1;
        let spare = self.free.len().cmp(&RESERVED_SEGMENTS);
        let is_room = spare.is_gt() || (spare.is_eq() && self.fits(BATCH_BYTES_MAX));
        if is_room && self.has_open_segment() {
            self.writable = true;
        }
    }

    /// The stream that keeps the oldest segment: until it is trimmed, no other trim frees that. `None` while no stream
    /// keeps anything.
    #[must_use]
    pub fn oldest_keeper(&self) -> Option<&str> {
        self.catalog.streams().oldest_keeper().map(|stream| stream.name.as_str())
    }

    /// How many segments were freed since this was last asked.
    pub fn take_freed(&mut self) -> u64 {
        std::mem::take(&mut self.freed)
    }

    /// Whether there is a segment that is being written.
    pub(super) fn has_open_segment(&self) -> bool {
        self.live.back().is_some_and(|last| last.end.is_none())
    }
}

impl From<AppendError> for TrimError {
    fn from(error: AppendError) -> Self {
        Self::NotAppended(error.into())
    }
}
