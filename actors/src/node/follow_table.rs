//! Following the partition table of a shared log or of a cluster: partitions that another node
//! spawns or drops are started and stopped here too.
//!
//! Must always hold: commands are routed to a partition only while its replica is here.

use std::{sync::Arc, time::Duration};

use forebay_messages::PartitionId;
use forebay_storage::metadata::{Change, MetaKey};
use tokio::sync::watch;

use crate::{
    error::NodeError,
    partition::dropped::change_table,
    table::{PartitionTable, Row},
};

use super::partitions::Partitions;

/// First wait after following the table failed; doubles with each failure up to the longest.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Waits until the table has changed or, after a failure, until a retry is due; false when the node
/// shuts down.
async fn is_time(changes: &mut watch::Receiver<()>, failures: u32) -> bool {
    if failures == 0 {
        return changes.changed().await.is_ok();
    }
    let wait = RETRY_FIRST.saturating_mul(1 << (failures - 1).min(16)).min(RETRY_MAX);
    tokio::select! {
        changed = changes.changed() => changed.is_ok(),
        () = tokio::time::sleep(wait) => true,
    }
}

impl Partitions {
    /// Follows the stored table while the node is alive, if others may change it.
    pub(crate) async fn follow_table(self: &Arc<Self>) -> Result<(), NodeError> {
        if !self.registry.table_is_shared() {
            return Ok(());
        }
        let (sender, mut changes) = watch::channel(());
        let on_change = Box::new(move |_: &Change| {
            sender.send_replace(());
        });
        let key = MetaKey::partition_table();
        let watch = self.registry.metadata.watch(&key, on_change).await?;
        // Set once, when the node has started.
        let _ = self.table_watch.set(watch);
        let partitions = Arc::downgrade(self);
        self.executor.host().spawn_as("table", async move {
            let mut failures = 0;
            while is_time(&mut changes, failures).await {
                let Some(partitions) = partitions.upgrade() else { return };
                failures = match partitions.adopt_table().await {
                    Ok(()) => 0,
                    Err(error) => {
                        tracing::error!(%error, "the partition table cannot be followed");
                        failures + 1
                    }
                };
            }
        });
        Ok(())
    }

    /// Starts and stops partitions to match the stored table.
    async fn adopt_table(&self) -> Result<(), NodeError> {
        let _changing = self.changing.lock().await;
        self.registry.check_up()?;
        let Some((stored, _)) = PartitionTable::load_applied(&*self.registry.metadata).await?
        else {
            return Ok(());
        };
        let is_stored = |id: PartitionId| stored.rows.iter().any(|row| row.id == id);
        let present = self.registry.partitions();
        for id in present.into_iter().filter(|id| !is_stored(*id)) {
            self.route_no_more(id);
            self.stop_dropped(id).await?;
        }
        let mut failed = Ok(());
        for row in &stored.rows {
            if self.registry.replicas.contains_key(&row.id) {
                continue;
            }
            let started = self.start_partition(*row).await;
            // A stopped partition is routed to as well: callers get the reason, and the status
            // shows it.
            if started.is_ok() || self.registry.replicas.contains_key(&row.id) {
                self.route_to(*row);
            }
            if let Err(error) = started {
                failed = Err(error);
            }
        }
        failed
    }

    fn route_to(&self, row: Row) {
        change_table(&self.registry, |table| {
            table.rows.push(row);
            table.rows.sort_by_key(|row| row.first);
        });
    }

    fn route_no_more(&self, id: PartitionId) {
        change_table(&self.registry, |table| table.rows.retain(|row| row.id != id));
    }
}
