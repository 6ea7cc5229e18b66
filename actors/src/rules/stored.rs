//! Book and history in the metadata.
//!
//! | store | book | history |
//! |---|---|---|
//! | of one node | `rule-book` | `rule-book-history`: all kept versions |
//! | of a cluster | `rule-book` | `rule-book-history/N`, for each kept version N |
//!
//! A change of a cluster's metadata has a maximum size, so it contains one version only. Must
//! always hold: book and history are changed in one step.

use bytes::Bytes;
use forebay_engine::rules::{BookVersion, HISTORY_LEN_MAX, History, RuleBook};
use forebay_messages::Timestamp;
use forebay_storage::metadata::{
    KeyWrite, MetaKey, MetadataError, MetadataStore, Precondition, Version, Versioned,
};

use crate::error::NodeError;

/// Room for keys in a change.
const KEYS_ROOM: usize = 1024;

/// A stored book, and the history as far as a change needs it.
pub(super) struct Stored {
    pub(super) book: RuleBook,
    version: Option<Version>,
    /// Absent if the history has a key per version.
    history: Option<History>,
}

fn book_of(found: Option<Versioned>) -> Result<(RuleBook, Option<Version>), NodeError> {
    match found {
        None => Ok((RuleBook::default(), None)),
        Some(found) => Ok((RuleBook::decode(&found.value)?, Some(found.version))),
    }
}

fn whole_history(found: Option<Versioned>) -> Result<History, NodeError> {
    found.map_or_else(|| Ok(History::default()), |found| Ok(History::decode(&found.value)?))
}

/// Whether the history has a key per version.
fn has_parts(metadata: &dyn MetadataStore) -> bool {
    metadata.write_bytes_max() != usize::MAX
}

/// The keys of a history that has one per version, with their values.
pub(crate) fn history_parts(history: &History) -> Vec<(MetaKey, Bytes)> {
    let part = |entry: &forebay_engine::rules::HistoryEntry| {
        let mut one = History::default();
        one.record(entry.book.clone(), &entry.author, entry.at);
        (MetaKey::rule_book_version(entry.book.version().0), Bytes::from(one.encode()))
    };
    history.entries().iter().map(part).collect()
}

/// Maximum length of a book: with its part of the history it fits into one change.
pub(crate) fn book_len_max(metadata: &dyn MetadataStore) -> usize {
    match has_parts(metadata) {
        true => book_len_max_of(metadata.write_bytes_max()),
        false => usize::MAX,
    }
}

/// As [`book_len_max`], of a store with this maximum of a change.
pub(crate) fn book_len_max_of(write_bytes_max: usize) -> usize {
    write_bytes_max.saturating_sub(KEYS_ROOM) / 2
}

/// The newest book.
pub(super) async fn book(metadata: &dyn MetadataStore) -> Result<RuleBook, NodeError> {
    Ok(book_of(metadata.get(&MetaKey::rule_book()).await?)?.0)
}

/// What a change starts from.
pub(super) async fn read(metadata: &dyn MetadataStore) -> Result<Stored, NodeError> {
    if has_parts(metadata) {
        let (book, version) = book_of(metadata.get(&MetaKey::rule_book()).await?)?;
        return Ok(Stored { book, version, history: None });
    }
    let keys = [MetaKey::rule_book(), MetaKey::rule_book_history()];
    let mut found = metadata.get_all(&keys).await?;
    let history = Some(whole_history(found.pop().flatten())?);
    let (book, version) = book_of(found.pop().flatten())?;
    Ok(Stored { book, version, history })
}

/// As [`read`], without asking other nodes: it may be old, and a change of it is refused then.
/// `None` where nothing is saved by it, or nothing is known.
pub(super) async fn read_applied(
    metadata: &dyn MetadataStore,
) -> Result<Option<Stored>, NodeError> {
    if !metadata.is_shared() || !has_parts(metadata) {
        return Ok(None);
    }
    let Ok(found) = metadata.get_applied(&MetaKey::rule_book()).await else { return Ok(None) };
    let (book, version) = book_of(found)?;
    Ok(Some(Stored { book, version, history: None }))
}

/// The kept versions, newest last.
pub(crate) async fn history(metadata: &dyn MetadataStore) -> Result<History, NodeError> {
    if !has_parts(metadata) {
        return whole_history(metadata.get(&MetaKey::rule_book_history()).await?);
    }
    let mut history = History::default();
    for (_, part) in metadata.list(MetaKey::RULE_BOOK_VERSIONS).await? {
        for entry in History::decode(&part.value)?.entries() {
            history.record(entry.book.clone(), &entry.author, entry.at);
        }
    }
    Ok(history)
}

impl Stored {
    /// Stores the next book, and its place in the history, if the stored one is still the same.
    pub(super) async fn replace(
        self,
        metadata: &dyn MetadataStore,
        book: &RuleBook,
        bytes: Bytes,
        author: &str,
        at: Timestamp,
    ) -> Result<(), MetadataError> {
        let precondition = match self.version {
            None => Precondition::DoesNotExist,
            Some(version) => Precondition::MatchesVersion(version),
        };
        let write = |key, value| KeyWrite { key, value, precondition: Precondition::None };
        let mut writes =
            vec![KeyWrite { key: MetaKey::rule_book(), value: Some(bytes), precondition }];
        match self.history {
            Some(mut history) => {
                history.record(book.clone(), author, at);
                let bytes = Bytes::from(history.encode());
                writes.push(write(MetaKey::rule_book_history(), Some(bytes)));
            }
            None => {
                let mut one = History::default();
                one.record(book.clone(), author, at);
                let parts = history_parts(&one).into_iter();
                writes.extend(parts.map(|(key, bytes)| write(key, Some(bytes))));
                let BookVersion(version) = book.version();
                if let Some(oldest) = version.checked_sub(HISTORY_LEN_MAX as u64) {
                    writes.push(write(MetaKey::rule_book_version(oldest), None));
                }
            }
        }
        metadata.put_all(writes).await.map(drop)
    }
}
