//! An outbox, targets that apply messages above their marks, and the messages in flight.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use forebay_engine::{
    Machine,
    shuffle::{Routes, Shuffle, ShuffleEffect, ShuffleInput},
};
use forebay_messages::{
    PartitionId, PartitionKey, RecordSeq, Timestamp,
    command::{Deliver, OutboxMessage},
};

/// Partitions 1 to `count`; the keys of each begin at 100 times its number.
pub(super) fn routes(count: u32) -> Routes {
    let key = |of: u32| PartitionKey(u64::from(of) * 100);
    Routes::new(
        (1..=count)
            .map(|id| (key(id), PartitionKey(key(id).0 + 99), PartitionId(id)))
            .rev()
            .collect(),
    )
}

pub(super) fn message(index: u64, to: u32) -> OutboxMessage {
    let to = PartitionKey(u64::from(to) * 100 + index % 100);
    OutboxMessage { index: RecordSeq(index), to, ..OutboxMessage::default() }
}

#[derive(Default)]
struct Receiver {
    mark: u64,
    applied: Vec<u64>,
    in_flight: Option<Deliver>,
    is_blocked: bool,
}

/// The simulated environment of a shuffle.
pub(super) struct World {
    now: u64,
    partitions: u32,
    next_index: u64,
    outbox: BTreeMap<u64, OutboxMessage>,
    shuffle: Option<Shuffle>,
    receivers: BTreeMap<u32, Receiver>,
    hints: VecDeque<Vec<Arc<OutboxMessage>>>,
    read: Option<(Vec<Arc<OutboxMessage>>, bool)>,
    truncation: Option<Vec<RecordSeq>>,
    wake_at: Option<u64>,
    largest_command: usize,
}

impl World {
    pub(super) fn new(partitions: u32) -> Self {
        Self {
            now: 0,
            partitions,
            next_index: 1,
            outbox: BTreeMap::new(),
            shuffle: None,
            receivers: BTreeMap::new(),
            hints: VecDeque::new(),
            read: None,
            truncation: None,
            wake_at: None,
            largest_command: 0,
        }
    }

    /// A new leader of the source: only the proposals of the previous one are left.
    pub(super) fn lead(&mut self) {
        let mut shuffle = Shuffle::new(PartitionId(9), routes(self.partitions));
        (self.read, self.truncation, self.wake_at) = (None, None, None);
        self.hints.clear();
        for receiver in self.receivers.values_mut() {
            receiver.in_flight = None;
        }
        let mut effects = Vec::new();
        shuffle.start(Timestamp(self.now), &mut effects);
        self.shuffle = Some(shuffle);
        self.perform(effects);
    }

    pub(super) fn step(&mut self, input: ShuffleInput) {
        let Some(shuffle) = &mut self.shuffle else { return };
        let mut effects = Vec::new();
        shuffle.step(Timestamp(self.now), input, &mut effects);
        shuffle.check();
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<ShuffleEffect>) {
        for effect in effects {
            match effect {
                ShuffleEffect::Read { after, limit } => {
                    assert!(self.read.is_none(), "two reads at a time");
                    let rows = self.outbox.range(after.0 + 1..);
                    let rows: Vec<_> = rows.map(|(_, row)| Arc::new(row.clone())).collect();
                    let is_end = rows.len() <= limit;
                    self.read = Some((rows.into_iter().take(limit).collect(), is_end));
                }
                ShuffleEffect::Deliver { target, command } => {
                    assert!(!command.messages.is_empty(), "an empty command");
                    self.largest_command = self.largest_command.max(command.messages.len());
                    let receiver = self.receivers.entry(target.0).or_default();
                    let before = receiver.in_flight.replace(command);
                    assert!(before.is_none(), "two commands in flight to {target}");
                }
                ShuffleEffect::Truncate(command) => {
                    assert!(self.truncation.is_none(), "two truncations in flight");
                    self.truncation = Some(command.delivered);
                }
                ShuffleEffect::Unowned(messages) => {
                    let is_unowned = |message: &Arc<OutboxMessage>| {
                        routes(self.partitions).owner(message.to).is_none()
                    };
                    assert!(messages.iter().all(is_unowned), "{messages:?}");
                }
                ShuffleEffect::WakeAt(at) => self.wake_at = Some(at.0),
            }
        }
    }

    /// Messages to these partitions are committed; the notification is in flight.
    pub(super) fn send(&mut self, targets: impl IntoIterator<Item = u32>) {
        let mut hint = Vec::new();
        for to in targets {
            let message = message(self.next_index, to);
            self.outbox.insert(self.next_index, message.clone());
            hint.push(Arc::new(message));
            self.next_index += 1;
        }
        self.hints.push_back(hint);
    }

    pub(super) fn hint(&mut self) {
        if let Some(hint) = self.hints.pop_front() {
            self.step(ShuffleInput::Added(hint));
        }
    }

    pub(super) fn lose_hint(&mut self) {
        self.hints.pop_front();
    }

    pub(super) fn answer_read(&mut self) {
        if let Some((messages, is_end)) = self.read.take() {
            self.step(ShuffleInput::Read { messages, is_end });
        }
    }

    /// The command in flight to a target is applied or not, and its outcome is known or not.
    pub(super) fn receive(&mut self, id: u32, is_applied: bool, is_known: bool) {
        let Some(receiver) = self.receivers.get_mut(&id) else { return };
        let Some(command) = receiver.in_flight.take_if(|_| !receiver.is_blocked) else { return };
        for message in command.messages.iter().filter(|_| is_applied) {
            if message.index.0 > receiver.mark {
                receiver.mark = message.index.0;
                receiver.applied.push(message.index.0);
            }
        }
        let target = PartitionId(id);
        self.step(match is_applied && is_known {
            true => ShuffleInput::Delivered { target },
            false => ShuffleInput::NotDelivered { target },
        });
    }

    pub(super) fn answer_truncation(&mut self, is_applied: bool, is_known: bool) {
        let Some(indexes) = self.truncation.take() else { return };
        for index in indexes.iter().filter(|_| is_applied) {
            let row = self.outbox.remove(&index.0);
            let is_there = |receiver: &Receiver| receiver.applied.binary_search(&index.0).is_ok();
            let is_applied = row.is_none() || self.receivers.values().any(is_there);
            assert!(is_applied, "{index} was deleted before it was applied");
        }
        self.step(match is_applied && is_known {
            true => ShuffleInput::Truncated,
            false => ShuffleInput::NotTruncated,
        });
    }

    /// Sets the table to partitions 1 to `count`.
    pub(super) fn route(&mut self, count: u32) {
        self.partitions = count;
        self.step(ShuffleInput::Routed(routes(count)));
    }

    /// Advances the time to the requested tick.
    pub(super) fn tick(&mut self) {
        if let Some(at) = self.wake_at.take() {
            self.now = self.now.max(at);
            self.step(ShuffleInput::Tick);
        }
    }

    /// Delivers everything, until nothing changes.
    pub(super) fn settle(&mut self) {
        for _ in 0..100_000 {
            let busy = |of: &Receiver| of.in_flight.is_some() && !of.is_blocked;
            let receiver = self.receivers.iter().find(|(_, of)| busy(of)).map(|(id, _)| *id);
            if !self.hints.is_empty() {
                self.hint();
            } else if self.read.is_some() {
                self.answer_read();
            } else if let Some(id) = receiver {
                self.receive(id, true, true);
            } else if self.truncation.is_some() {
                self.answer_truncation(true, true);
            } else if self.wake_at.is_some() {
                self.tick();
            } else {
                return;
            }
        }
        panic!("it does not settle");
    }

    pub(super) fn block(&mut self, id: u32) {
        self.receivers.entry(id).or_default().is_blocked = true;
    }

    pub(super) fn unblock(&mut self, id: u32) {
        self.receivers.entry(id).or_default().is_blocked = false;
    }

    pub(super) fn applied(&self, id: u32) -> Vec<u64> {
        self.receivers.get(&id).map(|of| of.applied.clone()).unwrap_or_default()
    }

    pub(super) fn outbox(&self) -> Vec<u64> {
        self.outbox.keys().copied().collect()
    }

    pub(super) fn held(&self) -> usize {
        self.shuffle.as_ref().map_or(0, Shuffle::held)
    }

    pub(super) fn largest_command(&self) -> usize {
        self.largest_command
    }
}
