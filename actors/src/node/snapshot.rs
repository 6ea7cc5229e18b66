//! Taking a snapshot of a node while it runs.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use forebay_messages::{Lsn, PartitionId};
use forebay_storage::{
    metadata::{MetaKey, MetadataStore, Precondition},
    snapshot::{self, Manifest, Source},
};

use crate::{
    cluster::copy_rows::hold_trim,
    error::NodeError,
    log_writer::{LogCommand, LogHandle},
};

use super::Node;

impl Node {
    /// Takes a snapshot of log, rows and metadata into a directory that does not exist or is empty,
    /// while work continues. It contains everything acknowledged before. Dropping the call does not
    /// stop it.
    ///
    /// # Errors
    /// [`NodeError::Snapshot`].
    pub async fn snapshot(&self, to: &Path) -> Result<Manifest, NodeError> {
        self.registry.check_up()?;
        let log = self.machinery.log()?;
        let release = hold_trim(log.clone()).await?;
        let (store, log_store) = (Arc::clone(&self.store), Arc::clone(&self.log_store));
        let (metadata, now, to) =
            (Arc::clone(&self.registry.metadata), self.registry.clock().now(), to.to_owned());
        let taking = tokio::task::spawn_blocking(move || {
            let source = Source { store: &store, log: &*log_store, metadata: &*metadata };
            let manifest = snapshot::create(&to, source, now)?;
            for partition in &manifest.partitions {
                let (partition, through) = (PartitionId(partition.id), Lsn(partition.applied));
                let value = Bytes::copy_from_slice(&through.0.to_be_bytes());
                metadata.put(&MetaKey::snapshot(partition), value, Precondition::None)?;
                log.send(LogCommand::Snapshotted { partition, through });
            }
            drop(release);
            Ok(manifest)
        });
        taking.await.map_err(|error| NodeError::Unexpected(error.to_string()))?
    }
}

/// Tells the writer of a log which snapshots exist.
pub(crate) fn tell_snapshots(
    metadata: &dyn MetadataStore,
    partitions: impl Iterator<Item = PartitionId>,
    log: &LogHandle,
) -> Result<(), NodeError> {
    for partition in partitions {
        let Some(found) = metadata.get(&MetaKey::snapshot(partition))? else { continue };
        if let Ok(bytes) = found.value.as_ref().try_into() {
            let through = Lsn(u64::from_be_bytes(bytes));
            log.send(LogCommand::Snapshotted { partition, through });
        }
    }
    Ok(())
}
