//! One counter: usage at one level of one key, and the clients that wait below it.
//!
//! Must always hold: its usage is the number of permits at and below it; it is among its parent's
//! ready children (a scope or service: in the ring) exactly while it has room and a client waits at
//! it or behind a ready child.

use std::collections::BTreeSet;

use forebay_messages::{Timestamp, rule::Limits};

use crate::rules::RuleSlot;

use super::{
    bucket::Bucket,
    client::{Client, Ticket},
    list::{Linked, Links, List},
    slab::Index,
};

pub(super) type CounterIndex = Index<Counter>;

/// A reference to a counter found earlier: that counter may have been dropped, and its index
/// reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Home {
    pub(super) index: CounterIndex,
    /// Stamp of the counter, from 1: never reused.
    pub(super) stamp: u64,
}

/// The rules that apply to one counter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Governing {
    pub(super) rule: Option<RuleSlot>,
    /// Limits of that rule.
    pub(super) limits: Limits,
    /// The rule that pauses it.
    pub(super) paused: Option<RuleSlot>,
}

/// `limit` of a counter without a limit.
pub(super) const UNLIMITED: u32 = u32::MAX;

/// Which list a counter is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InList {
    /// None.
    None,
    /// The ring of groups that want capacity.
    Ring,
    /// Unused, but kept for a while because its key may come back.
    Idle,
    /// Unused, but its bucket is not full before this time: forgetting it earlier would create
    /// tokens.
    Lingering(Timestamp),
}

#[derive(Debug)]
pub(super) struct Counter {
    /// Distinguishes it from other counters at its index.
    pub(super) stamp: u64,
    /// Its own component of the key.
    pub(super) label: Box<str>,
    pub(super) parent: Option<CounterIndex>,
    /// 1 scope, 2 l1, 3 l2; 0 a service, for work without a scope.
    pub(super) depth: u8,
    /// Hash of parent and label, for the table.
    pub(super) hash: u64,
    /// Number of direct children.
    pub(super) children: u32,
    /// Clients and permits at this counter itself.
    pub(super) users: u32,
    /// Permits held here and below.
    pub(super) usage: u32,
    /// Clients that wait for counters or capacity, here and below.
    pub(super) waiting: u32,
    /// The rule that governs it.
    pub(super) rule: Option<RuleSlot>,
    /// The rule that pauses it; may differ from the one that governs it.
    pub(super) paused: Option<RuleSlot>,
    /// Limit of the rule; `UNLIMITED` without one. 0 while paused, so that it is full.
    pub(super) limit: u32,
    /// Weight of the rule: a group's share of the capacity.
    pub(super) weight: u32,
    /// Since when usage has been at the limit (meaningful only while it is).
    pub(super) full_since: Timestamp,
    pub(super) bucket: Option<Box<Bucket>>,
    /// Waiting clients of this counter, oldest first.
    pub(super) waiters: List<Client>,
    /// Children with room and waiters, by their oldest waiter.
    pub(super) ready: BTreeSet<(Ticket, CounterIndex)>,
    /// The ticket under which this counter is ready; `None` if it is not.
    pub(super) ready_at: Option<Ticket>,
    /// Permits the group may still take in its turn (groups only).
    pub(super) deficit: u32,
    /// How many times in a row a younger waiter overtook the oldest one of the group.
    pub(super) overtakes: u32,
    pub(super) in_list: InList,
    pub(super) links: Links<Self>,
}

impl Linked for Counter {
    fn links(&self) -> &Links<Self> {
        &self.links
    }

    fn links_mut(&mut self) -> &mut Links<Self> {
        &mut self.links
    }
}

impl Counter {
    pub(super) fn new(
        stamp: u64,
        label: &str,
        parent: Option<CounterIndex>,
        (depth, hash): (u8, u64),
    ) -> Self {
        Self {
            stamp,
            label: Box::from(label),
            parent,
            depth,
            hash,
            children: 0,
            users: 0,
            usage: 0,
            waiting: 0,
            rule: None,
            paused: None,
            limit: UNLIMITED,
            weight: 1,
            full_since: Timestamp::default(),
            bucket: None,
            waiters: List::default(),
            ready: BTreeSet::new(),
            ready_at: None,
            deficit: 0,
            overtakes: 0,
            in_list: InList::None,
            links: Links::default(),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.usage >= self.limit
    }

    pub(super) fn tokens(&self, now: Timestamp) -> u32 {
        self.bucket.as_ref().map_or(UNLIMITED, |bucket| bucket.tokens(now))
    }

    /// How many more permits this counter allows.
    pub(super) fn room(&self, now: Timestamp) -> u32 {
        self.limit.saturating_sub(self.usage).min(self.tokens(now))
    }

    /// Whether nothing needs it any more.
    pub(super) fn is_unused(&self) -> bool {
        self.users == 0 && self.children == 0
    }

    /// Applies the rules. Running entries continue: a lower limit drains.
    pub(super) fn govern(&mut self, rules: Governing, now: Timestamp) {
        let Governing { rule, limits, paused } = rules;
        // Also if it was full before, because the reason changes.
        let was_full = self.is_full() && self.paused.is_some() >= paused.is_some();
        (self.rule, self.paused) = (rule, paused);
        let limit = limits.concurrency.map_or(UNLIMITED, u32::from);
        self.limit = if paused.is_some() { 0 } else { limit };
        self.weight = limits.weight.map_or(1, u32::from);
        if self.is_full() && !was_full {
            self.full_since = now;
        }
        match (&mut self.bucket, limits.rate) {
            (Some(bucket), Some(rate)) if bucket.has_rate(rate) => {}
            (Some(bucket), Some(rate)) => bucket.set_rate(rate, now),
            (bucket, Some(rate)) => *bucket = Some(Box::new(Bucket::new(rate, now))),
            (bucket, None) => *bucket = None,
        }
    }

    pub(super) fn take(&mut self, count: u32, now: Timestamp) {
        let was_full = self.is_full();
        self.usage = self.usage.checked_add(count).expect("more permits than a u32 counts");
        if self.is_full() && !was_full {
            self.full_since = now;
        }
    }
}
