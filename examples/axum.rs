//! forebay in an axum application: a request enqueues work for a tenant and may wait for its
//! result; the API changes limits at run time.
//!
//! ```sh
//! cargo run --release --example axum -- ./data 127.0.0.1:8080
//! curl -X POST localhost:8080/tenants/acme/words -H 'content-type: application/json' \
//!      -d '{"text": "to be or not to be"}'
//! curl -X PUT localhost:8080/tenants/acme/limit -H 'content-type: application/json' -d '5'
//! ```

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use forebay::{Context, Drain, Entry, EntryId, HandlerError, Limits, ResultError, Runtime};
use serde::{Deserialize, Serialize};

/// The body of a request.
#[derive(Deserialize, Serialize)]
struct Text {
    text: String,
}

/// The answer before the result is available.
#[derive(Serialize)]
struct Accepted {
    entry: EntryId,
}

type Counts = BTreeMap<String, u32>;

/// The work: counts words. A payload that is not text fails permanently.
async fn count_words(
    _: Context,
    forebay::Json(work): forebay::Json<Text>,
) -> Result<forebay::Json<Counts>, HandlerError> {
    let mut counts = Counts::new();
    for word in work.text.split_whitespace() {
        *counts.entry(word.to_owned()).or_default() += 1;
    }
    Ok(forebay::Json(counts))
}

/// Stores the work; once this has answered, the work survives a crash.
async fn submit(
    State(runtime): State<Runtime>,
    Path(tenant): Path<String>,
    Json(text): Json<Text>,
) -> Response {
    let entry = match Entry::to("words").scope(&tenant).json(&text) {
        Ok(entry) => entry,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    match runtime.enqueue(entry).await {
        Ok(stored) => (StatusCode::ACCEPTED, Json(Accepted { entry: stored.id() })).into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}

/// Waits for a result. If the client disconnects, only the wait ends, not the work.
async fn result(State(runtime): State<Runtime>, Path(entry): Path<EntryId>) -> Response {
    match runtime.attach(entry).result::<Counts>().await {
        Ok(counts) => Json(counts).into_response(),
        Err(error @ ResultError::Unknown(_)) => {
            (StatusCode::NOT_FOUND, error.to_string()).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Sets how many of a tenant's entries may run at the same time.
async fn limit(
    State(runtime): State<Runtime>,
    Path(tenant): Path<String>,
    Json(at_once): Json<u32>,
) -> Response {
    match runtime.rules().upsert(&tenant, Limits::concurrency(at_once)).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let data_dir = args.next().unwrap_or_else(|| "./data".to_owned());
    let address = args.next().unwrap_or_else(|| "127.0.0.1:8080".to_owned());

    let runtime =
        Runtime::builder().data_dir(data_dir).handler("words", count_words).start().await?;
    let app = Router::new()
        .route("/tenants/{tenant}/words", post(submit))
        .route("/tenants/{tenant}/limit", put(limit))
        .route("/entries/{entry}", get(result))
        .with_state(runtime.clone());
    let listener = tokio::net::TcpListener::bind(address).await?;
    eprintln!("listening on {}", listener.local_addr()?);
    axum::serve(listener, app)
        .with_graceful_shutdown(async {
            if let Err(error) = tokio::signal::ctrl_c().await {
                eprintln!("cannot listen for Ctrl-C: {error}");
            }
        })
        .await?;
    runtime.shutdown(Drain::within(Duration::from_secs(30))).await?;
    Ok(())
}
