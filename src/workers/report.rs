//! Leased attempts as workers get them, and the ends that workers report.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use forebay_engine::leases::{LeaseId, digest};
use forebay_http::backend::{LeaseEnd, LeasedAttempt};

use crate::handler::HandlerError;

use super::Handed;

/// A leased attempt, with the remaining time of its lease.
pub(super) fn leased(id: LeaseId, handed: &Handed, left: Duration) -> LeasedAttempt {
    LeasedAttempt {
        lease: id.to_string(),
        entry: id.entry,
        token: id.token,
        name: Arc::clone(&handed.name),
        attempt: handed.attempt,
        attempts_max: handed.attempts_max,
        last_failure: handed.last_failure.clone(),
        payload: handed.payload.clone(),
        left,
    }
}

/// Whether the entry ends with it.
pub(super) fn ends_the_entry(end: &LeaseEnd) -> bool {
    matches!(end, LeaseEnd::Success(_) | LeaseEnd::Terminal(_))
}

/// A digest of a report: a repetition has the same.
pub(super) fn digest_of(end: &LeaseEnd) -> u64 {
    match end {
        LeaseEnd::Success(bytes) => digest(0, &[bytes]),
        LeaseEnd::Retry(message) => digest(1, &[message.as_bytes()]),
        LeaseEnd::Terminal(message) => digest(2, &[message.as_bytes()]),
        LeaseEnd::Canceled(message) => digest(3, &[message.as_bytes()]),
        LeaseEnd::Snooze(wait) => digest(4, &[&wait.as_millis().to_le_bytes()]),
    }
}

/// The end that a handler would have returned.
pub(super) fn handler_end(end: &LeaseEnd) -> Result<Bytes, HandlerError> {
    match end {
        LeaseEnd::Success(bytes) => Ok(bytes.clone()),
        LeaseEnd::Retry(message) => Err(HandlerError::retry(message)),
        LeaseEnd::Terminal(message) => Err(HandlerError::terminal(message)),
        LeaseEnd::Canceled(message) => Err(HandlerError::canceled(message)),
        LeaseEnd::Snooze(wait) => Err(HandlerError::snooze(*wait)),
    }
}
