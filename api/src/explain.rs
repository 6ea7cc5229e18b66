//! Why an entry does not run.

use forebay_messages::{EntryId, PartitionId, Stage, VQueueId, rule::Limits};
use serde::{Deserialize, Serialize};

use crate::{EntryOutcome, EntryView};

/// Why an entry does not run (or that it does), for display.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainView {
    /// The entry.
    pub entry: EntryView,
    /// Number of entries before it in its vqueue; `None` when it is not in the inbox.
    pub ahead: Option<u64>,
    /// All current reasons why it does not run. Empty for one that runs, has ended, or is about to
    /// start.
    pub blocked_by: Vec<BlockView>,
    /// The rules that govern it, scope first.
    pub rules: Vec<GovernedView>,
    /// The position of its vqueue among all that wait for the same limit, if it waits for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<RankView>,
    /// Entries that run under the first used-up concurrency limit of `blocked_by`: the ones that
    /// have run longest, at most [`HOLDERS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<HolderView>,
}

/// Maximum number of holders that [`ExplainView`] lists.
pub const HOLDERS_MAX: usize = 20;

/// The position of a vqueue among all that wait for the same limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankView {
    /// The counted key whose limit is used up: `scope`, `scope/l1` or `scope/l1/l2`. Absent if only
    /// a slot of the node is missing: then all waiting vqueues of the partition are compared.
    pub key: Option<String>,
    /// Number of vqueues that began to wait earlier. A later one can still start first: scopes take
    /// turns, and a freed permit goes to the deepest key first.
    pub ahead: u32,
    /// Number of waiting vqueues, this one included.
    pub waiting: u32,
}

/// An entry that runs under a used-up limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderView {
    /// The entry.
    pub entry: EntryId,
    /// Its service.
    pub service: String,
    /// When its attempt started (milliseconds since 1970).
    pub started_at: u64,
}

/// One reason why an entry does not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockView {
    /// The reason.
    #[serde(flatten)]
    pub reason: Reason,
    /// When it began to apply to this entry (milliseconds since 1970), if known.
    pub since: Option<u64>,
}

/// A reason why an entry does not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// Entries are not started here: no process leads its partition.
    NotLed {
        /// The partition.
        partition: PartitionId,
        /// What is known about that.
        why: String,
    },
    /// No handler for its service is registered in this process.
    NoHandler {
        /// The service.
        service: String,
    },
    /// It is paused, until it is resumed.
    Paused,
    /// It waits for another event.
    Suspended,
    /// It waits for the result of a child.
    Child {
        /// The child.
        child: EntryId,
        /// The operation of its journal.
        operation: String,
        /// The child's stage; absent if it is not stored (yet).
        stage: Option<Stage>,
        /// The child's outcome: it has ended, and its answer is on its way.
        outcome: Option<EntryOutcome>,
    },
    /// It waits until a promise is resolved or rejected.
    Promise {
        /// The promise.
        name: String,
        /// The operation of its journal.
        operation: String,
    },
    /// It sleeps.
    Sleep {
        /// Until this time (milliseconds since 1970).
        until: u64,
        /// The operation of its journal.
        operation: String,
    },
    /// It runs, and some of its calls and sends wait: too many messages to the partition of their
    /// children wait for delivery.
    OutboxFull {
        /// The partition of the children.
        partition: PartitionId,
        /// Number of waiting calls and sends of this entry.
        calls: usize,
        /// Number of messages that wait for delivery to that partition.
        messages: usize,
    },
    /// Its whole vqueue is paused, until it is resumed.
    VqueuePaused {
        /// The vqueue.
        vqueue: VQueueId,
    },
    /// Its start time is in the future.
    RunAt {
        /// When it may start (milliseconds since 1970).
        run_at: u64,
    },
    /// Other entries of its vqueue go first.
    Behind {
        /// Their number.
        entries: u64,
    },
    /// Another entry holds its vqueue's lock.
    Lock {
        /// The holder; absent while it changes.
        holder: Option<EntryId>,
    },
    /// A rule pauses its scope or limit key: nothing starts until that is resumed.
    PausedByRule {
        /// The paused key: `scope`, `scope/l1` or `scope/l1/l2`.
        key: String,
        /// The rule with the pause, `rul_…`.
        rule: String,
        /// Its pattern.
        pattern: String,
    },
    /// A rule pauses its service: nothing of it starts until it is resumed.
    ServicePausedByRule {
        /// The service.
        service: String,
        /// The rule with the pause, `rul_…`.
        rule: String,
        /// Its pattern, `service:NAME`.
        pattern: String,
    },
    /// A concurrency limit is used up.
    Concurrency {
        /// The counted key: `scope`, `scope/l1` or `scope/l1/l2`.
        key: String,
        /// The rule with the limit, `rul_…`.
        rule: String,
        /// Its pattern.
        pattern: String,
        /// Number of entries that run or are about to.
        usage: u32,
        /// The limit.
        limit: u32,
    },
    /// A rate limit has no token.
    Rate {
        /// The counted key.
        key: String,
        /// The rule with the limit, `rul_…`.
        rule: String,
        /// Its pattern.
        pattern: String,
        /// When the next token is available (milliseconds since 1970).
        next_token: u64,
    },
    /// The executors of its service have no free slot: none of them asks for more of its entries.
    NoSlot {
        /// The service.
        service: String,
        /// Number of entries of the service that run in its partition.
        running: u32,
    },
    /// The node runs its maximum number of entries.
    Capacity {
        /// Number of running entries in its partition.
        running: u32,
        /// Number of the node's slots leased to the partition.
        leased: u32,
        /// Number of the node's slots.
        running_max: u32,
    },
}

/// The rule that governs one level of an entry's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GovernedView {
    /// The key: `scope`, `scope/l1` or `scope/l1/l2`.
    pub key: String,
    /// The rule, `rul_…`.
    pub rule: String,
    /// Its pattern.
    pub pattern: String,
    /// Its limits.
    #[serde(flatten)]
    pub limits: Limits,
}
