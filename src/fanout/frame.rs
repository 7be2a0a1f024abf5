//! DATA frames: the records of one stream, packed from one batch after the other.

use zerocopy::IntoBytes;

use super::cursor::Cursor;
use crate::ids::Lineage;
use crate::wire::DatagramWriter;
use crate::wire::frame::Kind;
use crate::wire::publish::{DATA_HEAD_BYTES, DataHead};
use crate::wire::record::Record;

/// How a walk over one batch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packed {
    /// The batch holds nothing more for this subscription.
    BatchEnd,
    /// The datagram is full: this record has no room.
    Full {
        /// Its bytes.
        record_bytes: usize,
    },
    /// The consumer has no more credit.
    NoCredit,
    /// The record that should come is not there: the log is damaged.
    Gap,
}

/// The open DATA frame of a datagram, filled from one batch after the other.
#[derive(Debug)]
pub(crate) struct DataFrame {
    count: u16,
}

impl DataFrame {
    /// Starts a frame of a subscription at `cursor`'s next sequence; the caller has seen that the head fits.
    pub(crate) fn begin(sub: u32, cursor: &Cursor, writer: &mut DatagramWriter<'_>) -> Self {
        let head = DataHead {
            sub: sub.into(),
            count: 0.into(),
            reserved: 0.into(),
            first_sequence: cursor.next().into(),
            lineage: 0.into(),
        };
        writer.begin(Kind::Data);
        writer.extend(head.as_bytes());
        Self { count: 0 }
    }

    /// Whether nothing was added yet.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds what `body`, the body of the batch at the cursor, has for the subscription.
    pub(crate) fn pack(
        &mut self,
        cursor: &mut Cursor,
        body: &[u8],
        writer: &mut DatagramWriter<'_>,
    ) -> Packed {
        let mut rest = cursor.rest_of(body);
        while let Some((record, after)) = Record::split_first(rest) {
            let sequence = record.header.sequence.get();
            if record.header.stream.get() == cursor.stream().0 && sequence >= cursor.next() {
                if sequence > cursor.next() {
                    return Packed::Gap;
                }
                if sequence >= cursor.limit() {
                    return Packed::NoCredit;
                }
                let record_bytes = rest.len().saturating_sub(after.len());
                if record_bytes > writer.room_in_frame() || self.count == u16::MAX {
                    return Packed::Full { record_bytes };
                }
                writer.extend(&rest[..record_bytes]);
                self.count = self.count.saturating_add(1);
                cursor.took(sequence);
            }
            cursor.passed(rest.len().saturating_sub(after.len()));
            rest = after;
        }
        Packed::BatchEnd
    }

    /// Ends the frame, all of whose records are of this lineage; how many it holds.
    pub(crate) fn end(self, lineage: Lineage, writer: &mut DatagramWriter<'_>) -> u16 {
        // What was not known at the start.
        writer.patch(std::mem::offset_of!(DataHead, count), &self.count.to_le_bytes());
        writer.patch(std::mem::offset_of!(DataHead, lineage), &lineage.0.to_le_bytes());
        writer.end();
        self.count
    }
}

/// Bytes a DATA frame needs before its first record.
pub(crate) const DATA_FRAME_BYTES_MIN: usize = crate::wire::FRAME_HEAD_BYTES + DATA_HEAD_BYTES;
