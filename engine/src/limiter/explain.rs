//! Why a vqueue waits, and the state of the counters: pure queries.
//!
//! Must always hold: a query changes nothing. It may take time proportional to the limiter's state:
//! for display, not for hot paths.

use forebay_messages::{
    EntryId, PermitId, RuleId, Timestamp, VQueueHandle, VQueueId, VQueueName, actor::LockWish,
    rule::Pattern,
};

use crate::{machine::Map, rules::RuleSlot};

use super::{
    Limiter,
    client::{Client, Waits},
    counter::{Counter, CounterIndex},
    counters::key_of,
    locks::Holder,
};

/// Maximum number of counters returned by [`Limiter::lacks`].
pub const LACKS_MAX: usize = 10_000;

/// The holder of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockHolder {
    /// An entry that kept it from an earlier attempt.
    Entry(EntryId),
    /// The entry that runs (or is about to run) under this permit.
    Permit(PermitId),
}

/// One thing that a vqueue lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockReason {
    /// Its vqueue's lock.
    Lock {
        /// Its holder.
        holder: LockHolder,
    },
    /// Its service, which a rule pauses.
    ServicePaused {
        /// The service.
        service: String,
        /// The rule.
        rule: RuleId,
        /// The rule's pattern.
        pattern: Pattern,
    },
    /// A counter that a rule pauses.
    Paused {
        /// The counter, `scope/l1/l2` as deep as it goes.
        key: String,
        /// The rule.
        rule: RuleId,
        /// The rule's pattern.
        pattern: Pattern,
    },
    /// A permit under a concurrency limit.
    Concurrency {
        /// The counter, `scope/l1/l2` as deep as it goes.
        key: String,
        /// The rule that limits it.
        rule: RuleId,
        /// The rule's pattern.
        pattern: Pattern,
        /// Permits held.
        usage: u32,
        /// Permits allowed.
        limit: u32,
    },
    /// A token of a rate limit.
    Rate {
        /// The counter.
        key: String,
        /// The rule that limits it.
        rule: RuleId,
        /// The rule's pattern.
        pattern: Pattern,
        /// When the next token is available.
        next_token: Timestamp,
    },
    /// A slot of the executors of its service.
    Slot {
        /// The service.
        service: String,
        /// Slots in use in this partition.
        running: u32,
        /// Slots leased to it.
        leased: u32,
    },
    /// A slot of the node's capacity.
    Capacity {
        /// Permits held in this partition.
        running: u32,
        /// Slots that the node leased to it.
        leased: u32,
        /// The node was asked for more and has not answered. If `false`, the node may have some:
        /// only the node knows.
        is_asked: bool,
    },
}

/// One reason, and since when it has applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// What is missing.
    pub reason: BlockReason,
    /// The later of: the vqueue began to wait; this became unavailable.
    pub since: Timestamp,
}

/// The position of a waiting vqueue among all that wait for the same thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rank {
    /// The narrowest counter without room, `scope/l1/l2` as deep as it goes; `None` if only the
    /// node's capacity is missing: then all vqueues of the partition that wait for a counter or
    /// for capacity are compared.
    pub key: Option<String>,
    /// Number of vqueues among them that began to wait earlier. Turns between scopes, and freed
    /// permits of deeper counters, may let a later one start first.
    pub ahead: u32,
    /// Number of vqueues among them, this one included.
    pub waiting: u32,
}

/// Why a vqueue cannot start anything now; no reasons if it can.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// Since when it waits; `None` if it does not (it asks for nothing).
    pub waiting_since: Option<Timestamp>,
    /// How many permits it waits for.
    pub wanted: u32,
    /// All reasons: lock, service, slot, l2, l1, scope, capacity.
    pub reasons: Vec<Blocked>,
    /// Its position, if it waits for a counter or for capacity.
    pub rank: Option<Rank>,
}

/// Why a counter has no room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Permits: a concurrency limit is used up.
    Concurrency {
        /// The pattern of the rule that limits it.
        pattern: Pattern,
        /// Permits allowed.
        limit: u32,
    },
    /// Tokens of a rate limit.
    Rate {
        /// The pattern of the rule that limits it.
        pattern: Pattern,
    },
}

/// One counter, for display.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CounterView {
    /// `scope`, `scope/l1` or `scope/l1/l2`; `service:NAME` for a paused service.
    pub key: String,
    /// Permits held; not counted for a service.
    pub usage: u32,
    /// Permits allowed; `None` is unlimited.
    pub limit: Option<u32>,
    /// Available tokens; `None` without a rate limit.
    pub tokens: Option<u32>,
    /// The rule that governs it and its pattern.
    pub rule: Option<(RuleId, Pattern)>,
    /// The pattern of the rule that pauses it.
    pub paused: Option<Pattern>,
    /// Number of vqueues for which this counter is the narrowest one without room.
    pub waiters: u32,
}

impl Limiter {
    /// Why the vqueue with this handle waits; `None` if it does not.
    #[must_use]
    pub fn explain(&self, handle: VQueueHandle, now: Timestamp) -> Option<Explanation> {
        let client = &self.clients.slab[self.clients.find(handle)?];
        (client.waits != Waits::No).then(|| self.explain_client(client, now))
    }

    /// What blocks a vqueue, whether it waits or not.
    #[must_use]
    pub fn explain_vqueue(
        &self,
        vqueue: VQueueId,
        name: &VQueueName,
        now: Timestamp,
    ) -> Explanation {
        let mut clients = self.clients.slab.iter().map(|(_, client)| client);
        let waits = |client: &&Client| client.vqueue == vqueue && client.waits != Waits::No;
        if let Some(client) = clients.find(waits) {
            return self.explain_client(client, now);
        }
        let wish = if name.has_lock() { LockWish::Take } else { LockWish::None };
        let (home, began) = (self.nearest(name), Timestamp::default());
        let reasons = self.reasons(vqueue, name, wish, home, began, now);
        Explanation { waiting_since: None, wanted: 0, reasons, rank: None }
    }

    /// The counters in use or with waiters, ordered by key. Services have no limits and are left
    /// out unless paused.
    #[must_use]
    pub fn limits(&self, now: Timestamp) -> Vec<CounterView> {
        let mut waiters: Map<CounterIndex, u32> = Map::default();
        for (_, client) in self.clients.slab.iter().filter(|(_, c)| c.waits == Waits::Counter) {
            if let Some(index) = self.full_counter(client, now) {
                *waiters.entry(index).or_default() += 1;
            }
        }
        let all = self.counters.slab.iter();
        let used = all
            .filter(|(_, counter)| counter.depth > 0 && (counter.usage > 0 || counter.waiting > 0));
        let mut views: Vec<_> = used
            .map(|(index, counter)| CounterView {
                key: self.written_key(index),
                usage: counter.usage,
                limit: self.limit_of(counter),
                tokens: counter.bucket.as_ref().map(|bucket| bucket.tokens(now)),
                rule: self.rule_of(counter.rule),
                paused: counter.paused.map(|slot| self.rules.rule(slot).pattern.clone()),
                waiters: waiters.get(&index).copied().unwrap_or(0),
            })
            .collect();
        views.extend(self.paused_services());
        views.sort_by(|a, b| a.key.cmp(&b.key));
        views
    }

    /// Counters in use whose limit leaves no room now, at most [`LACKS_MAX`]: key and reason.
    /// Pauses are left out.
    #[must_use]
    pub fn lacks(&self, now: Timestamp) -> Vec<(String, Lack)> {
        let counters = self.counters.slab.iter().filter(|(_, counter)| counter.depth > 0);
        let lack = counters.filter_map(|(index, counter)| {
            let (_, pattern) = self.rule_of(counter.rule)?;
            let limit = self.limit_of(counter).filter(|limit| counter.usage >= *limit);
            let lack = match limit {
                Some(limit) => Lack::Concurrency { pattern, limit },
                None if counter.tokens(now) == 0 => Lack::Rate { pattern },
                None => return None,
            };
            Some((self.written_key(index), lack))
        });
        lack.take(LACKS_MAX).collect()
    }

    fn explain_client(&self, client: &Client, now: Timestamp) -> Explanation {
        let (since, home) = (client.since, Some(client.home));
        Explanation {
            waiting_since: Some(since),
            wanted: client.count,
            reasons: self.reasons(client.vqueue, &client.name, client.wish, home, since, now),
            rank: (client.waits == Waits::Counter).then(|| self.rank(client, now)),
        }
    }

    fn rank(&self, client: &Client, now: Timestamp) -> Rank {
        let full = self.full_counter(client, now);
        let (mut ahead, mut waiting) = (0, 0);
        for (_, other) in self.clients.slab.iter().filter(|(_, c)| c.waits == Waits::Counter) {
            let is_rival =
                full.is_none_or(|full| self.counters.path(other.home).any(|index| index == full));
            waiting += u32::from(is_rival);
            ahead += u32::from(is_rival && other.ticket < client.ticket);
        }
        Rank { key: full.map(|full| self.written_key(full)), ahead, waiting }
    }

    /// The narrowest counter of a client without room.
    fn full_counter(&self, client: &Client, now: Timestamp) -> Option<CounterIndex> {
        self.counters.path(client.home).find(|index| self.counters.slab[*index].room(now) == 0)
    }

    fn reasons(
        &self,
        vqueue: VQueueId,
        name: &VQueueName,
        wish: LockWish,
        home: Option<CounterIndex>,
        began: Timestamp,
        now: Timestamp,
    ) -> Vec<Blocked> {
        let mut reasons = Vec::new();
        let mut blocked = |reason, since: Timestamp| {
            reasons.push(Blocked { reason, since: since.max(began) });
        };
        if self.locks.blocks(vqueue, wish)
            && let Some(lock) = self.locks.held.get(&vqueue)
        {
            let holder = match lock.holder {
                Holder::Entry(entry) => LockHolder::Entry(entry),
                Holder::Permit { serial, .. } => {
                    LockHolder::Permit(PermitId { incarnation: self.incarnation, serial })
                }
            };
            blocked(BlockReason::Lock { holder }, lock.since);
        }
        if let Some(paused) = self.pauses.get(&name.service) {
            let by = self.rules.rule(paused.rule);
            let (service, pattern) = (name.service.to_string(), by.pattern.clone());
            let reason = BlockReason::ServicePaused { service, rule: by.id, pattern };
            blocked(reason, paused.since);
        }
        if let Some((running, leased, since)) = self.slots.lacking(&name.service) {
            let service = name.service.to_string();
            blocked(BlockReason::Slot { service, running, leased }, since);
        }
        // A level without a counter has no usage, but can be paused.
        let levels = key_of(name);
        let counted = home.map_or(0, |home| usize::from(self.counters.slab[home].depth));
        for key in (counted + 1..=levels.len()).rev().map(|depth| &levels[..depth]) {
            if let Some((rule, pattern)) = self.rule_of(self.rules.paused_by(key)) {
                let reason = BlockReason::Paused { key: key.join("/"), rule, pattern };
                blocked(reason, Timestamp::default());
            }
        }
        for index in home.into_iter().flat_map(|home| self.counters.path(home)) {
            self.counter_reasons(index, now, &mut blocked);
        }
        if self.lease.free() == 0 {
            let (running, leased) = (self.lease.used(), self.lease.leased());
            blocked(
                BlockReason::Capacity { running, leased, is_asked: self.lease.is_asked() },
                self.lease.full_since(),
            );
        }
        reasons
    }

    /// Reports each reason for which a counter blocks, with its start time.
    fn counter_reasons(
        &self,
        index: CounterIndex,
        now: Timestamp,
        blocked: &mut impl FnMut(BlockReason, Timestamp),
    ) {
        let counter = &self.counters.slab[index];
        if let Some((rule, pattern)) = self.rule_of(counter.paused) {
            let reason = BlockReason::Paused { key: self.written_key(index), rule, pattern };
            blocked(reason, counter.full_since);
        }
        let Some((rule, pattern)) = self.rule_of(counter.rule) else { return };
        if let Some(limit) = self.limit_of(counter).filter(|limit| counter.usage >= *limit) {
            let usage = counter.usage;
            let (key, pattern) = (self.written_key(index), pattern.clone());
            let reason = BlockReason::Concurrency { key, rule, pattern, usage, limit };
            blocked(reason, counter.full_since);
        }
        if let Some(bucket) = counter.bucket.as_ref().filter(|bucket| bucket.tokens(now) == 0) {
            let (key, next_token) = (self.written_key(index), bucket.next_token(now));
            let reason = BlockReason::Rate { key, rule, pattern, next_token };
            blocked(reason, bucket.dry_since());
        }
    }

    /// The deepest existing counter of a name: levels below it hold nothing.
    fn nearest(&self, name: &VQueueName) -> Option<CounterIndex> {
        let key = key_of(name);
        if key.is_empty() {
            return self.counters.find_service(&name.service);
        }
        (1..=key.len()).rev().find_map(|depth| self.counters.find(&key[..depth]))
    }

    fn rule_of(&self, slot: Option<RuleSlot>) -> Option<(RuleId, Pattern)> {
        let rule = self.rules.rule(slot?);
        Some((rule.id, rule.pattern.clone()))
    }

    /// The concurrency limit of a counter, whether or not it is paused.
    fn limit_of(&self, counter: &Counter) -> Option<u32> {
        let limits = self.rules.rule(counter.rule?).limits;
        limits.concurrency.map(u32::from)
    }

    fn paused_services(&self) -> impl Iterator<Item = CounterView> {
        self.pauses.services.values().map(|paused| {
            let pattern = self.rules.rule(paused.rule).pattern.clone();
            CounterView {
                key: pattern.to_string(),
                usage: 0,
                limit: None,
                tokens: None,
                rule: None,
                paused: Some(pattern),
                waiters: paused.waiters.len(),
            }
        })
    }

    fn written_key(&self, index: CounterIndex) -> String {
        let depth = usize::from(self.counters.slab[index].depth);
        self.counters.key(index)[..depth].join("/")
    }
}
