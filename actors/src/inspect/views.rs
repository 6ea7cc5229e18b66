//! The state of the partitions on this node, for display.

use std::sync::Arc;

use forebay_api::{PartitionView, ReplicaRole};
use forebay_engine::{leadership::Role, partition::store::JournalRows as _};
use forebay_messages::{PartitionId, PartitionKey, RecordSeq};
use forebay_storage::{log::LogStore, partition::Digest};

use crate::{error::NodeError, peers::ReplicaRows, registry::Registry};

use super::{Inspect, query::role_view};

/// Vqueues read at a time.
const PAGE_LEN: usize = 1_024;
/// Messages of an outbox in an answer.
const OUTBOX_SHOWN_MAX: usize = 1_024;

/// Adds the counts of its vqueues. Blocks.
fn counted(replica: &ReplicaRows, mut view: PartitionView) -> Result<PartitionView, NodeError> {
    let mut after = None;
    loop {
        let page = replica.store.vqueues_after(after, PAGE_LEN)?;
        let Some((last, _)) = page.last() else { return Ok(view) };
        after = Some(*last);
        for (_, meta) in page {
            view.vqueues += 1;
            view.inbox += meta.inbox;
            view.running += meta.running;
            view.parked += meta.paused + meta.suspended;
            view.finished += meta.finished;
        }
    }
}

/// The state that is known without reading its vqueues. Blocks.
fn glance(
    registry: &Registry,
    log_store: &dyn LogStore,
    id: PartitionId,
) -> Result<(ReplicaRows, PartitionView), NodeError> {
    let replica = registry.replica(id)?.rows;
    let status = registry.status(id);
    let stopped = status.as_ref().and_then(|status| status.stopped.clone());
    let stored = forebay_engine::partition::state::PartitionState::load(&replica.store)?;
    let known = stored.leader_epoch.0;
    let role = status.map(|status| status.role);
    let (open, epoch) = match (&stopped, &role) {
        (None, Some(Role::Leader { epoch, open })) => (*open, epoch.0),
        (None, Some(Role::Candidate { epoch })) => (false, epoch.0),
        _ => (false, known),
    };
    let role = match stopped {
        Some(_) => ReplicaRole::Stopped,
        None => role_view(role),
    };
    let view = PartitionView {
        id,
        range: (replica.range.first.0, replica.range.last.0),
        node: registry.node.0,
        role,
        open,
        epoch,
        stopped,
        applied: stored.applied_lsn.0,
        durable: replica.store.durable_lsn()?.0,
        log_first: log_store.trimmed(id).next().0,
        log_end: log_store.end(id).0,
        vqueues: 0,
        inbox: 0,
        running: 0,
        parked: 0,
        finished: 0,
    };
    Ok((replica, view))
}

/// The state of every partition. Blocks.
fn views(registry: &Registry, log_store: &dyn LogStore) -> Result<Vec<PartitionView>, NodeError> {
    let view = |id| {
        let (replica, view) = glance(registry, log_store, id)?;
        counted(&replica, view)
    };
    registry.partitions().into_iter().map(view).collect()
}

impl Inspect {
    /// The state of every partition here. Reads the rows of all vqueues. Blocks.
    ///
    /// # Errors
    /// [`NodeError`].
    pub fn partition_views(&self) -> Result<Vec<PartitionView>, NodeError> {
        views(&self.registry, &*self.log_store)
    }

    /// As [`Inspect::partition_views`], without blocking the caller. Cancel-safe.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn list_partitions(&self) -> Result<Vec<PartitionView>, NodeError> {
        let (registry, log_store) = (Arc::clone(&self.registry), Arc::clone(&self.log_store));
        self.registry.blocking(move || views(&registry, &*log_store)).await?
    }

    /// Hash over all rows of a local partition, as of one moment: equal on replicas that applied
    /// the same records. Reads everything.
    ///
    /// # Errors
    /// [`NodeError`].
    pub fn digest(&self, partition: PartitionId) -> Result<Digest, NodeError> {
        Ok(self.registry.replica(partition)?.rows.store.digest()?)
    }

    /// The indexes of messages of a partition that are not delivered yet, at most 1,024.
    ///
    /// # Errors
    /// [`NodeError`].
    pub fn outbox(&self, partition: PartitionId) -> Result<Vec<RecordSeq>, NodeError> {
        let store = self.registry.replica(partition)?.rows.store;
        let messages = store.outbox_after(None, OUTBOX_SHOWN_MAX)?;
        Ok(messages.into_iter().map(|(index, _)| index).collect())
    }

    /// The partition that owns a key.
    ///
    /// # Errors
    /// [`NodeError::NoPartition`].
    pub fn owner(&self, key: PartitionKey) -> Result<PartitionId, NodeError> {
        self.registry.route(key)
    }
}
