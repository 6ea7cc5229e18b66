//! Testing changes of the rule book against running and waiting entries: nothing changes.

use bytestring::ByteString;
use forebay_api::{GovernsView, KeyImpact, RuleRefView, RulesImpact};
use forebay_engine::rules::{
    GoverningRule, Loads, MAX_RULES_PER_BOOK, RuleBook, RuleChange, RuleLookup, check_supported,
};

use crate::{error::NodeError, peers::ReplicaRows};

use super::Inspect;

/// Rows read at a time.
const PAGE_LEN: usize = 512;

fn add_loads(partition: &ReplicaRows, loads: &mut Loads) -> Result<(), NodeError> {
    let mut after = None;
    loop {
        let page = partition.store.vqueues_after(after, PAGE_LEN)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(*last);
        for (_, meta) in page {
            loads.add(&meta.name, meta.running, meta.inbox, meta.is_paused);
        }
    }
}

fn read_loads(partitions: &[ReplicaRows]) -> Result<Loads, NodeError> {
    let mut loads = Loads::default();
    for partition in partitions {
        add_loads(partition, &mut loads)?;
    }
    Ok(loads)
}

impl Inspect {
    /// The effect of `make` on the rules and on running and waiting entries; nothing is changed.
    /// `key`: also report which rules govern it. Reads every vqueue. Cancel-safe.
    ///
    /// # Errors
    /// [`NodeError::Rules`] when the changes would be refused, and when a read fails.
    pub async fn test_rules(
        &self,
        make: impl FnOnce(&RuleBook) -> Vec<RuleChange> + Send,
        key: &[ByteString],
    ) -> Result<RulesImpact, NodeError> {
        let book = self.rules.newest().await?;
        let changes = make(&book);
        check_supported(&changes)?;
        let changed = book.apply(&changes, self.registry.clock().now(), MAX_RULES_PER_BOOK)?.book;
        let lookup = |book: &RuleBook| RuleLookup::from_updates(&book.diff_from_empty());
        let (now, then) = (lookup(&book), lookup(&changed));
        let partitions =
            self.registry.partitions().into_iter().map(|id| Ok(self.registry.replica(id)?.rows));
        let partitions = partitions.collect::<Result<Vec<_>, NodeError>>()?;
        let loads = self.registry.blocking(move || read_loads(&partitions)).await??;
        Ok(RulesImpact { governs: governs(&now, &then, key), ..impact(&loads, &now, &then) })
    }
}

fn impact(loads: &Loads, now: &RuleLookup, then: &RuleLookup) -> RulesImpact {
    let mut impact = RulesImpact::default();
    let shares = loads.under(now).into_iter().zip(loads.under(then));
    for ((key, load), (now, then)) in loads.iter().zip(shares) {
        if load.running == 0 && load.waiting == 0 {
            continue;
        }
        impact.running += load.running;
        impact.waiting += load.waiting;
        impact.start_now += now.start;
        impact.start_then += then.start;
        impact.keys.push(KeyImpact {
            key: key.join("/"),
            running: load.running,
            waiting: load.waiting,
            start_now: now.start,
            start_then: then.start,
            over_then: then.over,
        });
    }
    // Ties keep the order of their keys.
    let effect = |key: &KeyImpact| (key.start_now.abs_diff(key.start_then), key.over_then);
    impact.keys.sort_by_key(|key| std::cmp::Reverse(effect(key)));
    impact
}

fn governs(now: &RuleLookup, then: &RuleLookup, key: &[ByteString]) -> Vec<GovernsView> {
    let levels: Vec<&str> = key.iter().map(|component| &**component).collect();
    let governing = |rules: &RuleLookup, level: &[&str]| rules.governing(level).map(rule_ref);
    let all = (1..=levels.len()).map(|depth| &levels[..depth]);
    all.map(|level| GovernsView {
        key: level.join("/"),
        now: governing(now, level),
        then: governing(then, level),
    })
    .collect()
}

fn rule_ref(rule: &GoverningRule) -> RuleRefView {
    RuleRefView { rule: rule.id.printed(), pattern: rule.pattern.to_string(), limits: rule.limits }
}
