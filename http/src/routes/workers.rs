//! Pull workers.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
};

use crate::{
    auth::Writer,
    backend::LeaseEnd,
    extract::{from_json, media_type},
    model::{
        CompleteQuery, EndedBody, FailQuery, HeartbeatBody, HeartbeatQuery, LeaseQuery, LeasesBody,
        SnoozeQuery,
    },
    problem::{Code, Problem, ProblemBody},
    state::Server,
};

/// Maximum number of bytes that a report has beside the result.
const REPORT_ROOM: usize = 64 << 10;

/// Lease attempts to a worker.
///
/// Waits until there is at least one, at most for `wait`. A lease runs out after `expires_in`
/// unless a heartbeat extends it; its entry then runs again, elsewhere. A worker that no longer
/// waits for the answer leases nothing.
#[utoipa::path(
    post, path = "/v1/workers/lease", tag = "workers", request_body = LeaseQuery,
    responses((status = 200, description = "The leases", body = LeasesBody))
)]
pub(super) async fn lease(
    _: Writer,
    State(server): State<Arc<Server>>,
    request: Request,
) -> Result<Json<LeasesBody>, Problem> {
    let query: LeaseQuery = server.read_json(request).await?;
    let leases = server.backend.lease(query.checked()?).await?;
    Ok(Json(leases.into()))
}

/// Keep leases alive.
///
/// Each is extended to its full time. A worker sends this three times in the time of a lease.
#[utoipa::path(
    post, path = "/v1/workers/heartbeat", tag = "workers", request_body = HeartbeatQuery,
    responses((status = 200, description = "The state of each lease", body = HeartbeatBody))
)]
pub(super) async fn heartbeat(
    _: Writer,
    State(server): State<Arc<Server>>,
    request: Request,
) -> Result<Json<HeartbeatBody>, Problem> {
    let leases = server.read_json::<HeartbeatQuery>(request).await?.checked()?;
    let states = server.backend.heartbeat(&leases)?;
    Ok(Json(HeartbeatBody::of(leases, states)))
}

async fn end(server: &Server, end: (String, LeaseEnd)) -> Result<Json<EndedBody>, Problem> {
    let (lease, end) = end;
    let existing = server.backend.end_lease(lease, end).await?;
    Ok(Json(EndedBody { existing }))
}

/// Report that an attempt succeeded.
///
/// The result is durable when this is answered. A repetition after a lost answer does nothing.
#[utoipa::path(
    post, path = "/v1/workers/complete", tag = "workers", request_body = CompleteQuery,
    responses(
        (status = 200, description = "The entry has ended", body = EndedBody),
        (status = 409, description = "The lease has ended: nothing was done", body = ProblemBody),
    )
)]
pub(super) async fn complete(
    _: Writer,
    State(server): State<Arc<Server>>,
    request: Request,
) -> Result<Json<EndedBody>, Problem> {
    let (parts, body) = request.into_parts();
    if !matches!(media_type(&parts.headers).as_deref(), None | Some("application/json")) {
        let text = "the body must be application/json";
        return Err(Problem::new(Code::UnsupportedMediaType, text));
    }
    // Base64 makes the result a third longer.
    let len_max = server.backend.payload_len_max() * 4 / 3 + REPORT_ROOM;
    let read = server.read(&parts.headers, body, len_max).await?;
    let query: CompleteQuery = from_json(&read.bytes)?;
    end(&server, query.end()?).await
}

/// Report that an attempt failed.
#[utoipa::path(
    post, path = "/v1/workers/fail", tag = "workers", request_body = FailQuery,
    responses(
        (status = 200, description = "It is accepted", body = EndedBody),
        (status = 409, description = "The lease has ended: nothing was done", body = ProblemBody),
    )
)]
pub(super) async fn fail(
    _: Writer,
    State(server): State<Arc<Server>>,
    request: Request,
) -> Result<Json<EndedBody>, Problem> {
    let query: FailQuery = server.read_json(request).await?;
    end(&server, query.end()).await
}

/// Return an attempt, to be run again later; this does not count as an attempt.
#[utoipa::path(
    post, path = "/v1/workers/snooze", tag = "workers", request_body = SnoozeQuery,
    responses(
        (status = 200, description = "It is accepted", body = EndedBody),
        (status = 409, description = "The lease has ended: nothing was done", body = ProblemBody),
    )
)]
pub(super) async fn snooze(
    _: Writer,
    State(server): State<Arc<Server>>,
    request: Request,
) -> Result<Json<EndedBody>, Problem> {
    let query: SnoozeQuery = server.read_json(request).await?;
    end(&server, query.end()).await
}
