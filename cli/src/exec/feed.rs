//! Reading the input on a separate thread, because it may block forever.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use thiserror::Error;
use tokio::sync::mpsc;

use super::{
    input::{Format, Input, InputError, Numbered, Reading},
    inside::Inside,
    item::{ItemError, Plan, Prepared},
    show::LinesRead,
};

/// Maximum number of items read ahead.
const AHEAD_MAX: usize = 4_096;
/// Maximum bytes of items read ahead. A single larger item is read anyway.
const AHEAD_BYTES_MAX: usize = 32 << 20;
/// Bytes of an item in addition to its arguments.
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

/// A result of reading the input.
#[derive(Debug)]
pub(crate) enum Fed {
    /// An item, ready to be stored.
    Item(Box<Prepared>, Ahead),
    /// A line that is not an item, with the reason and its position; reading continues.
    Bad(String),
    /// Something about the input that the user should know.
    Note(String),
    /// An item inside the data directory.
    Inside,
    /// Reading failed; nothing follows.
    Broken(String),
}

/// Bytes of items read ahead.
#[derive(Debug, Default)]
struct Budget {
    used: Mutex<usize>,
    less: Condvar,
}

impl Budget {
    fn used(&self) -> MutexGuard<'_, usize> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is room for this many bytes. There will be: items are dropped eventually.
    fn take(self: &Arc<Self>, bytes: usize) -> Ahead {
        let has_no_room = |used: &mut usize| *used > 0 && *used + bytes > AHEAD_BYTES_MAX;
        let waited = self.less.wait_while(self.used(), has_no_room);
        *waited.unwrap_or_else(PoisonError::into_inner) += bytes;
        Ahead { budget: Arc::clone(self), bytes }
    }
}

/// An item's share of the bytes read ahead; kept until the item is stored.
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

/// Assigns the numbers of a run's items: the line numbers, while no other items are added; all
/// numbers are different.
#[derive(Clone, Debug, Default)]
struct Numbers(Arc<AtomicU64>);

impl Numbers {
    /// The next one, at least `least`.
    fn next(&self, least: u64) -> u64 {
        let next = |last: u64| least.max(last + 1);
        let last =
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
        next(last.unwrap_or_default())
    }
}

/// Converts input into items of a run, for its own input and for added items.
#[derive(Clone, Debug)]
pub(crate) struct Adder {
    reading: Reading,
    plan: Plan,
    inside: Inside,
    numbers: Numbers,
}

impl Adder {
    /// For a run with this way of reading its input.
    pub(crate) fn new(reading: Reading, plan: Plan, inside: Inside) -> Self {
        Self { reading, plan, inside, numbers: Numbers::default() }
    }

    /// How the input is read.
    pub(crate) fn reading(&self) -> Reading {
        self.reading
    }
}

/// Reads the input on a separate thread.
///
/// # Errors
/// When the thread cannot be started.
pub(crate) fn start(
    reader: Box<dyn BufRead + Send>,
    adder: &Adder,
) -> io::Result<(mpsc::Receiver<Fed>, LinesRead)> {
    let lines = LinesRead::default();
    let feed = Feed::new(reader, adder.reading, adder, lines.clone());
    Ok((spawn(feed)?, lines))
}

/// Reads items that are added to a run, on a separate thread.
///
/// # Errors
/// When the thread cannot be started.
pub(crate) fn start_added(
    reader: Box<dyn BufRead + Send>,
    reading: Reading,
    adder: &Adder,
) -> io::Result<mpsc::Receiver<Fed>> {
    let feed = Feed::new(reader, reading, adder, LinesRead::default());
    spawn(Feed { is_added: true, ..feed })
}

fn spawn(feed: Feed) -> io::Result<mpsc::Receiver<Fed>> {
    let (sender, receiver) = mpsc::channel(AHEAD_MAX);
    // Not joined: a read of a terminal or a pipe can take forever.
    std::thread::Builder::new().name("forebay-input".to_owned()).spawn(move || {
        for fed in feed {
            if sender.blocking_send(fed).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// The input as items ready to be stored.
struct Feed {
    input: Input<Box<dyn BufRead + Send>>,
    format: Format,
    adder: Adder,
    /// They are added items, not lines of the run's input.
    is_added: bool,
    budget: Arc<Budget>,
    /// Comes after a note.
    held: Option<Fed>,
    lines: LinesRead,
}

impl Feed {
    fn new(
        reader: Box<dyn BufRead + Send>,
        reading: Reading,
        adder: &Adder,
        lines: LinesRead,
    ) -> Self {
        let (input, budget) = (Input::new(reader, reading), Arc::default());
        let (format, adder) = (reading.format, adder.clone());
        Self { input, format, adder, is_added: false, budget, held: None, lines }
    }

    /// An item under the number that it has in the run.
    fn prepared(&self, Numbered { number, item }: Numbered) -> Result<Prepared, ItemError> {
        let number = self.adder.numbers.next(if self.is_added { 0 } else { number });
        self.adder.plan.prepare(&Numbered { number, item: item.at(number) })
    }

    fn fed(&self, next: Result<Numbered, InputError>) -> Fed {
        match next {
            Ok(numbered) if self.adder.inside.has_one_of(numbered.item.args()) => Fed::Inside,
            Ok(numbered) => match (numbered.number, self.prepared(numbered)) {
                (_, Ok(prepared)) => {
                    let argv = prepared.job.argv.iter();
                    let bytes = argv.map(bytes::Bytes::len).sum::<usize>() + ITEM_BYTES;
                    let ahead = self.budget.take(bytes);
                    Fed::Item(Box::new(prepared), ahead)
                }
                (number, Err(error)) => {
                    Fed::Bad(format!("{} {number}: {error}", self.format.unit()))
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

    #[test]
    fn no_two_items_have_the_same_number() {
        let numbers = Numbers::default();
        assert_eq!([1, 2, 5].map(|line| numbers.next(line)), [1, 2, 5], "lines alone keep theirs");
        assert_eq!([0, 0].map(|_| numbers.next(0)), [6, 7], "added ones come behind");
        assert_eq!([6, 7, 20].map(|line| numbers.next(line)), [8, 9, 20]);
    }

    /// Regression: items were counted, but not their bytes: 4,096 items of 1 MiB took 4 GiB.
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
