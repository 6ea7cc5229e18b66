//! Limits by level, and rules that change under running and waiting vqueues.

use forebay_messages::rule::Limits;

use super::desk::{Desk, limit, remove, upsert};

#[test]
fn the_example_of_the_design() {
    let mut desk = Desk::new(&[limit("scope1/*/tenant1", 10), limit("*", 100)]);
    let running =
        [("scope1/foo/tenant1", 10), ("scope1/bar/tenant1", 9), ("scope1/bar", 1), ("scope1", 80)];
    let mut slot = 0;
    for (name, count) in running {
        for _ in 0..count {
            desk.run(slot, name);
            slot += 1;
        }
    }
    assert_eq!(desk.counter("scope1"), (100, Some(100), 0));
    // Five requests, none of which can be granted.
    for (slot, name) in [
        (201, "scope1/bar/tenant1"),
        (202, "scope1/foo/tenant1"),
        (203, "scope1/foo/tenant1"),
        (204, "scope1/bar"),
        (205, "scope1"),
    ] {
        assert_eq!(desk.ask(slot, name), []);
    }
    assert_eq!(desk.counter("scope1/foo/tenant1"), (10, Some(10), 2), "queued at l2");
    assert_eq!(desk.counter("scope1/bar/tenant1"), (9, Some(10), 0));
    assert_eq!(desk.counter("scope1"), (100, Some(100), 3));
    // One of scope1/foo/tenant1 ends: exactly one waiter of that counter proceeds, not the one of
    // scope1/bar/tenant1, which has waited longer.
    assert_eq!(desk.end(0), [202]);
    assert_eq!(desk.counter("scope1/foo/tenant1"), (10, Some(10), 1));
    assert_eq!(desk.counter("scope1"), (100, Some(100), 3));
    // One of scope1 ends: the oldest waiter blocked only by the scope proceeds.
    assert_eq!(desk.end(50), [201]);
    assert_eq!(desk.end(51), [204], "scope1/foo/tenant1 is full: its waiter is passed over");
    assert_eq!(desk.counter("scope1/bar/tenant1"), (10, Some(10), 0));
}

#[test]
fn a_freed_slot_is_not_stranded_behind_a_waiter_that_cannot_use_it() {
    // The lost wake-up: a and b run; V1 and V1' (both of s/x) and V2 (s/y) wait for s.
    let mut desk = Desk::new(&[limit("s", 2), limit("s/*", 1)]);
    desk.run(1, "s/a");
    desk.run(2, "s/b");
    for (slot, name) in [(11, "s/x"), (12, "s/x"), (13, "s/y")] {
        assert_eq!(desk.ask(slot, name), []);
    }
    assert_eq!(desk.end(1), [11], "V1 proceeds; V1' is blocked by s/x from now on");
    assert_eq!(desk.end(2), [13], "V2 runs beside V1");
    assert_eq!(desk.end(13), []);
    assert_eq!(desk.end(11), [12]);
}

#[test]
fn every_level_counts_and_a_parent_counts_its_children() {
    let mut desk = Desk::new(&[limit("s", 3), limit("s/a", 2), limit("s/a/x", 1)]);
    desk.run(1, "s/a/x");
    assert_eq!(desk.ask(2, "s/a/x"), []);
    desk.run(3, "s/a/y");
    assert_eq!(desk.ask(4, "s/a/z"), []);
    desk.run(5, "s");
    assert_eq!(desk.ask(6, "s/b"), []);
    assert_eq!(desk.counter("s"), (3, Some(3), 1));
    assert_eq!(desk.counter("s/a"), (2, Some(2), 1));
    assert_eq!(desk.counter("s/a/x"), (1, Some(1), 1));
    desk.run(7, "t/a/x");
    assert_eq!(desk.end(5), [6]);
    assert_eq!(desk.end(3), [4]);
}

#[test]
fn a_star_limits_each_scope_separately() {
    let mut desk = Desk::new(&[limit("*", 1), limit("vip", 2)]);
    desk.run(1, "a");
    desk.run(2, "b");
    assert_eq!(desk.ask(3, "a"), []);
    desk.run(4, "vip");
    desk.run(5, "vip");
    assert_eq!(desk.ask(6, "vip"), []);
}

#[test]
fn work_without_a_scope_takes_no_limits() {
    let mut desk = Desk::new(&[limit("*", 1), limit("*/*", 1), limit("s", 1)]);
    for slot in 0..20 {
        desk.run(slot, "-");
    }
    assert_eq!(desk.limiter.limits(desk.now), []);
}

#[test]
fn a_grant_gives_as_many_permits_as_fit() {
    let mut desk = Desk::new(&[limit("s", 5), limit("s/a", 3)]);
    desk.run(1, "s");
    assert_eq!(desk.ask_for(2, "s/a", 8), [2]);
    assert_eq!(desk.held[&super::desk::handle(2)].len(), 3);
    assert_eq!(desk.ask_for(3, "s/b", 8), [3]);
    assert_eq!(desk.held[&super::desk::handle(3)].len(), 1);
    assert_eq!(desk.counter("s"), (5, Some(5), 0));
}

#[test]
fn lowering_to_one_while_a_hundred_run_lets_them_drain() {
    let mut desk = Desk::new(&[limit("s", 100)]);
    for slot in 0..100 {
        desk.run(slot, "s");
    }
    desk.ask(200, "s");
    desk.ask(201, "s");
    assert_eq!(desk.update(&[limit("s", 1)]), []);
    assert_eq!(desk.counter("s"), (100, Some(1), 2));
    for slot in 0..99 {
        assert_eq!(desk.end(slot), [], "{} still run", 99 - slot);
    }
    assert_eq!(desk.end(99), [200]);
    assert_eq!(desk.end(200), [201]);
}

#[test]
fn raising_a_limit_lets_as_many_proceed_as_it_allows() {
    let mut desk = Desk::new(&[limit("s", 1), limit("s/*", 2)]);
    desk.run(0, "s/a");
    for slot in 1..=3 {
        desk.ask(slot, "s/a");
        desk.ask(10 + slot, "s/b");
    }
    assert_eq!(desk.update(&[limit("s", 4)]), [1, 11, 12]);
    assert_eq!(desk.counter("s/a"), (2, Some(2), 2));
    assert_eq!(desk.update(&[remove("s")]), []);
    assert_eq!(desk.update(&[remove("s/*")]), [2, 3, 13]);
    assert_eq!(desk.counter("s"), (7, None, 0));
}

#[test]
fn one_message_of_rules_wakes_each_vqueue_once_after_all_of_it_applied() {
    let mut desk = Desk::new(&[limit("a", 1), limit("b", 1)]);
    desk.run(1, "a");
    desk.run(2, "b");
    desk.ask(11, "a");
    desk.ask(12, "b");
    // Raised and lowered again in one message: the intermediate state wakes no vqueue.
    assert_eq!(desk.update(&[limit("a", 9), limit("b", 9), limit("a", 1)]), [12]);
    // A more specific rule takes over, and is removed again.
    assert_eq!(desk.update(&[limit("*", 1), remove("b"), remove("a")]), []);
    assert_eq!(desk.counter("a"), (1, Some(1), 1), "governed by *");
    assert_eq!(desk.update(&[limit("a", 2)]), [11]);
    assert_eq!(desk.ask(13, "a"), []);
    assert_eq!(desk.ask(14, "b"), []);
    let update: Vec<_> = (0..20).map(|n| limit(&format!("other{n}/*"), 1)).collect();
    assert_eq!(desk.update(&update), [], "a wide update that affects no waiter");
    assert_eq!(desk.update(&[limit("*", 3)]), [14]);
}

#[test]
fn a_rule_without_a_concurrency_limit_lifts_the_less_specific_one() {
    let mut desk = Desk::new(&[limit("*", 1), upsert("s", Limits::default())]);
    for slot in 0..5 {
        desk.run(slot, "s");
    }
    assert_eq!(desk.counter("s"), (5, None, 0));
}
