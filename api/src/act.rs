//! Actions on entries or vqueues: their targets, and the results.

use forebay_messages::{EntryId, Skip, VQueueId};
use serde::{Deserialize, Serialize};

use crate::EntryFilter;

/// The target of an action: exactly one of these is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// These entries.
    #[serde(default)]
    pub entries: Vec<EntryId>,
    /// These whole vqueues.
    #[serde(default)]
    pub queues: Vec<VQueueId>,
    /// All matching entries.
    #[serde(default)]
    pub filter: EntryFilter,
    /// All entries.
    #[serde(default)]
    pub all: bool,
}

/// The result of an action on entries or vqueues.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActView {
    /// Nothing was changed: this is what would change.
    pub dry_run: bool,
    /// Number of changed entries or vqueues.
    pub changed: u64,
    /// Number of entries or vqueues that were not changed.
    pub not_changed: u64,
    /// The reasons why they were not changed.
    pub reasons: Vec<SkippedView>,
    /// Ids of the first changed ones, at most 1,000.
    pub changed_ids: Vec<String>,
    /// The first ones that were not changed, at most 1,000.
    pub not_changed_ids: Vec<NotChangedView>,
}

/// How many were not changed for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedView {
    /// The reason.
    pub reason: Skip,
    /// Their number.
    pub count: u64,
}

/// An entry or vqueue that was not changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotChangedView {
    /// Its id.
    pub id: String,
    /// The reason.
    pub reason: Skip,
}
