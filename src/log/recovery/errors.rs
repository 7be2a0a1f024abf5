//! Why a log is not opened, in words for whoever has to mend it.

use std::fmt;

use serde::Serialize;

use super::Reason;
use crate::disk::DiskFault;
use crate::log::LogFault;
use crate::log::shares::shards;
use crate::log::superblock::{CopyDamage, FORMAT, Superblock, other_release};
use crate::position::{BatchSeq, DiskOffset, SegmentNo};

/// Why a log was not opened. Nothing was written.
#[derive(Debug, displaydoc::Display, thiserror::Error)]
pub enum OpenError {
    /// {name} holds no Buslane log; make one with: buslane log format {typed}
    NotFormatted {
        /// The disk.
        name: String,
        /// The same as it is typed: a transport id is several words.
        typed: String,
    },
    /// {name}: no two of the four superblock copies agree ({copies}); nothing was changed; restore the disk
    NoQuorum {
        /// The disk.
        name: String,
        /// What each copy is.
        copies: String,
    },
    /// {name}: this log was made by an earlier release of Buslane (format {format}), and this one reads format
    /// {reads}; nothing was changed; go on with that release, or move the streams: let it write each into a file
    /// (consume -o framed), make a new log (log format), and publish the files into that (publish --framed)
    Earlier {
        /// The disk.
        name: String,
        /// The format's number.
        format: u16,
        /// The one that this release reads.
        reads: u16,
    },
    /// {name}: this log was written by a later release of Buslane (format {format}); nothing was changed; use that
    /// release, or a later one
    Later {
        /// The disk.
        name: String,
        /// The format's number.
        format: u16,
    },
    /// {name}: the log has {needed} bytes, the disk {found}: it was cut, or is another
    Smaller {
        /// The disk.
        name: String,
        /// As formatted.
        needed: u64,
        /// As found.
        found: u64,
    },
    /// {name}: this log was formatted for {formatted}, the profile says {wanted}: set shard.count={found}
    Shards {
        /// The disk.
        name: String,
        /// As formatted.
        found: u32,
        /// The same in words.
        formatted: String,
        /// As asked for.
        wanted: u32,
    },
    /// {name}: the share of shard {wanted} holds that of shard {found} of {count} of a log that {of}; nothing was
    /// changed; restore the disk
    Share {
        /// The disk.
        name: String,
        /// The shard whose share was looked for.
        wanted: u32,
        /// Whose it is.
        found: u32,
        /// Of how many.
        count: u32,
        /// Whether the identity of the log is that of the first share.
        of: Sibling,
    },
    /// {name}: what came back is not what was lost: {why}; nothing was changed; bring back what was lost, or start
    /// again if this is the one to serve
    NotTheSame {
        /// The disk.
        name: String,
        /// In what it differs.
        why: String,
    },
    /// {0}
    Damaged(Box<Damaged>),
    /// {name}: opening the log: {fault}
    Device {
        /// The disk.
        name: String,
        /// What it said.
        fault: DiskFault,
    },
    /// {name}: opening the log for writing: {fault}
    Write {
        /// The disk.
        name: String,
        /// What it said.
        fault: LogFault,
    },
}

/// Whose share was found, where one was looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, displaydoc::Display)]
pub enum Sibling {
    /// is this one
    Own,
    /// is another
    Other,
}

impl OpenError {
    /// There is no log on this disk.
    pub(in crate::log) fn not_formatted(name: String) -> Self {
        let typed = if name.contains(' ') { format!("'{name}'") } else { name.clone() };
        Self::NotFormatted { name, typed }
    }

    /// It was formatted for another number of shards.
    pub(in crate::log) fn of_shards(name: String, found: u32, wanted: u32) -> Self {
        Self::Shards { name, found, formatted: shards(found), wanted }
    }

    /// What is wrong with copies of the superblock that do not agree: another release, if `needed` of them say so.
    pub(in crate::log) fn of_copies(
        name: String,
        copies: &[Result<Superblock, CopyDamage>],
        needed: usize,
    ) -> Self {
        if let Some(format) = other_release(copies, needed) {
            let is_earlier = format < FORMAT;
            return if is_earlier {
                Self::Earlier { name, format, reads: FORMAT }
            } else {
                Self::Later { name, format }
            };
        }
        let say = |(index, copy): (usize, &Result<Superblock, CopyDamage>)| match copy {
            Ok(block) => format!("copy {index}: write {}", block.sequence),
            Err(damage) => format!("copy {index}: {damage}"),
        };
        let copies = copies.iter().enumerate().map(say).collect::<Vec<_>>().join(", ");
        Self::NoQuorum { name, copies }
    }
}

/// Sequences of a stream that are damaged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// Name of the stream.
    pub stream: String,
    /// First sequence.
    pub first: u64,
    /// Last sequence; absent where nothing after it tells.
    pub last: Option<u64>,
}

/// Batches that are missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchRange {
    /// The first.
    pub first: BatchSeq,
    /// The last that is known to have been promised.
    pub last: BatchSeq,
}

/// Acknowledged data that cannot be proven intact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// The disk.
    pub name: String,
    /// Segment; that of the last one missing where whole ones are.
    pub seg_no: SegmentNo,
    /// Disk offset of the first batch that is not what it should be.
    pub disk_offset: DiskOffset,
    /// Batches that are missing.
    pub batches: BatchRange,
    /// Sequences that are missing.
    pub streams: Vec<Missing>,
    /// How it is known that they were promised.
    pub because: Reason,
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BatchRange { first, last } = self.batches;
        write!(
            f,
            "{}: acknowledged data is damaged: segment {}, disk offset {}, batches {first} to {last} \
             ({})",
            self.name, self.seg_no, self.disk_offset, self.because
        )?;
        for Missing { stream, first, last } in &self.streams {
            match last {
                Some(last) => write!(f, "; stream {stream}: sequences {first} to {last}")?,
                None => write!(f, "; stream {stream}: sequences from {first} on, if any")?,
            }
        }
        f.write_str(
            "; nothing was changed; see: buslane log verify; where this is a copy made with cp while the log was \
             served, it is no damage: buslane log copy makes a whole one",
        )
    }
}
