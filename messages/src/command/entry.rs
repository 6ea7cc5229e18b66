//! Commands about entries.

use bilrost::{Enumeration, Message};
use bytes::Bytes;
use bytestring::ByteString;

use crate::{
    AttemptToken, EntryId, EntryKey, NodeId, Outcome, Stage, Timestamp, VQueueId, VQueueName,
};

/// Retries after failed attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Message)]
pub struct RetryPolicy {
    /// Maximum number of attempts; 0 means no limit.
    #[bilrost(1)]
    pub attempts_max: u32,
    /// Delay after the first failed attempt, in milliseconds; with 0 the next attempt follows at
    /// once, but after 16 failures the delay is 10 ms.
    #[bilrost(2)]
    pub backoff_first_ms: u64,
    /// Longest delay, in milliseconds.
    #[bilrost(3)]
    pub backoff_max_ms: u64,
    /// Growth of the delay per attempt, in percent (200 doubles it).
    #[bilrost(4)]
    pub growth_percent: u32,
    /// Maximum random reduction of each delay, in percent (0 to 100).
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
    /// A single attempt.
    pub const NONE: Self = Self {
        attempts_max: 1,
        backoff_first_ms: 0,
        backoff_max_ms: 0,
        growth_percent: 100,
        jitter_percent: 0,
    };
}

/// A new entry as created by its client.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
pub struct NewEntry {
    /// Created by the client; enqueueing the same id again adds nothing.
    #[bilrost(1)]
    pub id: EntryId,
    /// Its vqueue.
    #[bilrost(2)]
    pub vqueue: VQueueName,
    /// The handler's input.
    #[bilrost(3)]
    pub payload: Bytes,
    /// Earliest start; absent means "now", made monotonic when applied.
    #[bilrost(4)]
    pub run_at: Option<Timestamp>,
    /// A second enqueue with the same key (under service and scope) returns the first entry.
    #[bilrost(5)]
    pub idempotency_key: Option<ByteString>,
    /// Retries after failed attempts.
    #[bilrost(6)]
    pub retry: Option<RetryPolicy>,
    /// How long the result is kept, in milliseconds; absent means the default, `u64::MAX` until
    /// purged.
    #[bilrost(7)]
    pub retention_ms: Option<u64>,
    /// The id was generated for this command, so no other entry has it and none is looked up.
    #[bilrost(8)]
    pub is_fresh: bool,
    /// [`payload_hash`] of the payload, stored with the idempotency key: detects a later enqueue
    /// with the same key but another payload. Only with an idempotency key.
    #[bilrost(9)]
    pub payload_hash: Option<u64>,
}

/// The hash that distinguishes payloads under one idempotency key: xxh3-64.
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
    /// Its place in the inbox; if the entry is elsewhere, the decision is a no-op.
    #[bilrost(tag(2))]
    pub key: EntryKey,
    /// Token of the new attempt.
    #[bilrost(3)]
    pub token: AttemptToken,
    /// The executor of the attempt; absent means the process that leads the token's epoch.
    #[bilrost(4)]
    pub executor: Option<ExecutorId>,
}

/// Executor of an attempt, if it is not the leading process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Message)]
pub struct ExecutorId {
    /// The node.
    #[bilrost(1)]
    pub node: NodeId,
    /// The node's process: changes with every start. With a lease, the lease.
    #[bilrost(2)]
    pub boot: u64,
    /// `boot` is the id of a worker's lease.
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

/// An attempt ended, and with it the entry.
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
    /// If a cancel was applied before, a failure ends the entry as canceled. Records of earlier
    /// versions lack this: there the failure stands.
    #[bilrost(5)]
    pub heeds_cancel: bool,
}

/// An [`Outcome`] with its tags inside [`Complete`].
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

/// Why an entry returns to its inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enumeration)]
#[repr(u32)]
pub enum RetryReason {
    /// The attempt failed; counts.
    Failed = 0,
    /// The handler asked to be called later; does not count.
    Snoozed = 1,
    /// The leader changed (or the process restarted); does not count.
    LeaderChange = 2,
}

/// An attempt ended and the entry returns to its inbox.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
pub struct RetryAttempt {
    /// The entry.
    #[bilrost(1)]
    pub entry: EntryId,
    /// The attempt; an older token makes this a no-op.
    #[bilrost(2)]
    pub token: AttemptToken,
    /// The reason.
    #[bilrost(3)]
    pub reason: RetryReason,
    /// Earliest start of the next attempt.
    #[bilrost(4)]
    pub run_at: Timestamp,
    /// What went wrong.
    #[bilrost(5)]
    pub message: ByteString,
    /// Optional additional bytes from the handler.
    #[bilrost(6)]
    pub detail: Bytes,
    /// If a cancel was applied before, the entry ends as canceled, even if this was its last
    /// attempt. Records of earlier versions lack this: there the entry becomes a dead letter.
    #[bilrost(7)]
    pub heeds_cancel: bool,
    /// The process that ran the attempt died: the entry's row counts it, and after too many
    /// interruptions the entry becomes a dead letter. 0: no interruption.
    #[bilrost(8)]
    pub interrupted: u32,
    /// A failed attempt is added to the list in the entry's row. Records of earlier versions lack
    /// this: there only the text of the last one is kept.
    #[bilrost(9)]
    pub keeps_failure: bool,
}

/// Several attempts of different entries ended: equivalent to a [`Complete`] or [`RetryAttempt`]
/// for each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Message)]
pub struct EndAttempts {
    /// Attempts whose entries ended.
    #[bilrost(1)]
    pub completed: Vec<Complete>,
    /// Attempts whose entries return to their inboxes.
    #[bilrost(2)]
    pub retried: Vec<RetryAttempt>,
}

/// A selection of entries. In a command: the named entries that also match the other fields (a
/// command that names no entry changes nothing, and the proposer resolves filters to names). In a
/// listing: all entries that match, or those of the named ones.
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
    /// A pause also applies to suspended entries. Records of earlier versions lack this: they skip
    /// suspended entries.
    #[bilrost(7)]
    pub includes_suspended: bool,
}

impl EntrySelector {
    /// Whether an entry of this vqueue matches. The list of named entries is not part of it.
    #[must_use]
    pub fn matches(&self, stage: Stage, created_at: Timestamp, name: &VQueueName) -> bool {
        self.matches_row(stage, created_at) && self.matches_name(name)
    }

    /// The part of [`Self::matches`] that does not need the vqueue's name.
    #[must_use]
    pub fn matches_row(&self, stage: Stage, created_at: Timestamp) -> bool {
        self.stage.is_none_or(|wanted| wanted == stage as u32)
            && self.created_until.is_none_or(|until| created_at <= until)
    }

    /// Whether entries of a vqueue with this name can match. A limit key matches itself and
    /// everything below it; one that no entry can have (empty, or with an empty part) matches no
    /// name. A service that ends with `.*`, as no name does, matches itself and all services below
    /// it: `exec.*` matches `exec` and `exec.x`. Only listings use that: a record never has such a
    /// service.
    #[must_use]
    pub fn matches_name(&self, name: &VQueueName) -> bool {
        matches_name([&self.service, &self.scope, &self.limit_key], name)
    }

    /// Whether it restricts the name of a vqueue.
    #[must_use]
    pub fn names_vqueues(&self) -> bool {
        self.service.is_some() || self.scope.is_some() || self.limit_key.is_some()
    }
}

/// Whether a name has this service, scope and limit key, as far as they are specified.
fn matches_name([service, scope, limit_key]: [&Option<ByteString>; 3], name: &VQueueName) -> bool {
    service.as_ref().is_none_or(|service| is_of_service(service, &name.service))
        && scope.as_ref().is_none_or(|scope| name.scope.as_ref() == Some(scope))
        && limit_key.as_ref().is_none_or(|wanted| name.is_at_or_below(wanted))
}

fn is_of_service(wanted: &str, service: &str) -> bool {
    let Some(family) = wanted.strip_suffix(".*") else { return wanted == service };
    let rest = service.strip_prefix(family);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The vqueues of a command: the named ones that also match the other fields.
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

impl VQueueSelector {
    /// As [`EntrySelector::matches_name`].
    #[must_use]
    pub fn matches_name(&self, name: &VQueueName) -> bool {
        matches_name([&self.service, &self.scope, &self.limit_key], name)
    }
}

/// A new time for entries.
#[derive(Clone, Debug, PartialEq, Eq, Message)]
pub struct Reschedule {
    /// The entries.
    #[bilrost(1)]
    pub selector: EntrySelector,
    /// Their new time, which also determines their place in the queue.
    #[bilrost(2)]
    pub run_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_key_selects_itself_and_everything_below_it() {
        let named = |key: &str| {
            let name = VQueueName::service("s").with_scope("a");
            if key.is_empty() { name } else { name.with_limit_key(key).unwrap() }
        };
        let selects = |wanted: &str, key: &str| {
            let limit_key = Some(wanted.into());
            let entries = EntrySelector { limit_key: limit_key.clone(), ..Default::default() };
            let vqueues = VQueueSelector { limit_key, ..Default::default() };
            let selected = entries.matches_name(&named(key));
            assert_eq!(vqueues.matches_name(&named(key)), selected, "{wanted} {key}");
            selected
        };
        assert!(selects("gold", "gold") && selects("gold", "gold/u1"));
        assert!(selects("gold/u1", "gold/u1"));
        assert!(!selects("gold/u1", "gold") && !selects("gold/u1", "gold/u11"));
        assert!(!selects("gold", "golden") && !selects("gold", ""));
        for no_key in ["", "/", "gold/", "/u1", "gold/u1/", "gold/u1/x"] {
            for key in ["", "gold", "gold/u1"] {
                assert!(!selects(no_key, key), "{no_key:?} {key:?}");
            }
        }
    }

    #[test]
    fn a_service_family_selects_itself_and_the_services_below_it() {
        let selects = |wanted: &str, service: &str| {
            let selector = EntrySelector { service: Some(wanted.into()), ..Default::default() };
            selector.matches_name(&VQueueName::service(service))
        };
        assert!(selects("exec", "exec") && !selects("exec", "exec.x"));
        assert!(selects("exec.*", "exec") && selects("exec.*", "exec.x"));
        assert!(!selects("exec.*", "executor"));
    }
}
