//! Where published messages come from: a file or a pipe, read by a thread of its own, so that a pipe that is
//! slow keeps no message waiting that came before.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

use super::CommandError;
use super::itch::ItchReader;
use crate::cli::arguments::PublishSource;

/// What is read ahead of the messages being published, in chunks.
const CHUNKS: usize = 4;

/// A chunk is passed on when it has this many bytes, or when there is nothing to read at the moment.
const CHUNK_BYTES: usize = 256 << 10;

type Input = BufReader<Box<dyn Read + Send>>;

/// Messages, one after the other.
#[derive(Debug, Default)]
struct Chunk {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

/// What a source has.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<'a> {
    /// A message.
    Message(&'a [u8]),
    /// Nothing at the moment.
    NotYet,
    /// Nothing more.
    End,
}

/// Messages, one at a time, never waiting for one.
#[derive(Debug)]
pub(super) struct Source {
    chunks: Receiver<Result<Chunk, String>>,
    chunk: Chunk,
    at: usize,
}

impl Source {
    /// Opens what the arguments name; the text is its name.
    pub(super) fn open(source: &PublishSource) -> Result<(Self, String), CommandError> {
        let (path, is_itch) = match (&source.itch, &source.lines) {
            (Some(path), _) => (path, true),
            (None, Some(path)) => (path, false),
            (None, None) => {
                return Err(CommandError::Usage("publish what? give --itch or --lines".into()));
            }
        };
        let (input, name) = open(path)?;
        Ok((if is_itch { Self::itch(input) } else { Self::lines(input) }, name))
    }

    fn itch(input: Input) -> Self {
        let mut reader = ItchReader::new(input);
        Self::read(move |chunk| match reader.next_message() {
            Ok(Some(message)) => {
                chunk.bytes.extend_from_slice(message);
                Ok(Some(reader.input().buffer().is_empty()))
            }
            Ok(None) => Ok(None),
            Err(error) => Err(error.to_string()),
        })
    }

    fn lines(mut input: Input) -> Self {
        Self::read(move |chunk| {
            let count = input.read_until(b'\n', &mut chunk.bytes).map_err(|e| e.to_string())?;
            if count == 0 {
                return Ok(None);
            }
            if chunk.bytes.last() == Some(&b'\n') {
                chunk.bytes.pop();
            }
            Ok(Some(input.buffer().is_empty()))
        })
    }

    /// `next` appends a message and says whether reading more may have to wait; `None` at the end.
    #[allow(clippy::disallowed_methods, reason = "a thread that only reads")]
    fn read(
        mut next: impl FnMut(&mut Chunk) -> Result<Option<bool>, String> + Send + 'static,
    ) -> Self {
        let (sender, chunks): (SyncSender<Result<Chunk, String>>, _) = sync_channel(CHUNKS);
        std::thread::spawn(move || {
            let mut chunk = Chunk::default();
            loop {
                let read = next(&mut chunk);
                if let Ok(Some(_)) = read {
                    chunk.ends.push(chunk.bytes.len());
                }
                let more = matches!(read, Ok(Some(false))) && chunk.bytes.len() < CHUNK_BYTES;
                if !more && !chunk.ends.is_empty() {
                    // Nobody listens any more: the command has ended.
                    if sender.send(Ok(std::mem::take(&mut chunk))).is_err() {
                        return;
                    }
                }
                match read {
                    Ok(Some(_)) => {}
                    Ok(None) => return,
                    Err(why) => {
                        let _ = sender.send(Err(why));
                        return;
                    }
                }
            }
        });
        Self { chunks, chunk: Chunk::default(), at: 0 }
    }

    /// The next message, if there is one.
    ///
    /// # Errors
    /// Why nothing more can be read.
    pub(super) fn next(&mut self) -> Result<Next<'_>, String> {
        if self.at == self.chunk.ends.len() {
            self.chunk = match self.chunks.try_recv() {
                Ok(chunk) => chunk?,
                Err(TryRecvError::Empty) => return Ok(Next::NotYet),
                Err(TryRecvError::Disconnected) => return Ok(Next::End),
            };
            self.at = 0;
        }
        let start = if self.at == 0 { 0 } else { self.chunk.ends[self.at - 1] };
        self.at += 1;
        Ok(Next::Message(&self.chunk.bytes[start..self.chunk.ends[self.at - 1]]))
    }
}

fn open(path: &Path) -> Result<(Input, String), CommandError> {
    let name = path.display().to_string();
    let input: Box<dyn Read + Send> = if name == "-" {
        Box::new(std::io::stdin())
    } else {
        let opened = File::open(path);
        Box::new(opened.map_err(|error| CommandError::Failed(format!("{name}: {error}")))?)
    };
    Ok((BufReader::with_capacity(1 << 20, input), name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(bytes: impl Read + Send + 'static) -> Input {
        BufReader::with_capacity(64, Box::new(bytes))
    }

    fn all(mut source: Source) -> (Vec<Vec<u8>>, Option<String>) {
        let mut messages = Vec::new();
        loop {
            match source.next() {
                Ok(Next::Message(message)) => messages.push(message.to_vec()),
                Ok(Next::NotYet) => std::hint::spin_loop(),
                Ok(Next::End) => return (messages, None),
                Err(why) => return (messages, Some(why)),
            }
        }
    }

    #[test]
    fn lines_come_whole_and_in_order() {
        let text = (0..100_000).map(|line| format!("line {line}\n")).collect::<String>() + "last";
        let (lines, error) = all(Source::lines(input(std::io::Cursor::new(text))));
        assert_eq!((lines.len(), error), (100_001, None));
        assert_eq!(
            (lines[7].as_slice(), lines[100_000].as_slice()),
            (&b"line 7"[..], &b"last"[..])
        );
    }

    #[test]
    fn what_came_before_an_error_is_published() {
        let bytes = [&[0, 2][..], b"ab", &[0, 9], b"cut"].concat();
        let (messages, error) = all(Source::itch(input(std::io::Cursor::new(bytes))));
        assert_eq!(messages, [b"ab"]);
        assert!(error.is_some_and(|why| why.starts_with("byte 4:")));
    }

    /// A pipe on which something is written now and then.
    #[test]
    fn a_message_does_not_wait_for_the_next() {
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        let mut source = Source::lines(input(reader));
        for line in ["one", "two"] {
            std::io::Write::write_all(&mut writer, format!("{line}\n").as_bytes()).expect("room");
            let found = loop {
                match source.next().expect("no error") {
                    Next::Message(message) => break message.to_vec(),
                    Next::NotYet => std::hint::spin_loop(),
                    Next::End => panic!("the pipe is open"),
                }
            };
            assert_eq!(found, line.as_bytes());
            assert_eq!(source.next(), Ok(Next::NotYet));
        }
        drop(writer);
        assert_eq!(all(source), (Vec::new(), None));
    }
}
