//! Everything known about one entry.

use forebay_messages::command::RetryPolicy;
use serde::{Deserialize, Serialize};

use crate::{BytesView, EntryView};

/// Maximum bytes of a payload, and of a result, in one answer.
pub const DETAIL_BYTES_MAX: usize = 4 << 20;

/// A failed and retried attempt, for display.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedAttemptView {
    /// Its number, from 1. A redriven entry counts from 1 again.
    pub number: u32,
    /// When it started (milliseconds since 1970).
    pub started_at: u64,
    /// When it ended (milliseconds since 1970).
    pub ended_at: u64,
    /// Its message, at most 256 bytes.
    pub text: String,
}

/// Retries of failed attempts, for display.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryView {
    /// Maximum number of attempts; 0 is no limit.
    pub attempts_max: u32,
    /// Delay after the first failed attempt, in milliseconds.
    pub backoff_first_ms: u64,
    /// Maximum delay, in milliseconds.
    pub backoff_max_ms: u64,
    /// Growth of the delay with each attempt, in percent.
    pub growth_percent: u32,
    /// Random share that is subtracted from each delay, in percent of it.
    pub jitter_percent: u32,
}

impl From<RetryPolicy> for RetryView {
    fn from(retry: RetryPolicy) -> Self {
        let RetryPolicy {
            attempts_max,
            backoff_first_ms,
            backoff_max_ms,
            growth_percent,
            jitter_percent,
        } = retry;
        Self { attempts_max, backoff_first_ms, backoff_max_ms, growth_percent, jitter_percent }
    }
}

/// Everything known about an entry, for display.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryDetails {
    /// The entry as in a list, with its payload and its result.
    pub entry: EntryView,
    /// The last failed and retried attempts, oldest first, at most 8. The message of the last
    /// attempt of a failed entry is `entry.failure`.
    pub failed_attempts: Vec<FailedAttemptView>,
    /// Additional bytes of a failed handler.
    pub detail: Option<BytesView>,
    /// Retries of failed attempts.
    pub retry: RetryView,
    /// The idempotency key it was enqueued with.
    pub idempotency_key: Option<String>,
    /// How long its result is kept, in milliseconds; absent means the default, `u64::MAX` means
    /// until it is purged.
    pub retention_ms: Option<u64>,
    /// When its result is removed (milliseconds since 1970); absent before its end, and if it is
    /// kept until it is purged.
    pub expires_at: Option<u64>,
    /// It was asked to stop and has not ended yet.
    pub cancel_requested: bool,
    /// Attempts that ended because their process died.
    pub interrupted: u32,
}
