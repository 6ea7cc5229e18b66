//! How an operation fails, for the handler that awaits it.

use bytes::Bytes;
use forebay_messages::journal::{
    JournalFailure, JournalFailureKind, JournalKey, JournalKind, KeyError,
};
use thiserror::Error;

/// Why an operation has no result.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OperationError {
    /// It failed permanently. The failure is remembered: the next attempt gets the same.
    #[error("`{key}` {kind}: {message}")]
    Failed {
        /// Which operation.
        key: JournalKey,
        /// Why.
        kind: JournalFailureKind,
        /// For people.
        message: String,
        /// Bytes that a child or a step left beside the message.
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
    /// It was first polled by something else than the handler's own future.
    #[error(
        "`{name}` was awaited outside of its handler's own future (in a spawned task or another \
         thread): await it in the handler; `join` and `branch` do several things at a time"
    )]
    OutsideOfHandler {
        /// The name.
        name: String,
    },
    /// It was awaited inside of a step.
    #[error("`{name}` was awaited inside of a step: a step only computes; await it beside it")]
    InsideOfStep {
        /// The name.
        name: String,
    },
    /// What it sends is not a child.
    #[error("`{name}`: {message}")]
    Child {
        /// The name.
        name: String,
        /// Why.
        message: String,
    },
    /// Its name or its branch is over a bound.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// What is remembered is not of the type that the handler asks for.
    #[error("the result of `{key}` is not what the handler takes: {message}")]
    Decode {
        /// Which operation.
        key: JournalKey,
        /// What does not fit.
        message: String,
    },
}

impl OperationError {
    pub(super) fn failed(key: &JournalKey, failure: JournalFailure) -> Self {
        let JournalFailure { kind, message, detail } = failure;
        Self::Failed { key: key.clone(), kind, message: message.to_string(), detail }
    }

    /// Whether another attempt would get the same.
    #[must_use]
    pub fn is_remembered(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }
}

/// The code did something else than the journal remembers.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "the code does not fit the journal: at `{key}` it has {expected}, the code does {found}; \
     redeploy the code that began this run, or restart the entry"
)]
pub(crate) struct MismatchedKind {
    pub(crate) key: JournalKey,
    /// What the journal has.
    pub(crate) expected: String,
    /// What the code does.
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
