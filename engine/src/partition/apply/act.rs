//! To whom commands about entries apply, and what is said of those they do not apply to.
//!
//! Must always hold: whoever proposes such a command can tell beforehand, by the same
//! functions, whom it would change. Must not know: how entries are found.

use std::fmt;

use forebay_messages::EntryId;

use super::super::rows::{EntryRow, FinishedRow, Stage};

/// Most entries (or vqueues) that one command changes: a record and its write batch
/// stay small, and a partition is not held up. Who has more to change proposes several.
pub const ENTRIES_PER_COMMAND_MAX: usize = 1_024;

/// What can be done to entries from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntryAction {
    /// Ask to stop; what waits ends at once.
    Cancel,
    /// End, whatever it does.
    Kill,
    /// Set a waiting one aside.
    Pause,
    /// Put a paused one back.
    Resume,
    /// Give another time.
    Reschedule,
    /// Forget one that ended.
    Purge,
    /// Try one that failed for good again.
    Redrive,
}

/// Why an entry was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Skip {
    /// There is no such entry (any more).
    Unknown,
    /// It has ended.
    Finished,
    /// It has not ended.
    NotFinished,
    /// It runs.
    Running,
    /// It waits for something else.
    Suspended,
    /// It is paused already.
    AlreadyPaused,
    /// It is not paused.
    NotPaused,
    /// It runs and was asked to stop already.
    AlreadyCanceled,
    /// It succeeded: there is nothing to try again.
    Succeeded,
    /// Its payload is gone.
    NoPayload,
    /// It does not match the selector (any more).
    NoMatch,
    /// The command names more than [`ENTRIES_PER_COMMAND_MAX`].
    OverLimit,
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown or purged",
            Self::Finished => "already finished",
            Self::NotFinished => "not finished",
            Self::Running => "running",
            Self::Suspended => "suspended",
            Self::AlreadyPaused => "already paused",
            Self::NotPaused => "not paused",
            Self::AlreadyCanceled => "already asked to stop",
            Self::Succeeded => "succeeded",
            Self::NoPayload => "payload not kept",
            Self::NoMatch => "changed meanwhile",
            Self::OverLimit => "too many in one command",
        })
    }
}

/// What came of a command about entries (or vqueues).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acted<I = EntryId> {
    /// How many were changed.
    pub changed: u64,
    /// Which of those named were not, and why; in the order in which they were named.
    pub skipped: Vec<(I, Skip)>,
}

impl<I> Default for Acted<I> {
    fn default() -> Self {
        Self { changed: 0, skipped: Vec::new() }
    }
}

impl EntryAction {
    /// Whether it is done to entries that ended (and not to those that have not).
    #[must_use]
    pub fn is_for_finished(self) -> bool {
        matches!(self, Self::Purge | Self::Redrive)
    }

    /// Whether an entry that has not ended would be changed.
    ///
    /// # Errors
    /// Why not.
    pub fn check(self, row: &EntryRow) -> Result<(), Skip> {
        match (self, row.stage) {
            (Self::Cancel, Stage::Running) if row.cancel_requested => Err(Skip::AlreadyCanceled),
            (Self::Cancel | Self::Kill, _)
            | (Self::Pause | Self::Reschedule, Stage::Inbox)
            | (Self::Resume | Self::Reschedule, Stage::Paused) => Ok(()),
            (Self::Pause, Stage::Paused) => Err(Skip::AlreadyPaused),
            (Self::Resume, _) => Err(Skip::NotPaused),
            (Self::Pause | Self::Reschedule, Stage::Running) => Err(Skip::Running),
            (Self::Pause | Self::Reschedule, Stage::Suspended) => Err(Skip::Suspended),
            (Self::Pause | Self::Reschedule, Stage::Finished) => Err(Skip::Finished),
            (Self::Purge | Self::Redrive, _) => Err(Skip::NotFinished),
        }
    }

    /// Whether an entry that ended would be changed.
    ///
    /// # Errors
    /// Why not.
    pub fn check_finished(self, row: &FinishedRow) -> Result<(), Skip> {
        match self {
            Self::Purge => Ok(()),
            Self::Redrive if row.outcome().is_success() => Err(Skip::Succeeded),
            Self::Redrive => Ok(()),
            _ => Err(Skip::Finished),
        }
    }
}
