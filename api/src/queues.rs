//! Vqueues and services.

use forebay_messages::{EntryId, VQueueId};
use serde::{Deserialize, Serialize};

use crate::BytesView;

/// A vqueue, for display.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VQueueView {
    /// Its id.
    pub id: VQueueId,
    /// The handler that runs its entries.
    pub service: String,
    /// Its scope.
    pub scope: Option<String>,
    /// Its limit key.
    pub limit_key: Option<String>,
    /// Its object key.
    pub key: Option<String>,
    /// Entries in the inbox.
    pub inbox: u64,
    /// Entries that run.
    pub running: u64,
    /// Entries that are paused or suspended.
    pub parked: u64,
    /// Results that are kept.
    pub finished: u64,
    /// The whole vqueue is paused.
    pub is_paused: bool,
    /// Whether the process that answered has a handler for its service; absent when that process
    /// runs no entries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub has_handler: Option<bool>,
    /// The running entry, or else the first one of the inbox; only if payloads were requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<EntryId>,
    /// The beginning of that entry's payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<BytesView>,
}

impl VQueueView {
    /// Whether it has entries to run, or would have if it were not paused.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.inbox + self.running + self.parked > 0 || self.is_paused
    }
}

/// A service without a handler on a node, for display.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnservedView {
    /// Its name.
    pub service: String,
    /// When entries of it began to wait here (milliseconds since 1970).
    pub since: u64,
    /// Number of waiting entries.
    pub entries: u64,
    /// There are more entries, in vqueues that are not counted.
    pub has_more: bool,
}

/// Number of entries of a service in each stage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCounts {
    /// Its name.
    pub service: String,
    /// Entries in inboxes.
    pub inbox: u64,
    /// Entries that run.
    pub running: u64,
    /// Entries that are paused or suspended.
    pub parked: u64,
    /// Results that are kept.
    pub finished: u64,
}

impl ServiceCounts {
    /// Number of entries that have not ended.
    #[must_use]
    pub fn unfinished(&self) -> u64 {
        self.inbox + self.running + self.parked
    }
}
