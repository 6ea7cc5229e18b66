//! The one test binary of the workspace's root: every file beside this one is a
//! module here, so that forebay is linked once and not once per file.
//!
//! A module called `crash` or `process` runs alone (`.config/nextest.toml`).

#![expect(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

mod act;
mod crash;
mod cut_short;
mod embed;
mod examples;
#[cfg(feature = "testkit")]
mod failover;
#[cfg(feature = "testkit")]
mod faults;
#[cfg(feature = "testkit")]
mod kit;
#[cfg(feature = "testkit")]
mod kit_runtime;
#[cfg(feature = "testkit")]
mod kit_scripts;
mod limits;
mod mutations;
mod old_log;
#[cfg(feature = "testkit")]
mod panics;
mod place;
mod process;
mod replay;
#[cfg(feature = "testkit")]
mod sim;
#[cfg(feature = "testkit")]
mod sim_found;
#[cfg(feature = "testkit")]
mod stopping;
mod tidy;
