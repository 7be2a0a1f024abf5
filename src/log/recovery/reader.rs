//! Rebuilding: catalog, index and messages from the batches of one segment.

use super::{Last, Missing, RecoveredMessage};
use crate::disk::Disk;
use crate::ids::{ProducerId, StreamId};
use crate::log::batch::{BatchKind, BatchView};
use crate::log::catalog::{Catalog, Tenure};
use crate::log::control::Control;
use crate::log::scan::{self, Stop};
use crate::log::segment::{Geometry, IndexEntry, SegmentHeader};
use crate::log::superblock::Superblock;
use crate::position::BatchSeq;
use crate::wire::record::Record;

/// Rebuilds the catalog and the index from the batches of one segment.
pub(super) struct Reader {
    catalog: Catalog,
    parts: u16,
    opened: bool,
    content: bool,
    messages: Vec<RecoveredMessage>,
    index: Vec<IndexEntry>,
    geometry: Geometry,
}

impl Reader {
    pub(super) fn new(geometry: Geometry) -> Self {
        Self {
            catalog: Catalog::new(),
            parts: 0,
            opened: false,
            content: false,
            messages: Vec::new(),
            index: Vec::new(),
            geometry,
        }
    }

    pub(super) fn take(&mut self, batch: &BatchView<'_>) {
        match batch.kind() {
            BatchKind::Checkpoint if !self.opened => {
                // The hash was right, so a part that makes no sense is a bug of the writer.
                let last = self.catalog.read_checkpoint(batch.body(), self.parts);
                self.opened = last.expect("the checkpoint's parts follow each other");
                self.parts += 1;
            }
            BatchKind::Data => {
                self.content = true;
                for record in batch.records() {
                    self.take_record(batch, &record);
                }
            }
            BatchKind::EpochOpen | BatchKind::Lac | BatchKind::Checkpoint | BatchKind::Roll => {}
        }
    }

    fn take_record(&mut self, batch: &BatchView<'_>, record: &Record<'_>) {
        if record.header.stream.get() != 0 {
            self.take_message(batch, record);
            return;
        }
        let unix_ns = record.header.received_ns.get();
        // The hash was right, so a record that makes no sense is a bug of the writer.
        let said = Control::parse(record.header, record.payload);
        match said.expect("a control record makes sense") {
            Control::Stream { id, name } => {
                self.catalog.add_stream(id, name, unix_ns, BatchSeq::NONE);
            }
            Control::Producer { id, epoch, said } => {
                let tenure = Tenure { epoch, instance: said.instance() };
                let owner = said.owner().expect("a control record makes sense");
                self.catalog.register_recovered(id, owner, tenure, unix_ns);
            }
            Control::Trim { id, first } => self.catalog.trim_recorded(id, first),
            Control::Forget { id } => self.catalog.forget(id),
            Control::Other => {}
        }
    }

    fn take_message(&mut self, batch: &BatchView<'_>, record: &Record<'_>) {
        let header = record.header;
        let message = RecoveredMessage {
            producer_id: ProducerId(header.producer_id.get()),
            producer_seq: header.producer_seq.get(),
            stream: StreamId(header.stream.get()),
            sequence: header.sequence.get(),
        };
        let unix_ns = header.received_ns.get();
        self.catalog.append_recovered(&message, record.payload.len(), unix_ns);
        let spot = self.geometry.spot(batch.log_off());
        let entries = self.index.len();
        self.index.extend(self.catalog.index(message.stream, message.sequence, spot, entries));
        self.messages.push(message);
    }

    /// Which sequences are missing, as far as batches behind the damage tell.
    pub(super) fn missing(
        &self,
        disk: &mut dyn Disk,
        superblock: &Superblock,
        header: &SegmentHeader,
        off: u64,
    ) -> Vec<Missing> {
        let mut found: Vec<(StreamId, u64)> = Vec::new();
        // What cannot be read tells nothing.
        let _ = scan::for_each_block(
            disk,
            superblock,
            header,
            off..u64::MAX,
            &mut |bytes, key, log_off| {
                let Ok(batch) = BatchView::check(bytes, key, log_off) else { return };
                for record in batch.records() {
                    let stream = StreamId(record.header.stream.get());
                    if stream.0 != 0 && found.iter().all(|(known, _)| *known != stream) {
                        found.push((stream, record.header.sequence.get()));
                    }
                }
            },
        );
        let say = |stream: &crate::log::StreamFacts| {
            let first = stream.next_sequence;
            let next = found.iter().find(|(id, _)| *id == stream.id).map(|(_, next)| *next);
            let last = next.map(|next| next - 1);
            let is_missing = next != Some(first);
            is_missing.then(|| Missing { stream: stream.name.clone(), first, last })
        };
        self.catalog.streams().iter().filter_map(say).collect()
    }

    pub(super) fn finish(self, stop: Stop) -> Last {
        Last {
            catalog: self.catalog,
            stop,
            opened: self.opened,
            content: self.content,
            messages: self.messages,
            index: self.index,
        }
    }
}
