//! Why an entry does not run.

use forebay_messages::{EntryId, PartitionId, VQueueId};
use serde::{Deserialize, Serialize};

use crate::{EntryView, LimitsView};

/// Why an entry does not run (or that it does), for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainView {
    /// The entry.
    pub entry: EntryView,
    /// Entries of its vqueue that go before it; `None` when it is not in the inbox.
    pub ahead: Option<u64>,
    /// Everything that is in its way now. Empty for one that runs or has ended, and for
    /// one that is about to start.
    pub blocked_by: Vec<BlockView>,
    /// The rules that govern it, scope first.
    pub rules: Vec<GovernedView>,
}

/// One thing in an entry's way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockView {
    /// What it is.
    #[serde(flatten)]
    pub reason: Reason,
    /// Since when it has been in this entry's way (milliseconds since 1970), if known.
    pub since: Option<u64>,
}

/// What can be in an entry's way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// Nobody starts entries here: no process leads its partition.
    NotLed {
        /// The partition.
        partition: PartitionId,
        /// What is known of it.
        why: String,
    },
    /// No handler for its service is registered in this process.
    NoHandler {
        /// The service.
        service: String,
    },
    /// It is paused by itself, until it is resumed.
    Paused,
    /// It waits for something else to end.
    Suspended,
    /// Its whole vqueue is paused, until it is resumed.
    VqueuePaused {
        /// The vqueue.
        vqueue: VQueueId,
    },
    /// Its time has not come.
    RunAt {
        /// When it may run (milliseconds since 1970).
        run_at: u64,
    },
    /// Others of its vqueue go first.
    Behind {
        /// How many.
        entries: u64,
    },
    /// Another entry holds its vqueue's lock.
    Lock {
        /// Who; absent when it is just changing hands.
        holder: Option<EntryId>,
    },
    /// A rule pauses its scope or limit key: nothing starts until that is resumed.
    PausedByRule {
        /// The key that is paused: `scope`, `scope/l1` or `scope/l1/l2`.
        key: String,
        /// The rule that pauses it, `rul_…`.
        rule: String,
        /// Its pattern.
        pattern: String,
    },
    /// A rule pauses its service: nothing of it starts until it is resumed.
    ServicePausedByRule {
        /// The service.
        service: String,
        /// The rule that pauses it, `rul_…`.
        rule: String,
        /// Its pattern, `service:NAME`.
        pattern: String,
    },
    /// A concurrency limit is used up.
    Concurrency {
        /// The key that is counted: `scope`, `scope/l1` or `scope/l1/l2`.
        key: String,
        /// The rule that limits it, `rul_…`.
        rule: String,
        /// Its pattern.
        pattern: String,
        /// How many run or are about to.
        usage: u32,
        /// How many may.
        limit: u32,
    },
    /// A rate limit has no token.
    Rate {
        /// The key that is counted.
        key: String,
        /// The rule that limits it, `rul_…`.
        rule: String,
        /// Its pattern.
        pattern: String,
        /// When the next token is there (milliseconds since 1970).
        next_token: u64,
    },
    /// As many entries run on this node as may.
    Capacity {
        /// How many run in its partition.
        running: u32,
        /// How many slots of the node the partition has.
        leased: u32,
        /// How many the node has.
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
    /// What it allows.
    #[serde(flatten)]
    pub limits: LimitsView,
}
