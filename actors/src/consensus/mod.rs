//! Nodes of a cluster: the metadata group, driven over the node's disk and the network.
//!
//! Owns: the thread that drives the consensus machine, the client of the metadata, and the states
//! of a node: provisioning, joining, replacing, removing, recovering. Must always hold: writes of
//! the machine are durable before they are reported as such; a request is answered once; a command
//! whose outcome is unknown is only ever sent again under the same number. Must not know: the
//! meaning of the metadata, except for the configuration of the nodes.
//!
//! A node that runs alone uses none of this.

mod client;
mod driver;
mod error;
mod events;
mod node;
mod recover;
mod remote;
mod store;
#[cfg(test)]
mod tests;
mod watches;

pub use client::{Listed, Metadata};
pub use error::{ClusterError, MetadataCallError};
pub use forebay_engine::metadata::{Change, Expected, InvalidCommand, Row};
pub use forebay_net::{AUTHORITY_DAYS, BundleError, NodeName, init_tls};
pub use node::{ClusterNode, ClusterNodeConfig, DEAD_AFTER, EntriesFront};
pub use recover::{Recovery, recover};
pub use remote::{RemoteConfig, RemoteNode};
pub use store::ClusterStore;
pub use watches::MetadataWatch;

/// The group of the metadata.
const METADATA_GROUP: u32 = 1;
