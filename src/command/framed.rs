//! Framed messages: a stream as a file, lossless, to be kept or published elsewhere.
//!
//! ```text
//! "BUSLANE" 1 | length u32, payload | length u32, payload | ... | 2^32-1, count u64
//! ```
//!
//! Integers are little-endian. The end mark carries the number of messages before it: a file that was cut, also
//! between two messages, is noticed. Sequences, times and producers stay behind, for they belong to the log the
//! messages came from.

use std::io::{self, Read};

use super::{CommandError, Out};
use crate::itch::fill;

/// How it begins: a name, and the version of the format.
const MAGIC: [u8; 8] = *b"BUSLANE\x01";

/// Stands for a length, and is none: the count of messages follows.
const END: u32 = u32::MAX;

/// A message at most, well above what an appliance takes: more is a file that is damaged.
const MESSAGE_BYTES_MAX: u32 = 1 << 20;

/// Writes framed messages.
#[derive(Debug)]
pub(crate) struct FramedWriter {
    count: u64,
}

impl FramedWriter {
    /// Writes the beginning.
    ///
    /// # Errors
    /// When the output takes no more.
    pub(crate) fn begin(out: &mut Out) -> Result<Self, CommandError> {
        out.bytes(&MAGIC)?;
        Ok(Self { count: 0 })
    }

    /// Writes a message.
    ///
    /// # Errors
    /// When the output takes no more.
    ///
    /// # Panics
    /// When it is larger than any message of an appliance.
    pub(crate) fn message(&mut self, out: &mut Out, payload: &[u8]) -> Result<(), CommandError> {
        let bytes = u32::try_from(payload.len()).expect("a message is below 4 GiB");
        assert!(bytes <= MESSAGE_BYTES_MAX, "{bytes} bytes");
        self.count += 1;
        out.bytes(&bytes.to_le_bytes())?;
        out.bytes(payload)
    }

    /// Writes the end mark.
    ///
    /// # Errors
    /// When the output takes no more.
    pub(crate) fn end(self, out: &mut Out) -> Result<(), CommandError> {
        out.bytes(&END.to_le_bytes())?;
        out.bytes(&self.count.to_le_bytes())
    }
}

/// Why framed messages cannot be read further.
#[derive(Debug, displaydoc::Display, thiserror::Error)]
pub(crate) enum FramedError {
    /// byte 0: these are not framed messages, which `buslane consume -o framed` writes; what is packed is unpacked
    /// first (gzip -dc), one message a line is --lines, an exchange's file --itch
    Foreign,
    /// byte 7: framed messages of version {version}; this release reads version 1
    Version {
        /// The version found.
        version: u8,
    },
    /// byte {offset}: the end mark is missing after {count} messages; the file was cut short
    Cut {
        /// Where the incomplete message begins.
        offset: u64,
        /// Whole messages before it.
        count: u64,
    },
    /// byte {offset}: a message of {bytes} bytes after {count} messages; the file is damaged
    TooLong {
        /// Where the message begins.
        offset: u64,
        /// What its length says.
        bytes: u32,
        /// Messages before it.
        count: u64,
    },
    /// byte {offset}: the end mark says {said} messages, and there are {count}; the file is damaged
    Count {
        /// Where the end mark begins.
        offset: u64,
        /// What it says.
        said: u64,
        /// What was read.
        count: u64,
    },
    /// byte {offset}: bytes follow the end mark; publish files that were joined one by one
    Trailing {
        /// Where they begin.
        offset: u64,
    },
    /// byte {offset}: {source}
    Io {
        /// Where the message begins.
        offset: u64,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Reads framed messages one after the other.
#[derive(Debug)]
pub(crate) struct FramedReader<R> {
    input: R,
    offset: u64,
    count: u64,
    message: Vec<u8>,
}

impl<R: Read> FramedReader<R> {
    /// A reader at the beginning; `input` should be buffered.
    pub(crate) fn new(input: R) -> Self {
        Self { input, offset: 0, count: 0, message: Vec::new() }
    }

    /// What it reads from.
    pub(crate) fn input(&self) -> &R {
        &self.input
    }

    /// The next message; `None` at the end, which was then marked.
    ///
    /// # Errors
    /// `FramedError` with the byte offset.
    pub(crate) fn next_message(&mut self) -> Result<Option<&[u8]>, FramedError> {
        if self.offset == 0 {
            self.begin()?;
        }
        let mut length = [0; 4];
        self.whole(&mut length)?;
        let length = u32::from_le_bytes(length);
        if length == END {
            return self.end();
        }
        let (offset, count) = (self.offset, self.count);
        if length > MESSAGE_BYTES_MAX {
            return Err(FramedError::TooLong { offset, bytes: length, count });
        }
        let mut message = std::mem::take(&mut self.message);
        message.resize(usize::try_from(length).expect("at most 1 MiB"), 0);
        let read = self.whole(&mut message);
        self.message = message;
        read?;
        self.offset += 4 + u64::from(length);
        self.count += 1;
        Ok(Some(&self.message))
    }

    fn begin(&mut self) -> Result<(), FramedError> {
        let mut magic = [0; 8];
        let found = self.some(&mut magic)?;
        let compared = found.min(7);
        if magic[..compared] != MAGIC[..compared] {
            return Err(FramedError::Foreign);
        }
        if found < magic.len() {
            // Nothing at all, too: whoever should have written ended before the first message.
            return Err(FramedError::Cut { offset: 0, count: 0 });
        }
        if magic != MAGIC {
            return Err(FramedError::Version { version: magic[7] });
        }
        self.offset = 8;
        Ok(())
    }

    fn end(&mut self) -> Result<Option<&[u8]>, FramedError> {
        let mut said = [0; 8];
        self.whole(&mut said)?;
        let (said, offset, count) = (u64::from_le_bytes(said), self.offset, self.count);
        if said != count {
            return Err(FramedError::Count { offset, said, count });
        }
        if self.some(&mut [0])? > 0 {
            return Err(FramedError::Trailing { offset: offset + 12 });
        }
        Ok(None)
    }

    /// Fills `room`.
    fn whole(&mut self, room: &mut [u8]) -> Result<(), FramedError> {
        if self.some(room)? < room.len() {
            return Err(FramedError::Cut { offset: self.offset, count: self.count });
        }
        Ok(())
    }

    fn some(&mut self, room: &mut [u8]) -> Result<usize, FramedError> {
        fill(&mut self.input, room)
            .map_err(|source| FramedError::Io { offset: self.offset, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(messages: &[&[u8]]) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("framed");
        let mut out = Out::file(&path).unwrap();
        let mut writer = FramedWriter::begin(&mut out).unwrap();
        for message in messages {
            writer.message(&mut out, message).unwrap();
        }
        writer.end(&mut out).unwrap();
        out.finish().unwrap();
        std::fs::read(path).unwrap()
    }

    fn read(bytes: &[u8]) -> (Vec<Vec<u8>>, Option<String>) {
        let mut reader = FramedReader::new(bytes);
        let mut messages = Vec::new();
        loop {
            match reader.next_message() {
                Ok(Some(message)) => messages.push(message.to_vec()),
                Ok(None) => return (messages, None),
                Err(error) => return (messages, Some(error.to_string())),
            }
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let messages: [&[u8]; 4] = [b"one", b"", b"with\nline\0ends", &[0xff; 9000]];
        let (found, error) = read(&framed(&messages));
        assert_eq!(error, None);
        assert_eq!(found, messages);
        assert_eq!(read(&framed(&[])), (Vec::new(), None));
    }

    #[test]
    fn a_cut_anywhere_is_noticed_and_what_came_before_is_read() {
        let bytes = framed(&[b"first", b"second"]);
        for len in 0..bytes.len() {
            let (messages, error) = read(&bytes[..len]);
            let whole = usize::from(len >= 17) + usize::from(len >= 27);
            assert_eq!(messages.len(), whole, "{len}");
            let said = error.unwrap_or_else(|| panic!("{len} bytes are taken for the whole"));
            assert!(said.contains("cut short"), "{len}: {said}");
        }
    }

    #[test]
    fn damage_is_named() {
        let whole = framed(&[b"first"]);
        let said = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = whole.clone();
            change(&mut bytes);
            read(&bytes).1.unwrap()
        };
        assert!(said(&|bytes| bytes[7] = 2).contains("version 2"));
        assert!(said(&|bytes| bytes[0] = b'b').contains("not framed"));
        assert!(said(&|bytes| bytes[10] = 0x7f).starts_with("byte 8: a message of 8323077 bytes"));
        assert!(said(&|bytes| bytes[21] = 2).contains("says 2 messages, and there are 1"));
        assert!(said(&|bytes| bytes.push(0)).starts_with("byte 29: bytes follow"));
    }
}
