//! Room in the outbox: the number of messages to each partition, and the calls and sends that wait
//! because there are too many.
//!
//! Must always hold: the writes of one attempt to one target are proposed in their order; a write
//! waits only while messages to its target are in the outbox or in proposed records, so that a
//! delivery lets it continue; an attempt's suspension follows its last write. Answers, cancels and
//! kills never wait: a record that adds them is never held back, so two partitions that wait for
//! each other continue.
//!
//! Must not know: how messages are delivered, which replica leads a target.

use std::collections::{BTreeMap, VecDeque};

use forebay_messages::{
    AttemptToken, EntryId, PartitionId, PartitionKey, RecordSeq, ReplyId, Run,
    command::{JournalWrite, Operation, OutboxMessage, SuspendAttempt},
    journal::{StepId, child_id},
};

use crate::shuffle::Routes;

use super::{
    Partition,
    effect::{Answer, PartitionEffect},
};

/// Calls and sends of an entry that wait for room in the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxWait {
    /// The partition of the children.
    pub target: PartitionId,
    /// Number of waiting calls and sends of the entry.
    pub calls: usize,
    /// Number of messages to that partition.
    pub messages: usize,
}

/// The committed messages of an outbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutboxCount {
    /// Which keys belong to which partition.
    pub routes: Routes,
    /// Number of messages by the partition that owns their destination.
    pub messages: Vec<(PartitionId, usize)>,
}

/// A write that waits.
#[derive(Clone, Debug)]
struct Waiting {
    entry: EntryId,
    token: AttemptToken,
    write: JournalWrite,
}

/// The messages to one partition.
#[derive(Clone, Debug, Default)]
struct Target {
    /// In the outbox.
    stored: usize,
    /// Calls and sends that are handed in or proposed, and not applied.
    proposed: usize,
    /// In the order in which they were handed in.
    waiting: VecDeque<Waiting>,
}

impl Target {
    fn has_room(&self, messages_max: usize) -> bool {
        self.stored + self.proposed < messages_max
    }
}

/// Room in the outbox of a partition.
#[derive(Debug)]
pub(super) struct OutboxRoom {
    /// Maximum number of messages to one partition.
    messages_max: usize,
    routes: Routes,
    targets: BTreeMap<PartitionId, Target>,
    /// The targets of calls and sends that were handed in since the last flush.
    unproposed: Vec<PartitionId>,
    /// The same for each flush, with the last record that it proposed.
    in_flight: VecDeque<(RecordSeq, Vec<PartitionId>)>,
    /// Number of waiting writes.
    waiting: usize,
    /// Suspensions of attempts with waiting writes, at most one per attempt.
    suspends: Vec<SuspendAttempt>,
}

impl OutboxRoom {
    pub(super) fn new(messages_max: usize) -> Self {
        Self {
            messages_max: messages_max.max(1),
            routes: Routes::default(),
            targets: BTreeMap::new(),
            unproposed: Vec::new(),
            in_flight: VecDeque::new(),
            waiting: 0,
            suspends: Vec::new(),
        }
    }

    /// Another replica leads.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.messages_max);
    }

    fn target_of(&self, key: PartitionKey) -> Option<PartitionId> {
        self.routes.owner(key)
    }

    /// Takes the writes of an attempt; returns the ones that need not wait. A child in keys without
    /// an owner needs no room: its call ends.
    pub(super) fn admit(
        &mut self,
        (entry, token, run): (EntryId, AttemptToken, Run),
        mut writes: Vec<JournalWrite>,
    ) -> Vec<JournalWrite> {
        if !writes.iter().any(adds_message) {
            return writes;
        }
        let admitted = writes.drain(..).filter_map(|write| {
            let (Some(Operation::Call(child)) | Some(Operation::Send(child))) = &write.operation
            else {
                return Some(write);
            };
            let step = StepId { entry, run, key: write.key.clone() };
            let child = child_id(&step, &child.vqueue);
            let Some(id) = self.target_of(child.partition_key) else { return Some(write) };
            let target = self.targets.entry(id).or_default();
            if !target.waiting.is_empty() || !target.has_room(self.messages_max) {
                target.waiting.push_back(Waiting { entry, token, write });
                self.waiting += 1;
                return None;
            }
            target.proposed += 1;
            self.unproposed.push(id);
            Some(write)
        });
        admitted.collect()
    }

    /// Everything admitted so far was proposed, in records up to this one.
    pub(super) fn proposed(&mut self, last: RecordSeq) {
        if !self.unproposed.is_empty() {
            self.in_flight.push_back((last, std::mem::take(&mut self.unproposed)));
        }
    }

    /// A proposed record was applied.
    pub(super) fn applied(&mut self, record: RecordSeq) {
        while self.in_flight.front().is_some_and(|(last, _)| *last <= record) {
            for id in self.in_flight.pop_front().into_iter().flat_map(|(_, targets)| targets) {
                if let Some(target) = self.targets.get_mut(&id) {
                    target.proposed = target.proposed.saturating_sub(1);
                }
            }
        }
    }

    /// A message was committed to the outbox.
    pub(super) fn added(&mut self, message: &OutboxMessage) {
        if let Some(id) = self.target_of(message.to) {
            self.targets.entry(id).or_default().stored += 1;
        }
    }

    /// Messages with these destinations were deleted from it.
    pub(super) fn removed(&mut self, destinations: &[PartitionKey]) {
        for key in destinations {
            let id = self.target_of(*key);
            if let Some(target) = id.and_then(|id| self.targets.get_mut(&id)) {
                target.stored = target.stored.saturating_sub(1);
            }
        }
    }

    /// The messages were counted. Waiting writes look for their targets again.
    fn counted(&mut self, count: OutboxCount) {
        self.routes = count.routes;
        for target in self.targets.values_mut() {
            target.stored = 0;
        }
        for (id, stored) in count.messages {
            self.targets.entry(id).or_default().stored = stored;
        }
    }

    /// Admits waiting writes as far as there is room; returns them, in their order per target.
    fn release(&mut self) -> Vec<(EntryId, AttemptToken, JournalWrite)> {
        let mut released = Vec::new();
        if self.waiting == 0 {
            return released;
        }
        let (messages_max, routes) = (self.messages_max, &self.routes);
        for (id, target) in &mut self.targets {
            // A target that is gone needs no room: the calls end.
            let is_gone = !routes.contains(*id);
            while (is_gone || target.has_room(messages_max))
                && let Some(Waiting { entry, token, write }) = target.waiting.pop_front()
            {
                target.proposed += 1;
                self.unproposed.push(*id);
                self.waiting -= 1;
                released.push((entry, token, write));
            }
        }
        released
    }

    /// Drops the waiting writes of an attempt that is over.
    pub(super) fn drop_waiting(&mut self, token: AttemptToken) {
        if self.waiting == 0 {
            return;
        }
        for target in self.targets.values_mut() {
            let before = target.waiting.len();
            target.waiting.retain(|waiting| waiting.token != token);
            self.waiting -= before - target.waiting.len();
        }
        self.suspends.retain(|suspend| suspend.token != token);
    }

    /// Whether writes of an attempt wait.
    fn makes_wait(&self, token: AttemptToken) -> bool {
        let waits = |target: &Target| target.waiting.iter().any(|waiting| waiting.token == token);
        self.waiting > 0 && self.targets.values().any(waits)
    }

    /// Keeps the suspension of an attempt whose writes wait, because a call that is not in the
    /// journal cannot wake it; returns any other.
    pub(super) fn admit_suspend(&mut self, suspend: SuspendAttempt) -> Option<SuspendAttempt> {
        if !self.makes_wait(suspend.token) {
            return Some(suspend);
        }
        self.suspends.retain(|before| before.token != suspend.token);
        self.suspends.push(suspend);
        None
    }

    /// Takes the suspensions whose attempts have no waiting writes left.
    fn release_suspends(&mut self) -> Vec<SuspendAttempt> {
        let suspends = std::mem::take(&mut self.suspends);
        let (kept, released) =
            suspends.into_iter().partition(|suspend| self.makes_wait(suspend.token));
        self.suspends = kept;
        released
    }

    /// What an entry waits for.
    fn waits_of(&self, entry: EntryId) -> Vec<OutboxWait> {
        let of = |(id, target): (&PartitionId, &Target)| {
            let calls = target.waiting.iter().filter(|waiting| waiting.entry == entry).count();
            let messages = target.stored + target.proposed;
            (calls > 0).then_some(OutboxWait { target: *id, calls, messages })
        };
        self.targets.iter().filter_map(of).collect()
    }

    pub(super) fn check(&self) {
        let waiting: usize = self.targets.values().map(|target| target.waiting.len()).sum();
        assert_eq!(waiting, self.waiting, "waiting writes are counted");
        for suspend in &self.suspends {
            assert!(self.makes_wait(suspend.token), "a kept suspension waits for a write");
        }
        let proposed: usize = self.targets.values().map(|target| target.proposed).sum();
        let in_flight: usize = self.in_flight.iter().map(|(_, targets)| targets.len()).sum();
        assert_eq!(proposed, in_flight + self.unproposed.len(), "proposed calls are counted");
    }
}

fn adds_message(write: &JournalWrite) -> bool {
    matches!(write.operation, Some(Operation::Call(_) | Operation::Send(_)))
}

impl Partition {
    /// Proposes waiting writes for which there is room now.
    pub(super) fn release_writes(&mut self, effects: &mut Vec<PartitionEffect>) {
        let released = self.outbox_room.release();
        if released.is_empty() {
            return;
        }
        for (entry, token, write) in released {
            self.add_writes(entry, token, vec![write]);
        }
        self.journals.add_suspends(self.outbox_room.release_suspends());
        self.schedule_flush(effects);
    }

    /// The messages of the outbox were counted.
    pub(super) fn on_outbox_counted(
        &mut self,
        count: OutboxCount,
        effects: &mut Vec<PartitionEffect>,
    ) {
        if self.phase.has_limiter() {
            self.outbox_room.counted(count);
            self.release_writes(effects);
        }
    }

    /// Key ranges changed their owners.
    pub(super) fn on_rerouted(&self, effects: &mut Vec<PartitionEffect>) {
        if self.phase.has_limiter() {
            effects.push(PartitionEffect::CountOutbox);
        }
    }

    pub(super) fn on_ask_outbox(
        &self,
        entry: EntryId,
        to: ReplyId,
        effects: &mut Vec<PartitionEffect>,
    ) {
        let answer = Answer::OutboxWaits(self.outbox_room.waits_of(entry));
        effects.push(PartitionEffect::Answer { to, answer });
    }
}
