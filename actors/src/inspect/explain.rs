//! Why an entry does not run, and the usage of the limits: for display.
//!
//! Must always hold: inspection changes nothing; the data of the store and of the limiter are read
//! at nearly, not exactly, the same time. Must not know: how a limit is counted.

use std::{collections::BTreeMap, sync::Arc};

use forebay_api::{
    BlockView, ExplainView, GovernedView, HOLDERS_MAX, HolderView, LISTED_BYTES_MAX, LimitView,
    RankView, Reason,
};
use forebay_engine::{
    limiter::{BlockReason, Blocked, CounterView, Explanation, Limiter, Rank},
    partition::{
        machine::{Answer, OutboxWait, PartitionInput},
        rows::{EntryRow, Stage, VQueueMeta},
        store::SeedRows,
    },
    rules::{GoverningRule, RuleLookup},
};
use forebay_messages::{EntryId, EntryKey, PartitionId, Timestamp, VQueueId, VQueueName};
use forebay_storage::partition::BytesHead;

use crate::{access::propose::answer_if_gone, error::NodeError, peers::ReplicaRows, shell::Clock};

use super::{
    Inspect,
    query::{bytes_view, view_live},
    tree::AllRows,
};

/// Rows read at a time.
const PAGE_LEN: usize = 512;

/// The stored state of a live entry.
struct Live {
    row: EntryRow,
    meta: VQueueMeta,
    ahead: Option<u64>,
    holder: Option<EntryId>,
    payload: Option<BytesHead>,
}

fn find_live(partition: &ReplicaRows, id: EntryId) -> Result<Option<Live>, NodeError> {
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

impl Inspect {
    /// Why an entry does not run, or that it runs; `None` when there is no such entry. Takes time
    /// in proportion to its position in its vqueue. Cancel-safe.
    ///
    /// # Errors
    /// When a read fails or no partition owns its key.
    pub async fn explain(&self, id: EntryId) -> Result<Option<ExplainView>, NodeError> {
        let partition = self.registry.route(id.partition_key)?;
        let entry = self.registry.replica(partition)?.rows;
        let now = entry.clock.now();
        let found = self.registry.blocking(move || find_live(&entry, id)).await??;
        let Some(Live { row, meta, ahead, holder, payload }) = found else {
            // It has ended, or there is no such entry.
            let ended = self.entry_details(id, LISTED_BYTES_MAX).await?;
            return Ok(ended.map(|ended| ExplainView {
                entry: ended.entry,
                ahead: None,
                blocked_by: Vec::new(),
                rules: Vec::new(),
                rank: None,
                holders: Vec::new(),
            }));
        };
        let (mut blocked_by, mut rank, mut holders) = (Vec::new(), None, Vec::new());
        match row.stage {
            Stage::Running => blocked_by = self.outbox_waits(partition, id).await?,
            Stage::Finished => {}
            Stage::Paused => {
                blocked_by.push(BlockView { reason: Reason::Paused, since: None });
                if row.journal().is_some_and(|journal| !journal.waits.is_empty()) {
                    blocked_by.extend(self.waits_of(id).await?);
                }
            }
            Stage::Suspended => blocked_by = self.waits_of(id).await?,
            Stage::Inbox => {
                blocked_by.extend(self.no_handler(&row, &meta.name));
                blocked_by.extend(own_reasons(&row, &meta, ahead.unwrap_or(0), now));
                let (reasons, place) =
                    self.reasons_of(partition, id, &row, &meta.name, holder).await;
                blocked_by.extend(reasons);
                rank = place;
                holders = self.holders_of(partition, &blocked_by).await?;
            }
        }
        let rules = governed(&self.rules_in_force().await?, &meta.name);
        let mut entry = view_live(id, &row, &meta.name);
        entry.payload = payload.map(bytes_view);
        Ok(Some(ExplainView { entry, ahead, blocked_by, rules, rank, holders }))
    }

    /// The counters of the limits that are used or waited for, by partition and key. Cancel-safe.
    ///
    /// # Errors
    /// When the node shuts down.
    pub async fn limits(&self) -> Result<Vec<LimitView>, NodeError> {
        self.registry.check_up()?;
        let rules = Arc::new(self.rules_in_force().await?);
        let mut found = Vec::new();
        for partition in self.registry.partitions() {
            let look = |limiter: &Limiter, now| limiter.limits(now);
            let counters = self.registry.look_at_limiter(partition, look).await.unwrap_or_default();
            let counters = counters.into_iter().map(|counter| limit_view(partition, counter));
            let mut counters: BTreeMap<String, LimitView> =
                counters.map(|view| (view.key.clone(), view)).collect();
            let (entry, rules) = (self.registry.replica(partition)?.rows, Arc::clone(&rules));
            let backlogs = self.registry.blocking(move || backlogs(&entry, &rules)).await??;
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

    /// The partitions whose messages delay calls of a running entry.
    async fn outbox_waits(
        &self,
        partition: PartitionId,
        entry: EntryId,
    ) -> Result<Vec<BlockView>, NodeError> {
        let replica = self.registry.replica(partition)?;
        let pending = self.registry.replies.open(partition);
        let reply = pending.id();
        if !replica.partition.address.send(PartitionInput::AskOutbox { entry, reply }) {
            pending.withdraw();
            return Ok(Vec::new());
        }
        answer_if_gone(&self.registry, partition, [reply]);
        // Without a leader nothing waits for room.
        let Answer::OutboxWaits(waits) = pending.await else { return Ok(Vec::new()) };
        let view = |wait: OutboxWait| {
            let OutboxWait { target: partition, calls, messages } = wait;
            let reason = Reason::OutboxFull { partition, calls, messages };
            BlockView { reason, since: None }
        };
        Ok(waits.into_iter().map(view).collect())
    }

    /// What a suspended entry waits for.
    async fn waits_of(&self, id: EntryId) -> Result<Vec<BlockView>, NodeError> {
        let rows = AllRows::of(&self.registry)?;
        let mut waits = self.registry.blocking(move || rows.waits_of(id)).await??;
        if waits.is_empty() {
            // It became ready in the meantime.
            waits.push(Reason::Suspended);
        }
        Ok(waits.into_iter().map(|reason| BlockView { reason, since: None }).collect())
    }

    /// The rules of the newest book, ready for lookups.
    pub(crate) async fn rules_in_force(&self) -> Result<RuleLookup, NodeError> {
        Ok(RuleLookup::from_updates(&self.rules.newest().await?.diff_from_empty()))
    }

    /// The limiter's reasons why an entry of this vqueue does not run, and the vqueue's rank.
    async fn reasons_of(
        &self,
        partition: PartitionId,
        id: EntryId,
        row: &EntryRow,
        name: &VQueueName,
        holder: Option<EntryId>,
    ) -> (Vec<BlockView>, Option<RankView>) {
        let (vqueue, named) = (row.vqueue, name.clone());
        let look = move |limiter: &Limiter, now| limiter.explain_vqueue(vqueue, &named, now);
        let explained = self.registry.look_at_limiter(partition, look).await;
        let mut blocked = Vec::new();
        if explained.is_none() || !self.dispatches {
            let why = self.why_not_led(partition);
            blocked.push(BlockView { reason: Reason::NotLed { partition, why }, since: None });
        }
        let Explanation { reasons, rank, .. } = explained.unwrap_or_default();
        let running_max = self.registry.running_max();
        let is_used_up = self.executor.running() >= running_max as usize;
        blocked.extend(reasons.into_iter().filter_map(|Blocked { reason, since }| {
            // A partition without a free slot, which needs none yet, may get one when it asks.
            let may_ask = matches!(reason, BlockReason::Capacity { is_asked: false, .. });
            let reason = reason_view(reason, holder, running_max);
            // A retried entry does not block itself with the lock it kept.
            let is_own_lock = matches!(&reason, Reason::Lock { holder } if *holder == Some(id));
            // Without a process that runs entries, the limiter has only just started to count.
            let since = self.dispatches.then(|| since.max(row.created_at).0);
            (!is_own_lock && (is_used_up || !may_ask)).then_some(BlockView { reason, since })
        }));
        let rank = rank.map(|Rank { key, ahead, waiting }| RankView { key, ahead, waiting });
        (blocked, rank)
    }

    /// The entries that run under the first concurrency limit among these reasons. Reads all
    /// running rows of the partition.
    async fn holders_of(
        &self,
        partition: PartitionId,
        blocked_by: &[BlockView],
    ) -> Result<Vec<HolderView>, NodeError> {
        let key = blocked_by.iter().find_map(|block| match &block.reason {
            Reason::Concurrency { key, .. } => Some(key.clone()),
            _ => None,
        });
        let Some(key) = key else { return Ok(Vec::new()) };
        let rows = self.registry.replica(partition)?.rows;
        self.registry.blocking(move || holders(&rows, &key)).await?
    }

    /// The missing handler for entries of this service, if it is missing.
    fn no_handler(&self, row: &EntryRow, name: &VQueueName) -> Option<BlockView> {
        if !self.dispatches || self.executor.has_handler(&name.service) {
            return None;
        }
        let since = self.registry.unserved.since(&name.service);
        let since = since.map(|since| since.max(row.created_at).0);
        Some(BlockView { reason: Reason::NoHandler { service: name.service.to_string() }, since })
    }

    fn why_not_led(&self, partition: PartitionId) -> String {
        if let Some(reason) = self.registry.status(partition).and_then(|status| status.stopped) {
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

/// Number of waiting entries for each key whose backlog a rule limits.
fn backlogs(
    partition: &ReplicaRows,
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

/// The entries that run under a key (`scope/l1/l2` as deep as it goes): the ones that have run
/// longest.
fn holders(partition: &ReplicaRows, key: &str) -> Result<Vec<HolderView>, NodeError> {
    let store = &partition.store;
    let depth = key.split('/').count();
    let (mut found, mut after) = (Vec::new(), None);
    // Rows are sorted by vqueue: its name is read once.
    let mut current: Option<(VQueueId, Option<Arc<VQueueName>>)> = None;
    loop {
        let page = store.running_after(after, PAGE_LEN)?;
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        for ((vqueue, id), _) in page {
            if current.as_ref().is_none_or(|(known, _)| *known != vqueue) {
                let name = store.vqueue(vqueue)?.map(|meta| meta.name);
                let name = name.filter(|name| {
                    levels_of(name).get(..depth).is_some_and(|levels| levels.join("/") == key)
                });
                current = Some((vqueue, name));
            }
            let Some((_, Some(name))) = &current else { continue };
            let Some(row) = store.entry(id)? else { continue };
            let (service, started_at) = (name.service.to_string(), row.started_at.0);
            found.push(HolderView { entry: id, service, started_at });
        }
    }
    found.sort_by_key(|holder| (holder.started_at, holder.entry));
    found.truncate(HOLDERS_MAX);
    Ok(found)
}

/// The scope and limit key of a vqueue, by level.
fn levels_of(name: &VQueueName) -> Vec<&str> {
    [&name.scope, &name.l1, &name.l2].into_iter().map_while(|level| level.as_deref()).collect()
}

/// Reasons other than limits: a pause, the start time, the position.
fn own_reasons(row: &EntryRow, meta: &VQueueMeta, ahead: u64, now: Timestamp) -> Vec<BlockView> {
    let mut blocked = Vec::new();
    let mut add = |reason, since: Option<Timestamp>| {
        blocked.push(BlockView { reason, since: since.map(|since| since.0) });
    };
    // After a retry it is not known when it returned to the inbox.
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
        BlockReason::Slot { service, running, .. } => Reason::NoSlot { service, running },
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
        limits: rule.limits,
    });
    all.collect()
}

/// The levels of a vqueue's key that a rule governs, scope first.
fn governing<'a>(
    rules: &'a RuleLookup,
    name: &'a VQueueName,
) -> impl Iterator<Item = (String, &'a GoverningRule)> {
    let levels = levels_of(name);
    (1..=levels.len()).filter_map(move |depth| {
        let level = &levels[..depth];
        Some((level.join("/"), rules.governing(level)?))
    })
}
