//! Errors of the runtime.

use std::fmt;

use forebay_engine::partition::apply::Skip;
use forebay_messages::{EntryId, FailureKind, vqueue::NameError};
use thiserror::Error;

pub use forebay_actors::error::ErrorKind;
pub use forebay_engine::partition::apply::BacklogFull;

use forebay_actors::error::NodeError as Cause;

/// An error inside the runtime.
///
/// Its text says what went wrong, and what to do; [`NodeError::kind`] is the latter for programs.
/// The underlying error (of a file, of the operating system) is its `source`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use forebay::{Drain, ErrorKind, Runtime};
///
/// let runtime = Runtime::builder().in_memory().start().await?;
/// let refused = runtime.entries().kill().await.unwrap_err();
/// assert_eq!(refused.kind(), ErrorKind::BadInput);
/// assert!(refused.to_string().starts_with("the filter is empty"));
/// # runtime.shutdown(Drain::now()).await?;
/// # Ok(())
/// # }
/// ```
pub struct NodeError(Box<Cause>);

impl NodeError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind()
    }

    pub(crate) fn shut_down() -> Self {
        Cause::ShutDown.into()
    }

    /// Whether the runtime was shut down, which is one of the reasons of
    /// [`ErrorKind::Stopped`].
    #[must_use]
    pub fn is_shut_down(&self) -> bool {
        matches!(*self.0, Cause::ShutDown)
    }

    /// The error of the node, for tests of forebay itself. Its variants may change at any time.
    #[cfg(feature = "testkit")]
    #[must_use]
    pub fn cause(&self) -> &Cause {
        &self.0
    }
}

impl From<Cause> for NodeError {
    fn from(cause: Cause) -> Self {
        Self(Box::new(cause))
    }
}

impl fmt::Debug for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for NodeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// The runtime cannot start, or a partition cannot be changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The node refused.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The node of a cluster cannot run.
    #[cfg(feature = "cluster")]
    #[error(transparent)]
    Cluster(#[from] forebay_actors::consensus::ClusterError),
    /// Not called from inside a tokio runtime.
    #[error(
        "forebay must be started inside a tokio runtime (#[tokio::main] or Runtime::enter): {0}"
    )]
    NoTokio(#[from] tokio::runtime::TryCurrentError),
    /// The tokio runtime has no timers.
    #[error(
        "the tokio runtime has no timers, which forebay needs: build it with `enable_all()` (or \
         `enable_time()`)"
    )]
    NoTimers,
    /// The tokio runtime has no I/O, which the local socket of a data directory needs.
    #[error(
        "the tokio runtime has no I/O, which the local socket in the data directory needs: build \
         it with `enable_all()` (or `enable_io()`)"
    )]
    NoIo,
    /// Two handlers for one service.
    #[error("two handlers are registered for the service `{service}`")]
    TwoHandlers {
        /// The service.
        service: String,
    },
    /// Two states of one type.
    #[error(
        "`state` was given two values of the type `{type_name}`; handlers find a state by its \
         type: wrap one of them in a separate type"
    )]
    TwoStates {
        /// The type.
        type_name: &'static str,
    },
    /// A service name that is not allowed.
    #[error("handler name: {0}")]
    Name(#[from] NameError),
    /// The local socket in the data directory cannot be made.
    #[error(
        "cannot listen on {}: {source}; the socket can be left out with \
         Builder::control_socket(false)", path.display()
    )]
    ControlSocket {
        /// The socket.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A maximum payload size that is zero, or above what is possible.
    #[error("payload_max({len}): a limit is 1 to {len_max} bytes")]
    PayloadMax {
        /// The requested size, in bytes.
        len: usize,
        /// The possible maximum, in bytes.
        len_max: usize,
    },
    /// `max_running(0)`.
    #[error(
        "max_running(0): at least 1 must be able to run; to stop work, pause it with \
         Rules::pause(\"*\") or Rules::pause(\"service:NAME\"), or leave the number out for no \
         limit"
    )]
    NothingMayRun,
    /// A number of threads that is zero or above what is possible.
    #[error("threads({count}): use 1 to {count_max}, or leave it out for one per core")]
    Threads {
        /// The requested number.
        count: usize,
        /// The possible maximum.
        count_max: usize,
    },
    /// More partitions than are possible.
    #[error("partitions({count}): use 1 to {count_max}, or leave it out for one per core")]
    Partitions {
        /// The requested number.
        count: u32,
        /// The possible maximum.
        count_max: u32,
    },
    /// `.data_dir()` or `.in_memory()` is missing.
    #[error("no place is set for the data: use `.data_dir(path)` or `.in_memory()`")]
    NoDataDir,
}

/// A payload or a result cannot be written as JSON.
#[derive(Debug, Error)]
#[error("cannot be written as JSON: {0}")]
pub struct EncodeError(#[from] pub(crate) serde_json::Error);

/// An entry was not stored, or it is not known whether it was.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EnqueueError {
    /// A part of its name is not allowed.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Its payload is too large.
    #[error(
        "the payload has {len} bytes; at most {len_max} are allowed: store large data elsewhere \
         and put a reference to it here, or raise Builder::payload_max"
    )]
    PayloadTooLarge {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        len_max: usize,
    },
    /// A batch with too many entries.
    #[error("the batch has {count} entries; at most {count_max} are allowed")]
    BatchTooLarge {
        /// Number of entries in it.
        count: usize,
        /// Maximum number of entries in one.
        count_max: usize,
    },
    /// The entry, or one partition's share of the batch, does not fit into a record of the log:
    /// nothing of it was stored.
    #[error(
        "the entries take {len} bytes in the log, and a record has at most {len_max}: enqueue fewer \
         or smaller entries at a time, or store large data elsewhere"
    )]
    TooLarge {
        /// Its size, in bytes.
        len: usize,
        /// The maximum, in bytes.
        len_max: usize,
    },
    /// An idempotency key that is empty or too long (in bytes).
    #[error("an idempotency key has 1 to 512 bytes; this one has {len}")]
    IdempotencyKey {
        /// Its length in bytes.
        len: usize,
    },
    /// An idempotency key with an object key and without a scope.
    #[error(
        "an idempotency key holds within a scope, and this entry has an object key and no scope: \
         add a scope, or leave out the object key or the idempotency key"
    )]
    IdempotencyNeedsScope,
    /// Too much is in flight (only from `try_enqueue`; `enqueue` waits).
    #[error("too many proposals are in flight; try again later")]
    Busy,
    /// As many entries wait under its key as a rule allows: nothing was stored. Entries that are
    /// already stored are never refused.
    #[error(transparent)]
    BacklogFull(Box<BacklogFull>),
    /// The node refused; after `LostLeadership` the outcome is unknown, and enqueueing the same
    /// entry again is safe.
    #[error(transparent)]
    Node(NodeError),
}

impl From<Cause> for EnqueueError {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::BacklogFull(full) => Self::BacklogFull(full),
            Cause::TooLarge { len, len_max } => Self::TooLarge { len, len_max },
            cause => Self::Node(cause.into()),
        }
    }
}

impl From<NodeError> for EnqueueError {
    fn from(error: NodeError) -> Self {
        (*error.0).into()
    }
}

impl EnqueueError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Node(error) => error.kind(),
            Self::Busy => ErrorKind::Retry,
            Self::BacklogFull(_) => ErrorKind::Refused,
            Self::Name(_)
            | Self::PayloadTooLarge { .. }
            | Self::BatchTooLarge { .. }
            | Self::TooLarge { .. }
            | Self::IdempotencyKey { .. }
            | Self::IdempotencyNeedsScope => ErrorKind::BadInput,
        }
    }
}

/// An entry or a vqueue was not changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ActError {
    /// Its state does not allow the action, or it does not exist.
    #[error("not changed: it is {0}")]
    NotChanged(Skip),
    /// The node refused; after `LostLeadership` it is not known whether it was changed, and
    /// repeating the action is safe.
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// A promise was not resolved or rejected.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PromiseError {
    /// The value cannot be written as JSON.
    #[error("the value of the promise cannot be written as JSON: {0}")]
    Encode(#[source] serde_json::Error),
    /// The value or the reason is too large.
    #[error(
        "the value of the promise has {len} bytes; at most {len_max} are allowed: put large data \
         elsewhere and a reference to it here, or raise Builder::payload_max"
    )]
    TooLarge {
        /// Its length, in bytes.
        len: usize,
        /// The maximum, in bytes.
        len_max: usize,
    },
    /// The promise was settled before, the entry has ended or is unknown, or the node refused.
    #[error(transparent)]
    Node(#[from] NodeError),
}

impl PromiseError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Encode(_) | Self::TooLarge { .. } => ErrorKind::BadInput,
            Self::Node(error) => error.kind(),
        }
    }
}

/// There is no result.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ResultError {
    /// The entry failed permanently.
    #[error("{kind}: {message}")]
    Failed {
        /// How.
        kind: FailureKind,
        /// The message of the handler (or of forebay).
        message: String,
        /// Additional bytes from the handler.
        detail: bytes::Bytes,
    },
    /// There is no such entry, or its result was purged.
    #[error("there is no entry {0} (any more)")]
    Unknown(EntryId),
    /// The result does not have the expected type.
    #[error("the result does not decode: {0}")]
    Decode(#[from] serde_json::Error),
    /// The node refused.
    #[error(transparent)]
    Node(#[from] NodeError),
}

impl From<Cause> for RuntimeError {
    fn from(cause: Cause) -> Self {
        Self::Node(cause.into())
    }
}

impl RuntimeError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            #[cfg(feature = "cluster")]
            Self::Cluster(error) => error.kind(),
            Self::Node(error) => error.kind(),
            Self::NoTokio(_) | Self::NoTimers | Self::NoIo => ErrorKind::Environment,
            Self::ControlSocket { .. } => ErrorKind::Storage,
            Self::TwoHandlers { .. }
            | Self::TwoStates { .. }
            | Self::Name(_)
            | Self::PayloadMax { .. }
            | Self::NothingMayRun
            | Self::Threads { .. }
            | Self::Partitions { .. }
            | Self::NoDataDir => ErrorKind::BadInput,
        }
    }
}

impl From<Cause> for ActError {
    fn from(cause: Cause) -> Self {
        Self::Node(cause.into())
    }
}

impl ActError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotChanged(Skip::Unknown) => ErrorKind::NotFound,
            Self::NotChanged(_) => ErrorKind::Refused,
            Self::Node(error) => error.kind(),
        }
    }
}

impl From<Cause> for ResultError {
    fn from(cause: Cause) -> Self {
        Self::Node(cause.into())
    }
}

impl ResultError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Failed { .. } => ErrorKind::Failed,
            Self::Unknown(_) => ErrorKind::NotFound,
            Self::Decode(_) => ErrorKind::BadInput,
            Self::Node(error) => error.kind(),
        }
    }
}
