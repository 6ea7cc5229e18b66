//! The log: the ordered durable record of commands. The log is the truth; everything
//! else is derived from it.
//!
//! Owns: the port [`LogStore`], its providers, the frame of a record. Must always
//! hold: what [`LogStore::append`] answered with an LSN is durable; LSNs of a
//! partition have no gaps; a fence never moves back; damage is an error that names
//! log, partition and LSN. Must not know: what a command means, who leads.
//!
//! A log may serve several partitions. LSNs count per partition: records are keyed by
//! (partition, LSN) in one database per node, so that one fsync covers the appends of
//! all its partitions, while reading, trimming and comparing positions of one
//! partition need nothing of another (with one sequence for all, each reader would
//! step over the others' records and the slowest would hold everybody's trimming).

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

pub use forebay_messages::record::RECORD_LEN_MAX;
pub use frame::Damage;
pub use id::LogId;
pub use local::LocalLog;
pub use memory::MemoryLog;
pub use stats::LogStats;

/// Consecutive records of one partition, appended all or none.
#[derive(Clone, Copy, Debug)]
pub struct Append<'a> {
    /// For which partition.
    pub partition: PartitionId,
    /// Epoch of the leader that appends.
    pub epoch: Epoch,
    /// What, in order.
    pub records: &'a [Arc<Record>],
}

/// What became of one [`Append`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// Durable. The records have this LSN and those after it; for an append without
    /// records it is the LSN that the next record gets.
    At(Lsn),
    /// Refused, nothing written: a newer epoch is in force.
    Fenced {
        /// That epoch.
        current: Epoch,
    },
}

/// Records that were read, with their LSNs; consecutive and ascending.
pub type Batch = Vec<(Lsn, Arc<Record>)>;

/// Why the log cannot do what was asked.
#[derive(Clone, Debug, Error)]
pub enum LogError {
    /// A record or a row of the log is not what was written there. The partition must
    /// stop; nothing may be skipped.
    #[error("log {log}, partition {partition}, LSN {lsn} is damaged: {damage}")]
    Corrupt {
        /// Which log (its directory).
        log: String,
        /// Whose record.
        partition: PartitionId,
        /// Its position.
        lsn: Lsn,
        /// What is wrong.
        #[source]
        damage: Damage,
    },
    /// The records asked for were trimmed.
    #[error(
        "log {log}, partition {partition}: LSN {requested} was trimmed, the log starts at {first}"
    )]
    Trimmed {
        /// Which log.
        log: String,
        /// Whose record.
        partition: PartitionId,
        /// What was asked for.
        requested: Lsn,
        /// The first that is left (or will be written).
        first: Lsn,
    },
    /// Trimming was asked for beyond what was written.
    #[error(
        "log {log}, partition {partition}: cannot trim through LSN {requested}, the end is {end}"
    )]
    BeyondEnd {
        /// Which log.
        log: String,
        /// Whose record.
        partition: PartitionId,
        /// What was asked for.
        requested: Lsn,
        /// The last LSN written.
        end: Lsn,
    },
    /// A record is larger than [`LogStore::record_len_max`]; nothing of the call was written,
    /// and the log takes other records.
    #[error("a record for partition {partition} has {len} bytes, at most {len_max} fit")]
    TooLarge {
        /// Whose record.
        partition: PartitionId,
        /// Its stored length in bytes.
        len: usize,
        /// What fits, in bytes.
        len_max: usize,
    },
    /// An earlier write failed, so that what is durable is not known until the log has
    /// been opened again. Nothing of the call was written.
    #[error("log {log} takes no more writes since one failed: {first}")]
    Broken {
        /// Which log.
        log: String,
        /// The fault that broke it.
        #[source]
        first: Fault,
    },
    /// Its writer died: it takes no more writes before it is opened again, and what waited
    /// to be written is lost.
    #[error("the log's writer died ({reason}): restart the process, which opens the log again")]
    Gone {
        /// Of what.
        reason: String,
    },
    /// It has no files that could be copied.
    #[error("the log is kept in memory: there is nothing to take a snapshot of")]
    InMemory,
    /// Files could not be read or written. After a failed append the outcome is
    /// unknown: its records may or may not be there when the log is opened again.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// An ordered durable record of commands per partition.
///
/// Calls block; appends are made by one writer thread, everything else by anybody.
pub trait LogStore: Send + Sync {
    /// Which log this is; `None` until it is told.
    ///
    /// # Errors
    /// [`LogError::Fault`].
    fn identity(&self) -> Result<Option<LogId>, LogError>;

    /// Tells a log that does not know it which one it is, durably. Which one it is.
    ///
    /// # Errors
    /// [`LogError::Broken`] or [`LogError::Fault`].
    fn identify(&self, id: LogId) -> Result<LogId, LogError>;

    /// Appends everything in one write and one fsync, and answers each in order. An
    /// append of a newer epoch than the fence raises the fence with the same write; one
    /// of an older epoch is refused. A later append of the call sees the earlier ones.
    /// What can wait until the outcomes are told is left to [`LogStore::settle`].
    ///
    /// # Errors
    /// [`LogError::TooLarge`] and [`LogError::Broken`] (nothing was written), or
    /// [`LogError::Fault`] (outcome unknown; the log takes no more writes).
    fn append(&self, batch: &[Append<'_>]) -> Result<Vec<Appended>, LogError>;

    /// Does what appends left to be done: called by the writer once it has told of them.
    /// Whoever needs it done sooner does it; if it cannot be done, the log is broken, and
    /// what was appended is durable all the same.
    ///
    /// # Errors
    /// [`LogError::Broken`] or [`LogError::Fault`].
    fn settle(&self) -> Result<(), LogError> {
        Ok(())
    }

    /// Refuses appends of epochs below `epoch` from here on, durably. Returns the epoch
    /// in force: a fence never moves back.
    ///
    /// # Errors
    /// [`LogError::Broken`] or [`LogError::Fault`].
    fn fence(&self, partition: PartitionId, epoch: Epoch) -> Result<Epoch, LogError>;

    /// The epoch below which appends are refused; 0 when there was never one.
    fn fenced(&self, partition: PartitionId) -> Epoch;

    /// Reads from an LSN on (0 means 1): at most `limit_records`, and no further record
    /// once `limit_bytes` are reached. At least one record when there is one; empty
    /// above the end.
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

    /// LSN of the last durable record; 0 when there was never one.
    fn end(&self, partition: PartitionId) -> Lsn;

    /// Forgets the records up to and including an LSN, durably when this returns. Moves
    /// only forward.
    ///
    /// # Errors
    /// [`LogError::BeyondEnd`], [`LogError::Broken`] or [`LogError::Fault`].
    fn trim(&self, partition: PartitionId, through: Lsn) -> Result<(), LogError>;

    /// Up to which LSN records were trimmed; 0 when never.
    fn trimmed(&self, partition: PartitionId) -> Lsn;

    /// Copies everything into a database in a directory that does not exist yet, as of
    /// one moment, while it is written to.
    ///
    /// # Errors
    /// [`LogError::InMemory`] or [`LogError::Fault`].
    fn checkpoint(&self, _to: &Path) -> Result<(), LogError> {
        Err(LogError::InMemory)
    }

    /// Largest record that it takes, in bytes as stored
    /// ([`Record::stored_len`](forebay_messages::Record::stored_len)).
    fn record_len_max(&self) -> usize {
        RECORD_LEN_MAX
    }

    /// What was written since the log was opened.
    fn stats(&self) -> LogStats;
}

/// Where a partition stands in a log.
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
