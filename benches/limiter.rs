//! The cost of the limiter and the rule lookup.
//!
//! Targets: acquire and release at three levels with 10,000 rules under 400 ns (goal 200); a lookup
//! with 10,000 rules at most 1.2 times one with 10; 10,000 updates with 100,000 waiters under 100
//! ms.

mod common;

use divan::{Bencher, black_box};
use forebay_engine::{Machine, limiter::LimiterEffect, rules::RuleLookup};
use forebay_messages::actor::{LimiterMessage, Release};

use common::permit::{KEYS, NOW, Permits, ask, limiter, name, rules};

fn main() {
    divan::main();
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

/// The life cycle of a permit: acquire, grant, hand over, release.
#[divan::bench(args = [0, 1, 2, 3], sample_size = 10_000)]
fn acquire_and_release(bencher: Bencher<'_, '_>, levels: u32) {
    let mut permits = Permits::new(levels);
    bencher.bench_local(|| permits.cycle());
}

/// Passes a slot on to the next of 100,000 waiters at three levels.
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
        limiter.step(NOW, LimiterMessage::Release(vec![release]), &mut effects);
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

/// 10,000 updates at all depths in one message, with 100,000 waiting vqueues. With `raised`, limits
/// change from one to two, and one waiter per counter proceeds.
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
