//! The log: the ordered durable record of commands. It is the source of truth; everything else is
//! derived from it.
//!
//! Owns: the port [`LogStore`], its providers, the frame of a record. Must always hold: everything
//! that [`LogStore::append`] acknowledged with an LSN is durable; LSNs of a partition have no gaps;
//! a fence never moves back; damage is an error that names log, partition and LSN. Must not know:
//! what a command means, which replica leads.
//!
//! A log may serve several partitions. LSNs count per partition. Records are keyed by (partition,
//! LSN) in one database per node, so that one fsync covers the appends of all partitions, while
//! reading, trimming and comparing positions of one partition are independent of the others. (With
//! one sequence for all, each reader would skip the others' records, and the slowest would delay
//! trimming for all.)

mod database;
mod frame;
mod id;
mod journal;
mod local;
mod memory;
mod stats;

use std::{path::Path, sync::Arc};

use forebay_messages::{Epoch, Lsn, PartitionId, Record};
use thiserror::Error;

use crate::Fault;

pub(crate) use database::Database;
pub use forebay_messages::record::RECORD_LEN_MAX;
pub use frame::Damage;
pub use id::LogId;
pub use local::LocalLog;
pub use memory::MemoryLog;
pub use stats::LogStats;

/// Consecutive records of one partition, appended all or none.
#[derive(Clone, Copy, Debug)]
pub struct Append<'a> {
    /// Its partition.
    pub partition: PartitionId,
    /// Epoch of the leader that appends.
    pub epoch: Epoch,
    /// The records, in order.
    pub records: &'a [Arc<Record>],
}

/// Outcome of one [`Append`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// Durable. The first record has this LSN; for an append without records it is the LSN of the
    /// next record.
    At(Lsn),
    /// Refused, nothing written: a newer epoch is in force.
    Fenced {
        /// That epoch.
        current: Epoch,
    },
}

/// Records read, with their LSNs; consecutive and ascending.
pub type Batch = Vec<(Lsn, Arc<Record>)>;

/// Why a log operation failed.
#[derive(Clone, Debug, Error)]
pub enum LogError {
    /// A record or a row of the log is damaged. The partition must stop; nothing may be skipped.
    #[error("log {log}, partition {partition}, LSN {lsn} is damaged: {damage}")]
    Corrupt {
        /// The log (its directory).
        log: String,
        /// The partition.
        partition: PartitionId,
        /// Its position.
        lsn: Lsn,
        /// What is wrong.
        #[source]
        damage: Damage,
    },
    /// The requested records were trimmed.
    #[error(
        "log {log}, partition {partition}: LSN {requested} was trimmed, the log starts at {first}"
    )]
    Trimmed {
        /// The log.
        log: String,
        /// The partition.
        partition: PartitionId,
        /// The requested position.
        requested: Lsn,
        /// The first LSN that is left (or will be written).
        first: Lsn,
    },
    /// A trim beyond the last record was requested.
    #[error(
        "log {log}, partition {partition}: cannot trim through LSN {requested}, the end is {end}"
    )]
    BeyondEnd {
        /// The log.
        log: String,
        /// The partition.
        partition: PartitionId,
        /// The requested position.
        requested: Lsn,
        /// The last LSN written.
        end: Lsn,
    },
    /// A record is larger than [`LogStore::record_len_max`]; nothing of the call was written, and
    /// the log accepts other records.
    #[error("a record for partition {partition} has {len} bytes, at most {len_max} fit")]
    TooLarge {
        /// The partition.
        partition: PartitionId,
        /// Its stored length in bytes.
        len: usize,
        /// The maximum length in bytes.
        len_max: usize,
    },
    /// An earlier write failed, so what is durable is unknown until the log is opened again.
    /// Nothing of the call was written.
    #[error("log {log} accepts no writes after one failed: {first}")]
    Broken {
        /// The log.
        log: String,
        /// The fault that broke it.
        #[source]
        first: Fault,
    },
    /// Its writer died: it accepts no writes before it is opened again, and waiting ones
    /// are lost.
    #[error("the log's writer died ({reason}): restart the process, which opens the log again")]
    Gone {
        /// Why it died.
        reason: String,
    },
    /// The log has no files to copy.
    #[error("the log is kept in memory: there is nothing to take a snapshot of")]
    InMemory,
    /// Files could not be read or written. After a failed append the outcome is unknown: its
    /// records may or may not exist when the log is opened again.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// An ordered durable record of commands per partition.
///
/// Calls block; appends are made by one writer thread, all other calls by any thread.
pub trait LogStore: Send + Sync {
    /// The log's id; `None` until it is set.
    ///
    /// # Errors
    /// [`LogError::Fault`].
    fn identity(&self) -> Result<Option<LogId>, LogError>;

    /// Durably sets the log's id if it has none. Returns its id.
    ///
    /// # Errors
    /// [`LogError::Broken`] or [`LogError::Fault`].
    fn identify(&self, id: LogId) -> Result<LogId, LogError>;

    /// Appends everything in one write and one fsync, and answers each append in order. An append
    /// of a newer epoch than the fence raises the fence in the same write; one of an older epoch is
    /// refused. A later append of the call sees the earlier ones. Work that can wait until the
    /// outcomes are reported is left to [`LogStore::finish_appends`].
    ///
    /// # Errors
    /// [`LogError::TooLarge`] and [`LogError::Broken`] (nothing was written), or
    /// [`LogError::Fault`] (outcome unknown; the log accepts no more writes).
    fn append(&self, batch: &[Append<'_>]) -> Result<Vec<Appended>, LogError>;

    /// Does the work that appends deferred; the writer calls it after it has reported their
    /// outcomes. Other calls do it themselves if they need it sooner. If it fails, the log is
    /// broken, but everything appended is durable.
    ///
    /// # Errors
    /// [`LogError::Broken`] or [`LogError::Fault`].
    fn finish_appends(&self) -> Result<(), LogError> {
        Ok(())
    }

    /// Durably refuses appends of epochs below `epoch` from here on. Returns the epoch in force: a
    /// fence never moves back.
    ///
    /// # Errors
    /// [`LogError::Broken`] or [`LogError::Fault`].
    fn fence(&self, partition: PartitionId, epoch: Epoch) -> Result<Epoch, LogError>;

    /// The epoch below which appends are refused; 0 if there was never one.
    fn fenced(&self, partition: PartitionId) -> Epoch;

    /// Reads from an LSN on (0 means 1): at most `limit_records`, and no further record once
    /// `limit_bytes` are reached. At least one record if there is one; empty above the end.
    ///
    /// # Errors
    /// [`LogError::Corrupt`], [`LogError::Trimmed`] or [`LogError::Fault`].
    fn read(
        &self,
        partition: PartitionId,
        from: Lsn,
        limit_records: usize,
        limit_bytes: usize,
    ) -> Result<Batch, LogError>;

    /// LSN of the last durable record; 0 if there was never one.
    fn end(&self, partition: PartitionId) -> Lsn;

    /// Durably drops the records up to and including an LSN. Moves only forward.
    ///
    /// # Errors
    /// [`LogError::BeyondEnd`], [`LogError::Broken`] or [`LogError::Fault`].
    fn trim(&self, partition: PartitionId, through: Lsn) -> Result<(), LogError>;

    /// The LSN up to which records were trimmed; 0 if never.
    fn trimmed(&self, partition: PartitionId) -> Lsn;

    /// Copies everything into a database in a directory that does not exist yet, as of one moment,
    /// while it is written to.
    ///
    /// # Errors
    /// [`LogError::InMemory`] or [`LogError::Fault`].
    fn checkpoint(&self, _to: &Path) -> Result<(), LogError> {
        Err(LogError::InMemory)
    }

    /// Size of the largest accepted record, in bytes as stored
    /// ([`Record::stored_len`](forebay_messages::Record::stored_len)).
    fn record_len_max(&self) -> usize {
        RECORD_LEN_MAX
    }

    /// What was written since the log was opened.
    fn stats(&self) -> LogStats;
}

/// Position of a partition in a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Position {
    /// Appends of lower epochs are refused. Only grows.
    fence: Epoch,
    /// Last LSN. Only grows.
    end: Lsn,
    /// Everything up to here is gone. Only grows, never above `end`.
    trimmed: Lsn,
}

#[cfg(test)]
mod tests;
