//! The pure, deterministic machines of forebay.
//!
//! Owns: every decision about scheduling, limits, partitions and leadership. Must always hold: a
//! machine takes state, input and `now` and returns effects; the same inputs give the same effects.
//! Must not know: tokio, actix, RocksDB, clocks, randomness, threads. Time and ids are inputs,
//! effects are returned as values.

pub mod aliases;
pub mod cluster;
pub mod consensus;
pub mod executors;
pub mod inbox;
pub mod leadership;
pub mod leases;
pub mod limiter;
pub mod machine;
pub mod metadata;
pub mod partition;
pub mod rules;
pub mod shuffle;
pub mod tokens;
pub mod vqueue;

pub use machine::Machine;
