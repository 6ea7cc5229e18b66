//! Queues, limits, partitions, health.

use std::{cmp::Reverse, sync::Arc};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response as HttpResponse},
};
use forebay_api::{EntryFilter, ReplicaRole, Request, Response};
use forebay_messages::VQueueId;

use super::entries::page_len;
use crate::{
    auth::Reader,
    extract::Query,
    model::{Health, LimitsList, LimitsQuery, Partitions, Queues, QueuesQuery},
    problem::{Problem, unexpected},
    state::Server,
};

/// Counters in a list, by default.
const LIMITS: usize = 1_000;
/// Maximum number of counters in a list.
const LIMITS_MAX: usize = 10_000;

/// List queues in the order of their ids.
#[utoipa::path(
    get, path = "/v1/queues", tag = "views", params(QueuesQuery),
    responses((status = 200, description = "A page", body = Queues))
)]
pub(super) async fn queues(
    _: Reader,
    State(server): State<Arc<Server>>,
    Query(query): Query<QueuesQuery>,
) -> Result<Json<Queues>, Problem> {
    let filter = EntryFilter {
        service: query.service,
        scope: query.scope,
        limit: page_len(query.limit)?,
        ..EntryFilter::default()
    };
    filter.check().map_err(|error| Problem::bad_input(error.to_string()))?;
    let after = match query.cursor {
        None => None,
        Some(text) => Some(text.parse::<VQueueId>().map_err(|_| {
            Problem::bad_input(format!("`{text}` is not a cursor: pass the one of the page before"))
        })?),
    };
    match server.backend.ask(Request::Queues { filter, all: query.all, after }).await? {
        Response::Queues { queues, next } => Ok(Json(Queues {
            queues: queues.iter().map(Into::into).collect(),
            next: next.map(|next| next.to_string()),
        })),
        other => Err(unexpected(&other)),
    }
}

/// The counters of the limits that are in use or waited for.
#[utoipa::path(
    get, path = "/v1/limits", tag = "views", params(LimitsQuery),
    responses((status = 200, description = "The counters", body = LimitsList))
)]
pub(super) async fn limits(
    _: Reader,
    State(server): State<Arc<Server>>,
    Query(query): Query<LimitsQuery>,
) -> Result<Json<LimitsList>, Problem> {
    let most = query.limit.unwrap_or(LIMITS);
    if !(1..=LIMITS_MAX).contains(&most) {
        return Err(Problem::bad_input(format!("limit is 1 to {LIMITS_MAX}")));
    }
    match server.backend.ask(Request::Limits { scope: query.scope, in_parts: false }).await? {
        Response::Limits { mut limits, .. } => {
            limits.sort_by(|a, b| (Reverse(a.waiters), &a.key).cmp(&(Reverse(b.waiters), &b.key)));
            let is_cut = limits.len() > most;
            let limits = limits.iter().take(most).map(Into::into).collect();
            Ok(Json(LimitsList { limits, is_cut }))
        }
        other => Err(unexpected(&other)),
    }
}

/// The partitions.
#[utoipa::path(
    get, path = "/v1/partitions", tag = "views",
    responses((status = 200, description = "In the order of their ranges", body = Partitions))
)]
pub(super) async fn partitions(
    _: Reader,
    State(server): State<Arc<Server>>,
) -> Result<Json<Partitions>, Problem> {
    match server.backend.ask(Request::Partitions).await? {
        Response::Partitions { partitions } => {
            Ok(Json(Partitions { partitions: partitions.iter().map(Into::into).collect() }))
        }
        other => Err(unexpected(&other)),
    }
}

/// Whether the runtime works. Needs no token.
#[utoipa::path(
    get, path = "/v1/health", tag = "views", security(()),
    responses(
        (status = 200, description = "It works", body = Health),
        (status = 503, description = "It does not, or a partition has stopped", body = Health),
    )
)]
pub(super) async fn health(State(server): State<Arc<Server>>) -> HttpResponse {
    let status = match server.backend.ask(Request::Status).await {
        Ok(Response::Status { node }) => {
            let is_stopped = |role: ReplicaRole| role == ReplicaRole::Stopped;
            let stopped = node.partitions.iter().filter(|one| is_stopped(one.role)).count();
            match stopped {
                0 => None,
                count => Some(format!("{count} partitions have stopped")),
            }
        }
        Ok(other) => Some(unexpected(&other).detail),
        Err(problem) => Some(problem.detail),
    };
    let code = if status.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let status = status.unwrap_or_else(|| "ok".to_owned());
    let version = env!("CARGO_PKG_VERSION").to_owned();
    (code, Json(Health { status, version })).into_response()
}
