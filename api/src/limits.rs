//! What rules allow, and how far it is used.

use forebay_messages::{
    PartitionId,
    rule::{Limits, Rate},
};
use serde::{Deserialize, Serialize};

/// What a rule allows, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsView {
    /// How many entries may run at the same time.
    pub concurrency: Option<u32>,
    /// How many may start per time.
    pub rate: Option<RateView>,
    /// How many entries may wait.
    pub backlog: Option<u32>,
    /// Share of the node's capacity relative to others of the same level; absent is 1.
    pub weight: Option<u32>,
    /// Nothing starts until it is resumed.
    #[serde(default)]
    pub paused: bool,
}

/// A rate limit, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateView {
    /// Tokens that come in each period.
    pub tokens: u32,
    /// The period, in milliseconds.
    pub period_ms: u64,
    /// How many tokens the bucket holds.
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

/// One counter of a limit, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitView {
    /// The partition that counts it.
    pub partition: PartitionId,
    /// What is counted: `scope`, `scope/l1` or `scope/l1/l2`; `service:NAME` for a service
    /// that is paused.
    pub key: String,
    /// How many run or are about to. Not counted for a service (0).
    pub usage: u32,
    /// How many may; `None` is no limit.
    pub limit: Option<u32>,
    /// How many may start at once under its rate limit; `None` without one.
    pub tokens: Option<u32>,
    /// Vqueues that wait for this counter.
    pub waiters: u32,
    /// Entries that wait in inboxes; told only where a rule limits them.
    pub backlog: Option<u64>,
    /// How many may.
    pub backlog_limit: Option<u32>,
    /// The rule that governs it, `rul_…`.
    pub rule: Option<String>,
    /// Its pattern.
    pub pattern: Option<String>,
    /// The pattern of the rule that pauses it: nothing starts until that is resumed.
    #[serde(default)]
    pub paused: Option<String>,
}
