//! What is measured more than once: by the clock (the benches beside this directory), and
//! in instructions (`benches/counts.rs`).
//!
//! Each of these does one operation per call, as often as it is called.

#![allow(dead_code, reason = "each bench uses a part of it")]

pub(crate) mod decision;
pub(crate) mod inbox;
pub(crate) mod life;
pub(crate) mod permit;
pub(crate) mod whole;
