//! An entry with its children, over all partitions.

use forebay_messages::{EntryId, Stage};
use serde::{Deserialize, Serialize};

use crate::{EntryOutcome, Reason};

/// Maximum number of entries in one answer.
pub const TREE_ENTRIES_MAX: usize = 10_000;
/// Maximum number of named operations that an entry waits for.
pub const WAITS_SHOWN_MAX: usize = 20;

/// An entry with its children and theirs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeView {
    /// The entry, then its children in the order of their operations, each followed by its own.
    pub entries: Vec<TreeEntryView>,
    /// There are more than [`TREE_ENTRIES_MAX`]; the rest is left out.
    #[serde(default)]
    pub is_cut: bool,
}

/// One entry of a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeEntryView {
    /// Its id.
    pub id: EntryId,
    /// Number of entries above it in this tree.
    pub depth: u32,
    /// Its parent, if it is a child.
    pub parent: Option<EntryId>,
    /// The parent's operation that made it, as in its journal.
    pub operation: Option<String>,
    /// The parent gets its result.
    pub is_awaited: bool,
    /// It is canceled and killed with its parent.
    pub is_attached: bool,
    /// The handler that runs it; absent with its stage.
    pub service: Option<String>,
    /// Its object key.
    pub key: Option<String>,
    /// Its stage; absent if it is not stored: it has not been delivered, or was purged.
    pub stage: Option<Stage>,
    /// Its outcome, if it has ended.
    pub outcome: Option<EntryOutcome>,
    /// The unfinished operations of its journal, at most [`WAITS_SHOWN_MAX`]: `child`, `promise`,
    /// `sleep`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<Reason>,
}
