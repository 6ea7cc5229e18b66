//! `forebay top`: a live view of runs, queues and limits, and of what blocks them.
//!
//! Must always hold: it only reads; the terminal is restored when the command ends, by a key, a
//! signal, an error or a panic; keys work while it waits for an answer. Must not know: how the data
//! directory is queried, and how limits are counted.

mod blocks;
mod look;
mod screen;

use std::{
    io::{self, IsTerminal},
    sync::Arc,
    time::Duration,
};

use forebay::control::ControlError;
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
};
use signal_hook::consts::{SIGHUP, SIGTERM};
use thiserror::Error;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc, watch},
};

use self::look::View;
use super::{args::Global, exec::interrupt::Exit, logging};

/// Interval of drawing when nothing happens: the screen shows the age of the view.
const DRAW_EVERY: Duration = Duration::from_secs(1);
/// Maximum wait for the keyboard at a time.
const KEY_WAIT: Duration = Duration::from_millis(200);
/// Maximum number of keys read but not handled yet.
const KEYS_MAX: usize = 64;
/// Number of queues that a page key scrolls by.
const PAGE_ROWS: usize = 10;

/// Why there is no view.
#[derive(Debug, Error)]
pub(crate) enum TopError {
    #[error(
        "`forebay top` needs a terminal as standard output: use `forebay status`, \
         `queues`, `limits` or `runs`, which print once"
    )]
    NoTerminal,
    #[error(
        "`forebay top` prints no JSON: use `forebay status --json`, `queues --json` or \
         `limits --json`"
    )]
    Json,
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("the terminal cannot be used: {0}")]
    Terminal(#[from] io::Error),
    #[error("the view has failed; `forebay status` may say more")]
    Ended,
}

/// Shows the view until a key or a signal ends it.
///
/// # Errors
/// [`TopError`].
pub(crate) async fn top(global: &Global) -> Result<Exit, TopError> {
    if global.json {
        return Err(TopError::Json);
    }
    if !io::stdout().is_terminal() {
        return Err(TopError::NoTerminal);
    }
    if !global.data_dir.exists() {
        return Err(ControlError::Missing(global.data_dir.clone()).into());
    }
    if !io::stderr().is_terminal() {
        // On the terminal, logs would be written over the view.
        logging::start(global.log, io::stderr);
    }
    let again = Arc::new(Notify::new());
    let (found, views) = watch::channel(View::default());
    // A hook restores the terminal on a panic too.
    let mut terminal = ratatui::try_init()?;
    let looking = tokio::spawn(look::keep(global.data_dir.clone(), found, Arc::clone(&again)));
    let shown = show(&mut terminal, views, &again).await;
    let restored = restore(terminal);
    // It may have the directory open, which must be closed properly.
    let _ = looking.await;
    let exit = shown?;
    // A terminal that is gone cannot be restored.
    if !matches!(exit, Exit::Signal(SIGHUP)) {
        restored?;
    }
    Ok(exit)
}

/// Restores the terminal.
fn restore(mut terminal: DefaultTerminal) -> io::Result<()> {
    let cursor = terminal.show_cursor();
    let restored = ratatui::try_restore();
    if cursor.is_err() {
        // It is gone. Its destructor would print that, and panic where nothing can be printed.
        std::mem::forget(terminal);
    }
    cursor.and(restored)
}

async fn show(
    terminal: &mut DefaultTerminal,
    mut views: watch::Receiver<View>,
    again: &Notify,
) -> Result<Exit, TopError> {
    let mut terminated = signal(SignalKind::terminate())?;
    let mut hung_up = signal(SignalKind::hangup())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut keys = read_keys();
    let mut scrolled = 0_usize;
    loop {
        {
            let view = views.borrow_and_update();
            scrolled = scrolled.min(view.queues.len().saturating_sub(1));
            terminal.draw(|frame| screen::draw(frame, &view, scrolled))?;
        }
        tokio::select! {
            changed = views.changed() => changed.map_err(|_| TopError::Ended)?,
            () = tokio::time::sleep(DRAW_EVERY) => {}
            _ = terminated.recv() => return Ok(Exit::Signal(SIGTERM)),
            _ = hung_up.recv() => return Ok(Exit::Signal(SIGHUP)),
            _ = interrupted.recv() => return Ok(Exit::Code(0)),
            key = keys.recv() => match key.ok_or(TopError::Ended)?? {
                Key::Quit => return Ok(Exit::Code(0)),
                Key::Again => again.notify_one(),
                Key::Up(rows) => scrolled = scrolled.saturating_sub(rows),
                Key::Down(rows) => scrolled = scrolled.saturating_add(rows),
                Key::Redraw => {}
            },
        }
    }
}

/// The action of a key.
enum Key {
    Quit,
    Again,
    Up(usize),
    Down(usize),
    Redraw,
}

/// Reads the keyboard in a separate thread, until the receiver is dropped.
fn read_keys() -> mpsc::Receiver<io::Result<Key>> {
    let (pressed, keys) = mpsc::channel(KEYS_MAX);
    std::thread::spawn(move || {
        while !pressed.is_closed() {
            let key = match event::poll(KEY_WAIT) {
                Ok(false) => continue,
                Ok(true) => event::read().map(|event| key_of(&event)).transpose(),
                Err(error) => Some(Err(error)),
            };
            let Some(key) = key else { continue };
            let is_last = key.is_err();
            if pressed.blocking_send(key).is_err() || is_last {
                return;
            }
        }
    });
    keys
}

fn key_of(event: &Event) -> Option<Key> {
    let key = match event {
        Event::Resize(..) => return Some(Key::Redraw),
        Event::Key(key) if key.kind != KeyEventKind::Release => key,
        _ => return None,
    };
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Key::Quit),
        KeyCode::Char('q') | KeyCode::Esc => Some(Key::Quit),
        KeyCode::Char('r') => Some(Key::Again),
        KeyCode::Up | KeyCode::Char('k') => Some(Key::Up(1)),
        KeyCode::Down | KeyCode::Char('j') => Some(Key::Down(1)),
        KeyCode::PageUp => Some(Key::Up(PAGE_ROWS)),
        KeyCode::PageDown => Some(Key::Down(PAGE_ROWS)),
        KeyCode::Home => Some(Key::Up(usize::MAX)),
        KeyCode::End => Some(Key::Down(usize::MAX)),
        _ => None,
    }
}
