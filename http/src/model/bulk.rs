//! Actions on entries.

use forebay_api::ActView;
use forebay_messages::{Timestamp, command::EntryAction};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Filter, Span, Time};
use crate::problem::Problem;

/// What to do with entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    /// Ask to stop; a waiting entry ends at once.
    Cancel,
    /// End at once, in any stage.
    Kill,
    /// Pause until it is resumed.
    Pause,
    /// Resume.
    Resume,
    /// Set a new start time.
    Reschedule,
    /// Run again after a permanent failure.
    Redrive,
    /// Begin again with an empty journal.
    Restart,
    /// Remove after its end.
    Purge,
}

/// When to start.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Reschedule {
    /// At this time.
    pub(crate) run_at: Option<Time>,
    /// This long from now.
    pub(crate) delay: Option<Span>,
}

impl Reschedule {
    pub(crate) fn action(&self, now: u64) -> Result<EntryAction, Problem> {
        let run_at = match (self.run_at, self.delay) {
            (Some(at), None) => at.timestamp(),
            (None, Some(delay)) => Timestamp(now.saturating_add(delay.as_millis())),
            _ => return Err(Problem::bad_input("give run_at or delay")),
        };
        Ok(EntryAction::Reschedule { run_at })
    }
}

/// Where to begin again.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Restart {
    /// The operation of its journal to begin with; absent: with the first one.
    pub(crate) from: Option<String>,
}

/// The result of a promise.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Resolve {
    /// The promise.
    pub(crate) name: String,
    /// The value.
    #[serde(default)]
    #[schema(value_type = serde_json::Value, required = false)]
    pub(crate) value: serde_json::Value,
    /// Reject it, with this reason, in place of a value.
    #[serde(default)]
    pub(crate) reject: Option<String>,
}

/// A resolved or rejected promise.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Resolved {
    /// The entry.
    pub(crate) id: String,
    /// The promise.
    pub(crate) name: String,
    /// It was rejected.
    pub(crate) is_rejected: bool,
}

/// An action that was applied to one entry or queue.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Done {
    /// Its id.
    pub(crate) id: String,
}

/// An action on all entries that match.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bulk {
    /// What to do.
    pub(crate) action: Action,
    /// The conditions.
    #[serde(default)]
    pub(crate) filter: Filter,
    /// Needed in place of conditions to reach all entries.
    #[serde(default)]
    pub(crate) all: bool,
    /// Only report what would be done.
    #[serde(default)]
    pub(crate) dry_run: bool,
    /// The new start time, for `reschedule`.
    #[serde(default)]
    pub(crate) run_at: Option<Time>,
    /// The new start time from now, for `reschedule`.
    #[serde(default)]
    pub(crate) delay: Option<Span>,
    /// How long to wait for the end before answering 202 (default: 30s, at most 5m).
    #[serde(default)]
    pub(crate) wait: Option<Span>,
}

impl Bulk {
    pub(crate) fn action(&self, now: u64) -> Result<EntryAction, Problem> {
        let (run_at, delay) = (self.run_at, self.delay);
        if self.action == Action::Reschedule {
            return Reschedule { run_at, delay }.action(now);
        }
        if run_at.is_some() || delay.is_some() {
            return Err(Problem::bad_input("run_at and delay are for reschedule"));
        }
        Ok(self.action.entry_action())
    }
}

impl Action {
    /// The action; a rescheduling has a time and is made by [`Reschedule::action`].
    fn entry_action(self) -> EntryAction {
        match self {
            Self::Cancel => EntryAction::Cancel,
            Self::Kill => EntryAction::Kill,
            Self::Pause => EntryAction::Pause,
            Self::Resume => EntryAction::Resume,
            Self::Reschedule => EntryAction::Reschedule { run_at: Timestamp::default() },
            Self::Redrive => EntryAction::Redrive,
            Self::Restart => EntryAction::Restart,
            Self::Purge => EntryAction::Purge,
        }
    }
}

/// What an action on many entries did.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Report {
    /// Nothing was changed: this is what would change.
    dry_run: bool,
    /// Number of changed entries.
    changed: u64,
    /// Number of matching entries that were not changed.
    not_changed: u64,
    /// Why they were not changed.
    reasons: Vec<ReasonCount>,
    /// Ids of the first changed ones, at most 1,000.
    changed_ids: Vec<String>,
}

/// How many were not changed for one reason.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ReasonCount {
    /// The reason, in words.
    reason: String,
    /// Their number.
    count: u64,
}

impl From<&ActView> for Report {
    fn from(view: &ActView) -> Self {
        let reasons = view.reasons.iter().map(|skipped| ReasonCount {
            reason: skipped.reason.to_string(),
            count: skipped.count,
        });
        Self {
            dry_run: view.dry_run,
            changed: view.changed,
            not_changed: view.not_changed,
            reasons: reasons.collect(),
            changed_ids: view.changed_ids.clone(),
        }
    }
}

/// The state of an action on many entries.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct BulkState {
    /// Its number.
    pub(crate) id: u64,
    /// Where it is.
    pub(crate) state: BulkStage,
    /// What it did; absent while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) report: Option<Report>,
    /// Why it failed; part of the work may be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failure: Option<String>,
}

/// Where an action on many entries is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BulkStage {
    /// It runs.
    Running,
    /// It is done.
    Done,
    /// It failed.
    Failed,
    /// It was aborted; part of the work may be done.
    Aborted,
}
