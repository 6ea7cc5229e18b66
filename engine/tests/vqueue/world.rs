//! One vqueue and everything around it: a partition that applies decisions, storage, timers, refill
//! workers and a limiter, each with a mailbox that lags.
//!
//! Must always hold, checked at each step: a decision is for a stored row that is due, the first
//! reported to the vqueue, and not decided already; with a lock, one entry at a time; permits are
//! neither lost nor used twice.

use std::collections::{BTreeSet, VecDeque};

use forebay_engine::{
    Machine,
    inbox::Inbox,
    vqueue::{Rest, Stage, VQueue, VQueueConfig, VQueueEffect, wish},
};
use forebay_messages::{
    EntryId, EntryKey, InboxSeq, PartitionKey, PermitId, Timestamp, VQueueId,
    actor::{
        InboxChange, LockWish, Permits, RefillDone, RefillFailed, RefillRequest, VQueueMessage,
    },
};

use super::fake_limiter::{FakeLimiter, ToLimiter};
pub(crate) use super::options::Options;

struct Scan {
    request: RefillRequest,
    snapshot: Option<RefillDone>,
}

pub(crate) struct World {
    options: Options,
    pub(crate) now: Timestamp,
    vqueue: Option<VQueue>,
    incarnation: u32,
    mailbox: VecDeque<VQueueMessage>,
    /// There is no incarnation, and an `Acquire` is outstanding under this number.
    waits: bool,
    /// Messages held back while an answer to `Passivate` is awaited.
    passivating: Option<Vec<VQueueMessage>>,
    /// Why there is no incarnation.
    cold: Option<Rest>,
    to_partition: VecDeque<VQueueEffect>,
    limiter: FakeLimiter,
    pub(crate) stored: BTreeSet<EntryKey>,
    /// Decisions that the partition owns and has not applied.
    decisions: VecDeque<(EntryKey, PermitId)>,
    running: Vec<(EntryKey, PermitId)>,
    timer: Option<Timestamp>,
    scans: VecDeque<Scan>,
    reads: usize,
    pub(crate) paused: bool,
    draining: bool,
    seq: u64,
    open: BTreeSet<EntryId>,
    pub(crate) ended: usize,
}

impl World {
    pub(crate) fn new(options: Options) -> Self {
        let mut world = Self {
            options,
            now: Timestamp(1_000),
            vqueue: None,
            incarnation: 0,
            mailbox: VecDeque::new(),
            waits: false,
            passivating: None,
            cold: Some(Rest::Empty),
            to_partition: VecDeque::new(),
            limiter: FakeLimiter::new(options.has_lock, options.limit),
            stored: BTreeSet::new(),
            decisions: VecDeque::new(),
            running: Vec::new(),
            timer: None,
            scans: VecDeque::new(),
            reads: 0,
            paused: false,
            draining: options.draining,
            seq: 0,
            open: BTreeSet::new(),
            ended: 0,
        };
        world.activate(Vec::new(), None);
        world
    }

    // The vqueue and its effects.

    /// With permits, starts the incarnation that asked for them; otherwise a new one.
    fn activate(&mut self, replay: Vec<VQueueMessage>, permits: Option<Permits>) {
        if permits.is_none() {
            self.incarnation += 1;
        }
        self.cold = None;
        self.waits = false;
        let config = VQueueConfig {
            id: VQueueId::default(),
            has_lock: self.options.has_lock,
            quantum: self.options.quantum,
            paused: self.paused,
            draining: self.draining,
        };
        let dispatched = self.decisions.iter().map(|(key, _)| *key).collect();
        let inbox = Inbox::with_capacity(self.options.capacity, dispatched);
        let vqueue = VQueue::with_inbox(config, inbox);
        self.vqueue = Some(match permits {
            Some(permits) => vqueue.with_permits(permits),
            None => vqueue,
        });
        self.mailbox = replay.into();
        let mut effects = Vec::new();
        self.vqueue.as_mut().unwrap().start(self.now, &mut effects);
        self.perform(effects);
    }

    /// Delivers one message to the vqueue.
    pub(crate) fn deliver(&mut self) -> bool {
        let Some(message) = self.mailbox.pop_front() else {
            return false;
        };
        self.step(message);
        true
    }

    fn step(&mut self, message: VQueueMessage) {
        let Some(vqueue) = &mut self.vqueue else {
            return;
        };
        let mut effects = Vec::new();
        vqueue.step(self.now, message, &mut effects);
        vqueue.check();
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<VQueueEffect>) {
        for effect in effects {
            match effect {
                VQueueEffect::Acquire { count, lock } => self.acquire(count, lock),
                VQueueEffect::ReturnPermit(permit) => self.release(permit, None),
                VQueueEffect::Decide { keys, permits } => {
                    assert_eq!(keys.len(), permits.count as usize, "a permit each");
                    for (key, permit) in keys.into_iter().zip(permits.iter()) {
                        self.check_decision(key);
                        let (keys, permits) = (vec![key], Permits::one(permit));
                        self.to_partition.push_back(VQueueEffect::Decide { keys, permits });
                    }
                }
                VQueueEffect::ReadInbox(request) => self.read(request),
                VQueueEffect::ArmTimer(at) | VQueueEffect::RetryRefillAt(at) => {
                    self.timer = Some(at);
                }
                VQueueEffect::DisarmTimer => self.timer = None,
                VQueueEffect::Passivated(_) => {
                    let is_open = self.dispatched().any(|key| self.stored.contains(&key));
                    assert!(!is_open, "passivated with an unanswered decision");
                    let is_idle = self.scans.iter().all(|scan| scan.request.cancel.is_canceled());
                    assert!(is_idle, "passivated with a refill");
                    self.scans.clear();
                    self.vqueue = None;
                    self.to_partition.push_back(effect);
                }
                VQueueEffect::StillNeeded | VQueueEffect::Idle(_) | VQueueEffect::WantsToGo(_) => {
                    self.to_partition.push_back(effect);
                }
            }
        }
    }

    fn acquire(&mut self, count: u32, lock: LockWish) {
        assert!((1..=self.options.quantum).contains(&count), "asked for {count}");
        if self.options.has_lock {
            let unanswered =
                self.vqueue.as_ref().map_or(0, |vqueue| vqueue.inbox().dispatched().len());
            assert_eq!(unanswered, 0, "asked before the last decision was answered");
            assert!(count == 1 && lock != LockWish::None, "asked {count} under {lock:?}");
        } else {
            assert_eq!(lock, LockWish::None);
        }
        assert!(!self.vqueue.as_ref().is_some_and(VQueue::is_paused), "asked while paused");
        let incarnation = self.incarnation;
        self.limiter.mailbox.push_back(ToLimiter::Acquire { incarnation, count, lock });
    }

    fn dispatched(&self) -> impl Iterator<Item = EntryKey> {
        let handed_over = self.to_partition.iter().filter_map(|effect| match effect {
            VQueueEffect::Decide { keys, .. } => Some(keys),
            _ => None,
        });
        self.decisions.iter().map(|(key, _)| *key).chain(handed_over.flatten().copied())
    }

    /// Whether a message about the row is still in transit.
    fn is_reported(&self, key: EntryKey) -> bool {
        let held_back = self.passivating.iter().flatten();
        !self.mailbox.iter().chain(held_back).any(|message| match message {
            VQueueMessage::Notify(changes) => changes.iter().any(|change| match change {
                InboxChange::Enqueued(other) | InboxChange::Removed(other) => *other == key,
            }),
            VQueueMessage::DecisionVoid(other) => *other == key,
            _ => false,
        })
    }

    fn check_decision(&self, key: EntryKey) {
        let vqueue = self.vqueue.as_ref().unwrap();
        assert!(!vqueue.is_paused(), "decided while paused");
        assert_ne!(vqueue.stage(), Stage::Running, "decided while draining");
        assert!(key.run_at <= self.now, "decided {key:?} at {:?}", self.now);
        let dispatched: BTreeSet<EntryKey> = self.dispatched().collect();
        assert!(!dispatched.contains(&key), "{key:?} was decided twice");
        let is_there = self.stored.contains(&key) || !self.is_reported(key);
        assert!(is_there, "{key:?} was decided after its removal was reported");
        for earlier in self.stored.range(..key) {
            let is_known = self.is_reported(*earlier) && !dispatched.contains(earlier);
            assert!(!is_known, "{key:?} was decided before {earlier:?}");
        }
        let is_alone = dispatched.is_empty() && self.running.is_empty();
        assert!(!self.options.has_lock || is_alone, "two entries under one lock");
    }

    // Storage and its readers.

    fn read(&mut self, request: RefillRequest) {
        assert!(self.scans.iter().all(|scan| scan.request.cancel.is_canceled()));
        self.reads += 1;
        self.scans.push_back(Scan { request, snapshot: None });
        if self.options.inline_every > 0 && self.reads.is_multiple_of(self.options.inline_every) {
            self.snapshot(usize::MAX);
            let done = self.scans.pop_back().and_then(|scan| scan.snapshot).unwrap();
            self.step(VQueueMessage::RefillDone(done));
        }
    }

    pub(crate) fn snapshot(&mut self, limit: usize) {
        let Some(scan) = self.scans.back_mut().filter(|scan| scan.snapshot.is_none()) else {
            return;
        };
        let after = scan.request.after;
        let mut rows = self.stored.iter().filter(|key| after.is_none_or(|after| **key > after));
        let limit = limit.clamp(1, scan.request.limit);
        let read = rows.by_ref().take(limit).copied().collect();
        let reached_end = rows.next().is_none();
        scan.snapshot = Some(RefillDone { id: scan.request.id, rows: read, reached_end });
    }

    pub(crate) fn finish_scan(&mut self, limit: usize) -> bool {
        self.snapshot(limit);
        let Some(scan) = self.scans.pop_front() else {
            return false;
        };
        let done = scan.snapshot.unwrap_or(RefillDone {
            id: scan.request.id,
            rows: Vec::new(),
            reached_end: false,
        });
        self.mailbox.push_back(VQueueMessage::RefillDone(done));
        true
    }

    pub(crate) fn fail_scan(&mut self) {
        if let Some(scan) = self.scans.pop_front() {
            let failed = RefillFailed { id: scan.request.id, reason: "disk".to_owned() };
            self.mailbox.push_back(VQueueMessage::RefillFailed(failed));
        }
    }

    // The partition.

    /// A vqueue that waits without an incarnation now needs something else of the limiter.
    fn wait_no_more(&mut self, message: &VQueueMessage) {
        let matters = match message {
            VQueueMessage::Notify(changes) => changes.iter().any(|change| match change {
                InboxChange::Enqueued(key) => key.has_lock,
                InboxChange::Removed(_) => true,
            }),
            VQueueMessage::Pause => true,
            _ => false,
        };
        if matters {
            self.limiter.mailbox.push_back(ToLimiter::Withdraw(self.incarnation));
            match self.paused {
                true => (self.waits, self.cold) = (false, Some(Rest::Paused)),
                false => self.activate(Vec::new(), None),
            }
        }
    }

    fn tell(&mut self, message: VQueueMessage) {
        if self.waits {
            return self.wait_no_more(&message);
        }
        if let Some(held_back) = &mut self.passivating {
            held_back.push(message);
        } else if self.vqueue.is_some() {
            self.mailbox.push_back(message);
        } else {
            let is_reason = match &message {
                VQueueMessage::Notify(changes) => {
                    changes.iter().any(|change| matches!(change, InboxChange::Enqueued(_)))
                }
                VQueueMessage::Resume => true,
                _ => false,
            };
            if is_reason {
                self.activate(vec![message], None);
            }
        }
    }

    /// Merges changes that the vqueue has not received yet: one message, many changes.
    fn tell_change(&mut self, changes: &[InboxChange]) {
        if self.passivating.is_none()
            && let Some(VQueueMessage::Notify(last)) = self.mailbox.back_mut()
        {
            last.extend(changes);
            return;
        }
        self.tell(VQueueMessage::Notify(changes.to_vec()));
    }

    fn next_key(&mut self, entry: EntryId, has_lock: bool, delay_ms: u64) -> EntryKey {
        self.seq += 1;
        EntryKey {
            has_lock,
            run_at: Timestamp(self.now.0 + delay_ms),
            seq: InboxSeq(self.seq),
            entry,
        }
    }

    pub(crate) fn enqueue(&mut self, count: usize, delay_ms: u64) {
        let mut changes = Vec::new();
        for _ in 0..count.min(self.options.entries_max.saturating_sub(self.open.len())) {
            let mut uuid = [0; 16];
            uuid[8..].copy_from_slice(&(self.seq + 1).to_be_bytes());
            let entry = EntryId { partition_key: PartitionKey(7), uuid };
            self.open.insert(entry);
            let key = self.next_key(entry, false, delay_ms);
            self.stored.insert(key);
            changes.push(InboxChange::Enqueued(key));
        }
        if !changes.is_empty() {
            self.tell_change(&changes);
        }
    }

    fn nth_stored(&self, pick: usize) -> Option<EntryKey> {
        self.stored.iter().nth(pick % self.stored.len().max(1)).copied()
    }

    pub(crate) fn cancel(&mut self, pick: usize) {
        if let Some(key) = self.nth_stored(pick) {
            self.stored.remove(&key);
            self.open.remove(&key.entry);
            if key.has_lock {
                self.limiter.mailbox.push_back(ToLimiter::FreeLock(key.entry));
            }
            self.tell_change(&[InboxChange::Removed(key)]);
        }
    }

    pub(crate) fn reschedule(&mut self, pick: usize, delay_ms: u64) {
        if let Some(key) = self.nth_stored(pick) {
            self.stored.remove(&key);
            let moved = self.next_key(key.entry, key.has_lock, delay_ms);
            self.stored.insert(moved);
            self.tell_change(&[InboxChange::Removed(key), InboxChange::Enqueued(moved)]);
        }
    }

    fn release(&mut self, permit: PermitId, keep_lock: Option<EntryId>) {
        self.limiter.mailbox.push_back(ToLimiter::Release { permit, keep_lock });
    }

    /// Applies the oldest decision. A decision whose row is gone has no effect; one of a paused
    /// vqueue, or declared void by the case, leaves the row in place.
    pub(crate) fn apply(&mut self, is_void: bool) -> bool {
        let Some((key, permit)) = self.decisions.pop_front() else {
            return false;
        };
        if !self.stored.contains(&key) {
            self.release(permit, None);
            self.tell_change(&[InboxChange::Removed(key)]); // also answers the decision
        } else if is_void || self.paused {
            self.release(permit, key.has_lock.then_some(key.entry));
            self.tell(VQueueMessage::DecisionVoid(key));
        } else {
            self.stored.remove(&key);
            self.running.push((key, permit));
            self.tell_change(&[InboxChange::Removed(key)]);
        }
        true
    }

    pub(crate) fn complete(&mut self, pick: usize) -> bool {
        if self.running.is_empty() {
            return false;
        }
        let (key, permit) = self.running.swap_remove(pick % self.running.len());
        assert!(self.open.remove(&key.entry), "{key:?} ended twice");
        self.ended += 1;
        self.release(permit, None);
        true
    }

    pub(crate) fn retry(&mut self, pick: usize, delay_ms: u64) {
        if !self.running.is_empty() {
            let (key, permit) = self.running.swap_remove(pick % self.running.len());
            let keep_lock = self.options.has_lock;
            let again = self.next_key(key.entry, keep_lock, delay_ms);
            self.stored.insert(again);
            self.release(permit, keep_lock.then_some(key.entry));
            self.tell_change(&[InboxChange::Enqueued(again)]);
        }
    }

    pub(crate) fn pause(&mut self) {
        self.paused = true;
        self.tell(VQueueMessage::Pause);
    }

    pub(crate) fn resume(&mut self) {
        self.paused = false;
        self.tell(VQueueMessage::Resume);
    }

    pub(crate) fn drained(&mut self) {
        self.draining = false;
        self.tell(VQueueMessage::Drained);
    }

    pub(crate) fn passivate(&mut self, makes_room: bool) {
        if self.vqueue.is_some() && self.passivating.is_none() {
            self.mailbox.push_back(match makes_room {
                true => VQueueMessage::MakeRoom,
                false => VQueueMessage::Passivate,
            });
            self.passivating = Some(Vec::new());
        }
    }

    /// Delivers one message to the partition.
    pub(crate) fn deliver_to_partition(&mut self) -> bool {
        match self.to_partition.pop_front() {
            None => return false,
            Some(VQueueEffect::Decide { keys, permits }) => {
                for (key, permit) in keys.into_iter().zip(permits.iter()) {
                    self.limiter.mailbox.push_back(ToLimiter::HandedOver(permit));
                    self.decisions.push_back((key, permit));
                }
            }
            Some(VQueueEffect::Passivated(rest)) => {
                self.limiter.mailbox.push_back(ToLimiter::Withdraw(self.incarnation));
                self.passivated(rest);
            }
            Some(VQueueEffect::StillNeeded) => {
                self.mailbox.extend(self.passivating.take().unwrap());
            }
            Some(_) => {}
        }
        true
    }

    fn passivated(&mut self, rest: Rest) {
        let held_back = self.passivating.take().unwrap();
        self.mailbox.clear(); // grants of the previous incarnation
        self.cold = Some(rest);
        self.timer = match rest {
            Rest::Until(at) => Some(at),
            Rest::Empty | Rest::Paused | Rest::Waits(_) => None,
            Rest::NotServed => unreachable!("only the shell reports it"),
        };
        let was_reported = |key: &EntryKey| {
            !held_back.iter().any(|message| match message {
                VQueueMessage::Notify(changes) => changes.contains(&InboxChange::Enqueued(*key)),
                _ => false,
            })
        };
        let known: Vec<_> = self.stored.iter().filter(|key| was_reported(key)).collect();
        match rest {
            Rest::Empty => assert!(known.is_empty(), "passivated as empty with {known:?}"),
            Rest::Until(at) if held_back.is_empty() => {
                let is_due = known.first().is_some_and(|head| head.run_at < at);
                assert!(!is_due, "sleeps until {at:?} over {known:?}");
            }
            Rest::Waits(head) if held_back.is_empty() => {
                assert!(known.first().is_none_or(|first| **first >= head), "waits for another");
            }
            Rest::Until(_) | Rest::Paused | Rest::Waits(_) => {}
            Rest::NotServed => unreachable!("only the shell reports it"),
        }
        if let (Rest::Waits(head), true) = (rest, held_back.is_empty()) {
            self.waits = true;
            self.incarnation += 1;
            let (incarnation, lock) = (self.incarnation, wish(self.options.has_lock, head));
            self.limiter.mailbox.push_back(ToLimiter::Acquire { incarnation, count: 1, lock });
        } else if !held_back.is_empty() {
            self.activate(held_back, None);
        }
    }

    /// The vqueue's actor dies; its death watch is the partition.
    pub(crate) fn kill(&mut self) {
        if self.vqueue.is_none() {
            return;
        }
        while self.deliver_to_partition() {}
        if self.vqueue.is_some() {
            self.passivating = None;
            self.scans.clear();
            self.timer = None;
            self.limiter.mailbox.push_back(ToLimiter::Withdraw(self.incarnation));
            self.activate(Vec::new(), None);
        }
    }

    // Time and the limiter.

    pub(crate) fn advance(&mut self, by_ms: u64) {
        self.now = Timestamp(self.now.0 + by_ms);
        if self.timer.is_some_and(|at| at <= self.now) {
            self.wake_early();
        }
    }

    /// The timer fires too early.
    pub(crate) fn wake_early(&mut self) {
        if self.timer.take().is_some() {
            match self.cold {
                Some(_) => self.activate(Vec::new(), None),
                None => self.wake(),
            }
        }
    }

    pub(crate) fn wake(&mut self) {
        if self.vqueue.is_some() {
            self.mailbox.push_back(VQueueMessage::Wake);
        }
    }

    pub(crate) fn deliver_to_limiter(&mut self) -> bool {
        self.limiter.deliver()
    }

    pub(crate) fn grant(&mut self) -> bool {
        let granted = self.limiter.grant();
        if let Some((incarnation, permits)) = granted
            && incarnation == self.incarnation
        {
            if self.waits {
                self.activate(Vec::new(), Some(permits));
            } else if self.vqueue.is_some() {
                self.mailbox.push_back(VQueueMessage::Granted(permits));
            }
        }
        granted.is_some()
    }

    /// From now on nothing fails: every entry must end, and everything must come to rest. Panics if
    /// anything waits without a reason.
    pub(crate) fn finish(&mut self) {
        self.resume();
        self.drained();
        for _ in 0..100_000 {
            let moved = self.deliver()
                || self.deliver_to_partition()
                || self.deliver_to_limiter()
                || self.grant()
                || self.apply(false)
                || self.complete(0)
                || self.finish_scan(usize::MAX);
            if moved {
                continue;
            }
            match self.timer {
                Some(at) => self.advance(at.since(self.now).as_millis().try_into().unwrap()),
                None => break,
            }
        }
        let stuck = (&self.vqueue, &self.limiter, &self.running, &self.cold);
        assert!(self.stored.is_empty(), "stuck with {:?}: {stuck:?}", self.stored);
        assert!(self.open.is_empty(), "never ended: {:?}", self.open);
        assert!(self.limiter.is_at_rest(), "not at rest: {:?}", self.limiter);
        if self.vqueue.is_some() {
            self.passivate(false);
            while self.deliver() {}
            let last = self.to_partition.back();
            assert_eq!(last, Some(&VQueueEffect::Passivated(Rest::Empty)), "{:?}", self.vqueue);
        }
    }
}
