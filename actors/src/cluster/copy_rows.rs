//! A replica that needs records which were trimmed from the log copies the rows of another replica.
//!
//! Must always hold: nothing is trimmed between the copy of the rows and the replica's subscription
//! to the log.

use std::sync::Arc;

use forebay_engine::partition::state::PartitionState;
use forebay_messages::{Lsn, PartitionId};
use forebay_storage::{
    log::LogStore,
    partition::{PartitionStore, Store},
};
use tokio::sync::oneshot;

use crate::{
    error::NodeError,
    log_writer::{LogCommand, LogHandle},
    registry::Registry,
};

/// Allows trimming again, even if the copy failed.
pub(crate) struct Release(LogHandle);

impl Drop for Release {
    fn drop(&mut self) {
        self.0.send(LogCommand::ReleaseTrim);
    }
}

/// Rows that the log continues from; holds off trimming until the replica has subscribed.
pub(crate) struct StartRows {
    pub(crate) store: PartitionStore,
    pub(crate) state: PartitionState,
    pub(crate) hold: Option<Release>,
}

/// Finds the rows for the start of a replica.
pub(crate) struct RowSource {
    pub(crate) registry: Arc<Registry>,
    pub(crate) store: Arc<Store>,
    pub(crate) log_store: Arc<dyn LogStore>,
}

/// Nothing is trimmed until the returned value is dropped.
pub(crate) async fn hold_trim(log: LogHandle) -> Result<Release, NodeError> {
    let (done, held) = oneshot::channel();
    log.send(LogCommand::HoldTrim(Box::new(move |result| {
        // The caller may have stopped waiting.
        let _ = done.send(result);
    })));
    let release = Release(log);
    held.await.map_err(|_| NodeError::ShutDown)??;
    Ok(release)
}

impl RowSource {
    /// The local rows of a partition or, if the log does not continue from them, those of another
    /// node.
    pub(crate) async fn rows_of(
        &self,
        partition: PartitionId,
        log: LogHandle,
    ) -> Result<StartRows, NodeError> {
        let store = self.store.partition(partition)?;
        let state = PartitionState::load(&store)?;
        if self.gap_after(partition, state.applied_lsn).is_none() {
            return Ok(StartRows { store, state, hold: None });
        }
        drop(store);
        let hold = hold_trim(log).await?;
        let applied = state.applied_lsn;
        let Some(from) = self.other_rows(partition)? else {
            let first = self.log_store.trimmed(partition).next();
            return Err(NodeError::Gap { partition, applied, first });
        };
        let to = Arc::clone(&self.store);
        let through = self.registry.blocking(move || to.take_over(&from)).await??;
        tracing::info!(%partition, %applied, %through, "rows were taken over from another node");
        let store = self.store.partition(partition)?;
        let state = PartitionState::load(&store)?;
        match self.gap_after(partition, state.applied_lsn) {
            Some(first) => Err(NodeError::Gap { partition, applied: through, first }),
            None => Ok(StartRows { store, state, hold: Some(hold) }),
        }
    }

    /// The first record in the log, if records before it are missing.
    fn gap_after(&self, partition: PartitionId, applied: Lsn) -> Option<Lsn> {
        let first = self.log_store.trimmed(partition).next();
        (first > applied.next()).then_some(first)
    }

    /// The rows of another node with a running replica; the newest if there are several.
    fn other_rows(&self, partition: PartitionId) -> Result<Option<PartitionStore>, NodeError> {
        let Some(shared) = self.registry.shared() else { return Ok(None) };
        let mut found = None;
        for peer in shared.others(self.registry.node) {
            if let Some(store) = peer.copy_rows(partition) {
                let applied = store.applied_lsn()?;
                if found.as_ref().is_none_or(|(newest, _)| applied > *newest) {
                    found = Some((applied, store));
                }
            }
        }
        Ok(found.map(|(_, store)| store))
    }
}
