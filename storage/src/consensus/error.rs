//! Errors of reading and writing consensus rows, each with what to do.

use std::path::PathBuf;

use forebay_engine::consensus::DecodeError;
use thiserror::Error;

use crate::{Fault, OpenError, log::LogError};

/// Why the consensus groups of a node cannot be read or written.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum ConsensusError {
    /// A row is missing or damaged.
    #[error(
        "consensus group {group}: {row} is damaged: {reason}; this data directory may have lost \
         votes: replace it by an empty one, with which the node joins again"
    )]
    Damaged {
        /// The group.
        group: u32,
        /// The row.
        row: String,
        /// The reason.
        reason: String,
    },
    /// The identity of the data directory is damaged.
    #[error(
        "the identity of the data directory is damaged ({reason}): replace the directory by an \
         empty one, with which the node joins again"
    )]
    DamagedIdentity {
        /// The reason.
        reason: String,
    },
    /// A snapshot of the metadata is damaged.
    #[error(
        "{path} is damaged: {reason}; replace the data directory by an empty one, with which the \
         node joins again",
        path = path.display()
    )]
    DamagedBase {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// A newer forebay wrote it.
    #[error("{row} has format {found}, which is newer than this version: use a newer forebay")]
    Newer {
        /// Which row.
        row: String,
        /// Its format.
        found: u8,
    },
    /// The data directory belongs to another node.
    #[error(
        "the data directory belongs to the node `{of}`, not to `{name}`: start it with its own \
         name, or give this node an empty directory"
    )]
    AnotherNode {
        /// Its node.
        of: String,
        /// The name of this start.
        name: String,
    },
    /// A node name that cannot be kept.
    #[error("the node name has {len} bytes: it must have 1 to {max}")]
    BadName {
        /// Its length.
        len: usize,
        /// How many it may have.
        max: usize,
    },
    /// The group has no rows here.
    #[error("consensus group {group} has no rows in this data directory")]
    NoGroup {
        /// The group.
        group: u32,
    },
    /// The requested entries were dropped with their segment.
    #[error("consensus group {group}: entry {index} was dropped, the first kept one is {oldest}")]
    Gone {
        /// The group.
        group: u32,
        /// The requested index.
        index: u64,
        /// The oldest remaining index.
        oldest: u64,
    },
    /// The log, in whose database the rows are, cannot be read or written. After a failed write
    /// no group of this node may continue.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Files could not be read or written.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The format of the data directory could not be raised.
    #[error("{0}")]
    Dir(String),
    /// The thread that writes died.
    #[error("the thread that writes consensus rows died ({reason}): restart the process")]
    WriterDied {
        /// The reason.
        reason: String,
    },
}

impl ConsensusError {
    pub(super) fn from_open(error: OpenError) -> Self {
        match error {
            OpenError::Fault(fault) => Self::Fault(fault),
            other => Self::Dir(other.to_string()),
        }
    }

    pub(super) fn damaged(group: u32, row: String, reason: impl Into<String>) -> Self {
        Self::Damaged { group, row, reason: reason.into() }
    }

    /// The error for bytes that do not decode.
    pub(super) fn from_decode(group: u32, row: String, error: DecodeError) -> Self {
        match error {
            DecodeError::NewerFormat(found) => Self::Newer { row, found },
            error => Self::damaged(group, row, error.to_string()),
        }
    }
}
