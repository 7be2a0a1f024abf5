//! `buslane top`: what an appliance on this host does, on a terminal, as it happens.
//!
//! One thread asks the appliance twice a second, as `stat` does; this one draws and listens to keys, so that an
//! appliance that does not answer never holds the keys up. The terminal is put back however it ends: by `q`,
//! by a signal, by an error, by a panic.

mod model;
mod tables;
#[cfg(test)]
mod tests;
mod view;

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::CommandError;
use super::ask::{AdminClient, Views};
use crate::cli::arguments::TopArgs;
use crate::cli::{Globals, Output};
use model::Model;

/// Between two questions to the appliance: its shards report once a second.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Between two looks at keys, signals and answers.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long it may take to end in order.
const END_WITHIN: Duration = Duration::from_secs(1);

pub(super) fn top(globals: &Globals, args: &TopArgs) -> Result<(), CommandError> {
    if globals.output() != Output::Text || !io::stdout().is_terminal() {
        let what = "top draws on a terminal, and stdout is none, or -o asks for something else; use `buslane \
                    stat`, `buslane stat --watch` or `buslane stat -o json`";
        return Err(CommandError::Usage(what.to_owned()));
    }
    let admin = AdminClient::new(globals)?;
    let stop = catch_signals()?;
    end_without_terminal(Arc::clone(&stop));
    let answers = ask_for_ever(admin);
    let mut terminal = ratatui::try_init().map_err(|error| CommandError::output(&error))?;
    let shown = show(&mut terminal, &mut Model::new(args.view), &answers, &stop);
    ratatui::restore();
    shown.map_err(|error| CommandError::output(&error))
}

/// A flag that any signal to end sets. The terminal has to be put back first, so none ends the process itself.
fn catch_signals() -> Result<Arc<AtomicBool>, CommandError> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|error| CommandError::Failed(format!("catching signals: {error}")))?;
    }
    Ok(stop)
}

/// Ends the process where it was told to, or its terminal is gone, and it goes on all the same: whoever waits for keys
/// of a terminal that goes away reads its end again and again, and sees no flag.
#[allow(clippy::disallowed_methods, reason = "what it looks after may hang")]
fn end_without_terminal(stop: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) && io::stdout().is_terminal() {
            std::thread::sleep(LOOK_EVERY);
        }
        std::thread::sleep(END_WITHIN);
        ratatui::restore();
        std::process::exit(130);
    });
}

type Answer = Result<Views, String>;

#[allow(clippy::disallowed_methods, reason = "an appliance that hangs must not hold the keys up")]
fn ask_for_ever(admin: AdminClient) -> Receiver<Answer> {
    let (answers_in, answers) = sync_channel(1);
    std::thread::spawn(move || {
        while answer(&admin, &answers_in) {
            std::thread::sleep(ASK_EVERY);
        }
    });
    answers
}

/// Asks once; `false` when nobody wants to know any more.
fn answer(admin: &AdminClient, answers: &SyncSender<Answer>) -> bool {
    answers.send(admin.views().map_err(|error| error.to_string())).is_ok()
}

fn show(
    terminal: &mut DefaultTerminal,
    model: &mut Model,
    answers: &Receiver<Answer>,
    stop: &AtomicBool,
) -> io::Result<()> {
    // Only a flag: it orders nothing but itself.
    while !model.is_over && !stop.load(Ordering::Relaxed) {
        for answer in answers.try_iter() {
            model.take_in(answer);
        }
        terminal.draw(|frame| view::draw(frame, model))?;
        if event::poll(LOOK_EVERY)?
            && let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
        {
            model.press(key);
        }
    }
    Ok(())
}
