//! A runtime over HTTP (feature `http`): routes to mount in an application's server.
//!
//! Must always hold: a router keeps the runtime alive only while a request is answered.
//!
//! ```
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use forebay::{Drain, Runtime, http::HttpOptions};
//!
//! let runtime = Runtime::builder().in_memory().start().await?;
//! let options = HttpOptions::default();
//! let app: axum::Router = axum::Router::new()
//!     .route("/", axum::routing::get(|| async { "my application" }))
//!     .merge(forebay::http::router(&runtime, options).await?);
//! # drop(app);
//! # runtime.shutdown(Drain::now()).await?;
//! # Ok(())
//! # }
//! ```

use std::{sync::Arc, time::SystemTime};

use forebay_actors::tokens::WatchedTokens;
use forebay_api::{MetricsView, Request, Response, TokenRole};
use forebay_engine::leases::{LeaseId, NoLease};
use forebay_http::backend::{
    self, Backend, LeaseEnd, LeaseRequest, LeaseState, Leases, NewEntry, Stored, TOKEN_HASH_LEN,
};
use forebay_messages::{
    EntryId, Outcome, Timestamp,
    vqueue::{Part, check_component},
};
use futures_util::{
    future::BoxFuture,
    stream::{self, BoxStream, StreamExt as _},
};

pub use forebay_http::{
    Code, HttpOptions, LocalToken, Problem, RefusingRule,
    auth::{token_hash, token_text},
    serve::{ServeOptions, serve},
};

use crate::{
    Entry, EntryHandle, Runtime, WeakRuntime,
    control::{RequestError, role_view},
    error::{EnqueueError, ErrorKind, NodeError, ResultError},
    events::NextEvent,
    workers::{WorkerError, Workers},
};

/// The routes of a runtime: `/v1/…` and `/metrics`. They do not keep it alive; without it, every
/// request is answered with the code `stopped`.
///
/// # Errors
/// When the stored tokens cannot be read.
pub async fn router(runtime: &Runtime, options: HttpOptions) -> Result<axum::Router, NodeError> {
    let tokens = runtime.node().tokens().watch().await?;
    let payload_len_max = runtime.payload_len_max();
    let workers = runtime.part_or_attach(|| Workers::start(runtime, options.lease))?;
    let runtime = runtime.downgrade();
    let backend = RuntimeBackend { runtime, tokens, workers, payload_len_max };
    Ok(forebay_http::router(Box::new(backend), options))
}

/// Gives workers no more leases, answers waiting requests, and lets the others report their ends
/// for this time. Call it before the server of the router ends; the runtime does the same, with no
/// time, when it is shut down. Cancel-safe.
pub async fn drain_workers(runtime: &Runtime, within: std::time::Duration) {
    if let Some(workers) = runtime.part::<Workers>() {
        workers.drain(within).await;
    }
}

struct RuntimeBackend {
    runtime: WeakRuntime,
    tokens: WatchedTokens,
    workers: Arc<Workers>,
    payload_len_max: usize,
}

/// The problem for a kind of error.
fn problem(kind: ErrorKind, text: String) -> Problem {
    let second = std::time::Duration::from_secs(1);
    let code = match kind {
        ErrorKind::Retry => return Problem::new(Code::Busy, text).retry_after(second),
        ErrorKind::Unknown => return Problem::new(Code::Unknown, text).retry_after(second),
        ErrorKind::Partly => Code::Partly,
        ErrorKind::Refused | ErrorKind::Failed => Code::Refused,
        ErrorKind::Conflict => Code::Conflict,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::BadInput => Code::BadInput,
        ErrorKind::Stopped => Code::Stopped,
        ErrorKind::InUse | ErrorKind::Storage | ErrorKind::Environment => Code::Storage,
        _ => Code::Bug,
    };
    Problem::new(code, text)
}

fn of_request(error: &RequestError) -> Problem {
    problem(error.kind(), error.to_string())
}

fn of_node(error: &NodeError) -> Problem {
    problem(error.kind(), error.to_string())
}

fn of_enqueue(error: &EnqueueError) -> Problem {
    match error {
        EnqueueError::BacklogFull(full) => {
            let second = std::time::Duration::from_secs(1);
            let full_of = Problem::new(Code::BacklogFull, error.to_string()).retry_after(second);
            let (key, pattern) = (full.key.clone(), full.pattern.to_string());
            full_of.rule(RefusingRule { key, pattern })
        }
        EnqueueError::PayloadTooLarge { .. }
        | EnqueueError::BatchTooLarge { .. }
        | EnqueueError::TooLarge { .. } => Problem::new(Code::TooLarge, error.to_string()),
        _ => problem(error.kind(), error.to_string()),
    }
}

fn of_result(error: &ResultError) -> Problem {
    problem(error.kind(), error.to_string())
}

fn of_worker(error: WorkerError) -> Problem {
    let second = std::time::Duration::from_secs(1);
    let again = |code| Problem::new(code, error.to_string()).retry_after(second);
    match error {
        WorkerError::TooManyPolls | WorkerError::TooManyServices => again(Code::Busy),
        WorkerError::Closed => again(Code::Stopped),
        WorkerError::Unknown => again(Code::Unknown),
        WorkerError::LeaseEnded => Problem::new(Code::LeaseEnded, error.to_string()),
    }
}

fn entry(new: NewEntry) -> Entry {
    let mut entry = Entry::to(&new.service).payload(new.payload);
    if let Some(scope) = &new.scope {
        entry = entry.scope(scope);
    }
    if let Some(limit_key) = &new.limit_key {
        entry = entry.limit_key(limit_key);
    }
    if let Some(key) = &new.key {
        entry = entry.key(key);
    }
    if let Some(run_at) = new.run_at {
        entry = entry.run_at(Timestamp(run_at));
    }
    if let Some(retry) = new.retry {
        entry = entry.retry(retry);
    }
    if let Some(retention) = new.retention {
        entry = entry.retention(retention);
    }
    if let Some(key) = &new.idempotency_key {
        entry = entry.idempotency_key(key);
    }
    entry
}

fn stored(handle: &EntryHandle) -> Stored {
    Stored {
        id: handle.id(),
        existing: handle.was_existing(),
        payload_differs: handle.payload_differs(),
    }
}

impl RuntimeBackend {
    fn runtime(&self) -> Result<Runtime, Problem> {
        self.runtime.upgrade().ok_or_else(|| of_node(&NodeError::shut_down()))
    }
}

impl Backend for RuntimeBackend {
    fn ask(&self, request: Request) -> BoxFuture<'static, Result<Response, Problem>> {
        let runtime = self.runtime();
        Box::pin(async move {
            let answered = runtime?.ask(request).await;
            answered.map_err(|error| of_request(&error))
        })
    }

    fn enqueue(&self, new: NewEntry) -> BoxFuture<'static, Result<Stored, Problem>> {
        let runtime = self.runtime();
        Box::pin(async move {
            match runtime?.enqueue(entry(new)).await {
                Ok(handle) => Ok(stored(&handle)),
                Err(error) => Err(of_enqueue(&error)),
            }
        })
    }

    fn enqueue_each(
        &self,
        entries: Vec<NewEntry>,
    ) -> BoxFuture<'static, Vec<Result<Stored, Problem>>> {
        let runtime = self.runtime();
        Box::pin(async move {
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(problem) => return vec![Err(problem); entries.len()],
            };
            let entries = entries.into_iter().map(entry).collect();
            let results = runtime.enqueue_each(entries).await.into_iter();
            let results = results.map(|result| match result {
                Ok(handle) => Ok(stored(&handle)),
                Err(error) => Err(of_enqueue(&error)),
            });
            results.collect()
        })
    }

    fn outcome(&self, entry: EntryId) -> BoxFuture<'static, Result<Outcome, Problem>> {
        // The handle does not keep the runtime alive during the wait.
        let handle = self.runtime().map(|runtime| runtime.attach(entry));
        Box::pin(async move {
            let outcome = handle?.outcome().await;
            outcome.map_err(|error| of_result(&error))
        })
    }

    fn lease(&self, request: LeaseRequest) -> BoxFuture<'static, Result<Leases, Problem>> {
        let workers = Arc::clone(&self.workers);
        Box::pin(async move {
            for service in &request.services {
                check_component(Part::Service, service).map_err(|error| {
                    Problem::bad_input(format!("the service `{service}`: {error}"))
                })?;
            }
            workers.lease(request).await.map_err(of_worker)
        })
    }

    fn heartbeat(&self, leases: &[String]) -> Result<Vec<LeaseState>, Problem> {
        self.runtime()?;
        let id = |lease: &String| lease.parse::<LeaseId>().unwrap_or_default();
        let ids: Vec<_> = leases.iter().map(id).collect();
        Ok(self.workers.heartbeat(&ids))
    }

    fn end_lease(&self, lease: String, end: LeaseEnd) -> BoxFuture<'static, Result<bool, Problem>> {
        let workers = Arc::clone(&self.workers);
        Box::pin(async move {
            let id =
                lease.parse().map_err(|error: NoLease| Problem::bad_input(error.to_string()))?;
            workers.end(id, &end).await.map_err(of_worker)
        })
    }

    fn events(&self) -> Result<BoxStream<'static, backend::NextEvent>, Problem> {
        let events = self.runtime()?.events();
        let next = |mut events: crate::events::EventStream| async move {
            let next = match events.next().await? {
                NextEvent::Event(event) => backend::NextEvent::Event(event),
                NextEvent::Missed(_) => backend::NextEvent::Missed,
            };
            Some((next, events))
        };
        Ok(stream::unfold(events, next).boxed())
    }

    fn metrics(&self) -> BoxFuture<'static, Result<MetricsView, Problem>> {
        let runtime = self.runtime();
        Box::pin(async move {
            let numbers = runtime?.metrics().await;
            numbers.map_err(|error| of_node(&error))
        })
    }

    fn each_token(&self, visit: &mut dyn FnMut(&str, TokenRole, &[u8; TOKEN_HASH_LEN])) {
        let tokens: Arc<_> = self.tokens.current();
        for (name, token) in tokens.iter() {
            visit(name, role_view(token.role), &token.hash);
        }
    }

    fn payload_len_max(&self) -> usize {
        self.payload_len_max
    }

    fn now(&self) -> u64 {
        let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}
