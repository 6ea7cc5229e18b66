//! Errors, as RFC 9457 has them.
//!
//! Must always hold: a `code` keeps its meaning, because programs compare it; `detail` is for
//! users and may change.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use forebay_api::Response as RuntimeResponse;
use serde::Serialize;
use utoipa::ToSchema;

/// Media type of an error.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// What went wrong, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Code {
    /// The request makes no sense.
    BadInput,
    /// The token is missing, unknown or revoked.
    Unauthorized,
    /// The token's role does not allow it, or the request comes from a foreign site.
    Forbidden,
    /// There is no such entry, rule, partition or path.
    NotFound,
    /// The path has no such method.
    MethodNotAllowed,
    /// The body did not arrive in time.
    Timeout,
    /// The state of the entry or queue does not allow it.
    NotChanged,
    /// The present state does not allow it.
    Refused,
    /// The lease has ended: its worker must stop, and what it reports is not done.
    LeaseEnded,
    /// Another client changed it first: read it again.
    Conflict,
    /// It does not have the version that `If-Match` or `If-None-Match` names.
    PreconditionFailed,
    /// The body is too large.
    TooLarge,
    /// The media type of the body is not understood.
    UnsupportedMediaType,
    /// As many entries wait as a rule allows.
    BacklogFull,
    /// Nothing was done; try again later.
    Busy,
    /// The runtime or the partition has stopped.
    Stopped,
    /// It is not known whether it was done; repeating it is safe.
    Unknown,
    /// It was done, but not everywhere yet; do not repeat it.
    Partly,
    /// Files cannot be read or written.
    Storage,
    /// A bug in forebay.
    Bug,
}

impl Code {
    /// The status of an answer with this code.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::BadInput => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::NotChanged | Self::Refused | Self::LeaseEnded | Self::Conflict => {
                StatusCode::CONFLICT
            }
            Self::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::BacklogFull => StatusCode::TOO_MANY_REQUESTS,
            Self::Busy | Self::Stopped | Self::Unknown => StatusCode::SERVICE_UNAVAILABLE,
            Self::Partly | Self::Storage | Self::Bug => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::BadInput => "The request makes no sense",
            Self::Unauthorized => "A valid token is needed",
            Self::Forbidden => "Not allowed",
            Self::NotFound => "Not found",
            Self::MethodNotAllowed => "No such method",
            Self::Timeout => "The request took too long",
            Self::NotChanged => "Not changed",
            Self::Refused => "The present state does not allow it",
            Self::LeaseEnded => "The lease has ended",
            Self::Conflict => "Changed by another client",
            Self::PreconditionFailed => "Another version",
            Self::TooLarge => "The body is too large",
            Self::UnsupportedMediaType => "The media type is not understood",
            Self::BacklogFull => "Too many entries wait",
            Self::Busy => "Try again later",
            Self::Stopped => "Stopped",
            Self::Unknown => "It is not known whether it was done",
            Self::Partly => "Done, but not everywhere yet",
            Self::Storage => "Storage failed",
            Self::Bug => "A bug in forebay",
        }
    }
}

/// An error, answered as `application/problem+json`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Problem {
    /// What went wrong, for programs.
    pub code: Code,
    /// What went wrong and what to do, for users.
    pub detail: String,
    /// Trying again makes sense after this time.
    pub retry_after: Option<Duration>,
    /// The rule that refused it.
    pub rule: Option<Box<RefusingRule>>,
}

/// An answer of another kind than the request: a bug.
pub(crate) fn unexpected(response: &RuntimeResponse) -> Problem {
    Problem::new(Code::Bug, format!("an answer does not match the question: {response:?}"))
}

/// A rule that refused an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusingRule {
    /// The counted key: `scope`, `scope/l1` or `scope/l1/l2`.
    pub key: String,
    /// The rule's pattern.
    pub pattern: String,
}

/// An error.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody<'a> {
    /// `urn:forebay:` and the code.
    #[serde(rename = "type")]
    kind: String,
    /// The code in words.
    title: &'a str,
    /// The status of the answer.
    status: u16,
    /// What went wrong, for programs.
    code: Code,
    /// What went wrong and what to do, for users.
    detail: &'a str,
    /// Seconds after which trying again makes sense; also in `Retry-After`.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
    /// The key whose rule refused it: `scope`, `scope/l1` or `scope/l1/l2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    /// The pattern of the rule that refused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pattern: Option<&'a str>,
}

impl Problem {
    /// A problem with a text for users.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), retry_after: None, rule: None }
    }

    /// The request makes no sense.
    #[must_use]
    pub fn bad_input(detail: impl Into<String>) -> Self {
        Self::new(Code::BadInput, detail)
    }

    /// Trying again makes sense after this time.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// The rule that refused it.
    #[must_use]
    pub fn rule(mut self, rule: RefusingRule) -> Self {
        self.rule = Some(Box::new(rule));
        self
    }

    fn body(&self) -> ProblemBody<'_> {
        let name = serde_json::to_value(self.code).unwrap_or_default();
        ProblemBody {
            kind: format!("urn:forebay:{}", name.as_str().unwrap_or_default()),
            title: self.code.title(),
            status: self.code.status().as_u16(),
            code: self.code,
            detail: &self.detail,
            retry_after: self.retry_after.map(|after| after.as_secs().max(1)),
            key: self.rule.as_ref().map(|rule| rule.key.as_str()),
            pattern: self.rule.as_ref().map(|rule| rule.pattern.as_str()),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = self.body();
        let retry_after = body.retry_after;
        // Only strings and numbers: it always encodes.
        let bytes = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = Response::new(Body::from(bytes));
        *response.status_mut() = self.code.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(after) = retry_after {
            headers.insert(header::RETRY_AFTER, after.into());
        }
        if self.code == Code::Unauthorized {
            let bearer = HeaderValue::from_static("Bearer");
            headers.insert(header::WWW_AUTHENTICATE, bearer);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_its_code_and_when_to_try_again() {
        let problem =
            Problem::new(Code::BacklogFull, "too many").retry_after(Duration::from_millis(10));
        let response = problem.clone().into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["retry-after"], "1");
        assert_eq!(response.headers()["content-type"], PROBLEM_JSON);
        let json = serde_json::to_value(problem.body()).unwrap();
        assert_eq!(json["type"], "urn:forebay:backlog_full");
        assert_eq!(json["code"], "backlog_full");
    }
}
