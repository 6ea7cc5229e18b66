//! The crate `omnipaxos` on its own, in a small simulation.
//!
//! Owns: one test for each behaviour of the crate that the machine relies on (docs/decisions/0026).
//! A newer version of the crate that behaves differently fails here, by name. Must not know: the
//! machine.

mod election;
mod links;
mod named;
mod net;
mod store;
