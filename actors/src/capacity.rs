//! The node's capacity: the actor that leases slots to the partitions' limiters.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use dashmap::DashMap;
use forebay_engine::limiter::{CapacityPool, PoolEffect, PoolInput};
use forebay_messages::{PartitionId, actor::LimiterMessage};

use crate::shell::{Cx, Death, Performer, Ref, World};

/// The participating limiters, by partition.
type Limiters = Arc<DashMap<PartitionId, Ref<LimiterMessage>>>;

/// The current pool.
type Pool = Arc<Mutex<Option<Ref<PoolInput>>>>;

/// Called on the pool's thread when a new pool has replaced a dead one.
pub(crate) type OnRestart = Arc<dyn Fn() + Send + Sync>;

fn lock(pool: &Pool) -> MutexGuard<'_, Option<Ref<PoolInput>>> {
    pool.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Everything needed to start another pool.
#[derive(Clone)]
struct Respawn {
    world: World,
    running_max: Arc<AtomicU32>,
    on_restart: OnRestart,
}

impl Respawn {
    fn spawn(
        &self,
        place: &Pool,
        machine: CapacityPool,
        performer: PoolPerformer,
    ) -> Ref<PoolInput> {
        let (again, place) = (self.clone(), Arc::clone(place));
        let next = PoolPerformer {
            limiters: Arc::clone(&performer.limiters),
            joining: Arc::clone(&performer.joining),
        };
        let on_death = Box::new(move |death| {
            if matches!(death, Death::Panicked(_)) {
                tracing::error!("the node's capacity died: every limiter is restarted");
                next.limiters.clear();
                next.joining.clear();
                let machine = CapacityPool::rebuilding(again.running_max.load(Ordering::Relaxed));
                let address = again.spawn(&place, machine, next);
                *lock(&place) = Some(address);
                (again.on_restart)();
            }
        });
        self.world.spawn("capacity", machine, performer, on_death).address
    }
}

/// A handle to the node's capacity. Without a maximum it does nothing.
#[derive(Clone, Default)]
pub(crate) struct Capacity {
    pool: Option<Pool>,
    /// Number of slots that the pool has, or will have once it has read its mailbox.
    running_max: Arc<AtomicU32>,
    limiters: Limiters,
    /// Limiters of which the pool has not been notified yet.
    joining: Limiters,
}

/// The pool, for the limiter of one partition.
pub(crate) struct CapacityClient {
    partition: PartitionId,
    pool: Option<Ref<PoolInput>>,
}

impl Capacity {
    /// Starts the pool on an actor thread. When it dies, it is replaced by a new one, which does
    /// not know what was leased: `on_restart` must tell it which partitions to wait for, and
    /// restart every limiter.
    pub(crate) fn start(world: &World, running_max: u32, on_restart: OnRestart) -> Self {
        let (limiters, joining) = (Limiters::default(), Limiters::default());
        let performer =
            PoolPerformer { limiters: Arc::clone(&limiters), joining: Arc::clone(&joining) };
        // Set before anything can be sent to it: the pool is not shared yet.
        let pool = Arc::new(Mutex::new(None));
        let most = Arc::new(AtomicU32::new(running_max));
        let spawning = Respawn { world: world.clone(), running_max: Arc::clone(&most), on_restart };
        *lock(&pool) = Some(spawning.spawn(&pool, CapacityPool::new(running_max), performer));
        Self { pool: Some(pool), running_max: most, limiters, joining }
    }

    fn address(&self) -> Option<Ref<PoolInput>> {
        self.pool.as_ref().and_then(|pool| lock(pool).clone())
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.pool.is_some()
    }

    /// Maximum number of running entries; `u32::MAX` without a limit.
    pub(crate) fn running_max(&self) -> u32 {
        if self.is_limited() { self.running_max.load(Ordering::Relaxed) } else { u32::MAX }
    }

    /// Changes the maximum number of running entries; those above a lowered maximum may finish.
    pub(crate) fn resize(&self, running_max: u32) {
        // Set first: a pool that replaces one that dies now starts with it.
        self.running_max.store(running_max, Ordering::Relaxed);
        self.send(PoolInput::Resize(running_max));
    }

    pub(crate) fn client(&self, partition: PartitionId) -> CapacityClient {
        CapacityClient { partition, pool: self.address() }
    }

    /// A new limiter participates; `running`: its running entries. The slots of its predecessor are
    /// returned.
    pub(crate) fn join(&self, id: PartitionId, limiter: &Ref<LimiterMessage>, running: u32) {
        let Some(pool) = self.address() else { return };
        self.limiters.remove(&id);
        // Messages of the pool to the previous limiter must not reach this one.
        self.joining.insert(id, limiter.clone());
        pool.send(PoolInput::Joins { partition: id, running });
    }

    /// The limiter is gone, or no longer counts; `running` handlers have not stopped.
    pub(crate) fn leave(&self, partition: PartitionId, running: u32) {
        self.limiters.remove(&partition);
        self.joining.remove(&partition);
        self.send(PoolInput::Leaves { partition, running });
    }

    /// One of those handlers has stopped.
    pub(crate) fn stopped(&self, partition: PartitionId) {
        self.send(PoolInput::Stopped(partition));
    }

    /// A new pool leases nothing before each of these has joined or left.
    pub(crate) fn await_all(&self, partitions: BTreeSet<PartitionId>) {
        self.send(PoolInput::Awaits(partitions));
    }

    fn send(&self, input: PoolInput) {
        if let Some(pool) = self.address() {
            pool.send(input);
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
    joining: Limiters,
}

impl PoolPerformer {
    fn send(&self, partition: PartitionId, message: LimiterMessage) {
        if let Some(limiter) = self.limiters.get(&partition) {
            limiter.send(message);
        }
    }
}

impl Performer<CapacityPool> for PoolPerformer {
    fn perform(&mut self, effect: PoolEffect, _: &mut Cx<'_, PoolInput>) {
        match effect {
            PoolEffect::Joined(partition) => {
                if let Some((partition, limiter)) = self.joining.remove(&partition) {
                    self.limiters.insert(partition, limiter);
                }
            }
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
