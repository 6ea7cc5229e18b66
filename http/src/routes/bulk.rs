//! Requests for actions on many entries.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Request as HttpRequest, State},
    http::StatusCode,
    response::{IntoResponse, Response as HttpResponse},
};
use forebay_api::{Request, Target};
use tokio::time::timeout;

use crate::{
    auth::{Reader, Writer},
    extract::Id,
    model::{Bulk, BulkStage, BulkState},
    problem::Problem,
    state::Server,
};

/// Wait for the end before answering, by default.
const WAIT: Duration = Duration::from_secs(30);
/// Longest wait.
const WAIT_MAX: Duration = Duration::from_secs(300);

/// Apply an action to all entries that match.
///
/// It runs on the server, in steps of at most 1,024 entries, each durable before the next, and
/// continues when the client is gone. An empty filter is refused unless `all` is set.
#[utoipa::path(
    post, path = "/v1/bulk", tag = "actions", request_body = Bulk,
    responses(
        (status = 200, description = "It has ended", body = BulkState),
        (status = 202, description = "It runs: read its state", body = BulkState),
    )
)]
pub(super) async fn begin(
    _: Writer,
    State(server): State<Arc<Server>>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let bulk: Bulk = server.read_json(request).await?;
    let action = bulk.action(server.backend.now())?;
    let filter = bulk.filter.clone().checked()?;
    if filter.is_empty() != bulk.all {
        let text = match bulk.all {
            true => "give conditions or all, not both",
            false => "the filter is empty: narrow it, or set all",
        };
        return Err(Problem::bad_input(text));
    }
    let target = Target { filter, all: bulk.all, ..Target::default() };
    let request = Request::Act { action, target, dry_run: bulk.dry_run };
    let id = server.bulk.begin(server.backend.ask(request))?;
    let mut state = server.bulk.state(id)?;
    let wait = bulk.wait.map_or(WAIT, |wait| wait.0).min(WAIT_MAX);
    let _ = timeout(wait, state.wait_for(|state| state.state != BulkStage::Running)).await;
    let state = state.borrow().clone();
    let status = match state.state {
        BulkStage::Running => StatusCode::ACCEPTED,
        _ => StatusCode::OK,
    };
    let location = [(axum::http::header::LOCATION, format!("/v1/bulk/{id}"))];
    Ok((status, location, Json(state)).into_response())
}

/// The state of an action on many entries.
#[utoipa::path(
    get, path = "/v1/bulk/{id}", tag = "actions",
    params(("id" = u64, Path, description = "Its number")),
    responses((status = 200, description = "Its state", body = BulkState))
)]
pub(super) async fn state(
    _: Reader,
    State(server): State<Arc<Server>>,
    Id(id): Id<u64>,
) -> Result<Json<BulkState>, Problem> {
    let state = server.bulk.state(id)?.borrow().clone();
    Ok(Json(state))
}

/// Abort an action on many entries. What it did stays.
#[utoipa::path(
    delete, path = "/v1/bulk/{id}", tag = "actions",
    params(("id" = u64, Path, description = "Its number")),
    responses((status = 200, description = "Its state", body = BulkState))
)]
pub(super) async fn abort(
    _: Writer,
    State(server): State<Arc<Server>>,
    Id(id): Id<u64>,
) -> Result<Json<BulkState>, Problem> {
    Ok(Json(server.bulk.abort(id)?))
}
