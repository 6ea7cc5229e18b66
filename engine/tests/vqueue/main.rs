//! Tests of the vqueue machine: a model surrounded by a limiter, a partition, storage and timers,
//! and named scenarios.
#![allow(clippy::unwrap_used, reason = "tests")]

mod fake_limiter;
mod options;
mod vqueue_model;
mod vqueue_named;
mod world;
