//! What the server needs from a runtime.
//!
//! Must always hold: everything here is part of the library's public API too. Must not know:
//! requests and answers of HTTP.

use std::time::Duration;

use bytes::Bytes;
use forebay_api::{Event, MetricsView, Request, Response, TokenRole};
use forebay_messages::{AttemptToken, EntryId, Outcome, VQueueName, command::RetryPolicy};
use futures_util::{future::BoxFuture, stream::BoxStream};
use std::sync::Arc;

use crate::problem::Problem;

/// Maximum number of leases in one answer.
pub const LEASES_PER_REQUEST_MAX: usize = 100;
/// Maximum number of services in a request for leases.
pub const SERVICES_PER_REQUEST_MAX: usize = 64;
/// Maximum length of the names of workers and their requests, in bytes.
pub const WORKER_NAME_LEN_MAX: usize = 128;
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

/// A worker's request for leases.
#[derive(Clone, Debug)]
pub struct LeaseRequest {
    /// The worker.
    pub worker: String,
    /// A repetition with the same name gets the same leases.
    pub request: String,
    /// What the worker can run, without duplicates.
    pub services: Vec<String>,
    /// Maximum number of leases, 1 to [`LEASES_PER_REQUEST_MAX`].
    pub max: usize,
    /// How long to wait for the first one.
    pub wait: Duration,
}

/// An attempt that is leased to a worker.
#[derive(Clone, Debug)]
pub struct LeasedAttempt {
    /// The lease, as text.
    pub lease: String,
    /// The entry.
    pub entry: EntryId,
    /// Fences effects elsewhere: a later attempt of the entry has a greater token.
    pub token: AttemptToken,
    /// Its vqueue.
    pub name: Arc<VQueueName>,
    /// Its number, from 1.
    pub attempt: u32,
    /// Maximum number of attempts; 0 is no limit.
    pub attempts_max: u32,
    /// Message of the last failed attempt.
    pub last_failure: String,
    /// The payload.
    pub payload: Bytes,
    /// The remaining time of the lease.
    pub left: Duration,
}

/// The leases that a request gets.
#[derive(Clone, Debug, Default)]
pub struct Leases {
    /// None if there was nothing to run.
    pub leases: Vec<LeasedAttempt>,
    /// How long the request waited here.
    pub waited: Duration,
}

/// The state of a lease, for its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// It holds for this time.
    Held(Duration),
    /// It holds for this time; the worker should stop, because the entry was canceled.
    Stop(Duration),
    /// It has ended: the worker must stop.
    Lost,
}

/// How a leased attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseEnd {
    /// With this result.
    Success(Bytes),
    /// It failed and may be retried.
    Retry(String),
    /// It failed permanently.
    Terminal(String),
    /// It stopped because it was asked to.
    Canceled(String),
    /// It asks to be run again after this time.
    Snooze(Duration),
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

    /// Leases attempts to a worker. Dropping it leases nothing.
    fn lease(&self, request: LeaseRequest) -> BoxFuture<'static, Result<Leases, Problem>>;

    /// Keeps leases alive; the state of each, in order. An unknown one is lost.
    ///
    /// # Errors
    /// When the runtime is shut down.
    fn heartbeat(&self, leases: &[String]) -> Result<Vec<LeaseState>, Problem>;

    /// Ends a leased attempt. Returns whether the same end was reported before.
    fn end_lease(&self, lease: String, end: LeaseEnd) -> BoxFuture<'static, Result<bool, Problem>>;

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
