//! Permits: a limiter with many rules.

use std::sync::Arc;

use forebay_engine::{
    Machine,
    limiter::{Limiter, LimiterConfig, LimiterEffect},
};
use forebay_messages::{
    Generation, PartitionKey, Timestamp, VQueueHandle, VQueueName,
    actor::{Acquire, LimiterMessage, LockWish, Release, Seed},
    rule::{Limits, RuleUpdate},
};

/// Number of keys, used in turn.
pub(crate) const KEYS: u32 = 1000;
pub(crate) const NOW: Timestamp = Timestamp(1);

/// This many rules; most are exact, a few have stars at each depth.
pub(crate) fn rules(count: u32, concurrency: u32) -> Vec<RuleUpdate> {
    let pattern = |n: u32| match n % 10 {
        0 => format!("s{n}"),
        1 => format!("s{n}/*"),
        2 => format!("*/l{n}"),
        3 => format!("s{n}/l{n}"),
        4 => format!("s{n}/*/*"),
        5 => format!("*/l{n}/*"),
        6 => format!("s{n}/l{n}/*"),
        _ => format!("s{n}/l{n}/x{n}"),
    };
    let mut rules: Vec<_> = ["*", "*/*", "*/*/*"].into_iter().map(str::to_owned).collect();
    rules.extend((3..count).map(pattern));
    let limits = Limits::concurrency(concurrency);
    let upsert = |text: String| {
        let pattern = text.parse().expect("a pattern");
        RuleUpdate::Upsert { pattern, limits }
    };
    rules.into_iter().map(upsert).collect()
}

pub(crate) fn name(n: u32, levels: u32) -> VQueueName {
    let name = VQueueName::service("resize");
    match levels {
        0 => name,
        1 => name.with_scope(&format!("s{n}")),
        _ => {
            let key = if levels == 2 { format!("l{n}") } else { format!("l{n}/x{n}") };
            name.with_scope(&format!("s{n}")).with_limit_key(&key).expect("two levels")
        }
    }
}

pub(crate) fn ask(slot: u32, name: VQueueName) -> Acquire {
    let handle = VQueueHandle { slot, generation: Generation(1) };
    let vqueue = name.id(PartitionKey(1));
    Acquire { handle, vqueue, name: Arc::new(name), count: 1, lock: LockWish::None }
}

pub(crate) fn limiter(rules: Vec<RuleUpdate>) -> Limiter {
    let mut limiter = Limiter::new(Generation(1), LimiterConfig::default());
    let seed = Seed { rules, ..Seed::default() };
    limiter.step(NOW, LimiterMessage::Seed(Box::new(seed)), &mut Vec::new());
    limiter
}

/// Vqueues that take turns under one limiter with 10,000 rules.
pub(crate) struct Permits {
    limiter: Limiter,
    asks: Vec<Acquire>,
    effects: Vec<LimiterEffect>,
    at: usize,
}

impl Permits {
    pub(crate) fn new(levels: u32) -> Self {
        let asks = (0..KEYS).map(|n| ask(n, name(n, levels))).collect();
        Self { limiter: limiter(rules(10_000, 100)), asks, effects: Vec::new(), at: 0 }
    }

    /// The life cycle of a permit: acquire, grant, hand over, release.
    pub(crate) fn cycle(&mut self) {
        let Self { limiter, asks, effects, at } = self;
        *at = (*at + 1) % asks.len();
        effects.clear();
        limiter.step(NOW, LimiterMessage::Acquire(asks[*at].clone()), effects);
        let Some(LimiterEffect::Granted(granted)) = effects.first() else {
            unreachable!("the limit is never reached");
        };
        let permit = granted.permits.first;
        limiter.step(NOW, LimiterMessage::HandedOver(granted.permits), effects);
        let release = Release { permit, keep_lock: None };
        limiter.step(NOW, LimiterMessage::Release(vec![release]), effects);
    }
}
