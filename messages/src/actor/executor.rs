//! Messages from the executor to a partition.

use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;

use crate::command::AfterRun;

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptEnd {
    /// The handler returned.
    Success(Bytes),
    /// It failed and a retry is useless.
    Terminal {
        /// What went wrong.
        message: ByteString,
        /// Additional bytes.
        detail: Bytes,
    },
    /// It failed (or panicked, or timed out) and may be retried.
    Retry {
        /// What went wrong.
        message: ByteString,
        /// Additional bytes.
        detail: Bytes,
        /// A random number that determines the jitter of the backoff.
        random: u32,
    },
    /// It asked to be called again; this does not count as an attempt.
    Snooze {
        /// The delay, from the moment the partition receives this.
        wait: Duration,
    },
    /// It was not started, and its entry becomes a dead letter.
    DeadLetter {
        /// Why.
        message: ByteString,
    },
    /// Its executor was lost, or stopped without an end: the entry returns to its inbox, and the
    /// attempt does not count.
    GivenBack {
        /// If the loss was not planned: the number of such losses after which the entry is a dead
        /// letter. 0: it was planned.
        interrupted: u32,
    },
    /// It ended its run, or cannot continue it.
    Run(AfterRun),
    /// It stopped because it was asked to.
    Canceled {
        /// Its message.
        message: ByteString,
        /// Additional bytes.
        detail: Bytes,
    },
}
