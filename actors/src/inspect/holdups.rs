//! Why waiting entries do not run, counted by cause, for a progress line.
//!
//! Must always hold: inspection changes nothing, and takes time per vqueue and per counter, not per
//! entry. Must not know: how a limit is counted.

use std::collections::{BTreeMap, HashMap};

use forebay_api::EntryFilter;
use forebay_engine::{
    limiter::{Lack, Limiter},
    partition::rows::VQueueMeta,
    rules::RuleLookup,
};
use forebay_messages::{Timestamp, VQueueId, VQueueName};
use forebay_storage::partition::Head;

use crate::{error::NodeError, peers::ReplicaRows, shell::Clock};

use super::{Inspect, query::selector};

/// Rows read at a time.
const PAGE_LEN: usize = 512;
/// Number of vqueues of a partition whose first entry is checked for its start time.
const HEADS_MAX: usize = 64;

/// Why an entry in an inbox does not run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HeldBy {
    /// It is paused, or its vqueue is, or a rule pauses its scope or service.
    Pause,
    /// A concurrency limit is used up.
    Concurrency {
        /// The pattern of the rule.
        pattern: String,
        /// Maximum number of running entries under each key of it.
        limit: u32,
    },
    /// A rate limit has no token.
    Rate {
        /// The pattern of the rule.
        pattern: String,
    },
    /// Another entry with the same key runs.
    Lock,
    /// Its start time is in the future: it was rescheduled, or failed and waits for its next
    /// attempt.
    Time,
    /// The process runs its maximum number of entries.
    Capacity,
}

/// The data of a partition that is read before its vqueues are checked.
struct Known {
    lacks: HashMap<String, Lack>,
    rules: RuleLookup,
    is_used_up: bool,
    now: Timestamp,
}

impl Known {
    fn held_by(&self, meta: &VQueueMeta) -> Option<HeldBy> {
        let name = &*meta.name;
        if meta.is_paused || self.rules.service_paused_by(&name.service).is_some() {
            return Some(HeldBy::Pause);
        }
        let levels = levels(name);
        for depth in (1..=levels.len()).rev() {
            let key = &levels[..depth];
            if self.rules.paused_by(key).is_some() {
                return Some(HeldBy::Pause);
            }
            match self.lacks.get(&key.join("/")) {
                None => {}
                Some(Lack::Concurrency { pattern, limit }) => {
                    let pattern = pattern.to_string();
                    return Some(HeldBy::Concurrency { pattern, limit: *limit });
                }
                Some(Lack::Rate { pattern }) => {
                    return Some(HeldBy::Rate { pattern: pattern.to_string() });
                }
            }
        }
        if name.object_key.is_some() && meta.running > 0 {
            return Some(HeldBy::Lock);
        }
        self.is_used_up.then_some(HeldBy::Capacity)
    }
}

/// Scope and limit key of a vqueue, if it has them.
fn levels(name: &VQueueName) -> Vec<&str> {
    let all = [&name.scope, &name.l1, &name.l2];
    all.into_iter().map_while(|level| level.as_deref()).collect()
}

fn count(
    partition: &ReplicaRows,
    filter: &EntryFilter,
    known: &Known,
) -> Result<BTreeMap<HeldBy, u64>, NodeError> {
    let mut held: BTreeMap<HeldBy, u64> = BTreeMap::new();
    let mut add = |by: HeldBy, entries: u64| {
        if entries > 0 {
            *held.entry(by).or_default() += entries;
        }
    };
    let mut free: Vec<(VQueueId, u64)> = Vec::new();
    let (selector, mut after) = (selector(filter)?, None);
    loop {
        let page = partition.store.vqueues_after(after, PAGE_LEN)?;
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        for (id, meta) in page.iter().filter(|(_, meta)| selector.matches_name(&meta.name)) {
            add(HeldBy::Pause, meta.paused);
            match known.held_by(meta) {
                Some(by) => add(by, meta.inbox),
                None if meta.inbox > 0 && free.len() < HEADS_MAX => free.push((*id, meta.inbox)),
                None => {}
            }
        }
    }
    let ids: Vec<VQueueId> = free.iter().map(|(id, _)| *id).collect();
    let heads = partition.store.inbox_heads(&ids)?;
    for ((_, entries), head) in free.into_iter().zip(heads) {
        // The inbox is ordered by start time, so the following entries start even later.
        if matches!(head, Head::Row(row) if row.run_at > known.now) {
            add(HeldBy::Time, entries);
        }
    }
    Ok(held)
}

impl Inspect {
    /// Number of waiting entries by the reason why they do not run; each counts for its narrowest
    /// reason. Entries that are about to start are not counted. Reads the rows of all vqueues.
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn holdups(&self, filter: EntryFilter) -> Result<BTreeMap<HeldBy, u64>, NodeError> {
        self.registry.check_up()?;
        let mut held: BTreeMap<HeldBy, u64> = BTreeMap::new();
        for partition in self.registry.partitions() {
            let look = |limiter: &Limiter, now| limiter.lacks(now);
            let lacks = self.registry.look_at_limiter(partition, look).await.unwrap_or_default();
            let entry = self.registry.replica(partition)?.rows;
            let running = self.executor.running();
            let known = Known {
                lacks: lacks.into_iter().collect(),
                rules: self.rules_in_force().await?,
                is_used_up: running >= self.registry.running_max() as usize,
                now: entry.clock.now(),
            };
            let filter = filter.clone();
            let counted = self.registry.blocking(move || count(&entry, &filter, &known)).await??;
            for (by, entries) in counted {
                *held.entry(by).or_default() += entries;
            }
        }
        Ok(held)
    }
}
