//! Errors of a partition store.

use std::path::PathBuf;

use forebay_engine::partition::store::TablesError;
use forebay_messages::PartitionId;
use thiserror::Error;

use crate::Fault;

/// Why a partition store operation failed.
#[derive(Clone, Debug, Error)]
pub enum StoreError {
    /// A row is damaged. The partition must stop; its rows can be rebuilt from a snapshot and the
    /// log.
    #[error(
        "partition store {path}, partition {partition}, table `{table}`: the row at key {key} is \
         damaged: {reason}",
        path = path.display()
    )]
    Row {
        /// The store's directory.
        path: PathBuf,
        /// The partition.
        partition: PartitionId,
        /// The table.
        table: &'static str,
        /// Its key, in hexadecimal.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// A read failed.
    #[error("partition {partition}, table `{table}`: {source}")]
    Read {
        /// Whose row.
        partition: PartitionId,
        /// Of which table.
        table: &'static str,
        /// What went wrong; names the directory.
        source: Fault,
    },
    /// The partition has no rows here (any more).
    #[error("partition {partition} is not in the store {path}", path = path.display())]
    NoPartition {
        /// The store's directory.
        path: PathBuf,
        /// Which one.
        partition: PartitionId,
    },
    /// It has no files that could be copied.
    #[error("the rows are kept in memory: there is nothing to take a snapshot of")]
    InMemory,
    /// Files could not be read or written.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl StoreError {
    /// Whether files or rows are damaged.
    #[must_use]
    pub fn is_corruption(&self) -> bool {
        match self {
            Self::Row { .. } => true,
            Self::Read { source, .. } | Self::Fault(source) => source.is_corruption(),
            Self::NoPartition { .. } | Self::InMemory => false,
        }
    }
}

impl From<StoreError> for TablesError {
    fn from(error: StoreError) -> Self {
        let table = match &error {
            StoreError::Row { table, .. } | StoreError::Read { table, .. } => table,
            StoreError::NoPartition { .. } | StoreError::InMemory | StoreError::Fault(_) => "(all)",
        };
        Self { table, source: Box::new(error) }
    }
}
