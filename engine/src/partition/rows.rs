//! The rows of a partition's tables, as values. Their bytes and keys are storage's.
//!
//! Must always hold: a row says all that applying a command needs of it; nothing in
//! a row depends on which replica wrote it.

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

/// State of an entry that has not ended. The payload has a table of its own, so that
/// a stage move rewrites this small row only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct EntryRow {
    /// Where it belongs.
    #[bilrost(1)]
    pub vqueue: VQueueId,
    /// Where it is.
    #[bilrost(2)]
    pub stage: Stage,
    /// Its place in the inbox: the present one in stage `Inbox`, else the last one.
    #[bilrost(3)]
    pub key: EntryKey,
    /// Attempts that ended and counted.
    #[bilrost(4)]
    pub attempts: u32,
    /// Token of the last attempt that started.
    #[bilrost(5)]
    pub token: AttemptToken,
    /// When it was enqueued (the record's time).
    #[bilrost(6)]
    pub created_at: Timestamp,
    /// When the last attempt started.
    #[bilrost(7)]
    pub started_at: Timestamp,
    /// What follows a failed attempt; absent means the default policy.
    #[bilrost(8)]
    pub retry: Option<RetryPolicy>,
    /// How long the result is kept, in milliseconds; absent means the default.
    #[bilrost(9)]
    pub retention_ms: Option<u64>,
    /// The idempotency key it was enqueued with.
    #[bilrost(10)]
    pub idempotency_key: Option<ByteString>,
    /// What the last failed attempt said.
    #[bilrost(11)]
    pub last_failure: ByteString,
    /// Cancellation was asked for while it runs.
    #[bilrost(12)]
    pub cancel_requested: bool,
    /// Attempts that ended because the process that ran them died.
    #[bilrost(13)]
    pub interrupted: u32,
    /// What few entries have.
    #[bilrost(14)]
    pub extra: Option<Box<EntryExtra>>,
}

/// How many failed attempts are kept of an entry: the last ones.
pub const FAILURES_KEPT_MAX: usize = 8;
/// Longest text that is kept of a failed attempt, in bytes.
pub const FAILURE_TEXT_BYTES_MAX: usize = 256;

/// What few entries have, and keep when they end. A row of its own size is not paid for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct EntryExtra {
    /// The last attempts that failed and were followed by another one, oldest first, at most
    /// [`FAILURES_KEPT_MAX`].
    #[bilrost(1)]
    pub failures: Vec<FailedAttempt>,
    /// Its journal, from the first operation on.
    #[bilrost(2)]
    pub journal: Option<Box<JournalState>>,
    /// Of a child: where it comes from.
    #[bilrost(3)]
    pub parent: Option<Box<ParentLink>>,
}

/// An attempt that failed and was followed by another one.
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
    /// What it said, at most [`FAILURE_TEXT_BYTES_MAX`] bytes.
    #[bilrost(4)]
    pub text: ByteString,
}

impl EntryRow {
    /// What is known of its journal, if it has one.
    #[must_use]
    pub fn journal(&self) -> Option<&JournalState> {
        self.extra.as_deref().and_then(|extra| extra.journal.as_deref())
    }

    /// Where it comes from, if it is a child.
    #[must_use]
    pub fn parent(&self) -> Option<&ParentLink> {
        self.extra.as_deref().and_then(|extra| extra.parent.as_deref())
    }

    /// The failed attempts that are kept, oldest first.
    #[must_use]
    pub fn failures(&self) -> &[FailedAttempt] {
        failures(self.extra.as_deref())
    }

    /// Adds a failed attempt to those that are kept; the oldest one goes when there are too
    /// many. Its text is cut.
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

/// An attempt that runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Message)]
pub struct RunningRow {
    /// The attempt.
    #[bilrost(1)]
    pub token: AttemptToken,
    /// Who runs it; absent means the process that led the token's epoch.
    #[bilrost(2)]
    pub executor: Option<ExecutorId>,
}

/// A vqueue: its name, its counts, whether it is paused.
///
/// Read and written again with every change of each of its entries: the name is shared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VQueueMeta {
    /// Its name.
    pub name: Arc<VQueueName>,
    /// Entries in the inbox.
    pub inbox: u64,
    /// Entries that run.
    pub running: u64,
    /// Entries that are suspended.
    pub suspended: u64,
    /// Entries that are paused one by one.
    pub paused: u64,
    /// Results that are kept.
    pub finished: u64,
    /// The whole vqueue is paused.
    pub is_paused: bool,
    /// When its first entry came.
    pub created_at: Timestamp,
}

/// A [`VQueueMeta`] as it is written.
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

    /// Whether nothing at all is left of it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inbox + self.running + self.suspended + self.paused + self.finished == 0
            && !self.is_paused
    }
}

/// What is kept of an entry that ended.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
pub struct FinishedRow {
    /// Where it belonged.
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
    /// When the result is forgotten; `Timestamp::MAX` means not before it is purged.
    #[bilrost(7)]
    pub expires_at: Timestamp,
    /// Attempts that counted, the last one included.
    #[bilrost(8)]
    pub attempts: u32,
    /// The idempotency key it was enqueued with.
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
    /// What few entries have.
    #[bilrost(13)]
    pub extra: Option<Box<EntryExtra>>,
}

impl FinishedRow {
    /// The failed attempts that are kept, oldest first. The last attempt of an entry that
    /// failed is its outcome, and not among them.
    #[must_use]
    pub fn failures(&self) -> &[FailedAttempt] {
        failures(self.extra.as_deref())
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

/// Whose sequences are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DedupKey {
    /// The partition's own leaders.
    Leader,
    /// An external producer.
    External(u64),
    /// Another partition's outbox.
    Partition(u32),
}

/// Highest sequence seen of a producer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Message)]
pub struct DedupRow {
    /// Epoch (leaders only).
    #[bilrost(1)]
    pub epoch: u64,
    /// Sequence.
    #[bilrost(2)]
    pub seq: u64,
}

/// Where an idempotency key is remembered: 16 bytes of xxh3-128 over service and
/// scope, then the key itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey {
    /// The id of the vqueue name reduced to service and scope.
    pub domain: [u8; 16],
    /// The client's key.
    pub key: ByteString,
}

/// The entry that a key stands for.
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
    /// Last inbox sequence given (u64).
    InboxSeq = 2,
    /// Last outbox index given (u64).
    OutboxSeq = 3,
    /// Lowest format that may read this partition (u64).
    MinVersion = 4,
    /// LSN up to which the store was known to be flushed (u64).
    DurableLsn = 5,
    /// Epoch of the leader in force (u64).
    LeaderEpoch = 6,
    /// The partition's key range (two u64).
    KeyRange = 7,
    /// When the partition was made (u64, milliseconds).
    Created = 8,
    /// The rule book in force (its encoded bytes).
    RuleBook = 9,
    /// Greatest default `run_at` given (u64, milliseconds): keeps it monotonic.
    LastRunAt = 10,
    /// Greatest time of a record applied (u64, milliseconds): a floor of the partition's
    /// time.
    LatestRecordAt = 11,
    /// Incarnation of the outbox (u64).
    Incarnation = 12,
}
