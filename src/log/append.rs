//! Appending: records into the open batch, batches sealed, segments rolled. All in memory.

use super::batch::{BATCH_HEADER_BYTES, BatchKind, batch_bytes};
use super::catalog::{CHECKPOINT_PARTS_MAX, Parting, ProducerHandle, Registrant, Tenure};
use super::control::{Control, Registered};
use super::{AppendError, Appended, ControlError, Log, Message, Registration};
use crate::ids::{ProducerId, StreamId};
use crate::limits::{BATCH_BYTES_MAX, BLOCK_BYTES, IN_FLIGHT_BYTES_MAX, Limits, RESERVED_SEGMENTS};
use crate::memory::Memory;
use crate::position::{BatchSeq, SessionSlot};
use crate::wire::record::{RecordHeader, Signed, record_bytes};

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
        if self.catalog.touch(signed.stream, self.tail.batch_seq()) {
            self.note_touched(signed.stream, sequence);
        }
        self.put_record(memory, signed, message.crc32c, message.payload, sequence, unix_ns);
        self.tail.count_message();
        Ok(Appended { sequence, batch_seq: self.tail.batch_seq() })
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
    ) -> Result<(StreamId, BatchSeq), ControlError> {
        let limit = self.limits.streams;
        let next = self.catalog.streams().next_id();
        let id =
            next.filter(|id| id.0 as usize <= limit).ok_or(ControlError::TableFull { limit })?;
        self.put_control(memory, &Control::Stream { id, name }, RESERVED_SEGMENTS, unix_ns)?;
        self.catalog.add_stream(id, name, unix_ns, self.tail.batch_seq());
        self.segments.add_stream();
        Ok((id, self.tail.batch_seq()))
    }

    /// Registers a producer, new or known. Where the table is full, one that may be forgotten is,
    /// and the log says so before.
    ///
    /// # Errors
    /// See [`ControlError`]; nothing was changed.
    ///
    /// # Panics
    /// When a producer that is asked for is not known.
    pub fn register_producer(
        &mut self,
        memory: &mut Memory,
        registrant: Registrant,
        tenure: Tenure,
        unix_ns: u64,
    ) -> Result<Registration, ControlError> {
        let limit = self.limits.producers;
        let producers = self.catalog.producers();
        let (id, owner, takes_place) = match registrant {
            Registrant::Known(id) => {
                (id, producers.get(id).expect("the caller looked for it").owner, false)
            }
            Registrant::New(owner) => (producers.next_id(), owner, producers.is_full(limit)),
        };
        let forgotten = if takes_place { Some(self.catalog.search(limit, unix_ns)?) } else { None };
        // Room for both records first: the table is changed only for what is written.
        let bytes = record_bytes(0) + record_bytes(size_of::<Registered>());
        self.make_room(memory, bytes, RESERVED_SEGMENTS, unix_ns)?;
        if let Some(id) = forgotten {
            self.put_forget(memory, id, unix_ns);
        }
        let said = Registered::new(owner, tenure.instance);
        let said = Control::Producer { id, epoch: tenure.epoch, said: &said };
        self.put_control_record(memory, &said, unix_ns);
        let batch_seq = self.tail.batch_seq();
        let last_seq = self.catalog.register(id, owner, tenure, unix_ns, batch_seq);
        Ok(Registration { id, last_seq, batch_seq, forgotten })
    }

    /// A session, as the shard numbers it, publishes as a producer from now on, until it gives the handle back.
    ///
    /// # Panics
    /// When the producer is not known, or another session publishes as it.
    pub fn hold_producer(&mut self, id: ProducerId, holder: SessionSlot) -> ProducerHandle {
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
        self.put_control_record(memory, &Control::Forget { id }, unix_ns);
        self.catalog.forget(id);
    }

    /// Appends a control record.
    pub(super) fn put_control(
        &mut self,
        memory: &mut Memory,
        said: &Control<'_>,
        reserve: usize,
        unix_ns: u64,
    ) -> Result<(), AppendError> {
        self.make_room(memory, record_bytes(said.payload().len()), reserve, unix_ns)?;
        self.put_control_record(memory, said, unix_ns);
        Ok(())
    }

    fn put_control_record(&mut self, memory: &mut Memory, said: &Control<'_>, unix_ns: u64) {
        let (signed, payload) = (said.signed(), said.payload());
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
        let body_len = self.tail.body_len() + bytes;
        let fits = BATCH_HEADER_BYTES + body_len <= BATCH_BYTES_MAX && self.tail.fits(body_len);
        if fits && !self.tail.is_empty() {
            return Ok(());
        }
        assert!(BATCH_HEADER_BYTES + bytes <= BATCH_BYTES_MAX, "a datagram fits a batch");
        let limit = self.limits.in_flight_bytes.min(self.buffers.ring_bytes() / 2);
        let needed = self.queue.batch_bytes() + batch_bytes(self.tail.body_len()) + BATCH_BYTES_MAX;
        if needed > limit {
            return Err(AppendError::Busy);
        }
        if fits {
            return Ok(());
        }
        if !self.tail.is_empty() && self.tail.fits(self.tail.body_len()) {
            self.seal_open(memory, BatchKind::Data, unix_ns);
        }
        if self.tail.fits(bytes) {
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
        self.tail.put(memory, &header, payload);
    }

    /// Notes that a stream has messages in the open batch, the first of which is `sequence`, and puts it into the index
    /// where it is due.
    fn note_touched(&mut self, id: StreamId, sequence: u64) {
        self.tail.touch(id);
        self.catalog.keep_in(id, self.segments.current().seg_no);
        let spot = self.segments.geometry().spot(self.tail.at());
        let entry = self.catalog.index(id, sequence, spot, self.segments.entries_now());
        if let Some(entry) = entry {
            self.segments.note(&entry);
        }
    }
}
