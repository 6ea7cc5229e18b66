//! Commands about entries.

use bilrost::{Enumeration, Message};
use bytes::Bytes;
use bytestring::ByteString;

use crate::{AttemptToken, EntryId, EntryKey, NodeId, Outcome, Timestamp, VQueueId, VQueueName};

/// When a failed attempt is followed by another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Message)]
pub struct RetryPolicy {
    /// How many attempts in all; 0 means no limit.
    #[bilrost(1)]
    pub attempts_max: u32,
    /// Wait after the first failed attempt, in milliseconds; with 0 the next one follows at
    /// once, but after 16 failures it waits 10 ms all the same.
    #[bilrost(2)]
    pub backoff_first_ms: u64,
    /// Longest wait, in milliseconds.
    #[bilrost(3)]
    pub backoff_max_ms: u64,
    /// Growth of the wait from attempt to attempt, in percent (200 doubles it).
    #[bilrost(4)]
    pub growth_percent: u32,
    /// Random share taken off each wait, in percent of it (0 to 100).
    #[bilrost(5)]
    pub jitter_percent: u32,
}

impl Default for RetryPolicy {
    /// Ten attempts, 100 ms doubling to at most one minute, 20 % jitter.
    fn default() -> Self {
        Self {
            attempts_max: 10,
            backoff_first_ms: 100,
            backoff_max_ms: 60_000,
            growth_percent: 200,
            jitter_percent: 20,
        }
    }
}

impl RetryPolicy {
    /// One attempt and no more.
    pub const NONE: Self = Self {
        attempts_max: 1,
        backoff_first_ms: 0,
        backoff_max_ms: 0,
        growth_percent: 100,
        jitter_percent: 0,
    };
}

/// An entry as its client made it.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
pub struct NewEntry {
    /// Made by the client; enqueueing it twice adds nothing.
    #[bilrost(1)]
    pub id: EntryId,
    /// Where it belongs.
    #[bilrost(2)]
    pub vqueue: VQueueName,
    /// What the handler is given.
    #[bilrost(3)]
    pub payload: Bytes,
    /// Not before this time; absent means "now", made monotonic when applied.
    #[bilrost(4)]
    pub run_at: Option<Timestamp>,
    /// A second enqueue with the same key (under service and scope) yields the first.
    #[bilrost(5)]
    pub idempotency_key: Option<ByteString>,
    /// What happens after a failed attempt.
    #[bilrost(6)]
    pub retry: Option<RetryPolicy>,
    /// How long the result is kept, in milliseconds; absent means the default,
    /// `u64::MAX` until it is purged.
    #[bilrost(7)]
    pub retention_ms: Option<u64>,
    /// The id was drawn for this very command, so that no other entry has it: it is not
    /// looked for.
    #[bilrost(8)]
    pub is_fresh: bool,
    /// [`payload_hash`] of the payload, kept with the idempotency key: tells whether a later
    /// enqueue under the same key has another payload. Only with an idempotency key.
    #[bilrost(9)]
    pub payload_hash: Option<u64>,
}

/// The hash by which payloads under one idempotency key are told apart: xxh3-64.
#[must_use]
pub fn payload_hash(payload: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(payload)
}

/// One new entry.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
pub struct Enqueue {
    /// The entry.
    #[bilrost(1)]
    pub entry: NewEntry,
}

/// Several new entries, all or none.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
pub struct EnqueueBatch {
    /// The entries, in order.
    #[bilrost(1)]
    pub entries: Vec<NewEntry>,
}

/// One entry starts to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
pub struct Decision {
    /// Its vqueue.
    #[bilrost(1)]
    pub vqueue: VQueueId,
    /// Its place in the inbox; another place makes the decision a no-op.
    #[bilrost(tag(2))]
    pub key: EntryKey,
    /// Token of the attempt that starts.
    #[bilrost(3)]
    pub token: AttemptToken,
    /// Who runs the attempt; absent means the process that leads the token's epoch.
    #[bilrost(4)]
    pub executor: Option<ExecutorId>,
}

/// Who runs an attempt, where that is not the process that leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Message)]
pub struct ExecutorId {
    /// The node.
    #[bilrost(1)]
    pub node: NodeId,
    /// Which of the node's processes: another one after each start. With a lease, the lease.
    #[bilrost(2)]
    pub boot: u64,
    /// `boot` is the number of a worker's lease.
    #[bilrost(3)]
    pub is_lease: bool,
}

/// Entries that start to run.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
pub struct SchedulerDecisions {
    /// One per entry.
    #[bilrost(1)]
    pub decisions: Vec<Decision>,
}

/// An attempt ended for good.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
pub struct Complete {
    /// The entry.
    #[bilrost(1)]
    pub entry: EntryId,
    /// The attempt; an older token makes this a no-op.
    #[bilrost(2)]
    pub token: AttemptToken,
    /// How it ended.
    #[bilrost(oneof(3, 4))]
    pub outcome: Option<CompleteOutcome>,
    /// A failure ends the entry as canceled if a cancel was applied before. Records of
    /// earlier versions lack this: there the failure stands.
    #[bilrost(5)]
    pub heeds_cancel: bool,
}

/// An [`Outcome`] with the tags it has inside [`Complete`].
#[derive(Clone, Debug, PartialEq, Eq, bilrost::Oneof)]
pub enum CompleteOutcome {
    /// See [`Outcome::Success`].
    #[bilrost(3)]
    Success(Bytes),
    /// See [`Outcome::Failure`].
    #[bilrost(4)]
    Failure(crate::outcome::Failure),
}

impl From<Outcome> for CompleteOutcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Success(bytes) => Self::Success(bytes),
            Outcome::Failure(failure) => Self::Failure(failure),
        }
    }
}

impl From<CompleteOutcome> for Outcome {
    fn from(outcome: CompleteOutcome) -> Self {
        match outcome {
            CompleteOutcome::Success(bytes) => Self::Success(bytes),
            CompleteOutcome::Failure(failure) => Self::Failure(failure),
        }
    }
}

/// Why an entry goes back to its inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enumeration)]
#[repr(u32)]
pub enum RetryReason {
    /// The attempt failed; it counts.
    Failed = 0,
    /// The handler asked to be called later; it does not count.
    Snoozed = 1,
    /// The leader changed (or the process restarted); it does not count.
    LeaderChange = 2,
}

/// An attempt ended and the entry goes back to its inbox.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
pub struct RetryAttempt {
    /// The entry.
    #[bilrost(1)]
    pub entry: EntryId,
    /// The attempt; an older token makes this a no-op.
    #[bilrost(2)]
    pub token: AttemptToken,
    /// Why.
    #[bilrost(3)]
    pub reason: RetryReason,
    /// When it may run again.
    #[bilrost(4)]
    pub run_at: Timestamp,
    /// What went wrong.
    #[bilrost(5)]
    pub message: ByteString,
    /// Bytes a handler may leave beside the message.
    #[bilrost(6)]
    pub detail: Bytes,
    /// The entry ends as canceled if a cancel was applied before, also when this was its
    /// last attempt. Records of earlier versions lack this: there the entry is a dead letter.
    #[bilrost(7)]
    pub heeds_cancel: bool,
    /// The process that ran the attempt died: the entry's row counts it, and after so many
    /// interruptions the entry is a dead letter. 0: nothing was interrupted.
    #[bilrost(8)]
    pub interrupted: u32,
    /// A failed attempt is added to the list that the entry's row keeps. Records of earlier
    /// versions lack this: there only the text of the last one is kept.
    #[bilrost(9)]
    pub keeps_failure: bool,
}

/// Several attempts ended, each of them another one: the same as a [`Complete`] or
/// [`RetryAttempt`] for each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct EndAttempts {
    /// Those that ended for good.
    #[bilrost(1)]
    pub completed: Vec<Complete>,
    /// Those whose entries go back to their inboxes.
    #[bilrost(2)]
    pub retried: Vec<RetryAttempt>,
}

/// Which entries. In a command: those named, if they match the rest too (whoever names
/// nobody changes nobody, and filters are resolved to names by whoever proposes). In a
/// listing: all that match, or of those named the ones that match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct EntrySelector {
    /// These entries.
    #[bilrost(1)]
    pub entries: Vec<EntryId>,
    /// Only of this service.
    #[bilrost(2)]
    pub service: Option<ByteString>,
    /// Only of this scope.
    #[bilrost(3)]
    pub scope: Option<ByteString>,
    /// Only of this limit key (`l1` or `l1/l2`; `l1` includes everything below).
    #[bilrost(4)]
    pub limit_key: Option<ByteString>,
    /// Only in this stage (number of the stage, as printed in the stage's docs).
    #[bilrost(5)]
    pub stage: Option<u32>,
    /// Only entries created at or before this time.
    #[bilrost(6)]
    pub created_until: Option<Timestamp>,
}

impl EntrySelector {
    /// Whether entries of a vqueue with this name can match. An empty limit key matches
    /// no name. A service that ends with `.*`, which no name does, stands for all services
    /// below it and itself: `exec.*` matches `exec` and `exec.x`. Only for looking: such a
    /// selector is no part of a record.
    #[must_use]
    pub fn matches_name(&self, name: &VQueueName) -> bool {
        self.service.as_ref().is_none_or(|service| is_of_service(service, &name.service))
            && self.scope.as_ref().is_none_or(|scope| name.scope.as_ref() == Some(scope))
            && self.limit_key.as_ref().is_none_or(|wanted| name.is_at_or_below(wanted))
    }

    /// Whether it says something about the name of a vqueue.
    #[must_use]
    pub fn names_vqueues(&self) -> bool {
        self.service.is_some() || self.scope.is_some() || self.limit_key.is_some()
    }
}

fn is_of_service(wanted: &str, service: &str) -> bool {
    let Some(family) = wanted.strip_suffix(".*") else { return wanted == service };
    let rest = service.strip_prefix(family);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Vqueues a command is for: those named, if they match the rest too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct VQueueSelector {
    /// These vqueues.
    #[bilrost(1)]
    pub vqueues: Vec<VQueueId>,
    /// Only of this service.
    #[bilrost(2)]
    pub service: Option<ByteString>,
    /// Only of this scope.
    #[bilrost(3)]
    pub scope: Option<ByteString>,
    /// Only of this limit key.
    #[bilrost(4)]
    pub limit_key: Option<ByteString>,
}

/// Another time for one entry.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
pub struct Reschedule {
    /// The entries.
    #[bilrost(1)]
    pub selector: EntrySelector,
    /// Their new time, which is also their place in the queue.
    #[bilrost(2)]
    pub run_at: Timestamp,
}
