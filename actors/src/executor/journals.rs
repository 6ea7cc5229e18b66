//! Connects an attempt to the journal of its entry, in both directions.
//!
//! Must always hold: an attempt gets notifications in their order, including the ones from before
//! it listened; an aborted attempt writes nothing more; an attempt without operations costs
//! nothing. Must not know: what an operation is.

use std::sync::{Arc, Weak};

use forebay_engine::partition::machine::{AttemptNews, PartitionInput};
use forebay_messages::{
    AttemptToken, EntryId, Run,
    command::{JournalWrite, SuspendAttempt},
};

use super::running::Shared;

/// Takes the notifications of one attempt.
pub trait Listen: Send + Sync {
    /// Takes one. Called on the thread of the attempt's partition.
    fn tell(&self, news: AttemptNews);
}

/// Notifications of an attempt, before and after it listens.
pub(super) enum Notifications {
    /// Received before the handler's first operation.
    Early(Vec<AttemptNews>),
    Open(Arc<dyn Listen>),
}

impl Default for Notifications {
    fn default() -> Self {
        Self::Early(Vec::new())
    }
}

impl Notifications {
    /// Keeps a notification, or returns it with the listener for it.
    pub(super) fn deliver(&mut self, news: AttemptNews) -> Option<(Arc<dyn Listen>, AttemptNews)> {
        match self {
            Self::Early(early) => {
                early.push(news);
                None
            }
            Self::Open(listener) => Some((Arc::clone(listener), news)),
        }
    }

    /// Passes the kept notifications to a listener. It is new: nothing waits for it, so nothing is
    /// woken.
    pub(super) fn open(&mut self, listener: Arc<dyn Listen>) {
        if let Self::Early(early) = std::mem::replace(self, Self::Open(Arc::clone(&listener))) {
            early.into_iter().for_each(|news| listener.tell(news));
        }
    }
}

/// Connects attempts to their journals. Does not keep the executor alive; without it, and for an
/// attempt that is over, calls do nothing: the attempt's future is dropped soon.
#[derive(Clone, Default)]
pub struct Journals(Weak<Shared>);

impl Journals {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self(Arc::downgrade(shared))
    }

    /// Sends the notifications of an attempt to this listener, earlier ones at once.
    pub fn listen(&self, entry: EntryId, token: AttemptToken, listener: Arc<dyn Listen>) {
        if let Some(shared) = self.0.upgrade() {
            shared.listen((entry, token), listener);
        }
    }

    /// Hands operations of an attempt to its partition.
    pub fn write(
        &self,
        (entry, token): (EntryId, AttemptToken),
        run: Run,
        writes: Vec<JournalWrite>,
    ) {
        if let Some(shared) = self.0.upgrade() {
            let input = PartitionInput::Journal { entry, token, run, writes };
            shared.to_partition((entry, token), input);
        }
    }

    /// Requests the suspension of an attempt. Its future is dropped once the suspension is applied.
    pub fn suspend(&self, attempt: SuspendAttempt) {
        if let Some(shared) = self.0.upgrade() {
            let key = (attempt.entry, attempt.token);
            shared.to_partition(key, PartitionInput::Suspend(attempt));
        }
    }

    /// A random number, for the jitter of a retry.
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
