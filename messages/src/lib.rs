//! The vocabulary of forebay: ids, ordered keys, rules, commands, log records and the messages
//! between actors.
//!
//! Owns: every name that crosses a crate boundary, and the bytes of ids, keys and records. Must
//! always hold: golden tests pin the bytes, which never change. Must not know: any other crate. It
//! has no behaviour beyond parsing, printing and encoding; the rule book passes through it as
//! opaque bytes.

pub mod actor;
pub mod command;
pub mod entry_key;
pub mod id;
pub mod journal;
pub mod limits;
pub mod outcome;
pub mod record;
pub mod rule;
pub mod skip;
pub mod stage;
pub mod vqueue;

mod time;
mod wire;

pub use entry_key::EntryKey;
pub use id::{
    AttemptToken, EntryId, Epoch, Generation, InboxSeq, Incarnation, Lsn, NodeId, PartitionId,
    PartitionKey, PermitId, RecordSeq, ReplyId, RuleId, Run, VQueueHandle, VQueueId,
};
pub use outcome::{FailureKind, Outcome};
pub use record::{Producer, Record, RecordKeys};
pub use skip::Skip;
pub use stage::Stage;
pub use time::Timestamp;
pub use vqueue::VQueueName;
