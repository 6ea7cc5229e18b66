//! forebay over HTTP: requests, views, events and metrics of a runtime.
//!
//! Owns: routes, their JSON, tokens, limits on requests. Must always hold: everything is a request
//! to the runtime or a view of it, with the meaning that the `forebay` command has; what a client
//! sends cannot make memory grow without bound. Must not know: how a request is performed, where
//! data is.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod auth;
pub mod backend;
pub mod serve;

mod bulk_actions;
mod extract;
mod feed;
mod model;
mod openapi;
mod problem;
mod routes;
mod scrape;
mod state;

pub use problem::{Code, Problem, RefusingRule};
pub use state::{HttpOptions, LocalToken};

use backend::Backend;
use state::Server;

/// The routes of a runtime, to be served or mounted in an application. The feature `http` of
/// `forebay` has the same for a `Runtime`.
pub fn router(backend: Box<dyn Backend>, options: HttpOptions) -> axum::Router {
    routes::all(Server::new(backend, options))
}
