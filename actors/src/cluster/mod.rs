//! Nodes of one process that share a log: who leads, what a replica that is behind copies,
//! and the partition table that all follow.

pub(crate) mod copy_rows;

mod cut;
mod follow_table;
mod shared_log;

pub use shared_log::{LEASE, LEASE_LOOK_MS, SharedLog};
