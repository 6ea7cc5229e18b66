//! `CheckCalls`: calls whose children may have been lost with their partition.

use bilrost::Message;

use crate::{EntryId, Incarnation, journal::ParentLink};

use super::PendingCall;

/// Calls whose children are in keys that have another owner than before, or all calls after a
/// restore: the owner is asked for each child. A child that it does not know is lost, and its call
/// fails (`DroppedPartition`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct CheckCalls {
    /// At most [`crate::journal::MESSAGES_PER_RECORD_MAX`].
    #[bilrost(1)]
    pub calls: Vec<PendingCall>,
    /// All calls of the partition were checked against this routing table.
    #[bilrost(2)]
    pub through: Option<CheckedTable>,
}

/// A routing table, as far as calls depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Message)]
pub struct CheckedTable {
    /// Hash of its partitions and their ranges.
    #[bilrost(tag(1), encoding(fixed))]
    pub hash: u64,
    /// Partitions with this id or a higher one are not in it.
    #[bilrost(2)]
    pub next: u32,
}

/// The partition is a copy of an earlier state: its messages get a new incarnation, and all of its
/// calls are checked. Ignored unless the incarnation is higher than the present one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Message)]
pub struct BeginIncarnation {
    /// The incarnation.
    #[bilrost(1)]
    pub incarnation: Incarnation,
}

/// Asks for a called child. If it has ended, its answer is sent again; if it is not known, the
/// answer is that it is lost. A child that is live answers when it ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct AskChild {
    /// The child.
    #[bilrost(1)]
    pub child: EntryId,
    /// The link to the parent.
    #[bilrost(2)]
    pub parent: ParentLink,
}
