//! Looking at entries.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response as HttpResponse},
};
use forebay_api::{
    DETAIL_BYTES_MAX, EntryDetails, EntryPage, LISTED_BYTES_MAX, PAGE_ENTRIES_MAX, Request,
    Response,
};
use forebay_messages::EntryId;
use serde::Deserialize;
use tokio::time::timeout;
use utoipa::IntoParams;

use crate::{
    auth::Reader,
    extract::{Id, Query},
    model::{
        Count, CountQuery, Details, Entries, EntriesQuery, EntryResult, Explained, History, Span,
        Tree,
    },
    problem::{Problem, unexpected},
    state::Server,
};

/// Entries in a page, by default.
pub(crate) const PAGE_LEN: usize = 100;
/// Longest wait for a result.
const WAIT_MAX: Duration = Duration::from_secs(300);

/// The size of a page.
pub(crate) fn page_len(limit: Option<usize>) -> Result<usize, Problem> {
    match limit {
        None => Ok(PAGE_LEN),
        Some(limit) if (1..=PAGE_ENTRIES_MAX).contains(&limit) => Ok(limit),
        Some(_) => Err(Problem::bad_input(format!("limit is 1 to {PAGE_ENTRIES_MAX}"))),
    }
}

/// List entries in the order of their ids.
///
/// An entry that exists during the whole listing is listed once.
#[utoipa::path(
    get, path = "/v1/entries", tag = "entries", params(EntriesQuery),
    responses((status = 200, description = "A page", body = Entries))
)]
pub(super) async fn list(
    _: Reader,
    State(server): State<Arc<Server>>,
    Query(query): Query<EntriesQuery>,
) -> Result<Json<Entries>, Problem> {
    let mut filter = query.filter().checked()?;
    filter.limit = page_len(query.limit)?;
    filter.bytes_max = query.bytes.unwrap_or(0).min(LISTED_BYTES_MAX);
    let cursor = query.cursor.map(|cursor| cursor.parse()).transpose();
    let after =
        cursor.map_err(|error: forebay_api::FilterError| Problem::bad_input(error.to_string()))?;
    match server.backend.ask(Request::Entries { filter, after }).await? {
        Response::Entries { entries, next } => {
            let looked_at = entries.len();
            Ok(Json(Entries::of(&EntryPage { entries, next, looked_at })))
        }
        other => Err(unexpected(&other)),
    }
}

/// Count entries.
#[utoipa::path(
    get, path = "/v1/entries/count", tag = "entries", params(CountQuery),
    responses((status = 200, description = "Their number", body = Count))
)]
pub(super) async fn count(
    _: Reader,
    State(server): State<Arc<Server>>,
    Query(query): Query<CountQuery>,
) -> Result<Json<Count>, Problem> {
    let filter = query.filter().checked()?;
    match server.backend.ask(Request::CountEntries { filter }).await? {
        Response::EntryCount { count } => {
            Ok(Json(Count { count: count.count, is_exact: count.is_exact }))
        }
        other => Err(unexpected(&other)),
    }
}

async fn details(
    server: &Server,
    entry: EntryId,
    bytes_max: usize,
) -> Result<Box<EntryDetails>, Problem> {
    match server.backend.ask(Request::Entry { entry, bytes_max }).await? {
        Response::Entry { details } => Ok(details),
        other => Err(unexpected(&other)),
    }
}

/// Everything known about an entry.
#[utoipa::path(
    get, path = "/v1/entries/{id}", tag = "entries",
    params(("id" = String, Path, description = "The entry, `ent_…`")),
    responses((status = 200, description = "The entry", body = Details))
)]
pub(super) async fn entry(
    _: Reader,
    State(server): State<Arc<Server>>,
    Id(id): Id<EntryId>,
) -> Result<Json<Details>, Problem> {
    Ok(Json((&*details(&server, id, DETAIL_BYTES_MAX).await?).into()))
}

/// How long to wait.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ResultQuery {
    /// How long to wait for the end, like `30s` (default: not at all, at most `5m`).
    #[param(value_type = Option<String>, example = "100ms")]
    wait: Option<Span>,
}

/// The result of an entry; waits for its end.
#[utoipa::path(
    get, path = "/v1/entries/{id}/result", tag = "entries",
    params(("id" = String, Path, description = "The entry, `ent_…`"), ResultQuery),
    responses(
        (status = 200, description = "It has ended", body = EntryResult),
        (status = 202, description = "It has not ended: ask again", body = EntryResult),
    )
)]
pub(super) async fn result(
    _: Reader,
    State(server): State<Arc<Server>>,
    Id(id): Id<EntryId>,
    Query(query): Query<ResultQuery>,
) -> Result<HttpResponse, Problem> {
    let wait = query.wait.map_or(Duration::ZERO, |wait| wait.0).min(WAIT_MAX);
    // Also without a wait it takes some time to find out whether it has ended.
    let asked = server.backend.outcome(id);
    let outcome = match wait.is_zero() {
        true => {
            let found = details(&server, id, 0).await?;
            if found.entry.outcome.is_none() { None } else { Some(asked.await?) }
        }
        false => timeout(wait, asked).await.ok().transpose()?,
    };
    Ok(match outcome {
        Some(outcome) => Json(EntryResult::of(id.to_string(), &outcome)).into_response(),
        None => {
            let pending = Json(EntryResult::pending(id.to_string()));
            (StatusCode::ACCEPTED, pending).into_response()
        }
    })
}

/// Why an entry waits.
#[utoipa::path(
    get, path = "/v1/entries/{id}/explain", tag = "entries",
    params(("id" = String, Path, description = "The entry, `ent_…`")),
    responses((status = 200, description = "All current reasons", body = Explained))
)]
pub(super) async fn explain(
    _: Reader,
    State(server): State<Arc<Server>>,
    Id(entry): Id<EntryId>,
) -> Result<Json<Explained>, Problem> {
    match server.backend.ask(Request::Explain { entry }).await? {
        Response::Explain { explained } => Ok(Json((&*explained).into())),
        other => Err(unexpected(&other)),
    }
}

/// An entry with its children, over all partitions.
#[utoipa::path(
    get, path = "/v1/entries/{id}/tree", tag = "entries",
    params(("id" = String, Path, description = "The entry, `ent_…`")),
    responses((status = 200, description = "The tree", body = Tree))
)]
pub(super) async fn tree(
    _: Reader,
    State(server): State<Arc<Server>>,
    Id(entry): Id<EntryId>,
) -> Result<Json<Tree>, Problem> {
    match server.backend.ask(Request::Tree { entry }).await? {
        Response::Tree { tree } => Ok(Json((&tree).into())),
        other => Err(unexpected(&other)),
    }
}

/// The attempts of an entry.
#[utoipa::path(
    get, path = "/v1/entries/{id}/history", tag = "entries",
    params(("id" = String, Path, description = "The entry, `ent_…`")),
    responses((status = 200, description = "The attempts", body = History))
)]
pub(super) async fn history(
    _: Reader,
    State(server): State<Arc<Server>>,
    Id(id): Id<EntryId>,
) -> Result<Json<History>, Problem> {
    Ok(Json((&*details(&server, id, 0).await?).into()))
}
