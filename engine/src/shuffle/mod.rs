//! The shuffle of one leading partition: it hands the messages of the partition's outbox to
//! the partitions that they are for.
//!
//! Must always hold:
//! - S1: a target is handed messages in the order of their indexes, and none is left out.
//! - S2: at most one command per target is in flight. The receiver skips what is not above
//!   the last message it applied, so a second one that overtook the first would make it lose
//!   messages.
//! - S3: a message is deleted from the outbox only after its target applied it.
//! - S4: a target that does not answer holds up no other one, and never more than
//!   [`HELD_PER_TARGET_MAX`] messages in memory; the rest stays in the outbox.
//!
//! A command whose outcome is unknown is handed over again as it is: the receiver knows what
//! it has. A message whose key belongs to no partition stays in the outbox until one has it.
//! The range of a partition never grows (S1 depends on it: else messages with low indexes
//! could become its own after it got higher ones).
//!
//! Must not know: what messages say, which replica leads, how commands travel, how rows are read.

mod target;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use forebay_messages::{
    Incarnation, PartitionId, PartitionKey, RecordSeq, Timestamp,
    command::{Deliver, OutboxMessage, TruncateOutbox},
    journal::MESSAGES_PER_RECORD_MAX,
};

use crate::Machine;

pub use target::{BACKOFF_FIRST_MS, BACKOFF_MAX_MS, HELD_BYTES_PER_TARGET_MAX};
use target::{Target, Unclear};

/// Most messages to one target that are held in memory.
pub const HELD_PER_TARGET_MAX: usize = 2 * MESSAGES_PER_RECORD_MAX;
/// Bytes of messages after which a command takes no more of them.
pub const DELIVER_BYTES_MAX: usize = 1 << 20;
/// Most messages that are read from the outbox at a time.
pub const READ_MAX: usize = 512;

/// Which keys belong to which partition, ascending and without overlaps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes(Vec<(PartitionKey, PartitionKey, PartitionId)>);

impl Routes {
    /// From ranges in any order, both ends included.
    #[must_use]
    pub fn new(mut ranges: Vec<(PartitionKey, PartitionKey, PartitionId)>) -> Self {
        ranges.sort_unstable();
        Self(ranges)
    }

    /// The partition that a key belongs to.
    #[must_use]
    pub fn owner(&self, key: PartitionKey) -> Option<PartitionId> {
        let after = self.0.partition_point(|(first, ..)| *first <= key);
        let (_, last, id) = self.0.get(after.checked_sub(1)?)?;
        (key <= *last).then_some(*id)
    }
}

/// Inputs of a shuffle.
#[derive(Clone, Debug)]
pub enum ShuffleInput {
    /// These messages were committed to the outbox; in the order of their indexes.
    Added(Vec<Arc<OutboxMessage>>),
    /// Answer to [`ShuffleEffect::Read`], with what was committed when it was read.
    Read {
        /// The messages, in the order of their indexes.
        messages: Vec<Arc<OutboxMessage>>,
        /// There was none after them.
        is_end: bool,
    },
    /// A target applied the command that it was handed.
    Delivered {
        /// Which.
        target: PartitionId,
    },
    /// It did not, or nobody knows.
    NotDelivered {
        /// Which.
        target: PartitionId,
    },
    /// The truncation was applied.
    Truncated,
    /// It was not, or nobody knows.
    NotTruncated,
    /// Keys belong to other partitions than before.
    Routed(Routes),
    /// The time that was asked for has come.
    Tick,
}

/// Effects of a shuffle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShuffleEffect {
    /// Read messages of the outbox; answered once with [`ShuffleInput::Read`]. None other is
    /// asked for before.
    Read {
        /// Those after this index.
        after: RecordSeq,
        /// Maximum number of messages.
        limit: usize,
    },
    /// Hand a command to the leader of a partition; answered once with
    /// [`ShuffleInput::Delivered`] or [`ShuffleInput::NotDelivered`].
    Deliver {
        /// The partition.
        target: PartitionId,
        /// The command.
        command: Deliver,
    },
    /// Propose this to the own partition; answered once with [`ShuffleInput::Truncated`] or
    /// [`ShuffleInput::NotTruncated`].
    Truncate(TruncateOutbox),
    /// Send [`ShuffleInput::Tick`] at this time, instead of one asked for before.
    WakeAt(Timestamp),
}

/// A read of the outbox that was asked for.
#[derive(Clone, Copy, Debug)]
struct Reading {
    after: RecordSeq,
    /// The highest index that was known by then.
    seen: RecordSeq,
    /// It was asked for by routes that do not hold any more.
    is_stale: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Shuffle {
    source: PartitionId,
    incarnation: Incarnation,
    routes: Routes,
    /// Bytes of messages after which a command takes no more of them.
    bytes_max: usize,
    targets: BTreeMap<PartitionId, Target>,
    /// The highest index that is known to have been given.
    seen: RecordSeq,
    /// Every message up to here was looked at for all targets that there are.
    frontier: RecordSeq,
    reading: Option<Reading>,
    /// The outbox was read to its end at least once.
    knows_end: bool,
    /// Applied by their targets, and possibly still in the outbox.
    delivered: BTreeSet<RecordSeq>,
    to_truncate: VecDeque<RecordSeq>,
    truncating: Vec<RecordSeq>,
    /// When the truncation is tried again.
    truncate_at: Timestamp,
    wake_at: Option<Timestamp>,
}

impl Shuffle {
    /// The shuffle of a partition that begins to lead.
    #[must_use]
    pub fn new(source: PartitionId, incarnation: Incarnation, routes: Routes) -> Self {
        Self {
            source,
            incarnation,
            routes,
            bytes_max: DELIVER_BYTES_MAX,
            targets: BTreeMap::new(),
            seen: RecordSeq(0),
            frontier: RecordSeq(0),
            reading: None,
            knows_end: false,
            delivered: BTreeSet::new(),
            to_truncate: VecDeque::new(),
            truncating: Vec::new(),
            truncate_at: Timestamp(0),
            wake_at: None,
        }
    }

    /// The same for a log whose records have room for this many bytes.
    #[must_use]
    pub fn with_room(mut self, bytes: usize) -> Self {
        self.bytes_max = bytes.min(DELIVER_BYTES_MAX);
        self
    }

    /// Messages that it holds in memory.
    #[must_use]
    pub fn held(&self) -> usize {
        self.targets.values().map(Target::held).sum()
    }

    /// Takes in a stretch of the outbox: all there is above `after` and up to `through`.
    fn take_in(&mut self, after: RecordSeq, through: RecordSeq, page: Vec<Arc<OutboxMessage>>) {
        for message in page {
            let index = message.index;
            let Some(owner) = self.routes.owner(message.to) else { continue };
            let is_underway = |target: &Target| target.is_in_flight(index);
            if self.delivered.contains(&index) || self.targets.values().any(is_underway) {
                continue;
            }
            let frontier = self.frontier;
            let target = self.targets.entry(owner).or_insert_with(|| Target::new(frontier));
            // One that lacks something before this stretch is caught up later.
            if target.through >= after && index > target.through && !target.is_cut {
                target.take(message);
            }
        }
        for target in self.targets.values_mut() {
            if !std::mem::take(&mut target.is_cut) && target.through >= after {
                target.through = target.through.max(through);
            }
        }
        if self.frontier >= after {
            self.frontier = self.frontier.max(through);
        }
        self.seen = self.seen.max(through);
    }

    fn on_added(&mut self, messages: Vec<Arc<OutboxMessage>>) {
        let (Some(first), Some(last)) = (messages.first(), messages.last()) else { return };
        let (first, last) = (first.index, last.index);
        if self.knows_end && first == self.seen.next() {
            self.take_in(self.seen, last, messages);
        }
        // Else some were missed: they are read.
        self.seen = self.seen.max(last);
    }

    fn on_read(&mut self, messages: Vec<Arc<OutboxMessage>>, is_end: bool) {
        let Some(Reading { after, seen, is_stale: false }) = self.reading.take() else { return };
        let last = messages.last().map_or(after, |last| last.index);
        // At the end of the outbox nothing is left of what had been seen before.
        let through = if is_end { last.max(seen) } else { last };
        self.knows_end |= is_end;
        self.take_in(after, through, messages);
    }

    /// Everything is looked at again, from the beginning of the outbox.
    fn begin_again(&mut self) {
        self.targets.retain(|_, target| target.begin_again());
        (self.frontier, self.knows_end) = (RecordSeq(0), false);
        if let Some(reading) = &mut self.reading {
            reading.is_stale = true;
        }
    }

    fn on_delivered(&mut self, target: PartitionId) {
        let Some(target) = self.targets.get_mut(&target) else { return };
        for message in target.delivered() {
            self.delivered.insert(message.index);
            self.to_truncate.push_back(message.index);
        }
    }

    fn on_not_delivered(&mut self, now: Timestamp, id: PartitionId) {
        let Some(target) = self.targets.get_mut(&id) else { return };
        if target.not_delivered(now) == Unclear::Rerouted {
            self.begin_again();
        }
    }

    /// Hands over what can be.
    fn deliver(&mut self, now: Timestamp, effects: &mut Vec<ShuffleEffect>) {
        for (id, target) in &mut self.targets {
            if let Some(messages) = target.next_batch(now, self.bytes_max) {
                let messages = messages.iter().map(|message| (**message).clone()).collect();
                let (source, incarnation) = (self.source, self.incarnation);
                let command = Deliver { source, incarnation, messages };
                effects.push(ShuffleEffect::Deliver { target: *id, command });
            }
        }
    }

    fn truncate(&mut self, now: Timestamp, effects: &mut Vec<ShuffleEffect>) {
        if !self.truncating.is_empty() || self.to_truncate.is_empty() || self.truncate_at > now {
            return;
        }
        let count = self.to_truncate.len().min(MESSAGES_PER_RECORD_MAX);
        self.truncating = self.to_truncate.drain(..count).collect();
        self.truncating.sort_unstable();
        let delivered = self.truncating.clone();
        effects.push(ShuffleEffect::Truncate(TruncateOutbox { through: 0, delivered }));
    }

    /// Reads on for the one that is furthest behind and has room.
    fn read(&mut self, effects: &mut Vec<ShuffleEffect>) {
        if self.reading.is_some() {
            return;
        }
        let frontier = (!self.knows_end || self.frontier < self.seen).then_some(self.frontier);
        let behind = self.targets.values().filter(|target| target.has_room());
        let behind = behind.map(|target| target.through).filter(|through| *through < self.seen);
        if let Some(after) = behind.chain(frontier).min() {
            self.reading = Some(Reading { after, seen: self.seen, is_stale: false });
            effects.push(ShuffleEffect::Read { after, limit: READ_MAX });
        }
    }

    fn set_timer(&mut self, now: Timestamp, effects: &mut Vec<ShuffleEffect>) {
        let truncate = (!self.to_truncate.is_empty()).then_some(self.truncate_at);
        let retries = self.targets.values().filter_map(Target::retry_at);
        let next = retries.chain(truncate).filter(|at| *at > now).min();
        if next.is_some() && next != self.wake_at {
            effects.extend(next.map(ShuffleEffect::WakeAt));
        }
        self.wake_at = next;
    }

    fn proceed(&mut self, now: Timestamp, effects: &mut Vec<ShuffleEffect>) {
        self.deliver(now, effects);
        self.truncate(now, effects);
        self.read(effects);
        self.set_timer(now, effects);
    }
}

impl Machine for Shuffle {
    type Input = ShuffleInput;
    type Effect = ShuffleEffect;

    fn start(&mut self, now: Timestamp, effects: &mut Vec<ShuffleEffect>) {
        self.proceed(now, effects);
    }

    fn step(&mut self, now: Timestamp, input: ShuffleInput, effects: &mut Vec<ShuffleEffect>) {
        match input {
            ShuffleInput::Added(messages) => self.on_added(messages),
            ShuffleInput::Read { messages, is_end } => self.on_read(messages, is_end),
            ShuffleInput::Delivered { target } => self.on_delivered(target),
            ShuffleInput::NotDelivered { target } => self.on_not_delivered(now, target),
            ShuffleInput::Truncated => {
                for index in std::mem::take(&mut self.truncating) {
                    self.delivered.remove(&index);
                }
            }
            ShuffleInput::NotTruncated => {
                self.truncate_at = Timestamp(now.0.saturating_add(BACKOFF_FIRST_MS));
                self.to_truncate.extend(std::mem::take(&mut self.truncating));
            }
            ShuffleInput::Routed(routes) if routes == self.routes => {}
            ShuffleInput::Routed(routes) => {
                self.routes = routes;
                self.begin_again();
            }
            ShuffleInput::Tick => self.wake_at = None,
        }
        self.proceed(now, effects);
    }

    fn check(&self) {
        for (id, target) in &self.targets {
            target.check();
            assert!(target.through <= self.seen, "S1: {id} is ahead of the outbox");
        }
        let truncated = self.truncating.iter().chain(&self.to_truncate);
        for index in truncated {
            assert!(self.delivered.contains(index), "S3: {index} goes and was not delivered");
        }
    }
}
