//! The state, and the changes that a command makes to it.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use bytestring::ByteString;

use crate::consensus::{DecodeError, Put, Reader};

use super::command::{Change, Command, Expected, put_value, read_value};
use super::requests::{Known, Requests};

/// Most bytes of all keys and values. A command that would exceed it changes nothing.
pub const STATE_BYTES_MAX: usize = 64 << 20;

/// Size of a row in addition to its key and value.
const ROW_OVERHEAD_BYTES: usize = 64;
const ROW_BYTES_MIN: usize = 13;
const OUTCOME_VERSION_BYTES: usize = 8;

/// A key's last version, and its value unless it is deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// 1 for the first value, one more with every change.
    pub version: u64,
    /// The value.
    pub value: Option<Bytes>,
}

impl Row {
    /// The version of the value, if there is one.
    #[must_use]
    pub fn live(&self) -> Option<u64> {
        self.value.as_ref().map(|_| self.version)
    }
}

/// The outcome of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All changes were made.
    Changed {
        /// The version of each key now, in the order of the changes.
        versions: Vec<u64>,
    },
    /// A precondition does not hold; nothing was changed.
    Conflict {
        /// Which change, from 0.
        at: u32,
        /// The version of that key's value; `None` if there is none.
        found: Option<u64>,
    },
    /// The state would be larger than it may be; nothing was changed.
    Full,
    /// The request may have been applied, and is no longer remembered; nothing was changed now.
    TooOld {
        /// A client that starts at this index, or later, is not too old.
        oldest: u64,
    },
}

impl Outcome {
    /// Appends its bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Changed { versions } => {
                out.put_u8(1);
                out.put_count(versions.len());
                versions.iter().for_each(|version| out.put_u64(*version));
            }
            Self::Conflict { at, found: None } => {
                out.put_u8(2);
                out.put_u32(*at);
            }
            Self::Conflict { at, found: Some(version) } => {
                out.put_u8(3);
                out.put_u32(*at);
                out.put_u64(*version);
            }
            Self::Full => out.put_u8(4),
            Self::TooOld { oldest } => {
                out.put_u8(5);
                out.put_u64(*oldest);
            }
        }
    }

    pub(super) fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(match reader.u8()? {
            1 => Self::Changed { versions: reader.list(OUTCOME_VERSION_BYTES, Reader::u64)? },
            2 => Self::Conflict { at: reader.u32()?, found: None },
            3 => Self::Conflict { at: reader.u32()?, found: Some(reader.u64()?) },
            4 => Self::Full,
            5 => Self::TooOld { oldest: reader.u64()? },
            tag => return Err(DecodeError::UnknownKind { what: "an outcome", tag }),
        })
    }

    /// The inverse of [`Self::encode`].
    ///
    /// # Errors
    /// When the bytes are invalid.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let outcome = Self::read(&mut reader)?;
        reader.end()?;
        Ok(outcome)
    }
}

/// A change that was made: for watches. In version order per key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The key.
    pub key: ByteString,
    /// Its row after the change.
    pub row: Row,
}

/// Everything that the metadata store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    rows: BTreeMap<ByteString, Row>,
    requests: Requests,
    /// Bytes of all rows: derived.
    bytes: usize,
}

fn weight(key: &ByteString, row: &Row) -> usize {
    ROW_OVERHEAD_BYTES + key.len() + row.value.as_ref().map_or(0, Bytes::len)
}

impl State {
    /// Applies a command that was decided at `index`. Indexes only grow. The changes that it
    /// made are added to `changed`.
    pub fn apply(&mut self, index: u64, command: &Command, changed: &mut Vec<Changed>) -> Outcome {
        match self.requests.look(command) {
            Known::Applied(outcome) => return outcome,
            Known::Evicted => return Outcome::TooOld { oldest: self.requests.oldest_start() },
            Known::New => {}
        }
        let outcome = self.change(&command.changes, changed);
        self.requests.remember(index, command, &outcome);
        outcome
    }

    fn change(&mut self, changes: &[Change], changed: &mut Vec<Changed>) -> Outcome {
        let mut bytes = self.bytes;
        for (at, change) in (0..).zip(changes) {
            let row = self.rows.get(&change.key);
            let found = row.and_then(Row::live);
            let holds = match change.expected {
                Expected::Anything => true,
                Expected::Absent => found.is_none(),
                Expected::Version(version) => found == Some(version),
            };
            if !holds {
                return Outcome::Conflict { at, found };
            }
            bytes -= row.map_or(0, |row| weight(&change.key, row));
            let value = change.value.as_ref().map_or(0, Bytes::len);
            bytes += ROW_OVERHEAD_BYTES + change.key.len() + value;
        }
        // Changes that shrink the state are always possible.
        if bytes > STATE_BYTES_MAX && bytes > self.bytes {
            return Outcome::Full;
        }
        let versions = changes.iter().map(|change| self.change_one(change, changed)).collect();
        Outcome::Changed { versions }
    }

    fn change_one(&mut self, change: &Change, changed: &mut Vec<Changed>) -> u64 {
        let Change { key, value, .. } = change;
        let before = self.rows.get(key);
        let version = before.map_or(0, |row| row.version);
        if value.is_none() && before.is_none_or(|row| row.value.is_none()) {
            // Deleting a missing value changes nothing.
            return version;
        }
        self.bytes -= before.map_or(0, |row| weight(key, row));
        // The block that it came in is not kept for the sake of a small value.
        let value = value.as_ref().map(|value| Bytes::copy_from_slice(value));
        let row = Row { version: version + 1, value };
        self.bytes += weight(key, &row);
        let key = ByteString::from(key.to_string());
        self.rows.insert(key.clone(), row.clone());
        changed.push(Changed { key, row });
        version + 1
    }

    /// The row of a key that was ever written.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Row> {
        self.rows.get(key)
    }

    /// Rows of keys after `after` that begin with `prefix`, in order.
    pub fn range<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&str>,
    ) -> impl Iterator<Item = (&'a ByteString, &'a Row)> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let rows = self.rows.range::<str, _>((start, Bound::Unbounded));
        rows.take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// Bytes of all rows.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// An index at which a client may start without being taken for an evicted one.
    #[must_use]
    pub fn oldest_start(&self) -> u64 {
        self.requests.oldest_start()
    }

    /// Checks the invariants.
    ///
    /// # Panics
    /// When one does not hold.
    pub fn check(&self) {
        let bytes: usize = self.rows.iter().map(|(key, row)| weight(key, row)).sum();
        assert_eq!(bytes, self.bytes, "the bytes of rows are counted");
        assert!(self.rows.values().all(|row| row.version > 0), "a row was written");
        self.requests.check();
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_count(self.rows.len());
        for (key, row) in &self.rows {
            out.put_slice(key.as_bytes());
            out.put_u64(row.version);
            put_value(out, row.value.as_ref());
        }
        self.requests.encode(out);
    }

    pub(super) fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        let rows = reader.list(ROW_BYTES_MIN, |reader| {
            let key = reader.text()?;
            Ok((key, Row { version: reader.u64()?, value: read_value(reader)? }))
        })?;
        let requests = Requests::read(reader)?;
        let rows: BTreeMap<_, _> = rows.into_iter().collect();
        let bytes = rows.iter().map(|(key, row)| weight(key, row)).sum();
        Ok(Self { rows, requests, bytes })
    }
}
