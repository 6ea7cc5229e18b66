//! How an operation of a journal ended.

use bilrost::{Enumeration, Message, Oneof};
use bytes::Bytes;
use bytestring::ByteString;

use crate::{FailureKind, Outcome, outcome::Failure};

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enumeration)]
#[repr(u32)]
pub enum JournalFailureKind {
    /// The child or the step reported that a retry is useless.
    Terminal = 0,
    /// The child used up its attempts and is a dead letter.
    Exhausted = 1,
    /// The child was canceled.
    Canceled = 2,
    /// The child was killed.
    Killed = 3,
    /// The child was removed before it ended.
    Purged = 4,
    /// The partition of the child is gone.
    DroppedPartition = 5,
    /// The child needs a key that one of its ancestors holds: it would wait for an entry that waits
    /// for it.
    WouldDeadlock = 6,
    /// Calls are nested more deeply than allowed.
    CallTooDeep = 7,
    /// There is no room for the child under a backlog limit.
    BacklogFull = 8,
    /// The promise was rejected.
    Rejected = 9,
}

impl std::fmt::Display for JournalFailureKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Terminal => "failed",
            Self::Exhausted => "dead letter",
            Self::Canceled => "canceled",
            Self::Killed => "killed",
            Self::Purged => "purged",
            Self::DroppedPartition => "partition dropped",
            Self::WouldDeadlock => "would deadlock",
            Self::CallTooDeep => "call too deep",
            Self::BacklogFull => "backlog full",
            Self::Rejected => "rejected",
        })
    }
}

/// A permanent failure.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
pub struct JournalFailure {
    /// Why.
    #[bilrost(1)]
    pub kind: JournalFailureKind,
    /// Text for the user.
    #[bilrost(2)]
    pub message: ByteString,
    /// Additional bytes from a handler.
    #[bilrost(3)]
    pub detail: Bytes,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq, Oneof)]
pub enum JournalOutcome {
    /// With these bytes; none for a sleep and a send.
    #[bilrost(tag(14))]
    Success(Bytes),
    /// No success.
    #[bilrost(tag(15))]
    Failure(JournalFailure),
}

impl JournalOutcome {
    /// A failure with a message.
    #[must_use]
    pub fn failure(kind: JournalFailureKind, message: &str) -> Self {
        let message = ByteString::from(message);
        Self::Failure(JournalFailure { kind, message, detail: Bytes::new() })
    }

    /// Number of bytes in it.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Success(bytes) => bytes.len(),
            Self::Failure(failure) => failure.message.len() + failure.detail.len(),
        }
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The answer to the parent of a child.
impl From<Outcome> for JournalOutcome {
    fn from(outcome: Outcome) -> Self {
        let Failure { kind, message, detail } = match outcome {
            Outcome::Success(bytes) => return Self::Success(bytes),
            Outcome::Failure(failure) => failure,
        };
        let kind = match kind {
            FailureKind::Terminal => JournalFailureKind::Terminal,
            FailureKind::Exhausted => JournalFailureKind::Exhausted,
            FailureKind::Canceled => JournalFailureKind::Canceled,
            FailureKind::Killed => JournalFailureKind::Killed,
        };
        Self::Failure(JournalFailure { kind, message, detail })
    }
}
