//! The effect a rule change would have on running and waiting entries, without changing anything.
//!
//! Must always hold: the number that could start is the maximum that the concurrency limits allow,
//! distributed one by one among the keys. Must not know: tokens of rate limits, a node's capacity,
//! whether an entry is due. The result covers concurrency limits only.

use std::collections::BTreeMap;

use bytestring::ByteString;
use forebay_messages::VQueueName;

use super::RuleLookup;

/// Components of a key: the scope, then l1 and l2 if present.
pub type KeyPath = Vec<ByteString>;

/// Running and waiting entries of one key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Running entries.
    pub running: u64,
    /// Entries in inboxes.
    pub waiting: u64,
    /// Waiting entries that locks and pauses allow to start.
    pub free: u64,
}

/// The entries of a partition or a node by key. Work without a scope is left out: limits do not
/// apply to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loads(BTreeMap<KeyPath, Load>);

/// What would happen to the entries of one key under some rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Waiting entries that could start at once.
    pub start: u64,
    /// Running entries above a limit at one of its levels: they continue, and nothing starts until
    /// enough have ended.
    pub over: u64,
}

impl Loads {
    /// Adds a vqueue with its running and waiting entries.
    pub fn add(&mut self, name: &VQueueName, running: u64, waiting: u64, is_paused: bool) {
        let levels = [&name.scope, &name.l1, &name.l2];
        let key: KeyPath = levels.into_iter().map_while(Clone::clone).collect();
        if key.is_empty() {
            return;
        }
        let free = match (is_paused, name.has_lock()) {
            (true, _) => 0,
            (false, false) => waiting,
            // A lock: one at a time.
            (false, true) => waiting.min(1_u64.saturating_sub(running)),
        };
        let load = self.0.entry(key).or_default();
        load.running += running;
        load.waiting += waiting;
        load.free += free;
    }

    /// The keys and their load, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&KeyPath, Load)> {
        self.0.iter().map(|(key, load)| (key, *load))
    }

    /// The outcome for each key under these rules, in the order of [`Loads::iter`].
    #[must_use]
    pub fn under(&self, rules: &RuleLookup) -> Vec<Share> {
        let mut counters = Counters::new(self, rules);
        let mut shares: Vec<Share> =
            self.0.keys().map(|key| Share { start: 0, over: counters.over(key) }).collect();
        let mut left: Vec<_> =
            self.0.iter().map(|(key, load)| (key, load.free)).enumerate().collect();
        while !left.is_empty() {
            left.retain_mut(|(index, (key, free))| {
                let taken = counters.take(key, *free);
                shares[*index].start += taken;
                *free -= taken;
                taken > 0 && *free > 0
            });
        }
        shares
    }
}

/// Usage and limit of every level that has a limit.
struct Counters<'a>(BTreeMap<&'a [ByteString], (u64, u64)>);

impl<'a> Counters<'a> {
    fn new(loads: &'a Loads, rules: &RuleLookup) -> Self {
        let mut counters = BTreeMap::new();
        for (key, load) in &loads.0 {
            for depth in 1..=key.len() {
                let level = &key[..depth];
                let limit = || {
                    let level: Vec<&str> = level.iter().map(|component| &**component).collect();
                    if rules.paused_by(&level).is_some() {
                        return (0, 0);
                    }
                    let limit = rules.governing(&level).and_then(|rule| rule.limits.concurrency);
                    (0, limit.map_or(u64::MAX, |limit| u64::from(limit.get())))
                };
                counters.entry(level).or_insert_with(limit).0 += load.running;
            }
        }
        counters.retain(|_, (_, limit)| *limit != u64::MAX);
        Self(counters)
    }

    fn limited(&self, key: &'a [ByteString]) -> impl Iterator<Item = (u64, u64)> {
        (1..=key.len()).filter_map(|depth| self.0.get(&key[..depth]).copied())
    }

    fn over(&self, key: &'a [ByteString]) -> u64 {
        self.limited(key).map(|(usage, limit)| usage.saturating_sub(limit)).max().unwrap_or(0)
    }

    /// Takes one slot at every level, or all `wanted` ones if nothing limits the key.
    fn take(&mut self, key: &'a [ByteString], wanted: u64) -> u64 {
        let Some(room) = self.limited(key).map(|(usage, limit)| limit.saturating_sub(usage)).min()
        else {
            return wanted;
        };
        let taken = room.min(wanted).min(1);
        for depth in 1..=key.len() {
            if let Some((usage, _)) = self.0.get_mut(&key[..depth]) {
                *usage += taken;
            }
        }
        taken
    }
}
