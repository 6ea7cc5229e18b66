//! Why an entry does not run, and how far the limits are used: for people.
//!
//! Must always hold: looking changes nothing; what the store says and what the limiter
//! says were true at nearly, not exactly, the same time. Must not know: how a limit is
//! counted.

use std::{collections::BTreeMap, sync::Arc};

use forebay_engine::{
    limiter::{BlockReason, Blocked, CounterView, Explanation, Limiter},
    partition::rows::{EntryRow, Stage, VQueueMeta},
    rules::{GoverningRule, RuleLookup},
};
use forebay_messages::{
    EntryId, EntryKey, PartitionId, Timestamp, VQueueId, VQueueName, rule::Rate,
};
use forebay_storage::partition::BytesHead;
use serde::{Deserialize, Serialize};

use crate::{error::NodeError, node::Node, registry::PartitionEntry, shell::Clock};

use super::{EntryView, LISTED_BYTES_MAX, query::view_live};

/// Rows read at a time.
const PAGE_LEN: usize = 512;

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

impl From<forebay_messages::rule::Limits> for LimitsView {
    fn from(limits: forebay_messages::rule::Limits) -> Self {
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

/// What the store says of an entry that has not ended.
struct Live {
    row: EntryRow,
    meta: VQueueMeta,
    ahead: Option<u64>,
    holder: Option<EntryId>,
    payload: Option<BytesHead>,
}

fn find_live(partition: &PartitionEntry, id: EntryId) -> Result<Option<Live>, NodeError> {
    let store = &partition.store;
    let Some(row) = store.entry(id)? else { return Ok(None) };
    let meta = store.vqueue(row.vqueue)?.unwrap_or_default();
    let ahead = match row.stage {
        Stage::Inbox => Some(store.inbox_before(row.vqueue, row.key)?),
        _ => None,
    };
    let holder = store.lock(row.vqueue)?;
    let payload = store.payload(id)?.map(|payload| BytesHead::of(&payload, LISTED_BYTES_MAX));
    Ok(Some(Live { row, meta, ahead, holder, payload }))
}

impl Node {
    /// Why an entry does not run, or that it does; `None` when there is no such entry.
    /// Takes time in proportion to its place in its vqueue. Cancel-safe.
    ///
    /// # Errors
    /// When a read fails or nobody owns its key.
    pub async fn explain(&self, id: EntryId) -> Result<Option<ExplainView>, NodeError> {
        let partition = self.route(id.partition_key)?;
        let entry = self.entry_of(partition)?;
        let now = entry.clock.now();
        let found = self.blocking(move || find_live(&entry, id)).await??;
        let Some(Live { row, meta, ahead, holder, payload }) = found else {
            // It has ended, or there is no such entry.
            let (ahead, blocked_by, rules) = (None, Vec::new(), Vec::new());
            let ended = self.entry_details(id, LISTED_BYTES_MAX).await?;
            let entry = ended.map(|ended| ended.entry);
            return Ok(entry.map(|entry| ExplainView { entry, ahead, blocked_by, rules }));
        };
        let mut blocked_by = Vec::new();
        match row.stage {
            Stage::Running | Stage::Finished => {}
            Stage::Paused => blocked_by.push(BlockView { reason: Reason::Paused, since: None }),
            Stage::Suspended => {
                blocked_by.push(BlockView { reason: Reason::Suspended, since: None });
            }
            Stage::Inbox => {
                blocked_by.extend(self.no_handler(&row, &meta.name));
                blocked_by.extend(own_reasons(&row, &meta, ahead.unwrap_or(0), now));
                blocked_by.extend(self.reasons_of(partition, id, &row, &meta.name, holder).await);
            }
        }
        let rules = governed(&self.rules_in_force()?, &meta.name);
        let mut entry = view_live(id, &row, &meta.name);
        entry.payload = payload.map(Into::into);
        Ok(Some(ExplainView { entry, ahead, blocked_by, rules }))
    }

    /// The counters of the limits that are used or waited for, by partition and key.
    /// Cancel-safe.
    ///
    /// # Errors
    /// When the node goes down.
    pub async fn limits(&self) -> Result<Vec<LimitView>, NodeError> {
        self.check_up()?;
        let rules = Arc::new(self.rules_in_force()?);
        let mut found = Vec::new();
        for partition in self.partitions() {
            let look = |limiter: &Limiter, now| limiter.limits(now);
            let counters = self.look_at_limiter(partition, look).await.unwrap_or_default();
            let counters = counters.into_iter().map(|counter| limit_view(partition, counter));
            let mut counters: BTreeMap<String, LimitView> =
                counters.map(|view| (view.key.clone(), view)).collect();
            let (entry, rules) = (self.entry_of(partition)?, Arc::clone(&rules));
            let backlogs = self.blocking(move || backlogs(&entry, &rules)).await??;
            for (key, (waiting, rule)) in backlogs {
                let view = counters.entry(key.clone()).or_insert_with(|| {
                    let limit = rule.limits.concurrency.map(u32::from);
                    let rule = Some((rule.id, rule.pattern.clone()));
                    let (tokens, paused, usage, waiters) = (None, None, 0, 0);
                    let unused = CounterView { key, usage, limit, tokens, rule, paused, waiters };
                    limit_view(partition, unused)
                });
                view.backlog = Some(waiting);
                view.backlog_limit = rule.limits.backlog.map(u32::from);
            }
            found.extend(counters.into_values());
        }
        Ok(found)
    }

    /// The rules of the newest book, ready for lookups.
    pub(crate) fn rules_in_force(&self) -> Result<RuleLookup, NodeError> {
        Ok(RuleLookup::from_updates(&self.rule_book()?.diff_from_empty()))
    }

    /// What the limiter says is in the way of an entry of this vqueue.
    async fn reasons_of(
        &self,
        partition: PartitionId,
        id: EntryId,
        row: &EntryRow,
        name: &VQueueName,
        holder: Option<EntryId>,
    ) -> Vec<BlockView> {
        let (vqueue, named) = (row.vqueue, name.clone());
        let look = move |limiter: &Limiter, now| limiter.explain_vqueue(vqueue, &named, now);
        let explained = self.look_at_limiter(partition, look).await;
        let mut blocked = Vec::new();
        if explained.is_none() || !self.dispatches {
            let why = self.why_not_led(partition);
            blocked.push(BlockView { reason: Reason::NotLed { partition, why }, since: None });
        }
        let Explanation { reasons, .. } = explained.unwrap_or_default();
        let running_max = self.services.running_max();
        let is_used_up = self.executor.running() >= running_max as usize;
        blocked.extend(reasons.into_iter().filter_map(|Blocked { reason, since }| {
            // A partition that has no slot left and needs none may get one for the asking.
            let may_ask = matches!(reason, BlockReason::Capacity { is_asked: false, .. });
            let reason = reason_view(reason, holder, running_max);
            // An entry that tries again under the lock it kept is not in its own way.
            let is_own_lock = matches!(&reason, Reason::Lock { holder } if *holder == Some(id));
            // Without a process that runs entries the limiter has just begun to count.
            let since = self.dispatches.then(|| since.max(row.created_at).0);
            (!is_own_lock && (is_used_up || !may_ask)).then_some(BlockView { reason, since })
        }));
        blocked
    }

    /// That nobody runs entries of this service here, if so.
    fn no_handler(&self, row: &EntryRow, name: &VQueueName) -> Option<BlockView> {
        if !self.dispatches || self.executor.has_handler(&name.service) {
            return None;
        }
        let since = self.services.unserved.since(&name.service);
        let since = since.map(|since| since.max(row.created_at).0);
        Some(BlockView { reason: Reason::NoHandler { service: name.service.to_string() }, since })
    }

    fn why_not_led(&self, partition: PartitionId) -> String {
        if let Some(reason) = self.services.status(partition).and_then(|status| status.stopped) {
            return format!("the partition stopped: {reason}");
        }
        if self.dispatches {
            "this process does not lead it".to_owned()
        } else {
            "no process that runs entries has the data directory open".to_owned()
        }
    }
}

fn limit_view(partition: PartitionId, counter: CounterView) -> LimitView {
    let (rule, pattern) = counter.rule.unzip();
    LimitView {
        partition,
        key: counter.key,
        usage: counter.usage,
        limit: counter.limit,
        tokens: counter.tokens,
        waiters: counter.waiters,
        backlog: None,
        backlog_limit: None,
        rule: rule.map(forebay_messages::RuleId::printed),
        pattern: pattern.map(|pattern| pattern.to_string()),
        paused: counter.paused.map(|pattern| pattern.to_string()),
    }
}

/// How many entries wait under each key whose backlog a rule limits.
fn backlogs(
    partition: &PartitionEntry,
    rules: &RuleLookup,
) -> Result<BTreeMap<String, (u64, GoverningRule)>, NodeError> {
    let mut found: BTreeMap<String, (u64, GoverningRule)> = BTreeMap::new();
    let mut after = None;
    while rules.limits_backlog() {
        let page = partition.store.vqueues_after(after, PAGE_LEN)?;
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        for (_, meta) in page.into_iter().filter(|(_, meta)| meta.inbox > 0) {
            for (key, rule) in governing(rules, &meta.name) {
                if rule.limits.backlog.is_some() {
                    found.entry(key).or_insert_with(|| (0, rule.clone())).0 += meta.inbox;
                }
            }
        }
    }
    Ok(found)
}

/// What is in an entry's way whatever the limits: its pause, its time, its place.
fn own_reasons(row: &EntryRow, meta: &VQueueMeta, ahead: u64, now: Timestamp) -> Vec<BlockView> {
    let mut blocked = Vec::new();
    let mut add = |reason, since: Option<Timestamp>| {
        blocked.push(BlockView { reason, since: since.map(|since| since.0) });
    };
    // After a retry it is not known when it came back to the inbox.
    let came =
        (row.attempts == 0 && row.started_at == Timestamp::default()).then_some(row.created_at);
    if meta.is_paused {
        add(Reason::VqueuePaused { vqueue: row.vqueue }, None);
    }
    let EntryKey { run_at, .. } = row.key;
    if run_at > now {
        add(Reason::RunAt { run_at: run_at.0 }, came);
    }
    if ahead > 0 {
        add(Reason::Behind { entries: ahead }, came);
    }
    blocked
}

fn reason_view(reason: BlockReason, holder: Option<EntryId>, running_max: u32) -> Reason {
    match reason {
        BlockReason::Lock { .. } => Reason::Lock { holder },
        BlockReason::ServicePaused { service, rule, pattern } => {
            let (rule, pattern) = (rule.printed(), pattern.to_string());
            Reason::ServicePausedByRule { service, rule, pattern }
        }
        BlockReason::Paused { key, rule, pattern } => {
            let (rule, pattern) = (rule.printed(), pattern.to_string());
            Reason::PausedByRule { key, rule, pattern }
        }
        BlockReason::Concurrency { key, rule, pattern, usage, limit } => Reason::Concurrency {
            key,
            rule: rule.printed(),
            pattern: pattern.to_string(),
            usage,
            limit,
        },
        BlockReason::Rate { key, rule, pattern, next_token } => Reason::Rate {
            key,
            rule: rule.printed(),
            pattern: pattern.to_string(),
            next_token: next_token.0,
        },
        BlockReason::Capacity { running, leased, .. } => {
            Reason::Capacity { running, leased, running_max }
        }
    }
}

/// The rules that govern a vqueue's key, scope first.
fn governed(rules: &RuleLookup, name: &VQueueName) -> Vec<GovernedView> {
    let all = governing(rules, name).map(|(key, rule)| GovernedView {
        key,
        rule: rule.id.printed(),
        pattern: rule.pattern.to_string(),
        limits: rule.limits.into(),
    });
    all.collect()
}

/// The levels of a vqueue's key that a rule governs, scope first.
fn governing<'a>(
    rules: &'a RuleLookup,
    name: &'a VQueueName,
) -> impl Iterator<Item = (String, &'a GoverningRule)> {
    let levels: Vec<&str> =
        [&name.scope, &name.l1, &name.l2].into_iter().map_while(|level| level.as_deref()).collect();
    (1..=levels.len()).filter_map(move |depth| {
        let level = &levels[..depth];
        Some((level.join("/"), rules.governing(level)?))
    })
}
