//! Scheduling decisions: vqueues under a limiter.

use std::sync::Arc;

use forebay_engine::{
    Machine,
    limiter::{Limiter, LimiterConfig, LimiterEffect},
    vqueue::{VQueue, VQueueConfig, VQueueEffect},
};
use forebay_messages::{
    EntryId, EntryKey, Generation, InboxSeq, PartitionKey, PermitId, VQueueHandle, VQueueName,
    actor::{
        Acquire, InboxChange, LimiterMessage, Permits, RefillDone, Release, Seed, VQueueMessage,
    },
    rule::{Limits, RuleUpdate},
};

use super::permit::NOW;

/// Number of scopes of the vqueues.
const SCOPES: u32 = 1_000;
/// Maximum number of running entries in each scope.
pub(crate) const LIMIT: u32 = 100;

pub(crate) fn key(n: u64) -> EntryKey {
    let mut uuid = [7; 16];
    uuid[8..].copy_from_slice(&n.to_be_bytes());
    let entry = EntryId { partition_key: PartitionKey(1), uuid };
    EntryKey { seq: InboxSeq(n), entry, ..EntryKey::default() }
}

/// Many vqueues, known to be empty, under one limiter.
pub(crate) struct World {
    vqueues: Vec<(VQueue, Arc<VQueueName>)>,
    limiter: Limiter,
    effects: Vec<VQueueEffect>,
    granted: Vec<LimiterEffect>,
    next: u64,
}

impl World {
    pub(crate) fn new(count: u32) -> Self {
        let mut limiter = Limiter::new(Generation(1), LimiterConfig::default());
        let pattern = "*".parse().expect("a pattern");
        let limits = Limits::concurrency(LIMIT);
        let rules = vec![RuleUpdate::Upsert { pattern, limits }];
        let seed = Seed { rules, ..Seed::default() };
        let mut granted = Vec::new();
        limiter.step(NOW, LimiterMessage::Seed(Box::new(seed)), &mut granted);
        let vqueues = (0..count).map(vqueue).collect();
        Self { vqueues, limiter, effects: Vec::new(), granted, next: 0 }
    }

    /// One complete decision for a vqueue.
    pub(crate) fn decide(&mut self, slot: u32) {
        let Self { vqueues, limiter, effects, granted, next } = self;
        let (vqueue, name) = &mut vqueues[slot as usize];
        *next += 1;
        let key = key(*next);
        effects.clear();
        granted.clear();
        vqueue.step(NOW, VQueueMessage::Notify(vec![InboxChange::Enqueued(key)]), effects);
        let Some(&VQueueEffect::Acquire { count, lock }) = effects.first() else {
            unreachable!("a head asks for a permit: {effects:?}");
        };
        let handle = VQueueHandle { slot, generation: Generation(1) };
        let (id, name) = (vqueue.id(), Arc::clone(name));
        let ask = Acquire { handle, vqueue: id, name, count, lock };
        limiter.step(NOW, LimiterMessage::Acquire(ask), granted);
        let Some(LimiterEffect::Granted(grant)) = granted.first() else {
            unreachable!("there is room: {granted:?}");
        };
        effects.clear();
        vqueue.step(NOW, VQueueMessage::Granted(grant.permits), effects);
        let permit = decided(effects);
        limiter.step(NOW, LimiterMessage::HandedOver(Permits::one(permit)), granted);
        vqueue.step(NOW, VQueueMessage::Notify(vec![InboxChange::Removed(key)]), effects);
        let release = Release { permit, keep_lock: None };
        limiter.step(NOW, LimiterMessage::Release(vec![release]), granted);
    }
}

fn decided(effects: &[VQueueEffect]) -> PermitId {
    match effects.first() {
        Some(VQueueEffect::Decide { permits, .. }) => permits.first,
        _ => unreachable!("a permit is for the head: {effects:?}"),
    }
}

pub(crate) fn vqueue(n: u32) -> (VQueue, Arc<VQueueName>) {
    let name = VQueueName::service("resize")
        .with_scope(&format!("s{}", n % SCOPES))
        .with_object_key(&n.to_string());
    let id = name.id(PartitionKey(1));
    let config = VQueueConfig { id, has_lock: false, quantum: 64, paused: false, draining: false };
    let mut vqueue = VQueue::new(config, Vec::new());
    let mut effects = Vec::new();
    vqueue.start(NOW, &mut effects);
    let Some(VQueueEffect::ReadInbox(request)) = effects.pop() else {
        unreachable!("it reads its inbox first");
    };
    let none = RefillDone { id: request.id, rows: Vec::new(), reached_end: true };
    vqueue.step(NOW, VQueueMessage::RefillDone(none), &mut effects);
    (vqueue, Arc::new(name))
}

/// Visits numbers in an order that no processor cache can predict.
pub(crate) fn scattered(at: u32) -> u32 {
    at.wrapping_mul(1_664_525).wrapping_add(1_013_904_223)
}
