//! Following the partition table where a log is shared: partitions that another node
//! spawns or drops are started and stopped here too.
//!
//! Must always hold: a partition is routed to only while its replica is here.

use std::sync::{Arc, PoisonError};

use forebay_messages::PartitionId;
use forebay_storage::metadata::{Change, MetaKey};
use tokio::sync::watch;

use super::{
    Node, NodeError,
    table::{PartitionTable, Row},
};

impl Node {
    /// Follows the stored table for as long as the node lives, if others may change it.
    pub(super) fn follow_table(self: &Arc<Self>) -> Result<(), NodeError> {
        if self.services.shared().is_none() {
            return Ok(());
        }
        let (tell, mut told) = watch::channel(());
        let on_change = Box::new(move |_: &Change| {
            tell.send_replace(());
        });
        let watch = self.services.metadata.watch(&MetaKey::partition_table(), on_change)?;
        // A node sets it once, when it has started.
        let _ = self.table_watch.set(watch);
        let node = Arc::downgrade(self);
        self.executor.spawner().spawn_as("table", async move {
            while told.changed().await.is_ok() {
                let Some(node) = node.upgrade() else { return };
                if let Err(error) = node.adopt_table().await {
                    tracing::error!(%error, "the partition table cannot be followed");
                }
            }
        });
        Ok(())
    }

    /// Starts and stops partitions so that they are those of the stored table.
    async fn adopt_table(&self) -> Result<(), NodeError> {
        let _changing = self.changing.lock().await;
        self.check_up()?;
        let Some((stored, _)) = PartitionTable::load(&*self.services.metadata)? else {
            return Ok(());
        };
        let is_stored = |id: PartitionId| stored.rows.iter().any(|row| row.id == id);
        let present = self.partitions();
        for id in present.into_iter().filter(|id| !is_stored(*id)) {
            self.route_no_more(id);
            self.stop_dropped(id).await?;
        }
        let mut failed = Ok(());
        for row in &stored.rows {
            if self.services.partitions.contains_key(&row.id) {
                continue;
            }
            let started = self.start_partition(*row).await;
            // One that is here and has stopped is routed to as well: whoever asks for it is
            // told why, and the status shows it.
            if started.is_ok() || self.services.partitions.contains_key(&row.id) {
                self.route_to(*row);
            }
            if let Err(error) = started {
                failed = Err(error);
            }
        }
        failed
    }

    fn route_to(&self, row: Row) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.rows.push(row);
        table.rows.sort_by_key(|row| row.first);
    }

    fn route_no_more(&self, id: PartitionId) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.rows.retain(|row| row.id != id);
    }
}
