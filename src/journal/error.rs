//! Errors of operations, for the handler that awaits them.

use bytes::Bytes;
use forebay_messages::journal::{
    JournalFailure, JournalFailureKind, JournalKey, JournalKind, KeyError,
};
use thiserror::Error;

/// Why an operation has no result.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OperationError {
    /// It failed permanently. The failure is stored: the next attempt gets the same.
    #[error("`{key}` {kind}: {message}")]
    Failed {
        /// The operation.
        key: JournalKey,
        /// The kind of failure.
        kind: JournalFailureKind,
        /// What went wrong.
        message: String,
        /// Additional bytes from a child or a step.
        detail: Bytes,
    },
    /// Another operation of the same branch and name is not finished.
    #[error(
        "two operations named `{name}` are unfinished in one branch: a replay could not tell \
         which is which; give them different names, or put each in a branch (`join`, `select`, \
         `branch`)"
    )]
    AmbiguousName {
        /// The name.
        name: String,
    },
    /// It was first polled by something other than the handler's own future.
    #[error(
        "`{name}` was awaited outside of its handler's own future (in a spawned task or another \
         thread): await it in the handler; `join` and `branch` do several things at a time"
    )]
    OutsideOfHandler {
        /// The name.
        name: String,
    },
    /// It was awaited inside a step.
    #[error(
        "`{name}` was awaited inside of a step: a step only computes; await it outside of the step"
    )]
    InsideOfStep {
        /// The name.
        name: String,
    },
    /// The entry is not allowed as a child.
    #[error("`{name}`: {message}")]
    Child {
        /// The name.
        name: String,
        /// The reason.
        message: String,
    },
    /// Its name or its branch exceeds a limit.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The stored result does not have the type that the handler asks for.
    #[error("the result of `{key}` does not have the type that the handler asks for: {message}")]
    Decode {
        /// The operation.
        key: JournalKey,
        /// The decoding error.
        message: String,
    },
}

impl OperationError {
    pub(super) fn failed(key: &JournalKey, failure: JournalFailure) -> Self {
        let JournalFailure { kind, message, detail } = failure;
        Self::Failed { key: key.clone(), kind, message: message.to_string(), detail }
    }

    /// Whether another attempt would get the same error.
    #[must_use]
    pub fn is_remembered(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }
}

/// The code does something different from what the journal contains.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "the code does not match the journal: at `{key}` it has {expected}, the code does {found}; \
     redeploy the code that began this run, or restart the entry"
)]
pub(crate) struct MismatchedKind {
    pub(crate) key: JournalKey,
    /// The operation in the journal.
    pub(crate) expected: String,
    /// The operation of the code.
    pub(crate) found: String,
}

impl MismatchedKind {
    pub(super) fn new(key: JournalKey, expected: JournalKind, found: JournalKind) -> Self {
        if expected == found {
            let found = format!("a {found} with another target or payload");
            return Self { key, expected: format!("a {expected}"), found };
        }
        Self { key, expected: format!("a {expected}"), found: format!("a {found}") }
    }
}
