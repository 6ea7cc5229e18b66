//! The node's capacity: at most `running_max` entries run at once, over all partitions.
//!
//! Owns: how many slots each partition has, and who waits for more. Must always hold:
//!
//! 1. Never more slots are leased than there are (fewer after a lowering: it drains).
//! 2. While a partition waits, no slot lies in the pool, every other partition that
//!    has slots was told to return what it does not use (one that waits itself, too:
//!    its need may have passed), and *every* partition that has noticeably more than the
//!    next to be served was told to give one up: the entries of the richest one may
//!    never end, and a partition that reuses its own slots tells the pool nothing. Next
//!    is the partition with the fewest slots, and of equal ones the one that has waited
//!    longest. So one slot over two busy partitions goes back and forth, and neither
//!    starves.
//!
//! Must not know: what a partition does with its slots, entries, limits, time.
//!
//! Slots are leased in blocks, so that a partition need not ask for each: when nobody
//! else waits, half of what is free (at least what was asked for); when several wait,
//! an equal part of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use forebay_messages::{PartitionId, Timestamp};

use crate::Machine;

/// A partition that waits puts up with another one having more by this fraction of
/// its own slots: with few slots every single one goes round, with many the last one
/// is not worth a message per entry.
const UNEVEN_MAX_DIVISOR: u32 = 8;

/// What a pool is told.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// The partition has no limiter any more: its slots come back, but for one for each
    /// handler of its entries that has not stopped. What the limiter says after that, and
    /// before the next one joins, is ignored.
    Leaves {
        /// Whose.
        partition: PartitionId,
        /// How many have not stopped.
        running: u32,
    },
    /// One of those has stopped.
    Stopped(PartitionId),
    /// A fresh limiter takes the place of the partition's last one, and entries run on:
    /// it holds so many slots from the start, even beyond what there is. Messages of the
    /// old one must not arrive after this.
    Joins {
        /// Whose.
        partition: PartitionId,
        /// How many entries run (or are about to).
        running: u32,
    },
    /// To a pool that takes the place of one that died: each of these partitions joins or
    /// leaves, and before all have done so nothing is leased.
    Awaits(BTreeSet<PartitionId>),
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
    /// It has no limiter: its slots are those of handlers that have not stopped.
    has_left: bool,
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
    /// Those of whom it is not known what they hold; `None`: not even who they are.
    awaited: Option<BTreeSet<PartitionId>>,
    /// Those that have told it since.
    told: BTreeSet<PartitionId>,
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
            awaited: Some(BTreeSet::new()),
            told: BTreeSet::new(),
            refused: 0,
        }
    }

    /// A pool that takes the place of one that died: it leases nothing before it was told
    /// who had something of that one ([`PoolInput::Awaits`]), and what each of them holds.
    #[must_use]
    pub fn anew(running_max: u32) -> Self {
        Self { awaited: None, ..Self::new(running_max) }
    }

    /// Whether it knows of everything that runs.
    fn knows_all(&self) -> bool {
        self.awaited.as_ref().is_some_and(BTreeSet::is_empty)
    }

    fn await_all(&mut self, mut partitions: BTreeSet<PartitionId>) {
        partitions.retain(|partition| !self.told.contains(partition));
        self.awaited = Some(partitions);
    }

    /// What a partition holds is known from here on.
    fn has_told(&mut self, id: PartitionId) {
        match &mut self.awaited {
            Some(awaited) => drop(awaited.remove(&id)),
            None => drop(self.told.insert(id)),
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
        if partition.has_left {
            return;
        }
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
        self.has_told(id);
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
        self.has_told(id);
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

    /// How many slots a partition may keep while others wait, or while more are leased
    /// than there are. `None`: nothing is missing.
    fn keeps(&self) -> Option<u32> {
        // After a lowering every partition gives up, whether one waits or not.
        if self.leased > self.running_max {
            return Some(0);
        }
        self.next().map(|next| self.put_up_with(next))
    }

    /// Gets slots back for the next to be served: what others do not use, and a slot of
    /// each partition that has more than its share. All of them are asked: which one
    /// ends an entry first is not known here, and some may never do so.
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
        assert_eq!(self.leased, leased, "the sum of what is leased");
        for (id, partition) in &self.partitions {
            let places = self.waiting.iter().filter(|waiting| *waiting == id).count();
            assert_eq!(places, usize::from(partition.wanted > 0), "places of {id} in the queue");
        }
        let Some(next) = self.next() else { return };
        assert_eq!(self.free(), 0, "partition {next} waits while a slot lies in the pool");
        for (id, partition) in &self.partitions {
            let alone = self.waiting.iter().all(|waiting| waiting == id);
            let has_some = partition.leased > 0 && !partition.has_left;
            let told = alone || !has_some || partition.recalled;
            assert!(told, "partition {id} was not told to return its spare");
        }
        let fair = self.put_up_with(next);
        for (id, partition) in &self.partitions {
            // One that has left gives nothing up: its handlers are told to stop already.
            let told = partition.leased <= fair || partition.has_left || partition.claimed;
            assert!(told, "partition {next} waits, {id} has more, and was not told to give one up");
        }
    }
}
