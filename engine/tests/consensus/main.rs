//! Consensus: what the crate `omnipaxos` does alone, and the machine that drives it.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod bare;
mod codec;
mod random;
mod sim;
mod world;
