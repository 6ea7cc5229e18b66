//! The node's capacity: at most `running_max` entries run at once, over all partitions.
//!
//! Owns: how many slots each partition has, and which partitions wait for more. Must always hold:
//!
//! 1. Never more slots are leased than exist (after the maximum is lowered, the excess drains).
//! 2. While a partition waits, no slot is free; every other partition with slots has been asked to
//!    return its unused ones (even one that waits itself: its need may have passed); and *every*
//!    partition with noticeably more slots than the next one to serve has been asked to give one
//!    up, because the entries of the one with most slots may never end, and a partition that
//!    reuses its own slots sends the pool no messages. The next one to serve is the partition with
//!    the fewest slots, and among equals the one that has waited longest. So a single slot
//!    alternates between two busy partitions, and neither starves.
//!
//! Must not know: what a partition does with its slots, entries, limits, time.
//!
//! Slots are leased in blocks, so that a partition need not ask for each one: if no other partition
//! waits, half of the free slots (at least the requested number); if several wait, an equal part.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use forebay_messages::{PartitionId, Timestamp};

use crate::Machine;

/// A waiting partition tolerates that another one has more by this fraction of its own slots: with
/// few slots every single one rotates; with many, the last one is not worth a message per entry.
const UNEVEN_MAX_DIVISOR: u32 = 8;

/// Inputs of the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolInput {
    /// `LimiterEffect::WantCapacity` of a partition's limiter.
    Want {
        /// The partition.
        partition: PartitionId,
        /// How many more slots it could use, at least one.
        slots: u32,
    },
    /// `LimiterEffect::ReturnCapacity` of a partition's limiter.
    Return {
        /// The partition.
        partition: PartitionId,
        /// How many slots are returned.
        slots: u32,
    },
    /// The partition no longer has a limiter: its slots return, except one for each handler of its
    /// entries that has not stopped. Messages of that limiter that arrive before the next one joins
    /// are ignored.
    Leaves {
        /// The partition.
        partition: PartitionId,
        /// How many handlers have not stopped.
        running: u32,
    },
    /// One of those handlers has stopped.
    Stopped(PartitionId),
    /// A new limiter replaces the partition's last one while entries run: it starts with this many
    /// slots, even beyond the maximum. Messages of the old limiter must not arrive after this.
    Joins {
        /// The partition.
        partition: PartitionId,
        /// How many entries run (or are about to).
        running: u32,
    },
    /// To a pool that replaces one that died: each of these partitions joins or leaves, and nothing
    /// is leased before all have done so.
    Awaits(BTreeSet<PartitionId>),
    /// Sets the number of slots. Running entries continue: after a lowering the excess drains.
    Resize(u32),
}

/// Effects of the pool. Each is delivered exactly once and in order to the partition's limiter of
/// the incarnation that asked, or dropped with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolEffect {
    /// Everything sent to this partition after this is for the limiter that joins.
    Joined(PartitionId),
    /// Send `CapacityLeased`: the answer to `Want`.
    Lease {
        /// The partition.
        partition: PartitionId,
        /// How many slots, at least one.
        slots: u32,
    },
    /// Send `CapacityRecalled`.
    Recall(PartitionId),
    /// Send `CapacityClaimed`.
    Claim(PartitionId),
}

/// The pool's state of one partition.
#[derive(Clone, Copy, Debug, Default)]
struct Partition {
    leased: u32,
    /// How many more slots it wants; 0 when it does not wait.
    wanted: u32,
    /// Asked to return its unused slots, and not leased any since.
    recalled: bool,
    /// Asked to give up a slot, and has not returned any since.
    claimed: bool,
    /// It has no limiter: its slots belong to handlers that have not stopped.
    has_left: bool,
}

/// The node's capacity, leased to the limiters of its partitions.
#[derive(Debug)]
pub struct CapacityPool {
    running_max: u32,
    /// Sum over `partitions`.
    leased: u32,
    /// Ordered, so that ties are always broken the same way.
    partitions: BTreeMap<PartitionId, Partition>,
    /// Partitions that want slots, in the order they asked. Each at most once.
    waiting: VecDeque<PartitionId>,
    /// Partitions whose holdings are unknown; `None`: not even their ids are known.
    awaited: Option<BTreeSet<PartitionId>>,
    /// Partitions that have reported their holdings since.
    reported: BTreeSet<PartitionId>,
    refused: u64,
}

impl CapacityPool {
    /// A pool of `running_max` slots, none of them leased.
    #[must_use]
    pub fn new(running_max: u32) -> Self {
        Self {
            running_max,
            leased: 0,
            partitions: BTreeMap::new(),
            waiting: VecDeque::new(),
            awaited: Some(BTreeSet::new()),
            reported: BTreeSet::new(),
            refused: 0,
        }
    }

    /// A pool that replaces one that died. It leases nothing until it knows which partitions had
    /// slots of that pool ([`PoolInput::Awaits`]), and how many each of them has.
    #[must_use]
    pub fn rebuilding(running_max: u32) -> Self {
        Self { awaited: None, ..Self::new(running_max) }
    }

    /// Whether the slots of all running entries are known.
    fn knows_all(&self) -> bool {
        self.awaited.as_ref().is_some_and(BTreeSet::is_empty)
    }

    fn await_all(&mut self, mut partitions: BTreeSet<PartitionId>) {
        partitions.retain(|partition| !self.reported.contains(partition));
        self.awaited = Some(partitions);
    }

    /// Records that the partition's holdings are known from now on.
    fn report_holdings(&mut self, id: PartitionId) {
        match &mut self.awaited {
            Some(awaited) => drop(awaited.remove(&id)),
            None => drop(self.reported.insert(id)),
        }
    }

    /// How many slots a partition has.
    #[must_use]
    pub fn leased_to(&self, partition: PartitionId) -> u32 {
        self.partitions.get(&partition).map_or(0, |partition| partition.leased)
    }

    /// How many returned slots were rejected because the partition did not have them.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    fn want(&mut self, id: PartitionId, slots: u32) {
        let partition = self.partitions.entry(id).or_default();
        if partition.has_left {
            return;
        }
        if partition.wanted == 0 {
            self.waiting.push_back(id);
        }
        partition.wanted = slots.max(1);
    }

    /// The partition to serve next.
    fn next(&self) -> Option<PartitionId> {
        // `min_by_key` returns the first of equal ones.
        self.waiting.iter().copied().min_by_key(|id| self.leased_to(*id))
    }

    fn take_back(&mut self, id: PartitionId, slots: u32) {
        let partition = self.partitions.entry(id).or_default();
        let accepted = if partition.has_left { 0 } else { slots.min(partition.leased) };
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

    fn leave(&mut self, id: PartitionId, running: u32) {
        self.forget(id);
        self.report_holdings(id);
        self.leased += running;
        let left = Partition { leased: running, has_left: true, ..Partition::default() };
        self.partitions.insert(id, left);
    }

    fn stopped(&mut self, id: PartitionId) {
        let left = self.partitions.get_mut(&id).filter(|left| left.has_left && left.leased > 0);
        match left {
            Some(left) => {
                left.leased -= 1;
                self.leased -= 1;
            }
            None => self.refused += 1,
        }
    }

    fn join(&mut self, id: PartitionId, running: u32, effects: &mut Vec<PoolEffect>) {
        self.forget(id);
        self.report_holdings(id);
        effects.push(PoolEffect::Joined(id));
        if running > 0 {
            self.leased += running;
            self.partitions.insert(id, Partition { leased: running, ..Partition::default() });
            effects.push(PoolEffect::Lease { partition: id, slots: running });
        }
    }

    fn free(&self) -> u32 {
        if self.knows_all() { self.running_max.saturating_sub(self.leased) } else { 0 }
    }

    /// Leases free slots to the waiting partitions.
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
    fn slots_tolerated(&self, id: PartitionId) -> u32 {
        let has = self.leased_to(id);
        has + has / UNEVEN_MAX_DIVISOR
    }

    /// How many slots a partition may keep while others wait, or while more are leased than exist.
    /// `None`: no slot is missing.
    fn keeps(&self) -> Option<u32> {
        // After a lowering every partition gives up slots, whether one waits or not.
        if self.leased > self.running_max {
            return Some(0);
        }
        self.next().map(|next| self.slots_tolerated(next))
    }

    /// Recalls slots for the next one to serve: unused slots of others, and one slot of each
    /// partition with more than its share. All of them are asked, because it is not known here
    /// which one ends an entry first, and some may never end one.
    fn collect(&mut self, effects: &mut Vec<PoolEffect>) {
        let Some(keeps) = self.keeps() else { return };
        for (id, partition) in &mut self.partitions {
            let alone = self.waiting.iter().all(|waiting| waiting == id);
            if !alone && partition.leased > 0 && !partition.recalled && !partition.has_left {
                partition.recalled = true;
                effects.push(PoolEffect::Recall(*id));
            }
        }
        for (id, partition) in &mut self.partitions {
            if partition.leased > keeps && !partition.claimed && !partition.has_left {
                partition.claimed = true;
                effects.push(PoolEffect::Claim(*id));
            }
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
            PoolInput::Leaves { partition, running } => self.leave(partition, running),
            PoolInput::Stopped(partition) => self.stopped(partition),
            PoolInput::Awaits(partitions) => self.await_all(partitions),
            PoolInput::Joins { partition, running } => self.join(partition, running, effects),
            PoolInput::Resize(running_max) => self.running_max = running_max,
        }
        self.lease(effects);
        self.collect(effects);
    }

    fn check(&self) {
        let leased: u32 = self.partitions.values().map(|partition| partition.leased).sum();
        assert_eq!(self.leased, leased, "the sum of the leases");
        for (id, partition) in &self.partitions {
            let places = self.waiting.iter().filter(|waiting| *waiting == id).count();
            assert_eq!(places, usize::from(partition.wanted > 0), "positions of {id} in the queue");
        }
        let Some(next) = self.next() else { return };
        assert_eq!(self.free(), 0, "partition {next} waits while a slot is free");
        for (id, partition) in &self.partitions {
            let alone = self.waiting.iter().all(|waiting| waiting == id);
            let has_some = partition.leased > 0 && !partition.has_left;
            let was_asked = alone || !has_some || partition.recalled;
            assert!(was_asked, "partition {id} was not asked to return its unused slots");
        }
        let fair = self.slots_tolerated(next);
        for (id, partition) in &self.partitions {
            // A partition without a limiter gives up nothing: its handlers are stopping already.
            let was_asked = partition.leased <= fair || partition.has_left || partition.claimed;
            assert!(
                was_asked,
                "partition {next} waits and {id} has more but was not asked to give one up"
            );
        }
    }
}
