//! The one test binary of the workspace's root: every file beside this one is a
//! module here, so that forebay is linked once and not once per file.
//!
//! A module called `crash` or `process` runs alone (`.config/nextest.toml`).

#![expect(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

mod act;
mod api;
#[cfg(feature = "testkit")]
mod clock;
mod control;
mod crash;
mod cut_short;
mod embed;
mod examples;
#[cfg(feature = "testkit")]
mod failover;
#[cfg(feature = "testkit")]
mod faults;
#[cfg(feature = "testkit")]
mod handlers;
#[cfg(feature = "testkit")]
mod in_flight;
#[cfg(feature = "testkit")]
mod kit;
#[cfg(feature = "testkit")]
mod kit_runtime;
#[cfg(feature = "testkit")]
mod kit_scripts;
mod lifetime;
mod limits;
mod listing;
mod mutations;
mod old_log;
#[cfg(feature = "testkit")]
mod panics;
mod place;
mod process;
mod record_limit;
mod replay;
#[cfg(feature = "testkit")]
mod sim;
#[cfg(feature = "testkit")]
mod sim_found;
#[cfg(feature = "testkit")]
mod stopping;
mod tidy;
mod unserved;
