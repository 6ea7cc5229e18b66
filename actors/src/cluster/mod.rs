//! Nodes of one process that share a log: leases, and copying rows for a replica that is behind.

pub(crate) mod copy_rows;

mod cut;
mod shared_log;

pub use shared_log::{LEASE, LEASE_LOOK_MS, SharedLog};
