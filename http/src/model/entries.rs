//! Entries.

use forebay_api::{
    EntryDetails, EntryFilter, EntryOutcome, EntryPage, EntryView, TreeEntryView, TreeView,
};
use forebay_messages::{Outcome, Stage};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Content, Time, explain::Block};
use crate::problem::Problem;

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = Stage)]
pub(crate) enum StageName {
    /// It waits.
    Inbox,
    /// It runs.
    Running,
    /// It waits for a child, a promise or a sleep.
    Suspended,
    /// It waits until it is resumed.
    Paused,
    /// It has ended.
    Finished,
}

impl From<Stage> for StageName {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::Inbox => Self::Inbox,
            Stage::Running => Self::Running,
            Stage::Suspended => Self::Suspended,
            Stage::Paused => Self::Paused,
            Stage::Finished => Self::Finished,
        }
    }
}

impl From<StageName> for Stage {
    fn from(stage: StageName) -> Self {
        match stage {
            StageName::Inbox => Self::Inbox,
            StageName::Running => Self::Running,
            StageName::Suspended => Self::Suspended,
            StageName::Paused => Self::Paused,
            StageName::Finished => Self::Finished,
        }
    }
}

/// How an entry ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = Outcome)]
pub(crate) enum OutcomeName {
    /// Its handler succeeded.
    Success,
    /// Its handler reported that a retry is useless.
    Failed,
    /// All attempts are used up; it can be redriven.
    #[serde(rename = "dead letter")]
    DeadLetter,
    /// It was canceled.
    Canceled,
    /// It was killed.
    Killed,
}

impl From<EntryOutcome> for OutcomeName {
    fn from(outcome: EntryOutcome) -> Self {
        match outcome {
            EntryOutcome::Success => Self::Success,
            EntryOutcome::Failed => Self::Failed,
            EntryOutcome::DeadLetter => Self::DeadLetter,
            EntryOutcome::Canceled => Self::Canceled,
            EntryOutcome::Killed => Self::Killed,
        }
    }
}

impl From<OutcomeName> for EntryOutcome {
    fn from(outcome: OutcomeName) -> Self {
        match outcome {
            OutcomeName::Success => Self::Success,
            OutcomeName::Failed => Self::Failed,
            OutcomeName::DeadLetter => Self::DeadLetter,
            OutcomeName::Canceled => Self::Canceled,
            OutcomeName::Killed => Self::Killed,
        }
    }
}

/// Conditions on entries; all of them must match.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Filter {
    /// Only in this stage.
    pub(crate) stage: Option<StageName>,
    /// Only of this service; `NAME.*` includes all services below it.
    pub(crate) service: Option<String>,
    /// Only of this scope.
    pub(crate) scope: Option<String>,
    /// Only of this limit key, `l1` or `l1/l2`; `l1` includes everything below it.
    pub(crate) limit_key: Option<String>,
    /// Only entries enqueued at or before this time.
    pub(crate) created_until: Option<Time>,
    /// Only entries that ended like this.
    pub(crate) outcome: Option<OutcomeName>,
}

impl Filter {
    /// # Errors
    /// For a name that no entry can have.
    pub(crate) fn checked(self) -> Result<EntryFilter, Problem> {
        let filter = EntryFilter {
            stage: self.stage.map(Into::into),
            service: self.service,
            scope: self.scope,
            limit_key: self.limit_key,
            created_until: self.created_until.map(|time| time.0),
            outcome: self.outcome.map(Into::into),
            limit: 0,
            bytes_max: 0,
        };
        filter.check().map_err(|error| Problem::bad_input(error.to_string()))?;
        Ok(filter)
    }
}

/// Which entries to list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct EntriesQuery {
    /// Only in this stage.
    #[param(inline)]
    pub(crate) stage: Option<StageName>,
    /// Only of this service; `NAME.*` includes all services below it.
    pub(crate) service: Option<String>,
    /// Only of this scope.
    pub(crate) scope: Option<String>,
    /// Only of this limit key, `l1` or `l1/l2`; `l1` includes everything below it.
    pub(crate) limit_key: Option<String>,
    /// Only entries enqueued at or before this time.
    #[param(inline)]
    pub(crate) created_until: Option<Time>,
    /// Only entries that ended like this.
    #[param(inline)]
    pub(crate) outcome: Option<OutcomeName>,
    /// Maximum number of entries in this page, at most 1,000 (default: 100).
    #[param(minimum = 1, maximum = 1000)]
    pub(crate) limit: Option<usize>,
    /// The `next` of the page before, with the same conditions.
    pub(crate) cursor: Option<String>,
    /// Include this many bytes of each payload and result, at most 4,096.
    #[param(minimum = 0, maximum = 4096)]
    pub(crate) bytes: Option<usize>,
}

/// Which entries to count.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct CountQuery {
    /// Only in this stage.
    #[param(inline)]
    pub(crate) stage: Option<StageName>,
    /// Only of this service; `NAME.*` includes all services below it.
    pub(crate) service: Option<String>,
    /// Only of this scope.
    pub(crate) scope: Option<String>,
    /// Only of this limit key, `l1` or `l1/l2`; `l1` includes everything below it.
    pub(crate) limit_key: Option<String>,
    /// Only entries enqueued at or before this time.
    #[param(inline)]
    pub(crate) created_until: Option<Time>,
    /// Only entries that ended like this.
    #[param(inline)]
    pub(crate) outcome: Option<OutcomeName>,
}

impl CountQuery {
    pub(crate) fn filter(self) -> Filter {
        let Self { stage, service, scope, limit_key, created_until, outcome } = self;
        Filter { stage, service, scope, limit_key, created_until, outcome }
    }
}

impl EntriesQuery {
    pub(crate) fn filter(&self) -> Filter {
        Filter {
            stage: self.stage,
            service: self.service.clone(),
            scope: self.scope.clone(),
            limit_key: self.limit_key.clone(),
            created_until: self.created_until,
            outcome: self.outcome,
        }
    }
}

/// An entry.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Entry {
    /// Its id, `ent_…`.
    id: String,
    /// Its queue, `vq_…`.
    queue: String,
    /// The handler that runs it.
    service: String,
    /// Its scope.
    scope: Option<String>,
    /// Its limit key.
    limit_key: Option<String>,
    /// Its object key.
    key: Option<String>,
    /// Where it is.
    stage: StageName,
    /// How it ended.
    outcome: Option<OutcomeName>,
    /// Ended attempts that counted.
    attempts: u32,
    /// When it was enqueued.
    created_at: Time,
    /// Earliest start.
    run_at: Option<Time>,
    /// When its last attempt started.
    started_at: Option<Time>,
    /// When it ended.
    finished_at: Option<Time>,
    /// Message of its last failed attempt.
    failure: Option<String>,
    /// Its payload; not stored any more after a success.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Content>,
    /// Its result.
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Content>,
}

impl From<&EntryView> for Entry {
    fn from(view: &EntryView) -> Self {
        Self {
            id: view.id.to_string(),
            queue: view.vqueue.to_string(),
            service: view.service.clone(),
            scope: view.scope.clone(),
            limit_key: view.limit_key.clone(),
            key: view.key.clone(),
            stage: view.stage.into(),
            outcome: view.outcome.map(Into::into),
            attempts: view.attempts,
            created_at: Time(view.created_at),
            run_at: view.run_at.map(Time),
            started_at: view.started_at.map(Time),
            finished_at: view.finished_at.map(Time),
            failure: view.failure.clone(),
            payload: view.payload.as_ref().map(Content::view),
            result: view.result.as_ref().map(Content::view),
        }
    }
}

/// A page of entries, in the order of their ids.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Entries {
    /// The entries. There may be none although more follow.
    entries: Vec<Entry>,
    /// The `cursor` of the next page; absent at the end.
    next: Option<String>,
}

impl Entries {
    pub(crate) fn of(page: &EntryPage) -> Self {
        Self {
            entries: page.entries.iter().map(Into::into).collect(),
            next: page.next.map(|next| next.to_string()),
        }
    }
}

/// A number of entries.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Count {
    /// The number.
    pub(crate) count: u64,
    /// Whether there are no more; otherwise there are at least this many.
    pub(crate) is_exact: bool,
}

/// A failed attempt.
#[derive(Debug, Serialize, ToSchema)]
struct FailedAttempt {
    /// Its number, from 1. A redriven entry counts from 1 again.
    number: u32,
    /// When it started.
    started_at: Time,
    /// When it ended.
    ended_at: Time,
    /// Its message.
    message: String,
}

/// Everything known about an entry.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Details {
    /// The entry, with payload and result.
    #[serde(flatten)]
    entry: Entry,
    /// Additional bytes of a failed handler.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<Content>,
    /// Retries of failed attempts.
    retry: super::Retry,
    /// The idempotency key it was enqueued with.
    idempotency_key: Option<String>,
    /// How long its result is kept, or `forever`; absent: the default.
    retention: Option<String>,
    /// When its result is removed.
    expires_at: Option<Time>,
    /// It was asked to stop and has not ended yet.
    cancel_requested: bool,
    /// Attempts that ended because their process died.
    interrupted: u32,
}

impl From<&EntryDetails> for Details {
    fn from(details: &EntryDetails) -> Self {
        let retention = details.retention_ms.map(|millis| match millis {
            u64::MAX => "forever".to_owned(),
            millis => super::Span::millis(millis).to_string(),
        });
        Self {
            entry: (&details.entry).into(),
            detail: details.detail.as_ref().map(Content::view),
            retry: details.retry.into(),
            idempotency_key: details.idempotency_key.clone(),
            retention,
            expires_at: details.expires_at.map(Time),
            cancel_requested: details.cancel_requested,
            interrupted: details.interrupted,
        }
    }
}

/// The attempts of an entry.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct History {
    /// Its id.
    id: String,
    /// When it was enqueued.
    created_at: Time,
    /// The last failed and retried attempts, oldest first, at most 8.
    failed_attempts: Vec<FailedAttempt>,
    /// When its last attempt started.
    started_at: Option<Time>,
    /// When it ended.
    finished_at: Option<Time>,
    /// How it ended.
    outcome: Option<OutcomeName>,
    /// Message of its last failed attempt.
    failure: Option<String>,
    /// Attempts that ended because their process died.
    interrupted: u32,
}

impl From<&EntryDetails> for History {
    fn from(details: &EntryDetails) -> Self {
        let attempts = details.failed_attempts.iter().map(|attempt| FailedAttempt {
            number: attempt.number,
            started_at: Time(attempt.started_at),
            ended_at: Time(attempt.ended_at),
            message: attempt.text.clone(),
        });
        Self {
            id: details.entry.id.to_string(),
            created_at: Time(details.entry.created_at),
            failed_attempts: attempts.collect(),
            started_at: details.entry.started_at.map(Time),
            finished_at: details.entry.finished_at.map(Time),
            outcome: details.entry.outcome.map(Into::into),
            failure: details.entry.failure.clone(),
            interrupted: details.interrupted,
        }
    }
}

/// The result of an entry, or that it has none yet.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EntryResult {
    /// Its id.
    pub(crate) id: String,
    /// How it ended; absent: it has not.
    pub(crate) outcome: Option<OutcomeName>,
    /// The result of a success.
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Content>,
    /// The message of a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
    /// Additional bytes of a failed handler.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<Content>,
}

impl EntryResult {
    pub(crate) fn pending(id: String) -> Self {
        Self { id, outcome: None, result: None, failure: None, detail: None }
    }

    pub(crate) fn of(id: String, outcome: &Outcome) -> Self {
        let name = Some(EntryOutcome::from(outcome).into());
        let whole = |bytes: &[u8]| Content::of(bytes, bytes.len() as u64);
        match outcome {
            Outcome::Success(bytes) => {
                Self { outcome: name, result: Some(whole(bytes)), ..Self::pending(id) }
            }
            Outcome::Failure(failure) => Self {
                outcome: name,
                failure: Some(failure.message.to_string()),
                detail: Some(whole(&failure.detail)).filter(|detail| detail.len > 0),
                ..Self::pending(id)
            },
        }
    }
}

/// An entry with its children and theirs.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Tree {
    /// The entry, then its children in the order of their operations, each followed by its own.
    entries: Vec<TreeEntry>,
    /// There are more than 10,000; the rest is left out.
    is_cut: bool,
}

/// One entry of a tree.
#[derive(Debug, Serialize, ToSchema)]
struct TreeEntry {
    /// Its id.
    id: String,
    /// Number of entries above it in this tree.
    depth: u32,
    /// Its parent, if it is a child.
    parent: Option<String>,
    /// The parent's operation that made it.
    operation: Option<String>,
    /// The parent gets its result.
    is_awaited: bool,
    /// It is canceled and killed with its parent.
    is_attached: bool,
    /// The handler that runs it; absent with its stage.
    service: Option<String>,
    /// Its object key.
    key: Option<String>,
    /// Where it is; absent if it is not stored.
    stage: Option<StageName>,
    /// How it ended.
    outcome: Option<OutcomeName>,
    /// The operations of its journal that it waits for, at most 20.
    waits_for: Vec<Block>,
}

impl From<&TreeView> for Tree {
    fn from(tree: &TreeView) -> Self {
        Self { entries: tree.entries.iter().map(Into::into).collect(), is_cut: tree.is_cut }
    }
}

impl From<&TreeEntryView> for TreeEntry {
    fn from(entry: &TreeEntryView) -> Self {
        Self {
            id: entry.id.to_string(),
            depth: entry.depth,
            parent: entry.parent.map(|parent| parent.to_string()),
            operation: entry.operation.clone(),
            is_awaited: entry.is_awaited,
            is_attached: entry.is_attached,
            service: entry.service.clone(),
            key: entry.key.clone(),
            stage: entry.stage.map(Into::into),
            outcome: entry.outcome.map(Into::into),
            waits_for: entry.waits_for.iter().map(|reason| Block::of(reason, None)).collect(),
        }
    }
}
