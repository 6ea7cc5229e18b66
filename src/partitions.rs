//! The partitions of a runtime: their state, and their leaders.

use std::{sync::Arc, time::Duration};

use forebay_actors::node::Node;
use forebay_api::PartitionView;
use forebay_messages::PartitionId;

use crate::error::NodeError;

/// The partitions of a runtime.
///
/// Without a shared log there is one replica of each partition, which leads from the start;
/// stepping down stops all work of the partition until it is asked to lead again.
///
/// ```no_run
/// # async fn example(runtime: forebay::Runtime) -> Result<(), Box<dyn std::error::Error>> {
/// for partition in runtime.partitions().views().await? {
///     println!("{}: {} under epoch {}", partition.id, partition.role, partition.epoch);
///     if partition.role == forebay::ReplicaRole::Follower {
///         runtime.partitions().lead(partition.id).await?;
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Partitions {
    node: Arc<Node>,
}

impl Partitions {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    /// The state of every partition on this runtime, without blocking the caller's thread. Reads a
    /// row of every vqueue: not for hot paths. Cancel-safe.
    ///
    /// # Errors
    /// When the rows cannot be read.
    pub async fn views(&self) -> Result<Vec<PartitionView>, NodeError> {
        Ok(self.node.inspect().list_partitions().await?)
    }

    /// Makes this runtime lead a partition, in place of any other leader; returns when it accepts
    /// commands. A dropped call has the same effect: the runtime will lead anyway.
    ///
    /// # Errors
    /// When there is no such partition, it has stopped, or it does not lead within 30 s.
    pub async fn lead(&self, partition: PartitionId) -> Result<(), NodeError> {
        Ok(self.node.partitions().lead(partition).await?)
    }

    /// Makes this runtime stop leading a partition, and not lead it again without a call of
    /// [`Partitions::lead`]. Nothing new starts; running handlers may end `within` this time, then
    /// they are dropped and run again under the next leader. Returns when it follows. Cancel-safe:
    /// after a dropped call it continues, and another call may shorten the time.
    ///
    /// Callers of commands that were not applied by then get `LostLeadership`: repeating them is
    /// safe. Waits for results continue.
    ///
    /// # Errors
    /// When there is no such partition, or it has stopped.
    pub async fn step_down(
        &self,
        partition: PartitionId,
        within: Duration,
    ) -> Result<(), NodeError> {
        Ok(self.node.partitions().step_down(partition, within).await?)
    }
}
