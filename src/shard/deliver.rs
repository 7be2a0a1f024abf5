//! The deliver station: durable messages to consumers, from memory or, further back, from the disk.

use zerocopy::IntoBytes;

use crate::disk::{Disk, Io, Operation};
use crate::fanout::{Begin, Cursor, DATA_FRAME_BYTES_MIN, DataFrame, Packed, Step, Stop};
use crate::fired::Timer;
use crate::limits::{BATCH_BYTES_MAX, BATCHES_A_TURN, DATAGRAMS_A_TURN, SUBSCRIPTIONS_A_TURN};
use crate::log::batch::BatchDamage;
use crate::log::{Located, Log};
use crate::memory::Memory;
use crate::metrics::Counter;
use crate::mutant::Mutant;
use crate::port::Port;
use crate::position::LogOffset;
use crate::session::table::Phase;
use crate::wire::DATAGRAM_HEADER_BYTES;
use crate::wire::control::{ErrorCode, Heartbeat, Sizes};
use crate::wire::frame::Kind;

use super::transmit::send;
use super::{Reply, Stations};

/// What a datagram spends before its first record.
const DATA_BYTES_MIN: usize = DATAGRAM_HEADER_BYTES + DATA_FRAME_BYTES_MIN;

/// What the cursor points at.
enum Found<'a> {
    /// A batch, and where the next one begins.
    Batch { body: &'a [u8], next: LogOffset },
    /// It has to be read from the disk first.
    NotHere,
    /// It is not what it should be.
    Damaged,
}

/// How serving a subscription from what is at hand ended.
enum Served {
    /// Nothing more to send, or no more credit, room or time.
    Enough,
    /// The next batch has to be read.
    NeedsRead,
    /// The log is damaged there.
    Damaged,
    /// The next message does not fit a datagram of this client.
    TooLarge { needs: usize, takes: usize },
}

impl Stations {
    pub(super) fn deliver(&mut self, port: &mut dyn Port) -> usize {
        let count = self.fanout.len();
        if count == 0 {
            return 0;
        }
        let start = self.fanout.next_turn();
        let mut work = 0_usize;
        for offset in 0..count.min(SUBSCRIPTIONS_A_TURN) {
            let index = start.saturating_add(offset).checked_rem(count).unwrap_or(0);
            work = work.saturating_add(self.serve(index, port));
        }
        work
    }

    fn serve(&mut self, index: usize, port: &mut dyn Port) -> usize {
        let cursor = &self.fanout.get(index).cursor;
        let Some(facts) = self.log.stream(cursor.stream()) else { return 0 };
        let (first, durable_next) = (facts.first_sequence, facts.durable_next);
        match cursor.step(first, durable_next) {
            Step::Wait => 0,
            // The consumer, which lacks what is there, says where it is, and is told why it gets no more.
            Step::Stopped => self.heartbeat(index, durable_next, port),
            Step::Trimmed => self.overtake(index, first),
            Step::AtEnd => {
                self.rest_at_end(index, durable_next);
                self.heartbeat(index, durable_next, port)
            }
            Step::NoCredit => {
                // The last before the limit may be lost: the consumer, which waits for it, learns that too.
                self.fanout.release(index);
                self.heartbeat(index, durable_next, port)
            }
            Step::Seek => {
                let served = self.seek_on(index);
                self.follow_up(index, served);
                0
            }
            Step::Send => {
                let before = cursor.next();
                let served = self.send_data(index, durable_next, port);
                let subscription = self.fanout.get_mut(index);
                let sent = subscription.cursor.next().saturating_sub(before);
                if sent > 0 {
                    subscription.sent(self.now.monotonic_ns);
                    self.counters.add(Counter::MessagesDelivered, sent);
                }
                self.follow_up(index, served);
                usize::try_from(sent).expect("bounded by the turn")
            }
        }
    }

    /// What could not be served from what is at hand.
    fn follow_up(&mut self, index: usize, served: Served) {
        match served {
            Served::Enough => {}
            Served::NeedsRead => self.start_read(index),
            Served::Damaged => self.on_bad_read(index),
            Served::TooLarge { needs, takes } => {
                self.fanout.release(index);
                self.fanout.get_mut(index).cursor.stop(Stop::TooLarge { needs, takes });
            }
        }
    }

    /// What is next was trimmed: go on behind it. A consumer that lacks it will see the gap, ask for what is
    /// missing, and be told.
    fn overtake(&mut self, index: usize, first: u64) -> usize {
        self.fanout.release(index);
        let cursor = &mut self.fanout.get_mut(index).cursor;
        cursor.overtaken(first);
        if !cursor.is_seeking() {
            locate(&self.log, cursor);
        }
        1
    }

    /// All durable messages of the stream were sent: the next one can only come behind the durable end.
    fn rest_at_end(&mut self, index: usize, durable_next: u64) {
        self.fanout.release(index);
        let subscription = self.fanout.get_mut(index);
        if subscription.cursor.rest(self.log.durable_end(), durable_next) {
            let (slot, sub) = (subscription.session(), subscription.request());
            self.reply(Reply::Subscribed { slot, sub });
        }
    }

    /// Tells a consumer that was sent all it may have where the end is, so that it sees a lost tail.
    fn heartbeat(&mut self, index: usize, durable_next: u64, port: &mut dyn Port) -> usize {
        let subscription = self.fanout.get_mut(index);
        if !subscription.beat_is_due(self.now.monotonic_ns) {
            return 0;
        }
        let session = self.sessions.get_mut(subscription.session());
        if session.phase != Phase::Open {
            return 0;
        }
        let body = Heartbeat {
            sub: subscription.request().into(),
            flags: 0.into(),
            durable_next: durable_next.into(),
        };
        let sent = send(session, port, |writer| {
            let _ = writer.frame(Kind::Heartbeat, body.as_bytes(), &[]);
        });
        if sent {
            Timer::ConsumerHeartbeat.fired();
            subscription.beat(self.now.monotonic_ns);
        }
        usize::from(sent)
    }

    fn send_data(&mut self, index: usize, durable_next: u64, port: &mut dyn Port) -> Served {
        let memory = self.disk.memory();
        let subscription = self.fanout.get_mut(index);
        let session = self.sessions.get_mut(subscription.session());
        let sub = subscription.request();
        let cursor = &mut subscription.cursor;
        let mut batches = 0_usize;
        for _ in 0..DATAGRAMS_A_TURN {
            if session.lacks_keys() {
                return Served::Enough;
            }
            let Some(buffer) = port.reserve(session.peer) else { return Served::Enough };
            let (room, seal_bytes) =
                (session.datagram_bytes.min(buffer.len()), session.seal_bytes());
            let (mut writer, _) = session.writer(buffer);
            debug_assert!(writer.room() >= DATA_FRAME_BYTES_MIN);
            let mut frame = DataFrame::begin(sub, cursor, &mut writer);
            let mut lineage = None;
            let mut too_large = Served::Enough;
            let served = loop {
                if cursor.next() >= durable_next || batches == BATCHES_A_TURN {
                    break Some(Served::Enough);
                }
                let (body, next) = match find(&self.log, memory, cursor) {
                    Found::Batch { body, next } => (body, next),
                    Found::NotHere => break Some(Served::NeedsRead),
                    Found::Damaged => break Some(Served::Damaged),
                };
                // A frame is of one lineage: what another opening has written begins the next.
                let here = self.log.lineage_at(cursor.log_off());
                if !frame.is_empty() && here != lineage {
                    break None;
                }
                lineage = here;
                match frame.pack(cursor, body, &mut writer) {
                    Packed::BatchEnd => {
                        cursor.go_to(next);
                        batches = batches.saturating_add(1);
                    }
                    Packed::Full { .. }
                        if frame.is_empty() && Mutant::SmallDatagramIsDamage.is_on() =>
                    {
                        break Some(Served::Damaged);
                    }
                    Packed::Full { record_bytes } => {
                        let needs = DATA_BYTES_MIN.saturating_add(record_bytes);
                        let needs = needs.saturating_add(seal_bytes);
                        too_large = Served::TooLarge { needs, takes: room };
                        break None;
                    }
                    Packed::NoCredit => break Some(Served::Enough),
                    Packed::Gap => break Some(Served::Damaged),
                }
            };
            let records = frame.end(lineage.unwrap_or_default(), &mut writer);
            if records == 0 {
                return served.unwrap_or(too_large);
            }
            let len = writer.finish();
            session.said();
            port.commit(len);
            if let Some(served) = served {
                return served;
            }
        }
        Served::Enough
    }

    /// Looks for the message of the time sought, some batches further.
    fn seek_on(&mut self, index: usize) -> Served {
        let memory = self.disk.memory();
        let subscription = self.fanout.get_mut(index);
        let (slot, sub) = (subscription.session(), subscription.request());
        let cursor = &mut subscription.cursor;
        for _ in 0..BATCHES_A_TURN {
            match find(&self.log, memory, cursor) {
                Found::Batch { body, next } => {
                    if cursor.seek_in(body) {
                        self.reply(Reply::Subscribed { slot, sub });
                        return Served::Enough;
                    }
                    cursor.go_to(next);
                    if next >= self.log.durable_end() {
                        return Served::Enough;
                    }
                }
                Found::NotHere => return Served::NeedsRead,
                Found::Damaged => return Served::Damaged,
            }
        }
        Served::Enough
    }

    /// Reads the log from the cursor on. Reads wait while the disk's queue is full: writes go first.
    fn start_read(&mut self, index: usize) {
        self.fanout.release(index);
        let log_off = self.fanout.get(index).cursor.log_off();
        let bytes = self.log.readable_bytes(log_off).min(BATCH_BYTES_MAX);
        if bytes == 0 {
            return;
        }
        let Some(buffer) = self.fanout.free_buffer() else { return };
        let io = Io {
            operation: Operation::Read,
            tag: buffer as u64,
            disk_offset: self.log.disk_offset(log_off),
            memory_offset: self.log.replay_buffer(buffer).start,
            bytes,
        };
        if self.disk.submit(io).is_ok() {
            self.fanout.begin_read(index);
            self.counters.add(Counter::ReplayReads, 1);
        }
    }

    /// What was read is not what was written, or was not read at all: that may be over with the next try.
    pub(super) fn on_bad_read(&mut self, index: usize) {
        self.counters.add(Counter::ReplayReadErrors, 1);
        if self.fanout.get_mut(index).cursor.reads_again() {
            self.fanout.release(index);
        } else {
            self.on_damage(index);
        }
    }

    /// Acknowledged data is not what was written: say which, and acknowledge nothing more.
    pub(super) fn on_damage(&mut self, index: usize) {
        self.fanout.release(index);
        let cursor = &mut self.fanout.get_mut(index).cursor;
        let (stream, first) = (cursor.stream(), cursor.next());
        let last =
            self.log.next_indexed(stream, first).map_or(first, |next| next.saturating_sub(1));
        cursor.stop(Stop::Damaged { first, last });
        self.tell_stopped(index);
        self.fail_by_damage(super::Damage { stream, first, last });
    }
}

impl Stations {
    /// Says why a subscription gets no more.
    pub(super) fn tell_stopped(&mut self, index: usize) {
        let subscription = self.fanout.get(index);
        let (slot, sub) = (subscription.session(), subscription.request());
        let reply = match subscription.cursor.stopped() {
            None => return,
            Some(Stop::Damaged { first, last }) => Reply::DataLoss { slot, sub, first, last },
            Some(Stop::TooLarge { needs, takes }) => Reply::Error {
                slot,
                code: ErrorCode::MessageTooLarge,
                request: sub,
                detail: Sizes { needs, takes }.detail(),
            },
        };
        self.reply(reply);
    }
}

/// Puts a cursor where what it wants is to be found.
pub(super) fn locate(log: &Log, cursor: &mut Cursor) {
    let stream = cursor.stream();
    let Located { log_off, sequence } = match cursor.wanted() {
        Begin::Time(unix_ns) => log.locate_time(stream, unix_ns),
        Begin::Sequence(next) => log.locate(stream, next),
    };
    let first = log.stream(stream).map_or(1, |facts| facts.first_sequence);
    cursor.located(log_off, sequence.max(first));
}

/// The batch at a cursor.
fn find<'a>(log: &Log, memory: &'a Memory, cursor: &mut Cursor) -> Found<'a> {
    let log_off = log.skip_to_batch(cursor.log_off());
    if log_off != cursor.log_off() {
        cursor.go_to(log_off);
    }
    if let Some(batch) = log.batch_at(memory, log_off) {
        return Found::Batch { body: batch.body(), next: batch.next_log_off() };
    }
    let Some((buffer, bytes)) = cursor.buffered() else { return Found::NotHere };
    let start = log.replay_buffer(buffer).start;
    let room = start.saturating_add(bytes.start)..start.saturating_add(bytes.end);
    match log.check_batch(memory.bytes(room), log_off) {
        Ok(batch) => Found::Batch { body: batch.body(), next: batch.next_log_off() },
        // The rest of the batch comes with the next read.
        Err(damage) if damage == BatchDamage::CutShort && bytes.start > 0 => Found::NotHere,
        Err(_) => Found::Damaged,
    }
}
