//! What clients did and were told, written down while it happens, so that it can be checked afterwards by whoever does
//! not believe the appliance: `buslane verify-history`.
//!
//! A history is one client's: JSON lines, each a moment and what happened then. A moment is a reading of the monotonic
//! clock of the host, which all processes of a boot share. What a client asks is written before it is sent, and what it is
//! told after it has come: so whatever is written earlier in one history than in another has happened earlier.

mod file;
pub(crate) mod verify;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::ids::{ProducerId, StreamId};
pub(crate) use file::{HistoryFile, read};

/// Version of the lines.
pub(crate) const HISTORY_VERSION: u32 = 1;

/// A payload, as far as it matters whether two are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Payload {
    /// Its length in bytes.
    pub bytes: u64,
    /// Its hash (XXH3, 64 bits), 16 hexadecimal digits on a line.
    #[serde(with = "hex")]
    pub xxh3: u64,
}

impl Payload {
    /// Of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self { bytes: bytes.len() as u64, xxh3: xxh3_64(bytes) }
    }
}

/// Numbers of 64 bits that other programs read as they are, whatever they make of a JSON number.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{value:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let digits = String::deserialize(deserializer)?;
        let is_one = digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let value = is_one.then(|| u64::from_str_radix(&digits, 16).ok()).flatten();
        value.ok_or_else(|| de::Error::custom("not 16 hexadecimal digits"))
    }
}

/// Something that a client did or was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "did", rename_all = "kebab-case")]
pub enum Fact {
    /// The history begins.
    Begin {
        /// [`HISTORY_VERSION`].
        history: u32,
        /// Of the program.
        version: String,
        /// Boot of the host: moments of one boot can be compared.
        boot: String,
        /// Process.
        pid: u32,
    },
    /// A session is open, for the first time or again.
    Session {
        /// Of which shard; streams and producers are its own.
        shard: u32,
        /// Which log serves, by a number of it; 0 where the appliance does not say.
        log: u32,
        /// Who publishes in it; 0 when nobody does.
        producer: u64,
    },
    /// A message is to be published.
    Offer {
        /// Stream.
        stream: u32,
        /// Who publishes it.
        producer: u64,
        /// Its number among the messages of that producer.
        producer_seq: u64,
        /// What it holds.
        #[serde(flatten)]
        payload: Payload,
    },
    /// A message is durable.
    Acknowledged {
        /// Stream.
        stream: u32,
        /// Who published it.
        producer: u64,
        /// Its number among the messages of that producer.
        producer_seq: u64,
        /// Its sequence in the stream; `None` where the receipt was lost with a server that was killed.
        sequence: Option<u64>,
    },
    /// A stream is asked for.
    Subscribe {
        /// Stream.
        stream: u32,
    },
    /// A subscription stands.
    Subscribed {
        /// Stream.
        stream: u32,
        /// First sequence that comes.
        start: u64,
        /// The sequence after the newest durable one.
        durable_next: u64,
    },
    /// A message has come.
    Delivered {
        /// Stream.
        stream: u32,
        /// Its sequence in it.
        sequence: u64,
        /// Who published it.
        producer: u64,
        /// Its number among the messages of that producer.
        producer_seq: u64,
        /// What it holds.
        #[serde(flatten)]
        payload: Payload,
    },
    /// What a subscription wanted is trimmed.
    Trimmed {
        /// Stream.
        stream: u32,
        /// The oldest sequence kept.
        log_start: u64,
    },
    /// The client has ended, and nothing of its history is missing.
    End,
}

/// A fact and its moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Nanoseconds of the host's monotonic clock.
    pub ns: u64,
    /// What happened.
    #[serde(flatten)]
    pub fact: Fact,
}

/// Where the history of a client goes.
pub trait Sink: std::fmt::Debug + Send {
    /// Something has happened now.
    fn note(&mut self, fact: Fact);

    /// Puts all that was noted where it is to be.
    ///
    /// # Errors
    /// What kept anything of it from being there, now or before.
    fn flush(&mut self) -> Result<(), String>;
}

/// The history of one client, while it is made.
#[derive(Debug)]
pub struct History {
    sink: Box<dyn Sink>,
}

impl History {
    /// One that goes there.
    #[must_use]
    pub fn new(sink: Box<dyn Sink>) -> Self {
        Self { sink }
    }

    pub(crate) fn session(&mut self, shard: u32, log: u32, producer: ProducerId) {
        self.sink.note(Fact::Session { shard, log, producer: producer.0 });
    }

    pub(crate) fn offer(
        &mut self,
        stream: StreamId,
        producer: ProducerId,
        producer_seq: u64,
        payload: &[u8],
    ) {
        let (stream, producer, payload) = (stream.0, producer.0, Payload::of(payload));
        self.sink.note(Fact::Offer { stream, producer, producer_seq, payload });
    }

    pub(crate) fn acknowledged(
        &mut self,
        stream: StreamId,
        producer: ProducerId,
        producer_seq: u64,
        sequence: Option<u64>,
    ) {
        let (stream, producer) = (stream.0, producer.0);
        self.sink.note(Fact::Acknowledged { stream, producer, producer_seq, sequence });
    }

    pub(crate) fn subscribe(&mut self, stream: StreamId) {
        self.sink.note(Fact::Subscribe { stream: stream.0 });
    }

    pub(crate) fn subscribed(&mut self, stream: StreamId, start: u64, durable_next: u64) {
        self.sink.note(Fact::Subscribed { stream: stream.0, start, durable_next });
    }

    pub(crate) fn delivered(&mut self, record: &crate::wire::record::Record<'_>) {
        let header = &record.header;
        self.sink.note(Fact::Delivered {
            stream: header.stream.get(),
            sequence: header.sequence.get(),
            producer: header.producer_id.get(),
            producer_seq: header.producer_seq.get(),
            payload: Payload::of(record.payload),
        });
    }

    pub(crate) fn trimmed(&mut self, stream: StreamId, log_start: u64) {
        self.sink.note(Fact::Trimmed { stream: stream.0, log_start });
    }

    pub(crate) fn flush(&mut self) -> Result<(), String> {
        self.sink.flush()
    }

    pub(crate) fn end(&mut self) -> Result<(), String> {
        self.sink.note(Fact::End);
        self.sink.flush()
    }
}
