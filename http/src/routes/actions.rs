//! Actions on one entry or queue.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request as HttpRequest, State},
};
use forebay_api::{ActView, Request, Response, Target};
use forebay_messages::{EntryId, Skip, VQueueId, command::EntryAction};

use crate::{
    auth::Writer,
    extract::Id,
    model::{Done, Reschedule, Resolve, Resolved, Restart},
    problem::{Code, Problem, ProblemBody, unexpected},
    state::Server,
};

/// Whether the one target of an action was changed.
fn done(id: String, report: &ActView) -> Result<Json<Done>, Problem> {
    match report.not_changed_ids.first() {
        None => Ok(Json(Done { id })),
        Some(one) if one.reason == Skip::Unknown => {
            Err(Problem::new(Code::NotFound, format!("{id} is {}", one.reason)))
        }
        Some(one) => {
            Err(Problem::new(Code::NotChanged, format!("{id} was not changed: {}", one.reason)))
        }
    }
}

async fn act(server: &Server, id: EntryId, action: EntryAction) -> Result<Json<Done>, Problem> {
    let target = Target { entries: vec![id], ..Target::default() };
    match server.backend.ask(Request::Act { action, target, dry_run: false }).await? {
        Response::Acted { report } => done(id.to_string(), &report),
        other => Err(unexpected(&other)),
    }
}

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident: $action:ident, $path:literal;)*) => {$(
        $(#[$doc])*
        #[utoipa::path(
            post, path = $path, tag = "actions",
            params(("id" = String, Path, description = "The entry, `ent_…`")),
            responses(
                (status = 200, description = "Done", body = Done),
                (status = 409, description = "Its state does not allow it", body = ProblemBody),
            )
        )]
        pub(super) async fn $name(
            _: Writer,
            State(server): State<Arc<Server>>,
            Id(id): Id<EntryId>,
        ) -> Result<Json<Done>, Problem> {
            act(&server, id, EntryAction::$action).await
        }
    )*};
}

actions! {
    /// Ask an entry to stop; a waiting one ends at once.
    cancel: Cancel, "/v1/entries/{id}/cancel";
    /// End an entry at once, in any stage.
    kill: Kill, "/v1/entries/{id}/kill";
    /// Pause an entry that waits or is suspended.
    pause: Pause, "/v1/entries/{id}/pause";
    /// Resume a paused entry.
    resume: Resume, "/v1/entries/{id}/resume";
    /// Run an entry again that failed permanently.
    redrive: Redrive, "/v1/entries/{id}/redrive";
    /// Remove an ended entry.
    purge: Purge, "/v1/entries/{id}/purge";
}

/// Give an entry a new start time.
#[utoipa::path(
    post, path = "/v1/entries/{id}/reschedule", tag = "actions",
    params(("id" = String, Path, description = "The entry, `ent_…`")),
    request_body = Reschedule,
    responses(
        (status = 200, description = "Done", body = Done),
        (status = 409, description = "Its state does not allow it", body = ProblemBody),
    )
)]
pub(super) async fn reschedule(
    _: Writer,
    State(server): State<Arc<Server>>,
    Id(id): Id<EntryId>,
    request: HttpRequest,
) -> Result<Json<Done>, Problem> {
    let body: Reschedule = server.read_json(request).await?;
    act(&server, id, body.action(server.backend.now())?).await
}

/// Begin an entry again with an empty journal, or from an operation of it.
#[utoipa::path(
    post, path = "/v1/entries/{id}/restart", tag = "actions",
    params(("id" = String, Path, description = "The entry, `ent_…`")),
    request_body(content = Option<Restart>),
    responses(
        (status = 200, description = "Done", body = Done),
        (status = 409, description = "Its state does not allow it", body = ProblemBody),
    )
)]
pub(super) async fn restart(
    _: Writer,
    State(server): State<Arc<Server>>,
    Id(entry): Id<EntryId>,
    request: HttpRequest,
) -> Result<Json<Done>, Problem> {
    let body: Option<Restart> = server.read_json_or_default(request).await?;
    let Some(operation) = body.and_then(|body| body.from) else {
        return act(&server, entry, EntryAction::Restart).await;
    };
    match server.backend.ask(Request::RestartFrom { entry, operation }).await? {
        Response::Acted { report } => done(entry.to_string(), &report),
        other => Err(unexpected(&other)),
    }
}

/// Resolve or reject a promise of an entry.
#[utoipa::path(
    post, path = "/v1/entries/{id}/resolve", tag = "actions",
    params(("id" = String, Path, description = "The entry, `ent_…`")),
    request_body = Resolve,
    responses(
        (status = 200, description = "Done", body = Resolved),
        (status = 409, description = "It was settled before, or the entry has ended",
            body = ProblemBody),
    )
)]
pub(super) async fn resolve(
    _: Writer,
    State(server): State<Arc<Server>>,
    Id(entry): Id<EntryId>,
    request: HttpRequest,
) -> Result<Json<Resolved>, Problem> {
    let Resolve { name, value, reject } = server.read_json(request).await?;
    match server.backend.ask(Request::Resolve { entry, name, value, reject }).await? {
        Response::Resolved { entry, name, is_rejected } => {
            Ok(Json(Resolved { id: entry.to_string(), name, is_rejected }))
        }
        other => Err(unexpected(&other)),
    }
}

async fn act_on_queue(
    server: &Server,
    id: VQueueId,
    action: EntryAction,
) -> Result<Json<Done>, Problem> {
    let target = Target { queues: vec![id], ..Target::default() };
    match server.backend.ask(Request::Act { action, target, dry_run: false }).await? {
        Response::Acted { report } => done(id.to_string(), &report),
        other => Err(unexpected(&other)),
    }
}

/// Pause a whole queue: present and future entries of it do not start.
#[utoipa::path(
    post, path = "/v1/queues/{id}/pause", tag = "actions",
    params(("id" = String, Path, description = "The queue, `vq_…`")),
    responses(
        (status = 200, description = "Done", body = Done),
        (status = 409, description = "It is paused already", body = ProblemBody),
    )
)]
pub(super) async fn pause_queue(
    _: Writer,
    State(server): State<Arc<Server>>,
    Id(id): Id<VQueueId>,
) -> Result<Json<Done>, Problem> {
    act_on_queue(&server, id, EntryAction::Pause).await
}

/// Resume a paused queue.
#[utoipa::path(
    post, path = "/v1/queues/{id}/resume", tag = "actions",
    params(("id" = String, Path, description = "The queue, `vq_…`")),
    responses(
        (status = 200, description = "Done", body = Done),
        (status = 409, description = "It is not paused", body = ProblemBody),
    )
)]
pub(super) async fn resume_queue(
    _: Writer,
    State(server): State<Arc<Server>>,
    Id(id): Id<VQueueId>,
) -> Result<Json<Done>, Problem> {
    act_on_queue(&server, id, EntryAction::Resume).await
}
