//! The port to the other nodes that share a log with this one.
//!
//! Owns: the requests from one node to another. Must always hold: a node has neither the registry
//! nor the actors of another one; rows that it reads are read-only. Must not know: where the other
//! node is.

use std::{future::Future, pin::Pin, sync::Arc};

use forebay_engine::partition::machine::Answer;
use forebay_messages::{NodeId, PartitionId, command::Command};
use forebay_storage::partition::PartitionStore;

use crate::{access::replies::Credit, error::NodeError, shell::SteadyClock, table::KeyRange};

/// The rows of a replica, to read from.
#[derive(Clone)]
pub(crate) struct ReplicaRows {
    pub(crate) range: KeyRange,
    pub(crate) store: PartitionStore,
    /// The partition's time.
    pub(crate) clock: Arc<SteadyClock>,
}

/// The answer to a proposal.
pub(crate) type Proposing = Pin<Box<dyn Future<Output = Result<Answer, NodeError>> + Send>>;

/// Another node.
pub(crate) trait Peer: Send + Sync {
    /// Its id.
    fn node(&self) -> NodeId;

    /// Proposes a command to its replica of a partition. The credit is returned when the
    /// command is answered.
    fn propose(self: Arc<Self>, to: PartitionId, command: Command, credit: Credit) -> Proposing;

    /// The rows of its replica of a partition, to read from.
    fn read(&self, partition: PartitionId) -> Option<ReplicaRows>;

    /// The rows of its replica of a partition to copy, if the replica runs.
    fn copy_rows(&self, partition: PartitionId) -> Option<PartitionStore>;
}
