//! Walking over the batches of a segment on the disk, for recovery, verification and dumps.

use std::ops::Range;

use super::batch::{BatchDamage, BatchView};
use super::segment::{Base, End, Geometry, SegmentHeader};
use super::superblock::Superblock;
use crate::disk::{Disk, DiskFault, Io, Operation, run};
use crate::limits::{BATCH_BYTES_MAX, BLOCK_BYTES, IN_FLIGHT_BYTES_MAX};
use crate::position::{BatchSeq, DiskOffset, LogOffset};

/// Bytes read at once; the memory of any disk is at least so large.
pub(super) const CHUNK_BYTES: usize = 8 * BATCH_BYTES_MAX;

/// Reads `bytes` at `disk_offset` into the start of the disk's memory.
///
/// # Errors
/// What the device said.
pub(super) fn read(
    disk: &mut dyn Disk,
    disk_offset: DiskOffset,
    bytes: usize,
) -> Result<(), DiskFault> {
    assert!(bytes <= CHUNK_BYTES, "at most a chunk");
    transfer(disk, Operation::Read, disk_offset, bytes)
}

/// Moves `bytes` between the disk at `disk_offset` and the start of its memory, as much at once as it takes.
///
/// # Errors
/// What the device said.
pub(super) fn transfer(
    disk: &mut dyn Disk,
    operation: Operation,
    disk_offset: DiskOffset,
    bytes: usize,
) -> Result<(), DiskFault> {
    let step = disk.info().transfer_bytes_max;
    for at in (0..bytes).step_by(step) {
        let io = Io {
            operation,
            tag: 0,
            disk_offset: disk_offset + at as u64,
            memory_offset: at,
            bytes: step.min(bytes - at),
        };
        run(disk, io)?;
    }
    Ok(())
}

/// Where a walk ended, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stop {
    /// The end of what is good.
    pub(super) end: End,
    /// What stands there instead of the next batch; `None` at the end of the segment's room, or behind its roll.
    pub(super) damage: Option<BatchDamage>,
    /// The last batch that later headers, with their checksums right, name as durable.
    pub(super) lac_ahead: BatchSeq,
}

/// Walks from `from` on over all batches that follow each other without a flaw and gives each to `visit`.
///
/// # Errors
/// When the device cannot be read even block by block.
pub(super) fn walk(
    disk: &mut dyn Disk,
    superblock: &Superblock,
    header: &SegmentHeader,
    from: End,
    visit: &mut dyn FnMut(&BatchView<'_>),
) -> Result<Stop, DiskFault> {
    let geometry = Geometry::of(superblock);
    let segment = geometry.segment(header.place());
    let key = header.key(superblock);
    let mut end = from;
    loop {
        let room = geometry.data_end() - end.off;
        let chunk = usize::try_from(room.min(CHUNK_BYTES as u64)).expect("at most a chunk");
        if chunk == 0 {
            return Ok(Stop { end, damage: None, lac_ahead: BatchSeq::NONE });
        }
        read(disk, segment + end.off, chunk)?;
        let mut at = 0;
        let damage = loop {
            let log_off = header.begin() + end.off;
            let bytes = disk.memory().bytes(at..chunk);
            let batch = match BatchView::check(bytes, &key, log_off) {
                Ok(batch) => batch,
                Err(damage) => break damage,
            };
            let follows = batch.batch_seq() == end.base.batch_seq.next()
                && batch.chain() == end.base.chain
                && batch.first_message() == end.base.message;
            if !follows {
                break BatchDamage::Header;
            }
            visit(&batch);
            at += batch.bytes();
            end.off += batch.bytes() as u64;
            end.base = Base {
                batch_seq: batch.batch_seq(),
                message: batch.first_message() + u64::from(batch.message_count()),
                chain: batch.chain_after(),
            };
            if batch.kind() == super::batch::BatchKind::Roll {
                return Ok(Stop { end, damage: None, lac_ahead: BatchSeq::NONE });
            }
        };
        if damage == BatchDamage::CutShort && at > 0 {
            continue;
        }
        let lac_ahead = look_ahead(disk, superblock, header, end.off)?;
        return Ok(Stop { end, damage: Some(damage), lac_ahead });
    }
}

/// The highest "last durable" mark of any header behind `off`, as far as writes may have been in flight.
pub(super) fn look_ahead(
    disk: &mut dyn Disk,
    superblock: &Superblock,
    header: &SegmentHeader,
    off: u64,
) -> Result<BatchSeq, DiskFault> {
    let mut last_durable_max = BatchSeq::NONE;
    let limit = off + IN_FLIGHT_BYTES_MAX as u64;
    for_each_block(disk, superblock, header, off..limit, &mut |bytes, key, log_off| {
        if let Some(last_durable) = BatchView::peek(bytes, key, log_off) {
            last_durable_max = last_durable_max.max(last_durable);
        }
    })?;
    Ok(last_durable_max)
}

/// What a block is shown to: the bytes from it to the end of the chunk, the key, its log offset.
pub(super) type BlockVisit<'a> = dyn FnMut(&[u8], &super::batch::SegmentKey, LogOffset) + 'a;

/// Shows every block of a segment's data at these offsets to `visit`.
///
/// # Errors
/// What the device said.
pub(super) fn for_each_block(
    disk: &mut dyn Disk,
    superblock: &Superblock,
    header: &SegmentHeader,
    offsets: Range<u64>,
    visit: &mut BlockVisit<'_>,
) -> Result<(), DiskFault> {
    let geometry = Geometry::of(superblock);
    let segment = geometry.segment(header.place());
    let key = header.key(superblock);
    let data_end = geometry.data_end();
    let (mut off, limit) = (offsets.start, offsets.end.min(data_end));
    while off < limit {
        let chunk = (data_end - off).min(CHUNK_BYTES as u64);
        let chunk = usize::try_from(chunk).expect("at most a chunk");
        read(disk, segment + off, chunk)?;
        // The last blocks are shown again with the next chunk, so that a batch is seen whole.
        let last = chunk == CHUNK_BYTES;
        let shown = if last { chunk - BATCH_BYTES_MAX } else { chunk };
        for at in (0..shown).step_by(BLOCK_BYTES) {
            if off + at as u64 >= limit {
                break;
            }
            let log_off = header.begin() + (off + at as u64);
            visit(disk.memory().bytes(at..chunk), &key, log_off);
        }
        off += shown as u64;
    }
    Ok(())
}
