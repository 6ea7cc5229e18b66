//! What the executor tells a partition.

use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptEnd {
    /// The handler returned.
    Success(Bytes),
    /// It failed and trying again is useless.
    Terminal {
        /// What went wrong.
        message: ByteString,
        /// Bytes beside the message.
        detail: Bytes,
    },
    /// It failed (or panicked, or ran out of time) and may be tried again.
    Retry {
        /// What went wrong.
        message: ByteString,
        /// Bytes beside the message.
        detail: Bytes,
        /// Any number; decides the jitter of the wait.
        random: u32,
    },
    /// It wants to be called again; this uses up no attempt.
    Snooze {
        /// How long it waits, from when its partition takes this.
        wait: Duration,
    },
    /// It stopped because it was asked to.
    Canceled {
        /// What it said.
        message: ByteString,
        /// Bytes beside the message.
        detail: Bytes,
    },
}
