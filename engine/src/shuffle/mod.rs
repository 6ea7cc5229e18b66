//! The shuffle of one leading partition: it delivers the messages of the partition's outbox to
//! their target partitions.
//!
//! Must always hold:
//! - S1: a target gets messages in the order of their indexes, without gaps.
//! - S2: at most one command per target is in flight. The receiver skips messages up to the last
//!   one it applied, so a command that overtook an earlier one would make it lose messages.
//! - S3: a message is deleted from the outbox only after its target applied it.
//! - S4: a target that does not answer delays no other target, and occupies memory for at most
//!   [`HELD_PER_TARGET_MAX`] messages; the rest stays in the outbox.
//!
//! A command whose outcome is unknown is sent again unchanged: the receiver skips messages that it
//! has applied. A message whose key belongs to no partition is reported (the caller ends its call)
//! and stays in the outbox until a partition owns the key. The range of a partition never grows (S1
//! depends on it: otherwise messages with low indexes could become its own after it got higher
//! ones).
//!
//! Must not know: the content of messages, which replica leads, how commands travel, how rows are
//! read.

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

/// Maximum number of messages for one target in memory.
pub const HELD_PER_TARGET_MAX: usize = 2 * MESSAGES_PER_RECORD_MAX;
/// Once a command has this many bytes of messages, it takes no more.
pub const DELIVER_BYTES_MAX: usize = 1 << 20;
/// Maximum number of messages per read of the outbox.
pub const READ_MAX: usize = 512;

/// Key ranges and their partitions, ascending and without overlaps.
///
/// Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes(Arc<[(PartitionKey, PartitionKey, PartitionId)]>);

impl Routes {
    /// Builds them from ranges in any order, both ends included.
    #[must_use]
    pub fn new(mut ranges: Vec<(PartitionKey, PartitionKey, PartitionId)>) -> Self {
        ranges.sort_unstable();
        Self(ranges.into())
    }

    /// Whether a partition owns keys.
    #[must_use]
    pub fn contains(&self, partition: PartitionId) -> bool {
        self.0.iter().any(|(_, _, id)| *id == partition)
    }

    /// The partition that owns a key.
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
    /// These messages were committed to the outbox, in the order of their indexes.
    Added(Vec<Arc<OutboxMessage>>),
    /// Answers [`ShuffleEffect::Read`] with the messages committed at the time of the read.
    Read {
        /// The messages, in the order of their indexes.
        messages: Vec<Arc<OutboxMessage>>,
        /// Whether there were no further messages.
        is_end: bool,
    },
    /// A target applied its command.
    Delivered {
        /// The target.
        target: PartitionId,
    },
    /// The command was not applied, or its outcome is unknown.
    NotDelivered {
        /// The target.
        target: PartitionId,
    },
    /// The truncation was applied.
    Truncated,
    /// The truncation was not applied, or its outcome is unknown.
    NotTruncated,
    /// The ranges of partitions changed.
    Routed(Routes),
    /// The requested time has come.
    Tick,
}

/// Effects of a shuffle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShuffleEffect {
    /// Read messages of the outbox; answered once with [`ShuffleInput::Read`]. There is one read at
    /// a time.
    Read {
        /// Read messages after this index.
        after: RecordSeq,
        /// Maximum number of messages.
        limit: usize,
    },
    /// Send a command to the leader of a partition; answered once with [`ShuffleInput::Delivered`]
    /// or [`ShuffleInput::NotDelivered`].
    Deliver {
        /// The partition.
        target: PartitionId,
        /// The command.
        command: Deliver,
    },
    /// No partition owns the keys of these messages: end the calls that wait for answers. They
    /// stay in the outbox; the next shuffle, and this one when routes change, reports them again.
    Unowned(Vec<Arc<OutboxMessage>>),
    /// Propose this to this partition; answered once with [`ShuffleInput::Truncated`] or
    /// [`ShuffleInput::NotTruncated`].
    Truncate(TruncateOutbox),
    /// Send [`ShuffleInput::Tick`] at this time, instead of an earlier request.
    WakeAt(Timestamp),
}

/// A read of the outbox in progress.
#[derive(Clone, Copy, Debug)]
struct Reading {
    after: RecordSeq,
    /// The highest index known when it began.
    highest: RecordSeq,
    /// It was requested under routes that have changed since.
    is_stale: bool,
}

/// The shuffle of one partition.
#[derive(Debug)]
pub struct Shuffle {
    source: PartitionId,
    routes: Routes,
    /// Once a command has this many bytes of messages, it takes no more.
    bytes_max: usize,
    targets: BTreeMap<PartitionId, Target>,
    /// The highest index known to exist.
    highest: RecordSeq,
    /// All messages up to here have been examined for every target.
    frontier: RecordSeq,
    reading: Option<Reading>,
    /// The outbox was read to its end at least once.
    knows_end: bool,
    /// Messages that their targets applied, and that may still be in the outbox.
    delivered: BTreeSet<RecordSeq>,
    to_truncate: VecDeque<RecordSeq>,
    truncating: Vec<RecordSeq>,
    /// Messages without an owner that are to be reported.
    unowned: Vec<Arc<OutboxMessage>>,
    /// Time of the next attempt to truncate.
    truncate_at: Timestamp,
    wake_at: Option<Timestamp>,
}

impl Shuffle {
    /// The shuffle of a partition that becomes leader.
    #[must_use]
    pub fn new(source: PartitionId, routes: Routes) -> Self {
        Self {
            source,
            routes,
            bytes_max: DELIVER_BYTES_MAX,
            targets: BTreeMap::new(),
            highest: RecordSeq(0),
            frontier: RecordSeq(0),
            reading: None,
            knows_end: false,
            delivered: BTreeSet::new(),
            to_truncate: VecDeque::new(),
            truncating: Vec::new(),
            unowned: Vec::new(),
            truncate_at: Timestamp(0),
            wake_at: None,
        }
    }

    /// Limits commands to this many bytes, for a log with smaller records.
    #[must_use]
    pub fn with_room(mut self, bytes: usize) -> Self {
        self.bytes_max = bytes.min(DELIVER_BYTES_MAX);
        self
    }

    /// Number of messages in memory.
    #[must_use]
    pub fn held(&self) -> usize {
        self.targets.values().map(Target::held).sum()
    }

    /// Takes a section of the outbox: all messages above `after` and up to `through`.
    fn take_in(&mut self, after: RecordSeq, through: RecordSeq, page: Vec<Arc<OutboxMessage>>) {
        for message in page {
            let index = message.index;
            let Some(owner) = self.routes.owner(message.to) else {
                self.unowned.push(message);
                continue;
            };
            let is_underway = |target: &Target| target.is_in_flight(index);
            if self.delivered.contains(&index) || self.targets.values().any(is_underway) {
                continue;
            }
            let frontier = self.frontier;
            let target = self.targets.entry(owner).or_insert_with(|| Target::new(frontier));
            // A target that lacks messages before this section catches up later.
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
        self.highest = self.highest.max(through);
    }

    fn on_added(&mut self, messages: Vec<Arc<OutboxMessage>>) {
        let (Some(first), Some(last)) = (messages.first(), messages.last()) else { return };
        let (first, last) = (first.index, last.index);
        if self.knows_end && first == self.highest.next() {
            self.take_in(self.highest, last, messages);
        }
        // Otherwise some were missed: they are read from the outbox.
        self.highest = self.highest.max(last);
    }

    fn on_read(&mut self, messages: Vec<Arc<OutboxMessage>>, is_end: bool) {
        let Some(Reading { after, highest, is_stale: false }) = self.reading.take() else { return };
        let last = messages.last().map_or(after, |last| last.index);
        // At the end of the outbox, no earlier index is left to read.
        let through = if is_end { last.max(highest) } else { last };
        self.knows_end |= is_end;
        self.take_in(after, through, messages);
    }

    /// Starts over at the beginning of the outbox.
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

    /// Sends every command that may be sent.
    fn deliver(&mut self, now: Timestamp, effects: &mut Vec<ShuffleEffect>) {
        for (id, target) in &mut self.targets {
            if let Some(messages) = target.next_batch(now, self.bytes_max) {
                let messages = messages.iter().map(|message| (**message).clone()).collect();
                // Messages have incarnations of their own.
                let incarnation = Incarnation::default();
                let command = Deliver { source: self.source, incarnation, messages };
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

    /// Reads more for the target that is furthest behind and has room.
    fn read(&mut self, effects: &mut Vec<ShuffleEffect>) {
        if self.reading.is_some() {
            return;
        }
        let frontier = (!self.knows_end || self.frontier < self.highest).then_some(self.frontier);
        let behind = self.targets.values().filter(|target| target.has_room());
        let behind = behind.map(|target| target.through).filter(|through| *through < self.highest);
        if let Some(after) = behind.chain(frontier).min() {
            self.reading = Some(Reading { after, highest: self.highest, is_stale: false });
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
        if !self.unowned.is_empty() {
            effects.push(ShuffleEffect::Unowned(std::mem::take(&mut self.unowned)));
        }
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
            assert!(target.through <= self.highest, "S1: {id} is ahead of the outbox");
        }
        let truncated = self.truncating.iter().chain(&self.to_truncate);
        for index in truncated {
            assert!(self.delivered.contains(index), "S3: {index} is truncated but not delivered");
        }
    }
}
