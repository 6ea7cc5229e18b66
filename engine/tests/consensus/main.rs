//! Consensus: the behaviour of the crate `omnipaxos`, and of the machine that drives it.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod bare;
mod codec;
mod random;
mod sim;
mod world;
