//! New entries.

use bytes::Bytes;
use forebay_api::RetryView;
use forebay_messages::command::RetryPolicy;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::{Span, Time, values::from_base64};
use crate::{
    backend::NewEntry,
    problem::{Code, Problem},
};

/// Retries of failed attempts.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Retry {
    /// Maximum number of attempts; 0 is no limit.
    pub(crate) attempts_max: Option<u32>,
    /// Delay after the first failed attempt.
    pub(crate) backoff_first: Option<Span>,
    /// Maximum delay.
    pub(crate) backoff_max: Option<Span>,
    /// Growth of the delay with each attempt, in percent.
    pub(crate) growth_percent: Option<u32>,
    /// Random share that is subtracted from each delay, in percent of it.
    #[schema(maximum = 100)]
    pub(crate) jitter_percent: Option<u32>,
}

impl From<RetryView> for Retry {
    fn from(view: RetryView) -> Self {
        Self {
            attempts_max: Some(view.attempts_max),
            backoff_first: Some(Span::millis(view.backoff_first_ms)),
            backoff_max: Some(Span::millis(view.backoff_max_ms)),
            growth_percent: Some(view.growth_percent),
            jitter_percent: Some(view.jitter_percent),
        }
    }
}

impl Retry {
    /// The policy: absent fields are those of the default policy.
    fn policy(self) -> Result<RetryPolicy, Problem> {
        let default = RetryPolicy::default();
        let millis = |span: Option<Span>, or: u64| span.map_or(or, Span::as_millis);
        let jitter_percent = self.jitter_percent.unwrap_or(default.jitter_percent);
        if jitter_percent > 100 {
            return Err(Problem::bad_input("retry.jitter_percent is at most 100"));
        }
        Ok(RetryPolicy {
            attempts_max: self.attempts_max.unwrap_or(default.attempts_max),
            backoff_first_ms: millis(self.backoff_first, default.backoff_first_ms),
            backoff_max_ms: millis(self.backoff_max, default.backoff_max_ms),
            growth_percent: self.growth_percent.unwrap_or(default.growth_percent),
            jitter_percent,
        })
    }
}

/// Options of an entry whose payload is the body.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct EnqueueQuery {
    /// The first dimension of the limits, for example a tenant.
    scope: Option<String>,
    /// The further dimensions of the limits, `l1` or `l1/l2`; needs a scope.
    limit_key: Option<String>,
    /// The object it is about: entries of one object run one after the other.
    key: Option<String>,
    /// Earliest start.
    #[param(inline)]
    run_at: Option<Time>,
    /// Earliest start, from now.
    #[param(inline)]
    delay: Option<Span>,
    /// Maximum number of attempts; 0 is no limit.
    attempts_max: Option<u32>,
    /// How long its result is kept.
    #[param(inline)]
    retention: Option<Span>,
}

/// An entry with its payload: `application/vnd.forebay.entry+json`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Envelope {
    /// The payload: any JSON, passed on as it is.
    #[schema(value_type = serde_json::Value, required = false)]
    payload: Option<Box<RawValue>>,
    /// The payload in base64, if it is not JSON.
    payload_base64: Option<String>,
    /// The first dimension of the limits, for example a tenant.
    scope: Option<String>,
    /// The further dimensions of the limits, `l1` or `l1/l2`; needs a scope.
    limit_key: Option<String>,
    /// The object it is about: entries of one object run one after the other.
    key: Option<String>,
    /// Earliest start.
    run_at: Option<Time>,
    /// Earliest start, from now.
    delay: Option<Span>,
    /// Retries of failed attempts; absent: those of the handler.
    retry: Option<Retry>,
    /// How long its result is kept.
    retention: Option<Span>,
    /// Another entry with this key, service and scope adds nothing and is answered with this one.
    idempotency_key: Option<String>,
}

fn start(now: u64, run_at: Option<Time>, delay: Option<Span>) -> Result<Option<u64>, Problem> {
    match (run_at, delay) {
        (Some(_), Some(_)) => Err(Problem::bad_input("give run_at or delay, not both")),
        (Some(at), None) => Ok(Some(at.0)),
        (None, Some(delay)) => Ok(Some(now.saturating_add(delay.as_millis()))),
        (None, None) => Ok(None),
    }
}

impl EnqueueQuery {
    /// The entry with this payload.
    pub(crate) fn entry(
        self,
        service: &str,
        payload: Bytes,
        now: u64,
    ) -> Result<NewEntry, Problem> {
        let retry = self
            .attempts_max
            .map(|attempts_max| RetryPolicy { attempts_max, ..RetryPolicy::default() });
        Ok(NewEntry {
            service: service.to_owned(),
            scope: self.scope,
            limit_key: self.limit_key,
            key: self.key,
            payload,
            run_at: start(now, self.run_at, self.delay)?,
            retry,
            retention: self.retention.map(|span| span.0),
            idempotency_key: None,
        })
    }

    /// Whether it has no options.
    pub(crate) fn is_empty(&self) -> bool {
        let Self { scope, limit_key, key, run_at, delay, attempts_max, retention } = self;
        [scope, limit_key, key].iter().all(|text| text.is_none())
            && run_at.is_none()
            && delay.is_none()
            && attempts_max.is_none()
            && retention.is_none()
    }
}

impl Envelope {
    pub(crate) fn entry(self, service: &str, now: u64) -> Result<NewEntry, Problem> {
        let payload = match (self.payload, self.payload_base64) {
            (Some(_), Some(_)) => {
                return Err(Problem::bad_input("give payload or payload_base64, not both"));
            }
            (Some(json), None) => Bytes::from(String::from(Box::<str>::from(json))),
            (None, Some(text)) => from_base64(&text)
                .map_err(|error| Problem::bad_input(format!("payload_base64: {error}")))?,
            (None, None) => Bytes::new(),
        };
        Ok(NewEntry {
            service: service.to_owned(),
            scope: self.scope,
            limit_key: self.limit_key,
            key: self.key,
            payload,
            run_at: start(now, self.run_at, self.delay)?,
            retry: self.retry.map(Retry::policy).transpose()?,
            retention: self.retention.map(|span| span.0),
            idempotency_key: self.idempotency_key,
        })
    }
}

/// A stored entry.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Enqueued {
    /// Its id.
    pub(crate) id: String,
    /// It was stored before: this request added nothing.
    pub(crate) existing: bool,
    /// Whether another payload was stored before under the same idempotency key; only for an
    /// existing entry, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) payload_differs: Option<bool>,
}

/// An entry of a batch: stored, or refused.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum BatchItem {
    /// It is stored.
    Stored(Enqueued),
    /// It is not.
    Refused(BatchRefusal),
}

/// Why an entry of a batch was refused.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct BatchRefusal {
    /// What went wrong, for programs.
    code: Code,
    /// What went wrong and what to do, for users.
    detail: String,
    /// Trying again makes sense after this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<Span>,
}

impl From<Problem> for BatchItem {
    fn from(problem: Problem) -> Self {
        let Problem { code, detail, retry_after, .. } = problem;
        Self::Refused(BatchRefusal { code, detail, retry_after: retry_after.map(Span) })
    }
}
