//! The rows of a partition's tables, as values. Storage owns their bytes and keys.
//!
//! Must always hold: a row contains everything that applying a command needs; nothing in a row
//! depends on which replica wrote it.

mod journal;

use std::sync::Arc;

use bilrost::Message;
use bytes::Bytes;
use bytestring::ByteString;
pub use forebay_messages::Stage;
use forebay_messages::{
    AttemptToken, EntryId, EntryKey, Outcome, Timestamp, VQueueId, VQueueName,
    command::{CompleteOutcome, ExecutorId, RetryPolicy},
    journal::ParentLink,
};

pub use journal::{JournalRow, JournalState, PromiseRow, TombstoneRow};

/// State of an entry that has not ended. The payload has its own table, so that a stage move
/// rewrites only this small row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct EntryRow {
    /// Its vqueue.
    #[bilrost(1)]
    pub vqueue: VQueueId,
    /// Its stage.
    #[bilrost(2)]
    pub stage: Stage,
    /// Its place in the inbox: the current one in stage `Inbox`, otherwise the last one.
    #[bilrost(3)]
    pub key: EntryKey,
    /// Ended attempts that counted.
    #[bilrost(4)]
    pub attempts: u32,
    /// Token of the last started attempt.
    #[bilrost(5)]
    pub token: AttemptToken,
    /// When it was enqueued (the record's time).
    #[bilrost(6)]
    pub created_at: Timestamp,
    /// When the last attempt started.
    #[bilrost(7)]
    pub started_at: Timestamp,
    /// Retries after a failed attempt; absent means the default policy.
    #[bilrost(8)]
    pub retry: Option<RetryPolicy>,
    /// How long the result is kept, in milliseconds; absent means the default.
    #[bilrost(9)]
    pub retention_ms: Option<u64>,
    /// Its idempotency key.
    #[bilrost(10)]
    pub idempotency_key: Option<ByteString>,
    /// Message of the last failed attempt.
    #[bilrost(11)]
    pub last_failure: ByteString,
    /// Cancellation was requested while it runs.
    #[bilrost(12)]
    pub cancel_requested: bool,
    /// Attempts that ended because their process died.
    #[bilrost(13)]
    pub interrupted: u32,
    /// Fields that few entries have.
    #[bilrost(14)]
    pub extra: Option<Box<EntryExtra>>,
}

/// Maximum number of failed attempts kept of an entry: the last ones.
pub const FAILURES_KEPT_MAX: usize = 8;
/// Maximum length of the kept text of a failed attempt, in bytes.
pub const FAILURE_TEXT_BYTES_MAX: usize = 256;

/// Fields that few entries have, and keep when they end. Boxed, so that other rows do not grow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct EntryExtra {
    /// The last attempts that failed and were retried, oldest first, at most [`FAILURES_KEPT_MAX`].
    #[bilrost(1)]
    pub failures: Vec<FailedAttempt>,
    /// State of its journal, set by the first operation.
    #[bilrost(2)]
    pub journal: Option<Box<JournalState>>,
    /// Link to the parent, if it is a child.
    #[bilrost(3)]
    pub parent: Option<Box<ParentLink>>,
}

/// An attempt that failed and was retried.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct FailedAttempt {
    /// Its number, from 1. A redriven entry counts from 1 again.
    #[bilrost(1)]
    pub number: u32,
    /// When it started.
    #[bilrost(2)]
    pub started_at: Timestamp,
    /// When it ended.
    #[bilrost(3)]
    pub ended_at: Timestamp,
    /// Its message, at most [`FAILURE_TEXT_BYTES_MAX`] bytes.
    #[bilrost(4)]
    pub text: ByteString,
}

impl EntryRow {
    /// State of its journal, if it has one.
    #[must_use]
    pub fn journal(&self) -> Option<&JournalState> {
        self.extra.as_deref().and_then(|extra| extra.journal.as_deref())
    }

    /// Its link to its parent, if it is a child.
    #[must_use]
    pub fn parent(&self) -> Option<&ParentLink> {
        self.extra.as_deref().and_then(|extra| extra.parent.as_deref())
    }

    /// The kept failed attempts, oldest first.
    #[must_use]
    pub fn failures(&self) -> &[FailedAttempt] {
        failures(self.extra.as_deref())
    }

    /// Adds a failed attempt to the kept ones; above the maximum the oldest is dropped. Its text is
    /// cut.
    pub fn keep_failure(&mut self, mut failure: FailedAttempt) {
        let kept = &mut self.extra.get_or_insert_default().failures;
        if failure.text.len() > FAILURE_TEXT_BYTES_MAX {
            let end = failure.text.floor_char_boundary(FAILURE_TEXT_BYTES_MAX);
            failure.text = ByteString::from(&failure.text[..end]);
        }
        kept.push(failure);
        let surplus = kept.len().saturating_sub(FAILURES_KEPT_MAX);
        kept.drain(..surplus);
    }
}

fn failures(extra: Option<&EntryExtra>) -> &[FailedAttempt] {
    extra.map_or(&[], |extra| &extra.failures)
}

/// A running attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Message)]
pub struct RunningRow {
    /// The attempt.
    #[bilrost(1)]
    pub token: AttemptToken,
    /// Its executor; absent means the process that led the token's epoch.
    #[bilrost(2)]
    pub executor: Option<ExecutorId>,
}

/// A vqueue: its name, its counts, whether it is paused.
///
/// Read and rewritten with every change of its entries, so the name is shared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VQueueMeta {
    /// Its name.
    pub name: Arc<VQueueName>,
    /// Entries in the inbox.
    pub inbox: u64,
    /// Running entries.
    pub running: u64,
    /// Suspended entries.
    pub suspended: u64,
    /// Individually paused entries.
    pub paused: u64,
    /// Kept results.
    pub finished: u64,
    /// The whole vqueue is paused.
    pub is_paused: bool,
    /// When its first entry was enqueued.
    pub created_at: Timestamp,
}

/// The stored form of [`VQueueMeta`].
#[derive(Clone, Debug, PartialEq, Eq, Message)]
pub struct StoredVQueueMeta {
    #[bilrost(1)]
    name: VQueueName,
    #[bilrost(2)]
    inbox: u64,
    #[bilrost(3)]
    running: u64,
    #[bilrost(4)]
    suspended: u64,
    #[bilrost(5)]
    paused: u64,
    #[bilrost(6)]
    finished: u64,
    #[bilrost(7)]
    is_paused: bool,
    #[bilrost(8)]
    created_at: Timestamp,
}

impl From<&VQueueMeta> for StoredVQueueMeta {
    fn from(meta: &VQueueMeta) -> Self {
        let VQueueMeta {
            inbox, running, suspended, paused, finished, is_paused, created_at, ..
        } = *meta;
        let name = (*meta.name).clone();
        Self { name, inbox, running, suspended, paused, finished, is_paused, created_at }
    }
}

impl From<StoredVQueueMeta> for VQueueMeta {
    fn from(meta: StoredVQueueMeta) -> Self {
        let StoredVQueueMeta {
            inbox,
            running,
            suspended,
            paused,
            finished,
            is_paused,
            created_at,
            ..
        } = meta;
        let name = Arc::new(meta.name);
        Self { name, inbox, running, suspended, paused, finished, is_paused, created_at }
    }
}

impl VQueueMeta {
    /// The count of a stage.
    pub fn count_mut(&mut self, stage: Stage) -> &mut u64 {
        match stage {
            Stage::Inbox => &mut self.inbox,
            Stage::Running => &mut self.running,
            Stage::Suspended => &mut self.suspended,
            Stage::Paused => &mut self.paused,
            Stage::Finished => &mut self.finished,
        }
    }

    /// Whether it has no entries and no state.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inbox + self.running + self.suspended + self.paused + self.finished == 0
            && !self.is_paused
    }
}

/// The stored result of an ended entry.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
pub struct FinishedRow {
    /// Its vqueue.
    #[bilrost(1)]
    pub vqueue: VQueueId,
    /// How it ended.
    #[bilrost(oneof(3, 4))]
    pub outcome: Option<CompleteOutcome>,
    /// When it was enqueued.
    #[bilrost(5)]
    pub created_at: Timestamp,
    /// When it ended.
    #[bilrost(6)]
    pub finished_at: Timestamp,
    /// When the result expires; `Timestamp::MAX` means that it is kept until purged.
    #[bilrost(7)]
    pub expires_at: Timestamp,
    /// Attempts that counted, including the last one.
    #[bilrost(8)]
    pub attempts: u32,
    /// Its idempotency key.
    #[bilrost(9)]
    pub idempotency_key: Option<ByteString>,
    /// Its retry policy, for a redrive.
    #[bilrost(10)]
    pub retry: Option<RetryPolicy>,
    /// Its retention, for a redrive.
    #[bilrost(11)]
    pub retention_ms: Option<u64>,
    /// When the last attempt started.
    #[bilrost(12)]
    pub started_at: Timestamp,
    /// Fields that few entries have.
    #[bilrost(13)]
    pub extra: Option<Box<EntryExtra>>,
}

impl FinishedRow {
    /// The kept failed attempts, oldest first. The last attempt of a failed entry is its outcome,
    /// and not among them.
    #[must_use]
    pub fn failures(&self) -> &[FailedAttempt] {
        failures(self.extra.as_deref())
    }

    /// Its link to its parent, if it is a child.
    #[must_use]
    pub fn parent(&self) -> Option<&ParentLink> {
        self.extra.as_deref().and_then(|extra| extra.parent.as_deref())
    }

    /// Whether operations of its journal are kept.
    #[must_use]
    pub fn has_journal(&self) -> bool {
        let journal = self.extra.as_deref().and_then(|extra| extra.journal.as_deref());
        journal.is_some_and(|journal| journal.rows > 0)
    }

    /// How the entry ended.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self.outcome.clone() {
            Some(outcome) => outcome.into(),
            None => Outcome::Success(Bytes::new()),
        }
    }
}

/// A producer whose sequences are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DedupKey {
    /// The partition's own leaders.
    Leader,
    /// An external producer.
    External(u64),
    /// Another partition's outbox.
    Partition(u32),
}

/// Highest known sequence of a producer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Message)]
pub struct DedupRow {
    /// Epoch (leaders only).
    #[bilrost(1)]
    pub epoch: u64,
    /// Sequence.
    #[bilrost(2)]
    pub seq: u64,
}

/// The key of an idempotency row: 16 bytes of xxh3-128 over service and scope, then the client's
/// key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey {
    /// The id of the vqueue name reduced to service and scope.
    pub domain: [u8; 16],
    /// The client's key.
    pub key: ByteString,
}

/// The entry of an idempotency key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Message)]
pub struct IdempotencyRow {
    /// The first entry enqueued with it.
    #[bilrost(1)]
    pub entry: EntryId,
    /// Hash of its payload; absent in rows of earlier versions.
    #[bilrost(2)]
    pub payload_hash: Option<u64>,
}

/// The slots of the `fsm` table. Numbers are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum FsmSlot {
    /// LSN of the last applied record (u64).
    AppliedLsn = 1,
    /// Last assigned inbox sequence (u64).
    InboxSeq = 2,
    /// Last assigned outbox index (u64).
    OutboxSeq = 3,
    /// Lowest format that may read this partition (u64).
    MinVersion = 4,
    /// LSN up to which the store was known to be flushed (u64).
    DurableLsn = 5,
    /// Epoch of the current leader (u64).
    LeaderEpoch = 6,
    /// The partition's key range (two u64).
    KeyRange = 7,
    /// When the partition was created (u64, milliseconds).
    Created = 8,
    /// The current rule book (its encoded bytes).
    RuleBook = 9,
    /// Greatest assigned default `run_at` (u64, milliseconds): keeps it monotonic.
    LastRunAt = 10,
    /// Greatest time of an applied record (u64, milliseconds): a lower bound of the partition's
    /// time.
    LatestRecordAt = 11,
    /// Incarnation of the outbox (u64).
    Incarnation = 12,
    /// The routing table that all calls were last checked against (hash and next id, two u64).
    CheckedTable = 13,
}
