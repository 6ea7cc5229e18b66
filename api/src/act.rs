//! Doing something to entries or vqueues: which ones, and what came of it.

use forebay_messages::{EntryId, VQueueId};
use serde::{Deserialize, Serialize};

use crate::EntryFilter;

/// Which entries or vqueues something is done to: exactly one of these says so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// These entries.
    #[serde(default)]
    pub entries: Vec<EntryId>,
    /// These whole vqueues.
    #[serde(default)]
    pub queues: Vec<VQueueId>,
    /// The entries that match.
    #[serde(default)]
    pub filter: EntryFilter,
    /// Every entry there is.
    #[serde(default)]
    pub all: bool,
}

/// What came of a command about entries or vqueues.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActView {
    /// Nothing was changed: this is what would come of it.
    pub dry_run: bool,
    /// How many were changed.
    pub changed: u64,
    /// How many were not.
    pub not_changed: u64,
    /// Why they were not.
    pub reasons: Vec<SkippedView>,
    /// The first of those that were changed, at most 1,000.
    pub changed_ids: Vec<String>,
    /// The first of those that were not, at most 1,000.
    pub not_changed_ids: Vec<NotChangedView>,
}

/// Why so many were not changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedView {
    /// Why.
    pub reason: String,
    /// How many.
    pub count: u64,
}

/// One that was not changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotChangedView {
    /// Which.
    pub id: String,
    /// Why.
    pub reason: String,
}
