//! Where results go: stdout, locked once and buffered, or a file.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, StdoutLock, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use super::CommandError;
use crate::port::udp::wait_writable;
use crate::printable::printable;

const BUFFER_BYTES: usize = 256 << 10;

/// Results on their way out. What is written is complete only after [`Out::finish`]: an error of the last
/// bytes is an error of the command.
#[derive(Debug)]
pub struct Out {
    writer: Writer,
}

#[derive(Debug)]
enum Writer {
    Stdout(BufWriter<Patient<StdoutLock<'static>>>),
    File(BufWriter<File>),
}

/// An output that may not be ready is looked after so often, also when nobody says that it is.
const PATIENCE: Duration = Duration::from_secs(1);

/// An output that may not be ready (`O_NONBLOCK` on a pipe or terminal): it is waited for.
#[derive(Debug)]
struct Patient<W>(W);

impl<W: Write + AsFd> Patient<W> {
    fn insist<T>(&mut self, mut action: impl FnMut(&mut W) -> io::Result<T>) -> io::Result<T> {
        loop {
            match action(&mut self.0) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    wait_writable(self.0.as_fd(), PATIENCE)?;
                }
                done => return done,
            }
        }
    }
}

impl<W: Write + AsFd> Write for Patient<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.insist(|writer| writer.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.insist(Write::flush)
    }
}

impl Out {
    /// Results to stdout.
    #[must_use]
    pub fn stdout() -> Self {
        let writer = BufWriter::with_capacity(BUFFER_BYTES, Patient(io::stdout().lock()));
        Self { writer: Writer::Stdout(writer) }
    }

    /// Results to a file, made or overwritten; `-` is stdout.
    ///
    /// # Errors
    /// `CommandError::Failed` when the file cannot be written.
    pub fn file(path: &Path) -> Result<Self, CommandError> {
        if path == Path::new("-") {
            return Ok(Self::stdout());
        }
        let file = File::create(path)
            .map_err(|error| CommandError::Failed(format!("{}: {error}", path.display())))?;
        Ok(Self { writer: Writer::File(BufWriter::with_capacity(BUFFER_BYTES, file)) })
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// `CommandError`, `OutputClosed` when nobody reads any more.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), CommandError> {
        self.writer().write_all(bytes).map_err(|error| CommandError::output(&error))
    }

    /// Writes text for people: what of it would be a command to their terminal is shown instead.
    ///
    /// # Errors
    /// As [`Out::bytes`].
    pub fn text(&mut self, text: &str) -> Result<(), CommandError> {
        self.bytes(printable(text).as_bytes())
    }

    /// Writes text for people and a line end.
    ///
    /// # Errors
    /// As [`Out::bytes`].
    pub fn line(&mut self, text: &str) -> Result<(), CommandError> {
        self.text(text)?;
        self.bytes(b"\n")
    }

    /// Writes one JSON object on a line of its own.
    ///
    /// # Errors
    /// As [`Out::bytes`].
    pub fn json<T: serde::Serialize>(&mut self, value: &T) -> Result<(), CommandError> {
        let text = serde_json::to_string(value).map_err(io::Error::from);
        self.bytes(text.map_err(|error| CommandError::output(&error))?.as_bytes())?;
        self.bytes(b"\n")
    }

    /// Hands on what is buffered, so that a reader sees it now.
    ///
    /// # Errors
    /// As [`Out::bytes`].
    pub fn flush(&mut self) -> Result<(), CommandError> {
        self.writer().flush().map_err(|error| CommandError::output(&error))
    }

    /// The last call: hands on what is buffered.
    ///
    /// # Errors
    /// As [`Out::bytes`].
    pub fn finish(mut self) -> Result<(), CommandError> {
        self.flush()
    }

    fn writer(&mut self) -> &mut dyn Write {
        match &mut self.writer {
            Writer::Stdout(writer) => writer,
            Writer::File(writer) => writer,
        }
    }
}
