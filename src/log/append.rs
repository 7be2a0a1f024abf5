//! Appending: records into the open batch, batches sealed, segments rolled. All in memory.

use zerocopy::IntoBytes;

use super::batch::{BATCH_HEADER_BYTES, BatchKind, Seal, batch_bytes, seal};
use super::catalog::{CHECKPOINT_PARTS_MAX, Parting, ProducerHandle};
use super::queue::{Cargo, SealedBatch, Span};
use super::segment::{Base, End, INDEX_BYTES, write_closing};
use super::{
    AppendError, Appended, ControlError, Log, Message, OpenBatch, RESERVED_SEGMENTS, Registration,
};
use crate::ids::{ProducerId, StreamId};
use crate::limits::{BATCH_BYTES_MAX, BLOCK_BYTES, IN_FLIGHT_BYTES_MAX, Limits};
use crate::memory::Memory;
use crate::metrics::stages::BatchTimes;
use crate::wire::record::{RECORD_HEADER_BYTES, RecordHeader, Signed, record_bytes};

/// Flags of a control record (stream 0): what it says.
pub(super) const CONTROL_STREAM: u16 = 1;
/// A producer was registered.
pub(super) const CONTROL_PRODUCER: u16 = 2;
/// A stream was trimmed: the number of the record is its first sequence kept.
pub(super) const CONTROL_TRIM: u16 = 3;
/// A producer was forgotten: its place is free.
pub(super) const CONTROL_FORGET: u16 = 4;

/// Bytes a roll adds beside the checkpoint: the roll itself and the epoch's opening.
const ROLL_BYTES: usize = 2 * BLOCK_BYTES;
const _: () = assert!(
    ROLL_BYTES + CHECKPOINT_PARTS_MAX * BATCH_BYTES_MAX + BATCH_BYTES_MAX < IN_FLIGHT_BYTES_MAX
);

impl Log {
    /// Appends what fits these limits from now on. What there is already stays.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Appends a message to the open batch.
    ///
    /// # Errors
    /// See [`AppendError`]; nothing was changed.
    ///
    /// # Panics
    /// When the handle is not that of the producer who signed.
    #[inline]
    pub fn append(
        &mut self,
        memory: &mut Memory,
        message: &Message<'_>,
        unix_ns: u64,
    ) -> Result<Appended, AppendError> {
        let (signed, bytes) = (&message.signed, message.payload.len());
        self.stream(signed.stream).ok_or(AppendError::NoStream)?;
        // Asked before anything is written.
        self.catalog.producers().check(message.producer, signed.producer_id);
        self.make_room(memory, record_bytes(bytes), RESERVED_SEGMENTS, unix_ns)?;
        let sequence = self.catalog.append(signed, message.producer, bytes, unix_ns);
        if self.catalog.touch(signed.stream, self.next_batch) {
            self.note_touched(signed.stream, sequence);
        }
        self.put_record(memory, signed, message.crc32c, message.payload, sequence, unix_ns);
        self.open.messages += 1;
        Ok(Appended { sequence, batch_seq: self.next_batch })
    }

    /// Adds a stream to the catalog; it counts once the batch returned with it is durable.
    ///
    /// # Errors
    /// See [`ControlError`]; nothing was changed.
    pub fn create_stream(
        &mut self,
        memory: &mut Memory,
        name: &str,
        unix_ns: u64,
    ) -> Result<(StreamId, u64), ControlError> {
        let limit = self.limits.streams;
        let next = self.catalog.streams().next_id();
        let id =
            next.filter(|id| id.0 as usize <= limit).ok_or(ControlError::TableFull { limit })?;
        let said = (CONTROL_STREAM, u64::from(id.0), 0);
        self.put_control(memory, said, name.as_bytes(), RESERVED_SEGMENTS, unix_ns)?;
        self.catalog.add_stream(id, name, unix_ns, self.next_batch);
        self.segments.add_stream();
        Ok((id, self.next_batch))
    }

    /// Registers a producer, a new one where `id` is `None`, under an epoch and for an instance. Where the table
    /// is full, one that may be forgotten is, and the log says so before.
    ///
    /// # Errors
    /// See [`ControlError`]; nothing was changed.
    ///
    /// # Panics
    /// When a producer that is asked for is not known.
    pub fn register_producer(
        &mut self,
        memory: &mut Memory,
        id: Option<ProducerId>,
        (epoch, instance): (u32, u64),
        unix_ns: u64,
    ) -> Result<Registration, ControlError> {
        let limit = self.limits.producers;
        let forgotten = match id {
            Some(id) => {
                assert!(self.producer(id).is_some(), "the caller looked for {id}");
                None
            }
            None if self.catalog.producers().is_full(limit) => {
                Some(self.catalog.search(limit, unix_ns)?)
            }
            None => None,
        };
        // Room for both records first: the table is changed only for what is written.
        let payload = instance.to_le_bytes();
        let bytes = record_bytes(0) + record_bytes(payload.len());
        self.make_room(memory, bytes, RESERVED_SEGMENTS, unix_ns)?;
        if let Some(id) = forgotten {
            self.put_forget(memory, id, unix_ns);
        }
        let id = id.unwrap_or_else(|| self.catalog.producers().next_id());
        self.put_control_record(
            memory,
            (CONTROL_PRODUCER, id.0, u64::from(epoch)),
            &payload,
            unix_ns,
        );
        let batch_seq = self.next_batch;
        let last_seq = self.catalog.register(id, (epoch, instance), unix_ns, batch_seq);
        Ok(Registration { id, last_seq, batch_seq, forgotten })
    }

    /// A session, as the shard numbers it, publishes as a producer from now on, until it gives the handle back.
    ///
    /// # Panics
    /// When the producer is not known, or another session publishes as it.
    pub fn hold_producer(&mut self, id: ProducerId, holder: usize) -> ProducerHandle {
        self.catalog.hold(id, holder)
    }

    /// The session of a producer has ended. Where its client said that it will not return its place is free at once,
    /// and the log says so; if the log takes no record just now, its place is the first to be given away. A crash
    /// before that is durable brings it back as one that may return.
    ///
    /// # Panics
    /// When the handle is another session's, which two handles for one producer would be.
    pub fn release_producer(
        &mut self,
        memory: &mut Memory,
        handle: ProducerHandle,
        parting: Parting,
        unix_ns: u64,
    ) {
        let id = handle.id();
        self.catalog.release(handle, parting, unix_ns);
        let may_say = parting == Parting::Ended && self.queue.fault().is_none();
        if may_say && self.make_room(memory, record_bytes(0), RESERVED_SEGMENTS, unix_ns).is_ok() {
            self.put_forget(memory, id, unix_ns);
        }
    }

    fn put_forget(&mut self, memory: &mut Memory, id: ProducerId, unix_ns: u64) {
        self.put_control_record(memory, (CONTROL_FORGET, id.0, 0), &[], unix_ns);
        self.catalog.forget(id);
    }

    /// Appends a control record: what it says, of which id, and a number.
    pub(super) fn put_control(
        &mut self,
        memory: &mut Memory,
        (flags, id, value): (u16, u64, u64),
        payload: &[u8],
        reserve: usize,
        unix_ns: u64,
    ) -> Result<(), AppendError> {
        self.make_room(memory, record_bytes(payload.len()), reserve, unix_ns)?;
        self.put_control_record(memory, (flags, id, value), payload, unix_ns);
        Ok(())
    }

    fn put_control_record(
        &mut self,
        memory: &mut Memory,
        (flags, id, value): (u16, u64, u64),
        payload: &[u8],
        unix_ns: u64,
    ) {
        let (producer_id, stream) = (ProducerId(id), StreamId(0));
        let signed = Signed { producer_id, producer_seq: value, stream, flags, ext_len: 0 };
        self.put_record(memory, &signed, signed.crc32c(payload), payload, 0, unix_ns);
    }

    /// Sees to it that `bytes` of records fit the open batch, sealing it and rolling the segment where
    /// they do not, as long as more than `reserve` segments are free.
    #[inline]
    fn make_room(
        &mut self,
        memory: &mut Memory,
        bytes: usize,
        reserve: usize,
        unix_ns: u64,
    ) -> Result<(), AppendError> {
        if self.is_full() && (reserve == RESERVED_SEGMENTS || !self.segments.is_open()) {
            return Err(AppendError::Full);
        }
        let body_len = self.open.body_len + bytes;
        let fits = BATCH_HEADER_BYTES + body_len <= BATCH_BYTES_MAX && self.fits(body_len);
        if fits && self.open.body_len > 0 {
            return Ok(());
        }
        assert!(BATCH_HEADER_BYTES + bytes <= BATCH_BYTES_MAX, "a datagram fits a batch");
        let limit = self.limits.in_flight_bytes.min(self.ring_bytes / 2);
        let needed = self.queue.batch_bytes() + batch_bytes(self.open.body_len) + BATCH_BYTES_MAX;
        if needed > limit {
            return Err(AppendError::Busy);
        }
        if fits {
            return Ok(());
        }
        if self.open.body_len > 0 && self.fits(self.open.body_len) {
            self.seal_open(memory, BatchKind::Data, unix_ns);
        }
        if self.fits(bytes) {
            return Ok(());
        }
        if !self.segments.may_roll(reserve) {
            return Err(AppendError::Full);
        }
        // Where tables are larger than the limit allows for, a roll has all that is in flight for itself.
        let rolls = ROLL_BYTES + self.catalog.checkpoint_bytes() + BATCH_BYTES_MAX;
        if self.uses_auxiliary() || self.queue.batch_bytes() + rolls > limit.max(rolls) {
            return Err(AppendError::Busy);
        }
        self.roll(memory, unix_ns);
        Ok(())
    }

    /// Whether a batch of `body_len` fits the current segment, with room for the roll behind it.
    #[inline]
    pub(super) fn fits(&self, body_len: usize) -> bool {
        let end = self.off + (batch_bytes(body_len) + BLOCK_BYTES) as u64;
        end <= self.segments.geometry().data_end()
    }

    #[inline]
    fn put_record(
        &mut self,
        memory: &mut Memory,
        signed: &Signed,
        crc32c: u32,
        payload: &[u8],
        sequence: u64,
        unix_ns: u64,
    ) {
        let header = RecordHeader {
            len: u32::try_from(payload.len()).expect("at most a datagram").into(),
            crc32c: crc32c.into(),
            producer_id: signed.producer_id.0.into(),
            producer_seq: signed.producer_seq.into(),
            stream: signed.stream.0.into(),
            flags: signed.flags.into(),
            ext_len: signed.ext_len.into(),
            sequence: sequence.into(),
            received_ns: unix_ns.into(),
        };
        let bytes = record_bytes(payload.len());
        let start = self.ring_offset(self.open_log_off()) + BATCH_HEADER_BYTES + self.open.body_len;
        let room = memory.bytes_mut(start..start + bytes);
        room[..RECORD_HEADER_BYTES].copy_from_slice(header.as_bytes());
        let end = RECORD_HEADER_BYTES + payload.len();
        room[RECORD_HEADER_BYTES..end].copy_from_slice(payload);
        room[end..].fill(0);
        self.open.body_len += bytes;
    }

    /// Notes that a stream has messages in the open batch, the first of which is `sequence`, and puts it into the index
    /// where it is due.
    fn note_touched(&mut self, id: StreamId, sequence: u64) {
        self.touched.push(id);
        self.catalog.keep_in(id, self.segments.current().seg_no);
        let spot = self.segments.geometry().spot(self.open_log_off());
        let entry = self.catalog.index(id, sequence, spot, self.segments.entries_now());
        if let Some(entry) = entry {
            self.segments.note(&entry);
        }
    }

    /// Seals the open batch and puts it into the queue.
    pub(super) fn seal_open(&mut self, memory: &mut Memory, kind: BatchKind, unix_ns: u64) {
        let OpenBatch { body_len, messages, received_ns, appended_ns, blank } = self.open;
        let bytes = batch_bytes(body_len);
        let log_off = self.open_log_off();
        let current = *self.segments.current();
        let start = self.ring_offset(log_off);
        let said = Seal {
            kind,
            batch_seq: self.next_batch,
            log_off,
            first_message: self.messages,
            message_count: messages,
            body_len,
            padded: blank && bytes == BLOCK_BYTES,
            chain: self.chain,
            lac: self.prefix.batch_seq(),
            append_ns: unix_ns,
        };
        self.chain = seal(memory.bytes_mut(start..start + bytes), &current.key, &said);
        if kind == BatchKind::Data {
            self.content_seq = self.next_batch;
        }
        self.told_lac = self.prefix.batch_seq();
        for id in self.touched.drain(..) {
            let next = self.catalog.streams().get(id).expect("a known stream").next_sequence;
            self.prefix.note_next(self.next_batch, id, next);
        }
        let disk_offset = self.segments.geometry().segment(current.phys) + self.off;
        let sealed = SealedBatch {
            batch_seq: self.next_batch,
            log_off,
            content: kind == BatchKind::Data,
            marked: self.prefix.content().0,
            chain: self.chain,
            times: BatchTimes {
                messages: u64::from(messages),
                received_ns,
                appended_ns,
                ..BatchTimes::default()
            },
        };
        self.queue.push(Span { disk_offset, memory_offset: start, bytes }, Cargo::Batch(sealed));
        self.messages += u64::from(messages);
        self.next_batch += 1;
        self.off += bytes as u64;
        self.open = OpenBatch::default();
    }

    /// Notes when what was appended in this turn had been received, and that it is appended now. A batch that is
    /// filled over several turns keeps the times of its first.
    pub fn note_times(&mut self, received_ns: u64, appended_ns: u64) {
        if self.open.messages > 0 && self.open.appended_ns == 0 {
            (self.open.received_ns, self.open.appended_ns) = (received_ns, appended_ns);
        }
    }

    /// Blanks the next batch's first block while nobody waits for it: a lone message then finds its
    /// padding in place and the block in the cache. Behind a segment's end none begins: what is blank there says nothing
    /// of the next segment's blocks.
    pub fn prepare(&mut self, memory: &mut Memory) {
        let has_room = self.segments.is_open() && self.off < self.segments.geometry().data_end();
        if self.open.blank || self.open.body_len > 0 || !has_room {
            return;
        }
        let start = self.ring_offset(self.open_log_off());
        // A line that is zero already is not written: the device reads it faster where no core has changed it.
        let (lines, _) = memory.bytes_mut(start..start + BLOCK_BYTES).as_chunks_mut::<64>();
        for line in lines.iter_mut().filter(|line| **line != [0; 64]) {
            line.fill(0);
        }
        self.open.blank = true;
    }

    /// Ends the current segment and starts the next.
    fn roll(&mut self, memory: &mut Memory, unix_ns: u64) {
        assert_eq!(self.open.body_len, 0, "the open batch is sealed before a roll");
        // The mark of an idle log may stand where the roll would: then the closing index alone says that it ended.
        if self.off < self.segments.geometry().data_end() {
            self.seal_open(memory, BatchKind::Roll, unix_ns);
        }
        self.close_segment(memory);
        self.begin_segment(memory, false, unix_ns);
    }

    /// Notes where the current segment ends and makes its closing index, which is written once the whole
    /// segment is durable: to recovery it is the word that nothing of the segment is missing.
    pub(super) fn close_segment(&mut self, memory: &mut Memory) {
        let end = End { off: self.off, base: self.base() };
        let (current, entries) = self.segments.close(end);
        let header = current.header(&self.superblock);
        let aux = Self::aux_start(self.ring_bytes) + BLOCK_BYTES;
        write_closing(memory.bytes_mut(aux..aux + INDEX_BYTES), &header, &end, entries);
        let geometry = self.segments.geometry();
        let disk_offset = geometry.segment(self.segments.current().phys) + geometry.index_offset();
        self.prefix.note_closing(end.base.batch_seq, disk_offset);
        self.write_closing_when_due();
    }

    /// Queues the closing index that waits, once all of its segment is durable.
    pub(super) fn write_closing_when_due(&mut self) {
        let Some(disk_offset) = self.prefix.take_closing() else { return };
        let aux = Self::aux_start(self.ring_bytes) + BLOCK_BYTES;
        self.queue_aux(disk_offset, aux, INDEX_BYTES);
        self.segments.look_again();
    }

    /// What the next segment or epoch goes on from.
    fn base(&self) -> Base {
        Base { batch_seq: self.next_batch - 1, message: self.messages, chain: self.chain }
    }

    /// Takes a free segment: its header twice, then the checkpoint of all tables.
    pub(super) fn begin_segment(&mut self, memory: &mut Memory, new_epoch: bool, unix_ns: u64) {
        let segments = &self.segments;
        let seg_no = if new_epoch { segments.first_seg_no() } else { segments.next_seg_no() };
        let salt = self.segment_salt(seg_no);
        let base = self.base();
        let header = self.segments.begin(&self.superblock, (seg_no, salt), base, unix_ns);
        let aux = Self::aux_start(self.ring_bytes);
        memory.bytes_mut(aux..aux + BLOCK_BYTES).copy_from_slice(header.as_bytes());
        let geometry = *self.segments.geometry();
        let segment = geometry.segment(header.phys_index.get());
        self.queue_aux(segment, aux, BLOCK_BYTES);
        self.queue_aux(segment + geometry.copy_offset(), aux, BLOCK_BYTES);
        self.off = BLOCK_BYTES as u64;
        if new_epoch {
            self.seal_open(memory, BatchKind::EpochOpen, unix_ns);
        }
        for part in 0..self.catalog.checkpoint_parts() {
            let start = self.ring_offset(self.open_log_off()) + BATCH_HEADER_BYTES;
            let room = start..start + BATCH_BYTES_MAX - BATCH_HEADER_BYTES;
            self.open.body_len = self.catalog.write_checkpoint(part, memory.bytes_mut(room));
            self.seal_open(memory, BatchKind::Checkpoint, unix_ns);
        }
    }

    /// Whether the auxiliary buffer is being written, or waits to be.
    pub(super) fn uses_auxiliary(&self) -> bool {
        self.prefix.closing_waits() || self.queue.has_auxiliary()
    }

    fn queue_aux(&mut self, disk_offset: u64, memory_offset: usize, bytes: usize) {
        self.queue.push(Span { disk_offset, memory_offset, bytes }, Cargo::Auxiliary);
    }
}
