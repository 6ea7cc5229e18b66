//! Rows for journals, children and messages.
//!
//! Must always hold: an entry that uses none of these has none of these rows, and its own row is no
//! longer than before.

use bilrost::Message;
use forebay_messages::{
    EntryId, Run, Timestamp,
    journal::{JournalKey, JournalKind, JournalOutcome, WAITS_KEPT_MAX},
};

/// State of the journal of an entry as a whole. Part of the entry's row, and kept when the entry
/// ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct JournalState {
    /// The run of the journal.
    #[bilrost(1)]
    pub run: Run,
    /// Number of its rows.
    #[bilrost(2)]
    pub rows: u32,
    /// Bytes of their keys and results.
    #[bilrost(3)]
    pub bytes: u64,
    /// Decision time of the attempt that wrote the first row of this run: the handler's "now" until
    /// an operation has finished.
    #[bilrost(4)]
    pub first_at: Timestamp,
    /// Number of promises of the entry, in all runs.
    #[bilrost(5)]
    pub promises: u32,
    /// It contains the row of a child that ends with its parent.
    #[bilrost(6)]
    pub has_children: bool,
    /// In stage `Suspended`, or paused in it: the keys it waits for, at most
    /// [`forebay_messages::journal::WAITS_KEPT_MAX`].
    #[bilrost(7)]
    pub waits: Vec<JournalKey>,
    /// Number of further keys; if not 0, any finished operation wakes it.
    #[bilrost(8)]
    pub waits_more: u32,
}

impl JournalState {
    /// Suspends it until one of these finishes.
    pub fn wait_for(&mut self, mut waits: Vec<JournalKey>) {
        let more = waits.len().saturating_sub(WAITS_KEPT_MAX);
        waits.truncate(WAITS_KEPT_MAX);
        (self.waits, self.waits_more) = (waits, u32::try_from(more).unwrap_or(u32::MAX));
    }

    /// Clears its waits.
    pub fn wait_for_nothing(&mut self) {
        (self.waits, self.waits_more) = (Vec::new(), 0);
    }

    /// Whether this operation wakes it, if it is suspended.
    #[must_use]
    pub fn waits_for(&self, key: &JournalKey) -> bool {
        self.waits_more > 0 || self.waits.contains(key)
    }
}

/// One operation of a journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct JournalRow {
    /// Its kind.
    #[bilrost(1)]
    pub kind: JournalKind,
    /// Identifies the operation on replay.
    #[bilrost(tag(2), encoding(fixed))]
    pub fingerprint: u64,
    /// The run that wrote it: the current one, or an earlier one for a row that a restart kept. Ids
    /// of steps and children are derived with it.
    #[bilrost(3)]
    pub run: Run,
    /// The child of a call or send; absent for a refused call.
    #[bilrost(4)]
    pub child: Option<EntryId>,
    /// When a sleep ends.
    #[bilrost(5)]
    pub until: Timestamp,
    /// A send whose child ends with its parent.
    #[bilrost(6)]
    pub is_attached: bool,
    /// Order in which the operations of an entry finished; 0 while unfinished.
    #[bilrost(7)]
    pub sequence: u64,
    /// When it finished: the time of the record.
    #[bilrost(8)]
    pub finished_at: Timestamp,
    /// The outcome; absent while unfinished, and for a success with no bytes.
    #[bilrost(oneof(14, 15))]
    pub outcome: Option<JournalOutcome>,
}

impl JournalRow {
    /// Whether its outcome is known.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.sequence > 0
    }

    /// The outcome, if it is finished.
    #[must_use]
    pub fn outcome(&self) -> Option<JournalOutcome> {
        let nothing = || JournalOutcome::Success(bytes::Bytes::new());
        self.is_finished().then(|| self.outcome.clone().unwrap_or_else(nothing))
    }

    /// Whether a cancel or kill of the parent also applies to its child, as far as the parent knows
    /// that the child is live.
    #[must_use]
    pub fn has_live_child(&self) -> bool {
        match self.kind {
            JournalKind::Call => !self.is_finished() && self.child.is_some(),
            JournalKind::Send => self.is_attached,
            _ => false,
        }
    }
}

/// A promise of an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct PromiseRow {
    /// It was resolved or rejected.
    #[bilrost(1)]
    pub is_settled: bool,
    /// Time of the settlement.
    #[bilrost(2)]
    pub settled_at: Timestamp,
    /// Unfinished operations that wait for it. Empty once it is settled.
    #[bilrost(3)]
    pub waiting: Vec<JournalKey>,
    /// The result; absent while it is not settled, and for no bytes.
    #[bilrost(oneof(14, 15))]
    pub outcome: Option<JournalOutcome>,
}

/// A child that was canceled or killed before it arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Message)]
pub struct TombstoneRow {
    /// Killed; otherwise canceled.
    #[bilrost(1)]
    pub is_kill: bool,
    /// When it is removed.
    #[bilrost(2)]
    pub expires_at: Timestamp,
}
