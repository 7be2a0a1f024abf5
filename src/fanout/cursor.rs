//! Where a subscription stands, and what is to be done next. Nothing here knows the log or the disk: what is there is
//! given, what is wanted is said.

use std::ops::Range;

use crate::ids::StreamId;
use crate::limits::BAD_READS_MAX;
use crate::mutant::Mutant;
use crate::position::LogOffset;
use crate::wire::record::Record;

/// Where a subscription begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// At this sequence.
    Sequence(u64),
    /// With the first message received at or after this Unix time.
    Time(u64),
}

/// Where batches come from when they are no longer in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Replay {
    /// Memory holds what is wanted next, or nothing is wanted.
    #[default]
    Idle,
    /// A read is on its way into this buffer, of the log from this offset on: the cursor may be elsewhere by the
    /// time it is done.
    Reading { buffer: usize, log_off: LogOffset },
    /// This buffer holds so many bytes of the log from this offset on.
    Ready { buffer: usize, log_off: LogOffset, bytes: usize },
}

/// What a subscription cannot get past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// These sequences are damaged on the media.
    Damaged {
        /// First.
        first: u64,
        /// Last, as far as is known.
        last: u64,
    },
    /// The next message does not fit a datagram of this consumer.
    TooLarge {
        /// UDP payload of a datagram that holds it.
        needs: usize,
        /// What this consumer gets.
        takes: usize,
    },
}

/// What is to be done for a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Its read is on its way.
    Wait,
    /// It cannot get past something.
    Stopped,
    /// What is next was trimmed.
    Trimmed,
    /// It was given all that is durable.
    AtEnd,
    /// It has no credit for what is next.
    NoCredit,
    /// The batch at the cursor may hold the time that is sought.
    Seek,
    /// The batch at the cursor may hold what is next.
    Send,
}

/// A place in a stream and in the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor {
    stream: StreamId,
    /// The first sequence it delivers.
    start: u64,
    /// The next sequence to send.
    next: u64,
    /// Everything below this one has arrived, as the consumer said last.
    announced: u64,
    /// Sequences below this one may be sent.
    limit: u64,
    /// Messages it may be sent before it says more.
    window: u64,
    /// Not delivering yet: looking for the first message received at or after this Unix time.
    sought_ns: Option<u64>,
    /// Log offset of the batch to look at next.
    log_off: LogOffset,
    /// Bytes of that batch's body that were looked at already.
    at: usize,
    replay: Replay,
    /// Reads in a row that failed or brought what was not written.
    bad_reads: u32,
    stop: Option<Stop>,
}

impl Cursor {
    /// One that is not placed in the log yet.
    #[must_use]
    pub(crate) fn new(stream: StreamId, begin: Begin, window: u64) -> Self {
        let (start, sought_ns) = match begin {
            Begin::Sequence(sequence) => (sequence, None),
            Begin::Time(unix_ns) => (0, Some(unix_ns)),
        };
        Self {
            stream,
            start,
            next: start,
            announced: start,
            limit: start.saturating_add(window),
            window,
            sought_ns,
            log_off: LogOffset::default(),
            at: 0,
            replay: Replay::Idle,
            bad_reads: 0,
            stop: None,
        }
    }

    /// What is to be done, where the stream holds what is from `first` to before `durable_next`.
    #[must_use]
    pub(crate) fn step(&self, first: u64, durable_next: u64) -> Step {
        if self.is_reading() {
            Step::Wait
        } else if self.stop.is_some() {
            Step::Stopped
        } else if self.next < first {
            Step::Trimmed
        } else if self.next >= durable_next {
            Step::AtEnd
        } else if self.is_seeking() {
            Step::Seek
        } else if self.next >= self.limit {
            Step::NoCredit
        } else {
            Step::Send
        }
    }

    /// Stream.
    #[must_use]
    pub(crate) fn stream(&self) -> StreamId {
        self.stream
    }

    /// The first sequence it delivers.
    #[must_use]
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// The next sequence to send.
    #[must_use]
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Everything below this one has arrived, as the consumer said last.
    #[must_use]
    pub(crate) fn told(&self) -> u64 {
        self.announced.max(self.start)
    }

    /// Sequences below this one may be sent.
    #[must_use]
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Log offset of the batch to look at next.
    #[must_use]
    pub(crate) fn log_off(&self) -> LogOffset {
        self.log_off
    }

    /// What it cannot get past.
    #[must_use]
    pub(crate) fn stopped(&self) -> Option<Stop> {
        self.stop
    }

    /// Whether it still looks for its start.
    #[must_use]
    pub(crate) fn is_seeking(&self) -> bool {
        self.sought_ns.is_some()
    }

    /// What is to be located in the log: a time, or what is next.
    #[must_use]
    pub(crate) fn wanted(&self) -> Begin {
        self.sought_ns.map_or(Begin::Sequence(self.next), Begin::Time)
    }

    /// What is wanted is in the batch at `log_off`, or behind it. A search for a time begins at sequence `from`.
    pub(crate) fn located(&mut self, log_off: LogOffset, from: u64) {
        self.go_to(log_off);
        if self.is_seeking() {
            (self.start, self.next) = (from, from);
        }
    }

    /// The batch to look at next is this one, all of it.
    pub(crate) fn go_to(&mut self, log_off: LogOffset) {
        (self.log_off, self.at) = (log_off, 0);
    }

    /// All before `first` was trimmed: what is next is there.
    pub(crate) fn overtaken(&mut self, first: u64) {
        self.next = first;
    }

    /// What is next comes behind the durable end; `true` when that ends a search.
    pub(crate) fn rest(&mut self, durable_end: LogOffset, durable_next: u64) -> bool {
        self.go_to(durable_end);
        let is_over = self.is_seeking();
        if is_over {
            self.found(durable_next);
        }
        is_over
    }

    /// The consumer says that everything below `position` has arrived, and that it takes what is below `limit`; what
    /// was said is not taken back.
    pub(crate) fn hear(&mut self, position: u64, limit: u64) {
        self.announced = self.announced.max(position);
        self.limit = self.limit.max(limit);
    }

    /// Goes back to `position`, from where on all is sent again.
    pub(crate) fn rewind(&mut self, position: u64) {
        (self.next, self.stop) = (position, None);
    }

    /// Nothing more is sent, and why; told again until the consumer ends it.
    pub(crate) fn stop(&mut self, stop: Stop) {
        self.stop = Some(stop);
    }

    /// What of the body of the batch at the cursor was not looked at.
    pub(super) fn rest_of<'a>(&self, body: &'a [u8]) -> &'a [u8] {
        body.get(self.at..).unwrap_or_default()
    }

    /// So many bytes more of it were.
    pub(super) fn passed(&mut self, bytes: usize) {
        self.at = self.at.saturating_add(bytes);
    }

    /// This sequence is sent, or is before the time that is sought.
    pub(super) fn took(&mut self, sequence: u64) {
        self.next = sequence.saturating_add(1);
    }

    /// Looks in `body`, the body of the batch at the cursor, for the first record of the time sought;
    /// `true` once it is found.
    pub(crate) fn seek_in(&mut self, body: &[u8]) -> bool {
        let Some(sought_ns) = self.sought_ns else { return true };
        let mut rest = body;
        while let Some((record, after)) = Record::split_first(rest) {
            let sequence = record.header.sequence.get();
            if record.header.stream.get() == self.stream.0 && sequence >= self.next {
                let is_late = Mutant::TimeSeekOneLate.is_on();
                if record.header.received_ns.get() >= sought_ns.saturating_add(u64::from(is_late)) {
                    self.found(sequence);
                    return true;
                }
                self.took(sequence);
            }
            rest = after;
        }
        false
    }

    /// Ends the search: delivery starts at `sequence`.
    fn found(&mut self, sequence: u64) {
        self.sought_ns = None;
        self.start = sequence;
        self.next = sequence;
        self.limit = sequence.saturating_add(self.window);
    }

    /// Which replay buffer holds the log from the cursor on, and which bytes of it.
    #[must_use]
    pub(crate) fn buffered(&self) -> Option<(usize, Range<usize>)> {
        let Replay::Ready { buffer, log_off, bytes } = self.replay else { return None };
        let at = usize::try_from(self.log_off.bytes_since(log_off)?).ok()?;
        (at < bytes).then_some((buffer, at..bytes))
    }

    /// Messages were sent: what was read was good.
    pub(super) fn reads_well(&mut self) {
        self.bad_reads = 0;
    }

    /// Counts a read that failed or brought what was not written; `true` when another try is due.
    pub(crate) fn reads_again(&mut self) -> bool {
        self.bad_reads = self.bad_reads.saturating_add(1);
        self.bad_reads < BAD_READS_MAX
    }

    fn is_reading(&self) -> bool {
        matches!(self.replay, Replay::Reading { .. })
    }

    /// Whether it waits for a read into this buffer.
    pub(super) fn reads_into(&self, buffer: usize) -> bool {
        matches!(self.replay, Replay::Reading { buffer: own, .. } if own == buffer)
    }

    /// A read of the log from the cursor on is on its way into this buffer.
    pub(super) fn begin_read(&mut self, buffer: usize) {
        debug_assert!(self.replay == Replay::Idle, "it has a buffer: {:?}", self.replay);
        self.replay = Replay::Reading { buffer, log_off: self.log_off };
    }

    /// The read brought so many bytes, or failed.
    pub(super) fn end_read(&mut self, bytes: Option<usize>) {
        let Replay::Reading { buffer, log_off } = self.replay else { return };
        self.replay = bytes.map_or(Replay::Idle, |bytes| Replay::Ready { buffer, log_off, bytes });
    }

    /// Its buffer, which is wanted no more; none while a read is on its way into it.
    pub(super) fn release(&mut self) -> Option<usize> {
        let Replay::Ready { buffer, .. } = self.replay else { return None };
        self.replay = Replay::Idle;
        Some(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(next: u64, limit: u64, seeks: bool, replay: Replay, stopped: bool) -> Cursor {
        let mut cursor = Cursor::new(StreamId(1), Begin::Sequence(next), 0);
        cursor.limit = limit;
        cursor.sought_ns = seeks.then_some(5);
        cursor.replay = replay;
        cursor.stop = stopped.then_some(Stop::Damaged { first: next, last: next });
        cursor
    }

    #[test]
    fn every_combination_has_its_step() {
        let replays = [
            Replay::Idle,
            Replay::Reading { buffer: 0, log_off: LogOffset::default() },
            Replay::Ready { buffer: 0, log_off: LogOffset::default(), bytes: 4096 },
        ];
        let (first, durable_next) = (10, 20);
        let mut seen = 0;
        for replay in replays {
            for (stopped, seeks) in [(false, false), (false, true), (true, false), (true, true)] {
                for (next, limit) in
                    [9, 10, 19, 20, 21].map(|next| [(next, next), (next, next + 1)]).concat()
                {
                    let reading = matches!(replay, Replay::Reading { .. });
                    let expected = match (reading, stopped, next) {
                        (true, _, _) => Step::Wait,
                        (false, true, _) => Step::Stopped,
                        (false, false, ..10) => Step::Trimmed,
                        (false, false, 20..) => Step::AtEnd,
                        (false, false, _) if seeks => Step::Seek,
                        (false, false, _) if limit > next => Step::Send,
                        (false, false, _) => Step::NoCredit,
                    };
                    let cursor = cursor(next, limit, seeks, replay, stopped);
                    assert_eq!(cursor.step(first, durable_next), expected, "{cursor:?}");
                    seen += 1;
                }
            }
        }
        assert_eq!(seen, 3 * 4 * 10);
    }

    #[test]
    fn a_buffer_is_looked_at_from_the_cursor_on_and_nowhere_else() {
        let mut cursor = Cursor::new(StreamId(1), Begin::Sequence(1), 8);
        cursor.go_to(LogOffset::new(4096));
        assert_eq!((cursor.buffered(), cursor.release()), (None, None));
        cursor.begin_read(3);
        assert_eq!((cursor.buffered(), cursor.release()), (None, None), "the device writes there");
        cursor.end_read(Some(8192));
        assert_eq!(cursor.buffered(), Some((3, 0..8192)));
        for (log_off, expected) in [
            (8192, Some((3, 4096..8192))),
            (12_287, Some((3, 8191..8192))),
            (12_288, None),
            (0, None),
            (u64::MAX, None),
        ] {
            cursor.go_to(LogOffset::new(log_off));
            assert_eq!(cursor.buffered(), expected, "{log_off}");
        }
        assert_eq!((cursor.release(), cursor.release()), (Some(3), None), "once");
    }

    #[test]
    fn going_back_within_a_batch_looks_at_all_of_it_again() {
        let mut cursor = Cursor::new(StreamId(1), Begin::Sequence(1), 8);
        cursor.located(LogOffset::new(4096), 1);
        cursor.took(1);
        cursor.passed(2);
        assert_eq!(cursor.rest_of(&[1, 2, 3]), [3]);
        cursor.stop(Stop::TooLarge { needs: 2, takes: 1 });
        cursor.rewind(1);
        cursor.located(LogOffset::new(4096), 1);
        assert_eq!((cursor.rest_of(&[1, 2, 3]), cursor.next()), ([1, 2, 3].as_slice(), 1));
        assert_eq!(cursor.stopped(), None);
    }

    #[test]
    fn a_search_ends_at_the_end_and_delivers_from_there_on() {
        let mut cursor = Cursor::new(StreamId(1), Begin::Time(7), 4);
        cursor.located(LogOffset::new(100), 5);
        assert_eq!((cursor.wanted(), cursor.next()), (Begin::Time(7), 5));
        assert!(cursor.rest(LogOffset::new(200), 9), "the search is over");
        assert!(!cursor.rest(LogOffset::new(200), 9), "and does not end twice");
        assert_eq!((cursor.start(), cursor.next(), cursor.limit()), (9, 9, 13));
        assert_eq!(cursor.wanted(), Begin::Sequence(9));
    }

    #[test]
    fn what_reads_badly_so_often_in_a_row_is_damaged() {
        let mut cursor = Cursor::new(StreamId(1), Begin::Sequence(1), 8);
        for _ in 0..2 {
            assert!((1..BAD_READS_MAX).all(|_| cursor.reads_again()), "it is tried again");
            cursor.reads_well();
        }
        assert!((1..BAD_READS_MAX).all(|_| cursor.reads_again()));
        assert!(!cursor.reads_again(), "no more");
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let mut cursor = Cursor::new(StreamId(1), Begin::Sequence(u64::MAX), u64::MAX);
        cursor.took(u64::MAX);
        cursor.passed(usize::MAX);
        cursor.passed(1);
        assert_eq!(cursor.rest_of(&[1, 2, 3]), [0_u8; 0]);
        assert_eq!(cursor.step(0, u64::MAX), Step::AtEnd);
        cursor.bad_reads = u32::MAX;
        assert!(!cursor.reads_again());
    }
}
