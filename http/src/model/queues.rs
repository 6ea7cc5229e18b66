//! Queues, limits, partitions, health.

use forebay_api::{LimitView, PartitionView, VQueueView};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Which queues to list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct QueuesQuery {
    /// Only of this service; `NAME.*` includes all services below it.
    pub(crate) service: Option<String>,
    /// Only of this scope.
    pub(crate) scope: Option<String>,
    /// Also queues without work.
    pub(crate) all: bool,
    /// Maximum number of queues in this page, at most 1,000 (default: 100).
    #[param(minimum = 1, maximum = 1000)]
    pub(crate) limit: Option<usize>,
    /// The `next` of the page before.
    pub(crate) cursor: Option<String>,
}

/// A queue: all entries of one service, scope, limit key and object key.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Queue {
    /// Its id, `vq_…`.
    id: String,
    /// The handler that runs its entries.
    service: String,
    /// Its scope.
    scope: Option<String>,
    /// Its limit key.
    limit_key: Option<String>,
    /// Its object key.
    key: Option<String>,
    /// Entries in the inbox.
    inbox: u64,
    /// Entries that run.
    running: u64,
    /// Entries that are paused or suspended.
    parked: u64,
    /// Results that are kept.
    finished: u64,
    /// The whole queue is paused.
    is_paused: bool,
    /// Whether the process has a handler for its service.
    has_handler: Option<bool>,
}

impl From<&VQueueView> for Queue {
    fn from(view: &VQueueView) -> Self {
        Self {
            id: view.id.to_string(),
            service: view.service.clone(),
            scope: view.scope.clone(),
            limit_key: view.limit_key.clone(),
            key: view.key.clone(),
            inbox: view.inbox,
            running: view.running,
            parked: view.parked,
            finished: view.finished,
            is_paused: view.is_paused,
            has_handler: view.has_handler,
        }
    }
}

/// A page of queues, in the order of their ids.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Queues {
    /// The queues. There may be none although more follow.
    pub(crate) queues: Vec<Queue>,
    /// The `cursor` of the next page; absent at the end.
    pub(crate) next: Option<String>,
}

/// Which counters to list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LimitsQuery {
    /// Only of this scope.
    pub(crate) scope: Option<String>,
    /// Maximum number of counters, at most 10,000 (default: 1,000): the ones with the most waiting
    /// queues.
    #[param(minimum = 1, maximum = 10000)]
    pub(crate) limit: Option<usize>,
}

/// One counter of a limit.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Limit {
    /// The partition that counts it.
    partition: u32,
    /// The counted key: `scope`, `scope/l1` or `scope/l1/l2`; `service:NAME` for a paused service.
    key: String,
    /// Number of entries that run or are about to.
    usage: u32,
    /// The limit; absent is no limit.
    limit: Option<u32>,
    /// Number of entries that may start at once under its rate limit; absent without one.
    tokens: Option<u32>,
    /// Number of queues that wait for this counter.
    waiters: u32,
    /// Number of entries that wait in inboxes; only if a rule limits them.
    backlog: Option<u64>,
    /// The limit of waiting entries.
    backlog_limit: Option<u32>,
    /// The rule that governs it, `rul_…`.
    rule: Option<String>,
    /// Its pattern.
    pattern: Option<String>,
    /// The pattern of the rule with a pause.
    paused: Option<String>,
}

impl From<&LimitView> for Limit {
    fn from(view: &LimitView) -> Self {
        Self {
            partition: view.partition.0,
            key: view.key.clone(),
            usage: view.usage,
            limit: view.limit,
            tokens: view.tokens,
            waiters: view.waiters,
            backlog: view.backlog,
            backlog_limit: view.backlog_limit,
            rule: view.rule.clone(),
            pattern: view.pattern.clone(),
            paused: view.paused.clone(),
        }
    }
}

/// Counters of limits.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LimitsList {
    /// The counters, the ones with the most waiting queues first.
    pub(crate) limits: Vec<Limit>,
    /// There are more.
    pub(crate) is_cut: bool,
}

/// A partition.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Partition {
    /// Its id.
    id: u32,
    /// First key of its range, in hexadecimal.
    first_key: String,
    /// Last key of its range, in hexadecimal.
    last_key: String,
    /// The replica's node.
    node: u32,
    /// The replica's role: `leader`, `candidate`, `follower` or `stopped`.
    role: String,
    /// Whether it accepts commands.
    open: bool,
    /// Epoch of the newest leader known to it.
    epoch: u64,
    /// Why it stopped.
    stopped: Option<String>,
    /// LSN of the last record applied.
    applied: u64,
    /// LSN up to which rows are in files.
    durable: u64,
    /// LSN of the first record that the log still has.
    log_first: u64,
    /// LSN of the last record of the log.
    log_end: u64,
    /// Number of queues with rows.
    queues: u64,
    /// Entries in inboxes.
    inbox: u64,
    /// Entries that run.
    running: u64,
    /// Entries that are paused or suspended.
    parked: u64,
    /// Results that are kept.
    finished: u64,
}

impl From<&PartitionView> for Partition {
    fn from(view: &PartitionView) -> Self {
        Self {
            id: view.id.0,
            first_key: format!("{:016x}", view.range.0),
            last_key: format!("{:016x}", view.range.1),
            node: view.node,
            role: view.role.to_string(),
            open: view.open,
            epoch: view.epoch,
            stopped: view.stopped.clone(),
            applied: view.applied,
            durable: view.durable,
            log_first: view.log_first,
            log_end: view.log_end,
            queues: view.vqueues,
            inbox: view.inbox,
            running: view.running,
            parked: view.parked,
            finished: view.finished,
        }
    }
}

/// The partitions, in the order of their ranges.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Partitions {
    /// The partitions.
    pub(crate) partitions: Vec<Partition>,
}

/// Whether the runtime works.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    /// `ok`, or why not.
    pub(crate) status: String,
    /// Version of forebay.
    pub(crate) version: String,
}
