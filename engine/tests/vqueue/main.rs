//! Tests of the vqueue machine: a model with a limiter, a partition, storage and
//! timers around it, and scenarios with names.
#![allow(clippy::unwrap_used, reason = "tests")]

mod fake_limiter;
mod options;
mod vqueue_model;
mod vqueue_named;
mod world;
