//! Which entries a command applies to, and why others are skipped.
//!
//! Must always hold: a proposer can find out beforehand, with the same functions, which entries
//! such a command would change. Must not know: how entries are found.

pub use forebay_messages::Skip;
use forebay_messages::{EntryId, FailureKind, Outcome, command::EntryAction};
use thiserror::Error;

use super::super::rows::{EntryRow, FinishedRow, Stage};

/// Maximum number of entries (or vqueues) that one command changes: the record and its write batch
/// stay small, and the partition is not blocked. Larger changes take several commands.
pub const ENTRIES_PER_COMMAND_MAX: usize = 1_024;

/// Outcome of a command about entries (or vqueues).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acted<I = EntryId> {
    /// Number of changed entries.
    pub changed: u64,
    /// The named ones that were not changed, with the reason; in the order of the command.
    pub skipped: Vec<(I, Skip)>,
}

impl<I> Default for Acted<I> {
    fn default() -> Self {
        Self { changed: 0, skipped: Vec::new() }
    }
}

/// Whether an action applies to ended entries (and not to live ones).
#[must_use]
pub fn is_for_finished(action: EntryAction) -> bool {
    matches!(action, EntryAction::Purge | EntryAction::Redrive)
}

/// Whether an action would change an entry that has not ended.
///
/// # Errors
/// Why not.
pub fn check(action: EntryAction, row: &EntryRow) -> Result<(), Skip> {
    use EntryAction::{Cancel, Kill, Pause, Purge, Redrive, Reschedule, Restart, Resume};
    match (action, row.stage) {
        (Cancel, Stage::Running) if row.cancel_requested => Err(Skip::AlreadyCanceled),
        (Cancel | Kill | Restart, _)
        | (Pause, Stage::Suspended)
        | (Pause | Reschedule { .. }, Stage::Inbox)
        | (Resume | Reschedule { .. }, Stage::Paused) => Ok(()),
        (Pause, Stage::Paused) => Err(Skip::AlreadyPaused),
        (Resume, _) => Err(Skip::NotPaused),
        (Pause | Reschedule { .. }, Stage::Running) => Err(Skip::Running),
        (Reschedule { .. }, Stage::Suspended) => Err(Skip::Suspended),
        (Pause | Reschedule { .. }, Stage::Finished) => Err(Skip::Finished),
        (Purge | Redrive, _) => Err(Skip::NotFinished),
    }
}

/// Whether an action would change an entry that has ended.
///
/// # Errors
/// Why not.
pub fn check_finished(action: EntryAction, row: &FinishedRow) -> Result<(), Skip> {
    match action {
        EntryAction::Purge => Ok(()),
        EntryAction::Redrive | EntryAction::Restart if row.outcome().is_success() => {
            Err(Skip::Succeeded)
        }
        EntryAction::Redrive | EntryAction::Restart => Ok(()),
        _ => Err(Skip::Finished),
    }
}

/// Whether an action by filter skips an entry with this outcome without counting it as skipped. A
/// redrive does not restore entries that a user ended, and has nothing to do for entries that
/// succeeded; a filter with an outcome overrides that.
#[must_use]
pub fn spares(action: EntryAction, names_outcome: bool, outcome: &Outcome) -> bool {
    let is_spared = match outcome {
        Outcome::Success(_) => true,
        Outcome::Failure(failure) => {
            matches!(failure.kind, FailureKind::Canceled | FailureKind::Killed)
        }
    };
    action == EntryAction::Redrive && !names_outcome && is_spared
}

/// A filter cannot match any entry that the action can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{action} is for entries that {of}; the filter takes others")]
pub struct NeverMatches {
    /// The action.
    pub action: &'static str,
    /// Which entries it is for.
    pub of: &'static str,
}

/// Refuses a filter that cannot match any entry that the action can change: one with a stage, or
/// (with `names_outcome`) with an outcome.
///
/// # Errors
/// [`NeverMatches`].
pub fn check_can_match(
    action: EntryAction,
    stage: Option<Stage>,
    names_outcome: bool,
) -> Result<(), NeverMatches> {
    let wants_live = stage.is_some_and(|stage| stage != Stage::Finished);
    let wants_finished = stage == Some(Stage::Finished) || names_outcome;
    let of = match is_for_finished(action) {
        true if wants_live => "have ended",
        false if wants_finished => "have not ended",
        _ => return Ok(()),
    };
    Err(NeverMatches { action: action.name(), of })
}
