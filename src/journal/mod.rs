//! The journal of an attempt on the handler's side: its operations, and the results of earlier
//! attempts.
//!
//! Owns: the operations of one attempt, their keys, and the order in which they end. Must always
//! hold:
//! 1. An operation with a stored result does not run again.
//! 2. Stored results become ready in the order of their sequences, one at a time: the handler is
//!    polled until it waits before the next one ([`signal`]).
//! 3. A new operation starts only when no stored result of an issued operation waits for delivery.
//! 4. A handler that uses no operation allocates nothing here.
//!
//! Must not know: how writes reach the log ([`Port`]), limits, partitions.

mod combine;
mod current;
mod derived;
mod drive;
mod error;
mod mailbox;
mod operations;
mod port;
mod signal;
mod state;
mod step;
#[cfg(test)]
mod tests;
mod ticket;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use forebay_messages::{
    EntryId, Run, Timestamp,
    journal::{JournalKey, StepId},
};

use forebay_engine::partition::rows::JournalRow;

pub use combine::{Branch, Join, List, Member, OneOf2, OneOf3, OneOf4, Select, Together};
pub(crate) use drive::{Driven, Ended, Owner};
pub(crate) use error::MismatchedKind;
pub use error::OperationError;
pub(crate) use mailbox::{Mailbox, Notification};
pub(crate) use port::Port;

use state::AttemptJournal;

/// The initial state of an attempt's journal.
pub(crate) struct Start {
    /// The entry.
    pub(crate) entry: EntryId,
    /// Its run: ids of steps and children derive from it.
    pub(crate) run: Run,
    /// The time of the handler before the first delivery: the decision time of the attempt that
    /// wrote the first row of this run, or of this attempt if there is none.
    pub(crate) first_at: Timestamp,
    /// The stored rows.
    pub(crate) rows: Vec<(JournalKey, JournalRow)>,
    /// Operations that finished after those rows were read, and later.
    pub(crate) mailbox: Arc<Mailbox>,
    /// The connection to the partition.
    pub(crate) port: Arc<dyn Port>,
    /// Maximum number of bytes in the result of a step.
    pub(crate) result_len_max: usize,
}

/// The journal of one attempt.
pub(crate) struct Journal {
    entry: EntryId,
    run: Run,
    /// Identifies the attempt of a poll on this thread.
    slot: usize,
    mailbox: Arc<Mailbox>,
    port: Arc<dyn Port>,
    result_len_max: usize,
    state: Mutex<AttemptJournal>,
}

/// Holds the journal of an attempt; empty until the handler uses an operation.
#[derive(Default)]
pub(crate) struct Slot(OnceLock<Arc<Journal>>);

impl Slot {
    /// The journal, if there is one.
    pub(crate) fn get(&self) -> Option<&Arc<Journal>> {
        self.0.get()
    }

    /// The journal; the first call creates it.
    pub(crate) fn open(&self, start: impl FnOnce() -> Start) -> &Arc<Journal> {
        self.0.get_or_init(|| Arc::new(Journal::new(self.address(), start())))
    }

    /// Tells slots apart during their lifetimes.
    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

impl Journal {
    fn new(slot: usize, start: Start) -> Self {
        let Start { entry, run, first_at, rows, mailbox, port, result_len_max } = start;
        let state = Mutex::new(AttemptJournal::new(first_at, rows));
        Self { entry, run, slot, mailbox, port, result_len_max, state }
    }

    /// Releases the object key whenever the attempt is suspended.
    pub(crate) fn release_key(&self) {
        self.state().releases_key = true;
    }

    /// Prevents suspensions from here on.
    pub(crate) fn hold_limits(&self) {
        self.state().holds_limits = true;
    }

    fn state(&self) -> MutexGuard<'_, AttemptJournal> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The id of an operation. A row that a restart kept has the ids of its own run.
    fn step_id(&self, key: JournalKey, run: Option<Run>) -> StepId {
        StepId { entry: self.entry, run: run.unwrap_or(self.run), key }
    }
}
