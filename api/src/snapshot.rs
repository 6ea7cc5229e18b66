//! The contents of a snapshot.
//!
//! Equal to the manifest. The manifest is a file with a format of its own, which belongs to
//! storage; changes of the answer must not change it.

use serde::{Deserialize, Serialize};

/// The contents of a snapshot, for display.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotView {
    /// Version of the forebay that took it.
    pub forebay: String,
    /// When it was taken (milliseconds since 1970).
    pub created_at: u64,
    /// The state of each partition.
    pub partitions: Vec<SnapshotPartitionView>,
    /// Every file.
    pub files: Vec<SnapshotFileView>,
}

/// The state of a partition in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotPartitionView {
    /// Its id.
    pub id: u32,
    /// The last LSN applied to its rows.
    pub applied: u64,
    /// The first LSN in the copy of the log.
    pub log_first: u64,
    /// The last one.
    pub log_end: u64,
    /// Number of rows.
    pub rows: u64,
    /// Hash over all rows, in hexadecimal.
    pub hash: String,
}

/// A file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotFileView {
    /// Its path, with `/` between names.
    pub path: String,
    /// Its length in bytes.
    pub len: u64,
    /// xxh3-128 of its bytes, in hexadecimal.
    pub xxh3: String,
}
