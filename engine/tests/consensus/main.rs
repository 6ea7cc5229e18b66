//! Consensus: the behaviour of the crate `omnipaxos`, of the machine that drives it, and of the
//! metadata service on top.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod bare;
mod codec;
#[path = "../linearizable/mod.rs"]
mod linearizable;
mod random;
mod service;
mod sim;
mod world;
