//! Reading the input on a thread of its own, for it may block for ever.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use thiserror::Error;
use tokio::sync::mpsc;

use super::{
    input::{Format, Input, InputError, Numbered, Reading},
    inside::Inside,
    item::{Plan, Prepared},
    show::LinesRead,
};

/// Items read ahead.
const AHEAD_MAX: usize = 4_096;
/// Bytes of items read ahead. One larger item alone is read all the same.
const AHEAD_BYTES_MAX: usize = 32 << 20;
/// What an item takes besides its arguments, in bytes.
const ITEM_BYTES: usize = 512;
/// Bytes read at a time.
const BUFFER_BYTES: usize = 256 * 1024;

/// The input cannot be opened.
#[derive(Debug, Error)]
#[error("cannot read {}: {source}; check the path and its permissions", .path.display())]
pub(crate) struct OpenInputError {
    path: PathBuf,
    source: io::Error,
}

/// What comes out of the input.
#[derive(Debug)]
pub(crate) enum Fed {
    /// An item, ready to be stored.
    Item(Box<Prepared>, Ahead),
    /// A line that is no item; the rest goes on. What is wrong with it, and where.
    Bad(String),
    /// What a person should know of the input.
    Note(String),
    /// An item that lies inside the data directory.
    Inside,
    /// The input broke; nothing follows.
    Broken(String),
}

/// How many bytes of items were read ahead.
#[derive(Debug, Default)]
struct Budget {
    used: Mutex<usize>,
    less: Condvar,
}

impl Budget {
    fn used(&self) -> MutexGuard<'_, usize> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is room for so many bytes. It comes: whoever has items drops them.
    fn take(self: &Arc<Self>, bytes: usize) -> Ahead {
        let has_no_room = |used: &mut usize| *used > 0 && *used + bytes > AHEAD_BYTES_MAX;
        let waited = self.less.wait_while(self.used(), has_no_room);
        *waited.unwrap_or_else(PoisonError::into_inner) += bytes;
        Ahead { budget: Arc::clone(self), bytes }
    }
}

/// An item's share of what may be read ahead; kept until the item is stored.
#[derive(Debug)]
pub(crate) struct Ahead {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Drop for Ahead {
    fn drop(&mut self) {
        *self.budget.used() -= self.bytes;
        self.budget.less.notify_one();
    }
}

/// Opens the input: `-` is standard input.
pub(crate) fn open(path: &Path) -> Result<Box<dyn BufRead + Send>, OpenInputError> {
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, io::stdin())));
    }
    let at = |source| OpenInputError { path: path.to_owned(), source };
    let file = File::open(path).map_err(at)?;
    if file.metadata().map_err(at)?.is_dir() {
        return Err(at(io::Error::from(io::ErrorKind::IsADirectory)));
    }
    Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, file)))
}

/// Reads the input on a thread of its own.
///
/// # Errors
/// When the thread cannot be started.
pub(crate) fn start(
    reader: Box<dyn BufRead + Send>,
    reading: Reading,
    plan: Plan,
    inside: Inside,
) -> io::Result<(mpsc::Receiver<Fed>, LinesRead)> {
    let (sender, receiver) = mpsc::channel(AHEAD_MAX);
    let lines = LinesRead::default();
    let counted = lines.clone();
    // Not joined: a read of a terminal or a pipe can last for ever.
    std::thread::Builder::new().name("forebay-input".to_owned()).spawn(move || {
        for fed in Feed::new(reader, reading, plan, inside, counted) {
            if sender.blocking_send(fed).is_err() {
                return;
            }
        }
    })?;
    Ok((receiver, lines))
}

/// The input as items that are ready to be stored.
struct Feed {
    input: Input<Box<dyn BufRead + Send>>,
    format: Format,
    plan: Plan,
    inside: Inside,
    budget: Arc<Budget>,
    /// Comes after a note.
    held: Option<Fed>,
    lines: LinesRead,
}

impl Feed {
    fn new(
        reader: Box<dyn BufRead + Send>,
        reading: Reading,
        plan: Plan,
        inside: Inside,
        lines: LinesRead,
    ) -> Self {
        let (input, budget) = (Input::new(reader, reading), Arc::default());
        Self { input, format: reading.format, plan, inside, budget, held: None, lines }
    }

    fn fed(&self, next: Result<Numbered, InputError>) -> Fed {
        match next {
            Ok(numbered) if self.inside.has_one_of(numbered.item.args()) => Fed::Inside,
            Ok(numbered) => match self.plan.prepare(&numbered) {
                Ok(prepared) => {
                    let argv = prepared.job.argv.iter();
                    let bytes = argv.map(bytes::Bytes::len).sum::<usize>() + ITEM_BYTES;
                    let ahead = self.budget.take(bytes);
                    Fed::Item(Box::new(prepared), ahead)
                }
                Err(error) => {
                    Fed::Bad(format!("{} {}: {error}", self.format.unit(), numbered.number))
                }
            },
            Err(error @ InputError::Bad { .. }) => Fed::Bad(error.to_string()),
            Err(error @ InputError::Read { .. }) => Fed::Broken(error.to_string()),
        }
    }
}

impl Iterator for Feed {
    type Item = Fed;

    fn next(&mut self) -> Option<Fed> {
        if let Some(held) = self.held.take() {
            return Some(held);
        }
        let next = self.input.next();
        self.lines.set(self.input.number());
        let note = self.input.take_note();
        let fed = next.map(|next| self.fed(next));
        let Some(note) = note else { return fed };
        self.held = fed;
        Some(Fed::Note(note))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Items were counted and their bytes were not: 4,096 items of 1 MiB took 4 GiB.
    #[test]
    fn large_items_are_read_ahead_only_up_to_a_number_of_bytes() {
        const LEN: usize = AHEAD_BYTES_MAX / 4;
        let budget = Arc::new(Budget::default());
        let mut taken: Vec<Ahead> = (0..4).map(|_| budget.take(LEN)).collect();
        let (sender, receiver) = std::sync::mpsc::channel();
        let other = Arc::clone(&budget);
        let reader = std::thread::spawn(move || {
            let fifth = other.take(LEN);
            sender.send(()).unwrap();
            drop(fifth);
        });
        let waits = std::time::Duration::from_millis(50);
        assert!(receiver.recv_timeout(waits).is_err(), "there is no room for a fifth");
        taken.pop();
        receiver.recv().unwrap();
        reader.join().unwrap();
        drop(taken);
        assert_eq!(*budget.used(), 0);
        drop(budget.take(2 * AHEAD_BYTES_MAX));
    }
}
