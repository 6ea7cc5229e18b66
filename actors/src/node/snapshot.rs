//! Taking a snapshot of a node while it runs.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use forebay_messages::{Lsn, PartitionId};
use forebay_storage::{
    metadata::{BlockingMetadata, KeyWrite, MetaKey, Precondition},
    snapshot::{self, Manifest, Source},
};

use crate::{
    cluster::copy_rows::hold_trim,
    error::NodeError,
    log_writer::{LogCommand, LogHandle},
    rules::stored,
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
        self.keep_copy_of_cluster().await?;
        let log = self.machinery.log()?;
        let release = hold_trim(log.clone()).await?;
        let (store, log_store) = (Arc::clone(&self.store), Arc::clone(&self.log_store));
        let (metadata, now, to) =
            (Arc::clone(&self.registry.own), self.registry.clock().now(), to.to_owned());
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

impl Node {
    /// Copies what a cluster shares into the node's own metadata, from which it is part of a
    /// snapshot: a directory restored from it runs alone, with the rules and partitions known here.
    async fn keep_copy_of_cluster(&self) -> Result<(), NodeError> {
        let metadata = &*self.registry.metadata;
        if !metadata.is_shared() {
            return Ok(());
        }
        let mut values = Vec::new();
        for key in [MetaKey::partition_table(), MetaKey::rule_book(), MetaKey::aliases()] {
            let found = metadata.get_applied(&key).await?;
            values.push((key, found.map(|found| found.value)));
        }
        // Without a majority it is the history of the last snapshot.
        if let Ok(history) = stored::history(metadata).await {
            let history = Some(Bytes::from(history.encode()));
            values.push((MetaKey::rule_book_history(), history));
        }
        let write = |(key, value)| KeyWrite { key, value, precondition: Precondition::None };
        let writes: Vec<_> = values.into_iter().map(write).collect();
        let own = Arc::clone(&self.registry.own);
        self.registry.blocking(move || own.put_all(&writes)).await??;
        Ok(())
    }
}

/// Tells the writer of a log which snapshots exist.
pub(crate) fn tell_snapshots(
    metadata: &dyn BlockingMetadata,
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
