//! What a snapshot holds.
//!
//! The same as its manifest. That is a file with a format of its own, which belongs to
//! storage; a change of answers must not change it.

use serde::{Deserialize, Serialize};

/// What a snapshot holds, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotView {
    /// Version of the forebay that took it.
    pub forebay: String,
    /// When it was taken (milliseconds since 1970).
    pub created_at: u64,
    /// Where each partition stands.
    pub partitions: Vec<SnapshotPartitionView>,
    /// Every file.
    pub files: Vec<SnapshotFileView>,
}

/// Where a partition stands in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotPartitionView {
    /// Its id.
    pub id: u32,
    /// The last LSN that its rows know.
    pub applied: u64,
    /// The first LSN in the copy of the log.
    pub log_first: u64,
    /// The last one.
    pub log_end: u64,
    /// Rows.
    pub rows: u64,
    /// Hash over all rows, in hexadecimal.
    pub hash: String,
}

/// A file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotFileView {
    /// Where it lies, with `/` between names.
    pub path: String,
    /// Its length in bytes.
    pub len: u64,
    /// xxh3-128 of its bytes, in hexadecimal.
    pub xxh3: String,
}
