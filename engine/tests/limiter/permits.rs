//! Permits: returned once, to their own incarnation; seeds; dropped counters.

use std::sync::Arc;

use forebay_engine::limiter::{LimiterConfig, LimiterEffect};
use forebay_messages::{
    Generation, PermitId,
    actor::{LimiterMessage, LockWish, Permits, Release, Seed, SeedRunning},
};

use super::rig::{INCARNATION, Rig, entry, handle, id, limit, name};

fn release(permit: PermitId) -> LimiterMessage {
    LimiterMessage::Release(vec![Release { permit, keep_lock: None }])
}

#[test]
fn a_permit_is_returned_once_and_only_to_its_own_incarnation() {
    let mut rig = Rig::new(&[limit("s", 2)]);
    rig.run(1, "s");
    rig.run(2, "s");
    rig.ask(3, "s");
    rig.ask(4, "s");
    let permit = rig.held[&handle(1)][0];
    let older = PermitId { incarnation: Generation(6), ..permit };
    assert_eq!(rig.slots(release(older)), []);
    assert_eq!(rig.slots(LimiterMessage::HandedOver(Permits::one(older))), []);
    assert_eq!(rig.slots(release(permit)), [3]);
    assert_eq!(rig.slots(release(permit)), [], "the second return is rejected");
    let stats = rig.limiter.stats();
    assert_eq!((stats.refused_incarnation, stats.refused_unknown), (2, 1));
    assert_eq!((stats.granted, stats.released), (3, 1));
    assert_eq!(rig.counter("s"), (2, Some(2), 1));
}

#[test]
fn withdraw_takes_back_only_permits_not_handed_over() {
    let mut rig = Rig::new(&[limit("s", 3)]);
    assert_eq!(rig.ask_for(1, "s", 3), [1]);
    let first = rig.held[&handle(1)][0];
    rig.send(LimiterMessage::HandedOver(Permits::one(first)));
    rig.ask_for(1, "s", 5);
    rig.ask_for(2, "s", 5);
    rig.ask_for(3, "s", 1);
    assert_eq!(rig.counter("s"), (3, Some(3), 3));
    assert_eq!(rig.withdraw(1), [2, 3], "two permits returned, its own request removed");
    assert_eq!(rig.limiter.stats().withdrawn, 2);
    assert_eq!(rig.counter("s"), (3, Some(3), 0));
    assert_eq!(rig.slots(release(first)), []);
    assert_eq!(rig.counter("s"), (2, Some(3), 0));
    assert_eq!(rig.withdraw(9), [], "no waiter");
}

#[test]
fn a_second_acquire_replaces_the_first_and_keeps_its_place() {
    let mut rig = Rig::new(&[limit("s", 2)]);
    assert_eq!(rig.ask_for(0, "s", 2), [0]);
    rig.ask_for(1, "s", 1);
    rig.ask_for(2, "s", 1);
    rig.ask_for(1, "s", 4);
    assert_eq!(rig.end(0), [1]);
    assert_eq!(rig.end(0), [2]);
    assert_eq!(rig.held[&handle(1)].len(), 1, "one at a time while others wait");
    assert_eq!(rig.counter("s"), (2, Some(2), 0), "the granted permit is no longer requested");
}

#[test]
fn a_seeded_limiter_counts_running_entries_in_order() {
    let running = [("s/a#k", 1), ("s/b", 2), ("s", 3)].map(|(text, number)| {
        let name = name(text);
        SeedRunning { entry: entry(number), vqueue: id(&name), name: Arc::new(name) }
    });
    let locks = vec![(id(&name("s/a#k")), entry(1)), (id(&name("s/a#other")), entry(9))];
    let rules = vec![limit("s", 2), limit("s/a", 1)];
    let seed = Seed { rules, locks, running: running.to_vec(), ..Seed::default() };
    let mut rig = Rig::with(LimiterConfig::default(), seed);
    let permits: Vec<_> =
        (1..=3).map(|serial| PermitId { incarnation: INCARNATION, serial }).collect();
    assert_eq!(rig.others(), [LimiterEffect::Seeded { permits: permits.clone() }]);
    assert_eq!(rig.counter("s"), (3, Some(2), 0), "over the limit: it drains");

    assert_eq!(rig.ask(1, "s/a#k"), []);
    assert_eq!(rig.ask(2, "s/a#other"), []);
    assert_eq!(rig.slots(release(permits[2])), []);
    assert_eq!(rig.slots(release(permits[1])), [], "s has room; s/a has not");
    assert_eq!(rig.slots(release(permits[0])), [1], "the lock was returned with its permit");
    assert_eq!(rig.end(1), [], "the other lock is held by a waiting entry");
    let vqueue = id(&name("s/a#other"));
    let free = |entry| LimiterMessage::FreeLock { vqueue, entry };
    assert_eq!(rig.slots(free(entry(8))), [], "not the holder");
    assert_eq!(rig.slots(free(entry(9))), [2]);
}

#[test]
#[should_panic(expected = "a limiter is seeded once, before anything else")]
fn nothing_is_granted_before_the_seed() {
    use forebay_engine::{Machine, limiter::Limiter};
    let mut limiter = Limiter::new(INCARNATION, LimiterConfig::default());
    limiter.step(forebay_messages::Timestamp(1), LimiterMessage::Tick, &mut Vec::new());
}

#[test]
fn counters_of_keys_that_do_not_return_are_forgotten() {
    let config = LimiterConfig { idle_counters_max: 10, ..LimiterConfig::default() };
    let mut rig = Rig::with(config, Seed { rules: vec![limit("*", 1)], ..Seed::default() });
    for slot in 0..1000 {
        let text = format!("scope{slot}/l1-{slot}/l2-{slot}");
        rig.run(slot, &text);
        rig.ask(10_000 + slot, &text);
        rig.withdraw(10_000 + slot);
        rig.end(slot);
        let kept = rig.limiter.counters_len();
        assert!(kept <= 30, "{kept} counters are kept after {slot} keys");
    }
    assert_eq!(rig.limiter.held(), 0);
}

#[test]
#[should_panic(expected = "one handle asks for two vqueues")]
fn a_handle_belongs_to_one_vqueue() {
    let mut rig = Rig::new(&[limit("s", 1)]);
    rig.run(0, "s");
    rig.ask(1, "s");
    rig.ask_with(1, name("t"), 1, LockWish::None);
}
