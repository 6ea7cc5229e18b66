//! The requests.
//!
//! Must always hold: a request is routed and documented in one place; each names the role it needs
//! by its first argument. Must not know: connections.

mod actions;
mod bulk;
mod enqueue;
mod entries;
mod events;
mod metrics;
mod rules;
mod views;
mod workers;

use std::sync::Arc;

use axum::{
    Json,
    extract::{DefaultBodyLimit, Request},
    middleware::{from_fn, from_fn_with_state},
};
use utoipa::openapi::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{auth, openapi, state::Server};

type Routes = OpenApiRouter<Arc<Server>>;

fn entry_routes() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(enqueue::enqueue))
        .routes(routes!(entries::list))
        .routes(routes!(entries::count))
        .routes(routes!(entries::entry))
        .routes(routes!(entries::result))
        .routes(routes!(entries::explain))
        .routes(routes!(entries::tree))
        .routes(routes!(entries::history))
        .routes(routes!(actions::cancel))
        .routes(routes!(actions::kill))
        .routes(routes!(actions::pause))
        .routes(routes!(actions::resume))
        .routes(routes!(actions::redrive))
        .routes(routes!(actions::purge))
        .routes(routes!(actions::reschedule))
        .routes(routes!(actions::restart))
        .routes(routes!(actions::resolve))
        .routes(routes!(bulk::begin))
        .routes(routes!(bulk::state, bulk::abort))
}

fn other_routes() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(views::queues))
        .routes(routes!(actions::pause_queue))
        .routes(routes!(actions::resume_queue))
        .routes(routes!(views::limits))
        .routes(routes!(views::partitions))
        .routes(routes!(views::health))
        .routes(routes!(rules::read, rules::put, rules::delete))
        .routes(routes!(rules::test))
        .routes(routes!(rules::history))
        .routes(routes!(rules::rollback))
        .routes(routes!(events::follow))
        .routes(routes!(metrics::metrics))
}

fn worker_routes() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(workers::lease))
        .routes(routes!(workers::heartbeat))
        .routes(routes!(workers::complete))
        .routes(routes!(workers::fail))
        .routes(routes!(workers::snooze))
}

fn documented() -> (axum::Router<Arc<Server>>, OpenApi) {
    let routes = entry_routes().merge(other_routes()).merge(worker_routes());
    let (router, mut document) = routes.split_for_parts();
    openapi::complete(&mut document);
    (router, document)
}

/// All routes.
pub(crate) fn all(server: Arc<Server>) -> axum::Router {
    let (router, document) = documented();
    router
        .route("/v1/openapi.json", axum::routing::get(move || async move { Json(document) }))
        .fallback(|request: Request| async move { auth::not_found(request.uri().path()) })
        // Bodies are read by `Server::read`, which has its own limits.
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(Arc::clone(&server), auth::check))
        .layer(from_fn(auth::finish))
        .with_state(server)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clients are made from it: a change must be meant, and old clients must still work.
    #[test]
    fn the_document_is_pinned() {
        let document = serde_json::to_string_pretty(&documented().1).unwrap();
        insta::assert_snapshot!("openapi", document);
    }

    #[test]
    fn every_request_names_its_role_and_its_problems() {
        let (_, document) = documented();
        let document = serde_json::to_value(document).unwrap();
        assert_eq!(document["openapi"], "3.1.0");
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let is_open = path == "/v1/health";
                let needs_token = operation["security"][0].get("token").is_some();
                assert_eq!(needs_token, !is_open, "{method} {path}");
                let problem = &operation["responses"]["401"]["content"]["application/problem+json"];
                assert!(problem.is_object(), "{method} {path}");
            }
        }
    }
}
