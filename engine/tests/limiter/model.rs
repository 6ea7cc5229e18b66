//! The limiter compared with the naive one under random steps.
//!
//! Each grant must be one that the naive limiter allows at that moment; after every step, and
//! whenever time has passed with only the requested ticks, no vqueue may wait that the naive
//! limiter would let through; usage and the reasons for waiting must be equal; at the end no state
//! is left.

use std::{collections::BTreeSet, num::NonZeroU32, sync::Arc};

use forebay_engine::limiter::{BlockReason, CapacityMode, LimiterConfig, LimiterEffect, Rank};
use forebay_messages::{
    Generation, PermitId, Timestamp, VQueueHandle,
    actor::{Acquire, LimiterMessage, LockWish, Permits, Release, Seed},
    rule::{Limits, Rate, RuleUpdate},
};
use proptest::{prelude::*, test_runner::FileFailurePersistence};

use super::{
    naive::Naive,
    rig::{INCARNATION, Rig, entry, id, name},
};

/// At least this many cases, more if the environment says so.
pub(crate) fn config(cases: u32) -> ProptestConfig {
    let mut config = ProptestConfig::default();
    config.cases = config.cases.max(cases);
    config.failure_persistence = Some(Box::new(FileFailurePersistence::WithSource("regressions")));
    config
}

const NAMES: [&str; 16] = [
    "s", "s#k", "s/a", "s/a#k", "s/a/x", "s/a/y", "s/b/x#k", "s/b/x#j", "t/a/x", "t", "-", "-#k",
    "u:s/a", "u.x:t#k", "u:-", "u.x:-#k",
];

#[derive(Clone, Debug)]
enum Op {
    /// Vqueue, older incarnation?, count, entry claimed to have kept the lock.
    Acquire(usize, bool, u32, Option<u8>),
    Release(prop::sample::Index, Option<u8>),
    /// A permit that is not held: of another incarnation, or long returned.
    Bogus(u64, bool),
    HandOver(prop::sample::Index),
    Withdraw(usize, bool),
    FreeLock(usize, u8),
    Rules(Vec<RuleUpdate>),
    Pass(u64),
    Lease(u32),
    Recall,
    Claim,
}

fn rules() -> impl Strategy<Value = Vec<RuleUpdate>> {
    let part = |values: &'static [&'static str]| prop::sample::select(values);
    let pattern = prop_oneof![
        part(&["*", "s", "t"]).prop_map(str::to_owned),
        (part(&["*", "s"]), part(&["*", "a", "b"])).prop_map(|(s, a)| format!("{s}/{a}")),
        (part(&["*", "s"]), part(&["*", "a", "b"]), part(&["*", "x", "y"]))
            .prop_map(|(s, a, x)| format!("{s}/{a}/{x}")),
    ];
    let rate = (1..3_u32, 3..20_u64, 1..4_u32).prop_map(|(tokens, period_ms, burst)| Rate {
        tokens,
        period_ms,
        burst,
    });
    let limits = (
        prop::option::weighted(0.8, 1..4_u32),
        prop::option::weighted(0.2, rate),
        1..4_u32,
        prop::bool::weighted(0.1),
    )
        .prop_map(|(concurrency, rate, weight, paused)| Limits {
            concurrency: concurrency.and_then(NonZeroU32::new),
            rate,
            weight: NonZeroU32::new(weight),
            paused,
            ..Limits::default()
        });
    let limited = (pattern.clone(), prop::option::weighted(0.75, limits));
    let limited = limited.prop_map(|(pattern, limits)| {
        let pattern = pattern.parse().unwrap();
        match limits {
            Some(limits) => RuleUpdate::Upsert { pattern, limits },
            None => RuleUpdate::Remove { pattern },
        }
    });
    let service = part(&["service:s", "service:u", "service:u.x"]).prop_map(str::to_owned);
    let paused = (prop_oneof![pattern, service], prop::bool::weighted(0.4));
    let paused = paused.prop_map(|(pattern, pauses)| {
        let pattern = pattern.parse().unwrap();
        if pauses { RuleUpdate::Pause { pattern } } else { RuleUpdate::Remove { pattern } }
    });
    prop::collection::vec(prop_oneof![6 => limited, 2 => paused], 1..12)
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let vqueue = || 0..NAMES.len();
    let kept = || prop::option::weighted(0.4, 0..2_u8);
    let old = || prop::bool::weighted(0.15);
    let op = prop_oneof![
        30 => (vqueue(), old(), 1..5_u32, kept()).prop_map(|(v, o, n, e)| Op::Acquire(v, o, n, e)),
        20 => (any::<prop::sample::Index>(), kept()).prop_map(|(at, keep)| Op::Release(at, keep)),
        1 => (0..40_u64, any::<bool>()).prop_map(|(serial, mine)| Op::Bogus(serial, mine)),
        12 => any::<prop::sample::Index>().prop_map(Op::HandOver),
        6 => (vqueue(), old()).prop_map(|(v, o)| Op::Withdraw(v, o)),
        4 => (vqueue(), 0..2_u8).prop_map(|(v, e)| Op::FreeLock(v, e)),
        6 => rules().prop_map(Op::Rules),
        8 => (1..30_u64).prop_map(Op::Pass),
        6 => (1..6_u32).prop_map(Op::Lease),
        1 => Just(Op::Recall),
        1 => Just(Op::Claim),
    ];
    prop::collection::vec(op, 1..90)
}

/// Two vqueues share a slot, with two incarnations each.
fn handle(vqueue: usize, old: bool) -> VQueueHandle {
    let vqueue = u32::try_from(vqueue).unwrap();
    let generation = Generation(2 * (vqueue % 2) + 2 - u32::from(old));
    VQueueHandle { slot: vqueue / 2, generation }
}

/// Both limiters.
struct Pair {
    rig: Rig,
    naive: Naive,
    timer: Option<Timestamp>,
    /// A `WantCapacity` is unanswered.
    asked: bool,
}

impl Pair {
    fn new(capacity: CapacityMode, idle_counters_max: u32) -> Self {
        let config = LimiterConfig {
            capacity,
            idle_counters_max,
            spare_slots_max: 2,
            ..LimiterConfig::default()
        };
        let slots = (capacity == CapacityMode::Leased).then_some(0);
        let rig = Rig::with(config, Seed::default());
        let mut naive = Naive::default();
        naive.slots = slots;
        naive.set_now(rig.now);
        Self { rig, naive, timer: None, asked: false }
    }

    fn send(&mut self, message: LimiterMessage) {
        self.rig.effects.clear();
        self.rig.send(message);
        if self.timer.is_some_and(|timer| timer <= self.rig.now) {
            self.timer = None;
        }
        for effect in std::mem::take(&mut self.rig.effects) {
            match effect {
                LimiterEffect::Granted(granted) => self.naive.granted(granted),
                LimiterEffect::Seeded { .. } => unreachable!("seeded before"),
                LimiterEffect::WantCapacity(slots) => {
                    assert!(slots > 0 && !self.asked, "asked twice");
                    self.asked = true;
                }
                LimiterEffect::ReturnCapacity(slots) => {
                    let left = self.naive.slots.and_then(|had| had.checked_sub(slots));
                    self.naive.slots = Some(left.expect("returned more than was leased"));
                }
                LimiterEffect::WantSlots { .. } | LimiterEffect::ReturnSlots { .. } => {
                    unreachable!("no service was announced")
                }
                LimiterEffect::SetTimer(time) => {
                    assert!(time > self.rig.now, "a timer in the past spins");
                    assert!(self.timer.is_none_or(|set| time < set), "a superfluous timer");
                    self.timer = Some(time);
                }
            }
        }
        self.compare();
    }

    fn compare(&self) {
        self.naive.assert_no_waiter_forgotten();
        assert!(!self.naive.wants_capacity() || self.asked, "the node was not asked");
        assert_eq!(self.rig.limiter.held(), self.naive.serials().len());
        let limits = self.rig.limiter.limits(self.rig.now);
        for key in self.naive.used_keys() {
            let view = limits.iter().find(|view| view.key == key);
            assert_eq!(view.map(|view| view.usage), Some(self.naive.usage(&key)), "usage of {key}");
        }
        let mut ranks = BTreeSet::new();
        for (handle, ask) in &self.naive.waits {
            let explained = self.rig.limiter.explain(*handle, self.rig.now);
            let explained = explained.unwrap_or_else(|| panic!("{handle:?} was forgotten"));
            let reasons: Vec<_> = explained.reasons.iter().map(|b| written(&b.reason)).collect();
            assert_eq!(reasons, self.naive.reasons(ask), "reasons of {ask:?}");
            assert!(explained.reasons.iter().all(|blocked| {
                (explained.waiting_since.unwrap()..=self.rig.now).contains(&blocked.since)
            }));
            // Without a rank it waits for its lock or its service, not for a counter.
            let waits_elsewhere =
                |reason: &String| reason == "lock" || reason.starts_with("pause of service");
            let is_elsewhere = reasons.iter().any(waits_elsewhere);
            assert!(explained.rank.is_some() || is_elsewhere, "no rank of {ask:?}");
            if let Some(Rank { key, ahead, waiting }) = explained.rank {
                assert!(ahead < waiting, "{ahead} of {waiting}");
                assert!(ranks.insert((key, ahead)), "two vqueues have the same rank");
            }
        }
    }

    fn pass(&mut self, millis: u64) {
        let until = Timestamp(self.rig.now.0 + millis);
        while let Some(timer) = self.timer.filter(|timer| *timer <= until) {
            self.rig.now = timer;
            self.naive.set_now(timer);
            self.send(LimiterMessage::Tick);
        }
        self.rig.now = until;
        self.naive.set_now(until);
        self.compare();
    }

    fn release(&mut self, serial: u64, keep_lock: Option<u8>) {
        let permit = PermitId { incarnation: INCARNATION, serial };
        let release = Release { permit, keep_lock: keep_lock.map(entry) };
        self.naive.release(release);
        self.send(LimiterMessage::Release(vec![release]));
    }

    fn withdraw(&mut self, handle: VQueueHandle) {
        for serial in self.naive.withdraw(handle) {
            let permit = PermitId { incarnation: INCARNATION, serial };
            self.naive.release(Release { permit, keep_lock: None });
        }
        self.send(LimiterMessage::Withdraw(handle));
    }

    fn acquire(&mut self, vqueue: usize, old: bool, count: u32, kept: Option<u8>) {
        let name = name(NAMES[vqueue]);
        let lock = match kept {
            _ if !name.has_lock() => LockWish::None,
            None => LockWish::Take,
            Some(number) => LockWish::Held(entry(number)),
        };
        let (vqueue, handle) = (id(&name), handle(vqueue, old));
        let ask = Acquire { handle, vqueue, name: Arc::new(name), count, lock };
        self.naive.ask(ask.clone());
        self.send(LimiterMessage::Acquire(ask));
    }

    fn perform(&mut self, op: Op) {
        let serials = self.naive.serials();
        match op {
            Op::Acquire(vqueue, old, count, kept) => self.acquire(vqueue, old, count, kept),
            Op::Release(at, keep) if !serials.is_empty() => self.release(*at.get(&serials), keep),
            Op::HandOver(at) if !serials.is_empty() => {
                let serial = *at.get(&serials);
                self.naive.hand_over(serial);
                let permit = PermitId { incarnation: INCARNATION, serial };
                self.send(LimiterMessage::HandedOver(Permits::one(permit)));
            }
            Op::Release(..) | Op::HandOver(_) => {}
            Op::Bogus(serial, mine) => {
                let incarnation = if mine { INCARNATION } else { Generation(1) };
                if mine && serials.contains(&serial) {
                    return;
                }
                let permit = PermitId { incarnation, serial };
                self.send(LimiterMessage::Release(vec![Release { permit, keep_lock: None }]));
            }
            Op::Withdraw(vqueue, old) => self.withdraw(handle(vqueue, old)),
            Op::FreeLock(vqueue, number) => {
                let (vqueue, entry) = (id(&name(NAMES[vqueue])), entry(number));
                self.naive.free_lock(vqueue, entry);
                self.send(LimiterMessage::FreeLock { vqueue, entry });
            }
            Op::Rules(updates) => {
                self.naive.update(&updates);
                self.send(LimiterMessage::RulesUpdated(updates));
            }
            Op::Pass(millis) => self.pass(millis),
            Op::Lease(slots) => {
                if let Some(leased) = &mut self.naive.slots {
                    *leased += slots;
                    self.asked = false;
                    self.send(LimiterMessage::CapacityLeased(slots));
                }
            }
            Op::Recall => self.send(LimiterMessage::CapacityRecalled),
            Op::Claim => self.send(LimiterMessage::CapacityClaimed),
        }
    }

    /// Everything is withdrawn; only idle counters may remain.
    fn clear(&mut self, idle_counters_max: u32) {
        for vqueue in 0..NAMES.len() {
            self.withdraw(handle(vqueue, true));
            self.withdraw(handle(vqueue, false));
        }
        for serial in self.naive.serials() {
            self.release(serial, None);
        }
        self.pass(1_000_000);
        self.send(LimiterMessage::Tick);
        let kept = self.rig.limiter.counters_len();
        let allowed = 3 * idle_counters_max as usize;
        assert!(kept <= allowed, "{kept} counters are kept, {idle_counters_max} may idle");
    }
}

fn written(reason: &BlockReason) -> String {
    match reason {
        BlockReason::Lock { .. } => "lock".to_owned(),
        BlockReason::ServicePaused { service, .. } => format!("pause of service {service}"),
        BlockReason::Paused { key, .. } => format!("pause of {key}"),
        BlockReason::Concurrency { key, .. } => format!("limit of {key}"),
        BlockReason::Rate { key, .. } => format!("rate of {key}"),
        BlockReason::Slot { service, .. } => format!("slots of {service}"),
        BlockReason::Capacity { .. } => "capacity".to_owned(),
    }
}

proptest! {
    #![proptest_config(config(2_500))]

    #[test]
    fn grants_are_allowed_and_no_waiter_is_forgotten(
        ops in ops(),
        first in rules(),
        leased in any::<bool>(),
        idle_counters_max in prop::sample::select(vec![0, 1, 100]),
    ) {
        let capacity = if leased { CapacityMode::Leased } else { CapacityMode::Unlimited };
        let mut pair = Pair::new(capacity, idle_counters_max);
        pair.perform(Op::Rules(first));
        for op in ops {
            pair.perform(op);
        }
        pair.clear(idle_counters_max);
    }
}
