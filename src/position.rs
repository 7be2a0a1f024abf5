//! Positions: numbers that say where something is, each a type of its own, so that none is taken for another. Bytes
//! counted from one of them stay a number. What stands on a disk becomes a position where it is read.
//!
//! Their arithmetic is that of numbers, and stops the shard where a number would overflow.

use std::fmt;
use std::ops::{Add, AddAssign, Sub};

use zerocopy::little_endian::U64;

use crate::limits::{BLOCK_BYTES, SESSIONS_MAX};

macro_rules! position {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl $name {
            /// That of this number.
            #[must_use]
            #[inline]
            pub const fn new(number: u64) -> Self {
                Self(number)
            }

            /// Its number.
            #[must_use]
            #[inline]
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$name> for U64 {
            #[inline]
            fn from(position: $name) -> Self {
                Self::new(position.0)
            }
        }
    };
}

/// A position in bytes: so many bytes behind it is another one, and between two of them are bytes.
macro_rules! offset {
    ($(#[$doc:meta])* $name:ident) => {
        position!($(#[$doc])* $name);

        impl $name {
            /// Bytes from an earlier one to this one; `None` where that is a later one.
            #[must_use]
            #[inline]
            pub const fn bytes_since(self, earlier: Self) -> Option<u64> {
                self.0.checked_sub(earlier.0)
            }
        }

        impl Add<u64> for $name {
            type Output = Self;

            #[inline]
            fn add(self, bytes: u64) -> Self {
                Self(self.0 + bytes)
            }
        }

        impl AddAssign<u64> for $name {
            #[inline]
            fn add_assign(&mut self, bytes: u64) {
                self.0 += bytes;
            }
        }

        impl Sub for $name {
            type Output = u64;

            #[inline]
            fn sub(self, earlier: Self) -> u64 {
                self.0 - earlier.0
            }
        }
    };
}

offset!(
    /// Where in the log of a shard: the number of a segment times the size of one, and the offset in it. Grows forever.
    LogOffset
);
offset!(
    /// Where on a disk, or on the share of one that a log knows as its disk.
    DiskOffset
);
position!(
    /// Counts the batches of a log, from 1 on; 0 is none.
    BatchSeq
);
position!(
    /// Counts the segments of a log, from 1 on; 0 is none. Grows forever, unlike the place that a segment stands in.
    SegmentNo
);

impl DiskOffset {
    /// Its first byte.
    pub const START: Self = Self(0);

    /// The block it is in.
    #[must_use]
    #[inline]
    pub const fn block(self) -> u64 {
        self.0 / BLOCK_BYTES as u64
    }
}

/// A position that counts: there is one behind it and one before it.
macro_rules! count {
    ($name:ident) => {
        impl $name {
            /// That of none: what is before the first.
            pub const NONE: Self = Self(0);

            /// That of the next.
            #[must_use]
            #[inline]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }

            /// That of the one before.
            #[must_use]
            #[inline]
            pub const fn before(self) -> Self {
                Self(self.0 - 1)
            }
        }
    };
}

count!(BatchSeq);
count!(SegmentNo);

/// Where a session stands in the table of its shard. Unlike its connection id, it is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionSlot(usize);

impl SessionSlot {
    /// The first one.
    pub const FIRST: Self = Self(0);

    /// The one of this index.
    #[must_use]
    #[inline]
    pub const fn new(index: usize) -> Self {
        Self(index)
    }

    /// As an index of what is kept for each session.
    #[must_use]
    #[inline]
    pub const fn index(self) -> usize {
        self.0
    }

    /// All of a table.
    pub fn all() -> impl DoubleEndedIterator<Item = Self> {
        (0..SESSIONS_MAX).map(Self)
    }
}

impl fmt::Display for SessionSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_between_two_offsets_is_bytes_and_nothing_wraps() {
        let (first, last) = (LogOffset::new(0), LogOffset::new(u64::MAX));
        assert_eq!((last.bytes_since(first), first.bytes_since(last)), (Some(u64::MAX), None));
        assert_eq!((first + u64::MAX, last - first), (last, u64::MAX));
        assert_eq!(U64::from(LogOffset::new(1 << 40)).get(), 1 << 40);
        let blocks = [0, 4095, 4096, u64::MAX].map(|at| DiskOffset::new(at).block());
        assert_eq!(blocks, [0, 0, 1, u64::MAX / 4096]);
        let wraps: [fn(); 6] = [
            || assert_eq!(LogOffset::new(u64::MAX) + 1, LogOffset::new(0)),
            || assert_eq!(DiskOffset::START - DiskOffset::new(1), u64::MAX),
            || assert_eq!(LogOffset::new(0) - LogOffset::new(1), u64::MAX),
            || assert_eq!(BatchSeq::new(u64::MAX).next(), BatchSeq::NONE),
            || assert_eq!(SegmentNo::new(u64::MAX).next(), SegmentNo::NONE),
            || assert_eq!(SegmentNo::NONE.before(), SegmentNo::new(u64::MAX)),
        ];
        for (index, wrap) in wraps.into_iter().enumerate() {
            assert!(std::panic::catch_unwind(wrap).is_err(), "{index}");
        }
    }
}
