//! `buslane serve`: an appliance until it is told to stop.

use std::io::IsTerminal;

use super::CommandError;
use super::progress::Progress as Bar;
use crate::admin::voice;
use crate::cli::Globals;
use crate::launch::{self, LaunchError, Progress};
use crate::log::recovery::Recovery;
use crate::profile;
use crate::report::{count_of, micros, thousands};

/// Bytes of a log that is made between two lines that say so.
const SAY_EVERY: u64 = 4 << 30;

pub(super) fn serve(globals: &Globals) -> Result<(), CommandError> {
    let profile = profile::load(globals.profile_or_default(), &globals.set)?;
    let quiet = globals.quiet;
    // From here on nobody waits for whoever reads stderr.
    voice::start().map_err(LaunchError::Housekeeping)?;
    let mut bar = None;
    launch::serve(&profile, &mut |progress| show(progress, "", quiet, &mut bar))?;
    Ok(())
}

/// Says one line, `of` whom it is of before it.
fn show(progress: Progress, of: &str, quiet: bool, bar: &mut Option<Bar>) {
    let tell = |quiet, what: &str| tell(quiet, &format!("{of}{what}"));
    match progress {
        Progress::Creating(path, done, all) => {
            if bar.is_none() {
                tell(quiet, &format!("making {} ({})", path.display(), bytes(all)));
            }
            bar.get_or_insert_with(|| Bar::new(quiet, "bytes", Some(all))).set(done);
            // Where no terminal shows the bar.
            if done.is_multiple_of(SAY_EVERY) && done < all && !std::io::stderr().is_terminal() {
                tell(
                    quiet,
                    &format!("making {}: {} of {}", path.display(), bytes(done), bytes(all)),
                );
            }
        }
        Progress::Opened(disk, recovery, took_ns) => {
            *bar = None;
            tell(quiet, &format!("{disk}: {}", opened(&recovery, took_ns)));
        }
        Progress::Ready(address, disk, durability, core) => {
            let core =
                core.map_or_else(|| "no core of its own".into(), |core| format!("core {core}"));
            // Said even when quiet: scripts wait for it.
            tell(false, &format!("ready on {address}, {disk} ({durability}), {core}"));
        }
        Progress::OfShard(shard, progress) => {
            show(*progress, &format!("shard {shard}: "), quiet, bar);
        }
        Progress::AllReady(address, shards, disk, durability) => tell(
            false,
            &format!(
                "ready on {address} to {}, {disk} ({durability}), {shards} shards",
                u32::from(address.port()) + shards - 1
            ),
        ),
        Progress::KeysMade(dir) => tell(
            quiet,
            &format!("made keys in {}; others get access by: buslane key authorize", dir.display()),
        ),
        Progress::InTheClear => tell(
            false,
            "warning: sessions in the clear are served (security): who reaches the port is believed",
        ),
        Progress::Warning(what) => tell(quiet, &format!("warning: {what}")),
        Progress::Failing(why) => tell(false, &format!("error: {why}")),
        Progress::Lost(disk, fault) => tell(
            false,
            &format!(
                "error: {disk}: {fault}; nothing is acknowledged until it is back, then serving goes on"
            ),
        ),
        Progress::Waiting(why) => tell(false, &format!("waiting: {why}")),
        Progress::Full(keeper) => tell(false, &full(keeper)),
        Progress::Room(bytes) => tell(
            false,
            &format!("the log takes messages again: there is room for {} bytes", thousands(bytes)),
        ),
        Progress::Stopping => tell(quiet, "stopping"),
    }
}

/// How a log was found, and how long it took to open it.
fn opened(recovery: &Recovery, took_ns: u64) -> String {
    let took = format!("{} us", micros(took_ns));
    if recovery.epoch == 1 {
        return format!("epoch 1, a new log, opened in {took}");
    }
    let stopped = if recovery.clean { "stopped cleanly" } else { "recovered" };
    let cut = if recovery.cut { ", an unacknowledged tail was cut" } else { "" };
    format!(
        "epoch {}, {stopped}, {} since it was made, {}, {} scanned in {took}{cut}",
        recovery.epoch,
        count_of(recovery.messages, "message"),
        count_of(recovery.segments as u64, "segment"),
        bytes(recovery.scanned_bytes),
    )
}

/// That a log is full, and what makes room.
fn full(keeper: Option<String>) -> String {
    let first =
        keeper.map_or_else(String::new, |name| format!(", first {name}, which keeps the oldest"));
    format!(
        "warning: the log is full; publishers wait, consumers are served; trim every stream{first} (buslane stream \
         trim), or take a larger disk (buslane log copy --size)"
    )
}

fn bytes(bytes: u64) -> String {
    crate::profile::units::format_bytes(bytes)
}

fn tell(quiet: bool, what: &str) {
    if !quiet {
        voice::say(what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_was_never_open_is_called_new_and_not_stopped() {
        let new = Recovery { epoch: 1, clean: true, ..Recovery::default() };
        assert_eq!(opened(&new, 5_000_000), "epoch 1, a new log, opened in 5,000.0 us");
        let again = Recovery { epoch: 2, messages: 3, segments: 1, scanned_bytes: 4096, ..new };
        let said = opened(&again, 1_000);
        assert_eq!(
            said,
            "epoch 2, stopped cleanly, 3 messages since it was made, 1 segment, 4KiB scanned in 1.0 us"
        );
        let cut = opened(&Recovery { clean: false, cut: true, ..again }, 1_000);
        assert!(cut.contains("recovered") && cut.ends_with("tail was cut"), "{cut}");
    }
}
