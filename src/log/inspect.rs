//! Looking at a log without changing it: what it is, and what is in it.

use serde::Serialize;

use super::StreamFacts;
use super::recovery::{OpenError, read_log};
use super::scan::walk;
use super::segment::End;
use crate::disk::Disk;
use crate::ids::Durability;
use crate::limits::BLOCK_BYTES;

/// What a log is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct LogDescription {
    /// Version of this object.
    pub schema_version: u32,
    /// File or device.
    pub disk: String,
    /// Identity of the log.
    pub cluster: String,
    /// Identity of this leg.
    pub leg: String,
    /// Why a completed write was safe when the log was made.
    pub durability: String,
    /// Logical block size.
    pub block_bytes: u32,
    /// Segment size.
    pub segment_bytes: u64,
    /// Segments on the disk.
    pub segments: u64,
    /// Segments that hold something.
    pub segments_used: u64,
    /// The highest epoch so far.
    pub epoch: u64,
    /// It was stopped cleanly.
    pub clean: bool,
    /// Messages since it was made.
    pub messages: u64,
    /// Those of them that no trim has removed.
    pub messages_kept: u64,
    /// Producers it keeps a place for: one that ended in order is forgotten, and where it published to is not kept.
    pub producers: u64,
    /// Its streams.
    pub streams: Vec<StreamDescription>,
}

/// What a stream of a log is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct StreamDescription {
    /// Its number.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// The oldest sequence kept.
    pub first_sequence: u64,
    /// The sequence after the newest.
    pub next_sequence: u64,
    /// Payload bytes.
    pub payload_bytes: u64,
    /// Unix time of creation in nanoseconds.
    pub created_ns: u64,
}

/// Describes a log.
///
/// # Errors
/// When it cannot be opened; damage to acknowledged data included.
pub(crate) fn describe(disk: &mut dyn Disk) -> Result<LogDescription, OpenError> {
    let mut read = read_log(disk, &mut |_| {})?;
    // As an opening would have it: what a trim says takes effect.
    read.catalog.recovered();
    let kept = |stream: &StreamFacts| stream.next_sequence - stream.first_sequence;
    let messages_kept = read.catalog.streams().iter().map(kept).sum();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let superblock = &read.superblock;
    let code = u8::try_from(superblock.durability.get()).ok().and_then(Durability::from_code);
    let streams = read.catalog.streams().iter().map(|stream| StreamDescription {
        id: stream.id.0,
        name: stream.name.clone(),
        first_sequence: stream.first_sequence,
        next_sequence: stream.next_sequence,
        payload_bytes: stream.bytes,
        created_ns: stream.created_ns,
    });
    Ok(LogDescription {
        schema_version: 1,
        disk: disk.info().name.clone(),
        cluster: hex(&superblock.cluster),
        leg: hex(&superblock.leg),
        durability: code.map_or("unknown", Durability::name).into(),
        block_bytes: superblock.block_bytes.get(),
        segment_bytes: superblock.segment_bytes(),
        segments: superblock.segment_count.get(),
        segments_used: read.found.len() as u64,
        epoch: superblock.last_epoch.get(),
        clean: read.recovery.clean,
        messages: read.recovery.messages,
        messages_kept,
        producers: read.catalog.producers().iter().count() as u64,
        streams: streams.collect(),
    })
}

/// One batch of a dump.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct BatchRow {
    /// Segment.
    pub segment: u64,
    /// Its number.
    pub batch: u64,
    /// What it holds.
    pub kind: &'static str,
    /// Where on the disk.
    pub disk_offset: u64,
    /// Bytes on the disk.
    pub bytes: usize,
    /// Epoch.
    pub epoch: u64,
    /// The last batch that was known durable.
    pub last_durable: u64,
    /// Unix time of sealing in nanoseconds.
    pub append_ns: u64,
    /// Its messages.
    pub messages: Vec<MessageRow>,
}

/// One message of a dump.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct MessageRow {
    /// Stream; 0 for a control record.
    pub stream: u32,
    /// Its sequence.
    pub sequence: u64,
    /// Who published it.
    pub producer_id: u64,
    /// The producer's number.
    pub producer_seq: u64,
    /// Unix time of arrival in nanoseconds.
    pub received_ns: u64,
    /// Payload bytes.
    pub payload_bytes: usize,
    /// The producer's checksum is right.
    pub intact: bool,
}

/// Gives every batch of a log to `row`, in order, until it says `false`.
///
/// # Errors
/// When the log cannot be opened or read.
pub(crate) fn dump(
    disk: &mut dyn Disk,
    row: &mut dyn FnMut(BatchRow) -> bool,
) -> Result<(), OpenError> {
    let read = read_log(disk, &mut |_| {})?;
    let name = disk.info().name.clone();
    let mut go_on = true;
    for found in &read.found {
        let header = &found.header;
        let start = End { off: BLOCK_BYTES as u64, base: header.base() };
        let geometry = super::segment::Geometry::of(&read.superblock);
        let segment = geometry.segment(header.place());
        let walked = walk(disk, &read.superblock, header, start, &mut |batch| {
            if !go_on {
                return;
            }
            let messages = batch.records().map(|record| MessageRow {
                stream: record.header.stream.get(),
                sequence: record.header.sequence.get(),
                producer_id: record.header.producer_id.get(),
                producer_seq: record.header.producer_seq.get(),
                received_ns: record.header.received_ns.get(),
                payload_bytes: record.payload.len(),
                intact: record.is_intact(),
            });
            go_on = row(BatchRow {
                segment: header.seg_no().get(),
                batch: batch.batch_seq().get(),
                kind: batch.kind().name(),
                disk_offset: (segment + (batch.log_off() - header.begin())).get(),
                bytes: batch.bytes(),
                epoch: header.epoch.get(),
                last_durable: batch.last_durable().get(),
                append_ns: batch.append_ns(),
                messages: messages.collect(),
            });
        });
        walked.map_err(|fault| OpenError::Device { name: name.clone(), fault })?;
        if !go_on {
            break;
        }
    }
    Ok(())
}
