//! The slots of executors beside the handlers, by service, leased to the limiters of the partitions
//! led here.
//!
//! Must always hold: a limiter learns that a service needs slots before the service is served here,
//! so before its first request; messages of a pool reach a limiter in their order. Must not know:
//! executors, which entries wait.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytestring::ByteString;
use forebay_engine::{
    Machine as _,
    limiter::{CapacityPool, PoolEffect, PoolInput},
};
use forebay_messages::{
    PartitionId, Timestamp,
    actor::{LimiterMessage, Seed, SlotChange},
};

use crate::shell::Ref;

/// The pools of slots, by service.
#[derive(Default)]
pub(crate) struct SlotPools(Mutex<Pools>);

#[derive(Default)]
struct Pools {
    pools: BTreeMap<ByteString, CapacityPool>,
    limiters: BTreeMap<PartitionId, Ref<LimiterMessage>>,
}

impl Pools {
    fn step(&mut self, service: &ByteString, input: PoolInput) {
        let Some(pool) = self.pools.get_mut(service) else { return };
        let mut effects = Vec::new();
        // A pool has no timers.
        pool.step(Timestamp::default(), input, &mut effects);
        for effect in effects {
            let (partition, change) = match effect {
                PoolEffect::Joined(_) => continue,
                PoolEffect::Lease { partition, slots } => (partition, SlotChange::Leased(slots)),
                PoolEffect::Recall(partition) => (partition, SlotChange::Recalled),
                PoolEffect::Claim(partition) => (partition, SlotChange::Claimed),
            };
            if let Some(limiter) = self.limiters.get(&partition) {
                limiter.send(LimiterMessage::Slots { service: service.clone(), change });
            }
        }
    }

    fn step_all(&mut self, input: impl Fn(&ByteString) -> PoolInput) {
        let services: Vec<_> = self.pools.keys().cloned().collect();
        services.iter().for_each(|service| self.step(service, input(service)));
    }
}

impl SlotPools {
    fn pools(&self) -> MutexGuard<'_, Pools> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on entries of a service need slots; at first there are none.
    pub(crate) fn announce(&self, service: &str) {
        let mut pools = self.pools();
        if pools.pools.contains_key(service) {
            return;
        }
        let service = ByteString::from(service);
        pools.pools.insert(service.clone(), CapacityPool::new(0));
        for limiter in pools.limiters.values() {
            limiter.send(LimiterMessage::SlotsAnnounced(service.clone()));
        }
    }

    /// Sets the number of slots of all announced services. `slots` is called under the lock, so
    /// that the last of several concurrent changes sets the last number.
    pub(crate) fn resize(&self, slots: impl Fn(&str) -> u32) {
        self.pools().step_all(|service| PoolInput::Resize(slots(service)));
    }

    /// Seeds a new limiter of a partition, which takes part from now on.
    pub(crate) fn seed(&self, partition: PartitionId, limiter: &Ref<LimiterMessage>, seed: Seed) {
        let mut pools = self.pools();
        let mut running: BTreeMap<ByteString, u32> =
            pools.pools.keys().map(|service| (service.clone(), 0)).collect();
        if !running.is_empty() {
            for of in &seed.running {
                running.entry(of.name.service.clone()).and_modify(|count| *count += 1);
            }
        }
        let seed = Seed { services: running.keys().cloned().collect(), ..seed };
        limiter.send(LimiterMessage::Seed(Box::new(seed)));
        pools.limiters.insert(partition, limiter.clone());
        pools.step_all(|service| {
            let running = running.get(service).copied().unwrap_or_default();
            PoolInput::Joins { partition, running }
        });
    }

    /// The limiter of a partition is gone. Executors may still run attempts of it: others wait for
    /// a slot of an executor then, although they have a permit.
    pub(crate) fn leave(&self, partition: PartitionId) {
        let mut pools = self.pools();
        pools.limiters.remove(&partition);
        pools.step_all(|_| PoolInput::Leaves { partition, running: 0 });
    }

    /// A limiter wants more slots.
    pub(crate) fn want(&self, partition: PartitionId, service: &ByteString, slots: u32) {
        self.pools().step(service, PoolInput::Want { partition, slots });
    }

    /// A limiter returns slots.
    pub(crate) fn give_back(&self, partition: PartitionId, service: &ByteString, slots: u32) {
        self.pools().step(service, PoolInput::Return { partition, slots });
    }
}
