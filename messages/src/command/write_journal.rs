//! `WriteJournal`: operations of running attempts, for their journals.

use bilrost::{Message, Oneof};
use bytes::Bytes;

use crate::{
    AttemptToken, EntryId, Timestamp, VQueueName,
    journal::{JournalKey, JournalKind, JournalOutcome, fingerprint},
};

use super::RetryPolicy;

/// Journal writes of several attempts, each independent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct WriteJournal {
    /// One per attempt, at most [`crate::journal::ATTEMPTS_PER_RECORD_MAX`].
    #[bilrost(1)]
    pub attempts: Vec<AttemptWrites>,
}

/// The writes of one attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct AttemptWrites {
    /// The entry.
    #[bilrost(1)]
    pub entry: EntryId,
    /// The attempt; ignored unless it runs.
    #[bilrost(2)]
    pub token: AttemptToken,
    /// In the order of the handler's operations. At most [`crate::journal::WRITES_PER_RECORD_MAX`]
    /// for all attempts together.
    #[bilrost(3)]
    pub writes: Vec<JournalWrite>,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
pub struct JournalWrite {
    /// Its key in the journal.
    #[bilrost(1)]
    pub key: JournalKey,
    /// The operation; absent only when written by a newer format.
    #[bilrost(oneof(3-7))]
    pub operation: Option<Operation>,
}

/// An operation.
#[derive(Clone, Debug, PartialEq, Eq, Oneof)]
pub enum Operation {
    /// A step ended. Only with an outcome to keep: a success, or a permanent failure.
    #[bilrost(3)]
    Step(StepResult),
    /// A child is made, and its result awaited.
    #[bilrost(4)]
    Call(NewChild),
    /// A child is made.
    #[bilrost(5)]
    Send(NewChild),
    /// Wait until this time.
    #[bilrost(6)]
    Sleep(Timestamp),
    /// Wait for the promise that the key names.
    #[bilrost(7)]
    Promise(()),
}

/// The result of a step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct StepResult {
    /// The outcome; absent means success with no bytes.
    #[bilrost(oneof(14, 15))]
    pub outcome: Option<JournalOutcome>,
}

/// A child without its id, which is derived from the operation ([`crate::journal::child_id`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct NewChild {
    /// Its vqueue.
    #[bilrost(1)]
    pub vqueue: VQueueName,
    /// The input of its handler.
    #[bilrost(2)]
    pub payload: Bytes,
    /// Earliest start; absent means on arrival.
    #[bilrost(3)]
    pub run_at: Option<Timestamp>,
    /// Handling of failed attempts.
    #[bilrost(4)]
    pub retry: Option<RetryPolicy>,
    /// How long the result is kept, in milliseconds.
    #[bilrost(5)]
    pub retention_ms: Option<u64>,
    /// A cancel or kill of the parent also applies to it. Only for a send: it always does to a
    /// call.
    #[bilrost(6)]
    pub is_attached: bool,
}

impl Operation {
    /// The kind of its row.
    #[must_use]
    pub fn kind(&self) -> JournalKind {
        match self {
            Self::Step(_) => JournalKind::Step,
            Self::Call(_) => JournalKind::Call,
            Self::Send(_) => JournalKind::Send,
            Self::Sleep(_) => JournalKind::Sleep,
            Self::Promise(()) => JournalKind::Promise,
        }
    }

    /// Identifies the operation on replay.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        match self {
            Self::Call(child) | Self::Send(child) => {
                fingerprint(self.kind(), Some((&child.vqueue, &child.payload)))
            }
            _ => fingerprint(self.kind(), None),
        }
    }
}
