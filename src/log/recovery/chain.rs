//! Which of the segments that are found follow each other, and where the log begins.

use super::{BatchRange, Found, OpenError, look_at};
use crate::disk::Disk;
use crate::limits::BLOCK_BYTES;
use crate::log::scan;
use crate::log::segment::{Base, Geometry, SegmentHeader};
use crate::log::superblock::Superblock;
use crate::position::{BatchSeq, DiskOffset};

/// What does not count of the segments that were found.
pub(in crate::log) struct Chain {
    /// Behind the end of the log, the newest first: batches before them never became durable.
    pub(in crate::log) dropped: Vec<SegmentHeader>,
    /// Before the beginning of the log.
    pub(in crate::log) trimmed: Vec<SegmentHeader>,
    /// What is missing before the beginning.
    pub(in crate::log) gap: Option<Gap>,
}

/// Where the log begins though it began elsewhere once.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::log) struct Gap {
    /// Disk offset of the first segment behind it.
    pub(super) disk_offset: DiskOffset,
    /// The batches in it.
    pub(super) batches: BatchRange,
}

/// Checks that each segment goes on where the one before ended. A segment without a closing index is
/// walked over instead. Where its last batches never became durable, neither did anything of the
/// segments behind it: these are taken out. The log begins behind the last gap; whether what is missing
/// there was trimmed, the tables tell (see [`check_kept`]).
pub(in crate::log) fn check_chain(
    disk: &mut dyn Disk,
    superblock: &Superblock,
    found: &mut Vec<Found>,
) -> Result<Chain, OpenError> {
    // A segment that held nothing may still stand where its successor was started in another place.
    let bases: Vec<_> = found.iter().skip(1).map(|found| found.header.base()).collect();
    let mut next_base = bases.into_iter();
    found.retain(|segment| next_base.next() != Some(segment.header.base()));
    let (mut expected, mut messages_end) = (Base::default(), Base::default());
    let (mut begin, mut gap, mut dropped) = (0, None, Vec::new());
    for position in 0..found.len() {
        let header = found[position].header;
        if header.base() != expected && !header.joins(&messages_end) {
            let mark = marks_of(disk, superblock, &found[position..])?;
            if mark <= expected.batch_seq {
                // An opening that cut the segment before was killed before it began the next one.
                dropped = take_from(found, position);
                break;
            }
            begin = position;
            gap = Some(Gap {
                disk_offset: Geometry::of(superblock).segment(header.place()),
                batches: BatchRange {
                    first: expected.batch_seq.next(),
                    last: header.base().batch_seq,
                },
            });
        }
        let Some(next) = found.get(position + 1) else { break };
        // Where that says so, segments without messages before it do not count: it tells all that they do.
        let needed = next.header.needs();
        if found[position].closing.is_none() {
            // What stands in the later segments themselves is not of this one.
            let mark = marks_of(disk, superblock, &found[position + 1..])?.min(needed);
            let looked = look_at(disk, superblock, &found[position], Some(mark))?;
            if looked.stop.end.base.batch_seq < needed {
                dropped = take_from(found, position + 1);
                break;
            }
            found[position].closing = Some((looked.stop.end, looked.index));
            found[position].is_closed = false;
        }
        let closing = found[position].closing.as_ref();
        expected = closing.expect("read or walked over").0.base;
        if expected.message > header.base_message.get() {
            messages_end = expected;
        }
    }
    let trimmed = found.drain(..begin).map(|found| found.header).collect();
    Ok(Chain { dropped, trimmed, gap })
}

/// Takes the segments from a position on out, the newest first.
fn take_from(found: &mut Vec<Found>, position: usize) -> Vec<SegmentHeader> {
    found.drain(position..).map(|found| found.header).rev().collect()
}

/// The last batch that any of several segments says was durable.
fn marks_of(
    disk: &mut dyn Disk,
    superblock: &Superblock,
    found: &[Found],
) -> Result<BatchSeq, OpenError> {
    let mut mark = BatchSeq::NONE;
    for found in found {
        mark = mark.max(mark_of(disk, superblock, found)?);
    }
    Ok(mark)
}

/// The last batch that a segment, by its closing index or by any of its first headers, says was durable.
pub(in crate::log) fn mark_of(
    disk: &mut dyn Disk,
    superblock: &Superblock,
    found: &Found,
) -> Result<BatchSeq, OpenError> {
    let name = disk.info().name.clone();
    scan::look_ahead(disk, superblock, &found.header, BLOCK_BYTES as u64)
        .map(|mark| mark.max(found.closed_at()))
        .map_err(|fault| OpenError::Device { name, fault })
}
