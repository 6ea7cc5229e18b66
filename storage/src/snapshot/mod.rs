//! Snapshots: a consistent copy of log, rows and metadata in its own directory, and restoring it.
//!
//! Must always hold: a directory without a complete manifest is not a snapshot (the manifest is
//! written last); every file is checked against the manifest before anything is restored; nothing
//! is ever restored into a non-empty directory; no record is missing between the restored rows and
//! the restored log. Must not know: which command takes it, or when.
//!
//! The order of copying makes it consistent while everything runs: first the rows, then the log
//! (which then reaches at least as far), then the metadata (whose epochs and partitions are then at
//! least as new). The caller ensures that nothing is trimmed between the first two.

mod files;
mod manifest;
mod restore;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use forebay_messages::{Lsn, PartitionId, Timestamp};
use thiserror::Error;

use crate::{
    Fault, Medium, OpenError,
    log::{LocalLog, LogError, LogId, LogStore},
    metadata::{BlockingMetadata, MetadataError},
    partition::{Store, StoreError},
};

pub use manifest::{FileSum, Manifest, PartitionSum, SNAPSHOT_FORMAT};
pub use restore::{restore, restored, verify};

/// Names of the copies in a snapshot, as in a data directory.
const STORE: &str = "store";
const LOG: &str = "log";
const METADATA: &str = "metadata";

/// Why a snapshot was not taken or not restored.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// The target is not empty.
    #[error(
        "{path} is not empty (it holds `{found}`): choose a new or an empty directory",
        path = path.display()
    )]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// One of its files.
        found: String,
    },
    /// It has no manifest.
    #[error(
        "{path} is not a complete snapshot (it has no manifest): taking it may have been \
         interrupted; use another one",
        path = path.display()
    )]
    NotASnapshot {
        /// The directory.
        path: PathBuf,
    },
    /// A newer forebay took it.
    #[error(
        "the snapshot {path} has format {found}, this forebay knows formats up to \
         {SNAPSHOT_FORMAT}: use a newer forebay",
        path = path.display()
    )]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// A file of it is damaged.
    #[error(
        "{file} of the snapshot {path} is damaged: {reason}; use another snapshot",
        path = path.display()
    )]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// Records are missing between the rows and the log.
    #[error(
        "partition {partition}: the snapshot's rows end at LSN {applied}, the log {log} starts at \
         {first}: the records between are gone; use a newer snapshot, or restore without this log",
        log = log.display()
    )]
    Gap {
        /// The partition.
        partition: PartitionId,
        /// The last record applied to its rows.
        applied: Lsn,
        /// The log.
        log: PathBuf,
        /// The first record it has.
        first: Lsn,
    },
    /// The log ends before the rows.
    #[error(
        "partition {partition}: the snapshot's rows end at LSN {applied}, the log {log} at {end}: \
         the rows did not come from this log",
        log = log.display()
    )]
    OtherLog {
        /// The partition.
        partition: PartitionId,
        /// The last record applied to its rows.
        applied: Lsn,
        /// The log.
        log: PathBuf,
        /// The last record it has.
        end: Lsn,
    },
    /// Rows and log do not belong together.
    #[error(
        "the rows are of log {rows}, the log is {log}: the rows did not come from this log; \
         name the directory that the snapshot was taken of, or restore without `--log-of`"
    )]
    AnotherLog {
        /// The log the rows were built from.
        rows: LogId,
        /// The log that was found.
        log: LogId,
    },
    /// The data directory given for its log cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The log cannot be read or copied.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The rows cannot be read or copied.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The metadata cannot be read or copied.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// Files cannot be read or written.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// The source of a snapshot.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// The rows.
    pub store: &'a Store,
    /// The log they are derived from.
    pub log: &'a dyn LogStore,
    /// The metadata.
    pub metadata: &'a dyn BlockingMetadata,
}

/// Takes a snapshot into a directory that does not exist or is empty. Blocks. Everything may
/// continue to run, but the log must not be trimmed until it returns.
///
/// # Errors
/// [`SnapshotError`]. Files written until then are left without a manifest.
pub fn create(to: &Path, source: Source<'_>, now: Timestamp) -> Result<Manifest, SnapshotError> {
    files::make_empty(to)?;
    source.store.checkpoint(&to.join(STORE))?;
    source.log.checkpoint(&to.join(LOG))?;
    source.metadata.checkpoint(&to.join(METADATA))?;
    let partitions = look_at(to)?;
    let manifest = Manifest {
        forebay: env!("CARGO_PKG_VERSION").to_owned(),
        created_at: now.0,
        partitions,
        files: files::sums(to)?,
    };
    manifest::write(to, &manifest)?;
    Ok(manifest)
}

/// Opens the copies, which checks that they can be opened, and reads the state of each partition.
fn look_at(path: &Path) -> Result<Vec<PartitionSum>, SnapshotError> {
    let medium = Medium::disk();
    let log_path = path.join(LOG);
    let log = LocalLog::open(&log_path, &medium)?;
    let store = Store::open(&path.join(STORE), &medium)?;
    if let (Some(rows), Some(log)) = (store.log_id()?, log.identity()?)
        && rows != log
    {
        return Err(SnapshotError::AnotherLog { rows, log });
    }
    let mut sums = Vec::new();
    for id in store.partitions() {
        let digest = store.partition(id)?.digest()?;
        check_gap(id, digest.applied, &log, &log_path)?;
        sums.push(PartitionSum {
            id: id.0,
            applied: digest.applied.0,
            log_first: log.trimmed(id).next().0,
            log_end: log.end(id).0,
            rows: digest.rows,
            hash: format!("{:032x}", digest.hash),
        });
    }
    Ok(sums)
}

/// Every record after the last applied one must be in the log.
fn check_gap(
    partition: PartitionId,
    applied: Lsn,
    log: &dyn LogStore,
    path: &Path,
) -> Result<(), SnapshotError> {
    let (first, end, log) = (log.trimmed(partition).next(), log.end(partition), path.to_owned());
    if first > applied.next() {
        return Err(SnapshotError::Gap { partition, applied, log, first });
    }
    if end < applied {
        return Err(SnapshotError::OtherLog { partition, applied, log, end });
    }
    Ok(())
}
