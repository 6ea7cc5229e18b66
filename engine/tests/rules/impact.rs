//! The effect of a rule change on running and waiting entries.

use forebay_engine::rules::{Loads, RuleLookup, Share};
use forebay_messages::{
    VQueueName,
    rule::{Limits, RuleUpdate},
};

fn name(text: &str) -> VQueueName {
    let (scope, limit_key) = text.split_once('/').map_or((text, None), |(s, k)| (s, Some(k)));
    let name = VQueueName::service("s").with_scope(scope);
    match limit_key {
        Some(limit_key) => name.with_limit_key(limit_key).unwrap(),
        None => name,
    }
}

fn rules(rules: &[(&str, u32)]) -> RuleLookup {
    let upsert = |(text, limit): &(&str, u32)| RuleUpdate::Upsert {
        pattern: text.parse().unwrap(),
        limits: Limits::concurrency(*limit),
    };
    RuleLookup::from_updates(&rules.iter().map(upsert).collect::<Vec<_>>())
}

fn loads(all: &[(&str, u64, u64)]) -> Loads {
    let mut loads = Loads::default();
    for (text, running, waiting) in all {
        loads.add(&name(text), *running, *waiting, false);
    }
    loads
}

fn starts(loads: &Loads, limits: &[(&str, u32)]) -> Vec<u64> {
    loads.under(&rules(limits)).iter().map(|share| share.start).collect()
}

#[test]
fn slots_of_a_level_are_shared_among_its_keys() {
    let loads = loads(&[("s", 0, 9), ("s/a", 1, 9), ("s/b", 0, 1), ("t/a", 0, 5)]);
    assert_eq!(starts(&loads, &[]), [9, 9, 1, 5], "no rule, no limit");
    assert_eq!(starts(&loads, &[("s", 6)]), [2, 2, 1, 5]);
    assert_eq!(starts(&loads, &[("s", 6), ("s/*", 2)]), [3, 1, 1, 5]);
    assert_eq!(starts(&loads, &[("*", 1)]), [0, 0, 0, 1], "`*` applies to each scope");
    assert_eq!(starts(&loads, &[("*/a", 3), ("t/*", 1)]), [9, 2, 1, 1], "the exact scope wins");
}

#[test]
fn running_entries_above_a_limit_are_reported() {
    let loads = loads(&[("s", 2, 1), ("s/a", 5, 1)]);
    let shares = loads.under(&rules(&[("s", 6), ("s/a", 1)]));
    assert_eq!(shares, [Share { start: 0, over: 1 }, Share { start: 0, over: 4 }]);
}

#[test]
fn pauses_and_locks_hold_entries_back_whatever_the_rules() {
    let mut loads = Loads::default();
    let locked = name("s/a").with_object_key("k");
    loads.add(&locked, 0, 5, false);
    loads.add(&name("s/a").with_object_key("l"), 1, 5, false);
    loads.add(&name("s/b"), 0, 5, true);
    loads.add(&VQueueName::service("no-scope"), 0, 5, false);
    assert_eq!(starts(&loads, &[]), [1, 0]);
    let (_, load) = loads.iter().next().unwrap();
    assert_eq!((load.running, load.waiting, load.free), (1, 10, 1));
}
