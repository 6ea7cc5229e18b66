//! What the server needs from a runtime.
//!
//! Must always hold: everything here is part of the library's public API too. Must not know:
//! requests and answers of HTTP.

use std::time::Duration;

use bytes::Bytes;
use forebay_api::{Event, MetricsView, Request, Response, TokenRole};
use forebay_messages::{EntryId, Outcome, command::RetryPolicy};
use futures_util::{future::BoxFuture, stream::BoxStream};
use std::sync::Arc;

use crate::problem::Problem;

/// Length of the hash of a token's text, in bytes.
pub const TOKEN_HASH_LEN: usize = 32;

/// An entry to be stored.
#[derive(Clone, Debug, Default)]
pub struct NewEntry {
    /// The handler that runs it.
    pub service: String,
    /// Its scope.
    pub scope: Option<String>,
    /// Its limit key.
    pub limit_key: Option<String>,
    /// Its object key.
    pub key: Option<String>,
    /// Its payload.
    pub payload: Bytes,
    /// Earliest start (milliseconds since 1970).
    pub run_at: Option<u64>,
    /// Retries of failed attempts.
    pub retry: Option<RetryPolicy>,
    /// How long its result is kept.
    pub retention: Option<Duration>,
    /// Its idempotency key.
    pub idempotency_key: Option<String>,
}

/// A stored entry.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its id.
    pub id: EntryId,
    /// It was stored before.
    pub existing: bool,
    /// Whether another payload was stored under the same idempotency key, if known.
    pub payload_differs: Option<bool>,
}

/// What a reader of events gets next.
#[derive(Clone, Debug)]
pub enum NextEvent {
    /// An event.
    Event(Arc<Event>),
    /// The reader was too slow and missed events.
    Missed,
}

/// A runtime, as the server sees it. The feature `http` of `forebay` implements it.
pub trait Backend: Send + Sync + 'static {
    /// Answers a request as the local socket of a data directory does.
    fn ask(&self, request: Request) -> BoxFuture<'static, Result<Response, Problem>>;

    /// Stores an entry; durable when it returns.
    fn enqueue(&self, entry: NewEntry) -> BoxFuture<'static, Result<Stored, Problem>>;

    /// Stores entries; each has its own result, in their order.
    fn enqueue_each(
        &self,
        entries: Vec<NewEntry>,
    ) -> BoxFuture<'static, Vec<Result<Stored, Problem>>>;

    /// Waits for the end of an entry. Dropping it ends the wait.
    fn outcome(&self, entry: EntryId) -> BoxFuture<'static, Result<Outcome, Problem>>;

    /// The events from now on; it ends with the runtime.
    ///
    /// # Errors
    /// When the runtime is shut down.
    fn events(&self) -> Result<BoxStream<'static, NextEvent>, Problem>;

    /// Numbers for monitoring.
    fn metrics(&self) -> BoxFuture<'static, Result<MetricsView, Problem>>;

    /// Calls `visit` with name, role and hash of every stored token.
    fn each_token(&self, visit: &mut dyn FnMut(&str, TokenRole, &[u8; TOKEN_HASH_LEN]));

    /// Maximum length of a payload, in bytes.
    fn payload_len_max(&self) -> usize;

    /// The time (milliseconds since 1970).
    fn now(&self) -> u64;
}
