//! What is answered.

use forebay_messages::VQueueId;
use serde::{Deserialize, Serialize};

use crate::{
    ActView, AliasView, BookView, EntryCount, EntryCursor, EntryDetails, EntryView, ExplainView,
    JobsView, LimitView, NodeView, PartitionView, RulesImpact, ServiceCounts, SnapshotView,
    VQueueView,
};

/// What is answered.
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
        /// What there is now.
        jobs: JobsView,
    },
    /// To `Entries`.
    Entries {
        /// The entries.
        entries: Vec<EntryView>,
        /// Where to go on; absent at the end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next: Option<EntryCursor>,
    },
    /// To `Entry`.
    Entry {
        /// What is known of it.
        details: Box<EntryDetails>,
    },
    /// To `CountEntries`.
    EntryCount {
        /// How many there are.
        count: EntryCount,
    },
    /// To `Queues`.
    Queues {
        /// The vqueues.
        queues: Vec<VQueueView>,
        /// Where to go on; absent at the end.
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
        /// The entry, and what is in its way.
        explained: Box<ExplainView>,
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
        /// What it would do.
        impact: RulesImpact,
    },
    /// To `Partitions`, and to changes of who leads.
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
        /// What it holds.
        manifest: SnapshotView,
    },
    /// To `Act`.
    Acted {
        /// What came of it.
        report: ActView,
    },
    /// It cannot be done.
    Error {
        /// What, why, and what to do.
        message: String,
        /// The request itself was wrong (not the state of things).
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
