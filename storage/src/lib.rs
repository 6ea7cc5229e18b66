//! Durable storage of forebay: the log, the metadata store and the partition store, each behind a
//! port, on RocksDB or in memory.
//!
//! Owns: the bytes on disk (record frames, keys and rows of every table), the data directory and
//! its lock, and the meaning of storage errors. Must always hold: acknowledged writes survive a
//! crash; damage is an error that names the place, never a silently missing row. Must not know:
//! actors, other layers' threads, tokio, scheduling, limits.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod consensus;
pub mod dir;
pub mod error;
#[cfg(any(test, feature = "testkit"))]
pub mod fault;
pub mod log;
mod look_copy;
pub mod medium;
pub mod metadata;
pub mod partition;
pub mod snapshot;

mod direct;
mod sync;
mod wal_check;

#[cfg(test)]
mod disk_tests;

pub use dir::{DataDir, OpenError};
pub use error::{Fault, FaultKind};
pub use look_copy::LookCopy;
pub use medium::Medium;
pub use wal_check::JournalDamage;
