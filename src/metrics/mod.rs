//! What happened: counters of one writer, and histograms of latency.

pub(crate) mod hlog;
pub(crate) mod latency;
pub mod recorder;
pub mod snapshot;
pub(crate) mod stages;

macro_rules! counters {
    ($(#[doc = $doc:literal] $name:ident => $text:literal,)*) => {
        /// What is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Counter {
            $(#[doc = $doc] $name,)*
        }

        impl Counter {
            /// All counters.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Name, as metrics spell it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// What it counts, in a few words.
            #[must_use]
            pub fn help(self) -> &'static str {
                match self {
                    $(Self::$name => $doc.trim_ascii().trim_end_matches('.'),)*
                }
            }
        }
    };
}

counters! {
    /// Datagrams taken from the port.
    DatagramsReceived => "datagrams_received",
    /// Datagrams or frames that are none of ours.
    DroppedMalformed => "dropped_malformed",
    /// Datagrams of sessions nobody knows.
    DroppedUnknownSession => "dropped_unknown_session",
    /// Datagrams of a session that had come before, or came too late.
    DroppedRepeated => "dropped_repeated",
    /// Requests for a session that were not looked at: too many at once, or of who does not know whom it asks.
    DroppedInits => "dropped_inits",
    /// Datagrams of sealed sessions that their keys do not open.
    DroppedForged => "dropped_forged",
    /// Messages appended to the log.
    MessagesAccepted => "messages_accepted",
    /// Messages that had been accepted before.
    MessagesDuplicate => "messages_duplicate",
    /// Messages that failed their checksum on arrival.
    MessagesDamaged => "messages_damaged",
    /// Frames held behind a gap.
    FramesHeld => "frames_held",
    /// Frames behind a gap that there was no room for.
    FramesHoldRefused => "frames_hold_refused",
    /// Batches that became durable.
    BatchesDurable => "batches_durable",
    /// Their bytes on the disk.
    BytesDurable => "bytes_durable",
    /// Acknowledgements sent.
    AcksSent => "acks_sent",
    /// Reports of missing messages sent.
    NaksSent => "naks_sent",
    /// Messages sent to consumers.
    MessagesDelivered => "messages_delivered",
    /// Times a consumer asked to go back.
    Rewinds => "rewinds",
    /// Reads from the disk for consumers.
    ReplayReads => "replay_reads",
    /// Of these, failed ones.
    ReplayReadErrors => "replay_read_errors",
    /// Replies that there was no room for.
    RepliesDropped => "replies_dropped",
    /// Sessions opened.
    SessionsOpened => "sessions_opened",
    /// Sessions ended.
    SessionsClosed => "sessions_closed",
    /// Trims of streams recorded.
    Trims => "trims",
    /// Segments freed because nothing in them was kept.
    SegmentsFreed => "segments_freed",
}

/// Counters of one shard; only the shard writes them.
#[derive(Clone, Debug)]
pub struct Counters {
    values: [u64; Counter::ALL.len()],
}

impl Default for Counters {
    fn default() -> Self {
        Self { values: [0; Counter::ALL.len()] }
    }
}

impl Counters {
    /// Adds to a counter.
    #[inline]
    pub fn add(&mut self, counter: Counter, by: u64) {
        self.values[counter as usize] += by;
    }

    /// Adds all counters of another.
    pub fn add_all(&mut self, other: &Self) {
        for (value, by) in self.values.iter_mut().zip(other.values) {
            *value += by;
        }
    }

    /// A counter's value.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.values[counter as usize]
    }

    /// All counters with their names.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Counter::ALL.iter().map(|&counter| (counter.name(), self.get(counter)))
    }
}
