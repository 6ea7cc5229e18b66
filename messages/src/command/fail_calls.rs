//! `FailCalls`: calls that no partition will answer.

use bilrost::Message;

use crate::{EntryId, journal::JournalKey};

/// Calls of children in keys that no partition owns: each fails (`DroppedPartition`), and its child
/// is canceled in case the keys get an owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct FailCalls {
    /// At most [`crate::journal::MESSAGES_PER_RECORD_MAX`].
    #[bilrost(1)]
    pub calls: Vec<PendingCall>,
}

/// One call; ignored unless it is unfinished and its child is this one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct PendingCall {
    /// The parent.
    #[bilrost(1)]
    pub entry: EntryId,
    /// The operation.
    #[bilrost(2)]
    pub key: JournalKey,
    /// The child.
    #[bilrost(3)]
    pub child: EntryId,
}
