//! Queries of stored data, for display: entries and partitions.
//!
//! Must always hold: a query changes nothing and never blocks a partition's thread; it sees
//! committed data.

use forebay_api::{BytesView, EntryFilter, EntryView, FilterError, ReplicaRole, StatusView};
use forebay_engine::{
    leadership::Role,
    partition::rows::{EntryRow, FinishedRow, Stage},
};
use forebay_messages::{EntryId, Outcome, Timestamp, VQueueId, VQueueName, command::EntrySelector};
use forebay_storage::partition::BytesHead;

use crate::{error::NodeError, peers::ReplicaRows, table::Row};

use super::Inspect;

pub(crate) fn text(value: Option<&bytestring::ByteString>) -> Option<String> {
    value.map(ToString::to_string)
}

pub(crate) fn limit_key(name: &VQueueName) -> Option<String> {
    name.l1.is_some().then(|| name.limit_key())
}

/// The selector for storage; the outcome is not part of it.
///
/// # Errors
/// [`FilterError::Name`] for a filter that cannot match any entry.
pub(crate) fn selector(filter: &EntryFilter) -> Result<EntrySelector, FilterError> {
    filter.check()?;
    let text = |text: &Option<String>| text.as_deref().map(Into::into);
    Ok(EntrySelector {
        entries: Vec::new(),
        service: text(&filter.service),
        scope: text(&filter.scope),
        limit_key: text(&filter.limit_key),
        stage: filter.stage.map(|stage| stage as u32),
        created_until: filter.created_until.map(Timestamp),
        includes_suspended: false,
    })
}

/// Whether the outcome matches.
pub(crate) fn wants_outcome(filter: &EntryFilter, outcome: &Outcome) -> bool {
    filter.outcome.is_none_or(|wanted| wanted == outcome.into())
}

/// The same for the row of a finished entry.
pub(super) fn wants_finished(filter: &EntryFilter, row: &FinishedRow) -> bool {
    filter.outcome.is_none() || wants_outcome(filter, &row.outcome())
}

/// Whether the filter's limit is reached.
pub(super) fn is_full(filter: &EntryFilter, found: usize) -> bool {
    filter.limit != 0 && found >= filter.limit
}

/// The beginning of some bytes, as in answers.
pub(super) fn bytes_view(head: BytesHead) -> BytesView {
    BytesView { len: head.len, head: head.bytes }
}

pub(crate) fn view_live(id: EntryId, row: &EntryRow, name: &VQueueName) -> EntryView {
    EntryView {
        id,
        vqueue: row.vqueue,
        service: name.service.to_string(),
        scope: text(name.scope.as_ref()),
        limit_key: limit_key(name),
        key: text(name.object_key.as_ref()),
        stage: row.stage,
        outcome: None,
        attempts: row.attempts,
        created_at: row.created_at.0,
        run_at: Some(row.key.run_at.0),
        started_at: (row.started_at.0 != 0).then_some(row.started_at.0),
        finished_at: None,
        failure: (!row.last_failure.is_empty()).then(|| row.last_failure.to_string()),
        payload: None,
        result: None,
    }
}

pub(crate) fn view_finished(id: EntryId, row: &FinishedRow, name: &VQueueName) -> EntryView {
    let outcome = row.outcome();
    let failure = match &outcome {
        Outcome::Success(_) => None,
        Outcome::Failure(failure) => Some(failure.message.to_string()),
    };
    EntryView {
        id,
        vqueue: row.vqueue,
        service: name.service.to_string(),
        scope: text(name.scope.as_ref()),
        limit_key: limit_key(name),
        key: text(name.object_key.as_ref()),
        stage: Stage::Finished,
        outcome: Some((&outcome).into()),
        attempts: row.attempts,
        created_at: row.created_at.0,
        run_at: None,
        started_at: (row.started_at.0 != 0).then_some(row.started_at.0),
        finished_at: Some(row.finished_at.0),
        failure,
        payload: None,
        result: None,
    }
}

pub(crate) fn name_of(of: &ReplicaRows, vqueue: VQueueId) -> Result<VQueueName, NodeError> {
    Ok(of.store.vqueue(vqueue)?.map(|meta| (*meta.name).clone()).unwrap_or_default())
}

fn look(partition: &ReplicaRows, id: EntryId) -> Result<Option<EntryView>, NodeError> {
    let tables = &partition.store;
    if let Some(row) = tables.entry(id)? {
        return Ok(Some(view_live(id, &row, &name_of(partition, row.vqueue)?)));
    }
    match tables.finished(id)? {
        Some(row) => Ok(Some(view_finished(id, &row, &name_of(partition, row.vqueue)?))),
        None => Ok(None),
    }
}

impl Inspect {
    /// One entry. Blocks: it reads the store.
    ///
    /// # Errors
    /// When a read fails or no partition owns its key.
    pub fn entry(&self, id: EntryId) -> Result<Option<EntryView>, NodeError> {
        look(&self.registry.newest_rows(self.registry.route(id.partition_key)?)?, id)
    }

    /// As [`Inspect::entry`], without blocking the caller. Cancel-safe.
    ///
    /// # Errors
    /// When a read fails or no partition owns its key.
    pub async fn look(&self, id: EntryId) -> Result<Option<EntryView>, NodeError> {
        let partition = self.registry.newest_rows(self.registry.route(id.partition_key)?)?;
        self.registry.blocking(move || look(&partition, id)).await?
    }

    /// The stored payload of an entry. Blocks: it reads the store.
    ///
    /// # Errors
    /// When a read fails or no partition owns its key.
    pub fn payload(&self, id: EntryId) -> Result<Option<bytes::Bytes>, NodeError> {
        let partition = self.registry.newest_rows(self.registry.route(id.partition_key)?)?;
        Ok(partition.store.payload(id)?)
    }

    /// The outcome of an entry, if it has ended. Blocks: it reads the store.
    ///
    /// # Errors
    /// When a read fails or no partition owns its key.
    pub fn outcome(&self, id: EntryId) -> Result<Option<Outcome>, NodeError> {
        let partition = self.registry.newest_rows(self.registry.route(id.partition_key)?)?;
        Ok(partition.store.finished(id)?.map(|row| row.outcome()))
    }

    /// The partitions.
    ///
    /// # Errors
    /// When the node shuts down.
    pub fn status(&self) -> Result<Vec<StatusView>, NodeError> {
        self.registry.check_up()?;
        let rows = self.registry.table().rows.clone();
        let views = rows.into_iter().map(|Row { id, first, last }| {
            // A partition that could not be started has no replica here.
            let entry = self.registry.newest_rows(id).ok();
            let gauges = self.registry.gauges(id);
            let status = self.registry.status(id);
            let stopped = status.as_ref().and_then(|status| status.stopped.clone());
            let never_ran = || "it could not be started here, see the log".to_owned();
            let stopped = stopped.or_else(|| entry.is_none().then(never_ran));
            let role = status.map(|status| status.role);
            let epoch = match (&stopped, &role) {
                (None, Some(Role::Leader { epoch, .. } | Role::Candidate { epoch })) => epoch.0,
                _ => 0,
            };
            let role = match stopped {
                Some(_) => ReplicaRole::Stopped,
                None => role_view(role),
            };
            let ahead = entry.map(|entry| entry.clock.ahead()).unwrap_or_default();
            StatusView {
                ahead_ms: u64::try_from(ahead.as_millis()).unwrap_or(u64::MAX),
                id,
                range: (first.0, last.0),
                role,
                epoch,
                stopped,
                applied: gauges.applied.0,
                rules: self.registry.rule_books.version_of(id).0,
                log_end: self.log_store.end(id).0,
                active_vqueues: gauges.active_vqueues,
                waiting_vqueues: gauges.waiting_vqueues,
                stale: gauges.stale,
            }
        });
        Ok(views.collect())
    }
}

/// The role of a replica that has not stopped.
pub(super) fn role_view(role: Option<Role>) -> ReplicaRole {
    match role {
        Some(Role::Leader { .. }) => ReplicaRole::Leader,
        Some(Role::Candidate { .. }) => ReplicaRole::Candidate,
        Some(Role::Follower) | None => ReplicaRole::Follower,
    }
}
