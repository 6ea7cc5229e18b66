//! The way of an attempt to the journal of its entry, and of news back to it.
//!
//! Must always hold: an attempt hears news in the order in which they were told, also those from
//! before it listened; an attempt that was told to stop writes nothing more; one that does no
//! operation costs nothing. Must not know: what an operation is.

use std::sync::{Arc, Weak};

use forebay_engine::partition::machine::{AttemptNews, PartitionInput};
use forebay_messages::{
    AttemptToken, EntryId,
    command::{JournalWrite, SuspendAttempt},
};

use super::running::Shared;

/// Takes the news of one attempt.
pub trait Listen: Send + Sync {
    /// Takes one. Called from the thread of the attempt's partition.
    fn tell(&self, news: AttemptNews);
}

/// News of an attempt, before and after it listens.
pub(super) enum Ears {
    /// Told before the handler's first operation.
    Early(Vec<AttemptNews>),
    Open(Arc<dyn Listen>),
}

impl Default for Ears {
    fn default() -> Self {
        Self::Early(Vec::new())
    }
}

impl Ears {
    /// Keeps news, or returns them with the listener to be told.
    pub(super) fn hear(&mut self, news: AttemptNews) -> Option<(Arc<dyn Listen>, AttemptNews)> {
        match self {
            Self::Early(early) => {
                early.push(news);
                None
            }
            Self::Open(listener) => Some((Arc::clone(listener), news)),
        }
    }

    /// Tells a listener what was kept. It is new: nothing waits for it, so nothing is woken.
    pub(super) fn open(&mut self, listener: Arc<dyn Listen>) {
        if let Self::Early(early) = std::mem::replace(self, Self::Open(Arc::clone(&listener))) {
            early.into_iter().for_each(|news| listener.tell(news));
        }
    }
}

/// The way of attempts to their journals. Does not keep the executor alive; without it, and for an
/// attempt that is over, nothing happens: its future is dropped soon.
#[derive(Clone, Default)]
pub struct Journals(Weak<Shared>);

impl Journals {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self(Arc::downgrade(shared))
    }

    /// News of an attempt go to this listener, at once the ones that came already.
    pub fn listen(&self, entry: EntryId, token: AttemptToken, listener: Arc<dyn Listen>) {
        if let Some(shared) = self.0.upgrade() {
            shared.listen((entry, token), listener);
        }
    }

    /// Hands operations of an attempt to its partition.
    pub fn write(&self, entry: EntryId, token: AttemptToken, writes: Vec<JournalWrite>) {
        if let Some(shared) = self.0.upgrade() {
            let input = PartitionInput::Journal { entry, token, writes };
            shared.to_partition((entry, token), input);
        }
    }

    /// Asks the partition to suspend an attempt. Its future is dropped once that was applied.
    pub fn suspend(&self, attempt: SuspendAttempt) {
        if let Some(shared) = self.0.upgrade() {
            let key = (attempt.entry, attempt.token);
            shared.to_partition(key, PartitionInput::Suspend(attempt));
        }
    }

    /// An arbitrary number, for the jitter of a retry.
    #[must_use]
    pub fn random(&self) -> u32 {
        self.0.upgrade().map_or(0, |shared| (shared.means.random)())
    }
}

impl std::fmt::Debug for Journals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journals").finish_non_exhaustive()
    }
}
