//! Errors of reading and writing rows of consensus, each with what to do about it.

use forebay_engine::consensus::DecodeError;
use thiserror::Error;

use crate::{Fault, OpenError, log::LogError};

/// Why the consensus groups of a node cannot be read or written.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum ConsensusError {
    /// A row is missing, or it is not what was written there.
    #[error(
        "consensus group {group}: {row} is damaged: {reason}; this data directory may have lost \
         votes: replace it by an empty one, with which the node joins again"
    )]
    Damaged {
        /// The group.
        group: u32,
        /// Which row.
        row: String,
        /// What is wrong.
        reason: String,
    },
    /// The identity of the data directory is not what was written there.
    #[error(
        "the identity of the data directory is damaged ({reason}): replace the directory by an \
         empty one, with which the node joins again"
    )]
    DamagedIdentity {
        /// What is wrong.
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
    /// The data directory is another node's.
    #[error(
        "the data directory belongs to the node `{of}`, not to `{name}`: start it with its own \
         name, or give this node an empty directory"
    )]
    AnotherNode {
        /// Whose it is.
        of: String,
        /// Who wants it.
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
    /// The entries asked for were dropped with their segment.
    #[error("consensus group {group}: entry {index} was dropped, the first kept one is {oldest}")]
    Gone {
        /// The group.
        group: u32,
        /// What was asked for.
        index: u64,
        /// What is left.
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
        /// Of what.
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
