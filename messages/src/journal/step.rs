//! Ids derived from a position in a journal, and the link from a child to its parent.

use std::fmt;

use bilrost::Message;
use xxhash_rust::xxh3::xxh3_128;

use crate::{EntryId, Run, VQueueId, VQueueName};

use super::JournalKey;

/// One operation of one run of one entry: the idempotency key of a step for external systems.
///
/// Printed as `stp_` and 22 letters and digits, derived from all three parts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct StepId {
    /// The entry.
    pub entry: EntryId,
    /// The run of it.
    pub run: Run,
    /// The operation.
    pub key: JournalKey,
}

impl StepId {
    /// xxh3-128 over entry id (24 bytes), run (4, big-endian) and key.
    #[must_use]
    pub fn hash(&self) -> [u8; 16] {
        let run = self.run.0.to_be_bytes();
        let bytes = [&self.entry.to_bytes()[..], &run, self.key.as_bytes()].concat();
        xxh3_128(&bytes).to_be_bytes()
    }
}

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stp_{:0>22}", base62::encode(u128::from_be_bytes(self.hash())))
    }
}

/// The id of the child that an operation makes: the partition key of the child's vqueue, followed
/// by the operation's hash.
#[must_use]
pub fn child_id(step: &StepId, vqueue: &VQueueName) -> EntryId {
    let uuid = step.hash();
    EntryId { partition_key: vqueue.partition_key(None, &uuid), uuid }
}

/// The link from a child to the operation that made it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct ParentLink {
    /// The parent.
    #[bilrost(1)]
    pub entry: EntryId,
    /// The parent's run.
    #[bilrost(2)]
    pub run: Run,
    /// The operation.
    #[bilrost(3)]
    pub key: JournalKey,
    /// The parent gets the child's result (a call).
    #[bilrost(4)]
    pub is_awaited: bool,
    /// Number of calls above it: 1 for the child of an entry that was not called itself; 0 for a
    /// child that was sent.
    #[bilrost(5)]
    pub depth: u32,
    /// Vqueues whose locks the calls above hold: the parent's, and those in the parent's own link.
    /// Only for a call.
    #[bilrost(6)]
    pub locks: Vec<VQueueId>,
}
