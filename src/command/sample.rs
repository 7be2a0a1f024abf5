//! `buslane sample`: input to play with.
#![allow(clippy::big_endian_bytes, reason = "ITCH is big-endian")]

use super::progress::Progress;
use super::{CommandError, Out};
use crate::cli::Globals;
use crate::cli::arguments::SampleOrdersArgs;
use crate::itch::orders::OrderFlow;

/// How often progress is told, in messages.
const PROGRESS_EVERY: u64 = 4096;

/// `sample orders`: an ITCH 5.0 file.
pub(super) fn orders(globals: &Globals, args: &SampleOrdersArgs) -> Result<(), CommandError> {
    let mut out = Out::file(&args.out)?;
    let progress = Progress::new(globals.quiet, "messages", Some(args.count));
    let mut flow = OrderFlow::new(args.count, args.seed);
    let mut written = 0;
    while let Some(message) = flow.next_message() {
        let length = u16::try_from(message.len()).expect("at most 50 bytes");
        out.bytes(&length.to_be_bytes())?;
        out.bytes(message)?;
        written += 1;
        if written % PROGRESS_EVERY == 0 {
            progress.set(written);
        }
    }
    // The end, marked as the exchange does: a file that is cut is noticed.
    out.bytes(&[0; 2])?;
    out.finish()
}

#[cfg(test)]
mod tests {
    use crate::itch::{ItchReader, message_bytes};

    #[test]
    fn what_is_written_is_read_back() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("orders.itch50");
        let cli: crate::cli::Cli = clap::Parser::parse_from([
            "buslane",
            "sample",
            "orders",
            "-q",
            "--count",
            "5k",
            "--seed",
            "9",
            "--out",
            path.to_str().unwrap(),
        ]);
        crate::command::run(&cli).unwrap();
        let file = std::fs::read(&path).unwrap();
        let mut reader = ItchReader::new(file.as_slice());
        let mut count = 0;
        while let Some(message) = reader.next_message().unwrap() {
            assert_eq!(message_bytes(message[0]), Some(message.len()));
            count += 1;
        }
        assert_eq!(count, 5_000);
        assert!(reader.is_ended());
        assert_eq!(reader.offset(), u64::try_from(file.len()).unwrap());
    }
}
