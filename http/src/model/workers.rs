//! Pull workers.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::{Content, Span, values::from_base64};
use crate::{
    backend::{
        LEASES_PER_REQUEST_MAX, LeaseEnd, LeaseRequest, LeaseState, LeasedAttempt, Leases,
        SERVICES_PER_REQUEST_MAX, WORKER_NAME_LEN_MAX,
    },
    problem::Problem,
};

/// Longest wait for leases.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A request for leases.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LeaseQuery {
    /// The worker: a name that no other running worker has.
    #[schema(min_length = 1, max_length = 128)]
    worker: String,
    /// The worker's name for this request, a new one for each: a repetition after a lost answer
    /// gets the same leases.
    #[schema(min_length = 1, max_length = 128)]
    request: String,
    /// The services that the worker can run.
    #[schema(min_items = 1, max_items = 64)]
    services: Vec<String>,
    /// Maximum number of leases (default: 1).
    #[serde(default = "one")]
    #[schema(minimum = 1, maximum = 100, default = 1)]
    max: usize,
    /// How long to wait if there is nothing to run (default: not at all, at most `1m`).
    #[schema(value_type = Option<String>, example = "100ms")]
    wait: Option<Span>,
}

fn one() -> usize {
    1
}

impl LeaseQuery {
    pub(crate) fn checked(mut self) -> Result<LeaseRequest, Problem> {
        for (field, name) in [("worker", &self.worker), ("request", &self.request)] {
            if name.is_empty() || name.len() > WORKER_NAME_LEN_MAX {
                let text = format!("{field} has 1 to {WORKER_NAME_LEN_MAX} bytes");
                return Err(Problem::bad_input(text));
            }
        }
        if !(1..=SERVICES_PER_REQUEST_MAX).contains(&self.services.len()) {
            let text = format!("services has 1 to {SERVICES_PER_REQUEST_MAX} names");
            return Err(Problem::bad_input(text));
        }
        if !(1..=LEASES_PER_REQUEST_MAX).contains(&self.max) {
            return Err(Problem::bad_input(format!("max is 1 to {LEASES_PER_REQUEST_MAX}")));
        }
        self.services.sort_unstable();
        self.services.dedup();
        let wait = self.wait.map_or(Duration::ZERO, |wait| wait.0).min(WAIT_MAX);
        let Self { worker, request, services, max, .. } = self;
        Ok(LeaseRequest { worker, request, services, max, wait })
    }
}

/// An attempt that is leased to a worker.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LeaseBody {
    /// The lease, `lse_…`, for heartbeats and the end.
    lease: String,
    /// The entry, `ent_…`.
    entry: String,
    /// Fences effects elsewhere: a later attempt of the entry has a greater token. Compare the
    /// numbers before and after the dot.
    token: String,
    service: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit_key: Option<String>,
    /// The object it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// Its number, from 1.
    attempt: u32,
    /// Maximum number of attempts; 0 is no limit.
    attempts_max: u32,
    /// Message of the last failed attempt.
    #[serde(skip_serializing_if = "String::is_empty")]
    last_failure: String,
    payload: Content,
    /// The remaining time of the lease when the answer was made.
    expires_in: Span,
}

impl From<LeasedAttempt> for LeaseBody {
    fn from(leased: LeasedAttempt) -> Self {
        let limit_key = Some(leased.name.limit_key()).filter(|key| !key.is_empty());
        Self {
            lease: leased.lease,
            entry: leased.entry.to_string(),
            token: leased.token.to_string(),
            service: leased.name.service.to_string(),
            scope: leased.name.scope.as_ref().map(ToString::to_string),
            limit_key,
            key: leased.name.object_key.as_ref().map(ToString::to_string),
            attempt: leased.attempt,
            attempts_max: leased.attempts_max,
            last_failure: leased.last_failure,
            payload: Content::of(&leased.payload, leased.payload.len() as u64),
            expires_in: Span(leased.left),
        }
    }
}

/// The leases that a request gets.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LeasesBody {
    /// None if there was nothing to run.
    leases: Vec<LeaseBody>,
    /// How long the request waited on the server. A lease has ended, at the latest, after `waited`
    /// and `expires_in` since the request was sent.
    waited: Span,
}

impl From<Leases> for LeasesBody {
    fn from(Leases { leases, waited }: Leases) -> Self {
        let leases = leases.into_iter().map(Into::into).collect();
        let waited =
            Span(Duration::from_millis(u64::try_from(waited.as_millis()).unwrap_or(u64::MAX)));
        Self { leases, waited }
    }
}

/// Maximum number of leases in a heartbeat.
const HEARTBEAT_LEN_MAX: usize = 1_000;

/// Leases to be kept alive.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HeartbeatQuery {
    #[schema(max_items = 1000)]
    leases: Vec<String>,
}

impl HeartbeatQuery {
    pub(crate) fn checked(self) -> Result<Vec<String>, Problem> {
        if self.leases.len() > HEARTBEAT_LEN_MAX {
            let text = format!("leases has at most {HEARTBEAT_LEN_MAX} items");
            return Err(Problem::bad_input(text));
        }
        Ok(self.leases)
    }
}

/// The state of a lease.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum StateName {
    /// It holds.
    Held,
    /// It holds; the worker should stop, because the entry was canceled.
    Stop,
    /// It has ended: the worker must stop.
    Lost,
}

/// A lease after a heartbeat.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LeaseStateBody {
    lease: String,
    state: StateName,
    /// Its remaining time.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in: Option<Span>,
}

/// The leases after a heartbeat, in order.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HeartbeatBody {
    leases: Vec<LeaseStateBody>,
}

impl HeartbeatBody {
    pub(crate) fn of(leases: Vec<String>, states: Vec<LeaseState>) -> Self {
        let leases = leases.into_iter().zip(states).map(|(lease, state)| {
            let (state, left) = match state {
                LeaseState::Held(left) => (StateName::Held, Some(left)),
                LeaseState::Stop(left) => (StateName::Stop, Some(left)),
                LeaseState::Lost => (StateName::Lost, None),
            };
            LeaseStateBody { lease, state, expires_in: left.map(Span) }
        });
        Self { leases: leases.collect() }
    }
}

/// An attempt succeeded.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CompleteQuery {
    lease: String,
    /// The result: any JSON, stored as it is.
    #[serde(default)]
    #[schema(value_type = serde_json::Value, required = false)]
    result: Option<Box<RawValue>>,
    /// The result in base64, if it is not JSON.
    #[serde(default)]
    result_base64: Option<String>,
}

impl CompleteQuery {
    pub(crate) fn end(self) -> Result<(String, LeaseEnd), Problem> {
        let result = match (self.result, self.result_base64) {
            (Some(_), Some(_)) => {
                return Err(Problem::bad_input("give result or result_base64, not both"));
            }
            (Some(json), None) => Bytes::from(String::from(Box::<str>::from(json))),
            (None, Some(text)) => from_base64(&text)
                .map_err(|error| Problem::bad_input(format!("result_base64: {error}")))?,
            (None, None) => Bytes::new(),
        };
        Ok((self.lease, LeaseEnd::Success(result)))
    }
}

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum FailKind {
    /// A retry, by the entry's policy.
    #[default]
    Retry,
    /// The entry fails.
    Terminal,
    /// The worker stopped because it was asked to: a canceled entry ends as canceled.
    Canceled,
}

/// An attempt failed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FailQuery {
    lease: String,
    /// What went wrong.
    message: String,
    /// What follows (default: `retry`).
    #[serde(default)]
    kind: FailKind,
}

impl FailQuery {
    pub(crate) fn end(self) -> (String, LeaseEnd) {
        let end = match self.kind {
            FailKind::Retry => LeaseEnd::Retry(self.message),
            FailKind::Terminal => LeaseEnd::Terminal(self.message),
            FailKind::Canceled => LeaseEnd::Canceled(self.message),
        };
        (self.lease, end)
    }
}

/// An attempt asks to be run again later.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SnoozeQuery {
    lease: String,
    /// After this time.
    #[schema(value_type = String, example = "1m30s")]
    delay: Span,
}

impl SnoozeQuery {
    pub(crate) fn end(self) -> (String, LeaseEnd) {
        (self.lease, LeaseEnd::Snooze(self.delay.0))
    }
}

/// The end of an attempt is accepted.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EndedBody {
    /// The same end was reported before: this request did nothing.
    pub(crate) existing: bool,
}
