//! Rates: tokens at every level, computed from elapsed time, with one timer.

use std::num::NonZeroU32;

use forebay_engine::limiter::{LimiterConfig, LimiterEffect};
use forebay_messages::{
    Timestamp,
    actor::Seed,
    rule::{Limits, Rate, RuleUpdate},
};

use super::rig::{Rig, handle, limit, remove, upsert};

fn rate(text: &str, tokens: u32, period_ms: u64, burst: u32) -> RuleUpdate {
    let rate = Some(Rate { tokens, period_ms, burst });
    upsert(text, Limits { rate, ..Limits::default() })
}

#[test]
fn work_waits_for_a_token_and_the_timer_is_set() {
    let mut rig = Rig::new(&[rate("s", 1, 100, 2)]);
    rig.others();
    rig.run(1, "s");
    rig.run(2, "s");
    assert_eq!(rig.ask(3, "s"), []);
    assert_eq!(rig.ask(4, "s"), []);
    assert_eq!(rig.others(), [LimiterEffect::SetTimer(Timestamp(1100))]);
    assert_eq!(rig.end(1), [], "an ending entry adds no token");
    assert_eq!(rig.tick(1099), []);
    assert_eq!(rig.others(), [], "the timer is still set");
    assert_eq!(rig.tick(1100), [3]);
    assert_eq!(rig.others(), [LimiterEffect::SetTimer(Timestamp(1200))]);
    assert_eq!(rig.tick(1500), [4]);
    assert_eq!(rig.others(), [], "no waiters");
    assert_eq!(rig.tick(99_999), []);
    assert_eq!(rig.ask_for(5, "s", 9), [5]);
    assert_eq!(rig.held[&handle(5)].len(), 2, "at most the burst at once");
}

#[test]
fn every_level_has_its_own_tokens_and_a_token_is_taken_at_all_of_them() {
    let rules = [rate("s", 1, 10, 3), rate("s/*", 1, 1000, 1), rate("s/*/*", 1, 1000, 1)];
    let mut rig = Rig::new(&rules);
    rig.run(1, "s/a/x");
    assert_eq!(rig.ask(2, "s/a/y"), [], "s/a has no token");
    rig.run(3, "s/b");
    rig.run(4, "s/c");
    assert_eq!(rig.ask(5, "s/d"), [], "s has no token");
    assert_eq!(rig.tick(1010), [5]);
    assert_eq!(rig.tick(1999), []);
    assert_eq!(rig.tick(2000), [2]);
}

#[test]
fn the_token_of_an_unused_permit_is_returned() {
    let mut rig = Rig::new(&[rate("s", 1, 1000, 1)]);
    rig.ask(1, "s");
    rig.ask(2, "s");
    assert_eq!(rig.withdraw(1), [2]);
    assert_eq!(rig.end(2), [], "returned before it was handed over");
    rig.run(3, "s");
    rig.end(3);
    assert_eq!(rig.ask(4, "s"), [], "used");
}

#[test]
fn a_timer_is_set_only_if_only_a_token_is_missing() {
    let both = Limits {
        concurrency: NonZeroU32::new(1),
        rate: Some(Rate { tokens: 1, period_ms: 100, burst: 1 }),
        ..Limits::default()
    };
    let mut rig = Rig::new(&[upsert("s", both)]);
    rig.run(1, "s");
    rig.ask(2, "s");
    rig.others();
    assert_eq!(rig.tick(1050), []);
    assert_eq!(rig.others(), []);
    assert_eq!(rig.end(1), []);
    assert_eq!(rig.others(), [LimiterEffect::SetTimer(Timestamp(1100))]);
    assert_eq!(rig.withdraw(2), []);
    assert_eq!(rig.tick(1100), []);
    assert_eq!(rig.others(), [], "no waiter for the token");
}

#[test]
fn a_changed_rate_takes_effect_at_once() {
    let mut rig = Rig::new(&[rate("*", 1, 1_000_000, 1)]);
    rig.run(1, "s");
    rig.ask(2, "s");
    rig.ask(3, "s");
    rig.others();
    rig.now = Timestamp(1500);
    assert_eq!(rig.update(&[rate("*", 1, 100, 1)]), []);
    // The credit so far (a two-thousandth of a token) is kept.
    assert_eq!(rig.others(), [LimiterEffect::SetTimer(Timestamp(1600))]);
    assert_eq!(rig.tick(1600), [2]);
    assert_eq!(rig.update(&[remove("*")]), [3]);
    assert_eq!(rig.update(&[limit("*", 9)]), []);
    rig.run(4, "s");
}

#[test]
fn a_clock_that_steps_back_neither_adds_nor_removes_tokens() {
    let mut rig = Rig::new(&[rate("s", 1, 100, 1)]);
    rig.run(1, "s");
    rig.ask(2, "s");
    assert_eq!(rig.tick(10), []);
    assert_eq!(rig.tick(1099), []);
    assert_eq!(rig.tick(1100), [2]);
}

#[test]
fn tokens_taken_after_a_step_back_do_not_count_that_time_twice() {
    let mut rig = Rig::new(&[rate("s", 1, 100, 2)]);
    rig.now = Timestamp(10_000);
    rig.run(1, "s");
    rig.now = Timestamp(5_000);
    rig.run(2, "s");
    rig.now = Timestamp(10_000);
    assert_eq!(rig.ask(3, "s"), []);
    assert_eq!(rig.tick(10_099), []);
    assert_eq!(rig.tick(10_100), [3]);
}

#[test]
fn a_bucket_that_is_not_full_is_not_forgotten() {
    let config = LimiterConfig { idle_counters_max: 0, ..LimiterConfig::default() };
    let seed = Seed { rules: vec![rate("*", 1, 100, 2)], ..Seed::default() };
    let mut rig = Rig::with(config, seed);
    rig.run(1, "s");
    rig.run(2, "s");
    rig.end(1);
    rig.end(2);
    assert_eq!(rig.limiter.counters_len(), 1);
    assert_eq!(rig.ask(3, "s"), [], "its tokens are used up, forgotten or not");
    rig.withdraw(3);
    assert_eq!(rig.tick(1199), []);
    assert_eq!(rig.limiter.counters_len(), 1);
    assert_eq!(rig.tick(1200), []);
    assert_eq!(rig.limiter.counters_len(), 0);
    rig.run(1, "s");
    rig.end(1);
    assert_eq!(rig.limiter.counters_len(), 1);
    rig.update(&[remove("*")]);
    assert_eq!(rig.limiter.counters_len(), 0, "the bucket is full again");
}

#[test]
fn a_parent_forgotten_with_its_lingering_child_is_not_visited_again() {
    // Found by the model: one update affects both, the child first.
    let config = LimiterConfig { idle_counters_max: 0, ..LimiterConfig::default() };
    let seed = Seed { rules: vec![rate("s/a", 1, 100, 1), limit("s", 5)], ..Seed::default() };
    let mut rig = Rig::with(config, seed);
    rig.run(1, "s/a");
    rig.end(1);
    assert_eq!(rig.limiter.counters_len(), 2);
    rig.update(&[remove("s/a"), remove("s")]);
    assert_eq!(rig.limiter.counters_len(), 0);
}

/// Regression: every key that a client made up under a slow rate left a counter until its bucket
/// was full again, for days with some rates: nothing bounded their memory.
#[test]
fn lingering_counters_are_bounded_and_the_fullest_is_dropped_first() {
    let config = LimiterConfig {
        idle_counters_max: 0,
        lingering_counters_max: 10,
        ..LimiterConfig::default()
    };
    let seed = Seed { rules: vec![rate("*", 1, 100, 2)], ..Seed::default() };
    let mut rig = Rig::with(config, seed);
    for slot in 0..1000 {
        rig.run(slot, &format!("scope{slot}"));
        rig.end(slot);
        let kept = rig.limiter.counters_len();
        assert!(kept <= 10, "{kept} counters are kept after {slot} keys");
    }
    // This one has no token left: it is kept in preference to the others, which have one.
    rig.run(1, "empty");
    rig.run(2, "empty");
    rig.end(1);
    rig.end(2);
    for slot in 10..30 {
        rig.run(slot, &format!("other{slot}"));
        rig.end(slot);
    }
    assert_eq!(rig.ask(3, "empty"), [], "its tokens are used up");
}

/// Labels that share a hash under one seed, which a client may find, do not under another; the
/// limiter behaves the same.
#[test]
fn the_hash_seed_does_not_change_behaviour() {
    let granted = |hash_seed| {
        let config = LimiterConfig { hash_seed, ..LimiterConfig::default() };
        let seed = Seed { rules: vec![limit("*", 1)], ..Seed::default() };
        let mut rig = Rig::with(config, seed);
        let requests: Vec<_> =
            (0..40).map(|slot| rig.ask(slot, &format!("s{}/a{}", slot % 7, slot % 3))).collect();
        (requests, rig.limiter.counters_len())
    };
    assert_eq!(granted(1), granted(u64::MAX));
}
