//! The one test binary of the workspace: every file in this directory is a module here, so that
//! forebay is linked once and not once per file.
//!
//! A module called `crash` or `process` runs alone (`.config/nextest.toml`).

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::path::Path;

mod act;
mod api;
mod calls;
mod children;
mod clock;
mod control;
mod crash;
mod cut_short;
mod embed;
mod embed_cluster;
mod examples;
mod executors;
mod failover;
mod faults;
mod handlers;
mod http;
mod http_client;
mod in_flight;
mod kit;
mod kit_runtime;
mod kit_scripts;
mod lifetime;
mod limits;
#[path = "../engine/tests/linearizable/mod.rs"]
mod linearizable;
mod listing;
mod lost_children;
mod mutations;
mod old_log;
mod outbox;
mod panics;
mod place;
mod process;
mod promises;
mod record_limit;
mod replay;
mod sim;
mod sim_found;
mod stopping;
mod tidy;
mod unserved;

/// The root of the checkout. These tests belong to the package `cli`, a subdirectory.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}
