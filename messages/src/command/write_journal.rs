//! `WriteJournal`: what running attempts did, on its way into their journals.

use bilrost::{Message, Oneof};
use bytes::Bytes;

use crate::{
    AttemptToken, EntryId, Timestamp, VQueueName,
    journal::{JournalKey, JournalKind, JournalOutcome, fingerprint},
};

use super::RetryPolicy;

/// Journal writes of several attempts, each as if alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct WriteJournal {
    /// One per attempt, at most [`crate::journal::ATTEMPTS_PER_RECORD_MAX`].
    #[bilrost(1)]
    pub attempts: Vec<AttemptWrites>,
}

/// What one attempt writes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct AttemptWrites {
    /// The entry.
    #[bilrost(1)]
    pub entry: EntryId,
    /// The attempt; unless it runs, nothing is written.
    #[bilrost(2)]
    pub token: AttemptToken,
    /// In the order in which the handler did it. In all attempts together at most
    /// [`crate::journal::WRITES_PER_RECORD_MAX`].
    #[bilrost(3)]
    pub writes: Vec<JournalWrite>,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
pub struct JournalWrite {
    /// Where it stands.
    #[bilrost(1)]
    pub key: JournalKey,
    /// What it is; absent only when written by a newer format.
    #[bilrost(oneof(3-7))]
    pub operation: Option<Operation>,
}

/// What an operation is.
#[derive(Clone, Debug, PartialEq, Eq, Oneof)]
pub enum Operation {
    /// A step ended with this. Only with what is remembered: a success, or a failure that
    /// is final.
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

/// What a step ended with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct StepResult {
    /// How; absent means with no bytes.
    #[bilrost(oneof(14, 15))]
    pub outcome: Option<JournalOutcome>,
}

/// A child, without its id, which follows from the operation
/// ([`crate::journal::child_id`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct NewChild {
    /// Where it belongs.
    #[bilrost(1)]
    pub vqueue: VQueueName,
    /// What its handler is given.
    #[bilrost(2)]
    pub payload: Bytes,
    /// Not before this time; absent means when it arrives.
    #[bilrost(3)]
    pub run_at: Option<Timestamp>,
    /// What happens after a failed attempt.
    #[bilrost(4)]
    pub retry: Option<RetryPolicy>,
    /// How long the result is kept, in milliseconds.
    #[bilrost(5)]
    pub retention_ms: Option<u64>,
    /// A cancel or kill of the parent follows to it. Only of a send: it always does to a
    /// call.
    #[bilrost(6)]
    pub is_attached: bool,
}

impl Operation {
    /// What the row is about.
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

    /// By what it is recognized on replay.
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
