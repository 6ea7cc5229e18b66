//! Starting and stopping partitions, and changing their leaders.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use forebay_engine::{
    leadership::{LeadershipInput, Role},
    partition::machine::VQueueLimits,
};
use forebay_messages::{PartitionId, Timestamp};
use forebay_storage::{
    DataDir,
    metadata::{MetadataError, Watch},
};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    access::Access,
    cluster::copy_rows::{RowSource, StartRows},
    error::NodeError,
    executor::Executor,
    log_writer::LogCommand,
    partition::{dropped, refill::RefillPool},
    registry::Registry,
    shell::Clock,
    table::{KeyRange, PartitionTable, Row},
};

use super::{
    Candidacy,
    machinery::Machinery,
    replica::{Replica, start},
};

/// Interval at which a start checks whether there is a leader.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long handlers of a dropped partition may take to stop.
const STOPPED_WITHIN: Duration = Duration::from_secs(5);
/// Maximum time for a replica to open its gate after a request to lead.
const LEAD_WITHIN: Duration = Duration::from_secs(30);

/// Attempts to change the table before a race with other nodes is given up.
const TRIES_MAX: usize = 16;
/// Interval of checks of [`Partitions::drained`].
const DRAIN_LOOK: Duration = Duration::from_millis(2);

/// The configuration of a node's replicas.
#[derive(Clone, Copy)]
pub(super) struct ReplicaOptions {
    pub(super) dispatches: bool,
    pub(super) vqueues: VQueueLimits,
    pub(super) outbox_per_target_max: usize,
    pub(super) candidacy: Candidacy,
}

/// The partitions of a node: starting and stopping them, and their leaders.
pub struct Partitions {
    pub(super) registry: Arc<Registry>,
    pub(super) access: Arc<Access>,
    pub(super) executor: Arc<Executor>,
    pub(super) rows: RowSource,
    pub(super) refill: Arc<RefillPool>,
    pub(super) machinery: Arc<Machinery>,
    pub(super) options: ReplicaOptions,
    /// Locked while partitions are started or dropped.
    pub(super) changing: tokio::sync::Mutex<()>,
    /// Starts and stops partitions of other nodes here until it is dropped.
    pub(super) table_watch: OnceLock<Watch>,
    /// Dropped last: its lock guards the directory.
    pub(super) _data_dir: Option<Arc<DataDir>>,
}

impl Partitions {
    /// The partitions, in the order of their ranges.
    #[must_use]
    pub fn ids(&self) -> Vec<PartitionId> {
        self.registry.partitions()
    }

    /// Starts a partition of the table. Waits until it has applied the log and, unless another node
    /// leads or it must not, until it leads.
    pub(crate) async fn start_partition(&self, row: Row) -> Result<(), NodeError> {
        let StartRows { store, state, hold } =
            self.rows.rows_of(row.id, self.machinery.log()?).await?;
        let (applied, end) = (state.applied_lsn, self.rows.log_store.end(row.id));
        if applied > end {
            return Err(NodeError::StorageFailed(format!(
                "partition {} has applied LSN {applied}, but its log ends at {end}: records are \
                 missing; restore the log or the partition from a backup",
                row.id
            )));
        }
        let stands = match (self.registry.shared().is_some(), self.options.candidacy) {
            (false, _) => LeadershipInput::Run,
            (true, Candidacy::First) => LeadershipInput::Stand { rank: 0 },
            (true, Candidacy::Standby) => LeadershipInput::Stand { rank: 1 },
            (true, Candidacy::Never) => LeadershipInput::StepDown,
        };
        let replica = Replica {
            row,
            store,
            log: self.machinery.log()?,
            executor: Arc::clone(&self.executor),
            registry: Arc::clone(&self.registry),
            refill: Arc::clone(&self.refill),
            dispatches: self.options.dispatches,
            vqueues: self.options.vqueues,
            outbox_per_target_max: self.options.outbox_per_target_max,
            lost_through: self.registry.lost_through(row.id)?,
            stands,
        };
        self.access.open_credits(row.id);
        let (sender, replayed) = oneshot::channel();
        self.machinery
            .on_arbiter(row.id.0 as usize, move |world| start(world, replica, state, sender))?;
        let no_answer = |_| match self.registry.status(row.id).and_then(|status| status.stopped) {
            Some(reason) => NodeError::PartitionStopped { partition: row.id, reason },
            None => NodeError::ShutDown,
        };
        if let Err(error) = replayed.await.map_err(no_answer)? {
            // The log sends it nothing, so it must not appear to be running.
            self.registry.stop_failed(row.id, &error.to_string());
            return Err(error);
        }
        drop(hold);
        self.wait_for_leader(row.id).await
    }

    async fn wait_for_leader(&self, partition: PartitionId) -> Result<(), NodeError> {
        if self.registry.shared().is_some() && self.options.candidacy != Candidacy::First {
            return Ok(());
        }
        let mut status = self.registry.watch_status();
        while !self.leads(partition)? {
            let now = self.registry.clock().monotonic();
            let held = self.registry.shared().and_then(|shared| shared.held(partition, now));
            if held.is_some() && !self.runs(partition) {
                return Ok(());
            }
            // The holder of the lease is checked again even if nothing changes here.
            let _ = tokio::time::timeout(LOOK_EVERY, status.changed()).await;
        }
        Ok(())
    }

    /// Whether it leads here with an open gate.
    fn leads(&self, partition: PartitionId) -> Result<bool, NodeError> {
        self.registry.check_up()?;
        let Some(status) = self.registry.status(partition) else { return Ok(false) };
        match status.stopped {
            Some(reason) => Err(NodeError::PartitionStopped { partition, reason }),
            None => Ok(matches!(status.role, Role::Leader { open: true, .. })),
        }
    }

    fn runs(&self, partition: PartitionId) -> bool {
        self.registry.status(partition).is_some_and(|status| status.role != Role::Follower)
    }

    /// Makes the local replica lead, in place of any other leader; returns when it accepts
    /// commands.
    ///
    /// # Errors
    /// [`NodeError::UnknownPartition`], [`NodeError::PartitionStopped`], or
    /// [`NodeError::NotLeading`] when it does not lead within 30 s.
    pub async fn lead(&self, partition: PartitionId) -> Result<(), NodeError> {
        let replica = self.registry.replica(partition)?;
        let begun = Instant::now();
        let mut status = self.registry.watch_status();
        while !self.leads(partition)? {
            if !self.runs(partition) {
                replica.supervisor.address.send(LeadershipInput::Run);
            }
            if begun.elapsed() > LEAD_WITHIN {
                return Err(NodeError::NotLeading);
            }
            let _ = tokio::time::timeout(LOOK_EVERY, status.changed()).await;
        }
        Ok(())
    }

    /// Makes the local replica stop leading, and not lead again without an explicit request. No new
    /// entries start; running entries may end `within` this time. Returns when it follows.
    ///
    /// Cancel-safe: once called, it continues by itself. Another call meanwhile waits as well, and
    /// can shorten the time.
    ///
    /// # Errors
    /// [`NodeError::UnknownPartition`] and [`NodeError::PartitionStopped`].
    pub async fn step_down(
        &self,
        partition: PartitionId,
        within: Duration,
    ) -> Result<(), NodeError> {
        let replica = self.registry.replica(partition)?;
        self.leads(partition)?;
        let millis = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        let by = Timestamp(replica.rows.clock.now().0.saturating_add(millis));
        replica.supervisor.address.send(LeadershipInput::Leave { by });
        let mut status = self.registry.watch_status();
        while self.runs(partition) {
            self.leads(partition)?;
            let _ = tokio::time::timeout(LOOK_EVERY, status.changed()).await;
        }
        Ok(())
    }

    /// Adds a partition for keys without an owner, and starts it.
    pub(super) async fn spawn(&self, range: KeyRange) -> Result<PartitionId, NodeError> {
        let _changing = self.changing.lock().await;
        self.registry.check_up()?;
        let row = self.change_table(move |table| table.add(range)).await?;
        let Err(error) = self.start_partition(row).await else { return Ok(row.id) };
        if self.registry.table_is_shared() {
            if self.registry.status(row.id).is_none_or(|status| status.stopped.is_none()) {
                self.registry.report_stopped(row.id, error.to_string());
            }
            return Err(error);
        }
        let removed = self.change_table(move |table| table.remove(row.id)).await;
        if let Err(error) = removed.and(self.stop_dropped(row.id).await) {
            tracing::error!(partition = %row.id, %error, "the partition is not removed");
        }
        Err(error)
    }

    /// Stops a partition and releases its keys.
    pub(super) async fn remove(&self, partition: PartitionId) -> Result<(), NodeError> {
        let _changing = self.changing.lock().await;
        self.registry.check_up()?;
        self.change_table(move |table| table.remove(partition)).await?;
        self.stop_dropped(partition).await
    }

    /// Waits until no attempt of an earlier leader counts as running, in the partitions that this
    /// node leads and that have not stopped. Cancel-safe.
    pub async fn drained(&self) {
        let is_draining = |partition: &PartitionId| {
            let status = self.registry.status(*partition);
            let works = status.is_some_and(|status| status.stopped.is_none());
            works && self.registry.gauges(*partition).is_draining
        };
        while self.ids().iter().any(is_draining) {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
    }

    /// Stops a partition that is no longer in the table. It is removed even if its rows cannot be
    /// flushed: the log has them.
    pub(crate) async fn stop_dropped(&self, partition: PartitionId) -> Result<(), NodeError> {
        self.access.close_credits(partition);
        let range = self.registry.replicas.get(&partition).map(|replica| replica.rows.range);
        let stopped = match self.stop_partition(partition).await {
            // It was not started.
            Err(NodeError::UnknownPartition(_)) => Ok(()),
            stopped => stopped,
        };
        if let Some(range) = range {
            // Its keys may soon have another owner.
            let idle = self.executor.range_idle(range);
            if tokio::time::timeout(STOPPED_WITHIN, idle).await.is_err() {
                tracing::warn!(%partition, "handlers of a dropped partition do not stop");
            }
        }
        self.registry.forget(partition);
        stopped
    }

    /// Stops a partition's actors and flushes its rows.
    pub(crate) async fn stop_partition(&self, partition: PartitionId) -> Result<(), NodeError> {
        let found = self.registry.replicas.get(&partition).map(|replica| replica.clone());
        let Some(replica) = found else {
            return Err(NodeError::UnknownPartition(partition));
        };
        replica.supervisor.stop();
        replica.partition.stop();
        let mut status = self.registry.watch_status();
        // An error means that the node itself is gone.
        let _ = status
            .wait_for(|all| all.get(&partition).is_none_or(|status| status.stopped.is_some()))
            .await;
        let store = replica.rows.store;
        let through = self.registry.blocking(move || store.flush()).await??;
        if let Ok(log) = self.machinery.log() {
            let node = self.registry.node;
            log.send(LogCommand::Durable { partition, node, through });
            log.send(LogCommand::Unsubscribe { partition, node });
        }
        Ok(())
    }

    /// Changes the stored table and then the one in memory. To be called while `changing` is held.
    async fn change_table<T: Send>(
        &self,
        change: impl Fn(&mut PartitionTable) -> Result<T, NodeError> + Send,
    ) -> Result<T, NodeError> {
        let metadata = &*self.registry.metadata;
        let mut tries = 0;
        loop {
            tries += 1;
            let stored = PartitionTable::load(metadata).await?;
            let (mut table, version) = match stored {
                Some((table, version)) => (table, Some(version)),
                None => (self.registry.table().clone(), None),
            };
            // Partitions of other nodes that were not started here yet are not routed to.
            let present = self.registry.partitions();
            let is_unknown = |row: &Row| !present.contains(&row.id);
            let unknown: Vec<_> = table.rows.iter().copied().filter(is_unknown).collect();
            let changed = change(&mut table)?;
            match table.store(metadata, version).await {
                Ok(_) => {
                    table.rows.retain(|row| !unknown.contains(row));
                    dropped::change_table(&self.registry, |present| *present = table);
                    return Ok(changed);
                }
                Err(NodeError::Metadata(MetadataError::PreconditionFailed { .. }))
                    if tries < TRIES_MAX => {}
                Err(error) => return Err(error),
            }
        }
    }
}
