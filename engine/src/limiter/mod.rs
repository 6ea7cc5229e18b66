//! The limiter: decides which vqueue may start an entry, and when.
//!
//! Owns: the counters of every scope, l1 and l2 in use, who waits and in what order,
//! the locks of vqueues, token buckets, this partition's share of the node's
//! capacity, and the permits that are held. Must always hold:
//!
//! 1. No grant exceeds a limit, a token bucket, a lock or the leased capacity.
//! 2. A parent counter counts what its children count; no counter falls below zero.
//! 3. No vqueue waits while everything that it needs is free.
//! 4. A permit is given back once; one of another incarnation, or one that is not
//!    held, is refused and counted.
//! 5. Counters that nobody needs are forgotten.
//!
//! Must not know: entries (a permit is good for whichever entry is the vqueue's
//! head), storage, other partitions, clocks: `now` comes with every step.
//!
//! One step: tokens that came due; the message; then whoever can go on is granted at
//! once, in the order of `order`; then capacity and the timer are settled.

mod acquire;
mod bucket;
mod capacity_pool;
mod check;
mod client;
mod counter;
mod counters;
mod explain;
mod grant;
mod lease;
mod list;
mod locks;
mod order;
mod pauses;
mod release;
mod rules;
mod slab;

use forebay_messages::{
    Generation, PermitId, Timestamp,
    actor::{Granted, LimiterMessage},
};

use crate::{Machine, rules::RuleLookup};

pub use capacity_pool::{CapacityPool, PoolEffect, PoolInput};
pub use explain::{BlockReason, Blocked, CounterView, Explanation, LACKS_MAX, Lack, LockHolder};
pub use lease::CapacityMode;

use client::{Clients, Permits, Ticket};
use counters::Counters;
use lease::{Balance, Lease};
use locks::Locks;
use pauses::Pauses;

/// How a limiter is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimiterConfig {
    /// Whether the node limits how many entries run at once.
    pub capacity: CapacityMode,
    /// How many unused slots of the node's capacity are kept for what comes next while
    /// no other partition wants them; what is above goes back at once.
    pub spare_slots_max: u32,
    /// How many counters that nobody needs are kept in case their key comes again.
    pub idle_counters_max: u32,
    /// How many counters that nobody needs are kept for their bucket's sake: until it is
    /// full, a key that comes again must find the tokens it has left. With more of them,
    /// the one goes whose bucket is the first to be full.
    pub lingering_counters_max: usize,
    /// Seed of the hashes of scopes and limit keys, which clients choose. What a limiter
    /// does, and in which order, does not depend on it.
    pub hash_seed: u64,
}

impl Default for LimiterConfig {
    fn default() -> Self {
        Self {
            capacity: CapacityMode::Unlimited,
            spare_slots_max: 16,
            idle_counters_max: 16_384,
            lingering_counters_max: 131_072,
            hash_seed: 0,
        }
    }
}

/// What a limiter wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimiterEffect {
    /// Tell the vqueue of its permits. At most once: when the vqueue is gone, its death
    /// watch sends `Withdraw`, and the permits come back.
    Granted(Granted),
    /// The answer to `Seed`: a permit for each of `Seed::running`, in that order.
    /// Exactly once, and before anything else is asked of the limiter: whoever seeds
    /// waits for it.
    Seeded {
        /// The permits.
        permits: Vec<PermitId>,
    },
    /// Ask the node for at least so many more slots. In order with `ReturnCapacity`;
    /// stands until `CapacityLeased` answers, and is not repeated before.
    WantCapacity(u32),
    /// Give so many slots back to the node. Exactly once: a lost one is lost until the
    /// node forgets this partition.
    ReturnCapacity(u32),
    /// Send `Tick` at this time or soon after. Replaces a later timer; a tick that
    /// comes too early or too often does no harm.
    SetTimer(Timestamp),
}

/// What happened since the limiter started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimiterStats {
    /// Permits granted.
    pub granted: u64,
    /// Permits given back.
    pub released: u64,
    /// Permits taken back because their vqueue was gone before it handed them over.
    pub withdrawn: u64,
    /// Releases and hand-overs refused because the permit is of another incarnation.
    pub refused_incarnation: u64,
    /// Releases and hand-overs refused because the permit is not held (any more).
    pub refused_unknown: u64,
}

/// The limiter of a partition; see the module.
#[derive(Debug)]
pub struct Limiter {
    incarnation: Generation,
    /// Time of the last step; never goes back.
    now: Timestamp,
    seeded: bool,
    rules: RuleLookup,
    counters: Counters,
    clients: Clients,
    permits: Permits,
    locks: Locks,
    pauses: Pauses,
    lease: Lease,
    /// The timer that is set.
    timer: Option<Timestamp>,
    last_ticket: Ticket,
    stats: LimiterStats,
}

type Effects = Vec<LimiterEffect>;

impl Limiter {
    /// A limiter that waits for its `Seed`. `incarnation` must differ from that of any
    /// limiter whose permits may still come back.
    #[must_use]
    pub fn new(incarnation: Generation, config: LimiterConfig) -> Self {
        Self {
            incarnation,
            now: Timestamp::default(),
            seeded: false,
            rules: RuleLookup::default(),
            counters: Counters::new(config),
            clients: Clients::default(),
            permits: Permits::default(),
            locks: Locks::default(),
            pauses: Pauses::default(),
            lease: Lease::new(config.capacity, config.spare_slots_max),
            timer: None,
            last_ticket: 0,
            stats: LimiterStats::default(),
        }
    }

    /// What happened since the limiter started.
    #[must_use]
    pub fn stats(&self) -> LimiterStats {
        self.stats
    }

    /// The rules in force.
    #[must_use]
    pub fn rules(&self) -> &RuleLookup {
        &self.rules
    }

    /// Whether it was told what is in force; before that it says nothing of use.
    #[must_use]
    pub fn is_seeded(&self) -> bool {
        self.seeded
    }

    /// How many permits are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.permits.slab.len()
    }

    /// How many counters are kept, idle ones included.
    #[must_use]
    pub fn counters_len(&self) -> usize {
        self.counters.slab.len()
    }

    fn receive(&mut self, message: LimiterMessage, effects: &mut Effects) {
        match message {
            LimiterMessage::Seed(seed) => self.seed(*seed, effects),
            LimiterMessage::RulesUpdated(updates) => self.update_rules(&updates),
            LimiterMessage::Acquire(ask) => self.acquire(ask, effects),
            LimiterMessage::Release(releases) => {
                releases.into_iter().for_each(|release| self.release(release, effects));
            }
            LimiterMessage::FreeLock { vqueue, entry } => self.free_lock(vqueue, entry),
            LimiterMessage::Withdraw(handle) => self.withdraw(handle, effects),
            LimiterMessage::HandedOver(permits) => {
                permits.iter().for_each(|one| self.hand_over(one))
            }
            LimiterMessage::CapacityLeased(slots) => self.lease.add(slots),
            LimiterMessage::CapacityRecalled => self.lease.recall(),
            LimiterMessage::CapacityClaimed => {
                let slots = self.lease.claim();
                effects.extend(slots.map(LimiterEffect::ReturnCapacity));
            }
            LimiterMessage::Tick => {}
        }
    }

    fn settle_capacity(&mut self, effects: &mut Effects) {
        let Balance { want, give_back } = self.lease.balance(self.counters.ring.len());
        effects.extend(want.map(LimiterEffect::WantCapacity));
        effects.extend(give_back.map(LimiterEffect::ReturnCapacity));
    }

    fn settle_timer(&mut self, effects: &mut Effects) {
        let Some(&(next, _)) = self.counters.timers.first() else { return };
        if self.timer.is_none_or(|set| next < set) {
            self.timer = Some(next);
            effects.push(LimiterEffect::SetTimer(next));
        }
    }
}

impl Machine for Limiter {
    type Input = LimiterMessage;
    type Effect = LimiterEffect;

    /// Panics when anything is asked before `Seed`, or `Seed` comes twice: limits would
    /// go unenforced.
    fn step(&mut self, now: Timestamp, message: LimiterMessage, effects: &mut Effects) {
        let seeds = matches!(message, LimiterMessage::Seed(_));
        assert_ne!(
            self.seeded, seeds,
            "a limiter is seeded once, before anything else: {message:?}"
        );
        self.now = self.now.max(now);
        if self.timer.is_some_and(|timer| timer <= self.now) {
            self.timer = None;
        }
        self.counters.forget_lingering(self.now);
        if self.counters.fire_timers(&self.clients.slab, self.now) {
            self.grant_ready(None, effects);
        }
        self.receive(message, effects);
        self.grant_ready(None, effects);
        self.settle_capacity(effects);
        self.settle_timer(effects);
    }

    fn check(&self) {
        self.check_invariants();
    }
}
