//! What the limiter and the rule lookup cost.
//!
//! The design asks for: acquire and release at three levels with 10,000 rules under
//! 400 ns (goal 200); a lookup with 10,000 rules at most 1.2 times one with 10; 10,000
//! updates with 100,000 waiters under 100 ms.

use std::sync::Arc;

use divan::{Bencher, black_box};
use forebay_engine::{
    Machine,
    limiter::{Limiter, LimiterConfig, LimiterEffect},
    rules::RuleLookup,
};
use forebay_messages::{
    Generation, PartitionKey, Timestamp, VQueueHandle, VQueueName,
    actor::{Acquire, LimiterMessage, LockWish, Release, Seed},
    rule::{Limits, RuleUpdate},
};

/// Keys that take turns.
const KEYS: u32 = 1000;
const NOW: Timestamp = Timestamp(1);

fn main() {
    divan::main();
}

/// So many rules, most of them exact, a few with stars at each depth.
fn rules(count: u32, concurrency: u32) -> Vec<RuleUpdate> {
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

fn name(n: u32, levels: u32) -> VQueueName {
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

fn ask(slot: u32, name: VQueueName) -> Acquire {
    let handle = VQueueHandle { slot, generation: Generation(1) };
    let vqueue = name.id(PartitionKey(1));
    Acquire { handle, vqueue, name: Arc::new(name), count: 1, lock: LockWish::None }
}

fn limiter(rules: Vec<RuleUpdate>) -> Limiter {
    let mut limiter = Limiter::new(Generation(1), LimiterConfig::default());
    let seed = Seed { rules, ..Seed::default() };
    limiter.step(NOW, LimiterMessage::Seed(Box::new(seed)), &mut Vec::new());
    limiter
}

#[divan::bench(args = [10, 1_000, 10_000], sample_size = 10_000)]
fn lookup(bencher: Bencher<'_, '_>, count: u32) {
    let lookup = RuleLookup::from_updates(&rules(count, 1));
    let keys: Vec<[String; 3]> =
        (0..KEYS).map(|n| [format!("s{n}"), format!("l{n}"), format!("x{n}")]).collect();
    let mut at = 0;
    bencher.bench_local(|| {
        at = (at + 1) % keys.len();
        let [scope, l1, l2] = &keys[at];
        black_box(lookup.resolve(&[scope, l1, l2]))
    });
}

/// The whole life of a permit: acquire, grant, hand over, release.
#[divan::bench(args = [0, 1, 2, 3], sample_size = 10_000)]
fn acquire_and_release(bencher: Bencher<'_, '_>, levels: u32) {
    let mut limiter = limiter(rules(10_000, 100));
    let asks: Vec<_> = (0..KEYS).map(|n| ask(n, name(n, levels))).collect();
    let mut effects = Vec::new();
    let mut at = 0;
    bencher.bench_local(|| {
        at = (at + 1) % asks.len();
        effects.clear();
        limiter.step(NOW, LimiterMessage::Acquire(asks[at].clone()), &mut effects);
        let Some(LimiterEffect::Granted(granted)) = effects.first() else {
            unreachable!("there is room for everybody");
        };
        let permit = granted.permits.first;
        limiter.step(NOW, LimiterMessage::HandedOver(permit), &mut effects);
        let release = Release { permit, keep_lock: None };
        limiter.step(NOW, LimiterMessage::Release(release), &mut effects);
    });
}

/// A slot that goes from one to the next of 100,000 waiters at three levels.
#[divan::bench(sample_size = 10_000)]
fn release_to_a_waiter(bencher: Bencher<'_, '_>) {
    let mut limiter = limiter(rules(10_000, 1));
    let mut effects = Vec::new();
    let asks: Vec<_> = (0..100_000).map(|n| ask(n, name(n % 100, 3))).collect();
    for ask in &asks {
        limiter.step(NOW, LimiterMessage::Acquire(ask.clone()), &mut effects);
    }
    let mut running: std::collections::VecDeque<_> = granted(&effects).collect();
    bencher.bench_local(|| {
        effects.clear();
        let (slot, permit) = running.pop_front().expect("something runs");
        let release = Release { permit, keep_lock: None };
        limiter.step(NOW, LimiterMessage::Release(release), &mut effects);
        let ask = asks[slot as usize].clone();
        limiter.step(NOW, LimiterMessage::Acquire(ask), &mut effects);
        running.extend(granted(&effects));
    });
}

fn granted(
    effects: &[LimiterEffect],
) -> impl Iterator<Item = (u32, forebay_messages::PermitId)> + '_ {
    effects.iter().filter_map(|effect| match effect {
        LimiterEffect::Granted(granted) => Some((granted.handle.slot, granted.permits.first)),
        _ => None,
    })
}

/// 10,000 updates of all depths in one message, 100,000 vqueues waiting. With
/// `raised`, limits go from one to two and a waiter goes on under each counter.
#[divan::bench(args = [false, true], sample_count = 5, sample_size = 1)]
fn update_rules(bencher: Bencher<'_, '_>, raised: bool) {
    let waiting = || {
        let mut limiter = limiter(rules(10_000, 1));
        let mut effects = Vec::new();
        for slot in 0..110_000 {
            let ask = ask(slot, name(slot % 10_000, 3));
            limiter.step(NOW, LimiterMessage::Acquire(ask), &mut effects);
        }
        effects.clear();
        let concurrency = if raised { 2 } else { 1 };
        let update = LimiterMessage::RulesUpdated(rules(10_000, concurrency));
        (limiter, update, effects)
    };
    bencher.with_inputs(waiting).bench_local_values(|(mut limiter, update, mut effects)| {
        limiter.step(NOW, update, &mut effects);
        assert_eq!(effects.is_empty(), !raised);
        (limiter, effects)
    });
}
