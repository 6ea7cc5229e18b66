//! Finds the rule that governs a key by hash, never by a scan.
//!
//! Owns: one table per depth, keyed by rank and the exact components of the pattern.
//! A lookup probes the ranks of its depth from the most specific one down: at most 2,
//! 4 or 8 probes, fewer where a rank has no rules. Must always hold: a slot means the
//! same rule until that rule is removed; the generation changes with every update.
//! Must not know: counters, usage, time.

use std::hash::Hasher;

use bytestring::ByteString;
use forebay_messages::{
    RuleId,
    rule::{Component, Limits, Pattern, RuleUpdate},
};
use hashbrown::HashTable;
use rustc_hash::FxHasher;

use crate::machine::Map;

/// Maximum number of components of a key.
const DEPTH_MAX: usize = 3;
/// Maximum number of ranks of a depth.
const RANKS_MAX: usize = 1 << DEPTH_MAX;

/// Index of a rule: stable while the rule exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RuleSlot(u32);

/// A rule in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoverningRule {
    /// Its id.
    pub id: RuleId,
    /// The keys it governs.
    pub pattern: Pattern,
    /// The limits it sets.
    pub limits: Limits,
    /// It exists only for a pause and governs nothing.
    pub only_pauses: bool,
}

/// Result of a "what if" query: the rule that governs a key now, and the one that would.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WhatIf {
    /// The rule in force.
    pub now: Option<GoverningRule>,
    /// The rule that would be.
    pub then: Option<GoverningRule>,
}

/// The active rules, ready for lookups.
#[derive(Clone, Debug, Default)]
pub struct RuleLookup {
    rules: Vec<Option<GoverningRule>>,
    free: Vec<RuleSlot>,
    tables: [Table; DEPTH_MAX],
    /// Rules for services.
    services: Map<ByteString, RuleSlot>,
    /// Number of rules that pause, except those for services.
    pausing: usize,
    generation: u64,
}

/// The rules of one depth.
#[derive(Clone, Debug, Default)]
struct Table {
    slots: HashTable<RuleSlot>,
    /// Number of rules of each rank; ranks without rules are not probed.
    by_rank: [u32; RANKS_MAX],
}

impl RuleLookup {
    /// A lookup of these rules.
    #[must_use]
    pub fn from_updates(updates: &[RuleUpdate]) -> Self {
        let mut lookup = Self::default();
        for update in updates {
            lookup.apply(update);
        }
        lookup
    }

    /// Applies one change. Removing a pattern without a rule changes nothing.
    pub fn apply(&mut self, update: &RuleUpdate) {
        self.generation += 1;
        match update {
            RuleUpdate::Upsert { pattern, limits } => self.upsert(pattern, *limits, false),
            RuleUpdate::Pause { pattern } => {
                self.upsert(pattern, Limits::default().paused(), true);
            }
            RuleUpdate::Remove { pattern } => self.remove(pattern),
        }
    }

    /// The most specific rule that pauses a key. The rule that governs the key may be another one:
    /// a pause of `*` stops scopes that have rules of their own.
    #[must_use]
    pub fn paused_by(&self, key: &[&str]) -> Option<RuleSlot> {
        if self.pausing == 0 {
            return None;
        }
        self.find(key, |rule| rule.limits.paused)
    }

    /// The rule that pauses a service: of its own name, or of a service it is below (`a.b` is below
    /// `a`). The nearest one counts.
    #[must_use]
    pub fn service_paused_by(&self, service: &str) -> Option<RuleSlot> {
        if self.services.is_empty() {
            return None;
        }
        service_and_above(service).find_map(|name| self.pause_of(name))
    }

    /// The rule of exactly this name, if it pauses.
    #[must_use]
    pub fn pause_of(&self, service: &str) -> Option<RuleSlot> {
        let slot = self.services.get(service).copied()?;
        self.rule(slot).limits.paused.then_some(slot)
    }

    /// Changes with every update: results of another generation must be looked up again.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether any rule limits a backlog. Examines all of them.
    #[must_use]
    pub fn limits_backlog(&self) -> bool {
        self.rules.iter().flatten().any(|rule| rule.limits.backlog.is_some())
    }

    /// Number of active rules.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len() - self.free.len()
    }

    /// Whether no rule is active.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The slot of the most specific rule that governs a key of one to three components
    /// (scope, l1, l2).
    #[must_use]
    pub fn resolve(&self, key: &[&str]) -> Option<RuleSlot> {
        self.find(key, |rule| !rule.only_pauses)
    }

    /// The slot of the most specific rule for a key that `wanted` accepts.
    fn find(&self, key: &[&str], accepts: impl Fn(&GoverningRule) -> bool) -> Option<RuleSlot> {
        let depth = key.len();
        let table = self.tables.get(depth.checked_sub(1)?)?;
        let mut hashes = [0; DEPTH_MAX];
        for (hash, component) in hashes.iter_mut().zip(key) {
            *hash = component_hash(component);
        }
        (0..1_u8 << depth).rev().filter(|rank| table.by_rank[usize::from(*rank)] > 0).find_map(
            |rank| {
                let exact = (0..depth).filter(|at| is_exact(rank, depth, *at));
                let hash = combined_hash(rank, exact.map(|at| hashes[at]));
                let found = table.slots.find(hash, |slot| {
                    let rule = self.rule(*slot);
                    rule.pattern.rank() == rank && rule.pattern.matches(key)
                });
                found.copied().filter(|slot| accepts(self.rule(*slot)))
            },
        )
    }

    /// The rule in a slot. Panics if the rule has since been removed.
    #[must_use]
    pub fn rule(&self, slot: RuleSlot) -> &GoverningRule {
        let rule = self.rules.get(slot.0 as usize).and_then(Option::as_ref);
        rule.expect("a rule slot outlived its rule")
    }

    /// The rule that governs a key.
    #[must_use]
    pub fn governing(&self, key: &[&str]) -> Option<&GoverningRule> {
        self.resolve(key).map(|slot| self.rule(slot))
    }

    /// The rule that governs `key`, and the one that would after these updates. Copies the rules:
    /// for display, not for hot paths.
    #[must_use]
    pub fn what_if(&self, updates: &[RuleUpdate], key: &[&str]) -> WhatIf {
        let mut then = self.clone();
        for update in updates {
            then.apply(update);
        }
        WhatIf { now: self.governing(key).cloned(), then: then.governing(key).cloned() }
    }

    fn upsert(&mut self, pattern: &Pattern, limits: Limits, only_pauses: bool) {
        let is_service = pattern.service().is_some();
        if let Some(slot) = self.slot_of(pattern) {
            let rule = self.rules[slot.0 as usize].as_mut();
            let rule = rule.expect("a table holds only rules that exist");
            let paused = rule.limits.paused;
            (rule.limits, rule.only_pauses) = (limits, only_pauses);
            self.count_pause(is_service, paused, limits.paused);
            return;
        }
        let (id, pattern) = (pattern.rule_id(), pattern.clone());
        let rule = GoverningRule { id, pattern: pattern.clone(), limits, only_pauses };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.rules.push(None);
            RuleSlot(u32::try_from(self.rules.len() - 1).expect("a book has few rules"))
        });
        self.rules[slot.0 as usize] = Some(rule);
        self.count_pause(is_service, false, limits.paused);
        if let Some(service) = pattern.service() {
            self.services.insert(service.clone(), slot);
            return;
        }
        let rules = &self.rules;
        let rehash = |slot: &RuleSlot| {
            let rule = rules[slot.0 as usize].as_ref();
            pattern_hash(&rule.expect("a table holds only rules that exist").pattern)
        };
        let table = &mut self.tables[pattern.depth() - 1];
        table.slots.insert_unique(pattern_hash(&pattern), slot, rehash);
        table.by_rank[usize::from(pattern.rank())] += 1;
    }

    fn count_pause(&mut self, is_service: bool, before: bool, after: bool) {
        if !is_service {
            self.pausing = self.pausing - usize::from(before) + usize::from(after);
        }
    }

    fn remove(&mut self, pattern: &Pattern) {
        let Some(slot) = self.slot_of(pattern) else { return };
        self.count_pause(pattern.service().is_some(), self.rule(slot).limits.paused, false);
        if let Some(service) = pattern.service() {
            self.services.remove(service);
        } else {
            let table = &mut self.tables[pattern.depth() - 1];
            let entry = table.slots.find_entry(pattern_hash(pattern), |at| *at == slot);
            entry.expect("the slot was found just now").remove();
            table.by_rank[usize::from(pattern.rank())] -= 1;
        }
        self.rules[slot.0 as usize] = None;
        self.free.push(slot);
    }

    fn slot_of(&self, pattern: &Pattern) -> Option<RuleSlot> {
        if let Some(service) = pattern.service() {
            return self.services.get(service).copied();
        }
        let table = &self.tables[pattern.depth() - 1];
        let found = |slot: &RuleSlot| self.rule(*slot).pattern == *pattern;
        table.slots.find(pattern_hash(pattern), found).copied()
    }
}

/// A service and those above it: `a.b.c`, `a.b`, `a`.
pub(crate) fn service_and_above(service: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(service), |name| name.rsplit_once('.').map(|(above, _)| above))
}

/// Whether a pattern of this depth and rank has an exact component at `at`.
fn is_exact(rank: u8, depth: usize, at: usize) -> bool {
    rank >> (depth - 1 - at) & 1 == 1
}

fn component_hash(component: &str) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(component.as_bytes());
    hasher.finish()
}

fn combined_hash(rank: u8, exact: impl Iterator<Item = u64>) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write_u8(rank);
    for hash in exact {
        hasher.write_u64(hash);
    }
    hasher.finish()
}

fn pattern_hash(pattern: &Pattern) -> u64 {
    let exact = pattern.components().iter().filter_map(|component| match component {
        Component::Any => None,
        Component::Exact(value) => Some(component_hash(value)),
    });
    combined_hash(pattern.rank(), exact)
}
