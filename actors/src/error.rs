//! Errors of a node.

use forebay_api::FilterError;
use forebay_engine::{
    aliases::{AliasError, DecodeAliasesError},
    partition::{
        apply::{BacklogFull, Reply},
        machine::{Answer, TooLarge},
    },
    rules::{BookVersion, ChangeError, DecodeBookError, DecodeHistoryError, RollbackError},
    tokens::{DecodeTokensError, TokenError},
};
use forebay_messages::{
    EntryId, Lsn, PartitionId, PartitionKey,
    journal::{NAME_LEN_MAX, PROMISES_MAX},
};
use forebay_storage::{
    Fault, OpenError,
    consensus::ConsensusError,
    log::{LogError, LogId},
    metadata::MetadataError,
    snapshot::SnapshotError,
};
use thiserror::Error;

/// An error of a node.
#[derive(Debug, Error)]
pub enum NodeError {
    /// A second handler for a service.
    #[error(
        "the service `{0}` has a handler: register each service once (its handler stays until the \
         runtime is shut down)"
    )]
    HandlerExists(String),
    /// An executor with this id is announced.
    #[error("an executor with the lease id {0} is announced here: it must end first")]
    ExecutorExists(u64),
    /// An alias was refused.
    #[error(transparent)]
    Alias(#[from] AliasError),
    /// The stored aliases do not decode.
    #[error(transparent)]
    Aliases(#[from] DecodeAliasesError),
    /// A token was refused.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The stored tokens do not decode.
    #[error(transparent)]
    Tokens(#[from] DecodeTokensError),
    /// There is no limit to change.
    #[error(
        "this process was started without a maximum number of running entries, so there is none \
         to change: set one when it starts (`forebay exec --jobs`, Builder::max_running)"
    )]
    NoRunningMax,
    /// The data directory cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The data directory belongs to a node of a cluster.
    #[error(
        "the data directory {} belongs to a node of a cluster: start it with `forebay node` (or \
         Builder::cluster), and ask it through its socket", .0.display()
    )]
    OfCluster(std::path::PathBuf),
    /// The rows of the cluster in the data directory cannot be read.
    #[error(transparent)]
    Consensus(#[from] ConsensusError),
    /// Files cannot be read or written.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The log cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The metadata store cannot be used.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// A snapshot was not taken.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The rows were made from another log.
    #[error(
        "the rows in {path} were made from log {rows}, this is log {log}: start them with their \
         own log; if that is lost, restore a snapshot (forebay snapshot restore), or remove {path} \
         and continue with what this log has",
        path = path.display()
    )]
    OtherLog {
        /// The path of the rows.
        path: std::path::PathBuf,
        /// The log of the rows.
        rows: LogId,
        /// The log of this start.
        log: LogId,
    },
    /// Records are missing between the rows and the log.
    #[error(
        "partition {partition} has applied LSN {applied}, its log starts at {first}: the records \
         between are gone; restore a snapshot that reaches LSN {needed} or beyond (forebay \
         snapshot restore), or start it while another runtime of the same log runs",
        needed = first.0 - 1
    )]
    Gap {
        /// The partition.
        partition: PartitionId,
        /// The last record applied to the rows.
        applied: Lsn,
        /// The first record in the log.
        first: Lsn,
    },
    /// A thread cannot be started.
    #[error("a thread cannot be started: {0}")]
    Thread(#[source] std::io::Error),
    /// The stored partition table does not decode.
    #[error("the stored partition table does not decode: {0}")]
    PartitionTable(String),
    /// The requested number of partitions differs from that of the data directory.
    #[error(
        "the data directory has {found} partitions, {wanted} were asked for: leave the number \
         out, or ask for {found}"
    )]
    PartitionsMismatch {
        /// The requested number.
        wanted: u32,
        /// The number in the data directory.
        found: u32,
    },
    /// Zero partitions were requested.
    #[error("a node needs at least one partition")]
    NoPartitions,
    /// Some of the keys are already owned.
    #[error("keys {:#x}..={:#x} overlap partition {partition}: choose a free range", first.0, last.0)]
    RangeOverlaps {
        /// The first requested key.
        first: PartitionKey,
        /// The last requested key.
        last: PartitionKey,
        /// The owner of some of them.
        partition: PartitionId,
    },
    /// The last key is below the first.
    #[error("the range {:#x}..={:#x} is empty", first.0, last.0)]
    EmptyRange {
        /// The first requested key.
        first: PartitionKey,
        /// The last requested key.
        last: PartitionKey,
    },
    /// No partition owns a key.
    #[error("no partition owns key {:#x}: spawn one for it", .0.0)]
    NoPartition(PartitionKey),
    /// There is no such partition.
    #[error("there is no partition {0}")]
    UnknownPartition(PartitionId),
    /// A partition stopped.
    #[error("partition {partition} stopped: {reason}")]
    PartitionStopped {
        /// The partition.
        partition: PartitionId,
        /// The reason.
        reason: String,
    },
    /// This node does not lead the partition.
    #[error("this node does not lead the partition (any more); try again")]
    NotLeading,
    /// Leadership was lost: it is not known whether the command was stored.
    #[error("leadership was lost; whether it was stored is not known, repeating it is safe")]
    LostLeadership,
    /// The log or the store cannot be written.
    #[error("storage failed, whether it was stored is not known: {0}")]
    StorageFailed(String),
    /// A command does not fit into a record of the log: nothing was stored.
    #[error(
        "the command takes {len} bytes in the log, and a record has at most {len_max}: split it, or \
         store large data elsewhere"
    )]
    TooLarge {
        /// Its size, in bytes.
        len: usize,
        /// The maximum, in bytes.
        len_max: usize,
    },
    /// Too much is in flight or waiting.
    #[error("too much is in flight; try again later")]
    Busy,
    /// The node is shutting down or is down.
    #[error("the runtime is shut down")]
    ShutDown,
    /// The tokio runtime in which the node was started is gone.
    #[error(
        "the tokio runtime that forebay was started in is gone, and no handler can run without \
         it: forebay has shut down; start it again inside a tokio runtime that lives as long as \
         it does"
    )]
    TokioGone,
    /// The node is down, but some rows could not be written.
    #[error(
        "{reason}; the runtime is down and nothing is lost: the next start restores the missing \
         rows from the log"
    )]
    NotFlushed {
        /// Which rows could not be written, and why.
        reason: String,
    },
    /// There is no such entry.
    #[error("there is no entry {0}: it was purged, or its id belongs to another data directory")]
    UnknownEntry(EntryId),
    /// An entry has ended, so its promises cannot be settled any more.
    #[error("the entry {0} has ended: nothing waits for its promises any more")]
    EntryEnded(EntryId),
    /// A promise was settled before.
    #[error(
        "the promise `{name}` of {entry} was resolved or rejected before: that result stands; \
         another value needs a promise of another name"
    )]
    PromiseSettled {
        /// The entry.
        entry: EntryId,
        /// The promise.
        name: String,
    },
    /// An entry has as many promises as it may.
    #[error(
        "the entry {0} has {PROMISES_MAX} promises, no more are allowed: resolve one with a list, or \
         split the work into children"
    )]
    TooManyPromises(EntryId),
    /// The name of a promise is empty or too long.
    #[error("the name of a promise has 1 to {NAME_LEN_MAX} bytes; this one has {len}")]
    PromiseName {
        /// Its length, in bytes.
        len: usize,
    },
    /// An invalid filter.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The rules were not changed.
    #[error(transparent)]
    Rules(#[from] ChangeError),
    /// The rules were changed, but a partition cannot apply the change.
    #[error(
        "the rules were changed (version {version}), but a partition has not applied them: \
         {source}; it gets them when it leads again, so do not repeat the change"
    )]
    RulesNotApplied {
        /// The version of the book that is stored.
        version: BookVersion,
        /// Why a partition has not applied it.
        source: Box<NodeError>,
    },
    /// There is nothing to roll back to.
    #[error(transparent)]
    Rollback(#[from] RollbackError),
    /// The rule book does not fit into a record of the log: it was not changed.
    #[error(
        "the rule book would have {len} bytes, at most {len_max} fit: shorten descriptions, or \
         use fewer rules"
    )]
    RuleBookTooLarge {
        /// Its size, in bytes.
        len: usize,
        /// The maximum, in bytes.
        len_max: usize,
    },
    /// The stored rule book does not decode.
    #[error("the stored rule book does not decode: {0}")]
    RuleBook(#[from] DecodeBookError),
    /// The stored history of the rule book does not decode.
    #[error("the stored rule book history does not decode: {0}")]
    RuleBookHistory(#[from] DecodeHistoryError),
    /// The backlog of a key has reached the maximum of its rule.
    #[error(transparent)]
    BacklogFull(#[from] Box<BacklogFull>),
    /// A partition refused a rule book.
    #[error("a partition refused the rule book: {0}")]
    RuleBookRefused(String),
    /// A partition's store cannot be used.
    #[error(transparent)]
    Store(#[from] forebay_storage::partition::StoreError),
    /// A read of a partition's store failed.
    #[error(transparent)]
    Tables(#[from] forebay_engine::partition::store::TablesError),
    /// A partition's stored state cannot be used.
    #[error(transparent)]
    State(#[from] forebay_engine::partition::apply::ApplyError),
    /// An answer that does not match the question: a bug.
    #[error("an answer does not match the question (this is a bug in forebay): {0}")]
    Unexpected(String),
}

/// What a caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Nothing was done; try again later: no replica leads the partition at the moment, or too
    /// much is in flight.
    Retry,
    /// It is not known whether it was done. Repeating it is safe.
    Unknown,
    /// It was done, but not everywhere, or rows are not in files yet. The rest follows by
    /// itself: do not repeat it.
    Partly,
    /// A rule or the present state does not allow it.
    Refused,
    /// Another client changed it first: read it again, then repeat the change.
    Conflict,
    /// There is no such entry, partition or rule.
    NotFound,
    /// The request makes no sense, or is too large.
    BadInput,
    /// The runtime or the partition has stopped.
    Stopped,
    /// Another process or runtime has the data directory.
    InUse,
    /// Files cannot be read or written, are damaged, or belong to another version or log.
    Storage,
    /// The process lacks something: a thread, a tokio runtime with timers and I/O.
    Environment,
    /// The entry failed permanently, as its result says.
    Failed,
    /// A bug in forebay.
    Bug,
}

impl NodeError {
    /// What a caller can do about it.
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "one arm per error")]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotLeading | Self::Busy => ErrorKind::Retry,
            Self::LostLeadership | Self::StorageFailed(_) => ErrorKind::Unknown,
            Self::RulesNotApplied { .. } | Self::NotFlushed { .. } => ErrorKind::Partly,
            Self::NoRunningMax
            | Self::BacklogFull(_)
            | Self::EntryEnded(_)
            | Self::PromiseSettled { .. }
            | Self::TooManyPromises(_) => ErrorKind::Refused,
            Self::Alias(AliasError::Unknown { .. }) | Self::Token(TokenError::Unknown(_)) => {
                ErrorKind::NotFound
            }
            Self::Token(TokenError::Exists(_) | TokenError::TooMany) => ErrorKind::Refused,
            Self::Rules(error) => match error {
                ChangeError::AlreadyExists { .. } | ChangeError::PreconditionFailed { .. } => {
                    ErrorKind::Conflict
                }
                ChangeError::UnknownRule { .. } => ErrorKind::NotFound,
                ChangeError::TooManyRules { .. } => ErrorKind::Refused,
                _ => ErrorKind::BadInput,
            },
            Self::NoPartition(_)
            | Self::UnknownPartition(_)
            | Self::UnknownEntry(_)
            | Self::Rollback(_) => ErrorKind::NotFound,
            Self::HandlerExists(_)
            | Self::ExecutorExists(_)
            | Self::Alias(_)
            | Self::Token(_)
            | Self::PartitionsMismatch { .. }
            | Self::NoPartitions
            | Self::RangeOverlaps { .. }
            | Self::EmptyRange { .. }
            | Self::TooLarge { .. }
            | Self::PromiseName { .. }
            | Self::Filter(_)
            | Self::RuleBookTooLarge { .. } => ErrorKind::BadInput,
            Self::PartitionStopped { .. } | Self::ShutDown | Self::TokioGone => ErrorKind::Stopped,
            Self::Open(OpenError::InUse { .. } | OpenError::InUseHere { .. }) => ErrorKind::InUse,
            Self::Metadata(MetadataError::Unavailable(_)) => ErrorKind::Retry,
            Self::Metadata(MetadataError::OutcomeUnknown) => ErrorKind::Unknown,
            Self::Metadata(MetadataError::Refused(_)) | Self::OfCluster(_) => ErrorKind::Refused,
            Self::Open(_)
            | Self::Consensus(_)
            | Self::Aliases(_)
            | Self::Tokens(_)
            | Self::Fault(_)
            | Self::Log(_)
            | Self::Metadata(_)
            | Self::Snapshot(_)
            | Self::OtherLog { .. }
            | Self::Gap { .. }
            | Self::PartitionTable(_)
            | Self::RuleBook(_)
            | Self::RuleBookHistory(_)
            | Self::RuleBookRefused(_)
            | Self::Store(_)
            | Self::Tables(_)
            | Self::State(_) => ErrorKind::Storage,
            Self::Thread(_) => ErrorKind::Environment,
            Self::Unexpected(_) => ErrorKind::Bug,
        }
    }

    /// The error for an unexpected answer.
    #[must_use]
    pub fn unexpected(answer: Answer) -> Self {
        match refusal(answer) {
            Ok(answer) => Self::Unexpected(format!("{answer:?}")),
            Err(error) => error,
        }
    }

    /// Whether files could not be written: the disk is full, or they are not this user's.
    #[must_use]
    pub fn is_unwritable(&self) -> bool {
        if matches!(self, Self::Open(OpenError::ReadOnly { .. })) {
            return true;
        }
        // A stopped partition has its reason only as text.
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        ["no space is left", "may not be written"].iter().any(|words| text.contains(words))
    }
}

/// Turns refusals into errors.
pub(crate) fn refusal(answer: Answer) -> Result<Answer, NodeError> {
    match answer {
        Answer::NotLeading => Err(NodeError::NotLeading),
        Answer::LostLeadership | Answer::Reply(Reply::Fenced) => Err(NodeError::LostLeadership),
        Answer::Busy => Err(NodeError::Busy),
        Answer::TooLarge(TooLarge { len, len_max }) => Err(NodeError::TooLarge { len, len_max }),
        Answer::StorageFailed(reason) => Err(NodeError::StorageFailed(reason)),
        Answer::Reply(Reply::BacklogFull(full)) => Err(NodeError::BacklogFull(full)),
        Answer::Reply(Reply::RuleBookRefused(reason)) => Err(NodeError::RuleBookRefused(reason)),
        answer => Ok(answer),
    }
}
