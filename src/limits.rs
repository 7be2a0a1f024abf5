//! Every maximum, in one place, with the relations between them asserted at compile time.

/// Logical block: the unit of alignment, and the only write that is assumed atomic.
pub const BLOCK_BYTES: usize = 4096;

/// A batch is one disk command: at most this, header included.
pub const BATCH_BYTES_MAX: usize = 128 << 10;

/// Bytes submitted and not yet durable, at most; also how far recovery looks ahead.
pub const IN_FLIGHT_BYTES_MAX: usize = 8 << 20;

/// The same of a shard whose limits are low: the batch that is filled, and one that is written.
pub const IN_FLIGHT_BYTES_MIN: usize = 2 * BATCH_BYTES_MAX;

/// Writes in flight, at most.
pub const QUEUE_DEPTH_MAX: usize = 64;

/// Replay reads in flight, at most, and so the number of replay buffers.
pub const REPLAY_READS_MAX: usize = 8;

/// Memory that holds the newest part of the log for live consumers, default.
pub const RING_BYTES: usize = 32 << 20;

/// The same at least: a quarter of it holds the largest checkpoint, so that a segment can always roll.
pub const RING_BYTES_MIN: usize = 2 << 20;

/// Datagrams taken from a port in one turn, at most.
pub const RECEIVE_BURST: usize = 32;

/// Datagrams given to a port in one turn, at most.
pub const TRANSMIT_BURST: usize = 64;

/// UDP payload of a datagram: the default fits an Ethernet frame of 1500 bytes.
pub const DATAGRAM_BYTES: usize = 1472;

/// UDP payload of a datagram at most: an Ethernet jumbo frame of 9000 bytes.
pub const DATAGRAM_BYTES_MAX: usize = 8972;

/// UDP payload of a datagram at least, so that every control frame fits.
pub const DATAGRAM_BYTES_MIN: usize = 576;

/// Shards of one appliance, at most.
pub const SHARDS_MAX: u32 = 64;

/// Streams a shard, at most.
pub const STREAMS_MAX: usize = 1024;

/// Bytes of a stream's name, at most.
pub const STREAM_NAME_BYTES_MAX: usize = 64;

/// Producers a shard remembers, at most.
pub const PRODUCERS_MAX: usize = 4096;

/// No producer is forgotten so soon after the log was opened, or after its session ended: nobody could have come back
/// before. Twice what a switch takes that starts its ports anew (spanning tree: 30 s) or a host its network; a client
/// that is let through again is back within a second.
pub const PRODUCER_RETURN_NS: u64 = 60_000_000_000;

/// Sessions open at once on a shard, at most.
pub const SESSIONS_MAX: usize = 1024;

/// INITs looked at in one turn, at most; others are dropped unread, and come again.
pub const INITS_A_TURN: usize = 8;

/// RESETs said in one turn, at most.
pub const RESETS_A_TURN: usize = 8;

/// The same in a second.
pub const RESETS_MAX: usize = 1_000;

/// Handshakes of a shard that wait to be answered, at most; so many answers wait for the shard.
pub const HANDSHAKES_WAITING_MAX: usize = 64;

/// Keys and handshakes that wait for who makes, drops and answers them: as many as all sessions of a shard may have in
/// their two directions, used and to come.
pub const KEYS_WAITING_MAX: usize = 4 * SESSIONS_MAX;

/// Handshakes answered for one shard before the next one is looked at.
pub const HANDSHAKES_A_LOOK: usize = 8;

/// Keys made and dropped for one shard before its handshakes are looked at.
pub const KEYS_A_LOOK: usize = 64;

/// Answers of handshakes that a shard takes in a turn.
pub const HANDSHAKES_A_TURN: usize = 4;

/// Answers of handshakes that are kept for who did not hear them.
pub const ANSWERS_KEPT: usize = 256;

/// Places in which it is counted how often a source of handshakes comes.
pub const SOURCES_MAX: usize = 1024;

/// Sessions whose clients have not used them yet, at most; the oldest leaves for another one.
pub const UNCONFIRMED_MAX: usize = 64;

/// Subscriptions of one session, at most.
pub const SUBSCRIPTIONS_MAX: usize = 16;

/// Producer numbers, sequences, limits in bytes and times on the wire, at most. The sum of two of them, or of one
/// and a number of 32 bits, does not overflow; at a billion a second they last for three centuries.
pub const NUMBER_MAX: u64 = u64::MAX >> 1;

/// Messages a publisher may have sent and not yet seen durable, at most.
pub const WINDOW_MESSAGES_MAX: usize = 16 << 10;

/// Segment size at least; small ones are for tests.
pub const SEGMENT_BYTES_MIN: usize = 1 << 20;

/// Segment size at most.
pub const SEGMENT_BYTES_MAX: usize = 1 << 30;

/// Frames behind a gap that a shard holds at once, at most.
pub const HELD_FRAMES_MAX: u16 = 512;

/// Replies that one session may have waiting, at most.
pub const REPLIES_A_SESSION_MAX: u8 = 16;

/// Frames one session may have held at once.
pub const HELD_A_SESSION: usize = 64;

/// Runs of receipts kept for one session, durable ones included.
pub const RUNS_MAX: usize = 512;

/// Batches with messages that are not durable, at most: as small as they may be while the disk takes them; behind these
/// full ones, of which each lacks less than a datagram and a block; one before a roll, and the open one.
pub const BATCHES_WAITING_MAX: usize =
    QUEUE_DEPTH_MAX + IN_FLIGHT_BYTES_MAX / (BATCH_BYTES_MAX - 2 * DATAGRAM_BYTES_MAX) + 2;

/// Entries of who is owed for which batch, at most: each session once for each of them.
pub const ACKS_DUE_MAX: usize = BATCHES_WAITING_MAX * SESSIONS_MAX;

/// Ranges of one NAK, at most.
pub const NAK_RANGES_MAX: usize = 16;

/// Words to those without a session that wait, at most: what a turn may say to them, and the ends of sessions.
pub const REFUSALS_MAX: usize = 64;

/// Replies that wait, at most: those of a turn, each datagram of another session, and the refusals.
pub const REPLIES_MAX: usize = RECEIVE_BURST * REPLIES_A_SESSION_MAX as usize + REFUSALS_MAX;

/// Requests of all sessions that wait for their records, at most.
pub const REQUESTS_MAX: usize = 256;

/// Subscriptions of one shard, at most.
pub const SUBSCRIPTIONS_A_SHARD: usize = SESSIONS_MAX * 4;

/// Bytes a publisher may have in flight at least, however many there are: the largest message, so that everybody
/// goes on. What the log cannot take just then is sent again.
pub const CREDIT_BYTES_MIN: usize = DATAGRAM_BYTES_MAX;

/// Messages a publisher may have in flight at least.
pub const CREDIT_MESSAGES_MIN: usize = 64;

/// Completions of the disk taken in one turn, at most.
pub const COMPLETIONS_A_TURN: usize = 32;

/// Sessions whose gaps are looked at in one turn, at most.
pub const GAPS_A_TURN: usize = 64;

/// Subscriptions served in one turn, at most.
pub const SUBSCRIPTIONS_A_TURN: usize = 32;

/// Datagrams one subscription is sent in one turn, at most.
pub const DATAGRAMS_A_TURN: usize = 8;

/// Batches looked at for one subscription in one turn, at most.
pub const BATCHES_A_TURN: usize = 64;

/// Sessions whose timers are looked at in one turn.
pub const TIMERS_A_TURN: usize = 2;

/// Rows of a snapshot copied in one turn.
pub const ROWS_A_TURN: usize = 16;

/// Batches that became durable and are not acknowledged yet, at most; more are counted with the last.
pub const TIMES_WAITING_MAX: usize = 128;

/// Segments kept back so that a full log can still be opened, trimmed and closed.
pub const RESERVED_SEGMENTS: usize = 3;

/// Segments a log has at least: three are kept back, one is written, one is to come.
pub const SEGMENTS_MIN: u64 = 5;

/// Writes the queue can hold: all that may be in flight in single blocks, and a roll.
pub const FLIGHTS_MAX: usize = IN_FLIGHT_BYTES_MAX / BLOCK_BYTES + 64;

/// Writes a turn leaves room for in the queue of flights.
pub const FLIGHTS_SPARE: usize = 128;

/// Trims on their way to the disk, at most.
pub const TRIMS_MAX: usize = 256;

/// Segments freed in one turn, at most.
pub const SEGMENTS_FREED_A_TURN: usize = 4;

/// Segments before the newest among which one without messages is looked for.
pub const SEGMENTS_LOOKED_AT: usize = 8;

/// Operations a log has in flight at most: all writes and all replay reads.
pub const OPERATIONS_MAX: usize = QUEUE_DEPTH_MAX + REPLAY_READS_MAX;

/// Bytes one operation of a device moves at most.
pub const TRANSFER_BYTES_MAX: usize = 8 * BATCH_BYTES_MAX;

/// After so many bad reads in a row of one place the media are damaged there.
pub const BAD_READS_MAX: u32 = 4;

/// A record damaged so often in a row is not damaged on the way.
pub const DAMAGED_RECORDS_MAX: u32 = 3;

/// An audit of a shard looks at everything once in so many sessions whose timers were looked at.
pub const SLOTS_AN_AUDIT: usize = 64;

/// Asynchronous errors (an ICMP answer to an earlier datagram) skipped in one receive.
pub const ERRORS_SKIPPED_MAX: usize = 4;

/// Neighbours that an Ethernet port remembers at once: a gateway and a few servers.
pub const NEIGHBOURS_MAX: usize = 16;

/// Buffers a DPDK port fetches from the pool at a time.
pub const ALLOCATE_BURST: usize = 32;

/// Messages of a client's window at most.
pub const CLIENT_WINDOW_MESSAGES_MAX: usize = WINDOW_MESSAGES_MAX << 6;

/// Datagrams a client sends in one poll, at most.
pub const DATAGRAMS_A_POLL: usize = 32;

/// Redirections a client follows one behind the other, at most: further is going round in a circle.
pub const REDIRECTS_MAX: u32 = 8;

/// Turns with work that are remembered.
pub const TURNS_KEPT: usize = 32;

/// Turns that took too long that are remembered.
pub const LONG_TURNS_KEPT: usize = 16;

/// Stalls that are remembered.
pub const STALLS_KEPT: usize = 64;

/// Lines on standard error that wait to be written, at most.
pub const VOICE_LINES_MAX: usize = 256;

/// Samples of a subscription's lag kept; when there would be more, the one goes that is closest to its neighbours for its age.
pub const LAG_SAMPLES_MAX: usize = 128;

/// A file of intervals that is larger gives way to the next.
pub const INTERVAL_FILE_BYTES_MAX: u64 = 64 << 20;

/// All files of intervals together; the oldest go when there would be more. So many starts and reloads do not push out what
/// was measured before them.
pub const INTERVAL_FILES_BYTES_MAX: u64 = 16 * INTERVAL_FILE_BYTES_MAX;

/// Files of intervals kept, however small.
pub const INTERVAL_FILES_KEPT: usize = 1_000;

/// Intervals that wait to be written.
pub const INTERVALS_WAITING_MAX: usize = 64;

/// Subscriptions a shard has lost that are remembered, the newest.
pub const LOST_SUBSCRIPTIONS_KEPT: usize = 256;

/// Connections of an HTTP listener at once. Who comes then takes the place of the one that has said nothing for the
/// longest time: enough of them that a probe has asked before it is that one.
pub const HTTP_CONNECTIONS_MAX: usize = 256;

/// Bytes of an HTTP request's head.
pub const HTTP_HEAD_BYTES_MAX: usize = 16 << 10;

/// Identities of one appliance, at most.
pub const IDENTITIES_MAX: usize = 256;

/// Keys one identity may come with, at most: more than a change of keys on several hosts takes.
pub const KEYS_AN_IDENTITY_MAX: usize = 8;

/// Patterns in one list of an identity's rights, at most; a request looks at each of them.
pub const PATTERNS_A_LIST_MAX: usize = 64;

/// Bytes of an identity's name, at most: it can be that of a producer.
pub const IDENTITY_NAME_BYTES_MAX: usize = 40;

/// Bytes of a file of keys or rights, at most; one that is larger is no such file.
pub const ACCESS_FILE_BYTES_MAX: u64 = 1 << 20;

/// Entries of a directory that are looked through for one of an appliance, at most.
pub const DIRECTORIES_LOOKED_AT_MAX: usize = 1024;

/// Files of credentials that are looked through for the one of a server, at most.
pub const CREDENTIALS_LOOKED_AT_MAX: usize = 64;

const _: () = assert!(IDENTITY_NAME_BYTES_MAX <= crate::ids::PRODUCER_NAME_BYTES_MAX);

const _: () = assert!(SUBSCRIPTIONS_MAX <= SUBSCRIPTIONS_A_SHARD);

/// What a shard is given of what may be less than the maximum: tests and the simulator fill it. Memory is always
/// sized by the maximum, so a limit costs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of [`PRODUCERS_MAX`]. A log that knows more already keeps them.
    pub producers: usize,
    /// Of [`SESSIONS_MAX`].
    pub sessions: usize,
    /// Of [`STREAMS_MAX`]. A log that has more already keeps them.
    pub streams: usize,
    /// Of [`HELD_FRAMES_MAX`].
    pub held_frames: u16,
    /// Of [`REPLIES_A_SESSION_MAX`].
    pub replies: u8,
    /// Of [`REPLAY_READS_MAX`].
    pub replay_buffers: usize,
    /// Of [`IN_FLIGHT_BYTES_MAX`], and not below [`IN_FLIGHT_BYTES_MIN`]. The checkpoint of tables that are larger is
    /// written when nothing else is in flight.
    pub in_flight_bytes: usize,
    /// Of [`SUBSCRIPTIONS_MAX`], a session.
    pub subscriptions: usize,
}

impl Limits {
    /// As much as there may be of everything.
    pub const MAX: Self = Self {
        producers: PRODUCERS_MAX,
        sessions: SESSIONS_MAX,
        streams: STREAMS_MAX,
        held_frames: HELD_FRAMES_MAX,
        replies: REPLIES_A_SESSION_MAX,
        replay_buffers: REPLAY_READS_MAX,
        in_flight_bytes: IN_FLIGHT_BYTES_MAX,
        subscriptions: SUBSCRIPTIONS_MAX,
    };

    /// Checks that a shard can work within them.
    ///
    /// # Panics
    /// When there is none of something, or more than the maximum.
    pub fn assert_sound(&self) {
        assert!((1..=PRODUCERS_MAX).contains(&self.producers), "{self:?}: producers");
        assert!((1..=SESSIONS_MAX).contains(&self.sessions), "{self:?}: sessions");
        assert!((1..=STREAMS_MAX).contains(&self.streams), "{self:?}: streams");
        assert!((1..=HELD_FRAMES_MAX).contains(&self.held_frames), "{self:?}: held frames");
        assert!((1..=REPLIES_A_SESSION_MAX).contains(&self.replies), "{self:?}: replies");
        assert!((1..=REPLAY_READS_MAX).contains(&self.replay_buffers), "{self:?}: replay buffers");
        let in_flight_bytes = IN_FLIGHT_BYTES_MIN..=IN_FLIGHT_BYTES_MAX;
        assert!(in_flight_bytes.contains(&self.in_flight_bytes), "{self:?}: bytes in flight");
        assert!((1..=SUBSCRIPTIONS_MAX).contains(&self.subscriptions), "{self:?}: subscriptions");
    }
}

const _: () = assert!(BATCH_BYTES_MAX.is_multiple_of(BLOCK_BYTES), "a batch is whole blocks");
const _: () = assert!(
    QUEUE_DEPTH_MAX * BATCH_BYTES_MAX <= IN_FLIGHT_BYTES_MAX,
    "a full queue of full batches is within what recovery looks ahead"
);
const _: () = assert!(
    RING_BYTES >= 2 * IN_FLIGHT_BYTES_MAX,
    "what is being written is never more than half of the ring, so live consumers read the rest"
);
const _: () = assert!(
    DATAGRAM_BYTES_MAX * 2 < BATCH_BYTES_MAX,
    "all messages of a datagram fit an empty batch, the larger header on the disk included"
);
const _: () = assert!(DATAGRAM_BYTES_MIN <= DATAGRAM_BYTES && DATAGRAM_BYTES <= DATAGRAM_BYTES_MAX);
const _: () = assert!(
    SEGMENT_BYTES_MIN >= 4 * BATCH_BYTES_MAX && SEGMENT_BYTES_MIN <= SEGMENT_BYTES_MAX,
    "a segment holds its header, a checkpoint, data and its closing blocks"
);
