//! Ids and positions, each its own type so that they cannot be confused.

mod number;
mod text;
mod wide;

pub use number::{
    AttemptToken, Epoch, Generation, InboxSeq, Incarnation, Lsn, NodeId, PartitionId, PartitionKey,
    PermitId, RecordSeq, ReplyId, RuleId, Run, VQueueHandle,
};
pub use text::ParseIdError;
pub use wide::{EntryId, VQueueId};
