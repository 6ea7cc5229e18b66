//! Limits by level, and rules that change under running and waiting vqueues.

use forebay_messages::rule::Limits;

use super::rig::{Rig, limit, remove, upsert};

#[test]
fn the_example_of_the_design() {
    let mut rig = Rig::new(&[limit("scope1/*/tenant1", 10), limit("*", 100)]);
    let running =
        [("scope1/foo/tenant1", 10), ("scope1/bar/tenant1", 9), ("scope1/bar", 1), ("scope1", 80)];
    let mut slot = 0;
    for (name, count) in running {
        for _ in 0..count {
            rig.run(slot, name);
            slot += 1;
        }
    }
    assert_eq!(rig.counter("scope1"), (100, Some(100), 0));
    // Five requests, none of which can be granted.
    for (slot, name) in [
        (201, "scope1/bar/tenant1"),
        (202, "scope1/foo/tenant1"),
        (203, "scope1/foo/tenant1"),
        (204, "scope1/bar"),
        (205, "scope1"),
    ] {
        assert_eq!(rig.ask(slot, name), []);
    }
    assert_eq!(rig.counter("scope1/foo/tenant1"), (10, Some(10), 2), "queued at l2");
    assert_eq!(rig.counter("scope1/bar/tenant1"), (9, Some(10), 0));
    assert_eq!(rig.counter("scope1"), (100, Some(100), 3));
    // One of scope1/foo/tenant1 ends: exactly one waiter of that counter proceeds, not the one of
    // scope1/bar/tenant1, which has waited longer.
    assert_eq!(rig.end(0), [202]);
    assert_eq!(rig.counter("scope1/foo/tenant1"), (10, Some(10), 1));
    assert_eq!(rig.counter("scope1"), (100, Some(100), 3));
    // One of scope1 ends: the oldest waiter blocked only by the scope proceeds.
    assert_eq!(rig.end(50), [201]);
    assert_eq!(rig.end(51), [204], "scope1/foo/tenant1 is full: its waiter is passed over");
    assert_eq!(rig.counter("scope1/bar/tenant1"), (10, Some(10), 0));
}

#[test]
fn a_freed_slot_is_not_stranded_behind_a_waiter_that_cannot_use_it() {
    // The lost wake-up: a and b run; V1 and V1' (both of s/x) and V2 (s/y) wait for s.
    let mut rig = Rig::new(&[limit("s", 2), limit("s/*", 1)]);
    rig.run(1, "s/a");
    rig.run(2, "s/b");
    for (slot, name) in [(11, "s/x"), (12, "s/x"), (13, "s/y")] {
        assert_eq!(rig.ask(slot, name), []);
    }
    assert_eq!(rig.end(1), [11], "V1 proceeds; V1' is blocked by s/x from now on");
    assert_eq!(rig.end(2), [13], "V2 runs beside V1");
    assert_eq!(rig.end(13), []);
    assert_eq!(rig.end(11), [12]);
}

#[test]
fn every_level_counts_and_a_parent_counts_its_children() {
    let mut rig = Rig::new(&[limit("s", 3), limit("s/a", 2), limit("s/a/x", 1)]);
    rig.run(1, "s/a/x");
    assert_eq!(rig.ask(2, "s/a/x"), []);
    rig.run(3, "s/a/y");
    assert_eq!(rig.ask(4, "s/a/z"), []);
    rig.run(5, "s");
    assert_eq!(rig.ask(6, "s/b"), []);
    assert_eq!(rig.counter("s"), (3, Some(3), 1));
    assert_eq!(rig.counter("s/a"), (2, Some(2), 1));
    assert_eq!(rig.counter("s/a/x"), (1, Some(1), 1));
    rig.run(7, "t/a/x");
    assert_eq!(rig.end(5), [6]);
    assert_eq!(rig.end(3), [4]);
}

#[test]
fn a_star_limits_each_scope_separately() {
    let mut rig = Rig::new(&[limit("*", 1), limit("vip", 2)]);
    rig.run(1, "a");
    rig.run(2, "b");
    assert_eq!(rig.ask(3, "a"), []);
    rig.run(4, "vip");
    rig.run(5, "vip");
    assert_eq!(rig.ask(6, "vip"), []);
}

#[test]
fn work_without_a_scope_takes_no_limits() {
    let mut rig = Rig::new(&[limit("*", 1), limit("*/*", 1), limit("s", 1)]);
    for slot in 0..20 {
        rig.run(slot, "-");
    }
    assert_eq!(rig.limiter.limits(rig.now), []);
}

#[test]
fn a_grant_gives_as_many_permits_as_fit() {
    let mut rig = Rig::new(&[limit("s", 5), limit("s/a", 3)]);
    rig.run(1, "s");
    assert_eq!(rig.ask_for(2, "s/a", 8), [2]);
    assert_eq!(rig.held[&super::rig::handle(2)].len(), 3);
    assert_eq!(rig.ask_for(3, "s/b", 8), [3]);
    assert_eq!(rig.held[&super::rig::handle(3)].len(), 1);
    assert_eq!(rig.counter("s"), (5, Some(5), 0));
}

#[test]
fn lowering_to_one_while_a_hundred_run_lets_them_drain() {
    let mut rig = Rig::new(&[limit("s", 100)]);
    for slot in 0..100 {
        rig.run(slot, "s");
    }
    rig.ask(200, "s");
    rig.ask(201, "s");
    assert_eq!(rig.update(&[limit("s", 1)]), []);
    assert_eq!(rig.counter("s"), (100, Some(1), 2));
    for slot in 0..99 {
        assert_eq!(rig.end(slot), [], "{} still run", 99 - slot);
    }
    assert_eq!(rig.end(99), [200]);
    assert_eq!(rig.end(200), [201]);
}

#[test]
fn raising_a_limit_lets_as_many_proceed_as_it_allows() {
    let mut rig = Rig::new(&[limit("s", 1), limit("s/*", 2)]);
    rig.run(0, "s/a");
    for slot in 1..=3 {
        rig.ask(slot, "s/a");
        rig.ask(10 + slot, "s/b");
    }
    assert_eq!(rig.update(&[limit("s", 4)]), [1, 11, 12]);
    assert_eq!(rig.counter("s/a"), (2, Some(2), 2));
    assert_eq!(rig.update(&[remove("s")]), []);
    assert_eq!(rig.update(&[remove("s/*")]), [2, 3, 13]);
    assert_eq!(rig.counter("s"), (7, None, 0));
}

#[test]
fn one_message_of_rules_wakes_each_vqueue_once_after_all_of_it_applied() {
    let mut rig = Rig::new(&[limit("a", 1), limit("b", 1)]);
    rig.run(1, "a");
    rig.run(2, "b");
    rig.ask(11, "a");
    rig.ask(12, "b");
    // Raised and lowered again in one message: the intermediate state wakes no vqueue.
    assert_eq!(rig.update(&[limit("a", 9), limit("b", 9), limit("a", 1)]), [12]);
    // A more specific rule takes over, and is removed again.
    assert_eq!(rig.update(&[limit("*", 1), remove("b"), remove("a")]), []);
    assert_eq!(rig.counter("a"), (1, Some(1), 1), "governed by *");
    assert_eq!(rig.update(&[limit("a", 2)]), [11]);
    assert_eq!(rig.ask(13, "a"), []);
    assert_eq!(rig.ask(14, "b"), []);
    let update: Vec<_> = (0..20).map(|n| limit(&format!("other{n}/*"), 1)).collect();
    assert_eq!(rig.update(&update), [], "a wide update that affects no waiter");
    assert_eq!(rig.update(&[limit("*", 3)]), [14]);
}

#[test]
fn a_rule_without_a_concurrency_limit_lifts_the_less_specific_one() {
    let mut rig = Rig::new(&[limit("*", 1), upsert("s", Limits::default())]);
    for slot in 0..5 {
        rig.run(slot, "s");
    }
    assert_eq!(rig.counter("s"), (5, None, 0));
}
