//! A limiter under test: steps it, checks its invariants after every step, and records its grants
//! by vqueue.

use std::{collections::BTreeMap, sync::Arc};

use forebay_engine::{
    Machine,
    limiter::{CapacityMode, Limiter, LimiterConfig, LimiterEffect},
};
use forebay_messages::{
    EntryId, Generation, PartitionKey, PermitId, Timestamp, VQueueHandle, VQueueId, VQueueName,
    actor::{Acquire, Granted, LimiterMessage, LockWish, Permits, Release, Seed},
    rule::{Limits, RuleUpdate},
};

pub(crate) const INCARNATION: Generation = Generation(7);

pub(crate) struct Rig {
    pub(crate) limiter: Limiter,
    pub(crate) now: Timestamp,
    pub(crate) effects: Vec<LimiterEffect>,
    /// Permits of each vqueue, in the order of their grants.
    pub(crate) held: BTreeMap<VQueueHandle, Vec<PermitId>>,
    /// Checking the invariants takes time proportional to the state.
    pub(crate) checked: bool,
}

/// `scope/l1/l2` as a vqueue of the service `s` (`u:…`: of the service `u`); `-` has no
/// scope, `…#k` the object key `k`.
pub(crate) fn name(text: &str) -> VQueueName {
    let (key, object) = text.split_once('#').map_or((text, None), |(key, k)| (key, Some(k)));
    let (service, key) = key.split_once(':').unwrap_or(("s", key));
    let mut name = VQueueName::service(service);
    if key != "-" {
        let (scope, limit_key) = key.split_once('/').map_or((key, None), |(s, k)| (s, Some(k)));
        name = name.with_scope(scope);
        if let Some(limit_key) = limit_key {
            name = name.with_limit_key(limit_key).unwrap();
        }
    }
    match object {
        Some(object) => name.with_object_key(object),
        None => name,
    }
}

pub(crate) fn id(name: &VQueueName) -> VQueueId {
    name.id(PartitionKey(1))
}

pub(crate) fn handle(slot: u32) -> VQueueHandle {
    VQueueHandle { slot, generation: Generation(1) }
}

pub(crate) fn entry(number: u8) -> EntryId {
    EntryId { partition_key: PartitionKey(1), uuid: [number; 16] }
}

pub(crate) fn upsert(text: &str, limits: Limits) -> RuleUpdate {
    RuleUpdate::Upsert { pattern: text.parse().unwrap(), limits }
}

pub(crate) fn limit(text: &str, concurrency: u32) -> RuleUpdate {
    upsert(text, Limits::concurrency(concurrency))
}

pub(crate) fn pause(text: &str) -> RuleUpdate {
    RuleUpdate::Pause { pattern: text.parse().unwrap() }
}

pub(crate) fn remove(text: &str) -> RuleUpdate {
    RuleUpdate::Remove { pattern: text.parse().unwrap() }
}

impl Rig {
    pub(crate) fn new(rules: &[RuleUpdate]) -> Self {
        Self::with(LimiterConfig::default(), Seed { rules: rules.to_vec(), ..Seed::default() })
    }

    /// A limiter that needs capacity, and has none yet.
    pub(crate) fn leased(rules: &[RuleUpdate]) -> Self {
        let config = LimiterConfig { capacity: CapacityMode::Leased, ..LimiterConfig::default() };
        Self::with(config, Seed { rules: rules.to_vec(), ..Seed::default() })
    }

    pub(crate) fn with(config: LimiterConfig, seed: Seed) -> Self {
        let mut rig = Self {
            limiter: Limiter::new(INCARNATION, config),
            now: Timestamp(1000),
            effects: Vec::new(),
            held: BTreeMap::new(),
            checked: true,
        };
        rig.send(LimiterMessage::Seed(Box::new(seed)));
        rig
    }

    /// Steps; returns the grants of this step.
    pub(crate) fn send(&mut self, message: LimiterMessage) -> Vec<Granted> {
        let first = self.effects.len();
        self.limiter.step(self.now, message, &mut self.effects);
        if self.checked {
            self.limiter.check();
        }
        let mut grants = Vec::new();
        for effect in &self.effects[first..] {
            if let LimiterEffect::Granted(granted) = effect {
                self.held.entry(granted.handle).or_default().extend(granted.permits.iter());
                grants.push(*granted);
            }
        }
        grants
    }

    /// The same; returns the slots of the vqueues that got permits.
    pub(crate) fn slots(&mut self, message: LimiterMessage) -> Vec<u32> {
        self.send(message).iter().map(|granted| granted.handle.slot).collect()
    }

    pub(crate) fn ask(&mut self, slot: u32, text: &str) -> Vec<u32> {
        self.ask_for(slot, text, 1)
    }

    pub(crate) fn ask_for(&mut self, slot: u32, text: &str, count: u32) -> Vec<u32> {
        let name = name(text);
        let lock = if name.has_lock() { LockWish::Take } else { LockWish::None };
        self.ask_with(slot, name, count, lock)
    }

    pub(crate) fn ask_with(
        &mut self,
        slot: u32,
        name: VQueueName,
        count: u32,
        lock: LockWish,
    ) -> Vec<u32> {
        let (handle, vqueue) = (handle(slot), id(&name));
        let name = Arc::new(name);
        self.slots(LimiterMessage::Acquire(Acquire { handle, vqueue, name, count, lock }))
    }

    /// Asks, expects a grant at once, and hands everything over.
    pub(crate) fn run(&mut self, slot: u32, text: &str) {
        assert_eq!(self.ask(slot, text), [slot], "{text} was not granted");
        self.hand_over(slot);
    }

    pub(crate) fn hand_over(&mut self, slot: u32) {
        for permit in self.held[&handle(slot)].clone() {
            self.send(LimiterMessage::HandedOver(Permits::one(permit)));
        }
    }

    /// Ends the oldest entry of a vqueue.
    pub(crate) fn end(&mut self, slot: u32) -> Vec<u32> {
        self.end_keeping(slot, None)
    }

    pub(crate) fn end_keeping(&mut self, slot: u32, keep_lock: Option<EntryId>) -> Vec<u32> {
        let permit = self.held.get_mut(&handle(slot)).unwrap().remove(0);
        self.slots(LimiterMessage::Release(vec![Release { permit, keep_lock }]))
    }

    pub(crate) fn withdraw(&mut self, slot: u32) -> Vec<u32> {
        self.slots(LimiterMessage::Withdraw(handle(slot)))
    }

    pub(crate) fn update(&mut self, rules: &[RuleUpdate]) -> Vec<u32> {
        self.slots(LimiterMessage::RulesUpdated(rules.to_vec()))
    }

    pub(crate) fn tick(&mut self, now: u64) -> Vec<u32> {
        self.now = Timestamp(now);
        self.slots(LimiterMessage::Tick)
    }

    /// The check that is skipped while `checked` is off.
    pub(crate) fn limiter_is_sound(&self) {
        self.limiter.check();
    }

    /// The effects besides grants, oldest first; clears all effects.
    pub(crate) fn others(&mut self) -> Vec<LimiterEffect> {
        let granted = |effect: &LimiterEffect| matches!(effect, LimiterEffect::Granted(_));
        self.effects.drain(..).filter(|effect| !granted(effect)).collect()
    }

    /// Usage and limit of a counter, and the number of waiters behind it.
    pub(crate) fn counter(&self, key: &str) -> (u32, Option<u32>, u32) {
        let limits = self.limiter.limits(self.now);
        let view = limits.iter().find(|view| view.key == key);
        view.map_or((0, None, 0), |view| (view.usage, view.limit, view.waiters))
    }
}
