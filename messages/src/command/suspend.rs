//! `Suspend`: attempts that only wait until an operation finishes.

use bilrost::Message;

use crate::{AttemptToken, EntryId, journal::JournalKey};

/// Suspends several attempts, each independently.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct Suspend {
    /// One per attempt, at most [`crate::journal::ATTEMPTS_PER_RECORD_MAX`].
    #[bilrost(1)]
    pub attempts: Vec<SuspendAttempt>,
}

/// Suspends one attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct SuspendAttempt {
    /// The entry.
    #[bilrost(1)]
    pub entry: EntryId,
    /// The attempt; ignored unless it runs.
    #[bilrost(2)]
    pub token: AttemptToken,
    /// All operations that it waits for. Ignored unless each of them is in the journal and
    /// unfinished.
    #[bilrost(3)]
    pub waits: Vec<JournalKey>,
    /// It releases the lock of its vqueue: other entries of the key may run before it continues.
    #[bilrost(4)]
    pub releases_key: bool,
}
