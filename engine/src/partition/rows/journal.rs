//! The rows that only entries with a journal, their children and their messages have.
//!
//! Must always hold: an entry that uses none of it has none of these rows, and its own row
//! is not a byte longer.

use bilrost::Message;
use forebay_messages::{
    EntryId, Run, Timestamp,
    journal::{JournalKey, JournalKind, JournalOutcome, WAITS_KEPT_MAX},
};

/// What is known of the journal of an entry as a whole. Part of the entry's row, and kept
/// when it ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct JournalState {
    /// The run that it is of.
    #[bilrost(1)]
    pub run: Run,
    /// Its rows.
    #[bilrost(2)]
    pub rows: u32,
    /// Bytes of their keys and results.
    #[bilrost(3)]
    pub bytes: u64,
    /// When the attempt was decided that wrote the first row of this run: what the handler
    /// takes for "now" before anything finished.
    #[bilrost(4)]
    pub first_at: Timestamp,
    /// Promises that the entry has, of all runs.
    #[bilrost(5)]
    pub promises: u32,
    /// Some row of it is of a child that goes with its parent.
    #[bilrost(6)]
    pub has_children: bool,
    /// In stage `Suspended`: what it waits for, at most
    /// [`forebay_messages::journal::WAITS_KEPT_MAX`].
    #[bilrost(7)]
    pub waits: Vec<JournalKey>,
    /// How many more it waits for; with any, whatever finishes wakes it.
    #[bilrost(8)]
    pub waits_more: u32,
}

impl JournalState {
    /// It is suspended until one of these finishes.
    pub fn wait_for(&mut self, mut waits: Vec<JournalKey>) {
        let more = waits.len().saturating_sub(WAITS_KEPT_MAX);
        waits.truncate(WAITS_KEPT_MAX);
        (self.waits, self.waits_more) = (waits, u32::try_from(more).unwrap_or(u32::MAX));
    }

    /// It waits for nothing.
    pub fn wait_for_nothing(&mut self) {
        (self.waits, self.waits_more) = (Vec::new(), 0);
    }

    /// Whether this wakes it, if it is suspended.
    #[must_use]
    pub fn waits_for(&self, key: &JournalKey) -> bool {
        self.waits_more > 0 || self.waits.contains(key)
    }
}

/// One operation of a journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct JournalRow {
    /// What it is.
    #[bilrost(1)]
    pub kind: JournalKind,
    /// By what it is recognized on replay.
    #[bilrost(tag(2), encoding(fixed))]
    pub fingerprint: u64,
    /// The run that wrote it: that of the entry, or an earlier one for a row that a restart
    /// kept. With it ids of steps and children are derived.
    #[bilrost(3)]
    pub run: Run,
    /// The child of a call or send; absent for a call that was refused.
    #[bilrost(4)]
    pub child: Option<EntryId>,
    /// When a sleep ends.
    #[bilrost(5)]
    pub until: Timestamp,
    /// A send whose child goes with its parent.
    #[bilrost(6)]
    pub is_attached: bool,
    /// Order in which the operations of an entry finished; 0 while unfinished.
    #[bilrost(7)]
    pub sequence: u64,
    /// When it finished: the time of the record.
    #[bilrost(8)]
    pub finished_at: Timestamp,
    /// How it ended; absent while unfinished, and for a success with no bytes.
    #[bilrost(oneof(14, 15))]
    pub outcome: Option<JournalOutcome>,
}

impl JournalRow {
    /// Whether its outcome is known.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.sequence > 0
    }

    /// How it ended, if it did.
    #[must_use]
    pub fn outcome(&self) -> Option<JournalOutcome> {
        let nothing = || JournalOutcome::Success(bytes::Bytes::new());
        self.is_finished().then(|| self.outcome.clone().unwrap_or_else(nothing))
    }

    /// Whether it is of a child that a cancel or kill of its parent follows to, as far as
    /// this parent knows that the child lives.
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
    /// When.
    #[bilrost(2)]
    pub settled_at: Timestamp,
    /// Unfinished operations that wait for it. Empty once it is settled.
    #[bilrost(3)]
    pub waiting: Vec<JournalKey>,
    /// With what; absent while it is not settled, and when that was no bytes.
    #[bilrost(oneof(14, 15))]
    pub outcome: Option<JournalOutcome>,
}

/// A child that was canceled or killed before it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Message)]
pub struct TombstoneRow {
    /// Killed; else canceled.
    #[bilrost(1)]
    pub is_kill: bool,
    /// When it is forgotten.
    #[bilrost(2)]
    pub expires_at: Timestamp,
}
