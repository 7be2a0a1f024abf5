//! The segments of a copy: each gets a place, its batches as they are checked, and its closing index.

use zerocopy::IntoBytes;

use super::{Copier, CopyError, Placed, STUCK_WALKS};
use crate::disk::{Disk, DiskFault};
use crate::limits::RESERVED_SEGMENTS;
use crate::limits::{BATCH_BYTES_MAX, BLOCK_BYTES};
use crate::log::batch::BatchView;
use crate::log::create::{clear, disk_bytes_of, write};
use crate::log::recovery::Found;
use crate::log::scan::{CHUNK_BYTES, Stop, walk};
use crate::log::segment::{End, Geometry, INDEX_BYTES, SegmentHeader, write_closing};
use crate::position::{BatchSeq, DiskOffset, SegmentNo};

impl Copier<'_> {
    /// Copies what of a segment is not copied yet. Returns where it ends now, and whether all that is promised
    /// of it is there.
    pub(super) fn bring(&mut self, segment: &Found) -> Result<(End, bool), CopyError> {
        let seg_no = segment.header.seg_no();
        let closed = segment.closed_at();
        if closed > BatchSeq::NONE
            && self.placed.get(&seg_no).is_some_and(|p| p.end.base.batch_seq > closed)
        {
            // It was closed before what had arrived behind its end; that does not count.
            let others: Vec<SegmentNo> =
                self.placed.keys().copied().filter(|&one| one != seg_no).collect();
            self.drop_all_but(&others)?;
        }
        let mut placed = match self.placed.remove(&seg_no) {
            Some(placed) => placed,
            None => self.place(&segment.header)?,
        };
        if placed.is_closed {
            let end = placed.end;
            self.placed.insert(seg_no, placed);
            return Ok((end, true));
        }
        let mut promised_is_there = false;
        // What the first walk sees said to be durable has to be there; what is written later need not.
        let mut promised = None;
        for _ in 0..STUCK_WALKS {
            let stop = self.walk_on(segment, &mut placed)?;
            let promised = *promised.get_or_insert_with(|| closed.max(stop.lac_ahead));
            if placed.end.base.batch_seq >= promised {
                promised_is_there = true;
                break;
            }
        }
        if promised_is_there {
            placed.is_closed = self.close(segment, &placed)?;
        }
        let end = placed.end;
        self.placed.insert(seg_no, placed);
        Ok((end, promised_is_there))
    }

    /// Gives a segment a place in the copy, and its headers there.
    fn place(&mut self, header: &SegmentHeader) -> Result<Placed, CopyError> {
        if self.places.is_empty()
            && let Some((&freed, _)) = self.placed.range(..self.source_begin).next()
        {
            let others: Vec<SegmentNo> =
                self.placed.keys().copied().filter(|&one| one != freed).collect();
            self.drop_all_but(&others)?;
        }
        let Some(place) = self.places.pop() else {
            let segment_bytes = self.geometry.segment_bytes;
            let segments = (self.placed.len() + RESERVED_SEGMENTS) as u64;
            let needed = disk_bytes_of(&Geometry { segment_bytes, segments });
            let info = self.target.info();
            return Err(CopyError::TooSmall { name: info.name.clone(), found: info.bytes, needed });
        };
        let header = header.at_place(place);
        let start = self.geometry.segment(place);
        for offset in [0, self.geometry.copy_offset()] {
            self.target.memory_mut().bytes_mut(0..BLOCK_BYTES).copy_from_slice(header.as_bytes());
            write(self.target, start + offset, BLOCK_BYTES)
                .map_err(|fault| self.write_failed(fault))?;
        }
        Ok(Placed {
            header,
            end: End { off: BLOCK_BYTES as u64, base: header.base() },
            is_closed: false,
        })
    }

    /// Walks over what follows in a segment, and writes it into the copy.
    fn walk_on(&mut self, segment: &Found, placed: &mut Placed) -> Result<Stop, CopyError> {
        let start = self.geometry.segment(placed.header.place());
        // What arrived behind the end of a segment that an opening had closed does not count.
        let closed = segment.closing.as_ref().map(|(end, _)| *end);
        let progress = &mut *self.progress;
        let mut sink = Sink {
            target: &mut *self.target,
            at: start + placed.end.off,
            filled: 0,
            bytes: self.bytes,
            failed: None,
            progress,
        };
        let walked =
            walk(self.source, &self.superblock, &segment.header, placed.end, &mut |batch| {
                if closed.is_none_or(|end| batch.batch_seq() <= end.base.batch_seq) {
                    sink.put(batch);
                }
            });
        sink.flush();
        let (failed, bytes) = (sink.failed.take(), sink.bytes);
        self.bytes = bytes;
        let stop = walked.map_err(|fault| self.read_failed(fault))?;
        match failed {
            Some(Failed::Write(fault)) => Err(self.write_failed(fault)),
            Some(Failed::Stopped) => Err(CopyError::Stopped),
            None => {
                let beyond = |end: &End| stop.end.base.batch_seq > end.base.batch_seq;
                placed.end = closed.filter(beyond).unwrap_or(stop.end);
                Ok(stop)
            }
        }
    }

    /// Writes a segment's closing index, where it ends as the copy does; says whether it does.
    fn close(&mut self, segment: &Found, placed: &Placed) -> Result<bool, CopyError> {
        let Some((end, entries)) = &segment.closing else { return Ok(false) };
        if *end != placed.end {
            return Ok(false);
        }
        let start = self.geometry.segment(placed.header.place());
        let memory = self.target.memory_mut().bytes_mut(0..INDEX_BYTES);
        write_closing(memory, &placed.header, end, entries);
        write(self.target, start + self.geometry.index_offset(), INDEX_BYTES)
            .map_err(|fault| self.write_failed(fault))?;
        Ok(true)
    }

    /// Takes segments out of the copy: their headers, and their batches too, since the same segment may come
    /// again with fewer.
    pub(super) fn drop_all_but(&mut self, kept: &[SegmentNo]) -> Result<(), CopyError> {
        let gone: Vec<SegmentNo> =
            self.placed.keys().filter(|seg_no| !kept.contains(seg_no)).copied().collect();
        for seg_no in gone {
            let placed = self.placed.remove(&seg_no).expect("a key of the map");
            let place = placed.header.place();
            let start = self.geometry.segment(place);
            let (tail, end) =
                (start + self.geometry.index_offset(), start + self.geometry.segment_bytes);
            for (from, to) in [(start, start + placed.end.off), (tail, end)] {
                clear(self.target, from, to).map_err(|fault| self.write_failed(fault))?;
            }
            self.places.push(place);
        }
        Ok(())
    }
}

/// Why a batch was not written.
enum Failed {
    Write(DiskFault),
    Stopped,
}

/// Gathers batches that follow each other into writes of a chunk.
struct Sink<'a> {
    target: &'a mut dyn Disk,
    /// Disk offset of what is gathered.
    at: DiskOffset,
    filled: usize,
    bytes: u64,
    failed: Option<Failed>,
    progress: &'a mut dyn FnMut(u64) -> bool,
}

impl Sink<'_> {
    fn put(&mut self, batch: &BatchView<'_>) {
        if self.filled + BATCH_BYTES_MAX > CHUNK_BYTES {
            self.flush();
        }
        if self.failed.is_some() {
            return;
        }
        let room = self.filled..self.filled + batch.bytes();
        batch.write_to(self.target.memory_mut().bytes_mut(room));
        self.filled += batch.bytes();
    }

    fn flush(&mut self) {
        if self.filled == 0 || self.failed.is_some() {
            return;
        }
        match write(self.target, self.at, self.filled) {
            Ok(()) => {
                self.at += self.filled as u64;
                self.bytes += self.filled as u64;
                if !(self.progress)(self.bytes) {
                    self.failed = Some(Failed::Stopped);
                }
            }
            Err(fault) => self.failed = Some(Failed::Write(fault)),
        }
        self.filled = 0;
    }
}
