//! The node's capacity: the actor that leases slots to the limiters of the partitions.

use std::sync::Arc;

use dashmap::DashMap;
use forebay_engine::limiter::{CapacityPool, PoolEffect, PoolInput};
use forebay_messages::{PartitionId, actor::LimiterMessage};

use crate::shell::{Performer, Ref, Scope, World};

/// The limiters that take part, by partition.
type Limiters = Arc<DashMap<PartitionId, Ref<LimiterMessage>>>;

/// A handle to the node's capacity. Without a maximum it does nothing.
#[derive(Clone, Default)]
pub(crate) struct Capacity {
    pool: Option<Ref<PoolInput>>,
    running_max: Option<u32>,
    limiters: Limiters,
}

/// What the limiter of one partition sees of it.
pub(crate) struct CapacityClient {
    partition: PartitionId,
    pool: Option<Ref<PoolInput>>,
}

impl Capacity {
    /// Starts the pool on a thread of actors.
    pub(crate) fn start(world: &World, running_max: u32) -> Self {
        let limiters = Limiters::default();
        let performer = PoolPerformer { limiters: Arc::clone(&limiters) };
        let child =
            world.spawn("capacity", CapacityPool::new(running_max), performer, Box::new(|_| {}));
        Self { pool: Some(child.address), running_max: Some(running_max), limiters }
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.pool.is_some()
    }

    /// Most entries that run at once; `u32::MAX` without a limit.
    pub(crate) fn running_max(&self) -> u32 {
        self.running_max.unwrap_or(u32::MAX)
    }

    pub(crate) fn client(&self, partition: PartitionId) -> CapacityClient {
        CapacityClient { partition, pool: self.pool.clone() }
    }

    /// A fresh limiter takes part; what an earlier one held comes back.
    pub(crate) fn join(&self, partition: PartitionId, limiter: &Ref<LimiterMessage>) {
        self.leave(partition);
        self.limiters.insert(partition, limiter.clone());
    }

    /// The limiter is gone.
    pub(crate) fn leave(&self, partition: PartitionId) {
        self.limiters.remove(&partition);
        if let Some(pool) = &self.pool {
            pool.send(PoolInput::Gone(partition));
        }
    }
}

impl CapacityClient {
    pub(crate) fn want(&self, slots: u32) {
        self.send(PoolInput::Want { partition: self.partition, slots });
    }

    pub(crate) fn give_back(&self, slots: u32) {
        self.send(PoolInput::Return { partition: self.partition, slots });
    }

    fn send(&self, input: PoolInput) {
        if let Some(pool) = &self.pool {
            pool.send(input);
        }
    }
}

struct PoolPerformer {
    limiters: Limiters,
}

impl PoolPerformer {
    fn send(&self, partition: PartitionId, message: LimiterMessage) {
        if let Some(limiter) = self.limiters.get(&partition) {
            limiter.send(message);
        }
    }
}

impl Performer<CapacityPool> for PoolPerformer {
    fn perform(&mut self, effect: PoolEffect, _: &mut Scope<'_, PoolInput>) {
        match effect {
            PoolEffect::Lease { partition, slots } => {
                self.send(partition, LimiterMessage::CapacityLeased(slots));
            }
            PoolEffect::Recall(partition) => {
                self.send(partition, LimiterMessage::CapacityRecalled);
            }
            PoolEffect::Claim(partition) => {
                self.send(partition, LimiterMessage::CapacityClaimed);
            }
        }
    }
}
