//! The usage of limits.

use forebay_messages::PartitionId;
use serde::{Deserialize, Serialize};

/// One counter of a limit, for display.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitView {
    /// The partition that counts it.
    pub partition: PartitionId,
    /// The counted key: `scope`, `scope/l1` or `scope/l1/l2`; `service:NAME` for a paused service.
    pub key: String,
    /// Number of entries that run or are about to. Not counted for a service (0).
    pub usage: u32,
    /// The limit; `None` is no limit.
    pub limit: Option<u32>,
    /// Number of entries that may start at once under its rate limit; `None` without one.
    pub tokens: Option<u32>,
    /// Number of vqueues that wait for this counter.
    pub waiters: u32,
    /// Number of entries that wait in inboxes; only if a rule limits them.
    pub backlog: Option<u64>,
    /// The limit of waiting entries.
    pub backlog_limit: Option<u32>,
    /// The rule that governs it, `rul_…`.
    pub rule: Option<String>,
    /// Its pattern.
    pub pattern: Option<String>,
    /// The pattern of the rule with a pause: nothing starts until it is resumed.
    #[serde(default)]
    pub paused: Option<String>,
}
