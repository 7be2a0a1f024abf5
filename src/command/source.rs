//! Where published messages come from: a file or a pipe, read by a thread of its own, so that a pipe that is
//! slow keeps no message waiting that came before.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;

use super::CommandError;
use super::framed::FramedReader;
use crate::cli::arguments::PublishSource;
use crate::itch::ItchReader;
use crate::port::udp::wait_readable;

/// What is read ahead of the messages being published, in chunks.
const CHUNKS: usize = 4;

/// A chunk is passed on when it has this many bytes, or when there is nothing to read at the moment.
const CHUNK_BYTES: usize = 256 << 10;

/// A line at most, well above what an appliance takes: more is no text.
const LINE_BYTES_MAX: usize = 1 << 20;

/// An input that is not ready is looked after so often, also when nobody says that it is.
const PATIENCE: Duration = Duration::from_secs(1);

type Input = BufReader<Box<dyn Read + Send>>;

/// Messages, one after the other.
#[derive(Debug, Default)]
struct Chunk {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

/// What the thread that reads found.
#[derive(Debug)]
enum Found {
    Messages(Chunk),
    /// The end, with what is to be said of it.
    End(Option<&'static str>),
    /// Why nothing more can be read.
    Failed(String),
}

/// What reading one message came to.
enum Step {
    /// A message; whether reading more may have to wait.
    Message(bool),
    End(Option<&'static str>),
}

/// What a source has.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<'a> {
    /// A message.
    Message(&'a [u8]),
    /// Nothing at the moment.
    NotYet,
    /// Nothing more, and what is to be said of that.
    End(Option<&'static str>),
}

/// Messages, one at a time, never waiting for one.
#[derive(Debug)]
pub(super) struct Source {
    found: Receiver<Found>,
    /// Readable while something is found and not taken.
    wake: PipeReader,
    chunk: Chunk,
    at: usize,
    /// What one message is in the input, for people.
    unit: &'static str,
    taken: u64,
}

impl Source {
    /// Opens what the arguments name; the text is its name.
    pub(super) fn open(source: &PublishSource) -> Result<(Self, String), CommandError> {
        let make: (_, fn(Input) -> io::Result<Self>) =
            match (&source.itch, &source.lines, &source.framed) {
                (Some(path), ..) => (path, Self::itch),
                (None, Some(path), _) => (path, Self::lines),
                (None, None, Some(path)) => (path, Self::framed),
                (None, None, None) => {
                    let what = "publish what? give --itch, --lines or --framed";
                    return Err(CommandError::Usage(what.into()));
                }
            };
        let (path, make) = make;
        let (input, name) = open(path)?;
        let source = make(input).map_err(|error| CommandError::Failed(error.to_string()))?;
        Ok((source, name))
    }

    fn itch(input: Input) -> io::Result<Self> {
        let mut reader = ItchReader::new(input);
        Self::read("message", move |chunk| {
            let Some(message) = reader.next_message().map_err(|error| error.to_string())? else {
                let cut = "it has no end mark (a length of zero): if it should be a whole file, it was cut \
                           between two messages";
                return Ok(Step::End((!reader.is_ended()).then_some(cut)));
            };
            chunk.bytes.extend_from_slice(message);
            Ok(Step::Message(reader.input().buffer().is_empty()))
        })
    }

    fn framed(input: Input) -> io::Result<Self> {
        let mut reader = FramedReader::new(input);
        Self::read("message", move |chunk| {
            let Some(message) = reader.next_message().map_err(|error| error.to_string())? else {
                return Ok(Step::End(None));
            };
            chunk.bytes.extend_from_slice(message);
            Ok(Step::Message(reader.input().buffer().is_empty()))
        })
    }

    fn lines(mut input: Input) -> io::Result<Self> {
        let mut number = 0u64;
        let limit = u64::try_from(LINE_BYTES_MAX + 1).expect("small");
        Self::read("line", move |chunk| {
            number += 1;
            let start = chunk.bytes.len();
            let read = input.by_ref().take(limit).read_until(b'\n', &mut chunk.bytes);
            let count = read.map_err(|error| format!("line {number}: {error}"))?;
            if count == 0 {
                return Ok(Step::End(None));
            }
            if chunk.bytes.last() == Some(&b'\n') {
                chunk.bytes.pop();
            } else if count > LINE_BYTES_MAX {
                chunk.bytes.truncate(start);
                return Err(format!(
                    "line {number} is longer than {LINE_BYTES_MAX} bytes: this is no text"
                ));
            }
            Ok(Step::Message(input.buffer().is_empty()))
        })
    }

    /// `next` appends a message.
    #[allow(clippy::disallowed_methods, reason = "a thread that only reads")]
    fn read(
        unit: &'static str,
        mut next: impl FnMut(&mut Chunk) -> Result<Step, String> + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, found): (SyncSender<Found>, _) = sync_channel(CHUNKS);
        let (wake, mut waker) = io::pipe()?;
        std::thread::spawn(move || {
            let mut chunk = Chunk::default();
            loop {
                let step = next(&mut chunk);
                if let Ok(Step::Message(_)) = step {
                    chunk.ends.push(chunk.bytes.len());
                }
                let more = matches!(step, Ok(Step::Message(false)));
                let full = chunk.bytes.len() >= CHUNK_BYTES || chunk.ends.len() >= CHUNK_BYTES / 8;
                if (!more || full) && !chunk.ends.is_empty() {
                    let messages = std::mem::take(&mut chunk);
                    if !hand(&mut waker, &sender, Found::Messages(messages)) {
                        return;
                    }
                }
                let last = match step {
                    Ok(Step::Message(_)) => continue,
                    Ok(Step::End(said)) => Found::End(said),
                    Err(why) => Found::Failed(why),
                };
                hand(&mut waker, &sender, last);
                return;
            }
        });
        Ok(Self { found, wake, chunk: Chunk::default(), at: 0, unit, taken: 0 })
    }

    /// The next message, if there is one.
    ///
    /// # Errors
    /// Why nothing more can be read.
    pub(super) fn next(&mut self) -> Result<Next<'_>, String> {
        while self.at == self.chunk.ends.len() {
            let found = match self.found.try_recv() {
                Ok(found) => found,
                Err(TryRecvError::Empty) => return Ok(Next::NotYet),
                Err(TryRecvError::Disconnected) => return Ok(Next::End(None)),
            };
            // The thread wrote a byte before it handed this over.
            let _ = self.wake.read(&mut [0]);
            self.at = 0;
            self.chunk = match found {
                Found::Messages(chunk) => chunk,
                Found::End(said) => return Ok(Next::End(said)),
                Found::Failed(why) => return Err(why),
            };
        }
        let start = if self.at == 0 { 0 } else { self.chunk.ends[self.at - 1] };
        self.at += 1;
        self.taken += 1;
        Ok(Next::Message(&self.chunk.bytes[start..self.chunk.ends[self.at - 1]]))
    }

    /// Messages given so far.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Which was the last one given.
    pub(super) fn place(&self) -> String {
        format!("{} {}", self.unit, self.taken)
    }

    /// Readable when there is something to be asked for again.
    pub(super) fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

/// Wakes whoever waits and hands over what was found; `false` when nobody listens any more: the command has ended.
fn hand(waker: &mut PipeWriter, sender: &SyncSender<Found>, found: Found) -> bool {
    waker.write_all(&[0]).is_ok() && sender.send(found).is_ok()
}

/// An input that may not be ready (`O_NONBLOCK` on a pipe): it is waited for.
struct Patient(File);

impl Read for Patient {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(room) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    wait_readable(&[self.0.as_fd()], PATIENCE)?;
                }
                read => return read,
            }
        }
    }
}

fn open(path: &Path) -> Result<(Input, String), CommandError> {
    let name = path.display().to_string();
    let opened = if name == "-" {
        io::stdin().as_fd().try_clone_to_owned().map(File::from)
    } else {
        File::open(path)
    };
    let file = opened.map_err(|error| CommandError::Failed(format!("{name}: {error}")))?;
    Ok((BufReader::with_capacity(1 << 20, Box::new(Patient(file))), name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A system event of ITCH, with its length.
    const EVENT: [u8; 14] = [0, 12, b'S', 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, b'O'];

    fn input(bytes: impl Read + Send + 'static) -> Input {
        BufReader::with_capacity(64, Box::new(bytes))
    }

    fn all(mut source: Source) -> (Vec<Vec<u8>>, Option<String>) {
        let mut messages = Vec::new();
        loop {
            match source.next() {
                Ok(Next::Message(message)) => messages.push(message.to_vec()),
                Ok(Next::NotYet) => std::hint::spin_loop(),
                Ok(Next::End(_)) => return (messages, None),
                Err(why) => return (messages, Some(why)),
            }
        }
    }

    #[test]
    fn lines_come_whole_and_in_order() {
        let text = (0..100_000).map(|line| format!("line {line}\n")).collect::<String>() + "last";
        let (lines, error) = all(Source::lines(input(io::Cursor::new(text))).unwrap());
        assert_eq!((lines.len(), error), (100_001, None));
        assert_eq!(
            (lines[7].as_slice(), lines[100_000].as_slice()),
            (&b"line 7"[..], &b"last"[..])
        );
    }

    #[test]
    fn what_came_before_an_error_is_published() {
        let bytes = [&EVENT[..], &EVENT[..9]].concat();
        let (messages, error) = all(Source::itch(input(io::Cursor::new(bytes))).unwrap());
        assert_eq!(messages, [&EVENT[2..]]);
        assert!(error.is_some_and(|why| why.starts_with("byte 14:")));
        let text = "short\n".to_owned() + &"x".repeat(LINE_BYTES_MAX + 1);
        let (messages, error) = all(Source::lines(input(io::Cursor::new(text))).unwrap());
        assert_eq!(messages, [b"short"]);
        assert!(error.is_some_and(|why| why.starts_with("line 2 is longer")));
    }

    /// A pipe on which something is written now and then.
    #[test]
    fn a_message_does_not_wait_for_the_next() {
        let (reader, mut writer) = io::pipe().expect("a pipe");
        let mut source = Source::lines(input(reader)).unwrap();
        for line in ["one", "two"] {
            writer.write_all(format!("{line}\n").as_bytes()).expect("room");
            let found = loop {
                match source.next().expect("no error") {
                    Next::Message(message) => break message.to_vec(),
                    Next::NotYet => std::hint::spin_loop(),
                    Next::End(_) => panic!("the pipe is open"),
                }
            };
            assert_eq!(found, line.as_bytes());
            assert_eq!(source.next(), Ok(Next::NotYet));
        }
        drop(writer);
        wait_readable(&[source.wake()], Duration::from_secs(60)).expect("it wakes");
        assert_eq!(all(source), (Vec::new(), None));
    }
}
