//! Looking at what is stored, for people: entries and partitions.
//!
//! Must always hold: a query changes nothing and never blocks a partition's thread;
//! it sees what is committed.

use forebay_engine::{
    leadership::Role,
    partition::rows::{EntryRow, FinishedRow, Stage},
};
use forebay_messages::{
    EntryId, Outcome, PartitionId, Timestamp, VQueueId, VQueueName, command::EntrySelector,
};
use serde::{Deserialize, Serialize};

use crate::{error::NodeError, node::Node, registry::PartitionEntry, table::Row};

use super::{BytesView, EntryOutcome, ReplicaRole};

/// Which entries are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryFilter {
    /// Only in this stage.
    pub stage: Option<Stage>,
    /// Only of this service.
    pub service: Option<String>,
    /// Only of this scope.
    pub scope: Option<String>,
    /// Only of this limit key (`l1` includes everything below).
    pub limit_key: Option<String>,
    /// Only those enqueued at or before this time (milliseconds since 1970).
    #[serde(default)]
    pub created_until: Option<u64>,
    /// Only finished entries with this outcome.
    #[serde(default)]
    pub outcome: Option<EntryOutcome>,
    /// At most this many; 0 means all.
    #[serde(default)]
    pub limit: usize,
    /// So many bytes of each payload and of each result are given with it; 0: none. No part
    /// of what is wanted.
    #[serde(default)]
    pub bytes_max: usize,
}

/// An entry, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryView {
    /// Its id.
    pub id: EntryId,
    /// Its vqueue.
    pub vqueue: VQueueId,
    /// The handler that runs it.
    pub service: String,
    /// Its scope.
    pub scope: Option<String>,
    /// Its limit key.
    pub limit_key: Option<String>,
    /// Its object key.
    pub key: Option<String>,
    /// Where it is.
    pub stage: Stage,
    /// How it ended.
    pub outcome: Option<EntryOutcome>,
    /// Attempts that ended and counted.
    pub attempts: u32,
    /// When it was enqueued (milliseconds since 1970).
    pub created_at: u64,
    /// Not before this time (milliseconds since 1970).
    pub run_at: Option<u64>,
    /// When its last attempt started (milliseconds since 1970).
    pub started_at: Option<u64>,
    /// When it ended (milliseconds since 1970).
    pub finished_at: Option<u64>,
    /// What its last failed attempt said.
    pub failure: Option<String>,
    /// Its payload, or the beginning of it, where that was asked for and is still stored:
    /// the payload of an entry that succeeded is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<BytesView>,
    /// What its handler returned, or the beginning of it, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<BytesView>,
}

/// A partition, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusView {
    /// Its id.
    pub id: PartitionId,
    /// First and last key of its range.
    pub range: (u64, u64),
    /// What it does.
    pub role: ReplicaRole,
    /// Its leader epoch.
    pub epoch: u64,
    /// Why it stopped.
    pub stopped: Option<String>,
    /// LSN of the last applied record.
    pub applied: u64,
    /// LSN of the last record of its log.
    pub log_end: u64,
    /// Vqueues that are active.
    pub active_vqueues: usize,
    /// Vqueues that wait for a permit and are not kept active meanwhile.
    #[serde(default)]
    pub waiting_vqueues: usize,
    /// Messages that came too late.
    pub stale: u64,
    /// How far the partition's time is ahead of this machine's clock, in milliseconds. More
    /// than some seconds: the clock was set back.
    pub ahead_ms: u64,
}

pub(crate) fn text(value: Option<&bytestring::ByteString>) -> Option<String> {
    value.map(ToString::to_string)
}

pub(crate) fn limit_key(name: &VQueueName) -> Option<String> {
    name.l1.is_some().then(|| name.limit_key())
}

impl EntryFilter {
    /// Whether it says nothing, and so takes everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { limit, bytes_max, .. } = *self;
        *self == Self { limit, bytes_max, ..Self::default() }
    }

    /// What storage is asked for; the outcome is not part of it.
    pub(crate) fn selector(&self) -> EntrySelector {
        let text = |text: &Option<String>| text.as_deref().map(Into::into);
        EntrySelector {
            entries: Vec::new(),
            service: text(&self.service),
            scope: text(&self.scope),
            limit_key: text(&self.limit_key),
            stage: self.stage.map(|stage| stage as u32),
            created_until: self.created_until.map(Timestamp),
        }
    }

    /// Whether an entry ended as is wanted.
    pub(crate) fn wants_outcome(&self, outcome: &Outcome) -> bool {
        self.outcome.is_none_or(|wanted| wanted == outcome.into())
    }

    /// The same for what is kept of an entry.
    pub(crate) fn wants_finished(&self, row: &FinishedRow) -> bool {
        self.outcome.is_none() || self.wants_outcome(&row.outcome())
    }

    pub(crate) fn is_full(&self, found: usize) -> bool {
        self.limit != 0 && found >= self.limit
    }
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

pub(crate) fn name_of(of: &PartitionEntry, vqueue: VQueueId) -> Result<VQueueName, NodeError> {
    Ok(of.store.vqueue(vqueue)?.map(|meta| (*meta.name).clone()).unwrap_or_default())
}

fn look(partition: &PartitionEntry, id: EntryId) -> Result<Option<EntryView>, NodeError> {
    let tables = &partition.store;
    if let Some(row) = tables.entry(id)? {
        return Ok(Some(view_live(id, &row, &name_of(partition, row.vqueue)?)));
    }
    match tables.finished(id)? {
        Some(row) => Ok(Some(view_finished(id, &row, &name_of(partition, row.vqueue)?))),
        None => Ok(None),
    }
}

impl Node {
    pub(crate) fn entries_in_order(&self) -> Result<Vec<(PartitionId, PartitionEntry)>, NodeError> {
        self.partitions().into_iter().map(|id| Ok((id, self.newest_of(id)?))).collect()
    }

    /// One entry. Blocks: it reads the store.
    ///
    /// # Errors
    /// When a read fails or nobody owns its key.
    pub fn entry(&self, id: EntryId) -> Result<Option<EntryView>, NodeError> {
        look(&self.newest_of(self.route(id.partition_key)?)?, id)
    }

    /// As [`Node::entry`], without blocking the caller. Cancel-safe.
    ///
    /// # Errors
    /// When a read fails or nobody owns its key.
    pub async fn look(&self, id: EntryId) -> Result<Option<EntryView>, NodeError> {
        let partition = self.newest_of(self.route(id.partition_key)?)?;
        self.blocking(move || look(&partition, id)).await?
    }

    /// The stored payload of an entry. Blocks: it reads the store.
    ///
    /// # Errors
    /// When a read fails or nobody owns its key.
    pub fn payload(&self, id: EntryId) -> Result<Option<bytes::Bytes>, NodeError> {
        let partition = self.newest_of(self.route(id.partition_key)?)?;
        Ok(partition.store.payload(id)?)
    }

    /// How an entry ended, if it has. Blocks: it reads the store.
    ///
    /// # Errors
    /// When a read fails or nobody owns its key.
    pub fn outcome(&self, id: EntryId) -> Result<Option<Outcome>, NodeError> {
        let partition = self.newest_of(self.route(id.partition_key)?)?;
        Ok(partition.store.finished(id)?.map(|row| row.outcome()))
    }

    /// The partitions.
    ///
    /// # Errors
    /// When the node goes down.
    pub fn status(&self) -> Result<Vec<StatusView>, NodeError> {
        self.check_up()?;
        let rows = self.table().rows.clone();
        let views = rows.into_iter().map(|Row { id, first, last }| {
            // One that could not be started has no replica here.
            let entry = self.newest_of(id).ok();
            let gauges = self.services.gauges(id);
            let status = self.services.status(id);
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
                None => ReplicaRole::of(role),
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
                log_end: self.log_store.end(id).0,
                active_vqueues: gauges.active_vqueues,
                waiting_vqueues: gauges.waiting_vqueues,
                stale: gauges.stale,
            }
        });
        Ok(views.collect())
    }
}
