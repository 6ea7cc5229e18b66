//! Ids and positions, each a type of its own so that none can stand for another.

mod number;
mod text;
mod wide;

pub use number::{
    AttemptToken, Epoch, Generation, InboxSeq, Lsn, NodeId, PartitionId, PartitionKey, PermitId,
    RecordSeq, ReplyId, RuleId, VQueueHandle,
};
pub use text::ParseIdError;
pub use wide::{EntryId, VQueueId};
