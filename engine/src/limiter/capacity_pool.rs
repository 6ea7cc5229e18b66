//! The node's capacity: at most `running_max` entries run at once, over all partitions.
//!
//! Owns: how many slots each partition has, and who waits for more. Must always hold:
//!
//! 1. Never more slots are leased than there are (fewer after a lowering: it drains).
//! 2. While a partition waits, no slot lies in the pool, every other partition that
//!    has slots was told to return what it does not use (one that waits itself, too:
//!    its need may have passed), and as long as one has noticeably more than the next
//!    to be served, it was told to give one up. Next is who has least, and of those
//!    who waits longest. So one slot over two busy partitions goes back and forth, and
//!    neither starves.
//!
//! Must not know: what a partition does with its slots, entries, limits, time.
//!
//! Slots are leased in blocks, so that a partition need not ask for each: when nobody
//! else waits, half of what is free (at least what was asked for); when several wait,
//! an equal part of it.

use std::collections::{BTreeMap, VecDeque};

use forebay_messages::{PartitionId, Timestamp};

use crate::Machine;

/// A partition that waits puts up with another one having more by this fraction of
/// its own slots: with few slots every single one goes round, with many the last one
/// is not worth a message per entry.
const UNEVEN_MAX_DIVISOR: u32 = 8;

/// What a pool is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolInput {
    /// `LimiterEffect::WantCapacity` of a partition's limiter.
    Want {
        /// Whose.
        partition: PartitionId,
        /// How many slots more it could use, at least one.
        slots: u32,
    },
    /// `LimiterEffect::ReturnCapacity` of a partition's limiter.
    Return {
        /// Whose.
        partition: PartitionId,
        /// How many slots come back.
        slots: u32,
    },
    /// The partition's limiter is gone: its slots come back. To be told before its next
    /// incarnation asks; messages of the old one must not arrive after it.
    Gone(PartitionId),
    /// A fresh limiter takes the place of the partition's last one, and entries run on:
    /// it holds so many slots from the start, even beyond what there is. Messages of the
    /// old one must not arrive after this.
    Joins {
        /// Whose.
        partition: PartitionId,
        /// How many entries run (or are about to).
        running: u32,
    },
    /// From now on there are so many slots. Running entries stay: a lower number drains.
    Resize(u32),
}

/// What a pool wants done. Each is delivered exactly once and in order to the
/// partition's limiter of the incarnation that asked, or dropped with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolEffect {
    /// From here on what is said to this partition is for the limiter that joins.
    Joined(PartitionId),
    /// Send `CapacityLeased`: the answer to `Want`.
    Lease {
        /// To whom.
        partition: PartitionId,
        /// How many slots, at least one.
        slots: u32,
    },
    /// Send `CapacityRecalled`.
    Recall(PartitionId),
    /// Send `CapacityClaimed`.
    Claim(PartitionId),
}

/// What the pool knows of a partition.
#[derive(Clone, Copy, Debug, Default)]
struct Partition {
    leased: u32,
    /// How many more it wants; 0 when it does not wait.
    wanted: u32,
    /// Told to return what it does not use, and not leased anything since.
    recalled: bool,
    /// Told to give a slot up, and has not returned anything since.
    claimed: bool,
}

/// The node's capacity; see the module.
#[derive(Debug)]
pub struct CapacityPool {
    running_max: u32,
    /// Sum over `partitions`.
    leased: u32,
    /// Ordered, so that ties are always broken in the same way.
    partitions: BTreeMap<PartitionId, Partition>,
    /// Who wants slots, in the order in which they came. Each at most once.
    waiting: VecDeque<PartitionId>,
    refused: u64,
}

impl CapacityPool {
    /// A pool of so many slots, none of them leased.
    #[must_use]
    pub fn new(running_max: u32) -> Self {
        Self {
            running_max,
            leased: 0,
            partitions: BTreeMap::new(),
            waiting: VecDeque::new(),
            refused: 0,
        }
    }

    /// How many slots a partition has.
    #[must_use]
    pub fn leased_to(&self, partition: PartitionId) -> u32 {
        self.partitions.get(&partition).map_or(0, |partition| partition.leased)
    }

    /// How many returned slots were refused because the partition did not have them.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    fn want(&mut self, id: PartitionId, slots: u32) {
        let partition = self.partitions.entry(id).or_default();
        if partition.wanted == 0 {
            self.waiting.push_back(id);
        }
        partition.wanted = slots.max(1);
    }

    /// Who is to be served next.
    fn next(&self) -> Option<PartitionId> {
        // The first of equal ones.
        self.waiting.iter().copied().min_by_key(|id| self.leased_to(*id))
    }

    fn take_back(&mut self, id: PartitionId, slots: u32) {
        let partition = self.partitions.entry(id).or_default();
        let accepted = slots.min(partition.leased);
        self.refused += u64::from(slots - accepted);
        partition.leased -= accepted;
        partition.claimed = false;
        self.leased -= accepted;
    }

    fn forget(&mut self, id: PartitionId) {
        if let Some(partition) = self.partitions.remove(&id) {
            self.leased -= partition.leased;
            self.waiting.retain(|waiting| *waiting != id);
        }
    }

    fn join(&mut self, id: PartitionId, running: u32, effects: &mut Vec<PoolEffect>) {
        self.forget(id);
        effects.push(PoolEffect::Joined(id));
        if running > 0 {
            self.leased += running;
            self.partitions.insert(id, Partition { leased: running, ..Partition::default() });
            effects.push(PoolEffect::Lease { partition: id, slots: running });
        }
    }

    fn free(&self) -> u32 {
        self.running_max.saturating_sub(self.leased)
    }

    /// Leases what is free to those who wait.
    fn lease(&mut self, effects: &mut Vec<PoolEffect>) {
        while let Some(id) = self.next() {
            let free = self.free();
            if free == 0 {
                return;
            }
            let waiting = u32::try_from(self.waiting.len()).expect("few partitions");
            let partition = self.partitions.entry(id).or_default();
            let slots = match waiting {
                1 => partition.wanted.max(free.div_ceil(2)).min(free),
                _ => partition.wanted.min(free.div_ceil(waiting)),
            };
            partition.leased += slots;
            (partition.wanted, partition.recalled) = (0, false);
            self.leased += slots;
            self.waiting.retain(|waiting| *waiting != id);
            effects.push(PoolEffect::Lease { partition: id, slots });
        }
    }

    /// How many slots another partition may have while this one waits.
    fn put_up_with(&self, id: PartitionId) -> u32 {
        let has = self.leased_to(id);
        has + has / UNEVEN_MAX_DIVISOR
    }

    /// Gets slots back for the next to be served: what others do not use, and a slot
    /// of whoever has most.
    fn collect(&mut self, effects: &mut Vec<PoolEffect>) {
        let next = self.next();
        if next.is_none() && self.leased <= self.running_max {
            return;
        }
        for (id, partition) in &mut self.partitions {
            let alone = self.waiting.iter().all(|waiting| waiting == id);
            if !alone && partition.leased > 0 && !partition.recalled {
                partition.recalled = true;
                effects.push(PoolEffect::Recall(*id));
            }
        }
        // After a lowering whoever has most gives up, whether anybody waits or not.
        let excess = self.leased > self.running_max;
        let fair = next.filter(|_| !excess).map_or(0, |next| self.put_up_with(next));
        let richer = self.partitions.iter_mut().filter(|(_, partition)| partition.leased > fair);
        let richest = richer.max_by_key(|(id, partition)| (partition.leased, **id));
        if let Some((id, partition)) = richest.filter(|(_, partition)| !partition.claimed) {
            partition.claimed = true;
            effects.push(PoolEffect::Claim(*id));
        }
    }
}

impl Machine for CapacityPool {
    type Input = PoolInput;
    type Effect = PoolEffect;

    fn step(&mut self, _: Timestamp, input: PoolInput, effects: &mut Vec<PoolEffect>) {
        match input {
            PoolInput::Want { partition, slots } => self.want(partition, slots),
            PoolInput::Return { partition, slots } => self.take_back(partition, slots),
            PoolInput::Gone(partition) => self.forget(partition),
            PoolInput::Joins { partition, running } => self.join(partition, running, effects),
            PoolInput::Resize(running_max) => self.running_max = running_max,
        }
        self.lease(effects);
        self.collect(effects);
    }

    fn check(&self) {
        let leased: u32 = self.partitions.values().map(|partition| partition.leased).sum();
        assert_eq!(self.leased, leased, "the sum of what is leased");
        for (id, partition) in &self.partitions {
            let places = self.waiting.iter().filter(|waiting| *waiting == id).count();
            assert_eq!(places, usize::from(partition.wanted > 0), "places of {id} in the queue");
        }
        let Some(next) = self.next() else { return };
        assert_eq!(self.free(), 0, "partition {next} waits while a slot lies in the pool");
        let others = self.partitions.iter().filter(|(id, _)| **id != next);
        for (id, partition) in &self.partitions {
            let alone = self.waiting.iter().all(|waiting| waiting == id);
            let told = alone || partition.leased == 0 || partition.recalled;
            assert!(told, "partition {id} was not told to return its spare");
        }
        let fair = self.put_up_with(next);
        let most = others.map(|(_, partition)| partition.leased).max();
        let claimed = self.partitions.values().any(|partition| partition.claimed);
        assert!(
            most.is_none_or(|most| most <= fair) || claimed,
            "partition {next} waits, another one has more, and nobody was told to give up"
        );
    }
}
