//! The last versions of the book with author and time, and rollback.
//!
//! Must always hold: entries are ordered by version, newest last, at most [`HISTORY_LEN_MAX`] of
//! them and [`HISTORY_BYTES_MAX`] in all. A rollback is a new version with old content: the
//! book's version never decreases. Must not know: where a history is stored.

use bilrost::{Message, OwnedMessage};
use bytestring::ByteString;
use forebay_messages::Timestamp;
use thiserror::Error;

use super::{
    Applied, BookVersion, Change, DecodeBookError, LimitsPatch, PersistedRule, RuleBook,
    RuleChange, RulePatch,
    codec::{BOOK_FORMAT, WireBook, format_of, framed},
};

/// Number of versions kept in addition to the newest book.
pub const HISTORY_LEN_MAX: usize = 32;
/// Maximum number of encoded bytes of all kept versions together. The newest version is kept
/// whatever its size; 10,000 rules with full descriptions take 10 MiB.
pub const HISTORY_BYTES_MAX: usize = 32 << 20;

/// The newest format this code reads: books with pauses, which an older forebay would apply without
/// them. The number is that of the book's format.
const HISTORY_FORMAT: u8 = BOOK_FORMAT;

/// One version of the book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The book from then on; its version is the entry's.
    pub book: RuleBook,
    /// Its author.
    pub author: ByteString,
    /// Time of the change.
    pub at: Timestamp,
}

impl HistoryEntry {
    fn encoded_len(&self) -> usize {
        WireBook::from(&self.book).encoded_len() + self.author.len()
    }
}

/// The last versions of the book, newest last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    entries: Vec<HistoryEntry>,
}

/// Why a rollback is impossible.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RollbackError {
    /// The version is not kept (any more), or never existed.
    #[error(
        "version {version} of the rule book is not kept; kept versions: {}",
        kept.map_or_else(|| "none".to_owned(), |(first, last)| format!("{first} to {last}"))
    )]
    NotKept {
        /// The version asked for.
        version: BookVersion,
        /// The first and the last kept version.
        kept: Option<(BookVersion, BookVersion)>,
    },
}

/// Why bytes are not a history.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeHistoryError {
    /// No bytes at all.
    #[error("the history of the rule book has no bytes: its format byte is missing")]
    Empty,
    /// A newer format than this forebay reads.
    #[error(
        "the history of the rule book has format {found}, this forebay reads up to {HISTORY_FORMAT}: use a newer forebay"
    )]
    Format {
        /// The format found.
        found: u8,
    },
    /// The bytes do not decode.
    #[error("the history of the rule book is damaged: {0}")]
    Damaged(#[source] bilrost::DecodeError),
    /// A book in it does not decode.
    #[error("the history of the rule book: {0}")]
    Book(#[source] DecodeBookError),
}

impl History {
    /// Records that `author` made this book. A book that is not newer than the newest recorded one
    /// changes nothing.
    pub fn record(&mut self, book: RuleBook, author: &str, at: Timestamp) {
        if self.entries.last().is_some_and(|last| last.book.version >= book.version) {
            return;
        }
        self.entries.push(HistoryEntry { book, author: ByteString::from(author), at });
        let mut bytes = 0;
        let sizes = self.entries.iter().rev().map(HistoryEntry::encoded_len);
        let fit = sizes.take_while(|size| {
            bytes += size;
            bytes <= HISTORY_BYTES_MAX
        });
        let kept = fit.take(HISTORY_LEN_MAX).count().max(1);
        self.entries.drain(..self.entries.len() - kept);
    }

    /// The kept versions, newest last.
    #[must_use]
    pub fn entries(&self) -> &[HistoryEntry] {
        &self.entries
    }

    /// The entry of a version.
    #[must_use]
    pub fn get(&self, version: BookVersion) -> Option<&HistoryEntry> {
        self.entries.iter().find(|entry| entry.book.version == version)
    }

    /// The next version of `current` with the rules of an old one.
    ///
    /// # Errors
    /// [`RollbackError::NotKept`] when the old one is not kept.
    pub fn rollback(
        &self,
        current: &RuleBook,
        to: BookVersion,
        now: Timestamp,
    ) -> Result<Applied, RollbackError> {
        let Some(entry) = self.get(to) else {
            let version = |entry: &HistoryEntry| entry.book.version;
            let kept = self.entries.first().map(version).zip(self.entries.last().map(version));
            return Err(RollbackError::NotKept { version: to, kept });
        };
        Ok(current.rolled_back_to(&entry.book, now))
    }

    /// The history's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let entries = self.entries.iter().map(|entry| WireEntry {
            book: WireBook::from(&entry.book),
            author: entry.author.clone(),
            at: entry.at,
        });
        let format = format_of(self.entries.iter().any(|entry| entry.book.has_pauses()));
        framed(format, &WireHistory { entries: entries.collect() })
    }

    /// The inverse of [`Self::encode`].
    ///
    /// # Errors
    /// [`DecodeHistoryError`] saying what is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeHistoryError> {
        let body = match bytes.split_first() {
            None => return Err(DecodeHistoryError::Empty),
            Some((1..=HISTORY_FORMAT, body)) => body,
            Some((&found, _)) => return Err(DecodeHistoryError::Format { found }),
        };
        let wire = WireHistory::decode(body).map_err(DecodeHistoryError::Damaged)?;
        let mut entries = Vec::with_capacity(wire.entries.len());
        for WireEntry { book, author, at } in wire.entries {
            let book = book.try_into().map_err(DecodeHistoryError::Book)?;
            entries.push(HistoryEntry { book, author, at });
        }
        Ok(Self { entries })
    }
}

#[derive(Message)]
struct WireHistory {
    #[bilrost(1)]
    entries: Vec<WireEntry>,
}

#[derive(Message)]
struct WireEntry {
    #[bilrost(1)]
    book: WireBook,
    #[bilrost(2)]
    author: ByteString,
    #[bilrost(3)]
    at: Timestamp,
}

impl RuleBook {
    /// The changes after which this book has exactly this rule.
    fn restored(&self, rule: &PersistedRule) -> Vec<RuleChange> {
        let pattern = &rule.pattern;
        let change = |change| RuleChange::new(pattern.clone(), change);
        match self.get(pattern) {
            Some(now) if rule.only_pauses && !now.only_pauses => {
                vec![change(Change::Delete), change(Change::Create(exactly(rule)))]
            }
            _ => vec![self.upsert(pattern.clone(), exactly(rule))],
        }
    }

    /// The next version of this book with the rules of `old`: a batch like any other,
    /// so rules that did not change in between keep their version.
    #[must_use]
    pub fn rolled_back_to(&self, old: &Self, now: Timestamp) -> Applied {
        let deletes = self
            .rules()
            .filter(|rule| old.get(&rule.pattern).is_none())
            .map(|rule| RuleChange::new(rule.pattern.clone(), Change::Delete));
        let upserts = old.rules().flat_map(|rule| self.restored(rule));
        let batch: Vec<RuleChange> = deletes.chain(upserts).collect();
        self.apply(&batch, now, usize::MAX)
            .expect("deleting existing rules and restoring valid ones cannot be refused")
    }
}

/// The patch that makes a rule equal to this one, even if it already has limits.
fn exactly(rule: &PersistedRule) -> RulePatch {
    let limits =
        if rule.only_pauses { LimitsPatch::paused(true) } else { LimitsPatch::from(rule.limits) };
    RulePatch { limits, description: Some(rule.description.clone()), disabled: Some(rule.disabled) }
}
