//! Nodes of one process that share a log: who leads, and what a replica that is behind
//! copies from another one.

pub(crate) mod copy_rows;

mod cut;
mod shared_log;

pub use shared_log::{LEASE, LEASE_LOOK_MS, SharedLog};
