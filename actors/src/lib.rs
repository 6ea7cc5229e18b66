//! The actors of forebay: shells that receive, step a machine and perform its effects.
//!
//! Owns: threads, mailboxes, timers, running handlers. Must always hold: no business rule is here;
//! a performer only does what a machine decides. Must not know: the bytes of keys and rows.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod access;
pub mod cluster;
#[cfg(feature = "cluster")]
pub mod consensus;
pub mod error;
pub mod events;
pub mod executor;
pub mod handlers;
pub mod host;
pub mod inspect;
pub mod log_writer;
pub mod node;
pub mod registry;
pub mod rules;
pub mod shell;
#[cfg(feature = "testkit")]
pub mod sim;
pub mod tokens;

mod capacity;
mod down;
mod own_metadata;
mod partition;
mod peers;
mod slots;
mod table;
mod unserved;

pub use forebay_storage::LookCopy;
pub use own_metadata::OwnMetadata;

/// Snapshots of a data directory, and restoring them.
pub mod snapshot {
    pub use forebay_storage::snapshot::{
        FileSum, Manifest, PartitionSum, SNAPSHOT_FORMAT, SnapshotError, restore, verify,
    };
}

/// Storage that fails on cue, for tests of the layers above it.
#[cfg(feature = "testkit")]
pub mod testkit {
    pub use forebay_storage::{
        fault::{FaultLog, LogFault, StoreFault, StoreFaults},
        log::{LogStore, MemoryLog},
        metadata::MemoryMetadata,
    };
}
