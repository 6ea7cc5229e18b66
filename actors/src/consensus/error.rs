//! Errors of nodes of a cluster, each with what to do about it.

use std::path::PathBuf;

use forebay_engine::consensus::OpenError as GroupOpenError;
use forebay_engine::metadata::InvalidCommand;
use forebay_net::{BadName, GroupError, StartError};
use forebay_storage::consensus::ConsensusError;
use forebay_storage::log::LogError;
use forebay_storage::metadata::MetadataError;
use forebay_storage::{Fault, OpenError};
use thiserror::Error;

use crate::error::ErrorKind;

/// Why a node of a cluster cannot run, or an operation on it failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// A node name is invalid.
    #[error(transparent)]
    Name(#[from] BadName),
    /// The data directory cannot be used.
    #[error(transparent)]
    Dir(#[from] OpenError),
    /// The log cannot be opened.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The environment of the storage cannot be made.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The metadata from running alone cannot be read.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The rows of consensus cannot be read or written.
    #[error(transparent)]
    Consensus(#[from] ConsensusError),
    /// The group cannot be opened over its rows.
    #[error(transparent)]
    Group(#[from] GroupOpenError),
    /// The network cannot be started.
    #[error(transparent)]
    Network(#[from] StartError),
    /// The group of the network is open.
    #[error(transparent)]
    NetworkGroup(#[from] GroupError),
    /// Only a part of a member's data is there.
    #[error(
        "{path} has rows of a cluster and no snapshot of its metadata: replace the data directory \
         by an empty one, with which the node joins again"
    )]
    NoBase {
        /// The data directory.
        path: PathBuf,
    },
    /// A decided block cannot be applied.
    #[error("entry {index} of the metadata cannot be applied: {reason}")]
    Block {
        /// Its index.
        index: u64,
        /// Why.
        reason: String,
    },
    /// The thread of the group, or of its disk, stopped.
    #[error("the metadata group stopped: {0}")]
    Stopped(String),
    /// Nothing was done, for a reason that the caller can act on.
    #[error("{0}")]
    Refused(String),
    /// The node was shut down.
    #[error("the node is shut down")]
    ShutDown,
}

impl ClusterError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Name(_) => ErrorKind::BadInput,
            Self::Refused(_) => ErrorKind::Refused,
            Self::Dir(OpenError::InUse { .. } | OpenError::InUseHere { .. }) => ErrorKind::InUse,
            Self::Network(_) | Self::NetworkGroup(_) => ErrorKind::Environment,
            Self::Stopped(_) | Self::ShutDown => ErrorKind::Stopped,
            _ => ErrorKind::Storage,
        }
    }
}

/// Why a call of the metadata failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MetadataCallError {
    /// The node is part of no cluster.
    #[error("this node is part of no cluster yet: provision one, or wait until it has joined")]
    NotProvisioned,
    /// Nothing was done: no leader was reached in time.
    #[error("the metadata are not available ({0}): nothing was done; try again")]
    Unavailable(String),
    /// It may have been done, now or later.
    #[error("no answer came in time: the change may have been made; read before you repeat it")]
    OutcomeUnknown,
    /// A precondition does not hold; nothing was changed.
    #[error(
        "metadata key `{key}`: the precondition does not hold: {}",
        found.map_or_else(|| "it has no value".to_owned(), |found| format!("it has version {found}"))
    )]
    Conflict {
        /// The key.
        key: String,
        /// The version of its value, if there is one.
        found: Option<u64>,
    },
    /// The metadata would be larger than 64 MiB; nothing was changed.
    #[error("the metadata have 64 MiB, which is the most: delete keys that are not needed")]
    Full,
    /// The command cannot be proposed.
    #[error(transparent)]
    Invalid(#[from] InvalidCommand),
    /// Refused by the leader.
    #[error("{0}")]
    Refused(String),
}
