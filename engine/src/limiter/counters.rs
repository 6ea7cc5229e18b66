//! The tree of counters: scope, then l1, then l2; in addition one counter per service for work
//! without a scope.
//!
//! Owns: finding and creating counters, the usage of each, and dropping unused ones. Must always
//! hold: a parent counts what its children count; a counter's rule is the one that currently
//! governs its key; an unused counter is dropped, except for the last few (their keys tend to
//! return, and creating a counter costs a rule lookup) and a bounded number whose bucket is not
//! full. Must not know: the order of waiters (`order`), locks, capacity.

use std::collections::BTreeSet;

use forebay_messages::{Timestamp, VQueueName, rule::Limits};
use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::rules::RuleLookup;

use super::{
    LimiterConfig,
    counter::{Counter, CounterIndex, Governing, Home, InList, UNLIMITED},
    list::List,
    slab::Slab,
};

/// Maximum number of lingering counters examined per step.
const LINGERING_PER_STEP_MAX: usize = 64;

#[derive(Debug)]
pub(super) struct Counters {
    pub(super) slab: Slab<Counter>,
    table: HashTable<CounterIndex>,
    /// Groups (scopes and services) with room and waiters: they want capacity.
    pub(super) ring: List<Counter>,
    /// Counters that wait for a token, by the time it is available.
    pub(super) timers: BTreeSet<(Timestamp, CounterIndex)>,
    idle: List<Counter>,
    idle_max: u32,
    /// Lingering counters, by the time their bucket is full.
    lingering: BTreeSet<(Timestamp, CounterIndex)>,
    lingering_max: usize,
    /// Clients choose the labels, and must not know which labels share a hash.
    hash_seed: u64,
    last_stamp: u64,
}

impl Counters {
    pub(super) fn new(config: LimiterConfig) -> Self {
        Self {
            slab: Slab::default(),
            table: HashTable::new(),
            ring: List::default(),
            timers: BTreeSet::new(),
            idle: List::default(),
            idle_max: config.idle_counters_max,
            lingering: BTreeSet::new(),
            lingering_max: config.lingering_counters_max,
            hash_seed: config.hash_seed,
            last_stamp: 0,
        }
    }

    /// A counter and its ancestors, deepest first.
    pub(super) fn path(&self, from: CounterIndex) -> impl Iterator<Item = CounterIndex> + '_ {
        std::iter::successors(Some(from), |index| self.slab[*index].parent)
    }

    /// The scope or service above a counter.
    pub(super) fn group(&self, from: CounterIndex) -> CounterIndex {
        self.path(from).last().expect("a path has at least its first counter")
    }

    /// The deepest counter of a name, created if missing. `last`: its last known place.
    pub(super) fn home(
        &mut self,
        name: &VQueueName,
        last: Option<Home>,
        rules: &RuleLookup,
        now: Timestamp,
    ) -> Home {
        let is_there = |home: &Home| {
            self.slab.get(home.index).is_some_and(|counter| counter.stamp == home.stamp)
        };
        if let Some(home) = last.filter(is_there) {
            debug_assert_eq!(
                Some(home.index),
                self.find_home(name),
                "{name:?} has another counter"
            );
            return home;
        }
        let index = self.home_by_name(name, rules, now);
        Home { index, stamp: self.slab[index].stamp }
    }

    fn home_by_name(
        &mut self,
        name: &VQueueName,
        rules: &RuleLookup,
        now: Timestamp,
    ) -> CounterIndex {
        let Some(scope) = &name.scope else {
            return self.child(None, 0, &[&name.service], rules, now);
        };
        let home = self.child(None, 1, &[scope], rules, now);
        let Some(l1) = &name.l1 else { return home };
        let home = self.child(Some(home), 2, &[scope, l1], rules, now);
        let Some(l2) = &name.l2 else { return home };
        self.child(Some(home), 3, &[scope, l1, l2], rules, now)
    }

    /// The counter of a key of one to three components, if it exists.
    pub(super) fn find(&self, key: &[&str]) -> Option<CounterIndex> {
        let mut found = None;
        for (depth, label) in (1..).zip(key) {
            found = Some(self.lookup(found, depth, label, self.hash(found, depth, label))?);
        }
        found
    }

    /// The counter of a service, if it exists.
    pub(super) fn find_service(&self, service: &str) -> Option<CounterIndex> {
        self.lookup(None, 0, service, self.hash(None, 0, service))
    }

    /// The deepest counter of a name, if it exists.
    fn find_home(&self, name: &VQueueName) -> Option<CounterIndex> {
        match &key_of(name)[..] {
            [] => self.find_service(&name.service),
            key => self.find(key),
        }
    }

    /// The labels of a counter's key. The first `depth` of them are its key.
    pub(super) fn key(&self, index: CounterIndex) -> [&str; 3] {
        let mut key = [""; 3];
        for index in self.path(index) {
            let counter = &self.slab[index];
            key[usize::from(counter.depth.max(1)) - 1] = &counter.label;
        }
        key
    }

    /// Adds a user to a counter.
    pub(super) fn hold(&mut self, index: CounterIndex) {
        self.slab[index].users += 1;
        self.wake(index);
    }

    /// Removes a user from a counter.
    pub(super) fn release_hold(&mut self, index: CounterIndex, now: Timestamp) {
        let users = &mut self.slab[index].users;
        *users = users.checked_sub(1).expect("a counter's users fell below zero");
        self.retire(index, now);
    }

    /// How many more permits all counters from `home` up allow.
    pub(super) fn room(&self, home: CounterIndex, now: Timestamp) -> u32 {
        self.path(home).map(|index| self.slab[index].room(now)).min().unwrap_or(UNLIMITED)
    }

    /// Takes permits (and their tokens) at all counters from `home` up.
    pub(super) fn take(&mut self, home: CounterIndex, count: u32, now: Timestamp) {
        let mut at = Some(home);
        while let Some(index) = at {
            let counter = &mut self.slab[index];
            counter.take(count, now);
            if let Some(bucket) = &mut counter.bucket {
                bucket.take(count, now);
            }
            at = counter.parent;
        }
    }

    /// Counts permits that already exist, without tokens and whatever the limits.
    pub(super) fn take_over(&mut self, home: CounterIndex, now: Timestamp) {
        let mut at = Some(home);
        while let Some(index) = at {
            self.slab[index].take(1, now);
            at = self.slab[index].parent;
        }
    }

    /// Gives one permit back at all counters from `home` up, with its token if it was never used.
    /// Returns the deepest counter that was full, has room now, and has waiters.
    pub(super) fn put(
        &mut self,
        home: CounterIndex,
        unused: bool,
        now: Timestamp,
    ) -> Option<CounterIndex> {
        let (mut at, mut freed) = (Some(home), None);
        while let Some(index) = at {
            let counter = &mut self.slab[index];
            let was_full = counter.is_full();
            counter.usage = counter.usage.checked_sub(1).expect("a counter fell below zero");
            if let Some(bucket) = counter.bucket.as_mut().filter(|_| unused) {
                bucket.put(1, now);
            }
            if was_full && !counter.is_full() && counter.waiting > 0 {
                freed = freed.or(Some(index));
            }
            at = counter.parent;
        }
        freed
    }

    /// Applies the current rules to a counter. A service's counter has none: services are paused in
    /// `pauses`.
    pub(super) fn govern(&mut self, index: CounterIndex, rules: &RuleLookup, now: Timestamp) {
        let depth = usize::from(self.slab[index].depth);
        let key = self.key(index);
        let (rule, paused) = (rules.resolve(&key[..depth]), rules.paused_by(&key[..depth]));
        let limits = rule.map_or_else(Limits::default, |slot| rules.rule(slot).limits);
        let counter = &mut self.slab[index];
        let timer = counter.bucket.as_ref().and_then(|bucket| bucket.timer);
        counter.govern(Governing { rule, limits, paused }, now);
        if let (Some(timer), None) = (timer, &counter.bucket) {
            self.timers.remove(&(timer, index));
        }
    }

    /// Forgets lingering counters whose bucket is full by now.
    pub(super) fn forget_lingering(&mut self, now: Timestamp) {
        for _ in 0..LINGERING_PER_STEP_MAX {
            match self.lingering.first() {
                Some(&(time, index)) if time <= now => {
                    self.lingering.pop_first();
                    self.slab[index].in_list = InList::None;
                    self.forget(index, now);
                }
                _ => break,
            }
        }
        self.trim(now);
    }

    /// Whether a counter is kept only because its bucket is not full.
    pub(super) fn lingers(&self, index: CounterIndex) -> bool {
        matches!(self.slab[index].in_list, InList::Lingering(_))
    }

    /// The rate of a lingering counter changed: it may have to be forgotten earlier or later.
    pub(super) fn reconsider(&mut self, index: CounterIndex, now: Timestamp) {
        if let InList::Lingering(time) = self.slab[index].in_list {
            self.lingering.remove(&(time, index));
            self.slab[index].in_list = InList::None;
            self.forget(index, now);
            self.trim(now);
        }
    }

    pub(super) fn idle_len(&self) -> u32 {
        self.idle.len()
    }

    pub(super) fn idle_max(&self) -> u32 {
        self.idle_max
    }

    fn hash(&self, parent: Option<CounterIndex>, depth: u8, label: &str) -> u64 {
        // Its place in the tree, as a number.
        let place = parent.map_or(0, |parent| self.slab[parent].hash).rotate_left(8);
        xxh3_64_with_seed(label.as_bytes(), self.hash_seed ^ place ^ u64::from(depth))
    }

    fn lookup(
        &self,
        parent: Option<CounterIndex>,
        depth: u8,
        label: &str,
        hash: u64,
    ) -> Option<CounterIndex> {
        let same = |index: &CounterIndex| {
            let counter = &self.slab[*index];
            counter.parent == parent && counter.depth == depth && *counter.label == *label
        };
        self.table.find(hash, same).copied()
    }

    /// The counter of the last label of `key` below `parent`, created if missing.
    fn child(
        &mut self,
        parent: Option<CounterIndex>,
        depth: u8,
        key: &[&str],
        rules: &RuleLookup,
        now: Timestamp,
    ) -> CounterIndex {
        let label = key[key.len() - 1];
        let hash = self.hash(parent, depth, label);
        if let Some(found) = self.lookup(parent, depth, label, hash) {
            return found;
        }
        self.last_stamp += 1;
        let index = self.slab.insert(Counter::new(self.last_stamp, label, parent, (depth, hash)));
        let slab = &self.slab;
        self.table.insert_unique(hash, index, |index| slab[*index].hash);
        if let Some(parent) = parent {
            self.slab[parent].children += 1;
            self.wake(parent);
        }
        if depth > 0 {
            self.govern(index, rules, now);
        }
        index
    }

    /// A counter is used again.
    fn wake(&mut self, index: CounterIndex) {
        match self.slab[index].in_list {
            InList::None | InList::Ring => return,
            InList::Idle => self.idle.remove(&mut self.slab, index),
            InList::Lingering(time) => {
                self.lingering.remove(&(time, index));
            }
        }
        self.slab[index].in_list = InList::None;
    }

    /// A counter may have become unused: keeps it for a while, and drops the one that was kept
    /// longest.
    fn retire(&mut self, index: CounterIndex, now: Timestamp) {
        if !self.slab[index].is_unused() {
            return;
        }
        assert_eq!(
            self.slab[index].in_list,
            InList::None,
            "an unused counter is in a list already"
        );
        self.slab[index].in_list = InList::Idle;
        self.idle.push_back(&mut self.slab, index);
        self.trim(now);
    }

    fn trim(&mut self, now: Timestamp) {
        while self.idle.len() > self.idle_max {
            let oldest = self.idle.front().expect("the list is longer than its limit");
            self.idle.remove(&mut self.slab, oldest);
            self.slab[oldest].in_list = InList::None;
            self.forget(oldest, now);
        }
    }

    /// Drops a counter that is in no list. Its parent may follow.
    fn forget(&mut self, index: CounterIndex, now: Timestamp) {
        let counter = &mut self.slab[index];
        assert!(
            counter.is_unused() && counter.usage == 0 && counter.waiting == 0,
            "counter `{}` would be forgotten while it is used",
            counter.label
        );
        let full_at = counter.bucket.as_ref().map_or(now, |bucket| bucket.full_at(now));
        if full_at > now {
            counter.in_list = InList::Lingering(full_at);
            self.lingering.insert((full_at, index));
            if self.lingering.len() > self.lingering_max
                && let Some((_, fullest)) = self.lingering.pop_first()
            {
                // If its key returns soon, its bucket is full too early. That error is smallest for
                // the fullest bucket.
                self.remove(fullest);
            }
            return;
        }
        self.remove(index);
    }

    /// Removes an unused counter. Its parent may follow.
    fn remove(&mut self, index: CounterIndex) {
        let counter = self.slab.remove(index);
        let entry = self.table.find_entry(counter.hash, |at| *at == index);
        entry.expect("every counter is in the table").remove();
        if let Some(parent) = counter.parent {
            self.slab[parent].children -= 1;
            if self.slab[parent].is_unused() {
                self.slab[parent].in_list = InList::Idle;
                self.idle.push_back(&mut self.slab, parent);
            }
        }
    }
}

/// The key of a name's deepest counter, scope first; empty without a scope.
pub(super) fn key_of(name: &VQueueName) -> Vec<&str> {
    [&name.scope, &name.l1, &name.l2].into_iter().map_while(|label| label.as_deref()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: the hash was the same in every process, so a client could choose scopes that all
    /// share one place in the table, and each lookup visited all of them.
    #[test]
    fn the_hash_of_a_label_depends_on_the_seed() {
        let of = |hash_seed| {
            Counters::new(LimiterConfig { hash_seed, ..LimiterConfig::default() })
                .hash(None, 1, "tenant")
        };
        assert_ne!(of(1), of(2));
        assert_eq!(of(1), of(1));
    }
}
