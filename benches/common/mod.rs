//! Operations that are measured both in time (the benches beside this directory) and in
//! instructions (`benches/counts.rs`).
//!
//! Each performs one operation per call, and can be called any number of times.

#![allow(dead_code, reason = "each bench uses a part of it")]

pub(crate) mod decision;
pub(crate) mod inbox;
pub(crate) mod life;
pub(crate) mod permit;
pub(crate) mod whole;
