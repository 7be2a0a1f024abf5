//! ITCH 5.0 files: messages, each after its length in two bytes, big-endian, as the exchange publishes
//! them (Nasdaq calls it `BinaryFILE`).
//!
//! A message begins with its type (1 byte), the locate code of its symbol (2), a tracking number (2) and
//! the time in nanoseconds since midnight (6). Buslane carries the rest unread, but every type has one length,
//! and what has another is not ITCH 5.0. A length of zero is the mark at the end. The reader streams and
//! believes nothing: a file that ends within a message is an error with the byte offset, not a short
//! message.

pub(crate) mod orders;
mod foreign;

use std::ascii::{EscapeDefault, escape_default};
use std::io::{self, ErrorKind, Read};

use foreign::{FIRST_BYTES, recognise};

/// Where the time stands in a message.
const TIMESTAMP: std::ops::Range<usize> = 5..11;

/// Why an ITCH file cannot be read further.
#[derive(Debug, displaydoc::Display, thiserror::Error)]
pub(crate) enum ItchError {
    /// byte 0: this is no ITCH 5.0 file, but {what}
    Foreign {
        /// What it is, and what to do.
        what: &'static str,
    },
    /// byte {offset}: the file ends within the length of a message; it was cut short
    TruncatedLength {
        /// Where the length begins.
        offset: u64,
    },
    /// byte {offset}: the file ends after {found} of the {wanted} bytes of a message; it was cut short
    TruncatedMessage {
        /// Where the message's length begins.
        offset: u64,
        /// Bytes of the message there are.
        found: usize,
        /// Bytes its length says.
        wanted: usize,
    },
    /// byte {offset}: a message of type `{kind}` with {bytes} bytes: ITCH 5.0 has no such type, so this is another
    /// format, or damaged
    UnknownType {
        /// Where the message's length begins.
        offset: u64,
        /// Its first byte.
        kind: EscapeDefault,
        /// What its length says.
        bytes: usize,
    },
    /// byte {offset}: a message of type `{kind}` with {bytes} bytes: in ITCH 5.0 it has {wanted}, so this is another
    /// format, or damaged
    WrongLength {
        /// Where the message's length begins.
        offset: u64,
        /// Its first byte.
        kind: EscapeDefault,
        /// What its length says.
        bytes: usize,
        /// What it should be.
        wanted: usize,
    },
    /// byte {offset}: bytes follow the end mark, a length of zero; publish files that were joined one by one
    AfterEnd {
        /// Where they begin.
        offset: u64,
    },
    /// byte {offset}: {source}
    Io {
        /// Where the message's length begins.
        offset: u64,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Reads messages one after the other.
#[derive(Debug)]
pub(crate) struct ItchReader<R> {
    input: R,
    offset: u64,
    is_ended: bool,
    message: Vec<u8>,
}

impl<R: Read> ItchReader<R> {
    /// A reader at the beginning of a file; `input` should be buffered.
    pub(crate) fn new(input: R) -> Self {
        Self { input, offset: 0, is_ended: false, message: Vec::with_capacity(FIRST_BYTES) }
    }

    /// What it reads from.
    pub(crate) fn input(&self) -> &R {
        &self.input
    }

    /// The next message without its length; `None` at the end of the file.
    ///
    /// # Errors
    /// `ItchError` with the byte offset of the message.
    pub(crate) fn next_message(&mut self) -> Result<Option<&[u8]>, ItchError> {
        let offset = self.offset;
        let mut head = [0; 3];
        let found = self.fill(&mut head)?;
        let bytes = usize::from(head[0]) << 8 | usize::from(head[1]);
        match found {
            0 => return Ok(None),
            1 => return Err(ItchError::TruncatedLength { offset }),
            _ if bytes == 0 && found == 2 => {
                (self.offset, self.is_ended) = (offset + 2, true);
                return Ok(None);
            }
            _ if bytes == 0 && offset > 0 => {
                return Err(ItchError::AfterEnd { offset: offset + 2 });
            }
            2 => return Err(ItchError::TruncatedMessage { offset, found: 0, wanted: bytes }),
            _ => {}
        }
        let kind = head[2];
        if message_bytes(kind) != Some(bytes) {
            return Err(self.not_itch(head, bytes));
        }
        let mut message = std::mem::take(&mut self.message);
        message.resize(bytes, 0);
        message[0] = kind;
        let found = self.fill(&mut message[1..]);
        self.message = message;
        let found = found? + 1;
        if found < bytes {
            return Err(ItchError::TruncatedMessage { offset, found, wanted: bytes });
        }
        self.offset += 2 + u64::try_from(bytes).expect("at most 50");
        Ok(Some(&self.message))
    }

    /// Whether the end was marked. A file without the mark may have been cut between two messages.
    #[must_use]
    pub(crate) fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// What to say of a message that cannot be one, and of the whole file if that is its first.
    fn not_itch(&mut self, head: [u8; 3], bytes: usize) -> ItchError {
        let (offset, kind) = (self.offset, head[2]);
        if offset == 0 {
            let mut first = [0; FIRST_BYTES];
            first[..3].copy_from_slice(&head);
            // What one call gives: a pipe may have no more for now.
            let more = self.input.read(&mut first[3..]).unwrap_or(0);
            if let Some(what) = recognise(&first[..3 + more]) {
                return ItchError::Foreign { what };
            }
        }
        let shown = escape_default(kind);
        match message_bytes(kind) {
            Some(wanted) => ItchError::WrongLength { offset, kind: shown, bytes, wanted },
            None => ItchError::UnknownType { offset, kind: shown, bytes },
        }
    }

    /// Reads until `room` is full or the file ends, and returns how much there was.
    fn fill(&mut self, room: &mut [u8]) -> Result<usize, ItchError> {
        fill(&mut self.input, room).map_err(|source| ItchError::Io { offset: self.offset, source })
    }

    /// What was read so far, in bytes.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }
}

/// Reads until `room` is full or the input ends, and returns how much there was.
pub(crate) fn fill(input: &mut impl Read, room: &mut [u8]) -> io::Result<usize> {
    let mut found = 0;
    while found < room.len() {
        match input.read(&mut room[found..]) {
            Ok(0) => break,
            Ok(bytes) => found += bytes,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The time of a message, in nanoseconds since midnight; `None` for one too short to have it.
#[must_use]
pub(crate) fn timestamp_ns(message: &[u8]) -> Option<u64> {
    let bytes = message.get(TIMESTAMP)?;
    Some(bytes.iter().fold(0, |time, byte| time << 8 | u64::from(*byte)))
}

/// The length that ITCH 5.0 gives messages of this type; `None` for an unknown type.
#[must_use]
pub(crate) fn message_bytes(kind: u8) -> Option<usize> {
    Some(match kind {
        b'S' | b'W' => 12,
        b'D' | b'B' => 19,
        b'Y' | b'N' => 20,
        b'h' => 21,
        b'X' => 23,
        b'H' => 25,
        b'L' => 26,
        b'K' => 28,
        b'E' => 31,
        b'V' | b'J' | b'U' => 35,
        b'A' | b'C' => 36,
        b'R' => 39,
        b'F' | b'Q' => 40,
        b'P' => 44,
        b'O' => 48,
        b'I' => 50,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;
    use std::path::Path;

    use super::*;

    /// Gives one byte a call, and an interruption before each.
    struct Trickle<'b>(&'b [u8], bool);

    impl Read for Trickle<'_> {
        fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(ErrorKind::Interrupted.into());
            }
            let Some((first, rest)) = self.0.split_first() else {
                return Ok(0);
            };
            room[0] = *first;
            self.0 = rest;
            Ok(1)
        }
    }

    /// A system event.
    const EVENT: [u8; 14] = [0, 12, b'S', 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, b'O'];

    #[test]
    fn messages_come_back_however_they_trickle_in() {
        for end in [&[][..], &[0, 0]] {
            let file = [&EVENT, &EVENT, end].concat();
            let mut reader = ItchReader::new(Trickle(&file, false));
            for _ in 0..2 {
                let message = reader.next_message().unwrap().unwrap();
                assert_eq!(message, &EVENT[2..]);
                assert_eq!(timestamp_ns(message), Some(0x0102_0304_0506));
            }
            assert!(reader.next_message().unwrap().is_none());
            assert_eq!(reader.offset(), 28 + u64::try_from(end.len()).unwrap());
            assert_eq!(reader.is_ended(), !end.is_empty());
        }
        assert_eq!(timestamp_ns(&[b'S'; 10]), None);
    }

    #[test]
    fn a_bad_file_is_an_error_with_its_offset() {
        let said = |rest: &[u8]| {
            let file = [&EVENT, rest].concat();
            let mut reader = ItchReader::new(file.as_slice());
            reader.next_message().unwrap().unwrap();
            reader.next_message().unwrap_err().to_string()
        };
        assert!(said(&[0]).starts_with("byte 14: the file ends within the length"));
        assert!(said(&[0, 12]).starts_with("byte 14: the file ends after 0 of the 12"));
        assert!(said(&EVENT[..13]).starts_with("byte 14: the file ends after 11 of the 12"));
        assert!(said(&[0, 0, 0]).starts_with("byte 16: bytes follow the end mark"));
        assert!(said(&[0, 0, 0, 12, b'S']).starts_with("byte 16: bytes follow the end mark"));
        assert!(
            said(&[0, 13, b'S', 0]).starts_with("byte 14: a message of type `S` with 13 bytes")
        );
        assert!(
            said(&[0, 12, b't', 0]).starts_with("byte 14: a message of type `t` with 12 bytes")
        );
        assert!(said(b"\xff\xff\0").starts_with("byte 14: a message of type `\\x00`"));
    }

    #[test]
    fn a_file_of_another_kind_is_named() {
        let said = |file: &[u8]| ItchReader::new(file).next_message().unwrap_err().to_string();
        assert!(said(b"time,price\n1,2\n").contains("but text"));
        assert!(said(b"\0\x0dSS\0\0\0\0\0\0\0\0\0\0\0").contains("SoupBinTCP"));
        assert!(said(b"\0\x10time,type,price\n").starts_with("byte 0: a message of type `t`"));
        assert!(said(&[0; 64]).starts_with("byte 0: a message of type `\\x00` with 0 bytes"));
        assert!(ItchReader::new(&[0, 0][..]).next_message().unwrap().is_none(), "an empty day");
    }

    #[test]
    fn the_shared_sample_is_read_whole() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/orders.itch50");
        let Ok(file) = std::fs::File::open(&path) else {
            println!("SKIPPED: there is no shared sample beside this repository");
            return;
        };
        let mut reader = ItchReader::new(BufReader::new(file));
        let (mut count, mut last_ns) = (0, 0);
        while let Some(message) = reader.next_message().unwrap() {
            assert_eq!(message_bytes(message[0]), Some(message.len()));
            let now_ns = timestamp_ns(message).unwrap();
            assert!(now_ns >= last_ns, "time goes forward");
            last_ns = now_ns;
            count += 1;
        }
        assert_eq!(count, 12_012);
    }
}
