//! Answers to requests.

use forebay_messages::{EntryId, VQueueId};
use serde::{Deserialize, Serialize};

use crate::{
    ActView, AliasView, BookView, EntryCount, EntryCursor, EntryDetails, EntryView, ExplainView,
    JobsView, LimitView, NodeView, PartitionView, RulesImpact, ServiceCounts, SnapshotView,
    TreeView, VQueueView,
};

/// An answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Response {
    /// To `Status`.
    Status {
        /// The node.
        node: NodeView,
    },
    /// To `Jobs`.
    Jobs {
        /// The present numbers.
        jobs: JobsView,
    },
    /// To `Entries`.
    Entries {
        /// The entries.
        entries: Vec<EntryView>,
        /// The position of the next page; absent at the end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next: Option<EntryCursor>,
    },
    /// To `Entry`.
    Entry {
        /// What is known about it.
        details: Box<EntryDetails>,
    },
    /// To `CountEntries`.
    EntryCount {
        /// The number of entries.
        count: EntryCount,
    },
    /// To `Queues`.
    Queues {
        /// The vqueues.
        queues: Vec<VQueueView>,
        /// The position of the next page; absent at the end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next: Option<VQueueId>,
    },
    /// To `Services`.
    Services {
        /// By name.
        services: Vec<ServiceCounts>,
    },
    /// To `Explain`.
    Explain {
        /// The entry, and the reasons why it does not run.
        explained: Box<ExplainView>,
    },
    /// To `Tree`.
    Tree {
        /// The entries.
        tree: TreeView,
    },
    /// To `Resolve`.
    Resolved {
        /// The entry.
        entry: EntryId,
        /// The promise.
        name: String,
        /// It was rejected.
        is_rejected: bool,
    },
    /// To `Limits`.
    Limits {
        /// The counters.
        limits: Vec<LimitView>,
        /// Another part follows.
        #[serde(default, skip_serializing_if = "is_false")]
        more: bool,
    },
    /// To `Rules`, and to changes of it.
    Rules {
        /// The book in force.
        book: BookView,
    },
    /// To `RulesHistory`.
    RulesHistory {
        /// Oldest first.
        books: Vec<BookView>,
        /// Another part follows.
        #[serde(default, skip_serializing_if = "is_false")]
        more: bool,
    },
    /// To `RulesTest`.
    RulesTest {
        /// The effect.
        impact: RulesImpact,
    },
    /// To `Partitions`, and to changes of leaders.
    Partitions {
        /// In the order of their ranges.
        partitions: Vec<PartitionView>,
    },
    /// To `Aliases`, and to changes of them.
    Aliases {
        /// By service.
        aliases: Vec<AliasView>,
    },
    /// To `Snapshot`.
    Snapshot {
        /// The contents of the snapshot.
        manifest: SnapshotView,
    },
    /// To `Act`.
    Acted {
        /// The result.
        report: ActView,
    },
    /// The request failed.
    Error {
        /// The error, its cause, and what to do.
        message: String,
        /// The request itself was wrong (not the state of the process).
        usage: bool,
    },
}

impl Response {
    /// Whether another part of the answer follows.
    #[must_use]
    pub fn has_more(&self) -> bool {
        match self {
            Self::Limits { more, .. } | Self::RulesHistory { more, .. } => *more,
            _ => false,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_false(flag: &bool) -> bool {
    !*flag
}
