//! Limits of rules, and their usage.

use forebay_messages::{
    PartitionId,
    rule::{Limits, Rate},
};
use serde::{Deserialize, Serialize};

/// The limits of a rule, for display.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsView {
    /// Maximum number of entries that run at the same time.
    pub concurrency: Option<u32>,
    /// Maximum rate of starts.
    pub rate: Option<RateView>,
    /// Maximum number of waiting entries.
    pub backlog: Option<u32>,
    /// Share of the node's capacity relative to others of the same level; absent is 1.
    pub weight: Option<u32>,
    /// Nothing starts until it is resumed.
    #[serde(default)]
    pub paused: bool,
}

/// A rate limit, for display.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateView {
    /// Tokens added per period.
    pub tokens: u32,
    /// The period, in milliseconds.
    pub period_ms: u64,
    /// Capacity of the bucket in tokens.
    pub burst: u32,
}

impl From<Rate> for RateView {
    fn from(rate: Rate) -> Self {
        let Rate { tokens, period_ms, burst } = rate;
        Self { tokens, period_ms, burst }
    }
}

impl From<RateView> for Rate {
    fn from(rate: RateView) -> Self {
        let RateView { tokens, period_ms, burst } = rate;
        Self { tokens, period_ms, burst }
    }
}

impl From<Limits> for LimitsView {
    fn from(limits: Limits) -> Self {
        Self {
            concurrency: limits.concurrency.map(u32::from),
            rate: limits.rate.map(Into::into),
            backlog: limits.backlog.map(u32::from),
            weight: limits.weight.map(u32::from),
            paused: limits.paused,
        }
    }
}

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
