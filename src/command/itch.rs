//! ITCH 5.0 files: messages, each after its length in two bytes, big-endian, as the exchange publishes
//! them.
//!
//! A message begins with its type (1 byte), the locate code of its symbol (2), a tracking number (2) and
//! the time in nanoseconds since midnight (6). Buslane carries the rest unread. The reader streams and
//! believes nothing: a file that ends within a message is an error with the byte offset, not a short
//! message.

use std::io::{self, ErrorKind, Read};

/// Where the time stands in a message.
const TIMESTAMP: std::ops::Range<usize> = 5..11;

/// Why an ITCH file cannot be read further.
#[derive(Debug, thiserror::Error)]
pub enum ItchError {
    /// byte {offset}: the file ends within the length of a message
    #[error("byte {offset}: the file ends within the length of a message; it was cut short")]
    TruncatedLength {
        /// Where the length begins.
        offset: u64,
    },
    /// byte {offset}: the file ends after {found} of the {wanted} bytes of a message
    #[error(
        "byte {offset}: the file ends after {found} of the {wanted} bytes of a message; it was cut \
         short, or is not ITCH with 2-byte lengths"
    )]
    TruncatedMessage {
        /// Where the message's length begins.
        offset: u64,
        /// Bytes of the message there are.
        found: usize,
        /// Bytes its length says.
        wanted: usize,
    },
    /// byte {offset}: a message of zero bytes
    #[error("byte {offset}: a message of zero bytes; this is not an ITCH file with 2-byte lengths")]
    Empty {
        /// Where the message's length begins.
        offset: u64,
    },
    /// byte {offset}: {source}
    #[error("byte {offset}: {source}")]
    Io {
        /// Where the message's length begins.
        offset: u64,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Reads messages one after the other.
#[derive(Debug)]
pub struct ItchReader<R> {
    input: R,
    offset: u64,
    message: Vec<u8>,
}

impl<R: Read> ItchReader<R> {
    /// A reader at the beginning of a file; `input` should be buffered.
    pub fn new(input: R) -> Self {
        Self { input, offset: 0, message: Vec::with_capacity(usize::from(u16::MAX)) }
    }

    /// What it reads from.
    pub fn input(&self) -> &R {
        &self.input
    }

    /// The next message without its length; `None` at the end of the file.
    ///
    /// # Errors
    /// `ItchError` with the byte offset of the message.
    pub fn next_message(&mut self) -> Result<Option<&[u8]>, ItchError> {
        let offset = self.offset;
        let mut length = [0; 2];
        match self.fill(&mut length)? {
            0 => return Ok(None),
            2 => {}
            _ => return Err(ItchError::TruncatedLength { offset }),
        }
        let wanted = usize::from(length[0]) << 8 | usize::from(length[1]);
        if wanted == 0 {
            return Err(ItchError::Empty { offset });
        }
        let mut message = std::mem::take(&mut self.message);
        message.resize(wanted, 0);
        let found = self.fill(&mut message);
        self.message = message;
        let found = found?;
        if found < wanted {
            return Err(ItchError::TruncatedMessage { offset, found, wanted });
        }
        self.offset += 2 + u64::try_from(wanted).expect("a u16");
        Ok(Some(&self.message))
    }

    /// Where the next message's length begins: what was read so far, for progress.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads until `room` is full or the file ends, and returns how much there was.
    fn fill(&mut self, room: &mut [u8]) -> Result<usize, ItchError> {
        let mut found = 0;
        while found < room.len() {
            match self.input.read(&mut room[found..]) {
                Ok(0) => break,
                Ok(bytes) => found += bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(ItchError::Io { offset: self.offset, source });
                }
            }
        }
        Ok(found)
    }
}

/// The time of a message, in nanoseconds since midnight; `None` for one too short to have it.
#[must_use]
pub fn timestamp_ns(message: &[u8]) -> Option<u64> {
    let bytes = message.get(TIMESTAMP)?;
    Some(bytes.iter().fold(0, |time, byte| time << 8 | u64::from(*byte)))
}

/// The length that ITCH 5.0 gives messages of this type; `None` for an unknown type.
#[must_use]
pub fn message_bytes(kind: u8) -> Option<usize> {
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

    #[test]
    fn messages_come_back_however_they_trickle_in() {
        let file = [0, 1, b'S', 0, 12, b'S', 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, b'O'];
        let mut reader = ItchReader::new(Trickle(&file, false));
        let first = reader.next_message().unwrap().unwrap();
        assert_eq!((first, timestamp_ns(first)), (&[b'S'][..], None));
        let second = reader.next_message().unwrap().unwrap();
        assert_eq!(timestamp_ns(second), Some(0x0102_0304_0506));
        assert!(reader.next_message().unwrap().is_none());
        assert_eq!(reader.offset(), 17);
    }

    #[test]
    fn a_bad_file_is_an_error_with_its_offset() {
        let said = |file: &[u8]| {
            let mut reader = ItchReader::new(file);
            loop {
                match reader.next_message() {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("no error"),
                    Err(error) => break error.to_string(),
                }
            }
        };
        assert!(said(&[0, 1, b'S', 0]).starts_with("byte 3: the file ends within the length"));
        assert!(
            said(&[0, 1, b'S', 0, 5, 1, 2]).starts_with("byte 3: the file ends after 2 of the 5")
        );
        assert!(said(&[0, 1, b'S', 0, 5]).starts_with("byte 3: the file ends after 0 of the 5"));
        assert!(said(&[0, 1, b'S', 0, 0]).starts_with("byte 3: a message of zero bytes"));
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
