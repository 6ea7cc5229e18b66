//! Starting and stopping partitions, and telling them to lead.

use std::{future::Future, sync::Arc, time::Duration};

use forebay_engine::leadership::{LeadershipInput, Role};
use forebay_messages::{PartitionId, Timestamp};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;

use crate::{
    access::CREDITS_PER_PARTITION,
    cluster::copy_rows::Rows,
    error::NodeError,
    shell::Clock,
    table::{KeyRange, PartitionTable, Row},
};

use super::{
    Candidacy, Node,
    replica::{Replica, start},
};

/// How often a start looks whether somebody leads by now.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long handlers of a partition that is dropped get to stop.
const STOPPED_WITHIN: Duration = Duration::from_secs(5);
/// How long a replica that was told to lead gets to open its gate.
const LEAD_WITHIN: Duration = Duration::from_secs(30);

impl Node {
    /// Starts a partition of the table. Waits until it has applied what the log holds
    /// and, unless somebody else leads or it is not to, until it leads.
    pub(crate) async fn start_partition(&self, row: Row) -> Result<(), NodeError> {
        let Rows { store, state, hold } = self.rows_of(row.id).await?;
        let (applied, end) = (state.applied_lsn, self.log_store.end(row.id));
        if applied > end {
            return Err(NodeError::StorageFailed(format!(
                "partition {} has applied LSN {applied}, but its log ends at {end}: records are \
                 missing; restore the log or the partition from a backup",
                row.id
            )));
        }
        let stands = match (self.services.shared().is_some(), self.candidacy) {
            (false, _) => LeadershipInput::Run,
            (true, Candidacy::First) => LeadershipInput::Stand { rank: 0 },
            (true, Candidacy::Standby) => LeadershipInput::Stand { rank: 1 },
            (true, Candidacy::Never) => LeadershipInput::StepDown,
        };
        let replica = Replica {
            row,
            store,
            log: self.log_handle()?,
            executor: Arc::clone(&self.executor),
            services: Arc::clone(&self.services),
            refill: Arc::clone(&self.refill),
            dispatches: self.dispatches,
            vqueues: self.vqueues,
            lost_through: self.services.lost_through(row.id)?,
            stands,
        };
        // One that is started again knows what of it is still in flight.
        let credits = || Arc::new(Semaphore::new(CREDITS_PER_PARTITION));
        self.credits.entry(row.id).or_insert_with(credits);
        let (told, replayed) = oneshot::channel();
        self.on_arbiter(row.id.0 as usize, move |world| start(world, replica, state, told))?;
        let nobody = |_| match self.services.status(row.id).and_then(|status| status.stopped) {
            Some(reason) => NodeError::PartitionStopped { partition: row.id, reason },
            None => NodeError::ShutDown,
        };
        if let Err(error) = replayed.await.map_err(nobody)? {
            // The log sends it nothing: it is not to be taken for one that lives.
            self.services.stop_failed(row.id, &error.to_string());
            return Err(error);
        }
        drop(hold);
        self.wait_for_leader(row.id).await
    }

    async fn wait_for_leader(&self, partition: PartitionId) -> Result<(), NodeError> {
        if self.services.shared().is_some() && self.candidacy != Candidacy::First {
            return Ok(());
        }
        let mut status = self.services.watch_status();
        while !self.leads(partition)? {
            let now = self.clock.monotonic();
            let held = self.services.shared().and_then(|shared| shared.held(partition, now));
            if held.is_some() && !self.runs(partition) {
                return Ok(());
            }
            // Whoever holds the lease is looked at again even if nothing changes here.
            let _ = tokio::time::timeout(LOOK_EVERY, status.changed()).await;
        }
        Ok(())
    }

    /// Whether it leads here with an open gate.
    fn leads(&self, partition: PartitionId) -> Result<bool, NodeError> {
        self.check_up()?;
        let Some(status) = self.services.status(partition) else { return Ok(false) };
        match status.stopped {
            Some(reason) => Err(NodeError::PartitionStopped { partition, reason }),
            None => Ok(matches!(status.role, Role::Leader { open: true, .. })),
        }
    }

    fn runs(&self, partition: PartitionId) -> bool {
        self.services.status(partition).is_some_and(|status| status.role != Role::Follower)
    }

    /// Has the replica here lead, whoever leads now; returns when it takes commands.
    ///
    /// # Errors
    /// [`NodeError::UnknownPartition`], [`NodeError::PartitionStopped`], or
    /// [`NodeError::NotLeading`] when it does not lead within 30 s.
    pub async fn lead(&self, partition: PartitionId) -> Result<(), NodeError> {
        let entry = self.entry_of(partition)?;
        let begun = Instant::now();
        let mut status = self.services.watch_status();
        while !self.leads(partition)? {
            if !self.runs(partition) {
                entry.actors.1.address.send(LeadershipInput::Run);
            }
            if begun.elapsed() > LEAD_WITHIN {
                return Err(NodeError::NotLeading);
            }
            let _ = tokio::time::timeout(LOOK_EVERY, status.changed()).await;
        }
        Ok(())
    }

    /// Has the replica here stop leading and not lead again before it is told to.
    /// Nothing new starts; what runs may end `within` this time. Returns when it follows.
    ///
    /// Cancel-safe: once called, it goes on by itself. Another call while it goes on waits
    /// as well, and with a shorter time brings the end forward.
    ///
    /// # Errors
    /// [`NodeError::UnknownPartition`] and [`NodeError::PartitionStopped`].
    pub async fn step_down(
        &self,
        partition: PartitionId,
        within: Duration,
    ) -> Result<(), NodeError> {
        let entry = self.entry_of(partition)?;
        self.leads(partition)?;
        let millis = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        let by = Timestamp(entry.clock.now().0.saturating_add(millis));
        entry.actors.1.address.send(LeadershipInput::Leave { by });
        let mut status = self.services.watch_status();
        while self.runs(partition) {
            self.leads(partition)?;
            let _ = tokio::time::timeout(LOOK_EVERY, status.changed()).await;
        }
        Ok(())
    }

    /// Adds a partition for keys that nobody owns, and starts it. If it does not start, it
    /// is not added; but where a log is shared it stays, for others may have started it.
    /// Cancel-safe: once called, it is done to its end.
    ///
    /// # Errors
    /// [`NodeError::RangeOverlaps`], [`NodeError::EmptyRange`] and storage errors.
    pub async fn spawn_partition(
        self: &Arc<Self>,
        range: KeyRange,
    ) -> Result<PartitionId, NodeError> {
        let spawning = move |node: Arc<Self>| async move {
            let _changing = node.changing.lock().await;
            node.check_up()?;
            let row = node.change_table(|table| table.add(range))?;
            let Err(error) = node.start_partition(row).await else { return Ok(row.id) };
            if node.services.shared().is_some() {
                if node.services.status(row.id).is_none_or(|status| status.stopped.is_none()) {
                    node.services.report_stopped(row.id, error.to_string());
                }
                return Err(error);
            }
            let removed = node.change_table(|table| table.remove(row.id));
            if let Err(error) = removed.and(node.stop_dropped(row.id).await) {
                tracing::error!(partition = %row.id, %error, "the partition is not removed");
            }
            Err(error)
        };
        self.to_its_end("spawn", spawning).await
    }

    /// Stops a partition and gives its keys free. Its rows are flushed and stay.
    /// Cancel-safe: once called, it is done to its end.
    ///
    /// # Errors
    /// [`NodeError::UnknownPartition`] when there is none; storage errors when it is
    /// stopped and its rows could not be flushed.
    pub async fn drop_partition(self: &Arc<Self>, partition: PartitionId) -> Result<(), NodeError> {
        let dropping = move |node: Arc<Self>| async move {
            let _changing = node.changing.lock().await;
            node.check_up()?;
            node.change_table(|table| table.remove(partition))?;
            node.stop_dropped(partition).await
        };
        self.to_its_end("drop", dropping).await
    }

    /// Does something in a task of its own, so that it is not left half done when the
    /// caller gives up.
    async fn to_its_end<T, F>(
        self: &Arc<Self>,
        name: &'static str,
        work: impl FnOnce(Arc<Self>) -> F,
    ) -> Result<T, NodeError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, NodeError>> + Send + 'static,
    {
        let (told, done) = oneshot::channel();
        let working = work(Arc::clone(self));
        self.executor.spawner().spawn_as(name, async move {
            // The caller may have given up.
            let _ = told.send(working.await);
        });
        match done.await {
            Ok(result) => result,
            Err(_) => {
                self.check_up()?;
                Err(NodeError::Unexpected(format!("the task \"{name}\" was lost")))
            }
        }
    }

    /// Stops a partition that is not in the table any more. It is forgotten even when its
    /// rows cannot be flushed: the log has them.
    pub(crate) async fn stop_dropped(&self, partition: PartitionId) -> Result<(), NodeError> {
        if let Some((_, credits)) = self.credits.remove(&partition) {
            credits.close();
        }
        let range = self.services.partitions.get(&partition).map(|entry| entry.range);
        let stopped = match self.stop_partition(partition).await {
            // It had not been started.
            Err(NodeError::UnknownPartition(_)) => Ok(()),
            stopped => stopped,
        };
        if let Some((first, last)) = range {
            // Somebody else may own its keys soon.
            let idle = self.executor.range_idle(first, last);
            if tokio::time::timeout(STOPPED_WITHIN, idle).await.is_err() {
                tracing::warn!(%partition, "handlers of a dropped partition do not stop");
            }
        }
        self.services.forget(partition);
        stopped
    }

    /// Changes the stored table and then the one in memory.
    fn change_table<T>(
        &self,
        change: impl FnOnce(&mut PartitionTable) -> Result<T, NodeError>,
    ) -> Result<T, NodeError> {
        let mut present = self.table.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let stored = PartitionTable::load(&*self.services.metadata)?;
        let (mut table, version) = match stored {
            Some((table, version)) => (table, Some(version)),
            None => (present.clone(), None),
        };
        let changed = change(&mut table)?;
        table.store(&*self.services.metadata, version)?;
        *present = table;
        Ok(changed)
    }
}
