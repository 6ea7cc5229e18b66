//! The input: a stream of items, read as it comes.
//!
//! Owns: how bytes become items, and the number of each. Must always hold: memory is
//! bounded by one item; every bad item is reported with its number and the reading
//! goes on behind it; only a failed read ends it. Must not know: templates, entries.
//!
//! Lines end with `\n`; a `\r` before it is part of the line (file names may end so).
//! Empty lines are skipped, empty NUL-separated items are not. The last item needs no
//! terminator. Lines may hold any bytes but NUL, JSON is UTF-8.

use std::io::{self, BufRead};

use serde_json::Value;
use thiserror::Error;

use super::template::{Fields, Item};

/// Longest item of the input, in bytes without its terminator. (Linux gives a single
/// argument 128 KiB; an object may hold several.)
pub(crate) const ITEM_BYTES_MAX: usize = 1024 * 1024;

/// How items are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// One argument per line.
    Lines,
    /// NUL-terminated arguments.
    Nul,
    /// One JSON object per line.
    Ndjson,
}

/// An item and its place in the input.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Numbered {
    /// Line (or, NUL-separated, item) number, from 1; skipped ones count.
    pub(crate) number: u64,
    /// The item.
    pub(crate) item: Item,
}

/// What is wrong with one item; the rest of the input can still be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum BadItem {
    /// Too long.
    #[error("the item has more than {ITEM_BYTES_MAX} bytes")]
    TooLong,
    /// An argument cannot hold a NUL byte.
    #[error("a NUL byte; for NUL-separated input use -0")]
    Nul,
    /// A NUL escape in a JSON string that becomes an argument.
    #[error("`args` element {index} holds a NUL character, which no argument can")]
    NulInArgs {
        /// Which one, from 1.
        index: usize,
    },
    /// Not JSON.
    #[error("no valid JSON: {message} (column {column})")]
    Json {
        /// What the parser said.
        message: String,
        /// Where, in bytes from 1.
        column: usize,
    },
    /// JSON, but no object.
    #[error("JSON, but not an object: an item is written {{\"args\": [\"…\"]}}")]
    NotAnObject,
    /// `args` is no array of scalars.
    #[error("`args` must be an array of strings or numbers")]
    Args,
}

/// Why there is no next item.
#[derive(Debug, Error)]
pub(crate) enum InputError {
    /// A bad item; the next call goes on behind it.
    #[error("{unit} {number}: {reason}")]
    Bad {
        /// Line or item.
        unit: &'static str,
        /// Its number.
        number: u64,
        /// What is wrong.
        reason: BadItem,
    },
    /// Reading failed; there will be no more items.
    #[error("cannot read the input after {unit} {number}: {source}")]
    Read {
        /// Line or item.
        unit: &'static str,
        /// Number of the last one that was read.
        number: u64,
        /// Why.
        source: io::Error,
    },
}

impl Format {
    /// What a number counts: lines or items.
    #[must_use]
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Lines | Self::Ndjson => "line",
            Self::Nul => "item",
        }
    }

    fn terminator(self) -> u8 {
        match self {
            Self::Lines | Self::Ndjson => b'\n',
            Self::Nul => 0,
        }
    }
}

/// Reads items one by one.
#[derive(Debug)]
pub(crate) struct Input<R> {
    reader: R,
    format: Format,
    number: u64,
    ended: bool,
}

impl<R: BufRead> Input<R> {
    /// Items of `reader`.
    pub(crate) fn new(reader: R, format: Format) -> Self {
        Self { reader, format, number: 0, ended: false }
    }

    /// Reads up to the next terminator. `None` at the end of the input.
    fn record(&mut self) -> io::Result<Option<Result<Vec<u8>, BadItem>>> {
        let terminator = self.format.terminator();
        let mut record = Vec::new();
        let mut too_long = false;
        let mut begun = false;
        loop {
            let chunk = match self.reader.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if chunk.is_empty() && !begun {
                return Ok(None);
            }
            begun = true;
            let end = chunk.iter().position(|byte| *byte == terminator);
            let (taken, used) = end.map_or((chunk.len(), chunk.len()), |at| (at, at + 1));
            too_long |= record.len() + taken > ITEM_BYTES_MAX;
            if !too_long {
                record.extend_from_slice(&chunk[..taken]);
            }
            let last = end.is_some() || chunk.is_empty();
            self.reader.consume(used);
            if last {
                return Ok(Some(if too_long { Err(BadItem::TooLong) } else { Ok(record) }));
            }
        }
    }

    fn item(&self, record: Vec<u8>) -> Result<Item, BadItem> {
        match self.format {
            Format::Lines if record.contains(&0) => Err(BadItem::Nul),
            Format::Lines | Format::Nul => Ok(Item::line(record)),
            Format::Ndjson => object(&record),
        }
    }

    fn skips(&self, record: &[u8]) -> bool {
        match self.format {
            Format::Lines => record.is_empty(),
            Format::Ndjson => record.iter().all(u8::is_ascii_whitespace),
            Format::Nul => false,
        }
    }
}

impl<R: BufRead> Iterator for Input<R> {
    type Item = Result<Numbered, InputError>;

    fn next(&mut self) -> Option<Self::Item> {
        let unit = self.format.unit();
        while !self.ended {
            let record = match self.record() {
                Ok(Some(record)) => record,
                Ok(None) => break,
                Err(source) => {
                    self.ended = true;
                    return Some(Err(InputError::Read { unit, number: self.number, source }));
                }
            };
            self.number += 1;
            let number = self.number;
            if record.as_ref().is_ok_and(|record| self.skips(record)) {
                continue;
            }
            let item = record.and_then(|record| self.item(record));
            return Some(match item {
                Ok(item) => Ok(Numbered { number, item }),
                Err(reason) => Err(InputError::Bad { unit, number, reason }),
            });
        }
        self.ended = true;
        None
    }
}

fn object(record: &[u8]) -> Result<Item, BadItem> {
    let value: Value = serde_json::from_slice(record).map_err(|error| {
        let message = error.to_string();
        // serde_json appends the place, and its line is always 1 here.
        let place = message.rfind(" at line ").unwrap_or(message.len());
        BadItem::Json { message: message[..place].to_owned(), column: error.column() }
    })?;
    let Value::Object(fields) = value else {
        return Err(BadItem::NotAnObject);
    };
    Ok(Item::object(args(&fields)?, fields))
}

fn args(fields: &Fields) -> Result<Vec<Vec<u8>>, BadItem> {
    let values = match fields.get("args") {
        None => return Ok(Vec::new()),
        Some(Value::Array(values)) => values,
        Some(_) => return Err(BadItem::Args),
    };
    let text = |(index, value): (usize, &Value)| match value {
        Value::String(text) if text.contains('\0') => Err(BadItem::NulInArgs { index: index + 1 }),
        Value::String(text) => Ok(text.clone().into_bytes()),
        Value::Number(_) | Value::Bool(_) => Ok(value.to_string().into_bytes()),
        Value::Null | Value::Array(_) | Value::Object(_) => Err(BadItem::Args),
    };
    values.iter().enumerate().map(text).collect()
}

#[cfg(test)]
mod tests;
