//! `Suspend`: attempts that have nothing to do until something comes.

use bilrost::Message;

use crate::{AttemptToken, EntryId, journal::JournalKey};

/// Several attempts give way, each as if alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct Suspend {
    /// One per attempt, at most [`crate::journal::ATTEMPTS_PER_RECORD_MAX`].
    #[bilrost(1)]
    pub attempts: Vec<SuspendAttempt>,
}

/// One attempt gives way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct SuspendAttempt {
    /// The entry.
    #[bilrost(1)]
    pub entry: EntryId,
    /// The attempt; unless it runs, this is void.
    #[bilrost(2)]
    pub token: AttemptToken,
    /// Everything that it waits for. Void unless all of it is in the journal and nothing of
    /// it is finished.
    #[bilrost(3)]
    pub waits: Vec<JournalKey>,
    /// It gives up the lock of its vqueue: other entries of the key may run before it goes
    /// on.
    #[bilrost(4)]
    pub releases_key: bool,
}
