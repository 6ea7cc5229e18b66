//! The input: a stream of items, read as it arrives.
//!
//! Owns: how bytes become items, and the number of each. Must always hold: memory is bounded by one
//! item; every bad item is reported with its number and reading continues after it; only a failed
//! read ends it. Must not know: templates, entries.
//!
//! Lines end with `\n`; a `\r` before it is part of the line (file names may end in one), unless it
//! is to be removed. Empty lines are skipped, empty items that end with NUL or another delimiter
//! are not. The last item needs no terminator; with another delimiter than a newline or NUL, the
//! newline at the very end of the input is not part of it. Lines may contain any bytes but NUL,
//! JSON is UTF-8. Several lines can make one item.

use std::{
    io::{self, BufRead},
    num::NonZeroUsize,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use super::template::{Fields, Item};

/// Maximum length of an input item, in bytes without its terminator. (Linux allows 128 KiB for a
/// single argument; an object may contain several.)
pub(crate) const ITEM_BYTES_MAX: usize = 1024 * 1024;

/// How items are separated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Format {
    /// One argument per line.
    Lines,
    /// NUL-terminated arguments.
    Nul,
    /// Arguments that end with another byte.
    Delimited(u8),
    /// One JSON object per line.
    Ndjson,
}

/// How an input is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// How items are separated.
    pub(crate) format: Format,
    /// Whether a `\r` before the end of a line is removed.
    pub(crate) crlf: bool,
    /// This many lines (or items) make one item, with one argument each.
    pub(crate) per_item: NonZeroUsize,
}

impl From<Format> for Reading {
    fn from(format: Format) -> Self {
        Self { format, crlf: false, per_item: NonZeroUsize::MIN }
    }
}

/// An item and its position in the input.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Numbered {
    /// Line (or, NUL-separated, item) number, from 1; skipped ones count. For several lines the
    /// number of the first.
    pub(crate) number: u64,
    /// The item.
    pub(crate) item: Item,
}

/// Why one item is bad; the rest of the input can still be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum BadItem {
    /// Too long.
    #[error("the item has more than {ITEM_BYTES_MAX} bytes")]
    TooLong,
    /// An argument cannot hold a NUL byte.
    #[error("a NUL byte; for NUL-separated input use -0")]
    Nul,
    /// Several lines together are too long.
    #[error("the items from here on have more than {ITEM_BYTES_MAX} bytes together: lower -n")]
    TogetherTooLong,
    /// A NUL escape in a JSON string that is an argument.
    #[error("`args` element {index} holds a NUL character, which no argument can")]
    NulInArgs {
        /// The index, from 1.
        index: usize,
    },
    /// Not JSON.
    #[error("not valid JSON: {message} (column {column})")]
    Json {
        /// The message of the parser.
        message: String,
        /// The position, in bytes from 1.
        column: usize,
    },
    /// JSON, but not an object.
    #[error("JSON, but not an object: an item is written {{\"args\": [\"…\"]}}")]
    NotAnObject,
    /// `args` is not an array of scalars.
    #[error("`args` must be an array of strings or numbers")]
    Args,
}

/// Why there is no next item.
#[derive(Debug, Error)]
pub(crate) enum InputError {
    /// A bad item; the next call continues after it.
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
        /// Number of the last one read.
        number: u64,
        /// Why.
        source: io::Error,
    },
}

impl Format {
    /// The unit of the number: lines or items.
    #[must_use]
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Lines | Self::Ndjson => "line",
            Self::Nul | Self::Delimited(_) => "item",
        }
    }

    fn terminator(self) -> u8 {
        match self {
            Self::Lines | Self::Ndjson => b'\n',
            Self::Nul => 0,
            Self::Delimited(byte) => byte,
        }
    }
}

/// The bytes between two terminators.
#[derive(Debug)]
struct Record {
    bytes: Vec<u8>,
    /// Without a terminator: it is the last one.
    is_cut: bool,
}

/// Lines of an unfinished item, with the number of the first.
#[derive(Debug, Default)]
struct Group {
    number: u64,
    lines: usize,
    bytes: usize,
    /// Kept while they are not too long in total.
    args: Vec<Vec<u8>>,
}

/// Reads items one by one.
#[derive(Debug)]
pub(crate) struct Input<R> {
    reader: R,
    reading: Reading,
    number: u64,
    ended: bool,
    group: Group,
    /// The number of the first line that ends with `\r`, until it was reported.
    crlf_at: Option<u64>,
    /// Such a line was reported.
    crlf_reported: bool,
}

impl<R: BufRead> Input<R> {
    /// Items of `reader`.
    pub(crate) fn new(reader: R, reading: impl Into<Reading>) -> Self {
        let (reading, group) = (reading.into(), Group::default());
        let (crlf_at, crlf_reported) = (None, false);
        Self { reader, reading, number: 0, ended: false, group, crlf_at, crlf_reported }
    }

    /// Number of lines (or items) read.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// A note about the input for the user, once.
    pub(crate) fn take_note(&mut self) -> Option<String> {
        let number = self.crlf_at.take()?;
        self.crlf_reported = true;
        Some(format!(
            "line {number} ends with CR LF, as files from Windows do: the CR is part of the \
             item; --crlf removes it"
        ))
    }

    /// Reads up to the next terminator. `None` at the end of the input.
    fn record(&mut self) -> io::Result<Option<Result<Record, BadItem>>> {
        let terminator = self.reading.format.terminator();
        let mut bytes = Vec::new();
        let mut too_long = false;
        let mut begun = false;
        loop {
            let chunk = match self.reader.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let is_cut = chunk.is_empty();
            if is_cut && !begun {
                return Ok(None);
            }
            begun = true;
            let end = chunk.iter().position(|byte| *byte == terminator);
            let (taken, used) = end.map_or((chunk.len(), chunk.len()), |at| (at, at + 1));
            too_long |= bytes.len() + taken > ITEM_BYTES_MAX;
            if !too_long {
                bytes.extend_from_slice(&chunk[..taken]);
            }
            self.reader.consume(used);
            if end.is_some() || is_cut {
                let record = Record { bytes, is_cut };
                return Ok(Some(if too_long { Err(BadItem::TooLong) } else { Ok(record) }));
            }
        }
    }

    /// The record without parts that do not count; `None` when nothing is left.
    fn trimmed(&mut self, record: Record) -> Option<Vec<u8>> {
        let Record { mut bytes, is_cut } = record;
        match self.reading.format {
            Format::Lines => {
                if bytes.last() == Some(&b'\r') {
                    if self.reading.crlf {
                        bytes.pop();
                    } else if !self.crlf_reported {
                        self.crlf_at.get_or_insert(self.number);
                    }
                }
                (!bytes.is_empty()).then_some(bytes)
            }
            Format::Ndjson => (!bytes.iter().all(u8::is_ascii_whitespace)).then_some(bytes),
            Format::Delimited(_) if is_cut && bytes.last() == Some(&b'\n') => {
                bytes.pop();
                (!bytes.is_empty()).then_some(bytes)
            }
            Format::Delimited(_) | Format::Nul => Some(bytes),
        }
    }

    /// One line as an item, or as a part of an unfinished one.
    fn item(&mut self, record: Vec<u8>) -> Result<Option<Numbered>, BadItem> {
        let number = self.number;
        match self.reading.format {
            Format::Ndjson => {
                return Ok(Some(Numbered { number, item: object(&record)?.at(number) }));
            }
            Format::Lines | Format::Delimited(_) if record.contains(&0) => {
                return Err(BadItem::Nul);
            }
            Format::Lines | Format::Delimited(_) | Format::Nul => {}
        }
        if self.reading.per_item == NonZeroUsize::MIN {
            return Ok(Some(Numbered { number, item: Item::line(record).at(number) }));
        }
        if self.group.lines == 0 {
            self.group.number = number;
        }
        self.group.lines += 1;
        self.group.bytes += record.len();
        if self.group.bytes <= ITEM_BYTES_MAX {
            self.group.args.push(record);
        }
        if self.group.lines < self.reading.per_item.get() { Ok(None) } else { self.grouped() }
    }

    /// The lines read for one item.
    fn grouped(&mut self) -> Result<Option<Numbered>, BadItem> {
        let Group { number, lines, bytes, args } = std::mem::take(&mut self.group);
        match (lines, bytes) {
            (0, _) => Ok(None),
            (_, 0..=ITEM_BYTES_MAX) => {
                Ok(Some(Numbered { number, item: Item::lines(args).at(number) }))
            }
            _ => Err(BadItem::TogetherTooLong),
        }
    }
}

impl<R: BufRead> Iterator for Input<R> {
    type Item = Result<Numbered, InputError>;

    fn next(&mut self) -> Option<Self::Item> {
        let unit = self.reading.format.unit();
        while !self.ended {
            let record = match self.record() {
                Ok(record) => record,
                Err(source) => {
                    self.ended = true;
                    return Some(Err(InputError::Read { unit, number: self.number, source }));
                }
            };
            let Some(record) = record else {
                self.ended = true;
                let number = self.group.number;
                let last = self.grouped().transpose()?;
                return Some(last.map_err(|reason| InputError::Bad { unit, number, reason }));
            };
            self.number += 1;
            let first = if self.group.lines == 0 { self.number } else { self.group.number };
            let item = match record {
                Ok(record) => match self.trimmed(record) {
                    Some(bytes) => self.item(bytes),
                    None => continue,
                },
                Err(reason) => Err(reason),
            };
            let number = match item {
                Err(BadItem::TogetherTooLong) => first,
                _ => self.number,
            };
            if let Some(item) = item.transpose() {
                return Some(item.map_err(|reason| InputError::Bad { unit, number, reason }));
            }
        }
        None
    }
}

fn object(record: &[u8]) -> Result<Item, BadItem> {
    let value: Value = serde_json::from_slice(record).map_err(|error| {
        let message = error.to_string();
        // serde_json appends the position, and its line is always 1 here.
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
