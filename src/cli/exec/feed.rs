//! Reading the input on a thread of its own, for it may block for ever.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
};

use thiserror::Error;
use tokio::sync::mpsc;

use super::{
    input::{Format, Input, InputError},
    item::{Plan, Prepared},
};

/// Items read ahead.
const AHEAD_MAX: usize = 4_096;
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
    Item(Box<Prepared>),
    /// A line that is no item; the rest goes on. What is wrong with it, and where.
    Bad(String),
    /// The input broke; nothing follows.
    Broken(String),
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
    format: Format,
    plan: Plan,
) -> io::Result<mpsc::Receiver<Fed>> {
    let (sender, receiver) = mpsc::channel(AHEAD_MAX);
    // Not joined: a read of a terminal or a pipe can last for ever.
    std::thread::Builder::new().name("forebay-input".to_owned()).spawn(move || {
        for fed in Feed::new(reader, format, plan) {
            if sender.blocking_send(fed).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// The input as items that are ready to be stored.
struct Feed {
    input: Input<Box<dyn BufRead + Send>>,
    format: Format,
    plan: Plan,
}

impl Feed {
    fn new(reader: Box<dyn BufRead + Send>, format: Format, plan: Plan) -> Self {
        Self { input: Input::new(reader, format), format, plan }
    }
}

impl Iterator for Feed {
    type Item = Fed;

    fn next(&mut self) -> Option<Fed> {
        Some(match self.input.next()? {
            Ok(numbered) => match self.plan.prepare(&numbered) {
                Ok(prepared) => Fed::Item(Box::new(prepared)),
                Err(error) => {
                    Fed::Bad(format!("{} {}: {error}", self.format.unit(), numbered.number))
                }
            },
            Err(error @ InputError::Bad { .. }) => Fed::Bad(error.to_string()),
            Err(error @ InputError::Read { .. }) => Fed::Broken(error.to_string()),
        })
    }
}
