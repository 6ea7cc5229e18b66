//! How an entry ended.

use bilrost::{Enumeration, Message, Oneof};
use bytes::Bytes;
use bytestring::ByteString;

/// Why an entry failed permanently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enumeration)]
#[repr(u32)]
pub enum FailureKind {
    /// The handler reported that a retry is useless.
    Terminal = 0,
    /// All attempts failed: the entry is a dead letter and can be redriven.
    Exhausted = 1,
    /// It was canceled.
    Canceled = 2,
    /// It was killed.
    Killed = 3,
}

impl std::fmt::Display for FailureKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Terminal => "failed",
            Self::Exhausted => "dead letter",
            Self::Canceled => "canceled",
            Self::Killed => "killed",
        })
    }
}

/// A final failure.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
pub struct Failure {
    /// Why.
    #[bilrost(1)]
    pub kind: FailureKind,
    /// The message of the handler (or of forebay).
    #[bilrost(2)]
    pub message: ByteString,
    /// Optional additional bytes from the handler.
    #[bilrost(3)]
    pub detail: Bytes,
}

/// How an entry ended.
#[derive(Clone, Debug, PartialEq, Eq, Oneof)]
pub enum Outcome {
    /// The handler returned these bytes.
    #[bilrost(tag(1))]
    Success(Bytes),
    /// It failed permanently.
    #[bilrost(tag(2))]
    Failure(Failure),
}

impl Outcome {
    /// A failure with a message.
    #[must_use]
    pub fn failure(kind: FailureKind, message: &str) -> Self {
        Self::Failure(Failure { kind, message: ByteString::from(message), detail: Bytes::new() })
    }

    /// Whether the handler succeeded.
    #[must_use]
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Success(_))
    }
}
