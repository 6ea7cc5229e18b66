//! The limiter: decides which vqueue may start an entry, and when.
//!
//! Owns: the counters of every scope, l1 and l2 in use, the waiting clients and their order, the
//! locks of vqueues, token buckets, this partition's share of the node's capacity and of the slots
//! of executors, and the held permits. Must always hold:
//!
//! 1. No grant exceeds a limit, a token bucket, a lock, or the leased capacity or slots.
//! 2. A parent counter counts what its children count; no counter falls below zero.
//! 3. No vqueue waits while everything it needs is free.
//! 4. A permit is returned once; one of another incarnation, or one that is not held, is rejected
//!    and counted.
//! 5. Unused counters are dropped.
//!
//! Must not know: entries (a permit is valid for whichever entry is the vqueue's head), storage,
//! other partitions, clocks: `now` comes with every step.
//!
//! One step: due tokens; the message; then every client that can proceed is granted permits, in the
//! order of `order`; then capacity and the timer are updated.

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
mod slots;

use bytestring::ByteString;
use forebay_messages::{
    Generation, PermitId, Timestamp,
    actor::{Granted, LimiterMessage},
};

use crate::{Machine, rules::RuleLookup};

pub use capacity_pool::{CapacityPool, PoolEffect, PoolInput};
pub use explain::{
    BlockReason, Blocked, CounterView, Explanation, LACKS_MAX, Lack, LockHolder, Rank,
};
pub use lease::CapacityMode;

use client::{Clients, Permits, Ticket};
use counters::Counters;
use lease::{Balance, Lease};
use locks::Locks;
use pauses::Pauses;
use slots::Slots;

/// Configuration of a limiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimiterConfig {
    /// Whether the node limits how many entries run at once.
    pub capacity: CapacityMode,
    /// Maximum number of unused capacity slots kept for later entries while no other partition
    /// wants them; any above it are returned at once.
    pub spare_slots_max: u32,
    /// Maximum number of unused counters kept in case their key comes back.
    pub idle_counters_max: u32,
    /// Maximum number of unused counters kept because of their bucket: until it is full, a key that
    /// comes back must find its remaining tokens. Above the maximum, the counter whose bucket fills
    /// first is dropped.
    pub lingering_counters_max: usize,
    /// Seed of the hashes of scopes and limit keys, which clients choose. It does not affect the
    /// limiter's decisions or their order.
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

/// Effects of a limiter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimiterEffect {
    /// Tell the vqueue about its permits. At most once: if the vqueue is gone, its death watch
    /// sends `Withdraw`, and the permits are returned.
    Granted(Granted),
    /// The answer to `Seed`: a permit for each of `Seed::running`, in that order. Exactly once, and
    /// before any other request: the seeding partition waits for it.
    Seeded {
        /// The permits.
        permits: Vec<PermitId>,
    },
    /// Ask the node for at least this many more slots. In order with `ReturnCapacity`; it stands
    /// until `CapacityLeased` answers, and is not repeated before.
    WantCapacity(u32),
    /// Return this many slots to the node. Exactly once: a lost one is lost until the node forgets
    /// this partition.
    ReturnCapacity(u32),
    /// Ask for this many more slots of a service; as `WantCapacity`.
    WantSlots {
        /// The service.
        service: ByteString,
        /// How many, at least one.
        slots: u32,
    },
    /// Return slots of a service; as `ReturnCapacity`.
    ReturnSlots {
        /// The service.
        service: ByteString,
        /// How many, at least one.
        slots: u32,
    },
    /// Send `Tick` at this time or soon after. Replaces a later timer; early or superfluous ticks
    /// are harmless.
    SetTimer(Timestamp),
}

/// What happened since the limiter started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimiterStats {
    /// Permits granted.
    pub granted: u64,
    /// Permits returned.
    pub released: u64,
    /// Permits taken back because their vqueue was gone before handing them over.
    pub withdrawn: u64,
    /// Releases and hand-overs rejected because the permit belongs to another incarnation.
    pub refused_incarnation: u64,
    /// Releases and hand-overs rejected because the permit is not held (any more).
    pub refused_unknown: u64,
}

/// The limiter of a partition: its counters, locks and waiters.
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
    slots: Slots,
    /// The time for which the timer is set.
    timer: Option<Timestamp>,
    last_ticket: Ticket,
    stats: LimiterStats,
}

type Effects = Vec<LimiterEffect>;

impl Limiter {
    /// A limiter that waits for its `Seed`. `incarnation` must differ from that of any limiter
    /// whose permits may still be returned.
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
            slots: Slots::default(),
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

    /// Whether it has been seeded; before that its answers mean nothing.
    #[must_use]
    pub fn is_seeded(&self) -> bool {
        self.seeded
    }

    /// Number of held permits.
    #[must_use]
    pub fn held(&self) -> usize {
        self.permits.slab.len()
    }

    /// Number of counters, including idle ones.
    #[must_use]
    pub fn counters_len(&self) -> usize {
        self.counters.slab.len()
    }

    fn receive(&mut self, message: LimiterMessage, effects: &mut Effects) {
        match message {
            LimiterMessage::Seed(seed) => self.seed(*seed, effects),
            LimiterMessage::RulesUpdated(updates) => self.update_rules(&updates),
            LimiterMessage::Acquire(ask) => self.acquire(ask, effects),
            LimiterMessage::LockHeld { vqueue, entry } => {
                self.locks.learn(vqueue, entry, self.now);
            }
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
            LimiterMessage::SlotsAnnounced(service) => self.slots.announce(service),
            LimiterMessage::Slots { service, change } => {
                effects.extend(self.slots.change(&service, change));
            }
            LimiterMessage::Tick => {}
        }
    }

    fn update_capacity(&mut self, effects: &mut Effects) {
        let Balance { want, give_back } = self.lease.balance(self.counters.ring.len());
        effects.extend(want.map(LimiterEffect::WantCapacity));
        effects.extend(give_back.map(LimiterEffect::ReturnCapacity));
        self.slots.balance(effects);
    }

    fn update_timer(&mut self, effects: &mut Effects) {
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

    /// Panics if anything is requested before `Seed`, or if `Seed` comes twice: limits would not be
    /// enforced.
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
        self.offer_slots(effects);
        self.update_capacity(effects);
        self.update_timer(effects);
    }

    fn check(&self) {
        self.check_invariants();
    }
}
