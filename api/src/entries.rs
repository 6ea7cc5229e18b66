//! Entries: filters, and views.
//!
//! Must always hold: a cursor can only be continued with the filter it came from.

use std::{fmt, str::FromStr};

use forebay_messages::{
    EntryId, FailureKind, Outcome, Stage, VQueueId, VQueueName,
    vqueue::{NameError, Part, check_component},
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::BytesView;

/// Maximum number of entries (or vqueues) per page.
pub const PAGE_ENTRIES_MAX: usize = 1_000;
/// Maximum bytes of a payload, and of a result, per entry in a list.
pub const LISTED_BYTES_MAX: usize = 4 << 10;

/// A filter for entries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryFilter {
    /// Only in this stage.
    pub stage: Option<Stage>,
    /// Only of this service.
    pub service: Option<String>,
    /// Only of this scope.
    pub scope: Option<String>,
    /// Only of this limit key (`l1` includes everything below).
    pub limit_key: Option<String>,
    /// Only entries enqueued at or before this time (milliseconds since 1970).
    #[serde(default)]
    pub created_until: Option<u64>,
    /// Only finished entries with this outcome.
    #[serde(default)]
    pub outcome: Option<EntryOutcome>,
    /// At most this many; 0 means all.
    #[serde(default)]
    pub limit: usize,
    /// Include this many bytes of each payload and each result; 0: none. Not part of the filter's
    /// conditions.
    #[serde(default)]
    pub bytes_max: usize,
}

impl EntryFilter {
    /// Whether it has no condition, and so matches every entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { limit, bytes_max, .. } = *self;
        *self == Self { limit, bytes_max, ..Self::default() }
    }

    /// Refuses a service, scope or limit key that no entry can have: an empty one, or a limit key
    /// that ends with a slash or has three levels. Such a filter would silently find nothing.
    ///
    /// # Errors
    /// [`FilterError::Name`].
    pub fn check(&self) -> Result<(), FilterError> {
        // A service that ends with `.*` includes all services below it.
        let service = self.service.as_deref().map(|name| name.strip_suffix(".*").unwrap_or(name));
        let parts = [(Part::Service, service), (Part::Scope, self.scope.as_deref())];
        for (part, text) in parts {
            text.map_or(Ok(()), |text| check_component(part, text))?;
        }
        if let Some(limit_key) = &self.limit_key {
            let name = VQueueName::service("any").with_scope("any");
            name.with_limit_key(limit_key)?.check()?;
        }
        Ok(())
    }
}

/// An invalid filter or cursor.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FilterError {
    /// The filter has no condition.
    #[error("the filter is empty: name entries, narrow it, or say that you mean all")]
    Empty,
    /// A service, scope or limit key that no entry can have.
    #[error("the filter takes no entry: {0}")]
    Name(#[from] NameError),
    /// Not a cursor.
    #[error("`{0}` is not a cursor: pass the one of the page before, or start without one")]
    Cursor(String),
    /// A cursor from a listing with another filter.
    #[error(
        "the cursor comes from a listing with another filter: repeat that filter, or start without \
         a cursor"
    )]
    OtherFilter,
    /// The filter cannot match any entry that the action can change.
    #[error("{action} is for entries that {of}; the filter takes others")]
    NeverMatches {
        /// The action.
        action: &'static str,
        /// Which entries it is for.
        of: &'static str,
    },
}

/// The outcome of an entry, without its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum EntryOutcome {
    /// Its handler succeeded.
    #[serde(rename = "success")]
    Success,
    /// Its handler reported that a retry is useless.
    #[serde(rename = "failed")]
    Failed,
    /// All attempts are used up; it can be redriven.
    #[serde(rename = "dead letter")]
    DeadLetter,
    /// It was canceled.
    #[serde(rename = "canceled")]
    Canceled,
    /// It was killed.
    #[serde(rename = "killed")]
    Killed,
}

impl From<FailureKind> for EntryOutcome {
    fn from(kind: FailureKind) -> Self {
        match kind {
            FailureKind::Terminal => Self::Failed,
            FailureKind::Exhausted => Self::DeadLetter,
            FailureKind::Canceled => Self::Canceled,
            FailureKind::Killed => Self::Killed,
        }
    }
}

impl From<&Outcome> for EntryOutcome {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Success(_) => Self::Success,
            Outcome::Failure(failure) => failure.kind.into(),
        }
    }
}

impl fmt::Display for EntryOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Success => "success",
            Self::Failed => "failed",
            Self::DeadLetter => "dead letter",
            Self::Canceled => "canceled",
            Self::Killed => "killed",
        })
    }
}

/// An entry, for display.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryView {
    /// Its id.
    pub id: EntryId,
    /// Its vqueue.
    pub vqueue: VQueueId,
    /// The handler that runs it.
    pub service: String,
    /// Its scope.
    pub scope: Option<String>,
    /// Its limit key.
    pub limit_key: Option<String>,
    /// Its object key.
    pub key: Option<String>,
    /// Its stage.
    pub stage: Stage,
    /// Its outcome.
    pub outcome: Option<EntryOutcome>,
    /// Ended attempts that counted.
    pub attempts: u32,
    /// When it was enqueued (milliseconds since 1970).
    pub created_at: u64,
    /// Earliest start (milliseconds since 1970).
    pub run_at: Option<u64>,
    /// When its last attempt started (milliseconds since 1970).
    pub started_at: Option<u64>,
    /// When it ended (milliseconds since 1970).
    pub finished_at: Option<u64>,
    /// Message of its last failed attempt.
    pub failure: Option<String>,
    /// Its payload, or the beginning of it, if requested and still stored: payloads of successful
    /// entries are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<BytesView>,
    /// The result of its handler, or the beginning of it, if requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<BytesView>,
}

/// The position in a listing: after an entry, with the same filter. Printed and parsed as text
/// (`ent_…` and 16 hexadecimal digits, separated by a dot).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryCursor {
    after: EntryId,
    filter_hash: u64,
}

impl EntryCursor {
    /// The position after this entry, for the filter with this hash.
    #[must_use]
    pub fn new(after: EntryId, filter_hash: u64) -> Self {
        Self { after, filter_hash }
    }

    /// The last entry before this position.
    ///
    /// # Errors
    /// [`FilterError::OtherFilter`] when the filter has another hash.
    pub fn after(self, filter_hash: u64) -> Result<EntryId, FilterError> {
        if self.filter_hash == filter_hash { Ok(self.after) } else { Err(FilterError::OtherFilter) }
    }
}

impl fmt::Display for EntryCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:016x}", self.after, self.filter_hash)
    }
}

impl FromStr for EntryCursor {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let damaged = || FilterError::Cursor(text.to_owned());
        let (after, hash) = text.split_once('.').ok_or_else(damaged)?;
        let after = after.parse().map_err(|_| damaged())?;
        let hash = Some(hash).filter(|hash| hash.len() == 16).ok_or_else(damaged)?;
        let filter_hash = u64::from_str_radix(hash, 16).map_err(|_| damaged())?;
        Ok(Self { after, filter_hash })
    }
}

impl Serialize for EntryCursor {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EntryCursor {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Entries in the order of their ids, and the position of the next page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryPage {
    /// Matching entries. There may be none although more follow.
    pub entries: Vec<EntryView>,
    /// The start of the next page; `None` at the end.
    pub next: Option<EntryCursor>,
    /// Number of rows read for it.
    pub looked_at: usize,
}

/// The number of matching entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryCount {
    /// The number found.
    pub count: u64,
    /// Whether there are no more. Otherwise there are at least this many.
    pub is_exact: bool,
    /// Number of rows read for it.
    pub looked_at: usize,
}

impl fmt::Display for EntryCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.is_exact { "" } else { "at least " }, self.count)
    }
}

#[cfg(test)]
mod tests {
    use forebay_messages::PartitionKey;

    use super::*;

    #[test]
    fn a_cursor_round_trips_and_belongs_to_its_filter() {
        let id = EntryId { partition_key: PartitionKey(7), uuid: [9; 16] };
        let cursor = EntryCursor::new(id, 5);
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        assert_eq!(cursor.after(5), Ok(id));
        assert_eq!(cursor.after(6), Err(FilterError::OtherFilter));
        for text in ["", "ent_", "x.0000000000000000", &cursor.to_string()[..40]] {
            let read: Result<EntryCursor, _> = text.parse();
            assert_eq!(read, Err(FilterError::Cursor(text.to_owned())));
        }
    }

    #[test]
    fn outcomes_are_serialized_as_displayed() {
        let kinds = [
            FailureKind::Terminal,
            FailureKind::Exhausted,
            FailureKind::Canceled,
            FailureKind::Killed,
        ];
        for kind in kinds {
            let outcome = EntryOutcome::from(kind);
            assert_eq!(outcome.to_string(), kind.to_string());
            assert_eq!(serde_json::to_value(outcome).unwrap(), kind.to_string());
        }
        assert_eq!(serde_json::to_value(EntryOutcome::Success).unwrap(), "success");
        let stages =
            [Stage::Inbox, Stage::Running, Stage::Suspended, Stage::Paused, Stage::Finished];
        for stage in stages {
            assert_eq!(serde_json::to_value(stage).unwrap(), stage.to_string());
        }
    }

    #[test]
    fn a_filter_for_a_name_that_no_entry_can_have_is_refused() {
        let limit_key =
            |key: &str| EntryFilter { limit_key: Some(key.into()), ..Default::default() };
        for key in ["gold", "gold/u-1"] {
            assert_eq!(limit_key(key).check(), Ok(()), "{key}");
        }
        for (key, said) in [
            ("", "limit key level 1 is empty"),
            ("gold/", "limit key level 2 is empty"),
            ("/u-1", "limit key level 1 is empty"),
            ("a/b/c", "more than two levels"),
            ("a b", "the character ` ` at byte 1"),
        ] {
            let error = limit_key(key).check().unwrap_err().to_string();
            assert!(error.starts_with("the filter takes no entry: "), "{error}");
            assert!(error.contains(said), "{key}: {error}");
        }
        let scope = EntryFilter { scope: Some(String::new()), ..Default::default() };
        assert!(scope.check().is_err());
        let service = |name: &str| EntryFilter { service: Some(name.into()), ..Default::default() };
        assert!(service("").check().is_err() && service(".*").check().is_err());
        assert_eq!((service("exec").check(), service("exec.*").check()), (Ok(()), Ok(())));
    }
}
