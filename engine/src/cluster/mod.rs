//! The nodes of a cluster as values: which there are, who should be a member, and what they ask
//! each other.
//!
//! Owns: the configuration of the nodes (a value in the metadata), the choice of the next members,
//! the requests between nodes and their bytes. Must not know: networks, disks, clocks.

mod nodes;
mod request;
#[cfg(test)]
mod tests;

pub use nodes::{
    CLUSTER_FORMAT, JoinError, MEMBERS_MAX, NODES_KEY, NODES_MAX, NodeEntry, NodesConfig,
};
pub use request::{Base, ListedRow, NodeAnswer, NodeRequest, Peer};
